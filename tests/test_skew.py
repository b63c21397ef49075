"""A loud child: closed forms against trained SAEs, and the measures of the chapter by hand."""

import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from matryoshka_mixing import metrics, plotting, theory
from matryoshka_mixing.features import States, family, orthonormal_dictionary, retuned, twenty_feature_tree
from matryoshka_mixing.sae import SAE, SAEConfig, random_start
from matryoshka_mixing.training import Setting, TrainConfig, train

PLANE = orthonormal_dictionary(2, 6, torch.Generator().manual_seed(0))
FIRES = {"both, sum": (6, 4), "both, alone": (6, 2), "sum, alone": (4, 2), "alone, sum": (2, 4)}
"""The firing code of each latent in each solution; the states are nothing, the parent alone, the sum."""


def skewed(q, a, b, p=0.3):
    return family(p, q, 1, parent_magnitude=a, child_magnitude=b).states()


def exact_start(decoder, fires, a, b):
    """An SAE in feature space with the given decoder whose latents fire on the given states and no others."""
    states = torch.tensor([[a, 0.0], [a, b]], dtype=torch.float64)
    wanted = torch.empty(2, 2, dtype=torch.float64)
    for k, code in enumerate(fires):
        for s, state in enumerate(states):
            rest = state - (wanted[s, 0].relu() * decoder[0] if k else 0)
            wanted[s, k] = rest @ decoder[k] if code & 2 << s else -0.3 * state.norm()
    encoder = torch.linalg.solve(states, wanted)
    return SAE(
        (PLANE.T @ encoder)[None], torch.zeros(1, 2).double(), (decoder @ PLANE)[None], torch.zeros(1, 6).double()
    )


@pytest.mark.parametrize("name", FIRES)
@pytest.mark.parametrize(("q", "a", "b", "beta"), [(0.5, 2, 10, 1), (0.5, 2, 2, 1), (0.1, 1, 3, 0.5), (0.8, 1, 0.5, 4)])
def test_each_solution_is_a_local_minimum_that_training_keeps(name, q, a, b, beta):
    states = skewed(q, a, b)
    config = SAEConfig(6, (1, 2), (beta, 1.0), encoder_bias=False, decoder_bias=False)
    loss, decoder = theory.skew_solutions(0.3, q, a, b, beta)[name]
    start = exact_start(decoder, FIRES[name], a, b)
    setting = Setting(config, states, PLANE)
    still = train(setting, start, TrainConfig(1, lr=1e-12))
    assert float(still.loss) == pytest.approx(loss, rel=1e-6)
    assert float(still.grad_norm) < 1e-6, "a stationary point"
    generator = torch.Generator().manual_seed(1)
    noisy = start.map(
        lambda parameter: (
            parameter.expand(8, *parameter.shape[1:])
            + 0.001 * torch.randn(8, *parameter.shape[1:], dtype=torch.float64, generator=generator)
        )
    )
    noisy = SAE(noisy.W_enc, torch.zeros(8, 2).double(), noisy.W_dec, torch.zeros(8, 6).double())
    run = train(setting, noisy, TrainConfig(2000, lr=0.002))
    assert torch.allclose(run.loss, torch.tensor(loss, dtype=torch.float64), rtol=1e-6)
    cosines = metrics.decoder_cosines(run.sae[0], PLANE)
    assert (cosines - decoder).abs().max() < 1e-6


@pytest.mark.parametrize(("q", "r"), [(0.5, 5.0), (0.1, 2.0), (0.9, 0.5)])
def test_the_narrow_optimum_and_its_turn(q, r):
    states = skewed(q, 1.0, r)
    optimum = theory.narrow_optimum(states)
    assert float(optimum[1] / optimum[0]) == pytest.approx(theory.skew_ratio(r, q), rel=1e-12)
    config = SAEConfig(6, (1,), encoder_bias=False, decoder_bias=False)
    run = train(Setting(config, states, PLANE), random_start(config, range(12)), TrainConfig(2000))
    live = metrics.live(run.sae[0].encode(states.inputs(PLANE)))[:, 0]
    best = run.loss[0, live].min()
    found = metrics.decoder_cosines(run.sae[0], PLANE)[live][run.loss[0, live] < best + 1e-9]
    assert len(found) and (found[:, 0] - optimum).abs().max() < 1e-6


@pytest.mark.parametrize(("alone", "together"), [(1, 1), (2, 1), (1, 2), (1.5, 0.5)])
@pytest.mark.parametrize("r", [1.5, 4.0, 16.0])
def test_the_turn_is_where_the_latent_lies_half_way(r, alone, together):
    q = theory.skew_turn(r, alone, together)
    assert theory.skew_ratio(r, q, alone, together) == pytest.approx(1, rel=1e-12)
    assert theory.skew_ratio(r, min(1.2 * q, 1), alone, together) > 1 > theory.skew_ratio(r, 0.8 * q, alone, together)


def test_a_narrow_sae_turns_where_the_expected_squares_are_equal():
    assert theory.skew_turn(4.0) == pytest.approx(1 / 16)
    quiet = [theory.skew_turn(r, 1, 2) for r in (0.25, 0.5, 0.9)]
    assert not any(0 <= q <= 1 for q in quiet), "a quiet child never takes the latent"


@pytest.mark.parametrize("beta", [0.25, 1.0, 8.0])
@pytest.mark.parametrize("r", [0.5, 1.0, 5.0])
def test_the_losses_cross_where_both_states_have_the_same_power(r, beta):
    q = theory.skew_crossing(r)
    for share, lower in [(1.0, None), (0.9, "both, sum"), (1.1, "both, alone")]:
        found = theory.skew_solutions(0.3, share * q, 1.0, r, beta)
        sums, alone = found["both, sum"][0], found["both, alone"][0]
        if lower is None:
            assert sums == pytest.approx(alone, rel=1e-9)
        else:
            assert min(found, key=lambda name: found[name][0]) == lower


def test_the_saving_of_absorption_is_that_of_two_saes_built_by_hand():
    a, b, q = 2.0, 3.0, 0.4
    states = skewed(q, a, b)
    clean = SAE(PLANE.T, torch.zeros(2).double(), PLANE, torch.zeros(6).double())
    total = (a * PLANE[0] + b * PLANE[1]) / math.hypot(a, b)
    rows = torch.stack([PLANE[0] - a / b * PLANE[1], PLANE[1] * math.hypot(a, b) / b])
    absorbed = SAE(rows.T, clean.b_enc, torch.stack([PLANE[0], total]), clean.b_dec)
    config = SAEConfig(6, (2,), l1=1.0)
    costs = [float(sae.loss(states.inputs(PLANE), states.probs, config)) for sae in (clean, absorbed)]
    assert theory.absorption_saving(b / a, q) == pytest.approx(1 - costs[1] / costs[0])


def test_a_feature_waits_for_the_eigenvalue_that_completes_its_share():
    # Eigenvalues 3 and 1 along the diagonals: the first leaves half of 1 missing, a quarter of each expected square.
    diagonal = torch.tensor([[2.0, 1.0], [1.0, 2.0]]).double()
    assert theory.awaited_eigenvalues(diagonal, 0.74).tolist() == pytest.approx([3, 3])
    assert theory.awaited_eigenvalues(diagonal, 0.76).tolist() == pytest.approx([1, 1])
    apart = torch.diag(torch.tensor([2.0, 5.0, 1.0])).double()
    assert theory.awaited_eigenvalues(apart).tolist() == pytest.approx([2, 5, 1]), "each waits for its own"
    always = theory.second_moment(skewed(1.0, 2.0, 10.0))
    assert theory.awaited_eigenvalues(always).tolist() == pytest.approx([0.3 * 104] * 2), "they are one direction"
    with pytest.raises(ValueError, match="share is 1"):
        theory.awaited_eigenvalues(diagonal, 1)


def test_codes_tell_which_states_a_latent_fires_on():
    acts = torch.tensor([[0.0, 0, 0, 0], [1, 0, 2, 0], [3, 4, 0, 0]], dtype=torch.float64)
    assert metrics.firing_code(acts).tolist() == [6, 4, 2, 0]


def test_what_is_explained_by_hand():
    states = States(torch.tensor([[2.0, 0], [2, 4]]).double(), torch.tensor([0.5, 0.5]).double())
    plane = torch.eye(2).double()
    # One latent holds the parent at half its size; the child's is perfect.
    decoder = torch.diag(torch.tensor([0.5, 1.0])).double()
    half = SAE(plane, torch.zeros(2).double(), decoder, torch.zeros(2).double())
    assert metrics.explained(half, states, plane, plane).tolist() == pytest.approx([0.75, 1.0])
    diagonal = torch.tensor([[0.5**0.5, 0.5**0.5]]).double()
    # Along the diagonal 1 / sqrt 2 is left of sqrt 2 and of 3 sqrt 2.
    assert metrics.explained(half, states, plane, diagonal).tolist() == pytest.approx([1 - 0.5 / 10])


def test_the_first_step_reached():
    values = torch.tensor([[[0.1, 0.9, 0.0]], [[0.5, 0.2, 0.1]], [[0.7, 0.95, 0.2]]]).double()
    assert metrics.first_reached(values, [1, 2, 5], 0.5).tolist() == [[2, 1, math.inf]]


def test_snapshots_are_what_a_shorter_run_returns():
    config = SAEConfig(6, (1, 2))
    setting, start = Setting(config, skewed(0.5, 2.0, 10.0), PLANE), random_start(config, range(5))
    schedule = {"warmup": 0, "cooldown": 0}
    run = train([setting] * 2, start, TrainConfig(20, snapshots=(3, 20), **schedule))
    assert run.path.W_enc.shape == (2, 2, 5, 6, 2)
    for i, steps in enumerate((3, 20)):
        short = train([setting] * 2, start, TrainConfig(steps, **schedule))
        assert all(
            torch.equal(a[i], b)
            for a, b in zip(run.path.parameters.values(), short.sae.parameters.values(), strict=True)
        )
    assert train(setting, start, TrainConfig(5)).path.W_enc.shape == (0, 1, 5, 6, 2)


@pytest.mark.parametrize("snapshots", [(0,), (21,), (5, 3), (3, 3)])
def test_bad_snapshots_are_refused(snapshots):
    with pytest.raises(ValueError, match="whole numbers from 1 to 20 that strictly increase"):
        TrainConfig(20, snapshots=snapshots)


def test_resorting_orders_latents_by_what_they_reconstruct():
    states = skewed(0.5, 2.0, 10.0)
    truth = SAE(PLANE.T[None], torch.zeros(1, 2).double(), PLANE[None], torch.zeros(1, 6).double())
    swapped = metrics.resorted(truth, states, PLANE)
    assert torch.equal(metrics.decoder_cosines(swapped, PLANE)[0].round(), torch.eye(2).double().flip(0))
    x = states.inputs(PLANE)
    assert torch.allclose(swapped.decode(swapped.encode(x)), x), "the whole SAE reconstructs as before"
    again = metrics.resorted(swapped, states, PLANE)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters.values(), swapped.parameters.values(), strict=True))


def test_one_feature_of_a_tree_is_retuned():
    tree = retuned(family(0.3, 0.2, 3, parent_magnitude=2.0), "child 2", magnitude_mean=7.0, magnitude_std=0.5)
    assert [node.magnitude_mean for node in tree if node.is_read_out] == [2.0, 1.0, 7.0, 1.0]
    assert [node.magnitude_std for node in tree if node.is_read_out] == [0.0, 0.0, 0.5, 0.0]
    with pytest.raises(ValueError, match="0 features are called 'child 9'"):
        retuned(tree, "child 9", magnitude_mean=1.0)


def test_the_posts_tree():
    tree = twenty_feature_tree()
    assert tree.n_features == 20 and tree.parents().count(None) == 11
    acts = tree.sample(200_000, torch.Generator().manual_seed(0))
    # Three families of 0.15 (1 + 0.6) and eight features of 0.05.
    assert float(acts.sum(1).mean()) == pytest.approx(1.12, abs=0.01)


def test_a_phase_map_draws_cells_and_only_what_lies_inside():
    x, y = np.array([0.5, 1.0, 2.0]), np.array([0.1, 0.5, 0.9])
    cells = np.array([[0.0, 0.5, np.nan], [0.0, 1.0, 1.0], [0.0, 1.0, 1.0]])
    curve = np.array([1.0, 2.0]), np.array([0.5, 1.7])
    figure = plotting.phase_maps({"one": cells}, x, y, {"c": curve}, "x", "y", quantity="share", mark=(1.0, 0.5))
    axis = figure.axes[0]
    drawn = axis.collections[0].get_array()
    assert drawn.mask.sum() == 1 and float(drawn.max()) == 1
    assert np.isnan(axis.lines[0].get_ydata()).tolist() == [False, True]
    plt.close(figure)


def test_learning_curves_draw_the_median_and_skip_what_is_empty():
    values = np.array([[0.0, 1.0, 5.0], [2.0, 3.0, 4.0]])
    panels = {"some": {"a": values}, "none": {"a": np.zeros((2, 0))}}
    figure = plotting.learning_curves(panels, [1, 10], "cosine")
    assert figure.axes[0].lines[0].get_ydata().tolist() == [1.0, 3.0]
    assert len(figure.axes[1].collections) == 0
    plt.close(figure)


def test_a_log_scatter_is_linear_where_it_is_empty():
    full, empty = (np.array([1.0, 2.0]), np.array([3.0, np.nan])), (np.array([np.nan]), np.array([1.0]))
    panels = [{"title": "", "xlabel": "x", "ylabel": "y", "series": {"s": points}} for points in (full, empty)]
    figure = plotting.log_scatter(panels)
    assert [axis.get_xscale() for axis in figure.axes] == ["log", "linear"]
    plt.close(figure)
