"""Koch, Zemel, Salakhutdinov (2015), Siamese Neural Networks for One-shot Image Recognition.

The paper's network on 105x105 images, trained on same / different pairs.

    python launch/train.py --config=configs/koch2015.py --workdir=runs/koch

Time: 0.909 GMAC an image, days on a CPU; made for a GPU. Accuracy at full size: not yet run.
Variants: `:smoke` shrinks everything to seconds on the built-in glyphs.
"""

import ml_collections
from ml_collections.config_dict import placeholder


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """The config; `arg` is empty or `smoke`."""
    if arg not in ("", "smoke"):
        raise ValueError(f"configs/koch2015.py has the variant 'smoke', not {arg!r}")
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.num_steps = 200 * 1172  # 200 epochs of 150,000 pairs in batches of 128
    config.num_devices = 0  # 0: all there are
    config.feed = "auto"  # where the images to train on lie: device, host, or by their size
    config.log_every = 293
    config.keep_best = 1

    config.data = ml_collections.ConfigDict()
    config.data.name = "omniglot"
    config.data.split = "koch"  # drawers 1-12 / 13-16 / 17-20 (our choice), alphabets 30 / 10 / 10
    config.data.image_size = (105, 105)  # pixels
    config.data.archives = placeholder(str)  # folder of the three Omniglot zips
    config.data.data_dir = placeholder(str)  # of prepared sets; None: where tfds keeps its own
    config.data.stream = False  # whether Omniglot's images to train on stay on disk
    config.data.path = placeholder(str)  # folder of pictures, for name = "folder"
    config.data.glyphs_alphabets = 20  # of the glyphs
    config.data.glyphs_characters = (20, 32)  # least and most an alphabet
    config.data.glyphs_drawers = 20
    config.data.seed = 0

    config.model = ml_collections.ConfigDict()
    config.model.encoder = "koch"
    config.model.encoder_args = ml_collections.ConfigDict(
        {
            "filters": (64, 128, 128, 256),
            "kernels": (10, 7, 4, 4),
            "units": 4096,
            "conv_std": 0.01,  # as published
            "dense_std": 0.2,  # as published
            "bias_mean": 0.5,  # as published
        }
    )
    config.model.comparator = "l1"
    config.model.head_args = ml_collections.ConfigDict({"kernel_std": 0.2, "bias_mean": 0.5})
    config.model.dtype = "float32"

    config.objective = ml_collections.ConfigDict()
    config.objective.name = "verification"
    config.objective.batch = 128  # pairs, as published
    config.objective.negatives = "any"  # or "same_alphabet"; the paper does not say
    config.objective.turns = "none"

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
    config.optim.name = "layerwise"
    config.optim.steps_per_epoch = 1172
    config.optim.decay = 0.99  # of every rate, an epoch, as published
    config.optim.momentum_start = 0.5  # as published
    config.optim.momentum_epochs = 10  # length of the ramp: not published
    # (parameters, rate eta_j, final momentum mu_j, L2 weight lambda_j): values not published
    config.optim.rules = (
        ("encoder/conv1/.*", 1e-2, 0.9, 1e-5),
        ("encoder/conv2/.*", 1e-2, 0.9, 1e-5),
        ("encoder/conv3/.*", 1e-2, 0.9, 1e-5),
        ("encoder/conv4/.*", 1e-2, 0.9, 1e-5),
        ("encoder/embedding/.*", 1e-2, 0.9, 1e-5),
        ("head/.*", 1e-2, 0.9, 1e-5),
    )

    config.eval = ml_collections.ConfigDict()
    config.eval.every = 1172  # steps: an epoch
    config.eval.trials = 320  # as published
    config.eval.n_way = 20
    config.eval.seed = 0
    config.eval.patience = 20  # epochs, as published

    config.search_space = _search_space((3, 20), (16, 256, 16), (128, 4096, 16))

    if arg == "smoke":
        config.num_steps = 20
        config.log_every = 5
        config.data.name = "glyphs"
        config.data.glyphs_alphabets = 9
        config.data.glyphs_characters = (6, 10)
        config.data.glyphs_drawers = 10
        config.data.image_size = (52, 52)
        config.model.encoder_args.filters = (4, 4, 4, 4)
        config.model.encoder_args.kernels = (4, 3, 3, 2)
        config.model.encoder_args.units = 16
        config.objective.batch = 16
        config.optim.steps_per_epoch = 10
        config.eval.every = 10
        config.eval.trials = 50
        config.eval.n_way = 5
        config.search_space = _search_space((2, 6), (2, 8, 2), (8, 32, 8))
    return config.lock()


def _search_space(kernel, filters, units):
    """The paper's space (section 3.2): a rate, momentum and L2 weight a layer, and all sizes."""
    layers, convolutions = range(6), range(4)
    return (
        *((f"optim.rules.{i}.rate", "log", 1e-4, 1e-1) for i in layers),
        *((f"optim.rules.{i}.momentum", "float", 0.0, 1.0) for i in layers),
        *((f"optim.rules.{i}.l2", "float", 0.0, 0.1) for i in layers),
        *((f"model.encoder_args.kernels.{i}", "int", *kernel) for i in convolutions),
        *((f"model.encoder_args.filters.{i}", "int", *filters) for i in convolutions),
        ("model.encoder_args.units", "int", *units),
    )
