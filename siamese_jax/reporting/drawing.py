"""What all figures share: their style, their canvases, and how they are written."""

from __future__ import annotations

import functools
import html
import io
import pathlib
import re
from collections.abc import Callable, Iterable
from typing import Any, ParamSpec, TypeVar

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Circle, Rectangle
from matplotlib.ticker import FuncFormatter

WIDTH = 9.6  # of a figure, inches; a page shows them 960 pixels wide

TEXT, MUTED, RULE = "#1c1c1c", "#5f6368", "#e2e2e2"
MODEL, OTHER, BASELINE = "#0b5fa5", "#b4690e", "#7a7a7a"
LIGHT, FRAME = "#a8a8a8", "#c9c9c9"
RIGHT, WRONG = "#00755f", "#b3261e"
PERCENT = FuncFormatter(lambda value, _: f"{100 * value:.0f} %")
_P = ParamSpec("_P")
_R = TypeVar("_R")
_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "text.color": TEXT,
    "text.parse_math": False,  # a class name may hold dollar signs
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


def styled(draw: Callable[_P, _R]) -> Callable[_P, _R]:
    """Lets a function draw in the style of the report, whatever matplotlib style the user has set."""

    @functools.wraps(draw)
    def in_style(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with matplotlib.rc_context(_STYLE):
            return draw(*args, **kwargs)

    return in_style


@styled
def to_svg(figure: Figure, description: str) -> str:
    """The figure as an `<svg>` element for an HTML page.

    Args:
        figure: the figure.
        description: for readers who cannot see the figure.
    """
    for image in figure.findobj(AxesImage):
        image.set_interpolation("none")  # the pictures' own pixels, scaled by the reader's browser
    buffer = io.StringIO()
    no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", metadata=no_metadata, transparent=True)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg)  # implied inside of a page
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # would repeat from figure to figure
    svg = svg.replace("image-rendering:crisp-edges;image-rendering:pixelated", "")
    head, _, body = svg.partition(">")
    size = head[head.index('viewBox="') :].split('"')[1]
    return f'<svg role="img" aria-label="{html.escape(description)}" viewBox="{size}">{body}'


@styled
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


def full_width(height: float) -> Figure:
    """An empty figure of full width whose parts keep apart, `height` in inches."""
    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.04, wspace=0.06)
    return Figure(figsize=(WIDTH, height), layout=layout)


def charts(rows: int, columns: int, height: float, squeeze: bool = True) -> tuple[Figure, Any]:
    """A figure of full width with charts in it, `height` in inches."""
    figure = full_width(height)
    return figure, figure.subplots(rows, columns, squeeze=squeeze)


def canvas(wide: float, tall: float) -> tuple[Figure, Axes]:
    """A figure of full width for pictures, in units of one picture's width, y going down."""
    figure = Figure(figsize=(WIDTH, WIDTH * tall / wide))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(-0.03, wide + 0.03)
    axes.set_ylim(tall, 0)
    return figure, axes


def point_of(wide: float) -> float:
    """How many units a point of type is on a canvas."""
    return wide / (72 * WIDTH)


def put_picture(
    axes: Axes, picture: np.ndarray, x: float, y: float, wide: float, tall: float, up: bool = False
) -> None:
    """One picture with its upper left (`up`: lower left) corner at (x, y)."""
    limits = axes.get_xlim(), axes.get_ylim()
    extent = (x, x + wide, y, y + tall) if up else (x, x + wide, y + tall, y)
    axes.imshow(picture, extent=extent, aspect="auto", zorder=3, origin="upper")
    axes.set_xlim(limits[0])
    axes.set_ylim(limits[1])


def put_frame(
    axes: Axes,
    x: float,
    y: float,
    wide: float,
    tall: float,
    colour: str,
    thick: float,
    dashed: bool = False,
) -> None:
    """A border of `thick` points; its upper left corner at (x, y)."""
    style: Any = (0, (2.2, 1.4)) if dashed else "-"
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


def put_sign(axes: Axes, x: float, y: float, right: bool, point: float) -> None:
    """A tick or a cross on a disc at (x, y), whatever the colours; `point` as of `point_of`."""
    radius = 4.6 * point
    axes.add_patch(Circle((x, y), radius, color=RIGHT if right else WRONG, zorder=5))
    line: dict[str, Any] = {
        "color": "white",
        "linewidth": 1.3,
        "zorder": 6,
        "solid_capstyle": "round",
    }
    r = 0.45 * radius
    if right:
        axes.plot([x - 1.1 * r, x - 0.3 * r, x + 1.1 * r], [y, y + 0.85 * r, y - 0.9 * r], **line)
    else:
        axes.plot([x - r, x + r], [y - r, y + r], **line)
        axes.plot([x - r, x + r], [y + r, y - r], **line)


def write_beside(axes: Axes, x: float, y: float, text: str, colour: str, points: float) -> None:
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


def write_ends(axes: Axes, ends: Iterable[tuple[float, float, str, str]]) -> None:
    """Writes each line's name at its right end; names that would overlap are moved apart."""
    bottom, top = axes.get_ylim()
    figure = axes.get_figure(root=True)
    assert figure is not None
    inches = axes.get_position().height * figure.get_figheight()
    gap = 12 / 72 / inches * (top - bottom)  # 12 points
    lowest: dict[float, float] = {}
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
