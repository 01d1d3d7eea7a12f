"""The page of a run: what was trained, how well it does, and pictures of what it does."""

from __future__ import annotations

import pathlib

from siamese_jax import files
from siamese_jax.reporting import (
    page,
    run_figures,
    section_network,
    section_results,
    section_retrieval,
    section_run,
    section_training,
    section_trials,
    section_verification,
)
from siamese_jax.reporting.inputs import ReportInputs


def write(inputs: ReportInputs) -> pathlib.Path:
    """Writes `report.html` into the run's workdir, in place of the one that is there.

    Returns:
        The file, which needs no other.
    """
    path = inputs.path / "report.html"
    files.replace_text(path, render(inputs))
    return path


def render(inputs: ReportInputs) -> str:
    """The page as HTML; what was not evaluated, or has nothing to show, has no section."""
    figures = run_figures.draw(inputs)
    sections = [
        ("results", "Results", section_results.results(inputs) + _absent(inputs)),
        ("learning", "Learning curves", section_training.learning(inputs, figures)),
        (
            "curve",
            "Accuracy against the number of classes",
            section_trials.curve(inputs, figures),
        ),
        ("trials", "Sample trials", section_trials.trials(inputs, figures)),
        ("confusions", "Most often confused", section_trials.confusions(inputs, figures)),
        (
            "verification",
            "Same or different",
            section_verification.verification(inputs, figures),
        ),
        ("retrieval", f"Search among all {inputs.noun}s", section_retrieval.retrieval(inputs)),
        ("open_set", "Known or unknown", section_retrieval.open_set(inputs)),
        ("parts", section_trials.parts_title(inputs), section_trials.parts(inputs)),
        (
            "training",
            "What the network sees in training",
            section_training.batch(inputs, figures),
        ),
        ("network", "The network", section_network.network(inputs, figures)),
        ("run", "The run", section_run.provenance(inputs)),
    ]
    sections = [section for section in sections if section[2]]
    return page.document(f"{inputs.path.name}: report", section_run.head(inputs), sections)


def _absent(inputs: ReportInputs) -> str:
    """Which protocols would add a section."""
    evaluated = inputs.network_results
    absent = [
        key for key in ("within", "verification", "retrieval", "open_set") if key not in evaluated
    ]
    if not any(key.startswith("curve/") for key in evaluated):
        absent.append("curve")
    if not absent:
        return ""
    names = ", ".join(absent)
    return page.note(
        f"Not evaluated here: {names}. launch/evaluate.py adds the protocols that it is given."
    )
