"""One-shot Omniglot in minutes on a laptop's processor.

A small residual encoder on 56x56 images gives 32 local features at each of 7 x 7 places. It is trained
with Muon on 20-way episodes inside one alphabet, one drawer against another, all characters of a step
against each other.

    bash launch/quickstart.sh
    python launch/train.py --config=configs/quickstart.py --workdir=runs/quickstart

docs/results.md has what was measured. Variants: `:vector` compares one vector an image by the cosine and
trains with AdamW, as most of the literature does; the objectives and ablations are measured on it.
`:smoke` shrinks everything to seconds on the built-in glyphs.
"""

from ml_collections import ConfigDict

from siamese_jax.config import base, distortions, shrink, variants


def get_config(arg: str = "") -> ConfigDict:
    """The config; `arg` is empty or some of `vector` and `smoke`, separated by commas."""
    words = variants(arg, "vector", "smoke")
    config = base()
    config.num_steps = 2000

    config.data.image_size = (56, 56)

    config.model.encoder = "residual"
    config.model.encoder_args = {
        "widths": (32, 64, 64, 128),
        "blocks": 1,
        "stem": 32,
        "stem_stride": 2,
        "pools": 2,  # a map of 7 x 7 places
        "units": 32,  # features of a place
        "local": True,
    }
    config.model.comparator = "local"
    config.model.head_args = {"scale": 20.0, "reach": 1}
    config.model.centre_ink = True  # places are compared with places: the same ones should meet

    config.objective.name = "info_nce"
    config.objective.episodes = 4  # a step: 4 x 2 drawers x 20 characters = 160 images
    config.objective.n_way = 20
    config.objective.symmetries = "alphabet"  # a turned or mirrored alphabet is another alphabet
    config.objective.pad_with_symmetries = True  # four alphabets have fewer than 20 characters
    config.objective.contrast = "batch"

    config.augment = distortions()
    config.augment.elastic_size = 0.03
    config.augment.thicken = 0.036  # of the image's height, on each side of a stroke

    config.optim.name = "muon"
    config.optim.learning_rate = 4e-3
    config.optim.warmup_steps = 100
    config.optim.schedule = "cosine"
    config.optim.weight_decay = 0.05

    config.eval.every = 400
    config.eval.num_trials = 4000
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

    if "vector" in words:
        config.model.encoder_args = {
            "widths": (32, 64, 64, 128),
            "blocks": 1,
            "stem": 32,
            "stem_stride": 2,
            "units": 512,
        }
        config.model.comparator = "cosine"
        config.model.head_args = {"scale": 10.0}
        config.model.centre_ink = False
        config.augment = distortions()
        config.optim.name = "adamw"
        config.eval.num_trials = 2000

    if "smoke" in words:
        if "vector" in words:
            shrink(config, (20, 20), widths=(8, 8), stem=8, units=16)
        else:
            shrink(config, (24, 24), widths=(8, 8), stem=8, pools=1, units=8)
    return config.lock()
