"""Figures of pictures: trials, pairs, confusions, training batches.

Ink is drawn dark on white paper, photos as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.figure import Figure
from scipy import special

from siamese_jax.data.image_set import ImageSet, resize_images
from siamese_jax.evaluation import metrics
from siamese_jax.evaluation.lists import Trials, VerificationPairs
from siamese_jax.evaluation.protocols import Result
from siamese_jax.reporting.drawing import (
    FRAME,
    MUTED,
    RIGHT,
    TEXT,
    WRONG,
    canvas,
    point_of,
    put_frame,
    put_picture,
    put_sign,
    styled,
)
from siamese_jax.reporting.wording import pair_name, shortened, side_name

_MAX_SIDE = {"ink": 105, "photo": 48}  # pixels of a picture in a figure; photos compress badly


def pictures(images: np.ndarray, kind: str) -> np.ndarray:
    """What a reader sees of images: ink dark on white paper, photos as they are.

    Args:
        images: (B, H, W, C) uint8, or float in [0, 1]; C is 1 or 3.
        kind: `ink` or `photo`.

    Returns:
        (B, h, w, 3) uint8, reduced to the size a figure needs.
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
    """N-way trials: the query, its supports with their scores, the answer and the right one.

    Args:
        result: of N-way trials.
        kind: `ink` or `photo`.
        count: how many trials (see `sample_trials`).
        titles: a name of each of the result's groups; by default the group's own.
    """
    trials = result.list_of(Trials)
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
        answers_given = (
            np.flatnonzero(metrics.answer_shares(scores)) if finite else np.array([], int)
        )
        if result.correct[r, q] == 1:
            verdict = "right"
        elif not finite:
            verdict = "no answer, a score is not finite"
        elif answer in answers_given:
            verdict = f"a tie of {len(answers_given)}"
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
            if n in answers_given and n != answer:
                put_frame(axes, x, y, 1, tall, WRONG, 1.8, dashed=True)
                put_sign(axes, x + 1, y, False, point)
            elif n in answers_given:
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
                color=TEXT if n in answers_given else MUTED,
                fontweight="bold" if n in answers_given else "normal",
            )
    return figure


@styled
def confusion_figure(
    confusions: Sequence[tuple[int, int, float, int]], images: ImageSet, examples: int = 5
) -> Figure:
    """Pairs of classes that are taken for each other, with some pictures of both.

    Args:
        confusions: (class, class, wrong answers, possible ones) of each pair, see
            `inputs.count_confusions`.
        images: where the classes are from.
        examples: pictures of a class.
    """
    columns = 3
    height, width, _ = images.image_shape
    tall = height / width
    pitch, wide, gap = 1.08, examples * 1.08, 1.0
    block = 2 * (tall + 0.1) + 1.25
    figure, axes = canvas(columns * (wide + gap) - gap, -(-len(confusions) // columns) * block)
    for place, (a, b, wrong, possible) in enumerate(confusions):
        x0, y0 = place % columns * (wide + gap), place // columns * block
        title = pair_name(images.class_names[a], images.class_names[b])
        axes.text(x0, y0 + 0.32, shortened(title, 40), fontweight="bold")
        axes.text(x0, y0 + 0.70, f"{wrong:.3g} of {possible} wrong", color=MUTED)
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
    pairs, scores = result.list_of(VerificationPairs), result.scores
    both = np.sort(np.column_stack([pairs.first, pairs.references]), 1)
    order = np.random.default_rng(seed).permutation(len(both))
    once = order[np.sort(np.unique(both[order], axis=0, return_index=True)[1])]
    same, wrong = pairs.labels[once] == 1, (result.correct[once] == 0)
    rejected, accepted = once[wrong & same], once[wrong & ~same]
    groups = (
        ("same, by chance", once[same]),
        ("different, by chance", once[~same]),
        ("same, the least alike of those rejected", rejected[np.argsort(scores[rejected])]),
        ("different, the most alike of those accepted", accepted[np.argsort(-scores[accepted])]),
    )
    return [(what, members[:count]) for what, members in groups if len(members)]


@styled
def verification_pairs_figure(
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
    pairs, f = result.list_of(VerificationPairs), result.figures
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
        for i, (pair, value) in enumerate(zip(members, dissimilarity(members), strict=True)):
            x, y = i % columns * (wide + gap), top + 18 * point + i // columns * line
            shown = pairs.images[[pairs.first[pair], pairs.references[pair, 0]]]
            for side, picture in enumerate(pictures(shown, kind)):
                put_picture(axes, picture, x + 1.06 * side, y, 1, tall)
                put_frame(axes, x + 1.06 * side, y, 1, tall, FRAME, 0.8)
            right = result.correct[pair] == 1
            put_sign(axes, x + wide / 2 - 0.02, y + tall, right, point)
            text = f"dissimilarity {_score(value)}"
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
        name = shortened(names[i], 17)
        axes.text(x + 0.5, y + tall + 10 * point, name, ha="center", fontsize=7, color=MUTED)
    return figure


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
