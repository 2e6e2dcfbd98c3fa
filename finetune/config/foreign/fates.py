"""Settings of another trainer by flat name, and what becomes of each: converted, approximated or left out, and why.

A key that no reader asks for is left out as unknown, so nothing is lost in silence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

from pydantic import ValidationError

from ....errors import ConfigError
from ..config import FinetuneConfig

__all__ = ["UNKNOWN", "Converted", "ForeignSettings", "KeyFate"]

Fate = Literal["converted", "approximated", "left out"]
UNKNOWN = "no counterpart of this key is known"


@dataclass(frozen=True)
class KeyFate:
    """What became of one key."""

    key: str
    """Its name there; in parentheses what the trainer does without a key."""
    fate: Fate
    note: str
    """The field that has it now, or the reason."""


@dataclass(frozen=True)
class Converted:
    """A configuration of another trainer as ours."""

    config: FinetuneConfig
    keys: tuple[KeyFate, ...]
    nproc: int | None = None
    """The number of processes that the other configuration trains on, for `--nproc`; None where it does not say."""

    @property
    def left_out(self) -> tuple[str, ...]:
        """The keys that were left out."""
        return tuple(key.key for key in self.keys if key.fate == "left out")


class ForeignSettings:
    """Settings that record what was made of them. Numbers may be written as text; null and "" are not values."""

    def __init__(self, path: Path, values: Mapping[str, Any]) -> None:
        self._path, self._values = path, dict(values)
        self._fates: dict[str, KeyFate] = {}
        self._built_in: list[KeyFate] = []
        self.nproc: int | None = None
        """For `Converted.nproc`."""

    def given(self, name: str) -> bool:
        """Whether the key is written, with a value or without."""
        return name in self._values

    def names(self) -> tuple[str, ...]:
        """All keys, in the order of the file."""
        return tuple(self._values)

    def get(self, *names: str, into: str, default: Any = None) -> Any:
        """The first of these keys that has a value, which becomes the field `into`."""
        name = self._name(names)
        for other in names:
            if other in self._values and other != name and other not in self._fates:
                empty = self._values[other] in (None, "")
                self.leave_out(other, "empty, so nothing is asked" if empty else f"{name} is used instead")
        if name is None:
            return default
        self._note(name, "converted", into)
        return self._values[name]

    def number(self, *names: str, into: str, default: float) -> float:
        """A finite number."""
        value = self.get(*names, into=into)
        return default if value is None else self._number(self._name(names) or names[0], value)

    def count(self, *names: str, into: str, default: int) -> int:
        """A whole number from 0 on."""
        value = self.number(*names, into=into, default=default)
        if value < 0 or value != int(value):
            self.refuse(self._name(names) or names[0], "a whole number from 0 on")
        return int(value)

    def numbers(self, *names: str, into: str) -> list[float]:
        """A number or a list of them."""
        value = self.get(*names, into=into, default=[])
        items = list(value) if isinstance(value, list | tuple) else [value]
        return [self._number(self._name(names) or names[0], item) for item in items]

    def flag(self, *names: str, into: str, default: bool = False) -> bool:
        """True or false, also as 1 and 0."""
        value = self.get(*names, into=into, default=default)
        if not isinstance(value, bool | int | float) or value not in (0, 1):
            self.refuse(self._name(names) or names[0], "true or false")
        name = self._name(names)
        if name is not None and not value:
            self._note(name, "converted", f"off; where it is true: {into}")
        return bool(value)

    def text(self, *names: str, into: str, default: str) -> str:
        """A text."""
        value = self.get(*names, into=into, default=default)
        if not isinstance(value, str):
            self.refuse(self._name(names) or names[0], "a text")
        return str(value)

    def texts(self, *names: str, into: str) -> list[str]:
        """A text or a list of them."""
        value = self.get(*names, into=into, default=[])
        items = list(value) if isinstance(value, list | tuple) else [value]
        if not all(isinstance(item, str) for item in items):
            self.refuse(self._name(names) or names[0], "a text or a list of texts")
        return [str(item) for item in items]

    def approximate(self, name: str, why: str) -> None:
        """Say that a key has no exact counterpart."""
        self._note(name, "approximated", why)

    def leave_out(self, name: str, why: str) -> None:
        """Say why a key has no counterpart."""
        self._note(name, "left out", why)

    def leave_out_all(self, reasons: Mapping[str, str]) -> None:
        """Say why keys have no counterpart; where one is off, that it is."""
        for name, why in reasons.items():
            if name in self._values:
                off = self._values[name] in (None, "", False, 0, [], ())
                self.leave_out(name, "off or empty there, and so here" if off else why)

    def built_in(self, what: str, fate: Fate, why: str) -> None:
        """Say what becomes of something that the other trainer does without a key."""
        self._built_in.append(KeyFate(f"({what})", fate, why))

    def refuse(self, name: str, expected: str) -> NoReturn:
        """Refuse a setting.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(f"{self._path}: '{name}': expected {expected}, got {self._values.get(name)!r}")

    def converted(self, data: Mapping[str, Any]) -> Converted:
        """The configuration in `data`, with the fate of every key in the order of the file.

        Raises:
            ConfigError: the values make no valid configuration.
        """
        try:
            config = FinetuneConfig.model_validate(data)
        except ValidationError as error:
            problems = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
            raise ConfigError(f"{self._path}: {problems}") from error
        unknown = {name: KeyFate(name, "left out", UNKNOWN) for name in self._values}
        keys = [self._fates.get(name, unknown[name]) for name in self._values]
        return Converted(config, (*keys, *self._built_in), self.nproc)

    def _note(self, name: str, fate: Fate, why: str) -> None:
        if name in self._values:
            self._fates[name] = KeyFate(name, fate, why)

    def _name(self, names: Sequence[str]) -> str | None:
        return next((name for name in names if self._values.get(name) not in (None, "")), None)

    def _number(self, name: str, value: Any) -> float:
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            self.refuse(name, "a finite number")
        return number
