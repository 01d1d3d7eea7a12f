"""Makes `torch_outputs.json`: what torchvision's and timm's own networks say of two pictures.

    pip install torch torchvision timm && python tests/torch_outputs.py

The weights are random, and the same wherever they are made: each array follows from its name and its
shape. So the file holds names, shapes and outputs only. `test_photo_encoders.py` compares with them.
"""

import json
import pathlib
import zlib

import numpy as np

FILE = pathlib.Path(__file__).with_suffix(".json")
FEATURES = 64  # of each picture that are kept
SIZES = {"resnet18": (64, 64), "bottlenecks": (57, 41), "vit": (32, 32)}


def array_of(name, shape):
    """Random numbers of a size that keeps features within some units through all layers."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("running_var") or (len(shape) == 1 and name.endswith("weight")):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    fan_in = np.prod(shape[1:]) if len(shape) > 1 and name.endswith("weight") else 100
    return (rng.normal(size=shape) / np.sqrt(fan_in)).astype(np.float32)


def pictures(case):
    """(2, H, W, 3) float32 in [0, 1]."""
    return np.random.default_rng(1).uniform(size=(2, *SIZES[case], 3)).astype(np.float32)


def main():
    import timm.models.vision_transformer
    import torch
    import torchvision

    resnet = torchvision.models.resnet
    networks = {
        "resnet18": torchvision.models.resnet18(),
        "bottlenecks": resnet.ResNet(resnet.Bottleneck, [1, 1, 1, 1]),
        "vit": timm.models.vision_transformer.VisionTransformer(
            img_size=32, patch_size=8, embed_dim=48, depth=3, num_heads=3, num_classes=0
        ),
    }
    imagenet = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    found = {"versions": {m.__name__: m.__version__ for m in (torch, torchvision, timm)}}
    for case, network in networks.items():
        if hasattr(network, "fc"):
            network.fc = torch.nn.Identity()
        shapes = {
            name: list(x.shape)
            for name, x in network.state_dict().items()
            if not name.endswith("num_batches_tracked")
        }
        state = {name: torch.from_numpy(array_of(name, x)) for name, x in shapes.items()}
        missing = network.load_state_dict(state, strict=False)
        assert all(x.endswith("num_batches_tracked") for x in missing.missing_keys)
        mean, std = imagenet if case != "vit" else ((0.5,) * 3, (0.5,) * 3)
        images = torch.from_numpy(pictures(case)).permute(0, 3, 1, 2)
        images = torchvision.transforms.functional.normalize(images, mean, std)
        with torch.no_grad():
            outputs = network.eval()(images).numpy()
        kept = [[float(np.float32(x)) for x in row[:FEATURES]] for row in outputs]
        found[case] = {"shapes": shapes, "outputs": kept, "size": outputs.shape[1]}
    FILE.write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
