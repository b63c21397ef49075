"""A loud child: closed forms against trained SAEs, the measures by hand, every experiment and every figure once."""

import math
from dataclasses import replace
from pathlib import Path

import jupytext
import numpy as np
import pytest
import torch
from hypothesis import Phase
from hypothesis import given as drawn
from hypothesis import settings as how
from hypothesis import strategies as st

from matryoshka_mixing import metrics, theory
from matryoshka_mixing.chapters import basins, standard_sae_absorbs
from matryoshka_mixing.chapters import magnitude_skew as chapter
from matryoshka_mixing.features import States, family, orthonormal_dictionaries, orthonormal_dictionary
from matryoshka_mixing.sae import SAE, SAEConfig, random_start, start_near
from matryoshka_mixing.training import Setting, TrainConfig, train

NOTEBOOK = Path(__file__).parents[2] / "notebooks/05_magnitude_skew.py"
PLANE = orthonormal_dictionary(2, 6, 0)
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


def found(saes, settings, b, converged):
    reading = metrics.read(saes, [chapter.pair_states(0.3, 0.5, 2.0, b)] * settings, PLANE, chapter.PARENTS)
    done = torch.full(saes.instances, converged)
    path = SAE.stack([saes] * 3)  # every snapshot is the end
    path = path.map(lambda parameter: parameter.movedim(0, 2))
    plane = PLANE.expand(*saes.instances, 2, 6)
    return chapter.Found(reading.decoder, reading.acts, reading.absorption, done, path, plane)


def seeds(*names, b=10.0, converged=True):
    """What is found if the seeds end in these solutions."""
    return found(SAE.stack([sae_of(*names, b=b)]), 1, b, converged)[0]


def in_cells(*rows, b=10.0):
    """What is found in cells whose seeds end in these solutions."""
    made = {row: sae_of(*row, b=b) for row in set(rows)}
    return found(SAE.stack([made[row] for row in rows]), len(rows), b, True)


def ratio_of(r, q, alone=1.0, together=1.0):
    """The page's formula for t, where the best latent that fires on both states is parent + t child."""
    difference = together * q * (r**2 - 1) - alone * (1 - q)
    return (difference + (difference**2 + 4 * together**2 * q**2 * r**2) ** 0.5) / (2 * together * q * r)


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
def test_the_formula_of_the_page_is_the_first_latent_of_each_solution(q, r):
    narrow = theory.top_eigenvector(theory.second_moment(chapter.pair_states(0.3, q, 1.0, r)))
    assert float(narrow[1] / narrow[0]) == pytest.approx(ratio_of(r, q), rel=1e-12)
    for beta in (0.5, 3.0):
        found = chapter.skew_solutions(0.3, q, 1.0, r, beta)
        for name, weights in [("both, sum", (1 + beta, beta)), ("both, alone", (beta, 1 + beta))]:
            first = found[name][1][0]
            assert float(first[1] / first[0]) == pytest.approx(ratio_of(r, q, *weights), rel=1e-12)


@pytest.mark.parametrize(("q", "r"), [(0.5, 5.0), (0.9, 0.5)])
def test_training_finds_the_narrow_optimum(q, r):
    states, config = chapter.pair_states(0.3, q, 1.0, r), SAEConfig(6, (1,), encoder_bias=False, decoder_bias=False)
    run = train(Setting(config, states, PLANE), random_start(config, range(12)), TrainConfig(2000))
    live = metrics.live(run.sae[0].encode(states.inputs(PLANE)))[:, 0]
    best = run.loss[0, live].min()
    found = metrics.decoder_cosines(run.sae[0], PLANE)[live][run.loss[0, live] < best + 1e-9]
    assert len(found) and (found[:, 0] - theory.top_eigenvector(theory.second_moment(states))).abs().max() < 1e-6


@pytest.mark.parametrize(("alone", "together"), [(1, 1), (2, 1), (1, 2), (1.5, 0.5)])
@pytest.mark.parametrize("r", [1.5, 4.0, 16.0])
def test_the_turn_is_where_the_latent_lies_half_way(r, alone, together):
    q = chapter.skew_turn(r, alone, together)
    assert ratio_of(r, q, alone, together) == pytest.approx(1, rel=1e-12)
    above, below = (ratio_of(r, share * q, alone, together) for share in (1.0001, 0.8))
    assert above > 1 > below


def test_a_narrow_sae_turns_where_the_expected_squares_are_equal():
    assert chapter.skew_turn(4.0) == pytest.approx(1 / 16)
    quiet = [chapter.skew_turn(r, 1, 2) for r in (0.25, 0.5, 0.9)]
    assert not any(0 <= q <= 1 for q in quiet), "a quiet child never takes the latent"


def test_the_lines_of_the_phase_diagram_are_the_turns_of_the_first_latents():
    narrow, second, first = chapter.turns(3.0).values()
    i = 200
    for (x, y), weights in [(narrow, (1, 1)), (second, (3, 4)), (first, (4, 3))]:
        assert ratio_of(x[i], y[i], *weights) == pytest.approx(1)


@pytest.mark.parametrize("beta", [0.25, 1.0, 8.0])
@pytest.mark.parametrize("r", [0.5, 1.0, 5.0])
def test_the_losses_cross_where_both_states_have_the_same_power(r, beta):
    q = 1 / (2 + r**2)  # as the page says
    for share, lower in [(1.0, None), (0.9, "both, sum"), (1.1, "both, alone")]:
        found = chapter.skew_solutions(0.3, share * q, 1.0, r, beta)
        sums, alone = found["both, sum"][0], found["both, alone"][0]
        if lower is None:
            assert sums == pytest.approx(alone, rel=1e-9)
        else:
            assert min(found, key=lambda name: found[name][0]) == lower


def test_a_feature_waits_for_the_eigenvalue_that_completes_its_share():
    # Eigenvalues 3 and 1 along the diagonals: the first leaves half of 1 missing, a quarter of each expected square.
    close(chapter.awaited_eigenvalues(torch.tensor([[2.0, 1.0], [1.0, 2.0]]).double()), [1, 1])
    # With 19.5 and 0.5 it leaves a fortieth.
    close(chapter.awaited_eigenvalues(torch.tensor([[10.0, 9.5], [9.5, 10.0]]).double()), [19.5, 19.5])
    close(chapter.awaited_eigenvalues(torch.diag(torch.tensor([2.0, 5.0, 1.0])).double()), [2, 5, 1])
    always = theory.second_moment(chapter.pair_states(0.3, 1.0, 2.0, 10.0))
    close(chapter.awaited_eigenvalues(always), [0.3 * 104] * 2)  # they are one direction


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
    experiments = [
        chapter.main_runs, chapter.gentle_run, chapter.slow_run, chapter.sampled_runs, chapter.fresh_run, chapter.laws,
        chapter.phase_runs, chapter.company_runs, chapter.order_runs,
    ]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chapter, "train", begin)
        for experiment in experiments:
            with pytest.raises(Reached):
                experiment(setup)


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
    assert standard_sae_absorbs.labels(ours, chapter.NAMES) == chapter.STATES


def test_a_parent_that_always_fires_keeps_its_place_among_the_states():
    assert chapter.pair_states(1.0, 0.5, 2.0, 7.0).probs.tolist() == [0, 0.5, 0.5]


def test_every_cell_has_the_power_of_the_case_and_its_own_ratio_and_chance():
    setup = chapter.Setup(TINY)
    for states, (y, x) in zip(setup.cells, [(y, x) for y in setup.chances for x in setup.ratios], strict=True):
        assert states.power == pytest.approx(setup.cases["loud"].power)
        alone, total = states.acts[1:].tolist()
        assert (total[1] / alone[0], float(states.probs[SUM]) / 0.3) == pytest.approx((x, y))
    assert len(setup.cells) == 7 * 5


@pytest.mark.parametrize(
    ("n_steps", "early"), [(1, 1), (2, 1), (100, 40), (2000, 300), (4000, 300), (15_001, 301), (10**6, 20_000)]
)
def test_the_beginning_follows_the_usual_schedule(n_steps, early):
    setup = chapter.Setup(replace(TINY, n_steps=n_steps))
    assert setup.beginning.steps == early
    for step in {0, early // 2, early - 1}:
        assert setup.beginning.learning_rate(step) == pytest.approx(setup.exact.learning_rate(step))


def test_gradient_descent_goes_as_far_whatever_the_magnitude():
    rates = [
        chapter.Setup(replace(TINY, parent_magnitude=a, child_magnitude=a)).law_schedules["gradient descent"].lr * a**2
        for a in (0.01, 1000.0)
    ]
    assert rates[0] == pytest.approx(rates[1])


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
    assert some.absorbs.tolist() == [False, False, True, True, True], "a parent without a latent is missing"
    assert some.rates.tolist() == [0, 1, 1, 1]
    assert (some.share, some.tally) == (0.75, "3 of 4")
    assert some.first_on_both.tolist() == [True, False, False, False, False]
    root = 0.5**0.5
    close(some.first_with("parent")[1:], [root, 1, root])
    close(some.first_with("child")[1:], [root, 0, root])
    assert chapter.typical(some) == 2, "the dead seed does not count"


def test_where_no_seed_is_live_nothing_is_known_and_nothing_fails():
    none = seeds("dead", "dead")
    assert math.isnan(none.share) and none.tally == "0 of 0"
    assert chapter.typical(none) == 0
    share = chapter.learned(none, chapter.pair_states(0.3, 0.5, 2.0, 10.0))
    assert share.shape == (0, 3, 2) and chapter.leads(chapter.when_learned(share, [1, 2, 3])).shape == (0,)


@pytest.mark.parametrize(
    ("value", "form", "text"),
    [(0.126, ".0%", "13%"), (math.nan, ".0%", "none"), (1e-12, "", "below 1e-08"), (2, ".1f", "2.0")],
)
def test_numbers_in_prose(value, form, text):
    assert chapter.told(value, form) == chapter.told(torch.tensor(value).double(), form) == text


def test_an_sae_of_three_latents_counts_as_live_with_two():
    rows, states = torch.cat([PLANE, -PLANE[:1]]), chapter.pair_states(0.3, 0.5, 2.0, 10.0)
    sae = SAE(rows.T[None], zeros(1, 3), rows[None], zeros(1, 6))
    reading = metrics.read(sae, states, PLANE, chapter.PARENTS)
    assert not reading.all_live
    some = chapter.Found(reading.decoder, reading.acts, reading.absorption, torch.ones(1).bool(), sae, PLANE[None])
    assert some.live.tolist() == [True]


def test_one_setting_of_many():
    cells = in_cells(("sum, alone", "dead"), ("both, sum", "both, alone"))
    one = cells[1]
    assert one.live.tolist() == [True, True] and cells.live.tolist() == [[True, False], [True, True]]
    assert one.path.instances == (2, 3) and one.dictionary.shape == (2, 2, 6)


def test_what_is_explained_by_hand():
    states = States(torch.tensor([[2.0, 0], [2, 4]]).double(), torch.tensor([0.5, 0.5]).double())
    plane = torch.eye(2).double()
    # One latent holds the parent at half its size; the child's is perfect.
    half = SAE(plane, zeros(2), torch.diag(torch.tensor([0.5, 1.0])).double(), zeros(2))
    close(chapter.explained(half, states, plane), [0.75, 1.0])


def test_every_seed_is_seen_in_its_own_directions():
    states, planes = chapter.pair_states(0.3, 0.5, 2.0, 10.0), orthonormal_dictionaries(2, 6, range(3))
    truth = SAE(planes.mT, zeros(3, 2), planes, zeros(3, 6))
    close(chapter.explained(truth, states, planes).flatten(), [1] * 6)
    assert chapter.explained(truth, states, planes.flip(0))[0].max() < 0.9


def test_the_first_step_reached():
    share = torch.tensor([[[0.1, 0.95], [0.92, 0.2], [0.99, 0.95]], [[0.0, 0.0], [0.0, 0.8], [0.0, 0.9]]]).double()
    when = chapter.when_learned(share, [1, 2, 5])
    assert when.tolist() == [[2, 1], [5, 5]], "never is the last step looked at"
    assert chapter.leads(when).tolist() == [2, 1]


def test_when_both_features_are_learned():
    some, states = seeds("alone, sum", "dead"), chapter.pair_states(0.3, 0.5, 2.0, 10.0)
    some.path.W_dec[:, 0] *= 0  # nothing at first
    some.path.W_enc[:, 1, ..., 0] *= 0  # then the sum, which leaves half of the parent's square
    share = chapter.learned(some, states)
    close(share.flatten(), [0, 0, 0.5, 1, 1, 1])
    assert chapter.when_learned(share, [1, 4, 9]).tolist() == [[9, 4]]


def test_seeds_are_held_against_the_nearest_solution_if_live_and_converged():
    setup, none = chapter.Setup(TINY), seeds("both, sum", converged=False)
    starts = ("random", "near the truth")
    runs = {("Matryoshka", start, case): none for start in starts for case in setup.cases}
    gap, counts = chapter.theory_check(setup, runs)
    assert math.isnan(gap) and set(counts["loud"].values()) == {0}
    runs["Matryoshka", "random", "loud"] = seeds("both, sum", "sum, alone", "dead", "sum, alone")
    gap, counts = chapter.theory_check(setup, runs)
    expected = {"both, sum": 1, "both, alone": 0, "sum, alone": 2, "alone, sum": 0}
    assert gap < 1e-12 and counts["loud"] == expected
    runs["Matryoshka", "near the truth", "equal"] = replace(seeds("sum, alone"), decoder=zeros(1, 2, 2))
    assert chapter.theory_check(setup, runs)[0] > 0.1


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
    one = replace(cells, absorption=torch.tensor([1.0, 0.0]).double().expand(len(rows), 2))
    shares = chapter.region_shares(setup, one)
    assert shares["above"] == shares["above_done"] == 0.5 and math.isnan(shares["below"])
    assert shares["live"] == pytest.approx(float(above.double().mean())) and shares["converged"] == 1
    undone = replace(one, converged=torch.zeros(len(rows), 2).bool())
    assert math.isnan(chapter.region_shares(setup, undone)["above_done"])


def test_company_counts_each_childs_inputs_apart():
    # A parent with two children: the first one's latent takes its parent's place, the second one's does not.
    acts = torch.tensor([[1.0, 0, 0], [1, 1, 0], [1, 0, 1]]).double()
    states, dictionary = States(acts, torch.full((3,), 1 / 3).double()), torch.eye(3).double()
    encoder = torch.tensor([[1.0, 0, 0], [-1, 1, 0], [0, 0, 1]]).double()
    sae = SAE(encoder[None], zeros(1, 3), dictionary[None], zeros(1, 3))
    assert chapter.silenced(sae, states, dictionary, [None, 0, 0]).tolist() == [[1, 0]]
    assert chapter.silenced(replace(sae, W_enc=0 * sae.W_enc), states, dictionary, [None, 0, 0]).shape == (0, 2)


# The experiments, at tiny size


@pytest.fixture(scope="module")
def setup():
    return chapter.Setup(TINY)


@pytest.fixture(scope="module")
def runs(setup):
    return chapter.main_runs(setup)


def same(some, run, i=0):
    """Whether what was found are the SAEs of this run."""
    return torch.equal(some.decoder, metrics.decoder_cosines(run.sae[i], some.dictionary))


def directions(numbers):
    return orthonormal_dictionaries(2, 20, numbers)


def test_main_runs(setup, runs):
    assert len(runs) == 4 * 2 * 2 and {len(some.live) for some in runs.values()} == {6, 1}
    equal = Setting(setup.kinds["standard, penalty"], setup.cases["equal"], directions([2000]))
    run = train(equal, start_near(directions([2000]), [2000], 0.5), TrainConfig(30))
    assert same(runs["standard, penalty", "near the truth", "equal"], run)
    some = runs["Matryoshka", "random", "loud"]
    loud = Setting(setup.kinds["Matryoshka"], setup.cases["loud"], directions(range(2000, 2006)))
    assert same(some, train(loud, random_start(loud.sae, range(2000, 2006)), TrainConfig(30)))
    assert torch.equal(some.dictionary, loud.dictionary), "every seed its own"
    assert some.path.instances == (6, len(setup.steps)) and setup.steps[-1] == 30
    first, *more = chapter.report(runs).splitlines()
    done, live = int(some.converged.sum()), int(some.live.sum())
    assert len(more) == 15 and first == f"Matryoshka, random, loud: {done} of 6 converged, {live} live"


def test_the_loud_child_is_absorbed_and_the_equal_one_is_not():
    setup = chapter.Setup(replace(TINY, n_seeds=24, n_steps=800))
    found = chapter.main_runs(setup)
    loud, equal = (found["Matryoshka", "random", case] for case in setup.cases)
    assert int(loud.live.sum()) >= 4 and loud.share == 1 and equal.share < 0.3
    assert found["standard, penalty", "random", "equal"].share > equal.share
    assert chapter.theory_check(setup, found)[0] < 1e-3


def test_gentle_and_sampled_runs(setup):
    gentle, sampled = chapter.gentle_run(setup), chapter.sampled_runs(setup)
    numbers = range(2000, 2006)
    loud = Setting(setup.kinds["Matryoshka"], setup.cases["loud"], directions(numbers))
    few = directions(numbers[:2])
    long = TrainConfig(16 * 30, lr=0.002)
    assert same(gentle, train(replace(loud, dictionary=few), start_near(few, numbers[:2], 0.5), long))
    assert [(key, len(found.live)) for key, found in sampled.items()] == [
        (("Matryoshka", "random"), 6), (("standard, penalty", "random"), 6),
        (("Matryoshka", "near the truth"), 1), (("standard, penalty", "near the truth"), 1),
    ]  # fmt: skip
    penalised = replace(loud, sae=setup.kinds["standard, penalty"])
    run = train(penalised, random_start(loud.sae, numbers), TrainConfig(30, batch_size=10, seed=2000))
    assert same(sampled["standard, penalty", "random"], run)


def test_at_a_gentle_rate_fewer_latents_die_and_more_parents_escape():
    """The usual rate kills latents in seeds that would not absorb, so that all that are left absorb."""
    small = chapter.Setup(chapter.Parameters(n_seeds=96))
    usual = chapter.main_runs(small)["Matryoshka", "random", "loud"]
    slow, steps, firing = chapter.slow_run(small)
    assert steps[-1] == 8 * small.p.n_steps and slow.path.instances == (96, len(steps))
    start = random_start(small.kinds["Matryoshka"], small.seeds)
    acts = start.encode(small.cases["loud"].inputs(slow.dictionary)) > metrics.SILENT
    assert firing == int(acts.any(-2).all(-1).sum())
    assert int(usual.live.sum()) < 0.7 * firing < int(slow.live.sum()) <= firing
    assert usual.share == 1 and 0.5 < slow.share < 0.8
    assert slow.converged.double().mean() > 0.9
    half = replace(slow, converged=torch.arange(96) < 48)
    assert chapter.least_converged({("a", "b", "c"): usual}, slow, half) == 0.5


def test_fresh_seeds(setup):
    fresh, alone = chapter.fresh_run(setup)
    assert len(fresh.live) == 12 and fresh.path.instances == (12, len(setup.beginning.snapshots))
    numbers = range(2006, 2018)
    again = random_start(setup.kinds["Matryoshka"], numbers)
    assert torch.equal(fresh.dictionary, directions(numbers)), "none of them is a seed of the main runs"
    acts = again.encode(setup.cases["loud"].inputs(directions(numbers))) > 1e-6
    assert alone.equal((acts[:, ALONE] & ~acts[:, SUM]).any(-1)) and alone.any() and not alone.all()


def test_who_comes_first_and_what_becomes_of_the_parent(setup):
    fresh, _ = chapter.fresh_run(setup)
    lead, late = chapter.order(fresh, setup.cases["loud"], setup.beginning.snapshots)
    steps = chapter.when_learned(chapter.learned(fresh, setup.cases["loud"]), setup.beginning.snapshots)
    assert torch.equal(lead > 1, steps[:, 0] > steps[:, 1]) and len(lead) == int(fresh.live.sum())
    assert len(late) <= int((lead <= 1).sum()) and chapter.part(lead > 1) == f"{int((lead > 1).sum())} of {len(lead)}"
    descent = chapter.descent_run(setup)
    how = setup.law_schedules["gradient descent"]
    assert descent.path.W_dec.shape[1] == len(how.snapshots) and len(descent.live) == len(setup.seeds)


def test_what_fires_tells_absorbed_from_turned():
    """From near the truth the first latent turns to the loud child and goes on firing; nothing is absorbed."""
    small = chapter.Setup(chapter.Parameters(n_seeds=48, n_steps=1500))
    gentle = chapter.gentle_run(small)
    assert gentle.converged.all()
    assert int(gentle.live.sum()) > 8 and (gentle.rates < 0.1).all() and gentle.first_with("child").median() > 0.9
    states = small.cases["loud"]
    found = train(
        Setting(small.kinds["Matryoshka"], states, gentle.dictionary),
        small.begun(small.kinds["Matryoshka"], "near the truth", small.third)[0],
        small.gentle,
    )
    reading = metrics.read(found.sae[0], states, gentle.dictionary, chapter.PARENTS)
    kinds = basins.outcome(reading, states, chapter.PARENTS, (1, 2))[reading.all_live]
    assert (kinds == basins.OUTCOMES.index("parent first")).all(), "the chapter on basins calls them the same"


def test_gradient_descent_waits_for_the_eigenvalue():
    laws = chapter.laws(chapter.Setup(replace(TINY, n_sweep_seeds=8, n_steps=400)))
    trainers, numbers = ("gradient descent", "Adam"), ("expected square", "awaited eigenvalue")
    assert list(laws) == [(trainer, number) for trainer in trainers for number in numbers]
    assert laws["gradient descent", "awaited eigenvalue"] < -0.8


def test_the_phase_diagram(setup):
    phase = chapter.phase_runs(setup)
    assert {title: cells.live.shape for title, cells in phase.items()} == {
        "Matryoshka, random": (35, 2), "Matryoshka, near the truth": (35, 1), "standard + penalty, random": (35, 1),
    }  # fmt: skip


def test_company_and_other_prefixes():
    setup = chapter.Setup(replace(TINY, inner_weight=0.5, n_sweep_seeds=4))
    company = chapter.company_runs(setup)
    assert list(company) == ["tree", "tree, equal", "varied", "varied, standard"]
    assert all(rates.shape[1] == 2 for rates in company.values()) and company["varied"][:, 1].isnan().all()
    options = chapter.order_runs(setup)
    assert list(options) == ["heavy", "two", "two, penalty"] and options["two"].acts.shape == (2, 3, 3)
    sae = replace(setup.kinds["Matryoshka"], weights=(8.0, 1.0))
    heavy = Setting(sae, setup.cases["loud"], directions(range(2000, 2002)))
    assert same(options["heavy"], train(heavy, random_start(sae, range(2000, 2002)), TrainConfig(30)))


def test_the_most_awkward_values_run_through():
    awkward = replace(
        TINY, parent_probability=1, child_probability=0.999, l1=10, n_seeds=1, n_sweep_seeds=1, n_steps=1, batch_size=1
    )
    setup = chapter.Setup(awkward)
    runs = chapter.main_runs(setup)
    chapter.theory_check(setup, runs)
    chapter.sampled_runs(setup)
    assert all(len(share) <= 1 for share in chapter.learned_in_main(setup, runs).values())
    assert len(chapter.fresh_run(setup)[0].live) == 1
    assert all(map(math.isnan, chapter.laws(setup).values())), "one step has no order"
    assert all(cells.live.shape[1] == 1 for cells in chapter.phase_runs(setup).values())
    chapter.company_runs(setup)
    chapter.order_runs(setup)


# Figures


@pytest.fixture
def axes():
    """Takes a figure and returns its axes; the figure is drawn."""

    def drawn_axes(figure):
        figure.draw_without_rendering()
        return [axis for axis in figure.axes if axis.get_visible()]

    return drawn_axes


def numbers(axis):
    return [float(text.get_text()) for text in axis.texts]


def test_decoders_and_activations_of_the_typical_seed(axes):
    shown = {"one": seeds("alone, sum", "sum, alone", "sum, alone"), "two": seeds("alone, sum")}
    one, two, _ = axes(chapter.draw_typical(shown, "cosine"))
    assert (one.get_title(), two.get_title()) == ("one", "two")
    assert numbers(two) == pytest.approx([1, 0, 0.2, 0.98], abs=0.01)
    assert numbers(one) == pytest.approx([0.2, 0.98, 1, 0], abs=0.01)
    one, two, _ = axes(chapter.draw_typical(shown, "activation"))
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


@pytest.mark.parametrize("live", [0, 3])
def test_what_is_learned_is_drawn_as_medians_and_no_seed_as_nothing(live, axes):
    share = torch.tensor([[[0.0, 0.1], [0.2, 0.3]], [[0.1, 0.1], [0.3, 0.5]], [[0.5, 0.1], [0.4, 1.0]]]).double()
    shares = {("none", "loud"): share[:0]} | {(f"some {i}", "equal"): share[:live] for i in range(3)}
    figure = chapter.draw_learned(shares, [1, 10])
    first, second, *below = axes(figure)
    assert first.get_title() == "none, loud" and len(first.collections) == 0 and first.get_xscale() == "log"
    assert [axis.get_xlabel() for axis in below] == ["training step"] * 2
    assert [text.get_text() for text in figure.legends[0].get_texts()] == chapter.NAMES
    if live:
        parent, child, _ = second.lines
        assert parent.get_ydata().tolist() == [0.1, 0.3] and child.get_ydata().tolist() == [0.1, 0.5]


def test_maps_draw_cells_and_of_the_lines_what_lies_inside(setup, axes):
    values = torch.linspace(0, 1, 35).double()
    values[3] = math.nan
    one, two, bar = axes(chapter.draw_maps(setup, {"one": values, "two": values}, "share that absorbs"))
    cells = one.collections[0].get_array()
    assert cells.shape == (5, 7) and cells.mask.sum() == 1 and cells[1, 0] == pytest.approx(7 / 34, abs=1e-6)
    *lines, star = one.lines
    assert len(lines) == 3 and all(np.nanmax(line.get_ydata()) <= 0.98 for line in lines)
    assert np.isnan(lines[0].get_ydata()).any(), "the line leaves the map"
    assert (star.get_xdata()[0], star.get_ydata()[0]) == (5, 0.5)
    assert (one.get_ylabel(), two.get_ylabel(), bar.get_ylabel()) == (
        "child probability given the parent", "", "share that absorbs",
    )  # fmt: skip
    assert one.collections[0].get_clim() == (0, 1)
    assert axes(chapter.draw_maps(setup, {"one": values}, "a cosine"))[0].collections[0].get_clim() == (-1, 1)
