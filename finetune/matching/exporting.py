"""Export a model with a matcher as two graphs: embedding, map and visibility of images; and the score of two images.

A server keeps map and visibility of each image of a gallery, and compares them by the second graph, without pixels. The
first graph is exported again from torch, for the source of a converted backbone has no visibility head. Both are
measured: the first at every step of `export`, the second against torch in float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Unpack

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...converters.bundles.reference import load_model
from ...converters.exporting.manifest import ExportResult, manifest_path
from ...converters.exporting.options import ExportKeywords
from ...converters.exporting.pipeline import export
from ...converters.exporting.reexport import torch_to_onnx
from ...converters.runtime.parity import Parity, measure_parity
from ...converters.runtime.runners import OnnxRunner
from ...errors import GateError, InputError
from ..network.feature_maps import graph_with_map
from ..network.networks import images_to_tensor
from .described import MatchingModel
from .matcher import Matcher
from .stored import load_matching

__all__ = ["MatchingExport", "export_matching"]

_PAIRS = (1, 3, 16)
"""Numbers of pairs on which the second graph is measured."""


@dataclass(frozen=True)
class MatchingExport:
    """Both files, and how far each is from torch."""

    images: ExportResult
    """From images to `embedding`, `map` and, where the run learned it, `visibility`."""
    matcher: ExportResult
    """From `map_a`, `map_b` and, where the matcher uses it, `visibility_a`, `visibility_b` to `score` [N]."""
    parity: Parity
    """Of the matcher's file in ONNX Runtime and the matcher in torch."""


class _ImageGraph(nn.Module):
    """Images [N, C, H, W] to embedding [N, D], map [N, C, h, w] and, with a head, visibility [N, 1, h, w]."""

    def __init__(self, model: MatchingModel, name: str, chain: tuple[Any, ...]) -> None:
        super().__init__()
        self.backbone: nn.Module = graph_with_map(model.tap, model.output)
        self.visibility = model.visibility
        self.output_names = ("embedding", "map", "visibility")[: 2 if model.visibility is None else 3]
        self.chain = chain
        self.export_name = name

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """The outputs, raw embeddings and maps."""
        embedding, maps = self.backbone(images)
        embedding = embedding.flatten(1)
        return (embedding, maps) if self.visibility is None else (embedding, maps, self.visibility(maps))


class _PairGraph(nn.Module):
    """Two maps [N, C, h, w], with their visibility [N, 1, h, w] or without, to scores [N]."""

    def __init__(self, matcher: Matcher) -> None:
        super().__init__()
        self.matcher = matcher

    def forward(
        self, map_a: Tensor, map_b: Tensor, visibility_a: Tensor | None = None, visibility_b: Tensor | None = None
    ) -> Tensor:
        """The scores."""
        return self.matcher.pairs(map_a, map_b, visibility_a, visibility_b)


def export_matching(
    model: str | Path, output: str | Path, matcher: str | Path, **options: Unpack[ExportKeywords]
) -> MatchingExport:
    """Write a trained model with a matcher as two ONNX files.

    Args:
        model: A run folder, or a bundle with a matcher.
        output: The file from images to embedding, map and visibility; its manifest lies beside it.
        matcher: The file from two maps to a score, likewise.
        options: Of the first file, see `ExportOptions`; `tolerance` holds for both.

    Raises:
        GateError: a graph differs from torch by more than the tolerance; what fails is not written.
        InputError: the model has no matcher, or a file is there already.
    """
    opened = load_model(model)
    if opened.path is None or opened.preprocessing is None or opened.kind != "bundle":
        raise InputError(f"{model}: a matcher is exported from a run folder or a bundle; give one trained with qaconv")
    if options.get("format", "onnx") != "onnx" or options.get("embed_preprocessing"):
        raise InputError(
            "export --matcher: writes ONNX files with raw outputs; leave out --format, --embed-preprocessing"
        )
    if options.get("weights") is not None:
        raise InputError("export --matcher: a matcher belongs to the weights it was trained with; leave out --weights")
    size = opened.preprocessing
    pixels = torch.zeros(2, size.height, size.width, size.channels, dtype=torch.uint8)
    images = images_to_tensor(pixels, size, torch.device("cpu"), False)
    matching = load_matching(opened.path, opened.module, images)
    if Path(output).absolute() == Path(matcher).absolute():
        raise InputError(f"export --matcher {matcher}: is the other file as well; name two")
    pairs, parity = _export_pairs(matching, matcher, options)
    if options.get("preprocessing") in (None, "auto"):
        options["preprocessing"] = size
    exported = export(_ImageGraph(matching, opened.name, opened.chain).eval(), output, **options)
    return MatchingExport(exported, pairs, parity)


def _export_pairs(model: MatchingModel, path: str | Path, options: ExportKeywords) -> tuple[ExportResult, Parity]:
    """Write the second graph, and measure the file at several numbers of pairs.

    Raises:
        GateError: it differs from torch by more than the tolerance, relative to the largest score; it is removed.
        InputError: there is such a file already.
    """
    generator = torch.Generator().manual_seed(0)
    shape = (model.tap.channels, *model.tap.size)
    names = ["map_a", "map_b"] + (["visibility_a", "visibility_b"] if model.uses_visibility else [])

    def inputs(count: int) -> list[Tensor]:
        maps = [torch.randn(count, *shape, generator=generator) for _ in range(2)]
        seen = [torch.rand(count, 1, *model.tap.size, generator=generator) for _ in range(2)]
        return maps + (seen if model.uses_visibility else [])

    module, tolerance = _PairGraph(model.matcher).eval(), options.get("tolerance", 1e-5)
    with TemporaryDirectory() as folder:
        source = Path(folder) / "matcher.onnx"
        onnx.save(torch_to_onnx(module, inputs(2), input_names=names, output_names=["score"]), source)
        result = export(source, path, tolerance=tolerance, overwrite=bool(options.get("overwrite")))
    runner = OnnxRunner(result.path)
    expected: list[NDArray[Any]] = []
    found: list[NDArray[Any]] = []
    for count in _PAIRS:
        arrays = inputs(count)
        with torch.no_grad():
            expected.append(module(*arrays).numpy())
        found.append(runner.run(*(array.numpy() for array in arrays))[0])
    parity = measure_parity((np.concatenate(expected),), (np.concatenate(found),))
    if not parity.max_rel <= tolerance:
        for file in (result.path, manifest_path(result.path)):
            file.unlink(missing_ok=True)
        raise GateError(f"{path}: the matcher's graph differs from torch by {parity.max_rel:.1e} relative; not written")
    return result, parity
