"""The random generators of all processes as tensors, for checkpoints. During training only dropout draws from them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..processes.collectives import gather_rows, rank

__all__ = ["generator_states", "load_generator_states", "seed_generators"]


def seed_generators(seed: int) -> None:
    """Seed torch on this process; each rank gets its own stream."""
    torch.manual_seed(seed * 100_003 + rank())


def generator_states(device: torch.device) -> dict[str, Tensor]:
    """States of every rank's generators, [ranks, bytes] each. A collective: every rank calls it."""
    states = {"generator/cpu": gather_rows(torch.get_rng_state()[None].to(device)).cpu()}
    if device.type == "cuda":
        states["generator/cuda"] = gather_rows(torch.cuda.get_rng_state(device)[None].to(device)).cpu()
    return states


def load_generator_states(tensors: Mapping[str, Tensor], device: torch.device) -> None:
    """Restore this rank's states; a rank that the checkpoint does not have keeps its fresh seed."""
    if rank() < len(tensors["generator/cpu"]):
        torch.set_rng_state(tensors["generator/cpu"][rank()].clone())  # a row in place would be misaligned
    if device.type == "cuda" and rank() < len(tensors.get("generator/cuda", ())):
        torch.cuda.set_rng_state(tensors["generator/cuda"][rank()].clone(), device)
