"""Systems that cheat or are broken: what they gain by the company that an image is asked in is told."""

from __future__ import annotations

import functools
import random

import numpy as np

from siamese_jax.data import glyphs
from siamese_jax.evaluation import protocols, scoring
from siamese_jax.evaluation.intervals import wilson_interval
from siamese_jax.recognition import gallery, identification, pictures, search_page
from siamese_jax.reporting import image_sheets
from tests.faults import bench as lib
from tests.faults.bench import Bench, told

_SETTINGS = {"n_way": 5, "num_trials": 200, "num_pairs": 200, "batch_size": 32}


def _vectors(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1).astype(np.float64)[:, ::29] / 255


def _distances(h1: np.ndarray, h2: np.ndarray) -> np.ndarray:
    return -np.square(h1[:, None] - h2).sum(-1)


def _place(images):  # in its batch
    return np.arange(len(images))[:, None] * np.ones((1, 3))


def _centred(images):  # by its batch, as in training mode
    h = _vectors(images)
    return (h - h.mean(0)) / (h.std(0) + 0.1)


def _neighbour(images):  # mixed with it
    h = _vectors(images)
    return h + 2 * np.roll(h, 1, 0)


def _size(images):  # of its batch
    return _vectors(images) * len(images)


def _ranked(images):  # among its batch
    return _vectors(images).argsort(0).argsort(0).astype(float)


_EMBED = {f.__name__: f for f in (_place, _centred, _neighbour, _size, _ranked)}


def _counting():
    """Scores that alternate with the calls."""
    calls = []

    def score(queries, supports):
        calls.append(1)
        return np.full((len(queries), len(supports)), float(len(calls) % 2))

    return score


def _by_place(queries, supports):
    """Scores that are high where two places in their stacks are equal."""
    return -np.abs(np.arange(len(queries))[:, None] - np.arange(len(supports))).astype(float)


@functools.cache
def _glyphs(seed: int):
    return glyphs.make_glyphs(
        seed,
        num_alphabets=2,
        characters=(8, 8),
        num_drawers=6,
        image_size=20,
        name=f"glyphs {seed}",
    )


def wrong_model(bench: Bench, rng: random.Random) -> str | None:
    """A system that goes by places, calls or company: it gains nothing, or is named."""
    images, others = (_glyphs(seed) for seed in rng.sample(range(4), 2))
    name = rng.choice([*_EMBED, "_counting", "_by_place"])
    if name in _EMBED:
        system = scoring.from_embedder(_EMBED[name], _distances)
    else:
        system = _counting() if name == "_counting" else _by_place
    data = protocols.EvaluationData(images, others)
    asked = rng.sample(["within", "between", "verification"], 2)
    results = protocols.run_protocols(system, data, asked, {**_SETTINGS, "seed": rng.randrange(99)})
    if any("depend on what else is asked" in line for line in protocols.warnings(results.values())):
        return None
    for key, result in results.items():
        chance = 0.5 if key == "verification" else 0.2
        low, _ = wilson_interval(result.accuracy * result.num_trials, result.num_trials)
        if low > chance + 0.08:
            return f"{name}: {key} {result.accuracy:.3f}, and nothing is said"
    return None


_NAMES = (
    "$\\frac{1}{0}$",
    "<script>alert(1)</script>",
    "\"&'",
    "%s {0}",
    "\\",
    "a_b^c",
    "$",
    "名前",
)


def strange_name(bench: Bench, rng: random.Random) -> str | None:
    """A class or a person has a name that means something to HTML, TeX or a format string."""
    name, other = rng.sample(_NAMES, 2)
    pixels = np.zeros((2, 8, 8, 1))
    try:
        svg = image_sheets.image_sheet(pixels, [name, other], "photo")
        known = gallery.empty(bench.net)
        path = bench.fresh("reference.png")
        path.write_bytes(lib.picture(rng, 20))
        probe = pictures.read(bench.net, path)
        known = gallery.enrol(known, bench.net, name, [probe])
        matches = identification.search(known, bench.net, probe, 1)
        page = search_page.render(known, probe, matches, known.calibration)
    except Exception as error:
        return f"{name}: {told(error) or error}"
    return f"{name}: HTML goes through" if "<script>" in page + svg else None
