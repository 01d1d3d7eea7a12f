"""What is timed: the networks, sets and steps of the project's own configs, on one device."""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
import runpy
from collections.abc import Callable, Mapping

import jax
import numpy as np

from siamese_jax.benchmarks import measure
from siamese_jax.data import augment, loading
from siamese_jax.inference import network as network_lib
from siamese_jax.inference.devices import Devices
from siamese_jax.models import siamese, summary
from siamese_jax.models.siamese import SiameseNet
from siamese_jax.runs import workdir
from siamese_jax.training import objectives, optim, sampling
from siamese_jax.training.step import (
    TrainState,
    draw_batch,
    init_state,
    make_train_step,
    make_update,
    preview_batch,
)


@dataclasses.dataclass(frozen=True)
class Plan:
    """How to measure.

    Attributes:
        root: folder that holds `configs/` and `launch/`.
        repetitions: repeats of each side of a comparison.
        turn: least length of a turn, seconds.
        seed: of parameters, batches and trials.
        batch: pairs a step of Koch's network.
        dtype: of the networks' computation.
        peers: whether to time PyTorch.
        archives: folder of Omniglot's archives, or None for the built-in glyphs.
        smoke: whether to shrink everything to seconds; the figures mean nothing then.
    """

    root: pathlib.Path
    repetitions: int = 7
    turn: float = 0.3
    seed: int = 0
    batch: int = 32
    dtype: str = "float32"
    peers: bool = True
    archives: str | None = None
    smoke: bool = False

    def compare(self, group: str, sides, **options) -> list[measure.Row]:
        """`measure.compare` with this plan's repetitions."""
        return measure.compare(group, sides, self.repetitions, self.turn, **options)

    def product(self, dtype: str | None = None) -> measure.Side:
        """The matrix product of this plan's size and type."""
        size = 2048 if jax.default_backend() == "cpu" else 8192
        return measure.matrix_product(128 if self.smoke else size, dtype or self.dtype)

    def config(self, name: str, changes: Mapping | None = None):
        """The config `configs/{name}.py` on data that need no network.

        Args:
            name: `koch2015` or `quickstart`.
            changes: values by dotted field.
        """
        path = self.root / "configs" / f"{name}.py"
        config = runpy.run_path(str(path))["get_config"]("smoke" if self.smoke else "")
        config.seed = self.seed
        config.num_devices = 1
        config.model.dtype = self.dtype
        config.data.name = "glyphs" if self.archives is None else "omniglot"
        if self.archives is not None:
            config.data.archives = self.archives
        if name == "koch2015" and not self.smoke:
            config.objective.batch = self.batch
        config.update_from_flattened_dict(dict(changes or {}))
        return config


class Workload:
    """A config made ready: its data, network, objective and optimiser.

    Attributes:
        config: of the run.
        data: the image sets.
        model: the network.
        tx: the optimiser.
        objective: what a step asks.
        augmentation: keyword arguments of `augment.augment`.
        fill: `paper` or `edge`.
        devices: the first device.
        images: (M, H, W, C) uint8 training images on the device.
        index: `SetIndex` of the training images.
    """

    def __init__(self, config):
        self.config = config
        self.data = _load(json.dumps(workdir.plain(config.data), sort_keys=True))
        train = self.data.train
        self.model = siamese.build(config.model, train.image_shape)
        self.tx = optim.build(config.optim, config.num_steps)
        self.objective = objectives.build(config.objective, int(train.alphabet_count.max()))
        self.augmentation = augment.build(config.augment)
        self.fill = "paper" if train.kind == "ink" else "edge"
        self.devices = Devices(1)
        self.images = jax.device_put(train.images[:])
        self.index = sampling.SetIndex.of(train)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of the training images."""
        return self.data.train.image_shape

    @property
    def pairs(self) -> int:
        """Images of a step by twos: both networks take two images of each character."""
        return self.objective.images // 2

    def state(self) -> TrainState:
        """The state before the first step."""
        return init_state(
            self.model, self.tx, self.image_shape, self.config.seed, self.objective.metrics
        )

    def network(self) -> network_lib.Siamese:
        """The untrained network as it is used."""
        variables = self.devices.replicate(self.state().variables)
        return network_lib.bind(
            self.config, variables, self.image_shape, self.data.train.kind, "model", self.devices
        )

    def operations(self) -> int:
        """Floating-point operations of a training step, see `step_operations`."""
        return step_operations(self.model, self.image_shape, self.objective.images, self.pairs)

    def training_call(self) -> Callable:
        """Makes a call that takes the next training step of a run of its own."""
        step = make_train_step(
            *(self.model, self.tx, self.objective, self.augmentation, self.fill, self.devices)
        )
        return _stepping(lambda state: step(state, self.images, self.index), self.state())

    def fixed_call(self) -> Callable:
        """As `training_call`, with the run's first batch every time: no input, no augmentation."""
        step, batch, pixels = fixed_step(self)
        return _stepping(lambda state: step(state, batch, pixels), self.state())

    def input_call(self) -> Callable:
        """Makes a call that draws, gathers and warps the next batch on the device."""

        @jax.jit
        def draw(key, images, index):
            return draw_batch(
                *(key, 0, images, index, self.objective, self.augmentation, self.fill),
                *(self.devices, False),
            )[1]

        # Keys lie ready, as a training step has its own: a key costs more than a small set's draw.
        keys = jax.random.split(jax.random.key(self.config.seed), 64)
        keys = [keys[i] for i in range(len(keys))]
        count = 0

        def call():
            nonlocal count
            count += 1
            return draw(keys[count % len(keys)], self.images, self.index)

        return call


def fixed_step(work: Workload) -> tuple[Callable, object, jax.Array]:
    """The training step of `steps.make_train_step` without its input: forward, backward, update.

    Args:
        work: of one device.

    Returns:
        `step(state, batch, pixels) -> (state, metrics)`, the state donated, and the batch and pixels
        (*rows, H, W, C) of the run's first step.
    """
    batch, pixels = preview_batch(
        work.config.seed,
        0,
        work.data.train.images,
        work.index,
        work.objective,
        work.augmentation,
        work.fill,
    )
    update = make_update(work.model, work.tx, work.objective, work.devices)
    step = work.devices.compile(
        lambda state, batch, pixels: update(state, batch, pixels, state.rng), donate_argnums=(0,)
    )
    return step, batch, pixels


def step_operations(
    model: SiameseNet, image_shape: tuple[int, int, int], images: int, pairs: int
) -> int:
    """Floating-point operations of a training step by direct convolution.

    Twice the multiply-adds of convolutions, dense layers and comparator; forward and backward
    together are taken as three times the forward pass, though the first layer needs no gradient of
    its input.

    Args:
        model: the network.
        image_shape: (H, W, C) of its input.
        images: that go through the encoder.
        pairs: that go through the comparator.
    """
    adds = {"encoder": 0, "head": 0}
    for layer in summary.layer_table(model, image_shape):
        adds["head" if layer.name == "head" else "encoder"] += layer.multiply_adds
    return 3 * 2 * (images * adds["encoder"] + pairs * adds["head"])


def _stepping(step: Callable, state) -> Callable:
    """A call that goes on from the state of the call before."""

    def call():
        nonlocal state
        state, out = step(state)
        return out

    return call


@functools.lru_cache(maxsize=2)
def _load(fields: str) -> loading.Data:
    return loading.load(json.loads(fields))


def random_images(count: int, image_shape: tuple[int, int, int], seed: int) -> np.ndarray:
    """(count, H, W, C) uint8 noise, for what does not depend on the picture."""
    return np.random.default_rng(seed).integers(0, 256, (count, *image_shape), np.uint8)
