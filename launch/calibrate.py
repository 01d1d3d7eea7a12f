"""Gives a network its calibration: what its scores mean, learned from its validation classes.

    python launch/calibrate.py --network=runs/mine
    python launch/calibrate.py --network=FILE.npz --archives=omniglot
    python launch/calibrate.py --network=FILE.npz --archives=omniglot --subject=drawings

Afterwards `net.same(a, b)` and the commands compare and verify give probabilities.
"""

from absl import flags

import siamese_jax
from siamese_jax import cli

siamese_jax.tune_cpu()

_NETWORK = flags.DEFINE_string("network", None, "Workdir of a run, or a file of weights.")
_SUBJECT = flags.DEFINE_string("subject", "pictures", "pictures, or drawings for the demo.")
_CHECKPOINT = flags.DEFINE_string("checkpoint", "best", "Of a run: best, latest or a step.")
_RATE = flags.DEFINE_float("false_accept_rate", 0.05, "Rate to allow.")
_CONFIDENCE = flags.DEFINE_float("confidence", 0.9, "Confidence of the bound on fresh classes.")
_THRESHOLD = flags.DEFINE_enum("threshold", "plain", ["plain", "bound"], "Which threshold decides.")
_ARCHIVES = flags.DEFINE_string("archives", None, "Folder with the archives of the data.")
_PATH = flags.DEFINE_string("path", None, "Folder of pictures that the run was trained on.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of prepared sets.")


def main(argv):
    del argv
    from siamese_jax.evaluation import calibration
    from siamese_jax.recognition import network_calibration

    if not _NETWORK.value:
        raise ValueError("name the network with --network=WORKDIR or --network=FILE")
    places = {"archives": _ARCHIVES.value, "path": _PATH.value, "data_dir": _DATA_DIR.value}
    calibrated = network_calibration.calibrate_file(
        _NETWORK.value,
        _SUBJECT.value,
        {name: value for name, value in places.items() if value},
        rate=_RATE.value,
        checkpoint=cli.checkpoint(_CHECKPOINT.value),
        confidence=_CONFIDENCE.value,
        decided_by=_THRESHOLD.value,
    )
    print("\n".join(calibration.describe(calibrated)))


if __name__ == "__main__":
    cli.run(main)
