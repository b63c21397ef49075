"""What the chapter shows: results of all seeds, what the ledger asks of them, other sizes, and SAEs of SAELens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from matryoshka_mixing import plain
from matryoshka_mixing.chapters.real_activations.data import KINDS, MATRYOSHKA, REMEDY, STANDARD, WIDTHS
from matryoshka_mixing.chapters.real_activations.experiments import (
    POINTS,
    compute,
    compute_map,
    stored,
    stored_map,
)
from matryoshka_mixing.diagnose import LEAST
from matryoshka_mixing.parameters import Chapter, given

DROP = 0.1
"""A recall lower by more than this beside the child counts as absorption (as in the ledger)."""
PLANTED, BARE = "planted", "bare"
OWN = 0.8
"""A child has a latent of its own where their cosine is at least this (as the ledger asks of parents)."""
ELSEWHERE = Path(__file__).with_name("saelens.npz")
"""What `benchmarks/gloss_saelens.py` stores: SAEs that SAELens itself trained, read and diagnosed by ours."""
STEPS = Path(__file__).with_name("steps.json")
"""What `benchmarks/gloss_saelens.py time` stores: how long a training step takes."""


@dataclass(frozen=True)
class Parameters(Chapter):
    """The parameters of this chapter."""

    n_trained: int = given(
        "n_trained", 0, meaning="seeds to train again, some ten minutes each; 0 shows the stored ones"
    )
    n_grid: int = given("n_grid", 9, high=99)
    n_steps: int = given("n_steps", 2000, low=50, meaning="training steps of the toys on this page")
    seed: int = given("seed", 0)

    def needs(self) -> tuple[float, float]:
        """Ten minutes a seed that is trained again, and the toys on the page."""
        return self.n_trained / 6 + self.n_steps * self.n_grid * 1e-4 / 3600, 1.0


@dataclass(frozen=True, eq=False)
class Elsewhere:
    """The diagnosis of SAEs that SAELens trained on the bare activations.

    Attributes:
        about: how they were trained: latents, k, steps, seeds, SAELens's version.
        found: for each kind, by SAELens's name, arrays of shape (seeds, inner latents); see `diagnose.Diagnosis`.
    """

    about: Mapping[str, Any]
    found: Mapping[str, Mapping[str, np.ndarray]]

    def leaning(self, kind: str) -> np.ndarray:
        """Share of the judged inner latents that lean: (seeds,)."""
        one = self.found[kind]
        judged, leans = one["judged"] > 0, one["lean"] > np.maximum(one["bound"], LEAST)
        return (judged & leans).sum(1) / judged.sum(1)

    def median(self, kind: str, name: str) -> np.ndarray:
        """The median of a measure over the judged inner latents: (seeds,)."""
        one = self.found[kind]
        return np.nanmedian(np.where(one["judged"] > 0, one[name].astype(float), np.nan), 1)


def trained_elsewhere(path: Path = ELSEWHERE) -> Elsewhere:
    """What was stored of SAELens's SAEs."""
    arrays = plain.read_arrays(path, {"seeds": []})
    kinds = sorted(name.removesuffix(".lean") for name in arrays if name.endswith(".lean"))
    found = {kind: {m: arrays[f"{kind}.{m}"] for m in ("judged", "lean", "bound", "predicted")} for kind in kinds}
    names = ("latents", "k", "steps")
    about = {name: int(arrays[name]) for name in names} | {"seeds": arrays["seeds"].tolist()}
    return Elsewhere(about | {"sae_lens": str(arrays["sae_lens"])}, found)


def spread(values: np.ndarray, digits: int = 1) -> str:
    """Median and range, for prose and tables."""
    low, middle, high = (f"{value:.{digits}f}" for value in (values.min(), np.median(values), values.max()))
    return f"{middle} ({low} to {high})"


def others_table(found: Elsewhere) -> str:
    """Markdown: a line for each kind of SAE that SAELens trained, medians and ranges over seeds."""
    lines = ["| SAELens's | SAEs | inner latents judged | share of them that lean | median lean | predicted |"]
    lines += ["| --- | --- | --- | --- | --- | --- |"]
    for kind, one in found.found.items():
        judged = spread((one["judged"] > 0).sum(1), 0)
        lean, predicted = (spread(found.median(kind, name), 3) for name in ("lean", "predicted"))
        share = spread(found.leaning(kind), 2)
        lines.append(f"| {kind} | {len(one['judged'])} | {judged} | {share} | {lean} | {predicted} |")
    return "\n".join(lines)


def step_costs(path: Path = STEPS) -> dict[str, np.ndarray]:
    """Computing time of a training step in units of the plain PyTorch loop's in the same round: (rounds,) for each."""
    seconds = {name: np.array(each) for name, each in plain.read_json(path)["seconds_a_step"].items()}
    return {name: each / seconds["plain loop"] for name, each in seconds.items() if name != "plain loop"}


def shells_table(found: Results) -> str:
    """The diagnosis by prefix: a line of Markdown for each inner prefix's own latents, bare Matryoshka SAEs."""
    names = {"lean": 3, "predicted": 3, "leans": 2, "along": 2, "permuted": 2, "chance": 2}
    lines = ["| latents | lean | predicted | share that lean | cosine with the pull | permuted | turn by chance |"]
    lines += ["| --- | --- | --- | --- | --- | --- | --- |"]
    for number, last in enumerate(WIDTHS[:-1]):
        first = (0, *WIDTHS)[number] + 1
        cells = [f"{np.median(found.shell(number, name)):.{digits}f}" for name, digits in names.items()]
        lines.append(f"| {first} to {last} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _gaps(without: np.ndarray, beside: np.ndarray) -> np.ndarray:
    return (without - beside).reshape(len(without), -1)


def _absorbed(gaps: np.ndarray) -> np.ndarray:
    judged = ~np.isnan(gaps)
    return ((gaps > DROP) & judged).sum(1) / np.maximum(judged.sum(1), 1)


@dataclass(frozen=True, eq=False)
class Results:
    """All measures by name; the first axis of each is the seeds. See `experiments.run`."""

    found: Mapping[str, np.ndarray]

    @property
    def seeds(self) -> int:
        """How many seeds there are."""
        return len(self.found["seeds"])

    def of(self, data: str, kind: str, name: str) -> np.ndarray:
        """One measure of one kind of SAE, on "planted" or "bare" activations."""
        return self.found[f"{data}.{kind}.{name}"].astype(float)

    def cosines(self, kind: str) -> np.ndarray:
        """Mean over families of the parent's latent's cosine with the rare and commoner child: (seeds, 2)."""
        return self.of(PLANTED, kind, "families.cosines").mean(1)

    def predicted(self, kind: str = MATRYOSHKA) -> np.ndarray:
        """The same by the re-weighted moment, for the Matryoshka SAEs or those with detached deltas."""
        return self.of(PLANTED, kind, "families.predicted").mean(1)

    def gaps(self, kind: str) -> np.ndarray:
        """Recall of the parent's latent without the child less that with it: (seeds, pairs); NaN: cannot be judged."""
        return _gaps(*(self.of(PLANTED, kind, f"families.recall_{key}") for key in ("without", "with")))

    def absorbing(self, kind: str) -> np.ndarray:
        """Share of the pairs that can be judged whose gap is more than `DROP`: (seeds,)."""
        return _absorbed(self.gaps(kind))

    def median(self, data: str, kind: str, name: str) -> np.ndarray:
        """The median of a measure of the diagnosis over the judged inner latents: (seeds,)."""
        judged = self.of(data, kind, "judged") > 0
        values = np.where(judged, self.of(data, kind, name), np.nan)
        return np.nanmedian(values, 1)

    def leaning(self, data: str, kind: str) -> np.ndarray:
        """Share of the judged inner latents that lean: (seeds,)."""
        return self.of(data, kind, "leans").sum(1) / self.of(data, kind, "judged").sum(1)

    def shell(self, number: int, name: str) -> np.ndarray:
        """The mean of a measure of the diagnosis over one prefix's own latents, bare Matryoshka SAEs: (seeds,)."""
        own = slice((0, *WIDTHS)[number], WIDTHS[number])
        judged = self.of(BARE, MATRYOSHKA, "judged")[:, own] > 0
        return np.nanmean(np.where(judged, self.of(BARE, MATRYOSHKA, name)[:, own], np.nan), 1)

    def switch(self, name: str) -> np.ndarray:
        """Median over judged latents of the cosine of the remedy's change with the refit's: (seeds,)."""
        judged = self.of(BARE, MATRYOSHKA, "judged") > 0
        return np.nanmedian(np.where(judged, self.found[f"{BARE}.switch.{name}"].astype(float), np.nan), 1)


def results(chosen: Parameters) -> Results:
    """The stored results, or those of seeds that are trained now."""
    if not chosen.n_trained:
        return Results(stored())
    return Results(compute(_again(chosen), progress=False))


@dataclass(frozen=True, eq=False)
class Map:
    """All measures by name; the first axis of each is the seeds. See `experiments.run_point`."""

    found: Mapping[str, np.ndarray]

    def of(self, point: str, kind: str, name: str) -> np.ndarray:
        """One measure of one kind of SAE at one point."""
        return self.found[f"{point}.{kind}.{name}"].astype(float)

    def cosines(self, point: str, kind: str, name: str = "cosines") -> np.ndarray:
        """The parent's latent's cosine with the commoner child, mean over families, or the predicted one: (seeds,)."""
        return self.of(point, kind, name)[..., 1].mean(1)

    def beyond_theory(self, point: str) -> np.ndarray:
        """The mean cosine with a child, over both kinds of children, less the equation's: (seeds,)."""
        found, says = (self.of(point, MATRYOSHKA, name).mean((1, 2)) for name in ("cosines", "predicted"))
        return found - says

    def theory_gap(self, point: str) -> np.ndarray:
        """The same in size."""
        return np.abs(self.beyond_theory(point))

    def absorbing(self, point: str, kind: str) -> np.ndarray:
        """Share of the pairs that can be judged whose gap is more than `DROP`: (seeds,)."""
        return _absorbed(_gaps(*(self.of(point, kind, f"recall_{key}") for key in ("without", "with"))))

    def with_latent(self, point: str, kind: str) -> np.ndarray:
        """Share of the commoner children that have a latent of their own, by `OWN`: (seeds,)."""
        return (self.of(point, kind, "child")[..., 1] >= OWN).mean(1)

    def diagnosed(self, kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The parents' inner latents of all `POINTS`, seeds and families: true lean, found lean, whether it says so.

        The true one is the sine toward both children: the length of the cosines with them.
        """
        parts = []
        for point in POINTS:
            judged = self.of(point, kind, "judged") > 0
            true = np.linalg.norm(self.of(point, kind, "cosines"), axis=-1)
            parts.append([x[judged] for x in (true, self.of(point, kind, "lean"), self.of(point, kind, "leans") > 0)])
        true, lean, leans = (np.concatenate(x) for x in zip(*parts, strict=True))
        return true, lean, leans


def mapped(chosen: Parameters) -> Map:
    """The stored map, or that of seeds that are trained now."""
    return Map(compute_map(_again(chosen), progress=False) if chosen.n_trained else stored_map())


def _again(chosen: Parameters) -> tuple[int, ...]:
    return tuple(range(chosen.seed, chosen.seed + chosen.n_trained))


def mixing_measures(found: Results, sizes: Map) -> dict[str, np.ndarray | float]:
    """For `mixing-in-real-activations`: one value a seed; of the map the median over seeds at its median point."""
    full = {kind: found.of(PLANTED, kind, "fvu")[:, -1] for kind in KINDS}
    return {
        "cosine_commoner": found.cosines(MATRYOSHKA)[:, 1],
        "theory_gap": np.abs((found.cosines(MATRYOSHKA) - found.predicted()).mean(1)),
        "theory_gap_elsewhere": float(np.median([np.median(sizes.theory_gap(point)) for point in POINTS])),
        "standard_cosine": np.abs(found.cosines(STANDARD)[:, 1]),
        "remedy_cosine": np.abs(found.cosines(REMEDY)[:, 1]),
        "remedy_cost": full[REMEDY] - full[MATRYOSHKA],
        "own_cosine": found.of(PLANTED, MATRYOSHKA, "families.own").mean(1),
        "elsewhere_cosine": np.abs(found.of(PLANTED, MATRYOSHKA, "families.elsewhere").mean(1)),
    }


def absorption_measures(found: Results) -> dict[str, np.ndarray]:
    """For `absorption-in-real-activations`: one value a seed."""
    judged = [(~np.isnan(found.gaps(kind))).mean(1) for kind in (STANDARD, MATRYOSHKA)]
    return {
        "fewer_pairs": found.absorbing(STANDARD) - found.absorbing(MATRYOSHKA),
        "standard_pairs": found.absorbing(STANDARD),
        "judged": np.minimum(*judged),
    }


def diagnosis_measures(found: Results) -> dict[str, np.ndarray]:
    """For `diagnosis-in-real-activations`: one value a seed."""
    return {
        "along": found.median(BARE, MATRYOSHKA, "along"),
        "leaning": found.leaning(BARE, MATRYOSHKA),
        "switch_cosine": found.switch("cosine"),
        "permuted": np.abs(found.median(BARE, MATRYOSHKA, "permuted")),
        "standard_leaning": found.leaning(BARE, STANDARD),
    }
