"""The diagnosis where the truth is known: on the toys of the book."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from matryoshka_mixing import features, metrics
from matryoshka_mixing.chapters.real_activations.data import MATRYOSHKA, STANDARD
from matryoshka_mixing.chapters.real_activations.summary import Parameters
from matryoshka_mixing.diagnose import diagnose
from matryoshka_mixing.features import FeatureTree, family
from matryoshka_mixing.sae import SAE, SAEConfig, start_near
from matryoshka_mixing.training import Setting, TrainConfig, train

D_TOY, SEEN, NOISE, START, SEEDS = 20, 4000, 0.05, 0.2, 3
"""Dimensions; inputs that a diagnosis sees, with Gaussian noise of this size a coordinate; noise of starts; seeds."""


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
    seen = [chosen.seed]
    directions = features.orthonormal_dictionaries(3, D_TOY, seen)
    kinds = {
        "Matryoshka": SAEConfig(D_TOY, (1, 3), encoder_bias=False, decoder_bias=False),
        "Matryoshka, L1 and biases": SAEConfig(D_TOY, (1, 3), l1=0.03),
        "standard": SAEConfig(D_TOY, (3,), l1=0.03, encoder_bias=False, decoder_bias=False),
    }
    mixing: dict[str, list[float]] = {kind: [] for kind in kinds}
    movement: dict[str, list[float]] = {kind: [] for kind in kinds}
    for q in probabilities:
        tree = features.family(0.3, float(q))
        rows = tree.sample(2000, torch.Generator().manual_seed(chosen.seed)) @ directions[0]
        for kind, config in kinds.items():
            setting = Setting(config, tree.states(), directions)
            sae = train(setting, start_near(directions, seen, START), TrainConfig(chosen.n_steps)).sae[0, 0]
            own = float(metrics.decoder_cosines(sae, directions[0])[0, 0])
            mixing[kind].append(max(1 - own**2, 0.0) ** 0.5)
            movement[kind].append(float(diagnose(sae, rows, widths=(1, 3), ridge=1e-9).movement[0]))
    return Toys(
        probabilities, *({kind: np.array(values) for kind, values in table.items()} for table in (mixing, movement))
    )


@dataclass(frozen=True)
class Toy:
    """A toy of the book.

    Attributes:
        tree: its features.
        widths: prefixes of the Matryoshka SAE; the standard SAE has the last, and is read with all.
        sae: what else its SAEs have, as of `SAEConfig`.
        sampled: trained on sampled batches, as its states are too many.
    """

    tree: FeatureTree
    widths: tuple[int, ...]
    sae: Mapping[str, Any] = field(default_factory=dict)
    sampled: bool = False


def _three_levels() -> FeatureTree:
    leaves = [FeatureTree(0.4) for _ in range(4)]
    children = tuple(FeatureTree(0.4, (*leaves[2 * i : 2 * i + 2],), True) for i in range(2))
    return FeatureTree(1.0, (FeatureTree(0.3, children, True),), is_read_out=False)


def _together() -> FeatureTree:
    """Six features that fire by halves on a fifth of the inputs."""
    topic = FeatureTree(0.2, tuple(FeatureTree(0.5) for _ in range(6)), is_read_out=False)
    return FeatureTree(1.0, (topic,), is_read_out=False)


NO_BIAS = {"encoder_bias": False, "decoder_bias": False}
INDEPENDENT, TOGETHER = "independent features", "features that fire together"
TOYS = {
    "three features": Toy(family(0.3, 0.4), (1, 3), NO_BIAS),
    "with a penalty and biases": Toy(family(0.3, 0.4), (1, 3), {"l1": 0.03}),
    "a rare family": Toy(family(0.03, 0.4), (1, 3), NO_BIAS),
    "a loud child": Toy(family(0.3, 0.5, 1, parent_magnitude=2.0, child_magnitude=10.0), (1, 2), NO_BIAS),
    "BatchTopK": Toy(family(0.3, 0.4), (1, 3), NO_BIAS | {"activation": "batchtopk", "k": 0.54}),
    "TopK": Toy(family(0.3, 0.4), (1, 3), NO_BIAS | {"activation": "topk", "k": 2}),
    "unequal children": Toy(family(0.3, (0.1, 0.3, 0.5), 3), (1, 4), NO_BIAS),
    "three levels": Toy(_three_levels(), (1, 3, 7), NO_BIAS),
    "twenty features": Toy(features.twenty_feature_tree(), (11, 20), {"l1": 0.03}, sampled=True),
    "*Feature Hedging*'s": Toy(family(0.25, 0.15, 3, exclusive=False), (1, 4), {"l1": 0.03}),
    INDEPENDENT: Toy(features.independent([0.1] * 8), (4, 8), {"l1": 0.03}),
    TOGETHER: Toy(_together(), (3, 6), {"l1": 0.1}),
}
"""Of chapters 2 to 4, 7, 5, 8, 10, 11, 6 and 14, prefixes holding whole levels; and two without a hierarchy: a control,
and one whose penalty turns latents by itself."""


@dataclass(frozen=True, eq=False)
class Checked:
    """The diagnosis of one kind of SAE on one toy; one entry for each judged inner latent of all seeds.

    Attributes:
        mixing: sine of the angle between the latent's decoder and the feature that it is nearest to.
        movement: what the diagnosis finds without the truth.
        leans: whether it says that the latent leans.
    """

    mixing: np.ndarray
    movement: np.ndarray
    leans: np.ndarray

    @property
    def gap(self) -> float:
        """Largest difference of movement and mixing."""
        return float(np.abs(self.movement - self.mixing).max(initial=0))


def check(sae: SAE, toy: Toy, directions: torch.Tensor, seed: int) -> Checked:
    """Diagnose one SAE of a toy on sampled inputs, and hold the movement against the truth."""
    draw = torch.Generator().manual_seed(seed)
    rows = toy.tree.sample(SEEN, draw) @ directions
    rows = rows + NOISE * torch.randn(rows.shape, generator=draw, dtype=rows.dtype)
    found = diagnose(sae, rows, widths=toy.widths, seed=seed)
    own = metrics.decoder_cosines(sae, directions)[: len(found.judged)].abs().amax(-1)[found.judged]
    sine = (1 - own.square()).clamp_min(0).sqrt()
    return Checked(sine.numpy(), found.movement[found.judged].numpy(), found.leans[found.judged].numpy())


def check_toys(chosen: Parameters, toys: Mapping[str, Toy] = TOYS) -> dict[str, dict[str, Checked]]:
    """By toy and kind of SAE (Matryoshka and standard), from near the truth, `SEEDS` seeds each."""
    seeds = range(chosen.seed, chosen.seed + SEEDS)
    found: dict[str, dict[str, Checked]] = {}
    for name, toy in toys.items():
        order = toy.tree.by_level()
        directions = features.orthonormal_dictionaries(toy.tree.n_features, D_TOY, seeds)
        sampled = TrainConfig(chosen.n_steps, batch_size=200, seed=chosen.seed)
        how = sampled if toy.sampled else TrainConfig(chosen.n_steps)
        config = SAEConfig(D_TOY, toy.widths, **toy.sae)
        found[name] = {}
        for kind, some in ((MATRYOSHKA, config), (STANDARD, replace(config, widths=toy.widths[-1:], weights=()))):
            setting = Setting(some, toy.tree if toy.sampled else toy.tree.states(), directions)
            saes = train(setting, start_near(directions, seeds, START, order=order), how).sae[0]
            parts = [check(sae, toy, d, seed) for sae, d, seed in zip(saes, directions, seeds, strict=True)]
            joined = (np.concatenate([getattr(p, key) for p in parts]) for key in ("mixing", "movement", "leans"))
            found[name][kind] = Checked(*joined)
    return found


def toys_table(found: Mapping[str, Mapping[str, Checked]]) -> str:
    """Markdown: a line a toy."""
    lines = ["| toy | inner latents | turned from their features | found, off by at most | lean | in standard SAEs |"]
    lines += ["| --- | --- | --- | --- | --- | --- |"]
    for name, kinds in found.items():
        one, control = kinds[MATRYOSHKA], kinds[STANDARD]
        turned = f"{one.mixing.min():.2f} to {one.mixing.max():.2f}" if len(one.mixing) else "–"
        lines.append(
            f"| {name} | {len(one.mixing)} | {turned} | {one.gap:.2f} | {one.leans.sum()} | "
            f"{control.leans.sum()} of {len(control.leans)} |"
        )
    return "\n".join(lines)
