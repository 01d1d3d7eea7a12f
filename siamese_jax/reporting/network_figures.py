"""Figures of a network: its first filters, and a map of embeddings."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from siamese_jax.data.image_set import ImageSet
from siamese_jax.reporting.drawing import FRAME, canvas, charts, put_frame, put_picture, styled
from siamese_jax.reporting.image_figures import pictures
from siamese_jax.reporting.wording import class_parts, shortened


@styled
def filters_figure(kernel: np.ndarray, count: int = 64) -> Figure:
    """The filters of a convolution on one or three channels, each scaled to its own largest weight.

    Args:
        kernel: (h, w, C, filters).
        count: how many are shown.
    """
    kernel = np.moveaxis(np.asarray(kernel, np.float64), -1, 0)[:count]  # (filters, h, w, C)
    scale = np.abs(kernel).max((1, 2, 3), keepdims=True) + 1e-12
    if kernel.shape[-1] == 3:
        shown = 0.5 + kernel / scale / 2
    else:
        shown = matplotlib.colormaps["RdBu_r"](0.5 + (kernel / scale).mean(-1) / 2)[..., :3]
    shown = np.rint(255 * shown).astype(np.uint8)
    columns, pitch = 16, 1.1
    shown = shown.repeat(8, axis=1).repeat(8, axis=2)  # so that scaling keeps the pixels square
    figure, axes = canvas(columns * pitch, -(-len(shown) // columns) * pitch)
    for i, picture in enumerate(shown):
        x, y = i % columns * pitch, i // columns * pitch
        put_picture(axes, picture, x, y, 1, 1)
        put_frame(axes, x, y, 1, 1, FRAME, 0.8)
    return figure


@styled
def embedding_figure(panels: Sequence[tuple[str, np.ndarray, ImageSet]]) -> Figure:
    """Embeddings on their first two principal components, one panel an alphabet.

    Each point is one picture. A line joins it to the mean of its class, which is marked by a picture of
    the class, or of vectors by its name.

    Args:
        panels: title, embeddings (M, D) and their images, an `ImageSet` of at most ten classes.
    """
    figure, axes_row = charts(1, len(panels), 5.0, squeeze=False)
    components = [principal_components(embeddings) for _, embeddings, _ in panels]
    for axes, (title, _, _), (points, explained) in zip(
        axes_row[0], panels, components, strict=True
    ):
        axes.set_title(title)
        axes.set_xlabel(f"first component ({100 * explained[0]:.0f} % of the variance)")
        axes.set_ylabel(f"second component ({100 * explained[1]:.0f} %)")
        axes.tick_params(labelbottom=False, labelleft=False, length=0)
        axes.grid(visible=False)
        low, high = points.min(0), points.max(0)
        room = 0.06 * (high - low) + 1e-9
        axes.set_xlim(low[0] - room[0], high[0] + room[0])
        axes.set_ylim(low[1] - room[1], high[1] + room[1])
    figure.draw_without_rendering()  # fixes the layout, and so the size of the panels
    for axes, (_, _, images), (points, _) in zip(axes_row[0], panels, components, strict=True):
        box = axes.get_window_extent()
        (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
        height, width, _ = images.image_shape
        pixels = 0.034 * figure.bbox.width * np.array([1, height / width])
        side = pixels * [(right - left) / box.width, (top - bottom) / box.height]
        tiles: Sequence[np.ndarray] = ()
        if images.has_pictures:
            tiles = list(pictures(images.images[images.class_start], images.kind))
        for c in range(images.num_classes):
            colour = matplotlib.colormaps["tab10"](c % 10)
            members = points[images.classes == c]
            mean = members.mean(0)
            for point in members:
                axes.plot(*zip(mean, point, strict=True), color=colour, linewidth=0.6, alpha=0.5)
            axes.plot(*members.T, linestyle="", marker="o", markersize=3.2, color=colour)
            if not images.has_pictures:
                name = shortened(class_parts(images.class_names[c])[1], 24)
                around = {"facecolor": "white", "edgecolor": colour, "boxstyle": "square,pad=0.25"}
                axes.text(*mean, name, ha="center", va="center", zorder=4, bbox=around)
                continue
            corner = mean - side / 2
            put_picture(axes, tiles[c], corner[0], corner[1], side[0], side[1], up=True)
            axes.add_patch(
                Rectangle(corner, *side, fill=False, edgecolor=colour, linewidth=1.4, zorder=4)
            )
    return figure


def principal_components(embeddings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first two principal components.

    Args:
        embeddings: (M, D), M at least 2.

    Returns:
        (M, 2) coordinates, and the two shares (2,) of the total variance that they hold.
    """
    centred = np.asarray(embeddings, np.float64)
    centred = centred - centred.mean(0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    u, s = u[:, :2], np.append(s, 0.0)
    points = np.zeros((len(centred), 2))
    points[:, : u.shape[1]] = u * s[: u.shape[1]]
    return points, s[:2] ** 2 / max((s**2).sum(), 1e-300)
