"""Image sets and where they come from: the only room that knows tfds, archives and files."""

from siamese_jax.data.image_set import ImageSet
from siamese_jax.data.loading import Data, load

__all__ = ["Data", "ImageSet", "load"]
