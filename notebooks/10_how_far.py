# %% [markdown]
# # How far the mixing reaches
#
# **Claim.** The mixing is not a peculiarity of the three-feature toy: it persists, in sign and in size, when the
# data or the model is varied. The claim is ours; it answers the doubts that a careful reader of the chapters before
# would raise.
#
# {glue:}`beyond-the-toy`
#
# In one sentence: over {glue:text}`n_factors` factors the parent's latent keeps a positive cosine with its children
# down to {glue:text}`lowest_near:.3f` (from near the truth, in *{glue:text}`lowest_near_factor`*) and
# {glue:text}`lowest_random:.3f` (from random starts, in *{glue:text}`lowest_random_factor`*), where the default has
# {glue:text}`base_near:.3f`. It falls below the 0.1 that the ledger asks for in: *{glue:text}`small_near`* (from near the truth);
# *{glue:text}`small_random`* (from random starts).

# %% [markdown]
# ## What was predicted
#
# {doc}`04_why_it_happens` blames the prefixes that hold the parent's latent and miss the latent of an active child. No
# factor below removes them, so none should remove the mixing; but factors that change how much those terms weigh
# should change it:
#
# - **less**: rarer children ({doc}`07_firing_rates`), and so also the same total shared among many; a light inner prefix.
# - **more**: a wider SAE. A spare latent completes the parent alone in the outer prefix, as the children's latents
#   complete parent + child. Then only the inner prefix is left to shape the parent's latent, and it learns what a
#   *narrow* SAE learns, equation {eq}`narrow-ratio`.
# - **nothing**: tied weights. The best decoders are reached with $W_{enc} = W_{dec}^T$. And, if both prefixes weigh the same,
#   children that fire together: the overlap drops out of the eigenvector.
#
# For sharing the same total among many children, equation {eq}`matryoshka-ratio` lets the cosine with one child fall below 0.1, so
# that the criteria on size were expected to fail there, and the verdict to be *mixed*.
#
# Thresholds were fixed in the ledger after a trial on other seeds and before the first run on these. (A second trial with
# these thresholds failed the criterion on siblings too; it was left as it is. Two factors were added after the first run:
# the parent's probability and the K of BatchTopK.) *Mixing* is
# here the mean cosine over all pairs of a kind, less the cosine that the true features have with each other (0 where
# they are orthogonal).
#
# ## Setup
#
# The base case: one parent, two mutually exclusive children, orthonormal directions, magnitude 1, widths 1 and 3, no
# penalty, no biases. One factor is varied at a time.

# %% tags=["parameters"]
parent_probability = 0.3  # probability that the parent fires, from 1e-6 to 1
child_probability = 0.4  # of each child given the parent, above 0 and at most 0.5
inner_weight = 1.0  # weight of the inner prefix (the outer one has 1), at least 0.001
d_model = 20  # dimension of the input, at least 11
n_seeds = 192  # random seeds for each experiment, at least 1
n_sweep_seeds = 16  # random seeds at each point of a sweep, at least 1
seed = 7000  # number of the first seed, at least 0
start_noise = 0.5  # of starts near the truth, relative to the length of a feature
n_steps = 2000  # training steps, at least 1
batch_size = 200  # inputs in a batch, in the sampled runs, at least 1
n_grid = 9  # points on the axis of each sweep, at least 3

# %% tags=["hide-input"]
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from IPython.display import HTML
from matryoshka_mixing import claims, features, figures, metrics, parameters, theory
from matryoshka_mixing.features import FeatureTree, family
from matryoshka_mixing.sae import SAE, SAEConfig, random_start, start_near
from matryoshka_mixing.training import Setting, TrainConfig, descend, train

parameters.check(globals())
torch.set_num_threads(1)
figures.use_style()

# %%
generator = torch.Generator().manual_seed(seed)
dictionary = features.orthonormal_dictionary(3, d_model, generator)
base_states = family(parent_probability, child_probability).states()
bare = {"encoder_bias": False, "decoder_bias": False}
matryoshka = SAEConfig(d_model, (1, 3), (inner_weight, 1.0), **bare)
base = Setting(matryoshka, base_states, dictionary)
exact = TrainConfig(n_steps)
near_seeds = range(seed, seed + max(1, n_sweep_seeds // 2))
random_seeds = range(seed, seed + 3 * n_sweep_seeds)

# %% [markdown]
# A factor is a list of settings. All settings of a factor train in one call from near the truth; at its lowest, middle
# and highest amount they train from random starts as well. Seeds at each point: {glue:text}`n_near` near the truth (noise of
# {glue:text}`start_noise:.2f` times a feature's length, parent first) and {glue:text}`n_random` random; fewer random ones for
# biases, tied weights and the logarithm, and in the crowd of twelve features one seed for each random dictionary from near the truth.


# %%
class Factor(NamedTuple):
    """One thing that is varied alone: its amounts and, for each, the setting (or several, in a row)."""

    amounts: list
    settings: list[Setting]
    parents: tuple = (None, 0, 0)
    pairs: slice | list = slice(None)  # which pairs count in the mean
    copies: int = 1  # settings for each amount


# %%
def vary(amounts, make, **more):
    """A factor whose setting at each amount is the base case with `make(amount)` changed."""
    return Factor(list(amounts), [replace(base, **make(amount)) for amount in amounts], **more)


# %% [markdown]
# **The data.** Children that overlap, that are unequal, that have children themselves, that are many; magnitudes that
# vary; features that are not orthogonal, up to more features than dimensions. Beside them the rates of
# {doc}`07_firing_rates`: the parent's probability and, as a yardstick that is judged there, the child's.

# %%
p, q = parent_probability, child_probability
overlaps = np.linspace(0, 0.9 * q, n_grid)
ratios = np.geomspace(1, 16, n_grid)
spreads, cosines = np.linspace(0, 0.5, n_grid), np.linspace(0, 0.3, n_grid)
chances = np.geomspace(min(0.05, q / 2), 0.49, n_grid)
rates = np.geomspace(0.001, 0.9, n_grid)


# %%
def split(ratio):
    """Two unequal children with the same total."""
    return family(p, (2 * q * ratio / (1 + ratio), 2 * q / (1 + ratio))).states()


def leaning(cosine):
    """Three features with the same cosine between every two."""
    same_frame = torch.Generator().manual_seed(seed)
    return features.equal_cosine_dictionary(3, cosine, d_model, same_frame)


# %%
overlap = vary(overlaps, lambda both: {"data": features.overlapping(p, q, both)})
factors = {
    "child's probability": vary(chances, lambda c: {"data": family(p, c).states()}),
    "parent's probability": vary(rates, lambda rate: {"data": family(rate, q).states()}),
    "overlap of children": overlap,
    "unequal children": vary(ratios, lambda ratio: {"data": split(ratio)}),
    "spread of magnitudes": vary(
        spreads, lambda s: {"data": features.spread_magnitudes(base_states, s)}
    ),
    "cosine of features": vary(cosines, lambda c: {"dictionary": leaning(c)}),
}

# %% [markdown]
# Three levels: each child has two exclusive children of its own, and the widths are 1, 3 and 7. Many children: prefixes
# of all widths are there, and all but two have weight 0. Crowding: four families, of which one fires at a time,
# with random directions in fewer and fewer dimensions.


# %%
def dynasty(chance):
    """A parent, two exclusive children, and two exclusive grandchildren of each."""
    branch = FeatureTree(q, (FeatureTree(chance),) * 2, True)
    return FeatureTree(1.0, (FeatureTree(p, (branch, branch), True),), is_read_out=False)


# %%
lower = np.linspace(0.05, 0.49, n_grid)
seven = features.orthonormal_dictionary(7, d_model, generator)
deep = SAEConfig(d_model, (1, 3, 7), (inner_weight, 0.5, 0.5), **bare)
factors["a third level"] = Factor(
    list(lower),
    [Setting(deep, dynasty(chance).states(), seven) for chance in lower],
    parents=tuple(dynasty(0.1).parents()),
    pairs=[0, 3],  # the two upper pairs
)

# %%
counts = sorted({round(n) for n in np.linspace(2, 10, n_grid)})
eleven = features.orthonormal_dictionary(11, d_model, generator)


# %%
def brood(n, chance):
    """One parent with n children; the other features never fire and their latents are in no prefix."""
    widths = (1, *range(3, 12))
    weights = (inner_weight, *(float(width == n + 1) for width in widths[1:]))
    some = family(p, [chance] * n + [0.0] * (10 - n), 10)
    return Setting(SAEConfig(d_model, widths, weights, **bare), some.states(), eleven)


# %%
ten = (None, *[0] * 10)
factors["number of children"] = Factor(counts, [brood(n, 2 * q / n) for n in counts], ten)
each_fixed = Factor(counts, [brood(n, q / 5) for n in counts], ten)

# %%
ranks = sorted({round(r) for r in np.geomspace(6, d_model, n_grid)}, reverse=True)
copies = n_sweep_seeds
households = FeatureTree(1.0, family(p / 4, q).children * 4, True, is_read_out=False)
four = SAEConfig(d_model, (4, 12), (inner_weight, 1.0), **bare)
crowds = [
    Setting(four, households.states(), features.crowded_dictionary(12, r, d_model, generator))
    for r in ranks
    for _ in range(copies)
]
crowding = Factor(ranks, crowds, tuple(households.parents()), copies=copies)
factors["dimensions for 12 features"] = crowding

# %% [markdown]
# **The model.** The inner prefix's weight and width, more latents than features, an L1 penalty, and the K of BatchTopK
# ({doc}`08_topk`, from 0.8 times the true mean L0) train as above.

# %%
weights = np.geomspace(0.1, 10, n_grid)
penalties = np.linspace(0, 0.3, n_grid)
true_l0 = p * (1 + 2 * q)
outer = list(range(3, 9))


def shaped(inner, outer):
    """The base case with other widths: every width is a prefix, and all but two have weight 0."""
    chosen = {inner: inner_weight} | {outer: 1.0}
    weighed = tuple(chosen.get(width, 0.0) for width in range(1, 9))
    return {"sae": SAEConfig(d_model, tuple(range(1, 9)), weighed, **bare)}


def budget(share):
    """The base case as a BatchTopK SAE whose K is a share of the true mean L0."""
    k = min(3.0, share * true_l0)
    return {"sae": replace(matryoshka, activation="batchtopk", k=k)}


# %%
factors |= {
    "inner weight": vary(weights, lambda w: {"sae": replace(matryoshka, weights=(w, 1.0))}),
    "L1 penalty": vary(penalties, lambda lam: {"sae": replace(matryoshka, l1=lam)}),
    "K of BatchTopK / true L0": vary(np.linspace(0.8, 2, n_grid), budget),
    "number of latents": vary(outer, lambda width: shaped(1, width)),
    "inner width": vary([1, 2], lambda width: shaped(width, 3)),
}
between = replace(matryoshka, widths=(1, 2, 3), weights=(inner_weight, 1.0, 1.0))
overlap_between = vary(
    overlaps, lambda both: {"data": features.overlapping(p, q, both), "sae": between}
)
wide_inner = vary([1, 2, 3], lambda width: shaped(width, 6))


# %% tags=["hide-input"]
def levels_of(setting, parents):
    """Where each level's latents end: as many as it has features; the last level has all the others."""
    depths = torch.tensor(metrics.depths(parents))
    ends = [int((depths <= depth).sum()) for depth in range(int(depths.max()))]
    weighed = zip(setting.sae.widths, setting.sae.weights, strict=True)
    return (*ends, max(width for width, weight in weighed if weight))


def places(parents):
    """The position of each feature's latent from near the truth: level by level."""
    order = np.argsort(metrics.depths(parents), kind="stable")
    return order, np.argsort(order, kind="stable").tolist()


def begin(settings, parents, seeds, kind):
    """Starts of one kind for every setting; latents to spare start at random beside those near the truth."""
    found = []
    for setting in settings:
        start = random_start(setting.sae, seeds)
        if kind == "near the truth":
            near = start_near(setting.dictionary[places(parents)[0]], seeds, start_noise)
            start.W_enc[..., : len(parents)], start.W_dec[:, : len(parents)] = (
                near.W_enc,
                near.W_dec,
            )
        found.append(start)
    return SAE.join(found)


def measure(sae, settings, factor):
    """The mixings of all instances, one table a setting."""
    return [
        metrics.excess_mixing(
            sae[i], s.data, s.dictionary, factor.parents, levels_of(s, factor.parents)
        )
        for i, s in enumerate(settings)
    ]


KINDS = ("parent_to_child", "child_to_sibling", "child_to_parent")


def three(found, factor):
    """The mean of each of the three mixings, shape (amounts, seeds, 3)."""
    means = [
        torch.stack([getattr(m, kind)[..., factor.pairs].nanmean(-1) for kind in KINDS], -1)
        for m in found
    ]
    return torch.cat(means).unflatten(0, (len(found) // factor.copies, -1))


def own_firing(run, settings, parents):
    """Whether each latent fires with its own feature and no other, as theory assumes."""
    rank = torch.tensor(places(parents)[1])
    rows = []
    for i, s in enumerate(settings):
        acts = run.sae[i].encode(s.data.inputs(s.dictionary), s.data.probs)
        there = (s.data.acts > 0).any(0)
        chosen = rank[there].expand(len(acts), -1)
        rows.append(metrics.each_its_own(acts, chosen, s.data.acts[:, there]))
    return torch.stack(rows)


# %% [markdown]
# A factor is trained from both kinds of start.


# %%
def trained(factor, kind, seeds, chosen):
    """Train some of a factor's amounts from one kind of start."""
    some = [s for i in chosen for s in factor.settings[i * factor.copies :][: factor.copies]]
    start = begin(some, factor.parents, seeds[: max(1, len(seeds) // factor.copies)], kind)
    run = train(some, start, exact)
    return run, measure(run.sae, some, factor)


# %%
def explore(factor):
    """Near the truth at every amount, from random starts at the lowest, middle and highest."""
    everywhere = range(len(factor.amounts))
    ends = sorted({0, len(everywhere) // 2, everywhere[-1]})
    near = trained(factor, "near the truth", near_seeds, everywhere)
    return *near, ends, trained(factor, "random", random_seeds, ends)[1]


# %%
panel_only = {
    "children, each as likely": each_fixed,
    "a prefix between the children": overlap_between,
    "inner width of 6": wide_inner,
}
results = {name: explore(factor) for name, factor in factors.items()}
for name, factor in panel_only.items():
    results[name] = trained(factor, "near the truth", near_seeds, range(len(factor.amounts)))

# %% [markdown]
# Biases, tied weights and a penalty on the logarithm of the activations, $\lambda\varepsilon\sum_k
# \log(1 + a_k\lVert d_k\rVert/\varepsilon)$ with $\varepsilon = 0.1$ {cite:p}`candes2008reweighted`, need losses of
# their own: one objective holds all of these variants. (Its slope at 0 is that of an L1 penalty of weight $\lambda$.)

# %%
variants = {
    "none": {}, "encoder": {"b_enc": 1}, "decoder": {"b_dec": 1}, "both": {"b_enc": 1, "b_dec": 1},
    "tied": {"tied": 1}, "tied, norm 1": {"tied": 1, "unit": 1}, "0.15": {"log": 0.15}, "0.3": {"log": 0.3},
}  # fmt: skip
tied, unit, log, b_enc, b_dec = (
    torch.tensor([float(v.get(key, 0)) for v in variants.values()]).double()[:, None, None]
    for key in ("tied", "unit", "log", "b_enc", "b_dec")
)
x, probs = base_states.inputs(dictionary), base_states.probs


# %%
def varied(sae):
    """The parameters that count in each variant."""
    W_dec = sae.W_dec / torch.where(
        unit[..., None] > 0, sae.W_dec.norm(dim=-1, keepdim=True), 1
    )
    W_enc = torch.where(tied[..., None] > 0, W_dec.mT, sae.W_enc)
    return SAE(W_enc, sae.b_enc * b_enc, W_dec, sae.b_dec * b_dec)


# %%
def objective(sae):
    sae = varied(sae)
    sizes = sae.encode(x) * sae.W_dec.norm(dim=-1).unsqueeze(-2)
    costs = (0.1 * torch.log1p(sizes / 0.1)).cumsum(-1)[..., [0, 2]].mT
    terms = sae.errors(x, (1, 3)) + log[..., None] * costs
    return inner_weight * terms[..., 0, :] @ probs + terms[..., 1, :] @ probs


# %%
alike = Factor(list(variants), [base] * len(variants))
kinds = {"near the truth": near_seeds, "random": random_seeds[: 2 * n_sweep_seeds]}
sides = [begin(alike.settings, alike.parents, seeds, kind) for kind, seeds in kinds.items()]
joined = SAE.join(sides, partial(torch.cat, dim=1))
bent = descend(objective, joined, exact, scale=base_states.power)
bent_mixing = three(measure(varied(bent.sae), alike.settings, alike), alike)

# %% tags=["hide-input"]
LEAST = 3  # live seeds without which a median says nothing


def medians(table, least=1):
    """Medians over live seeds, shape (amounts, 3)."""
    enough = (~table[..., 0].isnan()).sum(-1) >= least
    return torch.where(enough[:, None], table.nanmedian(1).values, torch.nan).numpy()


def named(amount):
    return amount if isinstance(amount, str) else f"{amount:.2g}"


near_tables, effects, n_live = {}, {}, {}
for name, factor in factors.items():
    run, found, chosen, wild = results[name]
    near_tables[name], other = three(found, factor), three(wild, factor)
    n_live[name] = int((~other[..., 0].isnan()).sum(-1).min())
    effects[name] = {
        "amounts": [named(a) for a in factor.amounts],
        "values": medians(near_tables[name]),
        "other": medians(other, LEAST),
    }
for name, chosen, labels in [
    ("biases", ["none", "encoder", "decoder", "both"], None),
    ("tied weights", ["none", "tied", "tied, norm 1"], ["free", "tied", "tied, norm 1"]),
    ("log penalty", ["none", "0.15", "0.3"], ["0", "0.15", "0.3"]),
]:
    rows = bent_mixing[[alike.amounts.index(one) for one in chosen]]
    other = rows[:, len(near_seeds) :]
    n_live[name] = int((~other[..., 0].isnan()).sum(-1).min())
    effects[name] = {
        "amounts": labels or chosen,
        "values": medians(rows[:, : len(near_seeds)]),
        "other": medians(other, LEAST),
    }

# %%
seeds = range(seed, seed + n_seeds)
many = {kind: train(base, begin([base], [None, 0, 0], seeds, kind), exact) for kind in kinds}
one = Factor(["base"], [base])
base_tables = {kind: three(measure(run.sae, [base], one), one)[0] for kind, run in many.items()}
base_median = base_tables["near the truth"].nanmedian(0).values
for kind, run in many.items():
    alive = int((~base_tables[kind][:, 0].isnan()).sum())
    print(f"base case, {kind}: {run.report()}; all latents fire in {alive} of {n_seeds}")


# %% [markdown]
# ## The decisive figure: what matters
#
# {numref}`fig-reach-ranges` orders the factors by how far they move the parent's cosine with a child. The bars are
# medians over seeds from near the truth; the thin lines medians over *all* live random seeds, whichever solution they
# reached, at each factor's lowest, middle and highest amount (points with fewer than three live seeds are left out).
# The parent's latent is always the first, whatever it holds.

# %% tags=["hide-input"] mystnb={"figure": {"caption": "From the lowest to the highest median of the three mixings over each factor's range; the amounts at both ends are beside the bars. Of {glue:text}`n_rows` factors, {glue:text}`n_halving` bring the parent's cosine with a child below half of its default (dashed) somewhere in their range, from near the truth: {glue:text}`halving`. The largest effect of the model's factors other than the inner prefix's weight and width is {glue:text}`model_effect:.3f`.", "name": "fig-reach-ranges"}, "image": {"alt": "Three panels of horizontal bars, one row for each factor. In the left panel all bars lie right of zero; the child's probability, crowding and the number of children have the longest and reach lowest; penalties, biases and tied weights have almost no length. In the middle panel most bars are negative; in the right panel the bar of the L1 penalty crosses zero."}}
effect = {name: figures.extent(rows["values"][:, 0]) for name, rows in effects.items()}
lowest = {
    name: np.min(rows["values"][:, 0], initial=1, where=~np.isnan(rows["values"][:, 0]))
    for name, rows in effects.items()
}
halving = [name for name, low in lowest.items() if low < float(base_median[0]) / 2]
model_names = ("L1 penalty", "log penalty", "number of latents", "biases", "tied weights")
model_names += ("K of BatchTopK / true L0",)
claims.glue("n_rows", len(effects))
claims.glue("n_near", len(near_seeds))
claims.glue("n_random", len(random_seeds))
claims.glue("start_noise", start_noise)
claims.glue("n_halving", len(halving))
claims.glue("halving", ", ".join(halving) or "none")
claims.glue("model_effect", max(effect[name] for name in model_names))
figure = figures.ranges(
    effects,
    [
        "parent's latent with a child",
        "child's latent with a sibling",
        "child's latent with the parent",
    ],
    base_median.tolist(),
    ("near the truth", "random starts"),
)


# %% tags=["hide-input"]
def span(values):
    """The lowest and the highest value in words."""
    kept = values[~np.isnan(values)]
    return f"{kept.min():.2f} to {kept.max():.2f}" if len(kept) else "no live seed"


table = pd.DataFrame(
    {
        "amounts": [
            f"{rows['amounts'][0]} to {rows['amounts'][-1]}" for rows in effects.values()
        ],
        "near the truth": [span(rows["values"][:, 0]) for rows in effects.values()],
        "random starts": [span(rows["other"][:, 0]) for rows in effects.values()],
        "sibling": [span(rows["values"][:, 1]) for rows in effects.values()],
        "parent": [span(rows["values"][:, 2]) for rows in effects.values()],
    },
    index=list(effects),
)
table.loc[sorted(effect, key=effect.get, reverse=True)]

# %% [markdown]
# The same in numbers: the parent's cosine with a child from both kinds of start, then, from near the truth, a child's with a
# sibling and with the parent.
#
# ## The data, one factor at a time
#
# The lines are theory. Given which latents fire where, the best decoders follow from a small least-squares problem
# (`theory.pattern_optimum`). It agrees with the closed forms where there are any, and covers three levels as well. In
# converged seeds whose latents fire with their own features and no others, the largest distance of any of the three
# mixings from theory is {glue:text}`theory_gap`, over all factors that this theory reaches.


# %% tags=["hide-input"]
def expected(factor):
    """Theory's decoders of each setting, and the mixings that they would show."""
    order, rank = places(factor.parents)
    found, decoders = [], []
    for s in factor.settings:
        rows = theory.pattern_optimum(s.data, s.dictionary, rank, s.sae.widths, s.sae.weights)
        nothing = torch.zeros(1, 1, max(d_model, s.sae.d_sae), dtype=torch.float64)
        decoder, encoder = nothing[0].T[: s.sae.d_sae, :1] + torch.zeros(
            2, s.sae.d_sae, d_model
        )
        decoder[: len(rows)], encoder[: len(rows)] = rows[order], s.dictionary[order]
        ideal = SAE(
            encoder.T[None, None],
            nothing[..., : s.sae.d_sae],
            decoder[None, None],
            nothing[..., :d_model],
        )
        found += measure(ideal, [s], factor)
        decoders.append(rows)
    return found, decoders


# A penalty, a budget, spare latents and crowding are beyond this theory; with an inner prefix of 2 the
# children's decoders are not unique; with spread magnitudes it only gives a bound.
beyond = ("spread of magnitudes", "L1 penalty", "number of latents", "inner width")
beyond += ("K of BatchTopK / true L0",)
covered = {name: f for name, f in factors.items() if name not in beyond and f is not crowding}
covered |= {name: panel_only[name] for name in list(panel_only)[:2]}
theories = {name: expected(factor) for name, factor in covered.items()}
gaps = []
for name, factor in covered.items():
    run = results[name][0]
    fits = own_firing(run, factor.settings, factor.parents) & run.converged
    measured, line = three(results[name][1], factor), three(theories[name][0], factor)
    away = (measured - line).abs().amax(-1)[fits]
    gaps.append(away[~away.isnan()])
gaps = torch.cat(gaps)
theory_gap = float(gaps.max()) if len(gaps) else float("nan")
claims.glue("theory_gap", claims.number(theory_gap))


# %% tags=["hide-input"]
SHORT = ("parent's latent with a child", "child's with a sibling", "child's with the parent")


def random_medians(name, factor):
    """Medians of live random seeds at the three amounts that have them, NaN elsewhere."""
    full = np.full((len(factor.amounts), 3), np.nan)
    full[results[name][2]] = effects[name]["other"]
    return full


def panel(name, xlabel, chosen=(0, 1, 2), line=None, **more):
    """A panel of some of the three mixings over one factor's amounts."""
    factor = factors[name]
    points, line = near_tables[name], line if line is None else line.numpy()
    series = [
        {"label": SHORT[i], "x": factor.amounts, "points": points[..., i]}
        | {"open_points": random_medians(name, factor)[:, [i]]}
        | ({} if line is None else {"line_x": factor.amounts, "line_y": line[:, i]})
        for i in chosen
    ]
    return {"xlabel": xlabel, "ylabel": "decoder cosine", "series": series} | more


def theory_line(name):
    """Theory's three mixings over one factor's amounts."""
    return three(theories[name][0], covered[name])[:, 0]


def of_pairs(name, pairs, kind="parent_to_child"):
    """Trained values and theory's line for some pairs of one factor."""
    trained = torch.stack([getattr(m, kind)[:, pairs].nanmean(-1) for m in results[name][1]])
    line = torch.stack([getattr(m, kind)[0, pairs].nanmean() for m in theories[name][0]])
    return {
        "points": trained,
        "x": covered[name].amounts,
        "line_x": covered[name].amounts,
        "line_y": line,
    }


# %% tags=["hide-input"] mystnb={"figure": {"caption": "How the children fire. Lines: theory; points: medians from near the truth with bars over seeds. Overlap (top left; open circles: medians over all live random seeds): from near the truth the parent's cosine moves by {glue:text}`overlap_moves`, and by {glue:text}`between_moves:.3f` if a prefix ends between the two children. Unequal children (top right): the rarer child falls to {glue:text}`rarer:.3f` while the commoner rises to {glue:text}`commoner:.3f` (medians of all seeds; open circles: seeds in which a latent fires on other inputs than its own). A third level (bottom left) moves the mixing above it by {glue:text}`third_moves:.3f`. Ten children that share the same total (bottom right) have {glue:text}`ten_each:.3f` each, but together {glue:text}`ten_length:.3f`.", "name": "fig-reach-children"}, "image": {"alt": "Four panels. Overlap leaves three level lines; a fourth, with a prefix between the children, falls. For unequal children two curves part, the rarer child's falling. With a third level the upper curve is level and the lower ones rise. With more children the cosine with one child falls. Points lie on the lines."}}
third = "a third level"
lines = [rows[0] @ seven.T for rows in theories[third][1]]
grand = metrics.decoder_cosines(results[third][0].sae, seven)[..., 0, [2, 3, 5, 6]].mean(-1)
upper, deeper = of_pairs(third, [0, 3]), of_pairs(third, [1, 2, 4, 5])
grand_line = torch.stack(lines)[:, [2, 3, 5, 6]].mean(-1)
levels_panel = [
    {"label": "parent's latent with a child"} | upper,
    {"label": "child's latent with a grandchild"} | deeper,
    {"label": "parent's latent with a grandchild"}
    | upper
    | {"points": grand, "line_y": grand_line},
]
unequal = [of_pairs("unequal children", [i]) for i in (0, 1)]
run, factor = results["unequal children"][0], factors["unequal children"]
fits = own_firing(run, factor.settings, factor.parents)
for series in unequal:
    series["open_points"] = series["points"].masked_fill(fits, torch.nan)
    series["points"] = series["points"].masked_fill(~fits, torch.nan)
overlap_panel = panel(
    "overlap of children",
    "probability of both children given the parent",
    line=theory_line("overlap of children"),
)
label = {"label": "parent's, with a prefix between the children"}
overlap_panel["series"].append(label | of_pairs("a prefix between the children", slice(None)))
crowd_of_children = [
    {"label": label} | of_pairs(name, slice(None))
    for label, name in [
        (f"together as likely as two ({2 * q:.2g})", "number of children"),
        (f"each as likely ({q / 5:.2g})", "children, each as likely"),
    ]
]
cosine_label = {"ylabel": "parent's latent with a child"}
figure = figures.theory_and_experiment(
    [
        overlap_panel,
        {
            "xlabel": "how much likelier the commoner child is",
            "log": True,
            "ylabel": "parent's latent with a child",
        }
        | {
            "series": [
                {"label": n} | u
                for n, u in zip(["commoner child", "rarer child"], unequal, strict=True)
            ]
        },
        {
            "xlabel": "probability of a grandchild given its parent",
            "ylabel": "decoder cosine",
            "series": levels_panel,
        },
        {
            "xlabel": "number of children",
            "ylabel": "parent's latent with one child",
            "series": crowd_of_children,
        },
    ]
)
moved = near_tables["overlap of children"][..., 0].nanmedian(1).values
moved_between = of_pairs("a prefix between the children", slice(None))["points"]
moved_between = figures.extent(moved_between.nanmedian(1).values.numpy())
claims.glue("between_moves", moved_between)
claims.glue("overlap_moves", claims.number(float(moved.max() - moved.min())))
for name, i in [("commoner", 0), ("rarer", 1)]:
    cosines_at_end = of_pairs("unequal children", [i])["points"][-1]
    claims.glue(name, float(cosines_at_end.nanmedian()))
claims.glue("third_moves", effect[third])
claims.glue("unequal_moves", effect["unequal children"])
fewest = float(near_tables["number of children"][-1, :, 0].nanmedian())
claims.glue("ten_each", fewest)
claims.glue("ten_length", counts[-1] ** 0.5 * fewest)

# %% [markdown]
# - **Overlap** leaves the parent's latent alone where both prefixes weigh the same. The more often both children fire, the
#   more often the parent is alone, and the re-weighted second moment gains the same along the parent as
#   along the children's sum: the eigenvector stays. A prefix that ends between the two children holds a part of
#   what is active, and then overlap does lower the mixing. Random starts also find other solutions, such as one whose second
#   and third latent complete the parent alone and parent + both children.
# - **Unequal children** trade places: each one's mixing follows its own probability, and the mean moves by
#   {glue:text}`unequal_moves:.3f` only. The ledger's criteria judge the mean; a rare enough child escapes on its own. Where the rarer child's latent fires on the
#   parent alone as well, and takes part of it, the commoner child is mixed in more.
# - **Levels** repeat: every level mixes in the next, and the top one its grandchildren too.
# - **Many children** that share one total lower the cosine with each. The length of all that is mixed in falls more
#   slowly, as one over the root of their number.


# %% tags=["hide-input"] mystnb={"figure": {"caption": "Magnitudes and directions. Spread magnitudes (top left): the best decoders with free activations (solid) miss the trained parent's cosine by {glue:text}`spread_gap`, the top eigenvector of the re-weighted second moment (dashed) by {glue:text}`eigen_gap`. Features with a common cosine (top right): excess over it. Crowding (bottom left): twelve features of four families in ever fewer dimensions, medians with the full range over seeds and random dictionaries; bottom right: the cosine of each latent with its own feature.", "name": "fig-reach-features"}, "image": {"alt": "Four panels. The parent's cosine with a child falls slowly with the spread, and hardly with the common cosine, while the children's negative cosines grow with it. Under crowding the points scatter widely and the recovery of the features falls."}}
def eigen_line(factor):
    """The first decoder by the re-weighted second moment of the inputs, and its mean cosine with a child."""
    found = []
    for s in factor.settings:
        pull = theory.prefix_weights(s.data, range(3), s.sae.widths, s.sae.weights)
        inputs = features.States(s.data.inputs(s.dictionary), s.data.probs)
        top = theory.top_eigenvector(theory.second_moment(inputs, pull))
        cosine = s.dictionary @ top
        found.append((cosine * cosine[0].sign())[1:].mean())
    return torch.stack(found)


spread = factors["spread of magnitudes"]
bound = three(expected(spread)[0], spread)[:, 0]
middle = torch.from_numpy(effects["spread of magnitudes"]["values"])
spread_panel = panel(
    "spread of magnitudes", "standard deviation of magnitudes / mean", line=bound
)
spread_panel["series"][0]["dashed_y"] = eigen_line(spread)
own = torch.cat([m.own for m in results["dimensions for 12 features"][1]]).unflatten(
    0, (len(ranks), -1)
)
families = torch.tensor([parent is None for parent in crowding.parents])
recovery = [
    {"label": label, "x": ranks, "points": own[..., chosen].mean(-1)}
    for label, chosen in [("parents' latents", families), ("children's latents", ~families)]
]
figure = figures.theory_and_experiment(
    [
        spread_panel,
        panel(
            "cosine of features",
            "cosine between any two features",
            line=theory_line("cosine of features"),
            ylabel="cosine, excess over the true one",
        ),
        panel(
            "dimensions for 12 features",
            "dimensions that 12 features share",
            ylabel="cosine, excess over the true one",
        ),
        {
            "xlabel": "dimensions that 12 features share",
            "ylabel": "cosine with the own feature",
            "series": recovery,
        },
    ]
)
claims.glue("cosine_moves", effect["cosine of features"])
claims.glue("sibling_upright", float(effects["cosine of features"]["values"][0, 1]))
claims.glue("sibling_leaning", float(effects["cosine of features"]["values"][-1, 1]))
claims.glue("crowd_parents", float(own[-1][:, families].nanmedian()))
claims.glue("crowd_children", float(own[-1][:, ~families].nanmedian()))
claims.glue("spread_gap", claims.number(float((middle - bound)[:, 0].abs().max())))
claims.glue("eigen_gap", claims.number(float((middle[:, 0] - eigen_line(spread)).abs().max())))

# %% [markdown]
# - **Spread magnitudes** make parent + child more than one direction, so that the outer prefix is exact no longer, and
#   the argument of {doc}`03_matryoshka_inherits` breaks. The eigenvector is an approximation then; the figure says how good a one.
# - **Directions.** A common cosine moves the parent's excess by {glue:text}`cosine_moves:.3f` only, and the child's with
#   its sibling from {glue:text}`sibling_upright:.3f` to {glue:text}`sibling_leaning:.3f`. In
#   the tightest crowd the parents' latents have a median cosine of {glue:text}`crowd_parents:.2f` with their own features
#   and the children's {glue:text}`crowd_children:.2f`; the mixing is still there.
#
# ## The model, one factor at a time

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Inner weight (top left): lines as before. More latents than features (top right): by theory the parent's latent has the default's cosine ({glue:text}`base_line:.3f`, dashed) or, where a spare latent completes the parent alone, the narrow SAE's ({glue:text}`narrow_line:.3f`, solid); with {glue:text}`most_latents` latents the median is {glue:text}`wide_near:.3f` from near the truth and {glue:text}`wide_random:.3f` from random starts. A wider inner prefix (bottom left): once it holds every child, the median is {glue:text}`without_cause`. L1 (bottom right).", "name": "fig-reach-model"}, "image": {"alt": "Four panels. The mixing rises with the inner weight and levels off; lies at one of two levels for wider SAEs; vanishes when the inner prefix holds every child; is level under an L1 penalty, under which the child's cosine with the parent changes its sign."}}
narrow_cosine = theory.parent_cosines(theory.narrow_ratio(q, 2), 2)[1]
base_cosine = theory.parent_cosines(theory.matryoshka_ratio(q, 2, inner_weight), 2)[1]
wider = panel("number of latents", "number of latents", chosen=(0, 1))
levels = {"line_x": [3, 8], "line_y": [narrow_cosine] * 2, "dashed_y": [base_cosine] * 2}
wider["series"][0] |= levels
wide_points = three(results["inner width of 6"][1], wide_inner)
inner_series = [
    {"label": "3 latents", "x": [1, 2], "points": near_tables["inner width"][..., 0]},
    {"label": "6 latents", "x": [1, 2, 3], "points": wide_points[..., 0]},
]
figure = figures.theory_and_experiment(
    [
        panel(
            "inner weight",
            "weight of the inner prefix",
            line=theory_line("inner weight"),
            log=True,
        ),
        wider,
        {
            "xlabel": "latents in the inner prefix",
            "ylabel": "parent's latent with a child",
            "series": inner_series,
        },
        panel("L1 penalty", "L1 penalty"),
    ]
)
without_cause = float(wide_points[-1, :, 0].nanmedian())
claims.glue("base_line", base_cosine)
claims.glue("narrow_line", narrow_cosine)
claims.glue("most_latents", outer[-1])
claims.glue("wide_near", float(effects["number of latents"]["values"][-1, 0]))
claims.glue("wide_random", float(effects["number of latents"]["other"][-1, 0]))
claims.glue("without_cause", claims.number(without_cause))
for kind, key in [("near", "values"), ("random", "other")]:
    plain = np.stack(
        [effects[n][key][:, 0].min() for n in ("biases", "tied weights", "log penalty")]
    )
    claims.glue(f"plain_{kind}", float(plain.min()))


# %% [markdown]
# **A wider SAE does not heal the mixing; it adds to it,** up to the narrow SAE's. The spare latents sit outside the inner
# prefix, and cannot help it. **An inner prefix that holds every child** removes the cause, and the mixing goes.
# (It is then a standard SAE twice, without a penalty, which can be exact on every input; a latent that alone
# completes the parent's own inputs has the parent's direction.) **Penalties** act on the child's cosine with the parent, as in {doc}`03_matryoshka_inherits`.
# **Tied weights and biases**: see {numref}`fig-reach-ranges`. The lowest median of the parent's cosine over biases, tied weights and the penalty on the
# logarithm is {glue:text}`plain_near:.3f` from near the truth and {glue:text}`plain_random:.3f` from random starts.
#
# ## Without a hierarchy
#
# Two equally likely features, neither the other's parent, whose firing is correlated. A latent that has to stand
# for both mixes them at any correlation: the *narrow* SAE of one latent holds both alike, since any correlation
# turns the top eigenvector by 45 degrees. A Matryoshka SAE of widths 1 and 2 mixes by degrees. Without a decoder bias even
# independent features mix, because their second moment is not centred; with one, independent features are
# learned clean (from near the truth) and anti-correlated ones are mixed in with a negative sign.

# %%
likely = min(p, 0.5)
correlations = np.linspace(-likely / (1 - likely), 0.9, n_grid)
two = dictionary[:2]
correlated = [features.correlated_pair(likely, rho) for rho in correlations]

# %%
wide, slim = (inner_weight, 1.0), (1.0, 0.0)  # a prefix of weight 0 leaves a narrow SAE
pair_runs = {}
for biased in (False, True):
    pair_sae = SAEConfig(d_model, (1, 2), wide, encoder_bias=False, decoder_bias=biased)
    saes = [replace(pair_sae, weights=w) for w in (wide, slim)]
    settings = [Setting(sae, states, two) for sae in saes for states in correlated]
    near = start_near(two, near_seeds, start_noise)
    pair_runs[biased] = (
        settings,
        train(settings, near, exact),
        train(settings, random_start(pair_sae, random_seeds[:n_sweep_seeds]), exact),
    )


# %% tags=["hide-input"]
def other_cosine(run, settings):
    """The first latent's cosine with the feature that it holds less of, if all weighed latents fire."""
    found = []
    for i, s in enumerate(settings):
        used = 2 if s.sae.weights[1] else 1
        cosines = metrics.decoder_cosines(run.sae[i], two)[:, 0]
        more = cosines.gather(1, cosines.abs().argmax(1, keepdim=True))[:, 0]
        less = cosines.gather(1, cosines.abs().argmin(1, keepdim=True))[:, 0]
        fires = metrics.live(run.sae[i].encode(s.data.inputs(two)))[:, :used].all(-1)
        found.append(torch.where(fires, less * more.sign(), torch.nan))
    return torch.stack(found)


def pair_line(rho, biased, narrow):
    """Theory: the top eigenvector of the second moment, centred if there is a decoder bias.

    In the Matryoshka SAE the second latent completes every state with the second feature.
    """
    states = features.correlated_pair(likely, rho)
    pull = torch.where(states.acts[:, 1] > 0, inner_weight, 1 + inner_weight).double()
    probs = states.probs * (1 if narrow else pull)
    probs = probs / probs.sum()
    acts = states.acts - (probs @ states.acts if biased else 0)
    top = theory.top_eigenvector((acts * probs[:, None]).T @ acts)
    return float(top[1] * top[0].sign())


# %% tags=["hide-input"] mystnb={"figure": {"caption": "The first latent's cosine with the other of two equally likely features, against their correlation, without (left) and with a decoder bias (right). Points: medians from near the truth with bars over seeds; open circles: random starts; lines: theory. For independent features theory gives a Matryoshka SAE {glue:text}`independent_bare:.3f` without a bias and {glue:text}`independent_biased` with one. With anti-correlated features some seeds settle in other solutions, off the lines.", "name": "fig-reach-pairs"}, "image": {"alt": "Two panels. On the left the Matryoshka curve rises from zero at the lowest correlation; the narrow SAE's is level. On the right the curves change their sign at correlation zero, the narrow SAE's in a jump."}}
fine = np.linspace(correlations[0], 0.9, 201)
panels = []
for biased, (settings, near, wild) in pair_runs.items():
    tables = (
        other_cosine(near, settings),
        other_cosine(wild, settings).nanmedian(1, keepdim=True).values,
    )
    series = [
        {
            "label": label, "x": correlations, "points": tables[0].unflatten(0, (2, -1))[i],
            "open_points": tables[1].unflatten(0, (2, -1))[i],
            "line_x": fine, "line_y": [pair_line(rho, biased, narrow=bool(i)) for rho in fine],
        }
        for i, label in enumerate(["Matryoshka, widths 1 and 2", "narrow, one latent"])
    ]  # fmt: skip
    ylabel = f"first latent with the other, {'decoder bias' if biased else 'no bias'}"
    panels.append({"xlabel": "correlation of two features", "ylabel": ylabel, "series": series})
claims.glue("independent_bare", pair_line(0.0, False, False))
claims.glue("independent_biased", claims.number(abs(pair_line(0.0, True, False))))
figure = figures.theory_and_experiment(panels)

# %% [markdown]
# ## Sampled batches, and the base case in many seeds
#
# Batches of {glue:text}`batch_size` inputs at the far ends of the data's factors, with truly normal magnitudes where they vary;
# the base case from both kinds of start; and the control: two independent features, with a decoder bias.

# %%
far = ["overlap of children", "unequal children", "cosine of features", "inner weight"]
ends = [base] + [factors[name].settings[0 if name == "inner weight" else -1] for name in far]
noisy = TrainConfig(n_steps, batch_size=batch_size, seed=seed)
near = start_near(dictionary, near_seeds, start_noise)
sampled = train(ends, near, noisy)
normal = family(p, q)
for name in normal.names:
    normal = features.retuned(normal, name, magnitude_std=float(spreads[-1]))
some = near[: len(near_seeds) // 2 + 1]  # inputs that cannot be listed take longer
sampled_normal = train(Setting(matryoshka, normal, dictionary), some, noisy)

# %%
independent = Setting(
    replace(pair_sae, weights=wide), features.correlated_pair(likely, 0.0), two
)
pair_starts = {
    "near the truth": start_near(two, seeds, start_noise),
    "random": random_start(pair_sae, seeds),
}
controls = {kind: train(independent, start, exact) for kind, start in pair_starts.items()}


# %% tags=["hide-input"] mystnb={"figure": {"caption": "The parent's cosine with a child (mean over children), every live seed a point; vertical line: theory for the base case. Sampled medians differ from exact ones by at most {glue:text}`sampled_gap`. The control's other cosine has a median size of {glue:text}`control_median` from near the truth; from random starts it is above 0.1 in {glue:text}`n_control_far` of {glue:text}`n_control_live` live seeds, which end in other minima.", "name": "fig-reach-strips"}, "image": {"alt": "Strips of points. The base case from near the truth lies on the line, random starts there and in other basins at larger cosines. Sampled ends lie at their own places, the control at zero."}}
def kept(values):
    return values[~values.isnan()]


foreign = {k: other_cosine(run, [independent])[0] for k, run in controls.items()}
places_of_ends = [base_tables["near the truth"][:, 0]] + [
    near_tables[name][0 if name == "inner weight" else -1, :, 0] for name in far
]
strips = {f"base case, {kind}": kept(t[:, 0]) for kind, t in base_tables.items()}
drawn = measure(sampled.sae, ends, one) + measure(
    sampled_normal.sae,
    [replace(base, data=factors["spread of magnitudes"].settings[-1].data)],
    one,
)
sampled_gaps = []
labels = ["base case", "overlap", "unequal", "cosine", "inner weight 0.1", "normal magnitudes"]
places_of_ends.append(near_tables["spread of magnitudes"][-1, :, 0])
for label, found, exact_values in zip(labels, drawn, places_of_ends, strict=True):
    strips[f"sampled, {label}"] = kept(found.parent_to_child.mean(-1))
    sampled_gaps.append(
        abs(float(strips[f"sampled, {label}"].median() - exact_values.nanmedian()))
    )
sampled_gap = (
    float(np.nanmax(sampled_gaps)) if not np.isnan(sampled_gaps).all() else float("nan")
)
strips |= {f"control, {k}": kept(values) for k, values in foreign.items()}
claims.glue("batch_size", batch_size)
claims.glue("sampled_gap", claims.number(sampled_gap))
claims.glue(
    "control_median", claims.number(float(kept(foreign["near the truth"]).abs().median()))
)
figure = figures.seed_strips(
    strips,
    "cosine of the first latent with another feature",
    reference=float(base_cosine),
    label="theory, base case",
)
control_far = kept(foreign["random"]).abs() > 0.1
claims.glue("n_control_far", int(control_far.sum()))
claims.glue("n_control_live", len(control_far))

# %% [markdown]
# ## The verdict
#
# All thresholds come from the ledger, `book/claims.yml`. The child's probability is the yardstick and is not judged
# here.

# %% tags=["hide-input"]
judged = {name: rows for name, rows in effects.items() if name != "child's probability"}


def least(key):
    """The lowest median of the parent's cosine with a child over each judged factor's range."""
    found = {name: rows[key][:, 0][~np.isnan(rows[key][:, 0])] for name, rows in judged.items()}
    return {name: float(values.min()) for name, values in found.items() if len(values)}


def wider(key):
    """How far more latents change the parent's cosine with a child, at the least."""
    values = effects["number of latents"][key][:, 0]
    return float((values[~np.isnan(values)] - base_cosine).min(initial=np.inf))


def share_positive(lows):
    """The share of factors over whose whole range the cosine stays positive."""
    return float(np.mean([low >= 0.01 for low in lows.values()])) if lows else np.nan


near_least, random_least = least("values"), least("other")
siblings = [float(np.nanmax(rows["values"][:, 1], initial=-1.0)) for rows in judged.values()]

# %%
verdict = claims.judge(
    claims.load()["beyond-the-toy"],
    {
        "smallest_child_cosine_near_truth": min(near_least.values()),
        "smallest_child_cosine": min(random_least.values(), default=np.nan),
        "share_of_factors_with_the_sign_near_truth": share_positive(near_least),
        "share_of_factors_with_the_sign": share_positive(random_least),
        "largest_sibling_cosine_near_truth": max(siblings),
        "gain_from_more_latents_near_truth": wider("values"),
        "gain_from_more_latents": wider("other"),
        "theory_gap": theory_gap,
        "sampled_gap": sampled_gap,
        "mixing_without_its_cause": abs(without_cause),
        "control_mixing": kept(foreign["near the truth"]).abs(),
        "converged": float(
            torch.cat([run.converged[0] for run in many.values()]).double().mean()
        ),
    },
    started={"control_mixing": n_seeds},
)
verdict

# %% tags=["remove-cell"]
claims.glue("beyond-the-toy", HTML(verdict.headline()))
claims.glue("n_factors", len(judged))
claims.glue("sibling_factor", list(judged)[int(np.argmax(siblings))])
claims.glue("sibling_largest", max(siblings))
claims.glue("base_near", float(base_median[0]))
for kind, found in [("near", near_least), ("random", random_least)]:
    weakest = min(found, key=found.get, default="none")
    claims.glue(f"lowest_{kind}", found.get(weakest, float("nan")))
    claims.glue(f"lowest_{kind}_factor", weakest)
    small = [name for name, value in found.items() if value < 0.1]
    claims.glue(f"small_{kind}", ", ".join(small) or "none")

# %% [markdown]
# The factors that bring the parent's cosine with a child below the threshold are named at the top. The largest median cosine of a child with its sibling is
# {glue:text}`sibling_largest:.3f`, in *{glue:text}`sibling_factor`*.
#
# ## What would change our mind
#
# A factor that turns the sign, or brings the mixing of two children as common as these near zero, while some prefix holds the
# parent's latent and misses theirs; a wider SAE whose first latent is cleaner; a control that mixes. We varied one factor
# at a time: factors that lower the mixing together (rare children and a light inner prefix) lower it further. And
# every case here has tens of features at most.
#
# ## Rerun it
#
# ```bash
# papermill notebooks/10_how_far.ipynb out.ipynb -p child_probability 0.2 -p inner_weight 3
# ```
