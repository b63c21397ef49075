"""The chapter on how far the mixing reaches: unusual data, the factors, what is measured, theory, figures."""

import math
from dataclasses import replace

import allowed
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from matryoshka_mixing import metrics, theory
from matryoshka_mixing.chapters.how_far import Parameters, data, drawing, expectation, experiments
from matryoshka_mixing.features import FeatureTree, family, orthonormal_dictionary, overlapping
from matryoshka_mixing.sae import SAE, SAEConfig, random_start, start_near
from matryoshka_mixing.training import Setting, TrainConfig, train

PARENTS = [None, 0, 0]
TINY = Parameters(n_seeds=3, n_sweep_seeds=2, n_steps=40, n_grid=3, d_model=11, batch_size=20, start_noise=0.1)


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def sae_from(encoder_rows, decoder_rows):
    """An SAE in three dimensions whose features are the axes."""
    return SAE(
        tensor(encoder_rows).T,
        torch.zeros(len(encoder_rows)).double(),
        tensor(decoder_rows),
        torch.zeros(3).double(),
    )


def effect(near, random=None):
    """An effect with these values of the parent's cosine with a child, and others that are told apart from it."""
    table = tensor(near)[:, None] * tensor([1.0, -1.0, 0.5])
    wild = table if random is None else tensor(random)[:, None] * tensor([1.0, -1.0, 0.5])
    return experiments.Effect([f"a{i}" for i in range(len(near))], table.numpy(), wild.numpy())


def all_factors(p):
    base = data.base_case(p)
    return base, data.data_factors(p, base) | data.tree_factors(p) | data.model_factors(p, base)


@pytest.fixture(scope="module")
def study():
    """Everything that the chapter trains on factors, at tiny size."""
    base, factors = all_factors(TINY)
    explored = {name: experiments.explore(factor, TINY) for name, factor in factors.items()}
    theories = {name: expectation.expected(factor) for name, factor in factors.items() if factor.covered}
    return base, explored, theories


# Parameters and set-up


@given(allowed.values(Parameters))
@settings(max_examples=15, deadline=None)
def test_all_allowed_values_can_be_set_up(values):
    p = Parameters(**values | {"n_sweep_seeds": min(values["n_sweep_seeds"], 3), "n_grid": min(values["n_grid"], 5)})
    base, factors = all_factors(p)
    for factor in factors.values():
        assert len(factor.settings) == len(factor.amounts)
        some = [data.first_seeds(s, len(p.near_seeds)) for s in (factor.settings[0], factor.settings[-1])]
        near = experiments.starts(some, factor.parents, p.near_seeds, p.start_noise)
        assert near.instances == (2, len(p.near_seeds)) and near.W_enc.isfinite().all()
        assert all(setting.data.probs.sum().item() == pytest.approx(1) for setting in some)
    for biased in (False, True):
        assert len(data.pair_settings(p, base, biased)[1]) == 2 * p.n_grid
    assert all(0 < cosine < 1 for cosine in expectation.closed_forms(p))


@pytest.mark.parametrize(("name", "value"), allowed.outside(Parameters))
def test_other_values_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} = .*It must be"):
        Parameters(**{name: value})


def test_seeds_at_each_point():
    p = Parameters(n_seeds=5, n_sweep_seeds=1, seed=7)
    assert (p.seeds, p.near_seeds, p.random_seeds) == (range(7, 12), range(7, 8), range(7, 10))
    assert len(data.base_case(p).dictionary) == 5 and len(data.base_case(replace(p, n_seeds=1)).dictionary) == 3
    assert Parameters(parent_probability=0.9).likely == 0.5


def test_each_factor_varies_what_it_says():
    p = replace(TINY, inner_weight=2.0)
    _, factors = all_factors(p)
    rates = {name: [s.data.probs @ (s.data.acts > 0).double() for s in factors[name].settings] for name in factors}
    for name, position in [("child's probability", 1), ("parent's probability", 0)]:
        for amount, rate in zip(factors[name].amounts, rates[name], strict=True):
            assert rate[position].item() == pytest.approx(amount * (0.3 if position else 1))
    for amount, rate in zip(factors["unequal children"].amounts, rates["unequal children"], strict=True):
        assert (rate[1] / rate[2]).item() == pytest.approx(amount) and rate[1:].sum().item() == pytest.approx(0.24)
    for amount, rate in zip(factors["number of children"].amounts, rates["number of children"], strict=True):
        assert (rate[1:] > 0).sum() == amount and rate[1:].sum().item() == pytest.approx(0.24)
    for amount, rate in zip(
        factors["children, each as likely"].amounts, rates["children, each as likely"], strict=True
    ):
        assert rate[1 : amount + 1].tolist() == pytest.approx([0.3 * 0.08] * amount)
    assert rates["dimensions for 12 features"][0].sum().item() == pytest.approx(0.3 * 1.8)
    for name, both in [("overlap of children", [0, 0.18, 0.36]), ("a prefix between the children", [0, 0.18, 0.36])]:
        found = [s.data.probs[(s.data.acts > 0).all(-1)].sum().item() / 0.3 for s in factors[name].settings]
        assert found == pytest.approx(both)
    leaning = factors["cosine of features"].settings[-1].dictionary
    assert (leaning @ leaning.mT)[:, 0, 1].tolist() == pytest.approx([0.3] * 6)
    seeds = {len(setting.dictionary) for factor in factors.values() for setting in factor.settings}
    assert seeds == {6} and len(factors["overlap of children"].settings[0].dictionary.unique(dim=0)) == 6
    weighed = {
        name: [
            {w: v for w, v in zip(s.sae.widths, s.sae.weights, strict=True) if v} for s in factors[name].settings
        ]
        for name in factors
    }  # fmt: skip
    assert weighed["number of latents"] == [{1: 2.0, width: 1.0} for width in range(3, 9)]
    assert weighed["inner width"] == [{1: 2.0, 3: 1.0}, {2: 2.0, 3: 1.0}]
    assert weighed["inner width of 6"] == [{width: 2.0, 6: 1.0} for width in (1, 2, 3)]
    assert weighed["inner weight"] == [{1: pytest.approx(w), 3: 1.0} for w in (0.1, 1, 10)]
    assert weighed["number of children"] == [{1: 2.0, n + 1: 1.0} for n in (2, 6, 10)]
    assert weighed["a prefix between the children"][0] == {1: 2.0, 2: 1.0, 3: 1.0}
    assert weighed["a third level"][0] == {1: 2.0, 3: 0.5, 7: 0.5}
    assert [s.sae.l1 for s in factors["L1 penalty"].settings] == pytest.approx([0, 0.15, 0.3])
    assert [s.sae.k for s in factors["K of BatchTopK / true L0"].settings] == pytest.approx([0.432, 0.756, 1.08])
    crowds = torch.stack([s.dictionary for s in factors["dimensions for 12 features"].settings])
    assert torch.linalg.matrix_rank(crowds)[:, :2].tolist() == [[11, 11], [8, 8], [6, 6]]
    biases = [(s.sae.encoder_bias, s.sae.decoder_bias) for s in factors["biases"].settings]
    assert biases == [(False, False), (True, False), (False, True), (True, True)]
    assert [n for n, f in factors.items() if not f.ranked] == [
        "a prefix between the children", "children, each as likely", "inner width of 6",
    ]  # fmt: skip


# Unusual data


@pytest.mark.parametrize(("p", "rho"), [(0.3, 0.5), (0.3, -3 / 7), (0.8, -0.25), (0.5, -1), (0.2, 1), (0.4, 0)])
def test_a_pair_has_its_rates_and_its_correlation(p, rho):
    states = data.correlated_pair(p, rho)
    assert states.probs.sum().item() == pytest.approx(1) and (states.probs > 0).all()
    mean = states.probs @ states.acts
    centred = states.acts - mean
    covariance = (centred * states.probs[:, None]).T @ centred
    assert mean.tolist() == pytest.approx([p, p])
    assert (covariance[0, 1] / covariance[0, 0]).item() == pytest.approx(rho)


def test_an_impossible_correlation_is_refused():
    with pytest.raises(ValueError, match=r"correlation is -0\.5 .* from -0\.428571 to 1"):
        data.correlated_pair(0.3, -0.5)
    with pytest.raises(ValueError, match="must lie between 0 and 1"):
        data.correlated_pair(0.0, 0.1)


@pytest.mark.parametrize("spread", [0.1, 0.5])
def test_spread_magnitudes_have_the_moments_of_a_normal(spread, tree):
    states = data.spread_magnitudes(tree.states(), spread)
    assert len(states) == 1 + 3 + 2 * 9
    fires = states.acts[:, 0] > 0
    share = states.probs[fires] / states.probs[fires].sum()
    moments = [float(share @ (states.acts[fires, 0] - 1) ** k) for k in range(6)]
    assert moments == pytest.approx([1, 0, spread**2, 0, 3 * spread**4, 0], abs=1e-12)
    both = states.acts[:, 1] > 0
    product = (states.probs[both] / states.probs[both].sum()) @ states.acts[both, :2].prod(-1)
    assert product.item() == pytest.approx(1), "independent of each other"
    assert torch.equal(data.spread_magnitudes(tree.states(), 0).acts, tree.states().acts)
    for bad in (-0.1, 0.6):
        with pytest.raises(ValueError, match=r"at least 0 and below 0\.5774"):
            data.spread_magnitudes(tree.states(), bad)


@pytest.mark.parametrize("cosine", [-0.3, 0.0, 0.3, 0.9])
def test_every_two_directions_have_the_same_cosine(cosine):
    rows = data.equal_cosine_dictionary(4, cosine, 9, 0)
    gram = torch.full((4, 4), cosine, dtype=torch.float64).fill_diagonal_(1)
    assert (rows @ rows.T - gram).abs().max() < 1e-14
    if cosine == 0:
        assert torch.equal(rows, orthonormal_dictionary(4, 9, 0))
    with pytest.raises(ValueError, match=r"4 independent directions .* between -0\.333333 and 1"):
        data.equal_cosine_dictionary(4, -0.4, 9, 0)


def test_a_crowd_shares_few_dimensions():
    rows = data.crowded_dictionary(200, 5, 20, 3)
    assert torch.linalg.matrix_rank(rows) == 5
    assert torch.allclose(rows.norm(dim=-1), torch.ones(200).double())
    pairs = (rows @ rows.T)[~torch.eye(200, dtype=torch.bool)]
    assert pairs.mean().item() == pytest.approx(0, abs=0.02)
    assert pairs.std().item() == pytest.approx(5**-0.5, rel=0.05)
    with pytest.raises(ValueError, match="d_model is 20"):
        data.crowded_dictionary(3, 21, 20, 0)


# Measuring


def test_depths_count_ancestors():
    assert experiments.depths([None, 0, 1, 1, 0, None]) == [0, 1, 2, 2, 1, 0]


def test_levels_name_latents_by_their_place():
    # The first latent is mostly the first child; by place it is the parent's all the same.
    cosines = tensor([[0.3, 0.9, 0.0], [0.9, 0.1, 0.0], [0.0, 0.2, -0.8], [1.0, 1.0, 1.0]])
    assert metrics.match(cosines[:3]).tolist() == [1, 0, 2]
    assert experiments.match_by_level(cosines, PARENTS, (1, 3)).tolist() == [0, 1, 2]
    assert experiments.match_by_level(cosines, PARENTS, (1, 4)).tolist() == [0, 3, 2]
    cosines[:, 1] = torch.nan
    assert experiments.match_by_level(cosines, PARENTS, (1, 3)).tolist() == [0, -1, 2], (
        "no latent for what has no cosine"
    )
    assert experiments.match_by_level(cosines[:2], PARENTS, (1, 2))[2] == 1


def test_excess_mixing_by_hand():
    states, axes = family(0.3, 0.4).states(), torch.eye(3, dtype=torch.float64)
    mixed = sae_from([[1, 0, 0], [0, 1, 0], [0, 0, 1]], [[0.8, 0.6, 0], [0, 1, 0], [0, -0.6, 0.8]])
    found = experiments.excess_mixing(mixed, states, axes, PARENTS, (1, 3))
    assert found.parent_to_child.tolist() == pytest.approx([0.6, 0])
    assert found.child_to_sibling.tolist() == pytest.approx([0, -0.6])
    assert found.child_to_parent.tolist() == pytest.approx([0, 0])
    upside_down = sae_from([[1, 0, 0], [0, 1, 0], [0, 0, 1]], [[-0.8, -0.6, 0], [0, 1, 0], [0, -0.6, 0.8]])
    again = experiments.excess_mixing(upside_down, states, axes, PARENTS, (1, 3))
    assert again.parent_to_child.tolist() == pytest.approx([0.6, 0]) and again.own[0] == pytest.approx(0.8)
    dead = sae_from([[1, 0, 0], [0, 1, 0], [0, 0, -1]], [[0.8, 0.6, 0], [0, 1, 0], [0, -0.6, 0.8]])
    assert experiments.excess_mixing(dead, states, axes, PARENTS, (1, 3)).parent_to_child.isnan().all()
    only_one = family(0.3, (0.4, 0.0), 2).states()
    found = experiments.excess_mixing(dead, only_one, axes, PARENTS, (1, 3))
    assert found.parent_to_child[0] == pytest.approx(0.6) and found.parent_to_child[1].isnan(), "the other never fires"


def test_true_directions_have_no_excess_however_they_lean():
    leaning = data.equal_cosine_dictionary(3, 0.3, 3, 0)
    clean = sae_from(torch.linalg.pinv(leaning).T.tolist(), leaning.tolist())
    found = experiments.excess_mixing(clean, family(0.3, 0.4).states(), leaning, PARENTS, (1, 3))
    for values in (found.parent_to_child, found.child_to_sibling, found.child_to_parent, found.own - 1):
        assert values.abs().max() < 1e-14


@pytest.mark.parametrize(
    ("states", "weights"),
    [
        (family(0.3, 0.4).states(), (1.0, 1.0)),
        (family(0.01, (0.5, 0.1, 0.2), 3).states(), (3.0, 0.5)),
        (overlapping(0.3, 0.4, 0.2), (2.0, 1.0)),
    ],
)
def test_the_pattern_optimum_agrees_with_the_closed_forms(states, weights):
    n = states.acts.shape[1]
    dictionary = orthonormal_dictionary(n, 8, 0)
    rows = expectation.pattern_optimum(states, dictionary, range(n), (1, n), weights) @ dictionary.T
    best = theory.matryoshka_optimum(states, range(n), (1, n), weights)
    pairs = torch.eye(n, dtype=torch.float64)[1:] + torch.eye(n, dtype=torch.float64)[0]
    assert (rows - torch.cat([best[None], theory.child_decoder(best, pairs)])).abs().max() < 1e-5


def test_the_pattern_optimum_of_one_prefix_that_holds_every_latent_is_exact_and_of_none_is_refused(dictionary):
    states = family(0.3, (0.4, 0.0), 2).states()
    rows = expectation.pattern_optimum(states, dictionary, range(3), (1, 2), (1.0, 1.0))
    assert rows[2].abs().max() == 0, "it never fires"
    assert (rows[:2].norm(dim=-1) - 1).abs().max() < 1e-12
    with pytest.raises(ValueError, match=r"no prefix of widths \(1, 2\)"):
        expectation.pattern_optimum(family(0.3, 0.4).states(), dictionary, range(3), (1, 2), (1.0, 1.0))


def three_levels():
    branch = FeatureTree(0.4, (FeatureTree(0.3),) * 2, True)
    tree = FeatureTree(1.0, (FeatureTree(0.3, (branch, branch), True),), is_read_out=False)
    order = [0, 1, 4, 2, 3, 5, 6]
    return tree.states(), orthonormal_dictionary(7, 20, 0), order, (1, 3, 7)


def leaning_family():
    leaning = data.equal_cosine_dictionary(3, 0.2, 20, 0)
    return family(0.3, (0.5, 0.2), 2).states(), leaning, [0, 1, 2], (1, 3)


def overlapping_with_a_prefix_between():
    dictionary = orthonormal_dictionary(3, 20, 0)
    return overlapping(0.3, 0.4, 0.1), dictionary, [0, 1, 2], (1, 2, 3)


@pytest.mark.parametrize("case", [three_levels, leaning_family, overlapping_with_a_prefix_between])
def test_trained_saes_meet_the_pattern_optimum_where_no_closed_form_reaches(case):
    states, dictionary, order, widths = case()
    weights = (1.0,) * len(widths)
    config = SAEConfig(20, widths, weights, encoder_bias=False, decoder_bias=False)
    run = train(Setting(config, states, dictionary), start_near(dictionary[order], range(6), 0.1), TrainConfig(4000))
    ranks = torch.tensor(order).argsort()
    rows = expectation.pattern_optimum(states, dictionary, ranks.tolist(), widths, weights)
    acts = run.sae[0].encode(states.inputs(dictionary))
    fits = metrics.each_its_own(acts, ranks.expand(6, -1), states.acts) & run.converged[0]
    assert fits.any()
    found = torch.nn.functional.normalize(run.sae.W_dec[0], dim=-1)[fits][:, ranks]
    assert (found - rows).abs().max() < 1e-5


def test_with_spread_magnitudes_the_pattern_optimum_is_nearer_to_the_trained_parent_than_the_eigenvector(dictionary):
    states = data.spread_magnitudes(family(0.3, 0.4).states(), 0.4)
    config = SAEConfig(20, (1, 3), encoder_bias=False, decoder_bias=False)
    run = train(Setting(config, states, dictionary), start_near(dictionary, range(4), 0.1), TrainConfig(2500))
    found = metrics.decoder_cosines(run.sae, dictionary)[0, :, 0, 1:].mean()
    free = (expectation.pattern_optimum(states, dictionary, range(3), (1, 3), (1.0, 1.0)) @ dictionary.T)[0, 1:].mean()
    eigen = theory.matryoshka_optimum(states, range(3), (1, 3), (1.0, 1.0))[1:].mean()
    assert (found - free).abs() < 0.005 < 0.02 < (found - eigen).abs()


def test_the_extent_leaves_out_what_is_missing():
    assert experiments.extent(np.array([0.5, np.nan, -0.5])) == 1
    assert experiments.extent(np.array([np.nan])) == 0


def test_places_and_levels_go_down_the_tree():
    parents = data.dynasty(TINY, 0.2).parents()
    assert experiments.places(parents) == ([0, 1, 4, 2, 3, 5, 6], [0, 1, 3, 4, 2, 5, 6])
    base, factors = all_factors(TINY)
    assert experiments.levels_of(factors["a third level"].settings[0], parents) == (1, 3, 7)
    assert experiments.levels_of(base, PARENTS) == (1, 3)
    assert experiments.levels_of(factors["number of latents"].settings[-1], PARENTS) == (1, 8), "weight 0 left out"
    assert experiments.levels_of(factors["inner width of 6"].settings[0], PARENTS) == (1, 6)


def test_starts_near_the_truth_leave_spare_latents_random():
    base, factors = all_factors(TINY)
    wide = data.first_seeds(factors["number of latents"].settings[-1], 4)
    near = experiments.starts([wide], PARENTS, range(4), 0.0)
    assert torch.equal(near.W_dec[0, :, :3], base.dictionary[:4])
    assert torch.equal(near.W_dec[0, :, 3:], random_start(wide.sae, range(4)).W_dec[:, 3:])
    wild = experiments.starts([wide], PARENTS, range(4), None)
    assert torch.equal(wild.W_enc, random_start(wide.sae, range(4)).W_enc)
    third = factors["a third level"]
    deep = data.first_seeds(third.settings[0], 1)
    start = experiments.starts([deep], third.parents, range(1), 0.0).W_dec[0, 0]
    assert torch.equal(start, deep.dictionary[0, [0, 1, 4, 2, 3, 5, 6]])


def test_means_over_pairs_and_medians_over_live_seeds():
    def table(value):
        rows = tensor([[value, value + 2, 100.0], [math.nan] * 3])
        return metrics.Mixing(rows, rows, rows + 1, rows + 2)

    factor = data.Factor(["a", "b"], [], pairs=[0, 1])
    found = experiments.three([table(v) for v in (1.0, 3.0)], factor)
    assert found.shape == (2, 2, 3)
    assert found[0, 0].tolist() == [2, 3, 4] and found[1, 0].tolist() == [4, 5, 6]
    assert found[:, 1].isnan().all()
    twice = torch.cat([found[:1], found[1:]], 1)
    assert experiments.medians(twice)[:, 0].tolist() == [2], "torch takes the lower of two middle values"
    assert np.isnan(experiments.medians(twice, least=3)).all()
    assert experiments.kept(twice[0, :, 0]).tolist() == [2, 4]


def test_medians_of_random_seeds_stand_at_their_amounts(study):
    some = study[1]["inner weight"]
    many = replace(some.factor, amounts=[0.123, "b", "c", "d", "e"])
    near, wild = torch.zeros(5, 1, 3).double(), torch.ones(3, 3, 3).double()
    wild[1, 0] = math.nan
    found = experiments.Explored(many, some.run, some.tables, near, [0, 2, 4], wild)
    assert found.effect.amounts == ["0.12", "b", "c", "d", "e"]
    shown = found.random_medians[:, 0]
    assert shown[[0, 4]].tolist() == [1, 1] and np.isnan(shown[1:4]).all(), "two live seeds are too few"


# Runs


def test_exploring_trains_ranked_factors_from_both_kinds_of_start(study):
    _, explored, _ = study
    assert explored["overlap of children"].near.shape == (3, 2, 3)
    assert explored["overlap of children"].random.shape == (3, 6, 3)
    assert explored["number of latents"].ends == [0, 3, 5] and explored["inner width"].ends == [0, 1]
    assert explored["biases"].ends == [0, 1, 2, 3], "names have no order"
    assert explored["inner width of 6"].ends == [] and len(explored["inner width of 6"].random) == 0
    crowd = explored["dimensions for 12 features"]
    assert crowd.near.shape == (3, 2, 3) and crowd.random.shape == (3, 6, 3)
    parents, children = experiments.own_cosines(crowd)
    assert parents.shape == (3, 2, 4) and children.shape == (3, 2, 8)


def test_variants_without_a_change_have_the_plain_loss():
    base = data.first_seeds(data.base_case(replace(TINY, inner_weight=2.0)), 1)
    x, probs = base.data.inputs(base.dictionary[0]), base.data.probs
    sae = random_start(base.sae, range(4)).reshape(4, 1)
    found = dict(zip(experiments.VARIANTS, experiments.varied_loss(sae, base)[:, 0], strict=True))
    plain = [sae[i, 0] for i in range(4)]

    def loss(sae):
        return sae.loss(x, probs, base.sae).item()

    assert found["tied"].item() == pytest.approx(loss(replace(plain[0], W_enc=plain[0].W_dec.T)))
    unit = torch.nn.functional.normalize(plain[1].W_dec, dim=-1)
    assert found["tied, norm 1"].item() == pytest.approx(loss(replace(plain[1], W_enc=unit.T, W_dec=unit)))
    for i, weight in [(2, 0.15), (3, 0.3)]:
        sizes = plain[i].encode(x) * plain[i].W_dec.norm(dim=-1)
        cost = 0.1 * torch.log(1 + sizes / 0.1)
        extra = probs @ (2.0 * cost[:, 0] + cost.sum(-1))
        assert found[f"{weight}"].item() == pytest.approx(loss(plain[i]) + weight * extra.item())


def test_variants_are_trained_and_named():
    few = replace(TINY, start_noise=0.0, n_steps=2)
    base, factors = all_factors(few)
    plain = experiments.explore(factors["biases"], few)
    effects = experiments.explore_variants(few, base, plain)
    assert {name: found.amounts for name, found in effects.items()} == {
        "tied weights": ["free", "tied", "tied, norm 1"],
        "log penalty": ["0", "0.15", "0.3"],
    }
    assert all(np.abs(found.near[:, 0]).max() < 0.15 for found in effects.values()), "a step or two from the truth"
    assert all(np.array_equal(found.near[0], plain.effect.near[0]) for found in effects.values())


def test_the_base_case_is_trained_from_both_kinds_of_start():
    base, _ = all_factors(TINY)
    found = experiments.train_base(replace(TINY, n_steps=400), base)
    assert list(found) == ["near the truth", "random"]
    cosine = expectation.closed_forms(TINY)[1]
    assert (found["near the truth"].mixings[:, 0] - cosine).abs().max() < 1e-3
    assert found["random"].mixings.shape == (3, 3)


def test_sampled_runs_stand_beside_exact_ones(study):
    base, explored, _ = study
    exact = experiments.BaseCase(explored["inner weight"].run, torch.full((3, 3), 0.25).double())
    found = experiments.train_sampled(TINY, base, exact, explored)
    assert list(found) == ["base case", "overlap", "unequal", "cosine", "inner weight 0.1", "normal magnitudes"]
    assert found["base case"].exact.tolist() == [0.25] * 3
    assert torch.equal(found["inner weight 0.1"].exact, explored["inner weight"].near[0, :, 0])
    assert torch.equal(found["normal magnitudes"].exact, explored["spread of magnitudes"].near[-1, :, 0])


def test_the_gap_of_sampled_runs_is_between_medians():
    assert experiments.Sampled(tensor([0.1, 0.2, 0.9]), tensor([0.5, math.nan])).gap == pytest.approx(0.3)
    assert math.isnan(experiments.Sampled(tensor([]), tensor([0.5])).gap), "no live seed"


def test_the_control_learns_independent_features_clean():
    base, _ = all_factors(TINY)
    found = experiments.train_control(replace(TINY, n_steps=1500), base)
    assert found["near the truth"].abs().max() < 0.01 and len(found["near the truth"]) == 3
    assert len(found["random"]) <= 3


def test_the_other_cosine_by_hand():
    states, two = data.correlated_pair(0.3, 0.0), torch.eye(2, 3, dtype=torch.float64).expand(2, -1, -1)
    wide = Setting(SAEConfig(3, (1, 2)), states, two)
    narrow = Setting(SAEConfig(3, (1, 2), (1.0, 0.0)), states, two)
    alive = sae_from([[1, 0, 0], [0, 1, 0]], [[-1.2, 1.6, 0], [0, 1, 0]])
    half_dead = sae_from([[1, 0, 0], [0, -1, 0]], [[1.6, 1.2, 0], [0, 1, 0]])
    joined = SAE.stack([SAE.stack([alive, half_dead])] * 2)
    found = experiments.other_cosine(joined, [wide, narrow])
    assert found[0, 0].item() == pytest.approx(-0.6) and found[0, 1].isnan()
    assert found[1].tolist() == pytest.approx([-0.6, 0.6]), "a narrow SAE has no second latent that could be dead"


# Theory


def test_the_closed_forms_of_the_default():
    assert expectation.closed_forms(Parameters()) == pytest.approx((0.365, 0.325), abs=5e-4)


def test_theory_of_a_factor_is_that_of_its_settings(study):
    _, explored, theories = study
    factor = explored["inner weight"].factor
    lines = [theory.parent_cosines(theory.matryoshka_ratio(0.4, 2, w), 2)[1] for w in factor.amounts]
    assert theories["inner weight"].line[:, 0].tolist() == pytest.approx(lines, abs=1e-6)
    assert expectation.eigen_line(factor).tolist() == pytest.approx(lines)
    siblings = theory.child_cosines(theory.matryoshka_ratio(0.4, 2), 2)[2]
    assert theories["inner weight"].line[1, 1] == pytest.approx(siblings, abs=1e-5)
    assert np.ptp(theories["overlap of children"].line[:, 0]) < 1e-5, "the overlap drops out"
    spread = expectation.eigen_line(explored["spread of magnitudes"].factor)
    assert spread[0] == pytest.approx(lines[1]) and (np.diff(spread) != 0).all()


def test_the_gap_counts_converged_seeds_that_fire_as_theory_assumes():
    _, factors = all_factors(TINY)
    factor = factors["inner weight"]
    explored = {"it": experiments.explore(factor, replace(TINY, n_steps=1500, start_noise=0.05))}
    theories = {"it": expectation.expected(factor)}
    assert expectation.own_firing(explored["it"]).all() and explored["it"].run.converged.any()
    found, trained = expectation.theory_gap(explored, theories), explored["it"].run.converged.numel()
    assert found.largest < 1e-4 and 0 < found.judged <= found.trained == trained and found.unjudged() == "none"
    wrong = {"it": replace(theories["it"], line=theories["it"].line + 0.5)}
    assert expectation.theory_gap(explored, wrong).largest == pytest.approx(0.5, abs=1e-3)
    never = replace(explored["it"].run, converged=torch.zeros_like(explored["it"].run.converged))
    nothing = expectation.theory_gap({"it": replace(explored["it"], run=never)}, theories)
    assert math.isnan(nothing.largest) and nothing.judged == 0
    assert nothing.unjudged() == f"it {', '.join(map(str, factor.amounts))}"
    silent = replace(explored["it"].run, sae=explored["it"].run.sae.map(torch.zeros_like))
    assert not expectation.own_firing(replace(explored["it"], run=silent)).any()


@pytest.mark.parametrize("weight", [0.5, 1.0, 4.0])
def test_two_features_without_hierarchy_by_hand(weight):
    p = replace(TINY, inner_weight=weight)
    for rho in (-0.2, 0.5):
        assert expectation.pair_theory(p, rho, biased=False, narrow=True) == pytest.approx(2**-0.5)
        sided = expectation.pair_theory(p, rho, biased=True, narrow=True)
        assert sided == pytest.approx(math.copysign(2**-0.5, rho)), "any correlation turns it by 45 degrees"
    assert abs(expectation.pair_theory(p, 0.0, biased=True, narrow=False)) < 1e-12
    # Independent: inputs with the second feature weigh beta, others 1 + beta.
    first, second, both = 0.3 * 0.7 * (1 + weight) + 0.09 * weight, 0.3 * weight, 0.09 * weight
    angle = 0.5 * math.atan2(2 * both, first - second)
    found = expectation.pair_theory(p, 0.0, biased=False, narrow=False)
    assert found == pytest.approx(min(math.sin(angle), 1), abs=1e-12)


# What is judged


def test_lowest_and_highest_leave_out_factors_without_a_value():
    nan = math.nan
    effects = {"a": effect([0.3, nan, -0.2], [nan]), "b": effect([nan, nan])}
    assert experiments.lowest(effects, "near") == {"a": -0.2} and experiments.lowest(effects, "random") == {}
    assert experiments.highest_sibling(effects) == {"a": 0.2}
    assert effects["a"].moves == pytest.approx(0.5) and effects["b"].moves == 0


def test_the_ledger_is_given_the_worst_factor():
    effects = {"a": effect([0.3, 0.2], [0.4]), "number of latents": effect([0.35, 0.25], [-0.1])}
    assert experiments.effect_measures(effects, 0.3) == pytest.approx(
        {
            "smallest_child_cosine_near_truth": 0.2, "smallest_child_cosine": -0.1,
            "share_of_factors_with_the_sign_near_truth": 1.0, "share_of_factors_with_the_sign": 0.5,
            "largest_sibling_cosine_near_truth": -0.2,
            "gain_from_more_latents_near_truth": -0.05, "gain_from_more_latents": -0.4,
        }
    )  # fmt: skip


def test_without_a_live_seed_nothing_is_decided():
    none = effect([math.nan])
    found = experiments.effect_measures({"a": none, "number of latents": none}, 0.3)
    assert len(found) == 7 and all(math.isnan(value) for value in found.values())


def test_effects_of_equal_size_keep_their_order():
    effects = {"a": effect([0.1, 0.1]), "b": effect([0.1, 0.1 + 1e-7]), "c": effect([0.1, 0.2])}
    assert experiments.by_size(effects) == ["c", "a", "b"]


def test_the_table_has_the_largest_effect_first_and_says_what_is_missing():
    table = experiments.effect_table({"small": effect([0.1, 0.2], [math.nan]), "large": effect([0.5, 0.1])})
    assert list(table.index) == ["large", "small"]
    assert table.loc["small"].tolist() == ["a0 to a1", "0.10 to 0.20", "no live seed", "-0.20 to -0.10", "0.05 to 0.10"]


# Figures


def labels(axis):
    """The names at the ends of a panel's lines, from the lowest to the highest."""
    return [text.get_text().replace("\n", " ") for text in axis.texts]


def test_ranges_run_from_the_lowest_to_the_highest_and_name_both_ends():
    def table(*columns):
        return np.array(columns).T

    nothing = np.full((1, 3), np.nan)
    nan = np.nan
    effects = {
        "short": experiments.Effect(["1", "2"], table([0.1, 0.3], [0.0, 0.001], [0.0, 0.0]), nothing),
        "long": experiments.Effect(
            ["a", "b", "c"],
            table([0.4, nan, -0.2], [0.1, nan, 0.5], [0.0, nan, 0.1]),
            table([0.0, 0.1, nan], [0.0, 0.2, nan], [0.0, 0.1, nan]),
        ),
        "none": experiments.Effect(["x"], nothing, nothing),
    }
    figure = drawing.draw_ranges(effects, 0.3)
    (left,) = figure.axes
    assert [tick.get_text() for tick in left.get_yticklabels()] == ["long", "short", "none"]
    assert [t.get_text() for t in left.texts] == ["c", "a", "1", "2"]
    assert [line.get_xdata().tolist() for line in left.lines[2:]] == [[-0.2, 0.4], [0.0, 0.1], [0.1, 0.3]]
    assert left.lines[1].get_xdata()[0] == 0.3
    found = [t.get_text() for t in figure.legends[0].get_texts()]
    assert found == ["default", "near the truth", "random starts"]


def test_the_figure_of_children_shows_their_four_factors(study):
    _, explored, theories = study
    overlap, unequal, levels, many = drawing.draw_children(explored, theories, TINY).axes
    assert set(labels(overlap)) == {*drawing.SHORT, "parent's, with a prefix between the children"}
    assert labels(unequal) == ["rarer child", "commoner child"] and unequal.get_xscale() == "log"
    grand = {f"{who} latent with a grandchild" for who in ("child's", "parent's")}
    assert set(labels(levels)) == {"parent's latent with a child", *grand}
    assert set(labels(many)) == {"together as likely as two (0.8)", "each as likely (0.08)"}
    theirs = next(line.get_ydata() for line in many.lines if len(line.get_xdata()) == 3)
    assert theirs.tolist() == pytest.approx(theories["number of children"].line[:, 0].tolist())


def test_seeds_that_fire_on_other_inputs_are_open_circles(study):
    _, explored, theories = study
    some = explored["unequal children"]
    silent = replace(some, run=replace(some.run, sae=some.run.sae.map(torch.zeros_like)))

    def circles(found):
        axis = drawing.draw_children(explored | {"unequal children": found}, theories, TINY).axes[1]
        return {line.get_markersize(): len(line.get_xdata()) for line in axis.lines if line.get_marker() == "o"}

    fits = expectation.own_firing(some)
    assert circles(some) == {5: int(fits.any(1).sum()), 10: int((~fits).any(1).sum())}
    assert circles(silent) == {5: 0, 10: 3}


def test_the_figure_of_features_shows_bound_eigenvector_and_recovery(study):
    _, explored, theories = study
    bound, eigen = np.full((3, 3), 0.11), np.full(3, 0.22)
    axes = drawing.draw_features(explored, theories["cosine of features"], bound, eigen).axes
    drawn = [list(line.get_ydata()) for line in axes[0].lines]
    assert [0.11] * 3 in drawn and [0.22] * 3 in drawn
    assert set(labels(axes[3])) == {"parents' latents", "children's latents"}
    assert axes[3].get_ylabel() == "cosine with the own feature"


def test_the_figure_of_the_model_shows_both_levels_of_theory(study):
    _, explored, theories = study
    weight, wider, inner, penalty = drawing.draw_model(explored, theories["inner weight"], TINY).axes
    drawn = [list(line.get_ydata()) for line in wider.lines]
    assert all([cosine] * 2 in drawn for cosine in expectation.closed_forms(TINY))
    assert weight.get_xscale() == "log" and penalty.get_xlabel() == "L1 penalty"
    assert set(labels(inner)) == {"3 latents", "6 latents"}


def test_the_figure_of_pairs_has_a_panel_for_each_bias():
    base, _ = all_factors(TINY)
    found = [experiments.explore_pairs(replace(TINY, n_steps=5), base, biased) for biased in (False, True)]
    assert found[0].near.shape == (2, 3, 2) and found[0].random.shape == (2, 3, 2)
    assert found[0].correlations.tolist() == pytest.approx([-3 / 7, (0.9 - 3 / 7) / 2, 0.9])
    left, right = drawing.draw_pairs(found, TINY).axes
    assert left.get_ylabel().endswith("no bias") and right.get_ylabel().endswith("decoder bias")
    assert set(labels(left)) == {"Matryoshka, widths 1 and 2", "narrow, one latent"}
    narrow = [line.get_ydata() for line in right.lines if len(line.get_xdata()) == 201][1]
    assert narrow[0] == pytest.approx(-(2**-0.5)) and narrow[-1] == pytest.approx(2**-0.5)


def test_the_strips_leave_out_seeds_without_a_value(study):
    run = study[1]["inner weight"].run
    many = {"near the truth": experiments.BaseCase(run, tensor([[0.3, 0, 0], [math.nan] * 3]))}
    sampled = {"overlap": experiments.Sampled(tensor([0.2, 0.25]), tensor([0.2]))}
    (axis,) = drawing.draw_strips(many, sampled, {"random": tensor([])}, 0.3).axes
    shown = [tick.get_text() for tick in axis.get_yticklabels()]
    assert shown == ["base case, near the truth", "sampled, overlap", "control, random"]
    assert [len(points.get_offsets()) for points in axis.collections] == [1, 2, 0]
    assert axis.lines[0].get_xdata()[0] == 0.3
