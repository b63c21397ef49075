"""What the chapters on one parent and its children share: how they train one SAE, and what they read from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from matplotlib.figure import Figure
from torch import Tensor

from matryoshka_mixing import figures
from matryoshka_mixing.features import FeatureTree, States, family, orthonormal_dictionaries, without_hierarchy
from matryoshka_mixing.metrics import Reading, read
from matryoshka_mixing.parameters import PARAMETERS, Chapter, given
from matryoshka_mixing.sae import SAE, SAEConfig, random_start, start_near
from matryoshka_mixing.training import Setting, TrainConfig, Trained, train

KINDS = ("random", "near the truth")
"""The two kinds of start."""
RAREST = PARAMETERS["parent_probability"].low
QUIETEST, LOUDEST = PARAMETERS["parent_magnitude"].low, PARAMETERS["parent_magnitude"].high
"""What a chapter can say nothing about: features of a reader's tree that fire less often, or with other magnitudes."""


@dataclass(frozen=True)
class Family(Chapter):
    """The parameters that the chapters on one family share."""

    parent_probability: float = given("parent_probability", 0.3)
    child_probability: float = given(
        "child_probability", 0.4, high=0.5, meaning="probability of each child given the parent, at most 1/n_children"
    )
    n_children: int = given("n_children", 2)
    l1: float = given("l1", 0.0, meaning="weight of the L1 penalty (the closed forms assume 0)")
    d_model: int = given("d_model", 20, low=3, meaning="dimension of the input, at least n_children + 1")
    n_seeds: int = given("n_seeds", 192)
    n_sweep_seeds: int = given("n_sweep_seeds", 16)
    seed: int = given("seed", 0)
    start_noise: float = given("start_noise", 0.5)
    n_steps: int = given("n_steps", 2000)
    batch_size: int = given("batch_size", 200)
    n_grid: int = given("n_grid", 9)


def refuse_unfit(tree: FeatureTree, where: str) -> None:
    """Raise ValueError, beginning with `where`, for a tree of the reader's on which no chapter can say anything.

    It needs a parent with a child; and each feature has to fire, often enough, and neither too loud nor too quiet.
    """
    if all(parent is None for parent in tree.parents()):
        raise ValueError(f"{where}: no feature has a child; the chapter is about parents and their children.")
    rates = zip(tree.names, tree.firing_probabilities().tolist(), strict=True)
    seldom = {name: rate for name, rate in rates if rate < RAREST}
    if never := [name for name, rate in seldom.items() if rate == 0]:
        raise ValueError(f"{where}: {_some(never)} can never fire; take them out, or let them fire.")
    if seldom:
        raise ValueError(
            f"{where}: {_some(list(seldom))} would fire on fewer than {RAREST:g} of the inputs, too seldom to be "
            "learned or measured; take them out, or let them fire more often."
        )
    read_out = [node for node in tree if node.is_read_out]
    loudness = [max(node.magnitude_mean, node.magnitude_std) for node in read_out]
    if odd := [name for name, loud in zip(tree.names, loudness, strict=True) if not QUIETEST <= loud <= LOUDEST]:
        raise ValueError(
            f"{where}: {_some(odd)} have magnitudes outside of {QUIETEST:g} to {LOUDEST:g}, which cannot be told apart "
            "from the rounding of others; multiply all by one factor, or change these."
        )


def _some(names: Sequence[str]) -> str:
    """The first of several names, none too long, and how many more there are."""
    shown = ", ".join(figures.in_one_line(name) for name in names[:5])
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown


@dataclass(frozen=True)
class Arm:
    """SAEs trained alike, one a seed, and what they hold.

    Attributes:
        trained: with axes (1, seeds).
        reading: with the axis (seeds,).
    """

    trained: Trained
    reading: Reading

    @property
    def loss(self) -> Float[Tensor, " seeds"]:
        """The final loss of every seed."""
        return self.trained.loss[0]

    @property
    def live(self) -> Bool[Tensor, " seeds"]:
        """Whether all latents of the seed's SAE fire."""
        return self.reading.all_live

    @property
    def typical(self) -> int:
        """The seed of median loss among the live ones, or among all where none is live; of equal ones the first."""
        pool = torch.nonzero(self.live)[:, 0] if self.live.any() else torch.arange(len(self.live))
        loss = self.loss[pool].round(decimals=9)
        median = loss.sort().values[len(pool) // 2]
        return int(pool[torch.nonzero(loss == median)[0, 0]])

    @property
    def child_cosines(self) -> Float[Tensor, " live"]:
        """The first latent's smallest decoder cosine with a child, of every live seed."""
        return self.reading.decoder[self.live][:, 0, 1:].amin(-1)

    @property
    def child_cosines_either_sign(self) -> Float[Tensor, " live"]:
        """The same of absolute cosines: with a decoder bias a latent may take the family away."""
        return self.reading.decoder[self.live][:, 0, 1:].abs().amin(-1)

    @property
    def foreign_cosines(self) -> Float[Tensor, " live"]:
        """The first latent's largest absolute cosine, its best feature's left out, of every live seed."""
        return self.reading.decoder[self.live][:, 0].abs().sort(descending=True).values[:, 1]


@dataclass(frozen=True)
class Setup:
    """One SAE on one family, with its seeds and training. A seed draws directions, start and batches.

    Attributes:
        tree: the family.
        states: its states.
        sae: the SAE, without biases; the start near the truth takes the first features' directions, one a latent.
        exact, sampled: training on the expected loss, and on sampled batches.
        seeds, sweep_seeds: numbers of the random seeds, in single experiments and at each point of a sweep.
        start_noise: noise of the start near the truth, relative to the length of a feature.
    """

    tree: FeatureTree
    states: States
    sae: SAEConfig
    exact: TrainConfig
    sampled: TrainConfig
    seeds: range
    sweep_seeds: range
    start_noise: float

    @classmethod
    def of(cls, p: Family, sae: SAEConfig) -> Setup:
        """The set-up of this SAE for a chapter's parameters."""
        tree = family(p.parent_probability, p.child_probability, p.n_children)
        return cls(
            tree=tree,
            states=tree.states(),
            sae=sae,
            exact=TrainConfig(p.n_steps),
            sampled=TrainConfig(p.n_steps, batch_size=p.batch_size, seed=p.seed),
            seeds=range(p.seed, p.seed + p.n_seeds),
            sweep_seeds=range(p.seed, p.seed + p.n_sweep_seeds),
            start_noise=p.start_noise,
        )

    def directions(self, seeds: Sequence[int], children: int | None = None) -> Float[Tensor, "seeds features d_in"]:
        """Each seed's directions of parent and children; of so many children in place of the family's own.

        A smaller family has the first directions of a larger one.
        """
        n_features = self.tree.n_features if children is None else children + 1
        return orthonormal_dictionaries(n_features, self.sae.d_in, seeds)

    def start(self, kind: str, seeds: Sequence[int]) -> SAE:
        """The SAE before training, one instance a seed; `kind` is one of `KINDS`."""
        if kind == "random":
            return random_start(self.sae, seeds)
        return start_near(self.directions(seeds)[:, : self.sae.d_sae], seeds, self.start_noise)

    def fit(self, kind: str, *, sampled: bool = False, decoder_bias: bool = False, hierarchy: bool = True) -> Arm:
        """Train and read one arm.

        Args:
            kind: of start, one of `KINDS`.
            sampled: on sampled batches instead of the exact loss.
            decoder_bias: with a decoder bias.
            hierarchy: on the family; if not, on independent features that fire as often (the control).
        """
        sae = replace(self.sae, decoder_bias=decoder_bias)
        states = self.states if hierarchy else without_hierarchy(self.tree).states()
        directions = self.directions(self.seeds)
        setting, config = Setting(sae, states, directions), self.sampled if sampled else self.exact
        trained = train(setting, self.start(kind, self.seeds), config)
        return Arm(trained, read(trained.sae[0], states, directions, self.tree.parents()))

    def fit_both(self, **changes: bool) -> dict[str, Arm]:
        """`fit` from both kinds of start."""
        return {kind: self.fit(kind, **changes) for kind in KINDS}

    def sweep(self, settings: Sequence[Setting], kind: str = "near the truth") -> Trained:
        """Train every setting of a sweep on the exact loss."""
        return train(settings, self.start(kind, self.sweep_seeds), self.exact)


def converged(arms: Mapping[str, Arm]) -> float:
    """Share of all seeds that have converged, in [0, 1]."""
    return float(torch.cat([arm.trained.converged[0] for arm in arms.values()]).double().mean())


def median_gap(values: Float[Tensor, " some"], others: Float[Tensor, " others"]) -> float:
    """How far two medians lie apart; NaN where there are no values."""
    return abs(float(values.median() - others.median()))


@dataclass(frozen=True)
class Walk:
    """The loss between the clean parent (position 0) and the predicted decoder (1), and as far again (2).

    Attributes:
        position: from 0 to 2 in 201 steps.
        loss: with the best activations.
    """

    position: Float[Tensor, " positions"]
    loss: Float[Tensor, " positions"]

    @property
    def saving(self) -> float:
        """Share of the clean parent's loss that the predicted decoder saves."""
        return float((self.loss[0] - self.loss[100]) / self.loss[0])


def steps_to(ratio: float, n_children: int) -> tuple[Float[Tensor, " positions"], Float[Tensor, "positions features"]]:
    """The positions s of a `Walk`, and the decoders there: `parent + s ratio (sum of the children)`."""
    position = torch.linspace(0, 2, 201, dtype=torch.float64)
    mixed = ratio * position
    return position, torch.stack([torch.ones_like(mixed), *[mixed] * n_children], dim=1)


def draw_walk(position: Float[Tensor, " positions"], losses: Mapping[str, Float[Tensor, " positions"]]) -> Figure:
    """Losses along a walk, each relative to its start."""
    return figures.loss_path(
        position.numpy(),
        {name: (loss / loss[0]).numpy() for name, loss in losses.items()},
        {"clean parent": 0.0, "mixed": 1.0},
        xlabel="position on the path from the clean parent to the mixed decoder",
        ylabel="loss / loss of the clean parent",
    )
