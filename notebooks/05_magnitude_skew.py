# %% [markdown]
# # A loud child absorbs its parent
#
# **Claim.** Where the child is much louder than the parent, the child is learned first and absorbs the parent,
# Matryoshka or not. Source: the first comment of the thread {cite:p}`chanind2024thread`, which gives a case and did
# not run it.
#
# {glue:}`magnitude-skew`
#
# In short: the parent is absorbed in {glue:text}`n_absorbed` of {glue:text}`n_live` live random seeds of the
# Matryoshka. The child is learned before it in {glue:text}`n_child_first` of them, and by the margin that the
# ledger asks for in {glue:text}`n_child_well_first`. Where the parent is absorbed follows from a closed form: in
# the plane of loudness and probability {glue:text}`share_above:.0%` of live random SAEs absorb beyond the theory's
# lines and {glue:text}`share_below:.1%` before them.

# %% [markdown]
# ## What was predicted
#
# The thread compares *expected squares*: probability times squared magnitude. In its case that is
# {glue:text}`size_parent:.1f` for the parent and {glue:text}`size_child:.1f` for the child. The feature with the larger
# one should be learned first, and a child that comes first should take its parent in.
#
# The theory of {doc}`03_matryoshka_inherits` says what the first latent becomes. Let $q$ be the child's probability
# given the parent and $r$ the ratio of their magnitudes. Two states hold anything: the parent *alone*, and parent +
# child, here called the *sum*. A first latent that fires on both is parent + $t$ child, with
#
# $$ t = \frac{D + \sqrt{D^2 + 4 w_2^2 q^2 r^2}}{2 w_2 q r}, \qquad D = w_2 q (r^2 - 1) - w_1 (1 - q), $$ (skew-ratio)
#
# where $w_1$ weighs the parent alone and $w_2$ the sum. It is nearer to the child than to the parent when
# $w_2\, q\,(r^2 - 1) > w_1 (1 - q)$. The weights depend on what the second latent does, because the outer prefix is
# exact on the state that the second latent completes. With weight $\beta$ on the inner prefix:
#
# | the SAE | $w_1, w_2$ | turns to the child at |
# | --- | --- | --- |
# | one latent (narrow) | $1, 1$ | $q r^2 = 1$: equal expected squares |
# | Matryoshka, second latent completes the sum | $1 + \beta, \beta$ | a louder child |
# | Matryoshka, second latent completes the parent alone | $\beta, 1 + \beta$ | a quieter child |
#
# So the thread's comparison is exactly the narrow SAE's turning point, and a Matryoshka SAE turns before or after it.
# Both Matryoshka solutions are local minima at every $r$ and $q$, so neither turn is a matter of the lowest loss. The
# second solution is the lower one when $q > 1/(2 + r^2)$, whatever $\beta$.
#
# Thresholds were fixed in the ledger: 90% of the child's expected square reconstructed well before 90% of the parent's;
# the parent's latent silent on at least 90% of the inputs where the child fires, in the Matryoshka and in the standard
# SAE. A trial run on other seeds came before them.
#
# ## Setup

# %% tags=["parameters"]
parent_probability = 0.3  # probability that the parent fires, from 1e-6 to 1
child_probability = 0.5  # of the child given the parent, from 1e-6 to 1
parent_magnitude = 2.0  # activation of the parent when it fires, from 1e-3 to 1e3
child_magnitude = 10.0  # activation of the child when it fires, from 1e-3 to 1e3
inner_weight = 1.0  # weight of the inner prefix (the outer one has 1), at least 0
l1 = 0.2  # weight of the L1 penalty, in the runs that have one, at least 0
d_model = 20  # dimension of the input, at least 20
n_seeds = 192  # random seeds for each experiment, at least 1
n_sweep_seeds = 16  # random seeds at each point of a sweep, at least 1
seed = 2000  # number of the first seed, at least 0
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
from scipy.stats import spearmanr

parameters.check(globals())
torch.set_num_threads(1)
plotting.use_style()


# %%
def pair(chance, parent, child):
    """States of one parent with one child."""
    magnitudes = {"parent_magnitude": parent, "child_magnitude": child}
    return features.family(parent_probability, chance, 1, **magnitudes).states()


loud = pair(child_probability, parent_magnitude, child_magnitude)
equal = pair(child_probability, parent_magnitude, parent_magnitude)
dictionary = features.orthonormal_dictionary(2, d_model, torch.Generator().manual_seed(seed))
twenty = features.orthonormal_dictionary(20, d_model, torch.Generator().manual_seed(seed))
parents, names = [None, 0], ["parent", "child"]

# %%
plain = {"encoder_bias": False, "decoder_bias": False}
matryoshka = SAEConfig(d_model, widths=(1, 2), weights=(inner_weight, 1.0), **plain)
standard = SAEConfig(d_model, widths=(2,), **plain)
kinds = {
    "Matryoshka": matryoshka,
    "Matryoshka, penalty": replace(matryoshka, l1=l1),
    "standard": standard,
    "standard, penalty": replace(standard, l1=l1),
}

# %% [markdown]
# One parent and one child with the thread's probabilities and magnitudes; beside it, as the control, the same with
# both magnitudes {glue:text}`parent_magnitude:.0f`. Four SAEs of two latents: Matryoshka (widths 1 and 2) and
# standard, each without a penalty and with an L1 penalty of {glue:text}`l1:.2f`. (Relative to the inputs that is
# about the penalty of {doc}`01_standard_sae_absorbs`.) Two kinds of start: *random*, and *near the truth* with the
# parent first, with noise of {glue:text}`start_noise:.2f` times a feature's length ({glue:text}`n_near` seeds).

# %%
seeds, sweep_seeds = range(seed, seed + n_seeds), range(seed, seed + n_sweep_seeds)
steps = tuple(sorted({round(s) for s in np.geomspace(1, n_steps, 80)}))
exact, filmed = TrainConfig(n_steps), TrainConfig(n_steps, snapshots=steps)
followed = [(kind, "random") for kind in ("Matryoshka", "standard, penalty")]
near_truth = start_near(dictionary, seeds, start_noise)
starts = {
    "random": random_start(matryoshka, seeds),
    "near the truth": near_truth[: max(1, n_seeds // 6)],
}
runs = {}
for kind, sae in kinds.items():
    both = [Setting(sae, states, dictionary) for states in (loud, equal)]
    for name, start in starts.items():
        how = filmed if (kind, name) in followed else exact
        runs[kind, name] = train(both, start, how)

# %%
readings = {
    (*key, case): metrics.read(run.sae[i], states, dictionary, parents)
    for key, run in runs.items()
    for i, (case, states) in enumerate([("loud", loud), ("equal", equal)])
}
for (kind, start), run in runs.items():
    alive = [int(readings[kind, start, case].all_live.sum()) for case in ("loud", "equal")]
    total = run.loss.shape[1]
    print(f"{kind}, {start}: {run.report()}; both fire in {alive} of {total} (loud, equal)")

# %% [markdown]
# ## The decisive figures
#
# {numref}`fig-skew-decoder` and {numref}`fig-skew-acts` show what the latents hold and when they fire, in the
# solution that most live random seeds reached. {numref}`fig-skew-shares` counts seeds. *Absorbed* means here that
# the latent that matches the parent best is silent on the sum. (A latent that matches it with a negative sign takes
# the parent away, so firing on the sum counts as silence.)


# %% tags=["hide-input"]
def solutions(reading):
    """The firing codes of both latents in each seed, and the first live seed of the most frequent live solution."""
    codes = metrics.firing_code(reading.acts)
    pool = torch.nonzero(reading.all_live)[:, 0]
    pool = pool if len(pool) else torch.arange(len(codes))
    _, where, counts = torch.unique(codes[pool], dim=0, return_inverse=True, return_counts=True)
    return codes, int(pool[(where == counts.argmax()).int().argmax()])


def absorbed(reading):
    """Whether each live seed has absorbed its parent."""
    return (reading.absorption >= 0.9)[reading.all_live]


shown = {
    "Matryoshka, loud child": readings["Matryoshka", "random", "loud"],
    "standard + penalty, loud child": readings["standard, penalty", "random", "loud"],
    "Matryoshka, equal": readings["Matryoshka", "random", "equal"],
    "standard + penalty, equal": readings["standard, penalty", "random", "equal"],
}
main, control = shown["Matryoshka, loud child"], shown["Matryoshka, equal"]
claims.glue("parent_magnitude", parent_magnitude)
claims.glue("l1", l1)
claims.glue("start_noise", start_noise)
claims.glue("n_seeds", n_seeds)
claims.glue("n_near", len(starts["near the truth"].W_enc))
sizes = theory.second_moment(loud).diagonal()
claims.glue("size_parent", float(sizes[0]))
claims.glue("size_child", float(sizes[1]))
eigenvalues = torch.linalg.eigvalsh(theory.second_moment(loud))
claims.glue("eigen_small", float(eigenvalues[0]))
claims.glue("eigen_large", float(eigenvalues[1]))

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Decoder cosines with the true features, in the most frequent live solution of random seeds. With the loud child the Matryoshka's first latent has a median cosine of {glue:text}`child_cosine:.3f` with the child and {glue:text}`parent_cosine:.3f` with the parent (median over live seeds).", "name": "fig-skew-decoder"}, "image": {"alt": "Four heat maps of two latents by two features. With a loud child the first Matryoshka latent is almost the child with a small part of the parent; with equal magnitudes it is mostly the parent."}}
claims.glue("child_cosine", float(main.decoder[main.all_live][:, 0, 1].median()))
claims.glue("parent_cosine", float(main.decoder[main.all_live][:, 0, 0].median()))
figure = plotting.heatmaps(
    {title: r.decoder[solutions(r)[1]].numpy() for title, r in shown.items()}, names, width=3.2
)

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Activations of the same SAEs on every state. With the loud child the latent that matches the parent is silent on the sum in {glue:text}`n_absorbed` of {glue:text}`n_live` live random seeds of the Matryoshka ({glue:text}`n_seeds` started).", "name": "fig-skew-acts"}, "image": {"alt": "Four heat maps of activation, three states by two latents. With the loud child one latent fires on parent plus child and the other on the parent alone."}}
claims.glue("n_live", int(main.all_live.sum()))
claims.glue("n_absorbed", int(absorbed(main).sum()))
figure = plotting.heatmaps(
    {title: r.acts[solutions(r)[1]].numpy() for title, r in shown.items()},
    ["latent 0", "latent 1"],
    loud.labels(names),
    quantity="activation",
    width=3.2,
)

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Share of live seeds that absorb the parent (grey: no live seed). From random starts with equal magnitudes, {glue:text}`rate_equal:.0%` absorb in the Matryoshka and {glue:text}`rate_standard_equal:.0%` in the standard SAE with the penalty; with the loud child and no penalty, {glue:text}`rate_loud:.0%` and {glue:text}`rate_standard_free:.0%`.", "name": "fig-skew-shares"}, "image": {"alt": "A heat map of shares: four SAEs by two cases and two kinds of start."}}
columns = [(start, case) for case in ("loud", "equal") for start in starts]
shares = {
    kind: [absorbed(readings[kind, start, case]).double().mean() for start, case in columns]
    for kind in kinds
}
for name, kind, column in [
    ("rate_loud", "Matryoshka", 0),
    ("rate_equal", "Matryoshka", 2),
    ("rate_standard_free", "standard", 0),
    ("rate_standard_near", "standard", 1),
    ("rate_standard_equal", "standard, penalty", 2),
]:
    claims.glue(name, float(shares[kind][column]))
figure = plotting.heatmaps(
    {"share of live seeds that absorb": np.array(list(shares.values()))},
    [f"{case}, {start}" for start, case in columns],
    list(kinds),
    quantity="share",
    width=4,
)

# %% [markdown]
# **The standard SAE** absorbs because its penalty pays for it, loud child or not ({doc}`01_standard_sae_absorbs`).
# Without a penalty many solutions are perfect and nothing decides between them: with the loud child
# {glue:text}`rate_standard_free:.0%` of live seeds absorb from random starts, and
# {glue:text}`rate_standard_near:.0%` from near the truth.
#
# **From near the truth** the Matryoshka's first latent starts as the parent's. It ends with a median cosine of
# {glue:text}`near_child:.3f` with the loud child. At the usual learning rate both latents then fire in
# {glue:text}`n_near_live` of {glue:text}`n_near` seeds: the child's own latent has little left to do, and one large
# step of Adam is enough to kill it. At a tenth of the rate both fire in {glue:text}`n_gentle_live` of
# {glue:text}`n_seeds`, and of these {glue:text}`n_gentle_absorbed` have absorbed the parent: the first latent holds
# the sum, and the second takes the parent away again where the child fires. The ledger's criterion is judged at a
# tenth of the rate, which was decided after the first run.

# %%
gentle = replace(exact, lr=exact.lr / 10)
loud_setting = Setting(matryoshka, loud, dictionary)
gentle_run = train(loud_setting, near_truth, gentle)
gentle_reading = metrics.read(gentle_run.sae[0], loud, dictionary, parents)

# %% tags=["remove-cell"]
near = readings["Matryoshka", "near the truth", "loud"]
claims.glue("near_child", float(near.decoder[:, 0, 1].median()))
claims.glue("n_near_live", int(near.all_live.sum()))
claims.glue("n_gentle_live", int(gentle_reading.all_live.sum()))
claims.glue("n_gentle_absorbed", int(absorbed(gentle_reading).sum()))

# %% [markdown]
# ## Which is learned first?
#
# {numref}`fig-skew-order` follows both latents of the random seeds above that end live. A latent that fires on the sum
# is pulled toward the *sum*, not toward a feature: parent and child are one direction there.

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Decoder cosine of each latent with the parent, the child and their sum over training: medians over live random seeds, the middle half shaded. Latents are matched to features at the end of training.", "name": "fig-skew-order"}, "image": {"alt": "Four panels of curves over training steps. In both SAEs the child's latent reaches the sum first; the parent's latent turns to the parent later."}}
total_direction = torch.tensor([[parent_magnitude, child_magnitude]], dtype=torch.float64)
targets = torch.cat([torch.eye(2), torch.nn.functional.normalize(total_direction)]).double()
panels = {}
for kind in ("Matryoshka", "standard, penalty"):
    reading, path = readings[kind, "random", "loud"], runs[kind, "random"].path[:, 0]
    cosines = metrics.decoder_cosines(path, dictionary) @ targets.T
    for feature, name in enumerate(names):
        rows = reading.latents[:, feature][None, :, None, None].expand(len(steps), -1, 1, 3)
        values = cosines.gather(2, rows)[:, reading.all_live, 0]
        curves = dict(zip([*names, "their sum"], values.movedim(-1, 0).numpy(), strict=True))
        panels[f"{kind}: {name}'s latent"] = curves
figure = plotting.learning_curves(panels, steps, "decoder cosine")

# %% [markdown]
# To ask which feature is *learned* first, take the share of its expected square that the SAE reconstructs, and the
# first step at which that share reaches 90%. In the Matryoshka the child comes first in {glue:text}`n_child_first`
# of {glue:text}`n_live` live random seeds, and at least 1.5 times as early in {glue:text}`n_child_well_first`. With
# equal magnitudes it comes first in {glue:text}`n_control_first` of {glue:text}`n_control_live`. Is being first
# what absorption needs? Of the seeds that absorb, {glue:text}`n_not_first` did not have the child well first. In
# {glue:text}`n_alone_start` of those a latent fired on the parent alone, and on nothing else, from the start; it
# learns that state while the other latent learns the sum.


# %%
def learned(kind, case):
    """The step at which each live random seed has 90% of each feature, and the share over time."""
    index, states = ("loud", "equal").index(case), {"loud": loud, "equal": equal}[case]
    path = runs[kind, "random"].path[:, index]
    share = metrics.explained(path, states, dictionary, torch.eye(2, dtype=torch.float64))
    share = share[:, readings[kind, "random", case].all_live]
    return metrics.first_reached(share, steps, 0.9).clamp_max(n_steps), share


# %% tags=["hide-input"] mystnb={"figure": {"caption": "Share of each feature's expected square that is reconstructed, over training: medians over live random seeds, the middle half shaded. The median step at which 90% is reached is {glue:text}`when_child:.0f` for the loud child and {glue:text}`when_parent:.0f` for its parent.", "name": "fig-skew-learned"}, "image": {"alt": "Panels of two curves each. With a loud child the child's share rises before the parent's; with equal magnitudes it does not."}}
when = {
    (kind, case): learned(kind, case)
    for kind in ("Matryoshka", "standard, penalty")
    for case in ("loud", "equal")
}
lead = {key: times[:, 0] / times[:, 1] for key, (times, _) in when.items()}
child_lead = lead["Matryoshka", "loud"]
claims.glue("n_child_first", int((child_lead > 1).sum()))
claims.glue("n_child_well_first", int((child_lead >= 1.5).sum()))
begun = metrics.firing_code(starts["random"].encode(loud.inputs(dictionary)))[main.all_live]
late = (child_lead < 1.5) & absorbed(main)
claims.glue("n_not_first", int(late.sum()))
claims.glue("n_alone_start", int((begun == 2).any(-1)[late].sum()))
claims.glue("n_control_live", int(control.all_live.sum()))
claims.glue("n_control_first", int((lead["Matryoshka", "equal"] > 1).sum()))
if len(child_lead):
    for feature, name in enumerate(names):
        claims.glue(f"when_{name}", float(when["Matryoshka", "loud"][0][:, feature].median()))
panels = {
    f"{kind}, {case}": dict(zip(names, share.movedim(-1, 0).numpy(), strict=True))
    for (kind, case), (_, share) in when.items()
}
figure = plotting.learning_curves(panels, steps, "share reconstructed")

# %% [markdown]
# **What predicts the time?** Gradient descent from a small start learns the eigenvectors of the second moment, each
# at a rate given by its eigenvalue (Saxe et al. {cite:p}`saxe2014exact` solve linear networks). The thread's
# heuristic takes the features and their expected squares instead; in its case the squares are
# {glue:text}`size_child:.1f` and {glue:text}`size_parent:.1f`, the eigenvalues {glue:text}`eigen_large:.1f` and
# {glue:text}`eigen_small:.2f`. {numref}`fig-skew-laws` compares them in standard SAEs without a penalty, for many
# ratios and probabilities: by plain gradient descent, where a time should fall as one over the size, and by Adam,
# which equalises steps. (With an epsilon far above every gradient the trainer's Adam *is* gradient descent.)


# %%
power = parent_magnitude**2 + child_probability * child_magnitude**2


def scaled(chance, ratio):
    """States of one pair with the power of the thread's case, so that only q and r differ."""
    parent = (power / (1 + chance * ratio**2)) ** 0.5
    return pair(chance, parent, ratio * parent)


case_ratio = child_magnitude / parent_magnitude
places = [(child_probability, r) for r in np.geomspace(0.5, 8, n_grid)]
places += [(q, case_ratio) for q in np.linspace(0.05, 0.95, n_grid)]
law_settings = [Setting(standard, scaled(q, r), dictionary) for q, r in places]

# %%
law_steps = tuple(sorted({round(s) for s in np.geomspace(1, n_steps, 100)}))
schedule = {"warmup": 0, "cooldown": 0, "snapshots": law_steps}
rate = 0.032 / (parent_probability * power)
optimisers = {
    "gradient descent": TrainConfig(
        n_steps, lr=1e6 * rate, eps=1e6, betas=(0, 0.999), **schedule
    ),
    "Adam": TrainConfig(n_steps, lr=0.002, **schedule),
}
law_runs = {
    name: train(law_settings, random_start(standard, sweep_seeds[::2]), config)
    for name, config in optimisers.items()
}


# %% tags=["hide-input"] mystnb={"figure": {"caption": "Step at which 90% of a feature (left) or of an eigenvector (right) is reconstructed, against its size; medians over live seeds, each point one setting. Rank correlations: {glue:text}`rank_gd_square:.2f` and {glue:text}`rank_gd_eigen:.2f` by gradient descent, {glue:text}`rank_adam_square:.2f` and {glue:text}`rank_adam_eigen:.2f` by Adam.", "name": "fig-skew-laws"}, "image": {"alt": "Four scatter plots on logarithmic axes. Times fall on a line against the eigenvalue and scatter against the expected square."}}
def law(run):
    """Sizes and median times of features and of eigenvectors, one row a setting."""
    rows = []
    for i, setting in enumerate(law_settings):
        moment = theory.second_moment(setting.data)
        values, vectors = torch.linalg.eigh(moment)
        directions = torch.cat([torch.eye(2, dtype=torch.float64), vectors.T])
        acts = run.sae[i].encode(setting.data.inputs(dictionary))
        share = metrics.explained(run.path[:, i], setting.data, dictionary, directions)
        times = metrics.first_reached(share[:, metrics.live(acts).all(-1)], law_steps, 0.9)
        if len(times):
            rows.append(
                torch.stack([torch.cat([moment.diagonal(), values]), times.median(0).values])
            )
    return torch.stack(rows) if rows else torch.full((1, 2, 4), torch.nan)


panels, missing = [], []
for name, run in law_runs.items():
    table = law(run)
    for label, ending, low in [("expected square", "square", 0), ("eigenvalue", "eigen", 2)]:
        sizes, times = table[:, 0, low : low + 2], table[:, 1, low : low + 2]
        kept = times.isfinite()
        enough = int(kept.sum()) > 2
        rank = spearmanr(sizes[kept], times[kept]).statistic if enough else np.nan
        slope = np.polyfit(sizes[kept].log(), times[kept].log(), 1)[0] if enough else np.nan
        short = "gd" if name == "gradient descent" else "adam"
        claims.glue(f"rank_{short}_{ending}", float(rank))
        claims.glue(f"slope_{short}_{ending}", float(slope))
        missing.append(~kept)
        first, second = ("parent", "child") if low == 0 else ("smaller", "larger")
        panels.append(
            {
                "title": f"{name}: rank correlation {rank:.2f}",
                "xlabel": label,
                "ylabel": "step at 90%",
                "series": {
                    first: (sizes[:, 0], times[:, 0]),
                    second: (sizes[:, 1], times[:, 1]),
                },
            }
        )
claims.glue("n_law_points", sum(points.numel() for points in missing))
claims.glue("n_law_missing", sum(int(points.sum()) for points in missing))
figure = plotting.log_scatter(panels)

# %% [markdown]
# The nearer a rank correlation is to -1, the better the prediction. The heuristic can miss where a feature is
# seldom alone: a quiet parent that nearly always fires with its loud child is learned with it, whatever its own
# square. By gradient descent the times fall with the eigenvalue to the power {glue:text}`slope_gd_eigen:.2f` (one
# over the eigenvalue would be -1); by Adam the power is {glue:text}`slope_adam_eigen:.2f`. Settings whose median
# seed never reaches 90% are left out: {glue:text}`n_law_missing` of {glue:text}`n_law_points` points.
#
# ## The phase diagram
#
# Every cell of {numref}`fig-skew-phase` is its own toy model, all trained at once, in {glue:text}`map_dim`
# dimensions to save time. All have the power of the thread's case, so only $q$ and $r$ differ. The lines are the
# three turning points; nothing is fitted.

# %%
map_dim = min(6, d_model)
ratios = 2.0 ** np.linspace(-2, 4, 3 * n_grid - 2)
chances = np.linspace(0.02, 0.98, 2 * n_grid - 3)
plane = features.orthonormal_dictionary(2, map_dim, torch.Generator().manual_seed(seed))
small = replace(matryoshka, d_in=map_dim)
map_starts = {
    "random": random_start(small, sweep_seeds[::2]),
    "near the truth": start_near(plane, sweep_seeds[::4], start_noise),
}
half = TrainConfig(max(1, n_steps // 2))

# %%
cells = [scaled(q, r) for q in chances for r in ratios]
map_runs, map_readings = {}, {}
for title, start in map_starts.items():
    run = train([Setting(small, states, plane) for states in cells], start, half)
    map_runs[title] = run
    map_readings[title] = [
        metrics.read(run.sae[i], states, plane, parents) for i, states in enumerate(cells)
    ]

# %% tags=["hide-input"]
fine = np.geomspace(1.001, 16, 400)
turns = {
    "narrow SAE: $q r^2 = 1$ (the thread)": theory.skew_turn(fine),
    "Matryoshka, parent alone completed": theory.skew_turn(
        fine, inner_weight, 1 + inner_weight
    ),
    "Matryoshka, sum completed": theory.skew_turn(fine, 1 + inner_weight, inner_weight),
}
curves = {label: (fine, up) for label, up in turns.items()}
axes = {
    "xlabel": "child's magnitude / parent's",
    "ylabel": "child probability given the parent",
    "mark": (case_ratio, child_probability),
}


def on_map(values):
    """One number a cell as a map."""
    return np.array([float(v) for v in values]).reshape(len(chances), len(ratios))


def settled(title, i):
    """Whether each live, converged seed of one cell has absorbed its parent."""
    reading = map_readings[title][i]
    return (reading.absorption >= 0.9)[reading.all_live & map_runs[title].converged[i]]


# %% tags=["hide-input"] mystnb={"figure": {"caption": "Share of live, converged Matryoshka SAEs that absorb the parent; grey cells have none. Random starts: {glue:text}`share_below:.0%` absorb left of both Matryoshka lines, {glue:text}`share_between:.0%` between them and {glue:text}`share_above:.0%` right of both. Near the truth: {glue:text}`near_share_below:.0%`, {glue:text}`near_share_between:.0%` and {glue:text}`near_share_above:.0%`.", "name": "fig-skew-phase"}, "image": {"alt": "Two maps over magnitude ratio and child probability. To the right of the lines the parent is absorbed, to the left it is not. From near the truth the boundary is the rightmost line; from random starts it is a band between the outer two."}}
absorbed_maps = {
    f"Matryoshka, {title}": on_map(
        [settled(title, i).double().mean() for i in range(len(cells))]
    )
    for title in map_starts
}
figure = plotting.phase_maps(
    absorbed_maps, ratios, chances, curves, **axes, quantity="share that absorbs"
)

# %% tags=["hide-input"] mystnb={"figure": {"caption": "What the first latent became, where it fires on both states: its decoder cosine with the child, from the parent (0) over a mixture to the child (1). Medians over seeds with both latents live from random starts, and over all seeds from near the truth; grey cells have none.", "name": "fig-skew-first"}, "image": {"alt": "Two maps of the cosine of the first latent with the child, rising smoothly from lower left to upper right, with the theory's lines along its middle."}}
cosine_maps = {}
for title, every in map_readings.items():
    middles = []
    for reading in every:
        both = metrics.firing_code(reading.acts)[:, 0] == 6
        taken = reading.decoder[both & (reading.all_live | (title != "random")), 0, 1]
        middles.append(taken.quantile(0.5) if len(taken) else np.nan)
    cosine_maps[f"Matryoshka, {title}"] = middles
figure = plotting.phase_maps(
    {title: on_map(values) for title, values in cosine_maps.items()},
    ratios, chances, curves, **axes, quantity="first latent's cosine with the child",
)  # fmt: skip

# %% tags=["remove-cell"]
q_cells, r_cells = (grid.ravel() for grid in np.meshgrid(chances, ratios, indexing="ij"))
pull = q_cells * (r_cells**2 - 1)
over_first = (1 + inner_weight) * pull > inner_weight * (1 - q_cells)
over_second = inner_weight * pull > (1 + inner_weight) * (1 - q_cells)
regions = {"below": ~over_first, "between": over_first & ~over_second, "above": over_second}
for title, prefix in [("random", "share"), ("near the truth", "near_share")]:
    for name, inside in regions.items():
        none = torch.zeros(0, dtype=torch.bool)
        values = torch.cat([none, *(settled(title, i) for i in np.flatnonzero(inside))])
        claims.glue(f"{prefix}_{name}", float(values.double().mean()))
    every_live = torch.stack([reading.all_live for reading in map_readings[title]])
    claims.glue(f"{prefix}_live", float(every_live.double().mean()))
    claims.glue(f"{prefix}_converged", float(map_runs[title].converged.double().mean()))
strays = []
for i in np.flatnonzero(regions["below"]):
    reading = map_readings["random"][i]
    mask = reading.all_live & map_runs["random"].converged[i] & (reading.absorption >= 0.9)
    strays += metrics.firing_code(reading.acts)[mask].sum(-1).tolist()
claims.glue("n_strays", len(strays))
claims.glue("n_split_strays", strays.count(6))
claims.glue("map_dim", map_dim)
claims.glue("n_cells", len(cells))

# %% [markdown]
# **Where theory and experiment meet.** From near the truth the second latent starts as the child's, so it completes
# the sum, and the boundary should be the line of that solution. Random seeds split between the two solutions, so
# between their lines both outcomes should occur, and outside the lines one. The thread's line lies between them.
# The caption counts.
#
# **Where they part.** Left of both lines {glue:text}`n_strays` live random SAEs absorb all the same. In
# {glue:text}`n_split_strays` of them each latent fires on one state only: a start in which a latent is silent on
# one state can stay so, and the theory's first latent fires on both. Boundary cells also converge slowly:
# {glue:text}`share_converged:.0%` of the random SAEs and {glue:text}`near_share_converged:.0%` of those from near
# the truth have converged, and the others are left out. Both latents are alive in {glue:text}`share_live:.0%` and
# {glue:text}`near_share_live:.0%`. In a grey cell no seed is both; from near the truth the loud child's own latent
# often dies, as above.
#
# **The standard SAE** in the same plane has no first latent and no such line. Its penalty pays for absorption at
# every ratio: on the sum one latent of the sum's length replaces two, which saves $q\,(1 + r - \sqrt{1 + r^2})/(1 +
# q r)$ of the whole penalty, {glue:text}`saving_case:.0%` in the thread's case and {glue:text}`saving_equal:.0%`
# with equal magnitudes.

# %%
coarse = [(q, r) for q in chances[::2] for r in ratios[::2]]
standard_small = replace(kinds["standard, penalty"], d_in=map_dim)
standard_states = [scaled(q, r) for q, r in coarse]
standard_run = train(
    [Setting(standard_small, states, plane) for states in standard_states],
    random_start(standard_small, sweep_seeds[::3]),
    TrainConfig(n_steps),
)

# %% tags=["hide-input"] mystnb={"figure": {"caption": "The standard SAE with the penalty: share of live, converged random seeds that absorb the parent ({glue:text}`standard_converged:.0%` of the SAEs have converged). Over all of them {glue:text}`standard_share:.0%` absorb; of the {glue:text}`n_standard_kept` others, {glue:text}`n_twins` have both latents on the sum and none for the parent alone. The lines are those of the Matryoshka, for comparison.", "name": "fig-skew-standard"}, "image": {"alt": "A map that is dark nearly everywhere: the standard SAE with a penalty absorbs at every magnitude ratio."}}
kept, twins = [], 0
for i, states in enumerate(standard_states):
    reading = metrics.read(standard_run.sae[i], states, plane, parents)
    done = reading.all_live & standard_run.converged[i]
    kept.append((reading.absorption >= 0.9)[done])
    twins += int((metrics.firing_code(reading.acts)[done] == 4).all(-1).sum())
standard_map = np.array([float(values.double().mean()) for values in kept])
claims.glue("standard_converged", float(standard_run.converged.double().mean()))
claims.glue("n_standard_kept", int((~torch.cat(kept)).sum()))
claims.glue("n_twins", twins)
claims.glue("standard_share", float(torch.cat(kept).double().mean()))
claims.glue("saving_case", theory.absorption_saving(case_ratio, child_probability))
claims.glue("saving_equal", theory.absorption_saving(1.0, child_probability))
figure = plotting.phase_maps(
    {"standard + penalty, random": standard_map.reshape(len(chances[::2]), -1)},
    ratios[::2], chances[::2], curves, **axes, quantity="share that absorbs",
)  # fmt: skip

# %% [markdown]
# ## Does it survive in company?
#
# *A family*: the loud child beside two quiet siblings of the parent's magnitude, all exclusive (widths 1 and 4). *The
# tree*: the post's twenty features {cite:p}`nabeshima2024code` with all of its magnitudes 1, one child of the first
# parent raised to the thread's ratio, twenty latents, every prefix in the loss, no penalty, sampled batches of
# {glue:text}`batch_size`. Beside each, the same with nothing raised.

# %%
quiet = 0.4 * (1 - child_probability)
family = features.family(
    parent_probability, (child_probability, quiet, quiet), 3,
    parent_magnitude=parent_magnitude, child_magnitude=parent_magnitude,
)  # fmt: skip
tree = features.twenty_feature_tree()
families = {
    "loud": features.retuned(family, "child 1", magnitude_mean=child_magnitude),
    "equal": family,
}
trees = {"loud": features.retuned(tree, "child 1.1", magnitude_mean=case_ratio), "equal": tree}

# %%
family_sae = SAEConfig(d_model, widths=(1, 4), **plain)
tree_sae = SAEConfig(d_model, widths=tuple(range(1, 21)), **plain)
likely_first = torch.tensor([0, 4, 8, *range(12, 20), 1, 2, 3, 5, 6, 7, 9, 10, 11])
company_starts = {
    ("family", "random"): random_start(family_sae, seeds[: max(1, n_seeds // 3)]),
    ("family", "near the truth"): start_near(twenty[:4], sweep_seeds, start_noise),
    ("tree", "random"): random_start(tree_sae, sweep_seeds[::4]),
    ("tree", "near the truth"): start_near(twenty[likely_first], sweep_seeds[::4], start_noise),
}

# %%
sampled = TrainConfig(n_steps, batch_size=batch_size, seed=seed)
company = {}
for (place, start), first in company_starts.items():
    for case in ("loud", "equal"):
        if place == "family":
            setting = Setting(family_sae, families[case].states(), twenty[:4])
            run = train(setting, first, exact if start == "random" else gentle)
        else:
            run = train(
                Setting(tree_sae, trees[case], twenty),
                first,
                replace(sampled, steps=half.steps),
            )
        company[place, start, case] = run


# %% tags=["hide-input"] mystnb={"figure": {"caption": "Share of the inputs on which a child fires that leave its parent's latent silent, mean over live seeds (grey: no live seed): the child that is loud in the first of each pair of columns, and all others. From random starts {glue:text}`n_family_live` of {glue:text}`n_family` families and {glue:text}`n_tree_live` of {glue:text}`n_tree` trees with the loud child are live.", "name": "fig-skew-company"}, "image": {"alt": "A heat map of rates. The loud child leaves its parent's latent silent, its siblings and the children of other parents do not; with equal magnitudes nothing is absorbed."}}
def rates(place, start, case):
    """Mean absorption by the first child and by all others, over live seeds, with the live mask."""
    run = company[place, start, case]
    if place == "family":
        states, whole = families[case].states(), families[case]
    else:
        whole = trees[case]
        acts = whole.sample(4000, torch.Generator().manual_seed(seed))
        states = features.States(
            acts, torch.full((len(acts),), 1 / len(acts), dtype=torch.float64)
        )
    above = whole.parents()
    reading = metrics.read(run.sae[0], states, twenty[: whole.n_features], above)
    first = [above[f] if f == 1 else None for f in range(len(above))]
    others = [None if f == 1 else above[f] for f in range(len(above))]
    return [
        float(
            metrics.absorption(
                reading.acts,
                reading.latents,
                states.acts,
                states.probs,
                chosen,
                reading.mixing.own,
            )[reading.all_live].mean()
        )
        for chosen in (first, others)
    ], reading.all_live


company_rates = {key: rates(*key) for key in company}
for place in ("family", "tree"):
    alive = company_rates[place, "random", "loud"][1]
    claims.glue(f"n_{place}", len(alive))
    claims.glue(f"n_{place}_live", int(alive.sum()))
    for index, who in enumerate(("first", "others")):
        claims.glue(f"{place}_{who}", company_rates[place, "random", "loud"][0][index])
claims.glue("batch_size", batch_size)
table = [
    [v for case in ("loud", "equal") for v in company_rates[place, start, case][0]]
    for place, start in company_starts
]
figure = plotting.heatmaps(
    {"absorption rate": np.array(table)},
    ["loud child", "its company", "equal: same child", "equal: the others"],
    [f"{place}, {start}" for place, start in company_starts],
    quantity="rate",
    width=4,
)

# %% [markdown]
# **Magnitudes that vary.** So far every firing of a feature has the same magnitude, and one latent can hold the sum
# exactly. Now both magnitudes vary from input to input, normally and with the same relative standard deviation
# (clipped at 0), in sampled batches (in {glue:text}`map_dim` dimensions again). Then the parent's latent can be of
# use on inputs that hold the child, where the parent is louder than the sum's latent expects.
# {numref}`fig-skew-vary` shows how often it fires there.

# %%
spreads = np.linspace(0, 0.5, max(2, n_grid // 2))
varied = []
for spread in spreads:
    whole = features.family(
        parent_probability, child_probability, 1,
        parent_magnitude=parent_magnitude, child_magnitude=child_magnitude,
    )  # fmt: skip
    for name, size in [("parent", parent_magnitude), ("child 1", child_magnitude)]:
        whole = features.retuned(whole, name, magnitude_std=spread * size)
    varied.append(whole)
batches = replace(sampled, steps=half.steps)
few = sweep_seeds[::4]
vary_runs = {
    "Matryoshka, random": ("Matryoshka", random_start(small, sweep_seeds[::2]), batches),
    "Matryoshka, near the truth": (
        "Matryoshka", start_near(plane, few, start_noise), replace(batches, lr=gentle.lr)
    ),
    "standard + penalty, random": ("standard, penalty", random_start(small, few), batches),
}  # fmt: skip


# %% tags=["hide-input"] mystnb={"figure": {"caption": "Share of the inputs with the child that leave the parent's latent silent (left) and the cosine of the child's latent with the child (right), against the relative standard deviation of both magnitudes: medians over live seeds with bars over all. In the random Matryoshka the share falls from {glue:text}`vary_first:.2f` to {glue:text}`vary_last:.2f`, in the standard SAE to {glue:text}`vary_standard:.2f`.", "name": "fig-skew-vary"}, "image": {"alt": "Two panels against the spread of the magnitudes. Absorption falls as the spread grows, less in the Matryoshka; the cosine with the child stays near one."}}
left, right = [], []
for label, (kind, start, config) in vary_runs.items():
    sae = replace(kinds[kind], d_in=map_dim)
    run = train([Setting(sae, whole, plane) for whole in varied], start, config)
    silent, child = [], []
    for i, whole in enumerate(varied):
        acts = whole.sample(4000, torch.Generator().manual_seed(seed))
        drawn = features.States(
            acts, torch.full((len(acts),), 1 / len(acts), dtype=torch.float64)
        )
        reading = metrics.read(run.sae[i], drawn, plane, parents)
        silent.append(torch.where(reading.all_live, reading.absorption, torch.nan))
        child.append(torch.where(reading.all_live, reading.mixing.own[:, 1].abs(), torch.nan))
    left.append({"label": label, "x": spreads, "points": torch.stack(silent)})
    right.append({"label": label, "x": spreads, "points": torch.stack(child)})
claims.glue("vary_first", float(left[0]["points"][0].nanmedian()))
claims.glue("vary_last", float(left[0]["points"][-1].nanmedian()))
claims.glue("vary_child", float(right[0]["points"][-1].nanmedian()))
claims.glue("vary_standard", float(left[2]["points"][-1].nanmedian()))
xlabel = "standard deviation / mean of the magnitudes"
figure = plotting.theory_and_experiment(
    [
        {"xlabel": xlabel, "ylabel": "absorption rate", "series": left},
        {"xlabel": xlabel, "ylabel": "child's latent with the child", "series": right},
    ]
)

# %% [markdown]
# ## Does the order of the latents matter?
#
# The original code {cite:p}`nabeshima2024code` draws short prefixes more often, and re-sorts the latents during
# training. Both are tried here on the thread's case, and two latents in the first prefix (widths 2 and 3) as well.
# Latents are re-sorted by what they reconstruct, $\mathbb{E}[a^2]\,\lVert W_{dec} \rVert^2$. This happens
# {glue:text}`n_sorts` times, and Adam's moments restart each time, where the original code sorts at every step.

# %%
third = seeds[: max(1, n_seeds // 3)]
options = {
    "as above": matryoshka,
    "inner prefix weighs 16": replace(matryoshka, weights=(16.0, 1.0)),
    "widths 2 and 3": replace(matryoshka, widths=(2, 3), weights=(1.0, 1.0)),
    "widths 2 and 3, penalty": replace(matryoshka, widths=(2, 3), weights=(1.0, 1.0), l1=l1),
}
ordered = {}
for name, option in options.items():
    setting = Setting(option, loud, dictionary)
    ordered[name, "random"] = train(setting, random_start(option, third), exact).sae[0]
    if option.d_sae == 2:
        close = train(setting, starts["near the truth"], gentle)
        ordered[name, "near the truth"] = close.sae[0]

# %%
n_sorts = 20
segment = TrainConfig(max(1, n_steps // n_sorts), lr=exact.lr / 4, warmup=0, cooldown=0)
for name, start in [
    ("random", random_start(matryoshka, third)),
    ("near the truth", starts["near the truth"]),
]:
    sae = start
    for _ in range(n_sorts):
        sae = train(loud_setting, metrics.resorted(sae, loud, dictionary), segment).sae[0]
    ordered["re-sorted", name] = train(loud_setting, sae, exact).sae[0]

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Share of seeds that absorb, among those in which at least two latents fire; grey: not run. Near the truth, at a tenth of the learning rate except where re-sorted.", "name": "fig-skew-options"}, "image": {"alt": "A heat map of shares by choice and kind of start. No choice without a penalty keeps the parent in every seed; two latents in the first prefix keep it in part of them."}}
order_shares, order_live = {}, {}
for (name, start), sae in ordered.items():
    reading = metrics.read(sae, loud, dictionary, parents)
    enough = reading.live.sum(-1) >= 2
    order_live[name, start] = int(enough.sum())
    order_shares[name, start] = float((reading.absorption >= 0.9)[enough].double().mean())
claims.glue("n_sorts", n_sorts)
claims.glue("n_third", len(third))
claims.glue("share_two", order_shares["widths 2 and 3", "random"])
claims.glue("share_two_penalty", order_shares["widths 2 and 3, penalty", "random"])
claims.glue("n_two", order_live["widths 2 and 3", "random"])
claims.glue("share_heavy", order_shares["inner prefix weighs 16", "random"])
claims.glue("share_sorted", order_shares["re-sorted", "near the truth"])
claims.glue("n_sorted", order_live["re-sorted", "near the truth"])
table = [
    [order_shares.get((name, start), np.nan) for start in starts]
    for name in [*options, "re-sorted"]
]
figure = plotting.heatmaps(
    {"share that absorbs": np.array(table)},
    list(starts),
    [*options, "re-sorted"],
    quantity="share",
    width=4,
)

# %% [markdown]
# More weight on the inner prefix should change the solution's numbers, not its kind: with 16 times the weight
# {glue:text}`share_heavy:.0%` of the live random seeds absorb. Re-sorting puts the loudest latent first, which is
# the child's: from near the truth {glue:text}`share_sorted:.0%` of {glue:text}`n_sorted` live seeds absorb. Two
# latents in the first prefix make that prefix a standard SAE of two latents, with its fate:
# {glue:text}`share_two:.0%` of {glue:text}`n_two` seeds absorb without a penalty and
# {glue:text}`share_two_penalty:.0%` with one. A start with the order known, parent first, is the one above, near
# the truth.
#
# **Sampled batches** of {glue:text}`batch_size` inputs move the first latent's median cosine with the child by
# {glue:text}`sampled_gap` from random starts; {glue:text}`n_sampled_absorbed` of {glue:text}`n_sampled_live` live
# seeds absorb. From near the truth, at a tenth of the learning rate, {glue:text}`n_sampled_near` of
# {glue:text}`n_near` seeds are live and absorb.

# %%
sampled_run = train(loud_setting, starts["random"], sampled)
sampled_reading = metrics.read(sampled_run.sae[0], loud, dictionary, parents)
sampled_near = train(loud_setting, starts["near the truth"], replace(sampled, lr=gentle.lr))
sampled_near_reading = metrics.read(sampled_near.sae[0], loud, dictionary, parents)


# %% tags=["hide-input"]
def first_with_child(reading):
    """The first latent's cosine with the child, in live seeds."""
    return reading.decoder[reading.all_live][:, 0, 1]


sampled_gap = abs(
    float(first_with_child(sampled_reading).median() - first_with_child(main).median())
)
claims.glue("sampled_gap", claims.number(sampled_gap))
claims.glue("n_sampled_live", int(sampled_reading.all_live.sum()))
claims.glue("n_sampled_absorbed", int(absorbed(sampled_reading).sum()))
claims.glue("n_sampled_near", int(absorbed(sampled_near_reading).sum()))


def distance(start, case, magnitude):
    """Distance of each live, converged Matryoshka from the nearest closed-form solution, and its name."""
    reading = readings["Matryoshka", start, case]
    done = runs["Matryoshka", start].converged[("loud", "equal").index(case)]
    solutions = theory.skew_solutions(
        parent_probability, child_probability, parent_magnitude, magnitude, inner_weight
    )
    trained = reading.decoder[reading.all_live & done]
    gaps = [(trained - decoder).abs().amax((-1, -2)) for _, decoder in solutions.values()]
    nearest = torch.stack(gaps).min(0)
    return nearest.values, [list(solutions)[i] for i in nearest.indices]


found = {
    (start, case): distance(start, case, magnitude)
    for start in starts
    for case, magnitude in [("loud", child_magnitude), ("equal", parent_magnitude)]
}
theory_gap = max(
    (float(gap.max()) for gap, _ in found.values() if len(gap)), default=float("nan")
)
claims.glue("theory_gap", claims.number(theory_gap))
for case in ("loud", "equal"):
    for name in ("both, sum", "both, alone", "sum, alone", "alone, sum"):
        claims.glue(f"n_{case}_{name.replace(', ', '_')}", found["random", case][1].count(name))

# %% [markdown]
# **Solutions.** The theory has four solutions with both latents live, named by the states on which the first and the
# second latent fire. The random seeds of the main runs end in them as follows; the largest distance of any cosine
# from them, from both kinds of start, is {glue:text}`theory_gap`.
#
# | | both, sum | both, alone | sum, alone | alone, sum |
# | --- | --- | --- | --- | --- |
# | loud child | {glue:text}`n_loud_both_sum` | {glue:text}`n_loud_both_alone` | {glue:text}`n_loud_sum_alone` | {glue:text}`n_loud_alone_sum` |
# | equal | {glue:text}`n_equal_both_sum` | {glue:text}`n_equal_both_alone` | {glue:text}`n_equal_sum_alone` | {glue:text}`n_equal_alone_sum` |
#
# ## What it means for a practitioner
#
# 1. Compare $q\,r^2$ with 1, not magnitudes alone: a child at {glue:text}`case_ratio:.3g` times its parent's magnitude takes the
#    first latent once it fires on more than {glue:text}`turn_low:.1%` to {glue:text}`turn_high:.1%` of the parent's inputs,
#    and a child no louder than its parent never does.
# 2. Past that boundary the Matryoshka loss does not protect: {glue:text}`share_above:.0%` of the live random SAEs there absorb, and
#    in the thread's case still {glue:text}`share_heavy:.0%` with 16 times the weight on the inner prefix and
#    {glue:text}`share_sorted:.0%` with re-sorting.
# 3. The damage is local: in the twenty-feature tree the loud child silences its parent's latent on {glue:text}`tree_first:.0%` of its
#    inputs, and the other children silence theirs on {glue:text}`tree_others:.0%`.
# 4. Magnitudes that vary make absorption partial: at a standard deviation of half the mean the parent's latent misses
#    {glue:text}`vary_last:.0%` of the child's inputs, and the child's latent keeps a cosine of {glue:text}`vary_child:.2f` with
#    the child, so read a parent's latent as a lower bound on its feature.
#
# ## The verdict
#
# All thresholds come from the ledger, `book/claims.yml`. A criterion over seeds is met when the 95% Wilson interval
# of the share that passes lies above the share asked for {cite:p}`wilson1927probable`.

# %%
penalised = readings["Matryoshka, penalty", "random", "loud"]
standard_loud = readings["standard, penalty", "random", "loud"]
magnitude_skew = claims.judge(
    claims.load()["magnitude-skew"],
    {
        "child_first": child_lead,
        "absorption_rate": main.absorption[main.all_live],
        "standard_absorption_rate": standard_loud.absorption[standard_loud.all_live],
        "absorption_rate_near_truth": gentle_reading.absorption[gentle_reading.all_live],
        "absorption_rate_with_penalty": penalised.absorption[penalised.all_live],
        "child_cosine": first_with_child(main),
        "theory_gap": theory_gap,
        "sampled_gap": sampled_gap,
        "control_absorption": control.absorption[control.all_live],
        "converged": float(
            torch.cat([r.converged.flatten() for r in runs.values()]).double().mean()
        ),
    },
    started=n_seeds,
)
magnitude_skew

# %% tags=["remove-cell"]
claims.glue("magnitude-skew", HTML(magnitude_skew.headline()))
claims.glue("case_ratio", case_ratio)
claims.glue("turn_low", theory.skew_turn(case_ratio, inner_weight, 1 + inner_weight))
claims.glue("turn_high", theory.skew_turn(case_ratio, 1 + inner_weight, inner_weight))

# %% [markdown]
# ## What would change our mind
#
# Live seeds whose parent's latent keeps firing beside the loud child; a boundary off the lines; absorption by quiet
# children, or with equal magnitudes. Each is a criterion above or a number of the phase diagram.
#
# ## Rerun it
#
# ```bash
# papermill notebooks/05_magnitude_skew.ipynb out.ipynb -p child_magnitude 3 -p child_probability 0.2
# ```
