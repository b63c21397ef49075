"""How far the mixing reaches: one factor of the data or the model is varied at a time.

`data` says what is varied, `experiments` trains and measures it, `expectation` holds the theory, `drawing` shows all.
"""

from matryoshka_mixing.chapters.how_far import data, drawing, expectation, experiments
from matryoshka_mixing.chapters.how_far.data import Parameters

__all__ = ["Parameters", "data", "drawing", "expectation", "experiments"]
