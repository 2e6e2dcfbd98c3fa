"""The embedding cache knows a served model by the file that its deployment names."""

import numpy as np
import pytest

import rtool
from rtool.converters.runtime.triton import TritonModel
from rtool.errors import InputError
from rtool.serving import deploy

PEOPLE = "synthetic-people:identities=3,images=3,seed=1,size=8x8"


def test_a_served_model_is_cached_by_its_file_and_another_version_misses_all(server, make_model, tmp_path, monkeypatch):
    calls = []
    original = TritonModel.submit
    monkeypatch.setattr(TritonModel, "submit", lambda self, *a, **k: calls.append(1) or original(self, *a, **k))
    options = {"preprocessing": "imagenet", "cache": tmp_path / "cache"}
    found = []
    for seed in (5, 6):
        path = make_model("reid", tmp_path / f"{seed}.onnx", seed=seed)
        deploy(path, name="cached", repository=server.repository, device="cpu", url=server.url)
        reference = f"triton://{server.url}/cached"
        first = rtool.embed(reference, PEOPLE, **options)
        made = len(calls)
        second = rtool.embed(reference, PEOPLE, **options)
        assert (first.computed, second.computed, len(calls)) == (9, 0, made)
        np.testing.assert_array_equal(first.embeddings, second.embeddings)
        local = rtool.embed(path, PEOPLE, preprocessing="imagenet")
        np.testing.assert_allclose(first.embeddings, local.embeddings, rtol=1e-5, atol=1e-6)
        found.append(first.embeddings)
    assert not np.allclose(*found)


def test_a_packer_states_no_file_and_is_refused(server, tmp_path):
    with pytest.raises(InputError, match="does not state which file it serves"):
        rtool.embed(f"triton://{server.url}/packer", PEOPLE, preprocessing="imagenet", cache=tmp_path / "cache")
    assert rtool.embed(f"triton://{server.url}/packer", PEOPLE, preprocessing="imagenet").computed == 9
