"""A person and a network on the very same trials: a page that asks, and a table of the answers.

`write_page` makes one HTML file that needs no other file and no network. It shows every trial of some
20-way runs, measures the time from the frame in which a trial is shown to its answer, and gives the
player a JSON file. `format_players` makes a table of several such files.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import math
import os
import pathlib
import statistics
import textwrap
from collections.abc import Sequence

import numpy as np
from PIL import Image

from siamese_jax import files, readers
from siamese_jax.data import loading
from siamese_jax.evaluation import intervals, protocols
from siamese_jax.evaluation import trials as trials_lib
from siamese_jax.inference.network import Siamese
from siamese_jax.reporting import page

MOST_RUNS = {"official": 20, "within": 1000}  # by kind of trials
FORMAT = "siamese_jax quiz 1"
N_WAY = 20
_TEMPLATE = pathlib.Path(__file__).with_name("quiz.html")
_FIELDS = ("run", "query", "alphabet", "chosen", "answer", "milliseconds", "model")


@dataclasses.dataclass(frozen=True)
class Quiz:
    """The trials of a quiz and what a network answers.

    Attributes:
        trials: R runs of Q queries against N supports, one support a class.
        alphabets: the alphabet of each run.
        chosen: (R, Q) int, the support that the network gives the highest score.
        correct: (R, Q) float, how right that is: 1 or 0, or a share where several tie.
        network: name of the network.
    """

    trials: trials_lib.Trials
    alphabets: tuple[str, ...]
    chosen: np.ndarray
    correct: np.ndarray
    network: str


def draw_trials(
    archives: str | os.PathLike | None, kind: str = "official", num_runs: int = 20, seed: int = 0
) -> tuple[trials_lib.Trials, tuple[str, ...]]:
    """The trials of a quiz, and the alphabet of each run.

    Args:
        archives: folder with Omniglot's archives; None where it is prepared.
        kind: `official`, the first of Lake's 20 runs; or `within`, runs drawn from the test alphabets,
            all queries of a run by one drawer and all supports by another.
        num_runs: number of runs of 20 trials.
        seed: of the draw.

    Raises:
        ValueError: an unknown kind, or a number of runs that cannot be had.
    """
    if kind not in MOST_RUNS:
        raise ValueError(f"trials must be one of {', '.join(MOST_RUNS)}, got {kind!r}")
    if not 1 <= num_runs <= MOST_RUNS[kind]:
        most = MOST_RUNS[kind]
        raise ValueError(f"a quiz of {kind} trials has 1 to {most} runs, got {num_runs}")
    data = loading.load({"name": "omniglot", "archives": archives and str(archives)})
    if kind == "official":
        names = ("queries", "supports", "answers", "alphabets", "query_drawers", "support_drawers")
        assert data.runs is not None  # of Omniglot
        first = {name: getattr(data.runs, name)[:num_runs] for name in names}
        runs = dataclasses.replace(data.runs, **first)
        return trials_lib.official_trials(runs), runs.alphabets
    trials = trials_lib.within_trials(
        data.test,
        n_way=N_WAY,
        num_trials=num_runs * N_WAY,
        seed=seed,
        skip_small=True,
        queries_per_run=N_WAY,
    )
    of_runs = data.test.alphabets[trials.queries[:, 0]]
    return trials, tuple(data.test.alphabet_names[i] for i in of_runs)


def answer(net: Siamese, trials: trials_lib.Trials, alphabets: Sequence[str]) -> Quiz:
    """A quiz of these trials, answered by a network that sees each picture on its own."""
    result = protocols.evaluate_trials(net.system(), trials)
    chosen = result.scores.argmax(-1)
    return Quiz(trials, tuple(alphabets), chosen, result.correct, net.name)


def write_page(quiz: Quiz, path: str | os.PathLike) -> None:
    """Writes the page of a quiz, one file of UTF-8."""
    files.replace_text(path, render(quiz))


def render(quiz: Quiz) -> str:
    """The page of a quiz as HTML."""
    trials = quiz.trials
    rows = np.unique(np.concatenate([trials.queries.ravel(), trials.supports.ravel()]))
    content = {
        "format": FORMAT,
        "trials": trials.name,
        "hash": trials.hash,
        "network": quiz.network,
        "images": [_png(trials.images[row]) for row in rows],
        "runs": [
            {
                "alphabet": alphabet,
                "queries": np.searchsorted(rows, trials.queries[r]).tolist(),
                "supports": np.searchsorted(rows, trials.supports[r, :, 0]).tolist(),
                "answers": trials.answers[r].tolist(),
                "chosen": quiz.chosen[r].tolist(),
                "correct": quiz.correct[r].tolist(),
            }
            for r, alphabet in enumerate(quiz.alphabets)
        ],
    }
    packed = json.dumps(content, separators=(",", ":")).replace("<", "\\u003c")
    return page.filled(_TEMPLATE).replace("{{quiz}}", packed)


@dataclasses.dataclass(frozen=True)
class Player:
    """What one player answered.

    Attributes:
        name: of the player.
        trials: name of the protocol.
        hash: of the trials on the page.
        network: name of the network beside the player.
        left_out: alphabets that the player knows.
        correct: (T,) float, 1 where the player was right.
        seconds: (T,) float, from the frame in which a trial was shown; NaN where the player had left
            the page in between.
        model: (T,) float, how right the network was.
    """

    name: str
    trials: str
    hash: str
    network: str
    left_out: tuple[str, ...]
    correct: np.ndarray
    seconds: np.ndarray
    model: np.ndarray


def read_player(path: str | os.PathLike) -> Player:
    """Reads the JSON file that the page gives.

    Raises:
        ValueError: no such file, or one that is no answers of a quiz.
    """
    try:
        content = readers.read_json(path, dict)
        if content["format"] != FORMAT:
            raise ValueError(f"its format is {content['format']!r}, not {FORMAT!r}")
        answers = [tuple(trial[field] for field in _FIELDS) for trial in content["answers"]]
        if not answers:
            raise ValueError("it has no answers")
        places = [(run, query) for run, query, *_ in answers]
        if len(set(places)) < len(places):
            raise ValueError("it answers a trial twice")
        *_, chosen, right, milliseconds, models = zip(*answers, strict=True)
        seconds = [math.nan if ms is None else float(ms) / 1000 for ms in milliseconds]
        if not all(math.isnan(second) or 0 <= second < math.inf for second in seconds):
            raise ValueError("milliseconds must be finite, and at least 0")
        model = np.array([float(share) for share in models])
        if not np.isfinite(model).all():
            raise ValueError("model must be finite")
        words = {key: str(content[key]) for key in ("player", "trials", "hash", "network")}
        return Player(
            name=_printable(words["player"]) or "no name",
            trials=_printable(words["trials"]),
            hash=_printable(words["hash"]),
            network=_printable(words["network"]),
            left_out=tuple(_printable(str(name)) for name in content["left_out"]),
            correct=np.array([int(a) == int(b) for a, b in zip(chosen, right, strict=True)], float),
            seconds=np.array(seconds),
            model=np.clip(model, 0, 1),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        text = str(error) if isinstance(error, ValueError) else type(error).__name__
        raise ValueError(f"{path}: no answers of a quiz ({textwrap.shorten(text, 120)})") from None


def format_players(players: Sequence[Player]) -> str:
    """A Markdown table of players beside the network, one for each list of trials.

    Accuracies carry Wilson's 95 % interval. The network's is on the trials that the player answered.
    """
    head = "| player | trials | accuracy, % | 95 % | median, s | network, % | 95 % | left out |"
    tables = []
    for key in dict.fromkeys((p.trials, p.hash, p.network) for p in players):
        name, trial_hash, network = key
        group = [p for p in players if (p.trials, p.hash, p.network) == key]
        rows = [_row(p.name, [p]) for p in group]
        if len(group) > 1:
            rows.append(_row(f"all {len(group)} players", group))
        title = f"{name} trials, hash {trial_hash}, beside {network}"
        tables.append("\n".join([title, "", head, "|---|---|---|---|---|---|---|---|", *rows]))
    return "\n\n".join(tables)


def _row(name: str, players: Sequence[Player]) -> str:
    correct, seconds, model = (
        np.concatenate([getattr(p, field) for p in players])
        for field in ("correct", "seconds", "model")
    )
    seconds = seconds[np.isfinite(seconds)]
    median = f"{statistics.median(seconds):.2f}" if len(seconds) else "-"
    left_out = sorted({alphabet for p in players for alphabet in p.left_out})
    cells = [name.replace("|", "/"), str(len(correct)), *_share(correct), median, *_share(model)]
    return f"| {' | '.join([*cells, ', '.join(left_out).replace('|', '/') or 'none'])} |"


def _share(correct: np.ndarray) -> tuple[str, str]:
    low, high = intervals.wilson_interval(float(correct.sum()), len(correct))
    return f"{100 * correct.mean():.2f}", f"{100 * low:.1f} - {100 * high:.1f}"


def _printable(text: str) -> str:
    return "".join(c for c in " ".join(text.split()) if c.isprintable())[:80]


def _png(image: np.ndarray) -> str:
    """A (H, W, 1) uint8 image, 255 ink, as a base64 PNG of dark ink on light paper."""
    grey = Image.fromarray(255 - image[..., 0])
    if np.isin(image, (0, 255)).all():
        grey = grey.convert("1")  # a third of the bytes
    buffer = io.BytesIO()
    grey.save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()
