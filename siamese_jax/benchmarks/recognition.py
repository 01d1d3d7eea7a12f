"""Recognition: enrolling references, and finding the one that a picture is most like."""

from __future__ import annotations

import functools

import jax
import numpy as np

from siamese_jax.benchmarks import workload
from siamese_jax.benchmarks.measure import Case, Row
from siamese_jax.benchmarks.workload import Plan, Workload
from siamese_jax.inference import network

_BLOCK = 65_536  # references compared at a time


class References:
    """Embeddings to compare with, on the device in blocks.

    Args:
        net: whose comparator scores them.
        embeddings: (S, D) float32.
    """

    def __init__(self, net: network.Siamese, embeddings: np.ndarray):
        self._net = net
        starts = range(0, len(embeddings), _BLOCK)
        self._blocks = [jax.device_put(embeddings[s : s + _BLOCK]) for s in starts]
        jax.block_until_ready(self._blocks)

    def identify(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The best reference of each query.

        Args:
            queries: (Q, D) embeddings.

        Returns:
            (Q,) row of the reference, and (Q,) score.
        """
        best = []
        for b, block in enumerate(self._blocks):
            scores = self._net.score_matrix(queries, block)
            rows = scores.argmax(1)
            best.append((b * _BLOCK + rows, scores[np.arange(len(rows)), rows]))
        rows, scores = (np.stack(part) for part in zip(*best, strict=True))
        winner, column = scores.argmax(0), np.arange(scores.shape[1])
        return rows[winner, column], scores[winner, column]


def run_recognition(plan: Plan) -> list[Row]:
    """Enrols and identifies with the quickstart's `:vector`, with and without the encoder."""
    net = Workload(plan.config("quickstart:vector")).network()
    pictures = workload.random_images(16 if plan.smoke else 256, net.image_shape, plan.seed)
    encoder = Case("embed", lambda: net.embed(pictures), len(pictures), "images")
    rows = plan.compare("quickstart, pictures to enrol", [encoder])
    width = net.embed(pictures[:1]).shape[1]
    for count in (10, 100) if plan.smoke else (1_000, 100_000, 1_000_000):
        embeddings = unit_vectors(count, width, plan.seed)
        references = References(net, embeddings)
        cases = [
            Case(
                "enrol, embeddings given",
                functools.partial(References, net, embeddings),
                count,
                "images",
            )
        ]
        for queries in (1, 16):
            h = unit_vectors(queries, width, plan.seed + 1)
            label = f"identify {queries}"
            cases += [
                Case(
                    f"{label}, comparison",
                    functools.partial(references.identify, h),
                    queries,
                    "queries",
                ),
                Case(
                    f"{label}, encoder and comparison",
                    functools.partial(_identify, net, references, pictures[:queries]),
                    queries,
                    "queries",
                ),
                Case(
                    f"{label}, NumPy product and argmax",
                    functools.partial(_nearest, h, embeddings),
                    queries,
                    "queries",
                ),
            ]
        rows += plan.compare(f"{count:,} references of {width} numbers", cases)
    return rows


def _identify(net: network.Siamese, references: References, pictures: np.ndarray) -> tuple:
    return references.identify(net.embed(pictures))


def _nearest(h: np.ndarray, embeddings: np.ndarray) -> np.ndarray:
    return (h @ embeddings.T).argmax(1)


def unit_vectors(count: int, width: int, seed: int) -> np.ndarray:
    """(count, width) float32 random embeddings of length 1."""
    h = np.random.default_rng(seed).standard_normal((count, width), np.float32)
    return h / np.linalg.norm(h, axis=1, keepdims=True)
