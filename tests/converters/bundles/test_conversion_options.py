"""The keywords of `onnx2torch` and `export` are the fields of their options, names and types."""

import dataclasses
import typing

import pytest

from rtool.converters import export, onnx2torch
from rtool.converters.bundles.conversion_options import ConversionKeywords, ConversionOptions
from rtool.converters.exporting.options import ExportKeywords, ExportOptions

PAIRS = [(ConversionOptions, ConversionKeywords), (ExportOptions, ExportKeywords)]


@pytest.mark.parametrize(("options", "keywords"), PAIRS)
def test_keywords_for_type_checkers_are_the_fields(options: type, keywords: type):
    fields = {field.name for field in dataclasses.fields(options)}
    expected = {name: kind for name, kind in typing.get_type_hints(options).items() if name in fields}
    assert typing.get_type_hints(keywords) == expected


@pytest.mark.parametrize("call", [export, onnx2torch])
def test_an_unknown_keyword_is_refused_before_any_work(call):
    with pytest.raises(TypeError, match="unexpected keyword argument 'fp61'"):
        call("none.onnx", fp61=True)


def test_options_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        ExportOptions().fp16 = True
