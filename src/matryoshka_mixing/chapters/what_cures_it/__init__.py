"""What cures it: every published remedy beside ours, on the same toys.

`toys` says on what, `contestants` lists the remedies, `losses` has those that need autograd, `measures` reads what they
leave, `fixed_point` is the theory of ours, `switching` varies it, `noise` says where it ends, `costs` times a step,
`stored` runs all of it, `page` reads it and `drawing` shows it.
"""

from matryoshka_mixing.chapters.what_cures_it import (
    contestants,
    costs,
    drawing,
    fixed_point,
    losses,
    measures,
    noise,
    page,
    stored,
    switching,
    toys,
)
from matryoshka_mixing.chapters.what_cures_it.toys import Parameters

__all__ = [
    "Parameters", "contestants", "costs", "drawing", "fixed_point", "losses", "measures", "noise", "page", "stored",
    "switching", "toys",
]  # fmt: skip
