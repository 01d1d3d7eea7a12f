"""Pairs of pictures that a CSV file lists, such as genuine and forged signatures."""

from __future__ import annotations

import csv
import os
import pathlib
from typing import Any, NamedTuple

import numpy as np

from siamese_jax.data import decoding
from siamese_jax.data.image_set import array_digest, as_kind, has_pictures, resize_images
from siamese_jax.evaluation import trials
from siamese_jax.readers import check_file

_BYTES = 2**28  # of a list of pairs


def read_pairs(
    path: str | os.PathLike,
    image_shape: tuple[int, int, int],
    kind: str,
) -> trials.VerificationPairs:
    """Reads pairs of pictures from a CSV file.

    A line is `questioned,reference,label`, or `questioned,reference,label,claim`: two pictures, their
    paths relative to the file's folder, and 1 for the same class or 0 for different ones. The lines of
    one claim have the same questioned picture and a reference each; their scores are aggregated into
    one. A first line is a header if its label is neither 0 nor 1 and its paths are no files.

    Args:
        path: of the file.
        image_shape: (H, W, C) that each picture is resized to; with C = 1 they are read as grey.
        kind: `ink` or `photo`; pictures of dark ink become ink coverage (see `ImageSet`).

    Returns:
        One pair a line or claim, in the order of the file; grouped by the folder of the questioned
        picture, or by this picture if all lie in one folder.

    Raises:
        ValueError: a line, which is named, has not three or four fields, a picture that is missing
            or cannot be read, a label that is not 0 or 1, a picture with itself, or another label or
            questioned picture than its claim; or there are no lines, one label only, or the network
            takes vectors.
    """
    path = pathlib.Path(path).expanduser()
    if not has_pictures(kind):
        raise ValueError(f"{path}: pairs of pictures cannot be shown to a network of vectors")
    claims, lines = _claims(path)
    labels = np.array([claim.label for claim in claims])
    if labels.min() == labels.max():
        raise ValueError(f"{path}: all labels are {labels[0]}: both 1 (same) and 0 are needed")
    row = {file: i for i, file in enumerate(lines)}
    most = max(len(claim.references) for claim in claims)
    second = np.full((len(claims), most), -1)
    for i, claim in enumerate(claims):
        second[i, : len(claim.references)] = [row[file] for file in claim.references]
    height, width, channels = image_shape
    images = np.empty((len(row), *image_shape), np.uint8)
    for file, i in row.items():
        try:
            picture = decoding.read_picture(file, "L" if channels == 1 else "RGB")
        except ValueError as error:
            raise ValueError(f"{path}, line {lines[file]}: {error}") from None
        images[i] = resize_images(as_kind(picture, kind)[None], height, width)[0]
    by_folder = len({claim.questioned.parent for claim in claims}) > 1
    group_of = [claim.questioned.parent if by_folder else claim.questioned for claim in claims]
    names, groups = np.unique([str(file) for file in group_of], return_inverse=True)
    several = f", up to {most} references a claim" if most > 1 else ""
    return trials.VerificationPairs(
        name="pairs",
        scope=f"{path.name}{several}",
        images=images,
        fingerprint=array_digest(images),
        first=np.array([row[claim.questioned] for claim in claims]),
        second=second[:, 0] if most == 1 else second,
        labels=labels,
        names=tuple(os.path.relpath(file, path.parent) for file in row),
        groups=groups,
        group_names=tuple(os.path.relpath(x, path.parent) for x in names),
        grouped_by="folder" if by_folder else "image",
    )


class _Claim(NamedTuple):
    questioned: pathlib.Path
    label: int
    line: int  # the first one
    references: list[pathlib.Path]


def _claims(path: pathlib.Path) -> tuple[list[_Claim], dict[pathlib.Path, int]]:
    """The claims of a CSV file, and by picture the first line that names it."""
    try:
        with open(check_file(path, _BYTES), newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            rows = [(reader.line_num, [x.strip() for x in row]) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: no readable CSV file ({type(error).__name__})") from None
    rows = [(number, row) for number, row in rows if any(row)]
    claims: dict[Any, _Claim] = {}
    lines: dict[pathlib.Path, int] = {}
    for number, row in rows:
        where = f"{path}, line {number}"
        if len(row) not in (3, 4):
            raise ValueError(
                f"{where}: expected two pictures, a label and perhaps a claim, got {len(row)} fields"
            )
        questioned, reference = (path.parent / name for name in row[:2])
        missing = [file for file in (questioned, reference) if not file.is_file()]
        if number == rows[0][0] and len(missing) == 2 and row[2] not in ("0", "1"):
            continue  # a header
        if missing:
            raise ValueError(f"{where}: no such file {missing[0]}")
        if row[2] not in ("0", "1"):
            raise ValueError(
                f"{where}: the label must be 1 (same) or 0 (different), got {row[2]!r}"
            )
        if questioned.samefile(reference):
            raise ValueError(f"{where}: {questioned} is paired with itself")
        key = row[3] if len(row) == 4 and row[3] else number
        claim = claims.setdefault(key, _Claim(questioned, int(row[2]), number, []))
        if claim[:2] != (questioned, int(row[2])):
            raise ValueError(
                f"{where}: claim {key!r} began on line {claim.line} with another questioned "
                "picture or another label"
            )
        claim.references.append(reference)
        lines.setdefault(questioned, number)
        lines.setdefault(reference, number)
    if not claims:
        raise ValueError(f"{path}: holds no pairs; expected lines `questioned,reference,label`")
    return list(claims.values()), lines
