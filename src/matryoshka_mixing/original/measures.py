"""What is measured of the toys, what theory expects of them, and both for all arms of an experiment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from matryoshka_mixing import metrics
from matryoshka_mixing.features import FeatureTree, States, without_hierarchy
from matryoshka_mixing.original.fitting import Toys, fit
from matryoshka_mixing.original.recipe import Arm, Recipe

MISSING = 0.5
"""A feature whose latent has a smaller cosine with it, or is dead, is not represented (our default)."""
EDGES = ("represented", "carried", "partial", "recall_without")
"""What is kept of `metrics.Edges`; the rest follows from it."""


def every_input(tree: FeatureTree, n: int = 1 << 15) -> States:
    """All states of a tree, or `n` samples of it where they are too many to list."""
    if tree.can_list():
        return tree.states()
    acts = tree.sample(n, 0)
    return States(acts, torch.full((n,), 1 / n, dtype=torch.float64))


def measure(
    toys: Toys, states: States, parents: Sequence[int | None], progress: bool = False
) -> dict[str, Float[np.ndarray, "arms seeds ..."]]:
    """The numbers of the chapter for every SAE, on all `states`; pairs are ordered as in `metrics.Mixing`.

    Returns:
        `own`, `parent_to_child`, `child_to_sibling`, `child_to_parent`: decoder cosines; for each pair of parent and
        child `represented`, `carried`, `partial` and `recall_without` (see `metrics.Edges`), NaN where the pair cannot
        be judged, and `absorption`, the mean of `partial`; `l0`; `error`: squared error of the full
        width as a share of E||x||^2; `missing`: features not represented; `dead`: latents that never fire; `l1`: the
        final penalty; and for each pair of parent and child `alone` and `blamed`, the mean weight of the prefixes that
        hold the parent, and that hold the parent and miss the child. NaN where a feature has no latent.
    """
    pairs = [(p, c) for c, p in enumerate(parents) if p is not None]
    rows: dict[str, list] = {}
    shape = toys.l1.shape
    for arm, seed in tqdm(np.ndindex(*shape), total=toys.l1.numel(), disable=not progress, unit="SAE"):
        sae, dictionary = toys.sae[arm, seed], toys.dictionary[seed]
        x = states.inputs(dictionary)
        acts, decoder = sae.encode(x), metrics.decoder_cosines(sae, dictionary)
        latents = metrics.match(decoder)
        mix = metrics.mixing(decoder, latents, parents)
        rest = (x - sae.decode(acts)).square().sum(-1)
        own, live, has = mix.own, metrics.live(acts), latents >= 0
        seen = states.acts, states.probs, dictionary, parents
        edges = metrics.edges(sae, acts, metrics.assign(sae, acts, *seen), *seen)
        together = toys.together[arm, seed]
        alone = together.diagonal()[latents].where(has, torch.nan)
        blamed = alone[:, None] - together[latents][:, latents].where(has, torch.nan)
        found = {
            **vars(mix),
            "absorption": edges.mean(edges.partial),
            **{name: getattr(edges, name) for name in EDGES},
            "l0": states.probs @ (acts > metrics.SILENT).double().sum(-1),
            "error": states.probs @ rest / (states.probs @ x.square().sum(-1)),
            "missing": (~((own.abs() >= MISSING) & live[latents])).sum(),
            "dead": (~live).sum(),
            "l1": toys.l1[arm, seed],
            "alone": torch.stack([alone[p] for p, _ in pairs]),
            "blamed": torch.stack([blamed[p, c] for p, c in pairs]),
        }
        for name, value in found.items():
            rows.setdefault(name, []).append(np.asarray(value, dtype=float))
    return {name: np.stack(values).reshape(*shape, *values[0].shape) for name, values in rows.items()}


def predicted(
    states: States,
    parents: Sequence[int | None],
    alone: Float[Tensor, "*instances pairs"],
    blamed: Float[Tensor, "*instances pairs"],
    norms: Float[Tensor, "*#instances features"],
) -> Float[Tensor, "*instances pairs"]:
    """Theory's cosine of each parent's decoder with each of its children, as `theory.matryoshka_optimum` has it.

    Args:
        states: the data; children that fire together have no prediction (NaN), nor have features without a latent.
        parents: from `FeatureTree.parents`.
        alone, blamed: weights of prefixes, from `measure`.
        norms: length of each feature's direction, which is 1 but for the jitter.
    """
    fires, pairs = states.acts > 0, [(p, c) for c, p in enumerate(parents) if p is not None]
    found = torch.full_like(blamed, torch.nan)
    for parent in {p for p, _ in pairs}:
        where = [i for i, (p, _) in enumerate(pairs) if p == parent]
        children = [pairs[i][1] for i in where]
        beside = fires[:, parent, None] & fires[:, children]
        if (beside.sum(-1) > 1).any():
            continue
        by_itself = states.probs @ (fires[:, parent] & ~beside.any(-1)).double()
        pull = states.probs @ beside.double() * blamed[..., where]
        size, sizes = norms[..., parent], norms[..., children]
        moment = blamed.new_zeros(*blamed.shape[:-1], len(where) + 1, len(where) + 1)
        moment[..., 0, 0] = (by_itself * alone[..., where[0]] + pull.sum(-1)) * size.square()
        moment[..., 0, 1:] = moment[..., 1:, 0] = pull * size[..., None] * sizes
        moment[..., 1:, 1:] = torch.diag_embed(pull * sizes.square())
        known = moment.isfinite().all(-1).all(-1)[..., None]
        top = torch.linalg.eigh(moment.nan_to_num()).eigenvectors[..., -1]
        found[..., where] = top[..., 1:].abs().where(known, torch.nan)
    return found


def natural_l0(states: States, parents: Sequence[int | None]) -> tuple[float, float]:
    """Mean number of active features, and of those without an active child: what is left if parents are absorbed."""
    fires = (states.acts > 0).double()
    above = fires.clone()
    for child, parent in enumerate(parents):
        if parent is not None:
            above[:, parent] *= 1 - fires[:, child]
    return float(states.probs @ fires.sum(-1)), float(states.probs @ above.sum(-1))


def compute(
    tree: FeatureTree,
    seeds: Sequence[int],
    recipe: Recipe,
    chosen: Mapping[str, Arm],
    *,
    threads: int | None = None,
    progress: bool = False,
) -> dict[str, np.ndarray]:
    """Train and measure the chosen arms on a tree, and arms called "..., independent" on its control.

    The control's features fire independently and as often; its pairs are those of the tree.

    Returns:
        The numbers of `measure`, with `names` of the arms, `seeds` and `steps`; `l0_path`, `l1_path` and `child_path`,
        the history (arms, seeds, records); and all parameters of the first seed, such as `first_W_enc`.

    Raises:
        ValueError: if no feature of the tree has a child, or `fit` refuses.
    """
    if not any(parent is not None for parent in tree.parents()):
        raise ValueError("no feature of the tree has a child; the measures are of parents and their children.")
    found: dict[str, list] = {}
    for control in (False, True):
        some = {name: arm for name, arm in chosen.items() if name.endswith(", independent") == control}
        if not some:
            continue
        data = without_hierarchy(tree) if control else tree
        toys = fit(data, [*some.values()], seeds, recipe, parents=tree.parents(), threads=threads, progress=progress)
        parts = measure(toys, every_input(data), tree.parents(), progress)
        history = {"l0_path": toys.l0, "l1_path": toys.penalty, "child_path": toys.child_cosine}
        parts |= {name: values.movedim(0, -1).numpy() for name, values in history.items()}
        parts |= {f"first_{name}": value[:, 0].numpy() for name, value in toys.sae.parameters.items()}
        for name, value in {"names": np.array(list(some)), **parts}.items():
            found.setdefault(name, []).append(value)
    return {name: np.concatenate(values) for name, values in found.items()} | {
        "steps": np.array(toys.steps),
        "seeds": np.array(list(seeds)),
    }
