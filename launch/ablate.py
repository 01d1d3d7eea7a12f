"""Trains variants of a config, evaluates them on the same trials and prints their table.

    python launch/ablate.py --config=configs/quickstart.py --workdir=runs/ablation --jobs=2 \
        --over='objective:info_nce|triplet,augmentation,seeds'

`--over` names what varies; several axes make the product. Axes: resolution, objective, pairs,
augmentation, distortions, encoder, comparator, initialisation, optimiser, learning_rate,
regularisation, shots, shot_aggregation, seeds. `axis` takes all its variants, 'axis:label1|label2' (in
quotes) some of them; resolution, shots and seeds take any whole numbers, learning_rate any positive
number. Any other field of the config is an axis too: --over='optim.weight_decay:0|0.05|0.5'. A field can
also be set for all runs: --config.num_steps=500 (after --config). The same command goes on after an
interruption; a finished run is not run again. On one GPU, --jobs shares its memory.
Exit codes: 0 done, 1 an error or a failed run, 75 stopped by SIGTERM, 130 by Ctrl-C (both after
saving).
"""

import os
import sys

from absl import flags
from ml_collections import config_flags

import siamese_jax
from siamese_jax import cli

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # several processes share a GPU
siamese_jax.tune_cpu()

_CONFIG = config_flags.DEFINE_config_file("config", None, "File of the config.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the runs and of the table.")
_OVER = flags.DEFINE_list("over", None, "Axes, separated by commas; see the list above.")
_SEEDS = flags.DEFINE_integer("seeds", None, "Number of seeds; also --over=...,seeds (three).")
_JOBS = flags.DEFINE_integer("jobs", 1, "Trainings at a time, each on its share of the cores.", 1)
_TRIALS = flags.DEFINE_integer("num_trials", 4000, "Trials within the alphabets.", 1)
_RECORD = flags.DEFINE_string("record", None, "File for the figures besides ablation.json.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Only list the runs.")
_PROGRESS = flags.DEFINE_bool("progress", sys.stderr.isatty(), "Show a progress bar.")
flags.mark_flags_as_required(["config", "workdir", "over"])


def main(argv):
    del argv
    from siamese_jax.experiments import ablation

    caught = cli.catch_signals()
    summary = ablation.run_ablation(
        _CONFIG.value,
        _OVER.value,
        _WORKDIR.value,
        cli.ROOT,
        seeds=_SEEDS.value,
        jobs=_JOBS.value,
        num_trials=_TRIALS.value,
        record=_RECORD.value,
        dry_run=_DRY_RUN.value,
        should_stop=lambda: bool(caught),
        progress=_PROGRESS.value,
    )
    if not summary["finished"]:
        print("stopped and saved; the same command goes on from there")
        return cli.EXIT_CODES[caught[0]]
    return 1 if summary["failed"] else 0


if __name__ == "__main__":
    cli.run(main)
