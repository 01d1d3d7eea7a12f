"""Embedders of other libraries, ready for galleries, calibration, search, verification and protocols."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from siamese_jax.data.image_set import KINDS, StreamedImages
from siamese_jax.evaluation.calibration import Calibration
from siamese_jax.evaluation.scoring import Embedder, from_embedder
from siamese_jax.inference.comparing import Comparing
from siamese_jax.inference.devices import NO_IMAGES
from siamese_jax.models.comparators import Comparator, Cosine

BATCH = 64  # pictures a call of `embed`


@runtime_checkable
class PictureEmbedder(Protocol):
    """What an embedder must have; any object will do.

    Attributes:
        name: for messages and tables.
        image_shape: (H, W, C) of the pictures that it takes; C is 1 or 3.
        fingerprint: text that changes with its parameters: a gallery belongs to one fingerprint.
    """

    name: str
    image_shape: tuple[int, int, int]
    fingerprint: str

    def embed(self, images: np.ndarray) -> np.ndarray:
        """(B, H, W, C) uint8 pictures -> (B, D) embeddings, each of its picture alone."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Wrapped(Comparing):
    """An embedder with the face of a network; make it with `wrap`. Scores are cosines.

    Attributes:
        embedder: the object.
        kind: `photo` or `ink`.
        calibrations: see `Comparing`.
    """

    embedder: PictureEmbedder
    kind: str = "photo"
    calibrations: Mapping[str, Calibration] = dataclasses.field(default_factory=dict)
    tta = 1
    framed = False

    @property
    def name(self) -> str:
        """The embedder's."""
        return self.embedder.name

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The embedder's."""
        height, width, channels = self.embedder.image_shape
        return height, width, channels

    @property
    def fingerprint(self) -> str:
        """Of the embedder's own fingerprint, its shape and the kind of pictures."""
        facts = (str(self.embedder.fingerprint), self.image_shape, self.kind)
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]

    @property
    def head(self) -> Comparator:
        """The cosine, as a comparator."""
        return Cosine(scale=1.0)

    @property
    def cosine(self) -> tuple[jax.Array, jax.Array]:
        """A score is the cosine."""
        return jnp.float32(1), jnp.float32(0)

    def __repr__(self) -> str:
        """One line: the name, and what goes in."""
        return f"<{type(self.embedder).__name__} {self.name}: {self.kind} {self.image_shape}>"

    def embed(self, images: np.ndarray | StreamedImages, batch: int = BATCH) -> np.ndarray:
        """Embeds images; those of another height or width are resized.

        Args:
            images: (B, H, W, C) or (B, H, W) uint8.
            batch: images a call of the embedder.

        Returns:
            (B, D) float32.

        Raises:
            ValueError: other images, or an answer of the embedder that is not (B, D).
        """
        sized = self.sized(images)
        parts: list[np.ndarray] = []
        for begin in range(0, len(sized), batch):
            part = sized[begin : begin + batch]
            h = np.asarray(self.embedder.embed(part), np.float32)
            if h.ndim != 2 or len(h) != len(part) or h.shape[1:] != (parts or [h])[0].shape[1:]:
                raise ValueError(
                    f"{self.name} embeds {len(part)} pictures to {h.shape}, expected "
                    f"({len(part)}, D)"
                )
            parts.append(h)
        if not parts:
            raise ValueError(NO_IMAGES)
        return np.concatenate(parts)

    def score_matrix(self, h1: np.ndarray, h2: np.ndarray | jax.Array) -> np.ndarray:
        """Cosines of every first embedding with every second: (Q, D), (S, D) -> (Q, S)."""
        return _unit(h1) @ _unit(h2).T

    def system(self) -> Embedder:
        """The embedder as the protocols take it."""
        return from_embedder(self.embed, self.score_matrix)


def _unit(h: np.ndarray | jax.Array) -> np.ndarray:
    h = np.asarray(h, np.float32)
    return h / np.sqrt((h * h).sum(-1, keepdims=True) + 1e-12)


def wrap(
    embedder: PictureEmbedder,
    kind: str = "photo",
    calibrations: Mapping[str, Calibration] | None = None,
) -> Wrapped:
    """Gives an embedder of any library the face of a network of this package.

    Args:
        embedder: see `PictureEmbedder`.
        kind: `photo`; or `ink` for an embedder that takes ink coverage, 0 for paper.
        calibrations: see `Comparing`.

    Raises:
        ValueError: something that it must have is not there or is of another type.
    """
    parts = ("name", "image_shape", "fingerprint", "embed")
    missing = [name for name in parts if not hasattr(embedder, name)]
    if missing:
        raise ValueError(
            f"{type(embedder).__name__} has no {', '.join(missing)}: an embedder needs "
            f"{', '.join(parts)}"
        )
    shape = embedder.image_shape
    sides = isinstance(shape, list | tuple) and all(type(x) is int and x > 0 for x in shape)
    if not sides or len(shape) != 3 or shape[2] not in (1, 3):
        raise ValueError(f"image_shape must be (H, W, C) with 1 or 3 channels, got {shape!r}")
    if not (isinstance(embedder.fingerprint, str) and embedder.fingerprint):
        raise ValueError(f"fingerprint must be a text, got {embedder.fingerprint!r}")
    if kind not in KINDS[:2]:
        raise ValueError(f"kind must be one of {KINDS[:2]}, got {kind!r}")
    return Wrapped(embedder, kind, dict(calibrations or {}))
