"""`python -m matryoshka_mixing.original [--seeds 32] [--steps 40000] [--jobs 2] [--output every_prefix.npz]`."""

from matryoshka_mixing._commands import resumable
from matryoshka_mixing.original.stored import main

if __name__ == "__main__":
    with resumable("original", "seeds"):
        main()
