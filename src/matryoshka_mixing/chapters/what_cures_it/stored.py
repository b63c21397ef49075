"""The run that is stored beside the code: every remedy on every toy, part by part, so that it can be resumed."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from matryoshka_mixing import plain
from matryoshka_mixing._commands import resumable, write_arrays
from matryoshka_mixing.chapters.what_cures_it import contestants, costs, switching
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
FRESH = range(12_000, 12_064)
"""Seeds on which the number of rounds of settling was decided (the ledger's history has the rule)."""
TRIAL = 0.25
"""Stages with which `tried` trains a remedy by autograd."""
CHOSEN = {"OrtSAE": 0.1, "C2R": 0.1, "availability": 0.9}
"""Free numbers of remedies by autograd where they have fewer steps: the best on three features with ReLU."""
NAMES = (
    "parent_to_child", "child_to_sibling", "child_to_parent", "mixing", "absorption", "silent", "unjudged",
    "recovered95", "recovered99", "dead", "missing", "clean", "fvu", "l0", "loss",
)  # fmt: skip
"""The measures that are stored for every seed, in this order; the FVU of each prefix comes beside them."""


def tried(toy: Toy, activation: str, seeds: range = TUNING) -> dict[tuple[str, float], np.ndarray]:
    """What every free number of every remedy gave on seeds that are not reported.

    Remedies by autograd are tried with fewer steps, and only where they then have as many as the others.

    Returns:
        By name and number, for each kind of start: mixing, absorption, the larger of the two, which a seed without a
        value counts as 1, and the share of clean seeds; means over seeds. NaN for what is not tried.
    """
    case = Case.of(toy, activation, seeds[:4] if toy.sampled else seeds)
    found = {}
    for name, some in contestants.contestants().items():
        steps = max(1, round(toy.training.steps * (TRIAL / some.stages(case) if some.slow else 1)))
        own = replace(case, toy=replace(toy, training=replace(toy.training, steps=steps)))
        for value in some.values:
            if some.slow and some.stages(case) < contestants.STAGES:
                found[name, value] = np.full((len(KINDS), 4), np.nan, dtype=np.float32)
                continue
            each = measure(own, some.fit(own, value), name == "matching pursuit")
            mixing, absorption = each["mixing"], each["absorption"]
            larger = np.fmax(np.nan_to_num(mixing, nan=1.0), np.nan_to_num(absorption, nan=1.0))
            means = [_mean(mixing), _mean(absorption), larger.mean(1), each["clean"].mean(1)]
            found[name, value] = np.stack(means, -1).astype(np.float32)
    return found


def _mean(values: np.ndarray) -> np.ndarray:
    """The mean over seeds of those values that are numbers; NaN where none is."""
    known = ~np.isnan(values)
    return np.where(known.any(1), np.nan_to_num(values).sum(1) / np.maximum(known.sum(1), 1), np.nan)


def choose(found: Mapping[tuple[str, float], np.ndarray]) -> dict[str, float]:
    """Of what `tried` gave, each remedy's number with the least of mixing or absorption; NaN for those without one.

    `CHOSEN` where nothing was tried.
    """
    best: dict[str, float] = {}
    for name, some in contestants.contestants().items():
        scores = {value: float(found[name, value][:, 2].mean()) for value in some.values}
        known = {value: score for value, score in scores.items() if not np.isnan(score)}
        best[name] = min(known, key=lambda value: known[value], default=CHOSEN.get(name, float("nan")))
    return best


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
    rest = {"values": [values[name] for name in listed], "stages": [some.stages(case) for some in listed.values()]}
    return found | {name: np.array(numbers) for name, numbers in rest.items()}


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
        numbers = tried(toy, activation)
        run = part(toy, activation, choose(numbers)) | {"tried": np.stack(list(numbers.values()))}
        return named(f"{toy.name}/{activation}", run)

    for name, toy in toys().items():
        for activation in ACTIVATIONS:
            found[f"{name}, {activation}"] = partial(all_remedies, toy, activation)

    def variants(toy: Toy, name: str) -> dict[str, np.ndarray]:
        return {name: switching.run(toy, SEEDS[:FEWER] if toy.sampled else SEEDS, NAMES)}

    def rounds(toy: Toy, name: str) -> dict[str, np.ndarray]:
        seeds = FRESH[:FEWER] if toy.sampled else FRESH
        return {name: switching.run(toy, seeds, NAMES, switching.DECIDED)}

    def further(seeds: range, name: str) -> dict[str, np.ndarray]:
        return {name: more(toys()["twenty features"], seeds)}

    for name, toy in toys().items():
        found[f"rounds, {name}"] = partial(rounds, toy, f"rounds, {name}")
    for name in switching.TOYS:
        found[f"switching, {name}"] = partial(variants, toys()[name], f"switching, {name}")
    for seeds in MORE:
        found[f"more seeds, {seeds.start}"] = partial(further, seeds, f"more seeds, {seeds.start}")
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m matryoshka_mixing.chapters.what_cures_it.stored [--output FILE]`: about an hour on one core.

    Parts that are done are kept in a folder beside the file, where a later call finds them; delete it to begin anew.
    """
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
            write_arrays(paths[name], compute())
    if options.only:
        return
    joined: dict[str, np.ndarray] = {"remedies": np.array(list(contestants.contestants()))}
    for path in paths.values():
        joined |= plain.read_arrays(path)
    write_arrays(options.output, joined)


if __name__ == "__main__":
    with resumable("what cures it", "parts"):
        main()
