# %% [markdown]
# # Initialisation and basins
#
# **Claim.** Among random seeds of a Matryoshka SAE ({term}`basins <basin>`), the lowest loss is the cleanest: keeping
# the best of $k$ runs by loss finds the solution nearest the truth. Source: ours. (The post's author kept the better of
# two runs for one figure, by a missing feature {cite:p}`chanind2024thread`.)
#
# {glue:}`lowest-loss-cleanest`
#
# In short: **keep the best of a few runs; the lowest loss of very many is no proof of a clean one.** A single random
# run {term}`recovers <recovery>` the features to {glue:text}`mean_recovery:.2f` on average, the best of eight to
# {glue:text}`best_of_8:.2f`, the lowest loss of all to {glue:text}`lowest_recovery:.2f`, where 1 is everything.

# %% [markdown]
# ## What was predicted
#
# **How clean a seed is** is one number, its *recovery*: the mean over features of the absolute cosine of the feature's
# latent with it. A feature without a live latent counts as 0. Only the true directions give 1. A trial on other seeds
# came before the thresholds were fixed in the ledger (it says so there).
#
# **What is a solution?** Without biases the encoder is no limit: the inputs of a family (parent alone, parent + each
# child) are linearly independent, so it can give every latent any activation on each of them. A solution is a table of
# who fires where, with the best decoders for it. At penalty 0 each is an eigenvalue problem. A standard SAE with $k$
# live latents loses what rank $k$ leaves of the second moment {cite:p}`eckart1936approximation`. In a Matryoshka SAE
# of widths $(1, n+1)$ whose first latent fires everywhere, every later latent *completes* an input in the outer
# prefix. A completed input weighs $\beta$ in the first latent's second moment, another $1 + \beta$, and the loss is
#
# $$ \operatorname{tr} M - \lambda_{\max}(M), \qquad
# M = \sum_s p_s\, (1 + \beta - [s \text{ completed}])\, x_s x_s^\top . $$ (basin-loss)
#
# In the clean solution, *parent first*, each child's latent completes its own child. There is a way to a lower loss.
# Two children's latents whose decoders point almost opposite ways can fire together on the parent alone, loudly. All
# but a small rest of what they write cancels, and that rest is just what the first latent leaves over there. The louder
# they are, the lower the loss: it falls toward a limit that no SAE attains, {glue:text}`limit:.4f` in this run, where
# parent first costs {glue:text}`clean_loss:.4f`. Where the limit is the smaller one, **a lower loss than that of the
# clean solution exists**, and the claim fails once a seed finds it.
#
# ## Setup
#
# The three-feature hierarchy as in {doc}`03_matryoshka_inherits`. A small penalty makes solutions isolated. Without it
# some directions are flat: a child's latent may fire on a sibling at no cost. Penalty 0, where the theory is exact,
# stands beside it.

# %% tags=["parameters"]
parent_probability = 0.3  # probability that the parent fires: a number from 1e-06 to 1
child_probability = 0.4  # probability of each child given the parent: a number from 1e-06 to 1
n_children = 2  # number of mutually exclusive children: a whole number from 2 to 12
inner_weight = 1.0  # weight of the inner prefix in the loss (the outer one has weight 1): a number from 0.001 to 1000
l1 = 0.03  # weight of the L1 penalty of the main runs: a number from 0 to 10
d_model = 20  # dimension of the input, with room for parent and children: a whole number from 3 to 1000
n_seeds = 192  # random seeds; the main run starts twelve times as many: a whole number from 1 to 10000
n_sweep_seeds = 16  # a quarter of the seeds at a point of a sweep, or dictionaries: a whole number from 1 to 10000
seed = 6000  # number of the first seed: a whole number from 0 to 1000000000
start_noise = 0.5  # noise of the starts near the truth, relative to the length of a feature: a number from 0 to 10
n_steps = 2000  # training steps: a whole number from 1 to 1000000
batch_size = 200  # inputs in a batch, in the sampled runs: a whole number from 1 to 1000000
n_grid = 9  # sweeps of penalty, learning rate and start have half as many points: a whole number from 3 to 1000

# %% tags=["hide-input"]
from IPython.display import HTML

from matryoshka_mixing import claims, metrics, notebook
from matryoshka_mixing.chapters import basins as chapter

p = notebook.begin(globals())

# %%
toy = chapter.Toy.of(p)

# %% [markdown]
# A seed draws everything: the dictionary and the start (why that matters: {doc}`09_basins_details`). The main run:
# {glue:text}`n_basin_seeds` random seeds (unit encoder directions, the decoder a tenth of them) for the Matryoshka SAE
# with the penalty. A quarter of them for it without the penalty and for the standard SAE with and without; a sixth
# with a decoder bias; and the reference, started near the truth.

# %%
runs = chapter.main_runs(toy)
main_name, free_name, plain_name, plain_free_name = runs.arms
main, free, plain, plain_free = runs.arms.values()
print(runs.report())

# %% tags=["remove-cell"]
best = chapter.kept_recovery(runs)
claims.glue(n_basin_seeds=len(main.loss))
claims.glue(n_solutions=len(runs.solutions[main_name]))
claims.glue(mean_recovery=float(main.recovery.mean()), best_of_8=best[main_name].at(8))
claims.glue(lowest_recovery=float(main.recovery[main.lowest]))

# %% [markdown]
# ## Every solution
#
# Two seeds found the same solution if they have the same loss, as many live latents in each prefix, and every prefix
# the same squared error on every input (to 1% of the longest input's square). Swapped siblings and swapped latents
# then count as one, and so do seeds along a flat direction. Seeds with dead latents are kept: partial death is a
# solution of its own. So are seeds that have not converged.

# %% tags=["remove-cell"]
drawn = chapter.shown(runs.solutions[main_name])
claims.glue(shown_matryoshka=len(drawn), share_parent_first=main.share("parent first"))
others = ~plain.reading.all_live[plain.kind != chapter.OUTCOMES.index("absorbed")]
claims.glue(n_solutions_standard=len(runs.solutions[plain_name]))
claims.glue(share_absorbed=plain.share("absorbed"), share_dead=float(others.double().mean()))

# %% tags=["hide-input"] mystnb={"figure": {"caption": "The {glue:text}`shown_matryoshka` most frequent of the {glue:text}`n_solutions` solutions of the Matryoshka SAE, lowest loss first: decoder cosines of the first seed in each, grey where the latent is dead. {glue:text}`share_parent_first:.0%` of seeds end parent first.", "name": "fig-basins-matryoshka"}, "image": {"alt": "Small heat maps of decoder cosines, ordered by loss. Only few have no grey row, and the frequent ones among these differ in what the later latents hold. Towards the end the first latent is dead."}}
figure = chapter.draw_solutions(main, runs.solutions[main_name], toy.tree.names)

# %% tags=["hide-input"] mystnb={"figure": {"caption": "The same for the standard SAE ({glue:text}`n_solutions_standard` solutions): {glue:text}`share_absorbed:.0%` of seeds absorb, and of the others at least one latent is dead in {glue:text}`share_dead:.0%`.", "name": "fig-basins-standard"}, "image": {"alt": "Small heat maps, ordered by loss. The first has no grey row and is absorbed: two latents hold parent and child in equal parts, the third the parent alone. The others have more and more grey rows."}}
figure = chapter.draw_solutions(plain, runs.solutions[plain_name], toy.tree.names)

# %% [markdown]
# What each Matryoshka solution of at least half a percent of the seeds does, with the three mixings (means over pairs,
# and over its seeds).

# %%
HTML(chapter.solutions_table(toy, main, runs.solutions[main_name]))

# %% [markdown]
# ## Is the lowest loss the cleanest?
#
# {numref}`fig-basins-recovery` holds every solution, by its loss and by how much of the truth it recovers.

# %% tags=["hide-input", "decisive"] mystnb={"figure": {"caption": "Every solution over loss and recovery; areas are shares of the seeds, bars the range of recovery where flat directions leave it open. Ticks: losses that theory names (at penalty 0 all of {eq}`basin-loss`; with the penalty the absorbed one). Loss and recovery go together over most seeds (rank correlation {glue:text}`correlation:.2f` for the Matryoshka SAE with the penalty), but at the low end they need not: the seed of its lowest loss recovers {glue:text}`gap:.3f` less than the best.", "name": "fig-basins-recovery"}, "image": {"alt": "Four panels of circles falling from low loss and high recovery to high loss and low recovery. In the Matryoshka panels the leftmost, small circle lies below the next one, which carries the star of the start near the truth. In the last panel a long vertical bar stands at loss zero."}}
figure = chapter.loss_and_recovery(chapter.circles(toy, runs))

# %% tags=["remove-cell"]
claims.glue(correlation=main.correlation, gap=main.gap)

# %% [markdown]
# Theory names the solutions at penalty 0. Here they are with what training found (a solution counts as named if its
# loss agrees to 1e-4 of $E\|x\|^2$):

# %%
named = {
    "Matryoshka": chapter.named(free, toy.named_losses["Matryoshka"], toy.states.power),
    "standard": chapter.named(plain_free, toy.named_losses["standard"], toy.states.power),
}
HTML(chapter.named_table(named))

# %% tags=["remove-cell"]
limit = toy.named_losses["Matryoshka"]["latents that cancel (a limit)"]
clean_loss = toy.named_losses["Matryoshka"]["parent first, every child completed"]
below = free.below(clean_loss, toy.states.power)
below_main = main.below(runs.reference(main_name), toy.states.power)
claims.glue(below_share=float(below.double().mean()), limit=limit, clean_loss=clean_loss)
claims.glue(n_below_main=int(below_main.sum()))

# %% [markdown]
# Between parent first, {glue:text}`clean_loss:.4f`, and the limit of latents that cancel, {glue:text}`limit:.4f`, lie
# {glue:text}`below_share:.1%` of the seeds. They are still on their way when training stops, with ever louder latents.
#
# A penalty makes loud latents dear and stops them on the way: with it {glue:text}`n_below_main` of
# {glue:text}`n_basin_seeds` seeds end below the loss of the reference. Recovery is lenient with them: a latent that
# points away from a child counts as much as one that points toward it.
#
# ## Best of k
#
# Train $k$ random seeds, keep the one of lowest loss: what to expect of it? Over all ways to draw $k$ of the $N$ seeds
# the answer is exact, since the seed of rank $i$ is kept with probability $\binom{N-1-i}{k-1} / \binom{N}{k}$ (equal
# losses share).

# %%
kept = chapter.kept_chances(toy, runs)

# %% tags=["hide-input"] mystnb={"figure": {"caption": "The run of lowest loss among k. Top: its expected recovery. For the Matryoshka SAE with the penalty it rises to {glue:text}`peak_recovery:.2f` at k = {glue:text}`peak_k` and then falls. Bottom: chance that the kept Matryoshka SAE (with the penalty) ends parent first, that no latent is dead, and that its loss is below that of the reference.", "name": "fig-basins-best-of"}, "image": {"alt": "Top: curves over k on a logarithmic axis. Most rise steeply to about k = 8. Those of the Matryoshka SAE then sink again. That of the standard SAE with a decoder bias sinks at once. Bottom: no dead latent rises to one; parent first rises, then sinks as a lower loss takes over."}}
figure = chapter.best_of_curves({"expected recovery": best, "chance": kept})

# %% tags=["remove-cell"]
curve, biased = best[main_name], best["standard, decoder bias"]
claims.glue(peak_recovery=float(curve.values.max()), peak_k=curve.peak)
claims.glue(last_k=curve.counts[-1])
claims.glue(biased_one=biased.at(1), biased_eight=biased.at(8))
claims.glue(live_8=kept["no latent dead"].at(8))
claims.glue(below_last=float(kept["loss below the reference"].values[-1]))

# %% [markdown]
# ## Does it hold up?
#
# {doc}`09_basins_details` counts kinds of outcome under other widths, penalties, learning rates, biases and
# dictionaries, and says why so many latents are {term}`dead <live>` from the start. Extra latents and a decoder bias
# save latents; the dictionary moves shares under Adam.

# %% [markdown] tags=["details"]
# ## What moves the shares
#
# Kinds of outcome instead of solutions, since a knob changes the losses. *Parent first*: every feature's latent fires
# where its feature does, and nowhere else (siblings aside). *With strays*: as before, but a latent fires elsewhere
# too, such as a cancelling pair. *Absorbed*: on at least half of the inputs with a child the parent's latent is silent
# and another writes the parent. *Child missing*: otherwise a feature lacks such a latent. *Too few live*: fewer live
# latents than features.
# *First prefix dead*: in a standard SAE, all are.
#
# First the number of latents and the penalty. Extra latents join the outer prefix; all numbers train in one call,
# since latents beyond the last prefix that weighs anything are never trained.

# %% tags=["details"]
by_extra, by_penalty = chapter.sweep_extra(toy), chapter.sweep_penalty(toy)

# %% tags=["hide-input", "details"] mystnb={"figure": {"caption": "Shares against the number of extra latents (top) and the penalty (bottom); {glue:text}`n_sweep` random seeds a bar, the same for all. With extra latents too few are live in {glue:text}`few_wide:.0%` of Matryoshka seeds instead of {glue:text}`few_narrow:.0%`; the first prefix stays dead as often, since no extra latent joins it.", "name": "fig-basins-extra"}, "image": {"alt": "Four panels of stacked bars. With extra latents the share of too few live shrinks to almost nothing in both SAEs, in favour of parent first in the Matryoshka and absorbed in the standard SAE; the share with a dead first prefix stays. Over the penalty the bars hardly change, but for the standard SAE at penalty zero."}}
figure = chapter.stacked_shares(by_extra.bars() | by_penalty.bars(": penalty"))

# %% tags=["remove-cell", "details"]
narrow, *_, wide = by_extra.matryoshka
claims.glue(n_sweep=len(narrow.loss), most_extra=chapter.EXTRAS[-1])
claims.glue(few_narrow=narrow.share("too few live"), few_wide=wide.share("too few live"))
claims.glue(dead_wide=wide.share("first prefix dead"))

# %% [markdown] tags=["details"]
# Then the learning rate, and the norm of the decoder at the start (that of the encoder is 1): shares of the Matryoshka
# SAE's seeds. A rate that is too high costs latents, presumably because long steps push them below zero on every input.

# %% tags=["details"]
by_rate, by_norm = chapter.sweep_rate(toy), chapter.sweep_norm(toy)
chapter.sweep_table(by_rate, by_norm)

# %% [markdown] tags=["details"]
# Last the biases, which change the shapes (a call for each), and sampled batches of {glue:text}`batch_size` inputs.

# %% tags=["details"]
by_bias = chapter.sweep_biases(toy, runs)

# %% tags=["hide-input", "details"] mystnb={"figure": {"caption": "Shares by trained biases, and with sampled batches (no biases). A decoder bias moves the inputs, and a latent that was silent on all of them can come to life: the first prefix is dead in {glue:text}`dead_bias:.0%` of Matryoshka seeds instead of {glue:text}`dead_bare:.0%`. Many then carry the parent in the bias and take it away where it is absent (complements). Sampling moves no Matryoshka share by more than {glue:text}`sampled_shift:.3f`.", "name": "fig-basins-bias"}, "image": {"alt": "Two panels of stacked bars, Matryoshka and standard. Encoder bias alone and sampled batches look like no biases. With a decoder bias few seeds have too few live latents; in the Matryoshka SAE a missing child is then the most frequent kind, in the standard one parent first and absorbed share the seeds."}}
figure = chapter.stacked_shares(by_bias.bars())

# %% tags=["remove-cell", "details"]
biased = runs.biased["Matryoshka, decoder bias"]
claims.glue(batch_size=p.batch_size)
claims.glue(dead_bare=main.share("first prefix dead"), dead_bias=biased.share("first prefix dead"))
claims.glue(sampled_shift=chapter.sampled_shift(by_bias))

# %% [markdown] tags=["details"]
# **The coordinates.** Turn inputs, dictionary and start together, and nothing about the problem has changed. But Adam
# scales the step of every coordinate by itself, so it sees the axes. Gradient descent does not. To check, starts are
# turned along with each of {glue:text}`n_dictionaries` dictionaries. Under gradient descent the same start ends in the
# same solution (losses agree to {glue:text}`spread_descent`). Under Adam {glue:text}`same_adam:.0%` of the starts end
# at the same loss on all.
#
# Does that move the shares? The table has {glue:text}`n_each` random starts on each dictionary, no start used twice.
# Shares of so few starts vary by chance alone. What they vary by beyond that is the dictionary's part of their
# variance; a $\chi^2$ test asks whether there is any. Of *with strays* it is {glue:text}`part_adam` under Adam and
# {glue:text}`part_descent` under gradient descent.

# %% tags=["details"]
spread = chapter.turned_spread(toy)
kinds = chapter.kinds_by_dictionary(toy)

# %% tags=["remove-cell", "details"]
strays = "with strays"
claims.glue(n_dictionaries=p.n_sweep_seeds, n_each=p.n_seeds)
same = metrics.same_loss(spread["Adam"], 0.0, toy.states.power)
claims.glue(same_adam=float(same.double().mean()))
claims.glue(spread_descent=claims.number(float(spread["gradient descent"].max())))
table = chapter.dictionary_table(kinds)
part = table["the dictionary's part"]
claims.glue(part_adam=part[f"Adam: {strays}"])
claims.glue(part_descent=part[f"gradient descent: {strays}"])

# %% tags=["hide-input", "details"] mystnb={"code_prompt_show": "Code: show the table"}
table

# %% [markdown] tags=["details"]
# So a share measured on a single dictionary is a share of that dictionary, at least of a kind as delicate as latents
# that cancel. With a dictionary for every seed the shares of this chapter are means over dictionaries.

# %% [markdown] tags=["details"]
# ## Why so many latents are dead
#
# Without biases a latent that is negative on every input never gets a gradient. For a random direction the chance is a
# solid angle,
#
# $$ \int_0^{1/2} (1 - u)^n \, du = \frac{1 - 2^{-(n+1)}}{n + 1} , $$ (starts-dead)
#
# which is $7/24$ for two children. Initialisation alone costs most seeds a latent. The equation gives
# {glue:text}`dead_theory:.3f` for a random latent, and {glue:text}`dead_start:.3f` are dead at the start. Of those that
# are dead at the end {glue:text}`dead_before:.0%` were dead before the first step.

# %% tags=["details"]
starts_live = chapter.live_at_start(toy)
dead_theory = chapter.starts_dead(p.n_children)

# %% tags=["remove-cell", "details"]
starts_dead, dead = ~starts_live, ~main.reading.live
claims.glue(dead_theory=dead_theory, dead_start=float(starts_dead.double().mean()))
claims.glue(dead_before=float(starts_dead[dead].double().mean()))
claims.glue(live_end=float(main.reading.all_live.double().mean()))

# %% [markdown]
# ## What follows
#
# - **Run a handful, keep the lowest loss, and look at it.** Eight runs raise the chance of no dead latent from
#   {glue:text}`live_end:.0%` to {glue:text}`live_8:.0%`. Beyond k = {glue:text}`peak_k` nothing more is gained.
# - **Do not search for the lowest loss.** Among enough runs it goes to solutions in which latents cancel: of
#   {glue:text}`last_k` runs, the one that is kept lies below the reference with a chance of
#   {glue:text}`below_last:.0%`. Loss cannot tell clean from unclean where the objective itself prefers the unclean.
# - **Absorption can be the lower loss.** A standard SAE with a decoder bias recovers {glue:text}`biased_one:.2f` on
#   average and {glue:text}`biased_eight:.2f` as the best of eight: it costs less than the truth.
# - **What dies in the outer prefix is cured by extra latents**, in a single run: with {glue:text}`most_extra`, too few
#   are live in {glue:text}`few_wide:.0%`. They do nothing for a first prefix of a single latent (dead in
#   {glue:text}`dead_wide:.0%`). A decoder bias does, at the price of complements.
# - **A learning rate that is too high costs latents** ({doc}`09_basins_details`).
#
# ## The verdict
#
# All thresholds come from the ledger, `book/claims.yml`. Two controls can stop it: independent features with a decoder
# bias, where the lowest loss must be the cleanest, and a blind choice, which must not be.

# %%
control = chapter.control(toy)
verdict = claims.judge(claims.load()["lowest-loss-cleanest"], chapter.measured(runs, control))
verdict

# %% tags=["remove-cell"]
claims.glue(lowest_loss_cleanest=verdict)

# %% [markdown]
# ## What would change our mind
#
# A lowest loss that is also the cleanest, here and without the penalty; a block of eight in which the lowest loss is
# usually not the cleanest; a measure of cleanness under which the cancelling pair is cleaner than parent first
# (recovery is one measure; the table above shows the mixings). All of it is for three features: with more features
# more runs lose something, and the best of few may be far from the best there is.
#
# ## Rerun it
#
# ```bash
# papermill notebooks/09_basins.ipynb out.ipynb -p n_seeds 64 -p l1 0.1
# ```
