"""Configuration: overrides, types, and messages that name what is near."""

from pathlib import Path

import pytest

from rtool.errors import ConfigError, InputError
from rtool.finetune.config_files import dump_config, load_config

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))
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
        ("epochs=many", "'epochs': input should be a valid integer.*got 'many'"),
        ("data.holdout=1.5", "'data.holdout'.*less than 1"),
        ("losses=[]", "'losses'"),
        ("losses.7.margin=1", "expected a number from 0 to 1"),
        ("epochs", "expected key=value"),
    ],
)
def test_a_wrong_key_or_value_is_explained(path, override, message):
    with pytest.raises(ConfigError, match=message):
        load_config(path, [override])


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
