"""The flags of XLA that are set for a CPU: by jaxlib and by type, and never over the user's own."""

import importlib.metadata
import os

import pytest

from siamese_jax import cpu

FLAG = "--xla_cpu_experimental_ynn_fusion_type"
FIRST = f"{FLAG}=-individual_convolution"


@pytest.fixture
def flags(monkeypatch):
    """Calls `tune_cpu` as a process with these flags does, before jax starts; returns the new ones."""
    monkeypatch.setattr(cpu, "_started", lambda: False)
    monkeypatch.setattr(cpu, "_keep_memory", lambda: None)

    def after(given, jaxlib, dtype=None):
        monkeypatch.setattr(importlib.metadata, "version", {"jaxlib": jaxlib}.__getitem__)
        monkeypatch.setenv("XLA_FLAGS", given)
        cpu.tune_cpu(cache=False, dtype=dtype)
        return os.environ["XLA_FLAGS"]

    return after


@pytest.mark.parametrize("jaxlib", ["0.11.2", "0.12.0.1"])
def test_sums_take_the_fast_path_in_float32_alone(flags, jaxlib):
    safe, fast = f"{FIRST},-eltwise,-reduce", f"{FIRST},-eltwise"
    for dtype, expected in ((None, safe), ("bfloat16", safe), ("float32", fast)):
        assert flags("", jaxlib, dtype) == expected
    # A training in float32 that a command with the safe flag has started, and the other way round.
    assert flags(safe, jaxlib, "float32") == fast
    assert flags(f"--xla_a=1 {fast}", jaxlib, "bfloat16") == f"--xla_a=1 {safe}"


def test_the_users_own_flags_are_kept(flags):
    assert flags("--xla_a=1", "0.10.2") == f"--xla_a=1 {FIRST}"
    own = f"{FLAG}=-dot --xla_a=1"
    assert flags(own, "0.12.0.1", "float32") == own


def test_no_flag_is_set_for_a_jaxlib_that_may_not_know_it(flags):
    assert flags("--xla_a=1", "0.13.0", "float32") == "--xla_a=1"


def test_too_late_is_said_and_changes_no_flag(flags, monkeypatch):
    monkeypatch.setattr(cpu, "_started", lambda: True)
    folders = []
    monkeypatch.setattr(cpu, "_keep_compiled", folders.append)
    with pytest.warns(UserWarning, match="jax has started: tune_cpu.. comes too late"):
        assert flags("", "0.12.0.1") == ""
    with pytest.warns(UserWarning, match="too late to change its flags"):
        cpu.tune_cpu()  # which keeps the compiled programs all the same
    assert len(folders) == 1 and os.environ["XLA_FLAGS"] == ""
    assert flags(f"{FIRST},-eltwise,-reduce", "0.12.0.1") == f"{FIRST},-eltwise,-reduce"
