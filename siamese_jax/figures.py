"""The figures of a report, drawn with matplotlib and without a display.

Each function returns a `matplotlib.figure.Figure`: `to_svg` puts it into a page, `save` writes it as a
picture for a README. Ink is drawn dark on white paper, photos as they are. What is right or wrong is
told by a sign and by the line of a border, not by colour alone.
"""

from __future__ import annotations

import functools
import html
import io
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Circle, Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator

from siamese_jax import metrics
from siamese_jax.datasets.imageset import ImageSet, resize_images
from siamese_jax.evaluate import Result

WIDTH = 9.6  # of a figure, inches; a page shows them 960 pixels wide

TEXT, MUTED, RULE = "#1c1c1c", "#5f6368", "#e2e2e2"
MODEL, OTHER, BASELINE = "#0b5fa5", "#b4690e", "#7a7a7a"
LIGHT, FRAME = "#a8a8a8", "#c9c9c9"
RIGHT, WRONG = "#00755f", "#b3261e"
_STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "text.color": TEXT,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": TEXT,
    "axes.titlesize": 8.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "image.composite_image": False,  # an SVG keeps each picture at its own size
    "svg.fonttype": "none",  # and its text as text, in the page's typeface
    "svg.hashsalt": "siamese_jax",
}
_MAX_SIDE = {"ink": 105, "photo": 48}  # pixels of a picture in a figure; photos compress badly


def _styled(draw: Callable) -> Callable:
    """Lets a function draw in the style of the report, whatever the user's own is."""

    @functools.wraps(draw)
    def styled(*args, **kwargs):
        with matplotlib.rc_context(_STYLE):
            return draw(*args, **kwargs)

    return styled


@_styled
def to_svg(figure: Figure, description: str) -> str:
    """The figure as an `<svg>` element for an HTML page.

    Args:
        figure: the figure.
        description: what is seen, for those who cannot see it.
    """
    for image in figure.findobj(AxesImage):
        image.set_interpolation("none")  # the pictures' own pixels, scaled by the reader's browser
    buffer = io.StringIO()
    unsaid = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", metadata=unsaid, transparent=True)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg)  # implied inside of a page
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # would repeat from figure to figure
    svg = svg.replace("image-rendering:crisp-edges;image-rendering:pixelated", "")
    head, _, body = svg.partition(">")
    size = re.search(r'viewBox="[^"]*"', head).group()
    return f'<svg role="img" aria-label="{html.escape(description)}" {size}>{body}'


@_styled
def save(figure: Figure, path: str | pathlib.Path, dpi: int = 150) -> pathlib.Path:
    """Writes the figure as a picture (PNG, or what the path's ending says).

    Args:
        figure: the figure.
        path: of the file.
        dpi: pixels an inch; a figure is 9.6 inches wide.
    """
    for image in figure.findobj(AxesImage):
        image.set_interpolation("antialiased")
    figure.savefig(path, dpi=dpi, facecolor="white")
    return pathlib.Path(path)


# ---------------------------------------------------------------------------------------- curves


@_styled
def training_figure(rows: Sequence[Mapping], train_label: str, validation_label: str) -> Figure:
    """Loss, and training and validation accuracy, against the step.

    Args:
        rows: of `metrics.jsonl`, in order.
        train_label: what the training accuracy is of.
        validation_label: what the validation accuracy is of.
    """
    train = [row for row in rows if row["kind"] == "train"]
    judged = [row for row in rows if row["kind"] == "validation"]
    figure, (left, right) = _panels(1, 2, 3.1)
    left.set_title("Training loss (nats)")
    left.plot([r["step"] for r in train], [r["loss"] for r in train], color=MODEL)
    right.set_title("Accuracy")
    ends = []
    for part, label, colour, marker in (
        (train, train_label, OTHER, ""),
        (judged, validation_label, MODEL, "o"),
    ):
        if part:
            steps, values = [r["step"] for r in part], [r["accuracy"] for r in part]
            right.plot(steps, values, color=colour, marker=marker, markersize=4)
            ends.append((steps[-1], values[-1], label, colour))
    right.yaxis.set_major_formatter(_percent)
    for axes in (left, right):
        axes.set_xlabel("step")
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    left.set_ylim(bottom=0)
    right.set_ylim(0, 1.02)
    if judged:
        best = max(judged, key=lambda r: r["accuracy"])
        right.axvline(best["step"], color=MODEL, linewidth=0.9, linestyle=(0, (4, 3)))
        _beside(right, best["step"], 0.05, f"best: step {best['step']}", MODEL, -4)
    _label_ends(right, ends)
    return figure


@_styled
def curve_figure(lines: Sequence[tuple[str, Sequence[Result]]]) -> Figure:
    """Accuracy against the number of classes N; a filled point is within alphabets, a ring between.

    Args:
        lines: a label and the results at each N; colours go by place, greys from the third on.
    """
    figure, axes = _panels(1, 1, 4.0)
    colours = (MODEL, OTHER, *(BASELINE, LIGHT) * len(lines))
    ends, largest = [], max(r.n_way for _, results in lines for r in results)
    for (label, results), colour in zip(lines, colours, strict=False):
        results = sorted(results, key=lambda r: r.n_way)
        for within in (True, False):  # two questions of different hardness: no line joins them
            part = [r for r in results if r.scope.startswith("within") == within]
            n_ways, values = [r.n_way for r in part], [r.accuracy for r in part]
            low, high = [r.wilson[0] for r in part], [r.wilson[1] for r in part]
            axes.fill_between(n_ways, low, high, color=colour, alpha=0.15, linewidth=0)
            filled = colour if within else "white"
            axes.plot(n_ways, values, "o-", color=colour, markersize=4.5, markerfacecolor=filled)
        ends.append((results[-1].n_way, results[-1].accuracy, label, colour))
    n = np.linspace(1, largest, 200)
    axes.plot(n, 1 / n, color=MUTED, linewidth=0.9, linestyle=(0, (1, 2)))
    axes.set_title("Accuracy of N-way trials")
    axes.set_xlabel("N, classes to choose from")
    axes.set_xlim(0, largest * 1.01)
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(_percent)
    axes.set_xticks([1, *range(5, largest + 1, 5)])
    _label_ends(axes, ends)
    return figure


@_styled
def roc_figure(results: Sequence[Result]) -> Figure:
    """The ROC of each system, and the scores of the first one's same and different pairs.

    Args:
        results: of `verification`, the system in question first.
    """
    figure, (left, right) = _panels(1, 2, 4.3)
    left.plot([0, 1], [1, 0], color=RULE, linewidth=1.2)
    colours = (MODEL, *(BASELINE, LIGHT) * len(results))
    for place, (result, colour) in enumerate(zip(results, colours, strict=False)):
        fpr, tpr, _ = metrics.roc(result.scores, result.trials.labels)
        left.plot(*_thinned(fpr, tpr), color=colour)
        eer = result.figures["eer"]
        left.plot(eer, 1 - eer, marker="o", markersize=6, color=colour, markerfacecolor="white")
        text = f"{result.system}\nAUC {result.figures['auc']:.4f}, EER {100 * eer:.2f} %"
        below = 0.4 - 0.14 * place  # where no curve better than chance comes
        left.text(0.98, below, text, color=colour, ha="right", va="top", fontweight="bold")
    left.set_title("True accept rate")
    left.set_xlabel("false accept rate")
    left.set_xlim(-0.01, 1)
    left.set_ylim(0, 1.02)
    left.set_aspect("equal")
    for axis in (left.xaxis, left.yaxis):
        axis.set_major_formatter(_percent)

    first = results[0]
    finite = np.isfinite(first.scores)
    scores, same = first.scores[finite], first.trials.labels[finite] == 1
    if len(scores):
        bins = np.linspace(scores.min(), max(scores.max(), scores.min() + 1e-6), 51)
        tallest = 0.0
        for chosen, label, colour in ((~same, "different", WRONG), (same, "same", RIGHT)):
            shares = np.histogram(scores[chosen], bins)[0] / max(chosen.sum(), 1)
            right.stairs(shares, bins, fill=True, color=colour, alpha=0.18)
            right.stairs(shares, bins, color=colour, linewidth=1.5)
            at = int(shares.argmax())
            right.text(
                (bins[at] + bins[at + 1]) / 2,
                shares[at],
                label,
                color=colour,
                ha="center",
                va="bottom",
                fontweight="bold",
            )
            tallest = max(tallest, shares[at])
        right.axvline(first.figures["threshold"], color=TEXT, linewidth=1, linestyle=(0, (4, 3)))
        _beside(right, first.figures["threshold"], tallest * 1.1, "threshold", TEXT, 4)
        right.set_ylim(0, tallest * 1.15)
    right.set_title(f"Share of pairs by score, {first.system}")
    right.set_xlabel("score (higher: more alike)")
    right.yaxis.set_major_formatter(_percent)
    right.xaxis.get_major_formatter().set_useOffset(False)
    right.xaxis.set_major_locator(MaxNLocator(6))
    right.grid(visible=False)
    return figure


@_styled
def embedding_figure(panels: Sequence[tuple[str, np.ndarray, ImageSet]]) -> Figure:
    """Embeddings on their first two principal components, one panel an alphabet.

    Each point is one picture, joined to the mean of its class, where a picture of the class stands.

    Args:
        panels: title, embeddings (M, D) and their images, an `ImageSet` of at most ten classes.
    """
    figure, axes_row = _panels(1, len(panels), 5.0, squeeze=False)
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
        tiles = pictures(images.images[images.class_start], images.kind)
        for c in range(images.num_classes):
            colour = matplotlib.colormaps["tab10"](c % 10)
            own = points[images.classes == c]
            mean = own.mean(0)
            for point in own:
                axes.plot(*zip(mean, point, strict=True), color=colour, linewidth=0.6, alpha=0.5)
            axes.plot(*own.T, linestyle="", marker="o", markersize=3.2, color=colour)
            corner = mean - side / 2
            _picture(axes, tiles[c], corner[0], corner[1], *side, up=True)
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


# -------------------------------------------------------------------------------------- pictures


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


@_styled
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
    point = _point(across)
    line = tall + 13 * point  # a score below each picture
    block = max(lines * line, big * tall) + 20 * point  # a title above
    figure, axes = _canvas(across, -(-len(chosen) // beside) * block)
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
        _picture(axes, query, start, top, big, big * tall)
        _frame(axes, start, top, big, big * tall, TEXT, 1.3)
        supports = pictures(trials.images[trials.supports[r, :, 0]], kind)
        for n, picture in enumerate(supports):
            x, y = start + left + n % columns * pitch, top + n // columns * line
            _picture(axes, picture, x, y, 1, tall)
            if n in given and n != answer:
                _frame(axes, x, y, 1, tall, WRONG, 1.8, dashed=True)
                _sign(axes, x + 1, y, False, point)
            elif n in given:
                _frame(axes, x, y, 1, tall, RIGHT, 2.2)
            else:
                _frame(axes, x, y, 1, tall, RIGHT if n == answer else FRAME, 0.8)
            if n == answer:
                _sign(axes, x + 1, y, True, point)
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


@_styled
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
    figure, axes = _canvas(columns * (wide + gap) - gap, -(-len(confused) // columns) * block)
    for place, (a, b, wrong, met) in enumerate(confused):
        x0, y0 = place % columns * (wide + gap), place // columns * block
        title = _pair_name(images.class_names[a], images.class_names[b])
        axes.text(x0, y0 + 0.32, _short(title, 40), fontweight="bold")
        axes.text(x0, y0 + 0.70, f"{wrong:.3g} of {met} wrong", color=MUTED)
        for line, c in enumerate((a, b)):
            rows = np.arange(images.class_count[c])[:examples] + images.class_start[c]
            for i, picture in enumerate(pictures(images.images[rows], images.kind)):
                x, y = x0 + i * pitch, y0 + 0.88 + line * (tall + 0.1)
                _picture(axes, picture, x, y, 1, tall)
                _frame(axes, x, y, 1, tall, FRAME, 0.8)
    return figure


@_styled
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
    figure, axes = _canvas(across, lines * block)
    for place, b in enumerate(chosen):
        x, y = place % columns * (wide + gap), place // columns * block + 0.1
        for side, picture in enumerate(pictures(pixels[b], kind)):
            _picture(axes, picture, x + 1.06 * side, y, 1, tall)
            _frame(axes, x + 1.06 * side, y, 1, tall, FRAME, 0.8)
        same = labels[b] == 1
        _sign(axes, x + wide / 2 - 0.02, y + tall, same, _point(across))
        axes.text(
            x + wide / 2,
            y + tall + 0.34,
            f"{'same' if same else 'different'} ({int(labels[b])})",
            color=RIGHT if same else WRONG,
            ha="center",
        )
    return figure


@_styled
def episode_figure(pixels: np.ndarray, mask: np.ndarray, kind: str, count: int = 3) -> Figure:
    """Training episodes: two rows each, the same character in a column.

    Args:
        pixels: (E, 2, N, H, W, C) float in [0, 1].
        mask: (E, N) bool, whether a column takes part.
        kind: `ink` or `photo`.
        count: how many are shown.
    """
    columns, tall = min(pixels.shape[2], 20), pixels.shape[3] / pixels.shape[4]
    beside = 2 if columns <= 10 else 1  # episodes side by side
    count = min(count * beside, len(pixels))
    left, pitch = 0.08 * columns, 1.08
    wide, block = left + (columns + 0.3) * pitch, 2 * (tall + 0.08) + 0.45
    figure, axes = _canvas(beside * wide, -(-count // beside) * block)
    for e in range(count):
        start, top = e % beside * wide, e // beside * block
        for side in range(2):
            y = top + 0.1 + side * (tall + 0.08)
            axes.text(start, y + tall / 2, "AB"[side], va="center", color=MUTED)
            for n, picture in enumerate(pictures(pixels[e, side, :columns], kind)):
                if mask[e, n]:
                    _picture(axes, picture, start + left + n * pitch, y, 1, tall)
                    _frame(axes, start + left + n * pitch, y, 1, tall, FRAME, 0.8)
    return figure


@_styled
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
    figure, axes = _canvas(columns * pitch, -(-len(shown) // columns) * pitch)
    for i, picture in enumerate(shown):
        x, y = i % columns * pitch, i // columns * pitch
        _picture(axes, picture, x, y, 1, 1)
        _frame(axes, x, y, 1, 1, FRAME, 0.8)
    return figure


# --------------------------------------------------------------------------------------- helpers

_percent = FuncFormatter(lambda value, _: f"{100 * value:.0f} %")


def _panels(rows: int, columns: int, height: float, squeeze: bool = True):
    """A figure of full width with charts in it, `height` in inches."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.04, wspace=0.06)
    return figure, figure.subplots(rows, columns, squeeze=squeeze)


def _canvas(wide: float, tall: float):
    """A figure of full width for pictures, in units of one picture's width, y going down."""
    figure = Figure(figsize=(WIDTH, WIDTH * tall / wide))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(-0.03, wide + 0.03)
    axes.set_ylim(tall, 0)
    return figure, axes


def _point(wide: float) -> float:
    """How many units a point of type is on a canvas."""
    return wide / (72 * WIDTH)


def _picture(axes, picture, x, y, wide, tall, up: bool = False):
    """One picture with its upper left (`up`: lower left) corner at (x, y)."""
    limits = axes.get_xlim(), axes.get_ylim()
    extent = (x, x + wide, y, y + tall) if up else (x, x + wide, y + tall, y)
    axes.imshow(picture, extent=extent, aspect="auto", zorder=3, origin="upper")
    axes.set_xlim(limits[0])
    axes.set_ylim(limits[1])


def _frame(axes, x, y, wide, tall, colour, thick, dashed=False):
    style = (0, (2.2, 1.4)) if dashed else "-"
    axes.add_patch(
        Rectangle(
            (x, y),
            wide,
            tall,
            fill=False,
            edgecolor=colour,
            linewidth=thick,
            linestyle=style,
            zorder=4,
        )
    )


def _sign(axes, x, y, right: bool, point: float):
    """A tick or a cross on a disc at (x, y), whatever the colours; `point` as of `_point`."""
    radius = 4.6 * point
    axes.add_patch(Circle((x, y), radius, color=RIGHT if right else WRONG, zorder=5))
    line = {"color": "white", "linewidth": 1.3, "zorder": 6, "solid_capstyle": "round"}
    r = 0.45 * radius
    if right:
        axes.plot([x - 1.1 * r, x - 0.3 * r, x + 1.1 * r], [y, y + 0.85 * r, y - 0.9 * r], **line)
    else:
        axes.plot([x - r, x + r], [y - r, y + r], **line)
        axes.plot([x - r, x + r], [y + r, y - r], **line)


def _beside(axes, x, y, text, colour, points):
    """Writes to the right of (x, y), or to the left for less than 0 points."""
    axes.annotate(
        text,
        (x, y),
        xytext=(points, 0),
        textcoords="offset points",
        color=colour,
        ha="left" if points > 0 else "right",
        va="center",
    )


def _label_ends(axes, ends):
    """Writes each line's name at its right end, moved apart where two would overlap."""
    bottom, top = axes.get_ylim()
    inches = 0.8 * axes.get_figure().get_figheight()
    gap, lowest = 12 / 72 / inches * (top - bottom), {}  # 12 points
    for x, y, label, colour in sorted(ends, key=lambda end: end[1]):
        lowest[x] = max(y, lowest.get(x, -np.inf) + gap)
        axes.annotate(
            label,
            (x, lowest[x]),
            xytext=(8, 0),
            textcoords="offset points",
            color=colour,
            va="center",
            fontweight="bold",
            annotation_clip=False,
        )


def _thinned(fpr: np.ndarray, tpr: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The points of a curve that can be told apart in a picture."""
    cell = np.rint(1000 * np.stack([fpr, tpr], 1))
    keep = np.append(True, (np.diff(cell, axis=0) != 0).any(1))
    keep[-1] = True
    return fpr[keep], tpr[keep]


def _score(value: float) -> str:
    if not np.isfinite(value):
        return str(value)
    return f"{value:.2f}" if abs(value) < 100 else f"{value:.0f}"


def _pair_name(first: str, second: str) -> str:
    """`Greek/character01` and `Greek/character12` as `Greek 1 and 12`."""
    names = []
    for name in (first, second):
        alphabet, _, character = name.rpartition("/")
        number = re.fullmatch(r"character0*(\d+)", character)
        names.append((alphabet, number.group(1) if number else character))
    (here, one), (there, other) = names
    if here == there:
        return f"{here} {one} and {other}".strip()
    return f"{here} {one} and {there} {other}"


def _short(text: str, limit: int) -> str:
    text = text.replace("_", " ")
    return text if len(text) <= limit else text[: limit - 1] + "…"
