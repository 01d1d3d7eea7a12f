"""Finds, checks and reads the three zip archives that Omniglot is released as."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import pathlib
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping

import numpy as np
from PIL import Image

from siamese_jax.readers import ZIP_ERRORS, check_file, checked_entries, read_entry

BACKGROUND = "images_background.zip"
EVALUATION = "images_evaluation.zip"
RUNS = "all_runs.zip"
SIZE = 105  # height and width of every picture, pixels
FILES = (BACKGROUND, EVALUATION, RUNS)

_DRAWING = re.compile(r"([^/]+)/([^/]+)/character(\d{1,9})/(\d{1,18})_(\d{1,9})\.png")
_RUN_FILE = re.compile(
    r"(?:all_runs/)?(run\d+/(?:class_labels\.txt|test/item\d+\.png|training/class\d+\.png))"
)
_ANSWER = re.compile(r"run(\d+)/test/item(\d+)\.png\s+run(\d+)/training/class(\d+)\.png")
_ZIP_BYTES, _ENTRY_BYTES = 2**30, 2**20  # Omniglot's pictures have 105 x 105 pixels of one bit
_PNG_ERRORS = (SyntaxError, ValueError, EOFError, OSError, zlib.error, struct.error)


@dataclasses.dataclass(frozen=True)
class Layout:
    """What complete archives hold.

    Attributes:
        background: (alphabets, characters) of `images_background.zip`.
        evaluation: (alphabets, characters) of `images_evaluation.zip`.
        drawers: drawings of every character.
        runs: runs of `all_runs.zip`.
        ways: queries, and supports, of a run.
    """

    background: tuple[int, int]
    evaluation: tuple[int, int]
    drawers: int
    runs: int
    ways: int


OMNIGLOT = Layout((30, 964), (20, 659), drawers=20, runs=20, ways=20)


@dataclasses.dataclass(frozen=True)
class Drawings:
    """One image archive, sorted by alphabet and character.

    Attributes:
        images: (characters, drawers, SIZE, SIZE) uint8, ink 1, paper 0.
        alphabets: name of the alphabet of each character.
        numbers: number of each character in its alphabet, from 1.
    """

    images: np.ndarray
    alphabets: tuple[str, ...]
    numbers: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class RunPictures:
    """The one-shot runs, each picture with its place in the evaluation archive.

    Attributes:
        queries: (runs, ways, SIZE, SIZE) uint8, ink 1, paper 0.
        supports: (runs, ways, SIZE, SIZE) uint8.
        answers: (runs, ways) int32, index of the support of each query's character.
        query_places: (runs, ways, 2) int32 character index and drawer index (both from 0) of each
            query in the evaluation `Drawings`.
        support_places: (runs, ways, 2) int32, the same of each support.
    """

    queries: np.ndarray
    supports: np.ndarray
    answers: np.ndarray
    query_places: np.ndarray
    support_places: np.ndarray


@dataclasses.dataclass(frozen=True)
class Contents:
    """All that the three archives hold, checked."""

    background: Drawings
    evaluation: Drawings
    runs: RunPictures
    fingerprint: str


def find(folder: str | os.PathLike) -> dict[str, pathlib.Path]:
    """The paths of the three archives in a folder, by their names in `FILES`.

    Raises:
        ValueError: no such folder, or an archive is missing in it.
    """
    folder = pathlib.Path(folder).expanduser()
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder of archives; it must hold {', '.join(FILES)}")
    paths = {name: folder / name for name in FILES}
    for path in paths.values():
        if not path.is_file():
            raise ValueError(f"{path}: no such archive; the folder must hold {', '.join(FILES)}")
    return paths


def fingerprint(paths: Mapping[str, pathlib.Path]) -> str:
    """SHA-256 of the names and uncompressed contents of the archives; packing anew leaves it.

    Args:
        paths: the archives by their names in `FILES`.

    Raises:
        ValueError: an archive that cannot be read.
    """
    digest = hashlib.sha256()
    for file in FILES:
        files = {_RUN_FILE.sub(r"\1", name): data for name, data in _members(paths[file])}
        for name in sorted(files):
            digest.update(f"{file}\0{name}\0{len(files[name])}\0".encode())
            digest.update(files[name])
    return digest.hexdigest()


def read(paths: Mapping[str, pathlib.Path], layout: Layout = OMNIGLOT) -> Contents:
    """Reads and checks the three archives.

    Checked are the number of alphabets, characters and drawers, the size and decoding of every
    picture, every run's queries, supports and answers, that each picture of a run is one of the
    evaluation archive's, and that the answers agree with the characters of these pictures.

    Args:
        paths: the archives by their names in `FILES`.
        layout: what they must hold.

    Raises:
        ValueError: an archive that cannot be read or holds anything else, with its name, the file
            in it and the fault.
    """
    background = _read_drawings(paths[BACKGROUND], layout.background, layout)
    evaluation = _read_drawings(paths[EVALUATION], layout.evaluation, layout)
    runs = _read_runs(paths[RUNS], evaluation, layout)
    return Contents(background, evaluation, runs, fingerprint(paths))


def _members(path: pathlib.Path) -> Iterator[tuple[str, bytes]]:
    """Name and uncompressed content of each file of a zip, hidden files left out."""
    try:
        archive = zipfile.ZipFile(check_file(path))
        entries = checked_entries(archive, _ZIP_BYTES)
    except ZIP_ERRORS as error:
        raise ValueError(f"{path}: not a whole zip archive ({error}); fetch it again") from None
    with archive:
        for entry in entries:
            parts = entry.filename.split("/")
            if entry.is_dir() or parts[0] == "__MACOSX" or parts[-1].startswith("."):
                continue
            try:
                yield entry.filename, read_entry(archive, entry, _ENTRY_BYTES)
            except ZIP_ERRORS as error:
                raise ValueError(
                    f"{path}: {entry.filename} is damaged ({error}); fetch the archive again"
                ) from None


def _decode(data: bytes, where: str) -> np.ndarray:
    """(SIZE, SIZE) uint8 picture with ink 1, paper 0, from the bytes of a black and white PNG."""
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
            width, height = picture.size
            grey = np.asarray(picture if picture.mode == "1" else picture.convert("L"))
    except (*_PNG_ERRORS, Image.DecompressionBombError):
        raise ValueError(f"{where} is not a readable PNG picture") from None
    if (width, height) != (SIZE, SIZE):
        raise ValueError(f"{where} is {width} x {height} pixels, expected {SIZE} x {SIZE}")
    if grey.dtype == bool:
        ink = ~grey
    else:
        ink = grey == 0
        if not np.all(ink | (grey == 255)):
            raise ValueError(f"{where} has grey pixels, expected black on white")
    if not ink.any():
        raise ValueError(f"{where} has no ink")
    return ink.astype(np.uint8)


def _read_drawings(path: pathlib.Path, expected: tuple[int, int], layout: Layout) -> Drawings:
    """Reads and checks an image archive that holds `expected` (alphabets, characters)."""
    found: dict[tuple[str, int], dict[int, bytes]] = {}
    names: dict[tuple[str, int], str] = {}
    for name, data in _members(path):
        match = _DRAWING.fullmatch(name)
        if match is None:
            raise ValueError(
                f"{path}: unexpected file {name}; files are "
                "<archive>/<alphabet>/character<number>/<id>_<drawer>.png"
            )
        key = (match[2], int(match[3]))
        prefix = name[: match.start(5)]
        if names.setdefault(key, prefix) != prefix:
            raise ValueError(f"{path}: {name} and {names[key]}* name one character in two ways")
        found.setdefault(key, {})[int(match[5])] = data
    alphabets, characters = expected
    for alphabet in sorted({alphabet for alphabet, _ in found}):
        numbers = {number for name, number in found if name == alphabet}
        gap = next(number for number in range(1, len(numbers) + 2) if number not in numbers)
        if gap <= len(numbers):
            raise ValueError(f"{path}: {alphabet}/character{gap:02d} is missing")
    held = (len({alphabet for alphabet, _ in found}), len(found))
    if held != expected:
        raise ValueError(
            f"{path}: holds {held[1]} characters of {held[0]} alphabets, "
            f"expected {characters} of {alphabets}"
        )
    keys = sorted(found)
    images = np.empty((characters, layout.drawers, SIZE, SIZE), np.uint8)
    for index, key in enumerate(keys):
        drawings = found[key]
        for drawer in range(1, layout.drawers + 1):
            name = f"{names[key]}{drawer:02d}.png"
            if drawer not in drawings:
                raise ValueError(f"{path}: {name} is missing (drawer {drawer} of {layout.drawers})")
            images[index, drawer - 1] = _decode(drawings[drawer], f"{path}: {name}")
        extra = set(drawings) - set(range(1, layout.drawers + 1))
        if extra:
            name = f"{names[key]}{min(extra):02d}.png"
            raise ValueError(f"{path}: {name} is one too many; drawers are 1-{layout.drawers}")
    return Drawings(images, tuple(key[0] for key in keys), tuple(key[1] for key in keys))


def _read_runs(path: pathlib.Path, evaluation: Drawings, layout: Layout) -> RunPictures:
    """Reads and checks the archive of the runs; each picture must be one of `evaluation`."""
    files: dict[str, bytes] = {}
    for name, data in _members(path):
        match = _RUN_FILE.fullmatch(name)
        if match is None:
            raise ValueError(
                f"{path}: unexpected file {name}; files are run<NN>/class_labels.txt, "
                "run<NN>/test/item<NN>.png and run<NN>/training/class<NN>.png"
            )
        files[match[1]] = data
    wanted = set()
    for run in range(1, layout.runs + 1):
        wanted.add(f"run{run:02d}/class_labels.txt")
        for k in range(1, layout.ways + 1):
            wanted.add(f"run{run:02d}/test/item{k:02d}.png")
            wanted.add(f"run{run:02d}/training/class{k:02d}.png")
    if wanted - set(files):
        raise ValueError(f"{path}: {min(wanted - set(files))} is missing")
    if set(files) - wanted:
        raise ValueError(
            f"{path}: {min(set(files) - wanted)} is one too many; "
            f"there are {layout.runs} runs of {layout.ways} queries and {layout.ways} supports"
        )

    places: dict[bytes, tuple[int, int]] = {}
    for character, drawings in enumerate(evaluation.images):
        for drawer, image in enumerate(drawings):
            places[image.tobytes()] = (character, drawer)

    shape = (layout.runs, layout.ways)
    pictures = {}
    spots = {}
    for role, pattern in (("query", "test/item"), ("support", "training/class")):
        pictures[role] = np.empty((*shape, SIZE, SIZE), np.uint8)
        spots[role] = np.empty((*shape, 2), np.int32)
        for run, k in np.ndindex(shape):
            name = f"run{run + 1:02d}/{pattern}{k + 1:02d}.png"
            image = _decode(files[name], f"{path}: {name}")
            if image.tobytes() not in places:
                raise ValueError(f"{path}: {name} is no picture of {EVALUATION}")
            pictures[role][run, k] = image
            spots[role][run, k] = places[image.tobytes()]

    answers = np.empty(shape, np.int32)
    for run in range(layout.runs):
        name = f"run{run + 1:02d}/class_labels.txt"
        answers[run] = _read_answers(files[name], run + 1, layout.ways, f"{path}: {name}")
        answered = spots["support"][run, answers[run], 0]
        wrong = np.flatnonzero(answered != spots["query"][run, :, 0])
        if len(wrong):
            k = wrong[0]
            raise ValueError(
                f"{path}: {name} answers item{k + 1:02d} with class{answers[run, k] + 1:02d}, "
                "whose picture is another character"
            )
    return RunPictures(
        pictures["query"], pictures["support"], answers, spots["query"], spots["support"]
    )


def _read_answers(data: bytes, run: int, ways: int, where: str) -> np.ndarray:
    """(ways,) int32 index (from 0) of the support that answers each query of a run."""
    try:
        lines = [line.strip() for line in data.decode("ascii").splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise ValueError(f"{where} is no plain text") from None
    if len(lines) != ways:
        raise ValueError(f"{where} has {len(lines)} answers, expected {ways}")
    answers = {}
    for line in lines:
        match = _ANSWER.fullmatch(line)
        if match is None:
            raise ValueError(
                f"{where}: the line {line[:80]!r} is not "
                f"'run{run:02d}/test/item<NN>.png run{run:02d}/training/class<NN>.png'"
            )
        if {int(match[1]), int(match[3])} != {run}:
            raise ValueError(f"{where}: the line {line!r} is of another run")
        answers[int(match[2])] = int(match[4])
    everything = set(range(1, ways + 1))
    if set(answers) != everything or set(answers.values()) != everything:
        raise ValueError(f"{where} must answer each item once and use each class once")
    return np.array([answers[k] - 1 for k in sorted(answers)], np.int32)
