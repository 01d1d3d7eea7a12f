"""Searches a config's settings by Bayesian optimisation; resumes, and shares with other workers.

    python launch/search.py --config=configs/quickstart.py --trials=20 --workdir=runs/search

The config's `search_space` says what varies. Start the same command several times on one machine, and
all work on one study. Workers on several machines also need a --workdir that they share and --storage,
the URL of their database (such as postgresql://...). The trial of a killed worker is resumed by another
one. At the end: the table of the best trials, plots, and best.json for
`launch/train.py --config=configs/recorded.py:runs/search/best.json`. Only validation accuracy is looked
at. Exit codes: 0 done, 1 an error, 75 stopped by SIGTERM, 130 by Ctrl-C.
"""

import logging
import sys

from absl import flags
from ml_collections import config_flags

import siamese_jax
from siamese_jax import cli

siamese_jax.tune_cpu()

_CONFIG = config_flags.DEFINE_config_file("config", None, "File of the config.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the search.")
_TRIALS = flags.DEFINE_integer("trials", 20, "Trials in all, of all workers.", lower_bound=1)
_STORAGE = flags.DEFINE_string("storage", None, "URL of a database; else a SQLite file.")
_ONLY = flags.DEFINE_list("only", [], "Search only fields that start with these, e.g. optim.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the proposals.")
_STALE = flags.DEFINE_integer(
    "stale_seconds", 120, "Silence after which a worker counts as dead.", lower_bound=4
)
_PROGRESS = flags.DEFINE_bool("progress", sys.stderr.isatty(), "Show a progress bar.")
flags.mark_flags_as_required(["config", "workdir"])


def main(argv):
    del argv
    try:
        from siamese_jax.experiments import search
    except ImportError as error:
        raise ValueError(f"{error}: the search needs pip install 'siamese_jax[search]'") from None

    logging.getLogger("siamese_jax.data").setLevel(logging.WARNING)  # else said every trial
    caught = cli.catch_signals()
    summary = search.run_search(
        _CONFIG.value,
        _WORKDIR.value,
        num_trials=_TRIALS.value,
        storage=_STORAGE.value,
        only=_ONLY.value,
        seed=_SEED.value,
        stale_seconds=_STALE.value,
        should_stop=lambda: bool(caught),
        progress=_PROGRESS.value,
    )
    if not summary["finished"]:
        print("stopped; the same command goes on from there")
        return cli.EXIT_CODES[caught[0]]
    return 0


if __name__ == "__main__":
    cli.run(main)
