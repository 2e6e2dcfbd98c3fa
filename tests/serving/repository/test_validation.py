"""The offline check finds what a server would refuse, silently ignore, or get wrong; all of it at once."""

from pathlib import Path

import pytest

from rtool.errors import InputError
from rtool.serving import TritonServer, deploy, validate_model, validate_repository
from rtool.serving.repository.validation import placeholders, servable_models


@pytest.fixture
def root(tmp_path: Path, onnx_files) -> Path:
    folder = tmp_path / "models"
    deploy(onnx_files["reid"], name="reid", repository=folder, device="cpu")
    deploy(onnx_files["face"], name="face", repository=folder, device="cpu")
    return folder


def edit(root: Path, model: str, old: str, new: str) -> None:
    path = root / model / "config.pbtxt"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def problems(root: Path, model: str) -> str:
    return "\n".join(str(problem) for problem in validate_model(root / model))


def test_a_published_repository_has_no_problems(root):
    assert validate_repository(root) == ()
    assert validate_repository(root, config_name="gpu") == ()


@pytest.mark.parametrize(
    ("model", "old", "new", "said"),
    [
        ("reid", "max_batch_size: 0", "max_bach_size: 0", "config.pbtxt:"),  # a typo: with line and column
        ("reid", "TYPE_FP32", "TYPE_FLOAT32", "TYPE_FLOAT32"),  # a bad enumeration value
        ("reid", 'name: "reid"', 'name: "raid"', "name: expected 'reid'"),
        ("reid", 'name: "images"', 'name: "image"', "did you mean images?"),
        ("reid", "TYPE_FP32", "TYPE_FP16", "data_type expected TYPE_FP32, got TYPE_FP16"),
        ("reid", "8, 4]", "8, 5]", "dims expected [16, 3, 8, 4], got [16, 3, 8, 5]"),
        ("reid", "[16, 8]\n}", "[16, -1]\n}", "dims expected [16, 8], got [16, -1]"),
        (
            "reid",
            "max_batch_size: 0",
            "max_batch_size: 16",
            "needs a dynamic batch axis, the graph has a fixed batch of 16",
        ),
        ("reid", 'backend: "onnxruntime"', 'backend: "onnxruntime" dynamic_batching {}', "never batches"),
        ("reid", 'backend: "onnxruntime"', 'backend: "onnxruntime" platform: "tensorrt_plan"', "does not belong"),
        ("reid", 'backend: "onnxruntime"', "", "backend: missing"),
        ("reid", "count: 1", "count: 0", "count must be at least 1"),
        ("reid", "versions: [1]", "versions: [7]", "version 7 has no folder (found: 1)"),
        ("reid", "batch_size: 1", "batch_size: 0", "silently skipped"),
        ("reid", "batch_size: 1", "batch_size: 2", "batch_size 2 exceeds 1"),
        (
            "reid",
            'backend: "on',
            'parameters { key: "intra_op_thread_cnt" value {} } backend: "on',
            "ignores the unknown",
        ),
        ("face", "max_batch_size: 16", "max_batch_size: -1", "max_batch_size: expected 0 or more"),
        ("face", "6, 3]", "6, -1]", "dims expected [6, 6, 3], got [6, 6, -1]"),
        ("face", "dynamic_batching {", "dynamic_batching { preferred_batch_size: 128", "exceeds max_batch_size 16"),
        ("face", "dynamic_batching {", "dynamic_batching { preferred_batch_size: 8", "issue 8141"),
        ("face", 'key: "faces"', 'key: "face"', "unknown input 'face'"),
    ],
)
def test_a_wrong_line_is_found_before_the_server_sees_it(root, model, old, new, said):
    edit(root, model, old, new)
    assert said in problems(root, model)


def test_a_parse_error_names_line_and_column(root):
    (root / "reid/config.pbtxt").write_text('name: "reid"\nbakend: "x"\n')
    assert "reid/config.pbtxt: 2:1" in problems(root, "reid")


def test_all_problems_come_at_once(root):
    edit(root, "reid", 'name: "reid"', 'name: "raid"')
    edit(root, "reid", "TYPE_FP32", "TYPE_FP16")
    edit(root, "reid", "count: 1", "count: 0")
    (root / "face/4.tmp").mkdir()
    with pytest.raises(InputError) as error:
        TritonServer(root).start()
    for said in ("name: expected", "data_type expected", "count must", "4.tmp: Triton would read this folder"):
        assert said in str(error.value)


@pytest.mark.parametrize("name", ["4.tmp", "007", "+1", "2x"])
def test_folders_that_triton_would_take_for_versions_are_found(root, name):
    (root / "reid" / name).mkdir()
    assert "would read this folder as a version" in problems(root, "reid")


def test_a_short_or_missing_warm_up_file_is_found(root):
    (file,) = (root / "reid/warmup").iterdir()
    file.write_bytes(b"\0" * 100)
    assert "expected 6144 bytes for [16, 3, 8, 4], got 100" in problems(root, "reid")
    file.unlink()
    assert "is missing" in problems(root, "reid")


def test_random_bytes_as_floats_are_found(root):
    (file,) = (root / "reid/warmup").iterdir()
    edit(root, "reid", f'input_data_file: "{file.name}"', "random_data: true")
    assert "NaN" in problems(root, "reid")


def test_a_damaged_model_file_is_found(root):
    (root / "reid/1/model.onnx").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    assert "git-lfs pointer" in problems(root, "reid")


def test_missing_weights_say_how_to_make_them_and_do_not_stop_the_others(root, onnx_files):
    (root / "reid/1/model.onnx").unlink()
    assert servable_models(root) == ("face",)
    (placeholder,) = placeholders(root)
    assert f"`rtool deploy {onnx_files['reid']} --name reid --batch 16 --repository {root}`" in str(placeholder)
    (root / "face/1/model.onnx").unlink()
    with pytest.raises(InputError, match="no model with weights to serve"):
        TritonServer(root)


def test_an_unknown_model_names_the_nearest(root):
    with pytest.raises(InputError, match="did you mean reid"):
        validate_repository(root, ["ried"])


def test_a_folder_without_models_is_not_a_sound_repository(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"")
    (tmp_path / ".hidden").mkdir()
    with pytest.raises(InputError, match=r"expected a model repository, found no folder NAME/ .*rtool deploy"):
        validate_repository(tmp_path)


@pytest.mark.parametrize("kind", ["missing", "file"])
def test_what_is_not_a_repository_is_refused(tmp_path, kind):
    path = tmp_path / "models"
    if kind == "file":
        path.write_text("")
    with pytest.raises(InputError, match="expected a model repository"):
        TritonServer(path)


def test_a_server_that_loads_everything_is_kept_from_hidden_folders(root):
    (root / ".cache").mkdir()
    with pytest.raises(InputError, match=r"\.cache: Triton would load this hidden folder"):
        TritonServer(root, control="none").start()
    assert validate_repository(root) == ()
