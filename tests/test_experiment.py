"""The parts of a config: built once, checked together, the slow ones only when asked for."""

import dataclasses

import jax
import numpy as np
import pytest
from recipes import get_config

from siamese_jax.data import loading
from siamese_jax.inference.devices import Devices
from siamese_jax.runs import workdir
from siamese_jax.training import objectives
from siamese_jax.training.experiment import Experiment


def config_of(name, arg="smoke", **changes):
    config = get_config(name, arg)
    config.num_devices = 1
    config.update_from_flattened_dict(changes)
    return config


@pytest.fixture(scope="module")
def data():
    """The glyphs of the smoke configs, at their own size."""
    fields = workdir.plain(config_of("quickstart"))["data"]
    return loading.load({**fields, "image_size": None})


def test_data_that_are_handed_in_are_resized_when_they_are_needed(data):
    experiment = Experiment.from_config(config_of("quickstart"), data=data)
    assert data.train.image_shape != experiment.image_shape == (24, 24, 1)
    assert "train_set" not in vars(experiment) and "train_step" not in vars(experiment)
    loaded = Experiment.from_config(config_of("quickstart"))
    for part in ("train_set", "validation_set"):
        mine, theirs = getattr(experiment, part), getattr(loaded, part)
        assert mine is getattr(experiment, part)
        np.testing.assert_array_equal(mine.images, theirs.images)
    assert experiment.validation_trials.hash == loaded.validation_trials.hash
    assert experiment.validation_pairs is None and not experiment.fed
    assert experiment.augmentation["fill"] == "paper" and experiment.kind == "ink"


def test_a_plain_dict_describes_the_same_experiment(data):
    config = config_of("koch2015", seed=3)
    one = Experiment.from_config(config, data=data)
    other = Experiment.from_config(workdir.plain(config), data=data)
    assert one.validation_pairs.hash == other.validation_pairs.hash
    assert one.validation_pairs.images is one.validation_set.images
    assert one.parameter_shapes() == other.parameter_shapes()
    assert one.parameter_shapes()["encoder"]["embedding"]["kernel"].shape[1] == 16


def test_the_network_has_the_objectives_classes(data):
    config = config_of("quickstart")
    with config.unlocked():
        config.objective = {"name": "classifier", "symmetries": "none", "batch": 8}
    experiment = Experiment.from_config(config, data=data)
    assert experiment.objective.classes == data.train.num_classes
    assert "classifier" in experiment.parameter_shapes()


def test_the_devices_can_be_chosen(data):
    experiment = Experiment.from_config(config_of("quickstart"), data=data, devices=Devices(2))
    assert experiment.devices.count == 2 and experiment.model.encoder.axis_name == "devices"


def test_what_does_not_go_together_is_refused(data):
    with pytest.raises(ValueError, match="must be a multiple of log_every"):
        Experiment.from_config(config_of("quickstart", **{"eval.every": 12}), data=data)
    with pytest.raises(ValueError, match="would leave the comparator 'cosine' untrained"):
        config = config_of("faces")
        with config.unlocked():
            config.model.comparator = "cosine"
            config.objective = {
                **{"name": "contrastive", "symmetries": "none", "batch": 8, "negatives": "any"}
            }
        Experiment.from_config(config, data=data)
    photos = dataclasses.replace(data, train=dataclasses.replace(data.train, kind="photo"))
    with pytest.raises(ValueError, match="these are 24 x 24, photo: set objective.symmetries"):
        Experiment.from_config(config_of("quickstart"), data=photos)
    config = config_of("quickstart")
    with config.unlocked():
        config.objective = {
            **{"name": "matching", "episodes": 2, "n_way": 99, "k_shot": 1},
            **{"symmetries": "none", "pad_with_symmetries": False},
        }
        config.model.context_steps = 1
    with pytest.raises(ValueError, match="embeds all 99 ways together, and an alphabet has"):
        Experiment.from_config(config, data=data)


@pytest.mark.slow
def test_the_preview_is_the_batch_of_that_step(data):
    experiment = Experiment.from_config(config_of("quickstart", "vector,smoke"), data=data)
    batch, pixels = experiment.preview_batch(2)
    state = experiment.init_state()
    expected = jax.jit(experiment.objective.sample)(state.rng, np.int32(2), experiment.index)
    np.testing.assert_array_equal(batch.rows, expected.rows)
    assert pixels.shape == (*batch.rows.shape, 20, 20, 1)
    assert objectives.OBJECTIVES[experiment.config.objective.name].settings
