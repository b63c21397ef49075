# %% [markdown]
# # The standard SAE absorbs
#
# **Claim.** A standard SAE of full width *absorbs*. Each child's latent takes the parent's direction into its decoder,
# and the parent's latent is silent on inputs where a child fires. Source: the post
# {cite:p}`nabeshima2024matryoshka`; its comment thread starts from there {cite:p}`chanind2024thread`. The effect was
# named by Chanin et al. {cite:p}`chanin2024absorption`.
#
# {glue:}`full-width-absorbs`

# %% [markdown]
# ## What was predicted
#
# An L1 penalty charges an input for every latent that fires. On parent + child, two latents of size 1 cost 2. One
# latent that holds the sum costs $\sqrt 2$, and reconstructs as well. So with a penalty, the standard SAE should
# give each child's latent the parent's direction too, and leave the parent's latent for inputs with the parent
# alone. This is the baseline that Matryoshka SAEs set out to mend. Without a penalty many solutions are perfect, and
# nothing decides between them.
#
# The thresholds were fixed in the ledger before the first run: absorbed means that the parent's latent is silent on
# at least 90% of the inputs where a child fires, and that each child's latent has a cosine of at least 0.5 with the
# parent. Absorption is complete at 1 and $1/\sqrt 2 \approx 0.71$.
#
# ## Setup
#
# One parent, its mutually exclusive children, all of magnitude 1 and mutually orthogonal. The firing
# probabilities of the thread's figure are not in its text: the defaults are ours, and so is that of the penalty.

# %% tags=["parameters"]
parent_probability = 0.3  # probability that the parent fires, from 1e-6 to 1
child_probability = 0.4  # of each child given the parent, from 1e-6 to 1 / n_children
n_children = 2  # number of mutually exclusive children, at least 2
l1 = 0.03  # weight of the L1 penalty, at least 0
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
from matryoshka_mixing import claims, features, figures, metrics, parameters
from matryoshka_mixing.sae import SAE, SAEConfig, random_start, start_near
from matryoshka_mixing.training import Setting, TrainConfig, train

parameters.check(globals())
torch.set_num_threads(1)
figures.use_style()

# %%
tree = features.family(parent_probability, child_probability, n_children)
states, parents = tree.states(), tree.parents()
generator = torch.Generator().manual_seed(seed)
dictionary = features.orthonormal_dictionary(tree.n_features, d_model, generator)
standard = SAEConfig(
    d_model, widths=(n_children + 1,), l1=l1, encoder_bias=False, decoder_bias=False
)
exact, sampled = TrainConfig(n_steps), TrainConfig(n_steps, batch_size=batch_size, seed=seed)
seeds, sweep_seeds = range(seed, seed + n_seeds), range(seed, seed + n_sweep_seeds)

# %% [markdown]
# Two kinds of start. *Random*: unit encoder directions, the decoder a tenth of them. *Near the truth*: the true
# directions plus noise of {glue:text}`start_noise:.2f` times their length. Both train on the exact expected loss over
# the {glue:text}`n_states` states, in float64.

# %%
starts = {
    "random": random_start(standard, seeds),
    "near the truth": start_near(dictionary, seeds, start_noise),
}
setting = Setting(standard, states, dictionary)
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
claims.glue("n_states", len(states))
claims.glue("start_noise", start_noise)
claims.glue("n_seeds", n_seeds)
claims.glue("n_live", int(random.all_live.sum()))

# %% [markdown]
# ## The decisive figure
#
# What the latents hold, and when they fire, for one seed of each kind. A clean SAE would show ones on the diagonal
# and nothing else; latents are ordered by the feature they match best.


# %% tags=["hide-input"]
def typical(kind):
    """Decoder cosines and activations of the seed of median loss, latents in the order of their features."""
    alive = torch.nonzero(readings[kind].all_live)[:, 0]
    pool = alive if len(alive) else torch.arange(n_seeds)
    chosen = pool[runs[kind].loss[0, pool].argsort()[len(pool) // 2]]
    order = readings[kind].latents[chosen]
    return readings[kind].decoder[chosen][order].numpy(), readings[kind].acts[chosen][
        :, order
    ].numpy()


latent_names = [f"{name}'s latent" for name in tree.names]

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Decoder cosines with the true features in the seed of median loss. Over live random seeds a child's latent has a median cosine of {glue:text}`child_to_parent:.3f` with the parent; complete absorption is 0.707.", "name": "fig-absorb-decoder"}, "image": {"alt": "Two heat maps. In both, each child's latent has nearly equal cosines with the parent and its own child."}}
claims.glue("child_to_parent", float(random.mixing.child_to_parent[random.all_live].median()))
figure = figures.heatmaps(
    {f"{kind}: decoder": typical(kind)[0] for kind in runs}, tree.names, latent_names
)

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Activations on every state in the same seeds. Over live random seeds the parent's latent is silent on {glue:text}`absorption:.0%` of the inputs where a child fires (median).", "name": "fig-absorb-acts"}, "image": {"alt": "Two heat maps of activation by state. The parent's latent fires on the parent alone and is zero where a child is active."}}
claims.glue("absorption", float(random.absorption[random.all_live].median()))
figure = figures.heatmaps(
    {f"{kind}: activations": typical(kind)[1] for kind in runs},
    latent_names,
    states.labels(tree.names),
    quantity="activation",
)

# %% [markdown]
# ## Why: the penalty pays for it
#
# Build both SAEs by hand and compare their exact losses. Clean: one latent a feature. Absorbed: the children's
# latents hold parent + child, and the parent's latent subtracts the children in its encoder, so that it stays
# silent. Neither makes an error, so the loss is the penalty alone.

# %%
encoder, decoder = dictionary.clone(), dictionary.clone()
encoder[0] -= dictionary[1:].sum(0)
decoder[1:] += dictionary[0]
zero = (
    torch.zeros(1, n_children + 1, dtype=torch.float64),
    torch.zeros(1, d_model, dtype=torch.float64),
)
clean = SAE(dictionary.T[None], zero[0], dictionary[None], zero[1])
absorbed = SAE(encoder.T[None], zero[0], decoder[None], zero[1])
x = states.inputs(dictionary)
clean_loss, absorbed_loss = (
    float(sae.loss(x, states.probs, standard)) for sae in (clean, absorbed)
)
print(
    f"clean {clean_loss:.5f}, absorbed {absorbed_loss:.5f}, trained {float(runs['random'].loss.min()):.5f}"
)

# %% tags=["remove-cell"]
claims.glue("clean_loss", clean_loss)
claims.glue("absorbed_loss", absorbed_loss)
claims.glue("trained_loss", float(runs["random"].loss.min()))

# %% [markdown]
# The clean SAE costs {glue:text}`clean_loss:.4f`, the absorbed one {glue:text}`absorbed_loss:.4f`. The best
# trained seed reaches {glue:text}`trained_loss:.4f`: it also shrinks its activations a little, as L1 makes it.
#
# ## How robust
#
# {numref}`fig-absorb-sweeps` varies the penalty and the child's probability: the absorption rate should not hang on
# either.

# %%
penalties = np.geomspace(0.005, 0.2, n_grid)
chances = np.linspace(0.02, min(0.5, 1 / n_children) * 0.98, n_grid)
sweep = [Setting(replace(standard, l1=p), states, dictionary) for p in penalties]
sweep += [
    Setting(standard, features.family(parent_probability, q, n_children).states(), dictionary)
    for q in chances
]
swept = {
    "random": train(sweep, random_start(standard, sweep_seeds), exact),
    "near the truth": train(sweep, start_near(dictionary, sweep_seeds, start_noise), exact),
}
swept_readings = {
    kind: [metrics.read(run.sae[i], s.data, dictionary, parents) for i, s in enumerate(sweep)]
    for kind, run in swept.items()
}


# %% tags=["hide-input"] mystnb={"figure": {"caption": "Absorption rate and the child latents' cosine with the parent, against the penalty (top) and the child's probability (bottom). Over all of them the absorption rate lies between {glue:text}`rate_low:.2f` and {glue:text}`rate_high:.2f`. Medians over live seeds that have converged, with bars over all of these; filled points from near the truth, open circles from random initialisation. Left out as not converged: {glue:text}`n_unconverged` of {glue:text}`n_swept` SAEs.", "name": "fig-absorb-sweeps"}, "image": {"alt": "Four panels of points: absorption rate and cosine against penalty and child probability, for both kinds of start."}}
def panel(quantity, rows, x, xlabel, ylabel, log=False):
    """One panel from the readings of one sweep."""
    values = {}
    for kind, every in swept_readings.items():
        taken = torch.stack([quantity(reading) for reading in every[rows]])
        live = (
            torch.stack([reading.all_live for reading in every[rows]])
            & swept[kind].converged[rows]
        )
        values[kind] = torch.where(live, taken, torch.nan)
    series = {
        "label": "near the truth",
        "x": x,
        "points": values["near the truth"],
        "open_points": values["random"],
    }
    return {"xlabel": xlabel, "ylabel": ylabel, "log": log, "series": [series]}


def rate(reading):
    """Absorption rate of each seed."""
    return reading.absorption


def lean(reading):
    """Smallest cosine of a child's latent with the parent, of each seed."""
    return reading.mixing.child_to_parent.amin(-1)


first, second = slice(0, n_grid), slice(n_grid, None)
everything = panel(rate, slice(None), None, "", "")["series"][0]
rates = torch.cat([everything["points"], everything["open_points"]], 1)
rates = rates[~rates.isnan()].tolist() or [float("nan")]
claims.glue("rate_low", min(rates))
claims.glue("rate_high", max(rates))
claims.glue("n_swept", sum(run.converged.numel() for run in swept.values()))
claims.glue("n_unconverged", sum(int((~run.converged).sum()) for run in swept.values()))
figure = figures.theory_and_experiment(
    [
        panel(rate, first, penalties, "L1 penalty", "absorption rate", log=True),
        panel(lean, first, penalties, "L1 penalty", "child's cosine with parent", log=True),
        panel(rate, second, chances, "child probability given the parent", "absorption rate"),
        panel(
            lean,
            second,
            chances,
            "child probability given the parent",
            "child's cosine with parent",
        ),
    ]
)

# %% [markdown]
# **Sampled batches** of {glue:text}`batch_size` inputs, as usual in the field, beside the exact loss; and the
# **control**: independent features that fire as often, a decoder bias, and the same penalty. Nothing can be absorbed
# there, so no child's latent should carry the first feature.

# %%
sampled_runs = {kind: train(setting, start, sampled) for kind, start in starts.items()}
sampled_readings = {
    k: metrics.read(run.sae[0], states, dictionary, parents) for k, run in sampled_runs.items()
}
control = replace(standard, decoder_bias=True)
control_states = features.without_hierarchy(tree).states()
control_run = train(Setting(control, control_states, dictionary), starts["random"], exact)
control_reading = metrics.read(control_run.sae[0], control_states, dictionary, parents)
biased = train(Setting(control, states, dictionary), starts["random"], exact)
biased_reading = metrics.read(biased.sae[0], states, dictionary, parents)

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Smallest cosine of a child's latent with the parent, every live seed a point. Medians of sampled and exact runs from random initialisation differ by {glue:text}`sampled_gap`. For the control the largest such cosine is shown.", "name": "fig-absorb-sampled"}, "image": {"alt": "Strips of points: exact and sampled runs sit near 0.7, the control near zero."}}
alive = biased_reading.all_live
both_met = (biased_reading.absorption >= 0.9) & (lean(biased_reading) >= 0.5)
claims.glue("bias_live", int(alive.sum()))
claims.glue("bias_absorbed", int((both_met & alive).sum()))
claims.glue("bias_complement", int((biased_reading.mixing.own[:, 0][alive] < 0).sum()))
leaning = {k: lean(reading)[reading.all_live] for k, reading in readings.items()}
leaning_sampled = {
    k: lean(reading)[reading.all_live] for k, reading in sampled_readings.items()
}
control_lean = control_reading.mixing.child_to_parent.abs().amax(-1)[control_reading.all_live]
sampled_gap = abs(float(leaning_sampled["random"].median() - leaning["random"].median()))
claims.glue("batch_size", batch_size)
claims.glue("sampled_gap", claims.number(sampled_gap))
strips = {f"exact, {k}": v for k, v in leaning.items()} | {
    f"sampled, {k}": v for k, v in leaning_sampled.items()
}
figure = figures.seed_strips(
    strips
    | {
        "decoder bias, random": lean(biased_reading)[alive],
        "control: independent, random": control_lean,
    },
    "cosine of a child's latent with the parent",
)

# %% [markdown]
# **A decoder bias** changes the picture. The same {glue:text}`n_seeds` random starts with one leave
# {glue:text}`bias_live` live seeds; in {glue:text}`bias_absorbed` of them both thresholds are met, and in
# {glue:text}`bias_complement` the parent's latent is a *complement*: the bias carries the parent, and the latent takes it
# away where the parent is absent. The verdict above is for SAEs without biases.
#
# **Basins.** {numref}`fig-absorb-basins` shows the solutions that the {glue:text}`n_seeds` random seeds reached. In
# {glue:text}`n_live` of them all latents fire. In the others at least one is *dead*: mostly it is negative on every
# input from the start and so gets no gradient. The verdict counts live seeds.

# %% tags=["hide-input"] mystnb={"figure": {"caption": "The most frequent of the {glue:text}`n_basins` distinct solutions of random seeds, lowest loss first, with their shares. Decoder cosines of the first seed in each; grey rows are dead latents.", "name": "fig-absorb-basins"}, "image": {"alt": "Small heat maps, one for each basin. The best one is the absorbed solution; the others have dead latents."}}
found = metrics.basins(runs["random"].loss[0], random.live, states.power)
claims.glue("n_basins", len(found))
figure = figures.basin_heatmaps(found, random.decoder, random.live, tree.names)

# %% [markdown]
# ## The verdict
#
# All thresholds come from the ledger, `book/claims.yml`. A criterion over seeds is met when the 95% Wilson interval
# of the share that passes lies above the share asked for {cite:p}`wilson1927probable`.

# %%
full_width_absorbs = claims.judge(
    claims.load()["full-width-absorbs"],
    {
        "absorption_rate": random.absorption[random.all_live],
        "child_to_parent": leaning["random"],
        "absorption_rate_near_truth": near.absorption[near.all_live],
        "sampled_gap": sampled_gap,
        "control_child_to_parent": control_lean,
        "converged": float(
            torch.cat([run.converged[0] for run in runs.values()]).double().mean()
        ),
    },
    started=n_seeds,
)
full_width_absorbs

# %% tags=["remove-cell"]
claims.glue("full-width-absorbs", HTML(full_width_absorbs.headline()))

# %% [markdown]
# ## What would change our mind
#
# Live seeds in which the parent's latent keeps firing beside its children under this penalty, or a control in which
# independent features are absorbed too. Each is a criterion above and would change the verdict.
#
# ## Rerun it
#
# ```bash
# papermill notebooks/01_standard_sae_absorbs.ipynb out.ipynb -p l1 0.1 -p child_probability 0.2 -p n_children 4
# ```
