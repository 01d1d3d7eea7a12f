"""The top of the page, and the section on where a run came from."""

from __future__ import annotations

import html
import math

from siamese_jax.evaluation.lists import Retrieval, VerificationPairs
from siamese_jax.evaluation.protocols import Result
from siamese_jax.reporting import page
from siamese_jax.reporting.inputs import ReportInputs
from siamese_jax.reporting.wording import (
    capital,
    classes,
    count,
    duration,
    group_noun,
    interval,
    percent,
    shape,
)
from siamese_jax.runs import workdir

_TILES = ("official", "within", "between", "verification", "pairs", "retrieval", "open_set")


def head(inputs: ReportInputs) -> str:
    """The top of the page: what it is, the figures at a glance, and how it came about."""
    data, start = inputs.data, inputs.starts[-1]
    evaluated = f"on {classes(data.test)} that it has never seen"
    if inputs.on_other_data:
        evaluated = f"on another set, {classes(data.test)} ({data.test.name})"
    elif set(data.train.class_names) & set(data.test.class_names):
        evaluated = f"on other {inputs.noun}s of the same classes"
    compared = f"two images of {shape(inputs.net.image_shape)}"
    if not inputs.has_pictures:
        compared = f"two vectors of {count(inputs.net.image_shape[1], 'feature')}"
    training_set = classes(data.train) + (f" ({data.train.name})" if inputs.on_other_data else "")
    model, parameters = inputs.config.model, sum(layer.parameters for layer in inputs.layers)
    lead = (
        f"A siamese network that scores how alike {compared} are: {model.encoder} encoder, "
        f"{model.comparator} comparator, {parameters:,} parameters, objective "
        f"“{inputs.config.objective.name}”. Trained on {training_set}, evaluated {evaluated}."
    )
    parts = [f"<h1>{html.escape(inputs.path.name)}</h1>", f"<p class=lead>{html.escape(lead)}</p>"]
    if inputs.config.data.name in ("auto", "glyphs") and not inputs.is_omniglot:
        parts.append(
            f"<p class=notice><strong>Not Omniglot:</strong> {html.escape(data.note)}. The figures "
            "below are of this set. They cannot be compared with published ones.</p>"
        )
    tiles = "".join(_tile(inputs, key) for key in _TILES if key in inputs.network_results)
    parts.append(f"<ul class=tiles>{tiles}</ul>")
    parts.append(
        page.note(
            f"A score says how alike two {inputs.noun}s are to the network: the higher, the more alike. "
            "It has no unit and no natural zero. A threshold, or a fitted probability, turns it into an "
            "answer. Ranges are 95 % intervals. Chance is the accuracy of guessing."
        )
    )
    command = " ".join(f"<span>{html.escape(argument)}</span>" for argument in start["command"])
    hardware = [start["device"], count(start["num_devices"], "device")]
    restarts = f", {len(inputs.starts)} starts" if len(inputs.starts) > 1 else ""
    facts = [
        ("Data", data.note),
        ("Command", page.Html(command)),
        ("Seed", str(inputs.config.seed)),
        ("Training", _training_time(inputs)),
        ("Hardware", ", ".join([*hardware, count(start["cores"], "CPU core")])),
        ("Commit", start["commit"] or "not in a git checkout"),
        ("Started", f"{inputs.starts[0]['time']}{restarts}"),
        ("Evaluated", f"{inputs.net.name}, {inputs.evaluated}"),
    ]
    return "\n".join([*parts, page.facts(facts)])


def _tile(inputs: ReportInputs, key: str) -> str:
    """One figure at a glance, with its interval and the same of other systems."""
    result, more = inputs.network_results[key], []
    name, f = capital(inputs.protocol_title(result)), result.figures
    unit = f"{result.n_way}-way trials"
    if key in ("verification", "pairs"):
        unit = "pairs"
        more.append(f"AUC {f['auc']:.4f}, equal error {percent(f['eer'])}")
    elif key == "retrieval":
        name, unit = "Retrieval, recall at 1", "queries"
        more.append(f"MAP@R {percent(f['map_at_r'])}")
    elif key == "open_set":
        name, unit = "Open set, at 1 % false alarms", "probes"
        more.append(f"rank 1 {percent(f['rank_1'])}, {f['num_impostors']:,} impostors")
    trials = f"{result.num_trials:,} {unit}"
    lines = [
        trials if math.isnan(result.accuracy) else f"{interval(result.wilson)} · {trials}",
        *more,
    ]
    lines.append(f"chance {percent(_chance(result))}")
    lines += [f"{r.system} {percent(r.accuracy)}" for r in inputs.others(key)]
    return (
        f"<li><span>{html.escape(name)}</span>"
        f"<b>{percent(result.accuracy)}</b>"
        + "".join(f"<span>{html.escape(line)}</span>" for line in lines)
        + "</li>"
    )


def _chance(result: Result) -> float:
    """What guessing reaches."""
    if result.name == "retrieval":
        return float(result.list_of(Retrieval).relevant.mean()) / (len(result.trials.images) - 1)
    if result.n_way:  # of an open set the right name, by a score that 1 % of all probes reach
        return (0.01 if result.name == "open_set" else 1) / result.n_way
    same = float(result.list_of(VerificationPairs).labels.mean())
    return max(same, 1 - same)


def _training_time(inputs: ReportInputs) -> str:
    seconds, before = 0.0, 0
    for row in inputs.log_rows:
        if row["phase"] == "train":
            seconds += (
                inputs.training.images_per_step * (row["step"] - before) / row["images_per_second"]
            )
            before = row["step"]
    return (
        f"{before:,} of {inputs.config.num_steps:,} steps of {inputs.training.images_per_step} images, "
        f"{duration(seconds)} in training steps"
    )


def provenance(inputs: ReportInputs) -> str:
    """Versions, data and the whole config of the run."""
    start = inputs.starts[-1]
    versions = ", ".join(f"{name} {version}" for name, version in start["versions"].items())
    facts = [
        ("Python", start["python"]),
        ("Libraries", versions),
        ("XLA flags", start["xla_flags"] or "none"),
        ("Data fingerprint", start["data_fingerprint"]),
    ]
    for part in ("train", "validation", "test"):
        images = getattr(inputs.data, part)
        counts = [count(len(images), inputs.noun), count(images.num_classes, "class")]
        if images.num_alphabets > 1:
            counts.append(count(images.num_alphabets, group_noun(images.kind)))
        of = " (thresholds)" if inputs.on_other_data and part == "validation" else ""
        facts.append((f"{part.capitalize()} set{of}", f"{images.name}: {', '.join(counts)}"))
    rows = [(False, (name, str(value))) for name, value in workdir.flatten(inputs.config).items()]
    table = page.table(("Field", "Value"), rows)
    return page.facts(facts) + page.folded("The whole config", table)
