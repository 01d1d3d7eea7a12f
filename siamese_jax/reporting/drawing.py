"""What all figures share: their style, their canvases, and how they are written."""

from __future__ import annotations

import functools
import html
import io
import pathlib
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ParamSpec, TypeVar

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter

WIDTH = 9.6  # of a figure, inches; a page shows them 960 pixels wide
NARROW = 4.3  # of one for a narrow window

TEXT, MUTED, RULE = "#1c1c1c", "#5f6368", "#e2e2e2"
MODEL, OTHER, BASELINE = "#0b5fa5", "#b4690e", "#7a7a7a"
LIGHT = "#a8a8a8"
RIGHT, WRONG = "#00755f", "#b3261e"
_VARIABLES = {  # colours that the stylesheet changes in the dark
    **{TEXT: "text", MUTED: "muted", RULE: "rule", MODEL: "own", OTHER: "other"},
    **{BASELINE: "baseline", LIGHT: "light", RIGHT: "right", WRONG: "wrong", "#ffffff": "page"},
}
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
    "svg.fonttype": "none",  # text stays text, in the page's typeface
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
    buffer = io.StringIO()
    no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    for patch in (figure.patch, *(axes.patch for axes in figure.axes)):
        patch.set_facecolor("none")
    FigureCanvasSVG(figure).print_svg(buffer, metadata=no_metadata)  # savefig draws it twice
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg)  # implied inside of a page
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # would repeat from figure to figure
    for colour, name in _VARIABLES.items():
        svg = svg.replace(colour, f"var(--{name})")
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
    figure.savefig(path, dpi=dpi, facecolor="white")
    return pathlib.Path(path)


def canvas(height: float, narrow: bool = False) -> Figure:
    """An empty figure for charts, of full width or for a narrow window; `height` in inches."""
    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.04, wspace=0.06)
    return Figure(figsize=(NARROW if narrow else WIDTH, height), layout=layout)


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
    for x in {end[0] for end in ends}:
        here = sorted((end for end in ends if end[0] == x), key=lambda end: end[1])
        heights = spread([end[1] for end in here], gap, bottom, top)
        for (_, _, label, colour), y in zip(here, heights, strict=True):
            axes.annotate(
                label,
                (x, y),
                xytext=(8, 0),
                textcoords="offset points",
                color=colour,
                va="center",
                fontweight="bold",
                annotation_clip=False,
            )


def spread(heights: Sequence[float], gap: float, bottom: float, top: float) -> list[float]:
    """Heights at least `gap` apart between two limits, as near to the wanted ones as that allows.

    Args:
        heights: rising.
        gap: in their unit.
        bottom: lowest height, unless there is no room for all.
        top: highest height.
    """
    # (mean of height - place * gap, count): those that touch are moved together
    groups: list[tuple[float, int]] = []
    for place, height in enumerate(heights):
        mean, count = height - place * gap, 1
        while groups and groups[-1][0] > mean:
            before, size = groups.pop()
            mean, count = (before * size + mean * count) / (size + count), size + count
        groups.append((mean, count))
    placed = [mean for mean, count in groups for _ in range(count)]
    highest = top - (len(placed) - 1) * gap
    return [min(max(x, bottom), highest) + place * gap for place, x in enumerate(placed)]
