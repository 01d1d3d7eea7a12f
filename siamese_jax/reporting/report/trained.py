"""The sections on the run itself: its head, how it learned, its batches, the network, provenance."""

from __future__ import annotations

import datetime
import html
import math
from collections.abc import Mapping

from matplotlib.figure import Figure

from siamese_jax.reporting import pages
from siamese_jax.reporting.figures import side_name
from siamese_jax.reporting.report import drawn
from siamese_jax.reporting.report.run import NO_FIGURES, Run
from siamese_jax.reporting.report.wording import (
    capital,
    classes,
    count,
    duration,
    interval,
    listed,
    percent,
    shape,
)
from siamese_jax.runs import workdir

_TILES = ("official", "within", "between", "verification", "pairs", "retrieval", "open_set")


def head(run: Run) -> str:
    """The top of the page: what it is, the figures at a glance, and how it came about."""
    data, start = run.data, run.starts[-1]
    evaluated = f"on {classes(data.test)} that it has never seen"
    if run.elsewhere:
        evaluated = f"on another set, {classes(data.test)} ({data.test.name})"
    elif set(data.train.class_names) & set(data.test.class_names):
        evaluated = f"on other {run.thing}s of the same classes"
    compared = f"two images of {shape(run.siamese.image_shape)}"
    if not run.has_pictures:
        compared = f"two vectors of {count(run.siamese.image_shape[1], 'feature')}"
    trained = classes(data.train) + (f" ({data.train.name})" if run.elsewhere else "")
    lead = (
        f"A siamese network ({run.config.model.encoder} encoder, {run.config.model.comparator} "
        f"comparator, {sum(x.parameters for x in run.layers):,} parameters, trained by the objective "
        f"“{run.config.objective.name}”) that scores how alike {compared} are. Trained on {trained}, "
        f"evaluated {evaluated}."
    )
    parts = [f"<h1>{html.escape(run.path.name)}</h1>", f"<p class=lead>{html.escape(lead)}</p>"]
    if run.config.data.name in ("auto", "glyphs") and not run.is_omniglot:
        parts.append(
            f"<p class=notice><strong>Not Omniglot:</strong> {html.escape(data.note)}. What follows is "
            "of this set and cannot be compared with published figures.</p>"
        )
    tiles = "".join(_tile(run, key) for key in _TILES if key in run.own)
    parts.append(f"<ul class=tiles>{tiles}</ul>")
    command = " ".join(f"<span>{html.escape(argument)}</span>" for argument in start["command"])
    hardware = [start["device"], count(start["num_devices"], "device")]
    restarts = f", {len(run.starts)} starts" if len(run.starts) > 1 else ""
    facts = [
        ("Data", data.note),
        ("Command", pages.Html(command)),
        ("Seed", str(run.config.seed)),
        ("Training", _training_time(run)),
        ("Hardware", ", ".join([*hardware, count(start["cores"], "CPU core")])),
        ("Commit", start["commit"] or "not in a git checkout"),
        ("Started", f"{run.starts[0]['time']}{restarts}"),
        ("Judged", f"{run.siamese.name}, {datetime.date.today().isoformat()}"),
    ]
    return "\n".join([*parts, pages.facts(facts)])


def _tile(run: Run, key: str) -> str:
    """One figure at a glance, with its interval and the same of other systems."""
    result, more = run.own[key], []
    name, f = capital(run.protocol(result)), result.figures
    what = f"{result.n_way}-way trials"
    if key in ("verification", "pairs"):
        what = "pairs"
        more.append(f"AUC {f['auc']:.4f}, equal error {percent(f['eer'])}")
    elif key == "retrieval":
        name, what = "Retrieval, recall at 1", "queries"
        more.append(f"MAP@R {percent(f['map_at_r'])}")
    elif key == "open_set":
        name, what = "Open set, at 1 % false alarms", "probes"
        more.append(f"rank 1 {percent(f['rank_1'])}, {f['num_impostors']:,} impostors")
    trials = f"{result.num_trials:,} {what}"
    lines = [
        trials if math.isnan(result.accuracy) else f"{interval(result.wilson)} · {trials}",
        *more,
    ]
    others = [r for r in run.of(key) if not run.is_own(r) and r.system not in NO_FIGURES]
    lines += [f"{r.system} {percent(r.accuracy)}" for r in others]
    return (
        f"<li><span>{html.escape(name)}</span>"
        f"<b>{percent(result.accuracy)}</b>"
        + "".join(f"<span>{html.escape(line)}</span>" for line in lines)
        + "</li>"
    )


def _training_time(run: Run) -> str:
    seconds, before = 0.0, 0
    for row in run.rows:
        if row["phase"] == "train":
            seconds += run.objective.images * (row["step"] - before) / row["images_per_second"]
            before = row["step"]
    return (
        f"{before:,} of {run.config.num_steps:,} steps of {run.objective.images} images, "
        f"{duration(seconds)} in training steps"
    )


def learning(run: Run, figures: Mapping[str, Figure]) -> str:
    """Loss and accuracies against the step."""
    if "learning" not in figures:
        return pages.note("The run has logged nothing yet.")
    config = run.config
    warped = f"; warped {run.thing}s" if config.augment.distort else ""
    caption = (
        f"Left: loss, the mean of {config.log_every} steps. Right: accuracy on the training question "
        f"({_question(run)}{warped}), and on {config.eval.num_trials:,} {config.eval.n_way}-way trials of "
        "the validation classes. The two ask different things: only their course can be compared. "
        "Validation chose the checkpoint, and the test classes had no part in it."
    )
    logged = next((row for row in run.rows if row["phase"] == "train"), {})
    if "distance_same" in logged:
        caption += (
            " Below the loss the mean Euclidean distance of same and of different pairs of a batch: a "
            "network that has collapsed has both at zero."
        )
    if "active" in logged:
        caption += " A triplet is active while it costs something."
    return drawn.show(figures["learning"], "Training loss and accuracies against the step", caption)


def _question(run: Run) -> str:
    """What the training accuracy is of."""
    objective = run.config.objective
    if objective.name == "contrastive":
        return "same or different, by a distance below half of the margin"
    if objective.name == "triplet":
        return "whether the positive of a mined triplet is nearer than its negative"
    if objective.name == "info_nce":
        among = "batch" if objective.contrast == "batch" else "episode"
        return (
            f"to name each {run.thing} of one side among those of the other, in the whole {among}"
        )
    if objective.name in ("prototypical", "matching"):
        return (
            f"to name each {run.thing} among the {objective.n_way} classes of its episode, shown by "
            f"{objective.k_shot} each"
        )
    if objective.name == "classifier":
        return f"to name the training class of each {run.thing}"
    return "same or different"


def batch(run: Run, figures: Mapping[str, Figure]) -> str:
    """The first batch of the run."""
    config, train = run.config, run.data.train
    if "training" not in figures:
        return pages.note(
            "The network sees vectors, each feature shifted and scaled to mean 0 and standard "
            "deviation 1 of the training part. There are no pictures to show."
        )
    name = config.objective.name
    turned = "" if config.objective.symmetries == "none" else "; turned or mirrored as a whole"
    warped = "each picture warped for itself" if config.augment.distort else "not warped"
    if "n_way" in config.objective:
        sides = [side_name(side) for side in range(run.objective.images_per_class)]
        drawn_by = "the same classes on all sides by different pictures"
        if train.kind == "ink" and train.num_alphabets > 1:
            drawn_by = "characters of one alphabet, on each of the sides "
            drawn_by += f"{listed(sides)} by another person"
        asks = "are different (label 0)"
        if name == "triplet":
            asks = "are anchor and negative"
        elif name in ("prototypical", "matching"):
            asks = "are not; each side is asked once, with the others for its support set"
        same = "anchor and positive" if name == "triplet" else "the same class"
        label = " (label 1)" if name == "info_nce" else ""
        caption = (
            f"Episodes of the run’s first batch: {drawn_by}. Two pictures in one column are {same}"
            f"{label}, any other two {asks}{turned}; {warped}."
        )
    elif name == "classifier":
        caption = (
            "Pictures of the run’s first batch with the names of their classes, which the network is "
            f"to tell{turned}{', which makes another class' if turned else ''}; {warped}."
        )
    else:
        caption = f"Pairs of the run’s first batch with their labels, 1 = same{turned}; {warped}."
    return drawn.show(figures["training"], "Training pictures as the network sees them", caption)


def network(run: Run, figures: Mapping[str, Figure]) -> str:
    """The layers, the first filters, and a map of embeddings."""
    parameters = sum(layer.parameters for layer in run.layers)
    encoder = sum(x.multiply_adds for x in run.layers if x.name.startswith("encoder"))
    noun = "image" if run.has_pictures else "vector"
    cost = f"{encoder / 1e6:,.1f} million" if encoder >= 1e6 else f"{encoder:,}"
    rows = [
        (
            False,
            (
                layer.name,
                f"{layer.layer_type} {shape(layer.kernel)}",
                shape(layer.input_shape),
                shape(layer.output_shape) if layer.output_shape else "a score",
                f"{layer.parameters:,}",
                f"{layer.multiply_adds:,}" if layer.multiply_adds else "–",
            ),
        )
        for layer in run.layers
    ]
    rows.append((True, (f"total, one {noun}", "", "", "", f"{parameters:,}", f"{encoder:,}")))
    head = ("Layer", "Kind", "Input", "Output", "Parameters", "Multiply-adds")
    parts = [
        pages.table(head, rows, numbers=(2, 3, 4, 5)),
        pages.note(
            f"Counted on the model itself. One {noun} costs {cost} multiply-adds "
            "in convolutions and matrix products; those of the comparator are of one pair and not in "
            "the total. Where an input is smaller than the output before it there is a pool between."
        ),
    ]
    if "filters" in figures:
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
        parts.append(drawn.show(figures["filters"], "Filters of the first layer", caption))
    caption = (
        f"Test classes, up to {drawn.MAPPED} an alphabet, on the first two principal components of "
        f"their embeddings. Each point is a {run.thing}, joined to the mean of its class, where "
        f"{'one picture' if run.has_pictures else 'the name'} of the class stands. Two components "
        "hold only the stated part of what the network sees."
    )
    parts.append("<h3>A map of embeddings</h3>")
    parts.append(
        drawn.show(figures["embeddings"], "Embeddings on two principal components", caption)
    )
    return "\n".join(parts)


def provenance(run: Run) -> str:
    """What the run was made with and from, and its whole config."""
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
        counts = [count(len(images), run.thing), count(images.num_classes, "class")]
        counts.append(count(images.num_alphabets, "alphabet"))
        of = " (thresholds)" if run.elsewhere and part == "validation" else ""
        facts.append((f"{part.capitalize()} set{of}", f"{images.name}: {', '.join(counts)}"))
    rows = [(False, (name, str(value))) for name, value in workdir.flatten(run.config).items()]
    table = pages.table(("Field", "Value"), rows)
    return pages.facts(facts) + pages.folded("The whole config", table)
