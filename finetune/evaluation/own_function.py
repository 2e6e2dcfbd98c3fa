"""An evaluation of one's own: a Python function that is given embeddings and labels, and returns numbers.

    # my_metrics.py
    def spread(images):
        centre = images.embeddings.mean(axis=0)
        return {"spread": float(((images.embeddings - centre) ** 2).sum(axis=1).mean())}

    evaluation: {function: my_metrics:spread, metric: spread}        # in a configuration
    rtool evaluate model.onnx faces/ --function my_metrics:spread

The module is looked for in the current folder first. It is code of the user's, and is run.
"""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError, nearest
from ..data.dataset import Dataset

__all__ = ["EvaluatedImages", "OwnFunction", "OwnResult", "call_own", "load_function"]

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class EvaluatedImages:
    """What the function is given: N readable images, in the order of the data set."""

    name: str
    """Of the data set."""
    embeddings: Floats
    """float32 [N, D] as the model gives them; with flip, the sum with those of the mirror images."""
    identities: Indices
    """int64 [N], from 0; -1 for distractors."""
    cameras: Indices
    """int64 [N]; -1 where unknown."""
    names: tuple[str, ...]
    """Of the images, by which messages name them."""
    is_query: NDArray[np.bool_] | None
    """bool [N], the queries of a data set that fixes them."""
    pairs: Indices | None
    """int64 [P, 3] of a list of pairs: image, image, 1 for the same person."""


OwnFunction = Callable[[EvaluatedImages], Mapping[str, float]]
"""From images to named numbers; of one that chooses checkpoints, larger is better."""


@dataclass(frozen=True)
class OwnResult:
    """The numbers by name."""

    values: dict[str, float] = field(default_factory=dict)

    @property
    def protocol(self) -> str:
        """The name of the protocol, for reports."""
        return "function"


def load_function(text: str) -> OwnFunction:
    """The function that `module:name` names.

    Raises:
        ConfigError: the text has another form, the module cannot be imported, or has no such function.
    """
    module_name, colon, name = text.partition(":")
    if not colon or not name.isidentifier() or not all(part.isidentifier() for part in module_name.split(".")):
        raise ConfigError(
            f"evaluation.function: '{text}' is not MODULE:NAME; `my_metrics:spread` is the function spread of "
            "my_metrics.py in the current folder or on Python's path"
        )
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise ConfigError(
                f"evaluation.function: no module '{module_name}' in {folder} or on Python's path; start the command "
                "in the folder of the file, or set PYTHONPATH"
            ) from error
        raise ConfigError(f"evaluation.function: {module_name} needs a module that is not there: {error}") from error
    except Exception as error:  # whatever the user's code raises while it is imported
        raise ConfigError(f"evaluation.function: {module_name} cannot be imported: {_named(error)}") from error
    finally:
        sys.path.remove(folder)
    if not hasattr(module, name):
        functions = [key for key, value in vars(module).items() if callable(value)]
        hint = nearest(name, functions) if functions else "it has no function"
        raise ConfigError(f"evaluation.function: {module_name} has no '{name}'; {hint}")
    function = getattr(module, name)
    if not callable(function):
        raise ConfigError(f"evaluation.function: {text} is a {type(function).__name__}, not a function")
    loaded: OwnFunction = function
    return loaded


def call_own(function: OwnFunction, dataset: Dataset, embeddings: Floats) -> OwnResult:
    """Call the function on a data set and its embeddings float32 [N, D].

    Raises:
        ConfigError: the function raises, or returns something else than finite numbers by name.
    """
    images = EvaluatedImages(
        dataset.name,
        embeddings,
        dataset.identities,
        dataset.cameras,
        tuple(dataset.names),
        dataset.is_query,
        dataset.pairs,
    )
    name = f"evaluation.function: {getattr(function, '__module__', '')}:{getattr(function, '__name__', function)}"
    try:
        returned = function(images)
    except Exception as error:  # whatever the user's code raises
        raise ConfigError(f"{name} failed: {_named(error)}") from error
    if not isinstance(returned, Mapping) or not returned:
        raise ConfigError(f"{name} returned {type(returned).__name__}, expected a dict from names to numbers")
    return OwnResult({_key(name, key): _number(name, key, value) for key, value in returned.items()})


def _key(name: str, key: object) -> str:
    if not isinstance(key, str) or not key:
        raise ConfigError(f"{name} returned the key {key!r}, expected a name")
    return key


def _number(name: str, key: object, value: object) -> float:
    if isinstance(value, bool | str) or not hasattr(value, "__float__"):
        raise ConfigError(f"{name} returned {type(value).__name__} for '{key}', expected a number")
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name} returned {type(value).__name__} for '{key}', expected one number") from error
    if not math.isfinite(number):
        raise ConfigError(f"{name} returned {number} for '{key}', expected a finite number")
    return number


def _named(error: Exception) -> str:
    """The error with its class and the line of the user's code that raised it."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = f" ({Path(place.tb_frame.f_code.co_filename).name}, line {place.tb_lineno})" if place is not None else ""
    return f"{type(error).__name__}: {error}{where}"
