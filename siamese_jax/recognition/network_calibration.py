"""Calibrates a network itself, on classes that it was not trained on, and keeps that with it.

`Siamese.same`, and galleries without a calibration of their own, take it from there.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Mapping

from siamese_jax.data import loading
from siamese_jax.evaluation import bounds
from siamese_jax.evaluation.calibration import Calibration
from siamese_jax.inference import network
from siamese_jax.readers import check_choice
from siamese_jax.recognition import score_calibration, symbol_calibration
from siamese_jax.runs import calibrations, export, workdir

RATE = 0.05  # false-accept rate of the thresholds
SUBJECTS = ("pictures", "drawings")


def calibrate_file(
    place: str | os.PathLike,
    subject: str = "pictures",
    data: Mapping | None = None,
    rate: float = RATE,
    checkpoint: str | int = "best",
    confidence: float = bounds.CONFIDENCE,
    decided_by: str = "plain",
) -> Calibration:
    """Calibrates a run, or a file of weights, on its validation classes, and writes that into it.

    Args:
        place: the run's workdir, or a file of `export.export`.
        subject: `pictures` for pictures as they are; `drawings` for those redrawn as the demo does.
        data: fields of the run's data to change, such as `archives`.
        rate: false-accept rate of the thresholds.
        checkpoint: of a run.
        confidence: of the bound, see `evaluation.bounds`.
        decided_by: `plain` or `bound`, the threshold that names are accepted by.

    Raises:
        ValueError: another subject, no network there, validation classes that were trained on, or
            what `evaluation.calibration.calibrate` refuses.
    """
    check_choice("what is calibrated", subject, SUBJECTS)
    place = pathlib.Path(place)
    if not place.exists():
        raise ValueError(f"{place}: no such workdir, and no such file of a network")
    net = network.load(place, checkpoint)
    weights = place if place.is_file() else place / export.FILE
    in_file = weights.exists()
    config = export.read(weights).config if in_file else workdir.read_config(place)
    images = loading.load({**config.data.to_dict(), **(data or {})})
    labelled = images.validation
    if set(labelled.class_names) & set(images.train.class_names):
        raise ValueError(
            f"{place} was trained on pictures of its validation classes, so they are not new to it: "
            "calibrate a gallery on another folder instead"
        )
    if subject == "drawings":
        labelled = symbol_calibration.redraw(labelled)
    calibration = score_calibration.calibration_of(
        *(net, labelled, rate), confidence=confidence, decided_by=decided_by
    )
    fields = dataclasses.asdict(calibration)
    if in_file:
        export.calibrate(weights, subject, fields)
    else:
        step = int(net.name.rpartition("@")[2])
        calibrations.write(place, step, subject, fields)
    return calibration
