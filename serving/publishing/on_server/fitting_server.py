"""Whether a running server can take a version from a repository at all: asked first, before any work.

Reading, exporting and trying a model may take minutes, and none of it helps where nobody answers, loading is not
allowed, or the server reads another repository. Triton's index lists the folders of its repository whatever they hold,
so an empty one is made there for a moment and looked for.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from tritonclient import grpc as triton
from tritonclient.utils import InferenceServerException

from ....converters.runtime.calling.access_key import grpc_headers
from ....converters.runtime.calling.failures import RequestTimeoutError, ServerUnreachableError
from ....errors import InputError, PlatformError
from ....finetune.processes.locking import exclusive
from ...repository.repository import CANDIDATE_PREFIX, LOCK_FILE
from .rollout import load_on_server

__all__ = ["require_fitting_server"]

_ASK_SECONDS = 5.0
_PROBE = f"{CANDIDATE_PREFIX}probe"


def require_fitting_server(url: str, repository: Path) -> None:
    """Refuse a server at `url` (host:port of gRPC) that cannot take versions from `repository`.

    Where that cannot be found out within seconds, because another publisher is at work, nothing is refused here.

    Raises:
        InputError: it reads another repository, or was not started with explicit model control.
        PlatformError: no Triton answers within 5 s, or it restricts loading to another user.
    """
    _require_answer(url)
    if not repository.is_dir():
        raise InputError(f"{url}: {_FOREIGN.format(repository=repository)}, which does not exist{_WAY_OUT}")
    try:
        load_on_server(url, _PROBE, timeout=_ASK_SECONDS)  # of no such model: it tells only whether loading is allowed
    except InputError as error:
        if "explicit" in str(error):
            raise
    except RequestTimeoutError:
        return
    if _is_listed(url, repository) is False:
        raise InputError(f"{url}: {_FOREIGN.format(repository=repository.resolve())}{_WAY_OUT}")


_FOREIGN = "does this server read another repository? It does not see what lies in {repository}"
_WAY_OUT = "; give --repository as the server was started, or the --url of its own server"


def _require_answer(url: str) -> None:
    client = triton.InferenceServerClient(url)
    try:
        client.is_server_live(client_timeout=_ASK_SECONDS)
    except InferenceServerException as error:
        raise ServerUnreachableError(
            f"{url}: the server does not answer within {_ASK_SECONDS:g} s; start one with `rtool serve`, and give the "
            "port that it names gRPC"
        ) from error
    finally:
        client.close()


def _is_listed(url: str, repository: Path) -> bool | None:
    """Whether the server lists a folder made in the repository; None where that cannot be tried."""
    client = triton.InferenceServerClient(url)
    probe = repository / _PROBE
    try:
        with exclusive(repository / LOCK_FILE, timeout=0.0, purpose="publishing"):  # so that nobody sweeps it away
            probe.mkdir(exist_ok=True)
            try:
                index = client.get_model_repository_index(
                    headers=dict(grpc_headers(url)), client_timeout=_ASK_SECONDS
                ).models
            finally:
                probe.rmdir()
    except (PlatformError, OSError, InferenceServerException):
        return None
    finally:
        with suppress(Exception):
            client.close()
    return any(entry.name == _PROBE for entry in index)
