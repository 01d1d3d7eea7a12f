"""One-shot Omniglot in minutes on a laptop's processor.

A small residual encoder on 56x56 images, trained on 20-way episodes inside one alphabet, one drawer
against another, all characters of a step against each other.

    bash launch/quickstart.sh
    python launch/train.py --config=configs/quickstart.py --workdir=runs/quickstart

Measured on 2026-11-22, two cores of an Intel Xeon, seed 0: 9 min 49 s of training; official runs
95.75 %, 20-way within the test alphabets 88.48 % (400 and 4,000 trials; README has the intervals).
Variants: `:smoke` shrinks everything to seconds on the built-in glyphs.
"""

from ml_collections import ConfigDict

from siamese_jax.config import base, distortions, shrink, variants


def get_config(arg: str = "") -> ConfigDict:
    """The config; `arg` is empty or `smoke`."""
    words = variants(arg, "smoke")
    config = base()
    config.num_steps = 2000

    config.data.image_size = (56, 56)

    config.model.encoder = "residual"
    config.model.encoder_args = {
        "widths": (32, 64, 64, 128),
        "blocks": 1,
        "stem": 32,
        "stem_stride": 2,
        "units": 512,
    }
    config.model.comparator = "cosine"
    config.model.head_args = {"scale": 10.0}

    config.objective.name = "info_nce"
    config.objective.episodes = 4  # a step: 4 x 2 drawers x 20 characters = 160 images
    config.objective.n_way = 20
    config.objective.symmetries = "alphabet"  # a turned or mirrored alphabet is another alphabet
    config.objective.pad_with_symmetries = True  # four alphabets have fewer than 20 characters
    config.objective.contrast = "batch"

    config.augment = distortions()

    config.optim.name = "adamw"
    config.optim.learning_rate = 4e-3
    config.optim.warmup_steps = 100
    config.optim.schedule = "cosine"
    config.optim.weight_decay = 0.05

    config.eval.every = 400
    config.eval.between = False  # trials of any alphabet instead: for data.split = "vinyals"

    config.search_space = (
        ("optim.learning_rate", "log", 1e-4, 1e-1),
        ("optim.weight_decay", "log", 1e-3, 1.0),
        ("model.head_args.scale", "log", 2.0, 50.0),
        ("augment.affine.rotation", "float", 0.0, 30.0),
        ("augment.affine.shear", "float", 0.0, 0.6),
        ("augment.affine.probability", "float", 0.0, 1.0),
        ("objective.symmetries", "choice", "none", "alphabet", "character"),
    )

    if "smoke" in words:
        shrink(config, (20, 20), widths=(8, 8), stem=8, units=16)
    return config.lock()
