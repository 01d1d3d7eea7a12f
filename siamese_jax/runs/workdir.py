"""The folder of a run: its config, where it came from, and its metrics, all readable as they are."""

from __future__ import annotations

import datetime
import fcntl
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any

import jax
from ml_collections import ConfigDict

from siamese_jax import files, readers
from siamese_jax.runs import digests, events

# Fields that may change between two starts of one run: they say where it runs, not what it computes.
# The data's fingerprint says whether these places hold the same data.
PLACES = (
    *("num_devices", "feed", "search_space", "model.weights"),
    *("data.archives", "data.data_dir", "data.path", "data.stream"),
    *("test_data.archives", "test_data.data_dir", "test_data.path", "test_data.stream"),
)
_HIDDEN = frozenset(  # flags of places, which no record shows
    (
        *(f"config.{place}" for place in PLACES),
        *("workdir", "record", "archives", "test_archives", "data_dir", "pairs", "ensemble"),
        *("torch_python", "postgres", "storage", "flagfile"),
    )
)
_START = {"command": list, "time": str, "seed": int, "data_fingerprint": str}  # of the provenance
_LOG_BYTES = 2**25
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "numpy")


class RunFolder:
    """An open run; `close` it, or use it in a `with` statement.

    Args:
        workdir: folder, made if it is missing.
        config: config of the run.
        fingerprint: of the data.
        details: further fields of the provenance.
        primary: whether this process writes; of several processes only the first one does.
        on_log: called with every row that is written, as (step, phase, values).

    Raises:
        ValueError: the folder holds a run of another config or other data, or one that is running.
    """

    def __init__(
        self,
        workdir: str | pathlib.Path,
        config: ConfigDict,
        fingerprint: str,
        details: dict,
        primary: bool = True,
        on_log: Callable[[int, str, dict], object] = lambda step, phase, values: None,
    ) -> None:
        self.path = pathlib.Path(workdir).absolute()
        self.path.mkdir(parents=True, exist_ok=True)
        self._primary, self._on_log = primary, on_log
        self._lock: IO[str] | None = None
        self._events: events.Events | None = None
        if not primary:
            self._check(config, fingerprint)
            return
        self._lock = open(self.path / "lock", "w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise ValueError(f"{self.path} is in use by another process") from None
        try:
            self._check(config, fingerprint)
        except ValueError:
            self.close()
            raise
        self._record_start(config, fingerprint, details)

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the log and unlocks the folder."""
        if self._events is not None:
            self._events.close()
        if self._lock is not None:
            self._lock.close()

    def check_begins(self) -> None:
        """Refuses a run without checkpoints whose log says that it had some.

        The first checkpoint is whole before the third validation.

        Raises:
            ValueError: the checkpoints are gone.
        """
        rows = read_metrics(self.path)
        if sum(row["phase"] == "validation" for row in rows) > 2:
            raise ValueError(
                f"{self.path} has the log of a training up to step {rows[-1]['step']} and no "
                "checkpoints: put them back, or choose another --workdir to train anew"
            )

    def resume(self, step: int) -> list[dict]:
        """Removes the rows after `step`, which will be written again, and returns the others."""
        rows = [row for row in read_metrics(self.path) if row["step"] <= step]
        if not self._primary:
            return rows
        files.replace_text(self.path / "metrics.jsonl", log_text(rows))
        suffix = f".{len(read_provenance(self.path))}"  # two starts in one second differ
        self._events = events.Events(self.path / "tensorboard", step + 1, suffix)
        return rows

    def log_digest(self, step: int) -> str | None:
        """Digest of the log up to a step; None in a process that does not write it."""
        if not self._primary:
            return None
        return digests.of_json([row for row in read_metrics(self.path) if row["step"] <= step])

    def log(self, step: int, phase: str, values: dict[str, float]) -> dict:
        """Adds a row to `metrics.jsonl` and its values to the TensorBoard events.

        Args:
            step: updates made.
            phase: what the values belong to, e.g. `train` or `validation`.
            values: finite numbers by name.
        """
        row = {"step": step, "phase": phase, **values}
        if not self._primary:
            return row
        with open(self.path / "metrics.jsonl", "a") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())
        if self._events is None:
            raise AssertionError("a log begins with `resume`")
        self._events.add({f"{phase}/{name}": value for name, value in values.items()}, step)
        self._on_log(step, phase, values)
        return row

    def _check(self, config: ConfigDict, fingerprint: str) -> None:
        path, folder = self.path / "config.json", self.path / "checkpoints"
        if not path.exists():
            left = [name for name in ("checkpoints", "metrics.jsonl") if _holds(self.path / name)]
            if left:
                raise ValueError(
                    f"{self.path} has no config.json, but {' and '.join(left)}: put config.json "
                    "back, or choose another --workdir"
                )
            return
        if _holds(self.path / "metrics.jsonl") and not folder.is_dir():
            raise ValueError(
                f"{self.path} has metrics.jsonl, but no folder checkpoints: put the folder back, "
                "or choose another --workdir"
            )
        changes = differences(read_config(self.path), config)
        if changes:
            raise ValueError(
                f"{self.path} holds a run of another config ({'; '.join(changes)}): "
                "choose another --workdir"
            )
        recorded = read_start(self.path)["data_fingerprint"]
        if recorded != fingerprint:
            raise ValueError(
                f"{self.path} holds a run on data {recorded}, and this is data {fingerprint}: "
                "choose another --workdir"
            )

    def _record_start(self, config: ConfigDict, fingerprint: str, details: dict) -> None:
        starts = read_provenance(self.path) + [
            {**provenance(), "seed": config.seed, "data_fingerprint": fingerprint, **details}
        ]
        files.replace_json(self.path / "provenance.json", starts)
        if not (self.path / "config.json").exists():
            text = json.dumps(plain(config), indent=1)
            files.replace_text(self.path / "config.json", text)


def provenance() -> dict:
    """Where and with what a figure was computed: commit, versions, device and time."""
    in_checkout = _git("ls-files", "--error-unmatch", pathlib.Path(__file__).name) is not None
    changed = _git("status", "--porcelain", "--untracked-files=no") if in_checkout else None
    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "commit": _git("rev-parse", "--verify", "HEAD") if in_checkout else None,
        "changed_files": (changed or "").splitlines(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "device": jax.devices()[0].device_kind,
        "processor": _processor(),
        "num_devices": jax.device_count(),
        "cores": len(os.sched_getaffinity(0)),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def _git(*words: str) -> str | None:
    """What git answers in the package's folder; None where it fails, as outside of a checkout."""
    here = str(pathlib.Path(__file__).parent)
    try:
        answer = subprocess.run(
            ["git", "--no-optional-locks", "-C", here, *words],
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


def _processor() -> str:
    """The processor's name as Linux gives it."""
    path = pathlib.Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def without_places(config: ConfigDict | Mapping, starts: list[dict]) -> tuple[dict, list[dict]]:
    """A config and provenance for a record that others read: what ran, not in which folders.

    Args:
        config: of the run.
        starts: records of `provenance`.

    Returns:
        The config as a plain dict without its places, and the records with a command that names no
        folder.
    """
    plain_config = plain(config)
    for place in PLACES:
        holder, _, field = place.rpartition(".")
        (plain_config.get(holder, {}) if holder else plain_config).pop(field, None)
    return plain_config, [
        {**start, "command": command_without_places(start["command"])} for start in starts
    ]


def command_without_places(command: Sequence[str]) -> list[str]:
    """A command for a record that others read: no flag of a place, and no URL.

    Other paths that are absolute, or begin with a dot, keep their last two parts.

    Args:
        command: as `sys.argv` has it; flags begin with one dash or two.
    """
    script, *words = command
    shown = ["/".join(pathlib.Path(script).parts[-2:])]
    value_follows = False  # of a flag that is hidden
    for word in words:
        if word.startswith("-"):
            name, equals, value = word.partition("=")
            hidden = name.lstrip("-") in _HIDDEN or "://" in value
            value_follows = hidden and not equals
            word = f"{name}{equals}{':'.join(map(_shortened, value.split(':')))}"
        else:
            hidden, value_follows = value_follows or "://" in word, False
            word = _shortened(word)
        if not hidden:
            shown.append(word)
    return shown


def _shortened(text: str) -> str:
    """The last two parts of a path that is absolute or begins with a dot; other text as it is."""
    if not text.startswith(("/", "~", ".")):
        return text
    return "/".join(part for part in pathlib.Path(text).parts[-2:] if part != "/")


def read_config(workdir: str | pathlib.Path) -> ConfigDict:
    """The config of a run.

    Raises:
        ValueError: the folder holds no run.
    """
    path = pathlib.Path(workdir) / "config.json"
    if not path.exists():
        raise ValueError(f"{workdir} holds no run (it has no config.json)")
    config = readers.read_json(path, dict)
    missing = {"seed", "keep_best", "data", "model", "eval"} - config.keys()
    if missing:
        raise ValueError(f"{path} lacks {', '.join(sorted(missing))}: put back a whole copy")
    try:
        return ConfigDict(config).lock()
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} is not a config ({error}): put back a whole copy") from None


def read_provenance(workdir: str | pathlib.Path) -> list[dict]:
    """One record a start of the run, oldest first."""
    path = pathlib.Path(workdir) / "provenance.json"
    if not path.exists():
        return []
    starts = readers.read_json(path, list)
    for start in starts:
        wrong = [
            name
            for name, kind in _START.items()
            if not isinstance(start, dict) or not isinstance(start.get(name), kind)
        ]
        if wrong:
            raise ValueError(f"{path}: a start of the run has no {wrong[0]}: put back a whole copy")
    return starts


def read_start(workdir: str | pathlib.Path) -> dict:
    """The record of the last start of a run.

    Raises:
        ValueError: there is none.
    """
    starts = read_provenance(workdir)
    if not starts:
        raise ValueError(
            f"{workdir} has no provenance.json, or an empty one: put back a whole copy"
        )
    return starts[-1]


def read_metrics(workdir: str | pathlib.Path) -> list[dict]:
    """The rows of a run's log in order; a last line cut short by a crash is left out."""
    path = pathlib.Path(workdir) / "metrics.jsonl"
    text = readers.check_file(path, _LOG_BYTES).read_bytes() if path.exists() else b""
    lines = text.split(b"\n")[:-1]
    rows = []
    for number, line in enumerate(lines, 1):
        row = readers.parse_json(line, f"{path}, line {number}", dict)
        values = [value for name, value in row.items() if name != "phase"]
        whole = isinstance(row.get("step"), int) and isinstance(row.get("phase"), str)
        if not whole or not all(isinstance(x, int | float) for x in values):
            raise ValueError(
                f"{path}, line {number} is not a row of step, phase and numbers: put back a whole copy"
            )
        if row["phase"] == "validation" and "accuracy" not in row:
            raise ValueError(f"{path}, line {number} has no accuracy: put back a whole copy")
        rows.append(row)
    return rows


def log_text(rows: Sequence[Mapping]) -> str:
    """Rows as `metrics.jsonl` holds them, one a line."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def identity(config: ConfigDict | Mapping, start: Mapping) -> dict:
    """What a checkpoint says of the run that it belongs to.

    Args:
        config: of the run; its seed is said, and the digest of all but its data, which have a
            fingerprint of their own.
        start: record of a start of the run; the shape and the kind of its images are said.
    """
    fields = flatten(config)
    shown = {
        name: _number(value)
        for name, value in fields.items()
        if name not in PLACES and not name.startswith(("data.", "test_data."))
    }
    return {
        "seed": fields["seed"],
        "config": digests.of_json(shown),
        "image_shape": start.get("image_shape"),
        "kind": start.get("kind"),
    }


def _number(value: Any) -> Any:
    """The value with whole floats as integers, which compare equal."""
    if isinstance(value, list):
        return [_number(x) for x in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _holds(path: pathlib.Path) -> bool:
    """Whether there is a file that is not empty, or a folder with something in it."""
    return any(path.iterdir()) if path.is_dir() else path.is_file() and path.stat().st_size > 0


def differences(old: ConfigDict | Mapping, new: ConfigDict | Mapping) -> list[str]:
    """The fields in which two configs differ, in words; `PLACES` are left out."""
    was, now = flatten(old), flatten(new)
    return [
        f"{name} is {now.get(name, 'absent')!r} and was {was.get(name, 'absent')!r}"
        for name in sorted(was.keys() | now.keys())
        if name not in PLACES and was.get(name, "absent") != now.get(name, "absent")
    ]


def flatten(config: ConfigDict | Mapping, prefix: str = "") -> dict[str, Any]:
    """A config as one level of dotted names; sequences count as values."""
    flat = {}
    for name, value in plain(config).items():
        if isinstance(value, dict) and value:
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def plain(config: ConfigDict | Mapping) -> dict[str, Any]:
    """The config as JSON would give it back: dicts, lists, strings and numbers."""
    if isinstance(config, ConfigDict):
        config = config.to_dict()
    return json.loads(json.dumps(config))
