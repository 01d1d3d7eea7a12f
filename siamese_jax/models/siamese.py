"""The siamese network: twin encoders with shared weights and a comparator."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import pkgutil
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from siamese_jax.models.comparators import COMPARATORS, Comparator
from siamese_jax.models.context import FullContext
from siamese_jax.models.distances import unit
from siamese_jax.models.encoders import ENCODERS
from siamese_jax.models.layers import normal_init

_Module = TypeVar("_Module", bound=nn.Module)
DTYPES = ("float32", "bfloat16", "float64")


class CosineClassifier(nn.Module):
    """A softmax layer over the training classes, on the cosine with one learned vector a class.

    Attributes:
        classes: number of classes.
        scale: of the cosines, learned from here.

    References:
        Chen et al. (2019), A closer look at few-shot classification (the layer of Baseline++).
    """

    classes: int
    scale: float = 16.0

    @nn.compact
    def __call__(
        self, h: Float[ArrayLike, "*b d"], scaled: bool = True
    ) -> Float[Array, "*b {self.classes}"]:
        """Logits of the classes, or their cosines if not `scaled`."""
        h = jnp.asarray(h)
        kernel = self.param("kernel", normal_init(0.0, 1.0), (h.shape[-1], self.classes))
        scale = self.param("scale", nn.initializers.constant(self.scale), ())
        cosine = unit(h) @ (kernel / jnp.linalg.norm(kernel, axis=0, keepdims=True))
        return scale * cosine if scaled else cosine


class SiameseNet(nn.Module):
    """Twin encoders with shared weights and the comparator of their embeddings.

    Attributes:
        encoder: module from images to embeddings.
        head: the comparator.
        context: what embeddings go through before all of a query set meet all of a support set; None
            where two embeddings are compared whatever else is there.
        classifier: of the training classes, for objectives that train one; None otherwise.
    """

    encoder: nn.Module
    head: Comparator
    context: FullContext | None = None
    classifier: CosineClassifier | None = None

    def __call__(
        self,
        images1: Float[ArrayLike, "b h w c"],
        images2: Float[ArrayLike, "b h w c"],
        train: bool = False,
    ) -> Float[Array, " b"]:
        """Logits of "same class" of image pairs, which go through the encoder in one pass.

        Args:
            images1: pixels in [0, 1].
            images2: pixels in [0, 1].
            train: whether batch statistics and dropout are in training mode.
        """
        both = self.embed(jnp.concatenate([images1, images2]), train)
        if self.classifier is not None and self.is_initializing():
            self.classify(both)
        return self.compare(*jnp.split(both, 2))

    def embed(
        self, images: Float[ArrayLike, "b h w c"], train: bool = False
    ) -> Float[Array, "b d"]:
        """Embeddings of images with pixels in [0, 1]."""
        return self.encoder(images, train)

    def compare(
        self, h1: Float[ArrayLike, "*b d"], h2: Float[ArrayLike, "*b d"]
    ) -> Float[Array, "*b"]:
        """Logits of "same class" of pairs of embeddings; each pair is a support set of one."""
        if self.context is None:
            return self.head(h1, h2)
        h1, h2 = jnp.asarray(h1), jnp.asarray(h2)
        return self.compare_all(h1[..., None, :], h2[..., None, :])[..., 0, 0]

    def compare_all(
        self, h1: Float[ArrayLike, "*b q d"], h2: Float[ArrayLike, "*b s d"]
    ) -> Float[Array, "*b q s"]:
        """Logits of "same class" of every first embedding with every second.

        With a `context` the first are the queries and the second their one support set.
        """
        if self.context is not None:
            h1, h2 = self.context(h1, h2)
        return self.head(h1, h2, all_pairs=True)

    def classify(self, h: Float[ArrayLike, "*b d"]) -> Float[Array, "*b classes"]:
        """Logits of the training classes."""
        return self._classifier()(h)

    def class_cosines(self, h: Float[ArrayLike, "*b d"]) -> Float[Array, "*b classes"]:
        """Cosines with the learned vectors of the training classes."""
        return self._classifier()(h, scaled=False)

    @nn.nowrap
    def _classifier(self) -> CosineClassifier:
        if self.classifier is None:
            raise ValueError("the network has no classifier: build it with `classes`")
        return self.classifier


def apply(model: SiameseNet, variables: Any, *arrays: ArrayLike, method: str) -> Array:
    """What a method of a network gives with these variables, outside of training.

    Args:
        model: the network.
        variables: its parameters and statistics.
        *arrays: arguments of the method.
        method: `embed`, `compare`, `compare_all`, `classify` or `class_cosines`.
    """
    result: Any = model.apply(variables, *arrays, method=method)
    return result


def build(
    fields: Mapping | ConfigDict,
    image_shape: Sequence[int] | None = None,
    axis_name: str | None = None,
    classes: int = 0,
) -> SiameseNet:
    """The network that a config's `model` section describes.

    Args:
        fields: `encoder` (a name of `ENCODERS`, or the dotted path of a linen module called with images
            and `train`, `package.module.Class`), `comparator` (a name of `COMPARATORS`), `dtype` (one
            of `DTYPES`), under `encoder_args` and `head_args` the attributes of the chosen classes,
            and, if wanted, `context_steps`: those of `FullContext`, 0 for none.
        image_shape: (H, W, C) of the images; only the comparator `local` needs it.
        axis_name: mapped axis over which batch statistics are averaged, None on one device.
        classes: of the softmax layer that an objective trains; 0 for none.

    Raises:
        ValueError: an unknown encoder, comparator or dtype, or an attribute that they do not have.
    """
    for field, known in (("comparator", COMPARATORS), ("dtype", DTYPES)):
        if fields[field] not in known:
            raise ValueError(f"model.{field} must be one of {tuple(known)}, got {fields[field]!r}")
    encoder_class = _encoder_class(fields["encoder"])
    derived = {"dtype": jnp.dtype(fields["dtype"]), "axis_name": axis_name}
    encoder = _construct("encoder_args", encoder_class, fields["encoder_args"], derived)
    head_class = COMPARATORS[fields["comparator"]]
    derived = head_class.derived_attributes(encoder, image_shape)
    head = _construct("head_args", head_class, fields["head_args"], derived)
    steps = fields.get("context_steps", 0)
    return SiameseNet(
        encoder,
        head,
        context=FullContext(steps) if steps else None,
        classifier=CosineClassifier(classes) if classes else None,
    )


def _encoder_class(name: str) -> type[nn.Module]:
    """The encoder of a name of `ENCODERS`, or of a dotted path.

    Raises:
        ValueError: neither, or what lies there is no linen module with the attributes and call that an
            encoder needs.
    """
    if name in ENCODERS:
        return ENCODERS[name]
    if "." not in name:
        raise ValueError(
            f"model.encoder must be one of {tuple(ENCODERS)} or a dotted path, got {name!r}"
        )
    try:
        encoder = pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"model.encoder {name!r} cannot be imported ({error})") from None
    if not (isinstance(encoder, type) and issubclass(encoder, nn.Module)):
        raise ValueError(f"model.encoder {name!r} is no class of flax.linen modules")
    parameters = inspect.signature(encoder.__call__).parameters
    if len(parameters) < 3:  # self, images, train
        raise ValueError(
            f"model.encoder {name!r} must be called as (images, train), and its call takes "
            f"({', '.join(list(parameters)[1:])})"
        )
    return encoder


def _construct(
    section: str, module: type[_Module], given: Mapping | ConfigDict, derived: Mapping
) -> _Module:
    """A module of the attributes that a config gives, and of those that it has of the derived ones.

    Raises:
        ValueError: an attribute of the config that the module does not have, or that is derived.
    """
    attributes = {x.name for x in dataclasses.fields(module)} - {"parent", "name"}
    settable = sorted(attributes - set(derived))
    for name in given:
        if name not in settable:
            near = difflib.get_close_matches(name, settable)
            hint = f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(settable)}"
            raise ValueError(
                f"model.{section}.{name} is no attribute of {module.__name__} that can be set: {hint}"
            )
    return module(**given, **{name: x for name, x in derived.items() if name in attributes})
