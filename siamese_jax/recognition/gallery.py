"""Recognition from one picture: names, their reference pictures, and the answer "unknown".

A gallery is a value: every function returns a new one and leaves the old as it was; `storage` keeps it
in a file. It needs no training: enrolling a name embeds its pictures, and a probe is compared with all
references at once. The score of a name is that of its **best** reference.

    net = inference.load("runs/faces")
    anna = [pictures.read(net, path) for path in ("a1.png", "a2.png")]
    faces = gallery.enrol(gallery.empty(net), net, "anna", anna)
    faces = gallery.calibrate(faces, net, folder.load_folder("people"), rate=0.01)
    answer = gallery.identify(faces, net, [pictures.read(net, "who.png")])[0]
    answer.name  # "anna", or None: unknown

A gallery belongs to one network, named by the fingerprint of its parameters; another one is refused.
"""

from __future__ import annotations

import collections
import dataclasses
import difflib
import hashlib
import pathlib
from collections.abc import Sequence

import jax
import numpy as np

from siamese_jax.data.image_set import ImageSet
from siamese_jax.inference import network as network_lib
from siamese_jax.recognition import calibration, pictures

UNKNOWN = "unknown"
_CELLS = 1 << 27  # numbers a comparison may hold: queries x references x size of the embedding


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
        fingerprint: of the network, see `network_fingerprint`.
        network: name of the network, for messages.
        references: all of them.
        embeddings: (R, D) float32, one row a reference.
        calibration: threshold and probabilities; None before `calibrate`.
        names: each name once.
    """

    fingerprint: str
    network: str
    references: tuple[Reference, ...]
    embeddings: np.ndarray
    calibration: calibration.Calibration | None = None

    def __post_init__(self):
        embeddings = np.array(self.embeddings, np.float32)  # a copy, which nobody else can change
        if embeddings.ndim != 2 or len(embeddings) != len(self.references):
            raise ValueError(
                f"{len(self.references)} references need embeddings (R, D), got {embeddings.shape}"
            )
        embeddings.setflags(write=False)
        object.__setattr__(self, "embeddings", embeddings)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(reference.name for reference in self.references))

    def __len__(self) -> int:
        return len(self.references)


@dataclasses.dataclass(frozen=True)
class Match:
    """A name, or a reference of it, that a picture was compared with.

    Attributes:
        name: the name.
        score: of its best reference, or of this one; higher is more alike.
        probability: that the two are the same; None without a calibration.
        reference: the best reference, or this one.
    """

    name: str
    score: float
    probability: float | None
    reference: Reference


@dataclasses.dataclass(frozen=True)
class Answer:
    """Who is on a picture.

    Attributes:
        matches: the best names, best first.
        threshold: of the score; None without a calibration.
        shown: whether the calibration could show its rate for so many references.
        name: the best name, None for unknown; None as well without a threshold.
    """

    matches: tuple[Match, ...]
    threshold: float | None
    shown: bool

    @property
    def name(self) -> str | None:
        accepted = self.threshold is not None and self.matches[0].score >= self.threshold
        return self.matches[0].name if accepted else None


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How alike two pictures are.

    Attributes:
        dissimilarity: see `compare`.
        score: logit of the network.
        probability: that they are the same; None without a calibration.
    """

    dissimilarity: float
    score: float
    probability: float | None


def network_fingerprint(net: network_lib.Siamese) -> str:
    """First 16 hexadecimal digits of the SHA-256 of all that decides a network's scores.

    Its parameters and statistics with their names, its comparator, the shape and kind of its input, and
    how often it sees each picture.
    """
    variables = net.devices.first(net.variables)
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    head = net.model.head
    more = head.score_settings()
    more += (
        ("views", net.views) if net.views > 1 else ()
    )  # one view: as galleries made before have it
    digest = hashlib.sha256(repr((type(head).__name__, *more, net.image_shape, net.kind)).encode())
    for path, leaf in sorted((jax.tree_util.keystr(path), leaf) for path, leaf in leaves):
        leaf = np.ascontiguousarray(leaf)
        digest.update(repr((path, leaf.shape, leaf.dtype.str)).encode())
        digest.update(leaf)
    return digest.hexdigest()[:16]


def empty(net: network_lib.Siamese) -> Gallery:
    """A gallery without names.

    Raises:
        ValueError: the network does not take pictures, or does not score references one by one.
    """
    if net.kind not in ("ink", "photo"):
        raise ValueError(f"{net.name} takes data of kind {net.kind!r}: a gallery needs pictures")
    if net.model.context is not None:
        raise ValueError(
            f"{net.name} embeds references in the light of all others: a gallery needs a network "
            "without a full context"
        )
    return Gallery(network_fingerprint(net), net.name, (), np.zeros((0, 0)))


def check_network(gallery: Gallery, net: network_lib.Siamese) -> None:
    """Refuses another network than the gallery was made with.

    Raises:
        ValueError: it is another one.
    """
    given = network_fingerprint(net)
    if given != gallery.fingerprint:
        raise ValueError(
            f"this gallery belongs to the network {gallery.network} ({gallery.fingerprint}), not to "
            f"{net.name} ({given}): take that checkpoint with as many views, or `rebuild` the gallery "
            "with this one"
        )


def enrol(
    gallery: Gallery,
    net: network_lib.Siamese,
    name: str,
    new: Sequence[pictures.Picture],
    add: bool = False,
) -> Gallery:
    """The gallery with the references of a name.

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
    check_network(gallery, net)
    if not name.strip() or not name.isprintable() or name == UNKNOWN:
        raise ValueError(f"{name!r} cannot be a name")
    if name in gallery.names and not add:
        raise ValueError(
            f"{name!r} is enrolled already, with {reference_counts(gallery)[name]} pictures: --add "
            "gives it more"
        )
    if not new:
        raise ValueError(f"{name!r} needs at least one picture")
    owners = {reference.digest: reference.name for reference in gallery.references}
    for picture in new:
        if picture.digest in owners:
            raise ValueError(
                f"{picture.source} is a reference of {owners[picture.digest]!r} already"
            )
        owners[picture.digest] = name
    references = tuple(Reference(name, p.source, p.digest, p.thumbnail) for p in new)
    return _with_references(gallery, references, _embed(net, new))


def remove(gallery: Gallery, name: str) -> Gallery:
    """The gallery without a name; its calibration stays.

    Raises:
        ValueError: an unknown name.
    """
    check_name(gallery, name)
    keep = np.array([reference.name != name for reference in gallery.references])
    left = tuple(reference for reference in gallery.references if reference.name != name)
    return dataclasses.replace(gallery, references=left, embeddings=gallery.embeddings[keep])


def identify(
    gallery: Gallery, net: network_lib.Siamese, probes: Sequence[pictures.Picture], top: int = 3
) -> list[Answer]:
    """Says who is on each picture.

    Without a calibration the names are ranked, but there is no threshold and no answer.

    Args:
        gallery: who is known.
        net: its network.
        probes: the pictures.
        top: names an answer at most.

    Raises:
        ValueError: another network, or a gallery without names.
    """
    scores = score(gallery, net, probes)
    limit, shown = _limit(gallery, len(gallery))
    answers = []
    for row in scores:
        best = {}  # the place of each name's best reference; names in the order of their scores
        for place in np.argsort(-row, kind="stable"):
            best.setdefault(gallery.references[place].name, place)
            if len(best) == top:
                break
        matches = tuple(_match(gallery, row, place) for place in best.values())
        answers.append(Answer(matches, limit, shown))
    return answers


def verify(
    gallery: Gallery, net: network_lib.Siamese, name: str, probe: pictures.Picture
) -> Answer:
    """Says whether a picture shows whom it is claimed to show.

    Returns:
        An answer with one match: its `name` is None where the claim is rejected.

    Raises:
        ValueError: another network, an unknown name, or a gallery without calibration.
    """
    check_network(gallery, net)
    check_name(gallery, name)
    if gallery.calibration is None:
        raise ValueError(
            "this gallery has no threshold to accept or reject by: `calibrate` it first"
        )
    rows = [r for r, reference in enumerate(gallery.references) if reference.name == name]
    own = tuple(gallery.references[r] for r in rows)
    part = dataclasses.replace(gallery, references=own, embeddings=gallery.embeddings[rows])
    return identify(part, net, [probe], top=1)[0]


def search(
    gallery: Gallery, net: network_lib.Siamese, probe: pictures.Picture, top: int = 10
) -> list[Match]:
    """The references nearest to a picture, best first.

    Raises:
        ValueError: another network, a gallery without names, or no reference asked for.
    """
    if top < 1:
        raise ValueError(f"top must be at least 1, got {top}")
    row = score(gallery, net, [probe])[0]
    return [_match(gallery, row, place) for place in np.argsort(-row, kind="stable")[:top]]


def compare(
    net: network_lib.Siamese,
    first: pictures.Picture,
    second: pictures.Picture,
    calibrated: calibration.Calibration | None = None,
) -> Comparison:
    """How alike two pictures are.

    The dissimilarity is the distance of the embeddings (see `comparators.Comparator.distances`) where the
    network's comparator goes by one, and minus the score where it does not; it falls where the score
    rises.

    Args:
        net: the network.
        first: a picture.
        second: another one.
        calibrated: of this network, for the probability.
    """
    h = _embed(net, [first, second])
    value = float(_score(net, h[:1], h[1:])[0, 0])
    head = net.model.head
    apart = float(head.distances(h[:1], h[1:])[0]) if head.falls_with_distance else -value
    probability = None if calibrated is None else float(calibrated.probability(value))
    return Comparison(apart, value, probability)


def calibrate(
    gallery: Gallery, net: network_lib.Siamese, labelled: ImageSet, rate: float, seed: int = 0
) -> Gallery:
    """The gallery with a threshold and probabilities learned from labelled pictures.

    Args:
        gallery: the old one, with names or without.
        net: its network.
        labelled: pictures of classes that the network was not trained on; of kind `ink` as
            `load_folder(..., ink=True)` gives it where the network's kind is `ink`.
        rate: false-accept rate to allow.
        seed: of the half of the classes that is held back.

    Raises:
        ValueError: another network, a set of another kind, or what `calibration.make` refuses.
    """
    check_network(gallery, net)
    if labelled.kind != net.kind:
        raise ValueError(f"{labelled.name} is of kind {labelled.kind!r}, the network {net.kind!r}")

    def score_all(rows):
        h = net.embed(pictures.shape_for(net, labelled.images[rows], inverted=True))
        return _score(net, h, h)

    made = calibration.make(
        score_all,
        labelled.classes,
        rate,
        source=labelled.name,
        fingerprint=labelled.fingerprint,
        seed=seed,
    )
    return dataclasses.replace(gallery, calibration=made)


def rebuild(gallery: Gallery, net: network_lib.Siamese) -> tuple[Gallery, int]:
    """The gallery with its references embedded by another network.

    A reference is read from its original file where that still holds the same pixels, else from the
    kept thumbnail. The calibration was the old network's and is dropped.

    Args:
        gallery: the old one.
        net: the other network.

    Returns:
        The new gallery, and the number of references that came from thumbnails.

    Raises:
        ValueError: the network is not one for galleries, see `empty`.
    """
    fresh = empty(net)
    found, kept = [], 0
    for reference in gallery.references:
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
            kept += 1
        found.append(picture)
    if not found:
        return fresh, 0
    return _with_references(fresh, gallery.references, _embed(net, found)), kept


def score(
    gallery: Gallery, net: network_lib.Siamese, probes: Sequence[pictures.Picture]
) -> np.ndarray:
    """Scores of every probe with every reference: (Q, R) float64.

    All references are compared in one call of the network's `score_matrix`, for as many probes at a
    time as memory allows.

    Raises:
        ValueError: another network, or a gallery without names.
    """
    check_network(gallery, net)
    if not gallery.references:
        raise ValueError("the gallery holds no names: `enrol` some first")
    return _score(net, _embed(net, probes), gallery.embeddings)


def reference_counts(gallery: Gallery) -> dict[str, int]:
    """Each name and how many references it has."""
    return dict(collections.Counter(reference.name for reference in gallery.references))


def check_name(gallery: Gallery, name: str) -> None:
    """Refuses a name that is not in the gallery, and says which are near.

    Raises:
        ValueError: an unknown name.
    """
    if name in gallery.names:
        return
    near = difflib.get_close_matches(name, gallery.names, n=3)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
    raise ValueError(f"{name!r} is not in the gallery of {len(gallery.names)} names{hint}")


def _with_references(gallery, references, embeddings) -> Gallery:
    """The gallery with further references."""
    if gallery.references:
        embeddings = np.concatenate([gallery.embeddings, embeddings])
    references = gallery.references + references
    return dataclasses.replace(gallery, references=references, embeddings=embeddings)


def _embed(net, found: Sequence[pictures.Picture]) -> np.ndarray:
    """(B, D) float32, finite."""
    h = net.embed(np.stack([picture.image for picture in found]))
    if not np.isfinite(h).all():
        raise ValueError(
            f"{net.name} gives embeddings that are not finite: take another checkpoint"
        )
    return h


def _score(net, queries: np.ndarray, supports: np.ndarray) -> np.ndarray:
    """(Q, D), (S, D) -> (Q, S) float64, finite; all supports in each call."""
    block = max(1, _CELLS // supports.size)
    parts = [
        net.score_matrix(queries[begin : begin + block], supports)
        for begin in range(0, len(queries), block)
    ]
    scores = np.concatenate(parts).astype(np.float64)
    if not np.isfinite(scores).all():
        raise ValueError(f"{net.name} gives scores that are not finite: take another checkpoint")
    return scores


def _limit(gallery, references: int) -> tuple[float | None, bool]:
    """The threshold for the best of so many references, and whether its rate was shown."""
    made = gallery.calibration
    return (
        (None, False) if made is None else (made.threshold(references), references <= made.covers)
    )


def _match(gallery, row, place) -> Match:
    value, made = float(row[place]), gallery.calibration
    probability = None if made is None else float(made.probability(value))
    reference = gallery.references[place]
    return Match(reference.name, value, probability, reference)
