"""Edits of the main configuration reach the others, device by device; TensorRT gets profiles and its own cache."""

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from rtool.serving import ServingSettings, deploy, validate_repository
from rtool.serving.repository.signatures.reading import read_signature

KINDS = model_config_pb2.ModelInstanceGroup


def read(path):
    return text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())


def variants(folder):
    return {name: read(folder / f"configs/{name}.pbtxt") for name in ("cpu", "gpu", "trt")}


@pytest.fixture
def root(tmp_path):
    return tmp_path / "models"


def test_an_edit_of_the_main_configuration_reaches_the_others_and_nothing_of_a_device_does(root, onnx_files):
    folder = deploy(onnx_files["face"], name="m", repository=root, device="cpu").config.parent
    main = folder / "config.pbtxt"
    edited = main.read_text().replace("dynamic_batching {", "dynamic_batching {\n  max_queue_delay_microseconds: 777")
    edited = edited.replace("count: 1", "count: 3").replace('string_value: "1"', 'string_value: "2"')
    edited += 'parameters { key: "mine" value { string_value: "kept" } }\n# by hand\n'
    main.write_text(edited)
    deploy(onnx_files["face"], name="m", repository=root)
    for name, config in variants(folder).items():
        assert config.dynamic_batching.max_queue_delay_microseconds == 777
        assert config.instance_group[0].count == 3
        assert config.instance_group[0].kind == (KINDS.KIND_CPU if name == "cpu" else KINDS.KIND_GPU)
        assert config.parameters["mine"].string_value == "kept"
        assert ("intra_op_thread_count" in config.parameters) == (name == "cpu")
        assert config.max_batch_size == (16 if name == "cpu" else 64)  # not edited
    assert read(main).parameters["intra_op_thread_count"].string_value == "2"
    assert validate_repository(root) == ()


def test_an_edit_of_another_configuration_stays_where_it_is(root, onnx_files):
    folder = deploy(onnx_files["face"], name="m", repository=root, device="cpu").config.parent
    gpu = folder / "configs/gpu.pbtxt"
    gpu.write_text(gpu.read_text().replace("max_batch_size: 64", "max_batch_size: 32"))
    deploy(onnx_files["face"], name="m", repository=root)
    assert read(gpu).max_batch_size == 32
    assert read(folder / "config.pbtxt").max_batch_size == 16


def test_a_flag_wins_over_an_edit(root, onnx_files):
    folder = deploy(onnx_files["reid"], name="m", repository=root, device="cpu").config.parent
    main = folder / "config.pbtxt"
    main.write_text(main.read_text().replace("count: 1", "count: 3"))
    deploy(onnx_files["reid"], name="m", repository=root, settings=ServingSettings(instances=2))
    assert [config.instance_group[0].count for config in variants(folder).values()] == [2, 2, 2]


@pytest.mark.parametrize("kind", ["reid", "face"])
def test_tensorrt_has_a_cache_per_model_and_a_profile_for_an_open_batch(root, onnx_files, make_model, tmp_path, kind):
    folder = deploy(onnx_files[kind], name="m", repository=root, device="cpu").config.parent
    (first,) = variants(folder)["trt"].optimization.execution_accelerators.gpu_execution_accelerator
    assert first.name == "tensorrt"
    assert first.parameters["precision_mode"] == "FP32"
    assert first.parameters["trt_engine_cache_enable"] == "true"
    assert first.parameters["trt_engine_cache_path"].endswith(read_signature(onnx_files[kind]).sha256[:16])
    shapes = {key: value for key, value in first.parameters.items() if key.startswith("trt_profile")}
    assert shapes == (
        {}
        if kind == "reid"
        else {
            "trt_profile_min_shapes": "faces:1x6x6x3",
            "trt_profile_opt_shapes": "faces:64x6x6x3",
            "trt_profile_max_shapes": "faces:64x6x6x3",
        }
    )
    trt = folder / "configs/trt.pbtxt"
    trt.write_text(trt.read_text().replace('"FP32"', '"FP16"'))
    deploy(make_model(kind, tmp_path / "next.onnx", seed=9), name="m", repository=root)
    (second,) = variants(folder)["trt"].optimization.execution_accelerators.gpu_execution_accelerator
    assert second.parameters["precision_mode"] == "FP16"
    assert second.parameters["trt_engine_cache_path"] != first.parameters["trt_engine_cache_path"]
    for name in ("cpu", "gpu"):
        assert not variants(folder)[name].HasField("optimization")
    assert validate_repository(root, config_name="trt") == ()
