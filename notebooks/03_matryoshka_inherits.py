# %% [markdown]
# # A Matryoshka SAE inherits the mixing
#
# **Claims.** A Matryoshka SAE of widths 1 and $n+1$ learns the same mixed parent as the narrow SAE inside it, and its
# children's latents carry a negative part of each sibling. Their decoders also have a very small negative cosine
# with the parent, which the thread left unexplained. Source: the simplified experiment and the hypothesis in the
# comment thread {cite:p}`chanind2024thread`.
#
# {glue:}`matryoshka-mixing`
#
# {glue:}`child-to-parent`

# %% [markdown]
# ## What was predicted
#
# A prefix that holds the active child's latent can reconstruct parent + child exactly, whatever the parent's decoder
# is. So only two kinds of terms shape that decoder: parent alone, in every prefix; and parent + child, in prefixes
# that hold the parent's latent and miss the child's. It is the top eigenvector of the second moment re-weighted in
# that way. With weight $\beta$ on the inner prefix it is $f_0 + t\,(f_1 + \dots + f_n)$ with
#
# $$ n \beta q\, t^2 + \bigl( (1+\beta)(1 - nq) + n\beta q - \beta q \bigr)\, t - \beta q = 0 . $$ (matryoshka-ratio)
#
# On parent + child, the inner prefix fixes the activation of the parent's latent, and the child's decoder is what is
# left over. Up to scale it holds
#
# $$ \frac{t\,(nt - 1)}{1 + n t^2} \text{ of the parent}, \qquad -\frac{t\,(1 + t)}{1 + n t^2} \text{ of each sibling.} $$ (child-ratio)
#
# The sibling's part is always negative. The parent's part is negative whenever $t < 1/n$: the mixed latent
# over-shoots the parent, and the child takes the excess back.
#
# ## Setup
#
# One parent, its mutually exclusive children, all of magnitude 1 and mutually orthogonal. The firing probabilities
# are our default, as in {doc}`02_narrow_sae_mixes`. The thresholds were fixed in the ledger before the first run.

# %% tags=["parameters"]
parent_probability = 0.3  # probability that the parent fires, from 1e-6 to 1
child_probability = 0.4  # of each child given the parent, from 1e-6 to 1 / n_children
n_children = 2  # number of mutually exclusive children, at least 2
inner_weight = 1.0  # weight of the inner prefix (the outer one has 1), at least 0
l1 = 0.0  # weight of the L1 penalty, at least 0; the closed forms assume 0
d_model = 20  # dimension of the input, at least n_children + 1
n_seeds = 128  # random seeds for each experiment, at least 1
n_sweep_seeds = 16  # random seeds at each point of a sweep, at least 1
seed = 0  # number of the first seed, at least 0
start_noise = 0.5  # of starts near the truth, relative to the length of a feature
n_steps = 2000  # training steps, at least 1
batch_size = 200  # inputs in a batch, in the sampled runs, at least 1
n_grid = 9  # points on the axis of each sweep, at least 3

# %% tags=["hide-input"]
from dataclasses import replace

import numpy as np
import torch
from IPython.display import HTML
from matryoshka_mixing import claims, features, metrics, parameters, plotting, theory
from matryoshka_mixing.sae import SAEConfig, random_start, start_near
from matryoshka_mixing.train import Setting, TrainConfig, train

parameters.check(globals())
torch.set_num_threads(1)
plotting.use_style()

# %%
tree = features.family(parent_probability, child_probability, n_children)
states, parents = tree.states(), tree.parents()
generator = torch.Generator().manual_seed(seed)
dictionary = features.orthonormal_dictionary(tree.n_features, d_model, generator)
matryoshka = SAEConfig(
    d_model,
    widths=(1, n_children + 1),
    weights=(inner_weight, 1.0),
    l1=l1,
    encoder_bias=False,
    decoder_bias=False,
)
exact, sampled = TrainConfig(n_steps), TrainConfig(n_steps, batch_size=batch_size)
seeds, sweep_seeds = range(seed, seed + n_seeds), range(seed, seed + n_sweep_seeds)

# %% [markdown]
# Two kinds of start. *Random*: unit encoder directions, the decoder a tenth of them. *Near the truth*: the true
# directions plus noise of {glue:text}`start_noise:.2f` times their length, parent first. Both train on the exact
# expected loss over the {glue:text}`n_states` states, in float64.

# %%
starts = {
    "random": random_start(matryoshka, seeds),
    "near the truth": start_near(dictionary, seeds, start_noise),
}
setting = Setting(matryoshka, states, dictionary)
runs = {kind: train(setting, start, exact) for kind, start in starts.items()}
readings = {
    kind: metrics.read(run.sae[0], states, dictionary, parents) for kind, run in runs.items()
}
for kind, run in runs.items():
    print(
        f"{kind}: {run.report()}; all latents fire in {int(readings[kind].all_live.sum())} of {n_seeds}"
    )

# %% tags=["remove-cell"]
random, near = readings["random"], readings["near the truth"]
parent_first = random.all_live & (
    (runs["random"].loss[0] - runs["near the truth"].loss[0].median()).abs() < 1e-4
)
claims.glue("n_states", len(states))
claims.glue("start_noise", start_noise)
claims.glue("n_seeds", n_seeds)
claims.glue("n_live", int(random.all_live.sum()))
claims.glue("n_parent_first", int(parent_first.sum()))

# %% [markdown]
# ## The decisive figure
#
# Every point is a set of trained SAEs. The lines are equations {eq}`matryoshka-ratio` and {eq}`child-ratio`; nothing
# is fitted.

# %%
chances = np.linspace(0.02, min(0.5, 1 / n_children) * 0.98, n_grid)
betas = np.geomspace(0.1, 10, n_grid)
points = [(q, inner_weight) for q in chances] + [(child_probability, beta) for beta in betas]
sweep = [
    Setting(
        replace(matryoshka, weights=(beta, 1.0)),
        features.family(parent_probability, q, n_children).states(),
        dictionary,
    )
    for q, beta in points
]
swept = train(sweep, start_near(dictionary, sweep_seeds, start_noise), exact)
swept_random = train(sweep, random_start(matryoshka, sweep_seeds), exact)

# %% tags=["hide-input"]
ratios = np.array([theory.matryoshka_ratio(q, n_children, beta) for q, beta in points])
predicted = [
    *theory.parent_cosines(ratios, n_children),
    *theory.child_cosines(ratios, n_children),
]


def five(run):
    """Five cosines of every SAE (parent's latent with parent, child; child's with parent, itself, sibling), and
    whether all its latents fire only with their own features."""
    every = metrics.decoder_cosines(run.sae, dictionary)
    latents = metrics.match(every)
    mix = metrics.mixing(every, latents, parents)
    selective = metrics.selective(
        run.sae.encode(states.inputs(dictionary)), latents, states.acts
    ).all(-1)
    return [
        every[..., :1, 0],
        mix.parent_to_child,
        mix.child_to_parent,
        mix.own[..., 1:],
        mix.child_to_sibling,
    ], selective


measured, selective = five(swept)
theory_gap = max(
    float((values - torch.from_numpy(line)[:, None, None]).abs()[selective].max())
    for values, line in zip(measured, predicted, strict=True)
)
random_measured, random_selective = five(swept_random)
reached = random_selective & (
    (swept_random.loss - swept.loss.median(1, keepdim=True).values).abs() < 1e-4
)
shown = [torch.where(selective, v[..., 0], torch.nan) for v in measured]
shown_random = [torch.where(reached, v[..., 0], torch.nan) for v in random_measured]

names = ["parent's latent with the parent", "parent's latent with a child"]
names += [
    "child's latent with the parent",
    "child's latent with its child",
    "child's latent with a sibling",
]


def panel(chosen, rows, x, line_x, lines, **labels):
    """One panel of some of the five cosines along one sweep."""
    series = [
        {
            "label": names[i], "x": x, "line_x": line_x, "line_y": lines[i] + 0 * line_x,
            "points": shown[i][rows], "open_points": shown_random[i][rows],
        }
        for i in chosen
    ]  # fmt: skip
    return {"series": series, "ylabel": "decoder cosine"} | labels


def lines(q, beta):
    """All five predicted cosines."""
    ratio = theory.matryoshka_ratio(q, n_children, beta)
    return [*theory.parent_cosines(ratio, n_children), *theory.child_cosines(ratio, n_children)]


# %% tags=["hide-input"] mystnb={"figure": {"caption": "Theory over experiment, against the child's probability (left) and the weight of the inner prefix (right). Top: the parent's latent; bottom: a child's. Filled points: from near the truth, medians with bars over all seeds; over both sweeps the largest distance of a cosine from its line is {glue:}`theory_bound`. Open circles: random seeds that reach the same solution. Seeds with a latent that fires for a sibling are left out and told of below.", "name": "fig-matryoshka-curve"}, "image": {"alt": "Four panels. The parent's latent gains the children as they become more likely and as the inner prefix weighs more. A child's latent has a clearly negative cosine with its sibling and a slightly negative one with the parent. Points lie on the lines."}}
claims.glue("theory_bound", HTML(claims.number(theory_gap)))
claims.glue("headline_child", float(near.decoder[:, 0, 1:].median()))
parent_lines = torch.from_numpy(np.stack(predicted[:2], -1))[:, None]
parent_gap = (
    (torch.stack([values[..., 0] for values in measured[:2]], -1) - parent_lines).abs().max()
)
loss_spread = (swept.loss - swept.loss.median(1, keepdim=True).values).abs().max()
claims.glue("parent_gap", claims.number(float(parent_gap)))
claims.glue("loss_spread", claims.number(float(loss_spread)))
claims.glue("n_swept", selective.numel())
claims.glue("n_stray", int((~selective).sum()))
fine_q, fine_beta = np.linspace(0.001, chances[-1], 200), np.geomspace(0.1, 10, 200)
first, second = slice(0, n_grid), slice(n_grid, None)
by_q, by_beta = lines(fine_q, inner_weight), lines(child_probability, fine_beta)
left = {"xlabel": "child probability given the parent"}
right = {"xlabel": "weight of the inner prefix", "log": True}
figure = plotting.theory_and_experiment(
    [
        panel([0, 1], first, chances, fine_q, by_q, **left),
        panel([0, 1], second, betas, fine_beta, by_beta, **right),
        panel([2, 3, 4], first, chances, fine_q, by_q, **left),
        panel([2, 3, 4], second, betas, fine_beta, by_beta, **right),
    ]
)

# %% [markdown]
# Move the slider: theory on the left, a trained SAE on the right (the first selective seed at each child probability).


# %% tags=["hide-input"]
def expected_decoder(q, beta):
    """Every latent's predicted cosines with every feature."""
    parent, to_child, to_parent, own, sibling = lines(q, beta)
    matrix = np.full((n_children + 1, n_children + 1), sibling)
    matrix[0], matrix[:, 0] = to_child, to_parent
    np.fill_diagonal(matrix, own)
    matrix[0, 0] = parent
    return matrix


every = metrics.decoder_cosines(swept.sae, dictionary)[first]
chosen = selective[first].int().argmax(-1)
trained = np.stack([every[i, seed_index] for i, seed_index in enumerate(chosen)])
HTML(
    plotting.slider_heatmaps(
        "matryoshka-slider",
        "child probability given the parent",
        chances,
        {
            "theory": np.stack([expected_decoder(q, inner_weight) for q in chances]),
            "trained": trained,
        },
        tree.names,
        [f"latent {k}" for k in range(n_children + 1)],
    )
)

# %% [markdown]
# In {glue:text}`n_stray` of {glue:text}`n_swept` runs from near the truth a child's latent fires on a sibling as well, and the
# children's decoders are then not unique: without a penalty that costs nothing. (In all runs, those included, the
# largest distance of the loss from its setting's median is {glue:text}`loss_spread`, and of the parent's decoder from
# its line {glue:text}`parent_gap`.) The formula for the children assumes that each latent fires only with its own
# feature, and the figure shows the runs in which it does.
#
# {numref}`fig-matryoshka-heatmaps` is the picture that the thread drew: decoder and encoder beside the theory, for
# the seed of median loss from near the truth.

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Cosines with the true features at the default setting: theory, and the decoder and encoder of the seed of median loss from near the truth.", "name": "fig-matryoshka-heatmaps"}, "image": {"alt": "Three heat maps. The parent's latent holds the parent and part of each child; each child's latent holds its child and a negative part of its sibling."}}
optimum = theory.matryoshka_optimum(
    states, range(n_children + 1), matryoshka.widths, matryoshka.weights
)
pairs = (
    torch.eye(n_children + 1, dtype=torch.float64)[1:]
    + torch.eye(n_children + 1, dtype=torch.float64)[0]
)
expected = torch.stack([optimum, *(theory.child_decoder(optimum, pair) for pair in pairs)])
median = runs["near the truth"].loss[0].argsort()[n_seeds // 2]
panels = {"theory: decoder": expected.numpy(), "trained: decoder": near.decoder[median].numpy()}
figure = plotting.heatmaps(
    panels | {"trained: encoder": near.encoder[median].numpy()}, tree.names
)

# %% [markdown]
# ## How robust
#
# **Basins.** From random initialisation all latents fire in {glue:text}`n_live` of {glue:text}`n_seeds` seeds; in the
# others at least one is negative on every input from the start and stays *dead*.
# {glue:text}`n_parent_first` seeds reach the solution above. {numref}`fig-matryoshka-basins` shows where the others
# end. A start near the truth would hide all of this.

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Distinct solutions of random seeds, lowest loss first, with their shares. Decoder cosines of the first seed in each; grey rows are dead latents.", "name": "fig-matryoshka-basins"}, "image": {"alt": "Small heat maps, one for each basin, among them the mixed parent-first solution and several with dead latents."}}
found = metrics.basins(runs["random"].loss[0], random.live)
figure = plotting.basin_heatmaps(found, random.decoder, random.live, tree.names)

# %% [markdown]
# **An L1 penalty** shrinks the activation of the parent's latent, and so its over-shoot: the child's small negative
# cosine with the parent should shrink too, and may turn its sign. Over this sweep it goes from
# {glue:text}`lean_first:.3f` to {glue:text}`lean_last:.3f`, while the parent's cosine with a child goes from
# {glue:text}`mixed_first:.3f` to {glue:text}`mixed_last:.3f`.

# %%
penalties = l1 + np.linspace(0, 0.2, n_grid)
penalised = [replace(setting, sae=replace(matryoshka, l1=penalty)) for penalty in penalties]
penalised_run = train(penalised, start_near(dictionary, sweep_seeds, start_noise), exact)
by_penalty, _ = five(penalised_run)

# %% tags=["hide-input"] mystnb={"figure": {"caption": "The mixings against the L1 penalty, from near the truth. Points: medians with bars over all seeds. Lines: the theory without a penalty.", "name": "fig-matryoshka-l1"}, "image": {"alt": "Two panels against the penalty. The parent's cosine with a child changes little; the child's cosine with the parent rises from slightly negative."}}
for name, i in [("mixed", 1), ("lean", 2)]:
    claims.glue(f"{name}_first", float(by_penalty[i][0].median()))
    claims.glue(f"{name}_last", float(by_penalty[i][-1].median()))
flat = [np.full(n_grid, value) for value in lines(child_probability, inner_weight)]


def along(chosen):
    """Some of the five cosines along the sweep of the penalty."""
    series = [
        {
            "label": names[i],
            "x": penalties,
            "line_x": penalties,
            "line_y": flat[i],
            "points": by_penalty[i].reshape(n_grid, -1),
        }
        for i in chosen
    ]
    return {"xlabel": "L1 penalty", "ylabel": "decoder cosine", "series": series}


figure = plotting.theory_and_experiment([along([1, 4]), along([2])])

# %% [markdown]
# **Sampled batches** of {glue:text}`batch_size` inputs beside the exact loss, and the **control**: independent features
# that fire as often, with a decoder bias, where nothing should mix. From near the truth the control's first latent
# has a foreign cosine above 0.1 in {glue:text}`n_control_near` seeds; from random initialisation in
# {glue:text}`n_control_random` of {glue:text}`n_control_live`, since random starts find poor minima there too.

# %%
sampled_runs = {kind: train(setting, start, sampled) for kind, start in starts.items()}
sampled_readings = {
    k: metrics.read(run.sae[0], states, dictionary, parents) for k, run in sampled_runs.items()
}
control = replace(matryoshka, decoder_bias=True)
control_states = features.without_hierarchy(tree).states()
control_runs = {
    kind: train(Setting(control, control_states, dictionary), start, exact)
    for kind, start in starts.items()
}
control_readings = {
    kind: metrics.read(run.sae[0], control_states, dictionary, parents)
    for kind, run in control_runs.items()
}


# %% tags=["hide-input"] mystnb={"figure": {"caption": "The first latent's smallest cosine with a child, every live seed a point. Medians of sampled and exact runs from near the truth differ by {glue:text}`sampled_gap`. For the control the largest foreign cosine of the first latent is shown.", "name": "fig-matryoshka-sampled"}, "image": {"alt": "Strips of points. Exact and sampled runs from near the truth sit at the theory's line, random ones also in other basins, the control at zero."}}
def smallest(reading):
    """The first latent's smallest cosine with a child, in live seeds."""
    return reading.decoder[:, 0, 1:].amin(-1)[reading.all_live]


def foreign(reading):
    """The first latent's largest absolute cosine, its own feature left out, in live seeds."""
    return reading.decoder[reading.all_live][:, 0].abs().sort(descending=True).values[:, 1]


for kind, reading in control_readings.items():
    claims.glue(f"n_control_{kind.split()[0]}", int((foreign(reading) > 0.1).sum()))
claims.glue("n_control_live", len(foreign(control_readings["random"])))
sampled_gap = abs(
    float(smallest(sampled_readings["near the truth"]).median() - smallest(near).median())
)
claims.glue("batch_size", batch_size)
claims.glue("sampled_gap", claims.number(sampled_gap))
strips = {f"exact, {k}": smallest(r) for k, r in readings.items()}
strips |= {f"sampled, {k}": smallest(r) for k, r in sampled_readings.items()}
strips |= {f"control, {k}": foreign(r) for k, r in control_readings.items()}
figure = plotting.seed_strips(
    strips,
    "cosine of the first latent with a child",
    reference=float(optimum[1]),
    label="theory",
)

# %% [markdown]
# ## The verdicts
#
# All thresholds come from the ledger, `book/claims.yml`. A criterion over seeds is met when the 95% Wilson interval
# of the share that passes lies above the share asked for {cite:p}`wilson1927probable`.

# %%
ledger = claims.load()
control_near = control_readings["near the truth"]
worst_sibling = near.mixing.child_to_sibling[near.all_live].amax(-1)
matryoshka_mixing = claims.judge(
    ledger["matryoshka-mixing"],
    {
        "child_cosine_near_truth": smallest(near),
        "sibling_cosine_near_truth": worst_sibling,
        "child_cosine": smallest(random),
        "sibling_cosine": random.mixing.child_to_sibling[random.all_live].amax(-1),
        "recovery": random.mixing.own[random.all_live].amin(-1),
        "theory_gap": theory_gap,
        "sampled_gap": sampled_gap,
        "control_mixing": foreign(control_near),
    },
)
matryoshka_mixing

# %%
towards_parent = near.mixing.child_to_parent[near.all_live]
child_to_parent = claims.judge(
    ledger["child-to-parent"],
    {
        "child_to_parent": towards_parent.amax(-1),
        "child_to_parent_size": towards_parent.abs().amax(-1) / worst_sibling.abs(),
        "control_child_to_parent": control_near.mixing.child_to_parent[control_near.all_live]
        .abs()
        .amax(-1),
    },
)
child_to_parent

# %% tags=["remove-cell"]
claims.glue("matryoshka-mixing", HTML(matryoshka_mixing.headline()))
claims.glue("child-to-parent", HTML(child_to_parent.headline()))

# %% [markdown]
# ## What would change our mind
#
# A trained parent that leaves the curve while the penalty is zero and the loss exact; children without a negative part
# of their siblings; random seeds that recover the features; a control that mixes. Each is a criterion above and would
# change the verdict.
#
# ## Rerun it
#
# ```bash
# papermill notebooks/03_matryoshka_inherits.ipynb out.ipynb -p child_probability 0.2 -p n_children 4 -p inner_weight 3
# ```
