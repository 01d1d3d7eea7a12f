"""The HTML page of a comparison: the two pictures, and which of their places met."""

from __future__ import annotations

import dataclasses
import html
import pathlib

import numpy as np

from siamese_jax.evaluation.calibration import Calibration
from siamese_jax.inference import explain as explain_lib
from siamese_jax.inference.network import Siamese
from siamese_jax.recognition.identification import Comparison
from siamese_jax.recognition.pictures import Picture, thumbnail_html
from siamese_jax.reporting import explain, page


def render(
    net: Siamese,
    first: Picture,
    second: Picture,
    comparison: Comparison,
    calibrated: Calibration | None = None,
) -> str:
    """The page, which needs no other file.

    Args:
        net: the network that compared them.
        first: a picture.
        second: another one.
        comparison: of the two.
        calibrated: whose threshold for one reference the explanation measures from; None for a
            score of 0.
    """
    names = [pathlib.Path(picture.source).name for picture in (first, second)]
    title = f"{names[0]} and {names[1]}"
    facts = [("network", net.name), ("score", f"{comparison.score:.4f} (higher: more alike)")]
    facts.append(("dissimilarity", f"{comparison.dissimilarity:.4f}"))
    threshold, reference = 0.0, "a score of 0"
    if calibrated is not None:
        plain = dataclasses.replace(calibrated, decided_by="plain")  # a bound is of whole galleries
        threshold, reference = plain.threshold(1), "the threshold"
        verdict = "same" if comparison.score >= threshold else "different"
        rate = f"for a false-accept rate of {calibrated.rate:g}"
        facts.append(("probability of same", f"{comparison.probability:.4f}"))
        facts.append(("answer", f"{verdict}, by the threshold {threshold:.4f} {rate}"))
    facts += [("first", first.source), ("second", second.source)]
    pictures = "".join(
        f"<li>{thumbnail_html(picture.thumbnail, name)}<span>{html.escape(name)}</span></li>"
        for picture, name in zip((first, second), names, strict=True)
    )
    top = (
        f'<h1>{html.escape(title)}</h1>\n<ul class="pictures two">{pictures}</ul>\n'
        f"{page.facts(facts)}"
    )
    return page.document(
        title, top, [("why", "Why", _why(net, first, second, threshold, reference))]
    )


def _why(net: Siamese, first: Picture, second: Picture, threshold: float, reference: str) -> str:
    """The places that spoke for and against, or why there are none."""
    if not explain_lib.explains(net):
        return f"<p>{html.escape(explain_lib.no_places(net))}</p>"
    one, other = net.as_seen(np.stack([first.image, second.image]))
    explanation = explain_lib.explain(net, one, other, threshold=threshold)
    names = pathlib.Path(first.source).name, pathlib.Path(second.source).name
    return explain.fragment(
        explanation, one, other, names=names, ink=net.kind == "ink", reference=reference
    ) + page.note("The pictures are shown as the network sees them.")
