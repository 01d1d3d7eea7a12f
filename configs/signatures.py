r"""Signatures of people never seen in training: is this one genuine, or skilfully forged?

The pictures are those of `launch/signatures.py`, or a folder of others laid out alike, as
`<person>/<writer>/<number>.png`. Pairs are of one person's name: by one writer, or by two.

    python launch/signatures.py --folder=signatures
    python launch/train.py --config=configs/signatures.py --config.data.path=signatures/train \
        --workdir=runs/signatures
    python launch/evaluate.py --workdir=runs/signatures --protocols=verification \
        --negatives=same_alphabet --pairs=signatures/pairs.csv

Variants: `:smoke` shrinks everything to seconds on the built-in glyphs.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from siamese_jax.config import base, distortions, shrink, variants


def get_config(arg: str = "") -> ConfigDict:
    """The config; `arg` is empty or `smoke`."""
    words = variants(arg, "smoke")
    config = base()
    config.num_steps = 600

    config.data.name = "folder"
    config.data.path = placeholder(str)
    config.data.ink = True  # dark ink on light paper
    config.data.fractions = (0.7, 0.2, 0.1)  # of the people; the pairs file has others
    config.data.image_size = (40, 100)

    config.model.encoder = "residual"
    config.model.encoder_args = {
        "widths": (24, 48, 96),
        "blocks": 1,
        "stem": 24,
        "stem_stride": 2,
        "units": 128,
    }
    config.model.comparator = "cosine"
    config.model.head_args = {"scale": 10.0}

    config.objective.name = "verification"
    config.objective.batch = 32  # pairs
    config.objective.negatives = "same_alphabet"  # of one name, by two writers
    config.objective.symmetries = "none"

    config.augment = distortions(
        rotation=3.0, shear=0.05, scale=(0.95, 1.05), translation=3.0, probability=0.5
    )

    config.optim.name = "adamw"
    config.optim.learning_rate = 2e-3
    config.optim.warmup_steps = 50
    config.optim.schedule = "cosine"
    config.optim.weight_decay = 0.05

    config.eval.every = 100
    config.eval.n_way = 4  # the writers of one name

    if "smoke" in words:
        shrink(config, (20, 20), widths=(8, 8), stem=8, units=16)
    return config.lock()
