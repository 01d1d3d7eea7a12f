"""Measures this machine, this package and its peers, prints tables and writes a record.

    python launch/benchmark.py --archives=DIR --record=benchmark.json

Suites: training (pairs/s and GFLOP/s of Koch's network and the quickstart's, PyTorch beside them),
convolution (Koch's layers directly and in the frequency domain), input (drawing and warping, Pillow
beside it), oneshot (trials/s, passes of pairs beside them), recognition (enrol and identify), scaling
(cost against size), startup (to the first step). All but PyTorch's sides run without it; nothing is
fetched from anywhere. Times are medians over repetitions whose sides take symmetries: leave the machine
alone meanwhile. --smoke only shows that everything runs.
"""

import os
import pathlib

from absl import flags

import siamese_jax
from siamese_jax import cli

os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.5")  # PyTorch has the rest of a GPU
siamese_jax.tune_cpu()

_SUITE = flags.DEFINE_list(
    "suite", "training,convolution,input,oneshot,recognition,scaling,startup", "What to measure."
)
_RECORD = flags.DEFINE_string("record", None, "JSON file for the figures.")
_REPETITIONS = flags.DEFINE_integer("repetitions", 7, "Symmetries of each side.")
_TURN = flags.DEFINE_float("turn", 0.3, "Least length of a turn, seconds.", 0)
_BATCH = flags.DEFINE_integer("batch", 32, "Pairs a step of Koch's network.")
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Of the computation.")
_PRECISION = flags.DEFINE_enum(
    "precision",
    "default",
    ["default", "bfloat16", "tensorfloat32", "highest"],
    "Of float32 matrix products on an accelerator.",
)
_PEERS = flags.DEFINE_bool("peers", True, "Time PyTorch too.")
_ARCHIVES = flags.DEFINE_string("archives", None, "Folder of Omniglot's archives; else glyphs.")
_SEED = flags.DEFINE_integer("seed", 0, "Of parameters, batches and trials.")
_SMOKE = flags.DEFINE_bool("smoke", False, "Everything tiny, in seconds.")


def main(argv):
    del argv
    import jax

    from siamese_jax import benchmarks

    if _PRECISION.value != "default":
        jax.config.update("jax_default_matmul_precision", _PRECISION.value)
    plan = benchmarks.Plan(
        root=pathlib.Path(__file__).resolve().parent.parent,
        repetitions=2 if _SMOKE.value else _REPETITIONS.value,
        turn=0.0 if _SMOKE.value else _TURN.value,
        seed=_SEED.value,
        batch=_BATCH.value,
        dtype=_DTYPE.value,
        peers=_PEERS.value,
        archives=_ARCHIVES.value,
        smoke=_SMOKE.value,
    )
    benchmarks.run(_SUITE.value, plan, _RECORD.value)


if __name__ == "__main__":
    cli.run(main)
