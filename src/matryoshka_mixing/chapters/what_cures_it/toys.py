"""What the remedies are tried on: the toys, the starts, and how each SAE is trained."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from matryoshka_mixing.chapters._shared import refuse_unfit
from matryoshka_mixing.features import (
    FeatureTree,
    States,
    family,
    orthonormal_dictionaries,
    orthonormal_dictionary,
    twenty_feature_tree,
)
from matryoshka_mixing.parameters import Chapter, given
from matryoshka_mixing.sae import SAE, SAEConfig, random_start, start_near
from matryoshka_mixing.training import Setting, TrainConfig, Trained, train

REMEDIES = (
    "standard",
    "plain Matryoshka",
    "random prefixes",
    "every prefix",
    "balanced weights",
    "detached deltas",
    "log loss",
    "unsquared inner loss",
    "OrtSAE",
    "C2R",
    "matching pursuit",
    "availability",
    "right L0",
    "wider inner prefix",
    "spare latents",
    "refit of plain",
    "gated by input",
    "split from scratch",
    "split alone",
    "standard after plain",
    "OrtSAE after plain",
    "C2R after plain",
    "Matryoshka with OrtSAE",
    "split with OrtSAE",
    "ours",
)
"""Names of the remedies, from the baselines to ours."""
KINDS = ("random", "near the truth")
"""The two kinds of start, in the order in which a `Case` holds them."""
ACTIVATIONS = ("relu", "batchtopk")
"""ReLU with an L1 penalty, and BatchTopK with K the true mean L0 and no penalty."""
AWAKE = 0.5
"""The encoder bias at a random start: without it a latent may be negative on every input, and is then dead at once."""
ONE_STAGE = TrainConfig(2000)
"""How SAEs are trained on exact states."""
LISTED = 1 << 10
"""A tree of the reader's with more states than this is sampled instead."""
SAMPLES = 4096
"""Inputs on which SAEs of a sampled toy are read."""


@dataclass(frozen=True)
class Parameters(Chapter):
    """The parameters of this chapter: the toy of the run on the page, and the remedy that is shown beside plain."""

    remedy: str = given("remedy", "balanced weights", choices=REMEDIES)
    parent_probability: float = given("parent_probability", 0.3)
    child_probability: float = given(
        "child_probability", 0.4, high=0.5, meaning="probability of each child given the parent, at most 1/n_children"
    )
    n_children: int = given("n_children", 2)
    tree_path: str = given("tree_path", "", meaning="tree file of your own, in place of this family")
    l1: float = given("l1", 0.03)
    inner_weight: float = given("inner_weight", 1.0)
    d_model: int = given("d_model", 20, low=3, meaning="dimension of the input, at least as many as features")
    n_seeds: int = given("n_seeds", 192)
    seed: int = given("seed", 11_000)
    start_noise: float = given("start_noise", 0.5)
    n_steps: int = given("n_steps", 2000)

    @classmethod
    def cell(cls) -> str:
        """With the quotes that the formatter asks for."""
        return super().cell().replace("''", '""')

    def check_together(self) -> None:
        """Refuse a tree that can say nothing, more work than is meant, and an input with too little room."""
        if self.tree_path:
            tree = FeatureTree.from_json(self.tree_path)
            refuse_unfit(tree, f"tree_path = {self.tree_path!r}")
            if tree.n_features > self.d_model:
                orthonormal_dictionary(tree.n_features, self.d_model, 0)  # raises: there is no room
        super().check_together()

    def needs(self) -> tuple[float, float]:
        """Of eight stages of training, or three, and of reading all SAEs on all inputs."""
        toy, saes = chosen(self), 2 * self.n_seeds
        n, rows = toy.tree.n_features, SAMPLES if toy.sampled else len(toy.states)
        each = 1e-7 * n * max(1, self.d_model / 20) * (200 if toy.sampled else min(rows, 1 << 10))
        return 8 * saes * self.n_steps * each / 3600, 8 * 6 * saes * rows * (n + self.d_model) / 1e9


def levels(tree: FeatureTree) -> tuple[int, ...]:
    """How many features the first level holds, the first two, and so on: the widths that fit the tree."""
    depth: list[int] = []
    for parent in tree.parents():
        depth.append(0 if parent is None else depth[parent] + 1)
    return tuple(sum(d <= level for d in depth) for level in range(max(depth) + 1))


@dataclass(frozen=True)
class Toy:
    """A tree, the prefixes that SAEs have on it, and how they are trained.

    Attributes:
        name: in a few words.
        tree: the features.
        widths: of the prefixes.
        training: of one stage; sampled batches where it has a `batch_size`.
    """

    name: str
    tree: FeatureTree
    widths: tuple[int, ...]
    training: TrainConfig = ONE_STAGE

    @property
    def sampled(self) -> bool:
        """Whether SAEs see sampled batches."""
        return self.training.batch_size is not None

    @cached_property
    def states(self) -> States:
        """All inputs, or some samples where SAEs are trained on samples."""
        if not self.sampled:
            return self.tree.states()
        acts = self.tree.sample(SAMPLES, torch.Generator().manual_seed(0))
        return States(acts, torch.full((SAMPLES,), 1 / SAMPLES, dtype=torch.float64))

    @property
    def true_l0(self) -> float:
        """Mean number of active features."""
        return float(self.tree.firing_probabilities().sum())


def three_levels() -> FeatureTree:
    """A parent, two exclusive children of 0.4 each given it, and two exclusive children of 0.4 each under either."""
    leaves = [FeatureTree(0.4, id=f"grandchild {i + 1}") for i in range(4)]
    children = [FeatureTree(0.4, (*leaves[2 * i : 2 * i + 2],), True, id=f"child {i + 1}") for i in range(2)]
    return FeatureTree(1.0, (FeatureTree(0.3, (*children,), True, id="parent"),), is_read_out=False)


def toys() -> dict[str, Toy]:
    """The toys of the stored run."""
    batches = TrainConfig(2500, lr=0.03, batch_size=200)
    return {
        "three features": Toy("three features", family(0.3, 0.4), (1, 3)),
        "unequal children": Toy("unequal children", family(0.3, (0.1, 0.3, 0.5), 3), (1, 4)),
        "four children": Toy("four children", family(0.3, 0.2, 4), (1, 5)),
        "three levels": Toy("three levels", three_levels(), (1, 3, 7)),
        "loud child": Toy("loud child", family(0.3, 0.4, child_magnitude=3.0), (1, 3)),
        "twenty features": Toy("twenty features", twenty_feature_tree(), (5, 10, 15, 20), batches),
    }


def chosen(p: Parameters) -> Toy:
    """The toy of a chapter's parameters."""
    training = TrainConfig(p.n_steps)
    if p.tree_path:
        tree = FeatureTree.from_json(p.tree_path)
        if not tree.can_list(LISTED):
            training = replace(training, lr=0.03, batch_size=200)
        return Toy(Path(p.tree_path).name, tree, levels(tree), training)
    tree = family(p.parent_probability, p.child_probability, p.n_children)
    return Toy("this family", tree, (1, tree.n_features), training)


@dataclass(frozen=True)
class Case:
    """A toy, an activation and seeds: what every remedy is given. Instances are all random starts, then all near ones.

    Attributes:
        toy: the toy.
        activation: one of `ACTIVATIONS`.
        seeds: the random seeds; each draws directions, start and batches.
        plain: the plain Matryoshka SAE.
        start_noise: of the starts near the truth, relative to the length of a feature.
        kinds: which starts to take.
    """

    toy: Toy
    activation: str
    seeds: range
    plain: SAEConfig
    start_noise: float = 0.5
    kinds: tuple[str, ...] = KINDS

    @classmethod
    def of(
        cls, toy: Toy, activation: str, seeds: range, *, l1: float = 0.03, inner_weight: float = 1.0, d_model: int = 20,
        start_noise: float = 0.5, kinds: tuple[str, ...] = KINDS,
    ) -> Case:  # fmt: skip
        """The case of a toy: prefixes of weight 1 but for the inner ones, and biases of the encoder alone."""
        weights = (*[inner_weight] * (len(toy.widths) - 1), 1.0)
        plain = SAEConfig(d_model, toy.widths, weights, l1=l1, decoder_bias=False)
        if activation == "batchtopk":
            plain = replace(plain, l1=0.0, activation="batchtopk", k=toy.true_l0)
        return cls(toy, activation, seeds, plain, start_noise, kinds)

    @cached_property
    def dictionary(self) -> Float[Tensor, "instances features d_in"]:
        """The features' directions for every instance."""
        drawn = orthonormal_dictionaries(self.toy.tree.n_features, self.plain.d_in, self.seeds)
        return drawn.repeat(len(self.kinds), 1, 1)

    def start(self, config: SAEConfig | None = None) -> SAE:
        """Where every instance starts; latents beyond the features start at random near the truth as well."""
        config = config or self.plain
        anew = random_start(config, self.seeds)
        anew = replace(anew, b_enc=anew.b_enc + AWAKE)
        features = self.toy.tree.by_level()
        close = start_near(self.dictionary[: len(self.seeds)][:, features], self.seeds, self.start_noise)
        held = len(features)
        close = SAE(
            torch.cat([close.W_enc, anew.W_enc[..., held:]], -1), torch.cat([close.b_enc, anew.b_enc[..., held:]], -1),
            torch.cat([close.W_dec, anew.W_dec[..., held:, :]], -2), close.b_dec, config,
        )  # fmt: skip
        both = {"random": anew, "near the truth": close}
        return SAE.cat([both[kind].with_config(config) for kind in self.kinds])

    def setting(self, config: SAEConfig, **changes: Any) -> Setting:
        """An SAE on the data of this case."""
        return Setting(config, self.toy.tree if self.toy.sampled else self.toy.states, self.dictionary, **changes)

    def fit(
        self, config: SAEConfig, start: SAE | None = None, *, stages: float = 1.0, lr: float | None = None,
        **changes: Any,
    ) -> SAE:  # fmt: skip
        """Train one SAE an instance with the compiled trainer, for so many stages' steps.

        Args:
            config: the SAE.
            start: initial parameters; None: those of the case.
            stages: how many times the toy's steps to take.
            lr: learning rate; None: the toy's.
            changes: further arguments of `Setting`.
        """
        training = self.toy.training
        training = replace(training, steps=round(stages * training.steps), lr=lr or training.lr, seed=self.seeds[0])
        start = self.start(config) if start is None else start
        run: Trained = train(self.setting(config, **changes), start, training)
        return run.sae[0]

    def by_kind(self, values: Float[Tensor, "*shape"]) -> Float[Tensor, "kinds seeds ..."]:
        """Values of all instances as those of each kind of start."""
        return values.reshape(len(self.kinds), len(self.seeds), *values.shape[1:])

    def rows(self, n: int = 1 << 13) -> tuple[Float[Tensor, "instances rows d_in"], Float[Tensor, " rows"]]:
        """Inputs of every instance with their weights: all states, or so many samples (others than are read)."""
        if not self.toy.sampled:
            return self.toy.states.inputs(self.dictionary), self.toy.states.probs
        acts = self.toy.tree.sample(n, torch.Generator().manual_seed(1))
        return acts @ self.dictionary, torch.full((n,), 1 / n, dtype=torch.float64)
