"""Figures: one style, one grid, and what several chapters draw. A figure of one chapter stands in its module."""

from matryoshka_mixing.figures.shared import (
    basin_heatmaps,
    clouds,
    cosine_maps,
    heatmaps,
    learning_curves,
    log_scatter,
    loss_path,
    phase_maps,
    seed_strips,
    slider_heatmaps,
    theory_and_experiment,
)
from matryoshka_mixing.figures.style import COLOURS, DIVERGING, MARKERS, SEQUENTIAL, grid, use_style

__all__ = [
    "COLOURS",
    "DIVERGING",
    "MARKERS",
    "SEQUENTIAL",
    "basin_heatmaps",
    "clouds",
    "cosine_maps",
    "grid",
    "heatmaps",
    "learning_curves",
    "log_scatter",
    "loss_path",
    "phase_maps",
    "seed_strips",
    "slider_heatmaps",
    "theory_and_experiment",
    "use_style",
]
