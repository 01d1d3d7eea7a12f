"""Trains a network, or resumes its training.

    python launch/train.py --config=configs/quickstart.py --workdir=runs/quickstart

Any field of the config can be set: --config.seed=1 (after --config). The same command resumes a run
that was interrupted. Exit codes: 0 finished, 1 an error, 75 stopped by SIGTERM after saving (start it
again), 130 stopped by Ctrl-C after saving.

--minutes=N measures this machine's speed first, then sets the number of steps, and the learning-rate
schedule with it, to fill N minutes. A run that has already started keeps its length.

Several processes, one on each host: give each --coordinator, --num_processes and --process_id. Where
jax finds these by itself (Slurm, TPU pods), give --distributed. See local.sh, slurm.sh and tpu.sh.
"""

import signal
import sys

from absl import flags
from ml_collections import config_flags

import siamese_jax
from siamese_jax import cli

_CONFIG = config_flags.DEFINE_config_file("config", None, "File of the config.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.")
_PROGRESS = flags.DEFINE_bool("progress", sys.stderr.isatty(), "Show a progress bar.")
_MINUTES = flags.DEFINE_float(
    "minutes", None, "Length of the training, in place of the config's.", lower_bound=0.01
)
_COORDINATOR = flags.DEFINE_string("coordinator", None, "host:port of process 0.")
_PROCESSES = flags.DEFINE_integer("num_processes", None, "Number of processes.", lower_bound=1)
_PROCESS = flags.DEFINE_integer("process_id", 0, "Number of this process.", lower_bound=0)
_DISTRIBUTED = flags.DEFINE_bool("distributed", False, "Let jax find the other processes.")
_HEARTBEAT = flags.DEFINE_integer(
    "heartbeat", 100, "Seconds until a silent process counts as lost.", 1, 10**6
)
flags.mark_flags_as_required(["config", "workdir"])


def main(argv):
    del argv
    caught = cli.catch_signals()
    siamese_jax.tune_cpu(dtype=_CONFIG.value.get("model", {}).get("dtype"))
    import jax  # after the flags are parsed: --help should not wait for it

    from siamese_jax.training import loop, pace, processes

    place = _COORDINATOR.value, _PROCESSES.value, _PROCESS.value
    together = processes.join(*place, _DISTRIBUTED.value, _HEARTBEAT.value)
    if together and _MINUTES.value is not None:
        raise ValueError("--minutes is for one process: set --config.num_steps")
    config, data = _CONFIG.value, None
    if _MINUTES.value is not None:
        config, data = pace.within(config, _WORKDIR.value, _MINUTES.value)
    summary = loop.train_and_evaluate(
        config,
        _WORKDIR.value,
        should_stop=lambda: bool(caught),
        progress=_PROGRESS.value,
        data=data,
    )
    if together:
        jax.distributed.shutdown()
    if not summary["finished"]:
        print(f"stopped and saved at step {summary['step']}; the same command goes on from there")
        # Of several processes, another one may have been stopped.
        return cli.EXIT_CODES[caught[0] if caught else signal.SIGTERM]
    print(
        f"finished at step {summary['step']}; best on validation: step {summary['best_step']}, "
        f"accuracy {summary['best_value']:.2%}"
    )
    return 0


if __name__ == "__main__":
    cli.run(main)
