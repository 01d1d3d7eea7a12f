"""Embeddings for the projector of TensorBoard: each point shows its picture."""

from __future__ import annotations

import pathlib

import numpy as np
import tensorboardX
from jaxtyping import Float

from siamese_jax.data import loading
from siamese_jax.data.image_set import ImageSet, resize_images
from siamese_jax.inference import network
from siamese_jax.runs import workdir

PARTS = ("train", "validation", "test")
_SPRITE = 48  # pixels, the side of a picture
_MOST = 20_000  # pictures: TensorBoard reads a sheet of at most 8,192 pixels a side
_TAG = "embedding"


def write_run(
    path: str | pathlib.Path,
    *,
    checkpoint: str | int = "best",
    part: str = "test",
    num_images: int = 2000,
    archives: str | None = None,
) -> pathlib.Path:
    """Embeds pictures of a run's data and writes them to `projector/` in its workdir.

    Args:
        path: workdir of the run.
        checkpoint: `best` by validation, `latest`, or a step.
        part: one of `PARTS`.
        num_images: how many, spread evenly over the part; all if it has fewer.
        archives: folder of the data's archives, if not that of the config.

    Returns:
        The folder, for `tensorboard --logdir`.

    Raises:
        ValueError: the folder holds no run, no such part, or a number of pictures that cannot be shown.
    """
    if part not in PARTS:
        raise ValueError(f"part must be one of {PARTS}, got {part!r}")
    if not 1 <= num_images <= _MOST:
        raise ValueError(f"num_images must be 1 to {_MOST}, got {num_images}")
    net = network.load(path, checkpoint)
    fields = {**workdir.plain(workdir.read_config(path))["data"], "image_size": None}
    if archives is not None:
        fields["archives"] = archives
    image_set = getattr(loading.load(fields), part)
    total = len(image_set.images)
    rows = np.unique(np.linspace(0, total - 1, min(num_images, total)).round().astype(int))
    folder = pathlib.Path(path).absolute() / "projector"
    return write(folder, net.embed(np.asarray(image_set.images[rows])), image_set, rows)


def write(
    folder: str | pathlib.Path,
    embeddings: Float[np.ndarray, "b d"],
    image_set: ImageSet,
    rows: np.ndarray,
) -> pathlib.Path:
    """Writes embeddings, the class of each, and a sheet of the pictures unless they are vectors.

    Args:
        folder: output of an earlier call is replaced.
        embeddings: of the pictures.
        image_set: what the pictures are of.
        rows: (b,) row of each picture.

    Returns:
        The folder.
    """
    folder = pathlib.Path(folder)
    config = folder / "projector_config.pbtxt"
    config.unlink(missing_ok=True)  # the writer would add to it
    names = [image_set.class_names[c] for c in image_set.classes[rows]]
    pictures = None
    if image_set.has_pictures:
        pictures = _squares(np.asarray(image_set.images[rows]), image_set.kind == "ink")
    with tensorboardX.SummaryWriter(str(folder)) as events:
        events.add_embedding(embeddings, metadata=names, label_img=pictures, tag=_TAG)
    return folder


def _squares(images: np.ndarray, ink: bool) -> np.ndarray:
    """(B, H, W, C) uint8 -> (B, 3, side, side) in [0, 1], on white; ink becomes dark."""
    images = 255 - images if ink else images
    height, width = images.shape[1:3]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    around = ((0, 0), (top, side - height - top), (left, side - width - left), (0, 0))
    images = resize_images(np.pad(images, around, constant_values=255), _SPRITE, _SPRITE)
    images = np.broadcast_to(images, (*images.shape[:3], 3)) if images.shape[-1] == 1 else images
    return np.moveaxis(images, -1, 1) / np.float32(255)
