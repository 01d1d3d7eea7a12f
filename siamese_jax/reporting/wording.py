"""How a page writes figures, counts and names."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from siamese_jax.data import loading


def percent(share: float) -> str:
    """A share in per cent; a dash where it is not known."""
    return f"{100 * share:.2f}\N{NO-BREAK SPACE}%" if math.isfinite(share) else "–"


def interval(limits: Sequence[float], scale: float = 100, digits: int = 1) -> str:
    """Lower and upper limit; a dash where they are not known."""
    low, high = limits
    if not math.isfinite(low):
        return "–"
    return f"{scale * low:.{digits}f} – {scale * high:.{digits}f}"


def number(value: float) -> str:
    """A figure of four digits; a dash where it is not known."""
    return "–" if math.isnan(value) else f"{value:.4g}"


def span(counts: Iterable[int]) -> str:
    """The one count, or the least and the largest of several."""
    values = list(counts)
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def count(number: int, what: str) -> str:
    """`3 classes`, `1 class`."""
    plural = f"{what}es" if what.endswith("s") else f"{what}s"
    return f"{number:,} {what if number == 1 else plural}"


def shape(sizes: Sequence[int]) -> str:
    """`105 × 105 × 1`."""
    return " × ".join(map(str, sizes))


def duration(seconds: float) -> str:
    """`1 h 2 min 3 s`."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = ((hours, "h"), (minutes, "min"), (seconds, "s"))
    return " ".join(f"{n} {unit}" for n, unit in parts if n) or "under a second"


def plain(name: str) -> str:
    """A name of a class or alphabet without underscores."""
    return name.replace("_", " ")


def capital(text: str) -> str:
    """The text with a capital at its beginning."""
    return text[:1].upper() + text[1:]


def listed(names: Sequence[str]) -> str:
    """`A, B and C`."""
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def group_noun(kind: str) -> str:
    """What a group of classes is called: characters have alphabets, photos and vectors have not."""
    return "alphabet" if kind == "ink" else "group"


def classes(images: loading.ImageSet) -> str:
    """How many classes a set has, and of how many groups if it has such."""
    text = count(images.num_classes, "class")
    groups = count(images.num_alphabets, group_noun(images.kind))
    return f"{text} of {groups}" if images.num_alphabets > 1 else text


def class_name(name: str) -> str:
    """`Old_Greek/character01` as `Old Greek 1`."""
    return " ".join(class_parts(name)).strip()


def pair_name(first: str, second: str) -> str:
    """`Old_Greek/character01` and `Old_Greek/character12` as `Old Greek 1 and 12`."""
    (here, _), (there, other) = class_parts(first), class_parts(second)
    return f"{class_name(first)} and {other if here == there else class_name(second)}"


def class_parts(name: str) -> tuple[str, str]:
    """The alphabet and the character of a class's name."""
    alphabet, _, character = plain(name).rpartition("/")
    number = re.fullmatch(r"character0*(\d+)", character)
    return alphabet, number.group(1) if number else character


def shortened(text: str, limit: int) -> str:
    """The text, cut to a given number of letters with an ellipsis."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def side_name(side: int) -> str:
    """A, B, C, ... of the sides of an episode."""
    return chr(ord("A") + side) if side < 26 else str(side + 1)
