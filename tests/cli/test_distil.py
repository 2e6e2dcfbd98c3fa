"""`rtool distil`: the short form of a configuration, and what it refuses with exit code 2."""

import inspect
import json

import pytest
from click.testing import CliRunner

import rtool
from rtool.cli.main import cli, run
from rtool.errors import ConfigError
from rtool.finetune.config.short_forms import distil_config
from rtool.finetune.distillation.quantised.int8_distilling import Int8Training, distil_int8


def test_the_short_form_fills_in_a_configuration():
    config = distil_config("t.onnx", "osnet_x0_25", "people/", ["epochs=3"], evaluate="test/")
    assert (config.model.reference, config.data.train, config.data.evaluate) == ("osnet_x0_25", "people/", "test/")
    assert config.epochs == 3
    assert [teacher.reference for teacher in config.distil.teachers] == ["t.onnx"]
    assert [term.kind for term in config.distil.terms] == ["cosine", "rkd_distance"]
    assert config.losses == ()


def test_without_labels_nothing_is_measured_unless_labelled_images_are_given():
    assert distil_config("t.onnx", "osnet_x0_25", "photos/", labels=False).evaluation is None
    measured = distil_config("t.onnx", "osnet_x0_25", "photos/", labels=False, evaluate="test/")
    assert measured.evaluation is not None


def test_help_states_the_defaults_of_int8_training():
    """The command writes them out, since reading them would load torch."""
    text = " ".join(CliRunner().invoke(cli, ["distil", "--help"]).output.split())
    images = inspect.signature(distil_int8).parameters["images"].default
    assert f"optimizer steps. [default: {Int8Training().steps}]" in text
    assert f"images of DATA to use. [default: {images}]" in text


def test_wrong_overrides_are_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match="temperature"):
        distil_config("t.onnx", "osnet_x0_25", "people/", ["distil.terms=[{kind: logits, temperatur: 2}]"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere.onnx", "osnet_x0_25"], "nowhere.onnx"),
        (["triton://127.0.0.1:9/reid", "osnet_x0_25"], "127.0.0.1:9"),
        (["nowhere.onnx", "osnet_x0_26"], "osnet_x0_25"),
        (["nowhere.onnx", "osnet_x0_25", "distil.labels=maybe"], "distil.labels"),
    ],
)
def test_what_cannot_be_distilled_ends_with_2(arguments, words, capfd):
    data = "synthetic-people:identities=10,images=8,size=32x16"
    teacher, student, *overrides = arguments
    command = ["distil", teacher, student, data, "model.size=[32,16]", "data.batch=8", *overrides, "--dry-run"]
    assert run(command) == 2
    assert words in capfd.readouterr().err


def test_a_plan_names_the_teacher():
    model = str(rtool.finetune.config.__path__[0] + "/../../examples/models/osnet_x0_25_synthetic.onnx")
    data = "synthetic-people:identities=10,images=8,size=32x16"
    command = ["distil", model, "osnet_x0_25", data, "model.size=[64,32]", "data.batch=8", "--dry-run", "--json"]
    result = CliRunner().invoke(cli, command)
    plan = json.loads(result.output)
    assert plan["teachers"][0]["embedding"] == 512
    assert plan["teachers"][0]["preprocessing"].startswith("128x64")
