"""The report on a state_dict loaded into a module: what came from where, what was left, or why it was refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from ...errors import InputError
from ..runtime.parity import Parity
from .state_dict_files import StateDictFile
from .state_dict_names import is_counter

__all__ = ["How", "MatchedWeight", "Matches", "Place", "StateDictOrigin", "WeightMatch", "match_of", "refuse_misfit"]

How = Literal[
    "name",
    "name, spelled differently",
    "initializer name",
    "initializer name, spelled differently",
    "equal values",
    "shape",
    "name, BatchNorm folded",
]
"""The rule by which a tensor was matched."""


@dataclass(frozen=True)
class Place:
    """Where the tensor of a module comes from: a key of the file."""

    key: str
    how: How
    turned: bool = False
    """Whether the file has it transposed."""


Matches = dict[str, Place]
"""By name of a module's tensor."""

_DEPTHS = {
    237: "a fused iresnet50",
    462: "a fused iresnet100",
    396: "an unfused iresnet50",
    771: "an unfused iresnet100",
}
"""Tensors in the state_dict (without counters) of insightface's networks."""
_SHOWN = 3
_LISTED = 12
"""Names of tensors that cannot be told apart; the user has to look for them."""


@dataclass(frozen=True)
class MatchedWeight:
    """Parameter or buffer `target` was loaded from `key`, its name in the file."""

    target: str
    key: str
    how: How


@dataclass(frozen=True)
class StateDictOrigin:
    """The file that weights came from, and what was removed and ignored on the way."""

    file: str
    sha256: str
    container: str | None
    """The key under which the file keeps its state_dict."""
    removed: tuple[str, ...]
    """What was removed from the names, such as the prefix `module.`."""
    ignored: tuple[str, ...]
    """Other entries of the file, such as `epoch` and `optimizer`."""

    def __str__(self) -> str:
        parts = [f"read from '{self.container}'"] if self.container else []
        parts += [f"{' and '.join(map(repr, self.removed))} removed from the names"] if self.removed else []
        parts += [f"other entries ignored: {_some(self.ignored)}"] if self.ignored else []
        return "; ".join(parts) or "a plain state_dict"


@dataclass(frozen=True)
class WeightMatch:
    """What was loaded from a state_dict, and what was left."""

    matched: tuple[MatchedWeight, ...]
    missing: tuple[str, ...]
    """Parameters and buffers of the module that got nothing."""
    unused: tuple[str, ...]
    """Keys of the file that went nowhere."""
    looks_like: str | None
    """A network of insightface whose state_dict has as many tensors as the file."""
    origin: StateDictOrigin
    changed: int = 0
    """How many of the matched tensors have other values than before."""
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Of the unused tensors; that of a classifier tells its number of classes."""
    difference: Parity | None = None
    """The outputs of the module after loading against those before, on seeded random inputs; None where they were not
    measured, as for a network of fresh weights."""

    @property
    def rules(self) -> str:
        """How many tensors were matched by which rule: `90 by name, 3 by shape`."""
        counts = Counter(entry.how for entry in self.matched)
        return ", ".join(f"{count} by {how}" for how, count in counts.most_common())

    def __str__(self) -> str:
        by_other_rules = any(entry.how != "name" for entry in self.matched)
        parts = [f"{_count(self.matched)} loaded" + (f" ({self.rules})" if by_other_rules else "")]
        parts += [f"{len(self.missing)} of the network kept: {_some(self.missing)}"] if self.missing else []
        shaped = [f"{key} {list(self.shapes[key])}" if key in self.shapes else key for key in self.unused]
        parts += [f"{len(shaped)} of the file not used: {_some(shaped)}"] if shaped else []
        parts += [] if self.difference is None else [f"{self.effect}"]
        return "; ".join([*parts, str(self.origin)])

    @property
    def effect(self) -> str:
        """How the module differs from what it was, in words."""
        if self.difference is None:
            return f"{self.changed} of {_count(self.matched)} changed"
        if not self.changed:
            return f"all values are those of the model, outputs differ by {self.difference.max_rel:.2g}"
        return (
            f"{self.changed} of {_count(self.matched)} changed, outputs differ by {self.difference.max_rel:.2g} "
            f"relative, smallest cosine {self.difference.min_cosine:.6f}"
        )


def match_of(
    state: StateDictFile,
    own: Iterable[str],
    matched: Matches,
    *,
    accounted: Collection[str] = (),
    removed: tuple[str, ...] = (),
) -> WeightMatch:
    """The report on `matched` tensors among `own`, the names of all that should have been loaded.

    Args:
        state: the file.
        own: names of the module.
        matched: where they come from.
        accounted: keys of the file that are not weights, and were checked otherwise.
        removed: what was removed from the names.
    """
    used = {place.key for place in matched.values()} | set(accounted)
    weights = [key for key in state.tensors if not is_counter(key)]
    return WeightMatch(
        matched=tuple(MatchedWeight(target, place.key, place.how) for target, place in matched.items()),
        missing=tuple(name for name in own if name not in matched),
        unused=tuple(key for key in weights if key not in used),
        shapes={key: tuple(state.tensors[key].shape) for key in weights if key not in used},
        looks_like=_DEPTHS.get(len(weights)),
        origin=StateDictOrigin(str(state.path), state.sha256, state.container, removed, state.ignored),
    )


def refuse_misfit(
    match: WeightMatch,
    own: Mapping[str, Tensor],
    given: Mapping[str, Tensor],
    misshapen: Mapping[str, str],
    *,
    refused: bool,
    way_out: str,
    alike: tuple[Collection[str], Collection[str]] = ((), ()),
) -> None:
    """Refuse a file that does not fit; one without any tensor of the network never does.

    Args:
        match: what was found.
        own: the module's tensors, by name.
        given: the file's, by key.
        misshapen: name of the module -> key, where the shapes differ.
        refused: whether `match` is not what the caller accepts.
        way_out: how the message ends.
        alike: names of the module, and keys, that only a guess by shape could match.

    Raises:
        InputError: with counts, the first names of each kind, and `way_out`.
    """
    if match.matched and not refused:
        return
    missing = [name for name in match.missing if name not in misshapen]
    unused = [key for key in match.unused if key not in misshapen.values()]
    parts = [f"{_count(match.matched)} fit"]
    if missing:
        parts.append(f"{len(missing)} of the network {_are(missing)} missing ({_some(missing)})")
    if misshapen:
        name, key = next(iter(misshapen.items()))
        sizes = f"{_size(given[key])} in the file, {_size(own[name])} in the network"
        parts.append(f"{len(misshapen)} {'has' if len(misshapen) == 1 else 'have'} another shape ({name}: {sizes})")
    if unused:
        parts.append(f"{len(unused)} of the file {_are(unused)} left over ({_some(unused)})")
    exported = [key for key in unused if key.startswith(("onnx::", "onnx__"))]
    if exported:
        parts.append(f"names such as {exported[0]} are those of an ONNX file: give that file as the model")
    norms = [key.removesuffix(".running_mean") for key in unused if key.endswith(".running_mean")]
    if norms:
        parts.append(
            f"{len(norms)} BatchNorms of the file ({_some(norms)}) lie behind no layer of the network by name, so they "
            "cannot be folded: fold them before saving"
        )
    if match.looks_like:
        parts.append(f"it looks like {match.looks_like}")
    if all(alike):
        names = "; ".join(_by_shape(tensors, names) for tensors, names in ((own, alike[0]), (given, alike[1])))
        parts.append(
            f"neither names nor shapes tell which of the file is which of the network ({names}): save them under the "
            "names of the network or of its ONNX file"
        )
    raise InputError(f"{match.origin.file}: does not fit the network: {'; '.join([*parts, way_out])}")


def _by_shape(tensors: Mapping[str, Tensor], names: Collection[str]) -> str:
    """The names with their shapes, the first `_LISTED`."""
    listed = [f"{name} {_size(tensors[name])}" for name in names]
    return ", ".join(listed[:_LISTED]) + (f" and {len(listed) - _LISTED} more" if len(listed) > _LISTED else "")


def _count(entries: Collection[object]) -> str:
    return f"{len(entries)} tensor{'' if len(entries) == 1 else 's'}"


def _are(names: Collection[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _size(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"


def _some(names: Collection[str]) -> str:
    return ", ".join(list(names)[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
