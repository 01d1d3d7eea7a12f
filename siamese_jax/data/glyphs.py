"""Invented alphabets drawn by invented people: a stand-in for Omniglot that needs no data.

An alphabet has a small stock of strokes; its characters put one to four of them together. A drawer
has a slant, a size, a pen and habits of shape that go through all of an alphabet, and an unsteady
hand on top. Everything follows from a seed, and a smaller set is a part of a larger one: the same
alphabet, character and drawer look the same whatever the counts and, but for its pixels, whatever
the image size.
"""

from __future__ import annotations

import numpy as np

from siamese_jax.data.image_set import ImageSet

_KNOTS = 5  # control points of a stroke
_SEGMENTS = 16  # straight pieces that a stroke is drawn with
_MAX_STROKES = 4
_STROKE_COUNT_PROBABILITIES = (0.08, 0.37, 0.37, 0.18)
_STOCK = 9  # strokes an alphabet is made of
_MIN_DISTANCE = 0.07  # between two characters of an alphabet, in heights of a character
# Turns of the pen, degrees, before each of a stroke's four steps after the first.
_STROKE_KINDS = (
    (0, 0, 0),  # line
    (0, 0, 0),
    (0, 0, 0),
    (35, 35, 35),  # bow
    (35, 35, 35),
    (60, 60, 60),  # bowl
    (60, 60, 60),
    (10, 70, 90),  # hook
    (10, 70, 90),
    (50, -50, -50),  # snake
    (115, -115, 115),  # zigzag
    (90, 90, 90),  # ring
    (90, 90, 90),
    (0, 105, 0),  # corner
    (0, 105, 0),
)


def make_glyphs(
    seed: int = 0,
    *,
    num_alphabets: int = 20,
    characters: tuple[int, int] = (18, 32),
    num_drawers: int = 20,
    image_size: int = 105,
    name: str = "glyphs",
) -> ImageSet:
    """Makes a set of invented alphabets with the structure of Omniglot.

    Args:
        seed: the set follows from it and the other arguments.
        num_alphabets: number of alphabets.
        characters: least and largest number of characters of an alphabet.
        num_drawers: drawers of every character; they are other people in each alphabet.
        image_size: height and width, pixels.
        name: what the set is called.

    Returns:
        A set of kind `ink`, with grey levels at the edges of the ink.

    Raises:
        ValueError: a number below one, fewer than two drawers, an image below 16 pixels, or a
            least number of characters above the largest.
    """
    least, largest = characters
    if num_alphabets < 1 or num_drawers < 2 or not 1 <= least <= largest or image_size < 16:
        raise ValueError(
            f"glyphs need at least 1 alphabet, 1 character, 2 drawers and 16 pixels, got "
            f"num_alphabets={num_alphabets}, characters={characters}, num_drawers={num_drawers}, "
            f"image_size={image_size}"
        )
    parts, counts = [], []
    for alphabet in range(num_alphabets):
        count = int(np.random.default_rng([seed, alphabet, 0]).integers(least, largest + 1))
        shapes = _invent_characters(np.random.default_rng([seed, alphabet, 1]), count)
        people = _Drawers(seed, alphabet, num_drawers)
        drawn = np.empty((count, num_drawers, image_size, image_size), np.uint8)
        for strokes in {len(shape) for shape in shapes}:  # as many strokes: drawn together
            same = [c for c, shape in enumerate(shapes) if len(shape) == strokes]
            lines = np.stack([people.draw(shapes[c], c) for c in same])  # (c, drawers, s, P, 2)
            pens = np.tile(people.pens, len(same))
            images = _render(lines.reshape(-1, *lines.shape[2:]), pens, image_size)
            drawn[same] = images.reshape(len(same), num_drawers, image_size, image_size)
        parts.append(drawn)
        counts.append(count)
    images = np.concatenate(parts)  # (classes, drawers, H, W)
    total = len(images)
    alphabet_names = tuple(f"alphabet{a + 1:02d}" for a in range(num_alphabets))
    return ImageSet(
        images=images.reshape(-1, image_size, image_size, 1),
        classes=np.repeat(np.arange(total, dtype=np.int32), num_drawers),
        drawers=np.tile(np.arange(1, num_drawers + 1, dtype=np.int32), total),
        class_names=tuple(
            f"{alphabet}/character{c + 1:02d}"
            for alphabet, count in zip(alphabet_names, counts, strict=True)
            for c in range(count)
        ),
        class_alphabets=np.repeat(np.arange(num_alphabets, dtype=np.int32), counts),
        alphabet_names=alphabet_names,
        kind="ink",
        name=name,
    )


def _invent_characters(rng: np.random.Generator, count: int) -> list[np.ndarray]:
    """`count` unlike characters of one alphabet, each (strokes, _KNOTS, 2) in a unit box."""
    stock = [_invent_stroke(rng) for _ in range(_STOCK)]
    characters: list[np.ndarray] = []
    outlines: list[np.ndarray] = []
    while len(characters) < count:
        for _ in range(200):  # in a crowded alphabet the last try is taken as it is
            shape = _compose(rng, stock)
            outline = _curve(shape).reshape(-1, 2)
            unlike = all(_distance(outline, other) > _MIN_DISTANCE for other in outlines)
            if unlike and not _is_tangled(shape):
                break
        characters.append(shape)
        outlines.append(outline)
    return characters


def _invent_stroke(rng: np.random.Generator) -> np.ndarray:
    """(_KNOTS, 2) control points of a stroke around the origin, its larger side of length 1."""
    turns = np.array(_STROKE_KINDS[rng.integers(len(_STROKE_KINDS))], float)
    turns = turns * rng.uniform(0.85, 1.15) + rng.normal(0, 5, 3)
    heading = np.deg2rad(np.concatenate([[0], np.cumsum(turns)]) + 45 * rng.integers(8))
    steps = rng.uniform(0.8, 1.2, 4)[:, None] * np.stack([np.cos(heading), np.sin(heading)], 1)
    knots = np.concatenate([np.zeros((1, 2)), np.cumsum(steps, 0)])
    knots -= (knots.min(0) + knots.max(0)) / 2
    return knots / np.ptp(knots, axis=0).max()


def _compose(rng: np.random.Generator, stock: list[np.ndarray]) -> np.ndarray:
    """(strokes, _KNOTS, 2) character in the unit box around the origin."""
    count = 1 + rng.choice(_MAX_STROKES, p=_STROKE_COUNT_PROBABILITIES)
    strokes: list[np.ndarray] = []
    for _ in range(count):
        quarter = rng.integers(4)
        turn = np.array([[0, -1], [1, 0]]) if quarter % 2 else np.eye(2)
        stroke = (-1 if quarter > 1 else 1) * stock[rng.integers(len(stock))] @ turn
        stroke = stroke * rng.choice([0.5, 0.75, 1.0])
        if strokes:  # most strokes start, cross or end on an earlier one
            earlier = strokes[rng.integers(len(strokes))]
            target = earlier[rng.integers(_KNOTS)]
            if rng.random() < 0.25:
                target = target + rng.uniform(-0.45, 0.45, 2)
            stroke = stroke - stroke[rng.choice([0, 2, 4])] + target
        strokes.append(stroke)
    shape = np.stack(strokes)
    points = _curve(shape).reshape(-1, 2)
    low, high = points.min(0), points.max(0)
    return (shape - (low + high) / 2) / max(high - low)


def _is_tangled(shape: np.ndarray) -> bool:
    """Whether a stroke of the character (strokes, _KNOTS, 2) runs along another one."""
    lines = _curve(shape)
    for i, line in enumerate(lines):
        others = np.delete(lines, i, axis=0).reshape(-1, 2)
        if len(others):
            gaps = np.sqrt(((line[:, None] - others[None]) ** 2).sum(-1)).min(1)
            if np.mean(gaps < 0.09) > 0.4:
                return True
    return False


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    """Larger of the two mean distances from the points (n, 2) of one shape to the other."""
    gaps = np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))
    return max(gaps.min(0).mean(), gaps.min(1).mean())


def _curve(knots: np.ndarray) -> np.ndarray:
    """Points (..., _SEGMENTS + 1, 2) on the curve through knots (..., _KNOTS, 2)."""
    return catmull_rom(knots, _SEGMENTS + 1)


def catmull_rom(knots: np.ndarray, count: int) -> np.ndarray:
    """`count` points (..., count, 2) on the Catmull-Rom curve through knots (..., n, 2)."""
    before = 2 * knots[..., :1, :] - knots[..., 1:2, :]
    after = 2 * knots[..., -1:, :] - knots[..., -2:-1, :]
    padded = np.concatenate([before, knots, after], axis=-2)
    last = knots.shape[-2] - 1
    along = np.linspace(0, last, count)
    piece = np.minimum(along.astype(int), last - 1)
    t = (along - piece)[:, None]
    p0, p1, p2, p3 = (padded[..., piece + i, :] for i in range(4))
    return 0.5 * (
        2 * p1
        + (p2 - p0) * t
        + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2
        + (3 * p1 - p0 - 3 * p2 + p3) * t**3
    )


class _Drawers:
    """The people who draw one alphabet."""

    def __init__(self, seed: int, alphabet: int, count: int):
        self._seed = [seed, alphabet, 2]
        styles = [np.random.default_rng([seed, alphabet, 3, d]) for d in range(count)]
        draw = np.stack([np.concatenate([g.uniform(-1, 1, 7), g.normal(size=8)]) for g in styles])
        self.pens = 0.036 + 0.009 * draw[:, 0]  # width in image heights
        self._size = 0.74 + 0.07 * draw[:, 1]  # of a character in image heights
        self._aspect = np.exp(0.13 * draw[:, 2])
        self._slant = 0.22 * draw[:, 3]
        self._turn = np.deg2rad(6 * draw[:, 4])
        self._unsteadiness = 0.037 * (1 + 0.5 * draw[:, 5])
        self._bend = 0.15 * draw[:, 7:13].reshape(count, 3, 2)  # habits of shape: a quadratic warp
        self._place = 0.5 + 0.018 * draw[:, 13:15]

    def draw(self, shape: np.ndarray, character: int) -> np.ndarray:
        """Lines (drawers, strokes, _SEGMENTS + 1, 2) of one character by all, (x, y) in 0 .. 1."""
        count, strokes = len(self.pens), len(shape)
        rng = np.random.default_rng([*self._seed, character])
        noise = rng.normal(size=(count, strokes * (_KNOTS + 2) + 3, 2))
        unsteady = self._unsteadiness[:, None, None]
        knots = np.broadcast_to(shape, (count, *shape.shape))
        knots = knots + unsteady[..., None] * noise[:, : strokes * _KNOTS].reshape(knots.shape)
        shift, scale = np.split(noise[:, strokes * _KNOTS : -3], 2, axis=1)  # of each stroke
        middle = knots.mean(2, keepdims=True)
        stretched = (knots - middle) * (1 + 2.5 * unsteady * scale)[:, :, None]
        knots = middle + stretched + 1.3 * (unsteady * shift)[:, :, None]
        x, y = knots[..., 0], knots[..., 1]
        terms = np.stack([x * x - 0.1, x * y, y * y - 0.1], -1)  # (drawers, strokes, _KNOTS, 3)
        knots = knots + np.einsum("dskt,dtc->dskc", terms, self._bend)
        size = self._size * np.exp(0.06 * noise[:, -1, 0])
        turn = self._turn + np.deg2rad(4) * noise[:, -1, 1]
        place = self._place + 0.02 * noise[:, -2]
        aspect = self._aspect * np.exp(0.05 * noise[:, -3, 0])
        slant = self._slant + 0.05 * noise[:, -3, 1]
        cos, sin = np.cos(turn), np.sin(turn)
        a, d = np.sqrt(aspect), 1 / np.sqrt(aspect)
        matrix = np.stack([[cos * a, cos * slant - sin * d], [sin * a, sin * slant + cos * d]])
        matrix = np.moveaxis(matrix, -1, 0) * size[:, None, None]
        lines = np.einsum("dij,dspj->dspi", matrix, _curve(knots)) + place[:, None, None]
        return _fit(lines, 0.03)


def _fit(lines: np.ndarray, margin: float) -> np.ndarray:
    """Brings drawings (drawers, strokes, P, 2) that leave the paper, 0 .. 1, back onto it."""
    low, high = lines.min((1, 2)), lines.max((1, 2))  # (drawers, 2)
    middle, half = (low + high) / 2, (high - low) / 2
    shrink = np.minimum(1, (0.5 - margin) / half.max(1))[:, None]
    centre = np.clip(middle, margin + shrink * half, 1 - margin - shrink * half)
    return (lines - middle[:, None, None]) * shrink[..., None, None] + centre[:, None, None]


def _render(lines: np.ndarray, pens: np.ndarray, size: int) -> np.ndarray:
    """Draws lines with a round pen, by the distance of each pixel to the nearest segment.

    Args:
        lines: (M, strokes, P, 2) points (x, y) in image heights.
        pens: (M,) width of the pen in image heights; at least 1.2 pixels are drawn.
        size: height and width, pixels.

    Returns:
        (M, size, size) uint8 ink coverage.
    """
    out = np.empty((len(lines), size, size), np.uint8)
    for begin in range(0, len(lines), 256):
        chunk = slice(begin, begin + 256)
        out[chunk] = _render_chunk(lines[chunk], pens[chunk], size)
    return out


def _render_chunk(lines: np.ndarray, pens: np.ndarray, size: int) -> np.ndarray:
    count = len(lines)
    radius = np.maximum(pens * size, 1.2).astype(np.float32) / 2
    reach = float(radius.max()) + 1
    margin = int(np.ceil(reach)) + 1
    points = (lines * size - 0.5 + margin).astype(np.float32)  # pixel centres at whole numbers
    side = size + 2 * margin
    nearest = np.full(count * side * side, reach**2, np.float32)
    first = (np.arange(count) * side * side)[:, None, None]
    starts = points[:, :, :-1].reshape(count, -1, 2)
    ends = points[:, :, 1:].reshape(count, -1, 2)
    for k in range(starts.shape[1]):
        a, b = starts[:, k], ends[:, k]
        low = np.floor(np.minimum(a, b) - reach).astype(int)
        window = int(np.ceil((np.maximum(a, b) + reach - low).max())) + 1
        low = np.clip(low, 0, side - window)
        x = low[:, :1] + np.arange(window)  # (M, window)
        y = low[:, 1:] + np.arange(window)
        cells = first + y[:, :, None] * side + x[:, None, :]  # (M, window, window)
        ux, uy = (b - a)[:, :1], (b - a)[:, 1:]
        px, py = x.astype(np.float32) - a[:, :1], y.astype(np.float32) - a[:, 1:]
        length = np.maximum(ux * ux + uy * uy, np.float32(1e-6))
        t = (px * (ux / length))[:, None, :] + (py * (uy / length))[:, :, None]
        np.clip(t, 0, 1, out=t)
        gap = (px[:, None, :] - t * ux[..., None]) ** 2 + (py[:, :, None] - t * uy[..., None]) ** 2
        nearest[cells] = np.minimum(nearest[cells], gap)
    inside = nearest.reshape(count, side, side)[:, margin:-margin, margin:-margin]
    coverage = np.clip(radius[:, None, None] + 0.5 - np.sqrt(inside), 0, 1)
    return np.rint(coverage * 255).astype(np.uint8)
