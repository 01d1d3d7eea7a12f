"""Frozen lists of trials, the protocols that score a system on them, and the metrics."""
