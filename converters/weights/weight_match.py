"""The report on a state_dict loaded into a module: what came from where, what was left, or why it was refused."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ...errors import InputError
from .state_dict_files import StateDictFile
from .state_dict_names import NamedTensors, is_counter

__all__ = ["How", "MatchedWeight", "Matches", "StateDictOrigin", "WeightMatch", "match_of", "refuse_misfit"]

How = Literal["name", "shape and order"]
Matches = dict[str, tuple[str, How]]
"""By name of a module's tensor, the name of one in a `NamedTensors` and how it was found."""

_DEPTHS = {
    237: "a fused iresnet50",
    462: "a fused iresnet100",
    396: "an unfused iresnet50",
    771: "an unfused iresnet100",
}
"""Tensors in the state_dict (without counters) of insightface's networks."""
_SHOWN = 3


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

    def __str__(self) -> str:
        parts = [f"{_count(self.matched)} loaded"]
        parts += [f"{len(self.missing)} of the network kept: {_some(self.missing)}"] if self.missing else []
        parts += [f"{len(self.unused)} of the file not used: {_some(self.unused)}"] if self.unused else []
        return "; ".join([*parts, str(self.origin)])


def match_of(state: StateDictFile, named: NamedTensors, own: Iterable[str], matched: Matches) -> WeightMatch:
    """The report on `matched` tensors among `own`, the names of all that should have been loaded."""
    used = {name for name, _ in matched.values()}
    weights = [name for name in named.tensors if not is_counter(name)]
    return WeightMatch(
        matched=tuple(MatchedWeight(target, named.keys[name], how) for target, (name, how) in matched.items()),
        missing=tuple(name for name in own if name not in matched),
        unused=tuple(named.keys[name] for name in weights if name not in used),
        looks_like=_DEPTHS.get(len(weights)),
        origin=StateDictOrigin(str(state.path), state.sha256, state.container, named.removed, state.ignored),
    )


def refuse_misfit(
    match: WeightMatch,
    own: Mapping[str, Tensor],
    named: NamedTensors,
    misshapen: Collection[str],
    *,
    refused: bool,
    way_out: str,
) -> None:
    """Refuse a file that does not fit; one without any tensor of the network never does.

    Args:
        match: what was found.
        own: the module's tensors, by name.
        named: the file's.
        misshapen: names that both have, in different shapes.
        refused: whether `match` is not what the caller accepts.
        way_out: how the message ends.

    Raises:
        InputError: with counts, the first names of each kind, and `way_out`.
    """
    if match.matched and not refused:
        return
    missing = [name for name in match.missing if name not in misshapen]
    unused = [name for name in match.unused if name not in {named.keys[wrong] for wrong in misshapen}]
    parts = [f"{_count(match.matched)} fit"]
    if missing:
        parts.append(f"{len(missing)} of the network {_are(missing)} missing ({_some(missing)})")
    if misshapen:
        name = next(iter(misshapen))
        sizes = f"{_size(named.tensors[name])} in the file, {_size(own[name])} in the network"
        parts.append(f"{len(misshapen)} {'has' if len(misshapen) == 1 else 'have'} another shape ({name}: {sizes})")
    if unused:
        parts.append(f"{len(unused)} of the file {_are(unused)} left over ({_some(unused)})")
    if match.looks_like:
        parts.append(f"it looks like {match.looks_like}")
    raise InputError(f"{match.origin.file}: does not fit the network: {'; '.join([*parts, way_out])}")


def _count(entries: Collection[object]) -> str:
    return f"{len(entries)} tensor{'' if len(entries) == 1 else 's'}"


def _are(names: Collection[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _size(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"


def _some(names: Collection[str]) -> str:
    return ", ".join(list(names)[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
