# %% [markdown]
# # A narrow SAE mixes children into its parent
#
# **Claims.** An SAE with a single latent, trained on a parent and its children, does not learn the parent. It
# learns the parent plus a positive part of each child. It does so because that lowers its reconstruction loss.
# Source: the simplified experiment in the comment thread {cite:p}`chanind2024thread`, which met this
# effect first; Chanin et al. later named it feature hedging {cite:p}`chanin2025hedging`.
#
# {glue:}`narrow-mixing`
#
# {glue:}`mse-reason`

# %% [markdown]
# ## What was predicted
#
# With one latent, no penalty and no biases, an SAE is a rank-one reconstruction with non-negative activations.
# The best one has the top eigenvector of the second moment $\mathbb{E}[x x^\top]$ for its decoder
# {cite:p}`eckart1936approximation`. That vector is never the clean parent: on inputs with a child the parent is
# only half of what is there, and one latent has to serve both kinds of input.
#
# For $n$ mutually exclusive children of conditional probability $q$ the decoder is
# $f_0 + t\,(f_1 + \dots + f_n)$ up to scale, where $f_0$ is the parent's direction and $t$ the positive root of
#
# $$ n q\, t^2 + (1 - q)\, t - q = 0 . $$ (narrow-ratio)
#
# The parent's own probability does not appear: a rarer family is mixed just as much. The thresholds were fixed
# in the ledger before the first run. A child counts as mixed in from a cosine of 0.1 on.
#
# ## Setup
#
# One parent, its mutually exclusive children, all of magnitude 1 and mutually orthogonal. The firing
# probabilities of the thread's figure are not in its text, so the defaults here are ours; the sweeps below
# show that the claim does not hang on them.

# %% tags=["parameters"]
parent_probability = 0.3  # probability that the parent fires, from 1e-6 to 1
child_probability = 0.4  # of each child given the parent, from 1e-6 to 1 / n_children
n_children = 2  # number of mutually exclusive children, at least 2
l1 = 0.0  # weight of the L1 penalty, at least 0; the closed forms assume 0
d_model = 20  # dimension of the input, at least n_children + 1
n_seeds = 192  # random seeds for each experiment, at least 1
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
from matryoshka_mixing import claims, features, figures, metrics, parameters, theory
from matryoshka_mixing.sae import SAEConfig, random_start, start_near
from matryoshka_mixing.training import Setting, TrainConfig, train

parameters.check(globals())
torch.set_num_threads(1)
figures.use_style()

# %%
tree = features.family(parent_probability, child_probability, n_children)
states, parents = tree.states(), tree.parents()
families = [n for n in sorted({2, 3, 5, n_children}) if n < d_model]
generator = torch.Generator().manual_seed(seed)
directions = features.orthonormal_dictionary(
    max(families + [n_children]) + 1, d_model, generator
)
dictionary = directions[: tree.n_features]
one_latent = SAEConfig(d_model, widths=(1,), l1=l1, encoder_bias=False, decoder_bias=False)
exact, sampled = TrainConfig(n_steps), TrainConfig(n_steps, batch_size=batch_size, seed=seed)
seeds, sweep_seeds = range(seed, seed + n_seeds), range(seed, seed + n_sweep_seeds)

# %% [markdown]
# Two kinds of start. *Random*: unit encoder directions, the decoder a tenth of them. *Near the truth*: the
# parent's direction plus noise of {glue:text}`start_noise:.2f` times its length. Both train on the exact
# expected loss over the {glue:text}`n_states` states, in float64.

# %%
starts = {
    "random": random_start(one_latent, seeds),
    "near the truth": start_near(dictionary[:1], seeds, start_noise),
}
setting = Setting(one_latent, states, dictionary)
runs = {kind: train(setting, start, exact) for kind, start in starts.items()}
readings = {
    kind: metrics.read(run.sae[0], states, dictionary, parents) for kind, run in runs.items()
}
live = {kind: reading.all_live for kind, reading in readings.items()}
for kind, run in runs.items():
    print(f"{kind}: {run.report()}; the latent fires in {int(live[kind].sum())} of {n_seeds}")

# %% tags=["remove-cell"]
random, near = readings["random"], readings["near the truth"]
claims.glue("n_states", len(states))
claims.glue("start_noise", start_noise)
claims.glue("n_seeds", n_seeds)
claims.glue("n_dead", int((~live["random"]).sum()))

# %% [markdown]
# ## The decisive figure
#
# Every point is a set of SAEs trained for that child probability and that number of children. The lines are
# equation {eq}`narrow-ratio`; nothing is fitted.

# %%
grids = {n: np.linspace(0.02, min(0.5, 1 / n), n_grid) for n in families}
points = [(n, q) for n in families for q in grids[n]]
sweep = [
    Setting(one_latent, features.family(parent_probability, q, n).states(), directions[: n + 1])
    for n, q in points
]
swept = {
    "random": train(sweep, random_start(one_latent, sweep_seeds), exact),
    "near the truth": train(sweep, start_near(dictionary[:1], sweep_seeds, start_noise), exact),
}
cosines = {
    kind: metrics.decoder_cosines(run.sae, directions)[:, :, 0] for kind, run in swept.items()
}
predicted = [theory.parent_cosines(theory.narrow_ratio(q, n), n) for n, q in points]

# %% tags=["hide-input"]
gaps = {}
for kind, values in cosines.items():
    fired = (
        swept[kind].loss
        < 0.99 * torch.tensor([parent_probability * (1 + n * q) for n, q in points])[:, None]
    )
    values[~fired] = torch.nan
    misses = [
        (values[i, :, : n + 1] - values.new_tensor([own, *[child] * n])).abs()
        for i, ((n, q), (own, child)) in enumerate(zip(points, predicted, strict=True))
    ]
    found = torch.cat([miss[~miss.isnan()] for miss in misses])
    gaps[kind] = float(found.max()) if len(found) else float("nan")


def series(column):
    """One line and two sets of points for each number of children."""
    for n in families:
        rows = [i for i, (m, _) in enumerate(points) if m == n]
        fine = np.linspace(0.001, grids[n][-1], 200)
        line = theory.parent_cosines(theory.narrow_ratio(fine, n), n)[column]
        yield {
            "label": f"{n} children", "x": grids[n], "line_x": fine, "line_y": line,
            "points": cosines["near the truth"][rows, :, column], "open_points": cosines["random"][rows, :, column],
        }  # fmt: skip


# %% tags=["hide-input"] mystnb={"figure": {"caption": "Theory over experiment. Lines: equation {eq}`narrow-ratio`. Filled points: trained from near the truth; open circles: from random initialisation. Medians, with bars over all seeds. The largest distance of any cosine from the curve is {glue:text}`gap_near` from near the truth and {glue:text}`gap_random` from random initialisation.", "name": "fig-narrow-curve"}, "image": {"alt": "Two panels of cosine against child probability for several numbers of children. Trained points lie on the theory's curves: the child's cosine rises from near zero, the parent's falls from one."}}
claims.glue("gap_near", claims.number(gaps["near the truth"]))
claims.glue("gap_random", claims.number(gaps["random"]))
x = "child probability given the parent"
figure = figures.theory_and_experiment(
    [
        {"xlabel": x, "ylabel": "cosine with each child", "series": list(series(1))},
        {"xlabel": x, "ylabel": "cosine with the parent", "series": list(series(0))},
    ]
)

# %% [markdown]
# {numref}`fig-narrow-heatmaps` shows one seed of each kind beside the theory. The clean parent would be a one
# and zeros.

# %% tags=["hide-input"] mystnb={"figure": {"caption": "What the single latent holds at the parameters of this run: cosines of its decoder row and encoder column with the true features, for the seed of median loss from each start.", "name": "fig-narrow-heatmaps"}, "image": {"alt": "Heat maps of one row each. The latent has a large cosine with the parent and a smaller, equal one with every child, in theory and in both kinds of run."}}
panels = {"theory: decoder": theory.narrow_optimum(states)[None].numpy()}
for kind, reading in readings.items():
    alive = torch.nonzero(live[kind])[:, 0]
    if len(alive):
        median = alive[runs[kind].loss[0, alive].argsort()[len(alive) // 2]]
        panels[f"{kind}: decoder"] = reading.decoder[median].numpy()
        panels[f"{kind}: encoder"] = reading.encoder[median].numpy()
figure = figures.heatmaps(panels, tree.names, ["latent 0"], per_row=3)

# %% [markdown]
# ## Why: mixing lowers the loss
#
# Walk from the clean parent to the mixed decoder, $f_0 + s\,t\,(f_1 + \dots + f_n)$ with $s$ from 0 to 1, with the
# best activations at each step. With a hierarchy the loss should fall all the way. For independent features with a
# decoder bias the same walk should only cost.

# %%
position = torch.linspace(0, 2, 201, dtype=torch.float64)
mixed = theory.narrow_ratio(child_probability, n_children) * position
walk = torch.stack([torch.ones_like(mixed), *[mixed] * n_children], dim=1)
independent = features.without_hierarchy(tree)
path = theory.one_latent_loss(states, walk)
control_path = theory.one_latent_loss(independent.states(), walk, biases=True)
clean, rise = path[0], float(path[:101].diff().max() / path[0])
x, without = states.inputs(dictionary), replace(one_latent, l1=0.0)
saving = ((clean - runs["random"].sae[0].loss(x, states.probs, without)) / clean)[
    live["random"]
]

# %% tags=["hide-input"] mystnb={"figure": {"caption": "The loss along the path from the clean parent (0) to the predicted decoder (1), relative to its value at the clean parent. With a hierarchy it is lower by {glue:text}`path_saving:.1%` at the predicted decoder. For the control, independent features that fire as often, the most that the walk saves is {glue:text}`control_saving`.", "name": "fig-narrow-path"}, "image": {"alt": "Two curves over the position on the path. The hierarchy's curve dips to its minimum at position one; the control's rises from position zero."}}
control_saving = float(((control_path[0] - control_path) / control_path[0]).max())
claims.glue("control_saving", claims.number(control_saving))
claims.glue("path_saving", float((clean - path[100]) / clean))
figure = figures.loss_path(
    position.numpy(),
    {
        "hierarchy": (path / clean).numpy(),
        "independent features (control)": (control_path / control_path[0]).numpy(),
    },
    {"clean parent": 0.0, "mixed": 1.0},
    xlabel="position on the path from the clean parent to the mixed decoder",
    ylabel="loss / loss of the clean parent",
)

# %% [markdown]
# ## How robust
#
# **Rare families.** The parent's own probability should not matter. Over the sweep in {numref}`fig-narrow-robust` (left)
# the largest shift of any cosine is {glue:text}`parent_probability_gap`.
#
# **An L1 penalty** (right) shrinks activations. Over its sweep the cosine with a child moves by at most
# {glue:text}`penalty_shift`.

# %%
rates = np.geomspace(0.001, 0.5, n_grid)
penalties = l1 + np.linspace(0, 0.3, n_grid)
rare = [
    Setting(one_latent, features.family(p, child_probability, n_children).states(), dictionary)
    for p in rates
]
penalised = [
    Setting(
        SAEConfig(d_model, (1,), l1=p, encoder_bias=False, decoder_bias=False),
        states,
        dictionary,
    )
    for p in penalties
]
near_start = start_near(dictionary[:1], sweep_seeds, start_noise)
rare_run, penalised_run = train(rare, near_start, exact), train(penalised, near_start, exact)
rare_cosines, penalised_cosines = (
    metrics.decoder_cosines(run.sae, dictionary)[:, :, 0] for run in (rare_run, penalised_run)
)
parent_probability_gap = float((rare_cosines.amax((0, 1)) - rare_cosines.amin((0, 1))).max())

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Cosines against the parent's own probability (left, largest shift {glue:text}`parent_probability_gap`) and against the L1 penalty (right, largest shift {glue:text}`penalty_shift`). Lines: the theory without penalty. Points: trained from near the truth, medians with bars over all seeds.", "name": "fig-narrow-robust"}, "image": {"alt": "Two panels. Left, both cosines are flat over the parent's probability. Right, both are almost flat over the penalty."}}
claims.glue("parent_probability_gap", claims.number(parent_probability_gap))
penalty_shift = float((penalised_cosines - penalised_cosines[:1]).abs().max())
claims.glue("penalty_shift", claims.number(penalty_shift))
own, child = theory.parent_cosines(
    theory.narrow_ratio(child_probability, n_children), n_children
)


def pair(x, values):
    """The two cosines as series, with the theory's flat lines."""
    for label, column, level in [("with the parent", 0, own), ("with a child", 1, child)]:
        yield {
            "label": label,
            "x": x,
            "points": values[:, :, column],
            "line_x": x,
            "line_y": np.full(len(x), level),
        }


figure = figures.theory_and_experiment(
    [
        {
            "xlabel": "probability of the parent",
            "ylabel": "cosine",
            "log": True,
            "series": list(pair(rates, rare_cosines)),
        },
        {
            "xlabel": "L1 penalty",
            "ylabel": "cosine",
            "series": list(pair(penalties, penalised_cosines)),
        },
    ]
)

# %% [markdown]
# **Sampled batches.** The thread trained on sampled batches, as everybody does. {numref}`fig-narrow-sampled` sets
# batches of {glue:text}`batch_size` inputs beside the exact loss: they scatter around the same value.
#
# **Control.** Independent features that fire as often as these, and a decoder bias: without one, even independent
# features pull a single latent toward their common mean. Nothing should be mixed in. So that like is compared with like,
# the hierarchy is trained with a decoder bias too.

# %%
control = SAEConfig(d_model, (1,), l1=l1, encoder_bias=False, decoder_bias=True)
sampled_runs = {kind: train(setting, start, sampled) for kind, start in starts.items()}
sampled_readings = {
    k: metrics.read(run.sae[0], states, dictionary, parents) for k, run in sampled_runs.items()
}
control_states = independent.states()
control_run = train(
    Setting(control, control_states, dictionary), random_start(control, seeds), exact
)
control_reading = metrics.read(
    control_run.sae[0], control_states, dictionary, independent.parents()
)
biased = train(Setting(control, states, dictionary), random_start(control, seeds), exact)
biased_reading = metrics.read(biased.sae[0], states, dictionary, parents)
biased_cosine = biased_reading.decoder[biased_reading.all_live][:, 0, 1:].abs().amin(-1)
ranked = (
    control_reading.decoder[control_reading.all_live][:, 0].abs().sort(descending=True).values
)
control_mixing = ranked[:, 1:].amax(-1)

# %% tags=["hide-input"] mystnb={"figure": {"caption": "The decoder's smallest cosine with a child, every live seed a point. Sampled batches of {glue:text}`batch_size` agree with the exact loss: their medians differ by {glue:text}`sampled_gap`. With a decoder bias the hierarchy still gives {glue:text}`biased_median:.3f` (absolute: a latent may take the family away instead). The control, for which the largest foreign cosine is shown, gives {glue:text}`control_median`.", "name": "fig-narrow-sampled"}, "image": {"alt": "Strips of points. Exact runs sit on the theory's line, sampled runs scatter closely around it, and the control sits at zero."}}
smallest = {k: r.decoder[:, 0, 1:].amin(-1)[r.all_live] for k, r in readings.items()}
smallest_sampled = {
    k: r.decoder[:, 0, 1:].amin(-1)[r.all_live] for k, r in sampled_readings.items()
}
sampled_gap = float((smallest_sampled["random"].median() - smallest["random"].median()).abs())
claims.glue("batch_size", batch_size)
claims.glue("biased_median", float(biased_cosine.median()))
claims.glue("control_median", claims.number(float(control_mixing.median())))
claims.glue("sampled_gap", claims.number(sampled_gap))
strips = {f"exact, {k}": v for k, v in smallest.items()} | {
    f"sampled, {k}": v for k, v in smallest_sampled.items()
}
figure = figures.seed_strips(
    strips
    | {"decoder bias, random": biased_cosine, "control: independent, random": control_mixing},
    "cosine with a child",
    reference=child,
    label="theory",
)

# %% [markdown]
# **Basins.** From random initialisation {glue:text}`n_dead` of {glue:text}`n_seeds` seeds start with a latent that
# is negative on every input. It never fires, gets no gradient, and stays *dead*. The verdict counts the others,
# and {numref}`fig-narrow-basins` shows what they reach.

# %% tags=["hide-input"] mystnb={"figure": {"caption": "The {glue:text}`n_basins` distinct solutions that random seeds reached, by loss, with their shares. Rows of dead latents are grey.", "name": "fig-narrow-basins"}, "image": {"alt": "Small heat maps, one for each basin: the mixed parent, and the dead latent."}}
found = metrics.basins(runs["random"].loss[0], random.live, states.power)
claims.glue("n_basins", len(found))
figure = figures.basin_heatmaps(found, random.decoder, random.live, tree.names)

# %% [markdown]
# ## The verdicts
#
# All thresholds come from the ledger, `book/claims.yml`. A criterion over seeds is met when the 95% Wilson interval
# of the share that passes lies above the share asked for {cite:p}`wilson1927probable`.

# %%
ledger = claims.load()
converged = float(torch.cat([run.converged[0] for run in runs.values()]).double().mean())
narrow_mixing = claims.judge(
    ledger["narrow-mixing"],
    {
        "child_cosine": smallest["random"],
        "child_cosine_near_truth": smallest["near the truth"],
        "theory_gap": gaps["near the truth"],
        "parent_probability_gap": parent_probability_gap,
        "sampled_gap": sampled_gap,
        "child_cosine_with_bias": biased_cosine,
        "control_mixing": control_mixing,
        "converged": converged,
    },
    started=n_seeds,
)
narrow_mixing

# %%
mse_reason = claims.judge(
    ledger["mse-reason"],
    {
        "loss_saving": saving,
        "path_rise": rise,
        "control_saving": control_saving,
        "converged": converged,
    },
    started=n_seeds,
)
mse_reason

# %% tags=["remove-cell"]
claims.glue("narrow-mixing", HTML(narrow_mixing.headline()))
claims.glue("mse-reason", HTML(mse_reason.headline()))

# %% [markdown]
# ## What would change our mind
#
# A trained latent that leaves the curve while the penalty is zero and the loss is exact; a control that mixes; or
# a share of live random seeds that keeps the parent clean. Each is a criterion above and would change the verdict.
#
# ## Rerun it
#
# ```bash
# papermill notebooks/02_narrow_sae_mixes.ipynb out.ipynb -p child_probability 0.2 -p n_children 4 -p n_seeds 128
# ```
