"""Do Matryoshka sparse autoencoders recover the true features of hierarchical data?

Rooms, imports only downwards: `features` and `sae` (which know nothing of each other), `train` and `theory`
on top of them, `metrics`, `figures`, then `parameters` and `claims`, which only notebooks and the book use.
"""

__version__ = "0.1.0"
