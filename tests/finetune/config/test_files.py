"""Configuration: overrides, types, and messages that name what is near."""

from pathlib import Path

import pytest

import rtool
from rtool.errors import ConfigError, InputError
from rtool.finetune.config.files import dump_config, load_config

EXAMPLES = sorted((Path(rtool.__file__).parent / "examples").glob("*.yaml"))
MINIMAL = """
model: {reference: osnet_x0_25}
data: {train: faces}
losses: [{kind: arcface}, {kind: triplet, margin: soft}]
"""


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text(MINIMAL)
    return file


def test_overrides_are_typed_by_their_field(path):
    config = load_config(path, ["optimizer.lr=1e-4", "losses.1.margin=0.2", "model.size=[64, 32]", "threads=null"])
    assert config.optimizer.lr == 1e-4
    assert config.losses[1].margin == 0.2
    assert config.model.size == (64, 32)
    assert config.threads is None


def test_the_dump_reads_back_as_the_same_configuration(path, tmp_path):
    config = load_config(path, ["epochs=3"])
    (tmp_path / "d.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "d.yaml") == config


def test_a_loaded_configuration_is_frozen(path):
    config = load_config(path)
    with pytest.raises(ValueError, match="frozen"):
        config.epochs = 3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizr.lr=1", "unknown key 'optimizr'; did you mean optimizer"),
        ("optimizer.weight_decai=1", "did you mean weight_decay"),
        ("losses.1.margn=1", "did you mean margin"),
        ("losses.0.kind=arcfac", "did you mean arcface"),
        ("output=null", "'output': expected a path, got None"),
        ("epochs=many", "'epochs': input should be a valid integer.*got 'many'"),
        ("data.holdout=1.5", "'data.holdout'.*less than 1"),
        ("losses=[]", "'losses'"),
        ("losses.7.margin=1", "expected a number from 0 to 1"),
        ("optimizer.lr=.inf", "'optimizer.lr': input should be a finite number"),
        ("losses.0.scale=.nan", "'losses.0.arcface.scale': input should be a finite number"),
        ("losses.0.filter_above=.inf", "filter_above': input should be a finite number"),
        ("optimizer.lr_multipliers={'*': .inf}", "finite number"),
        ("seed=1000000000000000000000000000000", "'seed': input should be less than"),
        ("optimizer=5", "'optimizer': expected a section of keys and values, got 5"),
        ("losses.0=arcface", "'losses.0': expected a section of keys and values, got 'arcface'"),
        ("name=..", "'name'"),
        ("epochs", "expected key=value"),
    ],
)
def test_a_wrong_key_or_value_is_explained(path, override, message):
    with pytest.raises(ConfigError, match=message):
        load_config(path, [override])


def test_an_override_below_a_value_is_refused(tmp_path):
    (tmp_path / "c.yaml").write_text(MINIMAL.replace("[{kind: arcface}, {kind: triplet, margin: soft}]", "[arcface]"))
    with pytest.raises(ConfigError, match=r"0 is a value \('arcface'\), not a section"):
        load_config(tmp_path / "c.yaml", ["losses.0.margin=.3"])


@pytest.mark.parametrize("override", ["losses.0.scale=-1", "losses.1.margn=1", "losses.0=arcface", "losses.0.kind=x"])
def test_a_wrong_loss_is_the_only_thing_said(path, override):
    with pytest.raises(ConfigError) as caught:
        load_config(path, [override])
    assert "at least 1 item" not in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="give at least one"):
        load_config(path, ["losses=[]"])


@pytest.mark.parametrize("overrides", [[], ["optimizer.lr=1e-3"]])
def test_an_empty_section_is_its_defaults(tmp_path, overrides):
    (tmp_path / "c.yaml").write_text(f"{MINIMAL}optimizer:\naugment:\n")
    config = load_config(tmp_path / "c.yaml", overrides)
    assert (config.optimizer.lr, config.augment.flip) == (1e-3, 0.5)
    (tmp_path / "d.yaml").write_text(MINIMAL.replace("data: {train: faces}", "data:"))
    with pytest.raises(ConfigError, match="'data' is missing"):
        load_config(tmp_path / "d.yaml")


@pytest.mark.parametrize("text", [f"{MINIMAL}model: {{reference: resnet50}}", f"{MINIMAL}epochs: 3\nepochs: 4"])
def test_a_key_given_twice_is_refused(tmp_path, text):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"key '(model|epochs)' twice"):
        load_config(tmp_path / "c.yaml")


def test_what_an_anchor_brings_can_be_overridden(tmp_path):
    losses = "losses: [&first {kind: arcface, scale: 16}, {<<: *first, scale: 32}]"
    (tmp_path / "c.yaml").write_text(MINIMAL.partition("losses:")[0] + losses)
    assert [loss.scale for loss in load_config(tmp_path / "c.yaml").losses] == [16, 32]


def test_partial_fc_is_not_accumulated(path):
    with pytest.raises(ConfigError, match=r"c\.yaml: optimizer\.accumulate: partial_fc .* set it to 1$"):
        load_config(path, ["losses.0.kind=partial_fc", "optimizer.accumulate=2"])


def test_all_problems_are_listed_at_once(path):
    with pytest.raises(ConfigError, match=r"(?s)'epochs'.*'data.bach'; did you mean batch"):
        load_config(path, ["epochs=x", "data.bach=3"])


def test_a_missing_file_and_a_file_that_is_no_mapping_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such configuration file"):
        load_config(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(ConfigError, match="expected keys and values"):
        load_config(tmp_path / "list.yaml")


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_are_valid(example):
    load_config(example)


@pytest.mark.parametrize(
    ("name", "text", "trainer"),
    [
        ("x.py", "config.lr = 0.1\nconfig.rec = 'a'\n", "arcface_torch"),
        ("x.yml", "MODEL: {META_ARCHITECTURE: Baseline}\n", "fastreid"),
        ("x.yaml", "model: {name: osnet_x1_0}\nloss: {name: softmax}\n", "torchreid"),
        ("x.json", '{"model": "resnet_50", "epoch": 3}', "params_json"),
    ],
)
def test_a_configuration_of_another_trainer_is_named_with_the_way_out(tmp_path, name, text, trainer):
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=rf"is a configuration of {trainer}, not of rtool; rtool config convert"):
        load_config(tmp_path / name)
