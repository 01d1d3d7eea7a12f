"""Measures this machine, this package and its peers, prints tables and writes a record.

    python launch/benchmark.py --archives=DIR --record=benchmark.json

Suites: training and embedding (images/s and GFLOP/s of Koch's, the quickstart's and the best network,
PyTorch beside them), convolution (Koch's layers directly, by blocks and in the frequency domain), input
(drawing and warping, Pillow beside it), preparation (decoding JPEGs, Pillow beside it), folders (15,000
to 60,000 JPEGs: preparation, a second start, training from disk; some ten minutes), oneshot (trials/s,
passes of pairs beside them), recognition (enrol and identify), galleries (the same in files).
Without PyTorch everything else is timed; --torch_python names an interpreter that has it. Nothing is
downloaded. Times are medians of repeats in which the cases alternate: leave the machine alone meanwhile.
--smoke only shows that everything runs.
"""

import os

from absl import flags

import siamese_jax
from siamese_jax import cli

os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.5")  # PyTorch has the rest of a GPU

_SUITE = flags.DEFINE_list(
    "suite",
    "training,embedding,convolution,input,preparation,folders,oneshot,recognition,galleries",
    "What to measure.",
)
_NETWORKS = flags.DEFINE_list(
    "networks", "koch2015,quickstart,best", "What the suites training and embedding time."
)
_RECORD = flags.DEFINE_string("record", None, "JSON file for the figures.")
_REPETITIONS = flags.DEFINE_integer("repetitions", 7, "Repeats of each case.")
_REPEAT_SECONDS = flags.DEFINE_float("repeat_seconds", 0.3, "Least length of a repeat.", 0)
_BATCH = flags.DEFINE_integer("batch", 32, "Pairs per step of Koch's network.")
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Number type.")
_PRECISION = flags.DEFINE_enum(
    "precision",
    "default",
    ["default", "bfloat16", "tensorfloat32", "highest"],
    "Precision of float32 matrix products on an accelerator.",
)
_PEERS = flags.DEFINE_bool("peers", True, "Time PyTorch and onnxruntime too.")
_TORCH_PYTHON = flags.DEFINE_string("torch_python", None, "Python with PyTorch; default: this.")
_ARCHIVES = flags.DEFINE_string("archives", None, "Folder of Omniglot's archives; else glyphs.")
_POSTGRES = flags.DEFINE_string("postgres", None, "galleries: URL of a database to measure too.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of parameters, batches and trials.")
_SMOKE = flags.DEFINE_bool("smoke", False, "Everything tiny, in seconds.")


def main(argv):
    del argv
    siamese_jax.tune_cpu(dtype=_DTYPE.value)
    import jax

    from siamese_jax import benchmarks

    if _PRECISION.value != "default":
        jax.config.update("jax_default_matmul_precision", _PRECISION.value)
    plan = benchmarks.Plan(
        repetitions=2 if _SMOKE.value else _REPETITIONS.value,
        repeat_seconds=0.0 if _SMOKE.value else _REPEAT_SECONDS.value,
        seed=_SEED.value,
        networks=tuple(_NETWORKS.value),
        batch=_BATCH.value,
        dtype=_DTYPE.value,
        peers=_PEERS.value,
        torch_python=_TORCH_PYTHON.value,
        archives=_ARCHIVES.value,
        postgres=_POSTGRES.value,
        smoke=_SMOKE.value,
    )
    benchmarks.run(_SUITE.value, plan, _RECORD.value)


if __name__ == "__main__":
    cli.run(main)
