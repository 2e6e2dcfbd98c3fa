"""YAML with bounds."""

import re

import pytest
import yaml

from rtool.finetune.config.values.yaml_text import ConfigLoader, load_yaml

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefg", "bcdefgh", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "expand"),
        ("[" * 5000, "nested"),
        ("a: &a [*a]", "itself"),
        ("!!python/object/apply:os.system ['true']", "constructor"),
        ("a: !!python/name:os.system", "constructor"),
    ],
    ids=["aliases", "deep", "cycle", "apply", "name"],
)
def test_what_expands_or_asks_for_code_is_refused(text, message):
    with pytest.raises(yaml.YAMLError, match=message):
        load_yaml(text, yaml.SafeLoader)


def test_ordinary_documents_are_read_as_yaml_reads_them():
    text = "base: &base {a: 1, b: [1, 2]}\nother:\n  <<: *base\n  c: null\n"
    assert load_yaml(text, yaml.SafeLoader) == yaml.safe_load(text)
    assert load_yaml("", yaml.SafeLoader) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs: 010", r"'010' is the octal number 8 in YAML; write 10 for a decimal number.*line 1"),
        ("seed: 007", "octal number 7"),
        ("seed: -010", "write -10"),
        ("batch: 00", "write 0 for a decimal"),
        ("epochs: 1:30", "'1:30' is the number 90 in base 60 in YAML; write 90"),
        ("lr: 1:30.5", "the number 90.5 in base 60"),
        ("[1, {a: 0100}]", "octal number 64"),
    ],
)
def test_octal_and_sexagesimal_numbers_are_refused_with_the_way_to_write_them(text, message):
    with pytest.raises(yaml.YAMLError) as caught:
        load_yaml(text, ConfigLoader)
    assert re.search(message, " ".join(str(caught.value).split()))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("10", 10),
        ("0", 0),
        ("-3", -3),
        ("1_000", 1000),
        ("0x10", 16),
        ("1e-4", 1e-4),
        ("-.5", -0.5),
        ("+.5e3", 500.0),
        (".5e3", 500.0),
        ("2.", 2.0),
        ("0.50", 0.5),
        ("'010'", "010"),
        ("'1:30'", "1:30"),
        ("cuda:0", "cuda:0"),
        ("1.2.3", "1.2.3"),
        (".e3", ".e3"),
    ],
)
def test_numbers_and_texts_are_what_they_look_like(text, value):
    read = load_yaml(text, ConfigLoader)
    assert (type(read), read) == (type(value), value)


@pytest.mark.parametrize("text", ["a: 2024-99-99", "a: !!int abc", "a: !!timestamp x", "a: !!bool maybe"])
def test_a_value_that_its_tag_does_not_fit_is_no_yaml(text):
    with pytest.raises(yaml.YAMLError, match="not what its form or tag says"):
        load_yaml(text, ConfigLoader)
