"""From digits to alphabets: trained on MNIST pairs alone, evaluated on Omniglot.

The contrastive loss on pairs of digits, 28x28 pixels with ink 1, and then the one-shot trials of
characters, of which the network has never seen one.

    python launch/train.py --config=configs/mnist_to_omniglot.py --workdir=runs/mnist_to_omniglot
    python launch/evaluate.py --workdir=runs/mnist_to_omniglot --protocols=official,within

`--config.data.archives` and `--config.test_data.archives` name the folders of MNIST's four and of
Omniglot's three archives where they are not to be downloaded.

Measured on 2026-11-22, two CPU cores, seeds 0 to 2: official runs 38.00 %, within the test
alphabets 31.50 % (400 and 4,000 trials a seed), where pixel 1-NN has 19.00 and 15.21 %. About a
minute of training.
Variants: `:smoke` shrinks everything to seconds on the built-in glyphs.

References:
    Hadsell, Chopra, LeCun (2006), Dimensionality reduction by learning an invariant mapping.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from siamese_jax.config import base, distortions, shrink, variants


def get_config(arg: str = "") -> ConfigDict:
    """The config; `arg` is empty or `smoke`."""
    words = variants(arg, "smoke")
    config = base()
    config.num_steps = 500
    config.log_every = 50

    config.data = ConfigDict()
    config.data.name = "mnist"
    config.data.image_size = (28, 28)
    config.data.archives = placeholder(str)  # folder of MNIST's four archives
    config.data.data_dir = placeholder(str)  # folder of prepared sets; None: that of tfds

    config.test_data = ConfigDict()
    config.test_data.name = "omniglot"
    config.test_data.split = "lake"
    config.test_data.image_size = (28, 28)
    config.test_data.archives = placeholder(str)  # folder of the three Omniglot zips
    config.test_data.data_dir = placeholder(str)

    config.model.encoder = "small"  # the tutorials' two convolutions, without their dense layers
    config.model.encoder_args = {
        "filters": (32, 64),
        "hidden": (),
        "units": 64,
        "normalise": True,
        "output": "unit",
    }
    config.model.comparator = "euclidean"
    config.model.head_args = {"scale": 1.0, "bias": 0.5}

    config.objective.name = "contrastive"
    config.objective.batch = 128  # pairs
    config.objective.negatives = "any"
    config.objective.margin = 1.0  # of embeddings of length 1, whose distances are at most 2
    config.objective.decorrelation = 1.0  # without it ten digits teach a few directions only
    config.objective.symmetries = "none"

    config.augment = distortions()

    config.optim.name = "adamw"
    config.optim.learning_rate = 1e-3
    config.optim.warmup_steps = 50
    config.optim.schedule = "cosine"
    config.optim.weight_decay = 0.01

    config.eval.every = 250
    config.eval.n_way = 10  # the digits, on other images than those trained on

    config.search_space = (
        ("optim.learning_rate", "log", 1e-4, 1e-2),
        ("objective.margin", "float", 0.5, 4.0),
    )

    if "smoke" in words:
        config.data.seed, config.test_data.seed = 0, 1
        config.model.encoder_args = ConfigDict()  # the encoder's own, with its dense layers
        shrink(config, (20, 20), filters=(4, 8), hidden=(16,), units=8)
    return config.lock()
