"""Losses. All but `correlation` return unreduced values, which the caller reduces."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from siamese_jax.models.distances import safe_sqrt

_NEVER = -1e9  # a logit that takes no part


def verification(
    logits: Float[ArrayLike, " b"], labels: Float[ArrayLike, " b"]
) -> Float[Array, " b"]:
    """Binary cross-entropy of same / different.

    Args:
        logits: scores before the sigmoid.
        labels: 1 = same class, 0 = different.

    Returns:
        Losses in nats.

    References:
        Koch et al. (2015), section 3.2.
    """
    return optax.sigmoid_binary_cross_entropy(logits, labels)


def symmetric_info_nce(
    logits: Float[ArrayLike, "*b n n"], allowed: Bool[ArrayLike, "*b n n"], smoothing: float = 0.0
) -> Float[Array, "*b n"]:
    """Masked symmetric InfoNCE: the cross-entropy of N-way matching, both ways.

    Entry (n, m) of the logits compares character n by one drawer with character m by another, so the
    right answers lie on the diagonal. Every image is a query once against the images of the other
    side: rows and columns are both softmax problems.

    Args:
        logits: of every image of one side and every image of the other.
        allowed: which entries take part. A character whose diagonal entry is False is absent: it is no
            query, and its row and column should be False as well.
        smoothing: as in `classification`.

    Returns:
        Mean of the two cross-entropies of each character in nats, 0 where absent.

    References:
        van den Oord, Li, Vinyals (2018), Representation learning with contrastive predictive coding,
        equation 4; Radford et al. (2021), Learning transferable visual models from natural language
        supervision (CLIP), figure 3, for the two directions.
    """
    logits, allowed = jnp.asarray(logits), jnp.asarray(allowed)
    rows = classification(logits, allowed, smoothing)
    logits, allowed = logits.swapaxes(-1, -2), allowed.swapaxes(-1, -2)
    return 0.5 * (rows + classification(logits, allowed, smoothing))


def classification(
    logits: Float[ArrayLike, "*b n n"], allowed: Bool[ArrayLike, "*b n n"], smoothing: float = 0.0
) -> Float[Array, "*b n"]:
    """Cross-entropy of N-way classification, where query n is of class n.

    Args:
        logits: entry (n, m) is of query n and class m.
        allowed: which entries take part; a query whose diagonal entry is False is absent.
        smoothing: share of the target that is spread evenly over all entries that take part.

    Returns:
        Losses in nats, 0 where absent.

    References:
        Szegedy et al. (2016), Rethinking the Inception architecture, section 7 (label smoothing).
    """
    allowed = jnp.asarray(allowed)
    kept = jnp.where(allowed, logits, _NEVER)
    right = jnp.diagonal(kept, axis1=-2, axis2=-1)
    if smoothing:
        even = jnp.where(allowed, logits, 0.0).sum(-1) / jnp.maximum(allowed.sum(-1), 1)
        right = (1 - smoothing) * right + smoothing * even
    present = jnp.diagonal(allowed, axis1=-2, axis2=-1)
    return jnp.where(present, jax.nn.logsumexp(kept, axis=-1) - right, 0.0)


def contrastive(
    distance: Float[ArrayLike, " b"], labels: Float[ArrayLike, " b"], margin: float
) -> Float[Array, " b"]:
    """Contrastive loss: 1/2 D^2 of a same pair, 1/2 max(0, margin - D)^2 of a different one.

    Args:
        distance: Euclidean distances D of the embeddings, see `models.distances`.
        labels: 1 = same class, 0 = different.
        margin: distance beyond which a different pair costs nothing.

    References:
        Hadsell, Chopra, LeCun (2006), Dimensionality reduction by learning an invariant mapping,
        equation 4.

    Deviation: a label 1 means the same class, as everywhere here; in the paper a different one.
    """
    distance, labels = jnp.asarray(distance), jnp.asarray(labels)
    short = jnp.maximum(margin - distance, 0.0)
    return 0.5 * (labels * distance**2 + (1 - labels) * short**2)


def correlation(h: Float[ArrayLike, "b d"]) -> Float[Array, ""]:
    """The mean squared correlation of two dimensions of embeddings, 0 to 1.

    A loss of distances can tell few classes apart by few directions, and lets all dimensions agree on
    them. This term keeps the others in use.

    Args:
        h: embeddings of a batch, d at least 2.

    Raises:
        ValueError: embeddings of one dimension.

    References:
        Bardes, Ponce, LeCun (2022), VICReg, the covariance term.

    Deviation: of correlations, where the paper takes covariances.
    """
    h = jnp.asarray(h)
    if h.shape[1] < 2:
        raise ValueError(
            "objective.decorrelation needs embeddings of at least two dimensions: set it to 0"
        )
    h = h - h.mean(0, keepdims=True)
    h = h * jax.lax.rsqrt(jnp.mean(h * h, 0, keepdims=True) + 1e-12)
    size = h.shape[1]
    matrix = h.T @ h / h.shape[0]
    return jnp.sum((matrix * (1 - jnp.eye(size))) ** 2) / (size * (size - 1))


def triplet(
    positive: Float[ArrayLike, "*b"], negative: Float[ArrayLike, "*b"], margin: float
) -> Float[Array, "*b"]:
    """Triplet loss: max(D(anchor, positive) - D(anchor, negative) + margin, 0).

    Args:
        positive: distances of anchor and positive.
        negative: distances of anchor and negative.
        margin: how much farther than the positive the negative should be.

    References:
        Schroff, Kalenichenko, Philbin (2015), FaceNet, equation 3.

    Deviation: on distances, where the paper takes squared ones.
    """
    return jnp.maximum(jnp.asarray(positive) - jnp.asarray(negative) + margin, 0.0)


# ----------------------------------------------------------------- every image of a batch and the others
#
# In the four losses below row a is an anchor, an image of the batch. Column k is an image that it meets:
# one of the batch, or one that a memory keeps. An image meets itself in a column that is neither `same`
# nor `different`.


def supcon(
    logits: Float[ArrayLike, "b k"],
    same: Bool[ArrayLike, "b k"],
    different: Bool[ArrayLike, "b k"],
) -> Float[Array, " b"]:
    """Supervised contrastive loss: the mean over the positives of an anchor of -log softmax.

    The softmax of an anchor is over all its positives and negatives.

    Args:
        logits: similarities divided by the temperature.
        same: where column k is a positive of anchor a.
        different: where column k is a negative of anchor a.

    Returns:
        Losses of the anchors in nats, 0 for an anchor without a positive.

    References:
        Khosla et al. (2020), Supervised contrastive learning, equation 2 (the sum outside of the log).
    """
    same, different = jnp.asarray(same), jnp.asarray(different)
    whole = jax.nn.logsumexp(jnp.where(same | different, logits, _NEVER), axis=1)
    mean = jnp.where(same, logits, 0.0).sum(1) / jnp.maximum(same.sum(1), 1)
    return jnp.where(same.any(1), whole - mean, 0.0)


def nt_xent(
    logits: Float[ArrayLike, "b k"],
    same: Bool[ArrayLike, "b k"],
    different: Bool[ArrayLike, "b k"],
) -> Float[Array, "b k"]:
    """Normalised temperature-scaled cross-entropy: each positive against the anchor's negatives.

    Args:
        logits: cosines divided by the temperature.
        same: as in `supcon`.
        different: as in `supcon`.

    Returns:
        Losses of the positive pairs in nats, 0 elsewhere.

    References:
        Chen et al. (2020), A simple framework for contrastive learning of visual representations
        (SimCLR), equation 1.

    Deviation: where an anchor has several positives, the others are left out of a pair's softmax. In
        the paper there is one.
    """
    negatives = jax.nn.logsumexp(jnp.where(different, logits, _NEVER), axis=1, keepdims=True)
    return jnp.where(same, jax.nn.softplus(negatives - logits), 0.0)


def multi_similarity(
    cosine: Float[ArrayLike, "b k"],
    same: Bool[ArrayLike, "b k"],
    different: Bool[ArrayLike, "b k"],
    alpha: float = 2.0,
    beta: float = 50.0,
    base: float = 0.5,
    epsilon: float = 0.1,
) -> Float[Array, " b"]:
    """Multi-similarity loss, with its mining.

    A negative takes part if it is more alike than the least alike positive less `epsilon`. A positive
    takes part if it is less alike than the most alike negative plus `epsilon`.

    Args:
        cosine: of the embeddings.
        same: as in `supcon`.
        different: as in `supcon`.
        alpha: sharpness of the positives.
        beta: sharpness of the negatives.
        base: the cosine that parts positives and negatives.
        epsilon: slack of the mining.

    Returns:
        Losses of the anchors, 0 for an anchor without a positive or without a negative.

    References:
        Wang et al. (2019), Multi-similarity loss with general pair weighting for deep metric learning,
        equations 11, 12 and 15.

    Deviation: `base` is 0.5, as in the authors' code; in the paper 1.
    """
    cosine, same, different = (jnp.asarray(x) for x in (cosine, same, different))
    least = jnp.where(same, cosine, jnp.inf).min(1, keepdims=True)
    most = jnp.where(different, cosine, -jnp.inf).max(1, keepdims=True)
    positives = same & (cosine < most + epsilon)
    negatives = different & (cosine > least - epsilon)
    values = _log_one_plus(-alpha * (cosine - base), positives) / alpha
    return values + _log_one_plus(beta * (cosine - base), negatives) / beta


def circle(
    cosine: Float[ArrayLike, "b k"],
    same: Bool[ArrayLike, "b k"],
    different: Bool[ArrayLike, "b k"],
    margin: float = 0.4,
    scale: float = 80.0,
) -> Float[Array, " b"]:
    """Circle loss: each cosine is weighted by how far it is from its optimum.

    Args:
        cosine: of the embeddings.
        same: as in `supcon`.
        different: as in `supcon`.
        margin: m. Positives should be above 1 - m, negatives below m.
        scale: gamma.

    Returns:
        Losses of the anchors, 0 for an anchor without a positive or without a negative.

    References:
        Sun et al. (2020), Circle loss: a unified perspective of pair similarity optimization, equation 6
        with the margins of section 3.3. As there, no gradient goes through the weights.
    """
    cosine, same, different = (jnp.asarray(x) for x in (cosine, same, different))
    weights = (1 + margin - cosine, cosine + margin)
    up, down = (jax.lax.stop_gradient(jnp.maximum(x, 0.0)) for x in weights)
    positives = -scale * up * (cosine - (1 - margin))
    negatives = scale * down * (cosine - margin)
    both = (
        jax.nn.logsumexp(jnp.where(mask, x, _NEVER), axis=1)
        for x, mask in ((positives, same), (negatives, different))
    )
    return jnp.where(same.any(1) & different.any(1), jax.nn.softplus(sum(both)), 0.0)


def n_pair(
    products: Float[ArrayLike, "*b n n"], allowed: Bool[ArrayLike, "*b n n"]
) -> Float[Array, "*b n"]:
    """Multi-class N-pair loss: log(1 + sum over m of exp(f_n g_m - f_n g_n)).

    Args:
        products: scalar products of the anchors f and of the positives g; pair n is on the diagonal.
        allowed: as in `classification`.

    Returns:
        Losses of the anchors in nats, 0 where absent.

    References:
        Sohn (2016), Improved deep metric learning with multi-class N-pair loss objective, equation 6.
    """
    return classification(products, allowed)


# -------------------------------------------------------------------- one learned vector for every class


def softmax(
    logits: Float[ArrayLike, "b c"], labels: Int[ArrayLike, " b"], smoothing: float = 0.0
) -> Float[Array, " b"]:
    """Cross-entropy of a softmax over classes.

    Args:
        logits: of every image and every class.
        labels: class of every image.
        smoothing: share of the target that is spread evenly over all classes.

    Returns:
        Losses in nats.

    References:
        Szegedy et al. (2016), Rethinking the Inception architecture, section 7 (label smoothing).
    """
    logits, labels = jnp.asarray(logits), jnp.asarray(labels)
    right = jnp.take_along_axis(logits, labels[:, None], 1)[:, 0]
    if smoothing:
        right = (1 - smoothing) * right + smoothing * logits.mean(-1)
    return jax.nn.logsumexp(logits, -1) - right


def arcface(
    cosine: Float[ArrayLike, "b c"],
    labels: Int[ArrayLike, " b"],
    margin: float = 0.5,
    scale: float = 64.0,
    smoothing: float = 0.0,
) -> Float[Array, " b"]:
    """Additive angular margin loss: softmax of s cos(theta + m) for the image's class.

    Args:
        cosine: of every embedding and every class's vector.
        labels: class of every image.
        margin: m, radians.
        scale: s.
        smoothing: as in `softmax`.

    Returns:
        Losses in nats.

    References:
        Deng et al. (2019), ArcFace: additive angular margin loss for deep face recognition, equation 3.

    Deviation: where theta + m is more than pi, the cosine less m sin m is taken, as in the authors'
        code, so that the logit keeps falling with the angle.
    """
    cosine, labels = jnp.asarray(cosine), jnp.asarray(labels)
    sine = safe_sqrt(jnp.maximum(1 - cosine**2, 0.0))
    moved = cosine * jnp.cos(margin) - sine * jnp.sin(margin)
    moved = jnp.where(cosine > -jnp.cos(margin), moved, cosine - margin * jnp.sin(margin))
    is_class = labels[:, None] == jnp.arange(cosine.shape[1])[None]
    return softmax(scale * jnp.where(is_class, moved, cosine), labels, smoothing)


def cosface(
    cosine: Float[ArrayLike, "b c"],
    labels: Int[ArrayLike, " b"],
    margin: float = 0.35,
    scale: float = 64.0,
    smoothing: float = 0.0,
) -> Float[Array, " b"]:
    """Large margin cosine loss: softmax of s (cos theta - m) for the image's class.

    Args:
        cosine: of every embedding and every class's vector.
        labels: class of every image.
        margin: m, of the cosine.
        scale: s.
        smoothing: as in `softmax`.

    Returns:
        Losses in nats.

    References:
        Wang et al. (2018), CosFace: large margin cosine loss for deep face recognition, equation 4.
    """
    cosine, labels = jnp.asarray(cosine), jnp.asarray(labels)
    is_class = labels[:, None] == jnp.arange(cosine.shape[1])[None]
    return softmax(scale * jnp.where(is_class, cosine - margin, cosine), labels, smoothing)


def proxy_anchor(
    cosine: Float[ArrayLike, "b c"],
    labels: Int[ArrayLike, " b"],
    margin: float = 0.1,
    scale: float = 32.0,
) -> tuple[Float[Array, " c"], Float[Array, " c"]]:
    """Proxy-anchor loss: every class's vector, the proxy, is an anchor for the images of the batch.

    Args:
        cosine: of every embedding and every proxy.
        labels: class of every image.
        margin: delta.
        scale: alpha.

    Returns:
        By proxy: the term of its positives, 0 for a class without an image in the batch, and that of its
        negatives. The loss is the mean of the first over the classes in the batch plus the mean of the
        second over all classes.

    References:
        Kim et al. (2020), Proxy anchor loss for deep metric learning, equation 4.
    """
    cosine, labels = jnp.asarray(cosine), jnp.asarray(labels)
    is_class = labels[:, None] == jnp.arange(cosine.shape[1])[None]
    positive = _log_one_plus((-scale * (cosine - margin)).T, is_class.T)
    return positive, _log_one_plus((scale * (cosine + margin)).T, ~is_class.T)


def _log_one_plus(x: Array, mask: Array) -> Array:
    """log(1 + sum over the masked columns of exp(x)), by row; 0 where the mask is empty."""
    x = jnp.where(mask, x, _NEVER)
    return jax.nn.logsumexp(jnp.pad(x, ((0, 0), (1, 0))), axis=1)
