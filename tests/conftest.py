"""What all tests share: several CPU devices, strict ranks and shapes, a small set, and the real data."""

import collections
import fcntl
import functools
import gc
import importlib.metadata
import os
import pathlib
import platform
import shutil

import jaxtyping
import pytest

XLA_FLAGS = {
    "--xla_force_host_platform_device_count": 8,
    "--xla_backend_optimization_level": 0,  # most of a test's time is spent on compiling
    "--xla_cpu_parallel_codegen_split_count": 1,  # the workers have the cores
}
if importlib.metadata.version("jaxlib").startswith("0.10."):  # an unknown flag ends the process
    XLA_FLAGS["--xla_cpu_use_fusion_emitters"] = False  # they take long to compile
else:  # as `tune_cpu` has it; without it sums in bfloat16 are NaN
    XLA_FLAGS["--xla_cpu_experimental_ynn_fusion_type"] = "-individual_convolution,-eltwise,-reduce"
for flag, setting in XLA_FLAGS.items():  # before jax starts
    if flag not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}={setting}".strip()

# Every call in these modules is checked against its annotations: types, shapes and dtypes.
TYPED_MODULES = (
    "siamese_jax.models",  # with all its modules
    "siamese_jax.training.losses",
    "siamese_jax.training.mining",
    "siamese_jax.evaluation.intervals",
    "siamese_jax.evaluation.metrics",
    "siamese_jax.evaluation.probabilities",
)
jaxtyping.install_import_hook(TYPED_MODULES, "beartype.beartype")  # before they are imported

# jax keeps so many objects that Python's collector would take an eighth of the tests' time.
gc.set_threshold(200_000, 20, 100)

REAL_DATA = "SIAMESE_JAX_TEST_DATA"


def pytest_configure(config):
    """Prepares jax, but not in the process that only hands the tests out to workers."""
    _keep_compiled(getattr(config, "cache", None))
    if getattr(config.option, "numprocesses", None) and not hasattr(config, "workerinput"):
        return
    import jax

    jax.config.update("jax_numpy_rank_promotion", "raise")
    jax.config.update("jax_traceback_in_locations_limit", 0)  # quicker to lower


def _keep_compiled(cache):
    """Lets jax keep compiled programs in pytest's cache, which `--cache-clear` empties.

    Workers and the commands that tests start share them, and find the folder in their environment.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ or cache is None:
        return
    folder = cache.mkdir(f"compiled-{platform.node()}")
    if sum(file.stat().st_size for file in folder.iterdir()) > 2**30:
        shutil.rmtree(folder)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"


def pytest_collection_modifyitems(items):
    """Puts the files with the most slow tests first, so that no long one is left to the end."""
    slow = collections.Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(scope="session", autouse=True)
def glyphs_once():
    """Makes each set of glyphs once: most trainings here load one of a few."""
    from siamese_jax.data import glyphs

    made = functools.lru_cache(maxsize=8)(glyphs.make_glyphs)

    @functools.wraps(glyphs.make_glyphs)
    def make(*args, **kwargs):
        images = made(*args, **kwargs)
        images.images.flags.writeable = False  # shared by tests
        return images

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(glyphs, "make_glyphs", make)
        yield


@pytest.fixture(scope="session")
def real_data() -> pathlib.Path:
    """The folder with `omniglot/`, `mnist/` and `att_faces/` that the environment names."""
    given = os.environ.get(REAL_DATA)
    if not given:
        pytest.skip(f"{REAL_DATA} is not set: no real data")
    folder = pathlib.Path(given).expanduser()
    missing = [part for part in ("omniglot", "mnist", "att_faces") if not (folder / part).is_dir()]
    if missing:
        pytest.fail(f"{REAL_DATA}={given} holds no folder {', '.join(missing)}")
    return folder


@pytest.fixture(scope="session")
def prepared_omniglot(real_data, tmp_path_factory):
    """The builder of the real Omniglot, prepared once for all workers."""
    from siamese_jax.data import omniglot

    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    with open(folder / "prepared.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return omniglot.prepare(folder / "prepared", real_data / "omniglot")


@pytest.fixture(scope="session")
def small():
    """3 alphabets of 6, 5 and 9 characters by 4 drawers, see `planted`; not to be written to."""
    from tests import planted

    images = planted.make_set()
    images.images.setflags(write=False)
    return images


@pytest.fixture(scope="session")
def glyphs():
    """6 alphabets x 8 characters x 8 drawers at 28 x 28 pixels; not to be written to."""
    from siamese_jax.data.glyphs import make_glyphs

    images = make_glyphs(
        0, num_alphabets=6, characters=(8, 8), num_drawers=8, image_size=28, name="small glyphs"
    )
    images.images.setflags(write=False)
    return images


@pytest.fixture(scope="module")
def glyphs_drawn_once():
    """Draws the glyphs of the same settings once for all tests of a module."""
    from siamese_jax.data import glyphs

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(glyphs, "make_glyphs", functools.cache(glyphs.make_glyphs))
        yield


def pytest_terminal_summary(terminalreporter):
    """Says how many tests were left out for want of real data."""
    reports = terminalreporter.stats.get("skipped", [])
    count = sum(REAL_DATA in str(report.longrepr) for report in reports)
    if count:
        terminalreporter.write_line(
            f"{count} tests were skipped for want of real data: set {REAL_DATA} to a folder with "
            "omniglot/, mnist/ and att_faces/"
        )
