"""Made-up signatures, genuine and skilfully forged, as a folder of pictures with a list of pairs.

A person has a name, which is a line of knots that the pen goes through, and a hand: slant, width,
roundness, pressure, steadiness. A genuine signature is the person's name in the person's hand, with
the small changes of every day. A skilled forgery is the name as another person copied it: the knots
are a little off, the hand lies between the two people's, and the pen, which goes slowly, trembles and
presses evenly. So a forgery has the right name, and is told by how it is written.
"""

from __future__ import annotations

import csv
import os
import pathlib
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from siamese_jax.data.glyphs import catmull_rom

HEIGHT, WIDTH = 80, 200  # pixels of a picture
_FINE = 4  # pixels of the working grid a pixel of the picture, along a side
_STEPS = 12  # straight pieces between two knots
_REFERENCES = 3  # genuine signatures that a claim is compared with


class Hand(NamedTuple):
    """How somebody writes.

    Attributes:
        slant: x that is added a unit of height.
        width: of the name, against its height.
        loop: how far the pen goes back in every bow.
        tilt: of the line, radians.
        pen: width of the pen, pixels.
        pressure: how much thinner a quick stroke is, 0 to 1.
        spread: of the everyday changes of a knot, against the height.
    """

    slant: float
    width: float
    loop: float
    tilt: float
    pen: float
    pressure: float
    spread: float


def hand_of(seed: int, person: int) -> Hand:
    """The hand of a person."""
    draw = np.random.default_rng([seed, person, 0]).uniform(-1, 1, 7)
    return Hand(
        slant=0.25 + 0.35 * draw[0],
        width=3.4 + 0.7 * draw[1],
        loop=0.35 + 0.3 * draw[2],
        tilt=0.08 * draw[3],
        pen=2.2 + 0.7 * draw[4],
        pressure=0.35 + 0.3 * draw[5],
        spread=0.035 + 0.015 * draw[6],
    )


def name_of(seed: int, person: int) -> list[np.ndarray]:
    """The strokes of a person's name: knots (n, 2) of (x, y), x from 0 to 1, y up from the line."""
    rng = np.random.default_rng([seed, person, 1])
    count = int(rng.integers(10, 17))
    heights = rng.choice([0.35, 0.45, 0.5, 0.95, 1.0], size=count)
    feet = rng.choice([0.0, 0.0, 0.05, -0.35], size=count)
    heights[0] = 1.1  # a capital
    y = np.empty(2 * count)
    y[0::2], y[1::2] = feet, heights
    x = np.sort(rng.uniform(0, 1, 2 * count)) * 0.6 + np.linspace(0, 1, 2 * count) * 0.4
    knots = np.stack([(x - x[0]) / (x[-1] - x[0]), y], 1)
    cut = int(rng.integers(4, 2 * count - 4))  # the pen is lifted once
    strokes = [knots[:cut], knots[cut - 1 :] if rng.random() < 0.3 else knots[cut:]]
    if rng.random() < 0.6:  # a flourish below
        ends = np.sort(rng.uniform(0, 1, 2))
        bow = rng.uniform(-0.25, 0.25)
        line = np.linspace(0, 1, 4)
        flourish = [ends[0] + (ends[1] - ends[0]) * line, -0.55 + bow * np.sin(np.pi * line)]
        strokes.append(np.stack(flourish, 1))
    return strokes


def draw(seed: int, person: int, number: int, forger: int | None = None) -> np.ndarray:
    """Draws one signature.

    Args:
        seed: of all people.
        person: whose name it is.
        number: of the signature, by this writer of this name.
        forger: who wrote it, if not the person.

    Returns:
        (HEIGHT, WIDTH) uint8, dark ink on white paper.
    """
    writer = person if forger is None else forger
    rng = np.random.default_rng([seed, person, 2, writer, number])
    hand, strokes, tremor = hand_of(seed, person), name_of(seed, person), 0.004
    if forger is not None:
        # The forger's errors, which come back every time.
        copied = np.random.default_rng([seed, person, 3, forger])
        strokes = [knots + copied.normal(0, 0.04, knots.shape) * (0.5, 1) for knots in strokes]
        share = copied.uniform(0.35, 0.65)  # of the forger's own hand
        forger_hand = hand_of(seed, forger)
        hand = Hand(*(share * a + (1 - share) * b for a, b in zip(forger_hand, hand, strict=True)))
        hand = hand._replace(pressure=0.5 * hand.pressure)
        tremor = copied.uniform(0.012, 0.02)
    hand = hand._replace(
        slant=hand.slant + rng.normal(0, 0.04),
        width=hand.width * np.exp(rng.normal(0, 0.03)),
        tilt=hand.tilt + rng.normal(0, 0.015),
        pen=hand.pen * np.exp(rng.normal(0, 0.05)),
    )
    lines = [_line(knots, hand, tremor, rng) for knots in strokes]
    return _render(lines, hand, rng)


def _line(knots: np.ndarray, hand: Hand, tremor: float, rng: np.random.Generator) -> np.ndarray:
    """Points (P, 2) of a stroke in units of the height, y up."""
    knots = knots * (hand.width, 1)
    knots = knots + hand.spread * rng.normal(size=knots.shape)
    points = catmull_rom(knots, _STEPS * (len(knots) - 1) + 1)
    up = np.gradient(points[:, 1])
    points[:, 0] -= hand.loop * 0.5 * np.tanh(up / 0.08) * 0.3  # back on the way up: loops
    points[:, 0] += hand.slant * points[:, 1]
    kernel = np.ones(3) / 3
    shake = rng.normal(size=(len(points) + 2, 2))
    shake = np.stack([np.convolve(shake[:, i], kernel, "valid") for i in (0, 1)], 1)
    return points + tremor * np.sqrt(3) * shake


def _render(lines: list[np.ndarray], hand: Hand, rng: np.random.Generator) -> np.ndarray:
    """Draws lines with a round pen that is thinner where it is quick, in the middle of the paper."""
    cos, sin = np.cos(hand.tilt), np.sin(hand.tilt)
    lines = [line @ np.array([[cos, sin], [-sin, cos]]) * (1, -1) for line in lines]
    points = np.concatenate(lines)
    low, high = points.min(0), points.max(0)
    room = np.array([WIDTH, HEIGHT]) * rng.uniform(0.8, 0.88)
    scale = (room / (high - low)).min()
    place = np.array([WIDTH, HEIGHT]) / 2 + rng.normal(0, 1.5, 2) - scale * (low + high) / 2
    paper = Image.new("L", (WIDTH * _FINE, HEIGHT * _FINE), 255)
    pen = ImageDraw.Draw(paper)
    for line in lines:
        line = (line * scale + place) * _FINE
        speed = np.linalg.norm(np.diff(line, axis=0), axis=1)
        speed = np.minimum(speed / (speed.mean() + 1e-9), 2) / 2
        widths = hand.pen * _FINE * (1 - hand.pressure * speed)
        for a, b, width in zip(line[:-1], line[1:], widths, strict=True):
            pen.line([*a, *b], fill=0, width=max(1, round(width)))
            r = width / 2
            pen.ellipse([b[0] - r, b[1] - r, b[0] + r, b[1] + r], fill=0)
    return np.asarray(paper.reduce(_FINE))


def write(
    folder: str | os.PathLike,
    *,
    seed: int = 0,
    people: tuple[int, int] = (60, 20),
    genuine: int = 12,
    forgers: int = 3,
    forgeries: int = 4,
) -> pathlib.Path:
    """Writes pictures to train on, those of other people to test on, and the list of test pairs.

    The folder gets `train/<person>/<writer>/<number>.png` and `test/...` alike, where the writer is
    `genuine` or `forger<n>`, and `pairs.csv`. Its lines are `questioned,reference,label,claim`: every
    genuine signature of a test person but the first few, and every forgery, is compared with those
    first few. Nobody of the test, forgers included, is in the training part.

    Args:
        folder: that is made.
        seed: all follows from it.
        people: to train on, and to test on.
        genuine: signatures of each person.
        forgers: who forge each person's.
        forgeries: by each forger.

    Returns:
        The file of pairs.

    Raises:
        ValueError: the folder is there and not empty, or numbers that are too small.
    """
    folder = pathlib.Path(folder).expanduser()
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty: choose another folder")
    if min(people) < 2 or genuine <= _REFERENCES or min(forgers, forgeries) < 1:
        raise ValueError(
            f"2 people a part, {_REFERENCES + 1} genuine signatures, 1 forger and 1 forgery are the "
            f"least, got people={people}, genuine={genuine}, forgers={forgers}, forgeries={forgeries}"
        )
    rows, first = [], 0
    for part, count in zip(("train", "test"), people, strict=True):
        for number in range(count):
            person = first + number
            place = folder / part / f"person{number + 1:03d}"
            files = _save(place / "genuine", seed, person, genuine)
            claims = [(file, 1) for file in files[_REFERENCES:]]
            for f in range(forgers):
                # Forgers have no signatures of their own here: their hands are nowhere else.
                forger = 1_000_000 + person * forgers + f
                forged = _save(place / f"forger{f + 1}", seed, person, forgeries, forger)
                claims += [(file, 0) for file in forged]
            if part == "test":
                for questioned, label in claims:
                    claim = f"{place.name} {questioned.parent.name} {questioned.stem}"
                    rows += [(questioned, file, label, claim) for file in files[:_REFERENCES]]
        first += count
    pairs = folder / "pairs.csv"
    with open(pairs, "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["questioned", "reference", "label", "claim"])
        table.writerows(
            [a.relative_to(folder), b.relative_to(folder), *rest] for a, b, *rest in rows
        )
    return pairs


def _save(
    place: pathlib.Path, seed: int, person: int, count: int, forger: int | None = None
) -> list[pathlib.Path]:
    """Draws and writes the signatures of one writer; returns the files."""
    place.mkdir(parents=True)
    files = [place / f"{number + 1:02d}.png" for number in range(count)]
    for number, file in enumerate(files):
        Image.fromarray(draw(seed, person, number, forger)).save(file)
    return files
