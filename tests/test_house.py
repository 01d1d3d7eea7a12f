"""The rules of the house: imports go down, and launchers are thin."""

import ast
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "siamese_jax"
# What each room may import besides itself; the order is that of an experiment.
FOR_ALL = ("readers", "files")  # how files from outside are read, and files replaced
MAY_IMPORT = {
    "cli": (),
    "cpu": (),
    "config": (),
    "readers": (),
    "files": (),
    "models": (),
    "data": FOR_ALL,
    "runs": FOR_ALL,
    "evaluation": (*FOR_ALL, "data", "models", "runs"),
    "inference": (*FOR_ALL, "data", "models", "runs", "evaluation"),
    "training": (*FOR_ALL, "config", "data", "models", "runs", "evaluation", "inference"),
    "reporting": (*FOR_ALL, "data", "models", "runs", "evaluation", "inference"),
    "recognition": (*FOR_ALL, "data", "models", "runs", "evaluation", "inference", "reporting"),
}
MAY_IMPORT["experiments"] = ("cli", *MAY_IMPORT["training"], "training", "reporting", "recognition")
MAY_IMPORT["benchmarks"] = (*MAY_IMPORT["experiments"], "experiments")
# The package itself may hand out anything; nothing in it imports anything from the package itself.
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")
LAUNCHERS = sorted((ROOT / "launch").glob("*.py"))
CONFIGS = sorted((ROOT / "configs").glob("*.py"))


def tree_of(path):
    return ast.parse(path.read_text(), str(path))


def imports(path):
    """Dotted names of all modules that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            if node.module == "siamese_jax":
                names |= {f"siamese_jax.{alias.name}" for alias in node.names}
            else:
                names.add(node.module)
    return names


def room_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def rooms_imported(path):
    """Rooms of the package that a file imports."""
    return {name.split(".")[1] for name in imports(path) if name.startswith("siamese_jax.")}


def name_of(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_import_goes_up(path):
    room = room_of(path)
    assert room in MAY_IMPORT, f"{room} is no room: add it to MAY_IMPORT"
    assert "siamese_jax" not in imports(path)
    for other in rooms_imported(path) - {room}:
        assert other in MAY_IMPORT[room], f"{room} imports {other}"


def test_no_imports_go_in_circles():
    below = {}
    for path in MODULES:
        below.setdefault(room_of(path), set()).update(rooms_imported(path) - {room_of(path)})
    while below:
        ground = [room for room, needed in below.items() if not needed & below.keys()]
        assert ground, f"these import one another: {sorted(below)}"
        for room in ground:
            del below[room]


def test_nobody_else_touches_the_benchmarks_or_torch():
    for path in MODULES:
        found = {name.split(".")[0] for name in imports(path)} & {"torch", "tensorflow", "keras"}
        assert not found or room_of(path) == "benchmarks", f"{path} imports {found}"


@pytest.mark.parametrize("path", LAUNCHERS, ids=name_of)
def test_a_launcher_is_thin(path):
    assert len(path.read_text().splitlines()) < 80
    assert not any(name.startswith(("launch", "configs", "tests")) for name in imports(path))


def test_nobody_imports_a_launcher_or_a_config():
    for path in [*MODULES, *CONFIGS, PACKAGE / "__init__.py"]:
        roots = {name.split(".")[0] for name in imports(path)}
        assert not roots & {"launch", "configs", "tests"}, path


@pytest.mark.parametrize("path", CONFIGS, ids=name_of)
def test_a_config_knows_ml_collections_and_the_shared_defaults_only(path):
    names = imports(path)
    assert {name.split(".")[0] for name in names} - sys.stdlib_module_names <= {
        *("ml_collections", "siamese_jax"),
    }
    assert rooms_imported(path) <= {"config"}


def test_there_is_no_drawer_for_odds_and_ends():
    for path in MODULES:
        assert path.stem not in ("utils", "util", "helpers", "misc", "common"), path
    assert not any("importlib" in imports(path) for path in MODULES)


def test_importing_the_package_does_not_start_jax():
    code = "import siamese_jax, sys; assert 'jax' not in sys.modules, 'jax was imported'"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_what_lists_a_gallery_does_not_start_jax():
    code = (
        "import siamese_jax, sys; siamese_jax.tune_cpu(); from siamese_jax.recognition import commands;"
        "assert 'jax' not in sys.modules, 'jax was imported'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_ignored_type_has_its_code_and_its_reason():
    for path in MODULES:
        for line in path.read_text().splitlines():
            if "type: ignore" in line:
                assert re.search(r"# type: ignore\[[a-z-]+\]  # .{10}", line), f"{path}: {line}"


VAGUE = {"found", "held", "told", "asked", "made", "own"}


@pytest.mark.parametrize("path", [*MODULES, *LAUNCHERS], ids=name_of)
def test_a_local_name_says_what_it_holds(path):
    names = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
    assert not names & VAGUE
