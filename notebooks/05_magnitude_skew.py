# %% [markdown]
# # A loud child absorbs its parent
#
# **Claims.** The thread's first comment {cite:p}`chanind2024thread` gives a case and did not run it: a child much
# louder than its parent is learned first and {term}`absorbs <absorption>` it, Matryoshka or not; all is well as long as
# the parent is learned first.
#
# {glue:}`magnitude-skew`
#
# In short: loudness decides where the decoder points, the start decides what fires; who is learned first decides
# neither. From random starts the parent is absorbed in {glue:text}`rate_loud` of live seeds, in
# {glue:text}`slow_tally` where training is gentler and fewer latents die. From {term}`near the truth` it is in
# {glue:text}`gentle_tally` (a clean SAE: in none).

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
# where $w_1$ weighs the parent alone and $w_2$ the sum. The first latent is nearer to the child than to the parent when
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
# A turn is not yet absorption: where the second latent completes the *sum*, the first fires on all of the parent's
# inputs, however far it has turned. Where the second completes the parent *alone*, past the turn the parent's latent is
# the second one, silent beside the child.
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
from matryoshka_mixing import claims, notebook, theory
from matryoshka_mixing.chapters import magnitude_skew as chapter

p = notebook.begin(globals())

# %%
setup = chapter.Setup(p)

# %% [markdown]
# One parent and one child with the thread's probabilities and magnitudes; beside it, as the control, the same with
# both magnitudes {glue:text}`parent_magnitude:.0f`. Four SAEs of two latents: Matryoshka (widths 1 and 2) and
# standard, each without a penalty and with an L1 penalty of {glue:text}`l1:.2f`.
#
# A seed draws all that is random: the directions of the features, the start, the batches. Two kinds of start:
# *random*, and *near the truth* with the parent first, with noise of {glue:text}`start_noise:.2f` times a feature's
# length ({glue:text}`n_near` seeds).

# %%
runs = chapter.main_runs(setup)
print(chapter.report(runs))

# %% [markdown]
# ## When the latents fire, and what they hold
#
# {numref}`fig-skew-acts` and {numref}`fig-skew-decoder` show when the latents fire and what they hold, in the
# solution that most live random seeds reached. {numref}`fig-skew-shares` counts seeds. The parent is *absorbed* where
# its own latent is silent on the sum and another latent writes it there.

# %% tags=["hide-input"] mystnb={"code_prompt_show": "Code: pick the arms that are shown"}
loud, control = (runs["Matryoshka", "random", case] for case in ("loud", "equal"))
shown = {
    "Matryoshka, loud child": loud,
    "standard + penalty, loud child": runs["standard, penalty", "random", "loud"],
    "Matryoshka, equal": control,
    "standard + penalty, equal": runs["standard, penalty", "random", "equal"],
}
size_parent, size_child = theory.second_moment(setup.cases["loud"]).diagonal().tolist()
claims.glue(parent_magnitude=p.parent_magnitude, l1=p.l1, start_noise=p.start_noise)
claims.glue(n_near=max(1, p.n_seeds // 6), size_parent=size_parent, size_child=size_child)
claims.glue(n_live=int(loud.live.sum()), n_absorbed=int((loud.live & loud.absorbs).sum()))

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Activations on every state. With the loud child the parent's latent is silent on the sum in {glue:text}`n_absorbed` of {glue:text}`n_live` live random seeds of the Matryoshka.", "name": "fig-skew-acts"}, "image": {"alt": "Four heat maps of activation, three states by two latents. With the loud child one latent fires on parent plus child and the other on the parent alone."}}
figure = chapter.draw_typical(shown, "activation")

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Decoder cosines of the same SAEs with the true features. With the loud child the Matryoshka's first latent has a median cosine of {glue:text}`child_cosine` with the child and {glue:text}`parent_cosine` with the parent; a clean one has 0 and 1.", "name": "fig-skew-decoder"}, "image": {"alt": "Four heat maps of two latents by two features. With a loud child the first Matryoshka latent is almost the child with a small part of the parent; with equal magnitudes it is mostly the parent."}}
claims.glue(child_cosine=chapter.told(loud.first_with("child").median(), ".3f"))
claims.glue(parent_cosine=chapter.told(loud.first_with("parent").median(), ".3f"))
figure = chapter.draw_typical(shown, "cosine")

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Share of live seeds that absorb the parent (grey: no live seed). From random starts the Matryoshka absorbs in {glue:text}`rate_loud` with the loud child and in {glue:text}`rate_equal` with equal magnitudes.", "name": "fig-skew-shares"}, "image": {"alt": "A heat map of shares: four SAEs by two cases and two kinds of start."}}
claims.glue(rate_loud=chapter.told(loud.share), rate_equal=chapter.told(control.share))
claims.glue(rate_standard_free=chapter.told(runs["standard", "random", "loud"].share))
figure = chapter.draw_shares(runs)

# %% [markdown]
# **The standard SAE** absorbs because its penalty pays for it, loud child or not ({doc}`01_standard_sae_absorbs`).
# Without a penalty many solutions are perfect and nothing decides between them: with the loud child
# {glue:text}`rate_standard_free` of live random seeds absorb.
#
# **From near the truth** the Matryoshka's first latent starts as the parent's and keeps firing on all of the parent's
# inputs, the second with the child. But the first latent's decoder turns: it ends with a median cosine of
# {glue:text}`near_child` with the child and {glue:text}`near_parent` with the parent, and the second takes the parent
# away again where the child fires. So next to nothing is absorbed ({glue:text}`gentle_tally` live seeds are), and
# nothing is clean: it is mixing at its largest.
#
# (These runs have a tenth of the usual learning rate, at which both latents fire in only {glue:text}`n_near_live` of
# {glue:text}`n_near` such seeds, and {glue:text}`longer` times the steps.)
#
# **Training kills those that would not absorb.** In {glue:text}`n_firing` random seeds both latents fire before
# training; the usual rate leaves {glue:text}`n_live` of them alive.
#
# A tenth of it, with {glue:text}`slower` times the steps, leaves {glue:text}`n_slow`. There the parent escapes in
# {glue:text}`slow_spared`.

# %%
gentle = chapter.gentle_run(setup)
slow, slow_steps, n_firing = chapter.slow_run(setup)

# %% tags=["remove-cell"]
claims.glue(n_near_live=int(runs["Matryoshka", "near the truth", "loud"].live.sum()), gentle_tally=gentle.tally)
claims.glue(near_child=chapter.told(gentle.first_with("child").median(), ".3f"))
claims.glue(near_parent=chapter.told(gentle.first_with("parent").median(), ".3f"))
claims.glue(n_firing=n_firing, n_slow=int(slow.live.sum()), slow_tally=chapter.part(slow.rates >= chapter.ABSORBED))
claims.glue(slow_spared=chapter.part(slow.rates <= 0.1), slower=chapter.SLOWER, longer=chapter.LONGER)

# %% [markdown]
# ## Which is learned first?
#
# {glue:}`loud-child-first`
#
# {glue:}`first-to-absorb`
#
# A feature is *learned* at the first step at which the SAE reconstructs 90% of its expected square
# ({numref}`fig-skew-learned`). By any margin: the child comes first in {glue:text}`child_first` live fresh seeds
# under Adam, {glue:text}`n_tied` are ties. Under gradient descent, which does not see the axes and so not the
# dictionary, it does in {glue:text}`descent_first`.
#
# **Is being first what absorption needs?** Of the seeds in which the child is *not* first, the parent is kept in
# {glue:text}`late_kept` under Adam, in {glue:text}`descent_kept` under gradient descent, and in
# {glue:text}`slow_kept` at a tenth of Adam's rate.
#
# Which latent fires on what is settled by the start: a latent that fires on the parent alone, before any training, is
# there in {glue:text}`alone_late` of these seeds, and in {glue:text}`alone_first` of the others. It learns its state
# while the other latent learns the sum.

# %%
fresh, alone = chapter.fresh_run(setup)
descent = chapter.descent_run(setup)
case, steps = setup.cases["loud"], setup.law_schedules["gradient descent"].snapshots
lead, late = chapter.order(fresh, case, setup.beginning.snapshots)
descent_lead, descent_late = chapter.order(descent, case, steps)
_, slow_late = chapter.order(slow, case, slow_steps)

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Share of each feature's expected square that is reconstructed, over training: medians over live random seeds of the main runs, the middle half shaded. The median step at which 90% is reached is {glue:text}`when_child` for the loud child and {glue:text}`when_parent` for its parent.", "name": "fig-skew-learned"}, "image": {"alt": "Panels of two curves each. With a loud child the child's share rises before the parent's; with equal magnitudes it does not."}}
shares = chapter.learned_in_main(setup, runs)
when = {key: chapter.when_learned(some, setup.steps) for key, some in shares.items()}
when_parent, when_child = (chapter.told(some.median(), ".0f") for some in when["Matryoshka", "loud"].T)
control_lead, alone = chapter.leads(when["Matryoshka", "equal"]), alone[fresh.live]
claims.glue(child_first=chapter.part(lead > 1), n_tied=int((lead == 1).sum()))
claims.glue(descent_first=chapter.part(descent_lead > 1))
claims.glue(late_kept=chapter.part(late <= 0.1), descent_kept=chapter.part(descent_late <= 0.1))
claims.glue(slow_kept=chapter.part(slow_late <= 0.1))
claims.glue(alone_late=chapter.part(alone[lead <= 1]), alone_first=chapter.part(alone[lead > 1]))
claims.glue(when_parent=when_parent, when_child=when_child)
figure = chapter.draw_learned(shares, setup.steps)

# %% [markdown]
# ## The phase diagram
#
# Every cell of {numref}`fig-skew-phase` is its own toy model. All have the power of the thread's case, so only $q$ and
# $r$ differ. The lines are the three turning points; nothing is fitted. From near the truth the learning rate is a
# tenth of the usual one, so that the loud child's own latent lives.

# %%
phase = chapter.phase_runs(setup)

# %% tags=["hide-input", "decisive"] mystnb={"figure": {"caption": "What fires: share of live SAEs that absorb the parent; grey cells have none. The lines are those of the Matryoshka. Right of both {glue:text}`near_share_above` of the live SAEs from near the truth absorb; but only {glue:text}`near_share_converged` of all from near the truth have converged, and of the converged live ones right of both lines {glue:text}`near_share_above_done` absorb.", "name": "fig-skew-phase"}, "image": {"alt": "Three maps over magnitude ratio and child probability. Matryoshka from random starts: to the right of the lines the parent is absorbed, to the left it is not. From near the truth: light, but for the loudest children, where a few seeds absorb. Standard SAE with a penalty: absorbed on both sides of the lines."}}
shares = {title: chapter.share_map(cells) for title, cells in phase.items()}
figure = chapter.draw_maps(setup, shares, "share that absorbs")

# %% tags=["hide-input"] mystnb={"figure": {"caption": "What is held: the first latent's decoder cosine with the child, where it fires on both states, from the parent (0) over a mixture to the child (1). Medians over seeds with both latents live; grey cells have none.", "name": "fig-skew-first"}, "image": {"alt": "Two maps of the cosine of the first latent with the child, rising smoothly from lower left to upper right, with the theory's lines along its middle."}}
*matryoshka, penalised = phase
firsts = {title: chapter.first_map(phase[title]) for title in matryoshka}
figure = chapter.draw_maps(setup, firsts, "first latent's cosine with the child")

# %% tags=["remove-cell"]
for prefix, title in zip(("share", "near_share"), matryoshka, strict=True):
    shares = chapter.region_shares(setup, phase[title])
    claims.glue(**{f"{prefix}_{name}": chapter.told(share, ".1%") for name, share in shares.items()})
claims.glue(standard_share=chapter.told(phase[penalised].share))

# %% [markdown]
# **Where theory and experiment meet.** From random starts, at the usual rate, a parent is absorbed where the second
# latent completes the parent alone and the first has turned to the child: in {glue:text}`share_below` of live seeds
# left of both lines, in {glue:text}`share_between` between them and in {glue:text}`share_above` right of both. The
# decoders follow the lines from both kinds of start; what fires does not: from near the truth the second latent
# completes the sum, and the parent's latent mostly keeps firing. Where some seeds absorb there, the noise of their
# start had silenced it beside so loud a child to begin with.
#
# **The standard SAE** has no first latent and no such line. Its penalty pays for absorption at every ratio, since on
# the sum one latent of the sum's length replaces two: {glue:text}`standard_share` of all live seeds absorb.
#
# ## Does it hold up?
#
# {doc}`05_magnitude_skew_details` has sampled batches, other weights and widths, a loud child in the twenty-feature
# tree and magnitudes that vary. With sampled batches the Matryoshka absorbs in {glue:text}`sampled_matryoshka`.

# %% [markdown] tags=["details"]
# ## What else was varied
#
# Sampled batches of {glue:text}`batch_size` inputs; more weight on the inner prefix, or two latents in it; company: the
# post's tree of twenty features {cite:p}`nabeshima2024code`, with one child of the first parent raised to the thread's
# ratio; magnitudes that vary, with a standard deviation of {glue:text}`spread:.1f` times the mean. Random starts, live
# seeds. Where a parent is silent on a share of the inputs it is a mean over seeds.
#
# | what is changed | outcome |
# | --- | --- |
# | sampled batches, Matryoshka | {glue:text}`sampled_matryoshka` absorb; the first latent's median cosine with the child moves by {glue:text}`sampled_gap` |
# | sampled batches, standard + penalty | {glue:text}`sampled_standard` absorb |
# | sampled batches, Matryoshka from near the truth (a tenth of the rate) | {glue:text}`sampled_near` absorb |
# | {glue:text}`heavy` times the weight on the inner prefix | {glue:text}`tally_heavy` absorb |
# | widths 2 and 3 | {glue:text}`tally_two` absorb; with the penalty {glue:text}`tally_two_penalty` |
# | in the tree | the loud child silences its parent on {glue:text}`tree_first` of its inputs, other children on {glue:text}`tree_others` |
# | in the tree, nothing raised | {glue:text}`tree_equal_first` and {glue:text}`tree_equal_others` |
# | magnitudes vary | silent on {glue:text}`varied_first` of the child's inputs; in the standard SAE with the penalty on {glue:text}`varied_standard_first` |
# | when a feature is learned, over many $q$ and $r$ (standard SAE, no penalty) | rank correlation with its expected square {glue:text}`rank_gd_square` under gradient descent and {glue:text}`rank_adam_square` under Adam; with the eigenvalue it waits for {cite:p}`saxe2014exact` {glue:text}`rank_gd_eigen` and {glue:text}`rank_adam_eigen` |
# | solutions of the main runs, loud child | {glue:text}`reached`; no cosine is further than {glue:text}`theory_gap` from theory |

# %% tags=["details"]
sampled = chapter.sampled_runs(setup)
options = chapter.order_runs(setup)
company = chapter.company_runs(setup)
laws = chapter.laws(setup)
theory_gap, reached = chapter.theory_check(setup, runs)

# %% tags=["remove-cell"]
sampled_child = sampled["Matryoshka", "random"].first_with("child").median()
sampled_gap = abs(float(sampled_child - loud.first_with("child").median()))
claims.glue(sampled_gap=chapter.told(sampled_gap, ""), batch_size=p.batch_size)
claims.glue(sampled_matryoshka=sampled["Matryoshka", "random"].tally)
claims.glue(sampled_standard=sampled["standard, penalty", "random"].tally)
claims.glue(sampled_near=sampled["Matryoshka", "near the truth"].tally)
claims.glue(heavy=chapter.HEAVY, spread=chapter.SPREAD, theory_gap=chapter.told(theory_gap, ""))
claims.glue(**{f"tally_{name.replace(', ', '_')}": some.tally for name, some in options.items()})
for name, rates in company.items():
    key, (by_loud, by_others) = name.replace(", ", "_"), rates.mean(0).tolist()
    claims.glue(**{f"{key}_first": chapter.told(by_loud), f"{key}_others": chapter.told(by_others, ".1%")})
for name, rank in zip(("gd_square", "gd_eigen", "adam_square", "adam_eigen"), laws.values(), strict=True):
    claims.glue(**{f"rank_{name}": chapter.told(rank, ".2f")})
claims.glue(reached="; ".join(f"{count} of “{name}”" for name, count in reached["loud"].items()))

# %% [markdown]
# ## What it means for a practitioner
#
# 1. Compare $q\,r^2$ with 1, not magnitudes alone: a child at {glue:text}`case_ratio:.3g` times its parent's
#    magnitude takes the first latent once it fires on more than {glue:text}`turn_low:.1%` to
#    {glue:text}`turn_high:.1%` of the parent's inputs, and one no louder than its parent never does.
# 2. Past that boundary the Matryoshka loss does not protect: {glue:text}`share_above` of the live random SAEs there
#    absorb, at the usual rate. A start with the parent first mostly keeps its latent firing, with a decoder that is
#    nearly the child's.
# 3. Look at firing and at decoders: neither alone tells these two apart.
#
# ## The verdicts

# %% tags=["hide-input"] mystnb={"code_prompt_show": "Code: gather what the criteria measure"}
main_converged = chapter.least_converged(runs)
ledger, begun = claims.load(), {"child_first": len(fresh.live), "kept_though_not_first": len(fresh.live)}
begun |= {"absorption_rate_near_truth": len(gentle.live)}
measured = {
    "absorption_rate": loud.rates,
    "absorption_rate_slow": slow.rates,
    "standard_absorption_rate": runs["standard, penalty", "random", "loud"].rates,
    "absorption_rate_near_truth": gentle.rates,
    "absorption_rate_with_penalty": runs["Matryoshka, penalty", "random", "loud"].rates,
    "child_cosine": loud.first_with("child"),
    "theory_gap": theory_gap,
    "sampled_gap": sampled_gap,
    "control_absorption": control.rates,
    "converged": chapter.least_converged(runs, gentle, slow),
}

# %%
magnitude_skew = claims.judge(ledger["magnitude-skew"], measured, dict.fromkeys(measured, p.n_seeds) | begun)
magnitude_skew

# %%
measured = {"child_first": lead, "child_first_descent": descent_lead, "control_child_first": control_lead}
measured |= {"converged": main_converged}
loud_child_first = claims.judge(ledger["loud-child-first"], measured, dict.fromkeys(measured, p.n_seeds) | begun)
loud_child_first

# %%
measured = {"kept_though_not_first": late, "kept_though_not_first_descent": descent_late}
measured |= {"kept_though_not_first_slow": slow_late}
measured |= {"control_absorption": control.rates, "converged": main_converged}
first_to_absorb = claims.judge(ledger["first-to-absorb"], measured, dict.fromkeys(measured, p.n_seeds) | begun)
first_to_absorb

# %% tags=["remove-cell"]
claims.glue(magnitude_skew=magnitude_skew, loud_child_first=loud_child_first, first_to_absorb=first_to_absorb)
beta, ratio = p.inner_weight, setup.case_ratio
claims.glue(case_ratio=ratio, turn_low=chapter.skew_turn(ratio, beta, 1 + beta))
claims.glue(turn_high=chapter.skew_turn(ratio, 1 + beta, beta))

# %% [markdown]
# ## What would change our mind
#
# A rate at which most live random seeds escape; absorption from near the truth, or of a parent by a quiet child in the
# Matryoshka; decoders off the lines.
#
# ## Rerun it
#
# ```bash
# papermill notebooks/05_magnitude_skew.ipynb out.ipynb -p child_magnitude 3 -p child_probability 0.2
# ```
