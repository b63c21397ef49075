"""What the chapter shows: results of all seeds, what the ledger asks of them, and the diagnosis on toys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from matryoshka_mixing import features, metrics, plain
from matryoshka_mixing.chapters.real_activations.data import KINDS, MATRYOSHKA, REMEDY, STANDARD
from matryoshka_mixing.chapters.real_activations.experiments import compute, stored
from matryoshka_mixing.diagnose import diagnose
from matryoshka_mixing.parameters import Chapter, given
from matryoshka_mixing.sae import SAEConfig, start_near
from matryoshka_mixing.training import Setting, TrainConfig, train

DROP = 0.1
"""A recall lower by more than this beside the child counts as absorption (as in the ledger)."""
PLANTED, BARE = "planted", "bare"
ELSEWHERE = Path(__file__).with_name("saelens.json")
"""What `benchmarks/gloss_saelens.py` stores: SAEs that SAELens itself trained, read and diagnosed by ours."""


@dataclass(frozen=True)
class Parameters(Chapter):
    """The parameters of this chapter."""

    n_trained: int = given(
        "n_trained", 0, meaning="seeds to train again, some two minutes each; 0 shows the stored ones"
    )
    n_grid: int = given("n_grid", 9, high=99)
    n_steps: int = given("n_steps", 2000, low=50, meaning="training steps of the toys on this page")
    seed: int = given("seed", 0)

    def needs(self) -> tuple[float, float]:
        """Two minutes a seed that is trained again, and the toys on the page."""
        return self.n_trained / 30 + self.n_steps * self.n_grid * 1e-4 / 3600, 1.0


@dataclass(frozen=True)
class Elsewhere:
    """The diagnosis of one SAE that SAELens trained on the bare activations.

    Attributes:
        judged: inner latents that fire often enough to be judged.
        leaning: those of them that lean by more than chance.
        lean, predicted: medians over the judged, as in `diagnose.Diagnosis`.
        cost: computing seconds of a training step of this kind, in units of a plain PyTorch loop's.
    """

    judged: int
    leaning: int
    lean: float
    predicted: float
    cost: float


def trained_elsewhere(path: Path = ELSEWHERE) -> tuple[dict[str, Elsewhere], float]:
    """By SAELens's name of the kind; and the cost of a step of our compiled trainer, in the same unit."""
    told = plain.read_json(path)
    seconds = told["seconds_a_step"]
    unit = seconds["plain loop"]
    found = {}
    for kind, each in told["diagnosis"].items():
        cost = seconds[f"SAELens, {kind}"] / unit
        found[kind] = Elsewhere(each["judged"], each["leaning"], each["lean"], each["predicted"], cost)
    return found, seconds["compiled trainer"] / unit


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

    @property
    def predicted(self) -> np.ndarray:
        """The same by the re-weighted moment, for the Matryoshka SAEs."""
        return self.of(PLANTED, MATRYOSHKA, "families.predicted").mean(1)

    def gaps(self, kind: str) -> np.ndarray:
        """Recall of the parent's latent without the child less that with it: (seeds, pairs); NaN: cannot be judged."""
        without, beside = (self.of(PLANTED, kind, f"families.recall_{key}") for key in ("without", "with"))
        return (without - beside).reshape(self.seeds, -1)

    def absorbing(self, kind: str) -> np.ndarray:
        """Share of the pairs that can be judged whose gap is more than `DROP`: (seeds,)."""
        gaps = self.gaps(kind)
        judged = ~np.isnan(gaps)
        return ((gaps > DROP) & judged).sum(1) / np.maximum(judged.sum(1), 1)

    def median(self, data: str, kind: str, name: str) -> np.ndarray:
        """The median of a measure of the diagnosis over the judged inner latents: (seeds,)."""
        judged = self.of(data, kind, "judged") > 0
        values = np.where(judged, self.of(data, kind, name), np.nan)
        return np.nanmedian(values, 1)

    def leaning(self, data: str, kind: str) -> np.ndarray:
        """Share of the judged inner latents that lean: (seeds,)."""
        return self.of(data, kind, "leans").sum(1) / self.of(data, kind, "judged").sum(1)

    def switch(self, name: str) -> np.ndarray:
        """Median over judged latents of the cosine of the remedy's change with the refit's: (seeds,)."""
        judged = self.of(BARE, MATRYOSHKA, "judged") > 0
        return np.nanmedian(np.where(judged, self.found[f"{BARE}.switch.{name}"].astype(float), np.nan), 1)


def results(chosen: Parameters) -> Results:
    """The stored results, or those of seeds that are trained now."""
    if not chosen.n_trained:
        return Results(stored())
    return Results(compute(tuple(range(chosen.seed, chosen.seed + chosen.n_trained)), progress=False))


def mixing_measures(found: Results) -> dict[str, np.ndarray]:
    """For `mixing-in-real-activations`: one value a seed."""
    full = {kind: found.of(PLANTED, kind, "fvu")[:, -1] for kind in KINDS}
    return {
        "cosine_commoner": found.cosines(MATRYOSHKA)[:, 1],
        "theory_gap": np.abs((found.cosines(MATRYOSHKA) - found.predicted).mean(1)),
        "standard_cosine": np.abs(found.cosines(STANDARD)[:, 1]),
        "remedy_cosine": np.abs(found.cosines(REMEDY)[:, 1]),
        "remedy_cost": full[REMEDY] - full[MATRYOSHKA],
        "own_cosine": found.of(PLANTED, MATRYOSHKA, "families.own").mean(1),
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


@dataclass(frozen=True, eq=False)
class Toys:
    """The diagnosis where the truth is known: one family, over the child's probability.

    Attributes:
        probabilities: of each child given the parent.
        mixing: for each kind of SAE the sine of the angle between the parent's latent and the parent.
        movement: for each kind the movement that the diagnosis finds, without the truth.
    """

    probabilities: np.ndarray
    mixing: dict[str, np.ndarray]
    movement: dict[str, np.ndarray]

    def gap(self, kind: str) -> float:
        """Largest difference of movement and mixing."""
        return float(np.abs(self.movement[kind] - self.mixing[kind]).max())


def diagnose_toys(chosen: Parameters) -> Toys:
    """Train on one family over the child's probability, and diagnose on 2,000 sampled inputs."""
    probabilities = np.linspace(0.05, 0.45, chosen.n_grid)
    d_in, seen = 20, [chosen.seed]
    directions = features.orthonormal_dictionaries(3, d_in, seen)
    kinds = {
        "Matryoshka": SAEConfig(d_in, (1, 3), encoder_bias=False, decoder_bias=False),
        "Matryoshka, L1 and biases": SAEConfig(d_in, (1, 3), l1=0.03),
        "standard": SAEConfig(d_in, (3,), l1=0.03, encoder_bias=False, decoder_bias=False),
    }
    mixing: dict[str, list[float]] = {kind: [] for kind in kinds}
    movement: dict[str, list[float]] = {kind: [] for kind in kinds}
    for q in probabilities:
        tree = features.family(0.3, float(q))
        rows = tree.sample(2000, torch.Generator().manual_seed(chosen.seed)) @ directions[0]
        for kind, config in kinds.items():
            setting = Setting(config, tree.states(), directions)
            sae = train(setting, start_near(directions, seen, 0.2), TrainConfig(chosen.n_steps)).sae[0, 0]
            own = float(metrics.decoder_cosines(sae, directions[0])[0, 0])
            mixing[kind].append(max(1 - own**2, 0.0) ** 0.5)
            movement[kind].append(float(diagnose(sae, rows, widths=(1, 3), ridge=1e-9).movement[0]))
    return Toys(
        probabilities, *({kind: np.array(values) for kind, values in table.items()} for table in (mixing, movement))
    )
