"""The siamese network: twin encoders with shared weights and a comparator."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import pkgutil
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from siamese_jax.models.comparators import COMPARATORS, Comparator
from siamese_jax.models.context import FullContext
from siamese_jax.models.distances import unit
from siamese_jax.models.encoders import ENCODERS
from siamese_jax.models.layers import centre_ink, normal_init

_Module = TypeVar("_Module", bound=nn.Module)
DTYPES = ("float32", "bfloat16", "float64")
_NOT_IN_PARAMETERS = ("output", "pixel_mean", "pixel_std")  # attributes of the encoders here
_NO_ARGUMENTS = ("parent", "name", "dtype", "axis_name")  # attributes that no `encoder_args` hold
# Attributes of any encoder that change no score, or only its rounding.
_NO_SCORE = (*_NO_ARGUMENTS, "dropout", "frozen", "convolution")
_OBJECT = "object:"  # before the class of an encoder that cannot be imported


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
        centre_ink: whether the ink of each image is moved to the middle first (`layers.centre_ink`).
    """

    encoder: nn.Module
    head: Comparator
    context: FullContext | None = None
    classifier: CosineClassifier | None = None
    centre_ink: bool = False

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
        return self.encoder(centre_ink(images) if self.centre_ink else images, train)

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
    encoder: nn.Module | None = None,
) -> SiameseNet:
    """The network that a config's `model` section describes.

    Args:
        fields: `encoder` (a name of `ENCODERS`, the dotted path of a linen module called with images
            and `train`, `package.module.Class`, or what `describe` says of one), `comparator` (a name
            of `COMPARATORS`), `dtype` (one of `DTYPES`), under `encoder_args` and `head_args` the
            attributes of the chosen classes, and, if wanted, `context_steps`: those of `FullContext`,
            0 for none, and `centre_ink`.
        image_shape: (H, W, C) of the images; only the comparator `local` needs it.
        axis_name: mapped axis over which batch statistics are averaged, None on one device.
        classes: of the softmax layer that an objective trains; 0 for none.
        encoder: the module itself, where `fields` say that it is an object that cannot be imported.

    Raises:
        ValueError: an unknown encoder, comparator or dtype, or an attribute that they do not have; or an
            encoder that is an object and is not given.
    """
    for field, known in (("comparator", COMPARATORS), ("dtype", DTYPES)):
        if fields[field] not in known:
            raise ValueError(f"model.{field} must be one of {tuple(known)}, got {fields[field]!r}")
    if fields["encoder"].startswith(_OBJECT):
        encoder = _object_encoder(fields["encoder"], encoder, axis_name)
    else:
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
        centre_ink=fields.get("centre_ink", False),
    )


def variable_shapes(model: SiameseNet, image_shape: tuple[int, int, int]) -> dict[str, Any]:
    """The variables of a network as shapes and dtypes; nothing is computed, and nothing traced twice.

    Args:
        model: the network.
        image_shape: (H, W, C) of its input.

    Returns:
        The tree that `model.init` makes, for reading only.

    Raises:
        ValueError: the images do not fit the network.
    """
    try:
        return _variable_shapes(model, image_shape)
    except TypeError:  # an encoder of the user's with attributes of any kind cannot be hashed
        return _variable_shapes.__wrapped__(model, image_shape)


@functools.lru_cache(maxsize=256)
def _variable_shapes(model: SiameseNet, image_shape: tuple[int, int, int]) -> dict[str, Any]:
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    init = functools.partial(nn.Module.init, model)  # unlike the bound method, it needs no hash
    return jax.eval_shape(init, jax.random.key(0), images, images)


def describe(encoder: Any) -> dict[str, Any]:
    """The fields of a config's `model` section that say what an encoder is.

    Args:
        encoder: a linen module that is called with images and `train`.

    Returns:
        `encoder` and `encoder_args`, and `dtype` if it has one that is not None. Of a class that can be
        imported, with plain attributes, they are all that `build` needs. Of any other they tell it from
        others, and `build` must be given the module.

    Raises:
        ValueError: no linen module, or one that is called otherwise.
    """
    if not isinstance(encoder, nn.Module):
        raise ValueError(f"an encoder is a flax.linen module, got {type(encoder).__name__}")
    cls = type(encoder)
    name = f"{cls.__module__}.{cls.__qualname__}"
    _check_call(cls, name)
    attributes = {
        x.name: getattr(encoder, x.name)
        for x in dataclasses.fields(encoder)
        if x.init and x.name not in _NO_ARGUMENTS
    }
    fields = {"encoder": name, "encoder_args": attributes}
    if getattr(encoder, "dtype", None) is not None:
        fields["dtype"] = jnp.dtype(encoder.dtype).name
    if not (_is_importable(cls, name) and all(map(_is_plain, attributes.values()))):
        shown = {key: x if _is_plain(x) else _word_for(x) for key, x in attributes.items()}
        fields |= {"encoder": f"{_OBJECT}{cls.__qualname__}", "encoder_args": shown}
    return fields


def score_settings(encoder: nn.Module) -> tuple:
    """What decides the embeddings of an encoder beside its parameters and their shapes.

    Nothing of a class of `ENCODERS` whose output and pixels are as usual: all else shows in the
    parameters. Of any other class its name and all attributes that are not the defaults.
    """
    fields = dataclasses.fields(encoder)
    listed = type(encoder) in ENCODERS.values()
    if listed:
        deciding = [x for x in fields if x.name in _NOT_IN_PARAMETERS]
    else:
        deciding = [x for x in fields if x.init and x.name not in _NO_SCORE]
    values = {x.name: _as_in_config(getattr(encoder, x.name)) for x in deciding}
    changed = [
        (x.name, values[x.name]) for x in deciding if values[x.name] != _as_in_config(x.default)
    ]
    return tuple(changed) if listed else (type(encoder).__qualname__, *changed)


def _as_in_config(value: Any) -> Any:
    """The value as the configs of a run have it."""
    return _hashable(value) if _is_plain(value) else _word_for(value)


def _is_importable(cls: type, name: str) -> bool:
    """Whether another process finds the class by this name."""
    if cls.__module__ == "__main__":
        return False
    try:
        return pkgutil.resolve_name(name) is cls
    except (ImportError, AttributeError, ValueError):
        return False


def _is_plain(value: Any) -> bool:
    """Whether a config can hold the value."""
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _word_for(value: Any) -> str:
    """A word for a value that a config cannot hold, the same in every process."""
    return getattr(value, "__qualname__", None) or f"{type(value).__qualname__} object"


def _object_encoder(described: str, encoder: nn.Module | None, axis_name: str | None) -> nn.Module:
    """The module that a config describes as an object, for so many devices.

    Raises:
        ValueError: it is not given, or another one is.
    """
    name = described.removeprefix(_OBJECT)
    if encoder is None or type(encoder).__qualname__ != name:
        given = "none is given" if encoder is None else f"got a {type(encoder).__qualname__}"
        raise ValueError(
            f"the encoder of this network is an object of {name}, which cannot be imported "
            f"({given}): pass it as encoder={name}(...)"
        )
    if axis_name is not None and hasattr(encoder, "axis_name"):
        return encoder.clone(axis_name=axis_name)
    return encoder


def _check_call(encoder: type[nn.Module], name: str) -> None:
    """Refuses a module that is not called with images and `train`.

    Raises:
        ValueError: such a module.
    """
    parameters = inspect.signature(encoder.__call__).parameters
    if len(parameters) < 3:  # self, images, train
        raise ValueError(
            f"model.encoder {name!r} must be called as (images, train), and its call takes "
            f"({', '.join(list(parameters)[1:])})"
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
    _check_call(encoder, name)
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
    given = {name: _hashable(x) for name, x in given.items()}
    return module(**given, **{name: x for name, x in derived.items() if name in attributes})


def _hashable(value: Any) -> Any:
    """Tuples for the lists that a config read from JSON has: equal networks are compiled once."""
    return tuple(map(_hashable, value)) if isinstance(value, list) else value
