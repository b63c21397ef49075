"""A loud child: closed forms against trained SAEs, the measures by hand, every experiment and every figure once."""

import math
from dataclasses import replace
from pathlib import Path

import jupytext
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from hypothesis import Phase
from hypothesis import given as drawn
from hypothesis import settings as how
from hypothesis import strategies as st

from matryoshka_mixing import metrics, theory
from matryoshka_mixing.chapters import magnitude_skew as chapter
from matryoshka_mixing.features import States, family, orthonormal_dictionary
from matryoshka_mixing.sae import SAE, SAEConfig, random_start
from matryoshka_mixing.training import Setting, TrainConfig, train

NOTEBOOK = Path(__file__).parents[2] / "notebooks/05_magnitude_skew.py"
PLANE = orthonormal_dictionary(2, 6, torch.Generator().manual_seed(0))
ALONE, SUM = chapter.ALONE, chapter.SUM
FIRES = {
    "both, sum": ({ALONE, SUM}, {SUM}),
    "both, alone": ({ALONE, SUM}, {ALONE}),
    "sum, alone": ({SUM}, {ALONE}),
    "alone, sum": ({ALONE}, {SUM}),
}
"""The states on which each latent fires in each solution."""
TINY = chapter.Parameters(n_seeds=6, n_sweep_seeds=2, n_steps=30, n_grid=3, batch_size=10)


def zeros(*shape):
    return torch.zeros(shape, dtype=torch.float64)


def close(values, expected):
    assert values.tolist() == pytest.approx(expected, nan_ok=True)


def solution(name, q=0.5, a=2.0, b=10.0, beta=1.0):
    """An SAE with the solution's decoder whose latents fire on the solution's states and no others."""
    states, decoder = chapter.pair_states(0.3, q, a, b).acts[1:], chapter.skew_solutions(0.3, q, a, b, beta)[name][1]
    wanted = torch.empty(2, 2, dtype=torch.float64)
    for k, fires in enumerate(FIRES[name]):
        for s, state in enumerate(states):
            rest = state - (wanted[s, 0].relu() * decoder[0] if k else 0)
            wanted[s, k] = rest @ decoder[k] if s + 1 in fires else -0.3 * state.norm()
    encoder = torch.linalg.solve(states, wanted)
    return SAE((PLANE.T @ encoder)[None], zeros(1, 2), (decoder @ PLANE)[None], zeros(1, 6))


def sae_of(*names, b=10.0):
    """One seed for each solution; "dead" is "sum, alone" without its second latent."""
    saes = [solution("sum, alone" if name == "dead" else name, b=b) for name in names]
    for name, sae in zip(names, saes, strict=True):
        sae.W_enc[..., 1] *= name != "dead"
    return SAE.cat(saes)


def seeds(*names, b=10.0, converged=True):
    """What is found if the seeds end in these solutions."""
    sae = sae_of(*names, b=b)
    reading = metrics.read(sae, chapter.pair_states(0.3, 0.5, 2.0, b), PLANE, chapter.PARENTS)
    return chapter.Found(reading, torch.full((len(names),), converged), SAE.stack([sae] * 3))


def in_cells(*rows, b=10.0):
    """What is found in cells whose seeds end in these solutions."""
    made = {row: sae_of(*row, b=b) for row in set(rows)}
    sae, states = SAE.stack([made[row] for row in rows]), [chapter.pair_states(0.3, 0.5, 2.0, b)] * len(rows)
    reading = metrics.read(sae, states, PLANE, chapter.PARENTS)
    return chapter.Found(reading, torch.ones(len(rows), len(rows[0])).bool(), SAE.stack([sae]))


# Theory


@pytest.mark.parametrize("name", FIRES)
@pytest.mark.parametrize(("q", "a", "b", "beta"), [(0.5, 2, 10, 1), (0.5, 2, 2, 1), (0.1, 1, 3, 0.5), (0.8, 1, 0.5, 4)])
def test_each_solution_is_a_local_minimum_that_training_keeps(name, q, a, b, beta):
    config = SAEConfig(6, (1, 2), (beta, 1.0), encoder_bias=False, decoder_bias=False)
    loss, decoder = chapter.skew_solutions(0.3, q, a, b, beta)[name]
    start, setting = solution(name, q, a, b, beta), Setting(config, chapter.pair_states(0.3, q, a, b), PLANE)
    still = train(setting, start, TrainConfig(1, lr=1e-12))
    assert float(still.loss) == pytest.approx(loss, rel=1e-6)
    assert float(still.grad_norm) < 1e-6, "a stationary point"
    generator = torch.Generator().manual_seed(1)
    noisy = start.map(
        lambda parameter: (
            parameter.expand(4, *parameter.shape[1:])
            + 0.001 * torch.randn(4, *parameter.shape[1:], dtype=torch.float64, generator=generator)
        )
    )
    run = train(setting, replace(noisy, b_enc=zeros(4, 2), b_dec=zeros(4, 6)), TrainConfig(1000, lr=0.002))
    assert torch.allclose(run.loss, torch.tensor(loss, dtype=torch.float64), rtol=1e-6)
    assert (metrics.decoder_cosines(run.sae[0], PLANE) - decoder).abs().max() < 1e-6


@pytest.mark.parametrize(("q", "r"), [(0.5, 5.0), (0.1, 2.0), (0.9, 0.5)])
def test_the_narrow_optimum_and_its_turn(q, r):
    states = chapter.pair_states(0.3, q, 1.0, r)
    optimum = theory.narrow_optimum(states)
    assert float(optimum[1] / optimum[0]) == pytest.approx(chapter.skew_ratio(r, q), rel=1e-12)
    config = SAEConfig(6, (1,), encoder_bias=False, decoder_bias=False)
    run = train(Setting(config, states, PLANE), random_start(config, range(12)), TrainConfig(2000))
    live = metrics.live(run.sae[0].encode(states.inputs(PLANE)))[:, 0]
    best = run.loss[0, live].min()
    found = metrics.decoder_cosines(run.sae[0], PLANE)[live][run.loss[0, live] < best + 1e-9]
    assert len(found) and (found[:, 0] - optimum).abs().max() < 1e-6


@pytest.mark.parametrize(("alone", "together"), [(1, 1), (2, 1), (1, 2), (1.5, 0.5)])
@pytest.mark.parametrize("r", [1.5, 4.0, 16.0])
def test_the_turn_is_where_the_latent_lies_half_way(r, alone, together):
    q = chapter.skew_turn(r, alone, together)
    assert chapter.skew_ratio(r, q, alone, together) == pytest.approx(1, rel=1e-12)
    above, below = (chapter.skew_ratio(r, share * q, alone, together) for share in (1.0001, 0.8))
    assert above > 1 > below


def test_a_narrow_sae_turns_where_the_expected_squares_are_equal():
    assert chapter.skew_turn(4.0) == pytest.approx(1 / 16)
    quiet = [chapter.skew_turn(r, 1, 2) for r in (0.25, 0.5, 0.9)]
    assert not any(0 <= q <= 1 for q in quiet), "a quiet child never takes the latent"


def test_the_lines_of_the_phase_diagram_are_the_turns_of_the_first_latents():
    narrow, second, first = chapter.turns(3.0).values()
    i = 200
    for (x, y), weights in [(narrow, (1, 1)), (second, (3, 4)), (first, (4, 3))]:
        assert chapter.skew_ratio(x[i], y[i], *weights) == pytest.approx(1)


@pytest.mark.parametrize("beta", [0.25, 1.0, 8.0])
@pytest.mark.parametrize("r", [0.5, 1.0, 5.0])
def test_the_losses_cross_where_both_states_have_the_same_power(r, beta):
    q = chapter.skew_crossing(r)
    for share, lower in [(1.0, None), (0.9, "both, sum"), (1.1, "both, alone")]:
        found = chapter.skew_solutions(0.3, share * q, 1.0, r, beta)
        sums, alone = found["both, sum"][0], found["both, alone"][0]
        if lower is None:
            assert sums == pytest.approx(alone, rel=1e-9)
        else:
            assert min(found, key=lambda name: found[name][0]) == lower


def test_the_saving_of_absorption_is_that_of_two_saes_built_by_hand():
    a, b, q = 2.0, 3.0, 0.4
    states = chapter.pair_states(0.3, q, a, b)
    clean = SAE(PLANE.T, zeros(2), PLANE, zeros(6))
    total = (a * PLANE[0] + b * PLANE[1]) / math.hypot(a, b)
    rows = torch.stack([PLANE[0] - a / b * PLANE[1], PLANE[1] * math.hypot(a, b) / b])
    absorbed = SAE(rows.T, clean.b_enc, torch.stack([PLANE[0], total]), clean.b_dec)
    config = SAEConfig(6, (2,), l1=1.0)
    costs = [float(sae.loss(states.inputs(PLANE), states.probs, config)) for sae in (clean, absorbed)]
    assert chapter.absorption_saving(b / a, q) == pytest.approx(1 - costs[1] / costs[0])


def test_a_feature_waits_for_the_eigenvalue_that_completes_its_share():
    # Eigenvalues 3 and 1 along the diagonals: the first leaves half of 1 missing, a quarter of each expected square.
    diagonal = torch.tensor([[2.0, 1.0], [1.0, 2.0]]).double()
    close(chapter.awaited_eigenvalues(diagonal, 0.74), [3, 3])
    close(chapter.awaited_eigenvalues(diagonal, 0.76), [1, 1])
    close(chapter.awaited_eigenvalues(torch.diag(torch.tensor([2.0, 5.0, 1.0])).double()), [2, 5, 1])
    always = theory.second_moment(chapter.pair_states(0.3, 1.0, 2.0, 10.0))
    close(chapter.awaited_eigenvalues(always), [0.3 * 104] * 2)  # they are one direction
    with pytest.raises(ValueError, match="share is 1"):
        chapter.awaited_eigenvalues(diagonal, 1)


# Parameters and set-up


def test_the_notebook_declares_these_parameters():
    cells = jupytext.read(NOTEBOOK).cells
    assert [c.source for c in cells if "parameters" in c.metadata.get("tags", [])] == [chapter.Parameters.cell()]


CAPS = {"d_model": 40, "n_seeds": 8, "n_sweep_seeds": 8, "n_grid": 6, "n_steps": 10**6, "batch_size": 10**9}
RANGES = {
    name: st.integers(some.low, min(some.high, CAPS.get(name, math.inf)))
    if some.whole
    else st.floats(some.low, min(some.high, 1e9))
    for name, some in chapter.Parameters.described().items()
}


class Reached(Exception):
    """Training was about to begin."""


def begin(settings, start, config):
    raise Reached


@how(max_examples=15, deadline=None, derandomize=True, phases=[Phase.generate])
@drawn(st.fixed_dictionaries(RANGES))
def test_whatever_is_allowed_can_be_set_up(values):
    setup = chapter.Setup(chapter.Parameters(**values))
    same = [*setup.cases.values(), *setup.cells, *setup.law_states]
    assert all(len(states) == 3 and states.acts.isfinite().all() for states in same)
    assert all(len(tree.states()) == len(setup.families["loud"].states()) for tree in setup.families.values())
    experiments = [
        chapter.main_runs, chapter.gentle_run, chapter.sampled_runs, chapter.fresh_run, chapter.laws,
        chapter.phase_runs, chapter.standard_run, chapter.company_runs, chapter.varied_runs,
    ]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chapter, "train", begin)
        for experiment in experiments:
            with pytest.raises(Reached):
                experiment(setup)
        with pytest.raises(Reached):
            chapter.order_runs(setup, seeds("both, sum"), seeds("both, sum"))


@pytest.mark.parametrize(
    ("name", "value"),
    [(n, p.low - 1) for n, p in chapter.Parameters.described().items()]
    + [(n, p.high + 1) for n, p in chapter.Parameters.described().items() if math.isfinite(p.high)]
    + [("child_probability", 1.0), ("d_model", 19), ("inner_weight", 0), ("n_grid", 2)],
)
def test_whatever_is_not_allowed_is_refused(name, value):
    with pytest.raises(ValueError, match=rf"{name} = .* It must be .*; change it with `-p {name} VALUE`"):
        chapter.Parameters(**{name: value})


@pytest.mark.parametrize(("p", "q"), [(0.3, 0.5), (0.7, 0.01)])
def test_the_states_of_a_pair_are_those_of_its_tree(p, q):
    ours, trees = (
        chapter.pair_states(p, q, 2.0, 7.0),
        family(p, q, 1, parent_magnitude=2.0, child_magnitude=7.0).states(),
    )
    assert torch.equal(ours.acts, trees.acts) and torch.equal(ours.probs, trees.probs)
    assert ours.labels(chapter.NAMES) == chapter.STATES


def test_a_parent_that_always_fires_keeps_its_place_among_the_states():
    assert chapter.pair_states(1.0, 0.5, 2.0, 7.0).probs.tolist() == [0, 0.5, 0.5]


def test_every_cell_has_the_power_of_the_case_and_its_own_ratio_and_chance():
    setup = chapter.Setup(TINY)
    for states, (y, x) in zip(setup.cells, [(y, x) for y in setup.chances for x in setup.ratios], strict=True):
        assert states.power == pytest.approx(setup.cases["loud"].power)
        alone, total = states.acts[1:].tolist()
        assert (total[1] / alone[0], float(states.probs[SUM]) / 0.3) == pytest.approx((x, y))
    assert len(setup.coarse) == 3 * 5 and setup.coarse[1].acts.equal(setup.cells[2].acts)


@pytest.mark.parametrize(
    ("n_steps", "early"), [(1, 1), (2, 1), (100, 40), (2000, 300), (4000, 300), (15_001, 301), (10**6, 20_000)]
)
def test_the_beginning_follows_the_usual_schedule(n_steps, early):
    setup = chapter.Setup(replace(TINY, n_steps=n_steps))
    assert setup.beginning.steps == early
    for step in {0, early // 2, early - 1}:
        assert setup.beginning.learning_rate(step) == pytest.approx(setup.exact.learning_rate(step))


@pytest.mark.parametrize("magnitude", [0.01, 2.0, 1000.0])
def test_descent_is_plain_gradient_descent_at_every_magnitude(magnitude):
    setup = chapter.Setup(replace(TINY, parent_magnitude=magnitude, child_magnitude=magnitude))
    states, config, schedule = setup.cases["loud"], setup.kinds["standard"], setup.law_schedules["gradient descent"]
    start, x = random_start(config, range(8)), setup.cases["loud"].inputs(setup.dictionary)
    by_hand = start.map(lambda parameter: parameter.clone().requires_grad_())
    by_hand.loss(x, states.probs, config).sum().backward()
    once = train(Setting(config, states, setup.dictionary), start, replace(schedule, steps=1, snapshots=())).sae[0]
    for name in ("W_enc", "W_dec"):
        before, gradient = start.parameters[name], by_hand.parameters[name].grad
        step = once.parameters[name] - before
        assert gradient.abs().max() > 0.001 * setup.power
        torch.testing.assert_close(step, -schedule.lr / schedule.eps * gradient, rtol=1e-3, atol=1e-9)


# Measures


def test_latents_are_told_by_the_states_on_which_they_fire():
    acts = torch.tensor([[0.0, 0, 0, 0], [1, 0, 2, 0], [3, 4, 0, 0]], dtype=torch.float64)
    assert chapter.fires_only_on(acts, ALONE, SUM).tolist() == [True, False, False, False]
    assert chapter.fires_only_on(acts, SUM).tolist() == [False, True, False, False]
    assert chapter.fires_only_on(acts).tolist() == [False, False, False, True]


def test_any_number_of_states_will_do():
    acts = zeros(100, 2)
    acts[[3, 99], 0] = acts[99, 1] = 1
    assert chapter.fires_only_on(acts, 3, 99).tolist() == [True, False]
    assert chapter.fires_only_on(acts, 99).tolist() == [False, True]


def test_what_is_said_of_seeds():
    some = seeds("both, sum", "dead", "sum, alone", "alone, sum", "sum, alone", b=2.0)
    assert some.live.tolist() == [True, False, True, True, True]
    assert some.absorbs.tolist() == [False, True, True, True, True]
    assert some.absorbed.tolist() == [False, True, True, True]
    assert some.rates.tolist() == [0, 1, 1, 1]
    assert (some.share, some.tally) == (0.75, "3 of 4")
    assert some.first_on_both.tolist() == [True, False, False, False, False]
    root = 0.5**0.5
    close(some.first_with("parent")[1:], [root, 1, root])
    close(some.first_with("child")[1:], [root, 0, root])
    decoder = chapter.skew_solutions(0.3, 0.5, 2.0, 2.0)["both, sum"][1][0]
    assert some.acts_on_both() == pytest.approx([float(2 * decoder[0]), float(2 * decoder.sum())])
    assert chapter.typical(some) == 2, "the dead seed does not count"


def test_where_no_seed_is_live_nothing_is_known_and_nothing_fails():
    none = seeds("dead", "dead")
    assert math.isnan(none.share) and none.tally == "0 of 0" and all(map(math.isnan, none.acts_on_both()))
    assert chapter.typical(none) == 0
    setup = chapter.Setup(replace(TINY, d_model=20))
    when = chapter.learned(replace_dictionary(setup), none, "loud", [1, 2, 3])
    assert when.lead.shape == (0,) and when.share.shape == (3, 0, 2)


def replace_dictionary(setup):
    """The set-up with the directions of this file's SAEs."""
    setup.dictionary = PLANE
    return setup


def test_an_sae_of_three_latents_counts_as_live_with_two():
    rows, states = torch.cat([PLANE, -PLANE[:1]]), chapter.pair_states(0.3, 0.5, 2.0, 10.0)
    sae = SAE(rows.T[None], zeros(1, 3), rows[None], zeros(1, 6))
    reading = metrics.read(sae, states, PLANE, chapter.PARENTS)
    assert not reading.all_live
    assert chapter.Found(reading, torch.ones(1).bool(), SAE.stack([sae])).live.tolist() == [True]


def test_what_is_explained_by_hand():
    states = States(torch.tensor([[2.0, 0], [2, 4]]).double(), torch.tensor([0.5, 0.5]).double())
    plane = torch.eye(2).double()
    # One latent holds the parent at half its size; the child's is perfect.
    half = SAE(plane, zeros(2), torch.diag(torch.tensor([0.5, 1.0])).double(), zeros(2))
    close(chapter.explained(half, states, plane), [0.75, 1.0])


def test_the_first_step_reached():
    values = torch.tensor([[[0.1, 0.9, 0.0]], [[0.5, 0.2, 0.1]], [[0.7, 0.95, 0.2]]]).double()
    assert chapter.first_reached(values, [1, 2, 5], 0.5).tolist() == [[2, 1, math.inf]]


def test_when_both_features_are_learned():
    some, setup = seeds("alone, sum", "dead"), replace_dictionary(chapter.Setup(TINY))
    some.path.W_dec[0] *= 0  # nothing at first
    some.path.W_enc[1, ..., 0] *= 0  # then the sum, which leaves half of the parent's square
    when = chapter.learned(setup, some, "loud", [1, 4, 9])
    close(when.share[:, 0].flatten(), [0, 0, 0.5, 1, 1, 1])
    assert when.when.tolist() == [[9, 4]] and when.lead.tolist() == [9 / 4]
    some.path.W_enc[..., 0] *= 0
    assert chapter.learned(setup, some, "loud", [1, 4, 9]).when.tolist() == [[9, 4]], "never is the last step looked at"


def test_resorting_orders_latents_by_what_they_reconstruct():
    states = chapter.pair_states(0.3, 0.5, 2.0, 10.0)
    truth = SAE(PLANE.T[None], zeros(1, 2), PLANE[None], zeros(1, 6))
    swapped = chapter.resorted(truth, states, PLANE)
    assert torch.equal(metrics.decoder_cosines(swapped, PLANE)[0].round(), torch.eye(2).double().flip(0))
    x = states.inputs(PLANE)
    assert torch.allclose(swapped.decode(swapped.encode(x)), x), "the whole SAE reconstructs as before"
    again = chapter.resorted(swapped, states, PLANE)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters.values(), swapped.parameters.values(), strict=True))


def test_resorting_knows_how_likely_the_states_are():
    # BatchTopK keeps half an activation an input: the loud rare feature first, then what is left for the other. Were
    # both states equally likely, the loud one would take it all.
    states = States(torch.tensor([[2.0, 0], [0, 3]]).double(), torch.tensor([0.9, 0.1]).double())
    truth = SAE(PLANE.T, zeros(2), PLANE, zeros(6), activation="batchtopk", k=torch.tensor(0.5).double())
    assert torch.equal(chapter.resorted(truth, states, PLANE).W_dec, PLANE)


def test_the_nearest_solution_is_found_among_seeds_that_are_live_and_have_converged():
    some, solutions = seeds("both, alone", "dead", "alone, sum"), chapter.skew_solutions(0.3, 0.5, 2.0, 10.0)
    gaps, names = chapter.nearest_solutions(some, solutions)
    assert names == ["both, alone", "alone, sum"] and gaps.max() < 1e-12
    assert chapter.nearest_solutions(replace(some, converged=torch.zeros(3).bool()), solutions)[1] == []


def test_the_largest_gap_over_all_runs_counts():
    setup, none = chapter.Setup(TINY), seeds("both, sum", converged=False)
    runs = {("Matryoshka", start, case): none for start in setup.starts for case in setup.cases}
    assert math.isnan(chapter.theory_check(setup, runs)[0])
    runs["Matryoshka", "random", "loud"] = seeds("both, sum", "sum, alone", "sum, alone")
    gap, counts = chapter.theory_check(setup, runs)
    assert gap < 1e-12 and counts["loud", "random"] == {
        "both, sum": 1,
        "both, alone": 0,
        "sum, alone": 2,
        "alone, sum": 0,
    }
    off = seeds("sum, alone")
    runs["Matryoshka", "near the truth", "equal"] = replace(off, reading=replace(off.reading, decoder=zeros(1, 2, 2)))
    assert chapter.theory_check(setup, runs)[0] > 0.1


def test_a_law_is_fitted_to_what_was_learned():
    sizes = torch.tensor([[1.0, 2.0], [4.0, 8.0], [16.0, 0.5]]).double()
    law = chapter.Law.of(sizes, torch.where(sizes < 1, torch.inf, 100 * sizes**-0.5))
    assert (law.rank, law.power, law.spread) == pytest.approx((-1, -0.5, 1))
    few = chapter.Law.of(sizes, torch.full((3, 2), torch.inf).double())
    assert all(map(math.isnan, (few.rank, few.power, few.spread)))


def test_the_maps_by_hand():
    cells = in_cells(("sum, alone", "both, sum"), ("dead", "dead"), ("both, alone", "dead"), b=2.0)
    close(chapter.share_map(cells), [0.5, math.nan, 0])
    solutions = chapter.skew_solutions(0.3, 0.5, 2.0, 2.0)
    cosines = [float(solutions[name][1][0, 1]) for name in ("both, sum", "both, alone")]
    close(chapter.first_map(cells), [cosines[0], math.nan, cosines[1]])


def test_the_regions_lie_on_either_side_of_the_lines():
    setup = chapter.Setup(replace(TINY, inner_weight=2.0))
    found, (_, second, first) = chapter.regions(setup), chapter.turns(2.0).values()
    assert (sum(inside.int() for inside in found.values()) == 1).all()
    cells = [(q, r) for q in setup.chances for r in setup.ratios]
    for name, inside in found.items():
        for (q, r), there in zip(cells, inside.tolist(), strict=True):
            if there and r > 1.01:
                low, high = (np.interp(r, *line) for line in (second, first))
                assert {"below": q < 1.01 * low, "between": 0.99 * low < q < 1.01 * high, "above": q > 0.99 * high}[
                    name
                ]


def test_shares_in_regions_count_live_seeds_there():
    setup = chapter.Setup(TINY)
    above = chapter.regions(setup)["above"]
    rows = [("sum, alone", "both, sum") if there else ("dead", "dead") for there in above.tolist()]
    cells = in_cells(*rows)
    one = replace(
        cells, reading=replace(cells.reading, absorption=torch.tensor([1.0, 0.0]).double().expand(len(rows), 2))
    )
    shares = chapter.region_shares(setup, one)
    assert shares["above"] == shares["above_done"] == 0.5 and math.isnan(shares["below"])
    assert shares["live"] == pytest.approx(float(above.double().mean())) and shares["converged"] == 1
    assert chapter.late_shares(setup, {"": one}) == (0.5, 1, 1)
    undone = replace(one, converged=torch.zeros(len(rows), 2).bool())
    assert math.isnan(chapter.region_shares(setup, undone)["above_done"])
    assert chapter.late_shares(setup, {"": one, "more": undone}) == (0.5, 1, 0.5)


def test_company_counts_each_childs_inputs_apart():
    # A parent with two children: the first one's latent takes its parent's place, the second one's does not.
    acts = torch.tensor([[1.0, 0, 0], [1, 1, 0], [1, 0, 1]]).double()
    states, dictionary = States(acts, torch.full((3,), 1 / 3).double()), torch.eye(3).double()
    encoder = torch.tensor([[1.0, 0, 0], [-1, 1, 0], [0, 0, 1]]).double()
    sae = SAE(encoder[None], zeros(1, 3), dictionary[None], zeros(1, 3))
    rates = chapter.company_rates(sae, states, dictionary, [None, 0, 0])
    assert (rates.first, rates.others, rates.live.tolist()) == (1, 0, [True])
    dead = chapter.company_rates(replace(sae, W_enc=0 * sae.W_enc), states, dictionary, [None, 0, 0])
    assert math.isnan(dead.first) and dead.live.tolist() == [False]


def test_the_ends_of_what_varies():
    some = torch.tensor([[0.0, 0, 0], [0.25, math.nan, 0.75]]).double()
    assert chapter.Varied(some, some).ends == (0.25, 0.75)
    assert all(map(math.isnan, chapter.Varied(some * math.nan, some).ends))


# The experiments, at tiny size


@pytest.fixture(scope="module")
def setup():
    return chapter.Setup(TINY)


@pytest.fixture(scope="module")
def runs(setup):
    return chapter.main_runs(setup)


def same(found, run, i=0):
    """Whether what was found are the SAEs of this run."""
    return torch.equal(found.reading.decoder, metrics.decoder_cosines(run.sae[i], chapter.Setup(TINY).dictionary))


def test_main_runs(setup, runs):
    assert len(runs) == 4 * 2 * 2 and {len(some.live) for some in runs.values()} == {6, 1}
    equal = Setting(setup.kinds["standard, penalty"], setup.cases["equal"], setup.dictionary)
    run = train(equal, setup.starts["near the truth"], TrainConfig(30))
    found = runs["standard, penalty", "near the truth", "equal"]
    torch.testing.assert_close(
        found.reading.decoder, metrics.decoder_cosines(run.sae[0], setup.dictionary), rtol=0, atol=1e-9
    )
    path = runs["Matryoshka", "random", "loud"].path
    assert path.W_dec.shape == (len(setup.steps), 6, 2, 20) and setup.steps[-1] == 30
    lines = chapter.report(runs).splitlines()
    assert len(lines) == 2 + 16 and lines[0].startswith("random: ") and lines[0].endswith(" of 48 SAEs converged")
    assert lines[1].endswith(" of 8 SAEs converged") and lines[2].startswith("Matryoshka, random, loud: both latents")


def test_the_loud_child_is_absorbed_and_the_equal_one_is_not():
    setup = chapter.Setup(replace(TINY, n_seeds=24, n_steps=800))
    found = chapter.main_runs(setup)
    loud, equal = (found["Matryoshka", "random", case] for case in setup.cases)
    assert len(loud.absorbed) >= 4 and loud.share == 1 and equal.share < 0.3
    assert found["standard, penalty", "random", "equal"].share > equal.share
    assert chapter.theory_check(setup, found)[0] < 1e-3


def test_gentle_and_sampled_runs(setup):
    gentle, sampled = chapter.gentle_run(setup), chapter.sampled_runs(setup)
    assert gentle.live.shape == (6,)
    assert same(gentle, train(setup.loud, setup.near_truth, TrainConfig(30, lr=0.002)))
    assert [(key, len(found.live)) for key, found in sampled.items()] == [
        (("Matryoshka", "random"), 6), (("standard, penalty", "random"), 6),
        (("Matryoshka", "near the truth"), 1), (("standard, penalty", "near the truth"), 1),
    ]  # fmt: skip
    settings = [setup.loud, replace(setup.loud, sae=setup.kinds["standard, penalty"])]
    run = train(settings, setup.starts["random"], TrainConfig(30, batch_size=10, seed=2000))
    assert same(sampled["standard, penalty", "random"], run, 1)


def test_fresh_seeds(setup):
    fresh = chapter.fresh_run(setup)
    assert len(fresh.live) == 12 and len(fresh.path.W_dec) == len(setup.beginning.snapshots)
    again = random_start(setup.kinds["Matryoshka"], range(2006, 2018))
    assert torch.equal(again.W_enc, setup.fresh_start.W_enc), "none of them is a seed of the main runs"
    acts = again.encode(setup.cases["loud"].inputs(setup.dictionary)) > 1e-6
    alone = (acts[:, ALONE] & ~acts[:, SUM]).any(-1)
    assert chapter.begins_alone(setup).equal(alone) and alone.any() and not alone.all()


def test_laws(setup):
    laws = chapter.laws(setup)
    trainers, numbers = ("gradient descent", "Adam"), ("expected square", "awaited eigenvalue")
    assert list(laws) == [(trainer, number) for trainer in trainers for number in numbers]
    square = laws["Adam", "expected square"]
    assert square.sizes.shape == square.times.shape and len(square.sizes) <= len(setup.law_states) == 6
    total = 0.3 * setup.power
    assert square.sizes.sum(1).tolist() == pytest.approx([total] * len(square.sizes)), (
        "the power is the same everywhere"
    )


def test_gradient_descent_waits_for_the_eigenvalue():
    law = chapter.laws(chapter.Setup(replace(TINY, n_sweep_seeds=8, n_steps=400)))[
        "gradient descent", "awaited eigenvalue"
    ]
    assert law.rank < -0.8 and law.power == pytest.approx(-1, abs=0.35)


def test_the_phase_diagram(setup):
    phase, standard = chapter.phase_runs(setup), chapter.standard_run(setup)
    assert list(phase) == ["Matryoshka, random", "Matryoshka, near the truth"]
    assert all(cells.live.shape == (9 * 5, 1) for cells in phase.values()) and standard.live.shape == (5 * 3, 1)
    assert chapter.share_map(standard).shape == (15,)


def test_company(setup):
    rates = chapter.company_runs(setup)
    assert list(rates)[:3] == [("family", "random", "loud"), ("family", "random", "equal"),
                               ("family", "near the truth", "loud")]  # fmt: skip
    assert [len(rates[place, start, "loud"].live) for place in ("family", "tree") for start in setup.starts] == [
        2,
        2,
        1,
        1,
    ]
    near = rates["family", "near the truth", "equal"]
    assert near.live.all() and near.others == 0


def test_magnitudes_that_vary(setup):
    varied = chapter.varied_runs(setup)
    assert list(varied) == ["Matryoshka, random", "Matryoshka, near the truth", "standard + penalty, random"]
    assert all(run.absorption.shape == run.child.shape == (2, 1) for run in varied.values())
    assert [node.magnitude_std for node in setup.varied[-1] if node.is_read_out] == [1, 5]


def test_another_order():
    random, near, setup = seeds("both, sum"), seeds("sum, alone"), chapter.Setup(replace(TINY, inner_weight=0.5))
    found = chapter.order_runs(setup, random, near)
    assert found["as above", "random"] is random and found["as above", "near the truth"] is near
    assert {name for name, _ in found} == {"as above", "inner prefix weighs 8", "re-sorted", "widths 2 and 3",
                                           "widths 2 and 3, penalty"}  # fmt: skip
    assert found["widths 2 and 3", "random"].reading.acts.shape == (2, 3, 3)
    heavy = replace(setup.loud, sae=replace(setup.loud.sae, weights=(8.0, 1.0)))
    assert same(found["inner prefix weighs 8", "near the truth"], train(heavy, setup.near_truth[:1], setup.gentle))


def test_the_most_awkward_values_run_through():
    awkward = replace(
        TINY, parent_probability=1, child_probability=0.999, l1=100, n_seeds=1, n_sweep_seeds=1, n_steps=1, batch_size=1
    )
    setup = chapter.Setup(awkward)
    runs = chapter.main_runs(setup)
    chapter.theory_check(setup, runs)
    chapter.sampled_runs(setup)
    for some in chapter.learned_in_main(setup, runs).values():
        assert len(some.lead) <= 1
    assert len(chapter.fresh_run(setup).live) == 1
    chapter.laws(setup)
    for cells in [*chapter.phase_runs(setup).values(), chapter.standard_run(setup)]:
        assert cells.live.shape[1] == 1
    chapter.company_runs(setup)
    chapter.varied_runs(setup)
    chapter.order_runs(setup, runs["Matryoshka", "random", "loud"], chapter.gentle_run(setup))


# Figures


@pytest.fixture
def axes():
    """Takes a figure and returns its axes; the figure is drawn, and closed in the end."""

    def drawn_axes(figure):
        figure.draw_without_rendering()
        return [axis for axis in figure.axes if axis.get_visible()]

    yield drawn_axes
    plt.close("all")


def numbers(axis):
    return [float(text.get_text()) for text in axis.texts]


def test_decoders_and_activations_of_the_typical_seed(axes):
    shown = {"one": seeds("alone, sum", "sum, alone", "sum, alone"), "two": seeds("alone, sum")}
    one, two, _ = axes(chapter.draw_decoders(shown))
    assert (one.get_title(), two.get_title()) == ("one", "two")
    assert numbers(two) == pytest.approx([1, 0, 0.2, 0.98], abs=0.01)
    assert numbers(one) == pytest.approx([0.2, 0.98, 1, 0], abs=0.01)
    one, two, _ = axes(chapter.draw_activations(shown))
    assert numbers(two) == pytest.approx([0, 0, 2, 0, 0, 104**0.5], abs=0.01)
    assert [label.get_text() for label in one.get_yticklabels()] == chapter.STATES


def test_shares_of_seeds(axes):
    runs = {
        (kind, start, case): seeds("sum, alone", "dead") if case == "loud" else seeds("both, sum", b=2.0)
        for kind in ("one", "two") for start in ("random", "near the truth") for case in ("loud", "equal")
    }  # fmt: skip
    axis = axes(chapter.draw_shares(runs))[0]
    assert [label.get_text() for label in axis.get_xticklabels()][:2] == ["loud, random", "loud, near the truth"]
    assert numbers(axis) == [1, 1, 0, 0] * 2


@pytest.mark.parametrize("n", [1, 3, 4])
def test_curves_show_the_median_and_no_empty_panel(n, axes):
    values = np.array([[0.0, 1.0, 5.0], [2.0, 3.0, 4.0]])
    panels = {"none": {"a": np.zeros((2, 0))}} | {f"some {i}": {"a": values, "b": 2 * values} for i in range(n - 1)}
    figure = chapter.draw_curves(panels, [1, 10], "cosine")
    seen = axes(figure)
    assert len(seen) == n and len(seen[0].collections) == 0
    assert [axis.get_xlabel() for axis in seen] == [""] * (n - 2) + ["training step"] * min(n, 2)
    assert all(axis.xaxis.get_tick_params()["labelbottom"] for axis in seen[-2:])
    assert len(figure.legends) == (n > 1), "a key wherever there is a curve, though the first panel has none"
    if n > 1:
        assert seen[1].lines[0].get_ydata().tolist() == [1.0, 3.0] and seen[0].get_ylabel() == "cosine"


def test_order_and_learned(setup, runs, axes):
    seen = axes(chapter.draw_order(setup, runs))
    assert [axis.get_title() for axis in seen][::3] == [
        "Matryoshka: parent's latent",
        "standard, penalty: child's latent",
    ]
    when = chapter.learned_in_main(setup, runs)
    seen = axes(chapter.draw_learned(when, setup.steps))
    assert [axis.get_title() for axis in seen][:2] == ["Matryoshka, loud", "Matryoshka, equal"]
    alive = [axis for axis in seen if len(axis.lines) > 1]
    key = tuple(alive[0].get_title().rsplit(", ", 1))
    np.testing.assert_allclose(alive[0].lines[1].get_ydata(), np.median(when[key].share[..., 1].numpy(), 1))


def test_the_path_of_a_latent_is_that_of_its_own_seed(setup, axes):
    some = seeds("sum, alone", "alone, sum")
    runs = {(kind, "random", "loud"): some for kind in ("Matryoshka", "standard, penalty")}
    setup = replace_dictionary(chapter.Setup(TINY))
    setup.steps = (1, 2, 3)
    parents, children, *_ = axes(chapter.draw_order(setup, runs))
    assert parents.lines[0].get_ydata().tolist() == pytest.approx([1] * 3), "the parent's latent with the parent"
    assert children.lines[2].get_ydata().tolist() == pytest.approx([1] * 3), "the child's latent with the sum"


@pytest.mark.parametrize("n", [1, 3])
def test_laws_are_drawn_where_there_is_something_to_draw(n, axes):
    sizes = torch.tensor([[1.0, 2.0], [4.0, 8.0]]).double()
    full, empty = chapter.Law.of(sizes, 1 / sizes), chapter.Law.of(sizes, torch.full((2, 2), torch.inf).double())
    laws = {(f"trainer {i}", "number"): full if i == 0 else empty for i in range(n)}
    seen = axes(chapter.draw_laws(laws))
    assert [axis.get_xscale() for axis in seen] == ["log"] + ["linear"] * (n - 1)
    assert seen[0].get_title() == "trainer 0: rank correlation -1.00" and seen[0].get_xlabel() == "number"
    assert seen[0].collections[1].get_offsets().tolist() == [[2, 0.5], [8, 0.125]]


def test_maps_draw_cells_and_of_the_lines_what_lies_inside(setup, axes):
    values = torch.linspace(0, 1, 45).double()
    values[3] = math.nan
    one, two, bar = axes(chapter.draw_maps(setup, {"one": values, "two": values}, "share that absorbs"))
    cells = one.collections[0].get_array()
    assert cells.shape == (5, 9) and cells.mask.sum() == 1 and cells[1, 0] == pytest.approx(9 / 44)
    *lines, star = one.lines
    assert len(lines) == 3 and all(np.nanmax(line.get_ydata()) <= 0.98 for line in lines)
    assert np.isnan(lines[0].get_ydata()).any(), "the line leaves the map"
    assert (star.get_xdata()[0], star.get_ydata()[0]) == (5, 0.5)
    assert (one.get_ylabel(), two.get_ylabel(), bar.get_ylabel()) == (
        "child probability given the parent", "", "share that absorbs",
    )  # fmt: skip
    assert one.collections[0].get_clim() == (0, 1)
    coarse = axes(chapter.draw_maps(setup, {"one": values[:15]}, "a cosine", every=2))[0].collections[0]
    assert coarse.get_array().shape == (3, 5) and coarse.get_clim() == (-1, 1)


def test_company_and_what_varies_and_options(axes):
    live = torch.ones(1).bool()
    rates = {
        (place, "random", case): chapter.Company(first, 0.25, live)
        for place, first in [("family", 1.0), ("tree", 0.5)] for case in ("loud", "equal")
    }  # fmt: skip
    axis = axes(chapter.draw_company(rates))[0]
    assert numbers(axis) == [1, 0.25, 1, 0.25, 0.5, 0.25, 0.5, 0.25]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["family, random", "tree, random"]
    some = torch.tensor([[0.0, 0.5], [math.nan, 1.0]]).double()
    left, right = axes(chapter.draw_varied(np.array([0.0, 0.5]), {"a": chapter.Varied(some, 1 - some)}))
    assert left.get_ylabel() == "absorption rate" and left.containers[0][0].get_ydata().tolist() == [0.25, 1]
    assert right.containers[0][0].get_ydata().tolist() == [0.75, 0]
    options = {
        ("a", "random"): seeds("sum, alone"),
        ("a", "near"): seeds("dead", "both, sum"),
        ("b", "random"): seeds("dead"),
    }
    axis = axes(chapter.draw_options(options))[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["a", "b"]
    assert numbers(axis)[0] == 1
