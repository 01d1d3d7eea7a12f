"""A small set whose pixels tell what an image is, and systems whose figures are known by hand."""

import numpy as np

from siamese_jax.data.image_set import ImageSet
from siamese_jax.evaluation import scoring
from siamese_jax.evaluation import trials as trial_lists

SIZES = (6, 5, 9)  # characters of each alphabet
DRAWERS = 4


def make_set(sizes=SIZES, counts=None, kind="ink"):
    """A set whose first pixels hold class, drawer and row, so that a system can know the truth."""
    num_classes = sum(sizes)
    counts = np.full(num_classes, DRAWERS) if counts is None else np.asarray(counts)
    classes = np.repeat(np.arange(num_classes), counts).astype(np.int32)
    drawers = np.concatenate([np.arange(1, n + 1) for n in counts]).astype(np.int32)
    images = np.zeros((len(classes), 4, 5, 1), np.uint8)
    rows = np.arange(len(classes))
    images[:, 0, :4, 0] = np.stack([classes, drawers, rows % 256, rows // 256], 1)
    return ImageSet(
        images=images,
        classes=classes,
        drawers=drawers,
        class_names=tuple(f"c{i:02d}" for i in range(num_classes)),
        class_alphabets=np.repeat(np.arange(len(sizes)), sizes).astype(np.int32),
        alphabet_names=tuple(f"alphabet{i}" for i in range(len(sizes))),
        kind=kind,
        name="small",
    )


def class_of(images):
    return images[:, 0, 0, 0].astype(float)


def perfect(queries, supports):
    return -np.abs(class_of(queries)[:, None] - class_of(supports))


def constant(queries, supports):
    return np.full((len(queries), len(supports)), 0.3)


def nan(queries, supports):
    return np.full((len(queries), len(supports)), np.nan)


def project(images):
    """A fixed linear embedding, (B, 3)."""
    weights = np.random.default_rng(0).normal(size=(20, 3))
    return images.reshape(len(images), -1) @ weights


EMBEDDER = scoring.from_embedder(project, lambda hq, hs: hq @ hs.T)


def distance(hq, hs):
    return -np.square(hq[:, None] - hs).sum(-1)


def contextual(calls):
    """Scores that depend on the whole support set, and on the side; records the shapes."""

    def score_classes(queries, supports):
        calls.append((queries.shape, supports.shape))
        middle = supports.mean((1, 2))[:, None]  # (R, 1, D)
        apart = (queries + 0.1 * middle)[:, :, None] - supports.mean(2)[:, None]
        return -np.square(apart).sum(-1)

    def score_matrix(hq, hs):
        raise AssertionError("the support set is to be seen as a whole")

    return scoring.from_embedder(project, score_matrix, score_classes)


def pairs_of(small, seed):
    """120 pairs of a set."""
    return trial_lists.verification_pairs(small, num_pairs=120, seed=seed, negatives="any")
