"""Settings of jax that make it fast on a CPU; called by the launchers, never on import."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import pathlib
import sys
import warnings

# XLA's flag that says which operations do not go to the library YNNPACK; a jaxlib that does not know it
# ends the process. Single convolutions are slow there. So are elementwise operations from jaxlib 0.11.2
# on, and sums give NaN in bfloat16 there; in float32 they are right, and a training step is a quarter
# shorter with them.
_FLAG = "--xla_cpu_experimental_ynn_fusion_type"
_FIRST = f"{_FLAG}=-individual_convolution"
_FLAGS = {  # by jaxlib: for any type, for float32 alone
    "0.10.2": (_FIRST, _FIRST),
    "0.11.2": (f"{_FIRST},-eltwise,-reduce", f"{_FIRST},-eltwise"),
    "0.12.0.1": (f"{_FIRST},-eltwise,-reduce", f"{_FIRST},-eltwise"),
}


def tune_cpu(cache: bool = True, dtype: str | None = None) -> None:
    """Sets the XLA flag for fast convolutions and sums, and keeps compiled programs and freed memory.

    XLA's buffers of one step are as large as those of the next: glibc would give them back to the
    system each time, which would zero them anew.

    Call it before the first computation with jax. The user's own XLA_FLAGS are kept: a flag or a cache
    folder that is set already is left as it is, unless an earlier call set it, such as that of the
    process that started this one. The flag is set only for a jaxlib on which it was tested.

    Args:
        cache: whether to keep compiled programs in `~/.cache/siamese_jax`.
        dtype: the type that all is computed in, where it is known: "float32" trains faster.
    """
    _keep_memory()
    flags = _FLAGS.get(importlib.metadata.version("jaxlib"))
    before = os.environ.get("XLA_FLAGS", "").split()
    given = [word for word in before if word not in (flags or ())]
    if flags and not any(word.startswith(f"{_FLAG}=") for word in given):
        for_any, for_float32 = flags
        wanted = [*given, for_float32 if dtype == "float32" else for_any]
        if set(wanted) != set(before):
            if "jax" in sys.modules and _started():
                warnings.warn(
                    "jax has started: tune_cpu() comes too late to change its flags", stacklevel=2
                )
            else:
                os.environ["XLA_FLAGS"] = " ".join(wanted)
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
