# %% [markdown]
# # TopK does not help
#
# **Claim.** TopK-style Matryoshka SAEs show the same {term}`mixing`. The thread expects it and did not test it, because
# in a toy it is not obvious which K to pick {cite:p}`chanind2024thread`. So K is swept here, around the true mean L0.
#
# {glue:}`topk-too`
#
# In short: with K at the true mean L0 or above, a BatchTopK SAE from near the truth has the cosines of the ReLU SAE of
# {doc}`03_matryoshka_inherits` (largest difference {glue:text}`gap_above`). With a smaller K the child whose latent is
# dropped is mixed in more. Over all K from 0.8 times to twice the true mean {term}`L0` the smallest median cosine of
# the parent with a child is {glue:text}`least_over_k:.3f` (truth: 0).

# %% [markdown]
# ## What was predicted
#
# TopK keeps the K largest activations of each input {cite:p}`gao2024scaling`; BatchTopK keeps the largest of a whole
# batch, K for each input on average {cite:p}`bussmann2024batchtopk`. A Matryoshka BatchTopK SAE chooses once, among
# all latents, and every prefix uses what was kept {cite:p}`bussmann2025matryoshka`. Neither has a penalty, and the
# theory of {doc}`03_matryoshka_inherits` needs none. What it needs is that every latent fires with its own feature,
# and for that the budget must suffice: K of at least the true mean L0 (the mean number of active features, here
# {glue:text}`true_l0:.2f`), or for TopK at least 2, a parent and one child. Then nothing is dropped, and equation
# {eq}`matryoshka-ratio` holds as it stands.
#
# **A smaller K** drops the smallest activations. Those are the children's, whose latents hold only what the parent's
# leaves over. Say a share $s_i$ of child $i$'s activations is kept. The outer prefix is then exact on that share only,
# so the terms that hold the parent and miss the child weigh $q\,(\beta + 1 - s_i)$ in place of $q\,\beta$. The parent's
# decoder takes up more of that child, its latent is left with less to write, and so it stays the next to be
# dropped: one child is dropped after the other. The parent's decoder is
#
# $$ f_0 + \sum_i t_i f_i, \qquad t_i = \frac{q\,(\beta + 1 - s_i)}{\lambda - q\,(\beta + 1 - s_i)}, $$ (budget-ratio)
#
# with $\lambda$ the top eigenvalue of the re-weighted moment. At $s_i = 0$ for all it is the narrow SAE.
#
# **In a standard SAE** a small K does what a penalty does. An SAE that absorbs needs one latent an input, fewer than
# the truth needs, and reconstructs as well. So below the true mean L0 absorbing pays, if training finds the way.
#
# **How the batch is made exact.** An SAE sees a state with its probability, as a batch of very many rows would hold
# it. Where the budget runs out inside a state, the activation is kept on the right share of its inputs and the loss
# averages over both. Latents are compared by activation times decoder norm, which is the same as unit decoders.
#
# ## Setup

# %% tags=["parameters"]
parent_probability = 0.3  # probability that the parent fires: a number from 1e-06 to 1
child_probability = 0.4  # probability of each child given the parent: a number from 1e-06 to 1
n_children = 2  # number of mutually exclusive children: a whole number from 2 to 12
inner_weight = 1.0  # weight of the inner prefix in the loss (the outer one has weight 1): a number from 0.001 to 1000
d_model = 20  # dimension of the input, with room for the twenty-feature tree: a whole number from 20 to 1000
n_seeds = 192  # seeds near the truth; four times as many random ones: a whole number from 1 to 10000
n_sweep_seeds = 16  # the same at each point of a sweep: a whole number from 1 to 10000
seed = 4000  # number of the first seed: a whole number from 0 to 1000000000
start_noise = 0.5  # noise of the starts near the truth, relative to the length of a feature: a number from 0 to 10
n_steps = 2000  # training steps: a whole number from 1 to 1000000
batch_size = 200  # inputs in a batch, in the sampled runs: a whole number from 1 to 1000000
n_grid = 9  # points on the axis of each sweep: a whole number from 3 to 1000

# %% tags=["hide-input"]
from matryoshka_mixing import claims, figures, notebook
from matryoshka_mixing.chapters import topk as chapter

p = notebook.begin(globals())

# %%
toy = chapter.Toy.of(p)

# %% [markdown]
# Every seed draws its own dictionary, start and batches. Thresholds are those of the ReLU chapter, fixed in the ledger
# before these seeds were run; a trial on others came first.
#
# ## Every K
#
# In {numref}`fig-topk-sweep` K goes from half to twice the true mean L0. All values of K train in one call, from random
# starts ({glue:text}`n_random` seeds each) and from near the truth ({glue:text}`n_near` each).

# %%
swept = chapter.sweep(toy)

# %% tags=["remove-cell"]
claims.glue(gap_above=claims.number(swept.theory_gap(1)))
claims.glue(theory_gap=claims.number(swept.theory_gap(0.8)))
claims.glue(true_l0=toy.true_l0, n_near=p.n_sweep_seeds, n_random=chapter.MORE * p.n_sweep_seeds)
claims.glue(least_over_k=swept.least_median(0.8), **swept.absorbing())

# %% tags=["hide-input", "decisive"] mystnb={"figure": {"caption": "BatchTopK SAEs against K. Top left: the parent's cosine with the best and the least kept child, from near the truth; lines: theory, while at most one child is short of budget. From 0.8 times the true mean L0 the largest distance of a seed from its line is {glue:text}`theory_gap`. Top right: random seeds, mean over children. Bottom left: share, among SAEs whose parent's latent fires, in which other latents write more than half of the parent beside a child. Bottom right: the loss stops falling at the true mean L0.", "name": "fig-topk-sweep"}, "image": {"alt": "Four panels against K. The parent's cosine with its children is flat from the true mean L0 on and splits in two below it. Random Matryoshka seeds stay mixed at every K. The standard SAE absorbs below the true mean L0. Losses fall until the true mean L0 and are flat after it."}}
figure = chapter.draw_sweep(swept)

# %% [markdown]
# **How to pick K**, then: in the toy the loss shows the true mean L0 as the place where it stops falling. From near
# the truth a larger K changes nothing, and a smaller one does not clean the parent. Share of seeds that absorb, among
# those in which the parent's latent fires:
#
# | | K below the true mean L0 | K from there on |
# | --- | --- | --- |
# | standard, near the truth | {glue:text}`standard_near_below:.0%` | {glue:text}`standard_near_above:.0%` |
# | standard, random | {glue:text}`standard_random_below:.0%` | {glue:text}`standard_random_above:.0%` |
# | Matryoshka, near the truth | {glue:text}`Matryoshka_near_below:.0%` | {glue:text}`Matryoshka_near_above:.0%` |
# | Matryoshka, random | {glue:text}`Matryoshka_random_below:.0%` | {glue:text}`Matryoshka_random_above:.0%` |
#
# ## TopK: K is a whole number
#
# TopK gives every input the same K, needed or not. With K = 1 a parent and a child cannot be written by two latents,
# so a latent for parent + child is all that is left. {numref}`fig-topk-heatmaps` shows the best random seeds.

# %%
panels = chapter.best_topk(toy)

# %% tags=["hide-input"] mystnb={"figure": {"caption": "TopK SAEs from random starts: decoder cosines of the seed of lowest loss among those in which every latent fires (grey: there is none). With K = 1 an input has one latent, which must hold all of it. From K = 2 on the Matryoshka's first latent is the mixed parent.", "name": "fig-topk-heatmaps"}, "image": {"alt": "Six heat maps, three values of K for Matryoshka and standard. With one active latent an input each latent holds parent plus one child or the parent alone."}}
figure = figures.heatmaps(panels, toy.tree.names, per_row=3)

# %% [markdown]
# ## The number: random seeds and near the truth
#
# BatchTopK at the true mean L0 and TopK with K = 2, beside the ReLU SAE without a penalty. Random seeds that have a
# dead latent are left out of the verdict: of {glue:text}`n_started` seeds {glue:text}`n_live_batchtopk` are live with
# BatchTopK and {glue:text}`n_live_topk` with TopK.

# %%
compared = chapter.compare(toy)

# %% tags=["remove-cell"]
claims.glue(n_started=chapter.MORE * p.n_seeds, **compared.counts())

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Cosine of the first latent with a child (mean over children), every live seed a point; line: theory. Medians from random starts: BatchTopK {glue:text}`median_batchtopk:.3f`, TopK {glue:text}`median_topk:.3f`, ReLU {glue:text}`median_relu:.3f`. Negative values with biases are complements: the decoder bias carries the family and the latent takes it away.", "name": "fig-topk-strips"}, "image": {"alt": "Strips of points. From near the truth all three activations sit on the line of theory; random seeds sit on it or near it. With biases part of the random seeds are negative."}}
figure = chapter.draw_comparison(toy, compared)

# %% [markdown]
# **What differs from ReLU.** The children. From near the truth each child's latent carries a negative part of its
# siblings, as theory says. From random starts a latent may fire for inputs that are not its own, since a budget that is
# not used up costs nothing: the share of live random seeds in which *every* child's latent has a cosine of at most -0.1
# with its siblings is {glue:text}`siblings_batchtopk:.0%` with BatchTopK, {glue:text}`siblings_topk:.0%` with TopK and
# {glue:text}`siblings_relu:.0%` with ReLU.
#
# ## Does it hold up? The twenty-feature tree
#
# Three parents with three children each and eight loose features {cite:p}`nabeshima2024code`, twenty latents, every
# prefix in the loss, both biases, sampled batches of {glue:text}`batch_size`; K at 0.9, 1 and 1.5 times the tree's
# true mean L0 of {glue:text}`tree_l0:.2f`. Theory takes the ranks that the latents ended with: with a parent at rank
# $r_0$ and a child at rank $r$ of the twenty, the parent alone weighs $20 - r_0$ and parent + child $r - r_0$.

# %%
trees = chapter.twenty_features(toy)

# %% tags=["remove-cell"]
tree_predicted, tree_measured = trees.medians("near the truth", 1.0)
claims.glue(tree_l0=trees.l0, batch_size=p.batch_size)
claims.glue(tree_predicted=tree_predicted, tree_measured=tree_measured)
claims.glue(tree_random=trees.medians("random", 1.0)[1])
claims.glue(tree_small=trees.medians("near the truth", 0.9)[1])
claims.glue(tree_large=trees.medians("near the truth", 1.5)[1])

# %% tags=["hide-input"] mystnb={"figure": {"caption": "On the twenty-feature tree: measured against predicted cosine of a parent with a child, every pair of every seed whose parent is represented (own cosine of at least 0.8) and comes in before the child. With K at the true mean L0, from near the truth, the medians are {glue:text}`tree_measured:.3f` and {glue:text}`tree_predicted:.3f`.", "name": "fig-topk-tree"}, "image": {"alt": "Two clouds of points around the diagonal, near the truth and random; wider from random starts and with the smallest K."}}
figure = chapter.draw_tree(trees)

# %% [markdown]
# With K at 0.9 and 1.5 times the true mean L0 the measured medians from near the truth are {glue:text}`tree_small:.3f`
# and {glue:text}`tree_large:.3f`; from random starts at the true mean L0 it is {glue:text}`tree_random:.3f`.
#
# ## Is it the same TopK that others use?
#
# ```{include} ../book/agreement.md
# ```
#
# SAELens rounds K times the batch down to a whole number; here the last activation is shared out, so the comparison
# uses batches in which both agree. What SAELens adds and we leave out: an auxiliary loss that revives dead latents.
# Once training is over it puts a threshold in place of the batch; so can ours, but here the batch is exact.
#
# ## The verdict
#
# All thresholds come from the ledger, `book/claims.yml`. The control: independent features that fire as often, with a
# decoder bias, must come out clean.

# %%
control = chapter.control_mixing(toy)
measured, started = chapter.measured(toy, swept, compared, trees, control)
verdict = claims.judge(claims.load()["topk-too"], measured, started)
verdict

# %% tags=["remove-cell"]
claims.glue(topk_too=verdict)

# %% [markdown]
# ## What would change our mind
#
# A K at which the parent's latent is clean while the children's latents live; trained decoders off the lines; a
# control that mixes as well.
#
# ## Rerun it
#
# ```bash
# papermill notebooks/08_topk.ipynb out.ipynb -p child_probability 0.2 -p n_children 4
# ```
