"""`~` and variables in paths, read and written."""

import pytest

from rtool.errors import ConfigError
from rtool.finetune.config.files import dump_config, load_config
from rtool.finetune.config.values.paths import expanded, written

MINIMAL = "model: {reference: osnet_x0_25}\ndata: {train: faces}\nlosses: [{kind: arcface}]\n"


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("DATA", "/mnt/a$b")
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.delenv("NOT_SET", raising=False)
    file = tmp_path / "c.yaml"
    file.write_text(MINIMAL)
    return file


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("~", "/home/me"),
        ("~/faces", "/home/me/faces"),
        ("${DATA}/x", "/mnt/a$b/x"),
        ("$DATA/x", "/mnt/a$b/x"),
        ("a/~/b", "a/~/b"),
        ("price$$/x", "price$/x"),
        ("x$", "x$"),
        ("synthetic-people:identities=8,seed=1", "synthetic-people:identities=8,seed=1"),
    ],
)
def test_home_and_variables_are_expanded(path, text, expected):
    assert expanded(text) == expected


@pytest.mark.parametrize(
    ("text", "mentioned"),
    [
        ("${NOT_SET}/x", "the environment variable NOT_SET is not set"),
        ("$NOT_SET", "NOT_SET is not set"),
        ("${EMPTY}/x", "EMPTY is empty"),
        ("${DATA", "opens no variable"),
        ("~nobody-of-this-name/x", "no home folder is known for ~nobody-of-this-name"),
    ],
)
@pytest.mark.parametrize("field", ["output", "model.reference", "model.weights", "data.train", "data.evaluate"])
def test_what_cannot_be_expanded_is_refused_by_field_and_name(path, field, text, mentioned):
    with pytest.raises(ConfigError) as caught:
        load_config(path, [f"{field}={text}"])
    assert f"'{field}'" in str(caught.value)
    assert mentioned in str(caught.value)


@pytest.mark.parametrize("text", ["/a/b", "a$b", "$$", "~x", "${DATA}"])
def test_a_written_path_reads_back_as_the_same_place(path, text):
    assert expanded(written(text)).removeprefix("./") == text


def test_a_run_reads_its_own_file_as_it_was_started(path, tmp_path, monkeypatch):
    config = load_config(path, ["output=~/runs", "data.train=${DATA}/x", "model.weights=$DATA/w.pth"])
    assert (str(config.output), config.data.train) == ("/home/me/runs", "/mnt/a$b/x")
    (tmp_path / "d.yaml").write_text(dump_config(config))
    monkeypatch.delenv("DATA")
    assert load_config(tmp_path / "d.yaml") == config
