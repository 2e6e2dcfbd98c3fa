"""Where the launches of a training step are: operations that start a kernel, and questions that wait for a device.

    python -m rtool.benchmarks.training.step_launches                 half a minute on one core, without a GPU
    python -m rtool.benchmarks.training.step_launches --before FILE   with the counts of an earlier state beside

A step on a GPU is as slow as its kernels, or as the host that launches them one by one, and it stops wherever the host
asks the device for a value. Both can be counted without one: the operations that torch dispatches in one step of the
trainer and in one of a loop written by hand, on the CPU. Views start no kernel and are left out; an operation over a
list of tensors counts once, as it is one launch or few. Optimizers of the CPU loop over parameters, which those of a
GPU do not, so launches tell the states before and after a change apart, not the two loops. Each step of the trainer
also fetches, once and at its end, the norm of the gradient and whether to stop; that is not counted here.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ...converters.records.preprocessing import Preprocessing
from ...finetune.config.config import FinetuneConfig
from ...finetune.data.loading import Batch
from ...finetune.losses.heads import build_head
from ...finetune.network.learner import Learner
from ...finetune.training.stepping import Stepper
from ..machine import describe_machine
from ..places import RESULTS
from .training_steps import build_as_trained, build_step_pair

__all__ = ["count_operations", "main"]

_QUESTIONS = frozenset(
    {"_local_scalar_dense", "nonzero", "_unique2", "unique_dim", "masked_select", "bincount", "equal"}
)
"""Operations whose result, or its shape, the host must have before it goes on."""
_VIEWS = frozenset(
    {"view", "_unsafe_view", "t", "transpose", "permute", "expand", "slice", "select", "unsqueeze", "squeeze", "detach"}
    | {
        "alias",
        "as_strided",
        "unbind",
        "split",
        "split_with_sizes",
        "_reshape_alias",
        "lift_fresh",
        "chunk",
        "diagonal",
    }
    | {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "resize_"}
)
_NETWORKS = {"osnet_x0_25": (Preprocessing(64, 32), 8), "iresnet18": (Preprocessing(32, 32), 8)}
_LOSSES: dict[str, list[dict[str, Any]]] = {
    "arcface": [{"kind": "arcface"}],
    "arcface, triplet": [{"kind": "arcface"}, {"kind": "triplet"}],
    "circle_pair": [{"kind": "circle_pair"}],
    "multi_similarity": [{"kind": "multi_similarity"}],
    "contrastive": [{"kind": "contrastive"}],
    "softmax, center": [{"kind": "softmax"}, {"kind": "center"}],
    "partial_fc, rate .5": [{"kind": "partial_fc", "rate": 0.5}],
}
_CLASSES = 100


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no types here
    """Counts every operation that torch dispatches within the context, by name."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(
        self, operation: Any, types: Any, arguments: tuple[Any, ...] = (), keywords: dict[str, Any] | None = None
    ) -> Any:
        name = operation.overloadpacket.__name__
        if name in ("index", "index_put_", "index_put") and _by_mask(arguments):
            name = "nonzero"
        self.names[name] += 1
        return operation(*arguments, **(keywords or {}))


def count_operations(step: Callable[[], object]) -> dict[str, int]:
    """Launches and questions of one call of `step`, after one call to warm up."""
    step()
    with _Counter() as counter:
        step()
    questions = {name: count for name, count in counter.names.items() if name in _QUESTIONS}
    launches = sum(count for name, count in counter.names.items() if name not in _VIEWS and name not in questions)
    return {"launches": launches, "questions": sum(questions.values())}


def main(arguments: Sequence[str] | None = None) -> int:
    """Count, and write the dated file."""
    parser = argparse.ArgumentParser(
        prog="python -m rtool.benchmarks.training.step_launches", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the dated files")
    parser.add_argument("--before", type=Path, help="a file of this command, of an earlier state")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    torch.manual_seed(1)
    result: dict[str, Any] = {}
    for name, (size, batch) in _NETWORKS.items():
        pair = build_step_pair(name, size, batch)
        result[name] = {
            "a loop by hand, arcface": count_operations(pair.plain),
            "trainer, converted network, arcface": count_operations(pair.trainer),
        }
    result["losses"] = {name: count_operations(_step_with(losses)) for name, losses in _LOSSES.items()}
    now = datetime.now(UTC)
    report = {"date": now.isoformat(timespec="seconds"), "machine": describe_machine(), "result": result}
    if options.before is not None:
        report["before"] = json.loads(options.before.read_text(encoding="utf-8"))["result"]
    path = options.output / f"{now:%Y-%m-%d}-step-launches.json"
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(_page(report, f"{now:%Y-%m-%d}"), encoding="utf-8")
    print(json.dumps(result, indent=2), path, sep="\n")  # noqa: T201
    return 0


def _page(report: dict[str, Any], date: str) -> str:
    """The counts as a table, with those of an earlier state in parentheses."""
    lines = [
        f"# Launches of a training step, {date}",
        "",
        "One step on the CPU: operations that would start a kernel, and questions that make the host wait for a",
        "device, without the one fetch at the end of each step. In parentheses the state before.",
        "",
        "| step | launches | questions |",
        "|---|---|---|",
    ]
    for group, rows in report["result"].items():
        for name, counts in rows.items():
            earlier = report.get("before", {}).get(group, {}).get(name)
            cells = [f"{counts[key]}" + (f" ({earlier[key]})" if earlier else "") for key in ("launches", "questions")]
            lines.append(f"| {group}: {name} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines) + "\n"


def _by_mask(arguments: tuple[Any, ...]) -> bool:
    """Whether an index operation chooses by a mask, whose true places must be counted first."""
    return any(index is not None and index.dtype is torch.bool for index in arguments[1])


def _step_with(losses: list[dict[str, Any]]) -> Callable[[], object]:
    """A step of the trainer with a small OSNet and these losses."""
    size, batch = _NETWORKS["osnet_x0_25"]
    config = FinetuneConfig.model_validate(
        {
            "model": {"reference": "-"},
            "data": {"train": "-"},
            "losses": losses,
            "optimizer": {"kind": "sgd", "lr": 1e-4, "clip": 5.0},
        }
    )
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (batch, size.height, size.width, 3), dtype=torch.uint8)
    labels = torch.arange(batch) // 2
    module = build_as_trained("osnet_x0_25", size, torch.rand(batch, 3, size.height, size.width))
    heads = torch.nn.ModuleList([build_head(loss, 512, _CLASSES) for loss in config.losses])
    stepper = Stepper(config, Learner(module, heads, output=0, autocast=None), size, torch.device("cpu"))
    stepper.begin_epoch(0)
    return lambda: stepper.step([Batch(pixels, labels, ())], 1.0)


if __name__ == "__main__":
    sys.exit(main())
