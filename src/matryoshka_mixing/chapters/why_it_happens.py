"""Why it happens: which terms of the loss mix the features, and what the children's decoders make of it.

A *term* of the loss is one prefix on one state. It is *blamed* if its prefix holds the parent's latent, a child is
active, and the prefix misses that child's latent. The experiments change the weight of single terms, or hold one
decoder row still, and train again. *A4* is the theory's assumption that each latent fires with its own feature and with
no other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

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
from matryoshka_mixing.training import Setting, TrainConfig, Trained, descend, train

KINDS = {"near": "near the truth", "random": "random"}
"""The two kinds of starts, and what figures call them."""
COSINES = ("parent's latent with a child", "child's latent with a sibling", "child's latent with the parent")
"""The three cosines that every sweep shows."""
NO_BIASES = {"b_enc": ..., "b_dec": ...}
"""What `descend` holds still: an SAE without biases."""
BARE = {"encoder_bias": False, "decoder_bias": False}
CLEAR = 0.005
"""A cosine at most this large in size has no sign worth counting (our default)."""


# The set-up


@dataclass(frozen=True)
class Parameters(Chapter):
    """What a reader may change. One section has five children, so there are 6 dimensions at least."""

    parent_probability: float = given("parent_probability", 0.3)
    child_probability: float = given("child_probability", 0.4)
    n_children: int = given("n_children", 2)
    inner_weight: float = given("inner_weight", 1.0, high=1e3)
    l1: float = given("l1", 0.03, meaning="weight of the L1 penalty in the runs that test for absorption", high=1e3)
    d_model: int = given("d_model", 20, low=6)
    n_seeds: int = given("n_seeds", 192)
    n_sweep_seeds: int = given("n_sweep_seeds", 16)
    seed: int = given("seed", 0, high=1e9)
    start_noise: float = given("start_noise", 0.5, high=1e3)
    n_steps: int = given("n_steps", 2000)
    n_grid: int = given("n_grid", 9)


@dataclass(frozen=True)
class Setup:
    """What the experiments share: one parent with n equal children, and a Matryoshka SAE of widths (1, n + 1).

    Attributes:
        p: the parameters.
        tree, states, x: the family, its states, and the inputs.
        dictionary, pair_dictionary, five_dictionary: directions of its features, and of a parent with 2 and 5 children.
        sae, pair_sae: SAEs without biases and penalty whose inner prefix weighs beta; for n children, and for two.
        terms, blamed: the weight of every term (of its prefix, times the probability of its state), and whether it is
            blamed.
        omega: how much each state pulls on the parent's decoder, from `theory.prefix_weights`.
        near_start, random_starts: a quarter of `n_seeds`, and three times as many (two thirds for the last claim).
        tried: where interventions start: all of `near_start`, then half of the first `n_seeds` random ones.
        sweep_seeds, sweep_start: the seeds at each point of a sweep, and starts near the truth from them.
        exact, short: full training, and that of interventions, with half of the steps.
    """

    p: Parameters
    tree: FeatureTree
    states: States
    x: Float[Tensor, "states d_in"]
    dictionary: Float[Tensor, "features d_in"]
    pair_dictionary: Float[Tensor, "3 d_in"]
    five_dictionary: Float[Tensor, "6 d_in"]
    sae: SAEConfig
    pair_sae: SAEConfig
    terms: Float[Tensor, "2 states"]
    blamed: Bool[Tensor, "2 states"]
    omega: Float[Tensor, " states"]
    near_start: SAE
    random_starts: SAE
    tried: SAE
    sweep_seeds: range
    sweep_start: SAE
    exact: TrainConfig
    short: TrainConfig

    def close_start(self, dictionary: Float[Tensor, "features d_in"], n_seeds: int = 3) -> SAE:
        """Starts at a fifth of the noise, near any directions, with at most so many of the sweep's seeds."""
        return start_near(dictionary, self.sweep_seeds[:n_seeds], self.p.start_noise / 5)

    def read(self, sae: SAE) -> Reading:
        """Measure SAEs of the family."""
        return metrics.read(sae, self.states, self.dictionary, self.tree.parents())

    def read_tried(self, sae: SAE) -> dict[str, Reading]:
        """Measure SAEs trained from `tried`, each kind of start by itself."""
        n_near = len(self.near_start.W_enc)
        return {"near": self.read(sae[:n_near]), "random": self.read(sae[n_near:])}


def set_up(p: Parameters, generator: torch.Generator) -> Setup:
    """Draw the dictionaries (from `generator`) and the starts (each from its seed), and list the terms."""
    tree = family(p.parent_probability, p.child_probability, p.n_children)
    states, widths, weights = tree.states(), (1, p.n_children + 1), (p.inner_weight, 1.0)
    dictionary = features.orthonormal_dictionary(tree.n_features, p.d_model, generator)
    sae, seeds = SAEConfig(p.d_model, widths, weights, **BARE), range(p.seed, p.seed + 3 * p.n_seeds)
    has_child = (states.acts[:, 1:] > 0).any(-1)
    near_start = start_near(dictionary, seeds[: max(1, p.n_seeds // 4)], p.start_noise)
    random_starts, sweep_seeds = random_start(sae, seeds), range(p.seed, p.seed + p.n_sweep_seeds)
    return Setup(
        p=p,
        tree=tree,
        states=states,
        x=states.inputs(dictionary),
        dictionary=dictionary,
        pair_dictionary=features.orthonormal_dictionary(3, p.d_model, torch.Generator().manual_seed(p.seed)),
        five_dictionary=features.orthonormal_dictionary(6, p.d_model, generator),
        sae=sae,
        pair_sae=replace(sae, widths=(1, 3)),
        terms=torch.tensor(weights, dtype=torch.float64)[:, None] * states.probs,
        blamed=torch.stack([has_child, torch.zeros_like(has_child)]),
        omega=theory.prefix_weights(states, range(tree.n_features), widths, weights),
        near_start=near_start,
        random_starts=random_starts,
        tried=SAE.cat([near_start, random_starts[: max(1, p.n_seeds // 2)]]),
        sweep_seeds=sweep_seeds,
        sweep_start=start_near(dictionary, sweep_seeds, p.start_noise),
        exact=TrainConfig(p.n_steps),
        short=TrainConfig(max(1, p.n_steps // 2)),
    )


def pairs(n_children: int) -> Float[Tensor, "children features"]:
    """Parent + child, for every child."""
    eye = torch.eye(n_children + 1, dtype=torch.float64)
    return eye[1:] + eye[0]


def keeps_a4(
    sae: SAE, data: States, dictionary: Float[Tensor, "features d_in"], latents: Int[Tensor, "*#instances features"]
) -> Bool[Tensor, "*instances"]:
    """Assumption A4: whether every latent fires on all inputs that hold its feature, and on no others."""
    acts = sae.encode(data.inputs(dictionary))
    return metrics.each_its_own(acts, latents.expand(*acts.shape[:-2], -1), data.acts)


def largest(gaps: Float[Tensor, "*shape"], kept: Bool[Tensor, "*shape"] | None = None) -> float:
    """The largest number (of those kept); NaN where there is none."""
    chosen = gaps.flatten() if kept is None else gaps[kept]
    return float(chosen.max()) if len(chosen) else float("nan")


# The derivation


def both_sides(what: str, left: Float[Tensor, "*shape"], right: Float[Tensor, "*#shape"] | float) -> None:
    """Print how far apart two sides of an equation are that were computed in different ways."""
    print(f"{what}: largest difference {claims.number(float((left - right).abs().max()))}")


def random_units(n: int, n_features: int, generator: torch.Generator) -> Float[Tensor, "n features"]:
    """Random unit vectors without a negative entry."""
    drawn = torch.rand(n, n_features, dtype=torch.float64, generator=generator)
    return drawn / drawn.norm(dim=-1, keepdim=True)


def completed(u: Float[Tensor, " features"], dictionary: Float[Tensor, "features d_in"]) -> SAE:
    """The SAE with this decoder of the parent whose children's latents carry exactly what is left.

    Args:
        u: a unit vector without a negative entry, so that A4 holds, and not along parent + child.
        dictionary: orthonormal directions.
    """
    eye, both = torch.eye(len(u), dtype=torch.float64), pairs(len(u) - 1)
    rest = both - (both @ u)[:, None] * u
    size = rest.norm(dim=-1, keepdim=True)
    encoder, decoder = torch.cat([u[None], size * eye[1:]]), torch.cat([u[None], rest / size])
    return SAE((encoder @ dictionary).T, torch.zeros_like(u), decoder @ dictionary, torch.zeros_like(dictionary[0]))


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
    weights = torch.rand(5, dtype=torch.float64, generator=generator).tolist()
    return states, SAEConfig(p.d_model, (1, 2, 3, 5, 6), tuple(weights), **BARE)


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


def intervene(
    setup: Setup,
    table: Float[Tensor, "settings prefixes states"],
    start: SAE,
    held: Mapping[str, object] = NO_BIASES,
    penalty: float = 0.0,
) -> Trained:
    """Train on tables of terms, for half of the steps.

    Args:
        setup: the family.
        table: the weight of every term, for every setting.
        start: axes (seeds,), used for every setting, or (settings, seeds).
        held: what stays as it starts, as in `descend`.
        penalty: weight of the L1 penalty, which keeps the unchanged terms.
    """
    if start.W_enc.ndim == 3:
        start = start.map(lambda parameter: parameter.expand(len(table), *parameter.shape))
    widths = setup.sae.widths

    def objective(sae: SAE) -> Tensor:
        found = table[:, None] * sae.errors(setup.x, widths)
        if penalty:
            found = found + penalty * setup.terms * sae.penalties(setup.x, widths)
        return found.sum((-2, -1))

    return descend(objective, start, setup.short, held=held, scale=setup.states.power)


@dataclass(frozen=True)
class Doses:
    """What becomes of the decoders when the blamed terms are scaled.

    Attributes:
        factors: on the blamed terms.
        values: the cosines of `COSINES` from near the truth, each of shape (doses, seeds, pairs).
        fires: whether an SAE keeps A4.
        open_values, open_fires: the same of random starts, where only those that also reach the same loss count.
        fine, lines: finer factors, and theory there.
        theory, trained: all decoders at every dose, by theory and of the seed of median loss.
        gap: largest distance of a parent's decoder from theory, where A4 holds.
    """

    factors: Float[Tensor, " doses"]
    values: list[Float[Tensor, "doses seeds _"]]
    fires: Bool[Tensor, "doses seeds"]
    open_values: list[Float[Tensor, "doses seeds _"]]
    open_fires: Bool[Tensor, "doses seeds"]
    fine: Float[Tensor, " points"]
    lines: Float[np.ndarray, "3 points"]
    theory: Float[Tensor, "doses latents features"]
    trained: Float[Tensor, "doses latents features"]
    gap: float


def read_doses(setup: Setup, factors: Float[Tensor, " doses"], near: Trained, random: Trained) -> Doses:
    """Hold the trained SAEs of every dose against theory; the runs have axes (doses, seeds)."""
    alone, weights = arrow(theory.second_moment(setup.states, setup.omega))

    def ratios(factors: Tensor) -> Tensor:
        return theory.unequal_ratios(alone, factors[:, None] * weights)

    def three(run: Trained) -> tuple[list[Tensor], Tensor]:
        reading = setup.read(run.sae)
        values = [reading.decoder[..., 0, 1:], reading.mixing.child_to_sibling, reading.mixing.child_to_parent]
        return values, keeps_a4(run.sae, setup.states, setup.dictionary, reading.latents)

    (values, fires), (open_values, open_fires) = three(near), three(random)
    by_theory, decoders = all_decoders(ratios(factors)), metrics.decoder_cosines(near.sae, setup.dictionary)
    far = (decoders[..., 0, :] - by_theory[:, None, 0]).abs().amax(-1)
    same = metrics.same_loss(random.loss, near.loss.median(1, keepdim=True).values, setup.states.power)
    fine = torch.linspace(0, float(factors.max()), 200, dtype=torch.float64)
    lines = np.array([three_lines(t, setup.p.n_children) for t in ratios(fine)[:, 0].tolist()]).T
    middle = near.loss.argsort(-1)[:, near.loss.shape[1] // 2]
    trained = decoders[torch.arange(len(factors)), middle]
    return Doses(
        factors, values, fires, open_values, open_fires & same, fine, lines, by_theory, trained, largest(far, fires)
    )


def draw_doses(doses: Doses) -> Figure:
    """The three cosines against the factor. A child's decoder without blamed terms is not unique, and not drawn."""

    def shown(values: list[Tensor], fires: Tensor) -> list[Tensor]:
        first = [torch.where(fires, value[..., 0], torch.nan) for value in values]
        for child in first[1:]:
            child[0] = torch.nan
        return first

    points, open_points = shown(doses.values, doses.fires), shown(doses.open_values, doses.open_fires)
    label = {"xlabel": "factor on the blamed terms"}
    return figures.theory_and_experiment(
        [_panel(which, doses.factors, points, doses.fine, doses.lines, open_points) | label for which in ([0], [1, 2])]
    )


def dose_slider(doses: Doses, names: Sequence[str]) -> str:
    """All decoders against the factor, as HTML with a slider."""
    shown = {"theory": doses.theory.numpy(), "trained": doses.trained.numpy()}
    rows = [f"latent {k}" for k in range(len(names))]
    stops = doses.factors.tolist()
    return figures.slider_heatmaps("dose-slider", "factor on the blamed terms", stops, shown, names, rows)


def _panel(which: Sequence[int], x, points, line_x, lines, open_points=None) -> dict:
    """A panel of `figures.theory_and_experiment` with some of the three cosines."""
    series = [{"label": COSINES[i], "x": x, "line_x": line_x, "line_y": lines[i], "points": points[i]} for i in which]
    for entry, i in zip(series, which, strict=True):
        if open_points is not None:
            entry["open_points"] = open_points[i]
    return {"series": series, "ylabel": "decoder cosine"}


# (a) Which terms pull


def pulls(
    sae: SAE,
    x: Float[Tensor, "states d_in"],
    terms: Float[Tensor, "*#instances prefixes states"],
    widths: Sequence[int],
    latent: int = 0,
    probs: Float[Tensor, " states"] | None = None,
) -> Float[Tensor, "*instances prefixes states d_in"]:
    """Which way each term of the loss pulls a latent's decoder: minus that term's gradient, by autograd.

    A term is one prefix's squared error on one state. Its pull is `2 * weight * activation * (x - x_m)`, and nothing
    in a prefix that does not hold the latent; where BatchTopK keeps an activation on some inputs of a state only, the
    mean over them. At a solution without a penalty the pulls of all terms sum to 0.

    Args:
        sae: parameters with any leading axes.
        x: the states' inputs.
        terms: weight of each term, for example prefix weight times probability of the state.
        widths: the prefixes.
        latent: number of the latent.
        probs: probability of each state, by which BatchTopK chooses (equal ones, if None).
    """
    decoder = sae.W_dec.detach().clone().requires_grad_()
    errors = replace(sae, W_dec=decoder).errors(x, widths, probs)
    # Instances do not influence each other, so one backward pass gives a term's gradient for all of them.
    gradients = [
        torch.autograd.grad(error.sum(), decoder, retain_graph=True)[0][..., latent, :]
        for error in errors.flatten(-2).unbind(-1)
    ]
    return -terms[..., None] * torch.stack(gradients, -2).unflatten(-2, errors.shape[-2:])


@dataclass(frozen=True)
class Balance:
    """How the pulls on the parent's decoder balance.

    Attributes:
        parts: the pull of every term along every feature.
        share: of all that pulls toward a child, the share of the blamed terms; NaN where nothing does.
        imbalance: the largest sum of all pulls, relative to the blamed ones.
    """

    parts: Float[Tensor, "seeds prefixes states features"]
    share: Float[Tensor, "seeds children"]
    imbalance: float


def balance(setup: Setup, sae: SAE) -> Balance:
    """Split the gradient on the parent's decoder into its terms; `sae` has one axis, the seeds."""
    parts = pulls(sae, setup.x, setup.terms, setup.sae.widths, probs=setup.states.probs) @ setup.dictionary.T
    toward = parts[..., 1:].clamp_min(0)
    by_blamed = (toward * setup.blamed[..., None]).sum((-3, -2))
    imbalance = (parts.sum((-3, -2)).abs().amax(-1) / by_blamed.amin(-1)).max()
    return Balance(parts, by_blamed / toward.sum((-3, -2)), float(imbalance))


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


def removals(setup: Setup) -> tuple[dict[str, Float[Tensor, "prefixes states"]], list[float]]:
    """Tables of terms without the blamed ones, and without others that weigh as much.

    The first control takes the weight from the same inputs in the outer prefix, the second evenly from all other terms
    on the parent.

    Returns:
        The tables by name, and what share of the blamed weight each control can remove, at most 1.
    """
    terms, blamed = setup.terms, setup.blamed
    weight = terms[blamed].sum()
    same_inputs, others = blamed.flip(0), ~blamed & (setup.states.acts[:, 0] > 0)
    tables = {"blamed terms removed": torch.where(blamed, 0, terms)}
    controls = {"same inputs, outer prefix": same_inputs, "all other terms, evenly": others}
    for label, group in controls.items():
        factor = 1 - (weight / terms[group].sum()).clamp_max(1)
        tables[f"control: {label}"] = torch.where(group, factor * terms, terms)
    return tables, [float((terms[group].sum() / weight).clamp_max(1)) for group in controls.values()]


def mixed_in(reading: Reading) -> Float[Tensor, " live_seeds"]:
    """The first latent's largest cosine with a child, in size, in live seeds."""
    return reading.decoder[reading.all_live][:, 0, 1:].abs().amax(-1)


def kept(controls: Sequence[Reading], factors: Sequence[float]) -> Float[Tensor, " live_seeds"]:
    """The first latent's smallest cosine with a child over all controls, in seeds that are live in all of them.

    No seed counts where a control cannot remove the whole blamed weight (a factor below 1).
    """
    live = torch.stack([reading.all_live for reading in controls]).all(0) & (min(factors) > 1 - 1e-9)
    return torch.stack([reading.decoder[:, 0, 1:].amin(-1) for reading in controls]).amin(0)[live]


def draw_removed(readings: Mapping[str, Mapping[str, Reading]]) -> Figure:
    """`mixed_in` of every live seed, for every table of terms and kind of start."""
    strips = {
        f"{label}, {KINDS[kind]}": mixed_in(reading).numpy()
        for label, by_kind in readings.items()
        for kind, reading in by_kind.items()
    }
    return figures.seed_strips(strips, "largest |cosine| with a child")


def reach_loss(setup: Setup, sae: SAE) -> Float[Tensor, "3 seeds"]:
    """Loss with an L1 penalty in which the blamed terms reach nothing, the encoder or the decoder (the first axis)."""
    x, terms, widths = setup.x, setup.terms, setup.sae.widths
    others, inner = torch.where(setup.blamed, 0, terms), (terms * setup.blamed)[:1]
    table = others * sae.errors(x, widths) + setup.p.l1 * terms * sae.penalties(x, widths)
    still = sae.map(torch.Tensor.detach)
    to_encoder = replace(sae, W_dec=still.W_dec, b_dec=still.b_dec)[1].errors(x, widths[:1])
    to_decoder = replace(sae, W_enc=still.W_enc, b_enc=still.b_enc)[2].errors(x, widths[:1])
    reached = torch.stack([torch.zeros_like(to_encoder), to_encoder, to_decoder])
    return (table.sum(-2) + (inner * reached).sum(-2)).sum(-1)


@dataclass(frozen=True)
class Reach:
    """SAEs with an L1 penalty in which the blamed terms reach a part.

    Attributes:
        whole: the run in which they reach everything, axes (1, starts).
        readings: by what they reach, then by kind of start.
        typical: by what they reach, the seed of median loss from near the truth.
    """

    whole: Trained
    readings: dict[str, dict[str, Reading]]
    typical: dict[str, int]

    def rate(self, reach: str, kind: str) -> float:
        """The median absorption rate over live seeds; NaN without one."""
        reading = self.readings[reach][kind]
        return float(reading.absorption[reading.all_live].median())


def limit_reach(setup: Setup) -> Reach:
    """Train from the tried starts with blamed terms that reach everything, nothing, the encoder or the decoder."""
    tried = setup.tried
    whole = train(Setting(replace(setup.sae, l1=setup.p.l1), setup.states, setup.dictionary), tried, setup.exact)
    start = tried.map(lambda parameter: parameter.expand(3, *parameter.shape))
    power = setup.states.power
    limited = descend(lambda sae: reach_loss(setup, sae), start, setup.short, held=NO_BIASES, scale=power)
    found = {"everything": (whole.sae[0], whole.loss[0])}
    for i, name in enumerate(["nothing", "encoder only", "decoder only"]):
        found[name] = limited.sae[i], limited.loss[i]
    readings = {name: setup.read_tried(sae) for name, (sae, _) in found.items()}
    n_near = len(setup.near_start.W_enc)
    return Reach(
        whole, readings, {name: int(loss[:n_near].argsort()[n_near // 2]) for name, (_, loss) in found.items()}
    )


def draw_reach(reach: Reach, names: Sequence[str]) -> Figure:
    """Decoder cosines of the seed of median loss for every reach, with the absorption rates."""
    panels = {}
    for name, readings in reach.readings.items():
        title = f"reach {name}\nabsorption {reach.rate(name, 'near'):.2f} (random {reach.rate(name, 'random'):.2f})"
        panels[title] = readings["near"].decoder[reach.typical[name]].numpy()
    return figures.heatmaps(panels, names, per_row=2, width=3)


# (c) The parent's decoder held


def train_held(setup: Setup, start: SAE, mixtures: Float[Tensor, "mixtures children"], penalty: float = 0.0) -> Trained:
    """Train all but the parent's decoder, held at each mixture, at length 1: axes (mixtures, seeds)."""
    start = start.map(lambda parameter: parameter.repeat(len(mixtures), *[1] * parameter.ndim))
    start.W_dec[..., 0, :] = (unit_parent(mixtures) @ setup.dictionary)[:, None]
    held = NO_BIASES | {"W_dec": np.s_[..., 0, :]}
    return intervene(setup, setup.terms.expand(len(mixtures), -1, -1), start, held, penalty)


def held_levels(n_grid: int, n_children: int) -> Float[Tensor, "mixtures children"]:
    """Mixtures to hold: all children equal, from 0 to 1, then the first one so and the others with a third of it."""
    levels = torch.linspace(0, 1, n_grid, dtype=torch.float64)[:, None].expand(-1, n_children)
    return torch.cat([levels, torch.cat([levels[:, :1], levels[:, 1:] / 3], -1)])


@dataclass(frozen=True)
class Held:
    """Decoders with the parent's held at mixtures, against the formula.

    Attributes:
        mixtures: what it was held at, from `held_levels`.
        cosines: of all latents; fires: whether an SAE keeps A4.
        formula: the children's decoders by theory.
        gap: largest distance of a child's cosine from it, where A4 holds.
    """

    mixtures: Float[Tensor, "mixtures children"]
    cosines: Float[Tensor, "mixtures seeds latents features"]
    fires: Bool[Tensor, "mixtures seeds"]
    formula: Float[Tensor, "mixtures children features"]
    gap: float


def read_held(setup: Setup, sae: SAE, mixtures: Float[Tensor, "mixtures children"]) -> Held:
    """Measure SAEs from `train_held`; latents are known by number, since at some mixtures matching is a tie."""
    cosines = metrics.decoder_cosines(sae, setup.dictionary)
    fires = keeps_a4(sae, setup.states, setup.dictionary, torch.arange(setup.tree.n_features))
    formula = all_decoders(mixtures)[:, 1:]
    gaps = (cosines[..., 1:, :] - formula[:, None]).abs().amax((-2, -1))
    return Held(mixtures, cosines, fires, formula, largest(gaps, fires))


def siblings(reading: Reading, in_size: bool = True) -> Float[Tensor, " live_seeds"]:
    """The largest sibling cosine of each live seed, in size or with its sign."""
    found = reading.mixing.child_to_sibling[reading.all_live]
    return (found.abs() if in_size else found).amax(-1)


def draw_held(held: Held) -> Figure:
    """The first child's cosines with its sibling and its parent, against what the parent is held at."""
    shown = torch.where(held.fires[..., None], held.cosines[..., 1, :], torch.nan)
    names = {"child 1's latent with child 2": 2, "child 1's latent with the parent": 0}
    panels, half = [], len(held.mixtures) // 2
    for kind, rows in [("all equal", slice(0, half)), ("others a third", slice(half, None))]:
        x = held.mixtures[rows, 0]
        series = [
            {"label": label, "x": x, "line_x": x, "line_y": held.formula[rows, 0, i], "points": shown[rows, :, i]}
            for label, i in names.items()
        ]
        xlabel = f"held ratio t of child 1 ({kind})"
        panels.append({"xlabel": xlabel, "ylabel": "decoder cosine", "series": series})
    return figures.theory_and_experiment(panels)


# Later children, and random prefixes


def by_rank(setup: Setup) -> dict[str, tuple[Float[Tensor, "_ 5"], Float[Tensor, " 5"]]]:
    """Train five equal children with every prefix in every step, and with the full width and two others drawn anew.

    Returns:
        For both the parent's cosine with each child, in order of their latents, in every seed (with all prefixes NaN
        where A4 fails), and by theory.
    """
    p, dictionary, widths = setup.p, setup.five_dictionary, (1, 2, 3, 4, 5, 6)
    states = family(p.parent_probability, min(1.0, p.n_children * p.child_probability) / 5, 5).states()
    x, chances = states.inputs(dictionary), np.diff(np.sqrt(np.arange(6)))
    draws = np.random.default_rng(p.seed)

    def loss_of_one_draw(sae: SAE) -> Tensor:
        drawn = torch.zeros(6, 1, dtype=torch.float64)
        drawn[[5, *draws.choice(5, 2, replace=False, p=chances / chances.sum())]] = 1
        return (drawn * states.probs * sae.errors(x, widths)).sum((-2, -1))

    start, noisy = setup.close_start(dictionary, p.n_sweep_seeds), TrainConfig(p.n_steps, lr=0.01, cooldown=0.9)
    every = train(Setting(SAEConfig(p.d_model, widths, **BARE), states, dictionary), start, setup.exact).sae[0]
    fires = keeps_a4(every, states, dictionary, torch.arange(6))
    drawn = descend(loss_of_one_draw, start, noisy, held=NO_BIASES).sae
    expected = [*theory.inclusion_probabilities(chances.tolist(), 2), 1.0]
    return {
        label: (
            torch.where(shown[:, None], metrics.decoder_cosines(sae, dictionary)[:, 0, 1:], torch.nan),
            theory.matryoshka_optimum(states, range(6), widths, weights)[1:],
        )
        for label, sae, shown, weights in [
            ("all prefixes", every, fires, [1.0] * 6),
            ("sampled prefixes", drawn, torch.ones_like(fires), expected),
        ]
    }


def draw_ranks(ranks: Mapping[str, tuple[Float[Tensor, "_ 5"], Float[Tensor, " 5"]]]) -> Figure:
    """The cosine with each child against the rank of its latent."""
    x = np.arange(1, 6)
    series = [
        {"label": label, "x": x, "line_x": x, "line_y": line, "points": values.T}
        for label, (values, line) in ranks.items()
    ]
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
        fires: whether an SAE keeps A4, and
        gap: the largest distance of any decoder cosine from theory where it does; not asked where there is a penalty.
    """

    run: Trained
    x: Float[np.ndarray, " x"]
    y: Float[np.ndarray, " y"]
    leans: Float[np.ndarray, "y x"]
    agreement: float
    fires: Bool[Tensor, "cells seeds"] | None = None
    gap: float = float("nan")


def map_unequal(setup: Setup) -> LeanMap:
    """Over the probability of a child and of its sibling; every child of every SAE counts for the agreement."""
    p, dictionary = setup.p, setup.pair_dictionary
    chances = np.linspace(0.02, 0.94, p.n_grid + 2)
    places = [(i, j) for j in range(len(chances)) for i in range(len(chances)) if chances[i] + chances[j] < 0.99]
    cells = [(chances[i], chances[j]) for i, j in places]
    data = [family(p.parent_probability, cell, 2).states() for cell in cells]
    settings = [Setting(setup.pair_sae, states, dictionary) for states in data]
    run = train(settings, setup.close_start(dictionary), setup.exact)
    found, in_order = metrics.decoder_cosines(run.sae, dictionary), torch.arange(3)
    fires = torch.stack([keeps_a4(run.sae[i], states, dictionary, in_order) for i, states in enumerate(data)])
    shares = torch.tensor(cells, dtype=torch.float64)
    ratios = theory.unequal_ratios((1 + p.inner_weight) * (1 - shares.sum(-1)), p.inner_weight * shares)
    predicted = all_decoders(ratios)[:, None]
    leans, expected = found[..., 1:, 0], predicted[..., 1:, 0].expand(-1, found.shape[1], -1)
    agreement = (leans.sign() == expected.sign())[expected.abs() > CLEAR].double().mean()
    grid = np.full((len(chances), len(chances)), np.nan)
    for (i, j), value in zip(places, leans[..., 0].median(-1).values, strict=True):
        grid[j, i] = value
    gap = largest((found - predicted).abs().amax((-2, -1)), fires)
    return LeanMap(run, chances, chances, grid, float(agreement), fires, gap)


def map_penalty(setup: Setup) -> LeanMap:
    """Over the probability of each of two equal children and the L1 penalty; medians count for the agreement."""
    p, dictionary = setup.p, setup.pair_dictionary
    penalties, chances = np.linspace(0, 0.2, p.n_grid + 2), np.linspace(0.02, 0.49, p.n_grid + 2)
    data = [family(p.parent_probability, q, 2).states() for q in chances]
    settings = [Setting(replace(setup.pair_sae, l1=l1), states, dictionary) for l1 in penalties for states in data]
    run = train(settings, setup.close_start(dictionary), setup.exact)
    leans = metrics.decoder_cosines(run.sae, dictionary)[..., 1, 0].median(-1).values
    leans = leans.unflatten(0, (len(penalties), len(chances)))
    q_at, l1_at = lean_boundary(torch.linspace(1e-4, 0.4999, 4000, dtype=torch.float64), 2, p.inner_weight)
    above = torch.from_numpy(penalties[:, None] - np.interp(chances, q_at, l1_at))
    agreement = (leans.sign() == above.sign())[leans.abs() > CLEAR].double().mean()
    return LeanMap(run, chances, penalties, leans.numpy(), float(agreement))


def draw_signs(unequal: LeanMap, penalty: LeanMap, inner_weight: float) -> Figure:
    """Both maps, with theory's lines where the sign turns."""
    turn = lean_boundary(torch.linspace(0.002, 0.498, 300, dtype=torch.float64), 2, inner_weight)

    def panel(found: LeanMap, line: tuple, xlabel: str, ylabel: str) -> dict:
        lines = [("theory: the sign turns", *line)]
        return {"x": found.x, "y": found.y, "values": found.leans, "lines": lines, "xlabel": xlabel, "ylabel": ylabel}

    left = panel(unequal, unequal_boundary(inner_weight), "probability of this child", "probability of its sibling")
    right = panel(penalty, turn, "probability of each child", "L1 penalty")
    panels = {"two unequal children": left, "two equal children": right}
    return figures.cosine_maps(panels, "child's cosine with the parent")


@dataclass(frozen=True)
class LeanCurve:
    """The children's mean cosine with the parent along a sweep.

    Attributes:
        label: what is swept in.
        x, values: where, and in every SAE.
        line_x, line: theory.
        gap: largest distance of a median over seeds from theory.
    """

    label: str
    x: Float[np.ndarray, " points"]
    values: Float[Tensor, "points seeds"]
    line_x: Float[np.ndarray, " fine"]
    line: Float[np.ndarray, " fine"]
    gap: float


def lean_curve(
    label: str,
    settings: Sequence[Setting],
    setup: Setup,
    x: np.ndarray,
    fine: np.ndarray,
    ratio: Callable[[float], float],
) -> LeanCurve:
    """Train along a sweep from near the truth; `ratio` gives the parent's ratio t at any x, by theory."""
    dictionary = settings[0].dictionary
    run = train(settings, setup.close_start(dictionary), setup.exact)
    values = metrics.decoder_cosines(run.sae, dictionary)[..., 1:, 0].mean(-1)
    n = len(dictionary) - 1
    at, line = (np.array([theory.child_cosines(ratio(at), n)[0] for at in points.tolist()]) for points in (x, fine))
    return LeanCurve(label, x, values, fine, line, float(np.abs(values.median(-1).values.numpy() - at).max()))


def more_children(setup: Setup, generator: torch.Generator) -> list[LeanCurve]:
    """For 2 to 5 equal children, over the probability that any is on."""
    p, totals, fine, found = setup.p, np.linspace(0.05, 0.95, setup.p.n_grid), np.linspace(0.001, 0.999, 200), []
    for n in range(2, 6):
        config = replace(setup.sae, widths=(1, n + 1))
        dictionary = features.orthonormal_dictionary(n + 1, p.d_model, generator)
        data = [family(p.parent_probability, total / n, n).states() for total in totals]
        settings = [Setting(config, states, dictionary) for states in data]
        ratio = partial(_ratio_of_total, n_children=n, inner_weight=p.inner_weight)
        found.append(lean_curve(f"{n} children", settings, setup, totals, fine, ratio))
    return found


def _ratio_of_total(total: float, n_children: int, inner_weight: float) -> float:
    return theory.matryoshka_ratio(total / n_children, n_children, inner_weight)


def by_inner_weight(setup: Setup) -> LeanCurve:
    """For the family of the set-up, over the weight of the inner prefix."""
    p, betas, fine = setup.p, np.geomspace(0.1, 10, setup.p.n_grid), np.geomspace(0.1, 10, 200)
    settings = [Setting(replace(setup.sae, weights=(beta, 1.0)), setup.states, setup.dictionary) for beta in betas]
    ratio = partial(theory.matryoshka_ratio, p.child_probability, p.n_children)
    return lean_curve("children as in the setup", settings, setup, betas, fine, ratio)


def draw_leans(by_total: Sequence[LeanCurve], by_weight: LeanCurve) -> Figure:
    """The children's cosine with the parent, over their total probability and over the inner weight."""

    def series(curve: LeanCurve) -> dict:
        line = {"line_x": curve.line_x, "line_y": curve.line}
        return {"label": curve.label, "x": curve.x, "points": curve.values} | line

    panels = [
        {"xlabel": "probability of any child given the parent", "series": [series(curve) for curve in by_total]},
        {"xlabel": "weight of the inner prefix", "log": True, "series": [series(by_weight)]},
    ]
    return figures.theory_and_experiment([panel | {"ylabel": "child's cosine with the parent"} for panel in panels])


@dataclass(frozen=True)
class Rare:
    """One common child and rare siblings, from near the truth.

    Attributes:
        run: the trained SAEs, axes (1, seeds).
        live, fires: whether an SAE has no dead latent, and whether it keeps A4.
        leans: each child's cosine with the parent; the common child comes first.
        theory: the same by theory.
    """

    run: Trained
    live: Bool[Tensor, " seeds"]
    fires: Bool[Tensor, " seeds"]
    leans: Float[Tensor, "seeds children"]
    theory: Float[Tensor, " children"]


def rare_children(setup: Setup) -> Rare:
    """Give the first child nine tenths of the total probability, and share the rest among the others."""
    p, n = setup.p, setup.p.n_children
    total = min(1.0, n * p.child_probability)
    states = family(p.parent_probability, [0.9 * total] + [0.1 * total / (n - 1)] * (n - 1), n).states()
    run = train(Setting(setup.sae, states, setup.dictionary), setup.near_start, setup.exact)
    parent = theory.matryoshka_optimum(states, range(n + 1), setup.sae.widths, setup.sae.weights)
    return Rare(
        run,
        metrics.live(run.sae[0].encode(states.inputs(setup.dictionary))).all(-1),
        keeps_a4(run.sae[0], states, setup.dictionary, torch.arange(n + 1)),
        metrics.decoder_cosines(run.sae[0], setup.dictionary)[:, 1:, 0],
        theory.child_decoder(parent, pairs(n))[:, 0],
    )


# How far the theory reaches


@dataclass(frozen=True)
class Limit:
    """One assumption broken more and more, for two equal children.

    Attributes:
        xlabel, x: what is broken, and how much.
        values: the cosines of `COSINES`, means over the two children; NaN for SAEs left out.
        lines: the closed forms, which know nothing of it.
        dashed: the eigenvector in input space, where it is defined.
    """

    xlabel: str
    x: Float[np.ndarray, " points"]
    values: Float[np.ndarray, "3 points seeds"]
    lines: Float[np.ndarray, "3 points"]
    dashed: Float[np.ndarray, "3 points"] | None = None

    @property
    def drift(self) -> float:
        """Largest distance of a median from its solid line."""
        return farthest(self.values, self.lines)


def farthest(values: Float[np.ndarray, "lines points seeds"], lines: Float[np.ndarray, "lines points"]) -> float:
    """Largest distance of a median over seeds from its line, NaN left out; NaN where no seed is left."""
    known = ~np.isnan(values).all(-1)
    if not known.any():
        return float("nan")
    return float(np.abs(np.nanmedian(values[known], -1) - lines[known]).max())


def in_input_space(setting: Setting) -> list[float]:
    """The cosines of `COSINES` by the eigenvector of the re-weighted moment of the inputs, for two children."""
    basis, data, sae = setting.dictionary, setting.data, setting.sae
    pull = theory.prefix_weights(data, range(3), sae.widths, sae.weights)
    u = theory.top_eigenvector(theory.second_moment(States(data.inputs(basis), data.probs), pull))
    u = u * (basis[0] @ u).sign()
    child = theory.child_decoder(u, basis[0] + basis[1])
    return [float(u @ basis[1]), float(child @ basis[2]), float(child @ basis[0])]


def break_assumptions(setup: Setup) -> dict[str, Limit]:
    """Sweep the penalty, the children's overlap, the angle between directions, and the parent's rate with biases."""
    p, sae, dictionary = setup.p, setup.pair_sae, setup.pair_dictionary
    q, pair = p.child_probability, family(p.parent_probability, p.child_probability, 2).states()
    penalties, overlaps = np.linspace(0, 0.2, p.n_grid), np.linspace(0, 0.9, p.n_grid)
    slants, rates = np.linspace(0, 0.3, p.n_grid), np.linspace(0.02, 0.98, p.n_grid)

    def oblique(cosine: float) -> Tensor:
        return features.equal_cosine_dictionary(3, cosine, p.d_model, torch.Generator().manual_seed(p.seed))

    biased = replace(sae, encoder_bias=True, decoder_bias=True)
    sweeps = {
        "penalty": ("L1 penalty", penalties, [Setting(replace(sae, l1=at), pair, dictionary) for at in penalties]),
        "overlap": (
            "share of a child's inputs with its sibling",
            overlaps,
            [Setting(sae, features.overlapping(p.parent_probability, q, at * q), dictionary) for at in overlaps],
        ),
        "oblique": ("cosine between features", slants, [Setting(sae, pair, oblique(at)) for at in slants]),
        "biases": (
            "parent probability, with biases",
            rates,
            [Setting(biased, family(at, q, 2).states(), dictionary) for at in rates.tolist()],
        ),
    }
    lines = np.tile(np.array(three_lines(theory.matryoshka_ratio(q, 2, p.inner_weight), 2))[:, None], p.n_grid)
    found = {}
    for key, (xlabel, x, settings) in sweeps.items():
        run, values, dashed = train(settings, setup.close_start(dictionary), setup.exact), [], None
        for i, one in enumerate(settings):
            every, fires = metrics.decoder_cosines(run.sae[i], one.dictionary), torch.tensor(True)
            if key in ("overlap", "oblique"):  # a penalty and biases may silence a latent, and are shown all the same
                fires = keeps_a4(run.sae[i], one.data, one.dictionary, torch.arange(3))
            sibling = (every[..., 1, 2] + every[..., 2, 1]) / 2
            three = torch.stack([every[..., 0, 1:].mean(-1), sibling, every[..., 1:, 0].mean(-1)])
            values.append(torch.where(fires, three, torch.nan).numpy())
        if key in ("overlap", "oblique"):
            dashed = np.array([in_input_space(one) for one in settings]).T
        found[key] = Limit(xlabel, x, np.stack(values, 1), lines, dashed)
    return found


@dataclass(frozen=True)
class Ends:
    """Where starts end.

    Attributes:
        noises, reached: noise of starts near the truth, and whether each ends at the theory's solution.
        random_reached: whether each random start does.
        lower: whether it ends with a lower loss.
        drift: its largest distance from the three mixings of theory.
    """

    noises: Float[np.ndarray, " noises"]
    reached: Bool[Tensor, "noises seeds"]
    random_reached: Bool[Tensor, " random"]
    lower: Bool[Tensor, " random"]
    drift: Float[Tensor, " random"]


def where_starts_end(setup: Setup, near: Trained, random: Trained) -> Ends:
    """Train from ever noisier starts; `near` and `random` are the main runs, the first of which finds the solution."""
    p, power = setup.p, setup.states.power
    noises = np.linspace(0.25, 3, p.n_grid)
    start = SAE.stack([start_near(setup.dictionary, setup.sweep_seeds, noise) for noise in noises])
    run = train([Setting(setup.sae, setup.states, setup.dictionary)] * p.n_grid, start, setup.exact)
    solution, mixing = near.loss[0].median(), setup.read(random.sae[0]).mixing
    lines = three_lines(theory.matryoshka_ratio(p.child_probability, p.n_children, p.inner_weight), p.n_children)
    found = mixing.parent_to_child, mixing.child_to_sibling, mixing.child_to_parent
    drift = torch.stack([(value - line).abs().amax(-1) for value, line in zip(found, lines, strict=True)]).amax(0)
    return Ends(
        noises,
        metrics.same_loss(run.loss, solution, power),
        metrics.same_loss(random.loss[0], solution, power),
        random.loss[0] < solution - 1e-4 * power,
        drift,
    )


def draw_limits(limits: Mapping[str, Limit], ends: Ends) -> Figure:
    """The three cosines as each assumption is broken, and the share of starts that reach the solution."""
    panels = []
    for limit in limits.values():
        panel = _panel([0, 1, 2], limit.x, limit.values, limit.x, limit.lines) | {"xlabel": limit.xlabel}
        for entry, dashed in zip(panel["series"], limit.dashed if limit.dashed is not None else [], strict=False):
            entry["dashed_y"] = dashed
        panels.append(panel)
    level = np.full(len(ends.noises), float(ends.random_reached.double().mean()))
    series = {
        "label": "starts near the truth", "x": ends.noises, "points": ends.reached.double().mean(-1, keepdim=True),
        "line_x": ends.noises, "dashed_y": level,
    }  # fmt: skip
    panels.append(
        {
            "xlabel": "noise of the start / length of a feature",
            "ylabel": "share at theory's solution",
            "series": [series],
        }
    )
    return figures.theory_and_experiment(panels, per_row=2)


# What the verdicts ask of all runs


def converged(*runs: Trained) -> float:
    """Share of SAEs that converged, in the run where it is smallest."""
    return min(float(run.converged.double().mean()) for run in runs)
