"""What all sections of a configuration share: the base class and the types of numbers and paths.

A value of another kind than its field is refused with the way to write it, before pydantic would convert it: `true` is
no number, `'64'` no number either, 1 no boolean, and 2024 no text.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PlainSerializer,
    ValidationError,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from .values.lookalikes import lookalike
from .values.paths import expanded, written

__all__ = ["Count", "FilePath", "NotNegative", "Place", "Positive", "Section", "Share"]

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


def _expanded_path(value: Path) -> Path:
    return Path(expanded(str(value)))


def _written_path(value: Path) -> str:
    return written(str(value))


FilePath = Annotated[Path, AfterValidator(_expanded_path), PlainSerializer(_written_path, when_used="json")]
"""A path in which `~` and `${VAR}` are expanded when it is read, and escaped when it is written."""

Place = Annotated[str, AfterValidator(expanded), PlainSerializer(written, when_used="json")]
"""A text that may be a path, or a name such as `synthetic-people:...`; expanded as `FilePath`."""


class Section(BaseModel):
    """Base of all sections: frozen; unknown keys and numbers that are not finite are refused; docstrings are kept."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    @model_validator(mode="wrap")
    @classmethod
    def _values_are_of_their_kinds(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Report look-alikes beside all other problems; a discriminated union allows no validators on fields."""
        if not isinstance(data, Mapping):
            return handler(data)
        problems: dict[str, InitErrorDetails] = {}
        for name, field in cls.model_fields.items():
            problem = lookalike(field.annotation, data.get(name), example=field.default)
            if problem is not None:
                kind = PydanticCustomError("lookalike", "{problem}", {"problem": problem})
                problems[name] = InitErrorDetails(type=kind, loc=(name,), input=data[name])
        if not problems:
            return handler(data)
        others: list[InitErrorDetails] = []
        try:
            handler(data)
        except ValidationError as error:
            others = [_detail(line) for line in error.errors() if not line["loc"] or line["loc"][0] not in problems]
        raise ValidationError.from_exception_data(cls.__name__, [*problems.values(), *others])


def _detail(line: Any) -> InitErrorDetails:
    custom = line["type"] == "lookalike"
    kind = PydanticCustomError("lookalike", "{problem}", line["ctx"]) if custom else line["type"]
    return InitErrorDetails(type=kind, loc=line["loc"], input=line["input"], ctx=line.get("ctx", {}))
