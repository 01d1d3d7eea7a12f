"""The built-in comparators as ONNX graphs: the scores of all first embeddings with all second."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from siamese_jax.inference.export.onnx_encoders import unit
from siamese_jax.inference.export.onnx_graph import Graph
from siamese_jax.models import comparators
from siamese_jax.models.comparators import Comparator

Place = tuple[tuple[int, int], tuple[int, int]]  # first and last + 1 of rows and of columns


def l1(graph: Graph, comparator: Comparator, params: Mapping, h1: str, h2: str) -> str:
    """The graph of `L1`."""
    del comparator
    return _weighted(graph, params, graph.add("Abs", _differences(graph, h1, h2)))


def l2(graph: Graph, comparator: Comparator, params: Mapping, h1: str, h2: str) -> str:
    """The graph of `L2`."""
    del comparator
    difference = _differences(graph, h1, h2)
    return _weighted(graph, params, graph.add("Mul", difference, difference))


def euclidean(graph: Graph, comparator: Comparator, params: Mapping, h1: str, h2: str) -> str:
    """The graph of `Euclidean`."""
    del comparator
    return _scaled(graph, params, graph.add("Sqrt", _squared_distances(graph, h1, h2)), sign=-1)


def squared_euclidean(
    graph: Graph, comparator: Comparator, params: Mapping, h1: str, h2: str
) -> str:
    """The graph of `SquaredEuclidean`."""
    del comparator
    return _scaled(graph, params, _squared_distances(graph, h1, h2), sign=-1)


def cosine(graph: Graph, comparator: Comparator, params: Mapping, h1: str, h2: str) -> str:
    """The graph of `Cosine`."""
    del comparator
    return _scaled(graph, params, _products(graph, unit(graph, h1), unit(graph, h2)))


def bilinear(graph: Graph, comparator: Comparator, params: Mapping, h1: str, h2: str) -> str:
    """The graph of `Bilinear`."""
    matrix = np.asarray(params["matrix"])
    if comparator.symmetric:
        matrix = (matrix + matrix.T) / 2
    h1 = graph.add("MatMul", h1, graph.constant(matrix))
    return graph.add("Add", _products(graph, h1, h2), graph.constant(params["bias"]))


def local(graph: Graph, comparator: Comparator, params: Mapping, h1: str, h2: str) -> str:
    """The graph of `Local`, move by move as `models.distances.local_similarity`."""
    rows, columns = comparator.places
    shape = graph.constant([-1, rows, columns, comparator.units])
    maps1, maps2 = (
        graph.add("Transpose", unit(graph, graph.add("Reshape", h, shape)), perm=perm)
        for h, perm in ((h1, [1, 2, 0, 3]), (h2, [1, 2, 3, 0]))
    )
    best1, best2 = [], []
    down_most, right_most = min(comparator.reach, rows - 1), min(comparator.reach, columns - 1)
    for down in range(-down_most, down_most + 1):
        for right in range(-right_most, right_most + 1):
            here = (_inside(rows, down), _inside(columns, right))
            there = (_inside(rows, -down), _inside(columns, -right))
            cosines = graph.add("MatMul", _cut(graph, maps1, here), _cut(graph, maps2, there))
            best1.append(_on_map(graph, cosines, here, rows, columns))
            best2.append(_on_map(graph, cosines, there, rows, columns))
    means = [
        graph.add("ReduceMean", graph.add("Max", *best), axes=[0, 1], keepdims=0)
        for best in (best1, best2)
    ]
    similarity = graph.add("Mul", graph.add("Add", *means), graph.constant(0.5))
    return _scaled(graph, params, similarity)


def _differences(graph: Graph, h1: str, h2: str) -> str:
    """(Q, D), (S, D) -> (Q, S, D)."""
    first = graph.add("Unsqueeze", h1, graph.constant([1]))
    return graph.add("Sub", first, graph.add("Unsqueeze", h2, graph.constant([0])))


def _weighted(graph: Graph, params: Mapping, magnitudes: str) -> str:
    weighted = graph.add("MatMul", magnitudes, graph.constant(params["kernel"]))
    return graph.add("Add", weighted, graph.constant(params["bias"]))


def _products(graph: Graph, h1: str, h2: str) -> str:
    return graph.add("MatMul", h1, graph.add("Transpose", h2, perm=[1, 0]))


def _squared_distances(graph: Graph, h1: str, h2: str) -> str:
    lengths1, lengths2 = (
        graph.add("ReduceSum", graph.add("Mul", h, h), graph.constant([1]), keepdims=1)
        for h in (h1, h2)
    )
    lengths = graph.add("Add", lengths1, graph.add("Transpose", lengths2, perm=[1, 0]))
    products = graph.add("Mul", _products(graph, h1, h2), graph.constant(2.0))
    return graph.add("Relu", graph.add("Sub", lengths, products))


def _scaled(graph: Graph, params: Mapping, x: str, sign: int = 1) -> str:
    scaled = graph.add("Mul", x, graph.constant(sign * np.asarray(params["scale"])))
    return graph.add("Add", scaled, graph.constant(params["bias"]))


def _inside(size: int, move: int) -> tuple[int, int]:
    """First and last + 1 of the places along an axis that are still on the map after a move."""
    return max(0, -move), size - max(0, move)


def _cut(graph: Graph, maps: str, place: Place) -> str:
    """The places of (rows, columns, ...) that lie in ((first, end), (first, end))."""
    starts, ends = zip(*place, strict=True)
    return graph.add("Slice", maps, *map(graph.constant, (starts, ends, [0, 1])))


def _on_map(graph: Graph, part: str, place: Place, rows: int, columns: int) -> str:
    """(rows, columns, Q, S) with `part` at `place`, and minus infinity elsewhere."""
    (top, bottom), (left, right) = place
    pads = [top, left, 0, 0, rows - bottom, columns - right, 0, 0]
    return graph.add("Pad", part, graph.constant(pads), graph.constant(-np.inf))


# From the class of a comparator to its graph: (graph, comparator, params, (Q, D), (S, D)) -> (Q, S).
COMPARATOR_GRAPHS: dict[type[Comparator], Callable[[Graph, Comparator, Mapping, str, str], str]] = {
    comparators.L1: l1,
    comparators.L2: l2,
    comparators.Euclidean: euclidean,
    comparators.SquaredEuclidean: squared_euclidean,
    comparators.Cosine: cosine,
    comparators.Bilinear: bilinear,
    comparators.Local: local,
}
