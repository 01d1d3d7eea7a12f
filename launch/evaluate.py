"""Evaluates a trained network by the protocols, prints the table and writes the report.

    python launch/evaluate.py --workdir=runs/quickstart --protocols=official,within,verification,curve

Protocols: official (Lake's 20 runs), within (inside each alphabet), koch (the paper's 400 trials),
between (characters of any alphabet), verification (with --pairs of a CSV file too: a line is two
pictures, 1 for same or 0, and perhaps a claim that lines share), curve (accuracy against N), retrieval
(each test image among all others), open_set (half of the classes enrolled, the others unknown). All
but official and --pairs use the alphabets of --part. The table goes to results.json, and the page to
report.html.
"""

import sys

from absl import flags

import siamese_jax
from siamese_jax import cli

siamese_jax.tune_cpu()

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.")
_PRETRAINED = flags.DEFINE_string("pretrained", None, "Shipped network that fills a new workdir.")
_PROTOCOLS = flags.DEFINE_list(
    "protocols", "official,within,between,verification,curve", "What to evaluate."
)
_CHECKPOINT = flags.DEFINE_string("checkpoint", "best", "best, latest or a step.")
_ARCHIVES = flags.DEFINE_string("archives", None, "Folder of the archives, if it has moved.")
_TEST_DATA = flags.DEFINE_string("test_data", None, "Other data to evaluate it on, such as mnist.")
_TEST_ARCHIVES = flags.DEFINE_string("test_archives", None, "Folder of the archives of those.")
_PART = flags.DEFINE_enum(
    "part", "test", ["test", "validation", "both"], "Alphabets; others than test for --record only."
)
_PAIRS = flags.DEFINE_string("pairs", None, "CSV file of pairs that verification evaluates too.")
flags.DEFINE_integer("num_trials", 4000, "Trials of within and between.")
flags.DEFINE_integer("n_way", 20, "Classes a trial.")
flags.DEFINE_integer("k_shot", 1, "Support images a class.")
flags.DEFINE_string("shot_aggregation", None, "mean, max, sum, prototype, finetune; or by config.")
flags.DEFINE_enum("negatives", "any", ["any", "same_alphabet"], "Of verification.")
flags.DEFINE_bool("skip_small", False, "Leave out alphabets of fewer than n_way.")
flags.DEFINE_integer("seed", 0, "Seed of the trials.")
_BASELINES = flags.DEFINE_bool("baselines", True, "Evaluate random, pixel 1-NN and Hausdorff too.")
_REPORT = flags.DEFINE_bool("report", True, "Write report.html.")
_RECORD = flags.DEFINE_string("record", None, "File for the figures besides results.json.")
_VIEWS = flags.DEFINE_integer("views", None, "How often an image is seen, warped a little.")
_ENSEMBLE = flags.DEFINE_list("ensemble", [], "Further runs: a row for the mean of all scores.")
_DEVICES = flags.DEFINE_integer("num_devices", 0, "Devices, 0 for all.")
_SETTINGS = ("num_trials", "n_way", "k_shot", "shot_aggregation", "negatives", "skip_small", "seed")
flags.mark_flag_as_required("workdir")


def main(argv):
    del argv
    from siamese_jax.experiments import evaluate

    settings = {name: flags.FLAGS[name].value for name in _SETTINGS}
    evaluate.evaluate_run(
        _WORKDIR.value,
        _PROTOCOLS.value,
        settings,
        pretrained=_PRETRAINED.value,
        checkpoint=_CHECKPOINT.value,
        archives=_ARCHIVES.value,
        test_data=_TEST_DATA.value,
        test_archives=_TEST_ARCHIVES.value,
        part=_PART.value,
        pairs=_PAIRS.value,
        baselines=_BASELINES.value,
        report=_REPORT.value,
        record=_RECORD.value,
        num_devices=_DEVICES.value,
        views=_VIEWS.value,
        ensemble=_ENSEMBLE.value,
        progress=sys.stderr.isatty(),
    )


if __name__ == "__main__":
    cli.run(main)
