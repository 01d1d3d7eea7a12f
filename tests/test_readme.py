"""What README and docs say can be typed: every flag, field, file and link is there, and it runs."""

import ast
import contextlib
import io
import re
import shlex
import warnings

import numpy as np
import pytest
from launching import launch
from ml_collections import config_flags
from PIL import Image
from recipes import ROOT, read_config

from siamese_jax.data import loading

README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
TRAINERS = ("launch/local.sh", "launch/slurm.sh", "launch/tpu.sh")  # pass their flags on
ABSL = {"help", "helpfull", "verbosity"}


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def block(page, language, word):
    (found,) = [text for text in blocks(page, language) if word in text]
    return found


def commands(text):
    """The commands of a block, each a list of words; continued lines are joined."""
    lines = text.replace("\\\n", " ").splitlines()
    return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


def documented():
    """Every command of a launcher in a block or in `code` of the pages, with the page's name."""
    for page in PAGES:
        spans = [
            line for text in blocks(page, "bash") for line in text.replace("\\\n", " ").splitlines()
        ]
        spans += re.findall(
            r"(?<!`)`([^`\n]*launch/\w+\.(?:py|sh) [^`\n]+)`(?!`)", page.read_text()
        )
        for span in spans:
            words = shlex.split(span, comments=True)
            places = [
                i for i, word in enumerate(words) if re.fullmatch(r"launch/\w+\.(py|sh)", word)
            ]
            if places:
                yield pytest.param(words[places[0] :], id=f"{page.name}: {' '.join(words)[:80]}")


def defined_flags(launcher):
    """The flags that a launcher defines, and whether each is a boolean."""
    flags = {}
    for node in ast.walk(ast.parse((ROOT / launcher).read_text())):
        name = getattr(getattr(node, "func", None), "attr", "")
        if name.startswith("DEFINE_") and isinstance(node.args[0], ast.Constant):
            flags[node.args[0].value] = name == "DEFINE_bool"
    return flags


# --- what is written --------------------------------------------------------------------------------


@pytest.mark.parametrize("words", list(documented()))
def test_every_flag_and_field_of_a_command_is_there(words):
    launcher = "launch/train.py" if words[0] in TRAINERS else words[0]
    assert (ROOT / launcher).exists(), launcher
    given = dict(
        word.lstrip("-").partition("=")[::2] for word in words[1:] if word.startswith("--")
    )
    fields = [name.removeprefix("config.") for name in given if name.startswith("config.")]
    if launcher.endswith(".sh"):
        script = (ROOT / launcher).read_text()
        assert all(f"--{name}" in script for name in given if not name.startswith("config."))
        config = read_config("configs/quickstart.py") if fields else None
    else:
        flags = defined_flags(launcher)
        negated = {f"no{name}" for name, boolean in flags.items() if boolean}
        unknown = {name for name in given if not name.startswith("config.")} - set(flags)
        assert unknown <= negated | ABSL, f"{launcher} has no flag {unknown}"
        path = given.get("config", "FILE")
        config = (
            None if path == "FILE" or path.startswith("configs/recorded.py") else read_config(path)
        )
    for field in fields:
        config_flags.config_path.get_value(field, config)  # raises where there is none


def test_flags_and_fields_in_the_text_are_there():
    """`--flag` and `section.field` in running text, whatever the command."""
    flags = {"quick", *ABSL}
    for launcher in (ROOT / "launch").glob("*.py"):
        flags |= set(defined_flags(f"launch/{launcher.name}"))
    configs = [
        read_config(f"configs/{path.name}")
        for path in (ROOT / "configs").glob("*.py")
        if path.name != "recorded.py" and "get_config" in path.read_text()
    ]
    configs.append(read_config("configs/koch2015.py:dense"))
    sections = "|".join(["data", "model", "objective", "augment", "optim", "eval"])
    for page in PAGES:
        text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
        for code in re.findall(r"`([^`\n]+)`", text):
            for name in re.findall(r"(?:^| )--(?:no)?(\w+)(?![\w.-])", code):
                known = name in flags or name.startswith("config") or code.startswith("sbatch")
                assert known, f"{page.name}: --{name}"
            for field in re.findall(rf"(?:^|\.| )((?:{sections})\.[a-z_.]+)(?==|$| )", code):
                assert any(has(config, field) for config in configs), f"{page.name}: {field}"


def has(config, field):
    try:
        config_flags.config_path.get_value(field, config)
    except (AttributeError, KeyError, IndexError, ValueError):
        return False
    return True


def test_every_file_and_link_is_there():
    for page in PAGES:
        text = page.read_text()
        for path in set(re.findall(r"\b(?:launch|configs|docs)/[\w./-]+\.(?:py|sh|md)\b", text)):
            assert (ROOT / path).exists(), f"{page.name}: {path}"
        for path in set(re.findall(r"\bsiamese_jax/[\w/]+(?:\.py|/)", text)):
            assert (ROOT / path).exists(), f"{page.name}: {path}"
        prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
        for target in re.findall(r"\]\(([^)]+)\)", prose):
            path, _, anchor = target.partition("#")
            other = page.parent / path if path else page
            assert other.exists(), f"{page.name}: {target}"
            if anchor:
                assert anchor in anchors(other), f"{page.name}: {target}"


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_readme_is_short_and_says_first_what_to_type():
    lines = README.read_text().splitlines()
    assert len(lines) <= 200
    assert "bash launch/quickstart.sh" in "\n".join(lines[:12])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_python_of_a_page_finds_its_imports(page):
    for text in blocks(page, "python"):
        tree = ast.parse(text)
        imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        exec(compile(ast.Module(imports, []), str(page), "exec"), {})


# --- what runs --------------------------------------------------------------------------------------


def printed_by(text):
    """What the Python of a page prints, run in this process."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "jax has started")
        exec(compile(text, "page", "exec"), {"__name__": "__main__"})
    return out.getvalue()


def run(words):
    """Runs a command of a page in this process; returns what it prints."""
    assert words[0] == "python"
    done = launch(words[1].removeprefix("launch/"), *words[2:])
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.slow
def test_the_python_of_readme_prints_what_it_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = block(README, "python", "siamese_jax.load")
    (promised,) = re.findall(r"prints `(right: [\d.]+)`", README.read_text())
    assert printed_by(text).strip() == promised


@pytest.mark.slow
def test_the_python_of_docs_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    printed = printed_by(block(ROOT / "docs" / "evaluation.md", "python", "results_table"))
    assert re.search(r"mine +runs .* 20 +1 +400 .*\nmine +within ", printed), printed
    printed = printed_by(block(ROOT / "docs" / "your-data.md", "python", "train_and_evaluate"))
    assert re.search(r"right: [01]\.\d+\nembeddings: \(10, 288\)", printed), printed
    printed_by(block(ROOT / "docs" / "your-data.md", "python", "load_iris"))
    data = loading.load({"name": "vectors", "path": str(tmp_path / "iris.csv")})
    assert data.train.num_classes + data.validation.num_classes + data.test.num_classes == 3


@pytest.fixture(scope="module")
def desk(tmp_path_factory, glyphs):
    """A folder with the launchers, the configs and `my_pictures`: 30 characters of the glyphs."""
    folder = tmp_path_factory.mktemp("desk")
    for name in ("launch", "configs", "results"):
        (folder / name).symlink_to(ROOT / name)
    for row in np.flatnonzero(glyphs.classes < 30):
        place = folder / "my_pictures" / f"class{glyphs.classes[row]:02d}"
        place.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(255 - glyphs.images[row, ..., 0])
        picture.save(place / f"{glyphs.drawers[row]}.png")
    for name, source in (("anna", "class00/1"), ("ben", "class01/1"), ("who", "class00/2")):
        (folder / f"{name}.png").symlink_to(folder / "my_pictures" / f"{source}.png")
    return folder


FEW = ("--n_way=5", "--num_trials=100", "--num_devices=1", "--nobaselines")  # of launch/evaluate.py


@pytest.mark.slow
def test_your_own_pictures_as_readme_has_it(desk, monkeypatch):
    """Its commands, with the config's smoke variant in place of ten minutes of training."""
    monkeypatch.chdir(desk)
    for words in commands(block(README, "bash", "my_pictures")):
        words = [word.replace("quickstart.py", "quickstart.py:vector,smoke") for word in words]
        run(words + list(FEW if words[1] == "launch/evaluate.py" else ()))
    assert (desk / "runs" / "mine" / "report.html").exists()
    printed = [run(words) for words in commands(block(README, "bash", "enrol anna"))]
    assert "nearest" in printed[-1] and re.search(r"anna|ben", printed[-1])
    recognise = block(ROOT / "docs" / "recognition.md", "python", "identify")
    for name, here in (
        ("runs/faces", "runs/mine"),
        ("a1.png", "anna.png"),
        ("people", "my_pictures"),
    ):
        recognise = recognise.replace(name, here)
    assert re.search(r"^(anna|unknown) [01]\.\d+$", printed_by(recognise).strip())
    export = block(ROOT / "docs" / "your-data.md", "python", "export")
    printed_by(export + "import siamese_jax\nsiamese_jax.load('mine.npz')\n")


@pytest.mark.slow
def test_the_commands_of_readme_run(desk, monkeypatch):
    """Each in its smoke variant; of the ablation the list of its runs, of the search one trial."""
    monkeypatch.chdir(desk)
    seen = []
    for words in commands(block(README, "bash", "launch/search.py")):
        words = [
            re.sub(r"^(--config=.*\.py)(:vector)?$", r"\1:vector,smoke", word) for word in words
        ]
        words = [word.replace("--trials=20", "--trials=1") for word in words]
        words += ["--dry_run"] if words[1] == "launch/ablate.py" else []
        words += FEW if words[1] == "launch/evaluate.py" else []
        words += ["--suite=recognition", "--nopeers"] if words[1] == "launch/benchmark.py" else []
        run(words)
        seen.append(words[1])
    assert len(seen) == 8
    assert (desk / "runs" / "quickstart" / "report.html").exists()
