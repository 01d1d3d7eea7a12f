"""Recognition from one picture: who is this, or is it unknown?

    python launch/recognize.py --workdir=RUN --gallery=FILE enrol anna a1.png a2.png
    python launch/recognize.py --workdir=RUN --gallery=FILE calibrate PEOPLE --false_accept_rate=0.01
    python launch/recognize.py --workdir=RUN --gallery=FILE identify who.png
    python launch/recognize.py --workdir=RUN compare a.png b.png --page=why.html

Commands: enrol NAME IMAGE..., enrol-folder PEOPLE (of <name>/<image>), remove NAME, list, identify
IMAGE..., compare IMAGE IMAGE, verify NAME IMAGE, search IMAGE, calibrate FOLDER (of <name>/<image>),
rebuild, index (of a large gallery). The gallery is one file, or part of a PostgreSQL database,
--gallery=postgresql://USER@HOST/DATABASE#NAME. It belongs to one checkpoint and one --tta; rebuild moves
it to another. Exit codes: 0 done, or for verify accepted; 1 rejected by verify;
2 an error.
"""

import sys

from absl import flags

import siamese_jax
from siamese_jax import cli

siamese_jax.tune_cpu()

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run whose network is used.")
_PRETRAINED = flags.DEFINE_string("pretrained", None, "A network of the package, instead of a run.")
_GALLERY = flags.DEFINE_string("gallery", None, "File or URL of the gallery; enrol creates it.")
_CHECKPOINT = flags.DEFINE_string("checkpoint", "best", "best, latest or a step.")
_TTA = flags.DEFINE_integer("tta", 1, "Views a picture in test-time augmentation; 1 for none.")
_ADD = flags.DEFINE_bool("add", False, "enrol: further references for an enrolled name.")
_TOP = flags.DEFINE_integer("top", 3, "identify, search: names or references shown.")
_PAGE = flags.DEFINE_string("page", None, "search, compare: HTML file for the answer.")
_RATE = flags.DEFINE_float("false_accept_rate", 0.01, "calibrate: rate to allow.")
_SEED = flags.DEFINE_integer("seed", 0, "calibrate: seed of the classes held out.")
_CONFIDENCE = flags.DEFINE_float("confidence", 0.9, "calibrate: confidence of the bound.")
_THRESHOLD = flags.DEFINE_enum(
    "threshold", "plain", ["plain", "bound"], "calibrate: which threshold decides."
)
_PROGRESS = flags.DEFINE_bool("progress", sys.stderr.isatty(), "Show a progress bar.")


def main(argv):
    if _WORKDIR.value and _PRETRAINED.value:
        raise ValueError("give one of --workdir=RUN and --pretrained=NAME, not both")
    from siamese_jax.recognition import commands  # imports jax, for which --help should not wait

    command, words = (argv[1], argv[2:]) if len(argv) > 1 else (None, [])
    settings = commands.Settings(
        workdir=_PRETRAINED.value or _WORKDIR.value,
        gallery=_GALLERY.value,
        checkpoint=cli.checkpoint(_CHECKPOINT.value),
        tta=_TTA.value,
        add=_ADD.value,
        top=_TOP.value,
        page=_PAGE.value,
        false_accept_rate=_RATE.value,
        seed=_SEED.value,
        confidence=_CONFIDENCE.value,
        threshold=_THRESHOLD.value,
        progress=_PROGRESS.value,
    )
    output = commands.run(command, words, settings)
    for line in (*cli.text_table(output.table).splitlines(), *output.lines):
        print(line)
    return output.exit_code


if __name__ == "__main__":
    cli.run(main, takes_words=True, error_code=2)
