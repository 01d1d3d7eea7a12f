"""What all networks that are ready for use have in common: pictures in, scores out."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from siamese_jax.data.image_set import StreamedImages, has_pictures, resize_images
from siamese_jax.evaluation.calibration import Calibration
from siamese_jax.inference.pictures import Pictures, to_stack
from siamese_jax.models.comparators import Comparator


class Comparing(abc.ABC):
    """A network of this package, or an embedder of another library (`embedder.wrap`).

    Galleries, calibration, search and verification need nothing more of it.

    Attributes:
        name: for tables.
        image_shape: (H, W, C) of its input.
        kind: `ink`, `photo` or `vector`, what it takes (see `ImageSet`).
        tta: views of each image in test-time augmentation, 1 for none.
        calibrations: what scores mean, by what they are scores of: `pictures`, as `same` takes them,
            or `drawings` of the demo.
        framed: whether it was trained on characters that fill their frame.
    """

    name: Any
    image_shape: Any
    kind: Any
    tta: Any
    calibrations: Mapping[str, Calibration]
    framed: Any

    @property
    @abc.abstractmethod
    def fingerprint(self) -> str:
        """16 hexadecimal digits that stand for all that decides its scores."""

    @property
    @abc.abstractmethod
    def head(self) -> Comparator:
        """The comparator."""

    @property
    def compares_singly(self) -> bool:
        """Whether the score of two pictures is of them alone, whatever others are there."""
        return True

    @property
    def cosine(self) -> tuple[jax.Array, jax.Array] | None:
        """(scale, bias) where a score is scale x cosine + bias of the embeddings; None elsewhere."""
        return None

    @property
    def has_pictures(self) -> bool:
        """Whether it takes pictures, (H, W, C) uint8; else vectors, (1, D, 1) float32."""
        return has_pictures(self.kind)

    @property
    def dtype(self) -> type[np.number]:
        """Type of the images' values."""
        return np.uint8 if self.has_pictures else np.float32

    @property
    def embedding_size(self) -> int:
        """How many numbers an embedding has."""
        blank = np.zeros((1, *self.image_shape), self.dtype)
        return self.embed(blank, batch=1).shape[1]

    @abc.abstractmethod
    def embed(self, images: np.ndarray | StreamedImages, batch: int = 256) -> np.ndarray:
        """(B, H, W, C) uint8 images -> (B, D) float32 embeddings."""

    @abc.abstractmethod
    def score_matrix(self, h1: np.ndarray, h2: np.ndarray | jax.Array) -> np.ndarray:
        """(Q, D) and (S, D) embeddings -> (Q, S) scores of each first with each second."""

    def sized(self, images: np.ndarray | StreamedImages) -> np.ndarray | StreamedImages:
        """Images (B, H, W, C) or (B, H, W) uint8 at the network's size.

        Raises:
            ValueError: another type, rank or number of channels.
        """
        given = f"{images.shape} {images.dtype}"
        height, width, channels = self.image_shape
        if isinstance(images, np.ndarray) and images.ndim == 3 and images.shape[2] > 1:
            images = images[..., None]
        if images.ndim != 4 or images.dtype != np.uint8 or images.shape[3] != channels:
            raise ValueError(
                f"images must be a stack (B, H, W, {channels}) uint8, got {given}; one image is "
                "a stack of one, images[None]"
            )
        if images.shape[1:3] == (height, width):
            return images
        if isinstance(images, StreamedImages):
            return images.resized(height, width)
        return resize_images(images, height, width)

    def pictures(self, pictures: Pictures, from_files: bool = False) -> np.ndarray:
        """Pictures of any form as `embed` takes them: (B, H, W, C) uint8, see `pictures.to_stack`."""
        return to_stack(pictures, self.image_shape, self.kind, self.framed, from_files)[0]

    def score(self, pictures1: Pictures, pictures2: Pictures) -> np.ndarray:
        """Scores of every first picture with every second.

        A score is higher for pictures that are more alike. A score of zero has no meaning: above
        which score two pictures are probably the same depends on the network. `same` gives
        probabilities.

        Args:
            pictures1: arrays, paths or PIL pictures, one or a stack, see `pictures.to_stack`. A network
                of kind `vector` takes its vectors, see `embed`.
            pictures2: likewise.

        Returns:
            (Q, S) scores of two stacks; where one picture is given its axis is left out, so that two
            pictures give a number.

        Raises:
            ValueError: what `pictures.to_stack` or `embed` refuses.
        """
        if not self.has_pictures:
            return self.score_matrix(self.embed(pictures1), self.embed(pictures2))
        given = (pictures1, pictures2)
        (stack1, one1), (stack2, one2) = (
            to_stack(x, self.image_shape, self.kind, self.framed) for x in given
        )
        scores = self.score_matrix(self.embed(stack1), self.embed(stack2))
        return scores[0 if one1 else slice(None), 0 if one2 else slice(None)]

    def same(self, pictures1: Pictures, pictures2: Pictures) -> np.ndarray:
        """Probabilities that two pictures show the same, of every first with every second.

        They hold where same and different are equally likely beforehand, and for pictures like those
        that the network was calibrated on.

        Args:
            pictures1: see `score`.
            pictures2: likewise.

        Returns:
            Shaped as `score` gives them, in [0, 1].

        Raises:
            ValueError: a network without a calibration, or what `score` refuses.
        """
        if "pictures" not in self.calibrations:
            reason = "test-time augmentation changes its scores" if self.tta > 1 else "it has none"
            raise ValueError(
                f"{self.name} has no calibration ({reason}), so its scores have no probability: "
                "launch/calibrate.py makes one"
            )
        return self.calibrations["pictures"].probability(self.score(pictures1, pictures2))
