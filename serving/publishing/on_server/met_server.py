"""The server that a command meets at an address: its version, its release, and what that release lacks and reads.

Any program can state any version. What is said here informs; nothing depends on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tritonclient import grpc as triton
from tritonclient.utils import InferenceServerException

from ....converters.files.model_bytes import read_model_bytes
from ...releases.advisories import Advisory, lacking, what_it_lacks
from ...releases.server_versions import NEWEST_KNOWN, release_of

__all__ = ["MetServer", "meet_server", "why_it_may_refuse"]

_ASK_SECONDS = 5.0


@dataclass(frozen=True)
class MetServer:
    """What a server says of itself. `release` is None where the version is of no release known here."""

    version: str
    release: str | None
    advisories: tuple[Advisory, ...]
    """Security fixes that the release lacks, the highest score first."""

    def __str__(self) -> str:
        """One line: version, release, and the gravest advisories."""
        if self.release is None:
            return (
                f"Triton {self.version}, of no release known here (up to {NEWEST_KNOWN}); read its security bulletins"
            )
        lacks = what_it_lacks(self.release) or f"Triton {self.release} lacks no security fix known here"
        more = "; --json names all" if len(self.advisories) > 3 else ""
        return f"Triton {self.version}; {lacks}{more}"


def meet_server(url: str) -> MetServer | None:
    """The server at `url` (host:port of gRPC); None where none answers within 5 s."""
    client = triton.InferenceServerClient(url)
    try:
        version = str(client.get_server_metadata(client_timeout=_ASK_SECONDS).version)
    except InferenceServerException:
        return None
    finally:
        client.close()
    release = release_of(version)
    return MetServer(version, release, lacking(release) if release else ())


def why_it_may_refuse(url: str, model: Path) -> str:
    """What the release at `url` cannot read of an ONNX file, for the message of a failed load; "" where it reads it.

    The server that rtool downloads states 24.10, but runs the ONNX Runtime installed beside rtool, which reads more.
    """
    import onnx
    from google.protobuf.message import DecodeError

    from ....converters.passes.targets import TARGETS, find_target, target_problems
    from ....errors import RtoolError

    met = meet_server(url)
    target = f"triton:{met.release}" if met is not None else ""
    if met is None or target not in TARGETS:
        return ""
    try:
        proto = onnx.ModelProto.FromString(read_model_bytes(model))
    except (RtoolError, DecodeError, OSError):
        return ""
    newest = find_target(target).ir_version
    problems = [f"IR version {proto.ir_version} is newer than {newest}"] if proto.ir_version > newest else []
    problems += target_problems(proto, target)
    if not problems:
        return ""
    return f"; the server states release {met.release}, which reads less: {'; '.join(problems)}; use --target {target}"
