"""The compiled training step: sample, gather, warp, forward, backward, update."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax

from siamese_jax.data import augment
from siamese_jax.data.image_set import StreamedImages
from siamese_jax.inference.devices import Devices
from siamese_jax.inference.embed import to_float
from siamese_jax.models import siamese
from siamese_jax.models.siamese import SiameseNet
from siamese_jax.training import cross_batch, fixed_pairs, objectives, sampling


@flax.struct.dataclass
class TrainState:
    """All that a run carries from one step to the next.

    Attributes:
        step: () int32 updates made.
        rng: PRNG key of the run, never advanced: a step's key is folded in from the step's number.
        params: trained parameters.
        ema: their exponential moving average, empty where none is kept.
        batch_stats: running statistics of the normalisations, empty where there are none.
        opt_state: state of the optimiser.
        sums: sums of the metrics since the log was last written, and the number of `steps` in them.
        memory: a `cross_batch.Memory` of an objective that has one, otherwise empty.
    """

    step: jax.Array
    rng: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    sums: dict[str, jax.Array]
    ema: Any = flax.struct.field(default_factory=dict)
    memory: Any = flax.struct.field(default_factory=dict)

    @property
    def variables(self) -> dict[str, Any]:
        """What the encoder and the comparator are applied with outside of training."""
        return {"params": self.ema or self.params, "batch_stats": self.batch_stats}


class Updating(NamedTuple):
    """How a step comes by its gradient and what it keeps beside the parameters.

    Attributes:
        micro_batches: equal parts of the batch that go through the encoder one after another (gradient
            accumulation).
        ema: decay of the moving average of the parameters; 0 keeps none.
    """

    micro_batches: int = 1
    ema: float = 0.0


PLAIN_UPDATE = Updating()


def init_state(
    model: SiameseNet,
    tx: optax.GradientTransformation,
    image_shape: tuple[int, int, int],
    seed: int,
    metrics: tuple[str, ...] = (),
    *,
    ema: bool = False,
    memory: int = 0,
    start: Callable[[Mapping], Mapping] | None = None,
) -> TrainState:
    """The state before the first step, a function of the seed and of what `start` puts in.

    Args:
        model: the network.
        tx: the optimiser.
        image_shape: (H, W, C) of the network's input.
        seed: of the parameters and of every later draw.
        metrics: names of the metrics that are summed besides the loss.
        ema: whether a moving average of the parameters is kept.
        memory: embeddings of earlier steps that are kept.
        start: puts other variables in the place of the random ones; None keeps these.
    """
    k_init, k_run = _seed_keys(seed)
    variables = _init(model, image_shape, k_init)
    if start is not None:
        variables = start(variables)
    params = variables["params"]
    kept = {}
    if ema:
        kept["ema"] = jax.tree.map(jnp.array, params)
    if memory:
        images = jax.ShapeDtypeStruct((1, *image_shape), np.float32)
        h = jax.eval_shape(functools.partial(model.apply, method="embed"), variables, images)
        kept["memory"] = cross_batch.empty(memory, h.shape[-1])
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        rng=k_run,
        params=params,
        batch_stats=variables.get("batch_stats", {}),
        opt_state=tx.init(params),
        sums={name: jnp.zeros(()) for name in ("loss", *metrics, "steps")},
        **kept,
    )


def _init(model: SiameseNet, image_shape: tuple[int, int, int], key: jax.Array) -> Any:
    """The random variables of a network; equal networks are compiled once."""
    try:
        hash(model)
    except TypeError:  # an encoder of the user's with attributes of any kind
        return jax.jit(functools.partial(_draw_variables, model, image_shape))(key)
    return _compiled_draw(model, image_shape, key)


def _draw_variables(model: SiameseNet, image_shape: tuple[int, int, int], key: jax.Array) -> Any:
    images = jnp.zeros((1, *image_shape))
    return model.init(key, images, images)


_compiled_draw = jax.jit(_draw_variables, static_argnums=(0, 1))


def make_train_step(
    model: SiameseNet,
    tx: optax.GradientTransformation,
    objective: objectives.Objective,
    augmentation: Mapping,
    devices: Devices,
    fed: bool = False,
    updating: Updating = PLAIN_UPDATE,
) -> Callable:
    """Compiles one training step: sample, gather, warp, forward, backward, update.

    Args:
        model: the network, built with `devices.axis_name`.
        tx: the optimiser.
        objective: what the step asks.
        augmentation: keyword arguments of `augment.augment` (`affine` already an `Affine` or None).
        devices: where the step runs.
        fed: whether the host gathers the pixels (see `host_feed`) instead of the step.
        updating: see `Updating`.

    Returns:
        `step(state, images, index) -> (state, metrics)`, the state donated. `images` is the whole
        (M, H, W, C) uint8 set and `index` its index (`objectives.make_index`), both replicated; if
        `fed`, `images` are those of each device's rows of this batch. Which images meet, and how they
        are warped, is a pure function of (state.rng, state.step) and of the index. Metrics: `loss`
        (see `Objective.loss`) and the objective's own.

    Raises:
        ValueError: the global batch does not divide among the devices, or a device's share into parts.
    """
    if objective.units % devices.count:
        raise ValueError(
            f"objective.episodes (or objective.batch) = {objective.units} does not divide among "
            f"{devices.count} devices"
        )
    if objective.units // devices.count % updating.micro_batches:
        raise ValueError(
            f"objective.episodes (or objective.batch) = {objective.units}, on {devices.count} "
            f"device(s), does not divide into optim.accumulate = {updating.micro_batches} parts"
        )

    update = make_update(model, tx, objective, devices, updating)

    def step(
        state: TrainState, images: jax.Array, index: sampling.SetIndex
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        batch, pixels, k_dropout = draw_batch(
            state.rng, state.step, images, index, objective, augmentation, devices, fed
        )
        return update(state, batch, pixels, k_dropout)

    return devices.compile(step, donate_argnums=(0,))


def make_update(
    model: SiameseNet,
    tx: optax.GradientTransformation,
    objective: objectives.Objective,
    devices: Devices,
    updating: Updating = PLAIN_UPDATE,
) -> Callable:
    """The part of a training step that follows the input: forward, backward, update.

    Args:
        model: as in `make_train_step`.
        tx: as in `make_train_step`.
        objective: as in `make_train_step`.
        devices: where the step runs.
        updating: see `Updating`.

    Returns:
        `update(state, batch, pixels, key) -> (state, metrics)`, to be called inside a compiled step:
        the whole batch, the pixels of this device's part of it in the shape (*rows, H, W, C), and the
        key of the step's dropout.
    """

    def update(
        state: TrainState, batch: Any, pixels: jax.Array, k_dropout: jax.Array
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        if devices.axis_name is not None:
            k_dropout = jax.random.fold_in(k_dropout, jax.lax.axis_index(devices.axis_name))

        def loss_function(params: Any) -> tuple[jax.Array, tuple[dict[str, jax.Array], Any, Any]]:
            variables = {"params": params, "batch_stats": state.batch_stats}
            images = pixels.reshape(-1, *pixels.shape[batch.rows.ndim :])
            if updating.micro_batches > 1:
                h, updated = _embed_in_parts(
                    model, variables, images, k_dropout, updating.micro_batches
                )
            else:
                h, updated = _embed(model, variables, images, k_dropout)
            apply = functools.partial(siamese.apply, model, variables)
            compare = objectives.Compare(
                pairs=functools.partial(apply, method="compare"),
                all_pairs=functools.partial(apply, method="compare_all"),
                classify=functools.partial(apply, method="classify"),
                head=model.head,
                class_cosines=functools.partial(apply, method="class_cosines"),
                memory=state.memory or None,
            )
            h = devices.gather(h.reshape(*pixels.shape[: batch.rows.ndim], -1))
            loss, metrics = objective.loss(compare, h, batch)
            memory = state.memory
            if memory:
                begun = state.step >= objective.memory_start
                memory = cross_batch.push(memory, h, batch, begun)
            return loss, ({"loss": loss, **metrics}, updated.get("batch_stats", {}), memory)

        grads, (metrics, batch_stats, memory) = jax.grad(loss_function, has_aux=True)(state.params)
        # Every device has the loss of all embeddings, and its own images' share of the gradient.
        grads = devices.mean(grads)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        state = dataclasses.replace(
            state,
            step=state.step + 1,
            params=params,
            ema=_moved(state.ema, params, state.step, updating.ema) if updating.ema else state.ema,
            memory=memory,
            batch_stats=batch_stats,
            opt_state=opt_state,
            sums={
                name: state.sums[name] + value for name, value in {**metrics, "steps": 1}.items()
            },
        )
        return state, metrics

    return update


def _embed(
    model: SiameseNet, variables: Mapping, images: jax.Array, k_dropout: jax.Array
) -> tuple[jax.Array, Mapping]:
    """Embeddings of images in training mode, and the new batch statistics."""
    return model.apply(
        variables,
        images,
        True,
        method="embed",
        mutable=["batch_stats"],
        rngs={"dropout": k_dropout},
    )


def _embed_in_parts(
    model: SiameseNet, variables: Mapping, images: jax.Array, k_dropout: jax.Array, parts: int
) -> tuple[jax.Array, Mapping]:
    """As `_embed`, part by part; the backward pass computes the activations of a part anew.

    The loss then sees all embeddings at once. So the gradient is that of the whole batch for every
    objective, with the memory of one part. Batch normalisation takes the statistics of each part.

    References:
        Gao et al. (2021), Scaling deep contrastive learning batch size under memory limited setup.
    """

    @jax.checkpoint
    def one(batch_stats: Any, part: tuple[jax.Array, jax.Array]) -> tuple[Any, jax.Array]:
        images, key = part
        h, updated = _embed(model, {**variables, "batch_stats": batch_stats}, images, key)
        return updated.get("batch_stats", batch_stats), h

    images = images.reshape(parts, -1, *images.shape[1:])
    batch_stats, h = jax.lax.scan(
        one, variables["batch_stats"], (images, jax.random.split(k_dropout, parts))
    )
    return h.reshape(-1, h.shape[-1]), {"batch_stats": batch_stats}


def _moved(average: Any, params: Any, step: jax.Array, decay: float) -> Any:
    """The moving average after an update; its decay rises from 0.1 to `decay`."""
    rate = 1 - jnp.minimum(decay, (1 + step) / (10 + step))
    return jax.tree.map(lambda a, w: a + (rate * (w - a)).astype(a.dtype), average, params)


def _compiled_quickly(function: Callable) -> Callable:
    """Compiles what runs once: to compile a batch's drawing well takes a CPU ten seconds or more."""
    quickly = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    return jax.jit(function, compiler_options=quickly)


def preview_batch(
    seed: int,
    step: int,
    images: np.ndarray | StreamedImages,
    index: sampling.SetIndex,
    objective: objectives.Objective,
    augmentation: Mapping,
) -> tuple[Any, jax.Array]:
    """The batch of one training step as the network sees it, drawn by the training step's own code.

    Args:
        seed: of the run.
        step: updates made before; 0 gives the first batch.
        images: (M, H, W, C) uint8 training set; only the rows of the batch are read.
        index: of `objectives.make_index`.
        objective: as in `make_train_step`.
        augmentation: as in `make_train_step`.

    Returns:
        What `objective.sample` drew, and the warped pixels (*rows.shape, H, W, C) float32 in [0, 1].
    """
    sample, warp = _preview_programs(objective, tuple(augmentation.items()))
    batch, key, _ = sample(_seed_keys(seed)[1], jnp.int32(step), index)
    return batch, warp(batch, key, images[np.asarray(batch.rows).reshape(-1)])


@functools.lru_cache(maxsize=8)
def _preview_programs(
    objective: objectives.Objective, augmentation: tuple[tuple[str, Any], ...]
) -> tuple[Callable, Callable]:
    """The two halves of `draw_batch`, compiled once for all batches of a run."""

    @_compiled_quickly
    def warp(batch: Any, key: jax.Array, images: jax.Array) -> jax.Array:
        return _warp_batch(batch, key, images, dict(augmentation), Devices(1), fed=True)

    return _compiled_quickly(functools.partial(_sample, objective=objective)), warp


def make_rows(objective: objectives.Objective) -> Any:
    """Compiles `(rng, step, index) -> rows` of the whole batch that the training step draws."""
    return jax.jit(lambda rng, step, index: _sample(rng, step, index, objective)[0].rows)


def _seed_keys(seed: int) -> jax.Array:
    """The key of the parameters and the key of the run (`TrainState.rng`)."""
    return jax.random.split(jax.random.key(seed))


def _sample(
    rng: jax.Array, step: jax.Array, index: sampling.SetIndex, objective: objectives.Objective
) -> tuple[Any, jax.Array, jax.Array]:
    """The batch of a step, and the keys of its warps and of its dropout."""
    _, k_augment, k_dropout = sampling.step_keys(rng, step)
    return objective.sample(rng, step, index), k_augment, k_dropout


def draw_batch(
    rng: jax.Array,
    step: jax.Array,
    images: jax.Array,
    index: sampling.SetIndex,
    objective: objectives.Objective,
    augmentation: Mapping,
    devices: Devices,
    fed: bool,
) -> tuple[Any, jax.Array, jax.Array]:
    """Samples, gathers (unless the images are `fed`) and warps (inside a compiled step).

    Returns:
        The whole batch, the pixels of this device's part of it in the shape (*rows, H, W, C), and the
        key of the step's dropout.
    """
    batch, k_augment, k_dropout = _sample(rng, step, index, objective)
    return batch, _warp_batch(batch, k_augment, images, augmentation, devices, fed), k_dropout


def _warp_batch(
    batch: Any,
    key: jax.Array,
    images: jax.Array,
    augmentation: Mapping,
    devices: Devices,
    fed: bool,
) -> jax.Array:
    """The pixels of `draw_batch`."""
    fixed = isinstance(batch, fixed_pairs.FixedPairs)  # they say themselves how they are warped
    keys = batch.keys if fixed else jax.random.split(key, batch.rows.shape)
    rows, symmetries, keys = devices.share((batch.rows, batch.symmetries, keys))
    plain = to_float(images if fed else _gather(images, rows.reshape(-1)))
    pixels = augment.augment(keys.reshape(-1), plain, symmetries.reshape(-1), **augmentation)
    if fixed:
        distort = devices.share(batch.distort).reshape(-1, 1, 1, 1)
        pixels = jnp.where(distort, pixels, plain)
    return pixels.reshape(*rows.shape, *images.shape[1:])


def _gather(images: jax.Array, rows: jax.Array) -> jax.Array:
    """`images[rows]`, whole images."""
    if jax.default_backend() == "cpu":
        # A loop, which XLA leaves alone: a gather it would join with the warp's padding, and with the
        # draw of the rows, which it would then repeat for every pixel.
        return jax.lax.map(lambda row: images[row], rows)
    return images[rows]
