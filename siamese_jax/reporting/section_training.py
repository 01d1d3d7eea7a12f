"""The sections on training: loss and accuracy against the step, and a batch."""

from __future__ import annotations

from collections.abc import Mapping

from siamese_jax.reporting import page, tasks
from siamese_jax.reporting.inputs import ReportInputs
from siamese_jax.reporting.wording import listed, side_name


def learning(inputs: ReportInputs, figures: Mapping[str, str]) -> str:
    """Loss and accuracies against the step; empty before the run has logged any."""
    if "learning" not in figures:
        return ""
    config = inputs.config
    warped = f"; warped {inputs.noun}s" if config.augment.distort else ""
    task = tasks.words(config.objective, inputs.noun)
    caption = (
        f"The loss is the mean of {config.log_every} steps a point. The accuracies are on the training "
        f"task ({task}{warped}), and on {config.eval.num_trials:,} "
        f"{config.eval.n_way}-way trials of the validation classes. The two tasks differ, so only their "
        "trends can be compared. The checkpoint was chosen by validation, without the test classes."
    )
    logged = next((row for row in inputs.log_rows if row["phase"] == "train"), {})
    if "distance_same" in logged:
        caption += (
            " The distances are the mean Euclidean ones of same and of different pairs of a batch. "
            "Both are zero in a network that has collapsed."
        )
    if "active" in logged:
        caption += " A triplet is active while its loss is above zero."
    return page.figure(figures["learning"], caption)


def batch(inputs: ReportInputs, figures: Mapping[str, str]) -> str:
    """The first training batch of the run."""
    config, train = inputs.config, inputs.data.train
    if "training" not in figures:
        return page.note(
            "The network sees vectors. Each feature is standardised to mean 0 and standard deviation 1 "
            "over the training part. There are no pictures to show."
        )
    name = config.objective.name
    symmetries = (
        "" if config.objective.symmetries == "none" else " Classes may be turned or mirrored."
    )
    warped = " Each picture has its own warp." if config.augment.distort else " None is warped."
    if inputs.net.model.centre_ink:
        warped += " The network moves the ink of each to the middle before it looks."
    if inputs.training.mask is not None:
        sides = [side_name(side) for side in range(inputs.training.images_per_class)]
        columns = "Each column shows one class by different pictures."
        if train.kind == "ink" and train.num_alphabets > 1:
            columns = (
                "All characters of an episode are of one alphabet. Each column shows one character, on "
                f"the sides {listed(sides)} by different drawers, A on top."
            )
        same, different = "are of the same class", "are of different classes"
        if name == "info_nce":
            same, different = f"{same} (label 1)", f"{different} (label 0)"
        elif name == "triplet":
            same, different = "are anchor and positive", "are anchor and negative"
        elif name in ("prototypical", "matching"):
            different += ". Each side is the query once, with the others as its support set"
        caption = (
            f"Episodes of the run’s first batch. {columns} Two pictures in one column {same}, any other "
            f"two {different}."
        )
    elif inputs.training.class_names is not None:
        caption = "Pictures of the run’s first batch with the names of their training classes."
        if symmetries:
            symmetries = " Each turn or mirror image of a class is a class of its own."
    else:
        caption = "Pairs of the run’s first batch with their labels, 1 = same."
    caption += symmetries + warped
    return page.figure(figures["training"], caption)
