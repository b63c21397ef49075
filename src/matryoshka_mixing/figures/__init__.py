"""Figures: one style, one grid, and what several chapters draw. A figure of one chapter stands in its module."""

from matryoshka_mixing.figures.shared import (
    basin_heatmaps,
    clouds,
    cosine_maps,
    explorable,
    heatmaps,
    loss_path,
    seed_strips,
    theory_and_experiment,
)
from matryoshka_mixing.figures.style import COLOURS, DIVERGING, MARKERS, SEQUENTIAL, grid, in_one_line, label, use_style

__all__ = [
    "COLOURS",
    "DIVERGING",
    "MARKERS",
    "SEQUENTIAL",
    "basin_heatmaps",
    "clouds",
    "cosine_maps",
    "explorable",
    "grid",
    "heatmaps",
    "in_one_line",
    "label",
    "loss_path",
    "seed_strips",
    "theory_and_experiment",
    "use_style",
]
