"""Finds, checks and reads the three zip archives that Omniglot is released as."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import itertools
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

# `fingerprint` of the released archives, however they are packed: their pictures need no check
RELEASED = "34178ec45446fd8442aba79810adebac314cf5858b4f564b298555e3f53af764"

_DRAWING = re.compile(r"[^/]+/([^/]+)/character(\d{1,9})/\d{1,18}_(\d{1,9})\.png")
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
    """All that the three archives hold.

    Attributes:
        background: the drawings of the background archive.
        evaluation: those of the evaluation archive.
        runs: the one-shot runs.
        fingerprint: of the function `fingerprint`.
        checksum: of the function `checksum`.
    """

    background: Drawings
    evaluation: Drawings
    runs: RunPictures
    fingerprint: str
    checksum: str


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
    return _digest({name: _unpack(paths[name]) for name in FILES})


def checksum(paths: Mapping[str, pathlib.Path]) -> str:
    """SHA-256 of the archives as they are packed: equal ones have equal fingerprints, and it is quick.

    Args:
        paths: the archives by their names in `FILES`.

    Raises:
        ValueError: an archive that cannot be read.
    """
    digest = hashlib.sha256()
    for name in FILES:
        try:
            with open(check_file(paths[name]), "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise ValueError(f"{paths[name]} cannot be read ({error.strerror})") from None
    return digest.hexdigest()


def read(paths: Mapping[str, pathlib.Path], layout: Layout = OMNIGLOT) -> Contents:
    """Reads the three archives.

    The numbers of alphabets, characters, drawers and runs must fit the layout. Each picture of a
    run must be one of the evaluation archive's, and the answers must agree with the characters of
    these pictures. Unless the archives are the released ones, each picture must also be black on
    white and have some ink.

    Args:
        paths: the archives by their names in `FILES`.
        layout: what they must hold.

    Raises:
        ValueError: an archive that cannot be read or holds anything else, with its name, the file
            in it and the fault.
    """
    files = {name: _unpack(paths[name]) for name in FILES}
    digest = _digest(files)
    archives = {name: _Archive(paths[name], files[name], digest == RELEASED) for name in FILES}
    background = _read_drawings(archives[BACKGROUND], layout.background, layout.drawers)
    evaluation = _read_drawings(archives[EVALUATION], layout.evaluation, layout.drawers)
    runs = _read_runs(archives[RUNS], evaluation, layout)
    return Contents(background, evaluation, runs, digest, checksum(paths))


@dataclasses.dataclass(frozen=True)
class _Archive:
    """The files of one archive by name, and whether all three are the released ones."""

    path: pathlib.Path
    files: Mapping[str, bytes]
    released: bool

    def decode(self, name: str) -> np.ndarray:
        """(SIZE, SIZE) uint8, ink 1, paper 0, of a black and white PNG."""
        where = f"{self.path}: {name}"
        try:
            with Image.open(io.BytesIO(self.files[name]), formats=["PNG"]) as picture:
                width, height = picture.size
                grey = np.asarray(picture.convert("L"))
        except (*_PNG_ERRORS, Image.DecompressionBombError):
            raise ValueError(f"{where} is not a readable PNG picture") from None
        if (width, height) != (SIZE, SIZE):
            raise ValueError(f"{where} is {width} x {height} pixels, expected {SIZE} x {SIZE}")
        ink = grey == 0
        if not self.released and (((grey == 255) == ink).any() or not ink.any()):
            raise ValueError(f"{where} has grey pixels or no ink, expected black on white")
        return ink.astype(np.uint8)


def _unpack(path: pathlib.Path) -> dict[str, bytes]:
    """Content of each file by name; the runs may stand in a folder `all_runs`."""
    return {name.removeprefix("all_runs/"): data for name, data in _members(path)}


def _digest(files: Mapping[str, Mapping[str, bytes]]) -> str:
    digest = hashlib.sha256()
    for archive, members in files.items():
        for name in sorted(members):
            digest.update(f"{archive}\0{name}\0{len(members[name])}\0".encode())
            digest.update(members[name])
    return digest.hexdigest()


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


def _read_drawings(archive: _Archive, expected: tuple[int, int], num_drawers: int) -> Drawings:
    """Reads an image archive that holds `expected` (alphabets, characters)."""
    names: dict[tuple[str, int], dict[int, str]] = {}
    for name in archive.files:
        match = _DRAWING.fullmatch(name)
        if match is None:
            raise ValueError(
                f"{archive.path}: unexpected file {name}; files are "
                "<archive>/<alphabet>/character<number>/<id>_<drawer>.png"
            )
        of_character = names.setdefault((match[1], int(match[2])), {})
        if other := of_character.get(int(match[3])):
            raise ValueError(f"{archive.path}: {name} and {other} are one drawing under two names")
        of_character[int(match[3])] = name
    keys = sorted(names)
    counts = (len({alphabet for alphabet, _ in keys}), len(keys))
    if counts != expected:
        raise ValueError(
            f"{archive.path}: holds {counts[1]} characters of {counts[0]} alphabets, "
            f"expected {expected[1]} of {expected[0]}"
        )
    drawers = range(1, num_drawers + 1)
    images = np.empty((len(keys), num_drawers, SIZE, SIZE), np.uint8)
    for index, (alphabet, number) in enumerate(keys):
        of_character = names[alphabet, number]
        odd = sorted(of_character.keys() ^ set(drawers))
        if odd:
            raise ValueError(
                f"{archive.path}: {alphabet}/character{number:02d} has drawer {odd[0]} "
                f"{'missing' if odd[0] in drawers else 'too many'}; drawers are 1-{num_drawers}"
            )
        for drawer, name in of_character.items():
            images[index, drawer - 1] = archive.decode(name)
    alphabets, numbers = zip(*keys, strict=True)
    return Drawings(images, alphabets, numbers)


def _read_runs(archive: _Archive, evaluation: Drawings, layout: Layout) -> RunPictures:
    """Reads the archive of the runs; each picture must be one of `evaluation`."""
    runs, items = range(1, layout.runs + 1), range(1, layout.ways + 1)
    labels = [f"run{run:02d}/class_labels.txt" for run in runs]
    queries = [[f"run{run:02d}/test/item{k:02d}.png" for k in items] for run in runs]
    supports = [[f"run{run:02d}/training/class{k:02d}.png" for k in items] for run in runs]
    odd = sorted(archive.files.keys() ^ {*labels, *itertools.chain(*queries, *supports)})
    if odd:
        raise ValueError(
            f"{archive.path}: {odd[0]} is {'one too many' if odd[0] in archive.files else 'missing'}; "
            f"each of {layout.runs} runs has class_labels.txt, {layout.ways} queries test/item<NN>.png "
            f"and {layout.ways} supports training/class<NN>.png"
        )
    places = {
        evaluation.images[place].tobytes(): place
        for place in np.ndindex(evaluation.images.shape[:2])
    }

    def read_pictures(names: list[list[str]]) -> tuple[np.ndarray, np.ndarray]:
        images = np.array([[archive.decode(name) for name in run] for run in names])
        for run, k in np.ndindex(images.shape[:2]):
            if images[run, k].tobytes() not in places:
                raise ValueError(f"{archive.path}: {names[run][k]} is no picture of {EVALUATION}")
        return images, np.array(
            [[places[image.tobytes()] for image in run] for run in images], np.int32
        )

    query_images, query_places = read_pictures(queries)
    support_images, support_places = read_pictures(supports)
    answers = np.array(
        [_read_answers(archive, *of_run) for of_run in zip(labels, queries, supports, strict=True)],
        np.int32,
    )
    answered = np.take_along_axis(support_places[..., 0], answers, 1)
    wrong = np.argwhere(answered != query_places[..., 0])
    if len(wrong):
        run, k = wrong[0]
        raise ValueError(
            f"{archive.path}: {labels[run]} answers {queries[run][k]} with "
            f"{supports[run][answers[run, k]]}, whose picture is another character"
        )
    return RunPictures(query_images, support_images, answers, query_places, support_places)


def _read_answers(
    archive: _Archive, name: str, queries: list[str], supports: list[str]
) -> list[int]:
    """Index (from 0) of the support that answers each query of a run."""
    words = archive.files[name].decode("ascii", "replace").split()
    if sorted(words[::2]) != queries or sorted(words[1::2]) != supports:
        raise ValueError(
            f"{archive.path}: {name} must answer {len(queries)} queries, each with another support, "
            f"by lines such as '{queries[0]} {supports[0]}'"
        )
    answers = dict(zip(words[::2], words[1::2], strict=True))
    return [supports.index(answers[query]) for query in queries]
