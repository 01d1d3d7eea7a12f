"""Faults that are done to the project on purpose: nothing may be lost, nothing wrong may pass."""
