"""Compute the stored results again, all or a part; see --help."""

import argparse
import shutil
from pathlib import Path

from matryoshka_mixing._commands import resumable
from matryoshka_mixing.chapters.real_activations.data import KINDS
from matryoshka_mixing.chapters.real_activations.experiments import (
    MAP,
    MAP_STEPS,
    SEEDS,
    STORED,
    compute,
    compute_map,
    store,
    stored,
)


def main() -> None:
    """Train and measure every seed, and write one file; what was interrupted goes on where it was."""
    parser = argparse.ArgumentParser(
        prog="python -m matryoshka_mixing.chapters.real_activations", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "what", nargs="?", choices=["results", "map"], default="results",
        help="the chapter's own point (default), or the map of others: some twenty minutes of one core each",
    )  # fmt: skip
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS), help="random seeds, each draws everything")
    parser.add_argument("--steps", type=int, default=None, help="training steps, for a trial")
    parser.add_argument("--output", type=Path, default=None, help="file to write")
    parser.add_argument(
        "--only", choices=KINDS, nargs="+", help="of the results: these kinds alone; the file keeps its others"
    )
    options = parser.parse_args()
    if options.what == "map" and options.only:
        parser.error("--only is for the results, not the map.")
    output = options.output or {"results": STORED, "map": MAP}[options.what]
    folder = output.with_name(f"{output.name}.runs")
    folder.mkdir(exist_ok=True)
    seeds = tuple(options.seeds)
    if options.what == "map":
        found = compute_map(seeds, options.steps or MAP_STEPS, folder=folder)
    elif options.only is None:
        found = compute(seeds, options.steps, folder=folder)
    else:
        before = stored(output, tuple(kind for kind in KINDS if kind not in options.only))
        if before["seeds"].tolist() != list(seeds):
            parser.error(f"{output} has the seeds {before['seeds'].tolist()}; --only adds to these alone.")
        found = before | compute(seeds, options.steps, folder=folder, kinds=tuple(options.only))
    store(found, output)
    shutil.rmtree(folder)


if __name__ == "__main__":
    with resumable("real activations", "seeds"):
        main()
