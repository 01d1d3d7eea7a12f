"""What a config describes, built once: data, network, objective, optimiser, augmentation, devices.

Training, evaluation, the search, ablations, benchmarks and reports all start from here.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import ml_collections
import optax

from siamese_jax.config import check_fields
from siamese_jax.data import augment, loading
from siamese_jax.data.image_set import ImageSet
from siamese_jax.evaluation import trials
from siamese_jax.inference.devices import Devices
from siamese_jax.inference.network import Siamese, bind
from siamese_jax.models import siamese
from siamese_jax.models.comparators import COMPARATORS
from siamese_jax.training import fine_tuning, host_feed, objectives, optim, sampling, step


@dataclasses.dataclass(frozen=True, eq=False)
class Experiment:
    """The parts of a training run. Make it with `from_config`.

    Each part is built when it is first asked for, and kept. `from_config` compiles nothing.

    Attributes:
        config: see `configs/`.
        data: the image sets, at any image size. `train_set` and `validation_set` have the config's.
        devices: where the steps run.
        encoder: the module that was given in place of the config's encoder; None where none was.
    """

    config: ml_collections.ConfigDict
    data: loading.Data
    devices: Devices
    encoder: nn.Module | None = None

    @classmethod
    def from_config(
        cls,
        config: ml_collections.ConfigDict | Mapping,
        *,
        data: loading.Data | None = None,
        devices: Devices | None = None,
        encoder: nn.Module | None = None,
    ) -> Experiment:
        """Builds the parts of a config and checks that they go together.

        Args:
            config: see `configs/`; a plain dict will do.
            data: the config's data if they are loaded already, at any image size; None loads them.
            devices: where the steps run; None: as `config.num_devices` says.
            encoder: a linen module in place of the config's encoder; the experiment's config describes
                it.

        Raises:
            ValueError: settings that do not go together, or that do not go with the data.
        """
        if not isinstance(config, ml_collections.ConfigDict):
            config = ml_collections.ConfigDict(config).lock()
        if encoder is not None:
            config = config.copy_and_resolve_references()
            with config.unlocked():
                for name, value in siamese.describe(encoder).items():
                    config.model[name] = value
            config.lock()
        check_config(config)
        if devices is None:
            devices = Devices(config.num_devices)
        optim.build(config.optim, config.num_steps)  # a mistake here should not wait for the data
        if data is None:
            data = loading.load(config.data)
        experiment = cls(config, data, devices, encoder)
        needed = experiment.objective.images_per_class
        _ = experiment.model  # built here, so that a mistake in its settings is told here
        check_data(config, data.train, experiment.image_shape, needed)
        return experiment

    @functools.cached_property
    def tx(self) -> optax.GradientTransformation:
        """The optimiser."""
        fields = self.config.optim
        tx = optim.build(fields, self.config.num_steps)
        return fine_tuning.by_stage(tx, self.model.encoder, fields.get("layer_decay", 1.0))

    @functools.cached_property
    def objective(self) -> objectives.Objective:
        """What a training step draws, and its loss."""
        train = self.data.train
        largest = int(train.alphabet_count.max())
        return objectives.build(self.config.objective, largest, train.num_classes)

    @functools.cached_property
    def model(self) -> siamese.SiameseNet:
        """The network, with the softmax layer if the objective trains one."""
        return siamese.build(
            self.config.model,
            self.image_shape,
            self.devices.axis_name,
            self.objective.classes,
            self.encoder,
        )

    @functools.cached_property
    def augmentation(self) -> dict:
        """Keyword arguments of `augment.augment`."""
        return {**augment.build(self.config.augment), "fill": self.data.train.fill}

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of the network's input."""
        height, width, channels = self.data.train.image_shape
        height, width = self.config.data.get("image_size") or (height, width)
        return height, width, channels

    @property
    def kind(self) -> str:
        """`ink`, `photo` or `vector`: see `ImageSet`."""
        return self.data.train.kind

    @functools.cached_property
    def train_set(self) -> ImageSet:
        """The training images at the network's size."""
        return self.data.train.resized(*self.image_shape[:2])

    @functools.cached_property
    def validation_set(self) -> ImageSet:
        """The validation images at the network's size."""
        return self.data.validation.resized(*self.image_shape[:2])

    @functools.cached_property
    def index(self) -> sampling.SetIndex:
        """What the objective samples from, with its fixed pairs if it has any."""
        return objectives.make_index(self.config.objective, self.data.train, self.config.seed)

    @functools.cached_property
    def fed(self) -> bool:
        """Whether the host feeds the images to the steps, instead of the devices holding them all."""
        feed = self.config.get("feed", "auto")
        return host_feed.from_host(feed, self.train_set.images, self.devices)

    @functools.cached_property
    def train_step(self) -> Callable:
        """The compiled training step, see `step.make_train_step`."""
        fields = self.config.optim
        return step.make_train_step(
            self.model,
            self.tx,
            self.objective,
            self.augmentation,
            self.devices,
            self.fed,
            step.Updating(fields.get("accumulate", 1), fields.get("ema", 0.0)),
        )

    @functools.cached_property
    def validation_trials(self) -> trials.Trials:
        """The one-shot trials on the validation images that choose the best checkpoint."""
        fields = self.config.eval
        settings = {"n_way": fields.n_way, "num_trials": fields.num_trials, "seed": fields.seed}
        if fields.get("between"):
            return trials.between_trials(self.validation_set, **settings)
        return trials.within_trials(self.validation_set, skip_small=True, **settings)

    @functools.cached_property
    def validation_pairs(self) -> trials.VerificationPairs | None:
        """The validation pairs whose loss is logged; None if `eval.num_pairs` is 0 or not there."""
        fields = self.config.eval
        if not fields.get("num_pairs", 0):
            return None
        return trials.verification_pairs(
            self.validation_set, num_pairs=fields.num_pairs, seed=fields.seed
        )

    def parameter_shapes(self) -> dict:
        """The tree of parameters as shapes and dtypes; nothing is computed.

        Raises:
            ValueError: the images do not fit the network.
        """
        return siamese.variable_shapes(self.model, self.image_shape)["params"]

    def init_state(self) -> step.TrainState:
        """The state before the first step, a function of `config.seed` and of `model.weights`.

        Raises:
            ValueError: the file `model.weights` does not hold weights of this encoder.
        """
        start = None
        if file := self.config.model.get("weights"):
            start = functools.partial(
                fine_tuning.start_from, file, self.model.encoder, self.image_shape
            )
        return step.init_state(
            self.model,
            self.tx,
            self.image_shape,
            self.config.seed,
            self.objective.metrics,
            ema=bool(self.config.optim.get("ema", 0.0)),
            memory=self.objective.memory,
            start=start,
        )

    def preview_batch(self, number: int = 0) -> tuple[Any, jax.Array]:
        """The batch of training step `number` (from 0), see `step.preview_batch`."""
        return step.preview_batch(
            self.config.seed,
            number,
            self.train_set.images,
            self.index,
            self.objective,
            self.augmentation,
        )

    def network(self, variables: Any) -> Siamese:
        """The network with these variables, replicated on the devices, ready for use."""
        shape, kind = self.image_shape, self.kind
        return bind(
            self.config, variables, shape, kind, "model", self.devices, encoder=self.encoder
        )


def check_config(config: ml_collections.ConfigDict) -> None:
    """Checks what can be checked without the data.

    Raises:
        ValueError: settings that do not go together.
    """
    check_fields(config)
    if config.eval.every % config.log_every:
        raise ValueError(
            f"eval.every = {config.eval.every} must be a multiple of log_every = {config.log_every}"
        )
    if config.data.get("train_on_validation") and config.eval.get("patience"):
        raise ValueError(
            "eval.patience ends a training by the validation classes, which train too with "
            "data.train_on_validation: set one of them only"
        )
    objective, comparator = config.objective, config.model.comparator
    by_distance = tuple(name for name, cls in COMPARATORS.items() if cls.falls_with_distance)
    if objectives.learns_distances(objective.name) and comparator not in by_distance:
        raise ValueError(
            f"objective {objective.name!r} learns distances and would leave the comparator "
            f"{comparator!r} untrained: set model.comparator to one of {by_distance}"
        )
    if objectives.learns_cosines(objective.name) and comparator != "cosine":
        raise ValueError(
            f"objective {objective.name!r} learns cosines and would leave the comparator "
            f"{comparator!r} untrained: set model.comparator to 'cosine'"
        )
    copies = objective.get("copies", 0)
    if objective.get("pairs") and config.augment.distort != bool(copies):
        raise ValueError(
            f"augment.distort = {config.augment.distort} with objective.copies = {copies}: of fixed "
            "pairs the copies are distorted, and nothing else; set both or neither"
        )
    if config.model.get("context_steps", 0) and objective.name != "matching":
        raise ValueError(
            f"model.context_steps goes with the objective 'matching', not {objective.name!r}"
        )


def check_data(
    config: ml_collections.ConfigDict,
    train_set: ImageSet,
    image_shape: tuple[int, int, int],
    images_per_class: int,
) -> None:
    """Checks that the objective and the augmentation go with the training images.

    Args:
        config: see `configs/`.
        train_set: the training images.
        image_shape: (H, W, C) to which they are resized.
        images_per_class: fewest images that the objective needs of a class.

    Raises:
        ValueError: they do not.
    """
    objective = config.objective
    poorest = int(train_set.class_count.argmin())
    if train_set.class_count[poorest] < images_per_class:
        raise ValueError(
            f"class {train_set.class_names[poorest]!r} has {train_set.class_count[poorest]} "
            f"image(s): the objective {objective.name!r} needs {images_per_class} of each class"
        )
    if train_set.num_classes < 2:
        raise ValueError(f"{train_set.name!r} has one class: a different pair needs two")
    if config.augment.distort and not train_set.has_pictures:
        raise ValueError(
            "augment.distort = True warps pictures, and these are vectors: set it to False"
        )
    fewest = train_set.alphabet_count.min()  # classes of an alphabet
    height, width, _ = image_shape
    if height != width or train_set.kind != "ink":
        needs = f"needs square images of kind ink; these are {height} x {width}, {train_set.kind}"
        if objective.symmetries != "none":
            raise ValueError(
                f"objective.symmetries = {objective.symmetries!r} {needs}: set "
                "objective.symmetries to 'none'"
            )
        if objective.get("pad_with_symmetries") and fewest < objective.n_way:
            raise ValueError(
                f"objective.pad_with_symmetries, with an alphabet of {fewest} classes for "
                f"{objective.n_way} ways, turns images and {needs}: set "
                "objective.pad_with_symmetries to False"
            )
    if config.model.get("centre_ink") and train_set.kind != "ink":
        raise ValueError(
            f"model.centre_ink = True moves ink, and these are of kind {train_set.kind}: set it to False"
        )
    if config.model.get("context_steps", 0):
        copies = sampling.NUM_SYMMETRIES if objective.pad_with_symmetries else 1
        if copies * fewest < objective.n_way:
            raise ValueError(
                f"model.context_steps embeds all {objective.n_way} ways together, and an alphabet has "
                f"{fewest} classes: lower objective.n_way or set objective.pad_with_symmetries"
            )
    if objective.get("negatives") == "same_alphabet" and fewest < 2:
        raise ValueError("objective.negatives = 'same_alphabet' needs two classes an alphabet")
