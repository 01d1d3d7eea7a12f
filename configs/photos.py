r"""Photos: a ResNet-18, from scratch or from weights of torchvision, with the augmentation of photos.

    python launch/train.py --config=configs/photos.py --config.data.path=my_photos --workdir=runs/photos

From torchvision's weights, saved as a safetensors file (docs/your-data.md has the lines), with the stem
and the first stage as they are and the others at rates that fall towards the stem:

    python launch/train.py --config=configs/photos.py --config.data.path=my_photos \
        --config.model.weights=resnet18.safetensors --config.model.encoder_args.frozen=2 \
        --config.optim.layer_decay=0.6 --config.optim.learning_rate=3e-4 --workdir=runs/photos

Classes train, validate and test as `data.fractions` says; each needs two photos. The recipe is a
starting point: no figure of it is recorded.
Variants: `:vit` takes a ViT-S/16 in place of the ResNet-18; `:smoke` shrinks everything to seconds on
the built-in glyphs.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from siamese_jax.config import base, photos, shrink, variants


def get_config(arg: str = "") -> ConfigDict:
    """The config; `arg` is empty, or some of `vit` and `smoke`, joined by a comma."""
    words = variants(arg, "vit", "smoke")
    config = base()
    config.num_steps = 2000

    config.data.name = "folder"
    config.data.fractions = (0.6, 0.2, 0.2)  # of the classes: training, validation, test
    config.data.image_size = (128, 128)

    config.model.weights = placeholder(str)  # safetensors of torchvision's or timm's; None: random
    config.model.encoder = "resnet"
    config.model.encoder_args = {
        "stages": (2, 2, 2, 2),  # ResNet-18; (3, 4, 6, 3) of bottlenecks is ResNet-50
        "bottleneck": False,
        "width": 64,
        "small_inputs": False,  # a stem for pictures of some 32 pixels
        "units": 256,
        "dropout": 0.0,
        "frozen": 0,  # first stages that are not trained; 5: only the embedding is trained
    }
    config.model.comparator = "cosine"
    config.model.head_args = {"scale": 16.0}

    config.objective.name = "info_nce"
    config.objective.episodes = 2  # a step: 2 x 2 photos of 32 classes
    config.objective.n_way = 32  # or as many as there are
    config.objective.symmetries = "none"
    config.objective.pad_with_symmetries = False
    config.objective.contrast = "batch"
    config.objective.balance = 1.0  # classes equally often; 0: photos equally often

    config.augment = photos()

    config.optim.name = "adamw"
    config.optim.learning_rate = 1e-3
    config.optim.layer_decay = 1.0  # of the rate, from each stage to the one below it
    config.optim.warmup_steps = 100
    config.optim.schedule = "cosine"
    config.optim.weight_decay = 0.05

    config.eval.every = 200
    config.eval.n_way = 5

    config.search_space = (
        ("optim.learning_rate", "log", 1e-4, 1e-2),
        ("optim.layer_decay", "float", 0.4, 1.0),
        ("model.head_args.scale", "log", 4.0, 64.0),
    )

    if "vit" in words:
        config.model.encoder = "vit"
        config.model.encoder_args = ConfigDict(
            {"patch": 16, "width": 384, "depth": 12, "heads": 6, "units": 256, "frozen": 0}
        )
    if "smoke" in words:
        small = {"stages": (1, 1), "width": 4, "small_inputs": True}
        if "vit" in words:
            small = {"patch": 5, "width": 8, "depth": 1, "heads": 2}
        shrink(config, (20, 20), **small, units=16)
    return config.lock()
