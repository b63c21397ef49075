import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from penalised import penalised_family

from matryoshka_mixing import metrics, theory
from matryoshka_mixing.chapters import why_it_happens
from matryoshka_mixing.features import (
    FeatureTree,
    family,
    independent,
    orthonormal_dictionary,
    overlapping,
)
from matryoshka_mixing.sae import SAE, SAEConfig, start_near
from matryoshka_mixing.training import Setting, TrainConfig, train

CASES = [(2, 0.4, 1.0), (2, 0.1, 1.0), (2, 0.4, 0.2), (3, 0.3, 5.0), (3, 0.05, 1.0), (5, 0.15, 2.0)]
family_cases = st.integers(2, 7).flatmap(
    lambda n: st.tuples(st.just(n), st.floats(0.001, 0.999 / n), st.floats(0.01, 100), st.floats(0.001, 1))
)


def vector(first, rest, n):
    return torch.tensor([first, *[rest] * n], dtype=torch.float64)


def test_numbers_of_the_default_case():
    """The numbers written down for the project before the code existed."""
    t = theory.narrow_ratio(0.4, 2)
    assert (t, *theory.parent_cosines(t, 2)) == pytest.approx((0.4254, 0.857, 0.365), abs=5e-4)
    t = theory.matryoshka_ratio(0.4, 2, 1.0)
    assert (t, *theory.parent_cosines(t, 2)) == pytest.approx((0.3660, 0.888, 0.325), abs=5e-4)
    assert theory.child_cosines(t, 2) == pytest.approx((-0.106, 0.833, -0.543), abs=6e-4)


@given(family_cases)
@settings(max_examples=200, deadline=None)
def test_closed_forms_agree_with_the_eigenvector(case):
    n, q, beta, p = case
    states = family(p, q, n).states()
    narrow = vector(*theory.parent_cosines(theory.narrow_ratio(q, n), n), n)
    assert (theory.top_eigenvector(theory.second_moment(states)) - narrow).abs().max() < 1e-12
    ratio = theory.matryoshka_ratio(q, n, beta)
    optimum = theory.matryoshka_optimum(states, range(n + 1), (1, n + 1), (beta, 1.0))
    assert (optimum - vector(*theory.parent_cosines(ratio, n), n)).abs().max() < 1e-12
    child = theory.child_decoder(optimum, torch.eye(n + 1, dtype=torch.float64)[:2].sum(0))
    assert child[:3].tolist() == pytest.approx(theory.child_cosines(ratio, n), abs=1e-12)


def test_where_nothing_shapes_the_parent_there_is_no_optimum():
    states = family(0.3, 0.5).states()  # never the parent alone
    with pytest.raises(ValueError, match="nothing shapes its decoder"):
        theory.matryoshka_optimum(states, [0, 1, 2], [3], [1.0])
    assert theory.matryoshka_optimum(states, [0, 1, 2], [1, 3], [1.0, 1.0])[0] > 0.5


@given(family_cases)
@settings(max_examples=200, deadline=None)
def test_children_always_undo_siblings_and_lean_away_from_the_parent_below_one_in_n(case):
    n, q, beta, _ = case
    ratio = theory.matryoshka_ratio(q, n, beta)
    parent, own, sibling = theory.child_cosines(ratio, n)
    assert ratio < 1 / n
    assert parent < 0 and sibling < 0 < own


def test_an_inner_prefix_alone_is_the_narrow_sae():
    assert theory.matryoshka_ratio(0.3, 3, 1e9) == pytest.approx(theory.narrow_ratio(0.3, 3), rel=1e-8)


@pytest.mark.parametrize(("n", "q", "beta"), CASES)
def test_trained_saes_meet_the_closed_forms(n, q, beta):
    dictionary = orthonormal_dictionary(n + 1, 20, torch.Generator().manual_seed(n))
    states, features = family(0.3, q, n).states(), range(n + 1)
    bare = {"encoder_bias": False, "decoder_bias": False}
    narrow = train(
        Setting(SAEConfig(20, (1,), **bare), states, dictionary),
        start_near(dictionary[:1], range(4)),
        TrainConfig(1500),
    )
    own, child = theory.parent_cosines(theory.narrow_ratio(q, n), n)
    found = metrics.decoder_cosines(narrow.sae, dictionary)[0, :, 0]
    assert (found - vector(own, child, n)).abs().max() < 1e-6

    config = SAEConfig(20, (1, n + 1), (beta, 1.0), **bare)
    run = train(Setting(config, states, dictionary), start_near(dictionary, range(4)), TrainConfig(2500))
    ratio = theory.matryoshka_ratio(q, n, beta)
    expected = torch.empty(n + 1, n + 1, dtype=torch.float64)
    expected[0] = vector(*theory.parent_cosines(ratio, n), n)
    parent, own, sibling = theory.child_cosines(ratio, n)
    for k in features[1:]:
        expected[k] = vector(parent, sibling, n)
        expected[k, k] = own
    assert (metrics.decoder_cosines(run.sae, dictionary)[0] - expected).abs().max() < 1e-6


def test_prefix_weights_by_hand():
    states = family(0.3, 0.4, 2).states()
    weights = theory.prefix_weights(states, ranks=(0, 2, 1), widths=(1, 2, 3), weights=(10.0, 20.0, 40.0))
    by_state = {tuple(map(int, a)): w.item() for a, w in zip(states.acts, weights, strict=True)}
    # Child 1 sits at rank 2: widths 1 and 2 miss it. Child 2 sits at rank 1: only width 1 does.
    assert by_state == {(0, 0, 0): 0, (1, 0, 0): 70, (1, 1, 0): 30, (1, 0, 1): 10}
    together = independent([0.5] * 3).states()
    with pytest.raises(ValueError, match=r"features \[0, 1, 2\] fire, and the prefix of width 2 holds a latent of"):
        theory.prefix_weights(together, range(3), (1, 2, 3), (1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="Let the parent's latent come first"):
        theory.prefix_weights(states, (1, 0, 2), (1, 2, 3), (1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match=r"features \[1, 2, 3\] fire together beside feature 0"):
        theory.prefix_weights(independent([0.5] * 4).states(), range(4), (1, 4), (1.0, 1.0))
    assert theory.prefix_weights(together, range(3), (1, 3), (1.0, 2.0)).tolist() == [0, 0, 0, 0, 3, 1, 1, 1]
    # A prefix that ends just before the parent does not hold it.
    behind = theory.prefix_weights(states, ranks=(1, 2, 3), widths=(1, 4), weights=(10.0, 1.0))
    assert behind.tolist() == [float(acts[0] == 1 and acts.sum() == 1) for acts in states.acts]
    # A prefix that ends just before the first of two children holds neither.
    assert theory.prefix_weights(together, (0, 2, 3), (2, 4), (1.0, 2.0)).tolist() == [0, 0, 0, 0, 3, 1, 1, 1]


def test_one_latent_loss_is_that_of_the_sae_and_least_at_the_optimum(dictionary):
    states = family(0.3, 0.4).states()
    best = theory.top_eigenvector(theory.second_moment(states))
    directions = torch.cat(
        [best[None], torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))]
    )
    losses = theory.one_latent_loss(states, directions)
    assert (losses[1:] > losses[0]).all()
    assert torch.allclose(losses, theory.one_latent_loss(states, 7 * directions))
    row = (best @ dictionary)[None]
    sae = SAE(row.T, torch.zeros(1, dtype=torch.float64), row, torch.zeros(20, dtype=torch.float64))
    loss = sae.loss(states.inputs(dictionary), states.probs, SAEConfig(20, (1,)))
    assert losses[0].item() == pytest.approx(loss.item(), abs=1e-14)


def test_with_biases_a_direction_leaves_the_variance_across_it():
    states = independent([0.3, 0.1]).states()
    left = theory.one_latent_loss(states, torch.eye(2, dtype=torch.float64), biases=True)
    assert left.tolist() == pytest.approx([0.1 * 0.9, 0.3 * 0.7])


@st.composite
def unequal_families(draw):
    """A family of unequal exclusive children, any ranks with the parent first, and any weighted prefixes."""
    n = draw(st.integers(1, 6))
    shares = draw(st.lists(st.floats(0.01, 1), min_size=n + 1, max_size=n + 1))
    latents = draw(st.integers(n + 1, n + 4))
    ranks = draw(st.permutations(range(latents)))[: n + 1]
    first = ranks.index(min(ranks))
    ranks[0], ranks[first] = ranks[first], ranks[0]
    widths = sorted({latents, *draw(st.lists(st.integers(1, latents), max_size=latents))})
    weights = draw(st.lists(st.floats(0.01, 10), min_size=len(widths), max_size=len(widths)))
    return [s / sum(shares) for s in shares[1:]], ranks, widths, weights


@given(unequal_families())
@settings(max_examples=200, deadline=None)
def test_the_arrow_agrees_with_the_eigenvector_for_any_children_ranks_and_prefixes(case):
    shares, ranks, widths, weights = case
    states = family(0.3, shares, len(shares)).states()
    pull = theory.prefix_weights(states, ranks, widths, weights)
    moment = theory.second_moment(states, pull)
    ratios = theory.unequal_ratios(moment[0, 0] - moment[0, 1:].sum(), moment[0, 1:])
    own = torch.cat([torch.ones(1, dtype=torch.float64), ratios])
    best = theory.matryoshka_optimum(states, ranks, widths, weights)
    assert (best - own / own.norm()).abs().max() < 1e-10
    order = moment[0, 1:].argsort()
    assert (ratios[order].diff() >= -1e-12).all(), "a child that pulls more is mixed in more"
    pairs = torch.eye(len(ranks), dtype=torch.float64)[1:] + torch.eye(len(ranks), dtype=torch.float64)[0]
    children, square = theory.child_decoder(best, pairs), (ratios**2).sum()
    assert (children[:, 0].sign() == (square - ratios).sign())[(square - ratios).abs() > 1e-9].all()
    siblings = children[:, 1:].masked_fill(torch.eye(len(shares), dtype=torch.bool), -1)
    assert (siblings <= 1e-12).all()


@given(unequal_families(), st.floats(0.05, 0.9))
@settings(max_examples=50, deadline=None)
def test_families_of_which_one_fires_at_a_time_do_not_disturb_each_other(case, share):
    shares, ranks, widths, weights = case
    one = family(share, shares, len(shares))
    other = FeatureTree(1 - share, (FeatureTree(0.5),))
    both = FeatureTree(1.0, (one.children[0], other), True, is_read_out=False)
    apart = theory.matryoshka_optimum(one.states(), ranks, widths, weights)
    together = theory.matryoshka_optimum(both.states(), [*ranks, 98, 99], widths, weights)
    assert (together[: len(apart)] - apart).abs().max() < 1e-10
    assert together[len(apart) :].abs().max() < 1e-10


@pytest.mark.parametrize(
    ("shares", "widths", "weights"),
    [
        ((0.5, 0.1), (1, 3), (1.0, 1.0)),
        ((0.1, 0.3, 0.2), (1, 2, 3, 4), (1.0, 1.0, 1.0, 1.0)),
        ((0.2, 0.05, 0.15, 0.1), (1, 3, 5), (2.0, 0.3, 1.0)),
    ],
)
def test_trained_saes_meet_the_arrow(shares, widths, weights):
    n = len(shares)
    states, dictionary = family(0.3, shares, n).states(), orthonormal_dictionary(n + 1, 20, torch.Generator())
    config = SAEConfig(20, widths, weights, encoder_bias=False, decoder_bias=False)
    run = train(Setting(config, states, dictionary), start_near(dictionary, range(24), 0.05), TrainConfig(3000))
    best = theory.matryoshka_optimum(states, range(n + 1), widths, weights)
    pairs = torch.eye(n + 1, dtype=torch.float64)[1:] + torch.eye(n + 1, dtype=torch.float64)[0]
    expected = torch.cat([best[None], theory.child_decoder(best, pairs)])
    found = metrics.decoder_cosines(run.sae, dictionary)[0]
    acts = run.sae[0].encode(states.inputs(dictionary))
    fires = metrics.each_its_own(acts, torch.arange(n + 1).expand(24, -1), states.acts)
    assert fires.sum() >= 4
    assert (found - expected).abs()[fires].max() < 1e-6


def test_inclusion_probabilities():
    """Against drawing one after the other, every order counted."""
    chances, draws = [0.5, 0.2, 0.2, 0.07, 0.03], 3
    brute = dict.fromkeys(range(5), 0.0)
    for order in itertools.permutations(range(5), draws):
        left, chance = 1.0, 1.0
        for item in order:
            chance *= chances[item] / left
            left -= chances[item]
        for item in order:
            brute[item] += chance
    assert theory.inclusion_probabilities(chances, draws) == pytest.approx(list(brute.values()), abs=1e-10)
    assert theory.inclusion_probabilities([1, 2, 3], 3) == pytest.approx([1, 1, 1])
    assert theory.inclusion_probabilities([1, 2, 3], 0) == pytest.approx([0, 0, 0])
    # The law of the original toy: 9 of the lengths 1 to 19. Shares worked out separately for this project.
    law = [(i / 20) ** 0.5 - ((i - 1) / 20) ** 0.5 for i in range(1, 20)]
    found = theory.inclusion_probabilities(law, 9)
    assert found[:3] + found[-1:] == pytest.approx([0.956, 0.750, 0.656, 0.319], abs=5e-4)
    for bad in [([1.0, 0.0], 1), ([1.0, 2.0], 3), ([1.0, float("nan")], 1), ([1.0, float("inf")], 1)]:
        with pytest.raises(
            ValueError, match="every chance must be above 0 and finite, and there must be at least as many"
        ):
            theory.inclusion_probabilities(*bad)
    with pytest.raises(ValueError, match=r"differ by too much.*ratio is 1e\+07"):
        theory.inclusion_probabilities([1e-7, 1, 1, 1, 1], 2)
    with pytest.raises(ValueError, match="differ by too much"):  # here the sum is off by far less than 1
        theory.inclusion_probabilities([1, 1, 1e5], 1)


@pytest.mark.parametrize("overlap", [0.0, 0.2, 0.5])
@pytest.mark.parametrize("beta", [1.0, 3.0])
def test_two_overlapping_children_that_come_in_together(overlap, beta):
    """The eigenvector holds with the joint input counted; at equal weights the overlap drops out."""
    q = 0.3
    states = overlapping(0.3, q, q * overlap)
    acts = states.acts
    dictionary = orthonormal_dictionary(3, 20, torch.Generator().manual_seed(1))
    config = SAEConfig(20, (1, 3), (beta, 1.0), encoder_bias=False, decoder_bias=False)
    run = train(Setting(config, states, dictionary), start_near(dictionary, range(8), 0.05), TrainConfig(2500))
    best = theory.matryoshka_optimum(states, range(3), (1, 3), (beta, 1.0))
    expected = torch.cat([best[None], theory.child_decoder(best, acts[2:4])])
    fires = metrics.each_its_own(run.sae[0].encode(states.inputs(dictionary)), torch.arange(3).expand(8, -1), acts)
    assert fires.any()
    assert (metrics.decoder_cosines(run.sae, dictionary)[0] - expected)[fires].abs().max() < 1e-6
    if beta == 1:
        assert best[1] / best[0] == pytest.approx(theory.matryoshka_ratio(q, 2), abs=1e-12)


SOLUTIONS = [
    {}, {"l1": 0.03}, {"l1": 0.2}, {"l1": 0.1, "child_probability": 0.15, "n_children": 3, "inner_weight": 3.0},
    {"l1": 0.03, "blamed": 0.0}, {"l1": 0.03, "blamed": 0.5},
]  # fmt: skip


@pytest.mark.parametrize("change", SOLUTIONS, ids=str)
def test_the_solution_with_a_penalty_is_what_training_finds(change):
    case = {"child_probability": 0.4, "n_children": 2, "inner_weight": 1.0, "l1": 0.0, "blamed": 1.0} | change
    q, n, beta, l1, blamed = case.values()
    expected, states = penalised_family(**case), family(0.3, q, n).states()
    with_child = (states.acts[:, 1:] > 0).any(-1)
    terms = torch.ones(2, len(states), dtype=torch.float64)
    terms[0, with_child] = blamed
    config = SAEConfig(20, (1, n + 1), (beta, 1.0), l1=l1, encoder_bias=False, decoder_bias=False)
    dictionary = orthonormal_dictionary(n + 1, 20, torch.Generator().manual_seed(0))
    start = start_near(dictionary, range(3), 0.05)
    run = train(Setting(config, states, dictionary, terms=terms), start, TrainConfig(6000))
    acts = run.sae[0].encode(states.inputs(dictionary))
    # Without the terms that mix the parent's latent is silent beside a child, so it does not fire with its own feature.
    kept = metrics.each_its_own(acts, torch.arange(n + 1).expand(3, -1), states.acts) | (blamed == 0)
    assert kept.any()

    parent, child = vector(*expected.parent, n), torch.full((n, n + 1), expected.child[2], dtype=torch.float64)
    child[:, 1:].fill_diagonal_(expected.child[1])
    child[:, 0] = expected.child[0]
    found = metrics.decoder_cosines(run.sae, dictionary)[0][kept]
    assert (found - torch.cat([parent[None], child])).abs().max() < 2e-5
    written = acts[kept][..., 0] * run.sae[0].W_dec.norm(dim=-1)[kept][:, :1]
    assert (written[:, with_child] - expected.beside).abs().max() < 2e-5
    assert float(run.loss[0][kept].median()) == pytest.approx(0.3 * expected.loss, abs=1e-7)


@given(family_cases)
@settings(max_examples=30)
def test_without_a_penalty_the_solution_is_the_closed_form(case):
    n, q, beta, _ = case
    found = penalised_family(q, n, beta)
    assert found.ratio == pytest.approx(theory.matryoshka_ratio(q, n, beta), abs=1e-10)
    assert found.child == pytest.approx(theory.child_cosines(found.ratio, n), abs=1e-8)


def test_where_a_childs_lean_turns_lies_on_the_other_derivation():
    for t in (0.1, 0.3, 0.45):
        q, l1 = why_it_happens.lean_boundary(torch.tensor(t, dtype=torch.float64), 2, 1.0)
        found = penalised_family(float(q), 2, 1.0, float(l1))
        assert found.ratio == pytest.approx(t, abs=1e-9) and found.child[0] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("bad", [(0.5, 2), (0.0, 2), (0.2, 1), (0.2, 2, 0.0), (0.2, 2, 1.0, 0.5), (0.2, 2, 1.0, -1.0)])
def test_a_family_out_of_range_is_refused(bad):
    with pytest.raises(ValueError, match="must be at least 2, the probability above 0 and below 1/n"):
        penalised_family(*bad)
