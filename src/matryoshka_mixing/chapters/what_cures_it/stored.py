"""The run that is stored beside the code: every remedy on every toy, part by part, so that it can be resumed."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from matryoshka_mixing import plain
from matryoshka_mixing.chapters.what_cures_it import contestants
from matryoshka_mixing.chapters.what_cures_it.contestants import Contestant
from matryoshka_mixing.chapters.what_cures_it.measures import measure
from matryoshka_mixing.chapters.what_cures_it.toys import ACTIVATIONS, Case, Toy, toys

STORED = Path(__file__).with_name("remedies.npz")
"""What `python -m matryoshka_mixing.chapters.what_cures_it.stored` writes."""
SEEDS, TUNING = range(11_000, 11_032), range(200, 216)
"""The reported seeds, and those on which free numbers are chosen."""
FEWER = 30
"""Seeds of a toy with sampled batches."""
CHOSEN = {"OrtSAE": 0.1, "C2R": 0.1, "availability": 0.9}
"""Free numbers of remedies by autograd, for all toys: what `choose` finds on three features with ReLU."""
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


def run(case: Case, contestant: Contestant, value: float) -> tuple[np.ndarray, np.ndarray]:
    """All measures of a remedy on a case: (kinds, seeds, measures) in the order of `NAMES`, and each prefix's FVU."""
    sae = contestant.fit(case, *([value] if contestant.values else []))
    found = measure(case, sae, contestant.name == "matching pursuit")
    return np.stack([found[name] for name in NAMES], -1), found["prefixes"]


def part(toy: Toy, activation: str, values: dict[str, float], seeds: range = SEEDS) -> dict[str, np.ndarray]:
    """Every remedy on one toy, with its free number given, as arrays whose first axis is the remedies."""
    case = Case.of(toy, activation, seeds[:FEWER] if toy.sampled else seeds)
    listed = contestants.contestants()
    runs = [run(case, listed[name], values[name]) for name in tqdm(listed, unit="remedy")]
    return {
        "measures": np.stack([measures for measures, _ in runs]).astype(np.float32),
        "prefixes": np.stack([prefixes for _, prefixes in runs]).astype(np.float32),
        "values": np.array([values[name] for name in listed]),
    }


def choose(toy: Toy, activation: str, seeds: range = TUNING, slow: bool = False) -> dict[str, float]:
    """The free number of every remedy with the best score on a toy; NaN for those without.

    Those by autograd are `CHOSEN` for all toys, unless `slow`.
    """
    case = Case.of(toy, activation, seeds[:4] if toy.sampled else seeds)

    def best(name: str, some: Contestant) -> float:
        if some.slow and not slow:
            return CHOSEN.get(name, float("nan"))
        return min(some.values, key=lambda value: score(case, some, value), default=float("nan"))

    return {name: best(name, some) for name, some in contestants.contestants().items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m matryoshka_mixing.chapters.what_cures_it.stored [--output FILE]`: about half an hour on one core."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument(
        "--output", type=Path, default=Path("remedies.npz"), help="file to write (default: %(default)s)"
    )
    parser.add_argument(
        "--toy", choices=list(toys()), help="compute this toy's part alone, to be joined by a later call"
    )
    parser.add_argument("--activation", choices=ACTIVATIONS, help="the same of an activation")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    folder = options.output.with_name(options.output.name + ".parts")
    folder.mkdir(exist_ok=True)
    paths = {
        (name, activation): folder / f"{name.replace(' ', '_')}.{activation}.npz"
        for activation in ACTIVATIONS
        for name in toys()
    }
    for (name, activation), path in paths.items():
        asked = options.toy in (None, name) and options.activation in (None, activation)
        if asked and not path.is_file():
            toy = toys()[name]
            write(path, part(toy, activation, choose(toy, activation)))
    if options.toy or options.activation:
        return
    joined: dict[str, np.ndarray] = {"remedies": np.array(list(contestants.contestants()))}
    for (name, activation), path in paths.items():
        joined |= {f"{name}/{activation}/{key}": value for key, value in plain.read_arrays(path).items()}
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
    main()
