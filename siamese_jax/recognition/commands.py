"""The commands of `launch/recognize.py`: one function a command, each returns what is to be printed.

What needs jax is imported by the commands that use it, so that the others and usage errors are quick.
"""

from __future__ import annotations

import dataclasses
import glob
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from siamese_jax import files
from siamese_jax.evaluation import bounds, calibration
from siamese_jax.recognition import gallery, postgres_connection
from siamese_jax.recognition.storage import LARGE, GalleryDatabase, GalleryFile
from siamese_jax.recognition.store import Store, is_store

if TYPE_CHECKING:
    from siamese_jax.inference import network
    from siamese_jax.recognition import identification, pictures


_Place = GalleryFile | GalleryDatabase


@dataclasses.dataclass(frozen=True)
class Settings:
    """The flags of a command.

    Attributes:
        workdir: of the run whose network is used; None for `list` and `remove`.
        gallery: the gallery's file or URL; None for `compare` without probabilities.
        checkpoint: `best`, `latest` or a step.
        tta: as in `inference.network.load`.
        add: whether `enrol` gives further references to a name that is enrolled already.
        top: how many names or references are shown.
        page: file for the page of `search` or `compare`; None for one beside the gallery, and for
            `compare` for none.
        false_accept_rate: of `calibrate`.
        seed: of `calibrate`.
        confidence: of the bound that `calibrate` makes.
        threshold: which one `calibrate` lets decide, `plain` or `bound`.
        progress: whether long commands show a progress bar.
    """

    workdir: str | None = None
    gallery: str | None = None
    checkpoint: str | int = "best"
    tta: int = 1
    add: bool = False
    top: int = 3
    page: str | None = None
    false_accept_rate: float = 0.01
    seed: int = 0
    confidence: float = bounds.CONFIDENCE
    threshold: str = "plain"
    progress: bool = False


@dataclasses.dataclass(frozen=True)
class Output:
    """What a command prints, and its exit code.

    Attributes:
        lines: printed below the table.
        table: rows of cells, equally many in each.
        exit_code: 0, or 1 if `verify` rejects.
    """

    lines: tuple[str, ...]
    table: tuple[tuple[str, ...], ...] = ()
    exit_code: int = 0


def run(command: str | None, words: Sequence[str], settings: Settings) -> Output:
    """Runs one command.

    Args:
        command: one of `COMMANDS`.
        words: what follows it.
        settings: its flags.

    Raises:
        ValueError: an unknown command, missing or surplus words or flags, or what the command refuses.
    """
    if command not in COMMANDS:
        usages = ", ".join(f"{name} {entry.words}".strip() for name, entry in COMMANDS.items())
        mistake = "no command is given" if command is None else f"{command!r} is no command"
        raise ValueError(f"{mistake}: {usages}")
    entry = COMMANDS[command]
    count = len(entry.words.split())
    if len(words) < count or (len(words) > count and not entry.words.endswith("...")):
        raise ValueError(
            f"{command} takes {entry.words or 'nothing'} and got {' '.join(words) or 'nothing'}"
        )
    if settings.gallery is None and entry.needs_gallery:
        raise ValueError(f"{command} needs --gallery=FILE")
    if settings.workdir is None and entry.needs_network:
        raise ValueError(f"{command} needs --workdir=RUN or --pretrained=NAME")
    if settings.top < 1:
        raise ValueError(f"--top must be at least 1, got {settings.top}")
    return entry.function(words, settings)


def _enrol(words: Sequence[str], settings: Settings) -> Output:
    from siamese_jax.recognition import pictures

    name, *paths = words
    file, known, net = _open(settings, create=True)
    new = [pictures.read(net, path) for path in paths]
    known = _enrolled(file, known, net, {name: new}, settings)
    count = gallery.plural(known.count_of(name), "picture")
    return Output((f"enrolled {name} with {count}; {gallery.size(known)}",))


def _enrol_folder(words: Sequence[str], settings: Settings) -> Output:
    from siamese_jax.data import folder
    from siamese_jax.recognition import pictures

    files_of = folder.picture_files(words[0])
    file, known, net = _open(settings, create=True)
    paths = [path for of_name in files_of.values() for path in of_name]
    read, faults = pictures.read_all(net, paths, settings.progress)
    by_source = {picture.source: picture for picture in read}
    people = {
        name: [by_source[str(p.absolute())] for p in paths if str(p.absolute()) in by_source]
        for name, paths in files_of.items()
    }
    people = gallery.by_composed_name(people)
    whole = {name: new for name, new in people.items() if new}
    gallery.check([*faults, *gallery.faults(known, whole, settings.add)])
    known = _enrolled(file, known, net, people, settings)
    names, count = gallery.plural(len(people), "name"), gallery.plural(len(paths), "picture")
    return Output((f"enrolled {names} with {count}; {gallery.size(known)}",))


def _remove(words: Sequence[str], settings: Settings) -> Output:
    file, known = _read(settings)
    if isinstance(known, Store):
        known.remove(words[0])
    else:
        known = gallery.remove(known, words[0])
        file.write(known)
    return Output((f"removed {words[0]}; {gallery.size(known)}",))


def _list(_: Sequence[str], settings: Settings) -> Output:
    known = _read(settings)[1]
    rows = (
        (name, gallery.plural(count, "picture"), f"first {first}")
        for name, count, first in known.summary()
    )
    network_line = f"{gallery.size(known)}, of the network {known.network} ({known.fingerprint})"
    return Output((network_line, *calibration.describe(known.calibration)), tuple(rows))


def _identify(paths: Sequence[str], settings: Settings) -> Output:
    from siamese_jax.recognition import identification, pictures

    paths = _globbed(paths)
    _, known, net = _open(settings)
    probes, faults = pictures.read_all(net, paths, settings.progress)
    gallery.check(faults)
    answers = identification.identify(known, net, probes, settings.top)
    lines = []
    for path, answer in zip(paths, answers, strict=True):
        name = "no threshold" if answer.threshold is None else answer.name or gallery.UNKNOWN
        nearest = ", ".join(f"{m.name} ({_score(m)})" for m in answer.matches)
        lines.append(f"{path}: {name}; nearest {nearest}")
    return Output((*lines, _threshold_line(known, net, answers[0]), *_index_lines(known)))


def _globbed(paths: Sequence[str]) -> list[str]:
    """The paths, with the pictures that a pattern stands for in its place, in natural order."""
    from siamese_jax.data import listing

    matched = []
    for path in paths:
        if pathlib.Path(path).exists() or not glob.has_magic(path):
            matched.append(path)
            continue
        names = glob.glob(str(pathlib.Path(path).expanduser()), recursive=True)
        matches = [name for name in names if pathlib.Path(name).is_file()]
        if not matches:
            raise ValueError(f"{path}: no picture has such a name")
        matched += sorted(matches, key=listing.natural_key)
    return matched


def _compare(paths: Sequence[str], settings: Settings) -> Output:
    from siamese_jax.recognition import compare_page, identification, pictures

    known = None
    if settings.gallery is None:
        net = _network(settings)
    else:
        _, known, net = _open(settings)
    calibrated = identification.calibration_in_use(known, net)
    page = settings.page and _page_path(settings.page, settings.gallery, paths)
    first, second = (pictures.read(net, path) for path in paths)
    comparison = identification.compare(net, first, second, calibrated)
    probability = "no probability: launch/calibrate.py calibrates the network"
    if comparison.probability is not None:
        probability = f"probability of same {comparison.probability:.4f}"
    lines = [
        f"dissimilarity {comparison.dissimilarity:.4f}, score {comparison.score:.4f}, {probability}"
    ]
    if page:
        files.replace_text(page, compare_page.render(net, first, second, comparison, calibrated))
        lines.append(f"page: {page}")
    return Output(tuple(lines))


def _page_path(
    path: str | pathlib.Path, gallery_file: str | None, images: Sequence[str]
) -> pathlib.Path:
    """The file of a page, in a folder that exists; none of the command's other files is replaced."""
    page = pathlib.Path(path).expanduser()
    if not page.parent.is_dir():
        raise ValueError(f"{page.parent}: no such folder for a page")
    others = []
    if gallery_file is not None and not postgres_connection.is_url(gallery_file):
        others.append((gallery_file, "the gallery itself"))
    for name, what in (*others, *((image, "one of the pictures") for image in images)):
        other = pathlib.Path(name).expanduser()
        if page.resolve() == other.resolve() or (
            page.exists() and other.exists() and page.samefile(other)
        ):
            raise ValueError(f"--page={page} is {what}: give the page another name")
    return page


def _verify(words: Sequence[str], settings: Settings) -> Output:
    from siamese_jax.recognition import identification, pictures

    name, path = words
    _, known, net = _open(settings)
    answer = identification.verify(known, net, name, pictures.read(net, path))
    verdict = "rejected" if answer.name is None else "accepted"
    line = f"{path}: {verdict} as {name} ({_score(answer.matches[0])})"
    return Output((line, _threshold_line(known, net, answer)), exit_code=int(answer.name is None))


def _search(paths: Sequence[str], settings: Settings) -> Output:
    from siamese_jax.recognition import identification, pictures, search_page

    _, known, net = _open(settings)
    page = settings.page or _file(settings).page
    page = _page_path(page, settings.gallery, paths)
    probe = pictures.read(net, paths[0])
    matches = identification.search(known, net, probe, settings.top)
    calibrated = identification.calibration_in_use(known, net)
    files.replace_text(page, search_page.render(known, probe, matches, calibrated))
    rows = tuple(
        (str(rank), match.name, _score(match), match.reference.source)
        for rank, match in enumerate(matches, 1)
    )
    return Output((f"page: {page}",), rows)


def _calibrate(paths: Sequence[str], settings: Settings) -> Output:
    from siamese_jax.data import folder

    if not pathlib.Path(paths[0]).expanduser().exists():
        raise ValueError(f"{paths[0]}: no such folder of <name>/<image>")
    file, known, net = _open(settings, create=True)
    labelled = folder.load_folder(
        paths[0], image_size=net.image_shape[:2], ink=net.kind == "ink", min_images=2
    )
    learn_from = (net, labelled, settings.false_accept_rate, settings.seed)
    how: dict[str, Any] = {"confidence": settings.confidence, "decided_by": settings.threshold}
    if isinstance(known, Store):
        known.calibrate(*learn_from, **how)
    else:
        known = gallery.calibrate(known, *learn_from, **how)
        file.write(known)
    assert known.calibration is not None
    lines = calibration.describe(known.calibration)
    if _trained_on(settings, paths[0]):
        lines = (
            f"WARNING: the network was trained on {paths[0]}: it separates those classes too well, so "
            "the threshold and probabilities are too optimistic; calibrate on other classes",
            *lines,
        )
    if enrolled := _enrolled_from(known, paths[0]):
        more = f" and {len(enrolled) - 3} more" if len(enrolled) > 3 else ""
        lines = (
            f"WARNING: {', '.join(enrolled[:3])}{more} of the gallery came from {paths[0]}: the "
            "threshold is for people who are not enrolled, so calibrate on others",
            *lines,
        )
    return Output(lines)


def _enrolled_from(known: gallery.Gallery | Store, path: str) -> list[str]:
    """The names whose first reference lies in a folder."""
    place = pathlib.Path(path).expanduser()
    starts = tuple(f"{folder}{os.sep}" for folder in {place.absolute(), place.resolve()})
    return [name for name, _, file in known.summary() if file.startswith(starts)]


def _trained_on(settings: Settings, path: str) -> bool:
    """Whether a folder is the one that the network was trained on."""
    from siamese_jax.runs import workdir

    assert settings.workdir is not None  # which `run` has checked
    place = pathlib.Path(settings.workdir)
    if not (place / "config.json").exists():
        return False
    trained = workdir.read_config(place).get("data", {}).get("path")
    return bool(trained) and _resolved(trained) == _resolved(path)


def _resolved(path: str) -> pathlib.Path:
    return pathlib.Path(path).expanduser().resolve()


def _rebuild(_: Sequence[str], settings: Settings) -> Output:
    file, known = _read(settings)
    net, calibrated = _network(settings), known.calibration is not None
    if isinstance(known, Store):
        from_thumbnails = known.rebuild(net, settings.progress)
    else:
        known, from_thumbnails = gallery.rebuild(known, net)
        file.write(known)
    lines = [
        f"rebuilt {gallery.size(known)} with {net.name}: {len(known) - from_thumbnails} from their "
        f"files, {from_thumbnails} from kept thumbnails"
    ]
    if calibrated and known.calibration is None:
        lines.append("the calibration was of the old network and is dropped: calibrate again")
    return Output(tuple(lines))


def _index(_: Sequence[str], settings: Settings) -> Output:
    file, known, net = _open(settings)
    if not isinstance(known, Store):
        raise ValueError(
            f"{settings.gallery} holds {gallery.size(known)}: an index is for {LARGE:,} pictures or more"
        )
    added = known.index(net, settings.progress)
    count = gallery.plural(added, "picture")
    return Output((f"took {count} into the index; {gallery.size(known)}",))


@dataclasses.dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        function: (words, settings) -> `Output`.
        words: names of the words that it takes; `...` for one or more of the last.
        needs_gallery: whether it needs a gallery.
        needs_network: whether it needs a network.
    """

    function: Callable[[Sequence[str], Settings], Output]
    words: str = ""
    needs_gallery: bool = True
    needs_network: bool = True


COMMANDS = {
    "enrol": Command(_enrol, "NAME IMAGE..."),
    "enrol-folder": Command(_enrol_folder, "PEOPLE"),
    "remove": Command(_remove, "NAME", needs_network=False),
    "list": Command(_list, needs_network=False),
    "identify": Command(_identify, "IMAGE..."),
    "compare": Command(_compare, "IMAGE IMAGE", needs_gallery=False),
    "verify": Command(_verify, "NAME IMAGE"),
    "search": Command(_search, "IMAGE"),
    "calibrate": Command(_calibrate, "FOLDER"),
    "rebuild": Command(_rebuild),
    "index": Command(_index),
}


def _read(settings: Settings) -> tuple[_Place, gallery.Gallery | Store]:
    """Where the gallery is, and the gallery; a large one, a `Store`, writes itself."""
    file = _file(settings)
    if isinstance(file, GalleryFile) and is_store(file.path):
        return file, Store(file.path)
    return file, file.read()


def _enrolled(
    file: _Place,
    known: gallery.Gallery | Store,
    net: network.Siamese,
    people: Mapping[str, Sequence[pictures.Picture]],
    settings: Settings,
) -> gallery.Gallery | Store:
    """The gallery with more references, in its place."""
    if isinstance(known, Store):
        known.enrol_all(net, people, settings.add, settings.progress)
        return known
    known = gallery.enrol_all(known, net, people, settings.add, settings.progress)
    file.write(known)
    return known


def _open(
    settings: Settings, create: bool = False
) -> tuple[_Place, gallery.Gallery | Store, network.Siamese]:
    """As `_read`, and the network; with `create` a new gallery for a new place."""
    file = _file(settings)
    if create and not file.exists():
        net = _network(settings)
        return file, gallery.empty(net), net
    file, known = _read(settings)
    net = _network(settings)
    gallery.check_network(known, net)
    return file, known, net


def _file(settings: Settings) -> _Place:
    assert settings.gallery is not None  # which `run` has checked
    if postgres_connection.is_url(settings.gallery):
        return GalleryDatabase(settings.gallery)
    return GalleryFile(settings.gallery)


def _network(settings: Settings) -> network.Siamese:
    from siamese_jax.inference import network

    assert settings.workdir is not None  # which `run` has checked
    return network.load(settings.workdir, settings.checkpoint, tta=settings.tta)


def _score(match: identification.Match) -> str:
    if match.probability is None:
        return f"score {match.score:.3f}"
    return f"probability {match.probability:.3f}, score {match.score:.3f}"


def _index_lines(known: gallery.Gallery | Store) -> tuple[str, ...]:
    """What is to be said of a large gallery's index."""
    line = known.index_line() if isinstance(known, Store) else ""
    return (line,) if line else ()


def _threshold_line(
    known: gallery.Gallery | Store, net: network.Siamese, answer: identification.Answer
) -> str:
    from siamese_jax.recognition import identification

    calibrated = identification.calibration_in_use(known, net)
    if calibrated is None:
        return "this gallery has no threshold, so nobody is unknown: calibrate it first"
    line = (
        f"threshold {answer.threshold:.3f} of the score, for a false-accept rate of "
        f"{calibrated.rate:g}"
    )
    if calibrated.decided_by == "bound" and calibrated.bound is not None:
        line += f" on fresh classes with {100 * calibrated.bound.confidence:g} % confidence"
    if known.calibration is None:
        line += f", by the network's own calibration ({calibrated.source})"
    if answer.rate_covered:
        return line
    return (
        f"{line}, a rate that was measured for at most {calibrated.max_references} references only"
    )
