"""What a publish keeps of a configuration: every setting that was not given, edits, comments and order."""

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from google.protobuf import text_format
from onnx import TensorProto, helper, numpy_helper
from tritonclient.grpc import model_config_pb2

from rtool.cli import main
from rtool.errors import ConfigError, InputError
from rtool.serving import ServingSettings, deploy, deploy_packer, validate_repository
from rtool.serving.repository.config_text import edited_text
from rtool.serving.repository.model_config import parse_config

TUNED = ServingSettings(max_batch=32, max_delay=7, instances=2, threads=1, queue_timeout=200)


def parsed(path: Path) -> model_config_pb2.ModelConfig:
    return text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())


def settings_of(config: model_config_pb2.ModelConfig) -> dict[str, object]:
    policy = config.dynamic_batching.default_queue_policy
    return {
        "max_batch": config.max_batch_size,
        "max_delay": config.dynamic_batching.max_queue_delay_microseconds / 1000,
        "instances": config.instance_group[0].count,
        "threads": int(config.parameters["intra_op_thread_count"].string_value),
        "queue_timeout": policy.default_timeout_microseconds / 1000,
        "override": policy.allow_timeout_override,
    }


@pytest.fixture
def root(tmp_path: Path, onnx_files) -> Path:
    folder = tmp_path / "models"
    deploy(onnx_files["face"], name="m", repository=folder, device="cpu", settings=TUNED)
    return folder


@pytest.mark.parametrize(
    ("setting", "value"),
    [("max_batch", 8), ("max_delay", 5.0), ("instances", 3), ("threads", 4), ("queue_timeout", 50.0)],
)
def test_a_setting_that_is_given_changes_alone(root, onnx_files, setting, value):
    before = settings_of(parsed(root / "m/config.pbtxt"))
    deploy(onnx_files["face"], name="m", repository=root, settings=ServingSettings(**{setting: value}))
    assert settings_of(parsed(root / "m/config.pbtxt")) == before | {setting: value}
    assert validate_repository(root) == ()


def test_settings_survive_a_graph_with_another_contract(root, onnx_files, make_model, tmp_path):
    before = settings_of(parsed(root / "m/config.pbtxt"))
    other = make_model("reid", tmp_path / "open.onnx", batch="N")
    deploy(other, name="m", repository=root, new_contract=True)
    config = parsed(root / "m/config.pbtxt")
    assert settings_of(config) == before
    assert [entry.name for entry in config.input] == ["images"]
    deploy(onnx_files["reid"], name="m", repository=root, new_contract=True)
    config = parsed(root / "m/config.pbtxt")
    assert (config.max_batch_size, config.HasField("dynamic_batching")) == (0, False)
    assert config.instance_group[0].count == 2
    assert validate_repository(root) == ()


def without_digests(text: str) -> str:
    """A configuration without what it states of the files behind each version."""
    return re.sub(r'(key: "rtool.sha256"\s*value \{\s*string_value: )".*"', r"\1", text)


def test_comments_order_and_unknown_edits_survive(root, onnx_files):
    path = root / "m/config.pbtxt"
    text = "# tuned by Ann after the incident of May\n" + path.read_text().replace(
        "max_queue_delay_microseconds: 7000", "max_queue_delay_microseconds: 9000  # was 7\n  preserve_ordering: true"
    )
    text += (
        '\nresponse_cache { enable: true }  # "quoted" { brace\nmodel_operations { op_library_filename: ["a#b.so"] }\n'
    )
    path.write_text(text)
    deploy(onnx_files["face"], name="m", repository=root)
    assert without_digests(path.read_text()) == without_digests(text.replace("versions: [1]", "versions: [2]"))
    deploy(onnx_files["face"], name="m", repository=root, settings=ServingSettings(instances=4))
    after = path.read_text()
    assert "# tuned by Ann" in after
    assert "# was 7" in after
    assert '# "quoted" { brace' in after
    assert parsed(path).instance_group[0].count == 4
    assert parsed(path).dynamic_batching.preserve_ordering
    assert parsed(path).response_cache.enable


@pytest.mark.parametrize(
    "text",
    [
        "# c\nname: 'm' max_batch_size: 4, input { name: 'a' dims: [1, 2] } # d\ninput < name: 'b' >\nbackend: 'x' 'y'",
        'backend: "x";name:"m"\n\n# tail',
        'name: "m"\nversion_policy: { specific: { versions: [ 3, 4 ] } }  # why 3\nmax_batch_size:4',
    ],
)
def test_single_fields_are_edited_in_any_layout(text):
    place = Path("config.pbtxt")
    wanted = parse_config(text, place)
    wanted.max_batch_size = 9
    wanted.version_policy.specific.versions[:] = [7]
    wanted.parameters["k"].string_value = "v"
    edited = edited_text(text, wanted, place)
    assert edited is not None
    assert parse_config(edited, place) == wanted
    assert all(comment in edited for comment in ("# c", "# d", "# tail", "# why 3") if comment in text)
    assert edited_text(text, parse_config(text, place), place).strip() == text.strip()


def test_comments_inside_blocks_that_change_survive(root, onnx_files):
    path = root / "m/config.pbtxt"
    text = path.read_text().replace("dynamic_batching {", "dynamic_batching {  # for the gate\n  # was 3 in May")
    text = text.replace("instance_group {", "instance_group {  # two cores")
    text += 'parameters { key: "mine"  # Ann\n value { string_value: "x # no comment" } }\n'
    path.write_text(text)
    settings = ServingSettings(max_delay=5, instances=3, threads=2)
    result = deploy(onnx_files["face"], name="m", repository=root, settings=settings)
    after, config = path.read_text(), parsed(path)
    for comment in ("# for the gate", "# was 3 in May", "# two cores", "# Ann"):
        assert comment in after
    assert config.dynamic_batching.max_queue_delay_microseconds == 5000
    assert config.instance_group[0].count == 3
    assert config.parameters["intra_op_thread_count"].string_value == "2"
    assert config.parameters["mine"].string_value == "x # no comment"
    assert not any("comment could not be kept" in note for note in result.notes)


def test_a_comment_that_is_lost_is_said(root, onnx_files):
    path = root / "m/config.pbtxt"
    path.write_text(re.sub(r"instance_group \{([^}]*)\}", r"instance_group [{  # one\1}]", path.read_text()))
    result = deploy(onnx_files["face"], name="m", repository=root, settings=ServingSettings(instances=3))
    assert parsed(path).instance_group[0].count == 3
    assert any("a comment is lost, because its field was rewritten: config.pbtxt: # one" in n for n in result.notes)


@pytest.mark.parametrize(
    ("name", "value"), [("max_batch", 10**11), ("instances", 10**11), ("max_delay", float("inf")), ("threads", 10**6)]
)
def test_settings_beyond_what_a_field_holds_are_refused(name, value):
    with pytest.raises(ConfigError, match=f"serving setting {name}: expected at most"):
        ServingSettings(**{name: value})


@pytest.mark.parametrize("options", [["--queue-timeout", "9"], ["--max-batch", "8"], ["--max-delay", "0"]])
def test_settings_of_a_dynamic_batch_are_refused_for_a_fixed_one(tmp_path, onnx_files, options, capsys):
    root = tmp_path / "fixed"
    command = ["deploy", str(onnx_files["reid"]), "--name", "m", "--repository", str(root), "--device", "cpu"]
    assert main.run([*command, *options]) == 2
    assert f"{options[0]} set how a dynamic batch is formed" in capsys.readouterr().err
    assert not (root / "m").exists()


def test_threads_are_refused_on_a_gpu(tmp_path, onnx_files):
    with pytest.raises(InputError, match="--threads sets threads on the CPU"):
        deploy(onnx_files["face"], name="m", repository=tmp_path, device="gpu", settings=ServingSettings(threads=2))


def test_a_float16_model_is_served_without_the_optimisations_that_end_the_process(tmp_path):
    weight = np.random.default_rng(0).standard_normal((8, 6)).astype(np.float16)
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        helper.make_node("MatMul", ["t", "w"], ["m"]),
        helper.make_node("Transpose", ["m"], ["y"], perm=[1, 0, 2]),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT16, ["N", 5, size]) for name, size in (("x", 8), ("y", 6))
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [numpy_helper.from_array(weight, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(model, tmp_path / "m.onnx")
    deploy(tmp_path / "m.onnx", name="m", repository=tmp_path / "models", device="cpu", force=True)
    folder = tmp_path / "models" / "m"
    assert parsed(folder / "config.pbtxt").optimization.graph.level == 1
    assert parsed(folder / "configs" / "gpu.pbtxt").optimization.graph.level == 0


def test_a_count_of_several_instance_groups_is_not_guessed(root, onnx_files):
    path = root / "m/config.pbtxt"
    path.write_text(path.read_text() + "instance_group { kind: KIND_CPU count: 3 }\n")
    with pytest.raises(ConfigError, match=r"the configuration has 2; edit config\.pbtxt"):
        deploy(onnx_files["face"], name="m", repository=root, settings=ServingSettings(instances=4))


def test_a_packer_keeps_its_settings_too(tmp_path, onnx_files):
    root = tmp_path / "packed"
    deploy(onnx_files["reid"], name="target", repository=root, device="cpu")
    deploy_packer("target", name="front", repository=root, max_delay=9, instances=4)
    path = root / "front/config.pbtxt"
    path.write_text(path.read_text() + "# ours\n")
    deploy_packer("target", name="front", repository=root, instances=5)
    config = parsed(path)
    assert config.dynamic_batching.max_queue_delay_microseconds == 9000
    assert config.instance_group[0].count == 5
    assert "# ours" in path.read_text()


OTHERS = [
    ["--batch", "16"],
    ["--device", "cpu"],
    ["--also-serve", "1"],
    ["--warmup", "x.npy"],
    ["--keep", "2"],
    ["--keep-metadata"],
    ["--force"],
    ["--threads", "1"],
    ["--queue-timeout", "5"],
]


@pytest.mark.parametrize("option", [*OTHERS, ["--url", "127.0.0.1:1"]])
def test_options_without_effect_on_a_packer_are_refused(tmp_path, option, capsys):
    command = ["deploy", "--packer-for", "m", "--name", "p", "--repository", str(tmp_path), *option]
    assert main.run(command) == 2
    assert f"{option[0]} would have no effect with --packer-for" in capsys.readouterr().err


@pytest.mark.parametrize("option", [*OTHERS, ["--max-delay", "3"], ["--instances", "2"], ["--packer-for", "t"]])
def test_options_without_effect_on_a_rollback_are_refused(tmp_path, option, capsys):
    assert main.run(["deploy", "--rollback", "--name", "p", "--repository", str(tmp_path), *option]) == 2
    assert f"{option[0]} would have no effect with --rollback" in capsys.readouterr().err
