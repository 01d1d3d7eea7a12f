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

import ml_collections
from ml_collections.config_dict import placeholder


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """The config; `arg` is empty or `smoke`."""
    if arg not in ("", "smoke"):
        raise ValueError(f"configs/mnist_to_omniglot.py has the variant 'smoke', not {arg!r}")
    config = ml_collections.ConfigDict()
    config.seed = 0  # of parameters, batches and warps
    config.num_steps = 500  # updates
    config.num_devices = 1  # 0: all there are; their number must divide the batch
    config.feed = "auto"  # where the images to train on lie: device, host, or by their size
    config.log_every = 50  # steps
    config.keep_best = 1  # checkpoints kept besides the latest

    config.data = ml_collections.ConfigDict()
    config.data.name = "mnist"
    config.data.image_size = (28, 28)  # pixels
    config.data.archives = placeholder(str)  # folder of MNIST's four archives
    config.data.data_dir = placeholder(str)  # of prepared sets; None: where tfds keeps its own

    config.test_data = ml_collections.ConfigDict()
    config.test_data.name = "omniglot"
    config.test_data.split = "lake"
    config.test_data.image_size = (28, 28)  # pixels
    config.test_data.archives = placeholder(str)  # folder of the three Omniglot zips
    config.test_data.data_dir = placeholder(str)

    config.model = ml_collections.ConfigDict()
    config.model.encoder = "small"  # the tutorials' two convolutions, without their dense layers
    config.model.encoder_args = ml_collections.ConfigDict(
        {"filters": (32, 64), "hidden": (), "units": 64, "normalise": True, "output": "unit"}
    )
    config.model.comparator = "euclidean"
    config.model.head_args = ml_collections.ConfigDict({"scale": 1.0, "bias": 0.5})
    config.model.dtype = "float32"  # of computation; parameters are float32

    config.objective = ml_collections.ConfigDict()
    config.objective.name = "contrastive"
    config.objective.batch = 128  # pairs
    config.objective.negatives = "any"
    config.objective.margin = 1.0  # of embeddings of length 1, whose distances are at most 2
    config.objective.decorrelation = 1.0  # without it ten digits teach a few directions only
    config.objective.symmetries = "none"

    config.augment = ml_collections.ConfigDict()
    config.augment.distort = True
    config.augment.affine = ml_collections.ConfigDict(
        {
            "rotation": 10.0,
            "shear": 0.3,
            "scale": (0.8, 1.2),
            "translation": 2.0,
            "probability": 0.5,
        }
    )
    config.augment.elastic_size = 0.0
    config.augment.elastic_grid = 4

    config.optim = ml_collections.ConfigDict()
    config.optim.name = "adamw"
    config.optim.learning_rate = 1e-3
    config.optim.warmup_steps = 50
    config.optim.weight_decay = 0.01

    config.eval = ml_collections.ConfigDict()
    config.eval.every = 250  # steps
    config.eval.num_trials = 2000  # ten-way trials of other digits than those trained on
    config.eval.n_way = 10
    config.eval.seed = 0
    config.eval.patience = 0

    config.search_space = (
        ("optim.learning_rate", "log", 1e-4, 1e-2),
        ("objective.margin", "float", 0.5, 4.0),
    )

    if arg == "smoke":
        config.num_steps = 20
        config.log_every = 5
        for data in (config.data, config.test_data):
            data.name = "glyphs"
            data.image_size = (20, 20)
            data.glyphs_alphabets = 9
            data.glyphs_characters = (6, 10)
            data.glyphs_drawers = 8
        config.data.seed = 0
        config.test_data.seed = 1
        config.model.encoder_args = {"filters": (4, 8), "hidden": (16,), "units": 8}
        config.objective.batch = 8
        config.optim.warmup_steps = 2
        config.eval.every = 10
        config.eval.num_trials = 50
        config.eval.n_way = 5
    return config.lock()
