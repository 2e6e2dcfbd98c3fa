"""Models that call another model of the repository, packers and ensembles, and whether they fit what they call.

A packer states its target's tensors without the batch; Triton's ensemble maps names to the tensors of its steps. No
server checks a packer before its first request fails.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ...converters.records.preprocessing import METADATA_KEY
from ...errors import RtoolError, nearest
from .model_config import ModelConfig, read_config, target_model, type_name
from .repository import ModelFolder, model_folders

__all__ = ["front_changes", "front_problems", "misfits"]


def front_problems(model: ModelFolder, config: ModelConfig) -> Iterator[str]:
    """Why `config`, of a packer or an ensemble, does not fit the models that it calls; nothing for other models."""
    for name in _called(config):
        target = ModelFolder(model.path.parent / name)
        if not target.config_path.is_file():
            if target_model(config) is None:  # a packer's missing target is reported with the weights
                yield f"ensemble step: there is no model {name!r} in this repository"
            continue
        try:
            called = read_config(target.config_path)
        except RtoolError:
            continue  # reported where that model is checked
        yield from misfits(config, called)


def front_changes(folder: ModelFolder, before: ModelConfig | None, after: ModelConfig) -> list[str]:
    """What `after` would break in packers and ensembles in front of the model that fitted `before`."""
    found = []
    root: Path = folder.path.parent
    for other in model_folders(root) if root.is_dir() else ():
        try:
            front = read_config(other.config_path) if other.config_path.is_file() else None
        except RtoolError:
            continue
        if front is None or folder.name not in _called(front):
            continue
        known = set(misfits(front, before)) if before is not None else set()
        found += [f"{other.name!r} in front of it: {said}" for said in misfits(front, after) if said not in known]
    return found


def _called(config: ModelConfig) -> list[str]:
    """The models that a configuration calls."""
    target = target_model(config)
    return [target] if target else list(dict.fromkeys(step.model_name for step in config.ensemble_scheduling.step))


def misfits(front: ModelConfig, called: ModelConfig) -> list[str]:
    """Disagreements of a packer or an ensemble with a model that it calls; both sides are shown."""
    if target_model(front):
        return _packer_misfits(front, called)
    found: list[str] = []
    for step in front.ensemble_scheduling.step:
        if step.model_name == called.name:
            found += _step_misfits(step, front, called)
    return found


def _packer_misfits(front: ModelConfig, target: ModelConfig) -> list[str]:
    """A packer sends one full batch: to a model of that batch, or of any number of rows up to as many or more."""
    found = []
    batch, most = front.max_batch_size, target.max_batch_size
    first = [] if most >= batch else [batch]
    for kind in ("input", "output"):
        wanted = {entry.name: entry for entry in getattr(front, kind)}
        known = {entry.name: entry for entry in getattr(target, kind)}
        for name, entry in wanted.items():
            given, dims = known.get(name), [*first, *entry.dims]
            if (
                given is not None
                and not 0 < most < batch
                and _agree(dims, given.dims, entry, given)
                and (kind == "output" or _takes_all(given.dims, dims))
            ):
                continue
            real = f"{type_name(given.data_type)} {list(given.dims)}" if given is not None else "(none)"
            if 0 < most < batch:
                real += f" with max_batch_size {most}"
            expected = f"{type_name(entry.data_type)} {dims}"
            found.append(f"{kind} {name!r}: the packer needs {expected} of {target.name!r}, which has {real}")
        if kind == "input":
            found += [
                f"input {name!r}: {target.name!r} needs it, and the packer does not send it"
                for name in known
                if name not in wanted and not known[name].optional
            ]
    ours, theirs = (_stated(config) for config in (front, target))
    if ours and theirs and ours != theirs:
        found.append(f"preprocessing: the packer states {ours}, {target.name!r} states {theirs}")
    return found


def _stated(config: ModelConfig) -> str:
    """The preprocessing that a configuration states; "" where it states none."""
    return str(config.parameters[METADATA_KEY].string_value) if METADATA_KEY in config.parameters else ""


def _step_misfits(step: Any, front: ModelConfig, called: ModelConfig) -> list[str]:
    found = []
    outside = {entry.name: entry for entry in (*front.input, *front.output)}
    for kind, mapped in (("input", step.input_map), ("output", step.output_map)):
        known = {entry.name: entry for entry in getattr(called, kind)}
        place = f"ensemble step {called.name!r}, {kind}"
        for name, tensor in mapped.items():
            if name not in known:
                found.append(f"{place} {name!r}: it has no such {kind}; {nearest(name, known)}")
            elif tensor in outside and (both := _unequal(outside[tensor], known[name], front, called)):
                found.append(f"{place} {name!r}: the ensemble's {tensor!r} is {both[0]}, the model's {both[1]}")
        if kind == "input":
            missing = [name for name, entry in known.items() if name not in mapped and not entry.optional]
            found += [f"{place} {name!r}: the model needs it, and input_map lacks it" for name in missing]
    return found


def _unequal(outer: Any, inner: Any, front: ModelConfig, called: ModelConfig) -> tuple[str, str] | None:
    ours, theirs = (_whole(outer, front), _whole(inner, called))
    if _agree(ours, theirs, outer, inner):
        return None
    return f"{type_name(outer.data_type)} {ours}", f"{type_name(inner.data_type)} {theirs}"


def _agree(ours: Sequence[int], theirs: Sequence[int], outer: Any, inner: Any) -> bool:
    """Whether two tensors have the same type and dims; an open one, -1, is as large as the other's."""
    pairs = zip(ours, theirs, strict=False)
    same = len(ours) == len(theirs) and all(-1 in pair or pair[0] == pair[1] for pair in pairs)
    return same and outer.data_type == inner.data_type


def _takes_all(theirs: Sequence[int], ours: Sequence[int]) -> bool:
    """Whether every dim that is open in front is open behind too: else inputs are let in that the target refuses."""
    return all(behind == -1 or front != -1 for front, behind in zip(ours, theirs, strict=True))


def _whole(entry: Any, config: ModelConfig) -> list[int]:
    """Dims with the batch, which is open where the server forms it."""
    return [-1, *entry.dims] if config.max_batch_size > 0 else list(entry.dims)
