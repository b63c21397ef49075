"""The toys of *Feature Hedging* (Chanin, Dulka and Garriga-Alonso 2025), trained again and counted over seeds.

Set-ups from the paper's code, github.com/chanind/feature-hedging-paper: 50 dimensions, orthogonal features of magnitude
1, encoder and decoder biases, a penalty on decoder-norm-weighted activations, Matryoshka losses added up by prefix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from matplotlib.figure import Figure
from torch import Tensor

from matryoshka_mixing import figures, metrics
from matryoshka_mixing.features import States, family, orthonormal_dictionaries
from matryoshka_mixing.figures import COLOURS, MARKERS
from matryoshka_mixing.parameters import Chapter, given
from matryoshka_mixing.sae import SAEConfig, random_start, start_near
from matryoshka_mixing.training import Setting, TrainConfig, train

NEAR, RANDOM = "near the truth", "random"
PUBLISHED, PUBLISHED_UNEQUAL = 0.25, 0.17
"""The inner weight at which the paper shows equal children in balance, and that at which it shows unequal ones."""
THEIR_BATCHES = 100_000_000 // 4096
"""How many batches of 4,096 inputs their code draws for one SAE."""
UNEQUAL = (0.02, 0.15, 0.5)
"""The probabilities of the children that no weight balances."""


@dataclass(frozen=True)
class Toy:
    """Two features of which one latent is to learn the first.

    Attributes:
        with_first, without_first: the second one's probability beside the first and in its absence.
        l1: weight of the penalty.
        published: what the paper reports.
    """

    with_first: float
    without_first: float
    l1: float
    published: str


TOYS = {
    "independent": Toy(0.2, 0.2, 1e-3, "the first alone; bias 0.2"),
    "hierarchical": Toy(0.2, 0.0, 1e-3, "positive"),
    "correlated": Toy(0.2, 0.1, 1e-3, "positive"),
    "correlated, high penalty": Toy(0.2, 0.1, 1e-1, "positive"),
    "anti-correlated": Toy(0.1, 0.2, 2e-2, "negative"),
}


@dataclass(frozen=True)
class Parameters(Chapter):
    """The parameters of the chapter; the paper's are the defaults where it has them."""

    parent_probability: float = given("parent_probability", 0.25)
    child_probability: float = given(
        "child_probability", 0.15, high=0.99, meaning="probability of each of three independent children"
    )
    l1: float = given("l1", 0.03, meaning="weight of the L1 penalty, with three children")
    d_model: int = given("d_model", 50, low=4)
    n_seeds: int = given("n_seeds", 192)
    n_sweep_seeds: int = given("n_sweep_seeds", 16)
    seed: int = given("seed", 14000)
    start_noise: float = given("start_noise", 0.5)
    n_steps: int = given("n_steps", 2000)
    batch_size: int = given("batch_size", 200)
    n_grid: int = given("n_grid", 9)

    @property
    def main(self) -> range:
        """The seeds of the experiments: at most 40, as few as can show a share above 0.9."""
        return range(self.seed, self.seed + min(40, self.n_seeds))

    @property
    def sweep_seeds(self) -> range:
        """Those at each point of the other sweeps."""
        return range(self.seed, self.seed + self.n_sweep_seeds)

    def schedule(self, sampled: bool) -> TrainConfig:
        """Training on the exact loss, or on sampled batches."""
        return TrainConfig(self.n_steps, batch_size=self.batch_size if sampled else None, seed=self.seed)


def two_features(first: float, toy: Toy) -> States:
    """The four states of two features of which the second one's probability depends on the first."""
    acts = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=torch.float64)
    beside, apart, absent = toy.with_first, toy.without_first, 1 - first
    return States(acts, torch.tensor([absent * (1 - apart), absent * apart, first * (1 - beside), first * beside]))


@dataclass(frozen=True)
class Single:
    """One-latent SAEs on one toy, one a seed.

    Attributes:
        decoder: cosines of the latent with both features.
        bias: the decoder bias along both features.
        live: whether the latent fires.
        converged: whether training has converged.
    """

    decoder: Float[Tensor, "seeds 2"]
    bias: Float[Tensor, "seeds 2"]
    live: Bool[Tensor, " seeds"]
    converged: Bool[Tensor, " seeds"]

    @property
    def second(self) -> Float[Tensor, " live"]:
        """The latent's cosine with the second feature, in live seeds."""
        return self.decoder[self.live][:, 1]

    @property
    def on_first(self) -> Float[Tensor, " some"]:
        """The same in live seeds whose latent leads toward the first feature."""
        leads = (self.decoder.abs().argmax(-1) == 0) & (self.decoder[:, 0] > 0)
        return self.decoder[self.live & leads][:, 1]


def singles(p: Parameters) -> dict[tuple[str, str, bool], Single]:
    """One latent on every toy, by (toy, start, whether in sampled batches)."""
    found, dictionary = {}, orthonormal_dictionaries(2, p.d_model, p.main)
    for name, toy in TOYS.items():
        config = SAEConfig(p.d_model, (1,), l1=toy.l1)
        setting = Setting(config, two_features(p.parent_probability, toy), dictionary)
        for kind, start in (
            (NEAR, start_near(dictionary[:, :1], p.main, p.start_noise)),
            (RANDOM, random_start(config, p.main)),
        ):
            for sampled in (False, True):
                run = train(setting, start, p.schedule(sampled))
                reading = metrics.read(run.sae[0], setting.states, dictionary, [None, None])
                bias = (run.sae.b_dec[0].unsqueeze(-2) @ dictionary.mT).squeeze(-2)
                found[name, kind, sampled] = Single(reading.decoder[:, 0], bias, reading.all_live, run.converged[0])
    return found


def median(values: Float[Tensor, " some"]) -> str:
    """A median for a table; a dash where there are no values."""
    return f"{round(float(values.median()), 3) + 0.0:.3f}" if len(values) else "–"


def table(found: Mapping[tuple[str, str, bool], Single]) -> str:
    """Markdown: the published sign beside our cosine with the second feature, for each toy."""
    lines = [
        "| second feature | L1 | published | near the truth | sampled | random starts (on the first feature) | bias |"
    ]
    lines += ["| --- | --- | --- | --- | --- | --- | --- |"]
    for name, toy in TOYS.items():
        near, sampled, random = (found[name, *key] for key in ((NEAR, False), (NEAR, True), (RANDOM, False)))
        on_first = f"{median(random.on_first)} in {len(random.on_first)} of {len(random.live)}"
        cells = [toy.published, median(near.second), median(sampled.second), on_first, median(near.bias[:, 1])]
        lines.append(f"| {name} | {toy.l1:g} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw_singles(found: Mapping[tuple[str, str, bool], Single]) -> Figure:
    """Every live seed's cosine with the second feature: filled exact, open sampled."""
    figure, (axis,) = figures.grid(1, 1, (7.2, 3.4))
    jitter = np.random.default_rng(0)
    axis.axvline(0, color="0.5", lw=1)
    for i, name in enumerate(TOYS):
        for j, (kind, sampled) in enumerate([(NEAR, False), (NEAR, True), (RANDOM, False)]):
            values = found[name, kind, sampled]
            points = values.on_first if kind == RANDOM else values.second
            label = (kind + ", sampled" * sampled) if i == 0 else None
            up = i + (j - 1) * 0.27 + jitter.uniform(-0.08, 0.08, len(points))
            axis.scatter(points, up, s=14, alpha=0.5, lw=0, color=COLOURS[j], marker=MARKERS[j], label=label)
    axis.set_yticks(range(len(TOYS)), list(TOYS))
    axis.invert_yaxis()
    axis.set(xlabel="latent's decoder cosine with the second feature")
    key = axis.legend(fontsize=9, loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0.2, markerscale=2)
    for mark in filter(None, key.legend_handles):
        mark.set_alpha(1)
    return figure


# Balanced prefix weights


@dataclass(frozen=True)
class Balance:
    """The parent's latent over the weight of the inner prefix, in a Matryoshka SAE of widths 1 and 4.

    Attributes:
        weights: of the inner prefix; the outer one has 1.
        encoder: its encoder cosine with each child, of every seed.
    decoder: its decoder cosine with each child.
        live: whether all four latents fire.
        leads: whether the first latent leads toward the parent.
        converged: whether training has converged.
    """

    weights: Float[np.ndarray, " weights"]
    encoder: Float[Tensor, "weights seeds 3"]
    decoder: Float[Tensor, "weights seeds 3"]
    live: Bool[Tensor, "weights seeds"]
    leads: Bool[Tensor, "weights seeds"]
    converged: Bool[Tensor, "weights seeds"]

    @property
    def of_children(self) -> Float[Tensor, "weights 3"]:
        """The median encoder cosine with each child, over seeds that are live and lead toward the parent."""
        kept = (self.live & self.leads)[..., None].expand_as(self.encoder)
        return torch.where(kept, self.encoder, torch.nan).nanmedian(1).values

    @property
    def crossings(self) -> Float[Tensor, " seeds"]:
        """The weight at which each seed's mean encoder cosine with the children crosses zero; NaN where it does not."""
        return torch.stack([crossing(self.weights, values) for values in self.encoder.mean(-1).T])

    @property
    def child_crossings(self) -> Float[Tensor, " 3"]:
        """The same of each child's median over seeds."""
        return torch.stack([crossing(self.weights, values) for values in self.of_children.T])

    @property
    def best(self) -> tuple[float, float]:
        """The weight at which the largest encoder cosine with a child, in size, is smallest, and how large it is there.

        Of medians over seeds, by straight lines over the logarithm of the weight between the points.
        """
        fine = np.geomspace(self.weights[0], self.weights[-1], 2001)
        lines = [np.interp(np.log(fine), np.log(self.weights), values.numpy()) for values in self.of_children.T]
        worst = np.abs(np.stack(lines)).max(0)
        return float(fine[worst.argmin()]), float(worst.min())

    def largest(self, weight: float) -> Float[Tensor, " kept"]:
        """The largest encoder cosine with a child, in size, at a weight: of seeds that are live and lead throughout.

        By straight lines over the logarithm of the weight between the points; of none at a weight of NaN.
        """
        kept = (self.live & self.leads).all(0) & (weight == weight)
        curves = self.encoder[:, kept].flatten(1).T.numpy()
        found = [np.interp(np.log(weight), np.log(self.weights), curve) for curve in curves]
        return torch.tensor(found, dtype=torch.float64).reshape(-1, self.encoder.shape[-1]).abs().amax(-1)


def crossing(weights: Float[np.ndarray, " n"], values: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """Where values first rise through zero, by a straight line over the logarithm of the weight; NaN if nowhere."""
    rises = torch.nonzero((values[:-1] < 0) & (values[1:] >= 0))
    if not len(rises):
        return torch.tensor(torch.nan, dtype=torch.float64)
    i = int(rises[0, 0])
    place = torch.log(torch.as_tensor(weights))
    share = -values[i] / (values[i + 1] - values[i])
    return torch.exp(place[i] + share * (place[i + 1] - place[i]))


def worst_at(found: Balance, weight: float) -> float:
    """The largest encoder cosine with a child, in size, at a weight between those of the sweep; medians over seeds."""
    place = np.log(weight)
    return max(abs(float(np.interp(place, np.log(found.weights), line.numpy()))) for line in found.of_children.T)


def weights_of(p: Parameters) -> Float[np.ndarray, " weights"]:
    """The inner weights of the sweeps."""
    return np.geomspace(0.05, 1, 2 * p.n_grid - 1)


def balance(
    p: Parameters,
    children: Sequence[float],
    weights: Float[np.ndarray, " weights"],
    seeds: range,
    *,
    kind: str = NEAR,
    sampled: bool = False,
) -> Balance:
    """Train at every inner weight on one parent with three independent children."""
    tree = family(p.parent_probability, list(children), len(children), exclusive=False)
    dictionary = orthonormal_dictionaries(tree.n_features, p.d_model, seeds)
    states, widths = tree.states(), (1, tree.n_features)
    configs = [SAEConfig(p.d_model, widths, (float(weight), 1.0), l1=p.l1) for weight in weights]
    near = start_near(dictionary, seeds, p.start_noise)
    start = near if kind == NEAR else random_start(configs[0], seeds)
    run = train([Setting(config, states, dictionary) for config in configs], start, p.schedule(sampled))
    reading = metrics.read(run.sae, [states] * len(weights), dictionary, tree.parents())
    first = reading.decoder[..., 0, :]
    leads = (first.abs().argmax(-1) == 0) & (first[..., 0] > 0)
    return Balance(
        np.asarray(weights), reading.encoder[..., 0, 1:], first[..., 1:], reading.all_live, leads, run.converged
    )


def balances(p: Parameters) -> dict[str, Balance]:
    """Equal children exact, in sampled batches, and from random starts at the published weight alone; unequal ones."""
    equal, weights = (p.child_probability,) * 3, weights_of(p)
    return {
        "equal": balance(p, equal, weights, p.main),
        "sampled": balance(p, equal, weights, p.sweep_seeds, sampled=True),
        "random": balance(p, equal, np.array([PUBLISHED]), p.main, kind=RANDOM),
        "unequal": balance(p, UNEQUAL, weights, p.sweep_seeds),
    }


def draw_balance(found: Mapping[str, Balance], p: Parameters) -> Figure:
    """The parent's encoder cosine with each child over the inner weight: medians, and the middle half of the seeds."""
    equal, unequal = found["equal"], found["unequal"]
    each = [(equal, f"each child of {p.child_probability:g}", equal.encoder.mean(-1))]
    others = [(unequal, f"child of {chance:g}", unequal.encoder[..., i]) for i, chance in enumerate(UNEQUAL)]
    drawn = []
    for title, group in (("equal children", each), ("unequal children", others)):
        series = []
        for some, label, cosines in group:
            kept = torch.where(some.live & some.leads, cosines, torch.nan)
            middle = torch.nanquantile(kept, torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64), dim=1).T.numpy()
            line = {"line_x": some.weights, "line_y": middle[:, 1]}
            series.append({"label": label, "x": some.weights, "points": middle} | line)
        label = "parent's encoder cosine with a child"
        drawn.append({"xlabel": f"inner weight ({title})", "ylabel": label, "log": True, "series": series})
    figure = figures.theory_and_experiment(drawn, line="", filled="")
    for axis, place in zip(figure.axes, (PUBLISHED, PUBLISHED_UNEQUAL), strict=True):
        axis.axvline(place, color="0.4", ls=":", lw=1.4)
        axis.annotate("published", (place, 0), xycoords=("data", "axes fraction"), xytext=(3, 4),
                      textcoords="offset points", fontsize=9)  # fmt: skip
        axis.set_xticks([0.05, 0.1, 0.25, 0.5, 1], ["0.05", "0.1", "0.25", "0.5", "1"])
        axis.minorticks_off()
    return figure


def measured(found: Mapping[tuple[str, str, bool], Single], balanced: Mapping[str, Balance]) -> dict[str, object]:
    """The metrics of the claim `published-toys`."""
    near = {name: found[name, NEAR, False] for name in TOYS}
    equal = balanced["equal"]
    crossings = equal.crossings
    converged = torch.cat([near[name].converged for name in TOYS] + [equal.converged.flatten()])
    return {
        "hierarchical": near["hierarchical"].second,
        "correlated": near["correlated"].second,
        "anticorrelated": near["anti-correlated"].second,
        "balance": (crossings[~crossings.isnan()] - PUBLISHED).abs(),
        "unbalanced": balanced["unequal"].best[1],
        "balanced": equal.largest(float(crossings.nanmedian())),
        "bias_gap": (near["independent"].bias[:, 1] - TOYS["independent"].with_first).abs(),
        "sampled_gap": float((balanced["sampled"].crossings.nanmedian() - crossings.nanmedian()).abs()),
        "independent": near["independent"].second.abs(),
        "converged": float(converged.double().mean()),
    }
