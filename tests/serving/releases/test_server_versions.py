"""Versions of the server and releases, as NVIDIA's release notes pair them."""

import pytest

from rtool.serving.releases.server_versions import NEWEST_KNOWN, release_of
from rtool.serving.server.pytriton_wheel import TRITON_RELEASE, TRITON_VERSION


@pytest.mark.parametrize(
    ("version", "release"),
    [
        ("2.40.0", "23.11"),
        ("2.42.0", "24.01"),
        (TRITON_VERSION, TRITON_RELEASE),
        ("2.56.0", "25.03"),
        ("2.59.0", "25.06"),
        ("2.59.1", "25.07"),
        ("2.60.0", "25.08"),
        ("2.68.0", "26.04"),
        ("2.70.0", "26.06"),
        ("2.72.0", NEWEST_KNOWN),
        ("2.71.0dev", "26.07"),
        ("2.73.0", None),
        ("2.39.0", None),
        ("1.51.0", None),
        ("22.51", None),
        ("", None),
    ],
)
def test_a_version_is_of_one_release(version, release):
    assert release_of(version) == release
