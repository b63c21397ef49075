"""Figures: one style, one grid, and what several chapters draw. A figure of one chapter stands in its module."""

from matryoshka_mixing.figures.numbers import numbers
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
from matryoshka_mixing.figures.style import (
    COLOURS,
    DIVERGING,
    MARKERS,
    QUANTITIES,
    SEQUENTIAL,
    colour,
    end_labels,
    grid,
    in_one_line,
    label,
    use_style,
)

__all__ = [
    "COLOURS",
    "DIVERGING",
    "MARKERS",
    "QUANTITIES",
    "SEQUENTIAL",
    "basin_heatmaps",
    "clouds",
    "colour",
    "cosine_maps",
    "end_labels",
    "explorable",
    "grid",
    "heatmaps",
    "in_one_line",
    "label",
    "loss_path",
    "numbers",
    "seed_strips",
    "theory_and_experiment",
    "use_style",
]
