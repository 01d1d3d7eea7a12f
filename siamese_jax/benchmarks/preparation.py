"""Preparing a large folder: processor time of one process, beside that of Pillow decoding alone."""

from __future__ import annotations

import concurrent.futures
import functools
import multiprocessing
import os
import pathlib
import tempfile
import time

import numpy as np
from PIL import Image

from siamese_jax.benchmarks.measure import Case, Row
from siamese_jax.benchmarks.workload import Plan
from siamese_jax.data import decoding, listing, shards

_SIZES = ((128, 128), (512, 128))  # sides of the files and of the prepared pictures, pixels
_EACH = 20  # pictures of a class
_MANY = 2_000  # pictures from which on one process a core writes them
_NOISE = 12  # grey levels either way that are added to a smooth picture


def run_preparation(plan: Plan) -> list[Row]:
    """Pictures a second of processor time, at their own size and at a quarter of it."""
    rows = []
    count = 8 if plan.smoke else 400
    for side, wanted in _SIZES:
        with tempfile.TemporaryDirectory() as folder:
            place = pathlib.Path(folder)
            write_pictures(place / "pictures", count, side, plan.seed)
            top, names = listing.names_of(place / "pictures")
            files = [(place / "pictures").joinpath(*name) for name in names]
            decoder = decoding.Decoder(
                place / "pictures", top, tuple(names), "RGB", "photo", (wanted, wanted)
            )
            decode = functools.partial(_decode, files)
            prepare = functools.partial(_prepare, decoder, place, count)
            group = f"{count} JPEGs of {side} x {side}, processor time"
            cases = [
                Case("Pillow, decoded to arrays", decode, count, "pictures"),
                Case(f"prepared at {wanted} x {wanted}", prepare, count, "pictures"),
            ]
            rows += plan.compare(group, cases, base=[cases[0].name], clock=time.process_time)
    return rows


def _decode(files: list[pathlib.Path]) -> list[np.ndarray]:
    return [np.asarray(Image.open(file).convert("RGB")) for file in files]


def _prepare(decoder: decoding.Decoder, place: pathlib.Path, count: int) -> int:
    return shards.prepare_part(decoder(), place, place / "00000", 0, count)


def write_pictures(folder: pathlib.Path, count: int, side: int, seed: int) -> None:
    """Writes smooth colour pictures with some noise as JPEGs of quality 90, twenty a class.

    Args:
        folder: that is made.
        count: of pictures.
        side: of them, pixels.
        seed: of the pictures.
    """
    classes = range(-(-count // _EACH))
    write = functools.partial(_write_class, folder, count, side, seed)
    if count < _MANY:
        for number in classes:
            write(number)
        return
    cores = len(os.sched_getaffinity(0))
    with new_processes(cores) as pool:
        list(pool.map(write, classes, chunksize=len(classes) // cores))


def new_processes(number: int) -> concurrent.futures.ProcessPoolExecutor:
    """A pool of processes that are started anew: a fork would copy the locks of jax's threads."""
    context = multiprocessing.get_context("spawn")
    return concurrent.futures.ProcessPoolExecutor(number, mp_context=context)


def _write_class(folder: pathlib.Path, count: int, side: int, seed: int, number: int) -> None:
    """Writes the pictures of one class."""
    rng = np.random.default_rng((seed, number))
    place = folder / f"class{number:04d}"
    place.mkdir(parents=True)
    for i in range(min(_EACH, count - _EACH * number)):
        coarse = rng.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8)
        smooth = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
        noisy = np.asarray(smooth, np.int16) + rng.integers(-_NOISE, _NOISE + 1, (side, side, 3))
        picture = Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
        picture.save(place / f"{i}.jpg", quality=90)
