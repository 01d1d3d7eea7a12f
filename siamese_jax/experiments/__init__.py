"""What the launchers run: evaluation of a run, search, ablation and tables."""
