"""Comparators: what makes a score of two embeddings.

A new comparator is a class here and a line in `COMPARATORS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from siamese_jax.models import distances as distances_lib
from siamese_jax.models.distances import products, unit
from siamese_jax.models.layers import normal_init


class Comparator(nn.Module):
    """What all comparators have in common.

    Each call compares h1[q] with h2[q], and then s = q; or, with `all_pairs`, every h1 with every h2 of
    the same leading index. A class defines `_logits`. Scores are symmetric in the two embeddings, unless
    the class says otherwise.
    """

    falls_with_distance: ClassVar[bool] = False  # whether the logit falls where `distances` rises

    @nn.compact
    def __call__(
        self,
        h1: Float[ArrayLike, "*b q d"],
        h2: Float[ArrayLike, "*b s d"],
        all_pairs: bool = False,
    ) -> Float[Array, "*b q"] | Float[Array, "*b q s"]:
        """Logits of "same class"."""
        return self._logits(jnp.asarray(h1), jnp.asarray(h2), all_pairs)

    @nn.nowrap
    def _logits(self, h1: Array, h2: Array, all_pairs: bool) -> Array:
        raise NotImplementedError

    @nn.nowrap
    def distances(
        self,
        h1: Float[ArrayLike, "*b q d"],
        h2: Float[ArrayLike, "*b s d"],
        all_pairs: bool = False,
    ) -> Float[Array, "*b q"] | Float[Array, "*b q s"]:
        """The distances that the contrastive and the triplet loss learn: Euclidean, unless overridden.

        The gradient is 0 where a distance is 0.
        """
        if all_pairs:
            return distances_lib.safe_sqrt(distances_lib.all_squared_distances(h1, h2))
        return distances_lib.distances(h1, h2)

    @nn.nowrap
    def features(self, h: Float[Array, "*b d"]) -> Float[Array, "n c"]:
        """The features of embeddings as a table, one row for each embedding unless overridden."""
        return h.reshape(-1, h.shape[-1])

    @nn.nowrap
    def score_settings(self) -> tuple:
        """The attributes that decide a score beside the parameters."""
        return ()

    @nn.nowrap
    def multiply_adds(self, size: int) -> int:
        """Multiply-adds of comparing one pair of embeddings of `size` numbers."""
        return size

    @classmethod
    def derived_attributes(
        cls, encoder: nn.Module, image_shape: Sequence[int] | None
    ) -> dict[str, Any]:
        """The attributes that follow from the encoder.

        Args:
            encoder: the one whose embeddings are compared.
            image_shape: (H, W, C) of its images; None if unknown.

        Raises:
            ValueError: the comparator does not go with the encoder.
        """
        del encoder, image_shape
        return {}


class L1(Comparator):
    """`sum_j alpha_j |h1_j - h2_j| + bias`, alpha and bias learned.

    Attributes:
        kernel_mean: mean of the initial alpha, as published 0.
        kernel_std: standard deviation of the initial alpha, as published 0.2.
        bias_mean: mean of the initial bias, as published 0.5 (standard deviation 0.01).

    References:
        Koch et al. (2015), section 3.1.
    """

    kernel_mean: float = 0.0
    kernel_std: float = 0.2
    bias_mean: float = 0.5

    @nn.nowrap
    def _logits(self, h1: Array, h2: Array, all_pairs: bool) -> Array:
        init = normal_init(self.kernel_mean, self.kernel_std)
        kernel = self.param("kernel", init, (h1.shape[-1],))
        bias = self.param("bias", normal_init(self.bias_mean, 0.01), ())
        if all_pairs:
            h1, h2 = h1[..., :, None, :], h2[..., None, :, :]
        return jnp.einsum("...d,d->...", self._magnitude(h1 - h2), kernel) + bias

    @staticmethod
    def _magnitude(difference: Array) -> Array:
        return jnp.abs(difference)


class L2(L1):
    """`sum_j alpha_j (h1_j - h2_j)^2 + bias`, with the attributes of `L1`."""

    @staticmethod
    def _magnitude(difference: Array) -> Array:
        return difference**2


class Euclidean(Comparator):
    """`bias - scale D`, D the Euclidean distance, scale and bias learned.

    Attributes:
        scale: initial scale.
        bias: initial bias.
    """

    falls_with_distance: ClassVar[bool] = True

    scale: float = 10.0
    bias: float = 0.0

    @nn.nowrap
    def _logits(self, h1: Array, h2: Array, all_pairs: bool) -> Array:
        scale, bias = _scale_and_bias(self)
        return bias - scale * self.distances(h1, h2, all_pairs)


class SquaredEuclidean(Euclidean):
    """`bias - scale D^2`, with the attributes of `Euclidean`."""

    @nn.nowrap
    def _logits(self, h1: Array, h2: Array, all_pairs: bool) -> Array:
        scale, bias = _scale_and_bias(self)
        if all_pairs:
            return bias - scale * distances_lib.all_squared_distances(h1, h2)
        return bias - scale * distances_lib.squared_distances(h1, h2)


class Cosine(Comparator):
    """`scale cos(h1, h2) + bias`, scale and bias learned.

    Attributes:
        scale: initial scale.
        bias: initial bias.
    """

    scale: float = 10.0
    bias: float = 0.0

    @nn.nowrap
    def _logits(self, h1: Array, h2: Array, all_pairs: bool) -> Array:
        scale, bias = _scale_and_bias(self)
        return scale * products(unit(h1), unit(h2), all_pairs) + bias


class Bilinear(Comparator):
    """`h1' M h2 + bias`, the matrix M and bias learned.

    Attributes:
        scale: M is at first this times the identity.
        bias: initial bias.
        symmetric: whether (M + M') / 2 is taken for M; otherwise the order of the two matters.
    """

    scale: float = 10.0
    bias: float = 0.0
    symmetric: bool = True

    @nn.nowrap
    def _logits(self, h1: Array, h2: Array, all_pairs: bool) -> Array:
        bias = self.param("bias", nn.initializers.constant(self.bias), ())
        matrix = self.param("matrix", lambda key, n: self.scale * jnp.eye(n), h1.shape[-1])
        if self.symmetric:
            matrix = (matrix + matrix.T) / 2
        return products(h1 @ matrix, h2, all_pairs) + bias

    @nn.nowrap
    def score_settings(self) -> tuple:
        """See `Comparator.score_settings`."""
        return (self.symmetric,)

    @nn.nowrap
    def multiply_adds(self, size: int) -> int:
        """See `Comparator.multiply_adds`: of the matrix and of the scalar product."""
        return size * size + size


class Local(Comparator):
    """`scale s + bias`, s the `local_similarity` of two maps of features, scale and bias learned.

    Attributes:
        scale: initial scale.
        bias: initial bias.
        reach: how many rows and columns away the best cosine of a place is looked for.
        places: rows and columns of the maps, derived from the encoder.
        units: features of each place, derived from the encoder.
    """

    falls_with_distance: ClassVar[bool] = True

    scale: float = 10.0
    bias: float = 0.0
    reach: int = 1
    places: Sequence[int] = (1, 1)
    units: int = 1

    @nn.nowrap
    def _logits(self, h1: Array, h2: Array, all_pairs: bool) -> Array:
        scale, bias = _scale_and_bias(self)
        return scale * self._similarity(h1, h2, all_pairs) + bias

    @nn.nowrap
    def distances(
        self,
        h1: Float[ArrayLike, "*b q d"],
        h2: Float[ArrayLike, "*b s d"],
        all_pairs: bool = False,
    ) -> Float[Array, "*b q"] | Float[Array, "*b q s"]:
        """`sqrt(2 - 2 s)`: the Euclidean distance of unit vectors whose cosine is s."""
        s = self._similarity(h1, h2, all_pairs)
        return distances_lib.safe_sqrt(jnp.maximum(2 - 2 * s, 0.0))

    @nn.nowrap
    def features(self, h: Float[Array, "*b d"]) -> Float[Array, "n {self.units}"]:
        """One row for each place of each map."""
        return h.reshape(-1, self.units)

    @nn.nowrap
    def score_settings(self) -> tuple:
        """See `Comparator.score_settings`."""
        return (tuple(self.places), self.reach)

    @nn.nowrap
    def multiply_adds(self, size: int) -> int:
        """See `Comparator.multiply_adds`: each place meets those within reach."""
        del size
        meetings = 1
        for side in self.places:
            moves = range(-self.reach, self.reach + 1)
            meetings *= sum(max(0, side - abs(move)) for move in moves)
        return self.units * meetings

    @classmethod
    def derived_attributes(
        cls, encoder: nn.Module, image_shape: Sequence[int] | None
    ) -> dict[str, Any]:
        """The places and units of the encoder's map, see `Comparator.derived_attributes`."""
        if not getattr(encoder, "local", False):
            raise ValueError(
                "model.comparator 'local' compares maps of local features: set "
                "model.encoder_args.local, which 'residual' and 'small' have, to True"
            )
        if image_shape is None:
            raise ValueError("model.comparator 'local' needs the shape of the images")
        return {"places": encoder.places(image_shape), "units": encoder.units}

    @nn.nowrap
    def _similarity(self, h1: ArrayLike, h2: ArrayLike, all_pairs: bool) -> Array:
        h1, h2 = jnp.asarray(h1), jnp.asarray(h2)
        rows, columns = self.places
        if h1.shape[-1] != rows * columns * self.units:
            raise ValueError(
                f"embeddings of {h1.shape[-1]} numbers are no maps of {rows} x {columns} places with "
                f"{self.units} features each: embed images of the size that the network was built for"
            )
        return distances_lib.local_similarity(h1, h2, self.places, self.reach, all_pairs)


def _scale_and_bias(module: Comparator) -> tuple[Any, Any]:
    """The two learned numbers of a comparator that has the attributes `scale` and `bias`."""
    bias = module.param("bias", nn.initializers.constant(module.bias), ())
    return module.param("scale", nn.initializers.constant(module.scale), ()), bias


COMPARATORS: dict[str, type[Comparator]] = {
    "l1": L1,
    "l2": L2,
    "euclidean": Euclidean,
    "squared_euclidean": SquaredEuclidean,
    "cosine": Cosine,
    "bilinear": Bilinear,
    "local": Local,
}
