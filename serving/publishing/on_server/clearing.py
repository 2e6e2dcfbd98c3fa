"""Make a server ready again after it refused to load a version.

Triton remembers a refused version as UNAVAILABLE with the reason, through every unload, even when its folder is gone.
While it does, `/v2/health/ready` answers 400 although every model serves, and a balancer that watches that door would
drain the server. (`--strict-readiness=false` would hide the models that really do not serve.) The same version number
under the same name forgets its refusal when it is loaded well and unloaded. So a stand-in is loaded in its place for a
moment: under a name that serves, the files that serve already; under any other, a model that no client's request fits.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from ....errors import RtoolError
from ...repository.model_config import parse_config, served_versions, set_versions, write_config
from ...repository.repository import CONFIG_FILE, MANIFEST_FILE, MODEL_FILE, ModelFolder
from ..publication import STAND_IN, Publication, publish, remove_whole
from ..snapshot import Snapshot
from .rollout import load_on_server, unload_from_server

__all__ = ["clear_refusal", "clear_refused_update"]

_LOAD_SECONDS = 30.0
_INPUT, _OUTPUT = "rtool_nothing", "rtool_nothing_too"
_CONFIG = """name: "{name}"
backend: "onnxruntime"
max_batch_size: 0
input {{ name: "rtool_nothing" data_type: TYPE_FP32 dims: 1 }}
output {{ name: "rtool_nothing_too" data_type: TYPE_FP32 dims: 1 }}
instance_group {{ kind: KIND_CPU count: 1 }}
version_policy {{ specific {{ versions: {version} }} }}
"""


def clear_refusal(url: str, folder: ModelFolder, version: int, staging: Path) -> None:
    """Make the server forget that it refused `version` of a model that nobody is served; its folder is removed."""
    if folder.path.exists():
        remove_whole(folder.path, staging)
    config = {CONFIG_FILE: _CONFIG.format(name=folder.name, version=version)}
    files = {MODEL_FILE: _identity(staging), STAND_IN: _mark(staging)}
    publish(Publication(folder, version, files, {}, config, (), {}), staging)
    try:
        with suppress(RtoolError):
            load_on_server(url, folder.name, timeout=_LOAD_SECONDS)
    finally:
        unload_from_server(url, folder.name, timeout=_LOAD_SECONDS)
        remove_whole(folder.path, staging)


def clear_refused_update(url: str, before: Snapshot, version: int, staging: Path) -> None:
    """Make the server forget that it refused `version` of a model that serves; folder and server end as `before`.

    The version that serves is loaded a second time under the refused number, so that answers stay what they are; both
    are in memory meanwhile.
    """
    folder = before.folder
    config = parse_config(folder.config_path.read_text(), folder.config_path)
    served = max(served_versions(config) or folder.versions(), default=0)
    source = folder.version_path(served)
    if not source.is_dir():
        return
    set_versions(config, (*served_versions(config), version))
    files = {path.name: path for path in source.iterdir() if path.is_file() and path.name != MANIFEST_FILE}
    manifest = folder.manifest(served) or {}
    try:
        publish(Publication(folder, version, files, {}, {CONFIG_FILE: write_config(config)}, (), manifest), staging)
        with suppress(RtoolError):
            load_on_server(url, folder.name, timeout=_LOAD_SECONDS)
    finally:
        before.restore(staging)
        with suppress(RtoolError):
            load_on_server(url, folder.name)


def _mark(staging: Path) -> Path:
    path = staging / STAND_IN
    path.touch()
    return path


def _identity(staging: Path) -> Path:
    """A model that every ONNX Runtime loads: one float32 number, unchanged."""
    from onnx import TensorProto, helper, save

    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in (_INPUT, _OUTPUT)]
    graph = helper.make_graph([helper.make_node("Identity", [_INPUT], [_OUTPUT])], "nothing", values[:1], values[1:])
    path = staging / "nothing.onnx"
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7), path)
    return path
