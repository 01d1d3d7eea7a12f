"""From a system and rows of images to scores: of pairs, and of whole classes with K supports.

A system is either

- an embedder, `from_embedder(embed, score_matrix)`: every image is embedded once, and embeddings
  are compared, in blocks of few shapes since each is compiled by itself; or
- any callable `score(queries, supports)`: (Q, H, W, C) and (S, H, W, C) images -> (Q, S), called
  with the queries and all supports of one run, so it may look at the whole support set.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from tqdm import tqdm

from siamese_jax.data.image_set import StreamedImages
from siamese_jax.evaluation import finetune
from siamese_jax.evaluation.lists import TrialList

# How the K supports of a class give its score.
SHOT_AGGREGATIONS = {
    "mean": "the mean of the K scores",
    "max": "the highest of the K scores",
    "sum": (
        "the log of the summed exponentials of the K scores: where scores are logits, the share of "
        "the attention that matching networks give to the class, as a logit"
    ),
    "prototype": (
        "the score of the query against the mean embedding of the K supports, as in prototypical "
        "networks; embedders only"
    ),
    "finetune": (
        f"the logit of a cosine classifier on the embeddings, fitted to the run's supports in "
        f"{finetune.STEPS} steps (see `finetune`); embedders only"
    ),
}
DEFAULT_AGGREGATION = "mean"
EMBEDDING_AGGREGATIONS = ("prototype", "finetune")

# Every shape of a call is compiled by itself, so runs of many sizes share a few.
_ONE_QUERY = (4, 64)  # queries and supports a call where each run has one query
_FEW_QUERIES = (20, 40)  # the same where it has some
_MIXED = 1024  # scores a call where several other runs are compared in one table
_PAIRS = 1024  # pairs a call of `score_pairs`
_TILE = 20  # queries, and supports, a call where a run has at least so many of both
_LARGE_TILE = 128  # the same where the run is large
_OF_CLASSES = 8192  # scores of supports a call of `score_classes`
_IMAGE_TILE = (256, 1024)  # queries and supports a call of a callable where there are more
_AGAIN = 16  # images that a callable is asked for again
BATCH_DEPENDENT = 0.02  # above it a system is called dependent; bfloat16 rounds to 0.004
_BOTH_WAYS = 1024  # scores that are computed both ways round for the asymmetry

Compare = Callable[[Any, Any], Any]  # arrays of NumPy or JAX, of queries and of supports, to scores


@dataclasses.dataclass(frozen=True)
class Embedder:
    """A system that compares embeddings; make it with `from_embedder`."""

    embed: Callable[[np.ndarray], np.ndarray]
    score_matrix: Compare
    score_classes: Compare | None = None
    score_pairs: Compare | None = None


System = Embedder | Compare


def from_embedder(
    embed: Callable[[np.ndarray], np.ndarray],
    score_matrix: Compare,
    score_classes: Compare | None = None,
    score_pairs: Compare | None = None,
) -> Embedder:
    """Makes a system of an encoder and a comparison of its embeddings.

    Args:
        embed: (B, H, W, C) images -> (B, D). It is called with batches of one
            size for a list of trials, and with fewer images to see whether its answers depend on the
            batch.
        score_matrix: (Q, D), (S, D) -> (Q, S), higher = more alike. The score of two embeddings
            must not depend on the others, since runs are scored together.
        score_classes: for a system whose scores depend on the whole support set: (R, Q, D),
            (R, N, K, D) -> (R, Q, N), each run and each query by itself. Where it is given it makes
            all scores: it decides how K supports give the score of a class, and the pairs of
            verification and retrieval are runs of N = K = 1.
        score_pairs: (B, D), (B, D) -> (B,), for runs of one query and one support; None to take
            them out of a table of `score_matrix`.
    """
    return Embedder(embed, score_matrix, score_classes, score_pairs)


class Scorer:
    """A system with the images of a list of trials.

    Args:
        system: `from_embedder(...)`, or a callable.
        trials: the list.
        rows: all rows of its images that will be scored.
        batch_size: images an embedding pass.
        cache: embeddings by the images' fingerprint, filled and used.
        progress: show progress bars.

    Raises:
        ValueError: the system is neither of the two, or embeds to another shape.
    """

    def __init__(
        self,
        system: System,
        trials: TrialList,
        rows: np.ndarray,
        *,
        batch_size: int = 128,
        cache: dict | None = None,
        progress: bool = False,
    ) -> None:
        if not isinstance(system, Embedder) and not callable(system):
            raise ValueError(
                "a system is from_embedder(...) or a callable score(queries, supports), not "
                f"{system!r}"
            )
        self._system, self._images = system, trials.images
        self._label, self._progress = f"{trials.name} {trials.hash}", progress
        self._table: np.ndarray | None = None
        self._context: Compare | None = None
        if isinstance(system, Embedder):
            embedded = {} if cache is None else cache.setdefault(trials.fingerprint, {})
            self._table = _embed_rows(
                system.embed,
                trials.images,
                np.unique(rows),
                batch_size,
                embedded,
                self._label,
                progress,
            )
            self._context = system.score_classes

    def _embedded(self) -> tuple[Embedder, np.ndarray]:
        """The embedder and its table of embeddings."""
        assert isinstance(self._system, Embedder) and self._table is not None
        return self._system, self._table

    def pairs(self, queries: np.ndarray, supports: np.ndarray) -> np.ndarray:
        """Scores of each run's queries against each of its supports by itself.

        Args:
            queries: (R, Q) rows.
            supports: (R, S) rows.

        Returns:
            (R, Q, S) float64.
        """
        if self._table is None:
            return self._score_images(queries, supports)
        if self._context is not None:
            # Every support is a run of N = K = 1 with its run's queries.
            num_runs, num_s = supports.shape
            scores = self._score_classes(
                lambda x: x, self._context, np.repeat(queries, num_s, 0), supports.reshape(-1, 1, 1)
            )  # (R * S, Q, 1)
            return scores[..., 0].reshape(num_runs, num_s, -1).swapaxes(1, 2)
        return self._score_embeddings(queries, supports)

    def classes(
        self,
        queries: np.ndarray,
        supports: np.ndarray,
        shot_aggregation: str = DEFAULT_AGGREGATION,
    ) -> tuple[np.ndarray, int]:
        """Scores of each run's queries for each of its classes.

        Args:
            queries: (R, Q) rows.
            supports: (R, N, K) rows.
            shot_aggregation: one of `SHOT_AGGREGATIONS`; of no effect with `score_classes`.

        Returns:
            (R, Q, N) float64, and how many of the system's own scores are not finite.

        Raises:
            ValueError: an unknown aggregation, or one of embeddings for a plain callable.
        """
        check_shot_aggregation(shot_aggregation, self._table is not None)
        num_runs, n_way, k_shot = supports.shape
        # The order of a list tells its answers (pairs alternate), so its runs are asked in another.
        order = shuffled(num_runs)
        back = np.argsort(order)
        queries, supports = queries[order], supports[order]
        if self._context is not None:
            raw = scores = self._score_classes(lambda x: x, self._context, queries, supports)
        elif shot_aggregation == "prototype":
            raw = scores = self._score_embeddings(queries, supports)
        elif shot_aggregation == "finetune":
            raw = scores = self._score_classes(
                finetune.finetune, finetune.cosine_logits, queries, supports
            )
        else:
            raw = self.pairs(queries, supports.reshape(num_runs, -1))
            shots = raw.reshape(*queries.shape, n_way, k_shot)
            with np.errstate(invalid="ignore"):  # infinities of both signs: NaN, as it should be
                scores = _AGGREGATE[shot_aggregation](shots)
        return scores[back], int((~np.isfinite(raw)).sum())

    def matrix(self, queries: np.ndarray, supports: np.ndarray) -> np.ndarray:
        """(Q,) and (S,) rows -> (Q, S) float64 scores of single images, however many there are."""
        q, s = shuffled(len(queries)), shuffled(len(supports))
        scores = np.empty((len(q), len(s)))
        scores[np.ix_(q, s)] = self._matrix(queries[q], supports[s])
        return scores

    def _matrix(self, queries: np.ndarray, supports: np.ndarray) -> np.ndarray:
        if self._table is not None:
            return self.pairs(queries[None], supports[None])[0]
        step = _IMAGE_TILE[1]
        parts = [supports[None, i : i + step] for i in range(0, len(supports), step)]
        return np.concatenate([self._score_images(queries[None], part)[0] for part in parts], 1)

    def asymmetry(
        self, queries: np.ndarray, supports: np.ndarray, shot_aggregation: str
    ) -> float | None:
        """The largest |score(a, b) - score(b, a)| over about a thousand scores of the first runs.

        Args:
            queries: (R, Q) rows.
            supports: (R, N, K) rows.
            shot_aggregation: one of `SHOT_AGGREGATIONS`. Scores are of pairs of images, also with
                `prototype`.

        Returns:
            None where no score is finite, and where the question has no meaning: with `finetune`
            and with `score_classes` a query meets a support set, not an image. Pairs, which are
            runs of N = K = 1, can be turned round in any case.
        """
        flat = supports.reshape(len(supports), -1)
        pairs = queries.shape[1] == flat.shape[1] == 1
        if not pairs and (self._context is not None or shot_aggregation == "finetune"):
            return None
        limit = _FEW_QUERIES[0]  # so that both ways have one of the few shapes
        queries, flat = queries[:, :limit], flat[:, :limit]
        runs = slice(0, -(-_BOTH_WAYS // (queries.shape[1] * flat.shape[1])))
        there = self.pairs(queries[runs], flat[runs])
        back = self.pairs(flat[runs], queries[runs]).swapaxes(1, 2)
        finite = np.isfinite(there) & np.isfinite(back)
        return float(np.abs(there[finite] - back[finite]).max()) if finite.any() else None

    def _score_embeddings(self, queries: np.ndarray, supports: np.ndarray) -> np.ndarray:
        """(R, Q, S) scores of (R, Q) rows and (R, S) rows, or the mean embeddings of (R, S, K)."""
        embedder, table = self._embedded()
        num_q, num_s = queries.shape[1], supports.shape[1]
        if num_q == num_s == 1 and embedder.score_pairs is not None:
            return _in_pairs(embedder.score_pairs, table, queries, supports)
        block = max(1, math.isqrt(_MIXED // (num_q * num_s)))
        large = num_q * num_s > _LARGE_TILE**2
        if large or (block == 1 and min(num_q, num_s) >= _TILE):
            size = _LARGE_TILE if large else _TILE
            return _in_tiles(embedder.score_matrix, table, queries, supports, size)
        shape = _ONE_QUERY if num_q == 1 else _FEW_QUERIES
        if num_q * num_s > 1 and num_q <= shape[0] and num_s <= shape[1]:
            block = min(shape[0] // num_q, shape[1] // num_s)
        else:
            shape = block * num_q, block * num_s
        return _in_blocks(embedder.score_matrix, table, queries, supports, block, shape)

    def _score_classes(
        self, fit: Callable, score: Compare, queries: np.ndarray, supports: np.ndarray
    ) -> np.ndarray:
        """(R, Q, N) scores in blocks of one shape: score(queries, fit(supports)) of embeddings."""
        _, table = self._embedded()
        (num_runs, num_q), (n_way, k_shot) = queries.shape, supports.shape[1:]
        part = min(num_q, max(1, _OF_CLASSES // (n_way * k_shot)))
        block = min(num_runs, max(1, _OF_CLASSES // (part * n_way * k_shot)))
        out = np.empty((num_runs, num_q, n_way))
        starts = range(0, num_runs, block)
        hidden = not self._progress or len(starts) < 2
        for start in tqdm(starts, self._label, disable=hidden, unit="block"):
            runs = np.minimum(np.arange(start, start + block), num_runs - 1)
            fitted = fit(table[supports[runs]])
            for columns in _parts(num_q, part):
                scores = score(table[queries[runs][:, columns]], fitted)
                out[runs[:, None], columns] = _checked(scores, (block, part, n_way))
        return out

    def _score_images(self, queries: np.ndarray, supports: np.ndarray) -> np.ndarray:
        """(R, Q, S) scores by one call a run, or several where there are many queries."""
        score, images, most = self._system, self._images, _IMAGE_TILE[0]
        assert not isinstance(score, Embedder)
        out = np.empty((*queries.shape, supports.shape[1]))
        hidden = not self._progress or len(queries) < 2
        for r in tqdm(range(len(queries)), self._label, disable=hidden, unit="run"):
            run_supports = images[supports[r]]
            for start in range(0, queries.shape[1], most):
                part = out[r, start : start + most]
                run_queries = images[queries[r, start : start + most]]
                part[:] = _checked(score(run_queries, run_supports), part.shape)
        return out


def shot_aggregation_of(eval_fields: Mapping, given: str | None = None) -> str:
    """The shot aggregation to use: the given one, or the config's, or `DEFAULT_AGGREGATION`.

    Args:
        eval_fields: section `eval` of a config, or any mapping that may have `shot_aggregation`.
        given: takes precedence unless None.
    """
    return given or eval_fields.get("shot_aggregation") or DEFAULT_AGGREGATION


def check_shot_aggregation(shot_aggregation: str, has_embeddings: bool) -> None:
    """Refuses an unknown aggregation, and one of embeddings for a system that has none.

    Raises:
        ValueError: as said.
    """
    if shot_aggregation not in SHOT_AGGREGATIONS:
        raise ValueError(
            f"shot_aggregation must be one of {', '.join(SHOT_AGGREGATIONS)}, "
            f"got {shot_aggregation!r}"
        )
    if shot_aggregation in EMBEDDING_AGGREGATIONS and not has_embeddings:
        others = ", ".join(name for name in SHOT_AGGREGATIONS if name not in EMBEDDING_AGGREGATIONS)
        raise ValueError(
            f"shot_aggregation {shot_aggregation!r} needs embeddings, and this system gives scores "
            f"only: use {others}, or make a system with from_embedder"
        )


def effective_aggregation(system: System, shot_aggregation: str, k_shot: int) -> str | None:
    """The shot aggregation where it made a difference, else None.

    Of one support a class all but `finetune` are the same, and a system with `score_classes` uses
    none of them.
    """
    sees_classes = isinstance(system, Embedder) and system.score_classes is not None
    differs = k_shot > 1 or shot_aggregation == "finetune"
    return shot_aggregation if differs and not sees_classes else None


_AGGREGATE: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mean": lambda shots: shots.mean(-1),
    "max": lambda shots: shots.max(-1),
    "sum": lambda shots: np.logaddexp.reduce(shots, -1),
}


def _embeddings(table: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(r * S, D) embeddings of (r, S) rows, or the mean ones of (r, S, K)."""
    h = table[rows]
    return (h.mean(2) if rows.ndim == 3 else h).reshape(-1, h.shape[-1])


def _in_pairs(
    score_pairs: Compare, table: np.ndarray, queries: np.ndarray, supports: np.ndarray
) -> np.ndarray:
    """(R, 1, 1) scores of runs of one query and one support, compared pair by pair."""
    out = np.empty((len(queries), 1, 1))
    for start in range(0, len(queries), _PAIRS):
        part = slice(start, start + _PAIRS)
        scores = score_pairs(table[queries[part, 0]], _embeddings(table, supports[part]))
        out[part, 0, 0] = _checked(scores, (len(queries[part]),))
    return out


def _in_tiles(
    score_matrix: Compare, table: np.ndarray, queries: np.ndarray, supports: np.ndarray, size: int
) -> np.ndarray:
    """(R, Q, S) scores of large runs, each compared in tiles of `size` x `size`."""
    (num_runs, num_q), num_s = queries.shape, supports.shape[1]
    out = np.empty((num_runs, num_q, num_s))
    for r in range(num_runs):
        hq, hs = table[queries[r]], _embeddings(table, supports[r : r + 1])
        for rows in _parts(num_q, size):
            for columns in _parts(num_s, size):
                tile = _checked(score_matrix(hq[rows], hs[columns]), (len(rows), len(columns)))
                out[r, rows[:, None], columns] = tile  # a repeated one is written again
    return out


def _in_blocks(
    score_matrix: Compare,
    table: np.ndarray,
    queries: np.ndarray,
    supports: np.ndarray,
    block: int,
    shape: tuple[int, int],
) -> np.ndarray:
    """(R, Q, S) scores of small runs, `block` at a time in a call of (queries, supports) `shape`.

    All queries of a block meet all its supports, and each run's own part is kept.
    """
    (num_runs, num_q), num_s = queries.shape, supports.shape[1]
    out = np.empty((num_runs, num_q, num_s))
    for start in range(0, num_runs, block):
        runs = np.minimum(np.arange(start, start + block), num_runs - 1)  # one shape for all
        hq, hs = table[queries[runs].ravel()], _embeddings(table, supports[runs])
        hq, hs = (
            np.concatenate([h, np.repeat(h[-1:], size - len(h), 0)])
            for h, size in zip((hq, hs), shape, strict=True)
        )
        matrix = _checked(score_matrix(hq, hs), shape)
        matrix = matrix[: block * num_q, : block * num_s].reshape(block, num_q, block, num_s)
        kept = np.arange(min(block, num_runs - start))
        out[start : start + block] = matrix[kept, :, kept]
    return out


def _embed_rows(
    embed: Callable[[np.ndarray], np.ndarray],
    images: np.ndarray | StreamedImages,
    rows: np.ndarray,
    batch_size: int,
    cache: dict,
    label: str,
    progress: bool,
) -> np.ndarray:
    """(M, D) embeddings of which at least those of `rows` are filled in; `cache` keeps them.

    The last batch is filled up with its last image, so that a compiled `embed` sees one shape.
    """
    done = cache.setdefault("done", np.zeros(len(images), bool))
    rows = rows[~done[rows]]
    rows = rows[shuffled(len(rows))]  # images lie in the order of their classes
    batch_size = min(batch_size, len(images))
    starts = range(0, len(rows), batch_size)
    for start in tqdm(starts, f"{label}: embedding", disable=not progress, unit="batch"):
        part = rows[start : start + batch_size]
        filled = np.append(part, np.full(batch_size - len(part), part[-1]))
        embedded = np.asarray(embed(images[filled]))
        if embedded.ndim != 2 or len(embedded) != batch_size:
            raise ValueError(
                f"embed must return ({batch_size}, D) for {batch_size} images, got {embedded.shape}"
            )
        if "table" not in cache:
            cache["table"] = np.empty((len(images), embedded.shape[1]), embedded.dtype)
        cache["table"][part] = embedded[: len(part)]
        done[part] = True
    return cache["table"]


def batch_dependence(
    system: System, images: np.ndarray | StreamedImages, batch_size: int = 128
) -> float | None:
    """How far the answers for an image depend on what else is in its batch.

    A share of the images is asked again in another order, number and company: of an embedder their
    embeddings, of a callable their scores.

    Args:
        system: `from_embedder(...)`, or a callable.
        images: (M, H, W, C).
        batch_size: images an embedding pass.

    Returns:
        The largest difference of two answers for one image, in units of the largest answer. None for
        a callable that says by an attribute `joint` that it answers for a whole batch, or by `drawn`
        that its answers are chance.
    """
    if isinstance(system, Embedder):
        rows = shuffled(len(images))[: min(batch_size, len(images))]
        other = rows[::-1][: -(-len(rows) // 4)]
        company = np.full(max(0, len(rows) - len(other) - 1), other[0])  # all of one image
        first = dict(zip(rows.tolist(), np.asarray(system.embed(images[rows])), strict=True))
        again = np.asarray(system.embed(images[np.append(other, company)]))[: len(other)]
        before = np.stack([first[row] for row in other.tolist()])
    elif is_joint(system) or getattr(system, "drawn", False):
        return None
    else:
        rows = shuffled(len(images))[:_AGAIN]
        queries, supports = rows[: len(rows) // 2], rows[len(rows) // 2 :]
        before = np.asarray(system(images[queries], images[supports]))[::-1, ::-1][1:, 1:]
        again = np.asarray(system(images[queries[::-1][1:]], images[supports[::-1][1:]]))
    before, again = before.astype(np.float64), again.astype(np.float64)
    finite = np.isfinite(before) & np.isfinite(again)
    if not finite.any():
        return None
    scale = max(np.abs(before[finite]).max(), np.finfo(np.float32).tiny)
    return float(np.abs(before[finite] - again[finite]).max() / scale)


def is_joint(system: Embedder | Callable) -> bool:
    """Whether a system says by its attribute `joint` that it answers for a whole batch at once."""
    return bool(getattr(system, "joint", False))


def shuffled(count: int) -> np.ndarray:
    """The numbers from 0 to `count` - 1 in an order that says nothing, always the same."""
    return np.random.default_rng(count).permutation(count)


def _parts(count: int, size: int) -> Iterator[np.ndarray]:
    """Positions 0 .. count - 1 in parts of one size; the last part repeats the last position."""
    size = min(size, count)
    for start in range(0, count, size):
        yield np.minimum(np.arange(start, start + size), count - 1)


def _checked(scores: Any, shape: tuple[int, ...]) -> np.ndarray:
    scores = np.asarray(scores, np.float64)
    if scores.shape != shape:
        raise ValueError(
            f"a system must return a score of every query and support, {shape}, got {scores.shape}"
        )
    return scores
