"""The run that is stored beside the code: every remedy on every toy, part by part, so that it can be resumed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from matryoshka_mixing import plain
from matryoshka_mixing.chapters.what_cures_it import contestants, costs, losses, switching
from matryoshka_mixing.chapters.what_cures_it.contestants import Contestant
from matryoshka_mixing.chapters.what_cures_it.measures import measure
from matryoshka_mixing.chapters.what_cures_it.toys import ACTIVATIONS, KINDS, Case, Toy, toys

STORED = Path(__file__).with_name("remedies.npz")
"""What `python -m matryoshka_mixing.chapters.what_cures_it.stored` writes."""
SEEDS, TUNING = range(11_000, 11_032), range(200, 216)
"""The reported seeds, and those on which free numbers are chosen."""
FEWER = 30
"""Seeds of a toy with sampled batches."""
MORE = range(11_032, 11_194), range(11_194, 11_402)
"""Further random seeds of ours on twenty features: 30 had left its share undecided, and 192 as well."""
CHOSEN = {"OrtSAE": 0.1, "C2R": 0.1, "availability": 0.9}
"""Free numbers of remedies by autograd on toys where choosing would take hours: those of three features with ReLU."""
TRIAL = 0.125
"""Share of the steps with which `choose` tries a remedy by autograd."""
NAMES = (
    "parent_to_child", "child_to_sibling", "child_to_parent", "mixing", "absorption", "silent", "unjudged",
    "recovered95", "recovered99", "dead", "missing", "clean", "fvu", "l0", "loss",
)  # fmt: skip
"""The measures that are stored for every seed, in this order; the FVU of each prefix comes beside them."""


def score(case: Case, contestant: Contestant, value: float) -> float:
    """How far an SAE is from the truth: the larger of mixing and absorption, the mean over all seeds and starts."""
    found = measure(case, contestant.fit(case, value), contestant.name == "matching pursuit")
    worse = np.fmax(np.nan_to_num(found["mixing"], nan=1.0), np.nan_to_num(found["absorption"], nan=1.0))
    return float(worse.mean())


def run(case: Case, contestant: Contestant, value: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Measures of a remedy on a case: (kinds, seeds, measures) in the order of `NAMES`; each prefix's FVU and L0."""
    sae = contestant.fit(case, *([value] if contestant.values else []))
    found = measure(case, sae, contestant.name == "matching pursuit")
    return np.stack([found[name] for name in NAMES], -1), found["prefixes"], found["prefixes_l0"]


def part(toy: Toy, activation: str, values: dict[str, float], seeds: range = SEEDS) -> dict[str, np.ndarray]:
    """Every remedy on one toy, with its free number given, as arrays whose first axis is the remedies."""
    case = Case.of(toy, activation, seeds[:FEWER] if toy.sampled else seeds)
    listed = contestants.contestants()
    runs = [run(case, listed[name], values[name]) for name in tqdm(listed, unit="remedy")]
    found = {
        name: np.stack(arrays).astype(np.float32)
        for name, arrays in zip(("measures", "prefixes", "prefixes_l0"), zip(*runs, strict=True), strict=True)
    }
    return found | {"values": np.array([values[name] for name in listed])}


def choose(toy: Toy, activation: str, seeds: range = TUNING) -> dict[str, float]:
    """The free number of every remedy with the best score on a toy; NaN for those without.

    Those by autograd are tried with fewer steps, on exact states with ReLU; elsewhere they are `CHOSEN`.
    """
    case = Case.of(toy, activation, seeds[:4] if toy.sampled else seeds)
    steps = max(1, round(TRIAL * toy.training.steps))
    short = Case.of(replace(toy, training=replace(toy.training, steps=steps)), activation, seeds)

    def best(name: str, some: Contestant) -> float:
        if some.slow and losses.stages(case) < losses.STAGES:
            return CHOSEN.get(name, float("nan"))
        tried = short if some.slow else case
        return min(some.values, key=lambda value: score(tried, some, value), default=float("nan"))

    return {name: best(name, some) for name, some in contestants.contestants().items()}


def more(toy: Toy, seeds: range) -> np.ndarray:
    """All measures of ours from random starts, with ReLU: (seeds, measures)."""
    case = Case.of(toy, "relu", seeds, kinds=KINDS[:1])
    return run(case, contestants.contestants()["ours"], float("nan"))[0][0].astype(np.float32)


def parts() -> dict[str, Callable[[], dict[str, np.ndarray]]]:
    """The parts of the stored run by name, each a function that computes its arrays."""
    found: dict[str, Callable[[], dict[str, np.ndarray]]] = {"costs": costs.measured}

    def named(prefix: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {f"{prefix}/{key}": array for key, array in arrays.items()}

    def all_remedies(toy: Toy, activation: str) -> dict[str, np.ndarray]:
        return named(f"{toy.name}/{activation}", part(toy, activation, choose(toy, activation)))

    for name, toy in toys().items():
        for activation in ACTIVATIONS:
            found[f"{name}, {activation}"] = partial(all_remedies, toy, activation)

    def variants(toy: Toy, name: str) -> dict[str, np.ndarray]:
        return {name: switching.run(toy, SEEDS[:FEWER] if toy.sampled else SEEDS, NAMES)}

    def further(seeds: range, name: str) -> dict[str, np.ndarray]:
        return {name: more(toys()["twenty features"], seeds)}

    for name in switching.TOYS:
        found[f"switching, {name}"] = partial(variants, toys()[name], f"switching, {name}")
    for seeds in MORE:
        found[f"more seeds, {seeds.start}"] = partial(further, seeds, f"more seeds, {seeds.start}")
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m matryoshka_mixing.chapters.what_cures_it.stored [--output FILE]`: about an hour on one core."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument(
        "--output", type=Path, default=Path("remedies.npz"), help="file to write (default: %(default)s)"
    )
    parser.add_argument("--only", choices=list(parts()), help="compute this part alone, to be joined by a later call")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    folder = options.output.with_name(options.output.name + ".parts")
    folder.mkdir(exist_ok=True)
    paths = {name: folder / f"{name.replace(', ', '.').replace(' ', '_')}.npz" for name in parts()}
    for name, compute in parts().items():
        if options.only in (None, name) and not paths[name].is_file():
            write(paths[name], compute())
    if options.only:
        return
    joined: dict[str, np.ndarray] = {"remedies": np.array(list(contestants.contestants()))}
    for path in paths.values():
        joined |= plain.read_arrays(path)
    write(options.output, joined)


def write(path: Path, arrays: dict[str, Any]) -> None:
    """Write a file in one move: an interrupted write leaves what stood there before."""
    draft = path.with_name(f".{path.name}.partial")
    try:
        with draft.open("wb") as file:
            np.savez_compressed(file, **arrays)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("[what cures it] interrupted; the same command goes on with the parts that are left")
    except OSError as error:
        sys.exit(f"[what cures it] FAILED: {error}; the same command goes on with the parts that are left")
