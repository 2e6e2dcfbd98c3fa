"""`gallery`: who is who in crops without labels. The call behind `rtool gallery`."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ...converters.files.folders import check_output, replace_folder
from ...converters.runtime.probes.given_probes import Probe
from ...errors import InputError
from ...finetune.data.image_files import printable
from .files.writing import WRITTEN, write_gallery
from .finding import find_people
from .found import Found
from .inputs.sources import CropSource, open_crops
from .models import OpenedModel, open_first
from .people.agreement import Agreement
from .settings import GallerySettings
from .stages import Stages

__all__ = ["GalleryResult", "gallery"]

MARKER = "clusters.json"
"""The file by which a folder is known to hold a gallery."""
_EDITS = "edits.json"
"""What the page saves, and people put into the folder; `--overwrite` keeps it."""


@dataclass(frozen=True)
class GalleryResult:
    """What was found, and where it was written."""

    folder: Path
    page: Path
    pseudo: Path
    model: str
    model_type: str
    """onnx, torch, triton or random."""
    people: int
    tracks: int
    crops: int
    outliers: int
    threshold: float
    threshold_source: str
    mean_cohesion: float | None
    """Mean over people of the mean cosine of their tracks; None where all have one track."""
    agreement: Agreement | None
    """With the labels, where there are any."""
    crops_embedded: int
    """By the model; the others were in the cache."""
    timing: dict[str, float]
    warnings: tuple[str, ...]
    of_track: dict[str, int]
    """The person of each track by label; -1 of a dropped one."""


def gallery(
    model: str | Path,
    crops: str | Path | CropSource,
    output: str | Path,
    *,
    fallback: Sequence[str | Path] = (),
    allow_random: bool = False,
    weights: str | Path | None = None,
    probes: Mapping[str, Probe] | None = None,
    overwrite: bool = False,
    settings: GallerySettings | None = None,
    report: Callable[[str], object] = lambda _: None,
) -> GalleryResult:
    """Find the people in crops and write them, with a page to correct them, into the folder `output`.

    Args:
        model: A model reference.
        crops: A folder, manifest, tracker's text or generator; or a `CropSource`, which may name frames.
        output: The folder to make; its parent must exist.
        fallback: Model references to try when `model` does not run.
        allow_random: Whether an architecture without weights may run.
        weights: A state_dict file for each model reference that is a zoo name.
        probes: The value of each input of the model beside the image, by name.
        overwrite: Whether a gallery in `output` may be replaced.
        settings: How crops become people; None takes the defaults.
        report: Called with a line about each step, note and warning.

    Raises:
        InputError: no model runs, an input does not exist, or `output` cannot be written.
        DataError: crops that cannot be used.
        PlatformError: a package or device is missing.

    Examples:
        >>> people = "synthetic-people:identities=4,images=8,seed=2,size=16x8"
        >>> result = rtool.gallery("model.onnx", people, "out")
        >>> result.tracks, result.crops, result.page.name
        (16, 32, 'person_selection.html')
    """
    settings = settings or GallerySettings()
    folder = Path(output)
    source = crops if isinstance(crops, CropSource) else CropSource(str(crops))
    check_output_folder(folder, source, overwrite=overwrite, cache=settings.cache)
    stages = Stages()
    with stages.stage("load"):
        opened = open_first(
            [str(model), *map(str, fallback)],
            weights=weights,
            probes=probes,
            allow_random=allow_random,
            batch=settings.batch,
            device=settings.device,
            preprocessing=settings.preprocessing,
            cache=settings.cache,
            report=report,
        )
    if settings.edits is not None and settings.edits_source is None and (folder / MARKER).is_file():
        settings = replace(settings, edits_source=folder / MARKER)
    found = _written(opened, source, folder, settings, stages, overwrite=overwrite, report=report)
    return _result(found, folder, stages)


def _written(
    opened: OpenedModel,
    source: CropSource,
    folder: Path,
    settings: GallerySettings,
    stages: Stages,
    *,
    overwrite: bool,
    report: Callable[[str], object],
) -> Found:
    """Find the people and write the folder, whole or not at all."""
    try:
        with replace_folder(folder, may_replace=_is_gallery if overwrite else None) as temporary:
            with stages.stage("read"):
                crops = open_crops(source, temporary)
            for note in crops.notes:
                report(note)
            found = find_people(opened, crops, settings, stages)
            write_gallery(found, temporary, settings.people, stages, _stated(settings))
            if (folder / _EDITS).is_file():
                shutil.copy2(folder / _EDITS, temporary / _EDITS)
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written ({error.strerror or error}); nothing was left behind: free some space, or "
            "choose another folder"
        ) from error
    return found


def _result(found: Found, folder: Path, stages: Stages) -> GalleryResult:
    people = found.people.of_track.tolist()
    return GalleryResult(
        folder=folder,
        page=folder / "person_selection.html",
        pseudo=folder / "pseudo.csv",
        model=found.model,
        model_type=found.model_type,
        people=len(found.people),
        tracks=len(found.crops.tracks),
        crops=len(found.crops),
        outliers=len(found.outliers),
        threshold=found.threshold.value,
        threshold_source=found.threshold.source,
        mean_cohesion=found.mean_cohesion,
        agreement=found.agreement,
        crops_embedded=stages.computed,
        timing=stages.seconds,
        warnings=found.warnings,
        of_track={track.label: person for track, person in zip(found.crops.tracks, people, strict=True)},
    )


def check_output_folder(folder: Path, source: CropSource, *, overwrite: bool, cache: Path | None = None) -> None:
    """Refuse, before any work, an output that cannot be made, or whose making would delete something of the user's.

    Raises:
        InputError: it exists, lies in the crops or holds them or the cache, has other files than a gallery's, or its
            parent is missing.
    """
    place = folder.resolve()
    for what, root in (("crops", source.folder), ("frames", source.frames)):
        if root is not None and root.is_dir() and place.is_relative_to(root.resolve()):
            raise InputError(
                f"{folder}: lies inside the {what} {root}, which are never written into; choose another folder"
            )
    if folder.exists() and not overwrite:
        raise InputError(f"{folder}: already exists; choose another folder with -o, or pass --overwrite")
    if folder.exists() and not _is_gallery(folder):
        raise InputError(
            f"{folder}: exists and holds no gallery ({MARKER}), so it is not replaced; choose another folder"
        )
    crops = None if source.is_generator else Path(source.spec).expanduser()
    for given in (crops, source.frames, cache):
        if given is not None and given.resolve().is_relative_to(place):
            raise InputError(
                f"{given}: lies inside {folder}, which is written as a whole; choose a place for it elsewhere, or "
                "another folder with -o"
            )
    if foreign := sorted(path.name for path in folder.glob("*") if path.name not in {*WRITTEN, _EDITS}):
        raise InputError(
            f"{folder}: holds what no gallery writes, such as {printable(foreign[0])}, which --overwrite would delete; "
            "move it elsewhere, or choose another folder with -o"
        )
    check_output(folder, may_replace=_is_gallery if overwrite else None)


def _is_gallery(folder: Path) -> bool:
    return folder.is_dir() and ((folder / MARKER).is_file() or not any(folder.iterdir()))


def _stated(settings: GallerySettings) -> dict[str, Any]:
    stated = asdict(settings)
    return {name: str(value) if isinstance(value, Path) else value for name, value in stated.items()}
