"""Figures of pictures: trials, pairs, confusions, training batches, filters, maps of embeddings.

Ink is drawn dark on white paper, photos as they are. Vectors have no pictures; their map has names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from scipy import special

from siamese_jax.data.image_set import ImageSet, resize_images
from siamese_jax.evaluation import metrics
from siamese_jax.evaluation.protocols import Result
from siamese_jax.reporting.figures.drawing import (
    FRAME,
    MUTED,
    RIGHT,
    TEXT,
    WRONG,
    canvas,
    charts,
    point_of,
    put_frame,
    put_picture,
    put_sign,
    styled,
)

_MAX_SIDE = {"ink": 105, "photo": 48}  # pixels of a picture in a figure; photos compress badly


def pictures(images: np.ndarray, kind: str) -> np.ndarray:
    """What a reader sees of images: ink dark on white paper, photos as they are.

    Args:
        images: (B, H, W, C) uint8, or float in [0, 1]; C is 1 or 3.
        kind: `ink` or `photo`.

    Returns:
        (B, h, w, 3) uint8, made smaller where there is no use in so many pixels.
    """
    images = np.asarray(images)
    if images.dtype != np.uint8:
        images = np.rint(255 * np.clip(images, 0, 1)).astype(np.uint8)
    height, width = images.shape[1:3]
    scale = _MAX_SIDE[kind] / max(height, width)
    if scale < 1:
        images = resize_images(images, max(1, round(scale * height)), max(1, round(scale * width)))
    if images.shape[-1] != 3:
        images = np.repeat(images[..., :1], 3, -1)
    return 255 - images if kind == "ink" else images


def sample_trials(correct: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """Trials to show: half of them wrong, or as many as there are, and the rest right.

    Args:
        correct: (R, Q) how right each trial is.
        count: how many.
        seed: of the draw.

    Returns:
        (count, 2) int run and query of each, right ones first.
    """
    rng = np.random.default_rng(seed)
    good, bad = (rng.permutation(np.argwhere(x)) for x in (correct == 1, correct < 1))
    wrong = max(min(len(bad), count // 2), count - len(good))
    return np.concatenate([good[: count - wrong], bad[:wrong]])


@styled
def trial_grid_figure(
    result: Result, kind: str, count: int = 8, titles: Sequence[str] | None = None
) -> Figure:
    """N-way trials: the query, its supports with their scores, the answer given and the right one.

    Args:
        result: of N-way trials.
        kind: `ink` or `photo`.
        count: how many trials (see `sample_trials`).
        titles: a name of each of the result's groups; by default the group's own.
    """
    trials = result.trials
    chosen = sample_trials(result.correct, count)
    titles = trials.group_names if titles is None else titles
    columns = next((n for n in (5, 10) if trials.n_way <= n), 20)  # supports a line
    beside = 1 if columns == 20 else 2  # trials side by side
    lines = -(-trials.n_way // columns)
    height, width = trials.images.shape[1:3]
    tall = height / width
    big = 1.55  # width of the query, in widths of a support
    left, pitch = big + 0.45, 1.13
    wide = left + columns * pitch + 0.4
    across = beside * wide - 0.33
    point = point_of(across)
    line = tall + 13 * point  # a score below each picture
    block = max(lines * line, big * tall) + 20 * point  # a title above
    figure, axes = canvas(across, -(-len(chosen) // beside) * block)
    for place, (r, q) in enumerate(chosen):
        start, top = place % beside * wide, place // beside * block + 17 * point
        scores, answer = result.scores[r, q], trials.answers[r, q]
        finite = np.isfinite(scores).all()
        given = np.flatnonzero(metrics.answer_shares(scores)) if finite else np.array([], int)
        if result.correct[r, q] == 1:
            verdict = "right"
        elif not finite:
            verdict = "no answer, a score is not finite"
        elif answer in given:
            verdict = f"a tie of {len(given)}"
        else:
            rank = 1 + int((scores > scores[answer]).sum())
            verdict = f"wrong, the right one ranks {rank} of {trials.n_way}"
        title = f"{titles[trials.groups[r, q]]}: {verdict}"
        colour = RIGHT if verdict == "right" else WRONG
        axes.text(start + left, top - 6 * point, title, color=colour)
        query = pictures(trials.images[trials.queries[r, q]][None], kind)[0]
        put_picture(axes, query, start, top, big, big * tall)
        put_frame(axes, start, top, big, big * tall, TEXT, 1.3)
        supports = pictures(trials.images[trials.supports[r, :, 0]], kind)
        for n, picture in enumerate(supports):
            x, y = start + left + n % columns * pitch, top + n // columns * line
            put_picture(axes, picture, x, y, 1, tall)
            if n in given and n != answer:
                put_frame(axes, x, y, 1, tall, WRONG, 1.8, dashed=True)
                put_sign(axes, x + 1, y, False, point)
            elif n in given:
                put_frame(axes, x, y, 1, tall, RIGHT, 2.2)
            else:
                put_frame(axes, x, y, 1, tall, RIGHT if n == answer else FRAME, 0.8)
            if n == answer:
                put_sign(axes, x + 1, y, True, point)
            axes.text(
                x + 0.5,
                y + tall + 9 * point,
                _score(scores[n]),
                ha="center",
                fontsize=7,
                color=TEXT if n in given else MUTED,
                fontweight="bold" if n in given else "normal",
            )
    return figure


@styled
def confusion_figure(
    confused: Sequence[tuple[int, int, float, int]], images: ImageSet, examples: int = 5
) -> Figure:
    """Pairs of classes that are taken for each other, with some pictures of both.

    Args:
        confused: (class, class, wrong answers, times they met) of each pair, see
            `report.confusions`.
        images: where the classes are from.
        examples: pictures of a class.
    """
    columns = 3
    height, width, _ = images.image_shape
    tall = height / width
    pitch, wide, gap = 1.08, examples * 1.08, 1.0
    block = 2 * (tall + 0.1) + 1.25
    figure, axes = canvas(columns * (wide + gap) - gap, -(-len(confused) // columns) * block)
    for place, (a, b, wrong, met) in enumerate(confused):
        x0, y0 = place % columns * (wide + gap), place // columns * block
        title = pair_name(images.class_names[a], images.class_names[b])
        axes.text(x0, y0 + 0.32, _short(title, 40), fontweight="bold")
        axes.text(x0, y0 + 0.70, f"{wrong:.3g} of {met} wrong", color=MUTED)
        for line, c in enumerate((a, b)):
            rows = np.arange(images.class_count[c])[:examples] + images.class_start[c]
            for i, picture in enumerate(pictures(images.images[rows], images.kind)):
                x, y = x0 + i * pitch, y0 + 0.88 + line * (tall + 0.1)
                put_picture(axes, picture, x, y, 1, tall)
                put_frame(axes, x, y, 1, tall, FRAME, 0.8)
    return figure


@styled
def pairs_figure(pixels: np.ndarray, labels: np.ndarray, kind: str, count: int = 24) -> Figure:
    """Training pairs with their labels.

    Args:
        pixels: (B, 2, H, W, C) float in [0, 1].
        labels: (B,) 1 = same class.
        kind: `ink` or `photo`.
        count: how many are shown, half of them same as far as there are.
    """
    same, different = (np.flatnonzero(labels == label) for label in (1, 0))
    chosen = np.concatenate([same[: count // 2], different[: count // 2]])
    columns, tall = 6, pixels.shape[2] / pixels.shape[3]
    wide, gap, block = 2.06, 0.75, tall + 0.6
    lines = -(-len(chosen) // columns)
    across = columns * (wide + gap) - gap
    figure, axes = canvas(across, lines * block)
    for place, b in enumerate(chosen):
        x, y = place % columns * (wide + gap), place // columns * block + 0.1
        for side, picture in enumerate(pictures(pixels[b], kind)):
            put_picture(axes, picture, x + 1.06 * side, y, 1, tall)
            put_frame(axes, x + 1.06 * side, y, 1, tall, FRAME, 0.8)
        same = labels[b] == 1
        put_sign(axes, x + wide / 2 - 0.02, y + tall, same, point_of(across))
        axes.text(
            x + wide / 2,
            y + tall + 0.34,
            f"{'same' if same else 'different'} ({int(labels[b])})",
            color=RIGHT if same else WRONG,
            ha="center",
        )
    return figure


def sample_pairs(result: Result, count: int = 6, seed: int = 0) -> list[tuple[str, np.ndarray]]:
    """Pairs to show: some of either label by chance, and the hardest errors of either.

    The same two pictures are shown once, though a list may hold them several times.

    Args:
        result: of a list of pairs.
        count: how many of each kind, at most.
        seed: of the draw.

    Returns:
        For each kind that has any, what it is and the numbers of its pairs.
    """
    pairs, scores = result.trials, result.scores
    both = np.sort(np.column_stack([pairs.first, pairs.references]), 1)
    order = np.random.default_rng(seed).permutation(len(both))
    once = order[np.sort(np.unique(both[order], axis=0, return_index=True)[1])]
    same, wrong = pairs.labels[once] == 1, (result.correct[once] == 0)
    rejected, accepted = once[wrong & same], once[wrong & ~same]
    found = (
        ("same, by chance", once[same]),
        ("different, by chance", once[~same]),
        ("same, the least alike of those rejected", rejected[np.argsort(scores[rejected])]),
        ("different, the most alike of those accepted", accepted[np.argsort(-scores[accepted])]),
    )
    return [(what, members[:count]) for what, members in found if len(members)]


@styled
def verification_errors_figure(
    result: Result,
    rows: Sequence[tuple[str, np.ndarray]],
    dissimilarity: Callable[[np.ndarray], np.ndarray],
    kind: str,
) -> Figure:
    """Pairs side by side, with their dissimilarity and the probability that they are the same.

    Args:
        result: of a list of pairs. Of a claim with several references the first is shown.
        rows: a heading and the numbers of pairs below it, see `sample_pairs`.
        dissimilarity: (n,) numbers of pairs -> (n,), lower = more alike.
        kind: `ink` or `photo`.
    """
    pairs, f = result.trials, result.figures
    columns = max(len(members) for _, members in rows)
    columns = min(max(columns, 4), 6)
    height, width = pairs.images.shape[1:3]
    tall, wide, gap = height / width, 2.06, 0.7
    across = columns * (wide + gap) - gap
    point = point_of(across)
    line = tall + 30 * point
    lines = [-(-len(members) // columns) for _, members in rows]
    figure, axes = canvas(across, sum(line * n + 22 * point for n in lines))
    top = 0.0
    for (what, members), count in zip(rows, lines, strict=True):
        axes.text(0, top + 12 * point, what, fontweight="bold")
        for i, (pair, apart) in enumerate(zip(members, dissimilarity(members), strict=True)):
            x, y = i % columns * (wide + gap), top + 18 * point + i // columns * line
            shown = pairs.images[[pairs.first[pair], pairs.references[pair, 0]]]
            for side, picture in enumerate(pictures(shown, kind)):
                put_picture(axes, picture, x + 1.06 * side, y, 1, tall)
                put_frame(axes, x + 1.06 * side, y, 1, tall, FRAME, 0.8)
            right = result.correct[pair] == 1
            put_sign(axes, x + wide / 2 - 0.02, y + tall, right, point)
            text = f"dissimilarity {_score(apart)}"
            if "slope" in f:
                logit = f["slope"] * result.scores[pair] + f["offset"]
                text += f"\nP(same) {_probability(logit)}"
            colour = RIGHT if right else WRONG
            below = y + tall + 7 * point
            axes.text(x + wide / 2, below, text, color=colour, ha="center", va="top", fontsize=7.5)
        top += line * count + 22 * point
    return figure


@styled
def episode_figure(pixels: np.ndarray, mask: np.ndarray, kind: str, count: int = 3) -> Figure:
    """Training episodes: a row a side, the same class in a column.

    Args:
        pixels: (E, K, N, H, W, C) float in [0, 1], K at least 2.
        mask: (E, N) bool, whether a column takes part.
        kind: `ink` or `photo`.
        count: how many are shown, or twice as many where they are narrow.
    """
    num_sides = pixels.shape[1]
    columns, tall = min(pixels.shape[2], 20), pixels.shape[3] / pixels.shape[4]
    beside = 2 if columns <= 10 else 1  # episodes side by side
    count = min(count * beside, len(pixels))
    left, pitch = 0.08 * columns, 1.08
    wide, block = left + (columns + 0.3) * pitch, num_sides * (tall + 0.08) + 0.45
    figure, axes = canvas(beside * wide, -(-count // beside) * block)
    for e in range(count):
        start, top = e % beside * wide, e // beside * block
        for side in range(num_sides):
            y = top + 0.1 + side * (tall + 0.08)
            axes.text(start, y + tall / 2, side_name(side), va="center", color=MUTED)
            for n, picture in enumerate(pictures(pixels[e, side, :columns], kind)):
                if mask[e, n]:
                    put_picture(axes, picture, start + left + n * pitch, y, 1, tall)
                    put_frame(axes, start + left + n * pitch, y, 1, tall, FRAME, 0.8)
    return figure


def side_name(side: int) -> str:
    """A, B, C, ... of the sides of an episode."""
    return chr(ord("A") + side) if side < 26 else str(side + 1)


@styled
def images_figure(pixels: np.ndarray, names: Sequence[str], kind: str, count: int = 32) -> Figure:
    """Training pictures, each with the name of its class.

    Args:
        pixels: (B, H, W, C) float in [0, 1].
        names: of the class of each.
        kind: `ink` or `photo`.
        count: how many are shown.
    """
    columns, tall, pitch = 8, pixels.shape[1] / pixels.shape[2], 1.6
    count = min(count, len(pixels))
    across = columns * pitch - 0.3
    point = point_of(across)
    block = tall + 20 * point
    figure, axes = canvas(across, -(-count // columns) * block)
    for i, picture in enumerate(pictures(pixels[:count], kind)):
        x, y = i % columns * pitch + (pitch - 1.3) / 2, i // columns * block + 0.03
        put_picture(axes, picture, x, y, 1, tall)
        put_frame(axes, x, y, 1, tall, FRAME, 0.8)
        name = _short(names[i], 17)
        axes.text(x + 0.5, y + tall + 10 * point, name, ha="center", fontsize=7, color=MUTED)
    return figure


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

    Each point is one picture, joined to the mean of its class, where a picture of the class stands; of
    vectors its name.

    Args:
        panels: title, embeddings (M, D) and their images, an `ImageSet` of at most ten classes.
    """
    figure, axes_row = charts(1, len(panels), 5.0, squeeze=False)
    found = [principal_components(embeddings) for _, embeddings, _ in panels]
    for axes, (title, _, _), (points, explained) in zip(axes_row[0], panels, found, strict=True):
        axes.set_title(title)
        axes.set_xlabel(f"first component ({100 * explained[0]:.0f} % of the variance)")
        axes.set_ylabel(f"second component ({100 * explained[1]:.0f} %)")
        axes.tick_params(labelbottom=False, labelleft=False, length=0)
        axes.grid(visible=False)
        low, high = points.min(0), points.max(0)
        room = 0.06 * (high - low) + 1e-9
        axes.set_xlim(low[0] - room[0], high[0] + room[0])
        axes.set_ylim(low[1] - room[1], high[1] + room[1])
    figure.draw_without_rendering()  # the layout is made now, and with it the size of the panels
    for axes, (_, _, images), (points, _) in zip(axes_row[0], panels, found, strict=True):
        box = axes.get_window_extent()
        (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
        height, width, _ = images.image_shape
        pixels = 0.034 * figure.bbox.width * np.array([1, height / width])
        side = pixels * [(right - left) / box.width, (top - bottom) / box.height]
        drawn = images.kind != "vector"
        tiles = pictures(images.images[images.class_start], images.kind) if drawn else ()
        for c in range(images.num_classes):
            colour = matplotlib.colormaps["tab10"](c % 10)
            own = points[images.classes == c]
            mean = own.mean(0)
            for point in own:
                axes.plot(*zip(mean, point, strict=True), color=colour, linewidth=0.6, alpha=0.5)
            axes.plot(*own.T, linestyle="", marker="o", markersize=3.2, color=colour)
            if not drawn:
                name = _short(_parts(images.class_names[c])[1], 24)
                around = {"facecolor": "white", "edgecolor": colour, "boxstyle": "square,pad=0.25"}
                axes.text(*mean, name, ha="center", va="center", zorder=4, bbox=around)
                continue
            corner = mean - side / 2
            put_picture(axes, tiles[c], corner[0], corner[1], *side, up=True)
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


def _score(value: float) -> str:
    if not np.isfinite(value):
        return str(value)
    return f"{value:.2f}" if abs(value) < 100 else f"{value:.0f}"


def _probability(logit: float) -> str:
    """In per cent, never rounded to certainty."""
    if not np.isfinite(logit):
        return "unknown"
    share = 100 * special.expit(logit)
    if share > 99.9:
        return "> 99.9 %"
    return f"{share:.1f} %" if share >= 0.1 else "< 0.1 %"


def class_name(name: str) -> str:
    """`Old_Greek/character01` as `Old Greek 1`."""
    return " ".join(_parts(name)).strip()


def pair_name(first: str, second: str) -> str:
    """`Old_Greek/character01` and `Old_Greek/character12` as `Old Greek 1 and 12`."""
    (here, _), (there, other) = _parts(first), _parts(second)
    return f"{class_name(first)} and {other if here == there else class_name(second)}"


def _parts(name: str) -> tuple[str, str]:
    """The alphabet and the character of a class's name."""
    alphabet, _, character = name.replace("_", " ").rpartition("/")
    number = re.fullmatch(r"character0*(\d+)", character)
    return alphabet, number.group(1) if number else character


def _short(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
