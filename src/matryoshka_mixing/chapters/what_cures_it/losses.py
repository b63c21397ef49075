"""The losses of the remedies that the compiled trainer does not know, each from its formula; autograd does the rest.

An objective maps SAEs with one leading axis to one loss each, or to two, of which the second is the decoder's. In all,
x are the inputs, p their weights, a the activations, d_k the decoder's rows, x_m the reconstruction of prefix m.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from matryoshka_mixing.chapters.what_cures_it.toys import Case
from matryoshka_mixing.metrics import SILENT
from matryoshka_mixing.sae import SAE, SAEConfig
from matryoshka_mixing.training import TrainConfig, descend

Objective = Callable[[SAE], Tensor | tuple[Tensor, Tensor]]
Rows = tuple[Tensor, Tensor]
"""Inputs (instances, rows, d_in) and their weights (instances, rows), or (rows,) for all instances."""
EPSILON = 1e-4
"""What is added to a loss before its logarithm is taken, or to an error before its root, as a share of E||x||^2."""


STAGES, FEWER = 2.0, 0.25
"""Steps of a remedy by autograd, in stages: as many as the others take, or an eighth, since a step takes so long."""


def stages(case: Case) -> float:
    """`STAGES` on exact states with ReLU, `FEWER` on samples and with BatchTopK."""
    return FEWER if case.toy.sampled or case.activation == "batchtopk" else STAGES


def batches(case: Case) -> Callable[[], Rows]:
    """A function that gives the inputs of the next step: all states, or a new sample for every instance."""
    if not case.toy.sampled:
        fixed = case.rows()
        return lambda: fixed
    size, tree, generator = case.toy.training.batch_size, case.toy.tree, torch.Generator().manual_seed(case.seeds[0])
    assert size is not None  # toys that are sampled have one

    def drawn() -> Rows:
        number = len(case.dictionary)
        acts, probs = merged(tree.sample(number * size, generator).reshape(number, size, -1))
        return acts @ case.dictionary, probs

    return drawn


def merged(
    acts: Float[Tensor, "instances rows features"],
) -> tuple[Float[Tensor, "instances kinds features"], Float[Tensor, "instances kinds"]]:
    """Each instance's different rows and their shares; rows of share 0 fill up those that have fewer kinds.

    The same loss from a third of the rows: in a batch of a tree most inputs come several times.
    """
    instances, rows, features = acts.shape
    mixed = acts @ torch.rand(features, dtype=acts.dtype, generator=torch.Generator().manual_seed(0))
    ordered, places = mixed.sort(-1)
    first = torch.ones_like(places)
    first[:, 1:] = (ordered[:, 1:] != ordered[:, :-1]).long()
    kind = first.cumsum(-1) - 1
    shape = instances, int(kind.max()) + 1
    probs = acts.new_zeros(shape).scatter_add_(-1, kind, acts.new_full((instances, rows), 1 / rows))
    which = places.new_zeros(shape).scatter_(-1, kind, places)
    return acts.gather(1, which.unsqueeze(-1).expand(*shape, features)), probs


def terms(sae: SAE, config: SAEConfig, x: Tensor, probs: Tensor) -> Float[Tensor, "instances prefixes rows"]:
    """Error and penalty of each prefix on each input, as `SAE.loss` has them; ReLU latents are computed once."""
    chosen = sae.with_config(config)
    if config.activation != "relu":
        errors = chosen.errors(x, config.widths, probs)
        return errors + config.l1 * chosen.penalties(x, config.widths, probs) if config.l1 else errors
    acts = chosen.encode(x, probs)
    sizes = config.l1 * acts * sae.W_dec.norm(dim=-1).unsqueeze(-2)
    each = [(x - chosen.decode(acts, m)).square().sum(-1) + sizes[..., :m].sum(-1) for m in config.widths]
    return torch.stack(each, -2)


def total(sae: SAE, config: SAEConfig, x: Tensor, probs: Tensor) -> Float[Tensor, " instances"]:
    """The loss of an SAE of this configuration, `SAE.loss`."""
    weights = x.new_tensor(config.weights)
    return (weights * (probs.unsqueeze(-2) * terms(sae, config, x, probs)).sum(-1)).sum(-1)


def neighbours(sae: SAE) -> tuple[Float[Tensor, "*instances d_sae"], Tensor]:
    """Each decoder row's largest cosine with another row (0 if none is above 0), and which row that is."""
    rows = normalize(sae.W_dec, dim=-1)
    cosines = rows @ rows.mT - 3 * torch.eye(rows.shape[-2], dtype=rows.dtype)
    value, index = cosines.max(-1)
    return value.clamp_min(0), index


def ortsae(config: SAEConfig, weight: float, rows: Callable[[], Rows]) -> Objective:
    """OrtSAE: loss + weight * mean over k of max(0, max over j != k of cos(d_k, d_j))^2 (arXiv 2509.22033)."""

    def loss(sae: SAE) -> Tensor:
        return total(sae, config, *rows()) + weight * neighbours(sae)[0].square().mean(-1)

    return loss


def c2r(config: SAEConfig, weight: float, rows: Callable[[], Rows]) -> Objective:
    """C2R: loss + weight * mean over k of cos(d_k, d_n)^2 (||a_k|| + ||a_n||), n the row nearest to k.

    The norm is over the batch, here the root of the mean square; only cosines above 0 count. As in its authors' code
    (arXiv 2606.30609).
    """

    def loss(sae: SAE) -> Tensor:
        x, probs = rows()
        acts = sae.with_config(config).encode(x, probs)
        # A latent that never fires has no gradient of its norm at 0.
        norms = ((probs.unsqueeze(-1) * acts.square()).sum(-2) + 1e-12).sqrt()
        value, index = neighbours(sae)
        both = norms + norms.gather(-1, index)
        return total(sae, config, x, probs) + weight * (value.square() * both).mean(-1)

    return loss


def deltas(config: SAEConfig, rows: Callable[[], Rows]) -> Objective:
    """Detached deltas: sum over blocks of E ||x - sg(x_before) - own part||^2 + l1 of the block's own latents."""

    def loss(sae: SAE) -> Tensor:
        x, probs = rows()
        acts = sae.with_config(config).encode(x, probs)
        sizes = acts * sae.W_dec.norm(dim=-1).unsqueeze(-2)
        left, total, before = x - sae.b_dec.unsqueeze(-2), torch.zeros_like(sae.b_dec[..., 0]), 0
        for width, weight in zip(config.widths, config.weights, strict=True):
            left = left - acts[..., before:width] @ sae.W_dec[..., before:width, :]
            each = left.square().sum(-1) + config.l1 * sizes[..., before:width].sum(-1)
            total, left, before = total + weight * (probs * each).sum(-1), left.detach(), width
        return total

    return loss


def logarithm(config: SAEConfig, rows: Callable[[], Rows]) -> Objective:
    """The sum over prefixes of w_m log(L_m + epsilon): each prefix's loss in its own units."""

    def loss(sae: SAE) -> Tensor:
        x, probs = rows()
        each = terms(sae, config, x, probs)
        power = (probs * x.square().sum(-1)).sum(-1)
        losses = (probs.unsqueeze(-2) * each).sum(-1)
        return (torch.tensor(config.weights) * (losses + EPSILON * power.unsqueeze(-1)).log()).sum(-1)

    return loss


def unsquared(config: SAEConfig, rows: Callable[[], Rows]) -> Objective:
    """Inner prefixes pay E ||x - x_m||, the full width E ||x - x_n||^2: a large miss of an inner one weighs less."""

    def loss(sae: SAE) -> Tensor:
        x, probs = rows()
        chosen, probs = sae.with_config(config), probs.unsqueeze(-2)
        errors = chosen.errors(x, config.widths, probs.squeeze(-2))
        power = (probs * x.square().sum(-1).unsqueeze(-2)).sum(-1, keepdim=True)
        inner = (errors[..., :-1, :] + EPSILON * power).sqrt()
        each = torch.cat([inner, errors[..., -1:, :]], -2)
        each = each + config.l1 * chosen.penalties(x, config.widths, probs.squeeze(-2))
        return (torch.tensor(config.weights) * (probs * each).sum(-1)).sum(-1)

    return loss


def availability(config: SAEConfig, least: float, rows: Callable[[], Rows]) -> Objective:
    """Stochastic availability: latent k is kept with chance c_k, from 1 evenly down to `least`, and scaled by 1 / c_k.

    The mean over the draws is exact: E ||x - x_n||^2 + sum over k of (1 / c_k - 1) E a_k^2 ||d_k||^2, a ridge that
    grows with the rank. One prefix, the full width.
    """
    one = replace(config, widths=config.widths[-1:], weights=(1.0,))
    keep = torch.linspace(1, least, config.d_sae, dtype=torch.float64)

    def loss(sae: SAE) -> Tensor:
        x, probs = rows()
        acts = sae.with_config(one).encode(x, probs)
        spread = (probs.unsqueeze(-1) * acts.square()).sum(-2) * sae.W_dec.square().sum(-1)
        return total(sae, one, x, probs) + ((1 / keep - 1) * spread).sum(-1)

    return loss


def gated(config: SAEConfig, rows: Callable[[], Rows]) -> Objective:
    """Gating by input: in the term of prefix m, the decoder learns only from inputs on which nothing outside m fires.

    The encoder's loss is the plain one. The relative of the remedy that needs no second set of weights: on those inputs
    prefix and full reconstruction are the same.
    """

    def loss(sae: SAE) -> tuple[Tensor, Tensor]:
        x, probs = rows()
        fires = sae.with_config(config).encode(x, probs).detach() > SILENT
        inside = torch.stack([~fires[..., width:].any(-1) for width in config.widths], -2).to(x)
        weights = torch.tensor(config.weights)
        each = weights.unsqueeze(-1) * probs.unsqueeze(-2) * terms(sae, config, x, probs)
        return each.sum((-1, -2)), (inside * each).sum((-1, -2))

    return loss


def pursue(
    sae: SAE, x: Float[Tensor, "*instances rows d_in"], steps: int
) -> tuple[Float[Tensor, "*instances rows d_sae"], Float[Tensor, "*instances rows d_in"]]:
    """Matching pursuit with unit decoder rows: activations, and what is left of x - b_dec (arXiv 2506.03093).

    At each step the row with the largest product with what is left takes its part, if that is above 0.
    """
    rows = normalize(sae.W_dec, dim=-1)
    left = x - sae.b_dec.unsqueeze(-2)
    acts = left.new_zeros(*left.shape[:-1], rows.shape[-2])
    for _ in range(steps):
        products = (left @ rows.mT).relu()
        best = torch.zeros_like(products).scatter_(-1, products.argmax(-1, keepdim=True), 1.0) * products
        acts, left = acts + best, left - best @ rows
    return acts, left


def matching_pursuit(steps: int, rows: Callable[[], Rows]) -> Objective:
    """MP-SAE: E ||what is left||^2 after so many steps; the encoder is the decoder."""

    def loss(sae: SAE) -> Tensor:
        x, probs = rows()
        return (probs * pursue(sae, x, steps)[1].square().sum(-1)).sum(-1)

    return loss


def fit(case: Case, objective: Objective, stages: float, start: SAE | None = None) -> SAE:
    """Descend an objective for so many stages' steps, with its biases as the plain SAE has them.

    Args:
        case: what to train on.
        objective: what to descend.
        stages: how many times the toy's steps to take.
        start: initial parameters; None: those of the case.
    """
    config = case.plain
    start = case.start() if start is None else start
    toy: TrainConfig = case.toy.training
    training = replace(toy, steps=round(stages * toy.steps), records=1)
    return descend(objective, start, training, held={} if config.decoder_bias else {"b_dec": ...}).sae
