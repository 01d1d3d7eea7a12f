"""Settings of jax that make it fast on a CPU; called by the launchers, never on import."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import pathlib
import sys
import warnings

# By jaxlib version, since a flag that a jaxlib does not know ends the process. The flag takes single
# convolutions off a slow path, and sums in bfloat16 off one that gives NaN for 128 images or more.
_SLOW = "--xla_cpu_experimental_ynn_fusion_type=-individual_convolution"
_XLA_FLAGS = {"0.10.2": _SLOW, "0.11.2": f"{_SLOW},-reduce", "0.12.0.1": f"{_SLOW},-reduce"}


def tune_cpu(cache: bool = True) -> None:
    """Sets the XLA flag for fast convolutions, and keeps compiled programs and freed memory.

    XLA's buffers of one step are as large as those of the next: glibc would give them back to the
    system each time, which would zero them anew.

    Call it before the first computation with jax. The user's own XLA_FLAGS are kept, and a flag or a
    cache folder that is set already is left as it is. The flag is set only for a jaxlib on which it
    was tested.

    Args:
        cache: whether to keep compiled programs in `~/.cache/siamese_jax`.
    """
    _keep_memory()
    flag = _XLA_FLAGS.get(importlib.metadata.version("jaxlib"), "")
    given = os.environ.get("XLA_FLAGS", "")
    if flag and flag.partition("=")[0] not in given:
        if "jax" in sys.modules and _started():
            warnings.warn(
                "jax has started: tune_cpu() comes too late to change its flags", stacklevel=2
            )
            return
        os.environ["XLA_FLAGS"] = f"{given} {flag}".strip()
    if cache:
        _keep_compiled(pathlib.Path.home() / ".cache" / "siamese_jax" / "compiled")


def _keep_compiled(folder: pathlib.Path) -> None:
    """Sets the cache folder, by the environment as long as jax is not imported: importing it is slow."""
    if "jax" not in sys.modules:
        if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
            os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
            os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        return
    import jax

    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def _keep_memory() -> None:
    """One arena, no mmap for large blocks, no trimming: freed memory is used again (glibc only)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in ((-8, 1), (-4, 0), (-1, 2**31 - 1)):  # ARENA_MAX, MMAP_MAX, TRIM
            mallopt(parameter, value)


def _started() -> bool:
    from jax._src import xla_bridge

    return xla_bridge.backends_are_initialized()
