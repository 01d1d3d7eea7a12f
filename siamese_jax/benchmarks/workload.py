"""What is timed: the networks, sets and steps of the project's own configs, on one device."""

from __future__ import annotations

import dataclasses
import functools
import json
import runpy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from siamese_jax import cli
from siamese_jax.benchmarks import measure
from siamese_jax.data import loading
from siamese_jax.inference import embed
from siamese_jax.inference import network as network_lib
from siamese_jax.inference.devices import Devices
from siamese_jax.models import summary
from siamese_jax.models.siamese import SiameseNet
from siamese_jax.runs import workdir
from siamese_jax.training import sampling
from siamese_jax.training.experiment import Experiment
from siamese_jax.training.step import TrainState, draw_batch, make_update

_State = TypeVar("_State")
NETWORKS = ("koch2015", "quickstart", "best")


@dataclasses.dataclass(frozen=True)
class Plan:
    """How to measure.

    Attributes:
        repetitions: repeats of each case of a comparison.
        repeat_seconds: least length of a repeat.
        seed: of parameters, batches and trials.
        networks: of `NETWORKS`, those that the suites `training` and `embedding` time.
        batch: pairs a step of Koch's network.
        dtype: of the networks' computation.
        peers: whether to time PyTorch and onnxruntime.
        torch_python: interpreter that has PyTorch; None for this one.
        archives: folder of Omniglot's archives, or None for the built-in glyphs.
        postgres: URL of a PostgreSQL database for the suite `galleries`; None for files only.
        smoke: whether to shrink everything to seconds; the figures mean nothing then.
    """

    repetitions: int = 7
    repeat_seconds: float = 0.3
    seed: int = 0
    networks: tuple[str, ...] = NETWORKS
    batch: int = 32
    dtype: str = "float32"
    peers: bool = True
    torch_python: str | None = None
    archives: str | None = None
    postgres: str | None = None
    smoke: bool = False

    def compare(
        self, group: str, cases: Sequence[measure.Case], **options: Any
    ) -> list[measure.Row]:
        """`measure.compare` with this plan's repeats."""
        return measure.compare(group, cases, self.repetitions, self.repeat_seconds, **options)

    def product(self, dtype: str | None = None) -> measure.Case:
        """The matrix product of this plan's size and type."""
        size = 2048 if jax.default_backend() == "cpu" else 8192
        return measure.matrix_product(128 if self.smoke else size, dtype or self.dtype)

    def config(self, name: str, changes: Mapping | None = None) -> ConfigDict:
        """The config `configs/{name}.py` on data that need no network.

        Args:
            name: one of `NETWORKS`, and after a colon perhaps a variant of it.
            changes: values by dotted field.
        """
        name, _, variant = name.partition(":")
        words = ([variant] if variant else []) + (["smoke"] if self.smoke else [])
        path = cli.ROOT / "configs" / f"{name}.py"
        config = runpy.run_path(str(path))["get_config"](",".join(words))
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
    """The experiment of a config, and calls that time its parts.

    Attributes:
        config: of the run.
        experiment: its data, network, objective and optimiser.
        images: (M, H, W, C) uint8 training images on the device.
    """

    def __init__(self, config: ConfigDict) -> None:
        self.config = config
        data = _load(json.dumps(workdir.plain(config.data), sort_keys=True))
        self.experiment = Experiment.from_config(config, data=data, devices=Devices(1))
        self.images = jax.device_put(self.experiment.train_set.images[:])

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of the network's input."""
        return self.experiment.image_shape

    @property
    def images_per_step(self) -> int:
        """Images that a training step sends through the encoder."""
        return self.experiment.objective.images

    @property
    def pairs(self) -> int:
        """Images of a step by twos: every network here takes two images of each character."""
        return self.images_per_step // 2

    def network(self) -> network_lib.Siamese:
        """The untrained network as it is used."""
        experiment = self.experiment
        variables = experiment.devices.replicate(experiment.init_state().variables)
        return experiment.network(variables)

    def operations(self) -> int:
        """Floating-point operations of a training step, see `step_operations`."""
        model = self.experiment.model
        return step_operations(model, self.image_shape, self.images_per_step, self.pairs)

    def embedding_operations(self) -> int:
        """Floating-point operations of an encoder pass over `images_per_step` images."""
        model = self.experiment.model
        return forward_operations(model, self.image_shape, self.images_per_step, pairs=0)

    def training_call(self) -> Callable:
        """Makes a call that takes the next training step of a run of its own."""
        experiment = self.experiment
        return _stepping(
            lambda state: experiment.train_step(state, self.images, experiment.index),
            experiment.init_state(),
        )

    def fixed_call(self) -> Callable:
        """As `training_call`, with the run's first batch every time: no input, no augmentation."""
        step, batch, pixels = fixed_step(self)
        return _stepping(lambda state: step(state, batch, pixels), self.experiment.init_state())

    def embedding_call(self) -> Callable:
        """Makes a call that embeds the same `images_per_step` images, which lie on the device."""
        experiment = self.experiment
        embed_step = embed.make_embed_step(experiment.model, experiment.devices)
        variables = experiment.devices.replicate(experiment.init_state().variables)
        images = random_images(self.images_per_step, self.image_shape, self.config.seed)
        images = jax.device_put(images)
        return lambda: embed_step(variables, images)

    def input_call(self) -> Callable:
        """Makes a call that draws, gathers and warps the next batch on the device."""
        experiment = self.experiment

        @jax.jit
        def draw(key: jax.Array, images: jax.Array, index: sampling.SetIndex) -> jax.Array:
            _, pixels, _ = draw_batch(
                key,
                jnp.int32(0),
                images,
                index,
                experiment.objective,
                experiment.augmentation,
                experiment.devices,
                fed=False,
            )
            return pixels

        # Keys lie ready, as a training step has its own: a key costs more than a small set's draw.
        keys = list(jax.random.split(jax.random.key(self.config.seed), 64))
        count = 0

        def call() -> jax.Array:
            nonlocal count
            count += 1
            return draw(keys[count % len(keys)], self.images, experiment.index)

        return call


def fixed_step(work: Workload) -> tuple[Callable, object, jax.Array]:
    """The training step without its input: forward, backward, update.

    Returns:
        `step(state, batch, pixels) -> (state, metrics)`, the state donated, and the batch and pixels
        (*rows, H, W, C) of the run's first step.
    """
    experiment = work.experiment
    batch, pixels = experiment.preview_batch()
    update = make_update(experiment.model, experiment.tx, experiment.objective, experiment.devices)

    def step(state: TrainState, batch: Any, pixels: jax.Array) -> tuple[TrainState, dict]:
        return update(state, batch, pixels, state.rng)

    return experiment.devices.compile(step, donate_argnums=(0,)), batch, pixels


def step_operations(
    model: SiameseNet, image_shape: tuple[int, int, int], images: int, pairs: int
) -> int:
    """Floating-point operations of a training step; arguments as of `forward_operations`.

    Forward and backward together are taken as three times the forward pass, though the first layer
    needs no gradient of its input.
    """
    return 3 * forward_operations(model, image_shape, images, pairs)


def forward_operations(
    model: SiameseNet, image_shape: tuple[int, int, int], images: int, pairs: int
) -> int:
    """Floating-point operations of a forward pass by direct convolution.

    Twice the multiply-adds of convolutions, dense layers and comparator.

    Args:
        model: the network.
        image_shape: (H, W, C) of its input.
        images: that go through the encoder.
        pairs: that go through the comparator.
    """
    adds = {"encoder": 0, "head": 0}
    for layer in summary.layer_table(model, image_shape):
        adds["head" if layer.name == "head" else "encoder"] += layer.multiply_adds
    return 2 * (images * adds["encoder"] + pairs * adds["head"])


def _stepping(step: Callable[[_State], tuple[_State, Any]], state: _State) -> Callable[[], Any]:
    """A call that goes on from the state of the call before."""

    def call() -> Any:
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
