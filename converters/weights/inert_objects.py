"""Stand-ins for the objects that training programs pickle beside the weights; none is made, imported or kept.

torch's `weights_only` unpickler refuses whatever it does not list. What is listed here in addition is replaced by an
empty object that ignores what it is given: NumPy's scalars and arrays (torchreid's `rank1`), paths and dates, and the
mappings in which programs keep their hyper-parameters (Lightning, yacs, easydict, OmegaConf).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

__all__ = ["STAND_INS"]

_NAMES = (
    "numpy.dtype",
    "numpy.ndarray",
    *(f"numpy.{core}.multiarray.{what}" for core in ("core", "_core") for what in ("scalar", "_reconstruct")),
    "argparse.Namespace",
    "types.SimpleNamespace",
    *(f"builtins.{name}" for name in ("list", "dict", "tuple", "int", "float", "str", "bool", "frozenset", "slice")),
    *(f"datetime.{name}" for name in ("date", "datetime", "time", "timedelta", "timezone")),
    *(
        f"{module}.{system}{name}"
        for module in ("pathlib", "pathlib._local")
        for system in ("Pure", "")
        for name in ("Path", "PosixPath", "WindowsPath")
    ),
    "uuid.UUID",
    "typing.Any",
    *(
        f"omegaconf.{name}"
        for name in (
            "base.ContainerMetadata",
            "base.Metadata",
            "dictconfig.DictConfig",
            "listconfig.ListConfig",
            *(f"nodes.{kind}Node" for kind in ("Any", "Boolean", "Bytes", "Float", "Integer", "Path", "String")),
        )
    ),
)
"""Full names, as pickles have them."""


_MAPPINGS = (
    "collections.defaultdict",
    "easydict.EasyDict",
    *(f"{module}.config.CfgNode" for module in ("yacs", "fvcore.common", "fastreid.config")),
    *(
        f"{module}.AttributeDict"
        for module in (
            "lightning.fabric.utilities.data",
            "lightning.pytorch.utilities.parsing",
            "lightning_fabric.utilities.data",
            "pytorch_lightning.utilities.parsing",
        )
    ),
)
"""Subclasses of dict: torch's unpickler puts items into its own kinds of mappings alone, so one of those is made."""


class _Discarded:
    """Takes and forgets whatever a file says of an object."""

    __slots__ = ()

    def __new__(cls, *_: Any) -> _Discarded:
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        """Forget the state too."""


class _Mapping:
    """Makes a plain mapping of strings and numbers, whatever the class."""

    def __new__(cls, *_: Any) -> OrderedDict[Any, Any]:  # type: ignore[misc]
        return OrderedDict()


class _List:
    """Makes a plain list."""

    def __new__(cls, *_: Any) -> list[Any]:  # type: ignore[misc]
        return []


STAND_INS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    *((_Discarded, name) for name in _NAMES),
    *((_Mapping, name) for name in _MAPPINGS),
    (_List, "collections.deque"),
]
"""For `torch.serialization.safe_globals`."""
