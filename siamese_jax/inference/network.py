"""A trained network ready for use: embeds and compares images outside of training."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from ml_collections import ConfigDict

from siamese_jax.data.image_set import StreamedImages, has_pictures, warp_fill
from siamese_jax.evaluation.calibration import Calibration
from siamese_jax.evaluation.scoring import Embedder, from_embedder
from siamese_jax.inference.comparing import Comparing
from siamese_jax.inference.devices import Devices
from siamese_jax.inference.embed import (
    make_class_step,
    make_embed_step,
    make_one_shot_step,
    make_pair_step,
)
from siamese_jax.models import siamese
from siamese_jax.models.comparators import Comparator, Cosine
from siamese_jax.models.layers import centre_ink
from siamese_jax.models.siamese import SiameseNet
from siamese_jax.runs import checkpoints, export, safetensors_file

_FRAMED = ("auto", "omniglot", "glyphs")  # data sets of characters that fill their frame
_PAIRS = 32  # pairs a device in a call of the pair step, which compares all with all
_centred = jax.jit(centre_ink)


@dataclasses.dataclass(frozen=True, eq=False)
class Siamese(Comparing):
    """A network with its parameters; `load` reads one, `bind` makes one.

    Attributes, besides those of `Comparing`:
        model: the network.
        variables: its parameters and statistics, on the devices.
        devices: where it runs.
        embed_step, pair_step, one_shot_step: compiled steps, see `inference.embed`.
        class_step: compiled step of a network with a full context; None for others.
    """

    model: SiameseNet
    variables: Any
    image_shape: tuple[int, int, int]
    kind: str
    name: str
    devices: Devices
    embed_step: Callable
    pair_step: Callable
    one_shot_step: Callable
    class_step: Callable | None = None
    tta: int = 1
    calibrations: Mapping[str, Calibration] = dataclasses.field(default_factory=dict)
    framed: bool = False

    def __repr__(self) -> str:
        """One line: the name, and what goes in and comes out."""
        shape = self.image_shape if self.has_pictures else self.image_shape[1:2]
        encoder, comparator = (
            type(part).__name__ for part in (self.model.encoder, self.model.head)
        )
        parameters = jax.tree.leaves(self.devices.first(self.variables["params"]))
        views = f", {self.tta} views an image" if self.tta > 1 else ""
        return (
            f"<Siamese {self.name}: {encoder} and {comparator}, "
            f"{sum(x.size for x in parameters):,} parameters, {self.kind} {shape}{views}>"
        )

    @functools.cached_property
    def fingerprint(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 of all that decides its scores.

        Its parameters and statistics with their names, its encoder's settings that do not show in
        these, its comparator, the shape and kind of its input, what is done to it first, and its
        test-time augmentation.
        """
        more = self.head.score_settings() + siamese.score_settings(self.model.encoder)
        more += ("tta", self.tta) if self.tta > 1 else ()
        more += ("centre_ink",) if self.model.centre_ink else ()
        facts = (type(self.head).__name__, *more, self.image_shape, self.kind)
        digest = hashlib.sha256(repr(facts).encode())
        leaves = jax.tree_util.tree_leaves_with_path(self.devices.first(self.variables))
        for path, leaf in sorted((jax.tree_util.keystr(path), leaf) for path, leaf in leaves):
            array = np.ascontiguousarray(leaf)
            digest.update(repr((path, array.shape, array.dtype.str)).encode())
            digest.update(array.data)
        return digest.hexdigest()[:16]

    @property
    def head(self) -> Comparator:
        """The comparator."""
        return self.model.head

    @property
    def compares_singly(self) -> bool:
        """Whether the score of two pictures is of them alone: without a full context."""
        return self.model.context is None

    @property
    def cosine(self) -> tuple[jax.Array, jax.Array] | None:
        """(scale, bias) of the cosine comparator; None for others."""
        if not isinstance(self.head, Cosine):
            return None
        head = self.devices.first(self.variables)["params"]["head"]
        return head["scale"], head["bias"]

    def with_variables(self, variables: Any) -> Siamese:
        """The same network with other parameters (replicated); nothing is compiled anew."""
        return dataclasses.replace(self, variables=variables)

    def as_seen(self, images: np.ndarray) -> np.ndarray:
        """(B, H, W, C) uint8 images with the ink where the network sees it (`layers.centre_ink`)."""
        if not self.model.centre_ink:
            return images
        return np.rint(255 * np.asarray(_centred(images / np.float32(255)))).astype(np.uint8)

    def embed(self, images: np.ndarray | StreamedImages, batch: int = 256) -> np.ndarray:
        """Embeds images.

        Args:
            images: (B, H, W, C) or (B, H, W) uint8; of kind `ink` 255 is ink and 0 paper. Images of
                another height or width than the network's are resized. A network of kind `vector`
                takes (B, D) or (B, 1, D, 1) float32 features, standardised as those of its
                training set were (see `data.vectors.Standardisation`).
            batch: images a call of the compiled step.

        Returns:
            (B, D) float32.

        Raises:
            ValueError: another type, rank or number of channels or features.
        """
        if not isinstance(images, StreamedImages):  # which is read batch by batch
            images = np.asarray(images)
        if self.has_pictures:
            images = self.sized(images)
        else:
            given = f"{images.shape} {images.dtype}"
            if isinstance(images, np.ndarray) and images.ndim == 2:
                images = images[:, None, :, None]
            if images.dtype != np.float32 or images.shape[1:] != self.image_shape:
                raise ValueError(f"vectors must be (B, {self.image_shape[1]}) float32, got {given}")
        return self.devices.batches(self.embed_step, self.variables, images, batch)

    def score_matrix(self, h1: np.ndarray, h2: np.ndarray | jax.Array) -> np.ndarray:
        """(Q, D) and (S, D) embeddings -> (Q, S) scores of each first with each second."""
        return self.devices.call(self.one_shot_step, self.variables, [h1], [h2])

    def score_pairs(self, h1: np.ndarray, h2: np.ndarray) -> np.ndarray:
        """(B, D) and (B, D) embeddings -> (B,) scores, pair by pair."""
        block = _PAIRS * self.devices.count
        starts = range(0, len(h1), block)
        pairs = [(h1[i : i + block], h2[i : i + block]) for i in starts]
        return np.concatenate(
            [self.devices.call(self.pair_step, self.variables, x, batch=block) for x in pairs]
        )

    def score_classes(self, queries: np.ndarray, supports: np.ndarray) -> np.ndarray:
        """(R, Q, D) and (R, N, K, D) embeddings -> (R, Q, N) scores, with a full context only."""
        if self.class_step is None:
            raise ValueError(f"{self.name} has no full context: it scores references one by one")
        return self.devices.call(self.class_step, self.variables, [queries, supports])

    def system(self) -> Embedder:
        """The network as the protocols take it."""
        if self.class_step is not None:
            return from_embedder(self.embed, self.score_matrix, self.score_classes)
        return from_embedder(self.embed, self.score_matrix, score_pairs=self.score_pairs)


def ensemble(nets: Sequence[Siamese]) -> Embedder:
    """Several networks as one system: an embedding is all of theirs, a score the mean of theirs.

    Args:
        nets: networks that take the same images.

    Raises:
        ValueError: none, or one with a full context, whose scores are not of pairs.
    """
    if not nets or any(net.class_step is not None for net in nets):
        raise ValueError("an ensemble is of one or more networks without a full context")
    ends = list(itertools.accumulate(net.embedding_size for net in nets))[:-1]

    def embed(images: np.ndarray) -> np.ndarray:
        return np.concatenate([net.embed(images) for net in nets], 1)

    def parts(h1: np.ndarray, h2: np.ndarray) -> Iterator[tuple[Siamese, np.ndarray, np.ndarray]]:
        return zip(nets, np.split(h1, ends, 1), np.split(h2, ends, 1), strict=True)

    def score_matrix(h1: np.ndarray, h2: np.ndarray) -> np.ndarray:
        return np.mean([net.score_matrix(a, b) for net, a, b in parts(h1, h2)], 0)

    def score_pairs(h1: np.ndarray, h2: np.ndarray) -> np.ndarray:
        return np.mean([net.score_pairs(a, b) for net, a, b in parts(h1, h2)], 0)

    return from_embedder(embed, score_matrix, score_pairs=score_pairs)


def bind(
    config: ConfigDict,
    variables: Any,
    image_shape: tuple[int, int, int],
    kind: str,
    name: str,
    devices: Devices,
    tta: int = 1,
    calibrated: Mapping[str, Mapping] | None = None,
    encoder: nn.Module | None = None,
) -> Siamese:
    """Makes a `Siamese` of a config's network.

    Args:
        config: config of the run.
        variables: parameters and statistics, replicated on `devices`.
        image_shape: (H, W, C).
        kind: `ink`, `photo` or `vector`.
        name: for tables.
        devices: where it runs.
        tta: see `embed.make_embed_step`.
        calibrated: fields of its calibrations by name; they hold without test-time augmentation.
        encoder: its encoder, where the config names an object (see `siamese.build`).

    Raises:
        ValueError: test-time augmentation of vectors, which cannot be warped; or no encoder where one
            is needed.
    """
    if tta > 1 and not has_pictures(kind):
        raise ValueError(f"vectors cannot be warped, so tta must be 1; got {tta}")
    model = siamese.build(config.model, image_shape, devices.axis_name, encoder=encoder)
    calibrations = {}
    if tta == 1:
        for key, fields in (calibrated or {}).items():
            calibrations[key] = Calibration.of(fields, f"the calibration {key!r} of {name}")
    return Siamese(
        model=model,
        variables=variables,
        image_shape=image_shape,
        kind=kind,
        name=name,
        devices=devices,
        embed_step=make_embed_step(model, devices, tta, warp_fill(kind)),
        pair_step=make_pair_step(model, devices),
        one_shot_step=make_one_shot_step(model, devices),
        class_step=make_class_step(model, devices) if model.context is not None else None,
        tta=tta,
        calibrations=calibrations,
        framed=kind == "ink" and config.get("data", {}).get("name") in _FRAMED,
    )


def load(
    path: str | pathlib.Path,
    checkpoint: str | int = "best",
    num_devices: int = 1,
    tta: int = 1,
    encoder: nn.Module | None = None,
) -> Siamese:
    """Reads the network of a run, or one that comes with the package.

    Args:
        path: the run's workdir; a file of `export.export` or `safetensors_file.write`; or one of
            `export.pretrained()`.
        checkpoint: of a run: `best` by validation, `latest`, or a step. A file holds one only.
        num_devices: devices to run on, 0 for all.
        tta: views of each image in test-time augmentation, see `embed.make_embed_step`; 1 for none.
        encoder: that the run was given as an object, where that cannot be imported.

    Returns:
        The network, with `embed(images)` and `score(images1, images2)`.

    Raises:
        ValueError: the folder holds no run, or not that checkpoint, or parameters that its config's
            network does not have.
    """
    weights = read(path, checkpoint)
    _check_variables(weights, path, encoder)
    devices = Devices(num_devices)
    stem = pathlib.Path(path).absolute().name
    stem = stem.removesuffix(".npz").removesuffix(safetensors_file.SUFFIX)
    start = weights.provenance[-1]
    return bind(
        weights.config,
        devices.replicate(weights.variables),
        image_shape=tuple(start["image_shape"]),
        kind=start["kind"],
        name=f"{stem} @ {weights.step}",
        devices=devices,
        tta=tta,
        calibrated=weights.calibrations,
        encoder=encoder,
    )


def _check_variables(
    weights: export.Weights, path: str | pathlib.Path, encoder: nn.Module | None
) -> None:
    """Refuses other parameters than those that the network of the config has, and what is not finite."""
    shape = tuple(weights.provenance[-1]["image_shape"])
    model = siamese.build(weights.config.model, shape, encoder=encoder)
    wanted = siamese.variable_shapes(model, shape)
    # The classifier serves training alone.
    params = {k: v for k, v in weights.variables["params"].items() if k != "classifier"}
    given = {"batch_stats": {}, **weights.variables, "params": params}
    wanted, given = checkpoints.by_path(wanted), checkpoints.by_path(given)
    for name in sorted(wanted.keys() | given.keys()):
        if name not in given or name not in wanted:
            side = "has no" if name in wanted else "has a"
            raise ValueError(f"{path} {side} {name}: its network is not that of its config")
        if given[name].shape != wanted[name].shape:
            raise ValueError(
                f"{path} has {name} of shape {given[name].shape}, its config's network of shape "
                f"{wanted[name].shape}"
            )
        if not np.isfinite(given[name]).all():
            raise ValueError(f"{path} has numbers in {name} that are not finite")


def read(path: str | pathlib.Path, checkpoint: str | int = "best") -> export.Weights:
    """Reads the parameters and the records of a network.

    Args:
        path: as in `load`.
        checkpoint: as in `load`.

    Raises:
        ValueError: nothing is there, the folder holds no run, or not that checkpoint.
    """
    place = pathlib.Path(path)
    if place.is_dir():
        if not (place / export.FILE).exists():
            return export.read_run(path, checkpoint)
        weights = export.read(place / export.FILE)
    elif place.suffix == safetensors_file.SUFFIX:
        weights = safetensors_file.read(place)
    else:
        weights = export.read(export.locate(path))
    if checkpoint not in ("best", "latest", weights.step):
        raise ValueError(f"{path} holds no checkpoint {checkpoint!r}; it has {weights.step} only")
    return weights
