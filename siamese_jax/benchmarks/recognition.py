"""Recognition: embedding pictures, and finding the reference that each is most like."""

from __future__ import annotations

import functools

import numpy as np

from siamese_jax.benchmarks import workload
from siamese_jax.benchmarks.measure import Case, Row
from siamese_jax.benchmarks.workload import Plan, Workload
from siamese_jax.inference import network
from siamese_jax.recognition import scoring


def run_recognition(plan: Plan) -> list[Row]:
    """Embeds and identifies with the quickstart's `:vector`, with and without the encoder."""
    net = Workload(plan.config("quickstart:vector")).network()
    pictures = workload.random_images(16 if plan.smoke else 256, net.image_shape, plan.seed)
    encoder = Case("embed", lambda: net.embed(pictures), len(pictures), "images")
    rows = plan.compare("quickstart, pictures to enrol", [encoder])
    width = net.embedding_size
    for count in (10, 100) if plan.smoke else (1_000, 100_000, 1_000_000):
        embeddings = unit_vectors(count, width, plan.seed)
        references = scoring.References(embeddings)
        for queries in (1, 16):
            h = unit_vectors(queries, width, plan.seed + 1)
            calls = {
                "NumPy product and argmax": functools.partial(_nearest, h, embeddings),
                "comparison": functools.partial(best_references, net, references, h),
                "encoder and comparison": functools.partial(
                    _identify, net, references, pictures[:queries]
                ),
            }
            cases = [
                Case(f"identify {queries}, {name}", call, queries, "queries")
                for name, call in calls.items()
            ]
            group = f"{count:,} references of {width} numbers"
            rows += plan.compare(group, cases, base=[cases[0].name])
    return rows


def best_references(
    net: network.Siamese, references: scoring.References, h: np.ndarray
) -> np.ndarray:
    """(Q,) the best reference of each query, as a gallery finds it."""
    return scoring.score(net, h, references).argmax(1)


def _identify(
    net: network.Siamese, references: scoring.References, pictures: np.ndarray
) -> np.ndarray:
    return best_references(net, references, net.embed(pictures))


def _nearest(h: np.ndarray, embeddings: np.ndarray) -> np.ndarray:
    return (h @ embeddings.T).argmax(1)


def unit_vectors(count: int, width: int, seed: int) -> np.ndarray:
    """(count, width) float32 random embeddings of length 1."""
    h = np.random.default_rng(seed).standard_normal((count, width), np.float32)
    return h / np.linalg.norm(h, axis=1, keepdims=True)
