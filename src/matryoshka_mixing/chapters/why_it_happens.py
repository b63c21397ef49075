"""Why it happens: which terms of the loss mix the features, and what the children's decoders make of it.

A *term* of the loss is one prefix on one state. It is *blamed* if its prefix holds the parent's latent, a child is
active, and the prefix misses that child's latent. The experiments multiply single terms, or hold one decoder row still,
and train again. *A4* is the theory's assumption that each latent fires with its own feature and with no other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from matplotlib.figure import Figure
from torch import Tensor

from matryoshka_mixing import claims, features, figures, metrics, theory
from matryoshka_mixing.features import FeatureTree, States, family
from matryoshka_mixing.metrics import Reading
from matryoshka_mixing.parameters import Chapter, given
from matryoshka_mixing.sae import SAE, SAEConfig, random_start, start_near
from matryoshka_mixing.training import Setting, TrainConfig, train

KINDS = {"near": "near the truth", "random": "random"}
"""The two kinds of starts, and what figures call them."""
COSINES = ("parent's latent with a child", "child's latent with a sibling", "child's latent with the parent")
"""The three cosines that every sweep shows."""
CLEAR = 0.005
"""A cosine at most this large in size has no sign worth counting (our default)."""
NAN = float("nan")


# The set-up


@dataclass(frozen=True)
class Parameters(Chapter):
    """What a reader may change. One section has five children, so there are 6 dimensions at least."""

    parent_probability: float = given("parent_probability", 0.3)
    child_probability: float = given("child_probability", 0.4)
    n_children: int = given("n_children", 2)
    inner_weight: float = given("inner_weight", 1.0)
    l1: float = given("l1", 0.03, meaning="weight of the L1 penalty in the runs that test for absorption")
    d_model: int = given("d_model", 20, low=6)
    n_seeds: int = given("n_seeds", 192)
    n_sweep_seeds: int = given("n_sweep_seeds", 16)
    seed: int = given("seed", 0)
    start_noise: float = given("start_noise", 0.5)
    n_steps: int = given("n_steps", 2000)
    n_grid: int = given("n_grid", 9)


@dataclass(frozen=True)
class Run:
    """SAEs trained from the same starts in some settings; axes (settings, seeds)."""

    settings: list[Setting]
    sae: SAE
    loss: Float[Tensor, "settings seeds"]
    converged: Bool[Tensor, "settings seeds"]

    @cached_property
    def cosines(self) -> Float[Tensor, "settings seeds latents features"]:
        """Decoder cosines of every latent with every feature."""
        return metrics.decoder_cosines(self.sae, torch.stack([one.directions for one in self.settings]))

    @cached_property
    def acts(self) -> list[Float[Tensor, "seeds states latents"]]:
        """Activations on every state, by setting."""
        return [sae.encode(one.inputs) for sae, one in zip(self.sae, self.settings, strict=True)]

    def __getitem__(self, some: slice) -> Run:
        return Run(self.settings[some], self.sae[some], self.loss[some], self.converged[some])

    def keeps_a4(self, latents: Int[Tensor, "settings seeds features"] | None = None) -> Bool[Tensor, "settings seeds"]:
        """Assumption A4: whether each feature's latent fires on all inputs that hold it, and on no others.

        Without `latents` each feature's latent is the one of its number: there are runs in which matching is a tie.
        """
        if latents is None:
            latents = torch.arange(self.cosines.shape[-1]).expand(*self.loss.shape, -1)
        each = zip(self.acts, latents, self.settings, strict=True)
        return torch.stack([metrics.each_its_own(acts, own, one.states.acts) for acts, own, one in each])


@dataclass(frozen=True)
class Setup:
    """What the experiments share: one parent with n equal children, and a Matryoshka SAE of widths (1, n + 1).

    Attributes:
        p: the parameters.
        tree, states: the family and its states.
        seeds: numbers of all random seeds; every experiment takes the first of them.
        directions: of each seed, for as many features as any experiment has; each takes the first.
        sae: without biases and penalty; the inner prefix weighs beta.
        terms, blamed: the weight of every term (of its prefix, times the probability of its state), and whether it is
            blamed.
        omega: how much each state pulls on the parent's decoder, from `theory.prefix_weights`.
        exact: how everything is trained.
    """

    p: Parameters
    tree: FeatureTree
    states: States
    seeds: range
    directions: Float[Tensor, "seeds most_features d_in"]
    sae: SAEConfig
    terms: Float[Tensor, "2 states"]
    blamed: Bool[Tensor, "2 states"]
    omega: Float[Tensor, " states"]
    exact: TrainConfig

    def near_truth(self, n_seeds: int, noise: float, n_features: int) -> SAE:
        """Starts near each seed's own directions."""
        return start_near(self.directions[:n_seeds, :n_features], self.seeds[:n_seeds], noise)

    def close(self, n_features: int, n_seeds: int = 3) -> SAE:
        """Starts at a fifth of the noise, with at most so many of the sweep's seeds."""
        return self.near_truth(min(n_seeds, self.p.n_sweep_seeds), self.p.start_noise / 5, n_features)

    @cached_property
    def near(self) -> SAE:
        """Starts near the truth, a quarter of `n_seeds`."""
        return self.near_truth(max(1, self.p.n_seeds // 4), self.p.start_noise, self.tree.n_features)

    @cached_property
    def random(self) -> SAE:
        """Random starts, three times `n_seeds`; the last two thirds are for the last claim."""
        return random_start(self.sae, self.seeds[: 3 * self.p.n_seeds])

    @cached_property
    def tried(self) -> dict[str, SAE]:
        """Where interventions start, by kind: all of `near`, and half of the first `n_seeds` random ones."""
        return {"near": self.near, "random": self.random[: max(1, self.p.n_seeds // 2)]}

    @cached_property
    def sweep(self) -> dict[str, SAE]:
        """Starts for each point of a sweep, by kind."""
        n = self.p.n_sweep_seeds
        near = self.near_truth(n, self.p.start_noise, self.tree.n_features)
        return {"near": near, "random": random_start(self.sae, self.seeds[:n])}

    def fit(self, start: SAE, *changes: Mapping[str, Any], **training: Any) -> Run:
        """Train the SAE from starts of the first seeds; with `changes`, once for each of them.

        Args:
            start: initial parameters; as many features as latents take part, in the order of the latents.
            changes: attributes of the `Setting` or of its `SAEConfig`, where they differ.
            training: attributes of the `TrainConfig`, where they differ.
        """
        latents, settings = start.b_enc.shape[-1], []
        common: dict[str, Any] = {"data": self.states, "dictionary": self.directions[: start.instances[-1], :latents]}
        of_sae = {entry.name for entry in fields(SAEConfig)}
        for change in changes or [{}]:
            sae = {"widths": (1, latents)} | {key: value for key, value in change.items() if key in of_sae}
            rest = {key: value for key, value in change.items() if key not in of_sae}
            settings.append(Setting(replace(self.sae, **sae), **common | rest))
        found = train(settings, start, replace(self.exact, **training))
        return Run(settings, found.sae, found.loss, found.converged)

    def read(self, sae: SAE) -> Reading:
        """Measure SAEs of the family that started from the first seeds; axes (seeds,) or (settings, seeds)."""
        dictionary = self.directions[: sae.instances[-1], : self.tree.n_features]
        return metrics.read(sae, self.states, dictionary[(None,) * (len(sae.instances) - 1)], self.tree.parents())


def set_up(p: Parameters) -> Setup:
    """Draw the directions of every seed, and list the terms."""
    tree = family(p.parent_probability, p.child_probability, p.n_children)
    states, widths, weights = tree.states(), (1, p.n_children + 1), (p.inner_weight, 1.0)
    seeds = range(p.seed, p.seed + max(3 * p.n_seeds, p.n_sweep_seeds))
    has_child = (states.acts[:, 1:] > 0).any(-1)
    return Setup(
        p=p,
        tree=tree,
        states=states,
        seeds=seeds,
        directions=features.orthonormal_dictionaries(max(tree.n_features, 6), p.d_model, seeds),
        sae=SAEConfig(p.d_model, widths, weights, encoder_bias=False, decoder_bias=False),
        terms=torch.tensor(weights, dtype=torch.float64)[:, None] * states.probs,
        blamed=torch.stack([has_child, torch.zeros_like(has_child)]),
        omega=theory.prefix_weights(states, range(tree.n_features), widths, weights),
        exact=TrainConfig(p.n_steps, seed=p.seed),
    )


def pairs(n_children: int) -> Float[Tensor, "children features"]:
    """Parent + child, for every child."""
    eye = torch.eye(n_children + 1, dtype=torch.float64)
    return eye[1:] + eye[0]


def middle(losses: Float[Tensor, "*settings seeds"]) -> Int[Tensor, "*settings"]:
    """The seed of median loss; losses that agree to 9 digits are a tie, and go by number."""
    return losses.mul(1e9).round().argsort(dim=-1, stable=True)[..., losses.shape[-1] // 2]


def largest(gaps: Float[Tensor, "*shape"], kept: Bool[Tensor, "*shape"] | None = None) -> float:
    """The largest number (of those kept); NaN where there is none."""
    chosen = gaps.flatten() if kept is None else gaps[kept]
    return float(chosen.max()) if len(chosen) else NAN


def told(values: Float[Tensor, "*shape"] | float, of: Callable = torch.median, form: str = "") -> str:
    """A statistic of what is known, as prose has it: by `claims.number`, or in a form such as ".2f"."""
    known = torch.as_tensor(values, dtype=torch.float64).flatten()
    known = known[~known.isnan()]
    if not len(known):
        return "not known"
    return format(float(of(known)), form) if form else claims.number(float(of(known)))


def converged(*runs: Run) -> float:
    """Share of SAEs that converged, in the run where it is smallest."""
    return min(float(run.converged.double().mean()) for run in runs)


# The derivation, in feature space


def both_sides(what: str, left: Float[Tensor, "*shape"], right: Float[Tensor, "*#shape"] | float) -> None:
    """Print how far apart two sides of an equation are that were computed in different ways."""
    print(f"{what}: largest difference {claims.number(float((left - right).abs().max()))}")


def completed(u: Float[Tensor, " features"]) -> SAE:
    """The SAE with this decoder of the parent whose children's latents carry exactly what is left.

    Args:
        u: a unit vector without a negative entry, so that A4 holds, and not along parent + child.
    """
    eye, both = torch.eye(len(u), dtype=torch.float64), pairs(len(u) - 1)
    rest = both - (both @ u)[:, None] * u
    size = rest.norm(dim=-1, keepdim=True)
    encoder, decoder = torch.cat([u[None], size * eye[1:]]), torch.cat([u[None], rest / size])
    return SAE(encoder.T, torch.zeros_like(u), decoder, torch.zeros_like(u))


def reduced_loss(
    states: States, omega: Float[Tensor, " states"], u: Float[Tensor, "*points features"]
) -> Float[Tensor, "*points"]:
    """The loss of `completed`: `sum over s of omega_s p_s (||x_s||^2 - (x_s . u)^2)`."""
    return (omega * states.probs * (states.acts.square().sum(-1) - (u @ states.acts.T) ** 2)).sum(-1)


def arrow(moment: Float[Tensor, "features features"]) -> tuple[Float[Tensor, ""], Float[Tensor, " children"]]:
    """The weight of parent alone, and the blamed weight of each child, from a re-weighted second moment."""
    return moment[0, 0] - moment[0, 1:].sum(), moment[0, 1:]


def uneven_family(p: Parameters, generator: torch.Generator) -> tuple[States, SAEConfig]:
    """Five unequal children and five prefixes of unequal weights, all drawn at random."""
    shares = torch.rand(6, dtype=torch.float64, generator=generator)
    states = family(p.parent_probability, (shares[1:] / shares.sum()).tolist(), 5).states()
    return states, SAEConfig(6, (1, 2, 3, 5, 6), tuple(torch.rand(5, generator=generator).tolist()))


def three_lines(ratio: float, n_children: int) -> list[float]:
    """The cosines of `COSINES` by theory, for a parent of equal ratios."""
    children = theory.child_cosines(ratio, n_children)
    return [theory.parent_cosines(ratio, n_children)[1], children[2], children[0]]


def all_decoders(ratios: Float[Tensor, "*points children"]) -> Float[Tensor, "*points latents features"]:
    """All unit decoders by theory, for a parent of these ratios."""
    parent = unit_parent(ratios)[..., None, :]
    return torch.cat([parent, theory.child_decoder(parent, pairs(ratios.shape[-1]))], -2)


def unit_parent(ratios: Float[Tensor, "*points children"]) -> Float[Tensor, "*points features"]:
    """The unit vector along `f_0 + t_1 f_1 + ... + t_n f_n`."""
    parent = torch.cat([torch.ones_like(ratios[..., :1]), ratios], -1)
    return parent / parent.norm(dim=-1, keepdim=True)


# The blamed terms up and down


def dose(setup: Setup, factors: Float[Tensor, " doses"]) -> dict[str, Run]:
    """Train with the blamed terms multiplied by each factor, from the sweep's starts of either kind."""
    terms = [{"terms": scaled(setup.blamed, factor)} for factor in factors.tolist()]
    return {kind: setup.fit(start, *terms) for kind, start in setup.sweep.items()}


def dosed_decoders(setup: Setup, factors: Float[Tensor, " doses"]) -> Float[Tensor, "doses latents features"]:
    """All decoders by theory, with the blamed terms multiplied by each factor."""
    alone, weights = arrow(theory.second_moment(setup.states, setup.omega))
    return all_decoders(theory.unequal_ratios(alone, factors[:, None] * weights))


def read_doses(setup: Setup, runs: Mapping[str, Run]) -> list[Float[Tensor, "3 doses seeds"]]:
    """The cosines of `COSINES` for the first child, of either kind of start; NaN where A4 fails.

    Of the random ones only those count that have the loss of the median seed from near the truth.
    """
    solution, found = runs["near"].loss.median(1, keepdim=True).values, []
    for kind, run in runs.items():
        reading, same = setup.read(run.sae), metrics.same_loss(run.loss, solution, setup.states.power)
        mixed = reading.decoder[..., 0, 1:], reading.mixing.child_to_sibling, reading.mixing.child_to_parent
        counts = run.keeps_a4(reading.latents) & (same | (kind == "near"))
        found.append(torch.where(counts, torch.stack([pairs[..., 0] for pairs in mixed]), torch.nan))
    return found


def draw_doses(
    setup: Setup, factors: Float[Tensor, " doses"], points: Sequence[Float[Tensor, "3 doses seeds"]]
) -> Figure:
    """The three cosines against the factor. A child's decoder without blamed terms is not unique, and not drawn."""
    fine, panels = torch.linspace(0, float(factors.max()), 200).double(), []
    decoders = dosed_decoders(setup, fine)
    lines = [decoders[:, 0, 1], decoders[:, 1, 2], decoders[:, 1, 0]]
    for which, first in ([0], 0), ([1, 2], 1):
        panel = _panel(which, factors[first:], points[0][:, first:], fine, lines)
        for series, i in zip(panel["series"], which, strict=True):
            series["open_points"] = points[1][i, first:]
        panels.append(panel | {"xlabel": "factor on the blamed terms"})
    return figures.theory_and_experiment(panels)


def dose_explorable(setup: Setup, factors: Float[Tensor, " doses"], near: Run) -> str:
    """The picture that a reader moves: both mixings against the factor, with seeds of median loss as dots."""
    seeds, each = middle(near.loss), torch.arange(len(factors))
    mixed = near.cosines[each, seeds][:, [0, 1], [1, 2]]
    mixed[~near.keeps_a4()[each, seeds], 1] = NAN
    start = {"q": setup.p.child_probability, "n": setup.p.n_children, "beta": setup.p.inner_weight}
    shown = {
        "x": "blamed",
        "most": float(factors.max()),
        "controls": ["blamed", "q", "n", "times", "beta", "turn"],
        "modes": False,
    }
    dots = [[factor, *pair] for factor, pair in zip(factors.tolist(), mixed.tolist(), strict=True)]
    return figures.explorable("dose-explorable", start, dots, notebook="04_why_it_happens", **shown)


def _panel(which: Sequence[int], x, points, line_x, lines) -> dict:
    """A panel of `figures.theory_and_experiment` with some of the three cosines."""
    series = [{"label": COSINES[i], "x": x, "line_x": line_x, "line_y": lines[i], "points": points[i]} for i in which]
    return {"series": series, "ylabel": "decoder cosine"}


# (a) Which terms pull


def balance(setup: Setup, run: Run) -> tuple[Float[Tensor, "seeds 2 states features"], Float[Tensor, " known"], float]:
    """Split the gradient on the parent's decoder into its terms, for a run of one setting.

    The pull of a term is minus its gradient: `2 * weight * activation * (x - x_m)`.

    Returns:
        The pull of every term along every feature. Then, in live seeds in which something pulls toward each child: the
        blamed terms' share of it, for the child where it is smallest; and the largest sum of all pulls, relative to the
        blamed ones (NaN without such a seed).
    """
    sae, dictionary, acts = run.sae[0], run.settings[0].directions, run.acts[0]
    left = [setup.states.inputs(dictionary) - sae.decode(acts, width) for width in setup.sae.widths]
    rest = torch.stack(left, -3) @ dictionary[:, None].mT
    parts = 2 * setup.terms[..., None] * acts[:, None, :, :1] * rest
    toward = parts[..., 1:].clamp_min(0)
    by_blamed, total = (toward * setup.blamed[..., None]).sum((-3, -2)), toward.sum((-3, -2))
    known = (total > 0).all(-1) & metrics.live(acts).all(-1)
    imbalance = parts.sum((-3, -2)).abs().amax(-1) / by_blamed.amin(-1)
    return parts, (by_blamed / total).amin(-1)[known], largest(imbalance, known)


def group_pulls(
    setup: Setup, parts: Float[Tensor, "prefixes states features"]
) -> dict[str, Float[Tensor, " features"]]:
    """The pulls of one SAE by groups of terms, named as in the figure."""
    alone = setup.states.acts.sum(-1) == 1
    groups = {f"{name} prefix on parent alone": parts[i, alone].sum(0) for i, name in enumerate(("inner", "outer"))}
    for child in range(1, setup.tree.n_features):
        on = setup.states.acts[:, child] > 0
        groups[f"blamed: inner prefix on parent + child {child}"] = parts[0, on].sum(0)
    groups["outer prefix on parent + child"] = parts[1, setup.blamed[0]].sum(0)
    return groups


def draw_balance(groups: Mapping[str, Float[Tensor, " features"]], names: Sequence[str]) -> Figure:
    """What pulls which way: for each feature the parts of all groups of terms, stacked to either side of zero."""
    figure, axis = plt.subplots(figsize=(7.6, 0.62 * len(names) + 1.5))
    axis.use_sticky_edges = False
    places, ends = range(len(names)), np.zeros((2, len(names)))
    hatches = ("", "//", "..", "\\\\", "xx", "++")
    for i, (label, group) in enumerate(groups.items()):
        pull = group.numpy()
        side = (pull > 0).astype(int)
        axis.barh(
            places, pull, left=ends[side, places], height=0.62, color=figures.COLOURS[i % len(figures.COLOURS)],
            label=label, hatch=hatches[i % len(hatches)], edgecolor="white", lw=0.5,
        )  # fmt: skip
        ends[side, places] += pull
    axis.axvline(0, color="0.3", lw=1)
    axis.set_yticks(places, [f"along {name}" for name in names])
    axis.invert_yaxis()
    axis.set(xlabel="pull on the parent's decoder (minus the gradient of the loss)")
    axis.legend(fontsize=9, loc="lower left", bbox_to_anchor=(-0.1, 1), borderaxespad=0.2)
    return figure


# (b) Without the blamed terms


def removals(setup: Setup) -> tuple[dict[str, dict[str, Tensor]], list[float]]:
    """Factors on the terms that remove the blamed ones, or others that weigh as much.

    The first control takes the weight from the same inputs in the outer prefix, the second evenly from all other terms
    on the parent.

    Returns:
        Changes of the setting by name, and what share of the blamed weight each control can remove, at most 1.
    """
    terms, blamed = setup.terms, setup.blamed
    same_inputs, others = blamed.flip(0), ~blamed & (setup.states.acts[:, 0] > 0)
    groups = {"same inputs, outer prefix": same_inputs, "all other terms, evenly": others}
    share = [float(terms[group].sum() / terms[blamed].sum()) for group in groups.values()]
    changes = {"blamed terms removed": {"terms": scaled(blamed, 0)}}
    for (label, group), own in zip(groups.items(), share, strict=True):
        changes[f"control: {label}"] = {"terms": scaled(group, max(0, 1 - 1 / own))}
    return changes, [min(1.0, own) for own in share]


def scaled(group: Bool[Tensor, "prefixes states"], factor: float) -> Float[Tensor, "prefixes states"]:
    """This factor on a group of terms, and 1 on the others."""
    return torch.where(group, float(factor), 1.0).double()


def intervene(
    setup: Setup, changes: Mapping[str, Mapping[str, object]]
) -> tuple[dict[str, Run], dict[str, dict[str, Reading]]]:
    """Train with each change of the setting: runs by kind of start; readings by change, then by kind of start."""
    runs = {kind: setup.fit(start, *changes.values()) for kind, start in setup.tried.items()}
    found = enumerate(changes)
    return runs, {label: {kind: setup.read(run.sae[i]) for kind, run in runs.items()} for i, label in found}


def mixed_in(reading: Reading) -> Float[Tensor, " live_seeds"]:
    """The first latent's largest cosine with a child, in size, in live seeds."""
    return reading.decoder[reading.all_live][:, 0, 1:].abs().amax(-1)


def kept(controls: Sequence[Reading], factors: Sequence[float]) -> Float[Tensor, " live_seeds"]:
    """The first latent's smallest cosine with a child over all controls, in seeds that are live in all of them.

    No seed counts where a control cannot remove the whole blamed weight (a factor below 1).
    """
    live = torch.stack([reading.all_live for reading in controls]).all(0) & (min(factors) > 1 - 1e-9)
    return torch.stack([reading.decoder[:, 0, 1:].amin(-1) for reading in controls]).amin(0)[live]


def beside_whole(
    near: Reading, random: Reading, without: Mapping[str, Mapping[str, Reading]]
) -> dict[str, Mapping[str, Reading]]:
    """The readings under the whole loss, and beside them those without some terms."""
    return {"whole loss": {"near": near, "random": random}, **without}


def draw_removed(readings: Mapping[str, Mapping[str, Reading]]) -> Figure:
    """`mixed_in` of every live seed, for every table of terms and kind of start."""
    strips = {
        f"{label}, {KINDS[kind]}": mixed_in(reading).numpy()
        for label, by_kind in readings.items()
        for kind, reading in by_kind.items()
    }
    return figures.seed_strips(strips, "largest |cosine| with a child")


def reaches(setup: Setup) -> dict[str, dict[str, object]]:
    """With an L1 penalty: the blamed terms, and their part of the penalty, reach everything, nothing, or one part."""
    reached = {"everything": (1, 1), "nothing": (0, 0), "encoder only": (1, 0), "decoder only": (0, 1)}
    return {
        name: {"l1": setup.p.l1, "terms": scaled(setup.blamed, e), "decoder_terms": scaled(setup.blamed, d)}
        for name, (e, d) in reached.items()
    }


def penalised(setup: Setup, changes: Mapping[str, Mapping[str, object]]) -> dict[str, dict[str, object]]:
    """The same changes of the setting, each with the L1 penalty; factors on terms then hold for their part of it."""
    return {name: {"l1": setup.p.l1, **change} for name, change in changes.items()}


def absorption(reading: Reading) -> Float[Tensor, " live_seeds"]:
    """The absorption of live seeds in which the parent is not missing."""
    found = reading.absorption[reading.all_live]
    return found[~found.isnan()]


def silent(*readings: Reading) -> Float[Tensor, " live_seeds"]:
    """On what share of its inputs beside a child the parent's latent is silent; the largest of all readings.

    Of the seeds that are live in all readings, and in which the parent is missing in none.
    """
    each = [reading.edges.mean(reading.edges.silent).masked_fill(~reading.all_live, torch.nan) for reading in readings]
    found = torch.stack(each).amax(0)
    return found[~found.isnan()]


def draw_reach(run: Run, reach: Mapping[str, Mapping[str, Reading]], names: Sequence[str]) -> Figure:
    """Decoder cosines of the seed of median loss for every reach, with the median absorption.

    Args:
        run: from near the truth.
        reach: readings, by reach and kind of start.
        names: of the features.
    """
    panels = {}
    for (name, readings), cosines, typical in zip(reach.items(), run.cosines, middle(run.loss), strict=True):
        near, random = (told(absorption(readings[kind]), form=".2f") for kind in KINDS)
        panels[f"reach {name}\nabsorption {near} (random {random})"] = cosines[typical].numpy()
    return figures.heatmaps(panels, names, per_row=2, width=3)


# (c) The parent's decoder held


def hold(setup: Setup, start: SAE, mixtures: Float[Tensor, "mixtures children"], l1: float = 0.0) -> Run:
    """Train all but the parent's decoder, held at each mixture, at length 1."""
    held = start.map(lambda parameter: parameter.repeat(len(mixtures), *[1] * parameter.ndim))
    dictionary = setup.directions[: len(start), : setup.tree.n_features]
    held.W_dec[..., 0, :] = torch.einsum("mf,sfd->msd", unit_parent(mixtures), dictionary)
    return setup.fit(held, *[{"l1": l1, "held": {"W_dec": 0}}] * len(mixtures))


def held_levels(n_grid: int, n_children: int) -> Float[Tensor, "mixtures children"]:
    """Mixtures to hold: all children equal, from 0 to 1, then the first one so and the others with a third of it."""
    levels = torch.linspace(0, 1, n_grid, dtype=torch.float64)[:, None].expand(-1, n_children)
    return torch.cat([levels, torch.cat([levels[:, :1], levels[:, 1:] / 3], -1)])


def held_gap(run: Run, mixtures: Float[Tensor, "mixtures children"]) -> float:
    """Largest distance of a child's cosine from the formula, where A4 holds."""
    gaps = run.cosines[..., 1:, :] - all_decoders(mixtures)[:, None, 1:]
    return largest(gaps.abs().amax((-2, -1)), run.keeps_a4())


def siblings(reading: Reading, in_size: bool = True) -> Float[Tensor, " live_seeds"]:
    """The largest sibling cosine of each live seed, in size or with its sign."""
    found = reading.mixing.child_to_sibling[reading.all_live]
    return (found.abs() if in_size else found).amax(-1)


def draw_held(run: Run, mixtures: Float[Tensor, "mixtures children"]) -> Figure:
    """The first child's cosines with its sibling and its parent, against what the parent is held at."""
    shown = torch.where(run.keeps_a4()[..., None], run.cosines[..., 1, :], torch.nan)
    formula, half, panels = all_decoders(mixtures)[:, 1], len(mixtures) // 2, []
    for kind, rows in [("all equal", slice(0, half)), ("others a third", slice(half, None))]:
        x = mixtures[rows, 0]
        series = [
            {"label": f"child 1's latent with {name}", "x": x, "line_x": x, "line_y": formula[rows, i]}
            | {"points": shown[rows, :, i]}
            for name, i in {"child 2": 2, "the parent": 0}.items()
        ]
        xlabel = f"held ratio t of child 1 ({kind})"
        panels.append({"xlabel": xlabel, "ylabel": "decoder cosine", "series": series})
    return figures.theory_and_experiment(panels)


# Later children, and random prefixes


def by_rank(setup: Setup) -> list[dict]:
    """Train five equal children with every prefix in every step, and with the full width and two others drawn anew.

    Returns:
        For both the parent's cosine with each child against the rank of the child's latent, as series of
        `figures.theory_and_experiment`: in every seed (with all prefixes NaN where A4 fails), and by theory.
    """
    p, widths, chances = setup.p, (1, 2, 3, 4, 5, 6), np.diff(np.sqrt(np.arange(6))).tolist()
    states = family(p.parent_probability, min(1.0, p.n_children * p.child_probability) / 5, 5).states()
    start, five = setup.close(6, p.n_sweep_seeds), {"widths": widths, "data": states}
    every = setup.fit(start, five | {"weights": ()})
    drawn = setup.fit(start, five | {"weights": (*chances, 1.0), "drawn": 2}, lr=0.01, cooldown=0.9)
    full = torch.where(every.keeps_a4()[0, :, None], every.cosines[0, :, 0, 1:], torch.nan)
    x, found = np.arange(1, 6), []
    for label, values, weights in [
        ("all prefixes", full, [1.0] * 6),
        ("sampled prefixes", drawn.cosines[0, :, 0, 1:], [*theory.inclusion_probabilities(chances, 2), 1.0]),
    ]:
        line = theory.matryoshka_optimum(states, range(6), widths, weights)[1:]
        found.append({"label": label, "x": x, "line_x": x, "line_y": line, "points": values.T})
    return found


def draw_ranks(series: Sequence[dict]) -> Figure:
    """The cosine with each child against the rank of its latent."""
    labels = {"xlabel": "rank of the child's latent", "ylabel": "parent's cosine with the child"}
    return figures.theory_and_experiment([{"series": series} | labels])


# The negative cosine of a child with its parent


def lean_boundary(
    ratio: Float[Tensor, "*points"], n_children: int, inner_weight: float = 1.0
) -> tuple[Float[Tensor, "*points"], Float[Tensor, "*points"]]:
    """Where a child's cosine with its parent changes sign: child probability q and L1 penalty, along a curve.

    For a Matryoshka SAE of widths (1, n + 1) and weights (beta, 1) with n equal exclusive children, whose latents all
    stay active (half the penalty lies below what each has to write). The curve's
    parameter is the ratio t of the parent's decoder, from 0 to 1/n; below the curve (a smaller penalty) the cosine is
    negative.

    The penalty shrinks the activation a of the parent's latent on parent + child; the child's latent takes the rest,
    x - a u, whose part along the parent is 1 - a / N with N^2 = 1 + n t^2. It vanishes at a = N. Setting to 0 the
    derivatives of the loss there by a, and then by t, gives

        l1 = 2 beta t (1 - nt) / (N (beta + 1 - t (1 - nt) / (N r))),    r^2 = (1 - t)^2 + (n - 1) t^2
        q / (1 - n q) = (1 + beta) t (2 / N - l1) / (N (1 - nt) (2 beta + l1 / r))
    """
    t, n, beta = ratio, n_children, inner_weight
    norm, rest = (1 + n * t**2) ** 0.5, ((1 - t) ** 2 + (n - 1) * t**2) ** 0.5
    excess = t * (1 - n * t) / norm
    l1 = 2 * beta * excess / (beta + 1 - excess / rest)
    alone = (1 + beta) * t * (2 / norm - l1)
    with_child = norm * (1 - n * t) * (2 * beta + l1 / rest)
    return alone / (with_child + n * alone), l1


def unequal_boundary(inner_weight: float) -> tuple[Float[Tensor, " points"], Float[Tensor, " points"]]:
    """Where the first of two children has no part of the parent: its probability and its sibling's, along a curve.

    That is the line `t_1 = t_1^2 + t_2^2`, a circle: by its angle, `t = r (cos, sin)` with `r = cos`. From ratios back
    to probabilities: the blamed weight of a child is `lambda t_i / (1 + t_i)`.
    """
    angle = torch.linspace(0.01, torch.pi / 2 - 0.01, 300, dtype=torch.float64)
    t = torch.stack([angle.cos() ** 2, angle.cos() * angle.sin()], -1)
    pulled = t / (1 + t)
    alone = (1 - pulled.sum(-1) - (pulled * t).sum(-1)) / (1 + inner_weight)
    total = (pulled / inner_weight).sum(-1) + alone
    first, second = (pulled / inner_weight / total[:, None])[alone > 0].T
    return first, second


@dataclass(frozen=True)
class LeanMap:
    """A child's cosine with its parent, for two children over a plane.

    Attributes:
        run: the trained SAEs, axes (cells, seeds).
        x, y: the axes.
        leans: the first child's cosine, median over seeds; NaN outside the plane.
        agreement: share of cosines whose sign is as predicted, of those that are `CLEAR`; NaN where none is.
        gap: the largest distance of any decoder cosine from theory where A4 holds; not asked where there is a penalty.
    """

    run: Run
    x: Float[np.ndarray, " x"]
    y: Float[np.ndarray, " y"]
    leans: Float[np.ndarray, "y x"]
    agreement: float
    gap: float = NAN


def map_unequal(setup: Setup) -> LeanMap:
    """Over the probability of a child and of its sibling; every child of every SAE counts for the agreement."""
    p, chances = setup.p, np.linspace(0.02, 0.94, setup.p.n_grid + 2)
    y, x = np.nonzero(chances[:, None] + chances < 0.99)
    shares = torch.from_numpy(chances[np.stack([x, y], -1)])
    data = [family(p.parent_probability, cell, 2).states() for cell in shares.tolist()]
    run = setup.fit(setup.close(3), *({"data": states} for states in data))
    ratios = theory.unequal_ratios((1 + p.inner_weight) * (1 - shares.sum(-1)), p.inner_weight * shares)
    predicted = all_decoders(ratios)[:, None].expand_as(run.cosines)
    leans, expected = run.cosines[..., 1:, 0], predicted[..., 1:, 0]
    grid = np.full((len(chances), len(chances)), np.nan)
    grid[y, x] = leans[..., 0].median(-1).values
    agreement = (leans.sign() == expected.sign())[expected.abs() > CLEAR].double().mean()
    gap = largest((run.cosines - predicted).abs().amax((-2, -1)), run.keeps_a4())
    return LeanMap(run, chances, chances, grid, float(agreement), gap)


def map_penalty(setup: Setup) -> LeanMap:
    """Over the probability of each of two equal children and the L1 penalty; medians count for the agreement."""
    p = setup.p
    penalties, chances = np.linspace(0, 0.2, p.n_grid + 2), np.linspace(0.02, 0.49, p.n_grid + 2)
    data = [family(p.parent_probability, q, 2).states() for q in chances.tolist()]
    run = setup.fit(setup.close(3), *({"l1": l1, "data": states} for l1 in penalties.tolist() for states in data))
    leans = run.cosines[..., 1, 0].median(-1).values.unflatten(0, (len(penalties), len(chances)))
    q_at, l1_at = lean_boundary(torch.linspace(1e-4, 0.4999, 4000, dtype=torch.float64), 2, p.inner_weight)
    above = torch.from_numpy(penalties[:, None] - np.interp(chances, q_at, l1_at))
    agreement = (leans.sign() == above.sign())[leans.abs() > CLEAR].double().mean()
    return LeanMap(run, chances, penalties, leans.numpy(), float(agreement))


def draw_signs(unequal: LeanMap, penalty: LeanMap, inner_weight: float) -> Figure:
    """Both maps, with theory's lines where the sign turns."""
    turn = lean_boundary(torch.linspace(0.002, 0.498, 300, dtype=torch.float64), 2, inner_weight)

    def panel(found: LeanMap, line: tuple, xlabel: str, ylabel: str) -> dict:
        lines = [(None, *line)]
        return {"x": found.x, "y": found.y, "values": found.leans, "lines": lines, "xlabel": xlabel, "ylabel": ylabel}

    left = panel(unequal, unequal_boundary(inner_weight), "probability of this child", "probability of its sibling")
    right = panel(penalty, turn, "probability of each child", "L1 penalty")
    panels = {"two unequal children": left, "two equal children": right}
    return figures.cosine_maps(panels, "child's cosine with the parent", "theory: the sign turns")


def lean_curves(setup: Setup) -> tuple[list[dict], list[float]]:
    """The children's mean cosine with the parent along sweeps, from near the truth, as series of a figure.

    For 2 to 5 equal children over the probability that any is on; last, for the family of the set-up, over the weight
    of the inner prefix.

    Returns:
        The series, for `figures.theory_and_experiment`, and of each the largest distance of a median from theory.
    """
    p, found, gaps = setup.p, [], []

    def add(label: str, n: int, x: np.ndarray, fine: np.ndarray, change: Callable, ratio: Callable) -> None:
        values = setup.fit(setup.close(n + 1), *map(change, x.tolist())).cosines[..., 1:, 0].mean(-1)
        at, line = (np.array([theory.child_cosines(ratio(one), n)[0] for one in some.tolist()]) for some in (x, fine))
        found.append({"label": label, "x": x, "points": values, "line_x": fine, "line_y": line})
        gaps.append(float(np.abs(values.median(-1).values.numpy() - at).max()))

    for n in range(2, 6):
        add(
            f"{n} children", n, np.linspace(0.05, 0.95, p.n_grid), np.linspace(0.001, 0.999, 200),
            lambda total, n=n: {"data": family(p.parent_probability, total / n, n).states()},
            lambda total, n=n: theory.matryoshka_ratio(total / n, n, p.inner_weight),
        )  # fmt: skip
    add(
        "children as in the setup", p.n_children, np.geomspace(0.1, 10, p.n_grid), np.geomspace(0.1, 10, 200),
        lambda beta: {"weights": (beta, 1.0)},
        lambda beta: theory.matryoshka_ratio(p.child_probability, p.n_children, beta),
    )  # fmt: skip
    return found, gaps


def draw_leans(series: Sequence[dict]) -> Figure:
    """The children's cosine with the parent, over their total probability and over the inner weight."""
    panels: list[dict] = [
        {"xlabel": "probability of any child given the parent", "series": series[:-1]},
        {"xlabel": "weight of the inner prefix", "log": True, "series": series[-1:]},
    ]
    return figures.theory_and_experiment([panel | {"ylabel": "child's cosine with the parent"} for panel in panels])


def rare_family(p: Parameters) -> FeatureTree:
    """The family whose first child has nine tenths of the total probability, and the others the rest."""
    n = p.n_children
    total = min(1.0, n * p.child_probability)
    return family(p.parent_probability, [0.9 * total] + [0.1 * total / (n - 1)] * (n - 1), n)


def control_run(setup: Setup, tree: FeatureTree, longer: int = 1) -> tuple[Run, Float[Tensor, " live"]]:
    """Independent features that fire as often as those of a family, with a decoder bias, from near the truth.

    Args:
        setup: how to train.
        tree: the family.
        longer: how many times the usual steps to take; rare features settle late.

    Returns:
        The run, and the largest cosine in size of a child's latent with the parent in each live seed.
    """
    states = features.without_hierarchy(tree).states()
    run = setup.fit(setup.near, {"data": states, "decoder_bias": True}, steps=longer * setup.p.n_steps)
    reading = metrics.read(run.sae[0], states, run.settings[0].directions, tree.parents())
    return run, reading.mixing.child_to_parent[reading.all_live].abs().amax(-1)


def rare_children(setup: Setup) -> tuple[Run, Float[Tensor, " children"]]:
    """Train on the family of `rare_family`.

    Returns:
        The run, from near the truth, and each child's cosine with the parent by theory.
    """
    n, states = setup.p.n_children, rare_family(setup.p).states()
    parent = theory.matryoshka_optimum(states, range(n + 1), setup.sae.widths, setup.sae.weights)
    return setup.fit(setup.near, {"data": states}), theory.child_decoder(parent, pairs(n))[:, 0]


# How far the theory reaches


def farthest(panel: dict, line: str = "line_y") -> float:
    """Largest distance of a panel's medians over seeds from its lines, NaN left out; NaN where no seed is left."""
    points, lines = (np.stack([np.asarray(one[key]) for one in panel["series"]]) for key in ("points", line))
    known = ~np.isnan(points).all(-1)
    return float(np.abs(np.nanmedian(points[known], -1) - lines[known]).max()) if known.any() else NAN


def in_input_space(setting: Setting) -> list[float]:
    """The cosines of `COSINES` by the eigenvector of the re-weighted moment of the inputs, for two children."""
    basis, states, sae = setting.directions[0], setting.states, setting.sae  # all seeds' are one another's, turned
    pull = theory.prefix_weights(states, range(3), sae.widths, sae.weights)
    u = theory.top_eigenvector(theory.second_moment(States(states.inputs(basis), states.probs), pull))
    u = u * (basis[0] @ u).sign()
    child = theory.child_decoder(u, basis[0] + basis[1])
    return [float(u @ basis[1]), float(child @ basis[2]), float(child @ basis[0])]


def break_assumptions(setup: Setup) -> dict[str, dict]:
    """Break one assumption more and more, for two equal children: panels of `figures.theory_and_experiment`.

    Swept are the penalty, the children's overlap, the angle between directions, and the parent's rate with biases.
    Points are means over the two children, and solid lines the closed forms, which know nothing of it; dashed is the
    eigenvector in input space, where it is defined.
    """
    p, q, start = setup.p, setup.p.child_probability, setup.close(3)
    biases = {"encoder_bias": True, "decoder_bias": True}

    def oblique(cosine: float) -> Tensor:
        seeds = setup.seeds[: len(start)]
        return torch.stack([features.equal_cosine_dictionary(3, cosine, p.d_model, seed) for seed in seeds])

    sweeps = {
        "penalty": ("L1 penalty", 0, 0.2, lambda at: {"l1": at}),
        "overlap": (
            "share of a child's inputs with its sibling", 0, 0.9,
            lambda at: {"data": features.overlapping(p.parent_probability, q, at * q)},
        ),
        "oblique": ("cosine between features", 0, 0.3, lambda at: {"dictionary": oblique(at)}),
        "biases": ("parent probability, with biases", 0.02, 0.98, lambda at: biases | {"data": family(at, q).states()}),
    }  # fmt: skip
    line = np.array(three_lines(theory.matryoshka_ratio(q, 2, p.inner_weight), 2))
    pair, found = {"data": family(p.parent_probability, q).states()}, {}
    for key, (xlabel, low, high, change) in sweeps.items():
        x = np.linspace(low, high, p.n_grid)
        run = setup.fit(start, *(pair | change(at) for at in x.tolist()))
        every, straight = run.cosines, key in ("overlap", "oblique")
        sibling = (every[..., 1, 2] + every[..., 2, 1]) / 2
        values = torch.stack([every[..., 0, 1:].mean(-1), sibling, every[..., 1:, 0].mean(-1)])
        if straight:  # a penalty and biases may silence a latent, and are shown all the same
            values = torch.where(run.keeps_a4(), values, torch.nan)
        found[key] = _panel([0, 1, 2], x, values, x, np.tile(line[:, None], p.n_grid)) | {"xlabel": xlabel}
        dashed = zip(*map(in_input_space, run.settings), strict=True) if straight else ()
        for series, one in zip(found[key]["series"], dashed, strict=False):
            series["dashed_y"] = one
    return found


def drift(setup: Setup, reading: Reading) -> Float[Tensor, " live_seeds"]:
    """The largest distance of each live seed from the three mixings of theory."""
    p, mixing = setup.p, reading.mixing
    lines = three_lines(theory.matryoshka_ratio(p.child_probability, p.n_children, p.inner_weight), p.n_children)
    found = mixing.parent_to_child, mixing.child_to_sibling, mixing.child_to_parent
    gaps = [(value - line).abs() for value, line in zip(found, lines, strict=True)]
    return torch.cat(gaps, -1).amax(-1)[reading.all_live]


def noisier(setup: Setup, solution: float) -> tuple[Float[np.ndarray, " noises"], Float[Tensor, " noises"]]:
    """Train from ever noisier starts near the truth: the noises, and the share of starts that end at this loss."""
    noises, n = np.linspace(0.25, 3, setup.p.n_grid), setup.tree.n_features
    start = SAE.stack([setup.near_truth(setup.p.n_sweep_seeds, noise, n) for noise in noises.tolist()])
    loss = setup.fit(start, *[{}] * len(noises)).loss
    return noises, metrics.same_loss(loss, solution, setup.states.power).double().mean(-1)


def draw_limits(
    limits: Mapping[str, dict], noises: Float[np.ndarray, " noises"], shares: Float[Tensor, " noises"], level: float
) -> Figure:
    """The three cosines as each assumption is broken, and the share of starts at the solution; dashed: random ones."""
    series = {"label": "starts near the truth", "x": noises, "points": shares[:, None], "line_x": noises}
    labels = {"xlabel": "noise of the start / length of a feature", "ylabel": "share at theory's solution"}
    ends = labels | {"series": [series | {"dashed_y": np.full(len(noises), level)}]}
    dashed = "eigenvector of the inputs' moment; last panel: random starts"
    return figures.theory_and_experiment([*limits.values(), ends], dashed=dashed)
