"""Why two pictures are alike: which places of one met which of the other, and what each adds.

Only the comparator `local` goes by places. Its score is `scale * s + bias`, s the mean of the best
cosines of all places of both maps, so the score less a threshold is a sum over places:

    score - threshold = sum over places p of both maps of scale / (2 P) (cosine_p - neutral)
    neutral = (threshold - bias) / scale

P places a map. A place with a cosine above `neutral` spoke for "same", one below against.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from siamese_jax.inference.network import Siamese
from siamese_jax.models.comparators import Local


@dataclasses.dataclass(frozen=True, eq=False)
class Explanation:
    """The best moves of the places of two pictures, 1 and 2, each of R x C places.

    Attributes:
        score: logit of "same class", that of the network up to rounding.
        threshold: what the contributions are measured from.
        neutral: the cosine that speaks neither for nor against.
        moves1: (R, C, 2) int, row and column in picture 2 of the place that each place of picture 1
            met.
        cosines1: (R, C) float, the cosines of the two.
        contributions1: (R, C) float, what each place adds to `score - threshold`.
        moves2, cosines2, contributions2: the same of the places of picture 2.
    """

    score: float
    threshold: float
    neutral: float
    moves1: np.ndarray
    cosines1: np.ndarray
    contributions1: np.ndarray
    moves2: np.ndarray
    cosines2: np.ndarray
    contributions2: np.ndarray


def explains(net: Siamese) -> bool:
    """Whether the network compares places, so that `explain` has something to say."""
    return isinstance(net.model.head, Local) and net.model.context is None


def no_places(net: Siamese) -> str:
    """One line that says why a network's scores cannot be explained."""
    return (
        f"{net.name} compares with {type(net.model.head).__name__}, which compares no places: only a "
        "network with model.comparator 'local' can show which places of two pictures matched"
    )


def explain(
    net: Siamese, image1: np.ndarray, image2: np.ndarray, threshold: float = 0.0
) -> Explanation:
    """Explains the score of two pictures.

    Args:
        net: a network with the comparator `local`.
        image1: (H, W, C) or (H, W) uint8, see `Siamese.embed`.
        image2: likewise.
        threshold: score above which the two are called the same.

    Raises:
        ValueError: the network does not compare places.
    """
    if not explains(net):
        raise ValueError(no_places(net))
    h1, h2 = net.embed(np.stack([image1, image2]))
    head = net.model.head
    parameters = net.devices.first(net.variables)["params"]["head"]
    scale, bias = float(parameters["scale"]), float(parameters["bias"])
    rows, columns = head.places
    maps = [h.reshape(rows, columns, -1).astype(np.float64) for h in (h1, h2)]
    (moves1, cosines1), (moves2, cosines2) = (
        best_moves(a, b, head.reach) for a, b in (maps, maps[::-1])
    )
    neutral = (threshold - bias) / scale
    weight = scale / (2 * rows * columns)
    return Explanation(
        score=scale * float(cosines1.mean() + cosines2.mean()) / 2 + bias,
        threshold=threshold,
        neutral=neutral,
        moves1=moves1,
        cosines1=cosines1,
        contributions1=weight * (cosines1 - neutral),
        moves2=moves2,
        cosines2=cosines2,
        contributions2=weight * (cosines2 - neutral),
    )


def best_moves(map1: np.ndarray, map2: np.ndarray, reach: int) -> tuple[np.ndarray, np.ndarray]:
    """For each place of one map the most similar place of another, at most `reach` away.

    Of places that are equally similar the nearest is taken.

    Args:
        map1: (R, C, D) float.
        map2: (R, C, D) float.
        reach: how many rows and columns away a place may lie.

    Returns:
        (R, C, 2) int row and column of that place in `map2`, and (R, C) its cosine.
    """
    unit1, unit2 = (m / np.sqrt((m * m).sum(-1, keepdims=True) + 1e-12) for m in (map1, map2))
    rows, columns = map1.shape[:2]
    down, across = (min(reach, side - 1) for side in (rows, columns))
    offsets = sorted(
        ((d, r) for d in range(-down, down + 1) for r in range(-across, across + 1)),
        key=lambda o: o[0] ** 2 + o[1] ** 2,
    )
    moves = np.zeros((rows, columns, 2), int)
    cosines = np.full((rows, columns), -np.inf)
    grid = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), -1)
    for offset in offsets:
        there = grid + offset
        inside = ((there >= 0) & (there < (rows, columns))).all(-1)
        clipped = np.clip(there, 0, (rows - 1, columns - 1))
        cosine = (unit1 * unit2[clipped[..., 0], clipped[..., 1]]).sum(-1)
        better = inside & (cosine > cosines + 1e-9)
        moves[better], cosines[better] = there[better], cosine[better]
    return moves, cosines
