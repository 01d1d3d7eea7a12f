"""The page of a data set: what it holds, a sheet of samples, and what a training sees of it."""

from __future__ import annotations

import collections
import dataclasses
import html
from collections.abc import Mapping, Sequence

import numpy as np

from siamese_jax.data import duplicates
from siamese_jax.data.image_set import ImageSet
from siamese_jax.reporting import page
from siamese_jax.reporting.image_sheets import first_pictures, img, pictures
from siamese_jax.reporting.wording import class_name, count, shape, span

COLUMNS = ("part", "pictures", "classes", "alphabets", "pictures per class", "size")
_SHEET_CLASSES, _SHEET_PICTURES = 12, 10  # rows and columns of a sheet
_LISTED = 20  # groups of duplicates, sizes or classes that a list names


@dataclasses.dataclass(frozen=True)
class Look:
    """What the page is drawn from.

    Attributes:
        title: of the page.
        note: one line on where the data come from.
        parts: the sets by name: training, validation, test.
        duplicates: groups of equal pictures, see `duplicates.find`.
        sizes: files by their (height, width) before they were resized; None where there are none.
        settings: of the preparation and augmentation, as (field, value); empty without a config.
        views: (pictures, views, H, W, C) float in [0, 1]: a training picture as it was prepared, then
            as augmentations of it; None without a config.
        batch: the first training batch as HTML; None without a config.
    """

    title: str
    note: str
    parts: Mapping[str, ImageSet]
    duplicates: Sequence[tuple[duplicates.Place, ...]]
    sizes: Mapping[tuple[int, int], int] | None = None
    settings: Sequence[tuple[str, str]] = ()
    views: np.ndarray | None = None
    batch: str | None = None


def counts(parts: Mapping[str, ImageSet]) -> list[tuple[str, ...]]:
    """A row of cells under `COLUMNS` for each part."""
    return [
        (
            name,
            f"{len(images):,}",
            f"{images.num_classes:,}",
            f"{images.num_alphabets:,}",
            span(images.class_count.tolist()),
            shape(images.image_shape),
        )
        for name, images in parts.items()
    ]


def findings(look: Look) -> list[str]:
    """Lines that say what else is to be known: sizes, unequal classes, duplicates."""
    lines = []
    if look.sizes is not None and len(look.sizes) > 1:
        ((height, width), most), *_ = sorted(look.sizes.items(), key=lambda item: -item[1])
        total = sum(look.sizes.values())
        lines.append(
            f"{len(look.sizes)} image sizes; {most:,} of {total:,} files are {height} x {width} pixels"
        )
    for name, images in look.parts.items():
        least, most = (int(f(images.class_count)) for f in (np.min, np.max))
        if most >= 2 * least:
            lines.append(f"{name}: the largest class has {most / least:.1f} times the smallest")
    by_place = collections.Counter(map(duplicates.where, look.duplicates))
    for where in duplicates.WHERE:
        if by_place[where]:
            lines.append(f"{count(by_place[where], 'group')} of equal pictures {where}")
    if not by_place:
        lines.append("no two pictures are equal")
    return lines


def render(look: Look) -> str:
    """The page, which needs no other file."""
    table = page.table(COLUMNS, [(False, row) for row in counts(look.parts)], numbers=range(1, 5))
    notes = "".join(page.note(line) for line in findings(look))
    sections = [("counts", "What it holds", table + notes + _lists(look))]
    if all(images.kind != "vector" for images in look.parts.values()):
        sheets = "".join(
            page.figure(
                sheet(images), f"{name}: {_shown(images)}, the first pictures of each in a row"
            )
            for name, images in look.parts.items()
        )
        sections.append(("samples", "Samples", sheets))
    if look.views is not None and look.batch is not None:
        kind = next(iter(look.parts.values())).kind
        caption = (
            "Each row: a training picture as it was prepared, then random augmentations of it, as "
            "training sees them."
        )
        content = page.figure(views_sheet(look.views, kind), caption)
        content += page.facts(look.settings)
        content += page.figure(look.batch, "The first batch of the run with this config.")
        sections.append(("training", "What training sees", content))
    head = f"<h1>{html.escape(look.title)}</h1>\n<p class=lead>{html.escape(look.note)}</p>"
    return page.document(f"{look.title}: data", head, sections)


def _shown(images: ImageSet) -> str:
    shown = min(_SHEET_CLASSES, images.num_classes)
    if shown == images.num_classes:
        return count(shown, "class")
    return f"{shown} of {count(images.num_classes, 'class')}, evenly chosen"


def _lists(look: Look) -> str:
    """Sizes, classes and duplicates by name, each shown on a click."""
    parts = []
    if look.sizes is not None:
        sizes = sorted(look.sizes.items(), key=lambda item: -item[1])[:_LISTED]
        lines = [(False, (f"{h} x {w}", f"{n:,}")) for (h, w), n in sizes]
        table = page.table(("height x width", "files"), lines, numbers=(1,))
        parts.append(page.folded(_first(len(look.sizes), "image size"), table))
    for name, images in look.parts.items():
        order = np.argsort(images.class_count, kind="stable")[:_LISTED]
        lines = [(False, (images.class_names[c], f"{images.class_count[c]:,}")) for c in order]
        table = page.table(("class", "pictures"), lines, numbers=(1,))
        title = f"{name}: {_first(images.num_classes, 'class')}, the smallest first"
        parts.append(page.folded(title, table))
    if look.duplicates:
        worst = sorted(look.duplicates, key=lambda g: -duplicates.WHERE.index(duplicates.where(g)))
        lines = [
            (False, (duplicates.where(group), "; ".join(map(str, group))))
            for group in worst[:_LISTED]
        ]
        title = _first(len(look.duplicates), "group") + " of equal pictures"
        parts.append(page.folded(title, page.table(("where", "pictures"), lines)))
    return "".join(parts)


def _first(number: int, what: str) -> str:
    return count(number, what) if number <= _LISTED else f"{_LISTED} of {count(number, what)}"


def sheet(images: ImageSet) -> str:
    """Samples of a set: a row of pictures for each of some classes, chosen evenly."""
    rows = min(_SHEET_CLASSES, images.num_classes)
    classes = np.linspace(0, images.num_classes - 1, rows).round().astype(int)
    columns = int(min(_SHEET_PICTURES, images.class_count[classes].max()))
    lines = []
    for c in classes:
        shown = first_pictures(images, c, columns)
        name = class_name(images.class_names[c])
        lines.append(f'<p class="card-text">{html.escape(name)}</p>')
        words = [f"{name} picture {number}" for number in range(1, len(shown) + 1)]
        lines.append(_row(shown, words, columns))
    return "".join(lines)


def views_sheet(views: np.ndarray, kind: str) -> str:
    """Rows of pictures: each as it was prepared, then as augmentations of it.

    Args:
        views: (pictures, views, H, W, C) float in [0, 1].
        kind: `ink` or `photo`.
    """
    words = ["as prepared", *(f"as seen {number}" for number in range(1, views.shape[1]))]
    return "".join(_row(pictures(row, kind), words, views.shape[1]) for row in views)


def _row(shown: Sequence[np.ndarray] | np.ndarray, words: Sequence[str], columns: int) -> str:
    """A row of pictures with their words, in a given number of columns of one width."""
    items = "".join(f"<li>{img(p, w)}</li>" for p, w in zip(shown, words, strict=True))
    return (
        f'<ul class="pictures" style="grid-template-columns:repeat({columns},minmax(0,4.5rem))">'
        f"{items}</ul>"
    )
