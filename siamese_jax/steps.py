"""The compiled steps, and the only place that knows how many devices there are.

Each step is one per-device function. On one device it is compiled with `jax.jit`, on several with
`jax.pmap`; gradients, batch statistics and metrics are joined by collectives, and the sampling does
not depend on the number of devices.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from siamese_jax import augment, models, objectives, pairsets, sampling


@flax.struct.dataclass
class TrainState:
    """All that a run carries from one step to the next.

    Attributes:
        step: () int32 updates made.
        rng: PRNG key of the run, never advanced: a step's key is folded in from the step's number.
        params: trained parameters.
        batch_stats: running statistics of the normalisations, empty where there are none.
        opt_state: state of the optimiser.
        sums: sums of the metrics since the log was last written, and the number of `steps` in them.
    """

    step: jax.Array
    rng: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    sums: dict[str, jax.Array]

    @property
    def variables(self):
        """What the encoder and the comparator are applied with."""
        return {"params": self.params, "batch_stats": self.batch_stats}


class Devices:
    """One device or several: compiles per-device functions, shares arrays out, brings them home.

    Several processes (`jax.distributed`) run the same program, each on its own devices; arrays that
    carry a device axis hold the part of the calling process.

    Args:
        count: number of devices over all processes, 0 for all there are.

    Raises:
        ValueError: more devices than there are, or not all of several processes.
    """

    def __init__(self, count: int = 1):
        available = jax.device_count()
        if not 0 <= count <= available:
            raise ValueError(f"num_devices is {count}, but there are {available} devices (0 = all)")
        if jax.process_count() > 1 and count not in (0, available):
            raise ValueError(
                f"num_devices is {count}, but {jax.process_count()} processes have {available} "
                "devices and use them all: set it to 0"
            )
        self.count = count or available
        self.axis_name = "devices" if self.count > 1 else None
        self._all = jax.devices()[: self.count]
        mine = [i for i, d in enumerate(self._all) if d.process_index == jax.process_index()]
        self._mine = slice(mine[0], mine[-1] + 1)

    @property
    def primary(self) -> bool:
        """Whether this is the process that logs."""
        return jax.process_index() == 0

    @property
    def memory(self) -> int | None:
        """Bytes of the smallest memory among this process's devices; None where none tells."""
        told = [device.memory_stats() or {} for device in self._all[self._mine]]
        return min((stats["bytes_limit"] for stats in told if "bytes_limit" in stats), default=None)

    def agree(self, flag: bool) -> bool:
        """Whether any process says so; every process must ask, and all get the same answer."""
        if jax.process_count() == 1:
            return flag
        return bool(multihost_utils.process_allgather(np.array(flag)).any())

    def compile(self, function: Callable, donate_argnums=()) -> Callable:
        """Compiles a per-device function; on several devices arguments carry a device axis."""
        if self.axis_name is None:
            return jax.jit(function, donate_argnums=donate_argnums)
        return jax.pmap(
            function,
            axis_name=self.axis_name,
            devices=self._all,
            donate_argnums=donate_argnums,
        )

    def replicate(self, tree):
        """Puts one copy of a tree on every device."""
        if self.axis_name is None:
            return jax.tree.map(jnp.array, tree)
        # The same axis name as in `compile`: another one would compile every step twice.
        copy = jax.pmap(
            lambda tree, _: tree,
            axis_name=self.axis_name,
            in_axes=(None, 0),
            devices=self._all,
        )
        return copy(tree, np.arange(self.count)[self._mine])

    def first(self, tree):
        """This process's first copy of a replicated tree; the devices do nothing for it."""
        if self.axis_name is None:
            return tree
        return jax.tree.map(lambda x: x.addressable_shards[0].data.reshape(x.shape[1:]), tree)

    def share(self, tree):
        """This device's part of arrays that every device holds whole (inside a compiled step)."""
        if self.axis_name is None:
            return tree
        part = jax.lax.axis_index(self.axis_name)

        def cut(x):
            size = x.shape[0] // self.count
            return jax.lax.dynamic_slice_in_dim(x, part * size, size)

        return jax.tree.map(cut, tree)

    def own(self, x: np.ndarray) -> np.ndarray:
        """What `share` gives this process's devices together, read off an array on the host.

        Args:
            x: (B, ...), B a multiple of the number of devices.

        Returns:
            (B x own devices / all devices, ...).
        """
        return x.reshape(self.count, -1, *x.shape[1:])[self._mine].reshape(-1, *x.shape[1:])

    def place(self, x: np.ndarray) -> jax.Array:
        """Puts this process's part of an array, as `own` gives it, on its devices for a step."""
        if self.axis_name is None:
            return jax.device_put(x)
        x = x.reshape(self._mine.stop - self._mine.start, -1, *x.shape[1:])
        mesh = Mesh(np.array(self._all), (self.axis_name,))
        sharding = NamedSharding(mesh, PartitionSpec(self.axis_name))
        return jax.make_array_from_process_local_data(sharding, x)

    def gather(self, x):
        """The whole of an array whose leading axis the devices share (inside a compiled step)."""
        return x if self.axis_name is None else jax.lax.all_gather(x, self.axis_name, tiled=True)

    def mean(self, tree):
        """Mean over devices (inside a compiled step)."""
        return tree if self.axis_name is None else jax.lax.pmean(tree, self.axis_name)

    def batches(self, step: Callable, variables, images: np.ndarray, batch: int) -> np.ndarray:
        """Runs an image step over any number of images, in equal batches shared by the devices.

        The last batch is padded with copies of the last image, whose results are dropped.

        Args:
            step: compiled (variables, (B, H, W, C)) -> (B, ...), its results gathered.
            variables: replicated.
            images: (M, H, W, C).
            batch: images a call over all devices; rounded up to a multiple of their number.

        Returns:
            (M, ...) NumPy results.
        """
        batch = min(batch, 1 << (len(images) - 1).bit_length())  # few shapes, few compilations
        batch = -(-batch // self.count) * self.count
        parts = []
        for begin in range(0, len(images), batch):
            part = images[begin : begin + batch]
            padded = np.concatenate([part, np.repeat(part[-1:], batch - len(part), 0)])
            if self.axis_name is not None:
                padded = padded.reshape(self.count, -1, *padded.shape[1:])[self._mine]
            parts.append(np.asarray(self.first(step(variables, padded)))[: len(part)])
        return np.concatenate(parts)


def to_float(images: jax.Array) -> jax.Array:
    """uint8 pixels to float32 in [0, 1]; floats pass as they are."""
    return images.astype(jnp.float32) / 255 if images.dtype == jnp.uint8 else images


def init_state(
    model: models.SiameseNet,
    tx: optax.GradientTransformation,
    image_shape: tuple[int, int, int],
    seed: int,
    metrics: tuple[str, ...] = (),
) -> TrainState:
    """The state before the first step, a function of the seed alone.

    Args:
        model: the network.
        tx: the optimiser.
        image_shape: (H, W, C) of the network's input.
        seed: of the parameters and of every later draw.
        metrics: names of the metrics that are summed besides the loss.
    """
    k_init, k_run = _seed_keys(seed)
    images = jnp.zeros((1, *image_shape))
    variables = jax.jit(model.init)(k_init, images, images)
    params = variables["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        rng=k_run,
        params=params,
        batch_stats=variables.get("batch_stats", {}),
        opt_state=tx.init(params),
        sums={name: jnp.zeros(()) for name in ("loss", *metrics, "steps")},
    )


def make_train_step(
    model: models.SiameseNet,
    tx: optax.GradientTransformation,
    objective: objectives.Objective,
    augmentation: Mapping,
    fill: str,
    devices: Devices,
    fed: bool = False,
) -> Callable:
    """Compiles one training step: sample, gather, warp, forward, backward, update.

    Args:
        model: the network, built with `devices.axis_name`.
        tx: the optimiser.
        objective: what the step asks.
        augmentation: keyword arguments of `augment.augment` (`affine` already an `Affine` or None).
        fill: `paper` or `edge`, what a warp reads outside of an image.
        devices: where the step runs.
        fed: whether the host gathers the pixels (see `feed`) instead of the step.

    Returns:
        `step(state, images, index) -> (state, metrics)`, the state donated. `images` is the whole
        (M, H, W, C) uint8 set and `index` its index (`objectives.make_index`), both replicated; if
        `fed`, `images` are those of each device's rows of this batch. Which images meet, and how they
        are warped, is a pure function of (state.rng, state.step) and of the index. Metrics: `loss`
        (nats) and the objective's own.

    Raises:
        ValueError: the global batch does not divide among the devices.
    """
    if objective.units % devices.count:
        raise ValueError(
            f"a batch of {objective.units} does not divide among {devices.count} devices"
        )

    update = make_update(model, tx, objective, devices)

    def step(state: TrainState, images: jax.Array, index: sampling.SetIndex):
        batch, pixels, k_dropout = draw_batch(
            state.rng, state.step, images, index, objective, augmentation, fill, devices, fed
        )
        return update(state, batch, pixels, k_dropout)

    return devices.compile(step, donate_argnums=(0,))


def make_update(
    model: models.SiameseNet,
    tx: optax.GradientTransformation,
    objective: objectives.Objective,
    devices: Devices,
) -> Callable:
    """The part of a training step that follows the input: forward, backward, update.

    Args:
        model: as in `make_train_step`.
        tx: as in `make_train_step`.
        objective: as in `make_train_step`.
        devices: where the step runs.

    Returns:
        `update(state, batch, pixels, key) -> (state, metrics)`, to be called inside a compiled step:
        the whole batch, the pixels of this device's part of it in the shape (*rows, H, W, C), and the
        key of the step's dropout.
    """

    def update(state: TrainState, batch, pixels: jax.Array, k_dropout):
        if devices.axis_name is not None:
            k_dropout = jax.random.fold_in(k_dropout, jax.lax.axis_index(devices.axis_name))

        def loss_function(params):
            variables = {"params": params, "batch_stats": state.batch_stats}
            h, updated = model.apply(
                variables,
                pixels.reshape(-1, *pixels.shape[batch.rows.ndim :]),
                True,
                method="embed",
                mutable=["batch_stats"],
                rngs={"dropout": k_dropout},
            )
            compare = objectives.Compare(
                functools.partial(model.apply, variables, method="compare"),
                functools.partial(model.apply, variables, method="compare_all"),
                functools.partial(model.apply, variables, method="classify"),
                model.head,
            )
            h = devices.gather(h.reshape(*pixels.shape[: batch.rows.ndim], -1))
            loss, metrics = objective.loss(compare, h, batch)
            return loss, ({"loss": loss, **metrics}, updated.get("batch_stats", {}))

        grads, (metrics, batch_stats) = jax.grad(loss_function, has_aux=True)(state.params)
        # Every device has the loss of all embeddings, and its own images' share of the gradient.
        grads = devices.mean(grads)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        state = state.replace(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            batch_stats=batch_stats,
            opt_state=opt_state,
            sums={
                name: state.sums[name] + value for name, value in {**metrics, "steps": 1}.items()
            },
        )
        return state, metrics

    return update


def preview_batch(
    seed: int,
    step: int,
    images: np.ndarray,
    index: sampling.SetIndex,
    objective: objectives.Objective,
    augmentation: Mapping,
    fill: str,
):
    """The batch of one training step as the network sees it, drawn by the training step's own code.

    Args:
        seed: of the run.
        step: updates made before; 0 gives the first batch.
        images: (M, H, W, C) uint8 training set; only the rows of the batch are read.
        index: of `objectives.make_index`.
        objective: as in `make_train_step`.
        augmentation: as in `make_train_step`.
        fill: as in `make_train_step`.

    Returns:
        What `objective.sample` drew, and the warped pixels (*rows.shape, H, W, C) float32 in [0, 1].
    """

    @jax.jit
    def draw(rng, step, images, index):
        drawn = draw_batch(
            rng, step, images, index, objective, augmentation, fill, Devices(1), fed=True
        )
        return drawn[:2]

    rng, step = _seed_keys(seed)[1], jnp.int32(step)
    rows = np.asarray(make_rows(objective)(rng, step, index))
    return draw(rng, step, images[rows.reshape(-1)], index)


def make_rows(objective: objectives.Objective) -> Callable:
    """Compiles `(rng, step, index) -> rows` of the whole batch that the training step draws."""
    return jax.jit(lambda rng, step, index: _sample(rng, step, index, objective)[0].rows)


def _seed_keys(seed: int):
    """The key of the parameters and the key of the run (`TrainState.rng`)."""
    return jax.random.split(jax.random.key(seed))


def _sample(rng, step, index, objective):
    """The batch of a step, and the keys of its warps and of its dropout."""
    _, k_augment, k_dropout = sampling.step_keys(rng, step)
    return objective.sample(rng, step, index), k_augment, k_dropout


def draw_batch(
    rng, step, images, index, objective, augmentation, fill, devices: Devices, fed: bool
):
    """Samples, gathers (unless the images are `fed`) and warps (inside a compiled step).

    Returns:
        The whole batch, the pixels of this device's part of it in the shape (*rows, H, W, C), and the
        key of the step's dropout.
    """
    batch, k_augment, k_dropout = _sample(rng, step, index, objective)
    fixed = isinstance(batch, pairsets.FixedPairs)  # they say themselves how they are warped
    keys = batch.keys if fixed else jax.random.split(k_augment, batch.rows.shape)
    rows, turns, keys = devices.share((batch.rows, batch.turns, keys))
    plain = to_float(images if fed else _gather(images, rows.reshape(-1)))
    pixels = augment.augment(keys.reshape(-1), plain, turns.reshape(-1), fill=fill, **augmentation)
    if fixed:
        distort = devices.share(batch.distort).reshape(-1, 1, 1, 1)
        pixels = jnp.where(distort, pixels, plain)
    return batch, pixels.reshape(*rows.shape, *images.shape[1:]), k_dropout


def _gather(images, rows):
    """`images[rows]`, whole images."""
    if jax.default_backend() == "cpu":
        # A loop, which XLA leaves alone: a gather it would join with the warp's padding, and with the
        # draw of the rows, which it would then repeat for every pixel.
        return jax.lax.map(lambda row: images[row], rows)
    return images[rows]


VIEW = augment.Affine(
    rotation=5.0, shear=0.1, scale=(0.9, 1.1), translation=2.0, probability=1.0
)  # the small warps by which an image is seen more than once


def make_embed_step(
    model: models.SiameseNet, devices: Devices, views: int = 1, fill: str = "paper"
) -> Callable:
    """Compiles `(variables, images (B, H, W, C)) -> (B, D)` embeddings; uint8 or float in [0, 1].

    On several devices each embeds its part of the images and holds the embeddings of all.

    Args:
        model: the network.
        devices: where it runs.
        views: how often each image is seen: as it is, and by `views - 1` small warps `VIEW`, the same
            for every image. The mean of the embeddings is given their mean length.
        fill: as in `make_train_step`.

    Raises:
        ValueError: views below 1.
    """
    if views < 1:
        raise ValueError(f"an image is seen at least once, got views = {views}")

    def embed(variables, images):
        return model.apply(variables, images, method="embed")

    def mean_embedding(variables, images):
        def warped(key):
            keys = jnp.broadcast_to(key, len(images))
            turns = jnp.zeros(len(images), jnp.int32)
            return embed(variables, augment.augment(keys, images, turns, affine=VIEW, fill=fill))

        h = embed(variables, images)
        h = jnp.concatenate(
            [h[None], jax.lax.map(warped, jax.random.split(jax.random.key(0), views - 1))]
        )
        length = jnp.linalg.norm(h, axis=-1, keepdims=True).mean(0)
        mean = h.mean(0)
        return mean * length / jnp.maximum(jnp.linalg.norm(mean, axis=-1, keepdims=True), 1e-12)

    function = embed if views == 1 else mean_embedding
    return devices.compile(
        lambda variables, images: devices.gather(function(variables, to_float(images)))
    )


def make_pair_step(model: models.SiameseNet, devices: Devices) -> Callable:
    """Compiles `(variables, images1 (B, H, W, C), images2 (B, H, W, C)) -> (B,)` scores.

    A score is the logit of "same class".
    """
    return devices.compile(
        lambda variables, images1, images2: model.apply(
            variables, to_float(images1), to_float(images2)
        )
    )


def make_one_shot_step(model: models.SiameseNet, devices: Devices) -> Callable:
    """Compiles `(variables, queries (Q, H, W, C), supports (S, H, W, C)) -> (Q, S)` scores.

    Every image is embedded once, Q + S passes for Q x S scores.
    """

    def step(variables, queries, supports):
        both = jnp.concatenate([to_float(queries), to_float(supports)])
        h = model.apply(variables, both, method="embed")
        queries, supports = h[: len(queries)], h[len(queries) :]
        return model.apply(variables, queries, supports, method="compare_all")

    return devices.compile(step)
