"""The names in a state_dict file as those of a module: wrappers and one prefix are removed, and what was is reported.

Training programs save the network inside something else: `module.` (DataParallel, DDP), `model.` or `net.` (the
attribute of a Lightning module), `backbone.` and `encoder.`, several of them one after the other, and `_orig_mod`
(torch.compile) anywhere. Which prefix it is follows from the module: the one under which most of its names are found.
Only one is removed. A prefix made of words that nobody uses for wrapping, such as `layer1.`, is removed only where all
that the module needs is found under it; so parts of another network are never loaded into places they do not belong to.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from torch import Tensor

from ...errors import InputError
from .state_dict_files import StateDictFile

__all__ = ["NamedTensors", "is_counter", "names_of_module"]

_WRAPPING = frozenset({"module", "model", "net", "network", "backbone", "encoder"})
"""Words that training programs put before the names of a network."""
_INSERTED = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""What torch.compile, FullyShardedDataParallel and activation checkpointing put into names, anywhere in them."""


@dataclass(frozen=True)
class NamedTensors:
    """The tensors of a file under a module's names where they have one; others keep theirs."""

    tensors: Mapping[str, Tensor]
    keys: Mapping[str, str]
    """By the same names, the names in the file."""
    removed: tuple[str, ...]
    """What was removed from the names: `_orig_mod.` and the like, then the prefix."""


def is_counter(name: str) -> bool:
    """Whether a tensor is a BatchNorm's count of batches, which no output depends on; older files lack it."""
    return name.rpartition(".")[2] == "num_batches_tracked"


def names_of_module(state: StateDictFile, own: Collection[str], required: Collection[str]) -> NamedTensors:
    """Bring the names in a file to those of a module.

    Args:
        state: The file.
        own: Names of the module's tensors.
        required: Those of them that the file must have.

    Raises:
        InputError: two prefixes fit equally well, or two tensors of the file have the same name without them.
    """
    segments = {part for name in own for part in name.split(".")}
    inserted = frozenset(_INSERTED) - segments
    bare = {key: ".".join(part for part in key.split(".") if part not in inserted) for key in state.tensors}
    prefix = _common_prefix(state, bare.values(), frozenset(own), frozenset(required))
    keys: dict[str, str] = {}
    for key, name in bare.items():
        short = name.removeprefix(prefix)
        if short in keys:
            raise InputError(
                f"{state.path}: '{keys[short]}' and '{key}' are both {short} of the network; give a file with one of "
                "them"
            )
        keys[short] = key
    used = [f"{part}." for part in _INSERTED if part in inserted and any(part in key.split(".") for key in bare)]
    return NamedTensors(
        {name: state.tensors[key] for name, key in keys.items()}, keys, (*used, prefix) if prefix else tuple(used)
    )


def _common_prefix(state: StateDictFile, names: Collection[str], own: frozenset[str], required: frozenset[str]) -> str:
    """The prefix under which most of a module's names are found; "" where names fit as they are, or none does."""
    found: Counter[str] = Counter()
    covered: dict[str, set[str]] = {}
    for name in names:
        start = 0
        while start >= 0:
            if name[start:] in own:
                prefix = name[:start]
                found[prefix] += not is_counter(name)
                covered.setdefault(prefix, set()).add(name[start:])
            start = name.find(".", start) + 1 or -1
    half = len(own) / 2
    for prefix in list(found):
        wraps = all(part in _WRAPPING for part in prefix.split(".")[:-1])
        if not wraps and not (required <= covered[prefix] and len(covered[prefix]) >= half):
            del found[prefix]
    most = max(found.values(), default=0)
    best = [prefix for prefix, count in found.items() if count == most]
    if "" in best or not best:
        return ""
    if len(best) > 1:
        if not all(required <= covered[prefix] for prefix in best):
            return ""
        raise InputError(
            f"{state.path}: its tensors fit the network under {' and '.join(repr(prefix) for prefix in best)} alike; "
            f"say which: {' or '.join(f'{state.path}:{prefix[:-1]}' for prefix in best)}"
        )
    return best[0]
