"""Publishing: what a version holds afterwards, and what is refused and leaves nothing behind."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest

from rtool.errors import InputError
from rtool.serving import deploy, deploy_packer, validate_repository

from .repository_files import parsed, tree


def test_the_manifest_describes_what_was_published(root, onnx_files):
    result = deploy(onnx_files["reid"], name="osnet", repository=root, device="cpu", provenance={"run": "r1"})
    manifest = json.loads((result.path / "manifest.json").read_text())
    assert manifest["sha256"] == result.sha256
    assert manifest["batch"] == 16
    assert manifest["inputs"] == [{"name": "images", "data_type": "TYPE_FP32", "shape": [16, 3, 8, 4]}]
    assert manifest["provenance"] == {"run": "r1"}
    assert (result.path / "model.onnx").read_bytes() == onnx_files["reid"].read_bytes()


def traced(source, path):
    """The model as dynamo exports it: with the file paths of whoever exported it in its nodes."""
    model = onnx.load(source)
    for node in model.graph.node:
        node.metadata_props.add(key="pkg.torch.onnx.stack_trace", value="/home/somebody/secret/train.py, line 3")
        node.doc_string = "/home/somebody/secret/model.py"
    onnx.helper.set_model_props(model, {"rtool.source": "r1"})
    onnx.save(model, path)
    return path


def test_exporters_traces_are_not_published_unless_asked_for(root, onnx_files, tmp_path, run_local, exported):
    model = exported(traced(onnx_files["reid"], tmp_path / "model.onnx"))
    result = deploy(model, name="m", repository=root, device="cpu")
    published = result.path / "model.onnx"
    assert b"/home/somebody" in model.read_bytes()
    assert b"/home/somebody" not in published.read_bytes()
    assert any("traces were removed" in note for note in result.notes)
    manifest = json.loads((result.path / "manifest.json").read_text())
    assert manifest["sha256"] == result.sha256 == hashlib.sha256(published.read_bytes()).hexdigest()
    assert manifest["given_sha256"] == hashlib.sha256(model.read_bytes()).hexdigest()
    assert manifest["stated"] == {"source": "r1"}
    assert str(model) in manifest["command"]
    crops = np.random.default_rng(0).normal(size=(16, 3, 8, 4)).astype(np.float32)
    assert np.array_equal(run_local(published, crops)[0], run_local(model, crops)[0])
    assert not validate_repository(root)
    kept = deploy(model, name="m", repository=root, device="cpu", keep_metadata=True)
    assert (kept.path / "model.onnx").read_bytes() == model.read_bytes()
    assert not any("traces" in note for note in kept.notes)


def test_what_the_export_stated_in_the_file_reaches_the_manifest(root, onnx_files, tmp_path):
    model = onnx.load(onnx_files["reid"])
    onnx.helper.set_model_props(model, {"rtool.preprocessing": '{"mean": [0]}', "rtool.source": "r1", "other": "x"})
    onnx.save(model, tmp_path / "stated.onnx")
    result = deploy(tmp_path / "stated.onnx", name="m", repository=root, device="cpu", force=True)
    stated = json.loads((result.path / "manifest.json").read_text())["stated"]
    assert stated == {"preprocessing": {"mean": [0]}, "source": "r1"}


def test_a_second_publish_serves_version_2_and_keeps_version_1(root, onnx_files):
    deploy(onnx_files["reid"], name="m", repository=root, device="cpu")
    result = deploy(onnx_files["reid"], name="m", repository=root)
    assert (result.version, result.previous, result.served) == (2, 1, (2,))
    assert (root / "m/1/model.onnx").is_file()
    assert validate_repository(root) == ()


@pytest.mark.parametrize(
    "name", ["", "..", "../up", "a/b", "/abs", "with space", "4.tmp", "1", "-x", "é", "a" * 129, "dot.", "a\n"]
)
def test_names_that_cannot_be_folders_or_urls_are_refused(root, onnx_files, name):
    with pytest.raises(InputError, match="model name"):
        deploy(onnx_files["reid"], name=name, repository=root)
    assert not root.exists()


@pytest.mark.parametrize(("kind", "batch"), [("reid", 8), ("reid", "dynamic"), ("face", 16)])
def test_a_graph_with_another_batch_is_refused_with_the_way_out(root, onnx_files, kind, batch):
    with pytest.raises(InputError, match=f"rtool export .* --batch {batch}"):
        deploy(onnx_files[kind], name="m", repository=root, batch=batch)
    assert not root.exists()


@pytest.mark.parametrize(
    ("precision", "command"),
    [
        ("fp16", r"rtool export reid\.rtool --fp16 --batch 8"),
        ("int8", r"rtool export reid\.rtool --int8 --calibrate IMAGES --batch 8"),
    ],
)
def test_a_graph_of_reduced_precision_with_another_batch_is_to_be_exported_from_its_origin(
    root, onnx_files, tmp_path, precision, command
):
    model = onnx.load(onnx_files["reid"])
    stated = {"rtool.model": "reid.rtool", "rtool.steps": json.dumps([{"name": "write-back"}, {"name": precision}])}
    onnx.helper.set_model_props(model, stated)
    onnx.save(model, tmp_path / "reduced.onnx")
    with pytest.raises(InputError, match=command):
        deploy(tmp_path / "reduced.onnx", name="m", repository=root, batch=8)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty file"),
        (b"<!doctype html><html></html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs"),
        (b"\x08\x07\x12", "ONNX model"),
    ],
)
def test_files_that_are_not_models_leave_nothing_behind(root, tmp_path, content, said):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(InputError, match=said):
        deploy(path, name="m", repository=root)
    assert not root.exists()


def test_a_placeholder_is_filled_and_its_committed_manifest_kept(root, onnx_files):
    result = deploy(onnx_files["reid"], name="m", repository=root, device="cpu")
    manifest = (result.path / "manifest.json").read_bytes()
    (result.path / "model.onnx").unlink()
    again = deploy(onnx_files["reid"], name="m", repository=root)
    assert (again.version, again.previous) == (1, None)
    assert (result.path / "manifest.json").read_bytes() == manifest
    assert validate_repository(root) == ()


def test_publishers_of_one_model_take_turns(root, onnx_files):
    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(deploy, onnx_files["reid"], name="m", repository=root, device="cpu") for _ in range(8)]
        versions = sorted(job.result().version for job in jobs)
    assert versions == list(range(1, 9))
    assert list(parsed(root / "m/config.pbtxt").version_policy.specific.versions) == [8]
    assert validate_repository(root) == ()
    assert not root.with_name(".models.rtool-staging").exists()


def test_weights_in_other_files_are_refused(root, onnx_files, tmp_path):
    model = onnx.load(onnx_files["reid"])
    onnx.save(model, tmp_path / "split.onnx", save_as_external_data=True, location="split.data", size_threshold=0)
    with pytest.raises(InputError, match=r"split\.data.*save it whole"):
        deploy(tmp_path / "split.onnx", name="m", repository=root)
    assert not root.exists()


def test_a_mounted_volume_is_refused_with_the_way_out(onnx_files):
    with pytest.raises(InputError, match=r"publish into a folder below it, e\.g\. --repository /dev/shm/models"):
        deploy(onnx_files["reid"], name="m", repository="/dev/shm")


def test_a_python_model_of_the_same_name_is_not_served_with_onnx_weights(root, onnx_files):
    deploy(onnx_files["reid"], name="target", repository=root, device="cpu")
    deploy_packer("target", name="m", repository=root)
    with pytest.raises(InputError, match="rows of a request: served any number of rows, new 16 rows"):
        deploy(onnx_files["reid"], name="m", repository=root, device="cpu")
    result = deploy(onnx_files["reid"], name="m", repository=root, device="cpu", new_contract=True)
    assert parsed(result.config).backend == "onnxruntime"
    assert validate_repository(root) == ()


def test_a_file_that_is_replaced_while_it_is_published_is_refused(root, onnx_files, tmp_path, monkeypatch):
    from rtool.serving.publishing import publishing

    path = tmp_path / "model.onnx"
    path.write_bytes(onnx_files["reid"].read_bytes())
    original = publishing.read_signature

    def read_and_replace(model, examples):
        signature = original(model, examples)
        edited = onnx.load(path)
        edited.producer_name = "another"
        onnx.save(edited, path)
        return signature

    monkeypatch.setattr(publishing, "read_signature", read_and_replace)
    with pytest.raises(InputError, match="changed while"):
        deploy(path, name="osnet", repository=root, batch=16, device="cpu", force=True)
    assert tree(root) <= {".rtool.lock"}
