"""Symbols taught by drawing: a gallery of drawings, and answers within a few milliseconds.

All calls of the gallery are here. A gallery is a value; nothing here changes one.
"""

from __future__ import annotations

import dataclasses
import io
import os
from typing import Any

import numpy as np
from PIL import Image

from siamese_jax.data import drawing
from siamese_jax.evaluation.calibration import Calibration
from siamese_jax.inference import explain as explain_lib
from siamese_jax.inference.network import Siamese
from siamese_jax.recognition import (
    gallery,
    identification,
    pictures,
    storage,
    symbol_calibration,
)
from siamese_jax.reporting import explain as explain_figure

MAX_NAME = 60  # characters
MAX_REFERENCES = 1024
_SOURCE = "this drawing"  # of a reference; one taught from a file has a path
_SIZES = (8, 32, 128, 512, MAX_REFERENCES)  # a comparison is compiled for these numbers only


def prepare(net: Siamese) -> Siamese:
    """The network with comparisons that are compiled for a few numbers of references only.

    References are padded with copies of the last one, whose scores are dropped: else each taught
    symbol would compile the comparison anew, which takes a second. The network's calibration for
    pictures is left out: no threshold of it holds for drawings.

    Raises:
        ValueError: the network does not take one channel of ink.
    """
    if net.kind != "ink" or net.image_shape[2] != 1:
        raise ValueError(
            f"{net.name} takes {net.kind} of {net.image_shape[2]} channels: drawings need a network of "
            "kind 'ink' with one"
        )

    def compare(variables: Any, h1: np.ndarray, h2: np.ndarray) -> Any:
        size = next((n for n in _SIZES if n >= len(h2)), len(h2))
        padded = np.concatenate([h2, np.repeat(h2[-1:], size - len(h2), 0)])
        return net.one_shot_step(variables, h1, padded)[:, : len(h2)]

    calibrations = {key: value for key, value in net.calibrations.items() if key != "pictures"}
    return dataclasses.replace(net, one_shot_step=compare, calibrations=calibrations)


def warm_up(net: Siamese, sizes: int = 2) -> None:
    """Does once what an answer needs, and compiles the first numbers of references."""
    image = np.zeros((drawing.SIDE, drawing.SIDE), np.uint8)
    image[30:75, 50:55] = 255
    example = picture(drawing.to_png(image))
    known = teach(gallery.empty(net), net, "warm", example)
    recognise(known, net, example)
    explain(known, net, example)
    h = net.embed(example.image[None])
    for size in _SIZES[:sizes]:
        net.score_matrix(h, np.repeat(h, size, 0))


def open_gallery(
    net: Siamese, path: str | os.PathLike | None, calibration: Calibration | None = None
) -> tuple[gallery.Gallery, storage.GalleryFile | None]:
    """The gallery of a file, or an empty one; and the file to keep it in.

    A gallery without a calibration gets the one given, else that of the package for this network.

    Args:
        net: the network.
        path: of the file, which need not be there yet; None keeps nothing.
        calibration: to take.

    Raises:
        ValueError: the file is no gallery, or one of another network.
    """
    file = None if path is None else storage.GalleryFile(path)
    known = file.read() if file is not None and file.exists() else gallery.empty(net)
    gallery.check_network(known, net)
    if calibration is not None or known.calibration is None:
        calibration = calibration or symbol_calibration.find(net)
        known = dataclasses.replace(known, calibration=calibration)
    return known, file


def picture(data: bytes) -> pictures.Picture:
    """A drawing or picture of a symbol, as a gallery takes it.

    Args:
        data: of the file.

    Raises:
        ValueError: what `drawing.read_ink` refuses.
    """
    image = drawing.to_omniglot(drawing.read_ink(data))
    name, png = drawing.digest(image), drawing.to_png(image)
    return pictures.Picture(_SOURCE, name, png, image[..., None])


def teach(
    known: gallery.Gallery, net: Siamese, name: str, example: pictures.Picture
) -> gallery.Gallery:
    """The gallery with one more example of a name, which may be new.

    Raises:
        ValueError: a name that is none or too long, a drawing that is there already, or no room.
    """
    name = " ".join(name.split())
    if len(name) > MAX_NAME:
        raise ValueError(f"a name has at most {MAX_NAME} characters, this one has {len(name)}")
    if not name:
        raise ValueError("give the symbol a name")
    if len(known) >= MAX_REFERENCES:
        raise ValueError(f"{MAX_REFERENCES} drawings are taught: remove a name first")
    return gallery.enrol(known, net, name, [example], add=True)


def forget(known: gallery.Gallery, name: str) -> gallery.Gallery:
    """The gallery without a name.

    Raises:
        ValueError: an unknown name.
    """
    return gallery.remove(known, name)


def recognise(
    known: gallery.Gallery, net: Siamese, example: pictures.Picture, top: int = 3
) -> identification.Answer:
    """Which of the taught symbols this is, or none of them.

    Raises:
        ValueError: nothing has been taught.
    """
    if not len(known):
        raise ValueError("nothing has been taught yet: draw a symbol and give it a name")
    return identification.identify(known, net, [example], top)[0]


def explain(known: gallery.Gallery, net: Siamese, example: pictures.Picture) -> str | None:
    """HTML that shows why a drawing is like its best reference; None where the network cannot say."""
    if not explain_lib.explains(net):
        return None
    answer = recognise(known, net, example, top=1)
    best = answer.matches[0].reference
    images = example.image, image_of(best)
    explanation = explain_lib.explain(net, *images, threshold=answer.threshold or 0.0)
    return explain_figure.fragment(explanation, *images, names=("your drawing", best.name))


def image_of(reference: gallery.Reference) -> np.ndarray:
    """The (SIDE, SIDE, 1) uint8 image, 255 ink, of a reference's PNG."""
    if reference.source != _SOURCE:  # taught from a file by launch/recognize.py
        return drawing.to_omniglot(drawing.read_ink(reference.thumbnail))[..., None]
    with Image.open(io.BytesIO(reference.thumbnail)) as file:
        return 255 - np.asarray(file.convert("L"))[..., None]
