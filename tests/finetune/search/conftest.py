"""A search of a second: three cells of one node on 32 x 16 pixels."""

from pathlib import Path

import pytest
import yaml

SEARCH: dict[str, object] = {
    "operations": ["none", "skip", "sep3"],
    "nodes": 1,
    "channels": 4,
    "embedding_size": 8,
    "warmup": 0.2,
    "shortlist": 2,
    "shortlist_steps": 2,
}
RUN: dict[str, object] = {
    "name": "tiny",
    "epochs": 2,
    "log_every": 1,
    "model": {"reference": "searched", "size": [32, 16]},
    "data": {
        "train": "synthetic-people:identities=8,images=8,seed=1,size=32x16",
        "evaluate": "synthetic-people:identities=4,images=8,seed=2,size=32x16",
        "batch": 8,
        "sampler": "pk",
        "images_per_identity": 2,
    },
    "augment": {"flip": 0.5},
    "losses": [{"kind": "softmax", "weight": 0.5}, {"kind": "triplet", "weight": 0.5}],
    "optimizer": {"kind": "sgd", "lr": 0.05},
    "tracking": {"tensorboard": False},
}


@pytest.fixture
def search_recipe(tmp_path: Path):
    """Writes the configuration of a search, fields of its section and of the run replaced; the path."""

    def write(search: dict[str, object] | None = None, **sections: object) -> Path:
        path = tmp_path / "search.yaml"
        content = {**RUN, "output": str(tmp_path / "runs"), "search": {**SEARCH, **(search or {})}, **sections}
        path.write_text(yaml.safe_dump(content))
        return path

    return write
