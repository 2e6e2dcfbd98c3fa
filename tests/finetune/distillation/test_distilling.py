"""Runs with teachers: what they see, that they never move and are never saved, and that runs resume."""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from rtool.converters.bundles.reference import load_model
from rtool.converters.records.preprocessing import Preprocessing
from rtool.errors import ConfigError, DataError, InputError, RtoolError
from rtool.finetune.config.config import FinetuneConfig
from rtool.finetune.config.files import load_config
from rtool.finetune.data.loading import Batch
from rtool.finetune.distillation.panel import open_teachers
from rtool.finetune.finetuning import finetune
from rtool.finetune.training.planning import plan_run

CPU = torch.device("cpu")
STUDENT = Preprocessing(32, 16)
TERMS = [
    {"kind": "cosine"},
    {"kind": "rkd_distance"},
    {"kind": "rkd_angle"},
    {"kind": "similarity"},
    {"kind": "class_centres"},
    {"kind": "logits"},
    {"kind": "features", "layers": {"conv5.conv": "conv5"}},
]


def teacher(path: Path, **changes: object) -> dict[str, object]:
    return {"reference": str(path), "size": [48, 24], "preprocessing": "imagenet", **changes}


@pytest.fixture
def config(tiny, tmp_path):
    """A tiny run with a section distil, other fields changed."""

    def make(distil: dict[str, object], **changes: object) -> FinetuneConfig:
        values = {**tiny, "output": str(tmp_path / "runs"), "device": "cpu", **changes, "distil": distil}
        return FinetuneConfig.model_validate(values)

    return make


def saved(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / "last.rtool" / "training.safetensors")


def losses(run: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row["losses"] for row in rows if row["kind"] == "train"]


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime"])
def test_a_teacher_says_what_the_file_says_in_onnx_runtime(config, teacher_file, runtime):
    distil = config(
        {"teachers": [teacher(teacher_file, runtime=runtime, logits=1)], "terms": [{"kind": "logits"}]}
    ).distil
    opened = open_teachers(distil, FinetuneConfig.model_fields["augment"].default, STUDENT, CPU)
    seen = np.random.default_rng(0).integers(0, 256, (5, 48, 24, 3), dtype=np.uint8)
    batch = Batch(torch.zeros(5, 32, 16, 3, dtype=torch.uint8), torch.zeros(5), (), (torch.from_numpy(seen),))
    said = opened.outputs(batch, CPU)[0]
    session = onnxruntime.InferenceSession(teacher_file)
    scaled = (seen - np.float32([123.675, 116.28, 103.53])) / np.float32([58.395, 57.12, 57.375])
    expected = session.run(None, {"images": scaled.transpose(0, 3, 1, 2).astype(np.float32)})
    np.testing.assert_allclose(said.embeddings.numpy(), expected[0], rtol=0, atol=1e-5)
    np.testing.assert_allclose(said.logits.numpy(), expected[1], rtol=0, atol=1e-5)
    assert not said.embeddings.requires_grad


def test_every_term_trains_and_the_bundle_holds_the_student_alone(config, teacher_file):
    distil = {
        "teachers": [teacher(teacher_file, weight=2.0), "ema"],
        "terms": TERMS,
        "unlabelled": "synthetic-people:identities=4,images=4,seed=9,size=32x16",
        "unlabelled_batch": 4,
    }
    run = config(distil, optimizer={"ema": 0.5})
    result = finetune(run, quiet=True)
    found = losses(result.run_dir)[-1]
    assert set(found) == {"arcface", *(f"distil_{term['kind']}" for term in TERMS)}
    assert np.isfinite(list(found.values())).all()
    student, before = (load_model(place).module.state_dict() for place in (result.last, run.model.reference))
    assert {name: value.shape for name, value in student.items()} == {n: value.shape for n, value in before.items()}


def test_a_stopped_run_resumes_to_the_same_bits(config, teacher_file, tmp_path):
    distil = {"teachers": [teacher(teacher_file), "ema"], "terms": TERMS, "cache": str(tmp_path / "kept")}
    fixed = {"optimizer": {"ema": 0.5}, "schedule": {"kind": "constant"}, "augment": {"flip": 0.5}}
    whole = finetune(config(distil, epochs=2, **fixed), quiet=True)
    begun = finetune(config(distil, epochs=1, **fixed), quiet=True)
    rest = finetune(config(distil, epochs=2, **fixed), resume=begun.run_dir, quiet=True)
    expected, found = saved(whole.run_dir), saved(rest.run_dir)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert torch.equal(value, found[name]), name


def test_a_teacher_never_moves(config, teacher_file, monkeypatch):
    from rtool.finetune import finetuning

    opened = []

    def keep(*arguments):
        opened.append(open_teachers(*arguments))
        return opened[-1]

    monkeypatch.setattr(finetuning, "open_teachers", keep)
    finetune(config({"teachers": [teacher(teacher_file)]}, optimizer={"lr": 0.1}), quiet=True)
    module = opened[0]._opened[0].module
    untouched = load_model(teacher_file).module.state_dict()
    assert not module.training
    assert not any(p.requires_grad for p in module.parameters())
    assert all(torch.equal(value, untouched[name]) for name, value in module.state_dict().items())


def test_kept_embeddings_give_the_same_run_and_are_not_computed_again(config, teacher_file, tmp_path, monkeypatch):
    from rtool.finetune.distillation.teachers import TorchTeacher

    distil = {"teachers": [teacher(teacher_file)], "terms": [{"kind": "cosine"}], "cache": str(tmp_path / "kept")}
    first = finetune(config(distil, augment={"flip": 0.5}), quiet=True)

    def refuse(self, pixels):
        if len(pixels) > 2:  # two images show the sizes
            raise AssertionError("computed again")
        return original(self, pixels)

    original = TorchTeacher.outputs
    monkeypatch.setattr(TorchTeacher, "outputs", refuse)
    again = finetune(config(distil, augment={"flip": 0.5}), quiet=True)
    assert losses(again.run_dir) == losses(first.run_dir)
    plain = {**distil, "cache": None}
    monkeypatch.setattr(TorchTeacher, "outputs", original)
    direct = finetune(config(plain, augment={"flip": 0.5}), quiet=True)
    assert losses(direct.run_dir)[-1]["distil_cosine"] == pytest.approx(
        losses(first.run_dir)[-1]["distil_cosine"], 1e-5
    )


def test_an_unlabelled_folder_is_enough_for_the_terms_that_need_no_labels(config, teacher_file, tmp_path):
    rng = np.random.default_rng(0)
    for n in range(16):
        Image.fromarray(rng.integers(0, 256, (32, 16, 3), dtype=np.uint8)).save(tmp_path / f"{n}.png")
    run = config(
        {"teachers": [teacher(teacher_file)], "labels": False},
        data={"train": str(tmp_path), "batch": 8},
        losses=[],
        evaluation=None,
    )
    assert set(losses(finetune(run, quiet=True).run_dir)[-1]) == {"distil_cosine", "distil_rkd_distance"}


def test_a_plan_names_teachers_and_settings_without_effect(config, teacher_file, tmp_path):
    distil = {"teachers": [teacher(teacher_file, weight=3)], "cache": str(tmp_path / "c"), "unlabelled_batch": 5}
    plan = plan_run(config(distil, augment={"erasing": 0.5}))
    assert [facts.embedding for facts in plan.teachers] == [24]
    assert plan.head_parameters == 8 * 16 + 24 * 16  # arcface, and the projection from 16 to 24 numbers
    notes = " ".join(plan.notes)
    for part in ("distil.unlabelled_batch 5", "distil.cache", "distil.teachers.0.weight 3.0"):
        assert part in notes
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("distil", "error", "words"),
    [
        ({"teachers": ["nowhere.onnx"]}, InputError, "nowhere.onnx"),
        ({"teachers": ["triton://127.0.0.1:9/m"]}, RtoolError, "127.0.0.1:9"),
        ({"teachers": ["osnet_x0_25"]}, InputError, "random weights"),
        ({"teachers": [{"reference": "TEACHER", "size": [64, 24]}]}, InputError, "fixed input of 48x24"),
        ({"teachers": ["OPEN"]}, InputError, "size"),
        (
            {"teachers": ["MODEL"], "terms": [{"kind": "features", "layers": {"conv9": "conv5.conv"}}]},
            ConfigError,
            "conv9",
        ),
        (
            {"teachers": ["MODEL"], "terms": [{"kind": "features", "layers": {"conv5.conv": "conv9"}}]},
            ConfigError,
            "conv9",
        ),
        ({"teachers": [{"reference": "MODEL", "output": 4}]}, ConfigError, "output 4"),
        ({"teachers": [{"reference": "MODEL", "logits": 0}], "terms": [{"kind": "logits"}]}, ConfigError, "16 classes"),
    ],
)
def test_a_teacher_that_cannot_be_used_is_refused_before_training(
    config, teacher_file, open_file, tiny_model, distil, error, words
):
    text = (
        json.dumps(distil)
        .replace("TEACHER", str(teacher_file))
        .replace("OPEN", str(open_file))
        .replace("MODEL", str(tiny_model["reference"]))
    )
    run = config(json.loads(text))
    with pytest.raises(error, match=words):
        plan_run(run)


def test_a_run_refuses_a_teacher_as_its_plan_does(config):
    with pytest.raises(InputError, match="random weights"):
        finetune(config({"teachers": ["osnet_x0_25"]}), quiet=True)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["distil.teachers=[ema]"], "set optimizer.ema"),
        (["distil.labels=false"], "needs labels"),
        (["distil.labels=false", "losses=[]"], "data.evaluate, or set evaluation=null"),
        (["distil.terms=[{kind: logits}]", "distil.labels=false", "losses=[]"], "logits needs labels"),
        (["distil.terms=[{kind: cosine}, {kind: cosine}]"], "given twice"),
        (["distil.terms=[{kind: kosine}]"], "cosine"),
        (["distil=null", "losses=[]"], "'losses' is missing"),
        (["distil.teachers=[]"], "distil.teachers"),
        (["data.batch=2", "distil.terms=[{kind: rkd_angle}]"], "rkd_angle compares 3 images"),
        (["distil.terms=[{kind: features, layers: {}}]"], "at least 1 item"),
        (["distil.terms=[{kind: features, layers: {a: b}, teacher: 1}]"], "there are 1"),
    ],
)
def test_a_section_that_means_nothing_is_refused(changes, words):
    base = FinetuneConfig.model_validate(
        {
            "model": {"reference": "osnet_x0_25"},
            "data": {"train": "a"},
            "losses": [{"kind": "arcface"}],
            "distil": {"teachers": "t.onnx"},
        }
    )
    with pytest.raises(ConfigError, match=words):
        load_config(base, changes)


def test_a_folder_without_identities_needs_labels_to_be_off(config, teacher_file, tmp_path):
    Image.new("RGB", (16, 32)).save(tmp_path / "a.png")
    with pytest.raises(DataError):
        finetune(config({"teachers": [teacher(teacher_file)]}, data={"train": str(tmp_path), "batch": 8}), quiet=True)
