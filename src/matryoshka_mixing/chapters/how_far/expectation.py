"""What theory expects of the factors: decoders by small least-squares problems, and the few closed forms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.optimize import minimize
from torch import Tensor
from torch.nn.functional import normalize

from matryoshka_mixing import metrics, theory
from matryoshka_mixing.chapters.how_far.data import Factor, Parameters, correlated_pair, first_seeds
from matryoshka_mixing.chapters.how_far.experiments import Explored, measure, places, three
from matryoshka_mixing.features import States
from matryoshka_mixing.metrics import Mixing
from matryoshka_mixing.sae import SAE


def pattern_optimum(
    states: States,
    dictionary: Float[Tensor, "features d_in"],
    ranks: Sequence[int],
    widths: Sequence[int],
    weights: Sequence[float],
) -> Float[Tensor, "features d_in"]:
    """Decoders of the best SAE in which each latent fires with its own feature and no other; unit rows, by feature.

    Where the closed forms do not reach (three levels, any overlap, any dictionary). Given the decoders d, the best
    activations on a state solve a linear system over the features that are active there,

        sum_l min(u_k, u_l) (d_k . d_l) a_l = u_k (d_k . x),

    where u_k is the weight of the prefixes that hold latent k. What is left is minimised over d from the truth, by
    quasi-Newton steps (L-BFGS, through SciPy). Activations are free: that they are non-negative, and that one linear
    encoder can give them all, is not asked, so the loss is a lower bound on an SAE's, met where the SAE can.

    Args:
        states: the data; features that never fire get a row of zeros.
        dictionary: the true directions.
        ranks: for each feature the position of its latent (from 0).
        widths, weights: the prefixes and their weights in the loss; every latent of a firing feature must be in one.

    Raises:
        ValueError: if the latent of a firing feature is in no prefix that weighs.
    """
    x, firing = states.inputs(dictionary).numpy(), (states.acts > 0).any(0).numpy()
    active, probs = (states.acts > 0).double().numpy()[:, firing], states.probs.numpy()[:, None]
    held = np.array([[rank < width for width in widths] for rank in ranks], dtype=x.dtype)
    reach = (held @ np.array(weights, dtype=x.dtype))[firing]
    if not (reach > 0).all():
        raise ValueError(f"no prefix of widths {widths} and weights {weights} holds every latent of ranks {ranks}.")
    both = np.minimum(reach[:, None], reach)
    system, idle = active[:, :, None] * active[:, None] * both, np.eye(len(reach)) * (1 - active)[:, None]

    def saved(flat: np.ndarray) -> tuple[float, np.ndarray]:
        rows = flat.reshape(-1, x.shape[1])
        along = active * reach * (x @ rows.T)
        acts = np.linalg.solve(system * (rows @ rows.T) + idle, along[..., None])[..., 0]
        # The length of a decoder is free; this holds it near 1 and leaves the optimum as it is.
        longer = (rows**2).sum(1, keepdims=True) - 1
        loss = -(probs * along * acts).sum() + (longer**2).sum()
        # As the activations are the best ones, their own change does not count.
        slope = (acts.T @ (probs * acts) * both) @ rows - reach[:, None] * ((probs * acts).T @ x)
        return float(loss), (2 * slope + 4 * longer * rows).ravel()

    start = normalize(dictionary, dim=-1).numpy()[firing].ravel()
    best = minimize(saved, start, jac=True, method="L-BFGS-B", options={"maxiter": 5000, "ftol": 1e-16, "gtol": 1e-10})
    rows = torch.zeros_like(dictionary)
    rows[torch.from_numpy(firing)] = normalize(torch.from_numpy(best.x).unflatten(0, (-1, x.shape[1])), dim=-1)
    return rows


@dataclass(frozen=True)
class Expected:
    """Theory on a factor: the best decoders at each of its settings, and the mixings that they show.

    Attributes:
        tables: one a setting.
        decoders: unit rows, by feature.
        line: the means of the three mixings.
    """

    tables: list[Mixing]
    decoders: list[Float[Tensor, "features d_in"]]
    line: Float[np.ndarray, "amounts 3"]


def expected(factor: Factor) -> Expected:
    """Theory's decoders of each setting, by `pattern_optimum`, read as if they were an SAE's of the first seed.

    They are the same on every seed's dictionary, up to how it lies in the input.
    """
    order, rank = places(factor.parents)
    tables, decoders = [], []
    for setting in factor.settings:
        s = first_seeds(setting, 1)
        directions = s.directions[0]
        rows = pattern_optimum(s.states, directions, rank, s.sae.widths, s.sae.weights)
        decoder, encoder = torch.zeros(2, s.sae.d_sae, s.sae.d_in, dtype=torch.float64)
        decoder[: len(rows)], encoder[: len(rows)] = rows[order], directions[order]
        biases = rows.new_zeros(1, 1, s.sae.d_sae), rows.new_zeros(1, 1, s.sae.d_in)
        tables += measure(SAE(encoder.T[None, None], biases[0], decoder[None, None], biases[1]), [s], factor.parents)
        decoders.append(rows)
    return Expected(tables, decoders, three(tables, factor)[:, 0].numpy())


def own_firing(explored: Explored) -> Bool[Tensor, "settings seeds"]:
    """Whether each latent fires with its own feature and no other, as theory assumes."""
    rank = torch.tensor(places(explored.factor.parents)[1])
    rows = []
    for i, s in enumerate(explored.factor.settings):
        sae = explored.run.sae[i]
        acts = sae.encode(s.states.inputs(s.directions[: len(sae)]), s.states.probs)
        there = (s.states.acts > 0).any(0)
        rows.append(metrics.each_its_own(acts, rank[there].expand(len(acts), -1), s.states.acts[:, there]))
    return torch.stack(rows)


@dataclass(frozen=True)
class Gap:
    """How far trained SAEs are from theory, in converged seeds from near the truth that fire as it assumes.

    Attributes:
        largest: distance of any mixing from theory; NaN if no seed can be judged.
        judged, trained: how many seeds these are, over all factors and amounts, and of how many.
        without: of each factor the amounts at which no seed can be judged.
    """

    largest: float
    judged: int
    trained: int
    without: dict[str, list]

    def unjudged(self) -> str:
        """`without` in words."""
        lists = (f"{name} {', '.join(map(str, amounts))}" for name, amounts in self.without.items())
        return "; ".join(lists) or "none"


def theory_gap(explored: Mapping[str, Explored], theories: Mapping[str, Expected]) -> Gap:
    """Compare all factors that theory reaches."""
    gaps, trained = [], 0
    without: dict[str, list] = {}
    for name, line in theories.items():
        fits = own_firing(explored[name]) & explored[name].run.converged
        away = (explored[name].near - torch.from_numpy(line.line)[:, None]).abs().amax(-1)
        fits &= ~away.isnan()
        gaps.append(away[fits])
        trained += fits.numel()
        none = [explored[name].factor.amounts[i] for i in (~fits.any(-1)).nonzero().flatten().tolist()]
        without |= {name: none} if none else {}
    every = torch.cat(gaps)
    return Gap(float(every.max()) if len(every) else float("nan"), len(every), trained, without)


def eigen_line(factor: Factor) -> Float[np.ndarray, " amounts"]:
    """The mean cosine with a child of the top eigenvector of the inputs' re-weighted second moment, at each setting."""
    found = []
    for s in factor.settings:
        pull, directions = theory.prefix_weights(s.states, range(3), s.sae.widths, s.sae.weights), s.directions[0]
        inputs = States(s.states.inputs(directions), s.states.probs)
        top = theory.top_eigenvector(theory.second_moment(inputs, pull))
        cosine = directions @ top
        found.append((cosine * cosine[0].sign())[1:].mean())
    return torch.stack(found).numpy()


def closed_forms(p: Parameters) -> tuple[float, float]:
    """The parent's cosine with a child in the base case: of a narrow SAE, and of the Matryoshka SAE."""
    narrow = theory.narrow_ratio(p.child_probability, 2)
    nested = theory.matryoshka_ratio(p.child_probability, 2, p.inner_weight)
    return theory.parent_cosines(narrow, 2)[1], theory.parent_cosines(nested, 2)[1]


def pair_theory(p: Parameters, correlation: float, *, biased: bool, narrow: bool) -> float:
    """Theory: the top eigenvector of the second moment, centred if there is a decoder bias.

    In the Matryoshka SAE the second latent completes every state with the second feature.
    """
    states = correlated_pair(p.likely, correlation)
    pull = torch.where(states.acts[:, 1] > 0, p.inner_weight, 1 + p.inner_weight).double()
    probs = states.probs * (1 if narrow else pull)
    probs = probs / probs.sum()
    acts = states.acts - (probs @ states.acts if biased else 0)
    top = theory.top_eigenvector((acts * probs[:, None]).T @ acts)
    return float(top[1] * top[0].sign())
