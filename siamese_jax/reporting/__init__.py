"""Plots and HTML pages, drawn from saved results."""
