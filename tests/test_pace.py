"""The length of a training that fits into some minutes."""

import logging

import ml_collections
import pytest
from recipes import get_config

from siamese_jax.training import loop, pace
from siamese_jax.training.experiment import Experiment


def config(**optim):
    return ml_collections.ConfigDict(
        {
            "num_steps": 2000,
            "log_every": 20,
            "eval": {"every": 400, "n_way": 20},
            "optim": {"warmup_steps": 100, "learning_rate": 4e-3, **optim},
        }
    ).lock()


def test_half_of_the_time_makes_half_of_the_steps_in_the_same_course():
    # 10 minutes are 600 s; five validations of 20 s leave 500 s, 1,000 steps of 0.5 s.
    fitted = pace.fit(config(steps_per_epoch=660), 10.0, pace.Pace(step=0.5, validation=20.0))
    assert (fitted.num_steps, fitted.eval.every, fitted.log_every) == (1000, 200, 20)
    assert (fitted.optim.warmup_steps, fitted.optim.steps_per_epoch) == (50, 330)
    assert fitted.optim.learning_rate == 4e-3 and fitted.is_locked


def test_a_fast_machine_makes_more_steps_and_no_more_than_fit():
    # 60 s less five validations of 1 s: 5,500 steps of 0.01 s, 1,100 a validation.
    fitted = pace.fit(config(), 1.0, pace.Pace(step=0.01, validation=1.0))
    assert fitted.num_steps == 5500 and fitted.eval.every == 1100
    # 1,099.8 are no 1,100: the next multiple of log_every below is 1,080.
    fitted = pace.fit(config(), 1.0, pace.Pace(step=0.01, validation=1.002))
    assert fitted.num_steps == 5400 and fitted.eval.every == 1080


def test_a_short_training_logs_more_often():
    # 75 steps, 15 a validation.
    fitted = pace.fit(config(), 1.0, pace.Pace(step=0.8, validation=0.0))
    assert (fitted.num_steps, fitted.eval.every, fitted.log_every) == (75, 15, 15)


def test_too_few_minutes_are_refused_with_enough_ones():
    slow = pace.Pace(step=2.0, validation=10.0)  # 5 x (10 x 2 s + 10 s) = 150 s
    with pytest.raises(ValueError, match="give at least 2.[56]"):
        pace.fit(config(), 2.0, slow)
    assert pace.fit(config(), 2.6, slow).num_steps >= 50


@pytest.mark.parametrize("minutes", [float("inf"), float("nan")])
def test_minutes_without_end_are_refused_before_anything_is_measured(minutes, tmp_path):
    with pytest.raises(ValueError, match="--minutes must be a finite number"):
        pace.within(config(), str(tmp_path), minutes)


@pytest.mark.slow
def test_a_run_of_some_minutes_is_made_and_keeps_its_length(tmp_path, caplog):
    smoke = get_config("vectors", "smoke")  # soon compiled
    with smoke.unlocked():
        smoke.num_steps, smoke.eval.every, smoke.log_every = 100, 50, 5
    measured = pace.measure(Experiment.from_config(smoke), seconds=0.0)
    assert 0 < measured.step < 60 and 0 < measured.validation < 60

    # Seconds that hold 20 to 40 steps at this speed, whatever else the machine does.
    minutes = (2 * measured.validation + 30 * measured.step) / 60
    fitted = pace.fit(smoke, minutes, measured)
    assert fitted.num_steps in (20, 30)
    with caplog.at_level(logging.INFO, "siamese_jax"):
        assert loop.train_and_evaluate(fitted, str(tmp_path))["step"] == fitted.num_steps
    assert "a minute or less to go" in caplog.text

    again, _ = pace.within(smoke, str(tmp_path), 5.0)  # of the run, not measured anew
    assert again.to_dict() == fitted.to_dict()
    assert loop.train_and_evaluate(again, str(tmp_path))["step"] == fitted.num_steps
