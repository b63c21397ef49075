"""Families planted in real activations, and the diagnosis of SAEs trained on them and on the bare activations."""

from matryoshka_mixing.chapters.real_activations.data import KINDS
from matryoshka_mixing.chapters.real_activations.drawing import (
    draw_cosines,
    draw_diagnosis,
    draw_map,
    draw_prices,
    draw_recalls,
    draw_toys,
)
from matryoshka_mixing.chapters.real_activations.experiments import POINTS
from matryoshka_mixing.chapters.real_activations.summary import (
    Map,
    Parameters,
    Results,
    absorption_measures,
    diagnosis_measures,
    mapped,
    mixing_measures,
    others_table,
    results,
    shells_table,
    spread,
    step_costs,
    trained_elsewhere,
)
from matryoshka_mixing.chapters.real_activations.toys import (
    Toys,
    check_toys,
    diagnose_toys,
    toys_table,
)

__all__ = [
    "KINDS",
    "POINTS",
    "Map",
    "Parameters",
    "Results",
    "Toys",
    "absorption_measures",
    "check_toys",
    "diagnose_toys",
    "diagnosis_measures",
    "draw_cosines",
    "draw_diagnosis",
    "draw_map",
    "draw_prices",
    "draw_recalls",
    "draw_toys",
    "mapped",
    "mixing_measures",
    "others_table",
    "results",
    "shells_table",
    "spread",
    "step_costs",
    "toys_table",
    "trained_elsewhere",
]
