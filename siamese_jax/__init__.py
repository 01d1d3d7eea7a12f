"""Siamese networks and one-shot recognition in JAX and Flax.

Importing the package starts nothing and changes nothing; jax is first imported by what needs it.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from siamese_jax.cpu import tune_cpu

if TYPE_CHECKING:
    import flax.linen as nn

    from siamese_jax.evaluation.calibration import Calibration
    from siamese_jax.inference.embedder import PictureEmbedder, Wrapped
    from siamese_jax.inference.network import Siamese

__version__ = "0.1.0"
__all__ = ["__version__", "load", "tune_cpu", "wrap"]


def load(
    path: str | pathlib.Path,
    checkpoint: str | int = "best",
    num_devices: int = 1,
    tta: int = 1,
    encoder: nn.Module | None = None,
) -> Siamese:
    """Reads the network of a run, or one by name: see `siamese_jax.inference.network.load`."""
    from siamese_jax.inference import network

    return network.load(path, checkpoint, num_devices, tta, encoder)


def wrap(
    embedder: PictureEmbedder,
    kind: str = "photo",
    calibrations: Mapping[str, Calibration] | None = None,
) -> Wrapped:
    """An embedder of another library for galleries: see `siamese_jax.inference.embedder.wrap`."""
    from siamese_jax.inference import embedder as embedder_lib

    return embedder_lib.wrap(embedder, kind, calibrations)
