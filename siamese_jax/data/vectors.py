"""Tables of measurements as image sets of kind `vector`: a row is a 1 x D image of one channel."""

from __future__ import annotations

import csv
import dataclasses
import difflib
import math
import os
import pathlib

import numpy as np

from siamese_jax.data.image_set import ImageSet, numbers_in_class
from siamese_jax.data.listing import natural_parts
from siamese_jax.readers import check_file, read_npz

CLASS_COLUMN = "class"
_BYTES, _COLUMNS = 2**32, 2**14  # of a CSV
_NPZ_ERRORS = (ValueError, OSError)

Rows = tuple[np.ndarray, list[tuple[str, ...]], list[str]]  # features, keys of the class, places


@dataclasses.dataclass(frozen=True)
class Standardisation:
    """Mean 0 and standard deviation 1 of every feature over the set that it was made `of`.

    A network trained on standardised features must be given new ones in the same units:
    `data.load(config.data).standardisation(raw)`, and then `Siamese.embed`.

    Attributes:
        mean: (D,) float64, in the units of the features.
        deviation: (D,) float64 standard deviation (divided by M, not M - 1). It is 0 for a feature
            that is constant in that set: of such a feature nothing can be learned, and it becomes 0
            wherever it is standardised.
    """

    mean: np.ndarray
    deviation: np.ndarray

    @classmethod
    def of(cls, images: ImageSet) -> Standardisation:
        """That of a set of kind `vector`: of the part to train on.

        Raises:
            ValueError: features too large for their squares to be added up.
        """
        features = images.images[:, 0, :, 0].astype(np.float64)  # (M, D)
        with np.errstate(over="ignore", invalid="ignore"):
            mean, deviation = features.mean(0), features.std(0)
        large = np.flatnonzero(~np.isfinite(deviation))
        if len(large):
            raise ValueError(
                f"feature {large[0] + 1} of {images.name!r} is too large to be standardised "
                f"(up to {np.abs(features[:, large[0]]).max():g}): choose a larger unit for it"
            )
        # Rounding of the mean would leave a constant feature a deviation of its own.
        constant = features.min(0) == features.max(0)
        return cls(mean, np.where(constant, 0.0, deviation))

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Standardises features.

        Args:
            features: (B, D), as the file has them.

        Returns:
            (B, D) float32.

        Raises:
            ValueError: another number of features.
        """
        features = np.asarray(features, np.float64)
        if features.ndim != 2 or features.shape[1] != len(self.mean):
            raise ValueError(f"features must be (B, {len(self.mean)}), got {features.shape}")
        varies = self.deviation > 0
        scaled = (features - self.mean) / np.where(varies, self.deviation, 1.0)
        return np.where(varies, scaled, 0.0).astype(np.float32)

    def of_set(self, images: ImageSet) -> ImageSet:
        """The set with its features standardised, float32."""
        features = self(images.images[:, 0, :, 0])
        return dataclasses.replace(images, images=features[:, None, :, None])


def load_vectors(
    path: str | os.PathLike,
    *,
    class_column: str | None = None,
    min_images: int = 1,
) -> ImageSet:
    """Loads a CSV or NPZ file of features and classes, as it is: nothing is standardised.

    CSV: UTF-8, commas, a first line of column names, one column with the class (any text or
    number), all others numbers. A first line of numbers only, but for its last column, is no
    header: then the last column is the class. NPZ: `features` (M, D) of numbers, `classes` (M,) of
    names or whole numbers, and, where classes come in groups, `alphabets` (M,).

    Classes sort by their names with their numbers in numeric order; the rows of a class keep the
    order of the file.

    Args:
        path: the file, .csv or .npz.
        class_column: of a CSV, the name of the class column; None for `class`, or for the last
            column of a file without a header.
        min_images: fewest rows of a class; 2 when the set is to give pairs.

    Returns:
        A set of kind `vector` with images (M, 1, D, 1) float64. The drawer is the number of the row
        in its class.

    Raises:
        ValueError: no such file, no such class column, a missing value, text among the numbers,
            or a class with fewer than `min_images` rows, each with its line (or row of an array).
    """
    path = pathlib.Path(path).expanduser()
    if not path.is_file():
        raise ValueError(f"{path}: no such file of vectors; give data.path a .csv or .npz")
    if path.suffix.lower() == ".csv":
        features, keys, places = _read_csv(path, class_column)
    elif path.suffix.lower() == ".npz":
        if class_column is not None:
            raise ValueError(
                f"{path}: class_column = {class_column!r} goes with a CSV; the classes of an NPZ "
                "are its array 'classes'"
            )
        features, keys, places = _read_npz(path)
    else:
        raise ValueError(f"{path}: vectors come as .csv or .npz, not {path.suffix or 'this'!r}")

    names = sorted(set(keys), key=natural_parts)
    ids = {key: index for index, key in enumerate(names)}
    of_row = np.array([ids[key] for key in keys], np.int32)
    counts = np.bincount(of_row)
    few = np.flatnonzero(counts < min_images)
    if len(few):
        row = int(np.argmax(np.isin(of_row, few)))
        plural = "s" if counts[of_row[row]] > 1 else ""
        raise ValueError(
            f"{path}, {places[row]}: the class {'/'.join(keys[row])!r} has "
            f"{counts[of_row[row]]} row{plural}, at least {min_images} needed"
        )
    order = np.argsort(of_row, kind="stable")
    alphabets = list(dict.fromkeys(key[0] if len(key) > 1 else path.stem for key in names))
    return ImageSet(
        images=features[order][:, None, :, None],
        classes=of_row[order],
        drawers=numbers_in_class(counts),
        class_names=tuple("/".join(key) for key in names),
        class_alphabets=np.array(
            [alphabets.index(key[0]) if len(key) > 1 else 0 for key in names], np.int32
        ),
        alphabet_names=tuple(alphabets),
        kind="vector",
        name=path.stem,
    )


def _read_csv(path: pathlib.Path, class_column: str | None) -> Rows:
    """(M, D) float64 features, M keys `(class,)` and M places `line 7`."""
    features: list[np.ndarray] = []
    keys: list[tuple[str, ...]] = []
    places: list[str] = []
    names: list[str] | None = None
    position = 0
    try:
        with open(check_file(path, _BYTES), newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            for fields in reader:
                fields = [field.strip() for field in fields]
                place = f"line {reader.line_num}"
                if not fields:
                    continue
                if names is None:
                    names, position, is_row = _columns(path, place, fields, class_column)
                    if not is_row:
                        continue
                if len(fields) != len(names):
                    raise ValueError(
                        f"{path}, {place}: {len(fields)} values for {len(names)} columns"
                    )
                key = fields[position]
                if not key:
                    raise ValueError(f"{path}, {place}: the class is missing; leave the row out")
                columns = names[:position] + names[position + 1 :]
                values = fields[:position] + fields[position + 1 :]
                features.append(_numbers(path, place, columns, values))
                keys.append((key,))
                places.append(place)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: not a CSV file in UTF-8 ({error})") from None
    if not features:
        raise ValueError(f"{path}: holds no rows; expected one vector and its class a line")
    return np.stack(features), keys, places


def _columns(
    path: pathlib.Path, place: str, fields: list[str], class_column: str | None
) -> tuple[list[str], int, bool]:
    """Names of the columns, position of the class, and whether this first line is a row already."""
    wanted = class_column or CLASS_COLUMN
    if len(fields) > _COLUMNS:
        raise ValueError(f"{path}, {place}: {len(fields)} columns, at most {_COLUMNS} are read")
    if len(fields) < 2:
        raise ValueError(
            f"{path}, {place}: one column, {fields[0]!r}; expected numbers and a class, separated "
            "by commas"
        )
    if wanted not in fields:
        if class_column is None and all(math.isfinite(_number(field)) for field in fields[:-1]):
            return [str(i + 1) for i in range(len(fields))], len(fields) - 1, True
        near = difflib.get_close_matches(wanted, fields, n=3) or fields[-3:]
        raise ValueError(
            f"{path}, {place}: no class column {wanted!r} among the names; did you mean "
            f"{', '.join(near)}? Set data.class_column"
        )
    first = {name: i for i, name in reversed(list(enumerate(fields)))}
    for i, name in enumerate(fields):
        if not name:
            raise ValueError(
                f"{path}, {place}: column {i + 1} has no name; if it numbers the rows, remove it "
                "(it would tell the classes apart), else name it"
            )
        if first[name] < i:
            raise ValueError(f"{path}, {place}: two columns are called {name!r}")
    return fields, fields.index(wanted), False


def _numbers(path: pathlib.Path, place: str, columns: list[str], values: list[str]) -> np.ndarray:
    """(D,) float64 of one row."""
    row = np.array([_number(value) for value in values])
    bad = np.flatnonzero(~np.isfinite(row))
    if len(bad):
        column, value = columns[bad[0]], values[bad[0]]
        what = f"{value!r} is not a finite number" if value else "the value is missing"
        raise ValueError(
            f"{path}, {place}, column {column!r}: {what}; mend it, or leave the row or column out"
        )
    return row


def _number(text: str) -> float:
    """The number that a text is, or NaN; `1_000` is a number of Python's only."""
    try:
        return math.nan if "_" in text else float(text)
    except ValueError:
        return math.nan


def _read_npz(path: pathlib.Path) -> Rows:
    """(M, D) float64 features, M keys `(class,)` or `(alphabet, class)`, and M places `row 7`."""
    try:
        arrays = read_npz(path)
        missing = [name for name in ("features", "classes") if name not in arrays]
        if missing:
            raise ValueError(f"no array {missing[0]!r}, only {', '.join(arrays) or 'nothing'}")
        names = ("features", "classes", "alphabets")
        arrays = {name: arrays[name] for name in names if name in arrays}
    except _NPZ_ERRORS as error:
        raise ValueError(f"{path}: not an NPZ of features and classes ({error})") from None
    features = arrays.pop("features")
    if features.ndim != 2 or 0 in features.shape or features.dtype.kind not in "iufb":
        raise ValueError(
            f"{path}: features must be (M, D) numbers, got {features.shape} {features.dtype}"
        )
    for name, array in arrays.items():
        if array.shape != features.shape[:1] or array.dtype.kind not in "iuU":
            raise ValueError(
                f"{path}: {name} must be ({len(features)},) names or whole numbers, one a row, got "
                f"{array.shape} {array.dtype}"
            )
    bad = np.argwhere(~np.isfinite(features))
    if len(bad):
        row, column = bad[0]
        raise ValueError(
            f"{path}, row {row + 1}, column {column + 1}: {features[row, column]} is not a finite "
            "number; mend it, or leave the row or column out"
        )
    groups = [arrays[name] for name in ("alphabets", "classes") if name in arrays]
    keys = list(zip(*([str(label) for label in group] for group in groups), strict=True))
    return features.astype(np.float64), keys, [f"row {i + 1}" for i in range(len(keys))]
