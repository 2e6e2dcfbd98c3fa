"""YAML with bounds."""

import pytest
import yaml

from rtool.finetune.config.yaml_text import load_yaml

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefg", "bcdefgh", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "unfold"),
        ("[" * 5000, "nested"),
        ("a: &a [*a]", "itself"),
        ("!!python/object/apply:os.system ['true']", "constructor"),
        ("a: !!python/name:os.system", "constructor"),
    ],
    ids=["aliases", "deep", "cycle", "apply", "name"],
)
def test_what_unfolds_or_asks_for_code_is_refused(text, message):
    with pytest.raises(yaml.YAMLError, match=message):
        load_yaml(text, yaml.SafeLoader)


def test_ordinary_documents_are_read_as_yaml_reads_them():
    text = "base: &base {a: 1, b: [1, 2]}\nother:\n  <<: *base\n  c: null\n"
    assert load_yaml(text, yaml.SafeLoader) == yaml.safe_load(text)
    assert load_yaml("", yaml.SafeLoader) is None
