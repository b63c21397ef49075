"""How the original toy was trained (Nabeshima 2024, code at commit cc61c6e): steering, sampled prefixes, sorting.

What is kept from there: Adam's settings and schedule, gradient clipping, inputs normalised by a running mean norm, the
penalty's ramp and steering, the law of the prefixes, the sorting of latents, jittered norms of the features. One thing
differs: here the encoder subtracts the decoder bias, as everywhere in this package. Both forms can represent the same
functions; the paths of training differ.

    chosen = original.arms()                                                  # what is compared
    toys = original.fit(tree, list(chosen.values()), range(8), original.Recipe(steps=8000))
    numbers = original.measure(toys, original.every_input(tree), tree.parents())

`compute` does both; `load` reads the run that is stored, which `python -m matryoshka_mixing.original` computes again.
"""

from matryoshka_mixing.original.fitting import Toys, fit, jittered_dictionary, original_start
from matryoshka_mixing.original.measures import MISSING, compute, every_input, measure, natural_l0, predicted
from matryoshka_mixing.original.recipe import TARGET_L0, Arm, Recipe, arms, independent_arms
from matryoshka_mixing.original.stored import STORED, load, main

__all__ = [
    "MISSING",
    "STORED",
    "TARGET_L0",
    "Arm",
    "Recipe",
    "Toys",
    "arms",
    "compute",
    "every_input",
    "fit",
    "independent_arms",
    "jittered_dictionary",
    "load",
    "main",
    "measure",
    "natural_l0",
    "original_start",
    "predicted",
]
