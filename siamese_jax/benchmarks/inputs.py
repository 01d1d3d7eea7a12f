"""The input of a training step: drawn and warped on the device, or one image at a time by Pillow."""

from __future__ import annotations

import dataclasses
import functools
import math
import random

import numpy as np
from PIL import Image

from siamese_jax.benchmarks.measure import Case, Row
from siamese_jax.benchmarks.workload import Plan, Workload
from siamese_jax.data import augment
from siamese_jax.data.loading import ImageSet

Matrix = tuple[tuple[float, float], tuple[float, float]]


def run_input(plan: Plan) -> list[Row]:
    """Augmented pairs a second of two networks' input, and its share of their steps."""
    rows = []
    for name in ("koch2015", "quickstart"):
        work = Workload(plan.config(name))
        height, width, _ = work.image_shape
        group = f"{name}, {work.pairs} pairs a step, {height} x {width}"
        ranges = augment.Affine.of(work.config.augment.affine)
        peer = PillowInput(work.experiment.train_set, ranges, plan.seed)
        cases = [
            Case("input", work.input_call(), work.pairs, "pairs"),
            Case(
                "Pillow, one image at a time",
                functools.partial(peer.batch, work.pairs),
                work.pairs,
                "pairs",
            ),
            Case("input and step", work.training_call(), work.pairs, "pairs trained"),
        ]
        ours, *others = plan.compare(group, cases, base=[cases[1].name])
        share = (ours.seconds or math.nan) / (others[1].seconds or math.nan)
        rows += [dataclasses.replace(ours, share=share, share_of="step"), *others]
    return rows


class PillowInput:
    """Draws pairs and warps them image by image, as the worker of a data loader does.

    Args:
        image_set: of one channel; its pictures are opened beforehand.
        ranges: of the affine distortions.
        seed: of the draw.
    """

    def __init__(self, image_set: ImageSet, ranges: augment.Affine, seed: int) -> None:
        self._pictures = [Image.fromarray(image) for image in image_set.images[..., 0]]
        self._start, self._count = image_set.class_start.tolist(), image_set.class_count.tolist()
        self._ranges = ranges
        self._random = random.Random(seed)

    def batch(self, pairs: int) -> tuple[np.ndarray, np.ndarray]:
        """Draws pairs, the first half same.

        Returns:
            (pairs, 2, H, W) float32 in [0, 1], and (pairs,) float32 labels.
        """
        labels = [float(i < pairs // 2) for i in range(pairs)]
        images = np.stack([np.stack(self._pair(label > 0)) for label in labels])
        return images, np.array(labels, np.float32)

    def _pair(self, same: bool) -> list[np.ndarray]:
        draw = self._random
        if same:
            one = draw.randrange(len(self._start))
            rows = [self._start[one] + j for j in draw.sample(range(self._count[one]), 2)]
        else:
            two = draw.sample(range(len(self._start)), 2)
            rows = [self._start[c] + draw.randrange(self._count[c]) for c in two]
        return [self._warped(self._pictures[row]) for row in rows]

    def _warped(self, picture: Image.Image) -> np.ndarray:
        matrix, shift = draw_affine(self._random, self._ranges, picture.size)
        return np.asarray(warp_picture(picture, matrix, shift), np.float32) / 255


def draw_affine(
    draw: random.Random, ranges: augment.Affine, size: tuple[int, int]
) -> tuple[Matrix, tuple[float, float]]:
    """Draws one distortion as `augment.affine_matrices` does.

    Args:
        draw: the generator.
        ranges: see `augment.Affine`.
        size: (width, height) of the picture, pixels.

    Returns:
        ((a, b), (d, e)) matrix and (x, y) shift in pixels, see `warp_picture`.
    """

    def component(low: float, high: float, neutral: float) -> float:
        return draw.uniform(low, high) if draw.random() < ranges.probability else neutral

    angle = math.radians(component(-ranges.rotation, ranges.rotation, 0.0))
    shear_x = component(-ranges.shear, ranges.shear, 0.0)
    shear_y = component(-ranges.shear, ranges.shear, 0.0)
    scale_x, scale_y = component(*ranges.scale, 1.0), component(*ranges.scale, 1.0)
    right, down = (
        component(-ranges.translation, ranges.translation, 0.0) * side / 105 for side in size
    )
    cos, sin = math.cos(angle), math.sin(angle)
    matrix = (
        ((cos - sin * shear_y) * scale_x, (cos * shear_x - sin) * scale_y),
        ((sin + cos * shear_y) * scale_x, (sin * shear_x + cos) * scale_y),
    )
    return matrix, (right, down)


def warp_picture(picture: Image.Image, matrix: Matrix, shift: tuple[float, float]) -> Image.Image:
    """Reads a picture at `matrix @ offset + shift`, offsets from the centre, as `augment.warp` does.

    Args:
        picture: of mode L.
        matrix: ((a, b), (d, e)) of output to source offsets (x, y).
        shift: (x, y) of the source position, pixels.
    """
    (a, b), (d, e) = matrix
    x, y = picture.width / 2, picture.height / 2  # Pillow counts from the corner of the first pixel
    values = (a, b, x - a * x - b * y + shift[0], d, e, y - d * x - e * y + shift[1])
    return picture.transform(
        picture.size, Image.Transform.AFFINE, values, Image.Resampling.BILINEAR
    )
