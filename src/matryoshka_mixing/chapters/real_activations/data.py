"""Activations of a sentence encoder, with families of features planted into them, and SAEs trained on them.

The rows are noun glosses of WordNet 3.0 after the last layer of all-MiniLM-L6-v2; `benchmarks/gloss_activations.py`
builds the file, and NOTICE has both licences.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from matryoshka_mixing import plain
from matryoshka_mixing.features import FeatureTree, orthonormal_dictionary
from matryoshka_mixing.sae import SAE, SAEConfig, random_start
from matryoshka_mixing.training import TrainConfig, descend

HERE = Path(__file__).parent
D_IN, WIDTHS, K = 128, (32, 128, 512, 1024), 8
POWER = 128.0
"""Mean squared length that the rows are scaled to."""
FAMILIES, PARENT, CHILDREN, MAGNITUDE, SPREAD = 8, 0.1, (0.08, 0.16), 4.0, 0.2
"""What is planted: families, the parent's probability, the children's given the parent, magnitudes, relative spread."""
TRAINING = TrainConfig(2000, 2e-3, batch_size=256)
SWITCHED = TrainConfig(1000, 1e-3, batch_size=256)
"""How the remedy goes on from the Matryoshka SAE."""
STANDARD, MATRYOSHKA, REMEDY, DELTAS = "standard", "Matryoshka", "remedy", "detached deltas"
KINDS = (STANDARD, MATRYOSHKA, REMEDY, DELTAS)


@dataclass(frozen=True)
class Point:
    """What is planted and trained; by default the chapter's own.

    Attributes:
        children: probabilities of the rare and the commoner child given the parent.
        magnitude: mean magnitude of planted features.
        k: of BatchTopK.
        widths: of the prefixes.
    """

    children: tuple[float, float] = CHILDREN
    magnitude: float = MAGNITUDE
    k: float = K
    widths: tuple[int, ...] = WIDTHS


BASE = Point()


@cache
def rows() -> Float[Tensor, "rows d_in"]:
    """The activations, centred, float32, of mean squared length `POWER`."""
    file = plain.read_arrays(HERE / "glosses.npz")
    x = torch.from_numpy(file["rows"].astype(np.float32) * file["scale"].astype(np.float32))
    x = x - x.mean(0)
    return x * (POWER / x.square().sum(-1).mean()).sqrt()


@dataclass(frozen=True)
class Planted:
    """Activations with families planted into them.

    Attributes:
        rows: the inputs.
        acts: activation of each planted feature on each input.
        dictionary: their directions.
        tree: what was planted.
        point: the probabilities, magnitudes, K and prefixes that were asked for.
    """

    rows: Float[Tensor, "rows d_in"]
    acts: Float[Tensor, "rows features"]
    dictionary: Float[Tensor, "features d_in"]
    tree: FeatureTree
    point: Point = BASE


def families(point: Point = BASE) -> FeatureTree:
    """Parents that fire by themselves, each with two exclusive children, a rare and a commoner one."""
    size = point.magnitude

    def feature(probability: float, children: tuple[FeatureTree, ...] = ()) -> FeatureTree:
        return FeatureTree(probability, children, True, magnitude_mean=size, magnitude_std=SPREAD * size)

    parent = feature(PARENT, tuple(feature(child) for child in point.children))
    return FeatureTree(1.0, (parent,) * FAMILIES, is_read_out=False)


def plant(x: Float[Tensor, "rows d_in"], seed: int, point: Point = BASE) -> Planted:
    """Families with random directions, added to the rows; a seed draws directions, firing and magnitudes."""
    tree = families(point)
    acts = tree.sample(len(x), torch.Generator().manual_seed(seed))
    dictionary = orthonormal_dictionary(tree.n_features, x.shape[1], seed)
    return Planted(x + (acts @ dictionary).to(x), acts, dictionary, tree, point)


def config(kind: str, point: Point = BASE) -> SAEConfig:
    """The configuration of one of the `KINDS`.

    The remedy has two sets of prefix weights: the decoder descends the full reconstruction alone.
    """
    widths = point.widths[-1:] if kind == STANDARD else point.widths
    weights = (*[0.0] * (len(widths) - 1), 1.0) if kind == REMEDY else None
    return SAEConfig(D_IN, widths, activation="batchtopk", k=point.k, decoder_weights=weights)


def objective(
    x: Float[Tensor, "rows d_in"], sae: SAEConfig, size: int, seed: int, detached: bool = False
) -> Callable[[SAE], Tensor | tuple[Tensor, Tensor]]:
    """The loss of `SAE.loss` on a fresh batch at each call, for `descend`.

    Only the activations that BatchTopK keeps enter the graph: k of each input in place of all latents. `detached` lets
    each prefix train its own latents alone: what shorter prefixes write passes no gradient.
    """
    assert sae.k is not None, "BatchTopK has a k"
    kept_in_all, generator = round(sae.k * size), torch.Generator().manual_seed(seed)
    ends, weights = torch.tensor(sae.widths), x.new_tensor(sae.weights)
    for_decoder = x.new_tensor(sae.for_decoder.weights)

    def loss(some: SAE) -> Tensor | tuple[Tensor, Tensor]:
        batch = x[torch.randint(len(x), (size,), generator=generator)]
        with torch.no_grad():
            acts = torch.relu((batch - some.b_dec) @ some.W_enc + some.b_enc)
            kept = (acts * some.W_dec.norm(dim=-1)).flatten().topk(kept_in_all, sorted=False).indices
            row, latent = kept // sae.d_sae, kept % sae.d_sae
        acts = ((batch - some.b_dec)[row] * some.W_enc.T[latent]).sum(-1) + some.b_enc[latent]
        written = torch.relu(acts)[:, None] * some.W_dec[latent]
        place = torch.bucketize(latent, ends, right=True) * size + row
        parts = written.new_zeros(len(ends) * size, x.shape[1]).index_add(0, place, written)
        parts = parts.unflatten(0, (len(ends), size))
        prefixes = parts.cumsum(0) + some.b_dec
        if detached:
            prefixes = torch.cat([prefixes[:1], prefixes[:-1].detach() + parts[1:]])
        errors = (batch - prefixes).square().sum(-1).mean(-1)
        return errors @ weights if sae.decoder_weights is None else (errors @ weights, errors @ for_decoder)

    return loss


def with_threshold(sae: SAE, x: Float[Tensor, "rows d_in"]) -> SAE:
    """The SAE with the threshold that keeps K activations of each row on average."""
    k = sae.one_config.k
    assert k is not None, "BatchTopK has a k"
    sizes = torch.relu((x - sae.b_dec) @ sae.W_enc + sae.b_enc) * sae.W_dec.norm(dim=-1)
    return replace(sae, threshold=sizes.flatten().kthvalue(sizes.numel() - int(k * len(x))).values)


def fit(
    kind: str, x: Float[Tensor, "rows d_in"], seed: int, start: SAE | None = None, steps: int | None = None,
    point: Point = BASE,
) -> SAE:  # fmt: skip
    """Train one SAE. The remedy goes on from `start`, a trained Matryoshka SAE; the others start at random."""
    sae, training = config(kind, point), SWITCHED if kind == REMEDY else TRAINING
    training = training if steps is None else replace(training, steps=steps)
    if start is None:
        start = random_start(sae, [seed], decoder_norm=1.0)[0].map(Tensor.float)
    loss = objective(x, sae, training.batch_size or len(x), seed, detached=kind == DELTAS)
    return with_threshold(descend(loss, start.with_config(sae), training).sae, x)
