"""Image sets and where they come from: the only room that knows tfds, archives and files."""
