"""`rtool gallery`: who is who in crops without labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from ...errors import InputError
from ..embedding_options import batch_option, cache_option
from ..output import Output, examples, output_options
from ..preprocessing import preprocessing_option
from ..probes import read_probes, value_option

if TYPE_CHECKING:
    from ...serving.gallery.galleries import GalleryResult
    from ...serving.gallery.settings_file import GalleryFile

__all__ = ["gallery_command"]


class _Threshold(click.ParamType[Any]):
    name = "COSINE|auto"

    def convert(
        self, value: str | float, param: click.Parameter | None, ctx: click.Context | None
    ) -> float | Literal["auto"]:
        if value == "auto":
            return "auto"
        try:
            number = float(value)
        except ValueError:
            number = 2.0
        if not -1 <= number <= 1:
            self.fail(f"expected a cosine from -1 to 1, or auto, got {value!r}", param, ctx)
        return number


@click.command(
    "gallery",
    epilog=examples(
        "rtool gallery model.onnx crops/ -o people",
        "rtool gallery examples/models/osnet_x0_25_synthetic.onnx synthetic-people:identities=20,seed=2 -o people",
        "rtool gallery model.onnx --tracks mot.txt --frames video_frames/ -o people",
        "rtool gallery model.onnx crops/ -o people --overwrite --edits edits.json",
        "rtool gallery --config gallery.yaml",
    ),
)
@click.argument("model", required=False)
@click.argument("crops", required=False)
@click.option("-o", "--output", "folder", type=click.Path(path_type=Path), help="Folder to make.")
@click.option("--config", type=click.Path(path_type=Path, dir_okay=False), help="YAML with a section gallery:.")
@click.option("--fallback", multiple=True, metavar="MODEL", help="Model to try when the one before does not run.")
@click.option("--allow-random", is_flag=True, help="Let a zoo name run on random weights; every file says so.")
@click.option("--weights", type=click.Path(path_type=Path), help="A state_dict (.pth) for the zoo names given.")
@click.option("--tracks", type=click.Path(path_type=Path), metavar="FILE", help="A tracker's text or .npz as CROPS.")
@click.option("--frames", type=click.Path(path_type=Path), metavar="DIR|VIDEO", help="What the tracker saw.")
@click.option("--crops", "best", type=click.IntRange(1), help="Best crops embedded per track.  [default: 16]")
@click.option("--people", type=click.IntRange(0), help="People with an animation, largest first.  [default: 10]")
@click.option(
    "--threshold",
    type=_Threshold(),
    help="Cosine from which tracks are one person. By default people are found by auto, and pairs above .70 listed.",
)
@click.option(
    "--cluster",
    type=click.Choice(["agglomerative", "components", "dbscan", "hdbscan", "none"]),
    help="How tracks become people.  [default: agglomerative]",
)
@click.option(
    "--centre",
    type=click.Choice(["none", "all", "camera"]),
    help="Mean subtracted from the vectors of tracks.  [default: camera]",
)
@click.option(
    "--similarity",
    type=click.Choice(["vectors", "mean-of-pairs"]),
    help="Of two tracks: cosine of their vectors, or mean over pairs of crops.  [default: vectors]",
)
@click.option(
    "--cannot-link",
    type=click.Choice(["time", "none"]),
    help="time: tracks that overlap in one camera are two people.  [default: time where frames are times]",
)
@click.option("--eps", type=float, help="Jaccard distance within which dbscan joins.  [default: 0.4]")
@click.option("--partners", type=click.IntRange(1), help="Tracks expected per person, for dbscan.  [default: 4]")
@click.option("--split", is_flag=True, help="Cut tracks that look like two people.")
@click.option("--labels", type=click.Path(path_type=Path), metavar="CSV", help="track,identity: to measure only.")
@click.option("--edits", type=click.Path(path_type=Path), metavar="JSON", help="Corrections saved on the page.")
@preprocessing_option
@value_option
@batch_option("16")
@cache_option
@click.option("--device", help="auto, cpu or cuda:N.  [default: auto]")
@click.option("--overwrite", is_flag=True, help="Replace a gallery in the folder.")
@output_options
@click.pass_context
def gallery_command(
    ctx: click.Context,
    /,
    output: Output,
    model: str | None,
    crops: str | None,
    folder: Path | None,
    config: Path | None,
    fallback: tuple[str, ...],
    allow_random: bool,
    weights: Path | None,
    tracks: Path | None,
    frames: Path | None,
    best: int | None,
    probe: tuple[str, ...],
    overwrite: bool,
    **options: Any,
) -> None:
    """Find the people in CROPS with MODEL, without labels, and write a page to see and correct them.

    CROPS is a folder of TRACK/*.jpg or CAMERA/TRACK/*.jpg, a CSV manifest (path,track,camera,frame,confidence),
    images named as in Market-1501, or a generator such as synthetic-people:identities=20,seed=2.
    """
    from ...serving.gallery.galleries import gallery
    from ...serving.gallery.inputs.sources import CropSource
    from ...serving.gallery.settings import GallerySettings
    from ...serving.gallery.settings_file import GalleryFile, read_gallery_file

    stated = GalleryFile() if config is None else read_gallery_file(config)
    for name in ("batch", "preprocessing"):  # the file's, unless stated here
        if ctx.get_parameter_source(name) is click.core.ParameterSource.DEFAULT:
            options[name] = None
    settings = {
        **stated.settings,
        **{name: value for name, value in {**options, "crops": best}.items() if value not in (None, False)},
    }
    if crops is not None and tracks is not None:
        raise InputError("--tracks: stands in the place of CROPS; give one of both")
    place = _places(stated, model=model, crops=crops or (None if tracks is None else str(tracks)), output=folder)
    framed = frames or stated.places.get("frames")
    result = gallery(
        place["model"],
        CropSource(place["crops"], None if framed is None else Path(framed)),
        place["output"],
        fallback=fallback or stated.fallback,
        allow_random=allow_random or stated.flags.get("allow_random", False),
        weights=weights or stated.places.get("weights"),
        probes={**stated.probes, **read_probes(probe)},
        overwrite=overwrite or stated.flags.get("overwrite", False),
        settings=GallerySettings(**settings),
        report=lambda line: None if output.quiet else click.echo(f"note: {line}", err=True),
    )
    output.emit(result, _rows(result), artefact=result.page)


def _places(stated: GalleryFile, **given: str | Path | None) -> dict[str, str]:
    places = {name: str(value or stated.places.get(name) or "") for name, value in given.items()}
    for name, value in places.items():
        if not value:
            how = "-o DIR" if name == "output" else name.upper()
            raise InputError(f"{how} is missing; rtool gallery MODEL CROPS -o DIR, or gallery.{name} in --config")
    return places


def _rows(result: GalleryResult) -> list[tuple[str, str]]:
    rows = [
        ("model", f"{result.model} ({result.model_type})"),
        ("found", f"{result.people} people in {result.tracks} tracks of {result.crops} crops"),
        ("threshold", f"{result.threshold:.3f} ({result.threshold_source})"),
    ]
    if result.outliers:
        rows.append(("outliers", f"{result.outliers} tracks that nothing joins"))
    if result.mean_cohesion is not None:
        rows.append(("cohesion", f"{result.mean_cohesion:.3f}"))
    if (measured := result.agreement) is not None:
        rows += [
            ("pairs", f"P {measured.pair_precision:.3f}, R {measured.pair_recall:.3f}, F {measured.pair_f:.3f}"),
            (
                "B-cubed",
                f"P {measured.bcubed_precision:.3f}, R {measured.bcubed_recall:.3f}, F {measured.bcubed_f:.3f}",
            ),
            ("V-measure", f"{measured.v_measure:.3f} (NMI {measured.nmi:.3f}), {measured.people_true} people in truth"),
        ]
    seconds = " + ".join(f"{name} {value:.1f}" for name, value in result.timing.items())
    return [*rows, ("seconds", seconds), *(("warning", warning) for warning in result.warnings)]
