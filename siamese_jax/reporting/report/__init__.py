"""The page of a run: what was trained, how well it does, and pictures of what it does."""

from __future__ import annotations

import pathlib

from matplotlib.figure import Figure

from siamese_jax.data import loading
from siamese_jax.inference import network
from siamese_jax.reporting import pages
from siamese_jax.reporting.report import drawn, evaluated, trained
from siamese_jax.reporting.report.run import Results, Run, confusions

__all__ = ["confusions", "draw", "write_report"]


def write_report(
    path: str | pathlib.Path,
    config,
    data: loading.Data,
    siamese: network.Siamese,
    results: Results,
) -> pathlib.Path:
    """Writes `report.html` into a workdir, in place of the one that is there.

    Args:
        path: the run's workdir, whose log and provenance are read.
        config: of the run.
        data: what it was trained and evaluated on, at any image size.
        siamese: the network.
        results: of `evaluate.run_protocols` by the name of the system: the network's under its own
            `name`, and those of other systems on the same trials. A section whose protocol is not
            there says so.

    Returns:
        The file, which needs no other.

    Raises:
        ValueError: the folder holds no run, or the network is not among the results.
    """
    run = Run(pathlib.Path(path).absolute(), config, data, siamese, results)
    target = run.path / "report.html"
    part = run.path / "report.part"
    part.write_text(_page(run), encoding="utf-8")
    part.replace(target)
    return target


def draw(
    path: str | pathlib.Path,
    config,
    data: loading.Data,
    siamese: network.Siamese,
    results: Results,
) -> dict[str, Figure]:
    """The figures of a run, to be saved with `figures.save`; arguments as of `write_report`.

    Returns:
        Those that the results and the data allow (vectors have no pictures), out of `learning`,
        `curve`, `trials`, `confusions`, `roc`, `reliability`, `pairs` (with their dissimilarities),
        `file_roc` and `file_pairs` (the same of a file of pairs), `training`, `filters` and
        `embeddings`.
    """
    return drawn.draw(Run(pathlib.Path(path).absolute(), config, data, siamese, results))


def _page(run: Run) -> str:
    figures = drawn.draw(run)
    sections = [
        ("results", "Results", evaluated.results(run)),
        ("learning", "How it learned", trained.learning(run, figures)),
        ("curve", "Accuracy against the number of classes", evaluated.curve(run, figures)),
        ("trials", "Sample trials", evaluated.trials(run, figures)),
        ("confusions", "Most often confused", evaluated.confused(run, figures)),
        ("verification", "Same or different", evaluated.verification(run, figures)),
        ("retrieval", f"Search among all {run.thing}s", evaluated.retrieval(run)),
        ("open_set", "Known or unknown", evaluated.open_set(run)),
        ("alphabets", "Alphabet by alphabet", evaluated.alphabets(run)),
        ("training", "What the network sees in training", trained.batch(run, figures)),
        ("network", "The network", trained.network(run, figures)),
        ("run", "The run", trained.provenance(run)),
    ]
    return pages.page(f"{run.path.name}: report", trained.head(run), sections)
