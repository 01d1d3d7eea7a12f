"""Faults done to the folder of a run, in this process: it goes on to the same bits, or says why not."""

from __future__ import annotations

import errno
import json
import os
import random
import resource
import shutil

from siamese_jax.inference import network
from siamese_jax.runs import workdir
from tests.faults.bench import (
    STOPPED,
    Bench,
    at_event,
    damage,
    files,
    flip,
    kept_or_told,
    same,
    told,
)

STRANGE = (None, True, -1, 0, 7, 0.5, -0.1, 1e300, 10**30, "x", "", [], {}, [0, 0], {"a": 1}, "\n")


def flipped_and_resumed(bench: Bench, rng: random.Random) -> str | None:
    """One bit of any file of a stopped run is flipped, and the run goes on."""
    path = bench.copy(bench.stopped)
    file = rng.choice(files(path))
    flip(file, rng)
    failure = bench.goes_on(path)
    return failure and f"{file.relative_to(path)}: {failure}"


def lost_and_resumed(bench: Bench, rng: random.Random) -> str | None:
    """A file or folder of a stopped run is missing, empty, cut short or changed, and the run goes on."""
    path = bench.copy(bench.stopped)
    victim = rng.choice(sorted(path.rglob("*")))
    if victim.is_dir():
        shutil.rmtree(victim)
    elif rng.random() < 0.4 or not victim.stat().st_size:
        victim.unlink()
    else:
        damage(victim, rng)
    failure = bench.goes_on(path)
    return failure and f"{victim.relative_to(path)}: {failure}"


def edit(value, rng: random.Random):
    """JSON with one value of another type or size, or one key gone or renamed."""
    if isinstance(value, dict | list) and value and rng.random() < 0.85:
        key = rng.choice(sorted(value)) if isinstance(value, dict) else rng.randrange(len(value))
        if rng.random() < 0.15:
            del value[key]
        elif rng.random() < 0.1 and isinstance(value, dict):
            value[f"{key}x"] = value.pop(key)
        else:
            value[key] = edit(value[key], rng)
        return value
    return rng.choice(STRANGE)


def edit_file(path, rng: random.Random) -> None:
    """Edits a JSON file, or one line of JSON lines."""
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    number = rng.randrange(len(lines))
    lines[number] = json.dumps(edit(json.loads(lines[number]), rng))
    path.write_text("".join(f"{line}\n" for line in lines))


def edited_and_resumed(bench: Bench, rng: random.Random) -> str | None:
    """The config, the provenance or the log of a stopped run is edited, and the run goes on."""
    path = bench.copy(bench.stopped)
    name = rng.choice(("config.json", "provenance.json", "metrics.jsonl"))
    edit_file(path / name, rng)
    failure = bench.goes_on(path)
    return failure and f"{name} is now {(path / name).read_text()[:80]!r}...: {failure}"


def damaged_and_loaded(bench: Bench, rng: random.Random) -> str | None:
    """A file of a finished run is damaged or edited, and its network is loaded."""
    path = bench.copy(bench.unbroken)
    file = rng.choice(files(path))
    if file.suffix in (".json", ".jsonl") and file.parent == path and rng.random() < 0.5:
        edit_file(file, rng)
    else:
        damage(file, rng)
    what, wanted = str(file.relative_to(path)), bench.net.variables
    return kept_or_told(
        lambda: network.load(path, "latest").variables, lambda x: same(x, wanted), what
    )


def another_run(bench: Bench, rng: random.Random) -> str | None:
    """A checkpoint is renamed, or the run is started with another seed or config."""
    path = bench.copy(bench.stopped)
    other = dict(bench.__dict__) | {"config": bench.config.copy_and_resolve_references()}
    other = Bench(**{name: other[name] for name in Bench.__dataclass_fields__})
    what = rng.choice(["step", "seed", "config", "config.json"])
    with other.config.unlocked():
        if what == "step":
            name = str(rng.randint(STOPPED + 1, 30))
            (path / "checkpoints" / str(STOPPED)).rename(path / "checkpoints" / name)
        elif what == "config.json":
            (path / "config.json").unlink()
        else:
            other.config["seed" if what == "seed" else "keep_best"] += rng.randint(1, 9)
            (path / "config.json").write_text(json.dumps(workdir.plain(other.config)))
    other.programs = dict(bench.programs)
    try:
        other.train(path)
    except Exception as error:
        return told(error)
    return f"another {what} is accepted"


def two_writers(bench: Bench, rng: random.Random) -> str | None:
    """A second training of the same folder."""
    path = bench.copy(bench.stopped if rng.random() < 0.5 else bench.unbroken)
    start = workdir.read_start(path)
    details = {name: start[name] for name in ("image_shape", "kind", "data")}
    with workdir.RunFolder(path, bench.config, start["data_fingerprint"], details):
        try:
            bench.train(path)
        except ValueError as error:
            return None if "in use by another process" in str(error) else str(error)
    return "two writers are accepted"


def left_by_a_kill(bench: Bench, rng: random.Random) -> str | None:
    """The folder as it is at any operation on a file, which is what a kill would leave, goes on."""
    number, path, left = rng.randint(1, bench.events), bench.fresh(), bench.fresh("left")

    def act(count):
        if count == number and path.exists():
            for _ in range(20):  # another thread may be writing
                shutil.rmtree(left, ignore_errors=True)
                try:
                    shutil.copytree(path, left)
                except (shutil.Error, OSError):
                    continue
                return

    with at_event(act, path):
        bench.train(path, should_stop=left.exists)
    if not left.exists():
        left.mkdir()
    failure = bench.goes_on(left)
    return failure and f"at operation {number}: {failure}"


def operation_fails(bench: Bench, rng: random.Random) -> str | None:
    """An operation on a file fails, alone or with all later ones; afterwards the run goes on."""
    number, path = rng.randint(1, bench.events), bench.fresh()
    code = rng.choice(
        (errno.ENOSPC, errno.EACCES, errno.EIO, errno.EROFS, errno.EDQUOT, errno.EMFILE)
    )
    last = number if rng.random() < 0.5 else 10**9

    def act(count):
        if number <= count <= last:
            raise OSError(code, os.strerror(code), str(path))

    try:
        with at_event(act, path):
            bench.train(path)
    except Exception as error:
        failure = told(error)
        if failure:
            return f"operation {number}, {errno.errorcode[code]}: {failure}"
    failure = bench.goes_on(path)
    return failure and f"after operation {number}, {errno.errorcode[code]}: {failure}"


def no_large_file(bench: Bench, rng: random.Random) -> str | None:
    """No file may grow beyond a size; afterwards the run goes on."""
    size, path = int(2 ** rng.uniform(6, 20)), bench.fresh()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        bench.train(path)
    except Exception as error:
        failure = told(error)
        if failure:
            return f"{size} bytes: {failure}"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    failure = bench.goes_on(path)
    return failure and f"after {size} bytes: {failure}"
