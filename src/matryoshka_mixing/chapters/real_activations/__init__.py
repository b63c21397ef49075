"""Families planted in real activations, and the diagnosis of SAEs trained on them and on the bare activations."""

from matryoshka_mixing.chapters.real_activations.drawing import (
    draw_cosines,
    draw_diagnosis,
    draw_prices,
    draw_recalls,
    draw_toys,
)
from matryoshka_mixing.chapters.real_activations.summary import (
    Parameters,
    Results,
    Toys,
    absorption_measures,
    diagnose_toys,
    diagnosis_measures,
    mixing_measures,
    results,
    trained_elsewhere,
)

__all__ = [
    "Parameters",
    "Results",
    "Toys",
    "absorption_measures",
    "diagnose_toys",
    "diagnosis_measures",
    "draw_cosines",
    "draw_diagnosis",
    "draw_prices",
    "draw_recalls",
    "draw_toys",
    "mixing_measures",
    "results",
    "trained_elsewhere",
]
