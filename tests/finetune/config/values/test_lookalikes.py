"""Values of another kind than their field: refused with the way to write them."""

import datetime
from pathlib import Path
from typing import Literal, get_args

import pytest
from pydantic import ValidationError

from rtool.finetune.config.config import AugmentConfig, FinetuneConfig, LossConfig
from rtool.finetune.config.section import Section
from rtool.finetune.config.values.lookalikes import lookalike


@pytest.mark.parametrize(
    ("annotation", "value", "meant"),
    [
        (float, True, "a number is meant, not true"),
        (int, False, "a number is meant, not false"),
        (int | None, True, "a number is meant"),
        (float, "0.5", "got the text '0.5'; write 0.5 without quotes"),
        (int, " 07 ", "write 7 without quotes"),
        (float | None, "None", "got 'None'; for nothing write null, or leave the key out"),
        (float, "nan", "a finite number is meant, got 'nan'"),
        (float, "1e-3", "write 0.001 without quotes"),
        (Literal["soft"] | float, "0.3", "write 0.3 without quotes"),
        (tuple[float, ...], [1, True], "item 1: a number is meant"),
        (tuple[int, int] | None, ["32", 16], "item 0: a number is meant"),
        (dict[str, float | None], {"a": 1, "layer4.*": "2"}, "at 'layer4.*': a number is meant"),
        (bool, 1, "true or false is meant, got the number 1"),
        (bool, "yes", "write true or false without quotes"),
        (str, True, "a text is meant, not true"),
        (str | None, False, "write null for none"),
        (str, 2024, "quote it: '2024'"),
        (Path, 7, "quote it: '7'"),
        (str, datetime.date(2024, 1, 2), "quote it: '2024-01-02'"),
    ],
)
def test_a_lookalike_is_named_with_the_way_to_write_it(annotation, value, meant):
    assert meant in lookalike(annotation, value)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (float, 1),
        (float, 0.5),
        (int, 3.0),
        (int, "many"),  # left to pydantic, which says that it is not a number
        (bool, False),
        (str, "yes"),
        (Path, "x"),
        (Path, Path("x")),
        (int | None, None),
        (Literal["soft"] | float, "soft"),
        (dict[str, int | float | bool | str], {"a": True, "b": "1"}),
        (tuple[str, ...], ["1"]),
    ],
)
def test_what_is_of_its_kind_is_none(annotation, value):
    assert lookalike(annotation, value) is None


def test_a_default_that_is_a_number_is_the_example():
    assert lookalike(float, True, example=0.5).endswith("such as 0.5")
    assert lookalike(float, True, example=None).endswith("write a number")


def sections() -> list[type[Section]]:
    fields = [field.annotation for field in FinetuneConfig.model_fields.values()]
    known = [kind for kind in fields if isinstance(kind, type) and issubclass(kind, Section)]
    return [FinetuneConfig, *known, *get_args(get_args(LossConfig)[0])]


def numeric(annotation) -> bool:
    return annotation in (int, float) or any(numeric(argument) for argument in get_args(annotation)[:2])


@pytest.mark.parametrize("section", sections(), ids=lambda section: section.__name__)
def test_no_field_with_a_number_takes_a_boolean_and_no_boolean_field_a_number(section):
    checked = 0
    for name, field in section.model_fields.items():
        if name == "options":  # arguments of an architecture, whose own checks follow
            continue
        wrong = True if numeric(field.annotation) else 1 if field.annotation is bool else None
        if wrong is None or "dict" in str(field.annotation) or "tuple" in str(field.annotation):
            continue
        checked += 1
        with pytest.raises(ValidationError) as caught:
            section.model_validate({name: wrong})
        assert ("lookalike", (name,)) in [(line["type"], line["loc"]) for line in caught.value.errors()], name
    assert checked or section.__name__ == "DataConfig"


def test_lookalikes_and_other_problems_are_reported_together():
    with pytest.raises(ValidationError) as caught:
        AugmentConfig.model_validate({"flip": True, "grey": 2, "flop": 1})
    assert sorted(line["loc"][0] for line in caught.value.errors()) == ["flip", "flop", "grey"]
