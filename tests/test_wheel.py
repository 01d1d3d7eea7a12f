"""The installed package: its commands, configs and networks work outside of a checkout."""

import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import venv

import pytest

import siamese_jax
from siamese_jax import cli

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).resolve().parents[1]


def run(*command, cwd):
    environment = {name: x for name, x in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env=environment,
    )


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The `bin` of an environment into which the built wheel was installed, and an empty folder."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("setup.py", "pyproject.toml"):
        shutil.copy(ROOT / name, source)
    for name in ("siamese_jax", "launch", "configs"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    done = run(
        sys.executable, "setup.py", "sdist", "--dist-dir", folder / "source_dist", cwd=source
    )
    assert done.returncode == 0, done.stderr
    (archive,) = (folder / "source_dist").iterdir()  # of which the wheel is built
    done = run(
        *(*pip, "wheel", archive, "--no-deps", "--no-build-isolation", "-w", folder / "dist"),
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    venv.create(folder / "environment", with_pip=False)
    binaries = folder / "environment" / "bin"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = folder / "environment" / "lib" / version / "site-packages"
    # What the package needs comes from this environment, as further folders without their .pth files.
    paths = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    (site / "needed.pth").write_text("".join(f"{path}\n" for path in paths))
    (wheel,) = (folder / "dist").iterdir()
    done = run(
        *pip,
        "--python",
        binaries / "python",
        "install",
        "--no-deps",
        "--no-index",
        "--force-reinstall",
        wheel,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    empty = folder / "empty"
    empty.mkdir()
    return binaries, empty


def test_the_wheel_loads_a_network_outside_of_the_checkout(installed):
    binaries, folder = installed
    code = (
        "import siamese_jax, sys; assert 'jax' not in sys.modules;"
        "print(siamese_jax.__version__, siamese_jax.__file__); print(siamese_jax.load('omniglot'))"
    )
    done = run(binaries / "python", "-c", code, cwd=folder)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.startswith(f"{siamese_jax.__version__} {binaries.parent}")
    assert second.startswith("<Siamese omniglot @ ")


def test_every_launcher_is_a_console_command(installed):
    binaries, _ = installed
    launchers = {path.stem for path in (cli.ROOT / "launch").glob("*.py")} - {"tables"}
    commands = {path.name.removeprefix("siamese-") for path in binaries.glob("siamese-*")}
    assert commands == launchers


@pytest.mark.parametrize("name", ["evaluate", "recognize", "export"])
def test_a_command_helps_and_explains_mistakes(installed, name):
    binaries, folder = installed
    done = run(binaries / f"siamese-{name}", "--help", cwd=folder)
    assert done.returncode == 0 and "--workdir: Folder of the run" in done.stdout, done.stderr
    done = run(binaries / f"siamese-{name}", "--wrkdir=x", cwd=folder)
    assert done.returncode in (1, 2) and done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"launch/{name}.py: ") and "wrkdir" in done.stderr


def test_a_config_of_the_package_is_found_in_any_folder(installed):
    binaries, folder = installed
    words = ("--config=vectors:smoke", "--workdir=r", "--noprogress")
    done = run(binaries / "siamese-train", *words, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "finished at step 20" in done.stdout
    done = run(
        binaries / "siamese-train", "--config=configs/quikstart.py", "--workdir=r", cwd=folder
    )
    assert done.stderr.endswith("did you mean configs/quickstart.py?\n")


def test_an_ablation_trains_with_the_launchers_of_the_package(installed):
    binaries, folder = installed
    done = run(
        binaries / "siamese-ablate",
        "--config=quickstart:smoke",
        "--over=optim.weight_decay:0|0.1",
        "--workdir=a",
        "--dry_run",
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
