# %% [markdown]
# # The toys of *Feature Hedging*, counted over seeds
#
# **Claim.** One latent mixes in hierarchical and correlated features, takes away anti-correlated ones, and leaves
# independent ones alone. In a Matryoshka SAE one weight of the inner prefix, 0.25, balances equal children, and none
# balances unequal ones. Source: Chanin, Dulka and Garriga-Alonso {cite:p}`chanin2025hedging`, set-ups from their code.
#
# {glue:}`published-toys`
#
# In short: the parent's encoder stops leaning at an inner weight of {glue:text}`balance:.3f`, where the paper shows
# 0.25. Unequal children would each need a weight of their own, from {glue:text}`child_low:.2f` to
# {glue:text}`child_high:.2f`.
#
# ```{glue:figure} balance_figure
# :name: fig-toys-balance
#
# The parent's encoder cosine with each child (truth 0) over the weight of the inner prefix: medians, bars over the
# middle half of the seeds. Below zero: the sign of absorption. Above: the sign of mixing. Equal children cross
# together, unequal ones apart.
# ```

# %% [markdown]
# ## Whose idea is what
#
# The paper names mixing *hedging*, and sets it against absorption: reconstruction with too few latents pulls a parent's
# latent toward its children, sparsity with enough latents pushes its encoder away. Weights on the prefixes trade one
# for the other, and the paper proposes such *balanced* Matryoshka SAEs. The bargain of {doc}`04_why_it_happens` is this
# trade. What is new in this book: closed forms for the mixing, for unequal children and any ranks and prefixes too, and
# for what a penalty adds where children are equal; interventions on single terms of the loss that show which terms mix
# and which protect; and counts over random starts, each with directions of its own.
#
# ## What was predicted
#
# As published. The thresholds stood in the ledger before the run; a pilot on other seeds came before one measure was
# fixed, and the ledger says which.
#
# ## Setup
#
# Theirs, from their notebooks: orthogonal features of magnitude 1 in 50 dimensions, encoder and decoder biases, the
# penalty on decoder-norm-weighted activations, one loss for each prefix. Three things differ. They start at the truth
# (single latents: plus noise of 0.25 a coordinate, which in 50 dimensions is 1.8 times a feature's length), we with
# noise of {glue:text}`start_noise:.2f` times that length, and from random starts.
#
# They train one SAE on {glue:text}`their_batches` batches of 4,096, we {glue:text}`n_main` on the exact loss and on
# batches of {glue:text}`batch_size`. And each of our seeds has its own directions.

# %% tags=["parameters"]
parent_probability = 0.25  # probability that the parent fires: a number from 1e-06 to 1
child_probability = 0.15  # probability of each of three independent children: a number from 1e-06 to 0.99
l1 = 0.03  # weight of the L1 penalty, with three children: a number from 0 to 10
d_model = 50  # dimension of the input: a whole number from 4 to 1000
n_seeds = 192  # random seeds for each experiment: a whole number from 1 to 10000
n_sweep_seeds = 16  # random seeds at each point of a sweep: a whole number from 1 to 10000
seed = 14000  # number of the first seed: a whole number from 0 to 1000000000
start_noise = 0.5  # noise of the starts near the truth, relative to the length of a feature: a number from 0 to 10
n_steps = 2000  # training steps: a whole number from 1 to 1000000
batch_size = 200  # inputs in a batch, in the sampled runs: a whole number from 1 to 1000000
n_grid = 9  # points on the axis of each sweep: a whole number from 3 to 1000

# %% tags=["hide-input"]
from IPython.display import Markdown
from matplotlib import pyplot as plt

from matryoshka_mixing import claims, notebook
from matryoshka_mixing.chapters import published_toys as chapter

p = notebook.begin(globals())

# %% [markdown]
# ## One latent, two features
#
# The first feature fires with probability 0.25, the second with 0.2 beside it; alone, the second fires as often
# (independent), never (hierarchical), with 0.1 (correlated). Anti-correlated is 0.1 beside and 0.2 alone. The paper
# prints pictures for these, so what it publishes is a sign. Its notebook adds that with independent features the
# decoder bias holds the second one by its probability.

# %%
singles = chapter.singles(p)
Markdown(chapter.table(singles))

# %% tags=["hide-input"] mystnb={"figure": {"caption": "The one latent's decoder cosine with the second feature (truth 0), every live seed a point; random starts where the latent leads toward the first feature. Hierarchical {glue:text}`hierarchical:.3f`, anti-correlated {glue:text}`anticorrelated:.3f`, independent {glue:text}`independent`.", "name": "fig-toys-single"}, "image": {"alt": "Strips of points for five toys: zero for independent features, positive for hierarchical and correlated ones, negative for anti-correlated ones."}}
near = {name: singles[name, chapter.NEAR, False].second for name in chapter.TOYS}
claims.glue(hierarchical=float(near["hierarchical"].median()))
claims.glue(anticorrelated=float(near["anti-correlated"].median()))
claims.glue(independent=claims.number(float(near["independent"].abs().max())))
claims.glue(start_noise=p.start_noise, n_main=len(p.main), batch_size=p.batch_size)
claims.glue(their_batches=f"{chapter.THEIR_BATCHES:,}")
figure = chapter.draw_singles(singles)

# %% [markdown]
# Every sign is the published one. Random starts that lead toward the first feature agree with those from near the
# truth, except for anti-correlated features, where they lean {glue:text}`anti_random` (near the truth
# {glue:text}`anticorrelated:.3f`): two solutions, and the published start finds one of them.
#
# ## Balanced prefix weights
#
# Parent 0.25, three independent children of 0.15 each, widths 1 and 4, a penalty of 0.03.

# %%
balances = chapter.balances(p)

# %% tags=["remove-cell"]
equal, unequal, random = (balances[key] for key in ("equal", "unequal", "random"))
figure = chapter.draw_balance(balances, p)
claims.glue(balance_figure=figure, balance=float(equal.crossings.nanmedian()))
plt.close(figure)
anti = singles["anti-correlated", chapter.RANDOM, False].on_first
claims.glue(anti_random=chapter.median(anti), n_crossings=int((~equal.crossings.isnan()).sum()))
claims.glue(balance_sampled=float(balances["sampled"].crossings.nanmedian()))
claims.glue(child_low=float(unequal.child_crossings.min()), child_high=float(unequal.child_crossings.max()))
left = equal.largest(float(equal.crossings.nanmedian()))
claims.glue(best_left=unequal.best[1], equal_left=claims.number(float(left.median())))
claims.glue(published_left=chapter.worst_at(unequal, chapter.PUBLISHED_UNEQUAL))
balanced = abs(equal.weights - float(equal.crossings.nanmedian())).argmin()
claims.glue(decoder_lean=float(equal.decoder[balanced].median()))
kept = random.live & random.leads
claims.glue(n_random_leads=int(kept.sum()))
claims.glue(n_random_balanced=int((random.encoder[kept].abs().amax(-1) <= 0.05).sum()))

# %% [markdown]
# ## Does it hold up?
#
# In sampled batches the balance lies at {glue:text}`balance_sampled:.3f`.
#
# **From random starts**, at the published weight, all four latents live and the first leads toward the parent in
# {glue:text}`n_random_leads` of {glue:text}`n_main` seeds. In {glue:text}`n_random_balanced` of these it is within 0.05
# of balance with every child; in the others a child is merged in. A start near the truth is part of the published
# result.
#
# **Unequal children**, of 0.02, 0.15 and 0.5: the best single weight leaves some child at {glue:text}`best_left:.3f`,
# and the paper's 0.17 at {glue:text}`published_left:.3f`. At their balance equal ones are left at
# {glue:text}`equal_left`, the median of each seed's largest. The size
# that the ledger asked for, 0.05, was our guess, and a pilot had shown that it would be missed narrowly. The
# crossings say it better: a rare child needs a heavy inner prefix, a common one a light one.
#
# **What to do?** Where the truth is not known, no weight can be chosen so: it depends on each child's rate. And one
# thing the encoder does not show. At the swept weight nearest to balance the *decoder* still leans
# {glue:text}`decoder_lean:.3f` toward each child (truth 0): the weights set two pulls on the encoder against each
# other, and remove neither ({doc}`04_why_it_happens`).
#
# ## The verdict

# %%
measured = chapter.measured(singles, balances)
published_toys = claims.judge(claims.load()["published-toys"], measured, len(p.main))
published_toys

# %% tags=["remove-cell"]
claims.glue(published_toys=published_toys)

# %% [markdown]
# ## What would change our mind
#
# A sign that turns under sampled batches; a balance that moves with the directions; a single weight that brings unequal
# children to zero.
#
# ## Rerun it
#
# ```bash
# papermill notebooks/14_published_toys.ipynb out.ipynb -p child_probability 0.3 -p l1 0.01
# ```
