"""What is measured of every SAE, whatever trained it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from matryoshka_mixing import metrics
from matryoshka_mixing.chapters.what_cures_it import losses
from matryoshka_mixing.chapters.what_cures_it.contestants import DEEPEST
from matryoshka_mixing.chapters.what_cures_it.toys import Case
from matryoshka_mixing.sae import SAE

CLEAN = 0.05
"""An SAE is clean if no mixing and no absorption is as large as this, and every feature is recovered to .95."""


def measure(case: Case, sae: SAE, pursued: bool = False) -> dict[str, Float[np.ndarray, "kinds seeds *prefixes"]]:
    """The numbers of the chapter for every SAE of a case.

    Args:
        case: what it was trained on.
        sae: with the case's instances.
        pursued: whether activations come from matching pursuit in place of the encoder.

    Returns:
        `parent_to_child`, `child_to_sibling`, `child_to_parent`: the largest absolute decoder cosine of that kind, and
        `mixing`, the largest of the three; NaN where no such pair has its latents. `absorption` (how much of parents
        other latents write beside a child), `silent` (share of these inputs on which the parent's own latent is
        silent), `unjudged` (share of edges without a parent's latent). `recovered95`, `recovered99`: share of features
        whose latent has at least that cosine. `dead`: latents that never fire; `missing`: features without a latent.
        `clean`: 1 if the SAE is. `fvu`: squared error as a share of E||x||^2; `l0`; `prefixes`: the fvu of each prefix
        of the case's plain SAE, and `prefixes_l0` how many of its latents fire; `loss`: the plain Matryoshka loss.
    """
    states, dictionary, parents = case.toy.states, case.dictionary, case.toy.tree.parents()
    x, probs = states.inputs(dictionary), states.probs
    latents_in = (*case.plain.widths[:-1], sae.W_dec.shape[-2])
    if pursued:
        acts = losses.pursue(sae, x, DEEPEST)[0]
        errors = torch.stack([(x - sae.decode(acts, m)).square().sum(-1) for m in latents_in], -2)
    else:
        acts, errors = sae.encode(x, probs), sae.errors(x, latents_in, probs)
    decoder, live = metrics.decoder_cosines(sae, dictionary), metrics.live(acts)
    latents = metrics.match(decoder, live)
    mix = metrics.mixing(decoder, latents, parents)
    seen = states.acts, probs, dictionary, parents
    edges = metrics.edges(sae, acts, metrics.assign(sae, acts, *seen), *seen)
    three = [_largest(values) for values in (mix.parent_to_child, mix.child_to_sibling, mix.child_to_parent)]
    own, fvu = mix.own.nan_to_num().abs(), (probs * errors).sum(-1) / states.power
    sizes = acts * sae.W_dec.norm(dim=-1).unsqueeze(-2)
    penalty = torch.stack([(probs * sizes[..., :m].sum(-1)).sum(-1) for m in latents_in], -1)
    each = fvu * states.power + case.plain.l1 * penalty
    fires = (probs[:, None] * (acts > metrics.SILENT)).sum(-2)
    found = {
        "parent_to_child": three[0], "child_to_sibling": three[1], "child_to_parent": three[2],
        "mixing": _largest(torch.stack(three, -1)),
        "absorption": edges.mean(edges.partial), "silent": edges.mean(edges.silent),
        "unjudged": 1 - edges.judged.double().mean(-1),
        "recovered95": (own >= 0.95).double().mean(-1), "recovered99": (own >= 0.99).double().mean(-1),
        "dead": (~live).sum(-1).double(), "missing": (latents < 0).sum(-1).double(),
        "fvu": fvu[..., -1], "l0": fires.sum(-1), "prefixes": fvu,
        "prefixes_l0": torch.stack([fires[..., :m].sum(-1) for m in latents_in], -1),
        "loss": (each * torch.tensor(case.plain.weights)).sum(-1),
    }  # fmt: skip
    found["clean"] = is_clean(found)
    return {name: case.by_kind(value).numpy() for name, value in found.items()}


def is_clean(found: Mapping[str, Tensor]) -> Tensor:
    """1 where an SAE is clean: every feature recovered to .95, every edge judged, both troubles below `CLEAN`."""
    small = (found["mixing"] < CLEAN) & (found["absorption"] < CLEAN) & (found["silent"] < CLEAN)
    recovered = (found["missing"] == 0) & (found["recovered95"] == 1)
    return (small & recovered & (found["unjudged"] == 0)).double()


def _largest(values: Float[Tensor, "*instances some"]) -> Float[Tensor, "*instances"]:
    """The largest absolute value; NaN where there is none."""
    if not values.shape[-1]:
        return values.new_full(values.shape[:-1], torch.nan)
    largest = torch.where(values.isnan(), -1.0, values.abs()).amax(-1)
    return torch.where(largest < 0, torch.nan, largest)


def best_of(values: Float[np.ndarray, " seeds"], loss: Float[np.ndarray, " seeds"], k: int) -> float:
    """The mean of a value over all ways to train k of the seeds and keep the one of lowest loss (of all, if fewer)."""
    order, n = np.argsort(loss, kind="stable"), len(loss)
    k = min(k, n)
    rest = n - 1 - np.arange(n)  # seeds of a higher loss, of which all the others of the k must be
    chance = np.ones(n)
    for taken in range(k - 1):
        chance *= np.clip(rest - taken, 0, None) / (n - 1 - taken)
    chance *= k / n
    return float(np.nansum(values[order] * chance) / chance[~np.isnan(values[order])].sum())
