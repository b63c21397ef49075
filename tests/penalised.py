"""The parent-first solution in closed form with an L1 penalty: what the picture of the first page is held against."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class FamilySolution:
    """The solution that `penalised_family` finds; decoders have length 1.

    Attributes:
        ratio: t of the parent's decoder, parent + t (sum of the children); from 0 to 1/n.
        alone: activation of the parent's latent on the parent alone.
        beside: its activation on parent + child; 0 means that it is silent there: absorption.
        parent: cosines of the parent's decoder with the parent and with each child.
        child: cosines of a child's decoder with the parent, with itself and with a sibling.
        loss: the loss on inputs that hold the parent, so without the factor of the parent's probability.
    """

    ratio: float
    alone: float
    beside: float
    parent: tuple[float, float]
    child: tuple[float, float, float]
    loss: float


def penalised_family(
    child_probability: float,
    n_children: int,
    inner_weight: float = 1.0,
    l1: float = 0.0,
    blamed: float = 1.0,
) -> FamilySolution:
    """The parent-first solution with an L1 penalty, for widths (1, n + 1), weights (beta, 1) and n equal children.

    Let u be the parent's unit decoder, N its length before, `s = (1 + t) / N` the projection of parent + child on it,
    and `r = |x - b u|` what an activation b leaves of parent + child; the child's latent writes that, l1/2 short. On
    the parent alone the activation is `a = 1/N - l1/2`. The derivatives of the loss by b and by t are 0 where

        w (2b - 2s + l1) + l1 (b - s) / r + l1 = 0                                (b = 0 where there is no such b >= 0)
        (1 - nq) (1 + beta) a t = q b (w + l1 / (2r)) (1 - nt)

    w is the weight of the terms that mix (the inner prefix on parent + child): beta times `blamed`. At l1 = 0 and
    `blamed` = 1 this is `matryoshka_ratio`. Each left side rises with its unknown, and both are solved by bisection.

    Args:
        child_probability: q of each of the exclusive children given the parent, above 0 and below 1/n.
        n_children: n, at least 2.
        inner_weight: beta, above 0.
        l1: weight of the penalty, from 0; small enough that all latents stay active (below about 0.5).
        blamed: factor on the terms that mix, from 0. At 0 no solution is better than the absorbed one, which is then
            taken also at l1 = 0, as the limit of a vanishing penalty.

    Raises:
        ValueError: naming the value that is out of range.
    """
    q, n, beta = child_probability, n_children, inner_weight
    if n < 2 or not 0 < q < 1 / n or not 0 < beta < np.inf or not 0 <= l1 < 0.5 or not 0 <= blamed < np.inf:
        raise ValueError(
            f"child_probability {q}, n_children {n}, inner_weight {beta}, l1 {l1}, blamed {blamed}: n must be at least "
            "2, the probability above 0 and below 1/n, the weight above 0, the penalty from 0 to below 0.5, the factor "
            "from 0."
        )
    w = beta * blamed

    def beside(t: float) -> float:
        s = (1 + t) / (1 + n * t * t) ** 0.5
        return _root(lambda b: w * (2 * b - 2 * s + l1) + l1 * (1 + (b - s) / _rest(b, s)), s) if w else 0.0

    def balance(t: float) -> float:
        norm, b = (1 + n * t * t) ** 0.5, beside(t)
        pull = b * (w + l1 / (2 * _rest(b, (1 + t) / norm))) * (1 - n * t)
        return (1 - n * q) * (1 + beta) * (1 / norm - l1 / 2) * t - q * pull

    t = _root(balance, 1 / n)
    norm, b = (1 + n * t * t) ** 0.5, beside(t)
    s, a = (1 + t) / norm, 1 / norm - l1 / 2
    r = _rest(b, s)
    parent = (1 / norm, t / norm)
    child = ((1 - b * parent[0]) / r, (1 - b * parent[1]) / r, -b * parent[1] / r)
    both = w * (r * r + l1 * b) + l1 * (r + b) - l1 * l1 / 4
    return FamilySolution(t, a, b, parent, child, (1 - n * q) * (1 + beta) * (1 - a * a) + n * q * both)


def _rest(b: float, s: float) -> float:
    """What `b` along a unit vector leaves of a vector of length sqrt(2) whose projection on it is `s`."""
    return (2 - 2 * b * s + b * b) ** 0.5


def _root(rising: Callable[[float], float], high: float) -> float:
    """Where a rising function crosses 0 between 0 and `high`, to the last digits; 0 if it starts above."""
    low = 0.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if rising(middle) >= 0 else (middle, high)
    return high if low else 0.0
