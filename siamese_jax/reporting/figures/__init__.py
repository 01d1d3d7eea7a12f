"""The figures of a report, drawn with matplotlib and without a display.

Each function returns a `matplotlib.figure.Figure`: `to_svg` puts it into a page, `save` writes it as a
picture for a README. What is right or wrong is told by a sign and by the line of a border, not by
colour alone.
"""

from siamese_jax.reporting.figures.curves import (
    curve_figure,
    losses_figure,
    reliability_figure,
    roc_figure,
    training_figure,
)
from siamese_jax.reporting.figures.drawing import BASELINE, MODEL, OTHER, RULE, WIDTH, save, to_svg
from siamese_jax.reporting.figures.images import (
    class_name,
    confusion_figure,
    embedding_figure,
    episode_figure,
    filters_figure,
    images_figure,
    pair_name,
    pairs_figure,
    pictures,
    principal_components,
    sample_pairs,
    sample_trials,
    side_name,
    trial_grid_figure,
    verification_errors_figure,
)

__all__ = [
    "BASELINE",
    "MODEL",
    "OTHER",
    "RULE",
    "WIDTH",
    "class_name",
    "confusion_figure",
    "curve_figure",
    "embedding_figure",
    "episode_figure",
    "filters_figure",
    "images_figure",
    "verification_errors_figure",
    "losses_figure",
    "pair_name",
    "pairs_figure",
    "pictures",
    "principal_components",
    "reliability_figure",
    "roc_figure",
    "sample_pairs",
    "sample_trials",
    "save",
    "side_name",
    "to_svg",
    "training_figure",
    "trial_grid_figure",
]
