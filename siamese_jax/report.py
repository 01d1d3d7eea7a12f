"""The page of a run: what was trained, how well it does, and pictures of what it does."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import html
import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from siamese_jax import (
    augment,
    datasets,
    figures,
    inference,
    layers,
    metrics,
    objectives,
    pages,
    sampling,
    steps,
    workdir,
)
from siamese_jax.evaluate import Result

Results = Mapping[str, Mapping[str, Result]]

_KOCH = "Koch et al. 2015, table 2"
# Accuracy on the official 20 runs, %.
PUBLISHED_RUNS = (
    ("ARC, full context", 98.5, "Shyam et al. 2017"),
    ("Bayesian program learning, from strokes", 96.7, "Lake et al. 2015"),
    ("people", 95.5, "Lake et al. 2015"),
    ("hierarchical BPL, from strokes", 95.2, _KOCH),
    ("generative neuro-symbolic, from strokes", 94.3, "Feinman and Lake 2021"),
    ("convolutional siamese network", 92.0, _KOCH),
    ("convolutional network", 86.5, "Lake et al. 2015"),
    ("affine model", 81.8, _KOCH),
    ("hierarchical deep model", 65.2, _KOCH),
    ("deep Boltzmann machine", 62.0, _KOCH),
    ("fully connected siamese network", 58.3, _KOCH),
    ("simple stroke model", 35.2, _KOCH),
    ("1-nearest neighbour", 21.7, _KOCH),
)
# 20-way accuracy between alphabets by shots, %, on their authors' own splits of the characters.
PUBLISHED_BETWEEN = (
    ("relation network", {1: 97.6, 5: 99.1}, "Sung et al. 2018"),
    ("prototypical network", {1: 96.0, 5: 98.9}, "Snell et al. 2017"),
    ("MAML", {1: 95.8, 5: 98.9}, "Finn et al. 2017"),
    ("matching network", {1: 93.8, 5: 98.5}, "Vinyals et al. 2016"),
)
_PROTOCOLS = {
    "within": "within alphabets",
    "koch": "within alphabets, as Koch et al.",
    "between": "between alphabets",
}
_CONFUSED = 12  # pairs of classes that are shown
_MAPPED = 10  # classes an alphabet on the map of embeddings
_ABSENT = "Not evaluated here: launch/evaluate.py with {} among its --protocols adds it."


def write_report(
    path: str | pathlib.Path,
    config,
    data: datasets.Data,
    siamese: inference.Siamese,
    results: Results,
) -> pathlib.Path:
    """Writes `report.html` into a workdir, in place of the one that is there.

    Args:
        path: the run's workdir, whose log and provenance are read.
        config: of the run.
        data: what it was trained and judged on, at any image size.
        siamese: the network.
        results: of `evaluate.run_protocols` by the name of the system: the network's under its own
            `name`, and those of other systems on the same trials. A section whose protocol is not
            there says so.

    Returns:
        The file, which needs no other.

    Raises:
        ValueError: the folder holds no run, or the network is not among the results.
    """
    run = _Run(pathlib.Path(path).absolute(), config, data, siamese, results)
    target = run.path / "report.html"
    part = run.path / "report.part"
    part.write_text(_page(run), encoding="utf-8")
    part.replace(target)
    return target


def draw(
    path: str | pathlib.Path,
    config,
    data: datasets.Data,
    siamese: inference.Siamese,
    results: Results,
) -> dict[str, Figure]:
    """The figures of a run, to be saved with `figures.save`; arguments as of `write_report`.

    Returns:
        Those that the results allow, out of `learning`, `curve`, `trials`, `confusions`, `roc`,
        `training`, `filters` and `embeddings`.
    """
    return _drawn(_Run(pathlib.Path(path).absolute(), config, data, siamese, results))


def confusions(result: Result, classes: np.ndarray) -> list[tuple[int, int, float, int]]:
    """Pairs of classes by how often one was taken for the other in N-way trials.

    Args:
        result: of N-way trials.
        classes: (M,) class of each image of the trials.

    Returns:
        For each pair with a wrong answer: the lower and the higher class, the number of trials that
        asked for one and answered the other (ties shared), and the number that could have. Most
        wrong answers first; of equally many the higher share of wrong ones, then the lower classes.
    """
    trials = result.trials
    asked = classes[trials.queries][..., None]  # (R, Q, 1)
    shown = classes[trials.supports[..., 0]][:, None]  # (R, 1, N)
    low, high = np.minimum(asked, shown).ravel(), np.maximum(asked, shown).ravel()
    other = low != high
    pairs, index = np.unique(np.stack([low, high], 1)[other], axis=0, return_inverse=True)
    wrong = np.bincount(
        index.ravel(), metrics.answer_shares(result.scores).ravel()[other], len(pairs)
    )
    met = np.bincount(index.ravel(), minlength=len(pairs))
    order = np.lexsort((pairs[:, 1], pairs[:, 0], -wrong / met, -wrong))
    return [
        (int(pairs[i, 0]), int(pairs[i, 1]), float(wrong[i]), int(met[i]))
        for i in order
        if wrong[i] > 0
    ]


# -------------------------------------------------------------------------------- what is shown


@dataclasses.dataclass(frozen=True)
class _Run:
    """Arguments of `write_report`, and what follows from them."""

    path: pathlib.Path
    config: Any
    data: datasets.Data
    siamese: inference.Siamese
    results: Results

    def __post_init__(self):
        if not self.starts:
            raise ValueError(f"{self.path} holds no run (it has no provenance.json)")
        if self.siamese.name not in self.results:
            raise ValueError(
                f"there are results of {', '.join(self.results)} but none of the network "
                f"{self.siamese.name!r}: judge it first, under this name"
            )

    @property
    def own(self) -> Mapping[str, Result]:
        """The network's results."""
        return self.results[self.siamese.name]

    @property
    def is_omniglot(self) -> bool:
        """Whether published figures may stand beside those of the run."""
        return self.data.runs_name == "official"

    @property
    def fixed_runs(self) -> str:
        return "official 20 runs" if self.is_omniglot else "fixed runs"

    @functools.cached_property
    def rows(self) -> list[dict]:
        return workdir.read_metrics(self.path)

    @functools.cached_property
    def starts(self) -> list[dict]:
        return workdir.read_provenance(self.path)

    @functools.cached_property
    def layers(self) -> tuple[layers.Layer, ...]:
        return layers.layer_table(self.siamese.model, self.siamese.image_shape)

    @functools.cached_property
    def objective(self) -> objectives.Objective:
        return objectives.build(self.config.objective, int(self.data.train.alphabet_count.max()))

    def of(self, key: str) -> list[Result]:
        """The results of one protocol, of each system that has it, the network's first."""
        found = [by_key[key] for by_key in self.results.values() if key in by_key]
        return sorted(found, key=lambda result: not self.is_own(result))

    def is_own(self, result: Result) -> bool:
        return result.system == self.siamese.name

    def protocol(self, result: Result) -> str:
        if result.group_kind == "run":
            return self.fixed_runs
        return _PROTOCOLS.get(result.name, result.name)

    @functools.cached_property
    def curve(self) -> list[tuple[str, list[Result]]]:
        """Lines of the curve: the network on unseen and on training classes, then other systems."""
        lines = []
        for part in ("unseen", "training"):
            points = [r for key, r in self.own.items() if key.startswith(f"curve/{part}/")]
            lines.append((f"{part} classes", points))
        for system, by_key in self.results.items():
            if system != self.siamese.name:
                points = [r for key, r in by_key.items() if key.startswith("curve/unseen/")]
                lines.append((system, points))
        return [(label, points) for label, points in lines if points]

    @property
    def shown_trials(self) -> Result | None:
        """The trials of which some are shown: best of all those of the fixed runs."""
        keys = ("official", "within", "koch", "between")
        return next((self.own[key] for key in keys if key in self.own), None)

    @property
    def confused_in(self) -> Result | None:
        """The trials, of the test set's own images, whose wrong answers are counted."""
        keys = ("within", "koch", "between")
        return next((self.own[key] for key in keys if key in self.own), None)

    @functools.cached_property
    def confused(self) -> list[tuple[int, int, float, int]]:
        result = self.confused_in
        return [] if result is None else confusions(result, self.data.test.classes)


def _drawn(run: _Run) -> dict[str, Figure]:
    drawn = {}
    if run.rows:
        drawn["learning"] = figures.training_figure(
            run.rows, "training", f"validation, {run.config.eval.n_way}-way"
        )
    if run.curve:
        drawn["curve"] = figures.curve_figure(run.curve)
    if (result := run.shown_trials) is not None:
        titles = [_plain(name) for name in result.trials.group_names]
        if result.group_kind == "run":
            alphabets = enumerate(run.data.runs.alphabets, 1)
            titles = [f"{_plain(alphabet)}, run {number}" for number, alphabet in alphabets]
        drawn["trials"] = figures.trial_grid_figure(result, run.siamese.kind, titles=titles)
    if run.confused:
        drawn["confusions"] = figures.confusion_figure(run.confused[:_CONFUSED], run.data.test)
    if verified := [r for r in run.of("verification") if r.system != "random"]:
        drawn["roc"] = figures.roc_figure(verified)
    drawn["training"] = _training_sheet(run)
    params = run.siamese.devices.first(run.siamese.variables)["params"]
    kernel = layers.first_kernel(run.layers, params)
    if kernel is not None:
        drawn["filters"] = figures.filters_figure(kernel)
    drawn["embeddings"] = figures.embedding_figure(_embedded(run))
    return drawn


def _training_sheet(run: _Run) -> Figure:
    """The first batch of the run, drawn and warped by the training step's own code."""
    train = run.data.train.resized(*run.siamese.image_shape[:2])
    batch, pixels = steps.preview_batch(
        run.config.seed,
        0,
        train.images,
        sampling.SetIndex.of(train),
        run.objective,
        augment.build(run.config.augment),
        "paper" if train.kind == "ink" else "edge",
    )
    if isinstance(batch, sampling.Episodes):
        return figures.episode_figure(np.asarray(pixels), np.asarray(batch.mask), train.kind)
    return figures.pairs_figure(np.asarray(pixels), np.asarray(batch.labels), train.kind)


def _embedded(run: _Run) -> list[tuple[str, np.ndarray, datasets.ImageSet]]:
    """Classes of two test alphabets, the easiest and the hardest if that is known."""
    test, accuracy = run.data.test, {}
    order = list(test.alphabet_names)
    within = run.own.get("within")
    if within is not None and within.group_kind == "alphabet":
        accuracy = {name: part["accuracy"] for name, part in within.per_group.items()}
        order = sorted(accuracy, key=accuracy.get, reverse=True)
    panels = []
    for alphabet in dict.fromkeys((order[0], order[-1])):
        part = test.select(alphabets=[alphabet])
        kept = np.linspace(0, part.num_classes - 1, min(_MAPPED, part.num_classes))
        part = part.select(classes=kept.round().astype(int), drawers=np.unique(part.drawers)[:20])
        title = _plain(alphabet)
        if alphabet in accuracy:
            title += f": {_percent(accuracy[alphabet])} within the alphabet"
        panels.append((title, run.siamese.embed(part.images), part))
    return panels


# ------------------------------------------------------------------------------------- sections


def _page(run: _Run) -> str:
    drawn = _drawn(run)
    sections = [
        ("results", "Results", _results(run)),
        ("learning", "How it learned", _learning(run, drawn)),
        ("curve", "Accuracy against the number of classes", _curve(run, drawn)),
        ("trials", "Sample trials", _trials(run, drawn)),
        ("confusions", "Most often confused", _confusions(run, drawn)),
        ("verification", "Same or different", _verification(run, drawn)),
        ("alphabets", "Alphabet by alphabet", _alphabets(run)),
        ("training", "What the network sees in training", _training(run, drawn)),
        ("network", "The network", _network(run, drawn)),
        ("run", "The run", _provenance(run)),
    ]
    return pages.page(f"{run.path.name}: report", _head(run), sections)


def _figure(figure: Figure, description: str, caption: str) -> str:
    return pages.figure(figures.to_svg(figure, description), caption)


def _head(run: _Run) -> str:
    data, start = run.data, run.starts[-1]
    judged = f"on {_classes(data.test)} that it has never seen"
    if set(data.train.class_names) & set(data.test.class_names):
        judged = "on other pictures of the same classes"
    lead = (
        f"A siamese network ({run.config.model.encoder} encoder, {run.config.model.comparator} "
        f"comparator, {sum(x.parameters for x in run.layers):,} parameters) that scores how alike "
        f"two images of {_shape(run.siamese.image_shape)} are. Trained on {_classes(data.train)}, "
        f"judged {judged}."
    )
    parts = [f"<h1>{html.escape(run.path.name)}</h1>", f"<p class=lead>{html.escape(lead)}</p>"]
    if not run.is_omniglot:
        parts.append(
            f"<p class=notice><strong>Not Omniglot:</strong> {html.escape(data.note)}. What follows is "
            "of this set and cannot be compared with published figures.</p>"
        )
    keys = [key for key in ("official", "within", "between", "verification") if key in run.own]
    parts.append(f"<ul class=tiles>{''.join(_tile(run, key) for key in keys)}</ul>")
    command = " ".join(f"<span>{html.escape(argument)}</span>" for argument in start["command"])
    hardware = [start["device"], _count(start["num_devices"], "device")]
    restarts = f", {len(run.starts)} starts" if len(run.starts) > 1 else ""
    facts = [
        ("Data", data.note),
        ("Command", pages.Html(command)),
        ("Seed", str(run.config.seed)),
        ("Training", _training_time(run)),
        ("Hardware", ", ".join([*hardware, _count(start["cores"], "CPU core")])),
        ("Commit", start["commit"] or "not in a git checkout"),
        ("Started", f"{run.starts[0]['time']}{restarts}"),
        ("Judged", f"{run.siamese.name}, {datetime.date.today().isoformat()}"),
    ]
    return "\n".join([*parts, pages.facts(facts)])


def _tile(run: _Run, key: str) -> str:
    """One figure at a glance, with its interval and the same of other systems."""
    result = run.own[key]
    kind = f"{result.n_way}-way trials" if result.n_way else "pairs"
    lines = [f"{_interval(result.wilson)} · {result.num_trials:,} {kind}"]
    if key == "verification":
        auc, eer = result.figures["auc"], result.figures["eer"]
        lines.append(f"AUC {auc:.4f}, equal error {_percent(eer)}")
    others = [r for r in run.of(key) if not run.is_own(r) and r.system != "random"]
    lines += [f"{r.system} {_percent(r.accuracy)}" for r in others]
    name = run.protocol(result)
    return (
        f"<li><span>{html.escape(name[0].upper() + name[1:])}</span>"
        f"<b>{_percent(result.accuracy)}</b>"
        + "".join(f"<span>{html.escape(line)}</span>" for line in lines)
        + "</li>"
    )


def _training_time(run: _Run) -> str:
    seconds, before = 0.0, 0
    for row in run.rows:
        if row["kind"] == "train":
            seconds += run.objective.images * (row["step"] - before) / row["images_per_second"]
            before = row["step"]
    return (
        f"{before:,} of {run.config.num_steps:,} steps of {run.objective.images} images, "
        f"{_duration(seconds)} in training steps"
    )


def _results(run: _Run) -> str:
    head = ("System", "Accuracy", "", "Wilson 95 %", "Bootstrap 95 %", "Position bias", "Ties")
    head += ("Asymmetry", "Not finite")
    groups = {}
    for key in [key for key in run.own if not key.startswith("curve/")]:
        for r in run.of(key):
            groups.setdefault(_asked(run, r), []).append((run.is_own(r), _result_cells(run, r)))
    rows = [row for asked, members in groups.items() for row in (asked, *members)]
    parts = [
        pages.table(head, rows, numbers=(1, *range(3, 9))),
        pages.note(
            "In a trial one picture is to be named among N classes, each shown by one picture or "
            "more. Wilson’s interval treats trials as independent; the bootstrap draws whole runs or "
            "alphabets, whose trials share pictures, and is the one to trust. Trials of one hash "
            "are the same trials. Signs of a broken system are a position bias (by how many points "
            "the most favoured of the N places is answered more often than it is right; a few are "
            "chance where trials are few), ties at the highest score (their credit is shared), "
            "asymmetry (the largest difference of score(a, b) and score(b, a)), and scores that are "
            "not finite (they count as chance)."
        ),
    ]
    if run.is_omniglot and "official" in run.own:
        parts += ["<h3>Beside published figures: official 20 runs</h3>", _published_runs(run)]
    between = run.own.get("between")
    if run.is_omniglot and between and between.n_way == 20 and between.k_shot in (1, 5):
        title = f"between alphabets, 20-way {between.k_shot}-shot"
        parts += [f"<h3>Beside published figures: {title}</h3>", _published_between(run, between)]
    return "\n".join(parts)


def _asked(run: _Run, result: Result) -> str:
    """What a result's trials are, in one line."""
    groups = _count(len(result.per_group), result.group_kind)
    if result.n_way:
        what = f"{result.n_way}-way {result.k_shot}-shot, {result.num_trials:,} trials"
    else:
        what = f"{result.scope}, {result.num_trials:,} pairs"
    name = run.protocol(result)
    return f"{name[0].upper()}{name[1:]}: {what}, bootstrap over {groups}, hash {result.trial_hash}"


def _result_cells(run: _Run, result: Result) -> tuple[str, ...]:
    checks = result.diagnostics
    return (
        result.system,
        _percent(result.accuracy),
        pages.bar(result.accuracy, run.is_own(result)),
        _interval(result.wilson),
        _interval(result.bootstrap),
        f"{100 * checks['position_bias']:+.1f}" if "position_bias" in checks else "–",
        _percent(checks["tied_trials"]) if "tied_trials" in checks else "–",
        "–" if checks["asymmetry"] is None else f"{checks['asymmetry']:.2g}",
        f"{checks['nonfinite_scores']:,}",
    )


def _published_runs(run: _Run) -> str:
    rows = [_measured(run, r) for r in run.of("official")]
    rows += [
        (value, f"{value:.1f}\N{NO-BREAK SPACE}%", name, "", source, False)
        for name, value, source in PUBLISHED_RUNS
    ]
    return _ranking(rows) + pages.note(
        "One error of 400 is 0.25 points. Published figures are as their sources give them, or 100 % "
        "less the error that they give."
    )


def _published_between(run: _Run, between: Result) -> str:
    rows = [_measured(run, between)]
    for name, by_shots, source in PUBLISHED_BETWEEN:
        value = by_shots[between.k_shot]
        rows.append((value, f"{value:.1f}\N{NO-BREAK SPACE}%", name, "", source, False))
    return _ranking(rows) + pages.note(
        "The published figures are on their authors’ own splits of the characters, not by alphabet, "
        "with other trials: a neighbourhood, not a ranking."
    )


def _measured(run: _Run, result: Result) -> tuple:
    share = result.accuracy
    interval = _interval(result.wilson)
    return (
        100 * share,
        _percent(share),
        result.system,
        interval,
        "measured here",
        run.is_own(result),
    )


def _ranking(rows: list[tuple]) -> str:
    """Rows are: value in %, its text, system, interval, source, whether it is this run."""
    rows = sorted(rows, key=lambda row: -row[0])
    return pages.table(
        ("System", "Accuracy", "", "Wilson 95 %", "Source"),
        [
            (own, (system, text, pages.bar(value / 100, own), interval, source))
            for value, text, system, interval, source, own in rows
        ],
        numbers=(1, 3),
    )


def _learning(run: _Run, drawn: Mapping[str, Figure]) -> str:
    if "learning" not in drawn:
        return pages.note("The run has logged nothing yet.")
    config = run.config
    question = "same or different"
    if config.objective.name == "episode":
        among = "batch" if config.objective.contrast == "batch" else "episode"
        question = (
            f"to name each picture of one side among those of the other, in the whole {among}"
        )
    caption = (
        f"Left: loss, the mean of {config.log_every} steps. Right: accuracy on the training question "
        f"({question}; warped pictures), and on {config.eval.trials:,} {config.eval.n_way}-way trials "
        "of the validation classes. The two ask different things: only their course can be "
        "compared. Validation chose the checkpoint, and the test classes had no part in it."
    )
    return _figure(drawn["learning"], "Training loss and accuracies against the step", caption)


def _curve(run: _Run, drawn: Mapping[str, Figure]) -> str:
    if "curve" not in drawn:
        return pages.note(_ABSENT.format("curve"))
    results = [r for _, points in run.curve for r in points]
    caption = (
        f"{_range(r.num_trials for r in results)} trials a point, {results[0].k_shot}-shot; bands are "
        "95 % Wilson intervals, the dotted line is 1 / N. A filled point is within alphabets. Where N "
        "is above the size of the smallest alphabet the trials go between alphabets, which is easier: "
        "a ring, with no line across the change."
    )
    rows = [
        (
            label == run.curve[0][0],
            (
                label,
                str(r.n_way),
                r.scope,
                f"{r.num_trials:,}",
                _percent(r.accuracy),
                _interval(r.wilson),
                _interval(r.bootstrap),
                r.trial_hash,
            ),
        )
        for label, points in run.curve
        for r in sorted(points, key=lambda r: r.n_way)
    ]
    head = ("Line", "N", "Scope", "Trials", "Accuracy", "Wilson 95 %", "Bootstrap 95 %", "Hash")
    table = pages.table(head, rows, numbers=(1, 3, 4, 5, 6))
    return _figure(
        drawn["curve"], "Accuracy against the number of classes N", caption
    ) + pages.folded("The figures behind the curve", table)


def _trials(run: _Run, drawn: Mapping[str, Figure]) -> str:
    result = run.shown_trials
    if result is None:
        return pages.note(_ABSENT.format("within"))
    wrong = int((result.correct < 1).sum())
    shots = f" (the first of {result.k_shot} pictures of each)" if result.k_shot > 1 else ""
    caption = (
        f"{wrong:,} of {result.num_trials:,} trials ({run.protocol(result)}) are not right; of those "
        "shown, up to half were drawn from them, so they are more frequent here than in truth. Left "
        f"the picture to be named, right the classes to choose from{shots} with their scores, the "
        "highest in bold. A tick marks the right class. A thick border is a right answer; a broken "
        "border with a cross is a wrong one."
    )
    return _figure(drawn["trials"], "Sample N-way trials with the answers given", caption)


def _confusions(run: _Run, drawn: Mapping[str, Figure]) -> str:
    result = run.confused_in
    if result is None:
        return pages.note(_ABSENT.format("within"))
    if not run.confused:
        return pages.note(f"None: all {result.num_trials:,} trials are right.")
    caption = (
        f"Pairs of classes by how often one was answered for the other, of the times that one was "
        f"asked for and the other was there, in {result.num_trials:,} {result.n_way}-way trials "
        f"{run.protocol(result)}. Each line shows pictures of one class. "
        f"{min(_CONFUSED, len(run.confused))} of {len(run.confused):,} pairs with an error."
    )
    return _figure(drawn["confusions"], "Pairs of classes most often confused", caption)


def _verification(run: _Run, drawn: Mapping[str, Figure]) -> str:
    verified = run.of("verification")
    if "roc" not in drawn:
        return pages.note(_ABSENT.format("verification"))
    rows = []
    for r in verified:
        f = r.figures
        cells = (
            r.system,
            _percent(r.accuracy),
            f"{f['auc']:.4f} ({_interval(f['auc_interval'], 1, 3)})",
            f"{_percent(f['eer'])} ({_interval(f['eer_interval'])})",
            f"{f['threshold']:.4g}",
            _percent(f["far"]),
            _percent(f["frr"]),
        )
        rows.append((run.is_own(r), cells))
    head = ("System", "Accuracy", "AUC", "Equal error", "Threshold", "False accepts")
    table = pages.table((*head, "False rejects"), rows, numbers=range(1, 7))
    caption = (
        f"{verified[0].num_trials:,} pairs, half of one class and half of two "
        f"({verified[0].scope}). Left: the ROC; a ring marks the equal error rate. Right: the scores "
        "of the network. Thresholds were chosen on validation pairs; intervals are a bootstrap over "
        f"{_count(len(verified[0].per_group), verified[0].group_kind)}."
    )
    if run.is_omniglot:
        caption += (
            " Koch et al. (2015, table 1) report 93.42 % for 150,000 training pairs with distortions, "
            "on test pairs of their own."
        )
    return table + _figure(drawn["roc"], "ROC curve and histograms of scores", caption)


def _alphabets(run: _Run) -> str:
    own = run.own.get("within")
    if own is None:
        return pages.note(_ABSENT.format("within"))
    if own.group_kind != "alphabet":
        return pages.note("The test set has one alphabet only.")
    others = [r for r in run.of("within") if not run.is_own(r) and r.system != "random"]
    runs = _right_by_alphabet(run)
    sizes = dict(zip(run.data.test.alphabet_names, run.data.test.alphabet_count, strict=True))
    rows = []
    for alphabet, part in sorted(own.per_group.items(), key=lambda item: -item[1]["accuracy"]):
        share, trials = part["accuracy"], part["num_trials"]
        right, count = runs.get(alphabet, (0.0, 0))
        cells = (
            _plain(alphabet),
            str(sizes[alphabet]),
            f"{trials:,}",
            _percent(share),
            pages.bar(share, True),
            _interval(metrics.wilson_interval(share * trials, trials)),
            *(_percent(r.per_group[alphabet]["accuracy"]) for r in others),
            f"{right:.4g} of {count}" if count else "–",
        )
        rows.append((False, cells))
    head = ("Alphabet", "Characters", "Trials", "Accuracy", "", "Wilson 95 %")
    head += (*(r.system for r in others), run.fixed_runs[0].upper() + run.fixed_runs[1:])
    return pages.table(head, rows, numbers=(1, 2, 3, *range(5, len(head)))) + pages.note(
        f"{own.n_way}-way {own.k_shot}-shot trials within each test alphabet, the easiest first; in "
        "the last column the trials of the fixed runs that were answered rightly."
    )


def _right_by_alphabet(run: _Run) -> dict[str, tuple[float, int]]:
    """Right answers and trials of the fixed runs by alphabet."""
    counts = {}
    if "official" in run.own:
        correct = run.own["official"].correct
        for alphabet, of_run in zip(run.data.runs.alphabets, correct, strict=True):
            right, trials = counts.get(alphabet, (0.0, 0))
            counts[alphabet] = (right + float(of_run.sum()), trials + of_run.size)
    return counts


def _training(run: _Run, drawn: Mapping[str, Figure]) -> str:
    config = run.config
    turned = "" if config.objective.turns == "none" else "; turned or mirrored as a whole"
    warped = "each picture warped for itself" if config.augment.distort else "not warped"
    if config.objective.name == "episode":
        sides = "the same classes on both sides by different pictures"
        if run.data.train.kind == "ink":
            sides = "characters of one alphabet, by one person on side A and by another on side B"
        caption = (
            f"Episodes of the run’s first batch: {sides}. Two pictures in one column are the same "
            f"class (label 1), any other two are different (label 0){turned}; {warped}."
        )
    else:
        caption = f"Pairs of the run’s first batch with their labels, 1 = same{turned}; {warped}."
    return _figure(drawn["training"], "Training pictures as the network sees them", caption)


def _network(run: _Run, drawn: Mapping[str, Figure]) -> str:
    parameters = sum(layer.parameters for layer in run.layers)
    encoder = sum(layer.multiply_adds for layer in run.layers if layer.output_shape)
    rows = [
        (
            False,
            (
                layer.name,
                f"{layer.kind} {_shape(layer.kernel)}",
                _shape(layer.input_shape),
                _shape(layer.output_shape) or "a score",
                f"{layer.parameters:,}",
                f"{layer.multiply_adds:,}" if layer.multiply_adds else "–",
            ),
        )
        for layer in run.layers
    ]
    rows.append((True, ("total, one image", "", "", "", f"{parameters:,}", f"{encoder:,}")))
    head = ("Layer", "Kind", "Input", "Output", "Parameters", "Multiply-adds")
    parts = [
        pages.table(head, rows, numbers=(2, 3, 4, 5)),
        pages.note(
            f"Counted on the model itself. One image costs {encoder / 1e6:,.1f} million multiply-adds "
            "in convolutions and matrix products; those of the comparator are of one pair and not in "
            "the total. Where an input is smaller than the output before it there is a pool between."
        ),
    ]
    if "filters" in drawn:
        zero = (
            "grey is zero"
            if run.siamese.image_shape[2] == 3
            else (
                f"red where {'ink' if run.siamese.kind == 'ink' else 'light'} raises the response, blue "
                "where it lowers it, white zero"
            )
        )
        caption = f"Each filter is scaled to its own largest weight: {zero}."
        parts.append("<h3>First-layer filters</h3>")
        parts.append(_figure(drawn["filters"], "Filters of the first layer", caption))
    caption = (
        f"Test classes, up to {_MAPPED} an alphabet, on the first two principal components of their "
        "embeddings. Each point is a picture, joined to the mean of its class, where one picture of "
        "the class stands. Two components hold only the stated part of what the network sees."
    )
    parts.append("<h3>A map of embeddings</h3>")
    parts.append(_figure(drawn["embeddings"], "Embeddings on two principal components", caption))
    return "\n".join(parts)


def _provenance(run: _Run) -> str:
    start = run.starts[-1]
    versions = ", ".join(f"{name} {version}" for name, version in start["versions"].items())
    facts = [
        ("Python", start["python"]),
        ("Libraries", versions),
        ("XLA flags", start["xla_flags"] or "none"),
        ("Data fingerprint", start["data_fingerprint"]),
    ]
    for part in ("train", "validation", "test"):
        images = getattr(run.data, part)
        counts = [_count(len(images), "picture"), _count(images.num_classes, "class")]
        counts.append(_count(images.num_alphabets, "alphabet"))
        facts.append((f"{part.capitalize()} set", f"{images.name}: {', '.join(counts)}"))
    rows = [(False, (name, str(value))) for name, value in workdir.flatten(run.config).items()]
    table = pages.table(("Field", "Value"), rows)
    return pages.facts(facts) + pages.folded("The whole config", table)


# -------------------------------------------------------------------------------------- wording


def _percent(share: float) -> str:
    return f"{100 * share:.2f}\N{NO-BREAK SPACE}%"


def _interval(limits: Sequence[float], scale: float = 100, digits: int = 1) -> str:
    low, high = limits
    if not math.isfinite(low):
        return "–"
    return f"{scale * low:.{digits}f} – {scale * high:.{digits}f}"


def _range(counts: Iterable[int]) -> str:
    low, *_, high = sorted([*counts] * 2)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _count(number: int, what: str) -> str:
    plural = f"{what}es" if what.endswith("s") else f"{what}s"
    return f"{number:,} {what if number == 1 else plural}"


def _shape(sizes: Sequence[int]) -> str:
    return " × ".join(map(str, sizes))


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = ((hours, "h"), (minutes, "min"), (seconds, "s"))
    return " ".join(f"{n} {unit}" for n, unit in parts if n) or "under a second"


def _plain(name: str) -> str:
    return name.replace("_", " ")


def _classes(images: datasets.ImageSet) -> str:
    text = _count(images.num_classes, "class")
    return f"{text} of {images.num_alphabets:,} alphabets" if images.num_alphabets > 1 else text
