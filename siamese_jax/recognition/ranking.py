"""The best references of a large gallery for a picture: all compared, or those that its index finds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import tqdm

from siamese_jax.recognition.records import BLOCK, Records

if TYPE_CHECKING:
    from siamese_jax.inference.comparing import Comparing
    from siamese_jax.recognition import shortlist


_Ranked = tuple[np.ndarray, np.ndarray]  # numbers and scores of references


def ranked(records: Records, net: Comparing, h: np.ndarray, count: int) -> list[_Ranked]:
    """Numbers and scores of the best references of each embedding, best first.

    Args:
        records: of the gallery, which is being read.
        net: its network.
        h: (Q, D) embeddings.
        count: how many.
    """
    facts = records.fact("index")
    nearby = None if facts is None else _nearby(records, net, h, facts)
    if facts is None or nearby is None:
        return _best(net, h, records.blocks(), count)
    following = records.fact("counts")[2]
    starts = range(facts["covers"], following, BLOCK)
    later = (records.between(start, min(start + BLOCK, following)) for start in starts)
    rows = []
    for row, (newer, newer_scores) in enumerate(_best(net, h, later, count)):
        old = nearby[row][nearby[row] < facts["covers"]]
        block = records.embeddings(np.unique(old))
        [(near, scores)] = _best(net, h[row : row + 1], [block], count)
        rows.append(_merged((near, scores), (newer, newer_scores), count))
    return rows


def make_index(
    records: Records, net: Comparing, progress: bool
) -> tuple[dict[str, Any], shortlist.Projection, int]:
    """Makes the index, or takes into it what was enrolled since; see `Store.index`.

    Returns:
        Its facts, its components, and the number of references that were added.
    """
    from siamese_jax.recognition import shortlist

    db, head = records.db, net.head
    if fault := db.index_fault():
        raise ValueError(fault)
    if not shortlist.suits(head):
        raise ValueError(
            f"the comparator {type(head).__name__} has no index: all references are compared"
        )
    old, projection, begin = records.fact("index"), records.projection(), 0
    following = records.fact("counts")[2]
    index = None
    if old is not None and projection is not None:
        index = db.index_to_extend(old)
        begin = old["covers"] if index is not None else 0
    if index is None or projection is None:
        sample = records.sample(shortlist.SAMPLE)
        if not len(sample):
            raise ValueError("the gallery holds no names: `enrol` some first")
        projection = shortlist.Projection.fit(shortlist.features(head, sample))
        index = db.new_index(projection.matrix.shape[1])
    added = 0
    starts = range(begin, following, BLOCK)
    for start in tqdm.tqdm(starts, "index", disable=not progress, leave=False):
        ids, embeddings = records.between(start, min(start + BLOCK, following))
        if len(ids):
            index.add(ids, projection(shortlist.features(head, embeddings)))
            added += len(ids)
    return {**index.save(), "covers": following}, projection, added


def _nearby(
    records: Records, net: Comparing, h: np.ndarray, facts: dict
) -> list[np.ndarray] | None:
    """What the index finds for each embedding; None where it cannot be asked."""
    from siamese_jax.recognition import shortlist

    if not shortlist.suits(net.head) or records.db.index_fault():
        return None
    projection = records.projection()
    if projection is None:
        return None
    projected = projection(shortlist.features(net.head, h))
    return records.db.nearest(facts, projected, shortlist.SIZE)


def _best(
    net: Comparing,
    h: np.ndarray,
    blocks: Iterable[tuple[np.ndarray, np.ndarray]],
    count: int,
) -> list[_Ranked]:
    """The best of given references for each embedding, exactly.

    Args:
        net: whose comparator scores them.
        h: (Q, D) embeddings.
        blocks: numbers and embeddings, at most `BLOCK` at a time; each is filled up to a power of
            two, so that a comparison is compiled for a few sizes only.
        count: how many.
    """
    from siamese_jax.recognition import scoring

    best: list[_Ranked] = [(np.zeros(0, np.int64), np.zeros(0)) for _ in h]
    for ids, embeddings in blocks:
        if not len(ids):
            continue
        size = 1 << (len(ids) - 1).bit_length()
        padded = np.concatenate([embeddings, np.repeat(embeddings[-1:], size - len(ids), 0)])
        scores = scoring.score(net, h, scoring.References(padded))[:, : len(ids)]
        best = [
            _merged(before, (ids, of_query), count)
            for before, of_query in zip(best, scores, strict=True)
        ]
    return best


def _merged(a: _Ranked, b: _Ranked, count: int) -> _Ranked:
    """The best of two rankings; of equal scores the earlier enrolled comes first."""
    ids, scores = (np.concatenate(both) for both in zip(a, b, strict=True))
    order = np.lexsort((ids, -scores))[:count]
    return ids[order], scores[order]
