"""The HTML page of a search: the picture, and its nearest references with their thumbnails."""

from __future__ import annotations

import html
import pathlib
from collections.abc import Sequence

from siamese_jax.evaluation import calibration
from siamese_jax.recognition import gallery
from siamese_jax.recognition.identification import Match
from siamese_jax.recognition.pictures import Picture, thumbnail_html
from siamese_jax.recognition.store import Store
from siamese_jax.reporting import page


def render(
    known: gallery.Gallery | Store,
    probe: Picture,
    matches: Sequence[Match],
    calibrated: calibration.Calibration | None,
) -> str:
    """The page, which needs no other file.

    Args:
        known: the gallery that was searched.
        probe: the picture that was searched for.
        matches: the nearest references, best first.
        calibrated: what their probabilities are by, see `identification.calibration_in_use`.
    """
    has_probabilities = any(match.probability is not None for match in matches)
    column = ["probability of same"] if has_probabilities else []
    head = ["", "", "name", "score", *column, "file"]
    rows = []
    for rank, match in enumerate(matches, 1):
        thumbnail = page.Html(thumbnail_html(match.reference.thumbnail, match.name))
        probability = [f"{match.probability:.3f}"] if has_probabilities else []
        cells = [str(rank), thumbnail, match.name, f"{match.score:.3f}", *probability]
        rows.append((False, [*cells, match.reference.source]))
    title = f"Nearest to {pathlib.Path(probe.source).name}"
    facts = [("picture", probe.source), ("gallery", gallery.size(known))]
    facts.append(("network", known.network))
    top = f"<h1>{html.escape(title)}</h1>\n{thumbnail_html(probe.thumbnail, title)}\n"
    table = page.table(head, rows, numbers=(0, *range(3, len(head) - 1)))
    notes = "".join(page.note(line) for line in calibration.describe(calibrated))
    section = ("nearest", "Nearest references", table + notes)
    return page.document(title, top + page.facts(facts), [section])
