"""Maps of embeddings as HTML: a point is a picture, which shows when it is pointed at."""

from __future__ import annotations

import html
import io
import math
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.colors import to_hex
from PIL import Image

from siamese_jax.data.image_set import ImageSet, resize_images
from siamese_jax.reporting import page
from siamese_jax.reporting.image_sheets import pictures
from siamese_jax.reporting.wording import class_parts

MAX_SPRITE = 300_000  # bytes of the pictures of one alphabet
_TILE = 2.1  # rem, the longer side of a class's picture
_EDGE = 0.06  # of a map, left free on each side
NO_TSNE = (
    "With scikit-learn (the extra [report]) a t-SNE map is shown beside this one: pip install "
    "scikit-learn, then run launch/report.py."
)


def map_of(title: str, embeddings: np.ndarray, images: ImageSet, names: Sequence[str]) -> str:
    """The maps of some classes: principal components, and t-SNE where scikit-learn is installed.

    Each point is one image. A line joins it to the mean of its class, which is marked by a picture of
    the class, or of vectors by its name.

    Args:
        title: above the maps.
        embeddings: (M, D).
        images: what was embedded, of at most ten classes.
        names: (M,) what each image is called.
    """
    points, explained = principal_components(embeddings)
    first, second = (f"{100 * share:.0f} %" for share in explained)
    maps = [(f"Principal components ({first} and {second} of the variance)", points)]
    neighbours = tsne(embeddings)
    if neighbours is not None:
        maps.append(("t-SNE (shows neighbours; distances between groups mean little)", neighbours))
    style, places = "", np.zeros((len(images), 2), int)
    if images.kind != "vector":
        style, places = _sprite(images)
    drawn = "".join(_map(*entry, images, names, places, not style) for entry in maps)
    heading = f'<p class="card-title">{html.escape(title)}</p>'
    return f'{heading}<div class="maps" style="{style}">{drawn}</div>'


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


def tsne(embeddings: np.ndarray) -> np.ndarray | None:
    """A t-SNE map, (M, 2); None without scikit-learn, or for too few or equal embeddings.

    References:
        van der Maaten, Hinton (2008), Visualizing data using t-SNE.
    """
    try:
        from sklearn.manifold import TSNE
        from threadpoolctl import threadpool_limits  # scikit-learn needs it too
    except ImportError:
        return None
    if len(embeddings) < 8 or not np.ptp(embeddings, axis=0).any():
        return None
    perplexity = min(20.0, (len(embeddings) - 1) / 3)
    # Several threads wait for one another busily, which on busy cores takes several times as long.
    with threadpool_limits(1, "openmp"):
        return TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(
            np.asarray(embeddings, np.float32)
        )


def has_tsne() -> bool:
    """Whether scikit-learn is installed."""
    try:
        import sklearn  # noqa: F401
    except ImportError:
        return False
    return True


def _map(
    title: str,
    points: np.ndarray,
    images: ImageSet,
    names: Sequence[str],
    places: np.ndarray,
    plain: bool,
) -> str:
    """One map: points, lines to the means of the classes, and what marks these."""
    low, high = points.min(0), points.max(0)
    size = max((high - low).max(), 1e-9)  # one scale for both axes
    at = 0.5 + (points - (low + high) / 2) / size * (1 - 2 * _EDGE)
    at[:, 1] = 1 - at[:, 1]
    lines, dots, marks = [], [], []
    for c in range(images.num_classes):
        colour = to_hex(matplotlib.colormaps["tab10"](c % 10))
        members = np.flatnonzero(images.classes == c)
        x, y = at[members].mean(0)
        path = "".join(
            f"M{1000 * x:.0f} {1000 * y:.0f}L{a:.0f} {b:.0f}" for a, b in 1000 * at[members]
        )
        lines.append(f'<path d="{path}" stroke="{colour}"/>')
        for row in members.tolist():
            dots.append(_dot(at[row], colour, places[row], names[row]))
        word = class_parts(images.class_names[c])[1]
        if plain:
            marks.append(
                f'<b class="word" style="{_place(x, y)};--c:{colour}">{html.escape(word)}</b>'
            )
        else:
            i, j = places[members[0]]
            marks.append(f'<b style="{_place(x, y)};--c:{colour};--i:{i};--j:{j}"></b>')
    classes = ", ".join(class_parts(name)[1] for name in images.class_names)
    words = html.escape(f"Map of {len(images)} embeddings of the classes {classes}")
    return (
        f'<div><h4>{html.escape(title)}</h4><div class="map{" plain" if plain else ""}" role="img" '
        f'aria-label="{words}"><svg viewBox="0 0 1000 1000" fill="none" stroke-opacity=".45" '
        f'stroke-width="1.5">{"".join(lines)}</svg>{"".join(marks)}{"".join(dots)}</div></div>'
    )


def _dot(at: np.ndarray, colour: str, place: np.ndarray, name: str) -> str:
    x, y = at
    sides = " ".join(word for word, holds in (("far", x > 0.5), ("high", y < 0.5)) if holds)
    return (
        f'<i class="{sides}" style="{_place(x, y)};--c:{colour};--i:{place[0]};--j:{place[1]}" '
        f'data-name="{html.escape(name)}"></i>'
    )


def _place(x: float, y: float) -> str:
    return f"--x:{x:.3f};--y:{y:.3f}"


def _sprite(images: ImageSet) -> tuple[str, np.ndarray]:
    """CSS with all pictures in one, of at most `MAX_SPRITE` bytes; and the place of each in it."""
    shown = pictures(images.images[:], images.kind)
    columns = math.ceil(math.sqrt(len(shown)))
    places = np.stack(np.divmod(np.arange(len(shown)), columns)[::-1], 1)
    height, width = shown.shape[1:3]
    scale = min(1.0, 64 / max(height, width))
    while True:
        tall, wide = max(1, round(scale * height)), max(1, round(scale * width))
        tiles = resize_images(shown, tall, wide)
        sheet = np.full((-(-len(shown) // columns) * tall, columns * wide, 3), 255, np.uint8)
        for tile, (i, j) in zip(tiles, places, strict=True):
            sheet[j * tall : (j + 1) * tall, i * wide : (i + 1) * wide] = tile
        buffer = io.BytesIO()
        image = Image.fromarray(sheet)
        if (sheet == sheet[..., :1]).all():
            image = image.convert("L")
        if images.kind == "ink":
            image.quantize(16).save(buffer, format="PNG", optimize=True)
        else:
            image.save(buffer, format="JPEG", quality=85)
        if buffer.tell() <= MAX_SPRITE or max(tall, wide) <= 8:
            break
        scale *= 0.8
    kind = "png" if images.kind == "ink" else "jpeg"
    longer = max(height, width)
    style = (
        f"--tile:{_TILE * width / longer:.3f}rem;--tall:{_TILE * height / longer:.3f}rem;"
        f"--columns:{columns};--sprite:url({page.data_uri(buffer.getvalue(), kind)})"
    )
    return style, places
