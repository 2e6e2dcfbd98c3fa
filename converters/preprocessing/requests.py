"""What a user says of a preprocessing: `--preprocessing` and `model.preprocessing`.

A text is `auto`, a name, a JSON file with the keys of `Preprocessing`, or parts separated by commas: a name first, if
any, then `mean`, `std`, `order`, `size`, `interpolation`. What is not said is as it would be without it:

    arcface                 arcface-bgr,size=128x128            order=bgr
    mean=127.5,std=128      mean=123.7,116.3,103.5,std=58.4,57.1,57.4,order=bgr,size=256x128,interpolation=bicubic

Mean and standard deviation are in units of pixels, 0 to 255; one number stands for all channels.

Sources of the named numbers: torchvision (imagenet), insightface's arcface_torch (arcface), OpenAI's CLIP (clip).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ...errors import InputError, nearest
from ..records.json_text import parse_json
from ..records.preprocessing import ARCFACE, IMAGENET, Preprocessing

__all__ = ["AUTO", "PREPROCESSINGS", "WAYS", "PreprocessingRequest", "read_request"]

AUTO = "auto"
"""The text that asks for nothing: the model's own preprocessing."""

_CLIP_MEAN, _CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

PREPROCESSINGS: Mapping[str, Preprocessing] = {
    "imagenet": IMAGENET,
    "arcface": ARCFACE,
    "arcface-bgr": replace(ARCFACE, channel_order="bgr"),
    "raw": Preprocessing(112, 112, (0.0,) * 3, (1.0,) * 3),
    "clip": Preprocessing(
        224,
        224,
        tuple(255 * value for value in _CLIP_MEAN),
        tuple(255 * value for value in _CLIP_STD),
        interpolation="bicubic",
    ),
}
"""The names that stand for a preprocessing; its size is that of the model, where the model has one."""

WAYS = (
    f"{', '.join(PREPROCESSINGS)}, a JSON file, or "
    "mean=127.5,std=128 with order=bgr,size=HxW,interpolation=bicubic as needed"
)
"""What a text may say, for messages and help."""


@dataclass(frozen=True)
class PreprocessingRequest:
    """What is asked for: fields of `Preprocessing`, by name; `size` counts as one, a single number as all channels."""

    words: str
    """As the user said it."""
    values: Mapping[str, Any] = field(default_factory=dict)

    @property
    def normalises(self) -> bool:
        """Whether it says a mean and a standard deviation."""
        return "mean" in self.values

    def numbers(self, name: str, channels: int) -> tuple[float, ...]:
        """The `mean` or `std` for `channels` channels.

        Raises:
            InputError: it has another number of them.
        """
        given: tuple[float, ...] = self.values[name]
        if len(set(given)) == 1:
            return given[:1] * channels
        if len(given) != channels:
            raise InputError(
                f"preprocessing {self.words}: has {name} {list(given)}, and the model takes images of {channels} "
                f"channel{'s' * (channels > 1)}; give {channels} number{'s' * (channels > 1)}, as {name}=127.5"
            )
        return given


def read_request(said: str | Preprocessing | PreprocessingRequest | None) -> PreprocessingRequest | None:
    """The request in a text, or in a preprocessing as it is; None where nothing is asked for.

    Raises:
        InputError: an unknown name or key, a value that it cannot have, or a file that is none.
    """
    if said is None or isinstance(said, PreprocessingRequest):
        return said
    if isinstance(said, Preprocessing):
        return _of_preprocessing("given", said, sized=True)
    text = said.strip()
    if text == AUTO:
        return None
    if "=" not in text and text not in PREPROCESSINGS:
        return _of_file(text)
    parts = _parts(text)
    values = (
        dict(_of_preprocessing(text, PREPROCESSINGS[parts.pop("name")[0]], sized=False).values)
        if ("name" in parts)
        else {}
    )
    for key, items in parts.items():
        values[key] = _READERS[key](text, items)
    if ("mean" in values) != ("std" in values):
        raise InputError(f"preprocessing {text}: give both mean and std, such as mean=127.5,std=128")
    return _checked(PreprocessingRequest(text, values))


def _of_preprocessing(words: str, made: Preprocessing, *, sized: bool) -> PreprocessingRequest:
    values: dict[str, Any] = {
        "mean": made.mean,
        "std": made.std,
        "interpolation": made.interpolation,
        "order": made.channel_order,
    }
    if sized:
        values |= {"size": (made.height, made.width), "layout": made.layout}
    elif made.channel_order == "rgb":
        del values["order"]  # a name that says no order suits grey networks too
    return PreprocessingRequest(words, values)


def _of_file(text: str) -> PreprocessingRequest:
    path = Path(text)
    if not path.is_file():
        raise InputError(
            f"preprocessing {text!r}: no such file and no known name; {nearest(text, PREPROCESSINGS)}; it takes {WAYS}"
        )
    try:
        data = parse_json(path.read_text(encoding="utf-8"))
        made = Preprocessing.from_dict(data)
    except InputError as error:
        raise InputError(f"{text}: {error}") from error
    except (ValueError, OSError) as error:
        raise InputError(f"{text}: expected a preprocessing as JSON ({error})") from error
    missing = [name for name in ("mean", "std") if name not in data]
    if missing:
        raise InputError(f"{text}: {missing[0]!r} is missing; give mean and std, one number per channel, 0 to 255")
    return _checked(_of_preprocessing(text, made, sized=True))


def _parts(text: str) -> dict[str, list[str]]:
    """The items of every key; a part without `=` continues the key before it, and the first one is a name."""
    parts: dict[str, list[str]] = {}
    key = ""
    for part in text.split(","):
        before, equals, after = part.partition("=")
        if equals:
            key = before.strip()
            if key not in _READERS:
                raise InputError(f"preprocessing {text}: unknown key {key!r}; {nearest(key, _READERS)}")
            if key in parts:
                raise InputError(f"preprocessing {text}: {key} is there twice")
            parts[key] = [after]
        elif key:
            parts[key].append(part)
        elif not parts and part.strip() in PREPROCESSINGS:
            parts["name"] = [part.strip()]
        else:
            raise InputError(
                f"preprocessing {text}: {part!r} is not a known name; {nearest(part, PREPROCESSINGS)}; it takes {WAYS}"
            )
    return parts


def _numbers(text: str, items: list[str]) -> tuple[float, ...]:
    try:
        return tuple(float(item.strip(" []()")) for item in items)
    except ValueError:
        raise InputError(
            f"preprocessing {text}: expected numbers, got {','.join(items)!r}; such as mean=123.7,116.3,103.5"
        ) from None


def _size(text: str, items: list[str]) -> tuple[int, int]:
    height, _, width = ",".join(items).strip().partition("x")
    if not (height.isascii() and height.isdigit() and width.isascii() and width.isdigit()):
        raise InputError(f"preprocessing {text}: expected size=HEIGHTxWIDTH, such as size=256x128")
    return int(height), int(width)


def _word(_: str, items: list[str]) -> str:
    return ",".join(items).strip()


_READERS: Mapping[str, Callable[[str, list[str]], Any]] = {
    "mean": _numbers,
    "std": _numbers,
    "order": _word,
    "size": _size,
    "interpolation": _word,
}


def _checked(request: PreprocessingRequest) -> PreprocessingRequest:
    """Refuse what no `Preprocessing` can have, and numbers that are in units of 0..1."""
    values = request.values
    mean, std = values.get("mean", (0.0,)), values.get("std", (1.0,))
    order = values.get("order", "rgb")
    channels = max(len(mean), len(std), 1 if order == "grey" else 3)
    height, width = values.get("size", (1, 1))
    try:
        Preprocessing(
            height,
            width,
            mean * channels if len(mean) == 1 else mean,
            std * channels if len(std) == 1 else std,
            order,
            values.get("interpolation", "bilinear"),
        )
    except InputError as error:
        raise InputError(f"preprocessing {request.words}: {str(error).removeprefix('preprocessing: ')}") from error
    if max(map(abs, mean)) <= 1 and max(std) < 1:
        scaled = ",".join(f"{255 * value:g}" for value in mean), ",".join(f"{255 * value:g}" for value in std)
        raise InputError(
            f"preprocessing {request.words}: mean and std are in units of pixels, 0 to 255; for numbers in units of "
            f"0 to 1 write mean={scaled[0]},std={scaled[1]}"
        )
    return request
