"""Prints Tables 1, 2 and 3 of Koch et al. (2015) beside the figures of recorded runs.

    python launch/tables.py
    python launch/tables.py --markdown > tables.md

Reads the records that `launch/evaluate.py --record=results/NAME.json` writes; a row without one says
"not yet run".
"""

import pathlib

from absl import flags

from siamese_jax import cli

_RESULTS = flags.DEFINE_string(
    "results",
    str(pathlib.Path(__file__).resolve().parents[1] / "results"),
    "Folder of the records.",
)
_MARKDOWN = flags.DEFINE_bool("markdown", False, "Write Markdown.")


def main(argv):
    del argv
    from siamese_jax.experiments import tables

    records, others = tables.read_records(_RESULTS.value)
    made = tables.make_tables(records)
    print(tables.format_tables(made, markdown=_MARKDOWN.value))
    left = tables.unused(made, records, others)
    if left:
        print(f"\n{left}")


if __name__ == "__main__":
    cli.run(main)
