"""The images whose features are nearest to those of a query (Figure 4, right), exactly."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from ..data.pack.reading import Images
from ..specs.names import not_one_of

Metric = Literal["euclidean", "cosine"]
BLOCK_BYTES = 2**26
"""Features of the index that are in memory at a time."""
GROUP_DISTANCES = 2**23
"""Distances that are in memory at a time."""


@dataclass(frozen=True)
class Neighbor:
    """An image that is near to a query."""

    index: int
    """In the pack."""
    distance: float
    """Euclidean, or 1 − cosine."""


@dataclass(frozen=True)
class Neighbors:
    """What is nearest to a query, the nearest first."""

    query: str
    pixels: np.ndarray
    """The query as stored, (side, side, 3), uint8."""
    nearest: tuple[Neighbor, ...]
    duplicates: tuple[int, ...]
    """Indices in the pack of images with the same pixels as the query, which are not among the nearest."""
    images: Images

    def facts(self) -> dict:
        """As JSON."""
        images = self.images
        nearest = [
            {"path": images.path(each.index), "label": images.label(each.index), "distance": each.distance}
            for each in self.nearest
        ]
        return {"query": self.query, "nearest": nearest, "duplicates": [images.path(each) for each in self.duplicates]}


def search(
    queries: np.ndarray,
    pixels: np.ndarray,
    names: list[str],
    features: np.ndarray,
    images: Images,
    k: int = 6,
    metric: Metric = "euclidean",
) -> list[Neighbors]:
    """The k nearest images of each query, without the query itself and others of the same pixels.

    Args:
        queries: their features, (queries, …).
        pixels: the queries as stored, (queries, side, side, 3), uint8.
        features: of the images, (images, …), in memory or mapped.
    """
    each = zip(queries, pixels, names, strict=True)
    return [_neighbors(query, stored, name, features, images, k, metric) for query, stored, name in each]


def _neighbors(
    query: np.ndarray, stored: np.ndarray, name: str, features: np.ndarray, images: Images, k: int, metric: Metric
) -> Neighbors:
    own, count = Path(name).resolve() if name else None, k
    while True:  # until there are k others
        count = min(2 * count + 1, len(features))
        rows, distances = nearest(query, features, count, metric)
        near = [Neighbor(int(images.indices[row]), float(d)) for row, d in zip(rows, distances, strict=True)]
        itself = [each.index for each in near if own and Path(images.path(each.index)).resolve() == own]
        same = [each.index for each in near if (images.packed.images[each.index] == stored).all()]
        others = [each for each in near if each.index not in (*itself, *same)]
        if len(others) >= k or count == len(features):
            duplicates = tuple(index for index in same if index not in itself)
            return Neighbors(name, stored, tuple(others[:k]), duplicates, images)


def nearest(
    query: np.ndarray, features: np.ndarray, k: int, metric: Metric = "euclidean"
) -> tuple[np.ndarray, np.ndarray]:
    """Rows and distances of the k nearest, the nearest first, equal ones in their order; each (k,).

    Distances by a matrix product in float32, ‖a‖² + ‖b‖² − 2ab, are off by far more than small distances (−32 for 0.4
    is common). They only choose candidates: all rows that can be among the nearest within the bound of their error.
    These are ranked by differences in float64.

    Args:
        query: its features, of any shape.

    Raises:
        ValueError: there is no such metric, or k is below 1.
    """
    ((rows, distances),) = nearest_each(np.asarray(query).reshape(1, -1), features, k, metric)
    return rows, distances


def nearest_each(
    queries: np.ndarray, features: np.ndarray, k: int, metric: Metric = "euclidean"
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """As `nearest`, for each of many queries, (queries, values); the features are read once for a group of them."""
    if metric not in get_args(Metric):
        raise ValueError(not_one_of("metric", metric, get_args(Metric)))
    if k < 1:
        raise ValueError(f"k must be >= 1, got {k}")
    k, group = min(k, len(features)), max(1, GROUP_DISTANCES // len(features))
    for first in range(0, len(queries), group):
        some = np.asarray(queries[first : first + group], np.float64)
        lowest, highest = _bounds(some, features, metric)
        for query, low, high in zip(some, lowest, highest, strict=True):
            candidates = np.flatnonzero(low <= np.partition(high, k - 1)[k - 1])
            exact = np.concatenate([_distances(query, features[part], metric) for part in _parts(candidates, features)])
            order = np.argsort(exact, kind="stable")[:k]
            yield candidates[order], exact[order]


def _bounds(queries: np.ndarray, features: np.ndarray, metric: Metric) -> tuple[np.ndarray, np.ndarray]:
    """Between what squared distances lie, by a matrix product in float32, each (queries, images)."""
    scaled = _normalized(queries) if metric == "cosine" else queries
    of_queries = np.square(scaled).sum(1, keepdims=True)
    lowest, highest = (np.empty((len(queries), len(features))) for _ in range(2))
    for rows, block in _blocks(features):
        block = _normalized(block) if metric == "cosine" else block
        squares = np.einsum("nd,nd->n", block, block, dtype=np.float64)
        distances = of_queries + squares - 2.0 * (scaled.astype(np.float32) @ block.T)
        # A float32 dot product is off by at most D · ε · ‖a‖ ‖b‖, and rounding its factors adds a few ε.
        error = 2 * (block.shape[1] + 4) * np.finfo(np.float32).eps * np.sqrt(squares * of_queries) + 1e-12 * squares
        lowest[:, rows], highest[:, rows] = distances - error, distances + error
    return lowest, highest


def precision(features: np.ndarray, labels: np.ndarray, queries: np.ndarray, k: int, metric: Metric) -> float:
    """The mean fraction of a query's k nearest images that have its class; the query itself is not among them.

    Args:
        labels: (images,).
        queries: rows that are searched for, (N,).
    """
    hits, vectors = [], features[queries].reshape(len(queries), -1)
    for row, (rows, _) in zip(queries.tolist(), nearest_each(vectors, features, k + 1, metric), strict=True):
        hits.append((labels[rows[rows != row][:k]] == labels[row]).mean())
    return float(np.mean(hits))


def chance(labels: np.ndarray, queries: np.ndarray) -> float:
    """The precision of a random order."""
    counts = np.bincount(labels)
    return float(((counts[labels[queries]] - 1) / (len(labels) - 1)).mean())


def _distances(query: np.ndarray, rows: np.ndarray, metric: Metric) -> np.ndarray:
    rows = rows.reshape(len(rows), -1).astype(np.float64)
    if metric == "euclidean":
        return np.sqrt(np.square(rows - query).sum(1))
    return np.square(_normalized(rows) - _normalized(query[None])).sum(1) / 2  # 1 − cosine, and never below 0


def _normalized(rows: np.ndarray) -> np.ndarray:
    """Rows of length 1; zeros stay zeros."""
    norms = np.sqrt(np.square(rows, dtype=np.float64).sum(1, keepdims=True))
    return (rows / np.where(norms == 0, 1, norms)).astype(rows.dtype)


def _blocks(features: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    for part in _parts(np.arange(len(features)), features):
        yield slice(part[0], part[-1] + 1), features[part[0] : part[-1] + 1].reshape(len(part), -1).astype(np.float32)


def _parts(rows: np.ndarray, features: np.ndarray) -> list[np.ndarray]:
    """The rows in parts that fit into memory."""
    step = max(1, BLOCK_BYTES // (8 * max(1, features[0].size)))
    return [rows[first : first + step] for first in range(0, len(rows), step)]
