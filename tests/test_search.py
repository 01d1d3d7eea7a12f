"""The search: its space, its study, compiled steps that are shared, and workers that are killed."""

import contextlib
import json
import logging
import os
import sqlite3
import subprocess
import sys
import time

import numpy as np
import optuna
import pytest
from launching import environment
from optuna.trial import TrialState
from recipes import ROOT, get_config

from siamese_jax.experiments import search
from siamese_jax.experiments.fields import get_field, with_fields
from siamese_jax.experiments.search import results
from siamese_jax.runs import workdir
from siamese_jax.training import loop


def config_of(name, arg="smoke"):
    small = name == "quickstart" and arg == "smoke"
    config = get_config(name, "vector,smoke" if small else arg)  # which compiles more quickly
    config.num_devices = 1
    if small:  # what the tests below start from
        config.optim.learning_rate, config.optim.weight_decay = 0.002, 0.05
    return config


def config_of_formula():
    """That of a search whose trainings are a formula, which looks at no image."""
    config = config_of("vectors")  # whose network is soon built
    config.data.update(glyphs_alphabets=5, glyphs_characters=(6, 6), glyphs_drawers=2)
    config.optim.learning_rate = 0.002
    return config


def study_of(path):
    return optuna.load_study(study_name=path.name, storage=f"sqlite:///{path / 'study.db'}")


def open_like(formula):
    """The study of a formula's search as a worker opens it."""
    base = workdir.plain(config_of_formula())
    space = search.read_space(base, ["optim.learning_rate"])
    del base["search_space"]
    return search.open_study(formula.path, base, space, None, 50)


# ---------------------------------------------------------------------------------------- space


def test_the_papers_space_is_koch2015s():
    space = search.read_space(workdir.plain(config_of("koch2015", "")))
    by_end = {}
    for d in space:
        named = [part for part in d.field.split(".") if not part.isdigit()]
        by_end.setdefault(named[-1], []).append(d)
    assert {end: len(found) for end, found in by_end.items()} == {
        **{"learning_rate": 6, "momentum": 6, "l2": 6},
        **{"kernels": 4, "filters": 4, "units": 1},
    }
    wanted = {
        "learning_rate": ("log", (1e-4, 1e-1)),
        "momentum": ("float", (0.0, 1.0)),
        "l2": ("float", (0.0, 0.1)),
        "kernels": ("int", (3, 20)),
        "filters": ("int", (16, 256, 16)),
        "units": ("int", (128, 4096, 16)),
    }
    for end, found in by_end.items():
        assert {(d.scale, d.values) for d in found} == {wanted[end]}


@pytest.mark.parametrize("name", ["quickstart", "koch2015"])
@pytest.mark.parametrize("arg", ["", "smoke"])
def test_every_config_lies_in_its_own_space(name, arg):
    assert search.read_space(workdir.plain(config_of(name, arg)))


def test_fields_are_read_and_written_by_their_names():
    config = workdir.plain(config_of("koch2015"))
    assert get_field(config, "optim.rules.2.momentum") == 0.9
    changed = with_fields(
        config, {"optim.rules.2.momentum": 0.25, "model.encoder_args.kernels.0": 5, "seed": 3}
    )
    assert changed["optim"]["rules"][2] == ["encoder/conv3/.*", 0.1, 0.25, 1e-05]
    assert changed["model"]["encoder_args"]["kernels"] == [5, 3, 3, 2] and changed["seed"] == 3
    assert config["optim"]["rules"][2][2] == 0.9 and config["seed"] == 0


def test_names_in_a_list_are_those_of_the_optimisers_rules():
    config = workdir.plain(config_of("keras_tutorial"))  # adam, whose rules are (pattern, l2)
    assert get_field(config, "optim.rules.0.l2") == config["optim"]["rules"][0][1]
    changed = with_fields(config, {"optim.rules.0.l2": 0.5})
    assert changed["optim"]["rules"][0] == [config["optim"]["rules"][0][0], 0.5]
    for field in ("optim.rules.0.learning_rate", "model.encoder_args.filters.l2", "optim.rules.l2"):
        for read in (get_field, lambda config, field: with_fields(config, {field: 1})):
            with pytest.raises(ValueError, match=f"no field '{field}'"):
                read(config, field)


@pytest.mark.parametrize(
    "entry, words",
    [
        (
            ("optim.rat", "log", 1e-4, 1),
            r"search_space: .* no field 'optim.rat' \('rat'.*did you mean optim\.",
        ),
        (("optim.learning_rate", "lin", 1e-4, 1), "not understood"),
        (("optim.learning_rate", "log", 1e-4), "not understood"),
        (("optim.learning_rate",), "not understood"),
        (
            ("optim.learning_rate", "log", 0.1, 1.0),
            "optim.learning_rate is 0.002, which is outside",
        ),
        (("objective.n_way", "int", 2, 8, 2), "objective.n_way is 5, which is outside"),
        (("objective.symmetries", "choice", "none"), "is 'alphabet', which is outside"),
        (("model.encoder_args.widths.2", "int", 1, 9), "'2' is not there"),
        (("objective.n_way", "int", 4, 64.0), "needs whole numbers, low < high and a step above 0"),
        (
            ("objective.n_way", "int", 4, 64, 0),
            "needs whole numbers, low < high and a step above 0",
        ),
        (("optim.learning_rate", "float", "a", "b"), "needs numbers, low < high"),
        (("optim.learning_rate", "float", 1.0, 0.0), "needs numbers, low < high"),
        (("optim.learning_rate", "log", 0.0, 1.0), "needs numbers, 0 < low < high"),
    ],
)
def test_a_mistake_in_a_space_is_named(entry, words):
    config = {**workdir.plain(config_of("quickstart")), "search_space": [list(entry)]}
    with pytest.raises(ValueError, match=words):
        search.read_space(config)


def test_a_part_of_a_space_can_be_searched():
    config = workdir.plain(config_of("quickstart"))
    assert [d.field for d in search.read_space(config, ["optim."])] == [
        "optim.learning_rate",
        "optim.weight_decay",
    ]
    with pytest.raises(ValueError, match="begins with 'optimiser'"):
        search.read_space(config, ["optimiser"])
    with pytest.raises(ValueError, match="states no search_space"):
        search.read_space({**config, "search_space": []})


# ---------------------------------------------------------------------------------------- steps


class Compiled(logging.Handler):
    """Names of the functions that jax compiles."""

    def __init__(self):
        super().__init__()
        self.names = []

    def emit(self, record):
        words = record.getMessage().split()
        if words[0] == "Compiling":
            self.names.append(words[1])


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, fields",
    [
        ("quickstart", {"optim.learning_rate": 0.02, "optim.weight_decay": 0}),
        ("koch2015", {"optim.rules.0.learning_rate": 0.1, "optim.rules.4.l2": 0.05}),
    ],
)
def test_settings_of_the_optimiser_compile_nothing_anew(name, fields, tmp_path):
    """The second run shares the first one's steps, and is what it is by itself."""
    import jax

    base = workdir.plain(config_of(name))
    other = with_fields(base, fields)
    programs, compiled = {}, Compiled()
    logger = logging.getLogger("jax._src.interpreters.pxla")
    logger.addHandler(compiled)
    jax.config.update("jax_log_compiles", True)
    try:
        counts = []
        for config, folder in ((base, "a"), (other, "b")):
            config = search.ml_collections.ConfigDict(config)
            loop.train_and_evaluate(config, str(tmp_path / folder), programs=programs)
            counts.append(compiled.names.count("jit(step)"))
    finally:
        jax.config.update("jax_log_compiles", False)
        logger.removeHandler(compiled)
    assert counts == [1, 1] and len(programs) == 1

    def rows(folder):
        timed = ("images_per_second", "cpu_seconds")
        found = workdir.read_metrics(tmp_path / folder)
        return [{k: v for k, v in row.items() if k not in timed} for row in found]

    assert rows("b") != rows("a")
    if name == "quickstart":  # the other one would take as long and show as much
        loop.train_and_evaluate(search.ml_collections.ConfigDict(other), str(tmp_path / "alone"))
        assert rows("b") == rows("alone")


def test_another_network_is_another_program():
    base = config_of("koch2015")
    program = loop.program_key(base)
    for field, same in (
        ("optim.rules", True),
        ("seed", True),
        ("eval.every", True),
        ("optim.decay", False),
        ("model.encoder_args.units", False),
        ("objective.batch", False),
        ("augment.distort", False),
    ):
        value = get_field(workdir.plain(base), field)
        value = value[::-1] if isinstance(value, list) else 0.5 * value
        changed = with_fields(workdir.plain(base), {field: value})
        assert (loop.program_key(changed) == program) is same, field


# ------------------------------------------------------- the study, with a training that is a formula


class Formula:
    """Stands for a training: the accuracy at step 20 is highest at a rate of 0.02."""

    def __init__(self, path):
        self.path, self.rates, self.at_rate, self.data = path, [], {}, []

    def __call__(self, config, path, *, should_stop, on_validation, programs, progress, data):
        rate = config.optim.learning_rate
        self.data.append(data)
        self.rates.append(rate)
        self.at_rate.get(len(self.rates), lambda: None)()
        value = 1 / (1 + np.log10(rate / 0.02) ** 2)
        on_validation(10, 0.5 * value)
        if should_stop():
            return {"finished": False}
        on_validation(20, value)
        return {"finished": True, "best_step": 20, "best_value": value}


@pytest.fixture
def formula(tmp_path, monkeypatch):
    found = Formula(tmp_path / "s")
    monkeypatch.setattr(loop, "train_and_evaluate", found)
    monkeypatch.setattr(results, "_plot", lambda study, path: None)  # see the real runs
    return found


def run(formula, num_trials, **more):
    more = {"only": ["optim.learning_rate"], **more}
    return search.run_search(config_of_formula(), formula.path, num_trials=num_trials, **more)


@pytest.mark.slow
def test_the_config_is_first_and_the_search_improves_on_it(formula):
    found = run(formula, 25)
    assert formula.rates[0] == 0.002 and len(formula.rates) == 25
    assert found["finished"] and found["accuracy"] > 0.95 > 0.5 == 1 / (1 + 1**2)
    assert len(set(map(id, formula.data))) == 1  # the data are loaded once
    assert found["fields"] == {"optim.learning_rate": formula.rates[found["number"]]}
    record = json.loads((formula.path / "search.json").read_text())
    assert [t["fields"]["optim.learning_rate"] for t in record["trials"]] == formula.rates
    best = json.loads((formula.path / "best.json").read_text())["config"]
    assert best["optim"]["learning_rate"] == found["fields"]["optim.learning_rate"]
    assert "search_space" not in best
    pruned = [t for t in record["trials"] if t["state"] == "pruned"]
    assert pruned and all("below the median" in t["reason"] for t in pruned)
    assert f"{100 * found['accuracy']:.2f}" in (formula.path / "search.txt").read_text()


@pytest.mark.parametrize(
    ("field", "shared"), [("optim.warmup_steps", True), ("data.image_size.0", False)]
)
def test_data_are_shared_by_trials_that_do_not_vary_them(formula, monkeypatch, field, shared):
    """Images of another size are made from the originals, and not from those of the config's size."""
    given = []

    def worker(study, base, space, data, *others):
        given.append(data)
        raise KeyboardInterrupt

    monkeypatch.setattr(search, "_Worker", worker)
    config = config_of_formula()
    with config.unlocked():
        config.search_space = ((field, "int", 1, 24),)
    with pytest.raises(KeyboardInterrupt):
        search.run_search(config, formula.path, num_trials=1)
    assert [data is not None for data in given] == [shared]


def test_a_search_needs_classes_to_choose_by(formula):
    config = config_of_formula()
    with config.unlocked():
        config.data.train_on_validation = True
    with pytest.raises(ValueError, match="a search chooses by the validation classes"):
        search.run_search(config, formula.path, num_trials=1)
    assert not formula.path.exists()


@pytest.mark.slow
def test_a_resumed_search_proposes_what_an_unbroken_one_does(formula, tmp_path):
    run(formula, 6)
    run(formula, 14)  # from the eleventh on by a model of those before
    assert len(formula.rates) == 14  # nothing was done again
    broken, formula.rates, formula.path = formula.rates, [], tmp_path / "unbroken"
    run(formula, 14)
    assert formula.rates == broken
    formula.rates, formula.path = [], tmp_path / "other"
    run(formula, 4, seed=1)
    assert formula.rates[0] == broken[0] and formula.rates[1:] != broken[1:4]


@pytest.mark.slow
def test_a_search_of_the_data_loads_those_of_each_trial(formula):
    config = config_of_formula()
    config.search_space = (("data.glyphs_drawers", "choice", 2, 3),)
    search.run_search(config, formula.path, num_trials=2)
    assert formula.data[0] is not formula.data[1]


@pytest.mark.slow
def test_another_config_is_refused(formula):
    run(formula, 1)
    config = config_of_formula()
    config.num_steps = 40
    with pytest.raises(ValueError, match="num_steps is 40 and was 20"):
        search.run_search(config, formula.path, num_trials=2)


@pytest.mark.slow
def test_a_diverged_trial_counts_what_it_reached(formula, monkeypatch):
    def diverge(config, path, *, on_validation, **_):
        if config.optim.learning_rate == 0.002:
            on_validation(10, 0.25)
        raise FloatingPointError("the loss is not finite")

    monkeypatch.setattr(loop, "train_and_evaluate", diverge)
    found = run(formula, 2)
    assert (found["number"], found["accuracy"]) == (0, 0.25)
    first, second = study_of(formula.path).trials
    assert second.state == TrialState.PRUNED and second.value is None
    assert "not finite" in second.user_attrs["reason"]


@pytest.mark.slow
def test_an_error_of_the_users_ends_the_search(formula):
    def fail():
        raise ValueError("eval.every must be a multiple of log_every")

    formula.at_rate[1] = fail
    with pytest.raises(ValueError, match="multiple of log_every"):
        run(formula, 3)
    assert [t.state for t in study_of(formula.path).trials] == [TrialState.FAIL]


@pytest.mark.slow
def test_an_impossible_network_is_not_trained_and_not_counted(tmp_path, monkeypatch):
    trained = []

    def accept(config, path, *, on_validation, **_):
        trained.append(tuple(config.model.encoder_args.kernels))
        return {"finished": True, "best_step": 10, "best_value": 0.1 + 0.01 * len(trained)}

    monkeypatch.setattr(loop, "train_and_evaluate", accept)
    monkeypatch.setattr(results, "_plot", lambda study, path: None)
    config = config_of("koch2015")
    search.run_search(config, tmp_path / "s", num_trials=4, only=["model.encoder_args.kernels"])
    assert len(trained) == 4

    def fits(kernels):
        side = 52
        for i, kernel in enumerate(kernels):
            side = side - kernel + 1
            if side < 1:
                return False
            side = side // 2 if i < 3 else side
        return True

    trials = study_of(tmp_path / "s").trials
    impossible = [t for t in trials if "impossible" in t.user_attrs]
    assert impossible and len(trials) == 4 + len(impossible)
    for t in trials:
        kernels = [t.params[f"model.encoder_args.kernels.{i}"] for i in range(4)]
        assert fits(kernels) is ("impossible" not in t.user_attrs)
    assert all(t.user_attrs["reason"].startswith("impossible network: conv") for t in impossible)

    config.data.image_size = (20, 20)
    with pytest.raises(ValueError, match="21 of 21 trials had impossible networks"):
        search.run_search(config, tmp_path / "t", num_trials=1)


def die(study, path, *fields):
    """Begins a trial as a worker does that is killed in it, long ago; returns its number."""
    trial = study.ask()
    for field in fields:
        trial.suggest_float(field, 1e-4, 1e-1, log=True)
    study._storage.record_heartbeat(trial._trial_id)
    with contextlib.closing(sqlite3.connect(path / "study.db")) as database, database:
        database.execute(
            "UPDATE trial_heartbeats SET heartbeat = '2000-01-01 00:00:00' WHERE trial_id = ?",
            (trial._trial_id,),
        )
    return trial.number


@pytest.mark.slow
def test_a_dead_workers_trial_is_begun_again_in_its_folder(formula):
    run(formula, 1)
    study = open_like(formula)
    dead = die(study, formula.path, "optim.learning_rate")
    alive = study.ask()  # by another worker
    alive.suggest_float("optim.learning_rate", 1e-4, 1e-1, log=True)
    study._storage.record_heartbeat(alive._trial_id)
    formula.at_rate[2] = lambda: study.tell(alive.number, 0.01)  # it ends while ours is at work
    summary = run(formula, 3, stale_seconds=50)
    assert summary["finished"]
    assert formula.rates == [0.002, study.trials[dead].params["optim.learning_rate"]]
    trials = study_of(formula.path).trials
    assert [t.state.name for t in trials] == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert results.folder_of(trials[3]) == "00001"
    assert [t.number for t in results.last_attempts(study)] == [0, 2, 3]


@pytest.mark.slow
def test_a_trial_that_kills_its_workers_is_given_up(formula):
    run(formula, 1)
    study = open_like(formula)
    for number in (1, 2, 3):
        assert die(study, formula.path, "optim.learning_rate") == number
        optuna.storages.fail_stale_trials(study)
        optuna.storages.fail_stale_trials(study)  # by a second worker, which comes too late
    assert [t.state.name for t in study.trials] == ["COMPLETE", "FAIL", "FAIL", "FAIL"]
    assert run(formula, 2)["finished"] and len(formula.rates) == 1


@pytest.mark.slow
def test_a_crash_ends_the_worker_and_its_trial_goes_on_later(formula):
    def crash():
        raise OSError("no space left on device")

    formula.at_rate[1] = crash
    with pytest.raises(OSError, match="no space left"):
        run(formula, 2)
    assert [t.state.name for t in study_of(formula.path).trials] == ["FAIL", "WAITING"]
    assert run(formula, 2)["finished"] and formula.rates[:2] == [0.002, 0.002]


@pytest.mark.slow
def test_a_stopped_trial_waits_to_be_gone_on_with(formula):
    calls = []

    def stop():
        calls.append(1)
        return len(calls) > 1  # not before the first trial, but within it

    assert not run(formula, 2, should_stop=stop)["finished"]
    assert [t.state.name for t in study_of(formula.path).trials] == ["FAIL", "WAITING"]
    assert run(formula, 2)["finished"]
    assert formula.rates[:2] == [0.002, 0.002] and len(formula.rates) == 3


@pytest.mark.slow
def test_a_trial_taken_over_by_another_worker_is_left_alone(formula):
    def take_over():
        study = study_of(formula.path)
        study.tell(0, state=TrialState.FAIL)

    formula.at_rate[1] = take_over
    assert run(formula, 2)["finished"]
    assert [t.state.name for t in study_of(formula.path).trials] == ["FAIL", "COMPLETE"]


# ------------------------------------------------------------------------------------- real runs


@pytest.mark.slow
def test_a_short_search_improves_on_the_smoke_config(tmp_path):
    path = tmp_path / "search"
    found = search.run_search(config_of("quickstart"), path, num_trials=3, only=["optim."])
    first = study_of(path).trials[0]
    assert first.params == {"optim.learning_rate": 0.002, "optim.weight_decay": 0.05}
    assert found["accuracy"] > first.value
    evaluated = [
        r for r in workdir.read_metrics(path / "trials" / "00000") if r["phase"] != "train"
    ]
    assert first.value == max(r["accuracy"] for r in evaluated)
    kept = [p.parent.name for p in path.glob("trials/*/checkpoints")]
    assert kept == [f"{found['number']:05d}"]
    for name in ("history", "importance"):
        assert (path / f"{name}.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.slow
def test_a_worker_that_is_killed_is_replaced_by_another(tmp_path):
    """A command is killed in its trial; a second worker makes one of its own and ends the other."""
    path = tmp_path / "search"
    changes = {"num_steps": 800, "eval.every": 100, "num_devices": 1}
    command = [sys.executable, str(ROOT / "launch" / "search.py"), f"--workdir={path}"]
    command += [f"--config={ROOT / 'configs' / 'vectors.py'}:smoke", "--only=optim", "--trials=2"]
    command += [f"--config.{name}={value}" for name, value in changes.items()]
    with open(tmp_path / "log", "w") as log:
        victim = subprocess.Popen(command, stdout=log, stderr=log, env=environment())
    try:
        until = time.monotonic() + 600
        while not any(
            r["phase"] == "validation" for r in workdir.read_metrics(path / "trials/00000")
        ):
            assert victim.poll() is None and time.monotonic() < until, (
                tmp_path / "log"
            ).read_text()
            time.sleep(0.05)
        (killed,) = study_of(path).trials
        assert killed.state == TrialState.RUNNING
    finally:
        victim.kill()
        victim.wait()
    config = config_of("vectors")
    config.update_from_flattened_dict(changes)
    found = search.run_search(config, path, num_trials=2, only=["optim"], stale_seconds=2)
    assert found["finished"]

    trials = study_of(path).trials
    assert trials[0].state == TrialState.FAIL and killed.number == 0
    (again,) = (t for t in trials[1:] if results.folder_of(t) == "00000")
    assert again.params == killed.params and again.state.is_finished()
    workers = [t.user_attrs["worker"].rpartition(":")[2] for t in (killed, again)]
    assert workers == [str(victim.pid), str(os.getpid())]
    folder = path / "trials" / "00000"
    assert len(workdir.read_provenance(folder)) == 2  # it went on where the other had been
    steps = [row["step"] for row in workdir.read_metrics(folder) if row["phase"] == "train"]
    assert steps == list(range(5, steps[-1] + 1, 5))
    ended = [t for t in trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    assert len(ended) == 2 and len({json.dumps(t.params) for t in ended}) == 2
    assert (path / "history.png").exists()
