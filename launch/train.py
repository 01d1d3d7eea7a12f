"""Trains a network, or goes on with its training.

    python launch/train.py --config=configs/quickstart.py --workdir=runs/quickstart

Any field of the config can be set: --config.seed=1 (after --config). The same command resumes a run
that was interrupted. Exit codes: 0 finished, 1 an error, 75 stopped by SIGTERM after saving (start it
again), 130 stopped by Ctrl-C after saving.
"""

import signal
import sys

from absl import flags
from ml_collections import config_flags

import siamese_jax
from siamese_jax import commands

siamese_jax.tune_cpu()

_CONFIG = config_flags.DEFINE_config_file("config", None, "File of the config.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.")
_PROGRESS = flags.DEFINE_bool("progress", sys.stderr.isatty(), "Show a progress bar.")
flags.mark_flags_as_required(["config", "workdir"])

_EXIT_CODES = {signal.SIGTERM: 75, signal.SIGINT: 130}


def main(argv):
    del argv
    from siamese_jax import train  # after the flags are parsed: --help should not wait for jax

    caught = []
    for number in _EXIT_CODES:
        signal.signal(number, lambda number, frame: caught.append(number))
    summary = train.train_and_evaluate(
        _CONFIG.value, _WORKDIR.value, should_stop=lambda: bool(caught), progress=_PROGRESS.value
    )
    if not summary["finished"]:
        print(f"stopped and saved at step {summary['step']}; the same command goes on from there")
        return _EXIT_CODES[caught[0]]
    print(
        f"finished at step {summary['step']}; best on validation: step {summary['best_step']}, "
        f"accuracy {summary['best_value']:.2%}"
    )
    return 0


if __name__ == "__main__":
    commands.run(main)
