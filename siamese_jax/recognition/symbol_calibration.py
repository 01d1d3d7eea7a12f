"""What a score of two drawings means: a calibration on alphabets that the network was not trained on.

It comes with the package for the network that comes with it, and is made for any other by
`launch/demo.py --calibrate`. It is made of Omniglot's validation alphabets, each image put through
`drawing.to_omniglot` as a drawing on the page is.
"""

from __future__ import annotations

import dataclasses
import os

import numpy as np

from siamese_jax import files, readers
from siamese_jax.data import drawing, loading
from siamese_jax.data.image_set import ImageSet
from siamese_jax.evaluation.calibration import Calibration, warnings
from siamese_jax.inference import network
from siamese_jax.recognition import score_calibration

RATE = 0.05  # false-accept rate: how often an untaught symbol may be named


def redraw(images: ImageSet) -> ImageSet:
    """Every image of a set of kind `ink` put through `drawing.to_omniglot`."""
    drawn = [drawing.to_omniglot(image[..., 0] / np.float32(255)) for image in images.images[:]]
    name = f"{images.name}, redrawn"
    return dataclasses.replace(images, images=np.stack(drawn)[..., None], name=name)


def make(
    net: network.Siamese, archives: str | os.PathLike | None, rate: float = RATE
) -> Calibration:
    """Calibrates a network on Omniglot's validation alphabets.

    Args:
        net: a network of kind `ink`.
        archives: the folder with Omniglot's archives; None where it is prepared.
        rate: false-accept rate to allow.
    """
    validation = loading.load(
        {"name": "omniglot", "archives": archives and str(archives)}
    ).validation
    return score_calibration.calibration_of(net, redraw(validation), rate)


def write(path: str | os.PathLike, net: network.Siamese, calibration: Calibration) -> None:
    """Writes a calibration as JSON, with the fingerprint of its network."""
    content = {"network": net.fingerprint} | dataclasses.asdict(calibration)
    files.replace_json(path, content)


def read(path: str | os.PathLike, net: network.Siamese) -> Calibration:
    """Reads a calibration.

    Raises:
        ValueError: no such file, a damaged one, or one of another network.
    """
    try:
        content = readers.read_json(path, dict)
        fingerprint = content.pop("network", None)
        calibration = Calibration.of(content)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: no calibration can be read ({error})") from None
    if fingerprint != net.fingerprint:
        raise ValueError(
            f"{path} is a calibration of another network than {net.name}: make one with --calibrate"
        )
    return calibration


def describe(calibration: Calibration) -> str:
    """One line on what was calibrated and how well it holds on the characters held out."""
    held_out = calibration.held_out
    accepted, rejected = 100 * held_out["false_accepts"], 100 * held_out["false_rejects"]
    one, five = calibration.threshold(1), calibration.threshold(5)
    return (
        f"{calibration.source}: {calibration.classes} characters, false-accept rate "
        f"{calibration.rate:g}: threshold {one:.2f} for one reference, {five:.2f} for five; on "
        f"{held_out['classes']} characters held out one reference is falsely accepted in "
        f"{accepted:.1f} %, falsely rejected in {rejected:.1f} %"
        + "".join(f"; {line}" for line in warnings(calibration))
    )


def find(net: network.Siamese) -> Calibration | None:
    """The calibration for drawings that comes with a network, or None."""
    return net.calibrations.get("drawings")
