"""`python -m matryoshka_mixing.original [--seeds 32] [--steps 40000] [--jobs 2] [--output every_prefix.npz]`."""

import sys

from matryoshka_mixing.original.stored import main

if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("[original] interrupted; the same command goes on with the seeds that are left")
    except OSError as error:
        sys.exit(f"[original] FAILED: {error}; the same command goes on with the seeds that are left")
