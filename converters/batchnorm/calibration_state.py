"""The state file from which an interrupted calibration continues: statistics, digests of images and of the model.

It is a safetensors file; nothing in it is executed.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ...errors import InputError
from .channel_statistics import ChannelStatistics, Moments
from .observations import Calibration

__all__ = ["load_state", "model_digest", "save_state"]

_DIGEST = 32
"""Bytes per sha256."""


def model_digest(module: nn.Module) -> str:
    """One sha256 over the names and bytes of all parameters and buffers of `module`, in hexadecimal."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save_state(calibration: Calibration, state: Path, model: str) -> None:
    """Write the state file atomically; `model` is the digest of the model.

    Raises:
        InputError: it cannot be written.
    """
    seen = np.frombuffer(b"".join(calibration.digests), dtype=np.uint8).copy()
    tensors = {
        "progress": torch.tensor([calibration.images, calibration.batches]),
        "digests": torch.from_numpy(seen),
    }
    for path, observation in calibration.layers.items():
        for name, moments in _parts(observation.statistics).items():
            tensors[f"{path}/{name}/mean"], tensors[f"{path}/{name}/squares"] = moments.mean, moments.squares
            tensors[f"{path}/{name}/count"] = torch.tensor(moments.count)
        tensors[f"{path}/shape"] = torch.tensor([observation.rank, int(observation.single_position)])
    partial = state.with_name(state.name + ".partial")
    try:
        save_file(tensors, partial, metadata={"model": model})
        os.replace(partial, state)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{state}: the state of the calibration cannot be written ({error})") from error
    finally:
        partial.unlink(missing_ok=True)


def load_state(calibration: Calibration, state: Path, model: str) -> None:
    """Fill `calibration`, which has the layers of the model, from a state file; `model` is the model's digest.

    Raises:
        InputError: the file is not a calibration state, is incomplete, or belongs to another model.
    """
    try:
        with safe_open(state, framework="pt") as file:
            stated = (file.metadata() or {}).get("model")
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(f"{state}: not a calibration state ({error}); remove it to start afresh") from error
    if stated != model:
        raise InputError(f"{state}: the calibration state of another model; remove it to start afresh")
    try:
        _fill(calibration, tensors)
    except (KeyError, ValueError) as error:
        raise InputError(f"{state}: not a whole calibration state ({error}); remove it to start afresh") from error


def _fill(calibration: Calibration, tensors: dict[str, Tensor]) -> None:
    calibration.images, calibration.batches = (int(number) for number in tensors["progress"])
    data = tensors["digests"].numpy().tobytes()
    calibration.digests = [data[start : start + _DIGEST] for start in range(0, len(data), _DIGEST)]
    for path, observation in calibration.layers.items():
        rank, single = (int(number) for number in tensors[f"{path}/shape"])
        observation.rank, observation.single_position = rank, bool(single)
        for name, moments in _parts(observation.statistics).items():
            moments.count = int(tensors[f"{path}/{name}/count"])
            moments.mean, moments.squares = tensors[f"{path}/{name}/mean"], tensors[f"{path}/{name}/squares"]


def _parts(statistics: ChannelStatistics) -> dict[str, Moments]:
    return {"positions": statistics.positions, "images": statistics.images}
