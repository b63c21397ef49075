# %% [markdown]
# # Every prefix in every batch: the twenty-feature tree
#
# **Claims.** Mixing is not an artefact of sampling prefixes: with every prefix in every batch it remains. And
# Matryoshka training is nevertheless a large improvement over the standard SAE for absorption. Source: a question, its
# answer and the first comment in the thread {cite:p}`chanind2024thread`; the answer there rests on one picture, the better of two runs.
#
# {glue:}`not-sampling`
#
# {glue:}`improves-on-standard`

# %% [markdown]
# ## What was predicted
#
# {doc}`04_why_it_happens` found what mixes a child into its parent: the weight of the prefixes that hold the parent's
# latent and miss the child's. Call it *blamed*, and the weight of all prefixes that hold the parent's latent *alone*. If
# that is all, random prefixes act only through their expected weights. The original law of ten sampled prefixes has
# expected weights close to those of all twenty, so both should mix alike, by a cosine of about 0.18 where children share
# the later ranks evenly. Thresholds: a median cosine of at least 0.1 with all prefixes, and medians that are equal to
# within 0.03.
#
# For absorption the prediction is that of {doc}`01_standard_sae_absorbs`: the standard SAE absorbs, and a short prefix that holds the
# parent and no child keeps the parent's latent firing. Threshold: absorption rates that differ by at least 0.25.
#
# ## Setup
#
# The toy of the post {cite:p}`nabeshima2024matryoshka`, read from a tree file: three parents, each with three mutually
# exclusive children, and eight features by themselves. There are as many latents and as many dimensions as features,
# and the features' norms are jittered by 5%.
#
# Training follows the original code {cite:p}`nabeshima2024code`: batches of 200, inputs normalised by a running mean
# norm, gradients clipped at 1, Adam with its settings and schedule, latents re-sorted at every step, and a penalty that
# is steered toward a mean L0 of 1.2338, which lies above the tree's own. One thing differs. The original's
# encoder does not subtract the decoder bias, ours does; both can represent the same functions, the paths of training differ.
#
# The arms: the standard SAE; ten *sampled* prefixes, nine drawn by the original's law and the full width; *all
# prefixes* in every batch; and a *few* fixed ones, a quarter, a half and all of the latents. All see the same batches
# from the same random start. No start near the truth is used in this chapter. That all prefixes together cost what one
# does, and that loss, gradient and recipe agree with a plain loop over prefixes, is tested.

# %% tags=["parameters"]
tree_path = ""  # JSON file with a tree of your own; empty for the tree of the post
n_sweep_seeds = 16  # random seeds of the run on this page, at least 1
n_steps = 2000  # its training steps, at least 1
batch_size = 200  # inputs in a batch, at least 1
seed = 0  # number of the first seed, at least 0

# %% tags=["hide-input"]
import numpy as np
import pandas as pd
import torch
from IPython.display import HTML
from matryoshka_mixing import claims, features, figures, metrics, parameters, recipe
from matryoshka_mixing.sae import SAE, TRAINED

parameters.check(globals())
torch.set_num_threads(1)
figures.use_style()

# %%
tree = features.twenty_feature_tree()
if tree_path:
    tree = features.FeatureTree.from_json(tree_path)
states, parents = recipe.every_input(tree), tree.parents()
true_l0, absorbed_l0 = recipe.natural_l0(states, parents)
target_l0 = 1.1 * true_l0 if tree_path else recipe.TARGET_L0
arms = recipe.arms(tree.n_features, target_l0, true_l0, absorbed_l0)
main = ["standard", "sampled", "all prefixes"]
arms |= recipe.independent_arms({name: arms[name] for name in ("standard", "all prefixes")})
print("\n".join(arms))

# %% [markdown]
# The original trains for 40,000 steps. All arms at that length take long, so their numbers are stored beside the code, and
# `python -m matryoshka_mixing.recipe` computes them again. This page trains the three main arms anew, for
# {glue:text}`n_steps` steps and {glue:text}`n_live` seeds, as a check on what is stored. With a tree of your own everything is
# trained on the page and nothing stored is used. The figures and verdicts below come from {glue:text}`origin`.

# %%
shorter = recipe.Recipe(steps=n_steps, batch_size=batch_size, seed=seed)
seeds = range(seed, seed + n_sweep_seeds)
chosen = arms if tree_path else {name: arms[name] for name in main}
live = recipe.compute(tree, seeds, shorter, chosen)
results = live if tree_path else recipe.load()

# %% tags=["remove-cell"]
shown_seeds = results["seeds"].tolist()
length = n_steps if tree_path else recipe.Recipe.steps
claims.glue("n_steps", f"{n_steps:,}")
claims.glue("n_live", n_sweep_seeds)
claims.glue(
    "origin",
    f"the run on this page, {len(shown_seeds)} seeds and {length:,} steps"
    if tree_path
    else f"the stored run, {len(shown_seeds)} seeds and {length:,} steps",
)
pairs = [(p, c) for c, p in enumerate(parents) if p is not None]


def of(name, key, data=results):
    """What was measured in one arm, seeds first."""
    return data[key][list(data["names"]).index(name)]


def per_seed(name, key="parent_to_child", data=results):
    """The median over pairs in each seed of one arm."""
    return np.median(of(name, key, data), axis=1)


def represented(name):
    """Which pairs of each seed have a represented parent."""
    return np.abs(of(name, "own"))[:, [p for p, _ in pairs]] >= recipe.MISSING


norms = torch.stack(
    [recipe.jittered_dictionary(tree.n_features, tree.n_features, s) for s in shown_seeds]
).norm(dim=-1)


def theory_of(name):
    """Theory's cosine for every seed and pair of one arm, from its mean prefix weights."""
    alone, blamed = (torch.from_numpy(of(name, key)).double() for key in ("alone", "blamed"))
    return recipe.predicted(states, parents, alone, blamed, norms).numpy()


# %% [markdown]
# ## The decisive figure

# %% tags=["hide-input"] mystnb={"figure": {"caption": "The parent's decoder cosine with its children, each seed's median over its pairs, in every arm. Sampled prefixes: {glue:text}`sampled_median:.3f`. All prefixes in every batch: {glue:text}`all_median:.3f`. The line is theory's median for the sampled arm. Arms marked live were trained on this page.", "name": "fig-tree-mixing"}, "image": {"alt": "Strips of points. Standard SAEs and independent features sit near zero; Matryoshka arms sit near the line of theory, except those steered to the lowest L0, which sit near zero."}}
shown = [name for name in arms if not name.startswith("standard, e")]
shown = [name for name in shown if not name.startswith("standard, t")]
strips = {name: per_seed(name) for name in shown}
strips |= {f"{name}, live": per_seed(name, data=live) for name in main}
for name, key in [("sampled", "sampled_median"), ("all prefixes", "all_median")]:
    claims.glue(key, float(np.median(per_seed(name))))
expected = float(np.nanmedian(theory_of("sampled")))
figure = figures.seed_strips(
    strips, "cosine of a parent's decoder with a child", reference=expected, label="theory"
)

# %% [markdown]
# With all prefixes in every batch the median cosine is {glue:text}`all_median:.3f`, with sampled ones
# {glue:text}`sampled_median:.3f`, where theory expects {glue:text}`expected:.3f`. The difference of the medians lies between
# {glue:text}`gap_low:.3f` and {glue:text}`gap_high:.3f` (95% bootstrap interval over seeds).
#
# {numref}`fig-tree-cosines` is the picture that readers of the post know, for the first seed. Latents are in the order of
# the features they match; without mixing and absorption each panel would be a diagonal. A parent's row shows what it holds of its children;
# a child's row what it takes off its siblings, or in the standard SAE what it took from its parent.

# %% tags=["remove-cell"]
gap = metrics.median_interval(per_seed("all prefixes"), per_seed("sampled"))
sampling_gap = max(abs(end) for end in gap)
claims.glue("expected", expected)
for name, end in zip(("gap_low", "gap_high"), gap, strict=True):
    claims.glue(name, float(end))

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Decoder (top) and encoder (bottom) cosines with the true features, first seed. Rows are latents, each beside the feature that it matches.", "name": "fig-tree-cosines"}, "image": {"alt": "Six matrices of cosines. In the standard SAE the children's rows hold their parent. In both Matryoshka SAEs the parents' rows hold a little of each child and the children's rows a negative part of their siblings."}}
dictionary = recipe.jittered_dictionary(tree.n_features, tree.n_features, shown_seeds[0])
first = {
    name: SAE(*(torch.from_numpy(of(name, f"first_{key}")) for key in TRAINED)) for name in main
}
decoders = {name: metrics.decoder_cosines(sae, dictionary) for name, sae in first.items()}
latents = {name: metrics.match(cosines) for name, cosines in decoders.items()}
panels = {f"{n}: decoder": decoders[n][latents[n]].numpy() for n in main}
panels |= {
    f"{n}: encoder": metrics.encoder_cosines(sae, dictionary)[latents[n]].numpy()
    for n, sae in first.items()
}
breaks = [i for i, parent in enumerate(parents) if parent is None][1:]
breaks = [i for i in breaks if parents[i - 1] is not None or i in parents]
figure = figures.images(panels, tree.names, tree.names, breaks=breaks)

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Activations on a reference batch: the true features, and the latents that match them. Half of the inputs are chosen to hold a child, and come first.", "name": "fig-tree-activations"}, "image": {"alt": "Four matrices of activations. In the standard SAE the parents' latents are silent where a child fires; in the Matryoshka SAEs they fire there as in the truth."}}
acts = tree.sample(4000, torch.Generator().manual_seed(0))
holds_child = (acts[:, [c for _, c in pairs]] > 0).any(-1)
batch = torch.cat([acts[holds_child][:40], acts[~holds_child & (acts > 0).any(-1)][:40]])
order = np.lexsort(-batch.T.numpy()[::-1])
order = order[np.argsort(~(batch[order][:, [c for _, c in pairs]] > 0).any(-1), kind="stable")]
batch = batch[order]
activations = {"true features": batch.T.numpy()}
for name, sae in first.items():
    size = sae.W_dec.norm(dim=-1)
    found = (sae.encode(batch @ dictionary) * size)[:, latents[name]]
    activations[name] = found.T.numpy()
figure = figures.images(
    activations, tree.names, quantity="activation", per_row=2, breaks=breaks
)

# %% [markdown]
# ## The numbers
#
# Medians over seeds with 95% bootstrap intervals; *missing* is the mean number of features that no latent represents
# (best cosine below one half, or dead), with the share of seeds that miss any; *error* is the squared error of the full width, as a share of the
# inputs' power; *penalty* is in units of the features. Latents are matched to features one to one by their decoder cosines (the original's figures match by activations).


# %% tags=["hide-input"]
def cell(values, digits=2):
    """A median and its interval."""
    low, high = (round(end, digits) + 0.0 for end in metrics.median_interval(values))
    middle = round(float(np.median(values)), digits) + 0.0  # no "-0.00"
    return f"{middle:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


columns = {
    "parent to child": "parent_to_child",
    "child to sibling": "child_to_sibling",
    "child to parent": "child_to_parent",
}
rows = {}
for name in arms:
    row = {title: cell(per_seed(name, key)) for title, key in columns.items()}
    row |= {"absorption": cell(of(name, "absorption")), "L0": cell(of(name, "l0"))}
    missing = of(name, "missing")
    row["missing"] = f"{missing.mean():.1f} ({np.mean(missing > 0):.0%} of seeds)"
    row["error"] = f"{np.median(of(name, 'error')):.1%}"
    row["penalty"] = f"{np.median(of(name, 'l1')):.1e}"
    rows[name] = row
HTML(f'<div style="overflow-x: auto">{pd.DataFrame(rows).T.to_html()}</div>')

# %% [markdown]
# ## Absorption
#
# The standard SAE absorbs here as in {doc}`01_standard_sae_absorbs`: its children's decoders have a median cosine of
# {glue:text}`standard_child_to_parent:.3f` with their parent.
#
# Steering cannot make the L0 of both kinds equal. An SAE that absorbs completely reconstructs everything with an L0 of
# {glue:text}`absorbed_l0:.2f`, so however far its penalty falls nothing asks for more active latents. The standard SAE
# ends at an L0 of {glue:text}`standard_l0:.3f` and the sampled Matryoshka SAE at {glue:text}`sampled_l0:.3f`, with the
# same target of {glue:text}`target_l0:.3f`. So there are four comparisons: penalties *steered alike* toward that target;
# *equal penalties*; steered to the *true L0* of the tree, {glue:text}`true_l0:.2f`; and *equal L0*, steered to
# {glue:text}`absorbed_l0:.2f`, which both can reach.

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Absorption rate: the share of inputs with parent and child on which the parent's latent is silent, every seed a point. Steered alike, the medians are {glue:text}`standard_absorption:.3f` for the standard SAE and {glue:text}`sampled_absorption:.3f` for sampled prefixes; at equal L0, {glue:text}`standard_absorption_equal:.3f` and {glue:text}`sampled_absorption_equal:.3f`.", "name": "fig-tree-absorption"}, "image": {"alt": "Strips of points. The absorption rate of standard SAEs is high in every comparison, that of Matryoshka SAEs lower, by how much depends on the comparison."}}
comparisons = {"steered alike": "", "equal penalty": ", equal penalty", "true L0": ", true L0"}
comparisons["equal L0"] = ", equal L0"
strips = {
    f"{name}, {label}": of(name + suffix, "absorption")
    for label, suffix in comparisons.items()
    for name in main
}
for name in ("standard", "sampled"):
    claims.glue(f"{name}_absorption", float(np.median(of(name, "absorption"))))
    equal = of(f"{name}, equal L0", "absorption")
    claims.glue(f"{name}_absorption_equal", float(np.median(equal)))
    claims.glue(f"{name}_l0", float(np.median(of(name, "l0"))))
for name, value in [("target", target_l0), ("true", true_l0), ("absorbed", absorbed_l0)]:
    claims.glue(f"{name}_l0", float(value))
claims.glue(
    "standard_child_to_parent", float(np.median(per_seed("standard", "child_to_parent")))
)
figure = figures.seed_strips(strips, "absorption rate", colours=len(main))

# %% [markdown]
# At equal L0 the gain is {glue:text}`equal_gain:.3f` (median) and reaches 0.25 in {glue:text}`n_equal_gain` of
# {glue:text}`n_shown` seeds; a rate moves by steps of one pair in {glue:text}`n_pairs`.
#
# At an L0 of {glue:text}`absorbed_l0:.2f` a Matryoshka SAE cannot keep its parents' latents firing beside the children's: it has to absorb
# or to leave features out. With sampled prefixes it misses {glue:text}`equal_missing:.1f` features there (mean over seeds; the
# standard SAE {glue:text}`equal_missing_standard:.1f`), with an error of {glue:text}`equal_error:.1%`. Steered alike, its error is
# {glue:text}`sampled_error:.1%` and that of the standard SAE {glue:text}`standard_error` of the inputs' power:
# to absorb does not keep an SAE from reconstructing everything.

# %% tags=["remove-cell"]
equal_gain = of("standard, equal L0", "absorption") - of("sampled, equal L0", "absorption")
claims.glue("equal_gain", float(np.median(equal_gain)))
claims.glue("n_equal_gain", int((equal_gain >= 0.25).sum()))
claims.glue("n_shown", len(shown_seeds))
claims.glue("n_pairs", len(pairs))
for key, name, measure in [
    ("equal_missing", "sampled, equal L0", "missing"),
    ("equal_missing_standard", "standard, equal L0", "missing"),
]:
    claims.glue(key, float(of(name, measure).mean()))
for key, name in [("equal_error", "sampled, equal L0"), ("sampled_error", "sampled")]:
    claims.glue(key, float(np.median(of(name, "error"))))
claims.glue("standard_error", claims.number(float(np.median(of("standard", "error")))))

# %% [markdown]
# ## A later child is mixed in more
#
# Sorting makes latents change places all the time, so a child's rank is a matter of time. What counts is the mean
# weight of the prefixes that hold the parent's latent and miss the child's, taken over the cool-down with each latent
# followed through the sorting. {numref}`fig-tree-theory` holds it against the cosine, for all pairs whose parent is
# represented. The line is the top eigenvector of the re-weighted second moment, with nothing fitted.

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Left: the parent's cosine with a child against the blamed weight as a share of the parent's, with theory for children that share it evenly. Right: against theory for each pair, its siblings' weights and the jittered norms included. Over the six arms the median distance is {glue:text}`theory_gap:.3f` and the correlation {glue:text}`theory_correlation:.2f`.", "name": "fig-tree-theory"}, "image": {"alt": "Two clouds of points, for sampled, all and few prefixes. Both follow the line of theory: the later a child's latent comes, the more of it the parent holds."}}
steered = ["sampled", "all prefixes", "few prefixes", "sampled, moments follow"]
steered += ["sampled, sorting mended", "all prefixes, sorting mended"]
predicted = {name: theory_of(name) for name in steered}
held = {name: represented(name) & ~np.isnan(predicted[name]) for name in steered}
cosine = {name: of(name, "parent_to_child")[held[name]] for name in steered}
share = {
    name: (of(name, "blamed") / of(name, "alone").clip(1e-9))[held[name]] for name in steered
}
predicted = {name: values[held[name]] for name, values in predicted.items()}
grid = torch.linspace(0, 1, 101, dtype=torch.float64)[:, None].expand(-1, len(pairs))
unit = torch.ones(tree.n_features, dtype=torch.float64)
even = recipe.predicted(states, parents, torch.ones_like(grid), grid, unit)[:, 0]


def distance(names):
    """Median distance from theory over all pairs of some arms."""
    gaps = [np.abs(cosine[n] - predicted[n]) for n in names]
    return float(np.median(np.concatenate(gaps))) if sum(map(len, gaps)) else float("nan")


def correlation(names):
    """Correlation of measured and predicted cosines over all pairs of some arms."""
    found = [np.concatenate([table[n] for n in names]) for table in (cosine, predicted)]
    return float(np.corrcoef(*found)[0, 1]) if np.ptp(found, axis=1).all() else float("nan")


def slope(names):
    """Slope of measured on predicted cosines over all pairs of some arms."""
    found = [np.concatenate([table[n] for n in names]) for table in (predicted, cosine)]
    return float(np.polyfit(*found, 1)[0]) if np.ptp(found[0]) else float("nan")


claims.glue("theory_gap", distance(steered))
claims.glue("theory_correlation", correlation(steered))
for key, names in [("original", steered[:2]), ("mended", steered[-2:])]:
    claims.glue(f"gap_{key}", distance(names))
    claims.glue(f"correlation_{key}", correlation(names))
    claims.glue(f"slope_{key}", slope(names))
every = np.concatenate([*predicted.values(), *cosine.values(), [0.1]])
ends = (every.min(), every.max())
label = {"ylabel": "cosine of the parent with a child"}
figure = figures.clouds(
    [
        {"xlabel": "blamed weight / alone weight", "curve": (grid[:, 0], even),
         "groups": {n: (share[n], cosine[n]) for n in steered}} | label,
        {"xlabel": "theory for each pair", "curve": (ends, ends),
         "groups": {n: (predicted[n], cosine[n]) for n in steered}} | label,
    ]
)  # fmt: skip

# %% [markdown]
# Sampled and all prefixes are held against the same theory, each through its expected weights. With the original sorting
# the median distance is {glue:text}`gap_original:.3f` and the correlation {glue:text}`correlation_original:.2f`; with the mended sorting,
# under which ranks settle and spread, {glue:text}`gap_mended:.3f` and {glue:text}`correlation_mended:.2f`. Part of the scatter is the shuffling.
# The slope of measured on predicted cosines is {glue:text}`slope_original:.2f` and {glue:text}`slope_mended:.2f`, where theory has 1. We did not find
# what makes it differ.
#
# **Where it fails.** Theory assumes that a latent fires only with its own feature. We looked for what the distance from
# theory goes with, over all Matryoshka arms on the hierarchy except those that an L0 of {glue:text}`absorbed_l0:.2f` forces to absorb:
#
# - *Firing for other features.* In the {glue:text}`n_strict` SAEs whose L0 is at most 0.02 above that of the tree the median
#   distance is {glue:text}`gap_strict:.3f`. In the other {glue:text}`n_stray`, whose latents must fire for features not their own,
#   it is {glue:text}`gap_stray:.3f`; {glue:text}`n_stray_equal` of those are trained at equal penalty. There the sampled arm
#   misses {glue:text}`missing_equal:.1f` features (mean over seeds). In one such SAE that we opened, the latent that should
#   hold a child held its siblings' negatives and part of its parent instead.
# - *The penalty itself.* Sampled prefixes steered to the true L0 end at a penalty of {glue:text}`penalty_true:.3f` in units of
#   the features (median), with a distance of {glue:text}`gap_true:.3f`. At equal penalty these are
#   {glue:text}`penalty_equal:.3f` and {glue:text}`gap_equal:.3f`. The distance does not simply follow the penalty.
# - *Features that fire at the same time by chance, and the biases.* They would show as parts of unrelated features in the
#   parent's decoder. In the first seed of the two main Matryoshka arms the largest such cosine is
#   {glue:text}`unrelated:.3f` in size.

# %% tags=["remove-cell"]
wide = [name for name in arms if not name.startswith("standard") and "independent" not in name]
wide = [name for name in wide if "equal L0" not in name]
strays, gaps = [], []
for name in wide:
    far = np.where(
        represented(name), np.abs(of(name, "parent_to_child") - theory_of(name)), np.nan
    )
    gaps.append(far)
    strays.append(of(name, "l0") > true_l0 + 0.02)
    for key, suffix in [("true", ", true L0"), ("equal", ", equal penalty")]:
        if name == "sampled" + suffix:
            claims.glue(f"gap_{key}", float(np.nanmedian(far)))
            claims.glue(f"penalty_{key}", float(np.median(of(name, "l1"))))
strays, gaps = np.stack(strays), np.stack(gaps)
for key, where in [("strict", ~strays), ("stray", strays)]:
    claims.glue(f"n_{key}", int(where.sum()))
    claims.glue(f"gap_{key}", float(np.nanmedian(gaps[where])) if where.any() else float("nan"))
equal = [i for i, name in enumerate(wide) if name.endswith("equal penalty")]
claims.glue("n_stray_equal", int(strays[equal].sum()))
claims.glue("missing_equal", float(of("sampled, equal penalty", "missing").mean()))
heads = sorted({p for p, _ in pairs})
family = np.zeros((len(heads), tree.n_features), dtype=bool)
for i, parent in enumerate(heads):
    family[i, [parent, *(c for p, c in pairs if p == parent)]] = True
parts = [decoders[n][latents[n]][heads].numpy()[~family] for n in main[1:]]
claims.glue("unrelated", float(np.abs(np.concatenate(parts)).max()))

# %% [markdown]
# ## How robust
#
# **Sorting.** In the original code the optimiser's moments are meant to follow the latents when these are sorted, and do
# not; nor does the running mean by which they are sorted. With the moments following, the median cosine of sampled
# prefixes is {glue:text}`moments_median:.3f`; with both, {glue:text}`mended_median:.3f`; as in the original, {glue:text}`sampled_median:.3f`.
# It does not decide whether latents mix. It does decide how much ranks shuffle, and so how evenly children are mixed in.
#
# **Control.** On independent features that fire as often, with every prefix in every batch, the same pairs have a median
# cosine of {glue:text}`control_median`; and the standard SAE's absorption rate there is {glue:text}`control_absorption_median:.3f`.
#
# **Children.** In the steered arms a child's decoder has a small negative cosine with its parent
# ({glue:text}`lean_sampled:.3f` for sampled prefixes). Steered to the true L0 the penalty is larger, and it is {glue:text}`lean_true:.3f`, as
# {doc}`04_why_it_happens` predicts of a penalty.
#
# **Length.** {numref}`fig-tree-history` shows the three main arms.

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Training: medians over seeds, bands from the lowest to the highest. The cosine is that of the parent with a child, the L0 a mean over the batches since the point before, the penalty in units of the features.", "name": "fig-tree-history"}, "image": {"alt": "Three panels against the step. The cosine of the Matryoshka arms rises early and stays; the L0 of the Matryoshka arms ends above that of the standard SAE; penalties rise and are then steered down."}}
for key, name in [
    ("moments_median", "sampled, moments follow"),
    ("mended_median", "sampled, sorting mended"),
    ("equal_cosine", "sampled, equal L0"),
]:
    claims.glue(key, float(np.median(per_seed(name))))
control_cosine = float(np.median(per_seed("all prefixes, independent")))
claims.glue("control_median", claims.number(control_cosine))
control_absorption = of("standard, independent", "absorption")
claims.glue("control_absorption_median", float(np.median(control_absorption)))
for key, name in [("lean_sampled", "sampled"), ("lean_true", "sampled, true L0")]:
    claims.glue(key, float(np.median(per_seed(name, "child_to_parent"))))
traces = {"cosine": "child_path", "L0": "l0_path", "penalty": "l1_path"}
steps = results["steps"][1:]
figure = figures.histories(
    steps,
    {label: {n: of(n, key)[:, 1:] for n in main} for label, key in traces.items()},
    log=["penalty"],
)

# %% [markdown]
# The cosine is within 0.02 of its last value from step {glue:text}`settled` on, in the median of the sampled arm; the rest is
# the steering of the penalty. The run on this page, shorter than the original's by far, ends at {glue:text}`live_sampled:.2f` for sampled
# and {glue:text}`live_all:.2f` for all prefixes.
#
# **Mixing or absorption.** Steered to an L0 of {glue:text}`absorbed_l0:.2f`, the sampled arm absorbs, at a rate of
# {glue:text}`sampled_absorption_equal:.3f`, and its parents have a median cosine of {glue:text}`equal_cosine:.3f` with their children: a parent's
# latent that is silent beside a child has nothing of the child to carry.
#
# ## The verdicts
#
# All thresholds come from the ledger, `book/claims.yml`. A criterion over seeds is met when the 95% Wilson interval
# of the share that passes lies above the share asked for {cite:p}`wilson1927probable`.
#
# Two criteria of `improves-on-standard` lie close to their thresholds: the gain at equal L0, and the missing features. In an
# earlier run of the stored seeds with other batches the first was undecided and the second came out differently; the
# ledger gives the counts.

# %% tags=["remove-cell"]
middle = np.median(of("sampled", "child_path"), 0)
near_end = np.abs(middle - middle[-1]) <= 0.02
settled = int(
    results["steps"][
        len(near_end) - int(np.argmin(near_end[::-1])) if not near_end.all() else 0
    ]
)
claims.glue("settled", f"{settled:,}")
for key, name in [("live_sampled", "sampled"), ("live_all", "all prefixes")]:
    claims.glue(key, round(float(np.median(per_seed(name, data=live))), 2))

# %%
ledger = claims.load()
not_sampling = claims.judge(
    ledger["not-sampling"],
    {
        "child_cosine_all_prefixes": per_seed("all prefixes"),
        "sampling_gap": sampling_gap,
        "child_cosine_few_prefixes": per_seed("few prefixes"),
        "sibling_cosine_all_prefixes": per_seed("all prefixes", "child_to_sibling"),
        "sorting_gap": abs(
            float(
                np.median(per_seed("sampled, sorting mended")) - np.median(per_seed("sampled"))
            )
        ),
        "theory_gap": distance(["sampled", "all prefixes"]),
        "child_cosine_standard": per_seed("standard"),
        "control_mixing": np.abs(per_seed("all prefixes, independent")),
    },
)
not_sampling


# %%
def gain(suffix="", arm="sampled"):
    """How much more the standard SAE absorbs, seed by seed."""
    return of("standard" + suffix, "absorption") - of(arm + suffix, "absorption")


improves_on_standard = claims.judge(
    ledger["improves-on-standard"],
    {
        "absorption_gain": gain(),
        "absorption_gain_at_equal_penalty": gain(", equal penalty"),
        "absorption_gain_at_equal_l0": gain(", equal L0"),
        "absorption_gain_all_prefixes": gain(arm="all prefixes"),
        "absorption_gain_at_true_l0": gain(", true L0"),
        "missing_features": float(
            of("sampled", "missing").mean() - of("standard", "missing").mean()
        ),
        "l0_gap": abs(
            float(
                np.median(of("standard, equal L0", "l0"))
                - np.median(of("sampled, equal L0", "l0"))
            )
        ),
        "control_absorption": control_absorption,
    },
)
improves_on_standard

# %% tags=["remove-cell"]
claims.glue("not-sampling", HTML(not_sampling.headline()))
claims.glue("improves-on-standard", HTML(improves_on_standard.headline()))

# %% [markdown]
# ## What would change our mind
#
# Sampled and all prefixes whose cosines differ by more than the margin; a Matryoshka SAE trained on all prefixes with clean
# parents; a mixture in the standard SAE or on independent features; a Matryoshka SAE that absorbs as the standard one does. Each is a
# criterion above and would change its verdict.
#
# ## Rerun it
#
# ```bash
# papermill notebooks/06_every_prefix.ipynb out.ipynb -p n_steps 8000 -p tree_path my_tree.json
# python -m matryoshka_mixing.recipe --seeds 32 --output every_prefix.npz   # the stored run; minutes to an hour
# ```
