"""An explanation as a picture: heat maps of what each place adds, arrows to what it met."""

from __future__ import annotations

import html
import io

import numpy as np
from PIL import Image

from siamese_jax.inference.explain import Explanation
from siamese_jax.reporting import page
from siamese_jax.reporting.wording import shortened

_SIDE = 210  # of a picture in the drawing
_GAP = 84  # between the two
_TOP = 24  # for the names
_FOR, _AGAINST = "#0b5fa5", "#c2410c"
_LINES = 3  # of the places that spoke loudest on either side
_NAME = 28  # letters of a name above a picture
LEGEND = (
    "Blue places raise the score; orange ones, with a minus, lower it. Arrows point to where the best "
    "match of a place lies in the other picture. Lines join the places that contribute most."
)
_INK = 40  # grey levels that a place's pixels must span to have an arrow


def fragment(
    explanation: Explanation,
    image1: np.ndarray,
    image2: np.ndarray,
    names: tuple[str, str] = ("first", "second"),
    ink: bool = True,
    reference: str = "the threshold",
    legend: bool = True,
) -> str:
    """A `<figure>` with one `<svg>` that needs no other file.

    `LEGEND` says what is in it.

    Args:
        explanation: of the two images.
        image1: (H, W, C) or (H, W) uint8.
        image2: likewise.
        names: what stands above the pictures; any text.
        ink: whether 255 is ink, which is drawn dark.
        reference: what the explanation's threshold is called.
        legend: whether the caption says how to read the figure.
    """
    tall = _SIDE * image1.shape[0] / image1.shape[1]
    sides = (
        (explanation.contributions1, explanation.moves1, image1, 0),
        (explanation.contributions2, explanation.moves2, image2, _SIDE + _GAP),
    )
    strongest = max(np.abs(contributions).max() for contributions, *_ in sides) or 1.0
    pictures = "".join(
        _picture(contributions / strongest, moves, image, left, tall, name, ink)
        for (contributions, moves, image, left), name in zip(sides, names, strict=True)
    )
    width, height = 2 * _SIDE + _GAP, _TOP + tall
    places = explanation.contributions1.shape
    rows, columns = places
    support, against = _loudest(explanation.contributions1, _drawn(image1, rows, columns))
    lines = "".join(
        _line(place, explanation.moves1[place], places, tall, colour, dash)
        for loudest, colour, dash in (
            (support, f"var(--for,{_FOR})", ""),
            (against, f"var(--against,{_AGAINST})", "5 4"),
        )
        for place in loudest
    )
    words = html.escape(summary(explanation, reference))
    caption = f"{words} {LEGEND}" if legend else words
    return (
        f'<figure class="explanation"><svg viewBox="0 0 {width} {height:.0f}" role="img" '
        f'aria-label="{words}" style="display:block;width:100%;max-width:{width}px;height:auto">'
        f"{pictures}{lines}</svg><figcaption>{caption}</figcaption></figure>"
    )


def summary(explanation: Explanation, reference: str = "the threshold") -> str:
    """The explanation in one sentence; `reference` is what its threshold is called."""
    contributions = np.concatenate([explanation.contributions1, explanation.contributions2])
    count = contributions.size
    support = int((contributions > 0).sum())
    above = explanation.score - explanation.threshold
    gains, losses = contributions[contributions > 0].sum(), contributions[contributions < 0].sum()
    return (
        f"{support} of {count} places raise the score (+{gains:.1f}) and {count - support} lower it "
        f"({losses:z.1f}): {above:+.1f} from {reference}."
    )


def _picture(
    contributions: np.ndarray,
    moves: np.ndarray,
    image: np.ndarray,
    left: float,
    height: float,
    name: str,
    ink: bool,
) -> str:
    """One picture with its heat map and arrows; contributions in [-1, 1]."""
    rows, columns = contributions.shape
    tall, wide = height / rows, _SIDE / columns
    parts = [
        f'<text x="{left + _SIDE / 2}" y="15" text-anchor="middle" font-size="14" '
        f'fill="currentColor">{html.escape(shortened(name, _NAME))}</text>',
        f'<image x="{left}" y="{_TOP}" width="{_SIDE}" height="{height:.1f}" '
        f'preserveAspectRatio="none" href="{_data_uri(image, ink)}"/>',
    ]
    drawn = _drawn(image, rows, columns)
    for row, column in np.ndindex(rows, columns):
        value = contributions[row, column]
        colour = _FOR if value > 0 else _AGAINST
        x, y = left + column * wide, _TOP + row * tall
        parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{wide:.1f}" height="{tall:.1f}" '
            f'fill="{colour}" fill-opacity="{0.55 * abs(value):.2f}"/>'
        )
        if value < 0:
            parts.append(
                f'<path d="M{x + 4:.1f} {y + 6:.1f}h8" stroke="{_AGAINST}" stroke-width="2"/>'
            )
        if drawn[row, column]:
            down, right = moves[row, column] - (row, column)
            parts.append(_arrow(x + wide / 2, y + tall / 2, right * wide, down * tall, ink))
    parts.append(
        f'<rect x="{left + 0.5}" y="{_TOP}" width="{_SIDE - 1}" height="{height - 0.5:.1f}" fill="none" '
        'stroke="#9ca3af"/>'
    )
    return "".join(parts)


def _arrow(x: float, y: float, across: float, down: float, ink: bool) -> str:
    """An arrow from a point, or a dot where it leads nowhere; it stops short of its end."""
    colour = "#111827" if ink else "#ffe14d"  # a photo is dark here and light there
    length = float(np.hypot(across, down))
    if length == 0:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="1.8" fill="{colour}"/>'
    ux, uy = across / length, down / length
    end_x, end_y = x + 0.8 * across, y + 0.8 * down
    back_x, back_y = end_x - 6 * ux, end_y - 6 * uy
    return (
        f'<g stroke="{colour}" fill="{colour}" opacity=".75"><path d="M{x:.1f} {y:.1f}'
        f'L{back_x:.1f} {back_y:.1f}" stroke-width="1.4"/><path stroke="none" d="M{end_x:.1f} '
        f"{end_y:.1f}L{back_x - 3 * uy:.1f} {back_y + 3 * ux:.1f}L{back_x + 3 * uy:.1f} "
        f'{back_y - 3 * ux:.1f}z"/></g>'
    )


def _line(
    place: tuple[int, ...],
    move: np.ndarray,
    shape: tuple[int, ...],
    tall: float,
    colour: str,
    dash: str,
) -> str:
    """A curve from a place of the first picture to the one that it met in the second."""
    x1, y1 = (place[1] + 0.5) * _SIDE / shape[1], _TOP + (place[0] + 0.5) * tall / shape[0]
    x2 = _SIDE + _GAP + (move[1] + 0.5) * _SIDE / shape[1]
    y2 = _TOP + (move[0] + 0.5) * tall / shape[0]
    middle = (x1 + x2) / 2
    return (
        f'<path d="M{x1:.1f} {y1:.1f}C{middle:.1f} {y1:.1f} {middle:.1f} {y2:.1f} {x2:.1f} '
        f'{y2:.1f}" fill="none" style="stroke:{colour}" stroke-width="2" stroke-opacity=".8" '
        f'stroke-dasharray="{dash}"/>'
    )


def _loudest(contributions: np.ndarray, drawn: np.ndarray) -> tuple[list, list]:
    """Of the drawn places those that add most, and those that take most; `_LINES` each at most."""
    order = np.argsort(contributions, axis=None, kind="stable")
    places = [np.unravel_index(i, contributions.shape) for i in order]
    places = [place for place in places if drawn[place]]
    against = [p for p in places[:_LINES] if contributions[p] < 0]
    support = [p for p in places[::-1][:_LINES] if contributions[p] > 0]
    return support, against


def _drawn(image: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """(rows, columns) bool: the places with something to see in their part of the picture."""
    grey = np.asarray(image).reshape(*image.shape[:2], -1).mean(-1)
    return np.array(
        [
            [np.ptp(part) > _INK for part in np.array_split(band, columns, 1)]
            for band in np.array_split(grey, rows, 0)
        ]
    )


def _data_uri(image: np.ndarray, ink: bool) -> str:
    pixels = np.asarray(image)
    pixels = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[-1] == 1 else pixels
    buffer = io.BytesIO()
    Image.fromarray(255 - pixels if ink else pixels).save(buffer, format="PNG", optimize=True)
    return page.data_uri(buffer.getvalue(), "png")
