"""Koch's network (2015) trained on episodes: how much of its accuracy is due to training on pairs?

The encoder and the weighted L1 distance of `koch2015.py`, on the same alphabets and drawers. In place of
same / different pairs, InfoNCE on 20-way episodes: each image must find its character among those of all
episodes of the step. AdamW and another initialisation, with which this training works.

    python launch/train.py --config=configs/koch_episodes.py --config.data.archives=DIR \
        --workdir=runs/koch_episodes

docs/paper.md has what was measured. Variants: `:smoke` shrinks everything to seconds on the built-in
glyphs.
"""

from ml_collections import ConfigDict

from siamese_jax.config import base, distortions, shrink, variants


def get_config(arg: str = "") -> ConfigDict:
    """The config; `arg` is empty or `smoke`."""
    words = variants(arg, "smoke")
    config = base()
    config.num_steps = 20_000
    config.log_every = 100

    config.data.name = "omniglot"
    config.data.split = "koch"  # drawers 1-12 / 13-16 / 17-20, alphabets 30 / 10 / 10

    config.model.encoder = "koch"
    config.model.encoder_args = {
        "filters": (64, 128, 128, 256),
        "kernels": (10, 7, 4, 4),
        "units": 4096,
        "conv_std": 0.1,
        "dense_std": 0.02,
        "bias_mean": 0.0,
        "convolution": "auto",  # by what is fastest on this machine
    }
    config.model.comparator = "l1"
    # A distance at first: the nearer two images are, the higher they score.
    config.model.head_args = {"kernel_mean": -0.05, "kernel_std": 0.0, "bias_mean": 0.0}

    config.objective.name = "info_nce"
    config.objective.episodes = 4  # a step: 4 x 2 drawers x 20 characters = 160 images
    config.objective.n_way = 20
    config.objective.symmetries = "alphabet"  # a turned or mirrored alphabet is another alphabet
    config.objective.pad_with_symmetries = True  # four alphabets have fewer than 20 characters
    config.objective.contrast = "batch"

    config.augment = distortions()

    config.optim.name = "adamw"
    config.optim.learning_rate = 3e-4
    config.optim.warmup_steps = 100
    config.optim.schedule = "cosine"
    config.optim.weight_decay = 0.05

    config.eval.every = 1000
    config.eval.num_trials = 2000

    config.search_space = (
        ("optim.learning_rate", "log", 1e-5, 1e-2),
        ("optim.weight_decay", "log", 1e-3, 1.0),
    )

    if "smoke" in words:
        shrink(config, (52, 52), filters=(4, 4, 4, 4), kernels=(4, 3, 3, 2), units=16)
        config.data.glyphs_drawers = 10  # shared out among three parts
    return config.lock()
