"""Faults in what a user gives: files of weights, galleries, records, pictures, tables, fields, flags."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import shutil
import zipfile

import numpy as np

from siamese_jax import readers
from siamese_jax.config import FIELDS, check_fields
from siamese_jax.data import decoding, folder, mnist, vectors
from siamese_jax.evaluation import pairs_csv, protocols, saved
from siamese_jax.evaluation.calibration import Calibration
from siamese_jax.experiments import records
from siamese_jax.inference import network
from siamese_jax.recognition import gallery, pictures, storage, symbol_calibration
from siamese_jax.runs import calibrations, export, safetensors_file
from tests.faults import bench as lib
from tests.faults.bench import ROOT, Bench, damage, kept_or_told, same, told
from tests.faults.runs import edit_file

# --------------------------------------------------------------------------------- weights, galleries


def damaged_weights(bench: Bench, rng: random.Random) -> str | None:
    """A file of weights, NPZ or safetensors, is damaged."""
    weights = export.read(bench.weights)
    if rng.random() < 0.7:
        path = bench.fresh("net.case.npz")
        shutil.copyfile(bench.weights, path)
        read = export.read
    else:
        path = bench.fresh("net.safetensors")
        safetensors_file.write(path, weights)
        read = safetensors_file.read
    what = damage(path, rng)
    wanted = weights.variables
    return kept_or_told(
        lambda: read(path).variables, lambda x: same(x, wanted), f"{path.name} {what}"
    )


def _changed(x: np.ndarray, rng: random.Random) -> np.ndarray | None:
    """An array that is gone, or of another shape, type or content."""
    number = rng.randrange(6)
    if number == 0:
        return None
    if number == 1 and x.dtype.kind == "f":
        x = x.copy()
        x.flat[rng.randrange(max(1, x.size))] = rng.choice((np.nan, np.inf))
        return x
    if number == 2:
        return np.asarray("text")
    return (
        x[None],
        x.reshape(-1)[1:],
        x.astype(np.complex64) if x.dtype.kind in "fiu" else x[None],
    )[number - 3]


def edited_weights(bench: Bench, rng: random.Random) -> str | None:
    """A parameter of a file of weights is gone, or of another shape, type or content."""
    arrays = readers.read_npz(bench.weights)
    name = rng.choice(sorted(arrays))
    x = _changed(arrays[name], rng)
    arrays = {key: value for key, value in arrays.items() if key != name}
    if x is not None:
        arrays[name] = x
    path = bench.fresh("edited.npz")
    texts = {key: str(arrays.pop(key)) for key in export.TEXTS if key in arrays}
    if rng.random() < 0.5:  # whoever did it used the package, so the digest is right
        arrays.pop("digest", None)
        export.write(path, texts, arrays)
        return _loads_or_tells(path, name)
    np.savez_compressed(path, **arrays, **{key: np.asarray(text) for key, text in texts.items()})
    return kept_or_told(lambda: network.load(path), lambda net: False, name)


def _loads_or_tells(path, name: str) -> str | None:
    """A network that loads also scores."""

    def ask():
        net = network.load(path)
        shape = (2, *net.image_shape)
        return net.score_matrix(*[net.embed(np.zeros(shape, np.uint8))] * 2)

    return kept_or_told(ask, lambda scores: np.isfinite(scores).all(), name)


def _gallery(bench: Bench, rng: random.Random) -> tuple[storage.GalleryFile, gallery.Gallery]:
    """A gallery of two names in a new file."""
    known = gallery.empty(bench.net)
    for name in ("anna", "ben"):
        path = bench.fresh("reference.png")
        path.write_bytes(lib.picture(rng, 20))
        known = gallery.enrol(known, bench.net, name, [pictures.read(bench.net, path)])
    file = storage.GalleryFile(bench.fresh("gallery.npz"))
    file.write(known)
    return file, known


def _is(known: gallery.Gallery):
    def compare(other):
        return (
            other.references == known.references
            and np.array_equal(other.embeddings, known.embeddings)
            and other.fingerprint == known.fingerprint
        )

    return compare


def damaged_gallery(bench: Bench, rng: random.Random) -> str | None:
    """A gallery is damaged, or one of its arrays changed."""
    file, known = _gallery(bench, rng)
    if rng.random() < 0.6:
        what = damage(file.path, rng)
    else:
        arrays = readers.read_npz(file.path)
        what = rng.choice(sorted(arrays))
        x = _changed(arrays.pop(what), rng)
        if x is not None:
            arrays[what] = x
        np.savez(file.path, **arrays)
    return kept_or_told(storage.GalleryFile(file.path).read, _is(known), what)


def gallery_through_a_link(bench: Bench, rng: random.Random) -> str | None:
    """A gallery is written where links are planted, or in place of a file with a mode of its own."""
    place = bench.fresh("safe")
    place.mkdir()
    victim = place / "victim"
    victim.write_text("keep me")
    path, mode = place / "g.npz", rng.choice((None, 0o600, 0o640, 0o444))
    for name in (".g.npz.part", "g.npz.part", "g.npz.tmp", ".g.npz", "part.g.npz"):
        (place / name).symlink_to(victim)
    file, _ = _gallery(bench, rng)
    if mode is not None:
        shutil.copyfile(file.path, path)
        path.chmod(mode)
    target = storage.GalleryFile(path)
    known = gallery.empty(bench.net) if mode is None else target.read()
    target.write(known)
    if victim.read_text() != "keep me":
        return "a file behind a link is overwritten"
    found = path.stat().st_mode & 0o777
    return None if found == (mode or 0o600) else f"the mode is {found:o}, and was {mode}"


# --------------------------------------------------------------------------------------------- records


_CALIBRATION = {
    **{
        "rate": 0.1,
        "thresholds": [[1, 0.5], [3, 1.25]],
        "slope": 1.5,
        "offset": -0.5,
        "source": "set",
    },
    **{"fingerprint": "f", "seed": 3, "classes": 10, "pictures": 100},
    "held_out": {
        **{"classes": 9, "pictures": 90, "reliability_error": 0.01, "false_accepts": 0.02},
        **{"false_rejects": 0.1, "enrolled": 4, "detection_rate": 0.5, "false_alarms": 0.03},
    },
}


def damaged_record(bench: Bench, rng: random.Random) -> str | None:
    """results.json, evaluation.npz, or a calibration is damaged or edited."""
    kind = rng.choice(("record", "calibrations", "calibration", "evaluation"))
    if kind == "evaluation":
        return _damaged_evaluation(bench, rng)
    if kind == "record":
        path = bench.fresh("record.json")
        shutil.copyfile(ROOT / "results" / "quickstart" / "seed0.json", path)

        def read():
            return records.read(path, records.Evaluation)

    elif kind == "calibrations":
        place = bench.fresh()
        place.mkdir()
        calibrations.write(place, 5, "pictures", _CALIBRATION)
        path = place / calibrations.FILE

        def read():
            return [Calibration.of(x) for x in calibrations.read(place, 5).values()]

    else:
        path = bench.fresh("calibration.json")
        symbol_calibration.write(path, bench.net, Calibration.of(_CALIBRATION))

        def read():
            return symbol_calibration.read(path, bench.net)

    if rng.random() < 0.6:
        edit_file(path, rng)
    else:
        damage(path, rng)
    return kept_or_told(read, lambda found: True, f"{kind}: {path.read_bytes()[:60]!r}")


def _damaged_evaluation(bench: Bench, rng: random.Random) -> str | None:
    images = folder_set(bench, rng)
    data = protocols.EvaluationData(images)

    def score(queries, supports):
        return queries.mean((1, 2, 3))[:, None] - supports.mean((1, 2, 3))

    settings = {"n_way": 2, "num_trials": 4}
    results = {"it": protocols.run_protocols(score, data, ["between"], settings)}
    place = bench.fresh()
    place.mkdir()
    with open(place / saved.FILE, "wb") as file:
        saved.write(file, results)
    what, wanted = damage(place / saved.FILE, rng), results["it"]["between"].to_dict()
    return kept_or_told(
        lambda: saved.read(place, data)["it"]["between"].to_dict(), lambda x: x == wanted, what
    )


def folder_set(bench: Bench, rng: random.Random):
    """An image set of a folder of three classes."""
    place = bench.fresh("set")
    for name in "abc":
        (place / name).mkdir(parents=True)
        for number in range(3):
            (place / name / f"{number}.png").write_bytes(lib.picture(rng))
    return folder.load_folder(place)


# ------------------------------------------------------------------------------------- files of data


def damaged_data(bench: Bench, rng: random.Random) -> str | None:
    """JSON, an NPZ, a zip of pictures, a picture, or one file of MNIST, with bytes changed."""
    buffer, kind = io.BytesIO(), rng.choice(["json", "npz", "zip", "png", "gz"])
    if kind == "json":
        buffer.write(json.dumps({"a": [1, {"b": 2.5}], "c": "text"}).encode())
    elif kind == "npz":
        np.savez_compressed(buffer, features=np.arange(12.0).reshape(4, 3), classes=list("aabb"))
    elif kind == "zip":
        with zipfile.ZipFile(buffer, "w") as archive:
            for name in ("a/1.png", "a/2.png", "b/1.png"):
                archive.writestr(name, lib.picture(rng))
    elif kind == "png":
        buffer.write(lib.picture(rng, mode=rng.choice(("L", "RGB", "RGBA", "1", "P"))))
    else:
        content = b"".join(x.to_bytes(4, "big") for x in (0x801, 4)) + b"\x01\x02\x03\x04"
        buffer.write(gzip.compress(content))
    path = bench.fresh(f"data.{kind}")
    path.write_bytes(buffer.getvalue())
    what = damage(path, rng)
    read = {
        "json": lambda: readers.read_json(path, dict),
        "npz": lambda: vectors.load_vectors(path),
        "zip": lambda: folder.load_folder(path),
        "png": lambda: decoding.read_picture(path, "L"),
        "gz": lambda: mnist._read_idx(path, 0x801, (4,)),
    }[kind]
    return kept_or_told(read, lambda found: True, f"{kind} {what}")


_WORDS = (
    "1.5",
    "nan",
    "inf",
    "-",
    "",
    "x",
    '"',
    "a,b",
    "1e400",
    "0x1",
    "\x00",
    "ö",
    "'",
    "=1+1",
    " ",
)


def damaged_table(bench: Bench, rng: random.Random) -> str | None:
    """A CSV of vectors or of pairs with cells, lines or bytes changed."""
    if rng.random() < 0.5:
        rows = [["x", "y", "class"], *([str(rng.random()), "2", c] for c in "aabbcc")]
        path = bench.fresh("table.csv")

        def read():
            return vectors.load_vectors(path)

    else:
        place = bench.fresh("listed")
        place.mkdir()
        for name in ("a.png", "b.png", "c.png"):
            (place / name).write_bytes(lib.picture(rng))
        rows = [["a.png", "b.png", "1"], ["a.png", "c.png", "0"], ["b.png", "c.png", "0", "claim"]]
        path = place / "pairs.csv"

        def read():
            return pairs_csv.read_pairs(path, (9, 9, 1), "photo")

    for _ in range(rng.randint(1, 3)):
        row = rng.choice(rows)
        if rng.random() < 0.2:
            rows.remove(row) if len(rows) > 1 else None
        elif rng.random() < 0.2:
            row.append(rng.choice(_WORDS))
        elif row:
            row[rng.randrange(len(row))] = rng.choice(_WORDS)
    path.write_text("\n".join(",".join(row) for row in rows))
    if rng.random() < 0.2 and path.stat().st_size:
        damage(path, rng)
    return kept_or_told(read, lambda found: True, repr(path.read_bytes()[:80]))


def strange_folder(bench: Bench, rng: random.Random) -> str | None:
    """A folder or zip of pictures with strange names, links, pipes, depths, or sizes that are false."""
    folder_set(bench, rng)
    place = bench.folder / "set"
    kind = rng.choice(
        ("name", "bytes", "link", "pipe", "deep", "empty", "text", "size", "names", "big")
    )
    if kind == "name":
        (place / "a").rename(
            place / rng.choice(("a\nb", "a\x1b[31m", "\u202egnp", " ", "$x$", "<b>"))
        )
    elif kind == "bytes":
        os.rename(os.fsencode(place / "a"), os.fsencode(place) + b"/\xff\xfe")
    elif kind == "link":
        (place / "d").symlink_to(rng.choice(("/etc", "../..", "d", "a")))
    elif kind == "pipe":
        os.mkfifo(place / "a" / "9.png")
    elif kind == "deep":
        (place / "/".join("d" * 9)).mkdir(parents=True)
        shutil.copyfile(place / "a" / "0.png", place / "/".join("d" * 9) / "0.png")
    elif kind == "empty":
        shutil.rmtree(place / "a")
        (place / "a").mkdir()
    elif kind == "text":
        (place / "a" / "0.png").write_text("no picture")
    elif kind == "size":
        data = bytearray(lib.picture(rng))
        data[16:24] = rng.randbytes(8)  # width and height; the checksum is wrong as well
        (place / "a" / "0.png").write_bytes(data)
    else:
        path, count = bench.fresh("set.zip"), 3 if kind == "big" else 2000
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for number in range(count):
                content = bytes(2**20) if kind == "big" else b""
                archive.writestr(f"{rng.choice('ab')}/{number}.png", content)
        place = path
    try:
        images = folder.load_folder(place)
    except Exception as error:
        failure = told(error)
        return failure and f"{kind}: {failure}"
    if any(not name.isprintable() for name in images.class_names):
        return f"{kind}: a name that cannot be shown is accepted"
    return None


# -------------------------------------------------------------------------------------- fields, flags

_VALUES = (None, True, -1, 0, 7, 0.5, -0.1, 1e400, float("nan"), 10**30, "x", "", (), (0, 0), [20])
_VALUES += ({"a": 1}, (20,), (20, -1), (1.5, 2.5), (2, 1), b"x", object)


def config_field(bench: Bench, rng: random.Random) -> str | None:
    """A field of a config holds any value: it is in its range, or refused by name."""
    name, value = rng.choice(list(FIELDS)), rng.choice(_VALUES)
    *sections, last = name.split(".")
    config: dict = {last: value}
    for section in reversed(sections):
        config = {section: config}
    try:
        check_fields(config)
    except ValueError as error:
        return None if name in str(error) else f"{name}: {error}"
    except Exception as error:
        return f"{name} = {value!r}: {told(error)}"
    if isinstance(value, dict) or FIELDS[name].accepts(value):
        return None
    return f"{name} = {value!r} is accepted"


def damaged_config(bench: Bench, rng: random.Random) -> str | None:
    """The file of a config has words missing, doubled or changed."""
    text = (ROOT / "configs" / "quickstart.py").read_text()
    body = text.index("def get_config")
    lines = text[body:].splitlines()
    for _ in range(rng.randint(1, 3)):
        number = rng.randrange(len(lines))
        words = lines[number].split(" ")
        place = rng.randrange(len(words))
        words[place : place + 1] = rng.choice(([], [words[place]] * 2, ["("], ["0"], [":"], ["\t"]))
        lines[number] = " ".join(words)
    path = bench.fresh("config.py")
    path.write_text(text[:body] + "\n".join(lines) + "\n")
    code, errors = lib.launched("train", [f"--config={path}:{lib.CONFIG}"])  # a workdir is missing
    return lib.one_line(code, errors, "train")


_FLAGS = {
    "train": ("workdir", "coordinator", "num_processes", "process_id", "heartbeat", "progress"),
    "evaluate": (
        *("protocols", "checkpoint", "archives", "test_data", "part", "pairs", "baselines", "tta"),
        *("ensemble", "num_devices", "num_trials", "n_way", "k_shot", "shot_aggregation", "seed"),
    ),
    "ablate": ("over", "seeds", "jobs", "num_trials", "dry_run"),
    "search": ("trials", "storage", "only", "seed"),
    "report": ("archives", "test_archives", "pairs"),
    "recognize": (
        "gallery",
        "checkpoint",
        "tta",
        "top",
        "false_accept_rate",
        "confidence",
        "threshold",
    ),
    "calibrate": (
        "network",
        "subject",
        "checkpoint",
        "false_accept_rate",
        "confidence",
        "threshold",
    ),
    "export": ("checkpoint", "format", "out"),
}
_GIVEN = (
    "",
    "-1",
    "0",
    "1e400",
    "nan",
    "x",
    str(10**12),
    "None",
    "a,b,,c",
    "/dev/null/x",
    "..",
    "\n",
)
_GIVEN += ("sqlite:///x/y.db", "host:99999999", "[1", "'", "%s", "{}", "ö" * 300)


def strange_flag(bench: Bench, rng: random.Random) -> str | None:
    """A command gets a flag with any value; what it works on is not there, so it ends at once."""
    launcher = rng.choice(sorted(_FLAGS))
    name, value = rng.choice(_FLAGS[launcher]), rng.choice(_GIVEN)
    words = [f"--{name}={value}"]
    nothing = bench.fresh("nothing")
    if launcher in ("ablate", "search", "train"):  # whose workdir is missing, or else their config
        place = nothing if name == "workdir" else ROOT / "configs" / "quickstart"
        words.append(f"--config={place}.py")
    elif launcher != "calibrate":
        words.append(f"--workdir={nothing}")
    if launcher == "recognize":
        words.insert(0, rng.choice(("identify", "enrol", "calibrate", "list", "sing", "search")))
    code, errors = lib.launched(launcher, words)
    failure = lib.one_line(code, errors, launcher)
    return failure and f"launch/{launcher}.py {words}: {failure}"
