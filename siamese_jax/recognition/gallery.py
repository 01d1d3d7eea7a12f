"""A gallery: names with their reference pictures, enrolled without training.

A gallery is a value: every function returns a new one and leaves the old as it was. `storage` keeps it
in a file, and `identification` compares pictures with it.

    net = inference.load("runs/faces")
    anna = [pictures.read(net, path) for path in ("a1.png", "a2.png")]
    faces = gallery.enrol(gallery.empty(net), net, "anna", anna)
    faces = gallery.calibrate(faces, net, folder.load_folder("people"), rate=0.01)
    answer = identification.identify(faces, net, [pictures.read(net, "who.png")])[0]
    answer.name  # "anna", or None: unknown

A gallery belongs to one network, known by its fingerprint. Another one is refused. The network may be an
embedder of another library, see `inference.embedder`.
"""

from __future__ import annotations

import collections
import dataclasses
import difflib
import functools
import pathlib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import tqdm

from siamese_jax.evaluation import bounds, calibration
from siamese_jax.recognition import score_calibration

if TYPE_CHECKING:  # what needs jax is imported where it is used: a gallery is listed without it
    from siamese_jax.data.image_set import ImageSet
    from siamese_jax.inference.comparing import Comparing
    from siamese_jax.recognition import pictures, scoring, store

UNKNOWN = "unknown"
BATCH = 256  # pictures embedded at a time
_SHOWN = 20  # faults that a message lists


@dataclasses.dataclass(frozen=True)
class Reference:
    """One enrolled picture.

    Attributes:
        name: whose it is.
        source: absolute path of the file that it was enrolled from.
        digest: names the pixels of that file.
        thumbnail: PNG of it, see `pictures.Picture`.
    """

    name: str
    source: str
    digest: str
    thumbnail: bytes = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True, eq=False)
class Gallery:
    """Names with their references, in the order in which they were enrolled; make one with `empty`.

    Attributes:
        fingerprint: of the network, see `Comparing.fingerprint`.
        network: name of the network, for messages.
        references: all of them.
        embeddings: (R, D) float32, one row a reference.
        calibration: threshold and probabilities; None before `calibrate`.
        names: each name once.
        scored: the embeddings as `scoring.score` takes them.
    """

    fingerprint: str
    network: str
    references: tuple[Reference, ...]
    embeddings: np.ndarray
    calibration: calibration.Calibration | None = None

    def __post_init__(self) -> None:
        embeddings = np.array(self.embeddings, np.float32)  # a copy, which nobody else can change
        if embeddings.ndim != 2 or len(embeddings) != len(self.references):
            raise ValueError(
                f"{len(self.references)} references need embeddings (R, D), got {embeddings.shape}"
            )
        embeddings.setflags(write=False)
        object.__setattr__(self, "embeddings", embeddings)

    @property
    def names(self) -> tuple[str, ...]:
        """Every name once, in the order of enrolment."""
        return tuple(dict.fromkeys(reference.name for reference in self.references))

    @property
    def name_count(self) -> int:
        """How many names it holds."""
        return len(self._counts)

    def similar(self, name: str) -> tuple[str, ...]:
        """Names among which to look for near matches of one that is missing."""
        del name
        return self.names

    def summary(self) -> list[tuple[str, int, str]]:
        """Each name, how many references it has and the file of the first, in order of enrolment."""
        first = {r.name: r.source for r in reversed(self.references)}
        return [(name, count, first[name]) for name, count in self._counts.items()]

    def part(self, name: str) -> Gallery:
        """The gallery of one name's references.

        Raises:
            ValueError: an unknown name.
        """
        check_name(self, name)
        name = composed(name)
        rows = [row for row, reference in enumerate(self.references) if reference.name == name]
        references = tuple(self.references[row] for row in rows)
        return dataclasses.replace(self, references=references, embeddings=self.embeddings[rows])

    def nearest(
        self, net: Comparing, h: np.ndarray, count: int
    ) -> list[list[tuple[float, Reference]]]:
        """The references most like each embedding (Q, D), best first: (score, reference)."""
        return [
            [(float(row[i]), self.references[i]) for i in np.argsort(-row, kind="stable")[:count]]
            for row in self._scores(net, h)
        ]

    def best_names(
        self, net: Comparing, h: np.ndarray, count: int
    ) -> list[list[tuple[float, Reference]]]:
        """The best reference of each of the names most like each embedding (Q, D), best name first."""
        chosen = []
        for row in self._scores(net, h):
            best: dict[str, tuple[float, Reference]] = {}
            for i in np.argsort(-row, kind="stable"):
                best.setdefault(self.references[i].name, (float(row[i]), self.references[i]))
                if len(best) == count:
                    break
            chosen.append(list(best.values()))
        return chosen

    def _scores(self, net: Comparing, h: np.ndarray) -> np.ndarray:
        from siamese_jax.recognition import scoring

        return scoring.score(net, h, self.scored)

    @functools.cached_property
    def scored(self) -> scoring.References:
        """The embeddings, prepared once for scoring."""
        from siamese_jax.recognition import scoring

        return scoring.References(self.embeddings)

    @functools.cached_property
    def _counts(self) -> collections.Counter:
        return collections.Counter(reference.name for reference in self.references)

    def __len__(self) -> int:
        return len(self.references)

    def count_of(self, name: str) -> int:
        """How many references a name has."""
        return self._counts[composed(name)]

    def owners(self, digests: Sequence[str]) -> dict[str, str]:
        """The names that pictures with these digests are references of, by digest."""
        wanted = set(digests)
        return {r.digest: r.name for r in self.references if r.digest in wanted}


def composed(name: str) -> str:
    """A name as it is enrolled: an accented letter is one character (Unicode's form NFC).

    A keyboard mostly writes it so; a folder that was packed on macOS has letter and accent apart.
    """
    return unicodedata.normalize("NFC", name)


def empty(net: Comparing) -> Gallery:
    """A gallery without names.

    Raises:
        ValueError: the network does not take pictures, or does not score references one by one.
    """
    score_calibration.check_suits(net)
    return Gallery(net.fingerprint, net.name, (), np.zeros((0, 0)))


def check_network(gallery: Gallery | store.Store, net: Comparing) -> None:
    """Refuses another network than that of the gallery.

    Raises:
        ValueError: it is another one.
    """
    given = net.fingerprint
    if given != gallery.fingerprint:
        raise ValueError(
            f"this gallery belongs to the network {gallery.network} ({gallery.fingerprint}), not to "
            f"{net.name} ({given}): take that checkpoint with the same --tta, or `rebuild` the gallery "
            "with this one"
        )


def size(gallery: Gallery | store.Store) -> str:
    """`3 names, 6 pictures`."""
    return f"{plural(gallery.name_count, 'name')}, {plural(len(gallery), 'picture')}"


def plural(count: int, noun: str) -> str:
    """`1 name`, `3 names`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def check_name(gallery: Gallery | store.Store, name: str) -> None:
    """Refuses a name that is not in the gallery, and says which are near.

    Raises:
        ValueError: an unknown name.
    """
    if gallery.count_of(name):
        return
    near = difflib.get_close_matches(name, gallery.similar(name), n=3)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
    raise ValueError(f"{name!r} is not in the gallery of {gallery.name_count} names{hint}")


def enrol(
    gallery: Gallery,
    net: Comparing,
    name: str,
    new: Sequence[pictures.Picture],
    add: bool = False,
) -> Gallery:
    """The gallery with the references of a name. A bound of the old gallery is dropped.

    Args:
        gallery: the old one.
        net: its network.
        name: whose pictures they are.
        new: one or more pictures.
        add: whether the name may be there already and gets further references.

    Raises:
        ValueError: another network, a name that is there already, one that cannot be a name, no
            picture, or a picture that is enrolled already.
    """
    return enrol_all(gallery, net, {name: new}, add)


def enrol_all(
    gallery: Gallery,
    net: Comparing,
    people: Mapping[str, Sequence[pictures.Picture]],
    add: bool = False,
    progress: bool = False,
) -> Gallery:
    """The gallery with the references of several names, all of them or none.

    Args:
        gallery: the old one.
        net: its network.
        people: one or more pictures of each name.
        add: as of `enrol`.
        progress: whether to show a progress bar.

    Raises:
        ValueError: another network, or all that `faults` finds.
    """
    check_network(gallery, net)
    people = by_composed_name(people)
    check(faults(gallery, people, add))
    references, new = listed(people)
    calibrated = gallery.calibration and gallery.calibration.before_enrolment()
    enrolled = _with_references(gallery, references, embed_all(net, new, progress))
    return dataclasses.replace(enrolled, calibration=calibrated)


def by_composed_name(
    people: Mapping[str, Sequence[pictures.Picture]],
) -> dict[str, list[pictures.Picture]]:
    """The pictures of each name as it is enrolled, see `composed`."""
    joined: dict[str, list[pictures.Picture]] = {}
    for name, new in people.items():
        joined.setdefault(composed(name), []).extend(new)
    return joined


def listed(
    people: Mapping[str, Sequence[pictures.Picture]],
) -> tuple[tuple[Reference, ...], list[pictures.Picture]]:
    """The references of several names, and their pictures, in one order."""
    rows = [(name, picture) for name, new in people.items() for picture in new]
    references = (Reference(name, p.source, p.digest, p.thumbnail) for name, p in rows)
    return tuple(references), [picture for _, picture in rows]


def embed_all(
    net: Comparing, new: Sequence[pictures.Picture], progress: bool = False
) -> np.ndarray:
    """(B, D) embeddings of pictures, with a progress bar if wanted."""
    from siamese_jax.recognition import scoring

    starts = range(0, len(new), BATCH)
    bar = tqdm.tqdm(starts, "embedding", unit_scale=BATCH, disable=not progress, leave=False)
    return np.concatenate([scoring.embed(net, new[start : start + BATCH]) for start in bar])


def check(faults: Sequence[str]) -> None:
    """Raises ValueError with all faults in one line, if there are any."""
    if faults:
        more = f"; and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise ValueError("; ".join(faults[:_SHOWN]) + more)


def faults(
    known: Gallery | store.Store,
    people: Mapping[str, Sequence[pictures.Picture]],
    add: bool = False,
) -> list[str]:
    """What stands in the way of enrolling these pictures.

    Args:
        known: the gallery.
        people: the pictures of each name.
        add: whether a name may be there already and gets further references.
    """
    problems = []
    owners = known.owners([picture.digest for new in people.values() for picture in new])
    for name, new in people.items():
        if not name.strip() or not name.isprintable() or name == UNKNOWN:
            problems.append(f"{name!r} cannot be a name")
        elif name != name.strip():
            problems.append(f"{name!r} begins or ends with a space: write {name.strip()!r}")
        elif not add and (count := known.count_of(name)):
            problems.append(
                f"{name!r} is enrolled already, with {plural(count, 'picture')}: --add gives it more"
            )
        if not new:
            problems.append(f"{name!r} needs at least one picture")
        for picture in new:
            if picture.digest in owners:
                problems.append(
                    f"{picture.source} is a reference of {owners[picture.digest]!r} already"
                )
            owners[picture.digest] = name
    return problems


def remove(gallery: Gallery, name: str) -> Gallery:
    """The gallery without a name; its calibration stays.

    Raises:
        ValueError: an unknown name.
    """
    check_name(gallery, name)
    name = composed(name)
    keep = np.array([reference.name != name for reference in gallery.references])
    left = tuple(reference for reference in gallery.references if reference.name != name)
    return dataclasses.replace(gallery, references=left, embeddings=gallery.embeddings[keep])


def calibrate(
    gallery: Gallery,
    net: Comparing,
    labelled: ImageSet,
    rate: float,
    seed: int = 0,
    *,
    confidence: float = bounds.CONFIDENCE,
    decided_by: str = "plain",
) -> Gallery:
    """The gallery with a threshold and probabilities learned from labelled pictures.

    The bound (see `evaluation.bounds`) is of this gallery where it has names, else of any.

    Args:
        gallery: the old one, with names or without.
        net: its network.
        labelled: as in `score_calibration.calibration_of`, of classes that are not enrolled.
        rate: as there.
        seed: as there.
        confidence: as there.
        decided_by: as there.

    Raises:
        ValueError: another network, or what `score_calibration.calibration_of` refuses.
    """
    check_network(gallery, net)
    learned = score_calibration.calibration_of(
        *(net, labelled, rate, seed),
        confidence=confidence,
        decided_by=decided_by,
        references=gallery.scored if gallery.references else None,
    )
    return dataclasses.replace(gallery, calibration=learned)


def rebuild(gallery: Gallery, net: Comparing) -> tuple[Gallery, int]:
    """The gallery with its references embedded by another network.

    A reference is read from its original file where that still holds the same pixels, else from the
    kept thumbnail. The calibration goes with its network: it is dropped unless the network is the same.

    Args:
        gallery: the old one.
        net: the other network.

    Returns:
        The new gallery, and the number of references that came from thumbnails.

    Raises:
        ValueError: the network is not one for galleries, see `empty`.
    """
    from siamese_jax.recognition import scoring

    fresh = empty(net)
    if fresh.fingerprint == gallery.fingerprint:
        fresh = dataclasses.replace(fresh, calibration=gallery.calibration)
    originals, from_thumbnails = read_again(net, gallery.references)
    if not originals:
        return fresh, 0
    return _with_references(
        fresh, gallery.references, scoring.embed(net, originals)
    ), from_thumbnails


def read_again(
    net: Comparing, references: Iterable[Reference]
) -> tuple[list[pictures.Picture], int]:
    """The pictures of references, see `rebuild`, and how many came from thumbnails."""
    from siamese_jax.recognition import pictures

    originals, from_thumbnails = [], 0
    for reference in references:
        picture = None
        if pathlib.Path(reference.source).is_file():
            try:
                picture = pictures.read(net, reference.source)
            except ValueError:  # no picture any more
                picture = None
        if picture is None or picture.digest != reference.digest:
            picture = pictures.from_thumbnail(
                net, reference.thumbnail, reference.source, reference.digest
            )
            from_thumbnails += 1
        originals.append(picture)
    return originals, from_thumbnails


def _with_references(
    gallery: Gallery, references: tuple[Reference, ...], embeddings: np.ndarray
) -> Gallery:
    """The gallery with further references."""
    if gallery.references:
        embeddings = np.concatenate([gallery.embeddings, embeddings])
    references = gallery.references + references
    return dataclasses.replace(gallery, references=references, embeddings=embeddings)
