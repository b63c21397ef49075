import itertools
import re
from dataclasses import replace

import hypothesis
import matplotlib as mpl
import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from matryoshka_mixing import metrics, theory
from matryoshka_mixing.chapters import why_it_happens as chapter
from matryoshka_mixing.chapters.why_it_happens import Parameters
from matryoshka_mixing.features import family, orthonormal_dictionary
from matryoshka_mixing.sae import SAE, SAEConfig, random_start, start_near
from matryoshka_mixing.training import Setting, TrainConfig, train

SMALL = {"d_model": 6, "n_seeds": 8, "n_sweep_seeds": 2, "n_grid": 3}


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def make(**changes):
    return chapter.set_up(Parameters(**SMALL | changes), torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def setup():
    """The default family, with enough steps to converge near the truth."""
    return make(n_steps=1200)


@pytest.fixture(scope="module")
def brief():
    """The same with fewer steps, for what trains by autograd: shape checks make each step slow here."""
    return make(n_steps=300)


@pytest.fixture(scope="module")
def main_runs(setup):
    setting = Setting(setup.sae, setup.states, setup.dictionary)
    return [train(setting, start, setup.exact) for start in (setup.near_start, setup.random_starts)]


@pytest.fixture(autouse=True)
def canvas():
    mpl.use("agg")
    yield
    mpl.pyplot.close("all")


def axis_saes(setup, *decoders):
    """SAEs with these decoders in feature space, whose latents fire with their own features."""
    decoders = tensor(decoders)
    encoder = torch.eye(3, dtype=torch.float64).expand_as(decoders)
    return SAE(
        (encoder @ setup.dictionary).mT,
        torch.zeros(len(decoders), 3).double(),
        decoders @ setup.dictionary,
        torch.zeros(len(decoders), 6).double(),
    )


def labels(axis):
    return [text.get_text() for text in axis.get_legend().get_texts()]


# The parameters and the set-up


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"d_model": 5}, "d_model = 5: .* a whole number of at least 6"),
        ({"d_model": 6, "n_children": 6, "child_probability": 0.1}, "leaves no room for 7 orthogonal features"),
        ({"n_children": 3}, "sum to 1.2; at most 1 is possible"),
        ({"inner_weight": 0}, "inner_weight = 0: .* from 0.001 to 1000"),
        ({"l1": -0.1}, "l1 = -0.1: weight of the L1 penalty in the runs that test for absorption"),
        ({"seed": 2**64}, "seed = 18446744073709551616"),
        ({"start_noise": -1}, "start_noise = -1"),
        ({"n_grid": 2}, "n_grid = 2: .* at least 3"),
    ],
)
def test_values_outside_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Parameters(**change)


def test_terms_of_the_default_case():
    setup = make(inner_weight=2.0)
    # States in order: nothing, parent alone, with child 2, with child 1.
    assert torch.allclose(setup.terms, tensor([[1.4, 0.12, 0.24, 0.24], [0.7, 0.06, 0.12, 0.12]]))
    assert setup.blamed.tolist() == [[False, False, True, True], [False] * 4]
    assert setup.omega.tolist() == [0, 3, 2, 2]
    assert (len(setup.near_start.W_enc), len(setup.random_starts.W_enc), len(setup.tried.W_enc)) == (2, 24, 6)
    assert (setup.exact.steps, setup.short.steps) == (2000, 1000)
    alone, blamed = chapter.arrow(theory.second_moment(setup.states, setup.omega))
    assert [float(alone), *blamed.tolist()] == pytest.approx([0.18, 0.24, 0.24])


def test_one_seed_of_everything():
    setup = make(n_seeds=1, n_sweep_seeds=1, n_steps=1)
    assert (len(setup.near_start.W_enc), len(setup.random_starts.W_enc), len(setup.tried.W_enc)) == (1, 3, 2)
    assert len(setup.close_start(setup.pair_dictionary).W_enc) == 1 and setup.short.steps == 1


def everything(p):
    """Every experiment of the chapter."""
    generator = torch.Generator().manual_seed(p.seed)
    setup = chapter.set_up(p, generator)
    uneven, config = chapter.uneven_family(p, generator)
    omega = theory.prefix_weights(uneven, range(6), config.widths, config.weights)
    theory.unequal_ratios(*chapter.arrow(theory.second_moment(uneven, omega)))
    setting = Setting(setup.sae, setup.states, setup.dictionary)
    near, random = (train(setting, start, setup.exact) for start in (setup.near_start, setup.random_starts))
    found = chapter.balance(setup, near.sae[0])
    groups = chapter.group_pulls(setup, found.parts[0])
    factors = torch.linspace(0, 4, p.n_grid, dtype=torch.float64)
    scaled = torch.where(setup.blamed, factors[:, None, None] * setup.terms, setup.terms)
    runs = [chapter.intervene(setup, scaled, start) for start in (setup.sweep_start, setup.sweep_start)]
    doses = chapter.read_doses(setup, factors, *runs)
    tables, possible = chapter.removals(setup)
    removed = setup.read_tried(chapter.intervene(setup, torch.stack(list(tables.values())), setup.tried).sae[1])
    kept = chapter.kept([removed["near"]], possible)
    reach, mixtures = chapter.limit_reach(setup), chapter.held_levels(p.n_grid, p.n_children)
    held = chapter.train_held(setup, setup.sweep_start, mixtures, penalty=p.l1)
    followed, ranks = chapter.read_held(setup, held.sae, mixtures), chapter.by_rank(setup)
    maps = chapter.map_unequal(setup), chapter.map_penalty(setup)
    curves = [*chapter.more_children(setup, generator), chapter.by_inner_weight(setup)]
    rare, limits = chapter.rare_children(setup), chapter.break_assumptions(setup)
    drifts = [limit.drift for limit in limits.values()]
    ends = chapter.where_starts_end(setup, near, random)
    return setup, groups, doses, kept, reach, followed, ranks, maps, curves, rare, drifts, ends


@st.composite
def allowed(draw):
    """Values inside the declared ranges, at both ends of them too; sizes are small, for time."""
    n = draw(st.integers(2, 12))
    return {
        "parent_probability": draw(st.floats(1e-6, 1)),
        "child_probability": draw(st.one_of(st.just(1 / n), st.floats(1e-6, 1 / n))),
        "n_children": n,
        "inner_weight": draw(st.floats(0.001, 1e3)),
        "l1": draw(st.floats(0, 1e3)),
        "d_model": draw(st.integers(max(6, n + 1), 40)),
        "n_seeds": draw(st.integers(1, 5)),
        "n_sweep_seeds": draw(st.integers(1, 4)),
        "seed": draw(st.integers(0, 10**9)),
        "start_noise": draw(st.floats(0, 1e3)),
        "n_steps": draw(st.integers(1, 10**6)),
        "n_grid": draw(st.integers(3, 100)),
    }


@hypothesis.settings(max_examples=20, deadline=None)
@hypothesis.given(allowed())
def test_the_set_up_is_built_from_every_value_that_is_allowed(values):
    p, generator = Parameters(**values), torch.Generator()
    setup = chapter.set_up(p, generator)
    assert setup.states.probs.sum() == pytest.approx(1)
    assert len(setup.random_starts.W_enc) == 3 * p.n_seeds
    assert setup.sweep_start.W_enc.shape == (p.n_sweep_seeds, p.d_model, p.n_children + 1)
    tables, possible = chapter.removals(setup)
    assert all((table >= 0).all() for table in tables.values()) and all(0 <= share <= 1 for share in possible)
    assert (theory.unequal_ratios(*chapter.arrow(theory.second_moment(setup.states, setup.omega))) >= 0).all()
    uneven, config = chapter.uneven_family(p, generator)
    assert uneven.acts.shape[1] == config.d_sae == 6
    assert len(chapter.held_levels(p.n_grid, p.n_children)) == 2 * p.n_grid


SURE = {"parent_probability": 1.0, "child_probability": 1 / 12, "n_children": 12, "d_model": 13, "inner_weight": 1e3}
DEAD = {"l1": 1e3, "start_noise": 1e3, "parent_probability": 1e-6, "child_probability": 1e-6, "inner_weight": 0.001}


@pytest.mark.parametrize("extreme", [SURE | {"start_noise": 0.0, "l1": 0.0, "d_model": 13}, DEAD])
def test_every_experiment_runs_at_the_ends_of_what_is_allowed(extreme):
    p = Parameters(**SMALL | {"n_seeds": 1, "n_sweep_seeds": 1, "n_steps": 1} | extreme)
    _, groups, doses, *_, drifts, ends = everything(p)
    assert len(groups) == p.n_children + 3 and doses.fires.shape == (3, 1)
    assert len(drifts) == 4 and len(ends.drift) == 3


# The derivation


def test_the_sides_of_an_equation_are_compared_at_their_worst(capsys):
    chapter.both_sides("it", tensor([1.0, 2.0]), tensor([1.0, 2.5]))
    chapter.both_sides("it", tensor([1.0]), 1.0)
    assert capsys.readouterr().out.splitlines() == [
        "it: largest difference 0.500",
        "it: largest difference below 1e-08",
    ]


def test_the_completed_sae_is_exact_in_the_outer_prefix_and_its_loss_the_reduced_one(setup):
    (u,) = chapter.random_units(1, 3, torch.Generator().manual_seed(1))
    assert u.norm() == pytest.approx(1) and (u >= 0).all()
    for v, loss in [(tensor([1, 0, 0]), 0.24), (u, None)]:
        sae = chapter.completed(v, setup.dictionary)
        errors = sae.errors(setup.x, setup.sae.widths)
        assert errors[1].max() < 1e-14 or loss is None
        reduced = chapter.reduced_loss(setup.states, setup.omega, v)
        assert sae.loss(setup.x, setup.states.probs, setup.sae) == pytest.approx(float(reduced))
        assert loss is None or reduced == pytest.approx(loss), "the inner prefix misses each child: 0.3 * 0.8"
    clean = chapter.completed(tensor([1, 0, 0]), setup.dictionary)
    assert torch.allclose(clean.W_dec, setup.dictionary)


def test_decoders_by_theory_agree_with_the_closed_forms():
    ratio = 0.3
    decoders = chapter.all_decoders(tensor([[ratio] * 3, [0.0] * 3]))
    lines = chapter.three_lines(ratio, 3)
    assert [float(decoders[0, i, j]) for i, j in ((0, 1), (1, 2), (1, 0))] == pytest.approx(lines)
    assert torch.allclose(decoders[1], torch.eye(4, dtype=torch.float64)), "a clean parent has clean children"


# The blamed terms


def test_doses_follow_theory_and_nothing_is_mixed_without_blamed_terms(brief):
    factors = tensor([0.0, 1.0, 4.0])
    scaled = torch.where(brief.blamed, factors[:, None, None] * brief.terms, brief.terms)
    run = chapter.intervene(brief, scaled, start_near(brief.dictionary, [0, 1], 0.1))
    doses = chapter.read_doses(brief, factors, run, run)
    parents = metrics.decoder_cosines(run.sae, brief.dictionary)[..., 0, 1]
    mixed = theory.parent_cosines(theory.matryoshka_ratio(0.4, 2), 2)[1]
    assert parents[0].abs().max() < 1e-3 and parents[1].tolist() == pytest.approx([mixed] * 2, abs=1e-3)
    assert doses.fires.all() and doses.open_fires.all() and doses.gap < 1e-3
    assert doses.lines[0][-1] == pytest.approx(float(doses.theory[-1, 0, 1])), "a line ends at the last dose"
    figure = chapter.draw_doses(doses)
    assert [labels(axis) for axis in figure.axes] == [[chapter.COSINES[0]], list(chapter.COSINES[1:])]
    first, second = (axis.containers[0][0].get_xdata().tolist() for axis in figure.axes)
    assert (first, second) == ([0, 1, 4], [1, 4]), "no child's decoder without blamed terms"
    page = chapter.dose_slider(doses, brief.tree.names)
    assert '"stops": ["0", "1", "4"]' in page and page.count("class=cosine") == 18


def test_a_dose_without_an_sae_that_keeps_the_assumption_has_no_gap(brief):
    silent = brief.sweep_start.map(torch.zeros_like).map(lambda parameter: parameter.expand(3, *parameter.shape))
    run = replace(chapter.intervene(brief, brief.terms.expand(3, -1, -1), brief.sweep_start), sae=silent)
    doses = chapter.read_doses(brief, tensor([0.0, 1.0, 2.0]), run, run)
    assert not doses.fires.any() and np.isnan(doses.gap)
    assert len(chapter.draw_doses(doses).axes) == 2


def batch_top_k(sae, k):
    return replace(sae, activation="batchtopk", k=torch.full(sae.b_dec.shape[:-1], k).double())


def test_pulls_are_minus_the_gradient_of_each_term():
    """Against the formula, which autograd does not know, for each latent."""
    config = SAEConfig(5, (1, 3))
    sae = random_start(config, [0, 1], decoder_norm=0.7)
    generator = torch.Generator().manual_seed(0)
    x, terms = torch.rand(4, 5, generator=generator).double(), torch.rand(2, 2, 4, generator=generator).double()
    acts = sae.encode(x)
    for latent in range(3):
        found = chapter.pulls(sae, x, terms, config.widths, latent)
        for i, width in enumerate(config.widths):
            rest = (x - sae.decode(acts, width)) * (latent < width)
            assert torch.allclose(found[:, i], 2 * terms[:, i, :, None] * acts[..., latent, None] * rest, atol=1e-14)
    assert (chapter.pulls(sae, x, terms, config.widths, 2)[:, 0] == 0).all(), "the first prefix misses latent 2"


@pytest.mark.parametrize("k", [0.3, 0.5, 0.9, 3.0])
def test_pulls_of_all_terms_add_up_to_minus_the_gradient_with_batchtopk(setup, k):
    config = replace(setup.sae, activation="batchtopk", k=k)
    sae, probs = batch_top_k(start_near(setup.dictionary, range(4), 0.5), k), setup.states.probs
    decoder = sae.W_dec.clone().requires_grad_()
    replace(sae, W_dec=decoder).loss(setup.x, probs, config).sum().backward()
    for latent in range(3):
        found = chapter.pulls(sae, setup.x, setup.terms, config.widths, latent, probs).sum((-3, -2))
        assert torch.allclose(found, -decoder.grad[:, latent], atol=1e-14)
    blind = chapter.pulls(sae, setup.x, setup.terms, config.widths).sum((-3, -2))
    same = torch.allclose(blind, -decoder.grad[:, 0], atol=1e-3)
    assert same == (k == 3.0), "probabilities matter where something is dropped"


def test_a_partly_kept_activation_pulls_on_its_share():
    # Two inputs, one latent; the budget of 0.75 keeps the first (probability 0.5) and half of the second.
    sae = batch_top_k(SAE(*(tensor(v) for v in ([[1.0], [0.5]], [0.0], [[1.0, 0.0]], [0.0, 0.0]))), 0.75)
    x, probs = tensor([[2.0, 0.0], [0.0, 2.0]]), tensor([0.5, 0.5])
    found = chapter.pulls(sae, x, probs[None], (1,), probs=probs)
    # On the second: 2 * 0.5 (weight) * 0.5 (share) * 1 (activation) * ((0, 2) - 1 (1, 0)).
    assert found[0].tolist() == [pytest.approx([0, 0]), pytest.approx([-0.5, 1.0])]


def test_pulls_balance_at_the_solution_and_only_blamed_terms_pull_toward_a_child(setup):
    best = theory.matryoshka_optimum(setup.states, range(3), setup.sae.widths, setup.sae.weights)
    sae = chapter.completed(best, setup.dictionary).map(lambda parameter: parameter[None])
    found = chapter.balance(setup, sae)
    assert found.imbalance < 1e-12 and torch.allclose(found.share, torch.ones(1, 2).double())
    groups = chapter.group_pulls(setup, found.parts[0])
    assert torch.allclose(sum(groups.values()), found.parts[0].sum((0, 1))), "every term is in one group"
    assert groups["outer prefix on parent + child"].abs().max() < 1e-14
    blamed = groups["blamed: inner prefix on parent + child 1"]
    a = float(best[0] + best[1])
    expected = 2 * 0.12 * a * (tensor([1, 1, 0]) - a * best)
    assert torch.allclose(blamed, expected) and blamed[1] > 0 > blamed[2]


def test_a_seed_in_which_nothing_pulls_toward_a_child_has_no_share(setup):
    found = chapter.balance(setup, axis_saes(setup, torch.eye(3).tolist()).map(torch.zeros_like))
    assert found.share.isnan().all()


def test_bars_of_the_balance_are_stacked_to_either_side():
    groups = {"one": tensor([1.0, -1.0]), "two": tensor([2.0, -3.0]), "three": tensor([-3.0, 4.0])}
    axis = chapter.draw_balance(groups, ["parent", "child"]).axes[0]
    bars = [(bar.get_x(), bar.get_width()) for bar in axis.patches]
    assert bars == [(0, 1), (0, -1), (1, 2), (-1, -3), (0, -3), (0, 4)]
    assert [tick.get_text() for tick in axis.get_yticklabels()] == ["along parent", "along child"]
    assert labels(axis) == ["one", "two", "three"] and len({bar.get_hatch() for bar in axis.patches}) == 3


def test_controls_remove_what_the_blamed_terms_weigh_where_they_can(setup):
    tables, possible = chapter.removals(setup)
    assert possible == [1, 1]
    for table in tables.values():
        assert (setup.terms - table).sum() == pytest.approx(0.24)
    without, same_inputs, evenly = tables.values()
    assert without[0, 2:].tolist() == [0, 0] and torch.equal(without[1], setup.terms[1])
    assert same_inputs[1, 2:].tolist() == [0, 0] and torch.equal(same_inputs[0], setup.terms[0])
    assert torch.equal(evenly[0, 2:], setup.terms[0, 2:])
    assert (evenly / setup.terms)[1, 1:].tolist() == pytest.approx([1 / 3] * 3), "0.24 of 0.36"
    heavy = make(inner_weight=3.0)
    tables, possible = chapter.removals(heavy)
    assert possible[0] == pytest.approx(1 / 3) and possible[1] == pytest.approx((0.24 + 0.24) / 0.72)
    assert tables["control: same inputs, outer prefix"][1, 2:].tolist() == [0, 0]


def test_dead_seeds_are_left_out_and_controls_that_are_too_light_decide_nothing(setup):
    mixed = [[0.8, 0.6, 0], [0, 1, 0], [0, -0.6, 0.8]]
    sae = axis_saes(setup, mixed, [[0.6, 0, -0.8], *mixed[1:]], mixed)
    sae.W_enc[2, :, 1] *= -1
    reading = setup.read(sae)
    assert reading.all_live.tolist() == [True, True, False]
    assert chapter.mixed_in(reading).tolist() == pytest.approx([0.6, 0.8])
    assert chapter.siblings(reading)[0] == pytest.approx(0.6)
    assert chapter.siblings(reading, in_size=False)[0] == pytest.approx(0)
    other = setup.read(axis_saes(setup, *[[[1, 0, 0], [0, 1, 0], [0, 0, 1]]] * 3))
    assert chapter.kept([reading, other], [1, 1]).tolist() == pytest.approx([0, -0.8])
    assert len(chapter.kept([reading, other], [1, 0.9])) == 0
    dead = setup.read(sae[2:])
    assert len(chapter.mixed_in(dead)) == len(chapter.siblings(dead)) == 0
    axis = chapter.draw_removed({"a": {"near": reading, "random": dead}}).axes[0]
    assert [tick.get_text() for tick in axis.get_yticklabels()] == ["a, near the truth", "a, random"]
    assert [len(points.get_offsets()) for points in axis.collections] == [2, 0]


def test_the_largest_of_what_is_kept():
    values, kept = tensor([[1.0, 5.0], [3.0, 2.0]]), torch.tensor([[True, False], [True, True]])
    assert (chapter.largest(values), chapter.largest(values, kept)) == (5, 3)
    assert np.isnan(chapter.largest(values, kept & False))


def test_blamed_terms_reach_the_encoder_only_or_the_decoder_only(setup):
    start = start_near(setup.dictionary, [3], 0.5)
    start.W_enc *= 1.2  # it would be the best already, and have no gradient
    sae = start.map(lambda parameter: parameter.expand(3, *parameter.shape).clone().requires_grad_())
    losses = chapter.reach_loss(setup, sae)
    nothing, to_encoder, to_decoder = (
        torch.autograd.grad(loss.sum(), [sae.W_enc, sae.W_dec], retain_graph=True) for loss in losses
    )
    whole = start.map(lambda parameter: parameter.clone().requires_grad_())
    loss = whole.loss(setup.x, setup.states.probs, replace(setup.sae, l1=setup.p.l1))
    full = torch.autograd.grad(loss.sum(), [whole.W_enc, whole.W_dec])
    assert torch.allclose(losses[1:].detach(), loss.detach().expand(2, 1)) and losses[0] < losses[1]
    pairs = [(to_encoder[0][1], full[0]), (to_encoder[1][1], nothing[1][0])]
    pairs += [(to_decoder[0][2], nothing[0][0]), (to_decoder[1][2], full[1])]
    assert all(torch.allclose(left, right) for left, right in pairs)
    assert not torch.allclose(full[0], nothing[0][0]) and not torch.allclose(full[1], nothing[1][0])


def test_without_blamed_terms_absorption_comes_back():
    brief = make(n_steps=600, l1=0.1)
    reach = chapter.limit_reach(brief)
    assert list(reach.readings) == ["everything", "nothing", "encoder only", "decoder only"]
    assert reach.rate("everything", "near") == 0 and reach.rate("encoder only", "near") == 0
    assert reach.rate("nothing", "near") > 0.4
    figure = chapter.draw_reach(reach, brief.tree.names)
    assert figure.axes[0].get_title().startswith("reach everything\nabsorption 0.00 (random ")
    silent = {kind: brief.read(brief.tried.map(torch.zeros_like)) for kind in chapter.KINDS}
    assert np.isnan(replace(reach, readings={"nothing": silent}).rate("nothing", "near")), "no live seed"


# The parent's decoder held


def test_levels_to_hold_by_hand():
    assert chapter.held_levels(2, 3).tolist() == [[0, 0, 0], [1, 1, 1], [0, 0, 0], [1, pytest.approx(1 / 3)] + [1 / 3]]


def test_siblings_are_undone_only_if_the_held_parent_is_mixed(brief):
    mixtures = tensor([[0.0, 0.0], [0.5, 0.2]])
    start = start_near(brief.dictionary, range(2), 0.1)
    run = chapter.train_held(brief, start, mixtures, penalty=0.01)
    parents = metrics.decoder_cosines(run.sae, brief.dictionary)[..., 0, :]
    assert torch.allclose(parents, chapter.unit_parent(mixtures)[:, None].expand_as(parents)), "held"
    assert run.sae.W_dec[..., 0, :].norm(dim=-1).flatten().tolist() == pytest.approx([1] * 4)
    undone = brief.read(run.sae).mixing.child_to_sibling
    assert undone[0].abs().max() < 1e-4 and (undone[1] < -0.2).all()
    free = chapter.train_held(brief, start, mixtures[1:])
    assert chapter.read_held(brief, free.sae, mixtures[1:]).gap < 1e-3


def test_held_saes_are_held_against_the_formula(setup):
    mixtures = chapter.held_levels(3, 2)[1:]  # without a clean parent the first time
    exact = [chapter.completed(u, setup.dictionary) for u in chapter.unit_parent(mixtures)]
    sae = SAE.stack(exact).map(lambda parameter: parameter[:, None])
    held = chapter.read_held(setup, sae, mixtures)
    assert held.fires.all() and held.gap < 1e-12
    assert torch.allclose(
        held.formula[-1, 0], theory.child_decoder(chapter.unit_parent(mixtures[-1]), tensor([1, 1, 0]))
    )
    mute = chapter.read_held(setup, sae.map(torch.zeros_like), mixtures)
    assert not mute.fires.any() and np.isnan(mute.gap)
    figure = chapter.draw_held(chapter.read_held(setup, sae[[0, 1, 2, 4]], mixtures[[0, 1, 2, 4]]))
    assert [axis.get_xlabel() for axis in figure.axes] == [
        "held ratio t of child 1 (all equal)",
        "held ratio t of child 1 (others a third)",
    ]
    assert figure.axes[0].lines[0].get_ydata().tolist() == held.formula[:2, 0, 2].tolist()


def test_later_children_are_mixed_in_more_and_sampled_prefixes_less_steeply(brief):
    ranks = chapter.by_rank(brief)
    (full, full_line), (drawn, drawn_line) = ranks.values()
    assert (np.diff(full_line) > 0).all() and (np.diff(drawn_line) > 0).all()
    assert full_line[-1] - full_line[0] > drawn_line[-1] - drawn_line[0]
    assert full.shape == (2, 5) and chapter.largest((full - full_line).abs(), ~full.isnan()) < 1e-3
    assert (drawn.median(0).values - drawn_line).abs().max() < 0.05
    none = {"all prefixes": (full * torch.nan, full_line), "sampled prefixes": (drawn, drawn_line)}
    assert len(chapter.draw_ranks(none).axes[0].containers[0][0].get_xdata()) == 0, "no seed keeps A4"
    axis = chapter.draw_ranks(ranks).axes[0]
    assert labels(axis) == ["all prefixes", "sampled prefixes"]
    assert axis.lines[0].get_xdata().tolist() == [1, 2, 3, 4, 5]


# The cosine with the parent


@pytest.mark.parametrize(("n", "beta"), [(2, 1.0), (2, 0.3), (3, 2.0)])
def test_a_childs_cosine_with_its_parent_vanishes_on_the_boundary_and_has_either_sign_beside_it(n, beta):
    dictionary = orthonormal_dictionary(n + 1, 20, torch.Generator().manual_seed(n))
    points = zip(*chapter.lean_boundary(tensor([0.2, 0.5, 0.8]) / n, n, beta), strict=True)
    settings = [
        Setting(
            SAEConfig(20, (1, n + 1), (beta, 1.0), float(factor * penalty), False, False),
            family(0.3, float(chance), n).states(),
            dictionary,
        )
        for factor, (chance, penalty) in itertools.product((0.8, 1.0, 1.2), list(points))
    ]
    run = train(settings, start_near(dictionary, range(3), 0.05), TrainConfig(3000))
    leans = metrics.decoder_cosines(run.sae, dictionary)[..., 1:, 0].unflatten(0, (3, 3))
    assert leans[1].abs().max() < 1e-6
    assert (leans[0] < -1e-4).all() and (leans[2] > 1e-4).all()


@pytest.mark.parametrize("beta", [0.2, 1.0, 5.0])
def test_on_the_line_of_unequal_children_the_first_has_no_part_of_the_parent(beta):
    shares = torch.stack(chapter.unequal_boundary(beta), -1)
    assert len(shares) > 50 and (shares > 0).all() and (shares.sum(-1) < 1).all()
    t = theory.unequal_ratios((1 + beta) * (1 - shares.sum(-1)), beta * shares)
    assert torch.allclose(t[:, 0], t.square().sum(-1), atol=1e-10)


def test_the_maps_have_the_predicted_signs(setup):
    unequal, penalty = chapter.map_unequal(setup), chapter.map_penalty(setup)
    assert unequal.agreement == 1 and unequal.gap < 1e-3 and unequal.fires.any()
    # Rows are the sibling: a rare child of a common sibling leans toward the parent, a common one away.
    assert unequal.leans[-1, 0] > 0.005 and unequal.leans[0, -1] < 0 and np.isnan(unequal.leans[-1, -1])
    assert penalty.agreement > 0.9 and penalty.leans.shape == (5, 5)
    assert penalty.leans[0, 2] < 0 < penalty.leans[-1, 2], "a penalty turns the sign"
    figure = chapter.draw_signs(unequal, penalty, 1.0)
    assert [axis.get_ylabel() for axis in figure.axes[:2]] == ["probability of its sibling", "L1 penalty"]
    assert np.ma.getdata(figure.axes[1].collections[0].get_array()).shape == (5, 5)
    line = figure.axes[0].lines[0].get_xydata()
    assert np.allclose(line, torch.stack(chapter.unequal_boundary(1.0), -1))


def test_children_lean_away_from_their_parent_by_theory(setup):
    by_total = chapter.more_children(setup, torch.Generator().manual_seed(0))
    by_weight = chapter.by_inner_weight(setup)
    assert [curve.label for curve in by_total] == [f"{n} children" for n in range(2, 6)]
    assert max(curve.gap for curve in [*by_total[:2], by_weight]) < 1e-3
    assert all((curve.line < 0).all() for curve in by_total)
    lowest = [curve.line.min() for curve in by_total]
    assert lowest == sorted(lowest), "less deep for more children"
    left, right = chapter.draw_leans(by_total, by_weight).axes
    assert labels(left) == [curve.label for curve in by_total] and right.get_xscale() == "log"
    middle = by_weight.values.median(-1).values.tolist()
    assert right.containers[0][0].get_ydata().tolist() == pytest.approx(middle)


def test_a_rare_child_leans_toward_its_parent_and_a_common_one_away(setup):
    rare = chapter.rare_children(setup)
    assert rare.theory[1] > 0.01 > 0 > rare.theory[0] and rare.live.all()
    assert rare.fires.any() and (rare.leans - rare.theory)[rare.fires].abs().max() < 1e-3


# Limits


def test_the_farthest_median_leaves_out_what_is_missing():
    values = np.array([[[1.0, 2.0, np.nan], [np.nan] * 3], [[0.0, 0.0, 9.0], [1.0, 1.0, 1.0]]])
    assert chapter.farthest(values, np.array([[1.0, 7.0], [0.0, 3.0]])) == 2
    assert np.isnan(chapter.farthest(values[:1, 1:], np.zeros((1, 1))))


def test_without_a_broken_assumption_the_input_space_says_what_the_closed_form_says(setup):
    pair = Setting(setup.pair_sae, family(0.3, 0.4).states(), setup.pair_dictionary)
    expected = chapter.three_lines(theory.matryoshka_ratio(0.4, 2), 2)
    assert chapter.in_input_space(pair) == pytest.approx(expected)


def test_limits_start_at_theory_and_the_dashed_lines_hold(setup, main_runs):
    limits = chapter.break_assumptions(setup)
    assert list(limits) == ["penalty", "overlap", "oblique", "biases"]
    for key in ("penalty", "overlap", "oblique"):
        start = limits[key].values[:, :1]
        assert chapter.farthest(start, limits[key].lines[:, :1]) < 1e-3
    for key in ("overlap", "oblique"):
        assert chapter.farthest(limits[key].values, limits[key].dashed) < 0.02  # slow where children overlap
    assert limits["penalty"].drift > 0.03 and limits["penalty"].dashed is None
    ends = chapter.where_starts_end(setup, *main_runs)
    assert ends.reached.shape == (3, 2) and ends.reached[0].all()
    near_solution = (main_runs[1].loss[0] - main_runs[0].loss[0].median()).abs() < 1e-4 * setup.states.power
    assert torch.equal(ends.random_reached, near_solution) and not (ends.lower & ends.random_reached).any()
    assert len(ends.drift) == 24 and (ends.drift[~ends.random_reached] > 0.01).any()
    figure = chapter.draw_limits(limits, ends)
    drawn = [axis for axis in figure.axes if axis.get_visible()]
    assert [axis.get_xlabel() for axis in drawn][:2] == ["L1 penalty", "share of a child's inputs with its sibling"]
    assert [len([line for line in axis.lines if line.get_ls() == "--"]) for axis in drawn] == [0, 3, 3, 0, 1]
    assert re.search("noise of the start", drawn[-1].get_xlabel())


def test_the_worst_run_counts(main_runs):
    near, _ = main_runs
    half = replace(near, converged=torch.tensor([[True, False]]))
    assert chapter.converged(replace(near, converged=torch.tensor([[True, True]])), half) == 0.5
