"""The run that is stored beside the code, and the command that computes it: seed by seed, so that it can be resumed."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from tqdm import tqdm

from matryoshka_mixing import plain
from matryoshka_mixing._commands import write_arrays
from matryoshka_mixing.features import FeatureTree, twenty_feature_tree
from matryoshka_mixing.original.measures import compute
from matryoshka_mixing.original.recipe import Arm, Recipe, arms, independent_arms

STORED = Path(__file__).with_name("every_prefix.npz")
"""What the command wrote: every arm in full length."""


def load(path: str | Path = STORED) -> dict[str, np.ndarray]:
    """What `main` wrote; ValueError for a damaged or a different file."""
    return plain.read_arrays(
        path, {"names": ("parent_to_child", "absorption", "l0", "missing"), "seeds": (), "steps": ()}
    )


def stored_arms() -> dict[str, Arm]:
    """The arms of the stored run."""
    chosen = arms()
    return chosen | independent_arms({name: chosen[name] for name in ("standard", "all prefixes")})


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and measure every arm, and store the numbers, with all parameters of the first seed.

    A run that was interrupted goes on where it was, and ends with the same file: finished seeds wait in a folder beside
    the output, which is removed at the end.
    """
    parser = argparse.ArgumentParser("python -m matryoshka_mixing.original", description=main.__doc__)
    parser.add_argument("--seeds", type=int, default=32, help="how many, from 0 on (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=Recipe.steps, help="of training (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="SAEs trained at the same time (default: %(default)s)")
    parser.add_argument(
        "--output", type=Path, default=Path("every_prefix.npz"), help="the file to write (default: ./%(default)s)"
    )
    options = parser.parse_args(arguments)
    if options.seeds < 1 or options.jobs < 1:
        parser.error(f"--seeds is {options.seeds} and --jobs {options.jobs}; both must be at least 1.")
    try:
        recipe = Recipe(steps=options.steps)
    except ValueError as error:
        parser.error(f"--steps {options.steps}: {error}")
    folder = options.output.absolute().parent
    if options.output.is_dir() or not os.access(folder, os.W_OK):
        parser.error(f"--output {options.output} cannot be written; name a file in a folder that exists and is yours.")
    store(options.output, twenty_feature_tree(), range(options.seeds), recipe, stored_arms(), options.jobs)


def store(
    output: Path,
    tree: FeatureTree,
    seeds: Sequence[int],
    recipe: Recipe,
    chosen: Mapping[str, Arm],
    threads: int | None = None,
) -> None:
    """Compute the chosen arms for every seed and write them to `output`; see `main`."""
    folder = output.with_name(output.name + ".seeds")
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{seed}.npz" for seed in seeds]
    for path, seed in zip(tqdm(paths, unit="seed"), seeds, strict=True):
        if not _is_finished(path, tree, recipe, chosen):
            part = compute(tree, [seed], recipe, chosen, threads=threads)
            write_arrays(path, part | {"run": _run(tree, recipe, chosen)})
    parts = [load(path) for path in paths]
    for part in parts:
        del part["run"]
    write_arrays(output, joined(parts))
    for path in paths:
        path.unlink()
    with suppress(OSError):  # seeds of another run may be there
        folder.rmdir()


def _run(tree: FeatureTree, recipe: Recipe, chosen: Mapping[str, Arm]) -> np.ndarray:
    """What tells one run from another."""
    return np.array(repr((tree, recipe, dict(chosen))))


def _is_finished(path: Path, tree: FeatureTree, recipe: Recipe, chosen: Mapping[str, Arm]) -> bool:
    """Whether a seed of this very run is there; those of other settings are computed anew."""
    with suppress(OSError, ValueError, KeyError):
        return bool(load(path)["run"] == _run(tree, recipe, chosen))
    return False


def joined(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Results for several seeds as one, in float32; parameters of the first seed alone."""
    once = {"names", "steps"} | {name for name in parts[0] if name.startswith("first_")}
    shared = {name: parts[0][name] for name in sorted(once)}
    seeds = {"seeds": np.concatenate([part["seeds"] for part in parts])}
    rest = set(parts[0]) - set(shared) - set(seeds)
    return shared | seeds | {n: np.concatenate([part[n] for part in parts], 1).astype(np.float32) for n in sorted(rest)}
