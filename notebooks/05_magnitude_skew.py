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
# Matryoshka. The child is learned first in {glue:text}`n_child_first` of {glue:text}`n_fresh_live` live fresh seeds,
# and by the margin that the ledger asks for in {glue:text}`n_child_well_first`, which is
# {glue:text}`child_first_outcome`. Where the parent is absorbed follows from a closed form: in the plane of loudness
# and probability {glue:text}`share_above` of live random SAEs absorb beyond the theory's lines and
# {glue:text}`share_below` before them. Absorbed is said of the decoders: in {glue:text}`n_still_fires` of the
# {glue:text}`n_live` seeds the child's latent still fires wherever the parent does.

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
# SAE. A trial run on other seeds came before them. Three changes came after the first run, and no threshold moved: the
# criterion from near the truth is judged at a tenth of the learning rate, "learned first" on fresh seeds, and every
# seed has directions of its own, where all had the same.
#
# ## Setup

# %% tags=["parameters"]
parent_probability = 0.3  # probability that the parent fires: a number from 1e-06 to 1
child_probability = 0.5  # chance of the child given the parent: a number from 1e-06 to 0.999
parent_magnitude = 2.0  # activation of the parent when it fires: a number from 0.001 to 1000
child_magnitude = 10.0  # activation of the child when it fires: a number from 0.001 to 1000
inner_weight = 1.0  # weight of the inner prefix in the loss (the outer one has weight 1): a number from 0.001 to 1000
l1 = 0.2  # weight of the L1 penalty, in the runs that have one: a number from 0 to 10
d_model = 20  # dimension of the input: a whole number from 20 to 1000
n_seeds = 192  # random seeds for each experiment: a whole number from 1 to 10000
n_sweep_seeds = 16  # random seeds at each point of a sweep: a whole number from 1 to 10000
seed = 2000  # number of the first seed: a whole number from 0 to 1000000000
start_noise = 0.5  # noise of the starts near the truth, relative to the length of a feature: a number from 0 to 10
n_steps = 2000  # training steps: a whole number from 1 to 1000000
batch_size = 200  # inputs in a batch, in the sampled runs: a whole number from 1 to 1000000
n_grid = 9  # points on the axis of each sweep: a whole number from 3 to 1000

# %% tags=["hide-input"]
import numpy as np

from matryoshka_mixing import claims, notebook, theory
from matryoshka_mixing.chapters import magnitude_skew as chapter

p = notebook.begin(globals())

# %%
setup = chapter.Setup(p)

# %% [markdown]
# One parent and one child with the thread's probabilities and magnitudes; beside it, as the control, the same with
# both magnitudes {glue:text}`parent_magnitude:.0f`. Four SAEs of two latents: Matryoshka (widths 1 and 2) and
# standard, each without a penalty and with an L1 penalty of {glue:text}`l1:.2f`. (Relative to the inputs that is
# about the penalty of {doc}`01_standard_sae_absorbs`.) A seed draws all that is random: the directions of the features,
# the start, the batches. Two kinds of start: *random*, and *near the truth* with the parent first, with noise of
# {glue:text}`start_noise:.2f` times a feature's length ({glue:text}`n_near` seeds).

# %%
runs = chapter.main_runs(setup)
print(chapter.report(runs))

# %% [markdown]
# ## The decisive figures
#
# {numref}`fig-skew-decoder` and {numref}`fig-skew-acts` show what the latents hold and when they fire, in the
# solution that most live random seeds reached. {numref}`fig-skew-shares` counts seeds. *Absorbed* means here that
# the latent that matches the parent best is silent on the sum. (A latent that matches it with a negative sign takes
# the parent away, so firing on the sum counts as silence.) The match goes by decoders.

# %% tags=["hide-input"]
loud, control = (runs["Matryoshka", "random", case] for case in ("loud", "equal"))
shown = {
    "Matryoshka, loud child": loud,
    "standard + penalty, loud child": runs["standard, penalty", "random", "loud"],
    "Matryoshka, equal": control,
    "standard + penalty, equal": runs["standard, penalty", "random", "equal"],
}
moment = theory.second_moment(setup.cases["loud"])
size_parent, size_child = moment.diagonal().tolist()
eigen_parent, eigen_child = chapter.awaited_eigenvalues(moment).tolist()
claims.glue(parent_magnitude=p.parent_magnitude, l1=p.l1, start_noise=p.start_noise)
claims.glue(n_seeds=p.n_seeds, n_near=max(1, p.n_seeds // 6))
claims.glue(size_parent=size_parent, eigen_parent=eigen_parent)
claims.glue(size_child=size_child, eigen_child=eigen_child)
claims.glue(n_still_fires=int((loud.first_on_both & loud.absorbs).sum()))

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Decoder cosines with the true features, in the most frequent live solution of random seeds. With the loud child the Matryoshka's first latent has a median cosine of {glue:text}`child_cosine` with the child and {glue:text}`parent_cosine` with the parent (median over live seeds).", "name": "fig-skew-decoder"}, "image": {"alt": "Four heat maps of two latents by two features. With a loud child the first Matryoshka latent is almost the child with a small part of the parent; with equal magnitudes it is mostly the parent."}}
claims.glue(child_cosine=chapter.told(loud.first_with("child").median(), ".3f"))
claims.glue(parent_cosine=chapter.told(loud.first_with("parent").median(), ".3f"))
figure = chapter.draw_typical(shown, "cosine")

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Activations of the same SAEs on every state. With the loud child the latent that matches the parent is silent on the sum in {glue:text}`n_absorbed` of {glue:text}`n_live` live random seeds of the Matryoshka ({glue:text}`n_seeds` started).", "name": "fig-skew-acts"}, "image": {"alt": "Four heat maps of activation, three states by two latents. With the loud child one latent fires on parent plus child and the other on the parent alone."}}
claims.glue(n_live=int(loud.live.sum()), n_absorbed=int((loud.live & loud.absorbs).sum()))
figure = chapter.draw_typical(shown, "activation")

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Share of live seeds that absorb the parent (grey: no live seed). From random starts with equal magnitudes, {glue:text}`rate_equal` absorb in the Matryoshka and {glue:text}`rate_standard_equal` in the standard SAE with the penalty; with the loud child and no penalty, {glue:text}`rate_loud` and {glue:text}`rate_standard_free`.", "name": "fig-skew-shares"}, "image": {"alt": "A heat map of shares: four SAEs by two cases and two kinds of start."}}
rates = {
    "loud": loud,
    "equal": control,
    "standard_free": runs["standard", "random", "loud"],
    "standard_near": runs["standard", "near the truth", "loud"],
    "standard_equal": runs["standard, penalty", "random", "equal"],
}
claims.glue(**{f"rate_{name}": chapter.told(some.share) for name, some in rates.items()})
figure = chapter.draw_shares(runs)

# %% [markdown]
# **The standard SAE** absorbs because its penalty pays for it, loud child or not ({doc}`01_standard_sae_absorbs`).
# Without a penalty many solutions are perfect and nothing decides between them: with the loud child
# {glue:text}`rate_standard_free` of live seeds absorb from random starts, and
# {glue:text}`rate_standard_near` from near the truth.
#
# **A matter of decoders.** In {glue:text}`n_still_fires` of the {glue:text}`n_live` live random seeds with the loud
# child the first latent fires on both states, weakly on the parent alone, and is called the child's, since its decoder
# is. By its firing alone it would pass for the parent's latent. So the label changes where the decoder comes nearer to
# the child than to the
# parent, while the solution changes smoothly: {numref}`fig-skew-first` shows the cosine itself.
#
# **From near the truth** the Matryoshka's first latent starts as the parent's. It ends with a median cosine of
# {glue:text}`near_child:.3f` with the loud child. At the usual learning rate both latents then fire in
# {glue:text}`n_near_live` of {glue:text}`n_near` seeds: the child's own latent has little left to do, and dies. At a
# tenth of the rate both fire in {glue:text}`n_gentle_live` of {glue:text}`n_seeds`, and of these
# {glue:text}`n_gentle_absorbed` have absorbed the parent. The first latent holds the sum there, and the second takes
# the parent away again where the child fires. The ledger's criterion is judged at a tenth of the rate, which was
# decided after the first run.

# %%
gentle = chapter.gentle_run(setup)

# %% tags=["remove-cell"]
near = runs["Matryoshka", "near the truth", "loud"]
near_child = near.decoder[:, 0, 1].median().item()
claims.glue(near_child=near_child, n_near_live=int(near.live.sum()))
claims.glue(n_gentle_live=int(gentle.live.sum()))
claims.glue(n_gentle_absorbed=int((gentle.absorbs & gentle.live).sum()))

# %% [markdown]
# **Sampled batches** of {glue:text}`batch_size` inputs, for the Matryoshka without a penalty and the standard SAE
# with one. From random starts {glue:text}`sampled_matryoshka` and {glue:text}`sampled_standard` live seeds absorb;
# from near the truth, at a tenth of the learning rate, {glue:text}`sampled_matryoshka_near` and
# {glue:text}`sampled_standard_near`. The median cosine of the Matryoshka's first latent with the child moves by
# {glue:text}`sampled_gap` from random starts.

# %%
sampled = chapter.sampled_runs(setup)

# %% tags=["hide-input"]
sampled_child = sampled["Matryoshka", "random"].first_with("child").median()
sampled_gap = abs(float(sampled_child - loud.first_with("child").median()))
claims.glue(sampled_gap=chapter.told(sampled_gap, ""), batch_size=p.batch_size)
claims.glue(sampled_matryoshka=sampled["Matryoshka", "random"].tally)
claims.glue(sampled_standard=sampled["standard, penalty", "random"].tally)
claims.glue(sampled_matryoshka_near=sampled["Matryoshka", "near the truth"].tally)
claims.glue(sampled_standard_near=sampled["standard, penalty", "near the truth"].tally)

# %% [markdown]
# ## Which is learned first?
#
# A latent that fires on the sum is pulled toward the *sum*, not toward a feature: parent and child are one direction
# there.
#
# To ask which feature is *learned* first, take the share of its expected square that the SAE reconstructs, and the
# first step at which that share reaches 90% ({numref}`fig-skew-learned`). In the main runs the child comes at least
# 1.5 times as early in {glue:text}`n_main_well_first` of {glue:text}`n_live` live seeds. The first run of this chapter
# left it at that, too near half of the seeds to decide. So the criterion is judged on {glue:text}`n_fresh` fresh
# seeds, trained for the first {glue:text}`n_early` steps of the same schedule. Each seed has directions of its own:
# Adam treats every coordinate by itself, so a share of seeds on one dictionary would be a share of that dictionary.

# %%
fresh, alone = chapter.fresh_run(setup)
share = chapter.learned(fresh, setup.cases["loud"])
child_lead = chapter.leads(chapter.when_learned(share, setup.beginning.snapshots))

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Share of each feature's expected square that is reconstructed, over training: medians over live random seeds of the main runs, the middle half shaded. The median step at which 90% is reached is {glue:text}`when_child` for the loud child and {glue:text}`when_parent` for its parent.", "name": "fig-skew-learned"}, "image": {"alt": "Panels of two curves each. With a loud child the child's share rises before the parent's; with equal magnitudes it does not."}}
shares = chapter.learned_in_main(setup, runs)
when = {key: chapter.when_learned(some, setup.steps) for key, some in shares.items()}
loud_lead, control_lead = (chapter.leads(when["Matryoshka", case]) for case in setup.cases)
when_parent, when_child = (chapter.told(some.median(), ".0f") for some in when["Matryoshka", "loud"].T)
first, late = child_lead >= 1.5, (child_lead < 1.5) & fresh.absorbs[fresh.live]
alone = alone[fresh.live]
claims.glue(n_main_well_first=int((loud_lead >= 1.5).sum()))
claims.glue(n_control_live=len(control_lead), n_control_first=int((control_lead > 1).sum()))
claims.glue(n_fresh=len(fresh.live), n_early=setup.beginning.steps, n_fresh_live=len(child_lead))
claims.glue(n_child_first=int((child_lead > 1).sum()), n_child_well_first=int(first.sum()))
claims.glue(n_not_first=int(late.sum()), n_alone_late=int(alone[late].sum()))
claims.glue(n_alone_first=int(alone[first].sum()))
claims.glue(when_parent=when_parent, when_child=when_child)
figure = chapter.draw_learned(shares, setup.steps)

# %% [markdown]
# Of {glue:text}`n_fresh_live` live fresh seeds the child comes first in {glue:text}`n_child_first`, and at least 1.5
# times as early in {glue:text}`n_child_well_first`. The 95% interval of that share runs from
# {glue:text}`child_first_low` to {glue:text}`child_first_high`: {glue:text}`child_first_outcome`. With equal
# magnitudes the child comes first in {glue:text}`n_control_first` of {glue:text}`n_control_live` (main runs).
#
# **Is being first what absorption needs?** No: {glue:text}`n_not_first` of the seeds that absorb did not have the
# child well first. What sets them apart is the start. In {glue:text}`n_alone_late` of the {glue:text}`n_not_first`
# some latent fired on the parent alone, and on nothing else, before any training; of the
# {glue:text}`n_child_well_first` with the child well first that holds for {glue:text}`n_alone_first`. Such a latent
# learns its state while the other learns the sum.
#
# **What predicts the time?** The thread's heuristic takes a feature's expected square: {glue:text}`size_child:.1f` for
# the child and {glue:text}`size_parent:.1f` for the parent. Gradient descent from a small start learns eigenvectors
# of the second moment instead, the largest eigenvalue first (Saxe et al. {cite:p}`saxe2014exact` solve linear
# networks). So a feature has to wait for the last eigenvector that it needs for its 90%, here those of eigenvalues
# {glue:text}`eigen_child:.1f` and {glue:text}`eigen_parent:.2f`. Both numbers are held against the same times, in
# standard SAEs without a penalty, for many ratios and probabilities: by plain gradient descent, and by Adam, which
# equalises steps. The nearer a rank correlation is to -1, the better the prediction:
#
# | rank correlation of the step at 90% with | gradient descent | Adam |
# | --- | --- | --- |
# | the expected square | {glue:text}`rank_gd_square` | {glue:text}`rank_adam_square` |
# | the awaited eigenvalue | {glue:text}`rank_gd_eigen` | {glue:text}`rank_adam_eigen` |
#
# The heuristic can miss where a feature is seldom alone: a quiet parent that nearly always fires with its loud child is
# learned with it, whatever its own square.

# %%
laws = chapter.laws(setup)

# %% tags=["remove-cell"]
names = ("gd_square", "gd_eigen", "adam_square", "adam_eigen")
for name, rank in zip(names, laws.values(), strict=True):
    claims.glue(**{f"rank_{name}": chapter.told(rank, ".2f")})

# %% [markdown]
# ## The phase diagram
#
# Every cell of {numref}`fig-skew-phase` is its own toy model. All have the power of the thread's case, so only $q$ and
# $r$ differ. The lines are the three turning points; nothing is fitted. From near the truth the learning rate is a
# tenth of the usual one, so that the loud child's own latent lives.

# %%
phase = chapter.phase_runs(setup)

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Share of live Matryoshka SAEs that absorb the parent; grey cells have none. Random starts: {glue:text}`share_below` absorb left of both Matryoshka lines, {glue:text}`share_between` between them and {glue:text}`share_above` right of both. Near the truth: {glue:text}`near_share_below`, {glue:text}`near_share_between` and {glue:text}`near_share_above`.", "name": "fig-skew-phase"}, "image": {"alt": "Two maps over magnitude ratio and child probability. To the right of the lines the parent is absorbed, to the left it is not. From near the truth the boundary is the rightmost line, and lies beyond it where the child is frequent; from random starts it is a band between the outer two; where the child is quietest no random seed is live."}}
*matryoshka, penalised = phase
shares = {title: chapter.share_map(phase[title]) for title in matryoshka}
figure = chapter.draw_maps(setup, shares, "share that absorbs")

# %% tags=["hide-input"] mystnb={"figure": {"caption": "What the first latent became, where it fires on both states: its decoder cosine with the child, from the parent (0) over a mixture to the child (1). Medians over seeds with both latents live; grey cells have none.", "name": "fig-skew-first"}, "image": {"alt": "Two maps of the cosine of the first latent with the child, rising smoothly from lower left to upper right, with the theory's lines along its middle."}}
firsts = {title: chapter.first_map(phase[title]) for title in matryoshka}
figure = chapter.draw_maps(setup, firsts, "first latent's cosine with the child")

# %% tags=["remove-cell"]
for prefix, title in zip(("share", "near_share"), matryoshka, strict=True):
    shares = chapter.region_shares(setup, phase[title])
    claims.glue(**{f"{prefix}_{name}": chapter.told(share, ".1%") for name, share in shares.items()})

# %% [markdown]
# **Where theory and experiment meet.** From near the truth the second latent starts as the child's, so it completes
# the sum, and the boundary should be the line of that solution. Random seeds split between the two solutions, so
# between their lines both outcomes should occur, and outside the lines one. The thread's line lies between them.
# The caption counts.
#
# **Where they part.** Right of both lines not every SAE from near the truth absorbs. Those that do not are still on
# their way: where the child is frequent, the first latent is close to the sum already, and the second has little left
# to write and learns it slowly. Among live SAEs that have converged, the shares right of both lines are
# {glue:text}`share_above_done` from random starts and {glue:text}`near_share_above_done` from near the truth, and left
# of both {glue:text}`share_below_done` and {glue:text}`near_share_below_done`. Of all SAEs
# {glue:text}`share_converged` and {glue:text}`near_share_converged` have converged, and in {glue:text}`share_live` and
# {glue:text}`near_share_live` both latents are alive.
#
# **The standard SAE** in the same plane has no first latent and no such line. Its penalty pays for absorption at
# every ratio, since on the sum one latent of the sum's length replaces two. For a quiet child the saving is small, and
# absorption slow.

# %% tags=["hide-input"] mystnb={"figure": {"caption": "The standard SAE with the penalty: share of live random seeds that absorb the parent; grey cells have none. Over all live ones {glue:text}`standard_share` absorb, over those that have converged ({glue:text}`standard_converged`) {glue:text}`standard_done`. Of the {glue:text}`n_standard_kept` converged others, {glue:text}`n_twins` have both latents on the sum and none for the parent alone. The lines are those of the Matryoshka, for comparison.", "name": "fig-skew-standard"}, "image": {"alt": "A map that is dark on both sides of the lines: the standard SAE with a penalty absorbs with and without a loud child. It is light where the child is quietest, and lighter where it is loud and frequent."}}
standard = phase[penalised]
done = standard.live & standard.converged
kept = done & ~standard.absorbs
twins = chapter.fires_only_on(standard.acts, chapter.SUM).all(-1)
claims.glue(standard_converged=chapter.told(standard.converged[standard.live].double().mean()))
claims.glue(standard_done=chapter.told(standard.absorbs[done].double().mean()))
claims.glue(standard_share=chapter.told(standard.share))
claims.glue(n_standard_kept=int(kept.sum()), n_twins=int((kept & twins).sum()))
figure = chapter.draw_maps(setup, {penalised: chapter.share_map(standard)}, "share that absorbs")

# %% [markdown]
# ## Does it survive in company, and with magnitudes that vary?
#
# In the post's tree of twenty features {cite:p}`nabeshima2024code`, with all of its magnitudes 1, one child of the
# first parent is raised to the thread's ratio (twenty latents, every prefix in the loss, no penalty, random starts,
# sampled batches of {glue:text}`batch_size`). In the pair, both magnitudes vary from input to input, normally and with
# a standard deviation of {glue:text}`spread:.1f` times the mean (clipped at 0): then the parent's latent can be of use
# on inputs that hold the child, where the parent is louder than the sum's latent expects. The table has the share of a
# child's inputs that leave its parent's latent silent, as a mean over live seeds.
#
# | | live seeds of {glue:text}`n_sweep_seeds` | loud child | other children |
# | --- | --- | --- | --- |
# | tree | {glue:text}`n_tree` | {glue:text}`tree_first` | {glue:text}`tree_others` |
# | tree, nothing raised | {glue:text}`n_tree_equal` | {glue:text}`tree_equal_first` | {glue:text}`tree_equal_others` |
# | pair, magnitudes vary | {glue:text}`n_varied` | {glue:text}`varied_first` | |
# | the same in the standard SAE with the penalty | {glue:text}`n_varied_standard` | {glue:text}`varied_standard_first` | |

# %%
company = chapter.company_runs(setup)

# %% tags=["remove-cell"]
claims.glue(n_sweep_seeds=p.n_sweep_seeds, spread=chapter.SPREAD)
for name, rates in company.items():
    key, (by_loud, by_others) = name.replace(", ", "_"), rates.mean(0).tolist()
    claims.glue(**{f"n_{key}": len(rates), f"{key}_first": chapter.told(by_loud)})
    claims.glue(**{f"{key}_others": chapter.told(by_others, ".1%")})

# %% [markdown]
# ## Do other prefixes help?
#
# The original code {cite:p}`nabeshima2024code` draws short prefixes more often. More weight on the inner prefix should
# change the solution's numbers, not its kind: with {glue:text}`heavy` times the weight {glue:text}`tally_heavy` live
# random seeds absorb in the thread's case. Two latents in the first prefix (widths 2 and 3) make that prefix a
# standard SAE of two latents, with its fate: {glue:text}`tally_two` seeds in which at least two latents fire absorb
# without a penalty and {glue:text}`tally_two_penalty` with one. A start with the order known, parent first, is the one
# above, near the truth.

# %%
options = chapter.order_runs(setup)

# %% tags=["remove-cell"]
claims.glue(heavy=chapter.HEAVY)
for name, some in options.items():
    claims.glue(**{f"tally_{name.replace(', ', '_')}": some.tally})

# %% tags=["hide-input"]
theory_gap, reached = chapter.theory_check(setup, runs)
claims.glue(theory_gap=chapter.told(theory_gap, ""))
for case in setup.cases:
    for name, count in reached[case].items():
        claims.glue(**{f"n_{case}_{name.replace(', ', '_')}": count})

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
# 1. Compare $q\,r^2$ with 1, not magnitudes alone: a child at {glue:text}`case_ratio:.3g` times its parent's
#    magnitude takes the first latent once it fires on more than {glue:text}`turn_low:.1%` to
#    {glue:text}`turn_high:.1%` of the parent's inputs, and a child no louder than its parent never does.
# 2. Past that boundary the Matryoshka loss does not protect: {glue:text}`share_above` of the live random SAEs
#    there absorb, and in the thread's case {glue:text}`tally_heavy` with {glue:text}`heavy` times the weight on the
#    inner prefix.
# 3. The damage is local: in the twenty-feature tree the loud child silences its parent's latent on
#    {glue:text}`tree_first` of its inputs, and the other children silence theirs on {glue:text}`tree_others`.
# 4. Magnitudes that vary make absorption partial: the parent's latent misses {glue:text}`varied_first` of the
#    child's inputs.
#
# ## The verdict
#
# All thresholds come from the ledger, `book/claims.yml`. A criterion over seeds is met when the 95% Wilson interval
# of the share that passes lies above the share asked for {cite:p}`wilson1927probable`.

# %% tags=["hide-input"]
penalised = runs["Matryoshka, penalty", "random", "loud"]
standard_loud = runs["standard, penalty", "random", "loud"]
every_converged = np.concatenate([some.converged for some in runs.values()])
measured = {
    "child_first": child_lead,
    "absorption_rate": loud.rates,
    "standard_absorption_rate": standard_loud.rates,
    "absorption_rate_near_truth": gentle.rates,
    "absorption_rate_with_penalty": penalised.rates,
    "child_cosine": loud.first_with("child"),
    "theory_gap": theory_gap,
    "sampled_gap": sampled_gap,
    "control_absorption": control.rates,
    "converged": float(every_converged.mean()),
}

# %%
started = dict.fromkeys(measured, p.n_seeds) | {"child_first": len(fresh.live)}
magnitude_skew = claims.judge(claims.load()["magnitude-skew"], measured, started)
magnitude_skew

# %% tags=["remove-cell"]
first_outcome = magnitude_skew.outcomes[0]
halves = {
    "met": "more than half",
    "failed": "less than half",
    "undecided": "too near half to call",
}
low, high = first_outcome.interval or (np.nan, np.nan)
claims.glue(magnitude_skew=magnitude_skew, child_first_outcome=halves[first_outcome.outcome])
claims.glue(child_first_low=chapter.told(low, ".1%"), child_first_high=chapter.told(high, ".1%"))
beta, ratio = p.inner_weight, setup.case_ratio
claims.glue(case_ratio=ratio, turn_low=chapter.skew_turn(ratio, beta, 1 + beta))
claims.glue(turn_high=chapter.skew_turn(ratio, 1 + beta, beta))

# %% [markdown]
# ## What would change our mind
#
# Live seeds whose parent's latent keeps firing beside the loud child; a boundary off the lines; absorption of a
# parent by a quiet child, or with equal magnitudes, in the Matryoshka. Each is a criterion above or a number of the
# phase diagram.
#
# ## Rerun it
#
# ```bash
# papermill notebooks/05_magnitude_skew.ipynb out.ipynb -p child_magnitude 3 -p child_probability 0.2
# ```
