"""Writes embeddings of a run's pictures for the projector of TensorBoard.

    python launch/projector.py --workdir=runs/quickstart
    tensorboard --logdir=runs/quickstart/projector

Each point is a picture, coloured by its class. The folder holds embeddings and classes as TSV files and
the pictures as one PNG.
"""

from absl import flags

import siamese_jax
from siamese_jax import cli

siamese_jax.tune_cpu()

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.")
_CHECKPOINT = flags.DEFINE_string("checkpoint", "best", "best, latest or a step.")
_PART = flags.DEFINE_string("part", "test", "Part of the data: train, validation or test.")
_IMAGES = flags.DEFINE_integer("num_images", 2000, "Pictures, spread evenly over the part.")
_ARCHIVES = flags.DEFINE_string("archives", None, "Folder of the archives, if it has moved.")
flags.mark_flag_as_required("workdir")


def main(argv):
    del argv
    from siamese_jax.reporting import projector  # jax is slow to import: usage errors need not wait

    folder = projector.write_run(
        _WORKDIR.value,
        checkpoint=cli.checkpoint(_CHECKPOINT.value),
        part=_PART.value,
        num_images=_IMAGES.value,
        archives=_ARCHIVES.value,
    )
    print(f"tensorboard --logdir={folder}")


if __name__ == "__main__":
    cli.run(main)
