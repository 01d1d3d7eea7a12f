"""The commands of `launch/recognize.py`: one function a command, each returns what is to be printed.

What needs jax is imported by the commands that use it, so that the others and usage errors are quick.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from siamese_jax.evaluation import bounds, calibration
from siamese_jax.recognition import gallery
from siamese_jax.recognition.storage import GalleryFile
from siamese_jax.runs import files

if TYPE_CHECKING:
    from siamese_jax.inference import network
    from siamese_jax.recognition import identification


@dataclasses.dataclass(frozen=True)
class Settings:
    """The flags of a command.

    Attributes:
        workdir: of the run whose network is used; None for `list` and `remove`.
        gallery: the gallery's file; None for `compare` without probabilities.
        checkpoint: `best`, `latest` or a step.
        tta: as in `inference.network.load`.
        add: whether `enrol` gives further references to a name that is enrolled already.
        top: how many names or references are shown.
        page: file for the page of `search`; None for one beside the gallery.
        false_accept_rate: of `calibrate`.
        seed: of `calibrate`.
        confidence: of the bound that `calibrate` makes.
        threshold: which one `calibrate` lets decide, `plain` or `bound`.
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
    known = gallery.enrol(known, net, name, new, settings.add)
    file.write(known)
    count = _plural(gallery.reference_counts(known)[name], "picture")
    return Output((f"enrolled {name} with {count}; {gallery.size(known)}",))


def _remove(words: Sequence[str], settings: Settings) -> Output:
    file = _file(settings)
    known = gallery.remove(file.read(), words[0])
    file.write(known)
    return Output((f"removed {words[0]}; {gallery.size(known)}",))


def _list(_: Sequence[str], settings: Settings) -> Output:
    known = _file(settings).read()
    first = {r.name: r.source for r in reversed(known.references)}
    counts = gallery.reference_counts(known)
    rows = ((n, _plural(count, "picture"), f"first {first[n]}") for n, count in counts.items())
    network_line = f"{gallery.size(known)}, of the network {known.network} ({known.fingerprint})"
    return Output((network_line, *calibration.describe(known.calibration)), tuple(rows))


def _identify(paths: Sequence[str], settings: Settings) -> Output:
    from siamese_jax.recognition import identification, pictures

    _, known, net = _open(settings)
    probes = [pictures.read(net, path) for path in paths]
    answers = identification.identify(known, net, probes, settings.top)
    lines = []
    for path, answer in zip(paths, answers, strict=True):
        name = "no threshold" if answer.threshold is None else answer.name or gallery.UNKNOWN
        nearest = ", ".join(f"{m.name} ({_score(m)})" for m in answer.matches)
        lines.append(f"{path}: {name}; nearest {nearest}")
    return Output((*lines, _threshold_line(known, net, answers[0])))


def _compare(paths: Sequence[str], settings: Settings) -> Output:
    from siamese_jax.recognition import identification, pictures

    calibrated = None
    if settings.gallery is None:
        net = _network(settings)
    else:
        _, known, net = _open(settings)
        calibrated = known.calibration
    first, second = (pictures.read(net, path) for path in paths)
    comparison = identification.compare(net, first, second, calibrated)
    probability = "no probability: launch/calibrate.py calibrates the network"
    if comparison.probability is not None:
        probability = f"probability of same {comparison.probability:.4f}"
    return Output(
        (
            f"dissimilarity {comparison.dissimilarity:.4f}, score {comparison.score:.4f}, "
            f"{probability}",
        )
    )


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

    file, known, net = _open(settings)
    page = settings.page or file.path.with_name(f"{file.path.stem}-search.html")
    page = pathlib.Path(page).expanduser()
    if page.resolve() == file.path or (page.exists() and page.samefile(file.path)):
        raise ValueError(f"--page={page} is the gallery itself: give the page another name")
    probe = pictures.read(net, paths[0])
    matches = identification.search(known, net, probe, settings.top)
    if not page.parent.is_dir():
        raise ValueError(f"{page.parent}: no such folder for a page")
    files.replace_text(page, search_page.render(known, probe, matches))
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
    known = gallery.calibrate(
        *(known, net, labelled, settings.false_accept_rate, settings.seed),
        confidence=settings.confidence,
        decided_by=settings.threshold,
    )
    file.write(known)
    lines = calibration.describe(known.calibration)
    if _trained_on(settings, paths[0]):
        lines = (
            f"WARNING: the network was trained on {paths[0]}: on classes that it knows it scores too "
            "well, and the threshold and probabilities are too good; calibrate on other people",
            *lines,
        )
    return Output(lines)


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
    file = _file(settings)
    old = file.read()
    net = _network(settings)
    new, from_thumbnails = gallery.rebuild(old, net)
    file.write(new)
    lines = [
        f"rebuilt {gallery.size(new)} with {net.name}: {len(new) - from_thumbnails} from their files, "
        f"{from_thumbnails} from kept thumbnails"
    ]
    if old.calibration is not None:
        lines.append("the calibration was of the old network and is dropped: calibrate again")
    return Output(tuple(lines))


@dataclasses.dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        function: (words, settings) -> `Output`.
        words: names of the words that it takes; `...` for one or more of the last.
        needs_gallery: whether it needs a gallery's file.
        needs_network: whether it needs a network.
    """

    function: Callable[[Sequence[str], Settings], Output]
    words: str = ""
    needs_gallery: bool = True
    needs_network: bool = True


COMMANDS = {
    "enrol": Command(_enrol, "NAME IMAGE..."),
    "remove": Command(_remove, "NAME", needs_network=False),
    "list": Command(_list, needs_network=False),
    "identify": Command(_identify, "IMAGE..."),
    "compare": Command(_compare, "IMAGE IMAGE", needs_gallery=False),
    "verify": Command(_verify, "NAME IMAGE"),
    "search": Command(_search, "IMAGE"),
    "calibrate": Command(_calibrate, "FOLDER"),
    "rebuild": Command(_rebuild),
}


def _open(
    settings: Settings, create: bool = False
) -> tuple[GalleryFile, gallery.Gallery, network.Siamese]:
    """The gallery's file, the gallery and its network; with `create` a new gallery for a new file."""
    file = _file(settings)
    known = None if create and not file.exists() else file.read()
    net = _network(settings)
    if known is None:
        return file, gallery.empty(net), net
    gallery.check_network(known, net)
    return file, known, net


def _file(settings: Settings) -> GalleryFile:
    assert settings.gallery is not None  # which `run` has checked
    return GalleryFile(settings.gallery)


def _network(settings: Settings) -> network.Siamese:
    from siamese_jax.inference import network

    assert settings.workdir is not None  # which `run` has checked
    checkpoint = settings.checkpoint
    if isinstance(checkpoint, str) and checkpoint.isdigit():
        checkpoint = int(checkpoint)
    return network.load(settings.workdir, checkpoint, tta=settings.tta)


def _score(match: identification.Match) -> str:
    if match.probability is None:
        return f"score {match.score:.3f}"
    return f"probability {match.probability:.3f}, score {match.score:.3f}"


def _threshold_line(
    known: gallery.Gallery, net: network.Siamese, answer: identification.Answer
) -> str:
    calibrated = known.calibration or net.calibrations.get("pictures")
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


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
