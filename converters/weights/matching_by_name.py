"""Which tensor of a file is which of a module, by name: the module's names, or those of its source graph.

The names of a file follow one system. Tried in this order, and the first that fills the module is taken:

1. the module's own names;
2. the names of the source graph's values (`onnx::Conv_123`), in the layout that the graph has;
3. the same with every sign that a Python attribute cannot have replaced (`onnx__Conv_123`), as a wrapper that
   registers initializers as parameters must spell them;
4. the module's own names spelled so (`layer1_0_conv1_weight`).

Where none fills it, they are taken together, and a name that means two tensors counts for neither. Numbers that an
exporter made up mean something within one file only: names like `onnx::Conv_123` count for nothing where the state_dict
has others of their kind that the graph lacks, because then it belongs to another export.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

import torch

from ...errors import InputError
from ..records.value_names import is_generated
from .state_dict_files import StateDictFile
from .state_dict_names import names_of_module
from .weight_match import How, Matches, Place
from .weight_targets import Targets

__all__ = ["NamedPlaces", "match_names"]

_SIGNS = re.compile(r"[^0-9A-Za-z]+")
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class NamedPlaces:
    """What names tell of a file."""

    matched: Matches
    misshapen: Mapping[str, str]
    """Target -> the key of its name, whose tensor has another shape."""
    constants: Mapping[str, str]
    """Key -> constant of the source graph that it is a copy of."""
    removed: tuple[str, ...]
    """What was removed from the names, such as the prefix `module.`."""


@dataclass(frozen=True)
class _System:
    """The keys of a file read as names of one kind."""

    how: How
    matched: Mapping[str, str]
    """Target -> key, where the shapes agree."""
    misshapen: Mapping[str, str]
    constants: Mapping[str, str]
    removed: tuple[str, ...] = ()


def match_names(
    state: StateDictFile, targets: Targets, required: Collection[str], whole: Collection[str]
) -> NamedPlaces:
    """Match the tensors of a file by name.

    Args:
        state: the file.
        targets: what it may fill.
        required: names among them that the file must have.
        whole: names among them that a whole file has.

    Raises:
        InputError: two prefixes fit equally well, two tensors are the same one of the network, a name means one
            tensor of the module and another of the graph, a constant has another value, or the layout of a square
            matrix cannot be told.
    """
    systems = [_own_names(state, targets, required)]
    if targets.values:
        systems.append(_graph_names(state, targets, spelled=False))
    _refuse_two_meanings(state, systems, targets, whole)
    chosen = [system for system in systems if _fills(system, targets, whole)][:1]
    if not chosen and targets.values:
        systems += [_graph_names(state, targets, spelled=True), _own_names(state, targets, required, spelled=True)]
        chosen = [system for system in systems if _fills(system, targets, whole)][:1]
    used = chosen or [_without_foreign_numbers(state, system, targets) for system in systems]
    keys = _merged(used)
    misshapen = {name: key for name, key in systems[0].misshapen.items() if name not in keys}
    constants = {key: name for system in used for key, name in system.constants.items()}
    taken = {key for key, _ in keys.values()}
    constants = {key: name for key, name in constants.items() if key not in taken}
    _check_constants(state, constants, targets)
    removed = next((system.removed for system in used if system.matched), ())
    return NamedPlaces(_with_layouts(state, keys, targets), misshapen, constants, removed)


def _own_names(state: StateDictFile, targets: Targets, required: Collection[str], *, spelled: bool = False) -> _System:
    """The keys as names of the module."""
    names = {name: (name,) for name in targets.own}
    how: How = "name, spelled differently" if spelled else "name"
    return _read(state, names, targets, required, how, spelled=spelled)


def _graph_names(state: StateDictFile, targets: Targets, *, spelled: bool) -> _System:
    """The keys as names of the source graph's values."""
    names: dict[str, tuple[str, ...]] = dict.fromkeys(targets.constants, ())
    for name, value in targets.values.items():
        for called in {value, targets.origins[name]}:
            names[called] = (*names.get(called, ()), name)
    how: How = "initializer name, spelled differently" if spelled else "initializer name"
    return _read(state, names, targets, set(targets.origins.values()), how, spelled=spelled)


def _read(
    state: StateDictFile,
    names: Mapping[str, tuple[str, ...]],
    targets: Targets,
    required: Collection[str],
    how: How,
    *,
    spelled: bool,
) -> _System:
    """The keys as `names`, each of which stands for some targets, or for a constant of the graph."""
    keys = {key: key for key in state.tensors}
    known = {name: name for name in names}
    if spelled:  # names that become equal tell nothing
        keys, known = _spelled(keys), _spelled(known)
    renamed = replace(state, tensors={name: state.tensors[key] for name, key in keys.items()})
    needed = {name for name, plain in known.items() if plain in required}
    found = names_of_module(renamed, known, needed or known)
    matched: dict[str, str] = {}
    misshapen: dict[str, str] = {}
    constants: dict[str, str] = {}
    for name, written in found.keys.items():
        if name not in known:
            continue
        key, plain = keys[written], known[name]
        if not names[plain]:
            constants[key] = plain
        for target in names[plain]:
            if target in matched and targets.values.get(target) != plain:
                continue  # it has a name of its own, beside that of the weight it shares
            fits = _layouts(targets, target, state.tensors[key], how)
            (matched if fits else misshapen)[target] = key
    return _System(how, matched, misshapen, constants, found.removed)


def _spelled(names: Iterable[str]) -> dict[str, str]:
    """Name with every run of signs as one dot -> name; those that become equal are left out."""
    short = {name: _SIGNS.sub(".", name).strip(".") for name in names}
    count = Counter(short.values())
    return {text: name for name, text in short.items() if count[text] == 1 and text}


def _layouts(targets: Targets, name: str, tensor: torch.Tensor, how: How) -> frozenset[str]:
    """The layouts a tensor may have under a name of this kind: names that only one side has tell its layout."""
    possible = targets.layouts(name, tensor)
    if name not in targets.turned or 1 in tensor.shape or not _tells_system(targets, name, how):
        return possible
    return possible & ({"graph"} if how.startswith("initializer") else {"module"})


def _tells_system(targets: Targets, name: str, how: How) -> bool:
    """Whether module and graph call a tensor differently, in the spelling of this kind."""
    value = targets.values.get(name, name)
    if how.endswith("differently"):
        return _SIGNS.sub(".", name).strip(".") != _SIGNS.sub(".", value).strip(".")
    return name != value


def _fills(system: _System, targets: Targets, whole: Collection[str]) -> bool:
    """Whether everything is there; of tied names one suffices."""
    there = set(system.matched)
    for group in targets.tied:
        if there.intersection(group):
            there.update(group)
    return bool(there) and there.issuperset(whole)


def _refuse_two_meanings(
    state: StateDictFile, systems: list[_System], targets: Targets, whole: Collection[str]
) -> None:
    """Refuse a file that fills the network by the module's names and, otherwise, by the graph's."""
    if len(systems) < 2 or not all(_fills(system, targets, whole) for system in systems):
        return
    by_module, by_graph = (system.matched for system in systems)
    for name, key in by_module.items():
        other = by_graph.get(name, key)
        if other != key and not torch.equal(state.tensors[key], state.tensors[other]):
            raise InputError(
                f"{state.path}: {key!r} is {name} by the module's names, and {other!r} is by those of its source "
                "graph; save it with a name that only one of them has, as `rtool onnx2torch` and the ONNX file list "
                "them"
            )


def _without_foreign_numbers(state: StateDictFile, system: _System, targets: Targets) -> _System:
    """The system without numbered names, where the file has numbers of that kind that the graph lacks."""
    if not system.how.startswith("initializer"):
        return system
    numbered = {name for name in system.matched if is_generated(targets.origins[name])}
    kinds = {_kind(system.matched[name]) for name in numbered}
    used = {*system.matched.values(), *system.constants}
    if not any(key not in used and _kind(key) in kinds for key in state.tensors):
        return system
    kept = {name: key for name, key in system.matched.items() if name not in numbered}
    return replace(system, matched=kept, constants={})


def _kind(name: str) -> str:
    """A name with its numbers removed."""
    return _NUMBER.sub("#", name)


def _merged(systems: list[_System]) -> dict[str, tuple[str, How]]:
    """Target -> key and how, by the first system that has it; keys that two systems read differently are left out."""
    meanings: dict[str, set[frozenset[str]]] = {}
    for system in systems:
        by_key: dict[str, set[str]] = {}
        for name, key in system.matched.items():
            by_key.setdefault(key, set()).add(name)
        for key, names in by_key.items():
            meanings.setdefault(key, set()).add(frozenset(names))
    unclear = {key for key, found in meanings.items() if not frozenset.intersection(*found)}
    merged: dict[str, tuple[str, How]] = {}
    for system in systems:
        earlier = {key for key, _ in merged.values()}
        for name, key in system.matched.items():
            if name not in merged and key not in unclear and key not in earlier:
                merged[name] = (key, system.how)
    return merged


def _check_constants(state: StateDictFile, constants: Mapping[str, str], targets: Targets) -> None:
    """Refuse a file in which a constant of the graph has another value: the module cannot take it.

    Of whole numbers only the count must agree: they are shapes, in which `--batch` may have rewritten the batch.
    """
    for key, name in constants.items():
        given, own = state.tensors[key].reshape(-1), targets.constants[name].reshape(-1)
        if len(given) != len(own) or (own.is_floating_point() and not torch.equal(given.to(own.dtype), own)):
            raise InputError(
                f"{state.path}: {key!r} is a constant of the graph, which has another value there; give the weights "
                "of this graph"
            )


def _with_layouts(state: StateDictFile, keys: Mapping[str, tuple[str, How]], targets: Targets) -> Matches:
    """The matches with the layout of each; that of a square matrix follows from the other tensors, or its values."""
    possible = {name: _layouts(targets, name, state.tensors[key], how) for name, (key, how) in keys.items()}
    seen = {next(iter(found)) for name, found in possible.items() if len(found) == 1 and name in targets.turned}
    for name, (_, how) in keys.items():
        if _tells_system(targets, name, how):
            seen.add("graph" if how.startswith("initializer") else "module")
    matched: Matches = {}
    for name, (key, how) in keys.items():
        layouts = possible[name]
        if len(layouts) == 2 and len(seen) == 1:
            layouts = frozenset(seen)
        if len(layouts) == 2:
            layouts = _layouts_by_value(state.tensors[key], targets.own[name])
        if len(layouts) != 1:
            size = "x".join(map(str, state.tensors[key].shape))
            raise InputError(
                f"{state.path}: {key!r} is {size}, and the graph has this matrix transposed: neither its shape nor "
                "other tensors tell whether the file has it as the graph or as the module; write the weights into the "
                "ONNX file, and convert that"
            )
        matched[name] = Place(key, how, turned="graph" in layouts)
    return matched


def _layouts_by_value(given: torch.Tensor, own: torch.Tensor) -> frozenset[str]:
    given = given.to(own.dtype)
    if torch.equal(given, given.t()):
        return frozenset({"module"})
    found = {"module"} if torch.equal(given, own) else set()
    return frozenset(found | ({"graph"} if torch.equal(given.t(), own) else set()))
