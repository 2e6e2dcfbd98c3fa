"""The releases that rtool names are compared with NVIDIA's advisories; the embedded one is exempt by name."""

import pytest

from rtool.serving.releases.advisories import ADVISORIES, EXEMPT, lacking, release_key, what_it_lacks
from rtool.serving.server.container import IMAGE, RELEASE
from rtool.serving.server.embedded import Triton, release_note, triton_status
from rtool.serving.server.pytriton_wheel import TRITON_RELEASE


def test_the_container_image_is_of_a_release_that_has_every_fix():
    """Fails when an advisory is added that this release does not fix: raise `RELEASE` then."""
    assert lacking(RELEASE) == ()
    assert f":{RELEASE}-py3" in IMAGE


def test_only_the_embedded_release_is_exempt():
    assert set(EXEMPT) == {TRITON_RELEASE}


def test_each_fault_is_listed_once_with_a_release_and_a_score():
    names = [advisory.cve for advisory in ADVISORIES]
    assert len(set(names)) == len(names)
    for advisory in ADVISORIES:
        assert release_key(advisory.fixed) >= (23, 11)
        assert advisory.score is None or 0 < advisory.score <= 10


@pytest.mark.parametrize(
    ("release", "fault", "there"),
    [  # bulletins 5687 of August 2025, 5828 of May 2026, 5865 of August 2026
        ("25.06", "CVE-2025-23319 (8.1, fixed in 25.07)", True),
        ("25.07", "CVE-2025-23319 (8.1, fixed in 25.07)", False),
        ("26.02", "CVE-2026-24207 (9.8, fixed in 26.03)", True),
        ("26.03", "CVE-2026-24207 (9.8, fixed in 26.03)", False),
        ("26.05", "CVE-2026-47627 (9.8, fixed in 26.06)", True),
        ("24.12", "CVE-2024-53880 (4.9, fixed in 24.12)", False),
    ],
)
def test_a_fault_is_lacking_until_the_release_that_fixes_it(release, fault, there):
    assert (fault in map(str, lacking(release))) is there


def test_the_worst_faults_are_named_first():
    assert what_it_lacks("26.02").startswith("Triton 26.02 lacks ")
    assert ": CVE-2026-24207 (9.8, fixed in 26.03), CVE-2026-47627 (9.8, fixed in 26.06), " in what_it_lacks("26.02")
    assert what_it_lacks("26.02").endswith("; 26.07 has them all")
    assert what_it_lacks("26.07") == ""


@pytest.mark.parametrize("release", ["2.51", "24", "24.1", "latest", ""])
def test_what_is_no_release_is_refused(release):
    with pytest.raises(ValueError, match="expected a release"):
        lacking(release)


def test_doctor_names_every_fault_of_the_embedded_server(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))  # no tritonserver on PATH
    folder = tmp_path / "unpacked"
    folder.mkdir()
    monkeypatch.setattr("rtool.serving.server.embedded.unpacked_folder", lambda: folder)
    monkeypatch.setattr("rtool.serving.server.embedded._why_not_embedded", lambda: "")
    _, advice = triton_status()
    assert all(str(advisory) in advice for advisory in lacking("24.10"))


def test_a_server_on_path_is_named_by_its_image_or_not_at_all(monkeypatch, tmp_path):
    monkeypatch.setenv("NVIDIA_TRITON_SERVER_VERSION", "26.02")
    assert "CVE-2026-24207" in release_note(Triton(tmp_path))
    monkeypatch.setenv("NVIDIA_TRITON_SERVER_VERSION", "26.07")
    assert release_note(Triton(tmp_path)) == ""
    monkeypatch.delenv("NVIDIA_TRITON_SERVER_VERSION")
    assert "not known here" in release_note(Triton(tmp_path))
