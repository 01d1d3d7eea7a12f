"""Pictures for a gallery: read from a file, kept as a thumbnail, shaped for the network."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import html
import io
import os
import pathlib
from collections.abc import Sequence

import numpy as np
import tqdm
from PIL import Image

from siamese_jax.data import decoding
from siamese_jax.data.image_set import array_digest, resize_images
from siamese_jax.inference.comparing import Comparing
from siamese_jax.inference.pictures import to_channels
from siamese_jax.reporting import page

SIDE = 128  # pixels, the longer side of a kept thumbnail at most


@dataclasses.dataclass(frozen=True, eq=False)
class Picture:
    """One picture, ready to be embedded and to be kept.

    Attributes:
        source: absolute path of its file.
        digest: names its pixels, at full size.
        thumbnail: PNG of it, the longer side at most `SIDE` pixels; grey or RGB, not inverted.
        image: (H, W, C) uint8 in the shape and of the kind that the network takes.
    """

    source: str
    digest: str
    thumbnail: bytes
    image: np.ndarray


def read(net: Comparing, path: str | os.PathLike) -> Picture:
    """Reads a picture of any size, grey or in colour.

    Args:
        net: the network that it is for.
        path: of the file.

    Raises:
        ValueError: no such picture, or a file that is no picture.
    """
    pixels = decoding.read_picture(path, "RGB")
    if (pixels == pixels[..., :1]).all():
        pixels = pixels[..., :1]  # a third of the room
    height, width = pixels.shape[:2]
    small = pixels
    if max(height, width) > SIDE:
        scale = SIDE / max(height, width)
        sides = (max(1, round(scale * side)) for side in (height, width))
        small = resize_images(pixels[None], *sides)[0]
    return Picture(
        source=str(pathlib.Path(path).expanduser().absolute()),
        digest=array_digest(pixels),
        thumbnail=_to_png(small),
        image=net.pictures(pixels[None], from_files=True)[0],
    )


def read_all(
    net: Comparing,
    paths: Sequence[str | os.PathLike],
    progress: bool = False,
) -> tuple[list[Picture], list[str]]:
    """Reads pictures in threads.

    Args:
        net: the network that they are for.
        paths: of the files.
        progress: whether to show a progress bar.

    Returns:
        The pictures that could be read, in order, and what is wrong with the others.
    """

    def attempt(path: str | os.PathLike) -> Picture | str:
        try:
            return read(net, path)
        except ValueError as error:
            return str(error)

    with concurrent.futures.ThreadPoolExecutor() as pool:
        bar = tqdm.tqdm(
            pool.map(attempt, paths),
            "reading",
            total=len(paths),
            unit=" pictures",
            disable=not progress,
            leave=False,
        )
        done = list(bar)
    whole = [picture for picture in done if isinstance(picture, Picture)]
    return whole, [fault for fault in done if isinstance(fault, str)]


def from_thumbnail(net: Comparing, thumbnail: bytes, source: str, digest: str) -> Picture:
    """The picture of a kept thumbnail, for another network than it was kept by."""
    with Image.open(io.BytesIO(thumbnail)) as file:
        pixels = np.asarray(file)
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    image = net.pictures(pixels[None], from_files=True)[0]
    return Picture(source, digest, thumbnail, image)


def thumbnail_html(png: bytes, name: str) -> str:
    """An `<img>` of a kept thumbnail."""
    return f'<img src="{page.data_uri(png, "png")}" height="96" alt="{html.escape(name)}">'


def of_set(net: Comparing, images: np.ndarray) -> np.ndarray:
    """(B, H, W, C) images of a set of the network's kind, stretched to the shape that it takes."""
    return resize_images(to_channels(images, net.image_shape[2]), *net.image_shape[:2])


def _to_png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
