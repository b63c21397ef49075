# %% [markdown]
# # Why it happens
#
# **Claims.** The post's author guessed in two parts {cite:p}`chanind2024thread`: {term}`terms <term>` of the loss whose
# {term}`prefix` holds the parent's latent and misses the active child's pull the parent's decoder toward the child; and
# a child's latent then undoes the parent's part of the *other* children. Unexplained: children also point very slightly
# away from the parent.
#
# {glue:}`prefix-pull`
#
# {glue:}`sibling-undo`
#
# In short: without these terms the parent's latent is clean (its largest cosine with a child is
# {glue:text}`dose_zero`); with them it leans {glue:text}`dose_one:.3f` toward each child, where the truth is 0.

# %% [markdown]
# ## What was predicted
#
# Call a term of the loss (one prefix on one {term}`state`) {term}`blamed` if its prefix holds the parent's latent, a
# child is active, and the prefix misses that child's latent. At the solution only two kinds of terms still press on the
# parent's decoder: the blamed ones, each toward its child, and parent alone, which holds against them. The decoder is
# then the top eigenvector of the second moment of the inputs, each weighed by such terms.
# {doc}`04_why_it_happens_details` derives this in five steps, has a cell check each, and says how far it reaches.
#
# So **removing the blamed terms must leave a clean parent, removing equally heavy other terms must not**, and scaling
# them must move the parent along a known curve. The children's decoders must follow the parent's decoder, whatever
# fixed it: **held at the truth, the siblings' parts vanish**. And the parent's part of a child must change sign on a
# known line. The thresholds stood in the ledger before the first run.
#
# ## Setup
#
# The three-feature hierarchy of {doc}`03_matryoshka_inherits`: no biases, no penalty unless said, exact states,
# float64. Each intervention changes the weight of single terms, or holds one decoder row still, and trains again. The
# theory assumes that each latent fires with its own feature and with no other; seeds in which it does are
# called *selective*.

# %% tags=["parameters"]
parent_probability = 0.3  # probability that the parent fires: a number from 1e-06 to 1
child_probability = 0.4  # probability of each child given the parent: a number from 1e-06 to 1
n_children = 2  # number of mutually exclusive children: a whole number from 2 to 12
inner_weight = 1.0  # weight of the inner prefix in the loss (the outer one has weight 1): a number from 0.001 to 1000
l1 = 0.03  # weight of the L1 penalty in the runs that test for absorption: a number from 0 to 10
d_model = 20  # dimension of the input: a whole number from 6 to 1000
n_seeds = 192  # random seeds for each experiment: a whole number from 1 to 10000
n_sweep_seeds = 16  # random seeds at each point of a sweep: a whole number from 1 to 10000
seed = 0  # number of the first seed: a whole number from 0 to 1000000000
start_noise = 0.5  # noise of the starts near the truth, relative to the length of a feature: a number from 0 to 10
n_steps = 2000  # training steps: a whole number from 1 to 1000000
n_grid = 9  # points on the axis of each sweep: a whole number from 3 to 1000

# %% tags=["hide-input"]
import torch
from IPython.display import HTML
from torch.nn.functional import normalize

from matryoshka_mixing import claims, metrics, notebook, theory
from matryoshka_mixing.chapters import why_it_happens as chapter
from matryoshka_mixing.chapters.why_it_happens import told

p = notebook.begin(globals())

# %%
generator = torch.Generator().manual_seed(p.seed)
setup = chapter.set_up(p)
tree, states, matryoshka = setup.tree, setup.states, setup.sae
terms, blamed = setup.terms, setup.blamed

# %% [markdown]
# A random seed draws the directions of its features and its start. Interventions start from {glue:text}`n_near` seeds
# near the truth (noise of {glue:text}`start_noise:.2f` times a feature's length) and from {glue:text}`n_tried` random
# ones. The verdicts below ask of each group of runs what share has converged, and show the smallest.

# %% tags=["remove-cell"]
n_near, n_tried = map(len, setup.tried.values())
claims.glue(n_near=n_near, n_tried=n_tried, start_noise=p.start_noise)

# %% [markdown] tags=["details"]
# ## The derivation
#
# **Step 1: the loss is a table of terms.** There are finitely many states $s$, with probabilities $p_s$, and prefixes
# $m$ with weights $w_m$. Without a penalty the expected loss is a plain sum,
#
# $$ L = \sum_m \sum_s w_m\, p_s\, \lVert x_s - x_{s,m} \rVert^2 . $$
#
# Each pair of a prefix and a state is one term, with weight $w_m p_s$. A cell checks each step: it computes both sides.

# %% tags=["details"]
some = setup.random[:8]
x = states.inputs(setup.directions[: len(some), : tree.n_features])
chapter.both_sides(
    "the loss is the sum of its terms",
    some.loss(x, states.probs),
    (terms * some.errors(x, matryoshka.widths)).sum((-2, -1)),
)

# %% [markdown] tags=["details"]
# **Step 2: most terms do not care about the parent's decoder.** Features are orthonormal, with magnitude 1. Assume
# (A1) no penalty, (A2) no biases, (A3) at most one child active, (A4) each latent fires with its own feature and with
# no other (the seed is *selective*), (A5) a prefix that holds a child's latent holds its parent's. Let the parent's
# decoder be *any* unit vector $u$. In a prefix that holds the parent's latent and not the active child's, the best
# activation is the projection $x_s \cdot u$. In a prefix that holds both, let the child's latent carry exactly what is
# then missing: the error is zero, whatever $u$ is. What is left of the loss is
#
# $$ L(u) = \sum_s \omega_s\, p_s \bigl( \lVert x_s \rVert^2 - (x_s \cdot u)^2 \bigr), $$ (pull-loss)
#
# where $\omega_s$ is the weight of the prefixes that hold the parent's latent and miss the active child's (of all that
# hold the parent's latent, for the parent alone). For any $u$ with non-negative entries this SAE can be written down:

# %% tags=["details"]
u = normalize(torch.rand(20, tree.n_features, generator=generator).double(), dim=-1)
losses = [chapter.completed(v).loss(states.acts, states.probs, matryoshka) for v in u]
reduced = chapter.reduced_loss(states, setup.omega, u)
chapter.both_sides("the loss at 20 random decoders of the parent", torch.stack(losses), reduced)

# %% [markdown] tags=["details"]
# **Step 3: the best decoder is a top eigenvector.** Only the second part of {eq}`pull-loss` depends on $u$. It is
# $-u^\top M u$ with the re-weighted second moment $M = \sum_s \omega_s p_s\, x_s x_s^\top$, so the best unit vector
# is the top eigenvector of $M$. No entry of $M$ is negative, so none of that eigenvector is either (Perron and
# Frobenius), and a ReLU latent can use it. (This finds the best $u$ *among SAEs that keep A4*. Others
# are minima of their own, and random starts find them too: of {glue:text}`n_random` random seeds
# {glue:text}`n_lower` end with a lower loss.)

# %% tags=["details"]
moment = theory.second_moment(states, setup.omega)
best = theory.top_eigenvector(moment)
power = (setup.omega * states.probs * states.acts.square().sum(-1)).sum()
chapter.both_sides(
    "the loss there is the power less the top eigenvalue",
    chapter.completed(best).loss(states.acts, states.probs, matryoshka),
    power - torch.linalg.eigvalsh(moment)[-1],
)

# %% [markdown] tags=["details"]
# **Step 4: the arrow.** Let $\alpha_0$ be the weight $\omega_s p_s$ of parent alone, and $\alpha_i$ that of parent +
# child $i$: the blamed weight of that child. Then $M$ is an arrow: $\alpha_0 + \sum_i \alpha_i$ in its corner,
# $\alpha_i$ along its edges and its diagonal. Its top eigenvector is
# $f_0 + t_1 f_1 + \dots + t_n f_n$, up to scale, with
#
# $$ t_i = \frac{\alpha_i}{\lambda - \alpha_i}, \qquad
#    \lambda = \alpha_0 + \sum_i \alpha_i + \sum_i \frac{\alpha_i^2}{\lambda - \alpha_i} , $$ (arrow)
#
# where $\lambda$ is the largest root. For $n$ equal children of probability $q$ and widths $(1, n+1)$ this is the
# quadratic of chapter {doc}`03_matryoshka_inherits`. Two consequences: **the more blamed weight a child has, the more
# of it is mixed in**, and random prefixes act only through the *expected* weight of each prefix, since the expected
# loss is linear in the weights ({numref}`fig-why-rank`).

# %% tags=["details"]
t = theory.unequal_ratios(*chapter.arrow(moment))
quadratic = theory.matryoshka_ratio(p.child_probability, p.n_children, p.inner_weight)
chapter.both_sides("arrow and eigenvector", t, best[1:] / best[0])
chapter.both_sides("arrow and quadratic", t, quadratic)

# %% [markdown] tags=["details"]
# Nothing so far asked for equal children, or for two prefixes. The same check for five unequal children and five
# weighted prefixes, all drawn at random:

# %% tags=["details"]
uneven, uneven_sae = chapter.uneven_family(p, generator)
omega = theory.prefix_weights(uneven, range(6), uneven_sae.widths, uneven_sae.weights)
v = normalize(torch.rand(6, generator=generator).double(), dim=-1)
chapter.both_sides(
    "unequal: the loss at a random decoder of the parent",
    chapter.completed(v).loss(uneven.acts, uneven.probs, uneven_sae),
    chapter.reduced_loss(uneven, omega, v),
)

# %% tags=["details"]
uneven_moment = theory.second_moment(uneven, omega)
top = theory.top_eigenvector(uneven_moment)
ratios = theory.unequal_ratios(*chapter.arrow(uneven_moment))
chapter.both_sides("unequal: arrow and eigenvector", ratios, top[1:] / top[0])

# %% [markdown] tags=["details"]
# **Step 5: the children.** On parent + child $i$ the parent's latent gives $(x \cdot u)\,u$, and the child's decoder is
# the rest. With $N^2 = 1 + \sum_j t_j^2$ it is, up to scale,
#
# $$ \underbrace{\frac{\sum_j t_j^2 - t_i}{N^2}}_{\text{parent}}\, f_0 \;+\;
#    \underbrace{\Bigl(1 - \frac{t_i (1 + t_i)}{N^2}\Bigr)}_{\text{own}}\, f_i \;-\;
#    \sum_{j \ne i} \underbrace{\frac{t_j (1 + t_i)}{N^2}}_{\text{sibling}}\, f_j . $$ (child-parts)
#
# The sibling's part is never positive: that is the undoing. It is zero if $t_j = 0$. The parent's part is negative
# exactly where $t_i > \sum_j t_j^2$.

# %% tags=["details"]
square = 1 + (t**2).sum()
first_child = torch.cat([(square - 1 - t[:1]) / square, -t * (1 + t[0]) / square])
first_child[1] += 1
decoder = theory.child_decoder(best, chapter.pairs(p.n_children)[0])
chapter.both_sides("the first child's decoder", first_child / first_child.norm(), decoder)

# %% [markdown]
# ## Turn the blamed terms up and down
#
# Multiply the blamed terms, and nothing else, by a factor between 0 and 4. This cannot be done by
# weighing prefixes, since the same prefix holds terms that are not blamed. The lines are equations {eq}`arrow` and
# {eq}`child-parts`; nothing is fitted.

# %%
factors = torch.linspace(0, 4, p.n_grid, dtype=torch.float64)
dosed = chapter.dose(setup, factors)
doses, open_doses = chapter.read_doses(setup, dosed)
from_theory = dosed["near"].cosines[..., 0, :] - chapter.dosed_decoders(setup, factors)[:, None, 0]
dose_gap = chapter.largest(from_theory.abs().amax(-1), ~doses[0].isnan())

# %% tags=["hide-input", "decisive"] mystnb={"figure": {"caption": "Turning the blamed terms up and down. Without them (0) the parent is clean: its largest cosine with a child is {glue:text}`dose_zero`. Filled points: from near the truth, medians with bars over the seeds in which each latent fires with its own feature alone; their largest distance of the parent's decoder from theory, over all doses, is {glue:text}`dose_gap`. Open circles: random runs that reach the same loss in the same way. A child's decoder at dose 0 is not shown: it is not unique there, as told below.", "name": "fig-why-dose"}, "image": {"alt": "Two panels against the factor on the blamed terms. The parent's cosine with a child rises from zero along a curve; the child's cosine with its sibling falls below zero, and with the parent is slightly negative. Points lie on the lines."}}
claims.glue(
    n_sweep_seeds=p.n_sweep_seeds,
    dose_zero=told(dosed["near"].cosines[0, :, 0, 1:].abs(), torch.max),
    dose_gap=told(dose_gap),
    dose_one=float(chapter.dosed_decoders(setup, factors.new_ones(1))[0, 0, 1]),
    n_dose_stray=int(doses[0, 1:].isnan().sum()),
    n_dosed=doses[0, 1:].numel(),
    n_dose_random=int((~open_doses[0, 1:].isnan()).sum()),
)
figure = chapter.draw_doses(setup, factors, [doses, open_doses])

# %% [markdown]
# Move it: the lines are the closed forms; the small dots are the trained SAEs whose loss is the median of their seeds.

# %% tags=["hide-input"]
HTML(chapter.dose_explorable(setup, factors, dosed["near"]))

# %% [markdown] tags=["details"]
# ## Which terms pull, and which hold back
#
# At the trained solution, split the gradient on the parent's decoder into its terms. The pull of a term is minus its
# gradient. Nothing is changed here; the parts must cancel, and they do to {glue:text}`imbalance` of the blamed pull.

# %% tags=["details"]
near_run, random_run = setup.fit(setup.near), setup.fit(setup.random)
near, random = setup.read(near_run.sae[0]), setup.read(random_run.sae[0])
pulls, share, imbalance = chapter.balance(setup, near_run)

# %% tags=["hide-input", "details"] mystnb={"figure": {"caption": "The pull of every term on the parent's decoder, along each feature, at the solution (seed of median loss from near the truth). Of all that pulls toward a child, a share of {glue:text}`pull_share` comes from the blamed terms of that child (smallest over seeds and children). Parent alone holds back, and so do the blamed terms of the siblings. The outer prefix on parent + child pulls nowhere: it is already exact, which A4 implies. So this figure illustrates; the evidence is in the interventions.", "name": "fig-why-balance"}, "image": {"alt": "Stacked bars to both sides of zero for the parent and each child. Toward a child only the blamed terms of that child pull; parent alone and the other children's blamed terms pull back by the same amount."}}
claims.glue(imbalance=told(imbalance), pull_share=told(share, torch.min, ".4f"))
median = chapter.middle(near_run.loss[0])
figure = chapter.draw_balance(chapter.group_pulls(setup, pulls[median]), tree.names)

# %% [markdown]
# ## Remove the blamed terms, or others that weigh the same
#
# The first control removes the same weight from the same inputs, in the outer prefix. The second takes it evenly from
# every term on the parent that is not blamed. A control is judged only where there is as much weight to remove: the
# first can remove {glue:text}`same_factor:.2f` of the blamed weight here, the second {glue:text}`even_factor:.2f`.

# %%
removals, possible = chapter.removals(setup)
removed, without = chapter.intervene(setup, removals)
clean, *controls = without.values()
kept = chapter.kept([control["near"] for control in controls], possible)

# %% tags=["hide-input"] mystnb={"figure": {"caption": "The first latent's largest cosine with a child, in size; every live seed is a point. Without the blamed terms the median over live random seeds is {glue:text}`removed_random`; without equally heavy other terms the smallest value from near the truth is {glue:text}`kept_near`.", "name": "fig-why-removed"}, "image": {"alt": "Strips of points. With the whole loss and with either control the cosine is above 0.3 in all seeds; with the blamed terms removed it is zero in all seeds from near the truth and in most random ones."}}
claims.glue(
    same_factor=possible[0],
    even_factor=possible[1],
    kept_near=told(kept, torch.min),
    removed_random=told(chapter.mixed_in(clean["random"])),
)
figure = chapter.draw_removed(chapter.beside_whole(near, random, without))

# %% [markdown]
# ### What else happens: absorption comes back
#
# {glue:}`terms-prevent-absorption`
#
# Without the blamed terms nothing asks the parent's latent to fire beside a child any more. With no
# penalty the loss is then zero for a whole family of solutions, clean and absorbing alike.
#
# A small penalty ({glue:text}`l1:.3f`) decides between them.
#
# On the whole loss the median absorption from near the truth is {glue:text}`absorption_whole:.2f`; without the blamed
# terms, and their part of the penalty, it is {glue:text}`absorption_removed:.2f`. Without equally heavy others the
# parent's latent is silent on {glue:text}`silent_others` of such inputs at most.
#
# So **the terms that mix are the terms that prevent absorption**. Chanin et al. {cite:p}`chanin2025hedging` call this
# the trade of hedging against absorption; their balanced weights set the two pulls on the encoder against each other
# and leave the decoder mixed ({doc}`14_published_toys`).
#
# The terms act on the encoder (fire beside the child) and on the decoder (lean toward it). Let
# them reach the encoder only, or the decoder only ({doc}`11_what_cures_it` makes a remedy of it).

# %%
limited, reach = chapter.intervene(setup, chapter.reaches(setup))
_, others = chapter.intervene(setup, chapter.penalised(setup, dict([*removals.items()][1:])))
silenced = chapter.silent(*(control["near"] for control in others.values()))
own, own_random = (r.mixing.own[r.all_live].amin(-1) for r in reach["encoder only"].values())
lean = clean["near"].mixing.child_to_parent[clean["near"].all_live]

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Decoder cosines with an L1 penalty when the blamed terms reach everything, nothing, the encoder only or the decoder only. Above each: the median absorption rate, and its value in live random seeds. Seeds of median loss, from near the truth.", "name": "fig-why-absorb"}, "image": {"alt": "Four heat maps. With the whole loss the parent is mixed and nothing is absorbed. Without the blamed terms the parent is clean but each child's latent holds the parent: absorption. Encoder only: nearly the true features and no absorption. Decoder only: absorption again."}}
absorbed = {(name, kind): chapter.absorption(r) for name in reach for kind, r in reach[name].items()}
claims.glue(
    l1=p.l1,
    absorption_whole=float(absorbed["everything", "near"].median()),
    absorption_removed=float(absorbed["nothing", "near"].median()),
    silent_others=told(silenced, torch.max, ".0%"),
    absorption_encoder=told(absorbed["encoder only", "near"], form=".2f"),
    absorption_decoder=told(absorbed["decoder only", "near"], form=".2f"),
    absorption_encoder_random=told(absorbed["encoder only", "random"], form=".2f"),
    own_encoder=told(own, form=".4f"),
    own_encoder_random=told(own_random, form=".4f"),
    n_partial_live=len(own_random),
    n_partial=n_tried,
    lean_low=told(lean, torch.min, ".2f"),
    lean_high=told(lean, torch.max, ".2f"),
)
figure = chapter.draw_reach(limited["near"], reach, tree.names)

# %% [markdown]
# Where the terms reach the decoder alone the absorption is {glue:text}`absorption_decoder`: a latent that the penalty
# has silenced beside the child is not pulled at all. With the encoder alone reached, the smallest cosine of a latent
# with its own feature is {glue:text}`own_encoder` (median over seeds from near the truth) at an absorption of
# {glue:text}`absorption_encoder`.
#
# From random initialisation, over {glue:text}`n_partial_live` live seeds, the medians are
# {glue:text}`own_encoder_random` and {glue:text}`absorption_encoder_random`. This tests the mechanism; it is not yet
# a remedy, since it takes the knowledge of which latents are children.

# %% [markdown]
# ## Hold the parent's decoder
#
# Hold the decoder of the parent's latent at $f_0 + t_1 f_1 + \dots + t_n f_n$ (of length 1) and train everything else.
# At the truth,
# $t = 0$, the siblings' parts must vanish. At a mixture they must follow {eq}`child-parts`, also where the children are
# mixed in unequally (child 1 with $t$, the others with a third of it).
#
# Without a penalty a child's latent may fire on its sibling at no cost, and the children's decoders are not
# unique: {glue:text}`free_clean` of {glue:text}`n_near` seeds from near the truth then have clean siblings. The
# decisive criterion was first written for these runs, **and failed**. The penalty of {glue:text}`l1:.3f` that makes
# the solution unique was added after that; the criterion without it stands in the ledger as a supporting one. The
# curves of {numref}`fig-why-held` have no penalty, and show the selective SAEs.

# %%
two = torch.tensor([[0.0], [0.5]], dtype=torch.float64).expand(-1, p.n_children)
held = {kind: chapter.hold(setup, start, two, p.l1) for kind, start in setup.tried.items()}
held_free = chapter.hold(setup, setup.near, two[:1])
mixtures = chapter.held_levels(p.n_grid, p.n_children)
held_sweep = chapter.hold(setup, setup.sweep["near"], mixtures)

# %% tags=["hide-input"] mystnb={"figure": {"caption": "The parent's decoder held at a mixture (left: equal parts, right: unequal): the first child's decoder follows the formula. In the seeds whose latents fire only with their own features the largest distance of any child's cosine from it is {glue:text}`held_gap`. Held at the truth, with the small penalty, the largest sibling cosine in size is {glue:text}`held_clean` from near the truth.", "name": "fig-why-held"}, "image": {"alt": "Two panels against the held ratio. The child's cosine with a sibling starts at zero and falls; its cosine with the parent first falls slightly below zero, then rises. Points lie on the lines."}}
held_clean = {kind: setup.read(run.sae[0]) for kind, run in held.items()}
free_siblings = chapter.siblings(setup.read(held_free.sae[0]))
held_gap = chapter.held_gap(held_sweep, mixtures)
claims.glue(
    held_gap=told(held_gap),
    n_held_fire=int(held_sweep.keeps_a4().sum()),
    n_held=held_sweep.loss.numel(),
    held_clean=told(chapter.siblings(held_clean["near"]), torch.max),
    free_clean=int((free_siblings <= 0.01).sum()),
)
figure = chapter.draw_held(held_sweep, mixtures)

# %% [markdown] tags=["details"]
# ## A later child is mixed in more, and random prefixes act through their expected weights
#
# With more prefixes, a child that enters later is missed by more of them, so it has more blamed weight. Five equal
# children with total probability {glue:text}`rank_total:.2f`, six latents: once with every prefix in every step, once
# with the full width and two prefixes drawn at random in every step, short ones preferred (chances falling with
# length). Theory uses the *expected* weight of each prefix, exactly computed.

# %% tags=["details"]
ranks = chapter.by_rank(setup)

# %% tags=["hide-input", "details"] mystnb={"figure": {"caption": "The parent's cosine with each of five equal children, by the rank of the child's latent. With all prefixes the largest distance from theory is {glue:text}`rank_gap` in the seeds that keep A4. With sampled prefixes medians differ from the theory of expected weights by at most {glue:text}`drawn_gap:.4f`; bars are the range over seeds.", "name": "fig-why-rank"}, "image": {"alt": "Two rising series of points over rank, each on its line: later children are mixed in more; the rise is less steep with sampled prefixes."}}
full, drawn = ((series["points"].T, series["line_y"]) for series in ranks)
claims.glue(
    n_rank=int((~full[0][:, 0].isnan()).sum()),
    rank_gap=told((full[0] - full[1]).abs(), torch.max),
    drawn_gap=float((drawn[0].median(0).values - drawn[1]).abs().max()),
    rank_total=float(p.n_children * p.child_probability),
)
figure = chapter.draw_ranks(ranks)

# %% [markdown]
# ## The unexplained negative cosine
#
# {glue:}`child-to-parent`
#
# {glue:}`unequal-children`
#
# **In one sentence:** the parent's latent, tilted toward its children, fires too strongly when a child is on, so it
# writes more than one unit of the parent, and the child's decoder takes the excess back.
#
# In symbols: with child $i$ it writes too much where $t_i > \sum_j t_j^2$. For $n$ equal children that is $t < 1/n$,
# which always holds while $q < 1/n$: the cosine is negative. For unequal children it need not be. A rare child does
# not make the latent over-shoot, but its common sibling has shortened the parent's part of the decoder, so the latent
# writes too little of the parent and **the rare child's cosine with the parent is positive**. A penalty does the same
# by shrinking the activation, and its sign line too has a closed form.

# %%
by_pair = chapter.map_unequal(setup)
by_l1 = chapter.map_penalty(setup)

# %% tags=["hide-input"] mystnb={"figure": {"caption": "A child's cosine with its parent. Left: over the probabilities of two unequal children, for the first child; where theory predicts more than 0.005 in size, {glue:text}`sign_agreement` of trained signs are as predicted. Right: over the probability of two equal children and the L1 penalty; {glue:text}`l1_agreement` of the medians beyond 0.005 have the predicted sign. Trained SAEs from near the truth (medians); black: where theory says that the sign turns. Blue is negative, red positive; grey: the two probabilities exceed 1.", "name": "fig-why-sign"}, "image": {"alt": "Two maps. Left: a triangle, red where the first child is rare and its sibling common, blue elsewhere. Right: blue below an arch-shaped line, red above it. The black lines separate the colours."}}
claims.glue(
    sign_agreement=told(by_pair.agreement, form=".1%"),
    pair_gap=told(by_pair.gap),
    n_pair_stray=int((~by_pair.run.keeps_a4()).sum()),
    n_pair=by_pair.run.loss.numel(),
    l1_agreement=told(by_l1.agreement, form=".1%"),
)
figure = chapter.draw_signs(by_pair, by_l1, p.inner_weight)

# %% [markdown] tags=["details"]
# ## How far a child leans on its parent
#
# On the left map of {numref}`fig-why-sign`, {glue:text}`n_pair_stray` of {glue:text}`n_pair` SAEs do not keep A4. In
# the others the largest distance of any decoder cosine from theory is {glue:text}`pair_gap`. How the size depends on
# the number of children and on the weight of the inner prefix:

# %% tags=["hide-input", "details"]
leans, gaps = chapter.lean_curves(setup)

# %% tags=["hide-input", "details"] mystnb={"figure": {"caption": "Size of the child's cosine with the parent: over the probability that some child is on, for 2 to 5 equal children (left), and over the weight of the inner prefix (right). It vanishes where a child is never on and where one is always on. Lines: theory; points: medians with bars over all seeds, from near the truth. Largest distance of a median from its line: {glue:text}`many_gap`.", "name": "fig-why-lean"}, "image": {"alt": "Left: curves that dip below zero between probabilities 0 and 1, less deep for more children. Right: a curve that dips and comes back toward zero as the inner prefix weighs more. Points lie on the lines."}}
claims.glue(many_gap=told(max(gaps)))
figure = chapter.draw_leans(leans)

# %% [markdown] tags=["details"]
# **The positive case, shown.** One common child with nine tenths of the default total probability, and the rest
# shared by the others: theory gives a rare child a cosine of {glue:text}`rare_theory:+.3f` with the parent. Trained,
# from near the truth, the median over rare children is {glue:text}`rare_trained` in the seeds that keep A4, and the
# common child's is {glue:text}`common_trained`.

# %% tags=["details"]
rare_run, rare_theory = chapter.rare_children(setup)
rare_fires, rare_leans = rare_run.keeps_a4()[0], rare_run.cosines[0, :, 1:, 0]

# %% tags=["remove-cell", "details"]
claims.glue(
    n_rare=int(rare_fires.sum()),
    rare_theory=float(rare_theory[-1]),
    rare_trained=told(rare_leans[rare_fires, 1:], form="+.3f"),
    common_trained=told(rare_leans[rare_fires, 0], form="+.3f"),
)

# %% [markdown] tags=["details"]
# ## Limits: how far the theory reaches
#
# Each panel of {numref}`fig-why-limits` breaks one assumption more and more, for two equal children. Solid lines are
# the closed forms as they stand, which know nothing of it; the drift is the largest distance of a median from its
# line. Two of the limits belong to the closed forms and not to the theory: where directions are not orthogonal, or two
# children overlap, the eigenvector of the re-weighted moment of the inputs (dashed) is still defined.

# %% tags=["hide-input", "details"]
limits = chapter.break_assumptions(setup)
solution = float(near_run.loss[0].median())
noises, reached_near = chapter.noisier(setup, solution)
reached = metrics.same_loss(random_run.loss[0], solution, states.power).double()

# %% tags=["hide-input", "details"] mystnb={"figure": {"caption": "Where the theory ends. Largest drift: over the penalties {glue:text}`drift_penalty`, with biases {glue:text}`drift_biases`. Trained from near the truth; medians with bars over all seeds, in the panels on overlap and directions over those that keep A4. Last panel: the share of starts that end at the theory's solution, by the noise of the start; dashed: of all random starts, dead ones included, {glue:text}`reached_random:.2f` do.", "name": "fig-why-limits"}, "image": {"alt": "Five small panels. The penalty moves the child's cosine with the parent off its line; oblique directions and overlap follow the dashed lines; biases matter where the parent fires often; the share of starts that reach the solution falls with noise toward that of random starts."}}
for key, limit in limits.items():
    claims.glue(**{f"drift_{key}": told(chapter.farthest(limit))})
    if key in ("overlap", "oblique"):
        claims.glue(**{f"{key}_gap": told(chapter.farthest(limit, "dashed_y"))})
claims.glue(
    overlap_up_to=float(limits["overlap"]["series"][0]["x"][-1]),
    reached_random=float(reached.mean()),
    reached_live=told(reached[random.all_live], torch.mean, ".2f"),
    drift_random=told(chapter.drift(setup, random)),
    n_random=len(random.live),
    n_random_live=int(random.all_live.sum()),
    n_lower=int((random_run.loss[0] < solution - 1e-4 * states.power).sum()),
)
figure = chapter.draw_limits(limits, noises, reached_near, float(reached.mean()))

# %% [markdown] tags=["details"]
# A **penalty** shrinks activations, so a child takes back less of the parent. **Two children that overlap** and come
# in together keep the dashed lines, to {glue:text}`overlap_gap`: in the outer prefix their two decoders span what is
# missing from the joint input as well. (With equal weights on both prefixes the overlap even drops out of the
# eigenvector.) With a prefix between the two, or three at once, the theory says nothing, and `theory.prefix_weights`
# refuses. **Oblique directions** keep the dashed lines to {glue:text}`oblique_gap`.
#
# **Biases** add little while the parent is rare; a decoder bias can carry a parent that fires more often than not.
# **Random starts** break A4: of those without a dead latent a share of {glue:text}`reached_live` ends at the theory's
# solution, and the median distance from its mixings is {glue:text}`drift_random`.

# %% [markdown]
# ## Does it hold up?
#
# {doc}`04_why_it_happens_details` breaks each assumption more and more ({numref}`fig-why-limits`), and finds that later
# children are mixed in more, as theory says ({numref}`fig-why-rank`).
#
# ## The verdicts
#
# All thresholds come from the ledger, `book/claims.yml`. A criterion over seeds is met when the 95% Wilson interval
# of the share that passes lies above the share asked for {cite:p}`wilson1927probable`. The last two claims' control:
# independent features with a decoder bias.

# %% tags=["hide-input"]
ledger = claims.load()
prefix_pull = claims.judge(
    ledger["prefix-pull"],
    {
        "pull_share": share,
        "child_cosine_without_the_terms_near_truth": chapter.mixed_in(clean["near"]),
        "child_cosine_without_the_terms": chapter.mixed_in(clean["random"]),
        "dose_gap": dose_gap,
        "child_cosine_without_others": kept,
        "converged": chapter.converged(near_run, random_run, *removed.values(), *dosed.values()),
    },
    started={"child_cosine_without_the_terms": len(clean["random"].live)},
)
prefix_pull

# %% tags=["hide-input"]
# Held at 0.5, two children have opposite decoders and matching is a tie: latents are known by number.
mixed = metrics.mixing(held["near"].cosines[1], torch.arange(tree.n_features).expand(n_near, -1), tree.parents())
sibling_undo = claims.judge(
    ledger["sibling-undo"],
    {
        "sibling_cosine_with_a_clean_parent_near_truth": chapter.siblings(held_clean["near"]),
        "sibling_cosine_with_a_clean_parent_without_a_penalty": free_siblings,
        "sibling_cosine_with_a_mixed_parent": mixed.child_to_sibling.amax(-1),
        "sibling_cosine_with_a_clean_parent": chapter.siblings(held_clean["random"]),
        "held_gap": held_gap,
        "sibling_cosine_with_a_free_parent": chapter.siblings(reach["everything"]["near"], in_size=False),
        "converged": chapter.converged(*held.values(), held_free, held_sweep, *(run[:1] for run in limited.values())),
    },
    started={"sibling_cosine_with_a_clean_parent": len(held_clean["random"].live)},
)
sibling_undo

# %% tags=["hide-input"]
prevents = claims.judge(
    ledger["terms-prevent-absorption"],
    {
        "silent_without_the_terms": chapter.silent(reach["nothing"]["near"]),
        "silent_with_the_terms": chapter.silent(reach["everything"]["near"]),
        "silent_without_the_terms_random": chapter.silent(reach["nothing"]["random"]),
        "silent_without_others": silenced if min(possible) == 1 else silenced[:0],
        "converged": chapter.converged(*(run[:2] for run in limited.values())),
    },
    started={"silent_without_the_terms_random": len(reach["nothing"]["random"].live)},
)
prevents

# %% [markdown]
# Equal children: the first random seeds left the criterion undecided (here {glue:text}`first_lean` of
# {glue:text}`first_live` live ones pass), so it is judged on {glue:text}`n_fresh` fresh ones.

# %% tags=["hide-input"] mystnb={"code_prompt_show": "Code: the control, independent features with a decoder bias, and fresh seeds"}
control_run, control_lean = chapter.control_run(setup, tree)
rare_control_run, rare_control_lean = chapter.control_run(setup, chapter.rare_family(p), longer=2)
leaning = near.mixing.child_to_parent[near.all_live]
random_lean = random.mixing.child_to_parent.amax(-1)
fresh = torch.arange(len(random_lean)) >= p.n_seeds

# %% tags=["hide-input"]
child_to_parent = claims.judge(
    ledger["child-to-parent"],
    {
        "child_to_parent": leaning.amax(-1),
        "child_to_parent_size": leaning.abs().amax(-1) / chapter.siblings(near, in_size=False).abs(),
        "child_to_parent_random": random_lean[random.all_live & fresh],
        "control_child_to_parent": control_lean,
        "converged": chapter.converged(near_run, random_run, control_run),
    },
    started={"child_to_parent_random": int(fresh.sum())},
)
child_to_parent

# %% tags=["hide-input"]
unequal_children = claims.judge(
    ledger["unequal-children"],
    {
        "sign_agreement": by_pair.agreement,
        "positive_case": rare_leans[metrics.live(rare_run.acts[0]).all(-1), 1:].amin(-1),
        "theory_gap": by_pair.gap,
        "control_child_to_parent": rare_control_lean,
        "converged": chapter.converged(rare_control_run, by_pair.run, rare_run),
    },
    started={"positive_case": n_near},
)
unequal_children

# %% tags=["remove-cell"]
first = random_lean[random.all_live & ~fresh]
claims.glue(
    n_first=p.n_seeds,
    first_lean=int((first <= -0.01).sum()),
    first_live=len(first),
    n_fresh=int(fresh.sum()),
    prefix_pull=prefix_pull,
    sibling_undo=sibling_undo,
    prevents=prevents,
    child_to_parent=child_to_parent,
    unequal_children=unequal_children,
)

# %% [markdown]
# ## What would change our mind
#
# A parent that stays mixed without the blamed terms, or loses its mixing without equally heavy others; pulls toward a
# child from other terms; a sibling's part in children of a clean parent; a parent's latent that keeps firing without
# the blamed terms, or not without others; a sign on the wrong side of the line. Each is a criterion above. The
# third happens in many seeds without a penalty, so that the verdict on it is *mixed*.
#
# ## Rerun it
#
# ```bash
# papermill notebooks/04_why_it_happens.ipynb out.ipynb -p child_probability 0.2 -p n_children 4 -p inner_weight 3
# ```
