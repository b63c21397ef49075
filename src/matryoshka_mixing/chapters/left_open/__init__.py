"""What the thread left open: statements of it that no other chapter tests.

`data` has the parameters and says when a parent is kept, `parent_first` trains a parent that is learned already,
`log_losses` takes the logarithm of each prefix's loss, `remaining` answers the shorter questions.
"""

from matryoshka_mixing.chapters.left_open import data, log_losses, parent_first, remaining
from matryoshka_mixing.chapters.left_open.data import Parameters

__all__ = ["Parameters", "data", "log_losses", "parent_first", "remaining"]
