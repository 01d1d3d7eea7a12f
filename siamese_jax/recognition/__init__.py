"""Galleries of references: enrol, identify, verify, search and calibrate."""
