"""What a configuration states of the files behind each version: their SHA-256, by which clients tell versions apart.

`config.pbtxt` gets the parameter `rtool.sha256`, JSON from the number of a version to the digest of its file, for all
versions whose manifests name one; Triton's back ends ignore keys that they do not know. The embedding cache of clients
needs it. That a file is the one which is named, `integrity.py` and the back end check.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from ...converters.runtime.triton import DIGESTS_KEY
from ..repository.model_config import ModelConfig
from ..repository.repository import ModelFolder

__all__ = ["state_digests"]


def state_digests(configs: Iterable[ModelConfig], folder: ModelFolder, version: int, sha256: str) -> None:
    """Write the digests into `configs`, in place: of `version` this one, of earlier versions those of their manifests.

    Raises:
        InputError: a manifest is not JSON.
    """
    found = {number: (folder.manifest(number) or {}).get("sha256") for number in folder.versions()}
    stated = {
        str(number): digest for number, digest in sorted({**found, version: sha256}.items()) if isinstance(digest, str)
    }
    for config in configs:
        config.parameters[DIGESTS_KEY].string_value = json.dumps(stated)
