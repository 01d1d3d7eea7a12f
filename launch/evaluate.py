"""Evaluates a trained network by the protocols, prints the table and writes the report.

    python launch/evaluate.py --workdir=runs/quickstart --protocols=official,within,verification,curve

Protocols: official (Lake's 20 runs), within (inside each alphabet), koch (the paper's 400 trials),
between (characters of any alphabet), verification (with --pairs of a CSV file too: a line is two
pictures, 1 for same or 0, and perhaps a claim that lines share), curve (accuracy against N), retrieval
(each test image among all others), assignment (the official and within trials, a run's queries
answered one to one), open_set (half of the classes enrolled, the others unknown). All but official
and --pairs use the alphabets of --part. The figures go to results.json, what the page is drawn from to
evaluation.npz, and the page to report.html.
"""

import sys

from absl import flags

import siamese_jax
from siamese_jax import cli

siamese_jax.tune_cpu()

_PROTOCOLS = "official,within,between,verification,curve"
_REQUEST = [  # flags that are fields of EvaluationRequest
    flags.DEFINE_string("workdir", None, "Folder of the run."),
    flags.DEFINE_string("pretrained", None, "Shipped network that fills a new workdir."),
    flags.DEFINE_list("protocols", _PROTOCOLS, "What to evaluate."),
    flags.DEFINE_string("checkpoint", "best", "best, latest or a step."),
    flags.DEFINE_string("archives", None, "Folder of the archives, if it has moved."),
    flags.DEFINE_string("test_data", None, "Other data to evaluate it on, such as mnist."),
    flags.DEFINE_string("test_archives", None, "Folder of the archives of --test_data."),
    flags.DEFINE_enum(
        "part",
        "test",
        ["test", "validation", "both", "rotated"],
        "Classes (rotated: with quarter turns); only test is saved, else use --record.",
    ),
    flags.DEFINE_string("pairs", None, "CSV file of pairs that verification evaluates too."),
    flags.DEFINE_bool("baselines", True, "Evaluate random, pixel 1-NN and Hausdorff too."),
    flags.DEFINE_bool("report", True, "Write report.html."),
    flags.DEFINE_string("record", None, "File for the figures besides results.json."),
    flags.DEFINE_integer(
        "tta", 1, "Views per image in test-time augmentation; 1 for none.", 1, 1000
    ),
    flags.DEFINE_list("ensemble", [], "Further runs: a row for the mean of all scores."),
    flags.DEFINE_integer("num_devices", 0, "Devices, 0 for all.", 0, 10**6),
]
_SETTINGS = [  # flags that are settings of protocols
    flags.DEFINE_integer("num_trials", 4000, "Trials of within and between.", 1, 10**7),
    flags.DEFINE_integer("n_way", 20, "Classes per trial.", 1, 10**5),
    flags.DEFINE_integer("k_shot", 1, "Support images per class.", 1, 10**4),
    flags.DEFINE_string(
        "shot_aggregation", None, "mean, max, sum, prototype or finetune; else the config's."
    ),
    flags.DEFINE_enum("negatives", "any", ["any", "same_alphabet"], "Negatives of verification."),
    flags.DEFINE_bool("skip_small", False, "Leave out alphabets of fewer than n_way classes."),
    flags.DEFINE_integer("seed", 0, "Seed of the trials.", 0, 2**32 - 1),
]
flags.mark_flag_as_required("workdir")


def main(argv):
    del argv
    from siamese_jax.experiments import evaluate  # jax is slow to import: --help need not wait

    evaluate.evaluate_run(
        evaluate.EvaluationRequest(
            settings={flag.name: flag.value for flag in _SETTINGS},
            progress=sys.stderr.isatty(),
            **{flag.name: flag.value for flag in _REQUEST},
        )
    )


if __name__ == "__main__":
    cli.run(main)
