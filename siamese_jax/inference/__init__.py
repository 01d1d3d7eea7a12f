"""A trained network ready for use, on one device or several."""
