"""The folder of a run: its config, metrics, provenance and checkpoints, and a network as one file."""
