"""Time and memory of a conversion, and what its result supports: parts `conversion` and `abilities`.

The converters take turns at iresnet100 (260 MB), each in a new process that has finished its imports, with the file in
the page cache. Peak memory is that of the whole process, imports included. The file is exported at opsets 11 and 17,
because some converters read only the former.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx

from .folded_networks import exported, fold_by_hand, images_for, randomised
from .peers import TOOLS, Worker, make_environment, read_outputs

__all__ = [
    "abilities",
    "conversion",
    "missed_abilities",
    "missed_conversion",
    "table_of_abilities",
    "table_of_conversion",
]

_LARGE = "iresnet100"
_OPSETS = (11, 17)
_SECONDS, _TIMES_FASTER, _FILES_OF_MEMORY = 1.0, 3.0, 3.0
_ERROR = 1e-5
_NETWORKS = ("osnet_x0_25", "iresnet18")
_WRITES_BACK = {"rtool": "yes, node for node", "onnx2torch": "no", "onnx2pytorch": "no", "pnnx": "no"}
"""No other converter has a function for it: their modules can only be re-exported, under other names."""


def conversion(rounds: int = 3, network: str = _LARGE) -> dict[str, Any]:
    """Seconds, peak memory in bytes, and largest relative error per converter."""
    make_environment()
    images = images_for(network, 2)
    original = randomised(network)
    files: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for opset in _OPSETS:
            path = Path(folder) / f"{network}_{opset}.onnx"
            onnx.save(exported(original, images, opset=opset), path)
            expected = _by_onnxruntime(path, images.numpy())
            samples: dict[str, list[dict[str, Any]]] = {tool: [] for tool in TOOLS}
            for _ in range(rounds):
                for tool in TOOLS:
                    samples[tool].append(_converted(tool, path, images.numpy(), expected))
            rows = {tool: _summary(replies) for tool, replies in samples.items()}
            files[f"opset {opset}"] = {"bytes": path.stat().st_size, "tools": rows}
    return {"network": network, "rounds": rounds, "files": files}


def _converted(tool: str, path: Path, images: Any, expected: Any) -> dict[str, Any]:
    """One conversion in a new process; "error" where it fails."""
    with Worker(tool, timeout=180) as worker:
        request = worker.request(path, {"images": images}, do="convert")
        path.read_bytes()  # into the page cache
        reply = worker.ask(request)
        if "error" not in reply:
            (output,) = read_outputs(request["outputs"], reply["kinds"])
            reply["difference"] = float(np.abs(np.asarray(output) - expected).max() / np.abs(expected).max())
    return reply


def _by_onnxruntime(path: Path, images: Any) -> Any:
    from ...converters.runtime.runners import OnnxRunner

    return OnnxRunner(onnx.load(path)).run(images)[0]


def _summary(replies: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    errors = [reply["error"] for reply in replies if "error" in reply]
    if errors:
        return {"error": errors[0][:160]}
    seconds = [round(reply["seconds"], 4) for reply in replies]
    return {
        "seconds": median(seconds),
        "samples": seconds,
        "imports": int(median(reply["before"] for reply in replies)),
        "peak": int(median(reply["peak"] for reply in replies)),
        "difference": max(reply["difference"] for reply in replies),
    }


def table_of_conversion(result: Mapping[str, Any]) -> str:
    """Markdown: one row per file and converter."""
    lines = ["| file | converter | seconds | times rtool's | peak / file | of it imports | relative error |"]
    lines.append("|---" * 7 + "|")
    for name, file in result["files"].items():
        ours = file["tools"]["rtool"].get("seconds")
        for tool, row in file["tools"].items():
            start = f"| {result['network']}, {name}, {file['bytes'] / 1e6:.0f} MB | {tool} |"
            if "error" in row:
                lines.append(f"{start} refused or failed: {row['error']} | | | | |")
                continue
            times = f"{row['seconds'] / ours:.2f}" if ours else ""
            share, imports = row["peak"] / file["bytes"], row["imports"] / file["bytes"]
            figures = f"{row['seconds']:.2f} | {times} | {share:.2f} | {imports:.2f} | {row['difference']:.1e}"
            lines.append(f"{start} {figures} |")
    return "\n".join(lines) + "\n"


def missed_conversion(result: Mapping[str, Any]) -> list[str]:
    """The bounds on time, memory and error that are missed."""
    missed = []
    for name, file in result["files"].items():
        ours, rival = file["tools"]["rtool"], file["tools"]["onnx2pytorch"]
        if "error" in ours:
            missed.append(f"{name}: {ours['error']}")
            continue
        checks = {
            f"{ours['seconds']:.2f} s, wanted < {_SECONDS:g}": ours["seconds"] < _SECONDS,
            f"peak {ours['peak'] / file['bytes']:.2f} x file, wanted <= {_FILES_OF_MEMORY:g}": (
                ours["peak"] <= _FILES_OF_MEMORY * file["bytes"]
            ),
            f"relative error {ours['difference']:.1e}, wanted <= {_ERROR:g}": ours["difference"] <= _ERROR,
        }
        if "seconds" in rival:
            times = rival["seconds"] / ours["seconds"]
            checks[f"{times:.2f} times faster than onnx2pytorch, wanted >= {_TIMES_FASTER:g}"] = times >= _TIMES_FASTER
        missed += [f"{name}: {words}" for words, holds in checks.items() if not holds]
    return missed


def abilities(networks: Iterable[str] = _NETWORKS) -> dict[str, Any]:
    """Trainable weights, and whether torch's own tools support the result, by file and tool.

    `weights` is the number of parameters of the hand-written folded network; any more trainable ones are copies of
    weights that the network shares.
    """
    make_environment()
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for network in networks:
            images = images_for(network, 2)
            original = randomised(network)
            by_hand = fold_by_hand(copy.deepcopy(original))
            weights = sum(parameter.numel() for parameter in by_hand.parameters())
            for opset in _OPSETS:
                path = Path(folder) / f"{network}_{opset}.onnx"
                onnx.save(exported(original, images, opset=opset), path)
                for tool in TOOLS:
                    with Worker(tool, timeout=240) as worker:
                        reply = worker.ask(worker.request(path, {"images": images.numpy()}, do="inspect"))
                    reply["weights"] = weights
                    result.setdefault(f"{network}, opset {opset}", {})[tool] = reply
    return result


def table_of_abilities(result: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown: one row per file and converter."""
    columns = ("jit.script", "export, dynamic batch", "compile(fullgraph)")
    lines = [f"| file | converter | trainable | {' | '.join(columns)} | weights back into the file |"]
    lines.append("|---" * (len(columns) + 4) + "|")
    for name, tools in result.items():
        for tool, reply in tools.items():
            if "error" in reply:
                words = f"fails {reply['stage']}: {reply['error']}".splitlines()[0][:120]
                lines.append(f"| {name} | {tool} | {words} | | | | |")
                continue
            trainable = f"{reply['trainable'] / reply['weights']:.2%}"
            marks = " | ".join("no" if reply["abilities"][column] else "yes" for column in columns)
            lines.append(f"| {name} | {tool} | {trainable} | {marks} | {_WRITES_BACK[tool]} |")
    return "\n".join(lines) + "\n"


def missed_abilities(result: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What rtool's modules do not support."""
    missed = []
    for name, tools in result.items():
        reply = tools["rtool"]
        if "error" in reply:
            missed.append(f"{name}: {reply['error']}")
            continue
        missed += [f"{name}: {ability}: {error}" for ability, error in reply["abilities"].items() if error]
        if reply["trainable"] != reply["weights"]:
            missed.append(f"{name}: {reply['trainable']} trainable weights, the hand-written has {reply['weights']}")
    return missed
