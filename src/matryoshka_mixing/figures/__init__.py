"""Figures: one style, one grid, and what several chapters draw. A figure of one chapter stands in its module."""

from matryoshka_mixing.figures.shared import (
    basin_heatmaps,
    clouds,
    cosine_maps,
    heatmaps,
    loss_path,
    seed_strips,
    slider_heatmaps,
    theory_and_experiment,
)
from matryoshka_mixing.figures.style import COLOURS, DIVERGING, MARKERS, SEQUENTIAL, grid, label, use_style

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
    "label",
    "loss_path",
    "seed_strips",
    "slider_heatmaps",
    "theory_and_experiment",
    "use_style",
]
