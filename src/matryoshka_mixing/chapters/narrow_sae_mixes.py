"""Chapter 2: an SAE of one latent, trained on a parent and its children, mixes the children into the parent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from matryoshka_mixing import figures, metrics, theory
from matryoshka_mixing.chapters import _shared
from matryoshka_mixing.chapters._shared import Arm, Family, Setup, steps_to
from matryoshka_mixing.chapters._shared import converged as converged
from matryoshka_mixing.chapters._shared import median_gap as median_gap
from matryoshka_mixing.features import family, without_hierarchy
from matryoshka_mixing.sae import SAEConfig
from matryoshka_mixing.training import Setting


@dataclass(frozen=True)
class Parameters(Family):
    """The parameters of this chapter."""

    @property
    def cosines(self) -> tuple[float, float]:
        """What theory says of the decoder's cosine with the parent and with each child."""
        return theory.parent_cosines(theory.narrow_ratio(self.child_probability, self.n_children), self.n_children)


def families(p: Parameters) -> list[int]:
    """Numbers of children that the sweep compares: 2, 3, 5 and the chapter's own, where the input has room."""
    return [n for n in sorted({2, 3, 5, p.n_children}) if n < p.d_model]


def set_up(p: Parameters) -> Setup:
    """The family, and an SAE of a single latent without biases."""
    return Setup.of(p, SAEConfig(p.d_model, widths=(1,), l1=p.l1, encoder_bias=False, decoder_bias=False))


@dataclass(frozen=True)
class Curve:
    """What one latent holds, trained at many child probabilities for several numbers of children.

    Attributes:
        points: number of children and child probability of every setting.
        cosines: of the decoder with every feature; NaN where the latent never fires, and 0 beyond the setting's own.
    """

    points: list[tuple[int, float]]
    cosines: Float[Tensor, "points seeds features"]

    @property
    def gap(self) -> float:
        """The largest distance of a cosine from theory; NaN if no latent fires."""
        largest = []
        for (n, q), found in zip(self.points, self.cosines, strict=True):
            own, child = theory.parent_cosines(theory.narrow_ratio(q, n), n)
            miss = (found[:, : n + 1] - found.new_tensor([own, *[child] * n])).abs()
            largest += miss[~miss.isnan()].tolist()
        return max(largest, default=float("nan"))


def sweep_settings(p: Parameters, setup: Setup) -> tuple[list[tuple[int, float]], list[Setting]]:
    """The points of `Curve` and their settings."""
    points = [(n, q) for n in families(p) for q in np.linspace(0.02, min(0.5, 1 / n), p.n_grid).tolist()]
    directions = {n: setup.directions(setup.sweep_seeds, n) for n in families(p)}
    states = [family(p.parent_probability, q, n).states() for n, q in points]
    return points, [Setting(setup.sae, some, directions[n]) for (n, _), some in zip(points, states, strict=True)]


def curve(p: Parameters, setup: Setup, kind: str) -> Curve:
    """Train the sweep over the child's probability from one kind of start."""
    points, settings = sweep_settings(p, setup)
    trained = setup.sweep(settings, kind)
    largest = setup.directions(setup.sweep_seeds, max(families(p)))
    cosines = metrics.decoder_cosines(trained.sae, largest)[:, :, 0]
    # A latent that never fires leaves all of E||x||^2.
    power = torch.tensor([setting.states.power for setting in settings], dtype=torch.float64)
    cosines[~(trained.loss < 0.99 * power[:, None])] = torch.nan
    return Curve(points, cosines)


def draw_curve(near: Curve, random: Curve) -> Figure:
    """Theory as lines, and over them what was trained: from near the truth filled, from random starts open."""
    panels = []
    for column, name in [(1, "each child"), (0, "the parent")]:
        series = []
        for n in sorted({n for n, _ in near.points}):
            rows = [i for i, (m, _) in enumerate(near.points) if m == n]
            x = [near.points[i][1] for i in rows]
            fine = np.linspace(0.001, x[-1], 200)
            line = [theory.parent_cosines(theory.narrow_ratio(q, n), n)[column] for q in fine]
            points, open_points = near.cosines[rows, :, column], random.cosines[rows, :, column]
            series.append(
                {"label": f"{n} children", "x": x, "line_x": fine, "line_y": line}
                | {"points": points, "open_points": open_points}
            )
        panels.append(
            {"xlabel": "child probability given the parent", "ylabel": f"cosine with {name}", "series": series}
            | {"named": column > 0}
        )
    return figures.theory_and_experiment(panels)


def draw_latent(arms: Mapping[str, Arm], setup: Setup) -> Figure:
    """The latent's cosines in theory, and in the typical seed of each arm that has a live one."""
    panels = {"theory: decoder": theory.top_eigenvector(theory.second_moment(setup.states))[None].numpy()}
    for kind, arm in arms.items():
        if arm.live.any():
            panels[f"{kind}: decoder"] = arm.reading.decoder[arm.typical].numpy()
            panels[f"{kind}: encoder"] = arm.reading.encoder[arm.typical].numpy()
    return figures.heatmaps(panels, setup.tree.names, ["latent 0"], per_row=3)


@dataclass(frozen=True)
class Walk(_shared.Walk):
    """The walk of the hierarchy, and beside it the control's.

    Attributes:
        control: the loss for independent features that fire as often, with the best decoder bias as well.
    """

    control: Float[Tensor, " positions"]

    @property
    def control_saving(self) -> float:
        """The largest share of the clean parent's loss that any position saves with independent features."""
        return float(((self.control[0] - self.control) / self.control[0]).max())

    @property
    def rise(self) -> float:
        """The largest rise in one step up to the predicted decoder, as a share of the clean parent's loss."""
        return float(self.loss[:101].diff().max() / self.loss[0])


def walk(p: Parameters, setup: Setup) -> Walk:
    """Walk from the clean parent to the mixed decoder, and on."""
    position, decoders = steps_to(theory.narrow_ratio(p.child_probability, p.n_children), p.n_children)
    independent = without_hierarchy(setup.tree).states()
    control = theory.one_latent_loss(independent, decoders, biases=True)
    return Walk(position, theory.one_latent_loss(setup.states, decoders), control)


def loss_saving(arm: Arm, setup: Setup, clean: float, *, hierarchy: bool = True) -> Float[Tensor, " live"]:
    """Share of the loss of the clean parent, `clean`, that each live seed saves; the penalty is left out of both.

    The arm was trained on the family, or without a `hierarchy` on independent features, as in `Setup.fit`.
    """
    states = setup.states if hierarchy else without_hierarchy(setup.tree).states()
    x, unpenalised = states.inputs(setup.directions(setup.seeds)), replace(setup.sae, l1=0.0)
    return ((clean - arm.trained.sae[0].loss(x, states.probs, unpenalised)) / clean)[arm.live]


def draw_walk(found: Walk) -> Figure:
    """Both losses along the walk, each relative to its start."""
    losses = {"hierarchy": found.loss, "independent features (control)": found.control}
    return _shared.draw_walk(found.position, losses)


@dataclass(frozen=True)
class Robustness:
    """The latent from near the truth, over the parent's probability and over the penalty.

    Attributes:
        rates, penalties: the amounts.
        by_rate, by_penalty: cosines of the decoder with every feature.
    """

    rates: Float[np.ndarray, " rates"]
    penalties: Float[np.ndarray, " penalties"]
    by_rate: Float[Tensor, "rates seeds features"]
    by_penalty: Float[Tensor, "penalties seeds features"]

    @property
    def rate_shift(self) -> float:
        """How far apart any cosine's values lie over all rates and seeds."""
        return float((self.by_rate.amax((0, 1)) - self.by_rate.amin((0, 1))).max())

    @property
    def penalty_shift(self) -> float:
        """The largest distance of a cosine from the same seed's at the first penalty."""
        return float((self.by_penalty - self.by_penalty[:1]).abs().max())


def robustness(p: Parameters, setup: Setup) -> Robustness:
    """Train over the parent's probability, and over penalties from the chapter's own upwards."""
    rates, penalties = np.geomspace(0.001, 0.5, p.n_grid), p.l1 + np.linspace(0, 0.3, p.n_grid)
    families = [family(rate, p.child_probability, p.n_children).states() for rate in rates.tolist()]
    directions = setup.directions(setup.sweep_seeds)
    settings = [Setting(setup.sae, states, directions) for states in families]
    settings += [Setting(replace(setup.sae, l1=penalty), setup.states, directions) for penalty in penalties]
    cosines = metrics.decoder_cosines(setup.sweep(settings).sae, directions)[:, :, 0]
    return Robustness(rates, penalties, cosines[: p.n_grid], cosines[p.n_grid :])


def draw_robustness(found: Robustness, predicted: tuple[float, float]) -> Figure:
    """Cosines with the parent and the first child over both amounts, and as lines what was `predicted` of the two."""
    panels = []
    for xlabel, x, values in [
        ("probability of the parent", found.rates, found.by_rate),
        ("L1 penalty", found.penalties, found.by_penalty),
    ]:
        series = [
            {"label": label, "x": x, "points": values[:, :, i], "line_x": x, "line_y": np.full(len(x), predicted[i])}
            for i, label in enumerate(("with the parent", "with a child"))
        ]
        panels.append({"xlabel": xlabel, "ylabel": "cosine", "log": x is found.rates, "series": series})
    return figures.theory_and_experiment(panels)


def draw_seeds(
    exact: Mapping[str, Arm], sampled: Mapping[str, Arm], biased: Arm, control: Arm, predicted: float
) -> Figure:
    """Every live seed's cosine with a child (for the control with a foreign feature), beside the predicted one."""
    strips = {f"exact, {kind}": arm.child_cosines for kind, arm in exact.items()}
    strips |= {f"sampled, {kind}": arm.child_cosines for kind, arm in sampled.items()}
    strips["decoder bias, random"] = biased.child_cosines_either_sign
    strips["control: independent, random"] = control.foreign_cosines
    groups = {name: values.numpy() for name, values in strips.items()}
    return figures.seed_strips(groups, "cosine with a child", reference=predicted, label="theory")
