"""Overrides: lists appended and replaced, quoted keys, and what is refused."""

import pytest

from rtool.errors import ConfigError
from rtool.finetune.config.values.overrides import apply_override


def applied(override: str, **data: object) -> dict[str, object]:
    whole = {"losses": [{"kind": "arcface"}, {"kind": "triplet"}], "epochs": 3, **data}
    apply_override(whole, override)
    return whole


@pytest.mark.parametrize(
    ("override", "field", "expected"),
    [
        ("losses+={kind: center}", "losses", [{"kind": "arcface"}, {"kind": "triplet"}, {"kind": "center"}]),
        ("losses+=[{kind: a}, {kind: b}]", "losses", [{"kind": k} for k in ("arcface", "triplet", "a", "b")]),
        ("losses.1={kind: center}", "losses", [{"kind": "arcface"}, {"kind": "center"}]),
        ("losses=[{kind: center}]", "losses", [{"kind": "center"}]),
        ("losses.0.margins+=1", "losses", [{"kind": "arcface", "margins": [1]}, {"kind": "triplet"}]),
        ("schedule.milestones+=30", "schedule", {"milestones": [30]}),
        ('model.freeze."layer4.*"=null', "model", {"freeze": {"layer4.*": None}}),
        ("model.freeze.'a.b'=2", "model", {"freeze": {"a.b": 2}}),
        ('model.freeze."a=b"=2', "model", {"freeze": {"a=b": 2}}),
        ("model.freeze.conv1*=null", "model", {"freeze": {"conv1*": None}}),
        ("epochs = 4", "epochs", 4),
        ("name=a=b", "name", "a=b"),
    ],
)
def test_a_value_is_set_or_appended(override, field, expected):
    assert applied(override)[field] == expected


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("losses.2={kind: center}", r"a number from 0 to 1, got '2'; append with \+="),
        ("losses.x.margin=1", "got 'x'"),
        ("epochs+=1", r"\+= appends to a list, and epochs is a value \(3\); use = to set it"),
        ("losses.0+={kind: center}", "and 0 is a section"),
        ("epochs.x=1", r"epochs is a value \(3\), not a section"),
        ("epochs", "expected key=value"),
        ("=1", "expected key=value"),
        ("a..b=1", "expected key=value"),
        ('model.freeze."a=1', "quote keys with dots"),
        ("epochs=[", "not YAML"),
        ("epochs=010", "'010' is the octal number 8 in YAML; write 10 for a decimal number, or '010' in quotes"),
    ],
)
def test_what_is_no_override_is_refused_with_the_way_out(override, message):
    with pytest.raises(ConfigError, match=message):
        applied(override)


def test_an_empty_list_has_no_items():
    with pytest.raises(ConfigError, match="the list is empty"):
        applied("losses.0.margin=1", losses=[])
