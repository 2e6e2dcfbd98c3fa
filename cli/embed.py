"""`rtool embed`: the embeddings of images, in a file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from .embedding_options import (
    batch_option,
    cache_option,
    device_option,
    embedding_option,
    read_size,
    schedule_for,
    size_option,
    weights_option,
)
from .output import Output, examples, output_options
from .preprocessing import preprocessing_option
from .probes import read_probes, value_option

if TYPE_CHECKING:
    from ..finetune.embedding.image_embeddings import EmbedResult
    from ..finetune.runs.progress_display import ProgressDisplay

__all__ = ["embed_command"]

_SECONDS = 10.0
"""Between two lines of progress, where no bar is drawn."""


@click.command(
    "embed",
    epilog=examples(
        "rtool embed model.onnx crops/ -o embeddings.npz",
        "rtool embed triton://127.0.0.1:8001/osnet crops/ -o embeddings.npy --cache ~/.cache/embeddings",
        "rtool embed RUN synthetic-people:identities=20 -o people.npz --limit 100 --flip",
    ),
)
@click.argument("model")
@click.argument("images")
@click.option(
    "-o",
    "--output",
    "path",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help=".npz (names, embeddings), .npy (names in FILE.json) or .parquet (needs pyarrow).",
)
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Only the first N images.")
@click.option("--flip", is_flag=True, help="Add the embedding of the mirror image.")
@batch_option(default="auto")
@cache_option
@embedding_option
@size_option
@preprocessing_option
@value_option
@weights_option
@device_option
@click.option("--overwrite", is_flag=True, help="Replace a file that is already there.")
@output_options
def embed_command(
    output: Output,
    model: str,
    images: str,
    path: Path,
    limit: int | None,
    flip: bool,
    batch: int | Literal["auto"],
    cache: Path | None,
    embedding: int,
    size: str | None,
    preprocessing: str,
    probe: tuple[str, ...],
    weights: Path | None,
    device: str,
    overwrite: bool,
) -> None:
    """Write the embeddings of IMAGES by MODEL, one row per image in the order of their names.

    MODEL is an .onnx file, a bundle, a run folder or checkpoint, TorchScript, an exported program, a zoo name (random
    weights, or --weights) or triton://HOST:PORT/NAME.

    IMAGES is a folder (every image below it), an image, a manifest (.csv or .jsonl with a column `path`), or what
    `evaluate` takes: .rec, .tar, .bin, LFW's pairs.txt, a generator. Images that cannot be decoded are named and have
    no row. With --cache, a command that was stopped continues where it was when it is called again.
    """
    from ..finetune.embedding.image_embeddings import embed
    from ..finetune.runs.progress_display import ProgressDisplay

    schedule_for(model)
    with ProgressDisplay(quiet=output.quiet) as display:
        result = embed(
            model,
            images,
            path,
            limit=limit,
            flip=flip,
            batch=batch,
            output=embedding,
            device=device,
            preprocessing=preprocessing,
            size=read_size(size),
            weights=weights,
            probes=read_probes(probe),
            cache=cache,
            overwrite=overwrite,
            progress=_Progress(display),
            report=lambda line: display.line(f"note: {line}"),
        )
    _print(output, result, through_cache=cache is not None)


def _print(output: Output, result: EmbedResult, *, through_cache: bool) -> None:
    kept = len(result.names) - result.computed
    output.emit(
        {
            "path": result.path,
            "images": len(result.names),
            "dimension": result.dimension,
            "unreadable": result.unreadable,
            "computed": result.computed,
            "cached": kept,
            "seconds": result.seconds,
            "images_per_second": result.images_per_second,
            "model": result.model,
            "batch": result.batch,
            "preprocessing": result.preprocessing.to_dict(),
            "preprocessing_origin": result.preprocessing_origin,
        },
        [
            ("model", result.model),
            ("images", f"{len(result.names)}, {result.dimension} numbers each"),
            ("unreadable", len(result.unreadable)),
            ("computed", f"{result.computed} ({kept} from the cache)" if through_cache else result.computed),
            ("time", f"{result.seconds:.1f} s, {result.images_per_second:.0f} images/s"),
            ("preprocessing", f"{result.preprocessing} ({result.preprocessing_origin})"),
        ],
        artefact=result.path,
    )


class _Progress:
    """Images per second and the time left: behind the bar, or as a line every 10 s."""

    def __init__(self, display: ProgressDisplay) -> None:
        self._display = display
        self._began = self._told = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        rate = done / max(now - self._began, 1e-9)
        self._display.update(done, total, f"{rate:.0f} images/s")
        if not self._display.has_bar and now - self._told >= _SECONDS:
            self._told = now
            self._display.line(f"{done} of {total} images, {rate:.0f} images/s, {(total - done) / rate:.0f} s left")
