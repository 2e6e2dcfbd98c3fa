"""Publishing: what a repository holds afterwards, what is refused, and how to go back."""

import errno
import hashlib
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from rtool.converters import Preprocessing
from rtool.errors import ConfigError, InputError
from rtool.serving import ServingSettings, deploy, deploy_packer, rollback, validate_repository
from rtool.serving.repository.model_config import read_config


def parsed(path: Path) -> model_config_pb2.ModelConfig:
    return text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")} if folder.exists() else set()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "models"


def test_a_fixed_batch_is_configured_with_max_batch_size_zero(root, onnx_files):
    result = deploy(onnx_files["reid"], name="osnet", repository=root, batch=16, device="cpu")
    config = parsed(result.config)
    assert config.max_batch_size == 0
    assert list(config.input[0].dims) == [16, 3, 8, 4]
    assert list(config.output[0].dims) == [16, 8]
    assert not config.HasField("dynamic_batching")
    assert [(sample.batch_size, list(sample.inputs["images"].dims)) for sample in config.model_warmup] == [
        (1, [16, 3, 8, 4])
    ]


def test_a_dynamic_batch_is_configured_with_dynamic_batching(root, onnx_files):
    settings = ServingSettings(max_batch=32, max_delay=1.5, queue_timeout=200)
    result = deploy(
        onnx_files["face"], name="arcface", repository=root, batch="dynamic", device="cpu", settings=settings
    )
    config = parsed(result.config)
    assert config.max_batch_size == 32
    assert list(config.input[0].dims) == [6, 6, 3]
    assert config.dynamic_batching.max_queue_delay_microseconds == 1500
    assert config.dynamic_batching.default_queue_policy.default_timeout_microseconds == 200_000
    assert [sample.batch_size for sample in config.model_warmup] == [1, 32]


def test_each_model_has_a_configuration_for_cpu_and_for_gpu(root, onnx_files):
    result = deploy(onnx_files["reid"], name="osnet", repository=root, device="gpu")
    kinds = model_config_pb2.ModelInstanceGroup
    folder = result.config.parent
    assert parsed(result.config).instance_group[0].kind == kinds.KIND_GPU
    assert parsed(folder / "configs/gpu.pbtxt").parameters["cudnn_conv_algo_search"].string_value == "0"
    cpu = parsed(folder / "configs/cpu.pbtxt")
    assert cpu.instance_group[0].kind == kinds.KIND_CPU
    assert "cudnn_conv_algo_search" not in cpu.parameters


def test_cores_are_shared_among_the_instances(root, onnx_files, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    result = deploy(onnx_files["reid"], name="m", repository=root, device="cpu", settings=ServingSettings(instances=3))
    assert parsed(result.config).parameters["intra_op_thread_count"].string_value == "2"


def test_warm_up_bytes_are_finite_numbers_of_the_right_size(root, onnx_files):
    result = deploy(onnx_files["reid"], name="m", repository=root, device="cpu")
    (file,) = (result.config.parent / "warmup").iterdir()
    array = np.frombuffer(file.read_bytes(), np.float32)
    assert array.size == 16 * 3 * 8 * 4
    assert np.isfinite(array).all()
    assert array.std() > 0.1


def test_given_examples_become_the_warm_up(root, onnx_files, tmp_path):
    crops = np.random.default_rng(0).normal(size=(20, 3, 8, 4)).astype(np.float32)
    np.save(tmp_path / "crops.npy", crops)
    result = deploy(onnx_files["reid"], name="m", repository=root, device="cpu", warmup=tmp_path / "crops.npy")
    (file,) = (result.config.parent / "warmup").iterdir()
    assert file.read_bytes() == crops[:16].tobytes()


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


def test_hand_edits_survive_a_publish_of_the_same_graph(root, onnx_files):
    first = deploy(onnx_files["face"], name="m", repository=root, device="cpu")
    text = first.config.read_text().replace("max_queue_delay_microseconds: 2000", "max_queue_delay_microseconds: 777")
    first.config.write_text(text)
    deploy(onnx_files["face"], name="m", repository=root)
    config = parsed(first.config)
    assert config.dynamic_batching.max_queue_delay_microseconds == 777
    assert list(config.version_policy.specific.versions) == [2]


def test_a_graph_with_other_outputs_gets_a_new_configuration(root, onnx_files, make_model, tmp_path):
    deploy(onnx_files["reid"], name="m", repository=root, device="cpu")
    wider = make_model("reid", tmp_path / "wider.onnx", features=11)
    result = deploy(wider, name="m", repository=root, device="cpu", new_contract=True)
    assert list(parsed(result.config).output[0].dims) == [16, 11]
    assert validate_repository(root) == ()


def test_an_older_version_is_served_beside_the_new_one_when_asked(root, onnx_files):
    deploy(onnx_files["reid"], name="m", repository=root, device="cpu")
    result = deploy(onnx_files["reid"], name="m", repository=root, also_serve=[1])
    assert list(parsed(result.config).version_policy.specific.versions) == [1, 2]


def test_versions_of_different_graphs_are_not_served_together(root, onnx_files, make_model, tmp_path):
    deploy(onnx_files["reid"], name="m", repository=root, device="cpu")
    before = tree(root)
    wider = make_model("reid", tmp_path / "wider.onnx", features=11)
    with pytest.raises(ConfigError, match="version 1 cannot be served too"):
        deploy(wider, name="m", repository=root, also_serve=[1])
    assert tree(root) == before


def test_rollback_serves_the_previous_version_with_its_configuration(root, onnx_files, make_model, tmp_path):
    first = deploy(onnx_files["reid"], name="m", repository=root, device="cpu")
    text = first.config.read_text()
    modified = first.config.stat().st_mtime_ns
    deploy(make_model("reid", tmp_path / "wider.onnx", features=11), name="m", repository=root, new_contract=True)
    result = rollback("m", repository=root)
    assert (result.version, result.previous, result.served) == (1, 2, (1,))
    assert first.config.read_text() == text
    assert first.config.stat().st_mtime_ns > modified  # Triton reloads only what is newer
    assert validate_repository(root) == ()


def test_the_configuration_is_newer_than_files_from_the_future(root, onnx_files):
    deploy(onnx_files["reid"], name="m", repository=root, device="cpu")
    future = time.time() + 3600
    os.utime(root / "m/1/model.onnx", (future, future))
    result = deploy(onnx_files["reid"], name="m", repository=root)
    assert result.config.stat().st_mtime > future
    assert rollback("m", repository=root).config.stat().st_mtime > future


def test_rollback_can_be_undone_and_the_next_publish_takes_a_new_number(root, onnx_files):
    for _ in range(2):
        deploy(onnx_files["reid"], name="m", repository=root, device="cpu")
    rollback("m", repository=root)
    assert rollback("m", repository=root, to=2).served == (2,)
    rollback("m", repository=root, to=1)
    assert deploy(onnx_files["reid"], name="m", repository=root).version == 3


def test_rollback_without_a_predecessor_is_refused(root, onnx_files):
    deploy(onnx_files["reid"], name="m", repository=root, device="cpu")
    with pytest.raises(InputError, match="no predecessor"):
        rollback("m", repository=root)
    with pytest.raises(InputError, match="no published model"):
        rollback("other", repository=root)


def test_old_versions_go_when_asked_and_a_rollback_stays_possible(root, onnx_files, make_model, tmp_path):
    deploy(onnx_files["face"], name="m", repository=root, device="cpu")  # other warm-up than those that follow
    for _ in range(3):
        deploy(onnx_files["reid"], name="m", repository=root, device="cpu", new_contract=True)
    result = deploy(onnx_files["reid"], name="m", repository=root, keep=2)
    assert sorted(path.name for path in (root / "m").iterdir() if path.name.isdigit()) == ["4", "5"]
    assert len(list((root / "m/warmup").iterdir())) == 1
    assert result.notes == ("removed version 1, 2, 3",)
    assert rollback("m", repository=root).served == (4,)
    deploy(onnx_files["reid"], name="m", repository=root, keep=2)  # version 6; 4 served until now
    assert rollback("m", repository=root).served == (4,)
    assert validate_repository(root) == ()
    with pytest.raises(InputError, match="at least 2"):
        deploy(onnx_files["reid"], name="m", repository=root, keep=1)


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


def test_a_broken_configuration_that_is_there_is_reported_not_overwritten(root, onnx_files):
    result = deploy(onnx_files["reid"], name="m", repository=root, device="cpu")
    result.config.write_text("max_bach_size: 3\n")
    with pytest.raises(ConfigError, match=r"config\.pbtxt:1:1"):
        deploy(onnx_files["reid"], name="m", repository=root)
    assert result.config.read_text() == "max_bach_size: 3\n"


def test_settings_no_server_can_honour_are_refused():
    with pytest.raises(ConfigError, match="instances: expected at least 1, got 0"):
        ServingSettings(instances=0)


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


def test_a_full_disk_is_one_message_and_changes_nothing(root, onnx_files, monkeypatch):
    deploy(onnx_files["reid"], name="m", repository=root, device="cpu")
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "model.onnx")

    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(InputError, match=r"model\.onnx: cannot be written \(No space left on device\)"):
        deploy(onnx_files["face"], name="m", repository=root, new_contract=True)
    for path, content in before.items():
        assert path.read_bytes() == content
    assert not root.with_name(".models.rtool-staging").exists()


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

    def read_and_replace(model):
        signature = original(model)
        edited = onnx.load(path)
        edited.producer_name = "another"
        onnx.save(edited, path)
        return signature

    monkeypatch.setattr(publishing, "read_signature", read_and_replace)
    with pytest.raises(InputError, match="changed while"):
        deploy(path, name="osnet", repository=root, batch=16, device="cpu", force=True)
    assert tree(root) <= {".rtool.lock"}


STATED = Preprocessing(8, 4, (127.5,) * 3, (127.5,) * 3, "bgr")


@pytest.fixture
def stating(onnx_files, tmp_path, exported):
    """A model that states its preprocessing."""
    model = onnx.load(onnx_files["reid"])
    onnx.helper.set_model_props(model, {"rtool.preprocessing": json.dumps(STATED.to_dict())})
    onnx.save(model, tmp_path / "stating.onnx")
    return exported(tmp_path / "stating.onnx")


def served_statement(config_path):
    parameters = read_config(config_path).parameters
    if "rtool.preprocessing" not in parameters:
        return None
    return Preprocessing.from_dict(json.loads(parameters["rtool.preprocessing"].string_value))


def test_the_configuration_states_the_preprocessing_of_the_file(root, stating):
    result = deploy(stating, name="m", repository=root, device="cpu")
    for path in (result.config, *sorted((root / "m/configs").glob("*.pbtxt"))):
        assert served_statement(path) == STATED
    manifest = json.loads((result.path / "manifest.json").read_text())
    assert Preprocessing.from_dict(manifest["preprocessing"]) == STATED
    assert manifest["preprocessing_origin"] == "stated in the file"
    assert result.preprocessing.endswith("(stated in the file)")
    assert not validate_repository(root)
    packer = deploy_packer("m", name="packed", repository=root)
    assert served_statement(packer.config) == STATED


def test_a_guess_is_never_served_as_a_statement(root, onnx_files):
    result = deploy(onnx_files["reid"], name="m", repository=root, device="cpu")
    assert served_statement(result.config) is None
    assert "guessed from the size" in result.preprocessing
    assert "--preprocessing" in result.preprocessing
    told = deploy(onnx_files["reid"], name="m", repository=root, preprocessing="arcface-bgr")
    assert served_statement(told.config) == STATED
    again = deploy(onnx_files["reid"], name="m", repository=root)
    assert served_statement(again.config) == STATED
