"""The configuration and the warm-up that a publish writes, and what it keeps of those before."""

import json

import numpy as np
import onnx
import pytest
from tritonclient.grpc import model_config_pb2

from rtool.converters import Preprocessing
from rtool.errors import ConfigError
from rtool.serving import ServingSettings, deploy, deploy_packer, validate_repository
from rtool.serving.repository.model_config import read_config

from .repository_files import parsed, tree


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


@pytest.mark.parametrize("kind", ["reid", "face"])
def test_a_new_model_gets_what_was_measured_to_cost_least_per_row(root, onnx_files, kind):
    """One thread per instance, and on a CPU no waiting and no batch beyond 16 rows."""
    folder = deploy(onnx_files[kind], name="m", repository=root, device="cpu").config.parent
    cpu, gpu = (parsed(folder / f"configs/{device}.pbtxt") for device in ("cpu", "gpu"))
    assert cpu.parameters["intra_op_thread_count"].string_value == "1"
    assert "intra_op_thread_count" not in gpu.parameters
    if kind == "face":
        batching = [(config.max_batch_size, config.dynamic_batching) for config in (cpu, gpu)]
        assert [(rows, of.max_queue_delay_microseconds) for rows, of in batching] == [(16, 0), (64, 2000)]
        assert all(config.HasField("dynamic_batching") for config in (cpu, gpu))


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


def test_hand_edits_survive_a_publish_of_the_same_graph(root, onnx_files):
    first = deploy(onnx_files["face"], name="m", repository=root, device="cpu")
    text = first.config.read_text().replace(
        "dynamic_batching {", "dynamic_batching {\n  max_queue_delay_microseconds: 777"
    )
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


def test_an_older_version_whose_file_was_changed_is_not_served_beside_the_new_one(root, onnx_files, make_model):
    deploy(onnx_files["reid"], name="m", repository=root)
    make_model("reid", root / "m/1/model.onnx", seed=5)
    with pytest.raises(ConfigError, match=r"version 1 cannot be served too: model\.onnx is not the file that was pub"):
        deploy(onnx_files["reid"], name="m", repository=root, also_serve=[1])
    assert [path.name for path in sorted(root.glob("m/[0-9]"))] == ["1"]


def test_a_broken_configuration_that_is_there_is_reported_not_overwritten(root, onnx_files):
    result = deploy(onnx_files["reid"], name="m", repository=root, device="cpu")
    result.config.write_text("max_bach_size: 3\n")
    with pytest.raises(ConfigError, match=r"config\.pbtxt:1:1"):
        deploy(onnx_files["reid"], name="m", repository=root)
    assert result.config.read_text() == "max_bach_size: 3\n"


def test_settings_no_server_can_honour_are_refused():
    with pytest.raises(ConfigError, match="instances: expected at least 1, got 0"):
        ServingSettings(instances=0)


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
