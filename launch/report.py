"""Draws the report of a run again from its saved evaluation, without evaluating again.

    python launch/report.py --workdir=runs/quickstart

Reads what `launch/evaluate.py` has saved in the workdir and writes report.html. The data are loaded
again; --archives says where they are if they have moved.
"""

from absl import flags

import siamese_jax
from siamese_jax import cli

siamese_jax.tune_cpu()

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.")
_ARCHIVES = flags.DEFINE_string("archives", None, "Folder of the archives, if it has moved.")
_TEST_ARCHIVES = flags.DEFINE_string("test_archives", None, "Folder of the test data's archives.")
_PAIRS = flags.DEFINE_string("pairs", None, "CSV file of pairs, if the evaluation had one.")
flags.mark_flag_as_required("workdir")


def main(argv):
    del argv
    from siamese_jax.experiments import report  # imports jax, for which --help should not wait

    page = report.write_saved_report(
        _WORKDIR.value, _ARCHIVES.value, _TEST_ARCHIVES.value, _PAIRS.value
    )
    print(f"report: {page}")


if __name__ == "__main__":
    cli.run(main)
