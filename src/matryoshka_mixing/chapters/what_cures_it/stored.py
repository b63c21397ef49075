"""The run that is stored beside the code: every remedy on every toy, part by part, so that it can be resumed."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

import numpy as np
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
TRIAL = 0.125
"""Share of its steps with which `tried` trains a remedy by autograd."""
NAMES = (
    "parent_to_child", "child_to_sibling", "child_to_parent", "mixing", "absorption", "silent", "unjudged",
    "recovered95", "recovered99", "dead", "missing", "clean", "fvu", "l0", "loss",
)  # fmt: skip
"""The measures that are stored for every seed, in this order; the FVU of each prefix comes beside them."""


def tried(toy: Toy, activation: str, some: Contestant, seeds: range = TUNING) -> np.ndarray:
    """What every free number of a remedy gave on seeds that are not reported; by autograd with fewer steps.

    Returns:
        For each number and kind of start: mixing, absorption, the larger of the two, which a seed without a value
        counts as 1, and the share of clean seeds; means over seeds. Shape (numbers, kinds, 4).
    """
    steps = max(1, round(toy.training.steps * (TRIAL if some.slow else 1)))
    short = replace(toy, training=replace(toy.training, steps=steps))
    case = Case.of(short, activation, seeds[:4] if toy.sampled else seeds)
    found = np.zeros((len(some.values), len(KINDS), 4), dtype=np.float32)
    for i, value in enumerate(some.values):
        each = measure(case, some.fit(case, value))
        mixing, absorption = each["mixing"], each["absorption"]
        larger = np.fmax(np.nan_to_num(mixing, nan=1.0), np.nan_to_num(absorption, nan=1.0))
        found[i] = np.stack([_mean(mixing), _mean(absorption), larger.mean(1), each["clean"].mean(1)], -1)
    return found


def _mean(values: np.ndarray) -> np.ndarray:
    """The mean over seeds of those values that are numbers; NaN where none is."""
    known = ~np.isnan(values)
    return np.where(known.any(1), np.nan_to_num(values).sum(1) / np.maximum(known.sum(1), 1), np.nan)


def choose(some: Contestant, found: np.ndarray) -> float:
    """Of what `tried` gave, the number with the least of mixing or absorption; NaN for a remedy without one."""
    return some.values[int(found[..., 2].mean(1).argmin())] if some.values else float("nan")


def run(case: Case, contestant: Contestant, value: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Measures of a remedy on a case: (kinds, seeds, measures) in the order of `NAMES`; each prefix's FVU and L0."""
    sae = contestant.fit(case, *([value] if contestant.values else []))
    found = measure(case, sae, contestant.name == "matching pursuit")
    return np.stack([found[name] for name in NAMES], -1), found["prefixes"], found["prefixes_l0"]


def part(
    toy: Toy, activation: str, name: str, seeds: range = SEEDS, tuning: range = TUNING
) -> dict[str, np.ndarray]:  # fmt: skip
    """One remedy on one toy, with the free number that was best on the tuning seeds."""
    some, case = contestants.contestants()[name], Case.of(toy, activation, seeds[:FEWER] if toy.sampled else seeds)
    numbers = tried(toy, activation, some, tuning)
    value = choose(some, numbers)
    arrays = zip(("measures", "prefixes", "prefixes_l0"), run(case, some, value), strict=True)
    found = {key: array.astype(np.float32) for key, array in arrays}
    return found | {"tried": numbers, "values": np.array(value), "stages": np.array(some.stages)}


def more(toy: Toy, seeds: range) -> np.ndarray:
    """All measures of ours from random starts, with ReLU: (seeds, measures)."""
    case = Case.of(toy, "relu", seeds, kinds=KINDS[:1])
    return run(case, contestants.contestants()["ours"], float("nan"))[0][0].astype(np.float32)


def parts() -> dict[str, Callable[[], dict[str, np.ndarray]]]:
    """The parts of the stored run by name, each a function that computes its arrays."""
    found: dict[str, Callable[[], dict[str, np.ndarray]]] = {"costs": costs.measured}

    def named(toy: Toy, activation: str, remedy: str) -> dict[str, np.ndarray]:
        run = part(toy, activation, remedy)
        return {f"{toy.name}/{activation}/{key}/{remedy}": array for key, array in run.items()}

    for name, toy in toys().items():
        for activation in ACTIVATIONS:
            for remedy in contestants.contestants():
                found[f"{name}, {activation}, {remedy}"] = partial(named, toy, activation, remedy)

    def variants(toy: Toy, name: str) -> dict[str, np.ndarray]:
        return {name: switching.run(toy, SEEDS[:FEWER] if toy.sampled else SEEDS, NAMES)}

    def decided(toy: Toy, asked: switching.Question, name: str) -> dict[str, np.ndarray]:
        seeds = asked.seeds[: asked.sampled] if toy.sampled else asked.seeds
        return {name: switching.run(toy, seeds, NAMES, asked.variants)}

    def further(seeds: range, name: str) -> dict[str, np.ndarray]:
        return {name: more(toys()["twenty features"], seeds)}

    for question, asked in switching.QUESTIONS.items():
        for name, toy in toys().items():
            found[f"{question}, {name}"] = partial(decided, toy, asked, f"{question}, {name}")
    for name in switching.TOYS:
        found[f"switching, {name}"] = partial(variants, toys()[name], f"switching, {name}")
    for seeds in MORE:
        found[f"more seeds, {seeds.start}"] = partial(further, seeds, f"more seeds, {seeds.start}")
    return found


def joined(found: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of all parts, those of the remedies on a toy as one, in the order of the remedies."""
    arrays: dict[str, np.ndarray] = {"remedies": np.array(list(contestants.contestants()))}
    together: dict[str, list[np.ndarray]] = {}
    for key, array in found.items():
        if "/" in key:
            together.setdefault(key.rpartition("/")[0], []).append(array)
        else:
            arrays[key] = array
    for key, of_all in together.items():
        arrays[key] = np.concatenate(of_all) if key.endswith("/tried") else np.stack(of_all)
    return arrays


def split(found: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """The arrays of every part of a stored run, by the part's name: what `joined` has put together."""
    listed = {name: contestants.contestants()[name] for name in found["remedies"].tolist()}
    of_part: dict[str, dict[str, np.ndarray]] = {name: {} for name in parts()}
    for key, array in found.items():
        if "/" in key:
            toy, activation, measure = key.split("/")
            ends = np.cumsum([len(some.values) for some in listed.values()])[:-1]
            each = np.split(array, ends) if measure == "tried" else array
            for remedy, own in zip(listed, each, strict=True):
                of_part[f"{toy}, {activation}, {remedy}"][f"{key}/{remedy}"] = own
        elif key != "remedies":
            of_part[key if key in of_part else "costs"][key] = array
    return of_part


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m matryoshka_mixing.chapters.what_cures_it.stored [--output FILE]`: about two hours on one core.

    Parts that are done are kept in a folder beside the file, where a later call finds them; delete it to begin anew, or
    some of them to compute these anew.
    """
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument(
        "--output", type=Path, default=Path("remedies.npz"), help="file to write (default: %(default)s)"
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--only", choices=list(parts()), metavar="PART",
                       help="compute this part alone, to be joined by a later call")  # fmt: skip
    which.add_argument(
        "--anew", nargs="+", metavar="PATTERN",
        help="compute the parts of these names anew, such as 'loud child, *, OrtSAE', and keep the file's others",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    folder = options.output.with_name(options.output.name + ".parts")
    paths = {name: place(folder, name) for name in parts()}
    kept = {}
    if options.anew:
        for pattern in options.anew:
            if not any(fnmatchcase(name, pattern) for name in paths):
                parser.error(f"--anew: no part is named {pattern!r}; the parts are {'; '.join(paths)}.")
        if not options.output.is_file():
            parser.error(f"--anew: there is no file {options.output} to keep the other parts of; leave --anew out.")
        kept = split(plain.read_arrays(options.output))
    folder.mkdir(exist_ok=True)
    for name, arrays in kept.items():  # a part that the file lacks has none
        if arrays and not any(fnmatchcase(name, pattern) for pattern in options.anew) and not paths[name].is_file():
            write_arrays(paths[name], arrays)
    for name, compute in tqdm(parts().items(), unit="part"):
        if options.only in (None, name) and not paths[name].is_file():
            write_arrays(paths[name], compute())
    if options.only:
        return
    found: dict[str, np.ndarray] = {}
    for path in paths.values():
        found |= plain.read_arrays(path)
    write_arrays(options.output, joined(found))


def place(folder: Path, name: str) -> Path:
    """Where a part is kept."""
    return folder / f"{name.replace(', ', '.').replace(' ', '_')}.npz"


if __name__ == "__main__":
    with resumable("what cures it", "parts"):
        main()
