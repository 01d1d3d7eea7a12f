"""What `launch/recognize.py` runs: one function a command, each prints and returns an exit code."""

from __future__ import annotations

import base64
import dataclasses
import html
import pathlib
from collections.abc import Sequence

from siamese_jax.data import folder
from siamese_jax.inference import network
from siamese_jax.recognition import calibration, gallery, pictures, storage
from siamese_jax.reporting import pages

USAGE = {
    "enrol": "NAME IMAGE...",
    "remove": "NAME",
    "list": "",
    "identify": "IMAGE...",
    "compare": "IMAGE IMAGE",
    "verify": "NAME IMAGE",
    "search": "IMAGE",
    "calibrate": "FOLDER",
    "rebuild": "",
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the flags say.

    Attributes:
        workdir: of the run whose network is taken; None for `list` and `remove`.
        gallery: the gallery's file; None for `compare` without probabilities.
        checkpoint: `best`, `latest` or a step.
        tta: as in `inference.network.load`.
        add: whether `enrol` gives a name that is there further references.
        top: names or references that are shown.
        page: file for the page of `search`; None for one beside the gallery.
        false_accept_rate: of `calibrate`.
        seed: of `calibrate`.
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


def act(command: str | None, words: Sequence[str], settings: Settings) -> int:
    """Runs one command.

    Args:
        command: one of `USAGE`.
        words: what follows it.
        settings: what the flags say.

    Returns:
        0, or 1 where `verify` rejects.

    Raises:
        ValueError: an unknown command, missing or surplus words or flags, or what the command refuses.
    """
    if command not in USAGE:
        known = ", ".join(f"{name} {usage}".strip() for name, usage in USAGE.items())
        given = "no command is given" if command is None else f"{command!r} is no command"
        raise ValueError(f"{given}: {known}")
    wanted = USAGE[command].split()
    open_ended = USAGE[command].endswith("...")
    if len(words) < len(wanted) or (len(words) > len(wanted) and not open_ended):
        raise ValueError(
            f"{command} takes {USAGE[command] or 'nothing'} and got {' '.join(words) or 'nothing'}"
        )
    if settings.gallery is None and command != "compare":
        raise ValueError(f"{command} needs --gallery=FILE")
    if settings.workdir is None and command not in ("list", "remove"):
        raise ValueError(f"{command} needs --workdir=RUN or --pretrained=NAME")
    if settings.top < 1:
        raise ValueError(f"--top must be at least 1, got {settings.top}")
    actions = {"enrol": _enrol, "remove": _remove, "list": _list, "identify": _identify}
    actions |= {"compare": _compare, "verify": _verify, "search": _search}
    actions |= {"calibrate": _calibrate, "rebuild": _rebuild}
    return actions[command](words, settings) or 0


def _enrol(words, settings):
    name, *paths = words
    file, known, net = _open(settings, or_new=True)
    new = [pictures.read(net, path) for path in paths]
    known = gallery.enrol(known, net, name, new, settings.add)
    file.write(known)
    count = gallery.reference_counts(known)[name]
    print(f"enrolled {name} with {_many(count, 'picture')}; {_size(known)}")


def _remove(words, settings):
    file = storage.GalleryFile(settings.gallery)
    known = gallery.remove(file.read(), words[0])
    file.write(known)
    print(f"removed {words[0]}; {_size(known)}")


def _list(_, settings):
    known = storage.GalleryFile(settings.gallery).read()
    counts = gallery.reference_counts(known)
    width = max(map(len, counts), default=0)
    for name, count in counts.items():
        first = next(r.source for r in known.references if r.name == name)
        print(f"{name.ljust(width)}  {_many(count, 'picture')}, first {first}")
    print(f"{_size(known)}, of the network {known.network} ({known.fingerprint})")
    print(_describe(known.calibration))


def _identify(paths, settings):
    _, known, net = _open(settings)
    probes = [pictures.read(net, path) for path in paths]
    answers = gallery.identify(known, net, probes, settings.top)
    for path, answer in zip(paths, answers, strict=True):
        best = ", ".join(f"{m.name} ({_worth(m)})" for m in answer.matches)
        if answer.threshold is None:
            print(f"{path}: no threshold; nearest {best}")
        elif answer.name is None:
            print(f"{path}: {gallery.UNKNOWN}; nearest {best}")
        else:
            print(f"{path}: {answer.name}; nearest {best}")
    _print_threshold(known, answers[0])


def _compare(paths, settings):
    known = None
    if settings.gallery is not None:
        _, known, net = _open(settings)
    else:
        net = _network(settings)
    first, second = (pictures.read(net, path) for path in paths)
    found = gallery.compare(net, first, second, known and known.calibration)
    if found.probability is None:
        told = "no probability: it needs --gallery=FILE with a calibrated gallery"
    else:
        told = f"probability of same {found.probability:.4f}"
    print(f"dissimilarity {found.dissimilarity:.4f}, score {found.score:.4f}, {told}")


def _verify(words, settings):
    name, path = words
    _, known, net = _open(settings)
    answer = gallery.verify(known, net, name, pictures.read(net, path))
    verdict = "rejected" if answer.name is None else "accepted"
    print(f"{path}: {verdict} as {name} ({_worth(answer.matches[0])})")
    _print_threshold(known, answer)
    return 1 if answer.name is None else 0


def _search(paths, settings):
    file, known, net = _open(settings)
    probe = pictures.read(net, paths[0])
    matches = gallery.search(known, net, probe, settings.top)
    for rank, match in enumerate(matches, 1):
        print(f"{rank:>3}  {match.name}  {_worth(match)}  {match.reference.source}")
    path = settings.page or file.path.with_name(f"{file.path.stem}-search.html")
    path = pathlib.Path(path).expanduser()
    path.write_text(search_page(known, probe, matches), encoding="utf-8")
    print(f"page: {path}")


def _calibrate(paths, settings):
    if not pathlib.Path(paths[0]).expanduser().exists():
        raise ValueError(f"{paths[0]}: no such folder of <name>/<image>")
    file, known, net = _open(settings, or_new=True)
    labelled = folder.load_folder(
        paths[0], image_size=net.image_shape[:2], ink=net.kind == "ink", min_images=2
    )
    rate, seed = settings.false_accept_rate, settings.seed
    known = gallery.calibrate(known, net, labelled, rate, seed)
    file.write(known)
    print(_describe(known.calibration))


def _rebuild(_, settings):
    file = storage.GalleryFile(settings.gallery)
    old = file.read()
    net = _network(settings)
    new, kept = gallery.rebuild(old, net)
    file.write(new)
    print(
        f"rebuilt {_size(new)} with {net.name}: {len(new) - kept} from their files, "
        f"{kept} from kept thumbnails"
    )
    if old.calibration is not None:
        print("the calibration belonged to the old network and is gone: calibrate again")


def search_page(
    known: gallery.Gallery, probe: pictures.Picture, matches: Sequence[gallery.Match]
) -> str:
    """The HTML page of a search: the picture, and its nearest references with their thumbnails.

    Args:
        known: where was searched.
        probe: what was looked for.
        matches: what was found, best first.
    """
    made = known.calibration
    head = ["", "", "name", "score", *(["probability of same"] if made else []), "file"]
    rows = []
    for rank, match in enumerate(matches, 1):
        picture = _thumbnail(match.reference.thumbnail, match.name)
        likely = [f"{match.probability:.3f}"] if made else []
        cells = [str(rank), picture, match.name, f"{match.score:.3f}", *likely]
        rows.append((False, [*cells, match.reference.source]))
    title = f"Nearest to {pathlib.Path(probe.source).name}"
    found = pages.table(head, rows, numbers=(0, *range(3, len(head) - 1)))
    facts = [("picture", probe.source), ("gallery", _size(known)), ("network", known.network)]
    top = f"<h1>{html.escape(title)}</h1>\n{_thumbnail(probe.thumbnail, title)}\n"
    notes = "".join(pages.note(line) for line in _describe(made).splitlines())
    section = ("nearest", "Nearest references", found + notes)
    return pages.page(title, top + pages.facts(facts), [section])


def _open(settings, or_new=False):
    """The file, its gallery and the network, which belong together."""
    file = storage.GalleryFile(settings.gallery)
    known = file.read() if file.exists() or not or_new else None
    net = _network(settings)
    if known is None:
        return file, gallery.empty(net), net
    gallery.check_network(known, net)
    return file, known, net


def _network(settings) -> network.Siamese:
    checkpoint = settings.checkpoint
    if isinstance(checkpoint, str) and checkpoint.isdigit():
        checkpoint = int(checkpoint)
    return network.load(settings.workdir, checkpoint, tta=settings.tta)


def _thumbnail(png: bytes, name: str) -> pages.Html:
    data = base64.b64encode(png).decode()
    return pages.Html(
        f'<img src="data:image/png;base64,{data}" height="96" alt="{html.escape(name)}">'
    )


def _worth(match: gallery.Match) -> str:
    """A match in numbers."""
    if match.probability is None:
        return f"score {match.score:.3f}"
    return f"probability {match.probability:.3f}, score {match.score:.3f}"


def _print_threshold(known, answer):
    if answer.threshold is None:
        print("this gallery has no threshold, so nobody is unknown: calibrate it first")
        return
    made = known.calibration
    print(
        f"threshold {answer.threshold:.3f} of the score, for a false-accept rate of {made.rate:g}"
        + ("" if answer.shown else f", which was shown for at most {made.covers} references only")
    )


def _describe(made: calibration.Calibration | None) -> str:
    """What a calibration was made from and how well it holds."""
    if made is None:
        return "no calibration: no threshold and no probabilities"
    held, (_, one), (most, highest) = made.held, made.thresholds[0], made.thresholds[-1]
    lines = (
        f"calibrated on {made.classes} classes of {made.source} ({made.pictures} pictures) for a "
        f"false-accept rate of {made.rate:g}: threshold {one:.3f} for one reference, {highest:.3f} for "
        f"{most}",
        f"on the {held['classes']} classes held back ({held['pictures']} pictures): reliability error "
        f"of the probabilities {held['reliability_error']:.4f}; false accepts of pairs "
        f"{held['false_accepts']:.4f}, false rejects {held['false_rejects']:.4f}",
        f"galleries of {held['enrolled']} of these with one reference each: rightly named "
        f"{held['detection_rate']:.4f}, false alarms {held['false_alarms']:.4f}",
    )
    return "\n".join(lines)


def _size(known: gallery.Gallery) -> str:
    return f"{_many(len(known.names), 'name')}, {_many(len(known), 'picture')}"


def _many(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"
