"""A calibration of a network's scores of pictures: for galleries, and for the network by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from siamese_jax.evaluation import bounds, calibration

if TYPE_CHECKING:  # what needs jax is imported where it is used
    from siamese_jax.data.image_set import ImageSet
    from siamese_jax.inference.comparing import Comparing
    from siamese_jax.recognition import scoring


def check_suits(net: Comparing) -> None:
    """Refuses a network that no gallery can be of.

    Raises:
        ValueError: it does not take pictures, or does not score references one by one.
    """
    if not net.has_pictures:
        raise ValueError(f"{net.name} takes data of kind {net.kind!r}: a gallery needs pictures")
    if not net.compares_singly:
        raise ValueError(
            f"{net.name} embeds references in the light of all others: a gallery needs a network "
            "without a full context"
        )


def calibration_of(
    net: Comparing,
    labelled: ImageSet,
    rate: float,
    seed: int = 0,
    *,
    confidence: float = bounds.CONFIDENCE,
    decided_by: str = "plain",
    references: scoring.References | None = None,
) -> calibration.Calibration:
    """A threshold and probabilities of a network's scores, learned from labelled pictures.

    Args:
        net: the network.
        labelled: pictures of classes that the network was not trained on; of kind `ink` as
            `load_folder(..., ink=True)` gives it where the network's kind is `ink`.
        rate: false-accept rate to allow.
        seed: of the half of the classes that is held out.
        confidence: of the bound.
        decided_by: `plain` or `bound`, the threshold that names are accepted by.
        references: of the gallery that the bound is of; None for a bound of any.

    Raises:
        ValueError: what `check_suits` refuses, a set of another kind, or what `calibration.calibrate`
            refuses.
    """
    from siamese_jax.recognition import pictures, scoring

    check_suits(net)
    if labelled.kind != net.kind:
        raise ValueError(f"{labelled.name} is of kind {labelled.kind!r}, the network {net.kind!r}")

    def embed(rows: np.ndarray) -> np.ndarray:
        return net.embed(pictures.of_set(net, labelled.images[rows]))

    def score_all(rows: np.ndarray) -> np.ndarray:
        h = embed(rows)
        return scoring.score(net, h, scoring.References(h))

    def score_gallery(rows: np.ndarray) -> np.ndarray:
        assert references is not None
        return scoring.score(net, embed(rows), references)

    return calibration.calibrate(
        score_all,
        labelled.classes,
        rate,
        source=labelled.name,
        fingerprint=labelled.fingerprint,
        seed=seed,
        confidence=confidence,
        decided_by=decided_by,
        score_gallery=None if references is None else score_gallery,
    )
