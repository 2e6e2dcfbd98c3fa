"""`person_selection.html`: one self-contained page to see, correct and name the people.

The page gets the tree of average linkage, so that its slider cuts the same clusters as the command; `logic.js`
mirrors the rules of `people`. Names of tracks reach it as JSON and are drawn as text. A content security policy lets
nothing but the page's own style and script run, by their digests, and lets it load nothing from any network.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..found import Found
from ..people.similarity import similarity_of_all

__all__ = ["page_data", "render_page"]

_HERE = Path(__file__).parent
_MOST_MATRIX = 1500
"""Tracks up to which the matrix is in the page: 6 MB of base64."""
_SOURCES = {
    "given": "threshold given",
    "evidence": "threshold from halves of tracks and overlapping tracks",
    "otsu": "threshold by Otsu's method",
    "default": "threshold by default",
}


def page_data(
    found: Found, groups: Sequence[int], clusters: bytes, strips: Sequence[tuple[str, int]]
) -> dict[str, Any]:
    """What the page's script works on.

    Args:
        found: The gallery.
        groups: The group of each track before edits.
        clusters: The bytes of clusters.json.
        strips: Of each track, the address of its picture and the crops side by side in it.
    """
    first, last = found.crops.spans()
    counts = np.bincount(found.crops.track, minlength=len(found.crops.tracks))
    suspects = {suspect.track for suspect in found.suspects}
    tree, small = found.tree, len(strips) <= _MOST_MATRIX
    return {
        "sha256": hashlib.sha256(clusters).hexdigest(),
        "method": found.method,
        "threshold": found.threshold.value,
        "source_of_threshold": found.threshold.source,
        "source_note": _SOURCES[found.threshold.source],
        "listed": found.listed.value,
        "first": int(first.min()),
        "last": int(last.max()),
        "tracks": [
            {
                "label": track.label,
                "camera": track.camera,
                "crops": int(counts[number]),
                "first": int(first[number]),
                "last": int(last[number]),
                "suspect": number in suspects,
                "strip": strips[number][0],
                "frames": strips[number][1],
            }
            for number, track in enumerate(found.crops.tracks)
        ],
        "groups": list(groups),
        "merges": [
            [a, b, s]
            for a, b, s in zip(tree.first.tolist(), tree.second.tolist(), tree.similarity.tolist(), strict=True)
        ],
        "matrix": _packed(found) if small else None,
        "source": [list(person.tracks) for person in found.people.people],
        "edits": _edits(found),
    }


def _packed(found: Found) -> str:
    """The matrix of tracks as little-endian uint16 in base64: -1 is 0, 1 is 65535."""
    values = np.round((similarity_of_all(found.compared).astype(np.float64) + 1) * 32767.5)
    return base64.b64encode(np.clip(values, 0, 65535).astype("<u2").tobytes()).decode("ascii")


def _edits(found: Found) -> dict[str, Any]:
    """The edits that were applied, by numbers of tracks, so that later ones come on top."""
    if found.edits is None:
        return {"merge": [], "split": [], "drop": [], "names": []}
    number = {track.label: place for place, track in enumerate(found.crops.tracks)}

    def places(labels: Sequence[str]) -> list[int]:
        return [number[label] for label in labels]

    return {
        "merge": [places(group) for group in found.edits.merge],
        "split": [{"tracks": places(split.tracks), "rest": places(split.rest)} for split in found.edits.split],
        "drop": places(found.edits.drop),
        "names": [
            {"tracks": list(person.tracks), "name": person.name}
            for person in found.people.people
            if person.name is not None
        ],
    }


def render_page(found: Found, data: dict[str, Any], *, linked: bool) -> bytes:
    """The page as UTF-8; `linked` says that pictures lie beside it."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    style = (_HERE / "page.css").read_text(encoding="utf-8")
    script = (_HERE / "logic.js").read_text(encoding="utf-8") + (_HERE / "page.js").read_text(encoding="utf-8")
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=True)
    agreement = found.agreement
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    page = environment.from_string((_HERE / "page.html.j2").read_text(encoding="utf-8")).render(
        name=_printable(found.crops.name),
        facts=_printable(". ".join(f"{key} {value}" for key, value in found.head.items())),
        people=len(found.people),
        tracks=len(found.crops.tracks),
        crops=len(found.crops),
        measured=[]
        if agreement is None
        else [("pairwise F", f"{agreement.pair_f:.3f}"), ("true people", agreement.people_true)],
        warnings=[_printable(warning) for warning in found.warnings],
        random=found.model_type == "random",
        image_source=" 'self' file:" if linked else "",
        style=Markup(style),
        style_hash=_digest(style),
        script=Markup(script),
        script_hash=_digest(script),
        # nothing in a script element may end it or open a comment
        data=Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")),
    )
    return page.encode()


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
