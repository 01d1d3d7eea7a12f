r"""Faces of people never seen in training: the contrastive loss on AT&T / ORL.

The database of faces (40 people, 10 pictures each, 92x112 pixels, `<person>/<image>.pgm`, as a folder or
as a zip of it): 15 people train, 5 choose the checkpoint, 20 test.

    python launch/train.py --config=configs/faces.py --config.data.path=att_faces.zip \
        --workdir=runs/faces
    python launch/evaluate.py --workdir=runs/faces --protocols=within,verification,retrieval,open_set

Measured on 2026-11-22, two CPU cores, seeds 0 to 2: equal error rate 7.0 %, 20-way one-shot 84.7 %
on the 20 test people (10,000 pairs and 4,000 trials per seed), where pixel 1-NN has 14.5 and 73.4 %.
Half a minute of training.
Variants: `:local` compares maps of local features that may move a little against each other (86.0 %
one-shot, but an equal error rate of 8.6 %); `:smoke` shrinks everything to seconds on the built-in
glyphs.

References:
    Hadsell, Chopra, LeCun (2006), Dimensionality reduction by learning an invariant mapping.
    Samaria, Harter (1994), Parameterisation of a stochastic model for human face identification.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from siamese_jax.config import base, distortions, shrink, variants


def get_config(arg: str = "") -> ConfigDict:
    """The config; `arg` is empty, or some of `local` and `smoke`, joined by a comma."""
    words = variants(arg, "local", "smoke")
    config = base()
    config.num_steps = 300
    config.log_every = 10

    config.data = ConfigDict()
    config.data.name = "folder"
    config.data.path = placeholder(str)  # folder, or zip, of the faces
    config.data.fractions = (15, 5, 20)  # people: training, validation, test
    config.data.image_size = (28, 23)  # a quarter of the original's sides
    config.data.seed = 0  # of the split into people

    config.model.encoder = "small"  # the tutorials' two convolutions, without their dense layers
    config.model.encoder_args = {
        "filters": (32, 64),
        "hidden": (),
        "units": 64,
        "normalise": True,
        "output": "unit",
        "dropout": 0.0,
    }
    config.model.comparator = "euclidean"
    config.model.head_args = {"scale": 1.0, "bias": 0.5}

    config.objective.name = "contrastive"
    config.objective.batch = 64  # pairs
    config.objective.negatives = "any"
    config.objective.margin = 1.0  # of embeddings of length 1, whose distances are at most 2
    config.objective.decorrelation = 1.0  # without it 15 people teach a few directions only
    config.objective.symmetries = "none"

    config.augment = distortions(
        rotation=3.0, shear=0.03, scale=(0.95, 1.05), translation=4.0, probability=0.8
    )
    config.augment.mirror = True  # a mirrored face is the same person
    config.augment.contrast = 0.2
    config.augment.brightness = 0.1

    config.optim.name = "adamw"
    config.optim.learning_rate = 1e-3
    config.optim.warmup_steps = 20
    config.optim.schedule = "cosine"
    config.optim.weight_decay = 0.05

    config.eval.every = 50
    config.eval.n_way = 5

    config.search_space = (
        ("optim.learning_rate", "log", 1e-4, 1e-2),
        ("objective.margin", "float", 0.5, 1.5),
        ("objective.decorrelation", "log", 0.1, 10.0),
        ("augment.affine.translation", "float", 0.0, 12.0),
    )

    if "local" in words:
        config.num_steps = 180
        config.eval.every = 60
        config.model.encoder_args.local = True
        config.model.encoder_args.units = 32  # features of a place
        config.model.comparator = "local"
        config.model.head_args = {"scale": 5.0, "bias": -2.5, "reach": 2}
    if "smoke" in words:
        config.data.fractions = (0.6, 0.2, 0.2)
        shrink(config, (20, 20), filters=(4, 8), units=16)
    return config.lock()
