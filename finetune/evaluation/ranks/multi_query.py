"""Multi-query retrieval: one query for all images of a person under one camera.

As in Zheng et al., "Scalable Person Re-identification: A Benchmark", ICCV 2015: the embeddings of the images of a
query's identity and camera are averaged. Those in the gallery are among them, for the protocol drops them from this
query's ranking. Where the camera is unknown nothing is dropped, and only queries are averaged.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["averaged_queries"]

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]


def averaged_queries(
    query: Floats,
    gallery: Floats,
    query_ids: Indices,
    gallery_ids: Indices,
    query_cameras: Indices,
    gallery_cameras: Indices,
) -> tuple[Floats, Indices, Indices]:
    """One embedding for each identity and camera among the queries: float32 [n, D], identities and cameras int64 [n].

    Arguments as of `rank_retrieval`, the embeddings as they are compared.
    """
    keys, group = np.unique(np.stack([query_ids, query_cameras], axis=1), axis=0, return_inverse=True)
    group = group.reshape(-1)
    sums = np.zeros((len(keys), query.shape[1]))
    np.add.at(sums, group, query)
    counts = np.bincount(group, minlength=len(keys))
    place = {(identity, camera): number for number, (identity, camera) in enumerate(keys.tolist()) if camera >= 0}
    seen = zip(gallery_ids.tolist(), gallery_cameras.tolist(), strict=True)
    owner = np.array([place.get(key, -1) for key in seen], dtype=np.int64)
    np.add.at(sums, owner[owner >= 0], gallery[owner >= 0])
    counts += np.bincount(owner[owner >= 0], minlength=len(keys))
    return (sums / counts[:, None]).astype(np.float32), keys[:, 0], keys[:, 1]
