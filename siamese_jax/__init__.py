"""Siamese networks and one-shot recognition in JAX and Flax.

Importing the package starts nothing and changes nothing; jax is first imported by what needs it.
"""

from siamese_jax.cpu import tune_cpu

__version__ = "0.1.0"
__all__ = ["__version__", "load", "tune_cpu"]


def load(path, checkpoint="best", num_devices=1, tta=1):
    """Reads the network of a run, or one by name: see `siamese_jax.inference.network.load`."""
    from siamese_jax.inference import network

    return network.load(path, checkpoint, num_devices, tta)
