"""Compute the stored results again: `python -m matryoshka_mixing.chapters.real_activations` (some ten minutes)."""

import argparse
import shutil
import sys
from pathlib import Path

from matryoshka_mixing.chapters.real_activations.experiments import SEEDS, STORED, compute, store


def main() -> None:
    """Train and measure every seed, and write one file; what was interrupted goes on where it was."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS), help="random seeds, each draws everything")
    parser.add_argument("--steps", type=int, default=None, help="training steps, for a trial")
    parser.add_argument("--output", type=Path, default=STORED, help="file to write")
    options = parser.parse_args()
    folder = options.output.with_name(f"{options.output.name}.runs")
    folder.mkdir(exist_ok=True)
    store(compute(tuple(options.seeds), options.steps, folder=folder), options.output)
    shutil.rmtree(folder)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("[real activations] interrupted; the same command goes on with the seeds that are left")
    except OSError as error:
        sys.exit(f"[real activations] FAILED: {error}; the same command goes on with the seeds that are left")
