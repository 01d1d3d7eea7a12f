"""Package of siamese_jax; see README.md."""

import setuptools

setuptools.setup(
    name="siamese_jax",
    version="0.1.0",
    description="Siamese networks and one-shot recognition in JAX and Flax",
    license="Apache-2.0",
    packages=setuptools.find_packages(include=["siamese_jax", "siamese_jax.*"]),
    package_data={
        "siamese_jax.experiments": ["*.html"],
        "siamese_jax.recognition": ["*.html"],
        "siamese_jax.runs": ["pretrained/*.npz"],
    },
    python_requires=">=3.11",
    install_requires=[
        "absl-py",
        "array_record",  # tfds writes and reads the prepared sets with it, without TensorFlow
        "flax>=0.12",
        "importlib_resources",  # tfds imports it without declaring it
        "jax>=0.10.2,<0.12",
        "jaxtyping>=0.3",
        "matplotlib",
        "ml_collections",
        "numpy",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12,<1.0",
        "pillow>=10.1",
        "requests",  # asks whether the public download answers
        "scipy",
        "tensorboardX",
        "tensorflow-datasets>=4.9.10",
        "tqdm",
    ],
    extras_require={
        "bench": ["torch"],
        "demo": ["fastapi>=0.115", "uvicorn>=0.30"],
        "search": ["optuna>=5.0,<6"],
        "test": [
            *("beartype", "optuna>=5.0,<6", "pytest", "pytest-xdist", "ruff", "scikit-learn"),
            *("fastapi>=0.115", "uvicorn>=0.30"),  # of the extra `demo`
            "selenium",  # drives Debian's chromium; without a browser those tests are skipped
        ],
    },
)
