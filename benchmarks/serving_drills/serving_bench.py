"""`make bench-serving`: a row's cost, the packer, the drills of kill -9 and of the ports, the soak, as a dated file.

    python -m rtool.benchmarks.serving_drills.serving_bench [PART ...] [--soak-seconds 600]

The whole takes about half an hour on two quiet cores. `packer` sends float32 frames, `packer_uint8` pixels.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...finetune.processes.batch_scheduling import scheduled_as_batch
from ...serving.publishing.packing import deploy_packer
from ...serving.publishing.publishing import deploy
from ...serving.server.server import TritonServer
from ..machine import describe_machine
from ..places import RESULTS
from .drill_models import DrillModels, make_models
from .kills import kill_publishers
from .packer_load import packer_load
from .port_taking import take_ports
from .row_cost import row_costs
from .server_kills import kill_server_parts
from .soak import soak

__all__ = ["main"]

PARTS = ("cost", "packer", "packer_uint8", "kills", "soak", "ports")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts and write what they measured; a part that was run replaces its own figures in the day's file."""
    parser = argparse.ArgumentParser(
        prog="python -m rtool.benchmarks.serving_drills.serving_bench", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; default all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.5, help="per measurement of cost and packer")
    parser.add_argument("--points", type=int, default=50, help="moments at which a publisher is killed")
    parser.add_argument("--soak-seconds", type=float, default=600.0)
    parser.add_argument("--publish-every", type=float, default=30.0)
    parser.add_argument("--saturate-seconds", type=float, default=4.0, help="of the soak, to find its load")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"unknown parts: {', '.join(sorted(unknown))}")
    path = options.results / f"{datetime.now(UTC):%Y-%m-%d}-serving.json"
    document: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    with tempfile.TemporaryDirectory(prefix="rtool-drills-") as folder:
        models = make_models(Path(folder) / "files")
        for part in options.parts or PARTS:
            document[part] = _PARTS[part](models, Path(folder) / part / "models", options)
            document |= {"machine": describe_machine(), "finished": datetime.now(UTC).isoformat(timespec="seconds")}
            path.write_text(json.dumps(document, indent=1) + "\n")
            print(f"{part}: {json.dumps(document[part])[:2000]}")  # noqa: T201
    print(path)  # noqa: T201
    return 0


def _cost(models: DrillModels, repository: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    pixels = _pixels(models)
    cases: dict[str, tuple[str, NDArray[Any], bool]] = {
        "open batch, float32, gRPC": ("A", models.images, False),
        "open batch, float32, shared memory": ("A", models.images, True),
        "fixed batch, float32, shared memory": ("A16", models.images, True),
        "open batch, uint8, gRPC": ("U", pixels, False),
        "open batch, uint8, shared memory": ("U", pixels, True),
    }
    for name in ("A", "A16", "U"):
        deploy(models.files[name], name=name, repository=repository, device="cpu")
    with scheduled_as_batch(), TritonServer(repository) as server:
        asked = {what: (name, models.files[name], images, shared) for what, (name, images, shared) in cases.items()}
        return [asdict(row) for row in row_costs(server, asked, rounds=options.rounds, seconds=options.seconds)]


def _packer(
    models: DrillModels, repository: Path, options: argparse.Namespace, target: str, images: NDArray[Any]
) -> list[dict[str, Any]]:
    deploy(models.files[target], name=target, repository=repository, device="cpu")
    deploy_packer(target, name="pack", repository=repository)
    with TritonServer(repository) as server:
        rounds = [
            packer_load(server, images, packer="pack", target=target, seconds=options.seconds, seed=seed)
            for seed in range(options.rounds)
        ]
    return [asdict(one) for one in rounds]


def _pixels(models: DrillModels) -> NDArray[np.uint8]:
    """Uint8 [64, H, W, 3], of the size of the models' images."""
    shape = (64, *models.images.shape[2:], 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def _kills(models: DrillModels, repository: Path, options: argparse.Namespace) -> dict[str, Any]:
    publishers = kill_publishers(models, repository, points=options.points)
    servers = kill_server_parts(models, repository.parent / "parts")
    return {
        "publishers": {
            "points": len(publishers),
            "killed": sum(one.killed for one in publishers),
            "good": sum(one.good for one in publishers),
            "slowest_sweep": max((one.swept or 0.0 for one in publishers), default=0.0),
            "not_good": [asdict(one) for one in publishers if not one.good],
        },
        "server": [asdict(one) for one in servers],
    }


def _soak(models: DrillModels, repository: Path, options: argparse.Namespace) -> dict[str, Any]:
    seconds, every = options.soak_seconds, options.publish_every
    return asdict(soak(models, repository, seconds=seconds, every=every, saturate=options.saturate_seconds))


_PARTS: dict[str, Callable[[DrillModels, Path, argparse.Namespace], Any]] = {
    "cost": _cost,
    "packer": lambda models, repository, options: _packer(models, repository, options, "A16", models.images),
    "packer_uint8": lambda models, repository, options: _packer(models, repository, options, "U16", _pixels(models)),
    "kills": _kills,
    "soak": _soak,
    "ports": lambda models, repository, _: asdict(take_ports(models, repository)),
}

if __name__ == "__main__":
    raise SystemExit(main())
