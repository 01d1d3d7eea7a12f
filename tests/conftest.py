"""What all tests share: several CPU devices, strict ranks and shapes, a small set, and the real data."""

import os
import pathlib

DEVICES = "--xla_force_host_platform_device_count"
if DEVICES not in os.environ.get("XLA_FLAGS", ""):  # before jax starts
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {DEVICES}=8".strip()

import jax  # noqa: E402
import jaxtyping  # noqa: E402
import pytest  # noqa: E402

# Every call in these modules is checked against its annotations: types, shapes and dtypes.
TYPED_MODULES = (
    "siamese_jax.models",  # with all its modules
    "siamese_jax.training.losses",
    "siamese_jax.training.mining",
    "siamese_jax.evaluation.metrics",
)
jaxtyping.install_import_hook(TYPED_MODULES, "beartype.beartype")  # before they are imported

from siamese_jax.data.glyphs import make_glyphs  # noqa: E402

REAL_DATA = "SIAMESE_JAX_TEST_DATA"

jax.config.update("jax_numpy_rank_promotion", "raise")


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
    """The builder of the real Omniglot, prepared once a session."""
    from siamese_jax.data import omniglot

    return omniglot.prepare(tmp_path_factory.mktemp("prepared"), real_data / "omniglot")


@pytest.fixture(scope="session")
def glyphs():
    """6 alphabets x 8 characters x 8 drawers at 28 x 28 pixels; not to be written to."""
    images = make_glyphs(
        0, num_alphabets=6, characters=(8, 8), num_drawers=8, image_size=28, name="small glyphs"
    )
    images.images.setflags(write=False)
    return images


def pytest_terminal_summary(terminalreporter):
    """Says how many tests were left out for want of real data."""
    reports = terminalreporter.stats.get("skipped", [])
    count = sum(REAL_DATA in str(report.longrepr) for report in reports)
    if count:
        terminalreporter.write_line(
            f"{count} tests were skipped for want of real data: set {REAL_DATA} to a folder with "
            "omniglot/, mnist/ and att_faces/"
        )
