"""A run with a matcher becomes two graphs, which ONNX Runtime computes as torch does."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from rtool.converters.bundles.reference import load_model
from rtool.errors import InputError
from rtool.finetune.finetuning import finetune
from rtool.finetune.matching.exporting import export_matching
from rtool.finetune.matching.stored import has_matching, load_matching

from ..small_runs import OSNET, written

LOSSES = [
    "augment={mask: 0.5, mask_kinds: [block]}",
    "losses=[{kind: arcface, scale: 16}, {kind: qaconv, visibility: mask}, {kind: occlusion, hidden: 8}]",
    "epochs=1",
    "steps_per_epoch=2",
    "evaluation=null",
]


@pytest.fixture(scope="module", params=["an ONNX file", pytest.param("the zoo", marks=pytest.mark.slow)])
def run(request, tiny_model, tmp_path_factory):
    """A run that started from a network converted from ONNX, and one from the zoo."""
    folder = tmp_path_factory.mktemp("matching")
    config = written(folder, tiny_model)
    return finetune(config, [*([OSNET] if request.param == "the zoo" else []), *LOSSES], quiet=True)


def test_both_graphs_compute_what_torch_does(run, tmp_path):
    made = export_matching(run.run_dir, tmp_path / "images.onnx", tmp_path / "matcher.onnx")
    model = load_model(run.last)
    images = np.random.default_rng(0).normal(size=(3, 3, 32, 16)).astype(np.float32)
    matching = load_matching(run.last, model.module, torch.from_numpy(images[:2]))
    seen = matching.describe(torch.from_numpy(images))
    first = onnxruntime.InferenceSession(tmp_path / "images.onnx")
    assert [output.name for output in first.get_outputs()] == ["embedding", "map", "visibility"]
    found = first.run(None, {first.get_inputs()[0].name: images})
    for value, expected in zip(found, (seen.embeddings, seen.maps, seen.visible), strict=True):
        np.testing.assert_allclose(value, expected.numpy(), atol=1e-5 * max(1, float(expected.abs().max())))
    torch.testing.assert_close(torch.from_numpy(found[0]), model.module(torch.from_numpy(images)), atol=1e-4, rtol=1e-4)
    second = onnxruntime.InferenceSession(tmp_path / "matcher.onnx")
    order = np.array([1, 2, 0])
    inputs = dict(zip(("map_a", "map_b", "visibility_a", "visibility_b"), _pairs(found, order), strict=True))
    scores = second.run(None, inputs)[0]
    expected = matching.scores(seen, seen[torch.from_numpy(order)])
    np.testing.assert_allclose(scores, expected.numpy(), atol=1e-5)
    assert made.parity.max_rel < 1e-5
    assert (made.images.path, made.matcher.path) == (tmp_path / "images.onnx", tmp_path / "matcher.onnx")
    assert (tmp_path / "matcher.onnx.manifest.json").is_file()
    kinds = {node.op_type for node in onnx.load(tmp_path / "images.onnx").graph.node}
    assert "BatchNormalization" not in kinds


def _pairs(found, order):
    _, maps, visible = found
    return maps, maps[order], visible, visible[order]


def test_files_that_are_there_are_kept(run, tmp_path):
    (tmp_path / "matcher.onnx").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"matcher\.onnx: already exists"):
        export_matching(run.run_dir, tmp_path / "images.onnx", tmp_path / "matcher.onnx")
    assert not (tmp_path / "images.onnx").exists()


def test_a_model_without_a_matcher_is_refused(tmp_path, config):
    with pytest.raises(InputError, match="run folder or a bundle"):
        export_matching("osnet_x0_25", tmp_path / "images.onnx", tmp_path / "matcher.onnx")
    plain = finetune(config, ["epochs=1", "steps_per_epoch=1", "evaluation=null", f"output={tmp_path}"], quiet=True)
    assert not has_matching(plain.last)
    with pytest.raises(InputError, match="has no matcher; train with a loss qaconv"):
        export_matching(plain.run_dir, tmp_path / "images.onnx", tmp_path / "matcher.onnx")


def test_a_damaged_matcher_is_named(run, tmp_path):
    model = load_model(run.last)
    copy = tmp_path / "copy.rtool"
    copy.mkdir()
    (copy / "matching.safetensors").write_bytes(b"no tensors")
    with pytest.raises(InputError, match=r"matching\.safetensors: damaged"):
        load_matching(copy, model.module, torch.zeros(2, 3, 32, 16))
