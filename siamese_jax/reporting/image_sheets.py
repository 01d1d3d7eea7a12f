"""Sheets of pictures as HTML that wraps in a narrow window: trials, pairs, confusions, batches.

Ink is drawn dark on white paper, photos as they are. Every picture says in words what it is.
"""

from __future__ import annotations

import html
import io
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
import scipy  # its parts are imported at their first use: they are slow
from PIL import Image

from siamese_jax.data.image_set import ImageSet, resize_images
from siamese_jax.evaluation import metrics
from siamese_jax.evaluation.lists import Trials, VerificationPairs
from siamese_jax.evaluation.protocols import Result
from siamese_jax.reporting import page
from siamese_jax.reporting.wording import class_name, pair_name, side_name

MAX_SIDE = {"ink": 105, "photo": 96}  # pixels of a picture on a page
_PNG_BYTES = 3000  # a photo whose PNG is larger becomes a JPEG
_PAIRS, _EPISODES, _FILTERS = 24, 3, 64  # that a sheet shows at most
_SIGNS = {True: '<span class="mark">✓</span>', False: '<span class="mark bad">✗</span>'}
_EQUALS = {True: '<span class="mark">=</span>', False: '<span class="mark bad">≠</span>'}


class Names(NamedTuple):
    """What the images of a list of trials are called: functions of a row of its images.

    Attributes:
        image: the image, such as its file.
        label: its class; empty where that is not known, or needs no saying.
    """

    image: Callable[[int], str]
    label: Callable[[int], str]


Why = Callable[[int, int, float | None], str]  # two rows, and the score to measure from -> HTML


def pictures(images: np.ndarray, kind: str) -> np.ndarray:
    """What a reader sees of images: ink dark on white paper, photos as they are.

    Args:
        images: (B, H, W, C) uint8, or float in [0, 1]; C is 1 or 3.
        kind: `ink` or `photo`.

    Returns:
        (B, h, w, 3) uint8, reduced to the size a page needs.
    """
    images = np.asarray(images)
    if images.dtype != np.uint8:
        images = np.rint(255 * np.clip(images, 0, 1)).astype(np.uint8)
    height, width = images.shape[1:3]
    scale = MAX_SIDE[kind] / max(height, width)
    if scale < 1:
        images = resize_images(images, max(1, round(scale * height)), max(1, round(scale * width)))
    if images.shape[-1] != 3:
        images = np.repeat(images[..., :1], 3, -1)
    return 255 - images if kind == "ink" else images


def first_pictures(images: ImageSet, c: int, count: int) -> np.ndarray:
    """The first pictures of a class, so many at most, see `pictures`."""
    start, size = images.class_start[c], images.class_count[c]
    return pictures(images.images[start : start + min(count, size)], images.kind)


def data_uri(pixels: np.ndarray) -> str:
    """A picture (H, W, 3) uint8 as a data URI; a large photo as a JPEG, all else as a PNG."""
    grey = (pixels == pixels[..., :1]).all()
    image = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if grey else pixels))
    if grey and np.isin(pixels, (0, 255)).all():
        image = image.convert("1")  # a third of the bytes
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    kind = "png"
    if buffer.tell() > _PNG_BYTES and image.mode != "1" and len(np.unique(pixels)) > 64:
        buffer, kind = io.BytesIO(), "jpeg"
        image.save(buffer, format="JPEG", quality=88)
    return page.data_uri(buffer.getvalue(), kind)


def img(pixels: np.ndarray, words: str, attributes: str = "") -> str:
    """An `<img>` of a picture (H, W, 3) uint8, with words for those who cannot see it."""
    words = html.escape(words)
    height, width = pixels.shape[:2]
    return (
        f'<img {attributes}src="{data_uri(pixels)}" width="{width}" height="{height}" '
        f'alt="{words}" title="{words}">'
    )


def sample_trials(correct: np.ndarray, count: int) -> np.ndarray:
    """Trials to show: half of them wrong, or as many as there are, and the rest right.

    Args:
        correct: (R, Q) how right each trial is.
        count: how many.

    Returns:
        (count, 2) int run and query of each, right ones first.
    """
    rng = np.random.default_rng(0)
    good, bad = (rng.permutation(np.argwhere(x)) for x in (correct == 1, correct < 1))
    wrong = max(min(len(bad), count // 2), count - len(good))
    return np.concatenate([good[: count - wrong], bad[:wrong]])


def trial_sheet(
    result: Result,
    kind: str,
    names: Names,
    titles: Sequence[str],
    why: Why | None = None,
    count: int = 8,
) -> str:
    """N-way trials: the query, its supports with their scores, the answer and the right one.

    Args:
        result: of N-way trials.
        kind: `ink` or `photo`.
        names: of the images.
        titles: a name of each of the result's groups.
        why: explains a score of two images; None where nobody can.
        count: how many trials (see `sample_trials`).
    """
    trials = result.list_of(Trials)
    wide, columns = ("62rem", 10) if trials.n_way > 10 else ("22rem", 5)
    cards = []
    for r, q in sample_trials(result.correct, count):
        scores, answer = result.scores[r, q], trials.answers[r, q]
        query, supports = trials.queries[r, q], trials.supports[r, :, 0]
        answers = _answers(scores)
        right = result.correct[r, q] == 1
        verdict = "right" if right else _verdict(scores, answer, answers)
        picture = pictures(trials.images[query][None], kind)[0]
        options = "".join(
            _option(picture, names, row, score, n == answer, n in answers)
            for n, (picture, row, score) in enumerate(
                zip(pictures(trials.images[supports], kind), supports, scores, strict=True)
            )
        )
        words = f"The query is {names.image(query)}. "
        if not right and len(answers):
            words += f"Answered: {_listed(names, supports[answers], scores[answers])}. "
        words += f"Right: {_listed(names, supports[[answer]], scores[[answer]])}."
        more = ""
        if why and not right and len(answers) and answer not in answers:
            middle = (scores[answers[0]] + scores[answer]) / 2
            more = _folded("".join(why(query, supports[n], middle) for n in (answers[0], answer)))
        title = html.escape(f"{titles[trials.groups[r, q]]}: {verdict}")
        cards.append(
            f'<li><p class="card-title {_good(right)}">{title}</p><div class="trial">'
            f"{img(picture, f'query: {names.image(query)}', 'class=query ')}"
            f'<ul class="pictures" style="--columns:{columns}">{options}</ul></div>'
            f'<p class="card-text">{html.escape(words)}</p>{more}</li>'
        )
    return _sheet(cards, wide)


def _answers(scores: np.ndarray) -> np.ndarray:
    """The numbers of the classes with the highest score; none where a score is not finite."""
    if not np.isfinite(scores).all():
        return np.zeros(0, np.intp)
    return np.flatnonzero(metrics.answer_shares(scores))


def _folded(explanation: str) -> str:
    """What explains an error, shown on a click."""
    return f"<details class=why><summary>Why?</summary>{explanation}</details>"


def _verdict(scores: np.ndarray, answer: int, answers: np.ndarray) -> str:
    """What is wrong with an answer."""
    if not len(answers):
        return "no answer, a score is not finite"
    if answer in answers:
        return f"a tie of {len(answers)}"
    return f"wrong, the right one ranks {1 + int((scores > scores[answer]).sum())} of {len(scores)}"


def _option(
    picture: np.ndarray, names: Names, row: int, score: float, right: bool, chosen: bool
) -> str:
    """One of the classes to choose from."""
    parts = [names.image(row), f"score {_score(score)}"]
    parts += ["the right class"] if right else []
    parts += ["answered"] if chosen else []
    classes = " ".join(
        name
        for name, holds in (("right", right), ("wrong", not right), ("chosen", chosen))
        if holds
    )
    mark = _SIGNS[bool(right)] if right or chosen else ""
    label = names.label(row)
    below = f"<span>{html.escape(label)}</span>" if label else ""
    return (
        f'<li class="{classes}">{img(picture, ", ".join(parts))}{mark}'
        f"<span>{_score(score)}</span>{below}</li>"
    )


def _listed(names: Names, rows: np.ndarray, scores: np.ndarray) -> str:
    return ", ".join(
        f"{names.image(row)} ({_score(score)})" for row, score in zip(rows, scores, strict=True)
    )


def confusion_sheet(
    confusions: Sequence[tuple[int, int, float, int]], images: ImageSet, examples: int = 5
) -> str:
    """Pairs of classes that are taken for each other, with some pictures of both.

    Args:
        confusions: (class, class, wrong answers, possible ones) of each pair, see
            `inputs.count_confusions`.
        images: where the classes are from.
        examples: pictures of a class.
    """
    cards = []
    for a, b, wrong, possible in confusions:
        lines = []
        for c in (a, b):
            shown = first_pictures(images, c, examples)
            name = class_name(images.class_names[c])
            lines += [f"<li>{img(picture, name)}</li>" for picture in shown]
            lines += ["<li></li>"] * (examples - len(shown))
        title = html.escape(pair_name(images.class_names[a], images.class_names[b]))
        cards.append(
            f'<li><p class="card-title">{title}</p><ul class="pictures" '
            f'style="grid-template-columns:repeat({examples},1fr)">{"".join(lines)}</ul>'
            f'<p class="card-text">{wrong:.4g} of {possible} wrong</p></li>'
        )
    return _sheet(cards, "16rem")


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
        ("Same: a random sample", once[same]),
        ("Different: a random sample", once[~same]),
        ("Same but rejected: the least alike", rejected[np.argsort(scores[rejected])]),
        ("Different but accepted: the most alike", accepted[np.argsort(-scores[accepted])]),
    )
    return [(what, members[:count]) for what, members in groups if len(members)]


def pair_sheet(
    result: Result,
    rows: Sequence[tuple[str, np.ndarray]],
    dissimilarity: Callable[[np.ndarray], np.ndarray],
    kind: str,
    names: Names,
    why: Why | None = None,
) -> str:
    """Pairs side by side, with their dissimilarity and the probability that they are the same.

    Args:
        result: of a list of pairs. Of a claim with several references the first is shown.
        rows: a heading and the numbers of pairs below it, see `sample_pairs`.
        dissimilarity: (n,) numbers of pairs -> (n,), lower = more alike.
        kind: `ink` or `photo`.
        names: of the images.
        why: explains the score of two images; None where nobody can.
    """
    pairs, f = result.list_of(VerificationPairs), result.figures
    parts = []
    for what, members in rows:
        cards = []
        for pair, value in zip(members, dissimilarity(members), strict=True):
            first, second = pairs.first[pair], pairs.references[pair, 0]
            right = bool(result.correct[pair] == 1)
            text = f"dissimilarity {_score(value)}"
            if "slope" in f:
                logit = f["slope"] * result.scores[pair] + f["offset"]
                text += f"<br>P(same) {html.escape(_probability(logit))}"
            called = [names.image(row) for row in (first, second)]
            more = ""
            if why and not right:
                more = _folded(why(first, second, None))
            shown = pictures(pairs.images[[first, second]], kind)
            cards.append(
                f"<li>{_two(shown, called, _SIGNS[right])}"
                f'<p class="card-text {_good(right)}">{text}</p>'
                f'<p class="card-text">{"<br>".join(map(html.escape, called))}</p>{more}</li>'
            )
        parts.append(f'<p class="card-title">{html.escape(what)}</p>{_sheet(cards, "8.5rem")}')
    return "".join(parts)


def training_pair_sheet(pixels: np.ndarray, labels: np.ndarray, kind: str) -> str:
    """Training pairs with their labels, half of those shown of either label if there are as many.

    Args:
        pixels: (B, 2, H, W, C) float in [0, 1].
        labels: (B,) 1 = same.
        kind: `ink` or `photo`.
    """
    chosen = np.concatenate([np.flatnonzero(labels == label)[: _PAIRS // 2] for label in (1, 0)])
    cards = []
    for b in chosen:
        same = bool(labels[b] == 1)
        word = f"{'same' if same else 'different'} ({int(labels[b])})"
        cards.append(
            f"<li>{_two(pictures(pixels[b], kind), ['first picture', 'second picture'], _EQUALS[same])}"
            f'<p class="card-text {_good(same)}">{word}</p></li>'
        )
    return _sheet(cards, "8.5rem")


def episode_sheet(pixels: np.ndarray, mask: np.ndarray, kind: str) -> str:
    """Training episodes: a column a class, its pictures from the first side down.

    Args:
        pixels: (E, K, N, H, W, C) float in [0, 1], K at least 2.
        mask: (E, N) bool, whether a column takes part.
        kind: `ink` or `photo`.
    """
    parts = []
    for e in range(min(_EPISODES, len(pixels))):
        columns = []
        for n in np.flatnonzero(mask[e]):
            shown = pictures(pixels[e, :, n], kind)
            column = (
                img(picture, f"class {n + 1}, side {side_name(side)}")
                for side, picture in enumerate(shown)
            )
            columns.append(f"<li>{''.join(column)}</li>")
        parts.append(
            f'<p class="card-title">Episode {e + 1}</p><ul class="pictures">{"".join(columns)}</ul>'
        )
    return "".join(parts)


def image_sheet(pixels: np.ndarray, names: Sequence[str], kind: str, count: int = 32) -> str:
    """Training pictures, each with the name of its class.

    Args:
        pixels: (B, H, W, C) float in [0, 1].
        names: of the class of each.
        kind: `ink` or `photo`.
        count: how many are shown.
    """
    shown = pictures(pixels[:count], kind)
    items = "".join(
        f"<li>{img(picture, name)}<span>{html.escape(name)}</span></li>"
        for picture, name in zip(shown, names[: len(shown)], strict=True)
    )
    return f'<ul class="pictures" style="--picture:5.5rem">{items}</ul>'


def filter_sheet(kernel: np.ndarray) -> str:
    """The filters of a convolution on one or three channels, each scaled to its own largest weight.

    Args:
        kernel: (h, w, C, filters).
    """
    kernel = np.moveaxis(np.asarray(kernel, np.float64), -1, 0)[:_FILTERS]  # (filters, h, w, C)
    scale = np.abs(kernel).max((1, 2, 3), keepdims=True) + 1e-12
    if kernel.shape[-1] == 3:
        shown = 0.5 + kernel / scale / 2
    else:
        shown = matplotlib.colormaps["RdBu_r"](0.5 + (kernel / scale).mean(-1) / 2)[..., :3]
    items = "".join(
        f"<li>{img(picture, f'filter {i}')}</li>"
        for i, picture in enumerate(np.rint(255 * shown).astype(np.uint8), 1)
    )
    return f'<ul class="pictures pixels">{items}</ul>'


def _two(shown: Iterable[np.ndarray], called: Sequence[str], sign: str) -> str:
    """Two pictures beside each other, with a sign at the second."""
    first, second = (
        f"<li>{img(picture, name)}{sign}</li>"
        for picture, name, sign in zip(shown, called, ("", sign), strict=True)
    )
    return f'<ul class="pictures two">{first}{second}</ul>'


def _sheet(cards: Iterable[str], width: str) -> str:
    """Cards of at least this width, as many a line as there is room for."""
    return f'<ul class="sheet" style="--card:{width}">{"".join(cards)}</ul>'


def _good(right: bool) -> str:
    return "good" if right else "bad"


def _score(value: float) -> str:
    if not np.isfinite(value):
        return str(value)
    return f"{value:.2f}" if abs(value) < 100 else f"{value:.0f}"


def _probability(logit: float) -> str:
    """In per cent, never rounded to certainty."""
    if not np.isfinite(logit):
        return "unknown"
    share = 100 * scipy.special.expit(logit)
    if share > 99.9:
        return "> 99.9 %"
    return f"{share:.1f} %" if share >= 0.1 else "< 0.1 %"
