"""One-shot evaluation: one encoder pass an image, against a pass a pair with the same network."""

from __future__ import annotations

import numpy as np

from siamese_jax.benchmarks.measure import Case, Row
from siamese_jax.benchmarks.workload import Plan, Workload
from siamese_jax.evaluation import protocols, trials

_BATCH = 128  # images an encoder pass


def run_oneshot(plan: Plan) -> list[Row]:
    """Trials a second of both networks, on the fixed runs and within the test alphabets."""
    rows = []
    for name in ("koch2015", "quickstart"):
        work = Workload(plan.config(name))
        rows += _on_runs(plan, work, name) + _within(plan, work, name)
    return rows


def _on_runs(plan: Plan, work: Workload, name: str) -> list[Row]:
    """All fixed runs at once, against the first run's trials by passes of pairs."""
    net = work.network()
    runs = trials.official_trials(work.experiment.data.runs)
    queries, supports = runs.images[runs.queries[0]], runs.images[runs.supports[0, :, 0]]

    def by_pairs() -> list[np.ndarray]:
        return [
            net.score_pairs(
                net.embed(np.repeat(query[None], runs.n_way, 0), _BATCH),
                net.embed(supports, _BATCH),
            )
            for query in queries
        ]

    group = f"{name}, {len(runs.queries)} fixed runs, {runs.n_way}-way"
    cases = [
        Case(
            "a pass an image",
            lambda: protocols.evaluate_trials(net.system(), runs, batch_size=_BATCH).scores,
            runs.num_trials,
            "trials",
        ),
        Case("a pass a pair, first run only", by_pairs, len(queries), "trials"),
    ]
    return plan.compare(group, cases, base=[cases[1].name])


def _within(plan: Plan, work: Workload, name: str) -> list[Row]:
    """Many trials within the test alphabets, against one encoder pass over the images they use."""
    net = work.network()
    count = 100 if plan.smoke else 20_000
    n_way = min(20, int(work.experiment.data.test.alphabet_count.max()))
    frozen = trials.within_trials(
        work.experiment.data.test, n_way=n_way, num_trials=count, seed=plan.seed, skip_small=True
    )
    used = np.unique(np.concatenate([frozen.queries.ravel(), frozen.supports.ravel()]))
    images = frozen.images[used]
    group = f"{name}, {count:,} trials within alphabets, {n_way}-way"
    cases = [
        Case(
            "trials, passes included",
            lambda: protocols.evaluate_trials(net.system(), frozen, batch_size=_BATCH).scores,
            count,
            "trials",
        ),
        Case(
            f"encoder pass over their {len(images):,} images",
            lambda: net.embed(images, _BATCH),
            count,
            "trials",
        ),
    ]
    return plan.compare(group, cases, base=[cases[1].name])
