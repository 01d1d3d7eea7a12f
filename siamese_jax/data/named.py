"""Any tfds data set with a picture and a label, by its name, without TensorFlow."""

from __future__ import annotations

import collections
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from siamese_jax.data import preparation, prepared_folder
from siamese_jax.data.image_set import ImageSet, as_kind, numbers_in_class, resize_images


def load(
    name: str,
    splits: Sequence[str] = ("all",),
    image: str = "image",
    label: str = "label",
    alphabet: str | None = None,
    image_size: tuple[int, int] | None = None,
    ink: bool = False,
    data_dir: str | os.PathLike | None = None,
) -> list[ImageSet]:
    """Loads splits of a tfds data set, prepared as array_record and read as a data source.

    Args:
        name: as `tfds.builder` takes it: `cifar100`, `cub200`, or any builder that is registered.
        splits: one, or those of training, validation and test; `all` for everything.
        image: the feature that holds the picture.
        label: the feature of the class, a class label, a number or a text.
        alphabet: the feature of the superclass; None for none.
        image_size: (height, width) in pixels; None for the most common size of the first split.
        ink: whether the pictures are dark ink on light paper.
        data_dir: folder of prepared sets; None for tfds's own.

    Returns:
        One set a split, all of one image shape.

    Raises:
        ValueError: an unknown set, split or feature, a set that cannot be had, another number of
            splits, or pictures that are not grey, RGB or RGBA of uint8.
    """
    if len(splits) not in (1, 3):
        raise ValueError(f"data.tfds_splits names one split or three, got {tuple(splits)}")
    root = prepared_folder.data_dir(data_dir)
    try:
        builder = tfds.builder(name, data_dir=root, file_format=preparation.FILE_FORMAT)
    except (tfds.core.DatasetNotFoundError, ImportError) as error:
        raise ValueError(f"tfds has no data set {name!r} ({_line(error)})") from None
    features = dict(builder.info.features)
    for field, feature in (("image", image), ("label", label), ("alphabet", alphabet)):
        if feature is not None and feature not in features:
            raise ValueError(
                f"{name} has no feature {feature!r} (data.tfds_{field}): it has {', '.join(features)}"
            )
    try:
        builder.download_and_prepare()
    except (OSError, ValueError, tfds.download.DownloadError, ImportError) as error:
        raise ValueError(f"{name} cannot be prepared in {root} ({_line(error)})") from None
    sets: list[ImageSet] = []
    channels = 1 if ink else None
    for split in splits:
        parts = list(builder.info.splits) if split == "all" else [split]
        examples = []
        for part in parts:
            try:
                source = builder.as_data_source(part)
            except (ValueError, KeyError) as error:
                raise ValueError(
                    f"{name} has no split {part!r}: it has {', '.join(builder.info.splits)} "
                    f"({_line(error)})"
                ) from None
            examples += [(e[image], e[label], e[alphabet] if alphabet else "") for e in source]
        labels = [features.get(f) for f in (label, alphabet)]
        whole = f"{name} {split}" if len(splits) == 3 else name
        sets.append(_image_set(examples, labels, image_size, channels, ink, whole))
        height, width, channels = sets[0].image_shape
        image_size = (height, width)
    return sets


def _image_set(
    examples: Sequence[tuple[Any, Any, Any]],
    labels: Sequence[Any],
    image_size: tuple[int, int] | None,
    channels: int | None,
    ink: bool,
    name: str,
) -> ImageSet:
    """The set of (picture, label, superclass) triples; the pictures of a class keep their order."""
    pictures = [_pixels(picture, name) for picture, *_ in examples]
    keys = [(_name(labels[1], a) if labels[1] else "", _name(labels[0], x)) for _, x, a in examples]
    order = sorted(range(len(keys)), key=lambda row: _sort_key(keys[row]))
    kept = list(dict.fromkeys(keys[row] for row in order))
    alphabets = list(dict.fromkeys(alphabet for alphabet, _ in kept))
    ids = {key: number for number, key in enumerate(kept)}
    classes = np.array([ids[keys[row]] for row in order], np.int32)
    shapes = collections.Counter(x.shape[:2] for x in pictures)
    height, width = image_size or max(shapes, key=lambda shape: (shapes[shape], shape))
    kind = "ink" if ink else "photo"
    channels = channels or max(x.shape[-1] for x in pictures)
    images = np.empty((len(order), height, width, channels), np.uint8)
    for place, row in enumerate(order):
        x = pictures[row]
        if x.shape[-1] != channels:
            grey = channels == 1
            x = np.asarray(Image.fromarray(x).convert("L"))[..., None] if grey else x.repeat(3, -1)
        images[place] = resize_images(as_kind(x, kind)[None], height, width)[0]
    return ImageSet(
        images=images,
        classes=classes,
        drawers=numbers_in_class(np.bincount(classes)),
        class_names=tuple("/".join(filter(None, key)) for key in kept),
        class_alphabets=np.array([alphabets.index(a) for a, _ in kept], np.int32),
        alphabet_names=tuple(a or name for a in alphabets),
        kind=kind,
        name=name,
    )


def _pixels(picture: Any, name: str) -> np.ndarray:
    """A picture of a set as (H, W, 1) or (H, W, 3) uint8."""
    pixels = np.asarray(picture)
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[-1] not in (1, 3, 4):
        raise ValueError(
            f"{name} has a picture of {pixels.shape} {pixels.dtype}; data.tfds_image must name a "
            "feature of grey, RGB or RGBA pictures of uint8"
        )
    return pixels[..., :3]


def _name(feature: Any, value: Any) -> str:
    if isinstance(feature, tfds.features.ClassLabel):
        return feature.int2str(int(value))
    return value.decode() if isinstance(value, bytes) else str(value)


def _sort_key(key: tuple[str, str]) -> tuple:
    return tuple((0, int(word), "") if word.isdecimal() else (1, 0, word) for word in key)


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
