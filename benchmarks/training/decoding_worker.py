"""Images per second of JPEG decoders, in an environment of its own; started by `decoding_bench`.

    python -P decoding_worker.py FOLDER...

Each folder holds `.jpg` files. The files' bytes are in memory before the clock starts, and every decoder gives RGB
arrays. Times are CPU seconds of one thread, in turns. The reply is one JSON object.
"""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

_ROUNDS = 9


def _pillow(encoded: bytes) -> Any:
    with Image.open(io.BytesIO(encoded), formats=("JPEG",)) as image:
        return np.asarray(image)


def _simplejpeg(encoded: bytes) -> Any:
    import simplejpeg

    return simplejpeg.decode_jpeg(encoded, "RGB", strict=True)


def _cv2(encoded: bytes) -> Any:
    import cv2

    return cv2.cvtColor(cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


_DECODERS: dict[str, Callable[[bytes], Any]] = {"Pillow": _pillow, "simplejpeg": _simplejpeg, "cv2": _cv2}


def _measure(folder: Path) -> dict[str, Any]:
    files = [path.read_bytes() for path in sorted(folder.glob("*.jpg"))]
    seconds: dict[str, list[float]] = {name: [] for name in _DECODERS}
    for turn in range(_ROUNDS + 1):
        for name, decode in _DECODERS.items():
            started = time.process_time()
            for encoded in files:
                decode(encoded)
            if turn:
                seconds[name].append(time.process_time() - started)
    differing = {
        name: sum(not np.array_equal(decode(encoded), _pillow(encoded)) for encoded in files)
        for name, decode in _DECODERS.items()
    }
    rates = {name: round(len(files) / min(times)) for name, times in seconds.items()}
    return {"files": len(files), "images_per_second": rates, "files_that_differ_from_pillow": differing}


if __name__ == "__main__":
    import cv2

    cv2.setNumThreads(1)
    versions = {name: version(name) for name in ("pillow", "simplejpeg", "opencv-python-headless")}
    found = {folder: _measure(Path(folder)) for folder in sys.argv[1:]}
    sys.stdout.write(json.dumps({"versions": versions, "folders": found}) + "\n")
