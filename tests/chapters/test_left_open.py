from dataclasses import replace

import allowed
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from matryoshka_mixing import claims, metrics, theory
from matryoshka_mixing.chapters import left_open as chapter
from matryoshka_mixing.chapters.left_open import data, log_losses, parent_first, remaining
from matryoshka_mixing.features import family, orthonormal_dictionaries
from matryoshka_mixing.sae import SAE, SAEConfig, random_start, start_near
from matryoshka_mixing.training import TrainConfig, descend

P = chapter.Parameters(n_seeds=12, n_sweep_seeds=2, n_steps=400, n_grid=3, batch_size=50, d_model=8)


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def by_hand(rows, states, features=3):
    """An SAE whose latents fire on the projection on their (unit) rows, in the features' own axes, and its reading."""
    decoder = torch.nn.functional.normalize(tensor(rows), dim=-1)
    zero = decoder.new_zeros
    sae = SAE(decoder.T.clone(), zero(len(rows)), decoder, zero(features))
    return metrics.read(sae, states, torch.eye(features, dtype=torch.float64), [None] + [0] * (features - 1))


@given(allowed.values(chapter.Parameters))
@settings(max_examples=15, deadline=None)
def test_every_allowed_value_can_be_set_up(values):
    p = chapter.Parameters(**values)
    assert p.seeds[0] == p.sweep_seeds[0] == p.third[0] == p.seed and len(p.third) <= len(p.seeds)
    assert len(remaining.settings_left(p)) == 9
    start = parent_first.begun("parent learned", orthonormal_dictionaries(2, p.d_model, p.third), p, p.third)
    assert start.W_dec.isfinite().all()
    assert 0 < log_losses.next_weight(1.0, p.child_probability) < 1


@pytest.mark.parametrize(("name", "value"), allowed.outside(chapter.Parameters))
def test_values_outside_are_refused(name, value):
    with pytest.raises(ValueError, match=f"^{name} = .* It must be"):
        chapter.Parameters(**{name: value})


# When a parent is kept


def test_a_latent_leads_to_one_feature_or_to_none():
    decoder = tensor([[0.9, 0.4, 0.1], [0.6, 0.6, 0.5], [-0.9, 0.4, 0.1], [0.6, -0.61, 0.5], [0, 0, 0]])
    assert data.leads(decoder, 0).tolist() == [True, False, False, False, False]
    assert data.leads(decoder, 1).tolist() == [False] * 5
    assert data.leads(-decoder, 0).tolist() == [False, False, True, False, False]


def test_kept_by_hand():
    states = family(0.5, 0.25).states()
    clean = by_hand([[1, 0, 0], [0, 1, 0], [0, 0, 1]], states)
    assert float(data.kept(clean, states, (1, 2))) == 1
    # A latent for each input that holds something: those of the children hold the parent as well, and lead to neither.
    absorbed = replace(clean, decoder=tensor([[1, 0, 0], [0.7, 0.7, 0], [0.7, 0, 0.7]]))
    absorbed.acts[:, 0] = absorbed.acts[:, 0] * (states.acts[:, 1:] == 0).all(-1)
    assert float(data.kept(absorbed, states, (1, 2))) == 0
    # One child's inputs keep it, the other's do not; each child is as likely.
    absorbed.acts[states.acts[:, 1] > 0, 0] = 1
    assert float(data.kept(absorbed, states, (1, 2))) == pytest.approx(0.5)
    assert float(data.kept(absorbed, states, (1,))) == 1 and float(data.kept(absorbed, states, (2,))) == 0


def test_only_inputs_that_hold_both_count():
    states = parent_first.alone(P, 2.0).states()
    second = by_hand([[0, 1], [1, 0]], states, 2)
    assert float(data.kept(second, states)) == 1


# A parent that is learned first


def test_the_first_latent_starts_as_what_is_learned():
    dictionary = orthonormal_dictionaries(2, P.d_model, P.third)
    random = parent_first.begun("random", dictionary, P, P.third)
    for feature, kind in enumerate(("parent learned", "child learned")):
        start = parent_first.begun(kind, dictionary, P, P.third)
        assert torch.equal(start.W_dec[:, 0], dictionary[:, feature])
        assert torch.equal(start.W_enc[:, :, 0], dictionary[:, feature])
        assert torch.equal(start.W_dec[:, 1], random.W_dec[:, 1]) and torch.equal(
            start.W_enc[..., 1], random.W_enc[..., 1]
        )


def test_the_cases_are_those_of_the_thread():
    loud, quiet = parent_first.cases(P)["loud"], parent_first.cases(P)["quiet"]
    squares = [float(tree.states().probs @ tree.states().acts[:, i] ** 2) for tree in (loud, quiet) for i in (0, 1)]
    assert squares == pytest.approx([0.3 * 4, 0.15 * 100, 0.3 * 4, 0.15 * 4])
    assert parent_first.pair(0.5, 5.0, P).states().power == pytest.approx(loud.states().power)
    assert parent_first.pair(0.5, 1.0, P).states().power == pytest.approx(loud.states().power)
    lone = parent_first.alone(P, 10.0)
    assert lone.firing_probabilities().tolist() == pytest.approx([0.3, 0.15])


def test_the_turning_lines_are_where_the_eigenvector_turns():
    for weights in ((2.0, 1.0), (1.0, 2.0)):
        for ratio in (1.5, 3.0):
            at = float(parent_first.turn(np.array([ratio]), *weights)[0])
            for chance, nearer in ((at * 0.99, 0), (min(at * 1.01, 1), 1)):
                states = parent_first.pair(chance, ratio, P).states()
                pull = tensor([0.0, *weights])
                vector = theory.top_eigenvector(theory.second_moment(states, pull))
                assert int(vector.argmax()) == nearer
    assert np.isinf(parent_first.turn(np.array([0.2]), 1, 2)[0])


def test_a_quiet_parent_keeps_its_direction_and_a_loud_one_does_not():
    p = replace(P, n_steps=2000)
    found = parent_first.main_runs(p)
    quiet, loud = found["quiet", "parent learned"], found["loud", "parent learned"]
    assert quiet.share == quiet.spared_share == 1 and loud.share == 0 and loud.firing_share == 1
    assert len(loud.live) == len(found["loud", "child learned"].live) == 12 and len(found["loud", "random"].live) == 4
    table = parent_first.table(found).splitlines()
    assert len(table) == 8 and "| loud | the parent |" in table[2] and "% | 0% | 100% |" in table[2]


def test_by_absorption_the_order_decides_beside_a_loud_child():
    """Where the child was learned first its latent takes the parent over; else most seeds are spared, not all."""
    found = parent_first.main_runs(replace(P, n_seeds=64, n_steps=2000, d_model=20))
    first, second = found["loud", "parent learned"], found["loud", "child learned"]
    assert 0.5 < first.spared_share < 1 and second.spared_share < 0.1
    assert ((first.judged < 0.1) | (first.judged > 0.9)).all(), "all or nothing"


def test_what_is_spared_is_counted_among_live_seeds_that_can_be_judged():
    live, nan = torch.tensor([True, True, True, False]), float("nan")
    some = parent_first.Runs(live, tensor([0.05, nan, 1.0, 0.0]), tensor([1, 1, 0, 1]), live, live)
    assert some.judged.tolist() == [0.05, 1.0] and some.spared_share == 0.5 and some.share == pytest.approx(2 / 3)
    none = replace(some, live=torch.zeros(4, dtype=torch.bool))
    assert np.isnan(none.spared_share)


def test_the_verdict_flips_where_the_control_is_loud():
    """A first run of the control had a loud second feature, which takes the latent without any hierarchy."""
    claim = claims.load()["parent-first-stays"]
    p = replace(P, n_seeds=24, n_steps=2000)
    controls = parent_first.controls(p)
    good = {
        "absorption_quiet": np.zeros(64),
        "absorption_loud": np.zeros(64),
        "control_absorption": np.ones(64),
        "kept_quiet": np.ones(64),
        "kept_loud": np.ones(64),
        "side_agreement": 1.0,
        "sampled_gap": 0.0,
        "converged": 1.0,
    }
    verdicts = {
        name: claims.judge(claim, good | {"control_kept": runs.values}).verdict for name, runs in controls.items()
    }
    assert verdicts == {"quiet": "supported", "loud": "inconclusive"}


def test_agreement_counts_live_seeds_outside_the_lines():
    ratios, chances = np.array([1.0, 8.0]), np.array([0.1, 0.9])
    live = torch.tensor([[True, True]] * 3 + [[True, False]])
    kept = tensor([[1, 1], [0, 1], [1, 0.5], [0, 1]])
    with_parent, done = live, live
    plane = parent_first.Plane(ratios, chances, parent_first.Runs(live, 1 - kept, kept, with_parent, done))
    assert plane.predicted.tolist() == [[1, 0], [1, 0]]
    assert plane.agreement == pytest.approx(5 / 7)  # 2 of 2, 1 of 2, 1 of 2, 1 of 1 live
    assert plane.shares.tolist() == [[1.0, 0.5], [0.5, 0.0]]
    axis = parent_first.draw_plane(plane).axes[0]
    assert [line.get_label() for line in axis.lines[:2]] == [
        "second latent completes parent + child", "second latent completes the parent"
    ]  # fmt: skip
    assert axis.collections[0].get_array().ravel().tolist() == [1.0, 0.5, 0.5, 0.0]


# The log of each prefix's loss


def test_the_log_loss_is_that_of_the_readable_form():
    states = family(0.3, 0.4).states()
    dictionary = orthonormal_dictionaries(3, 8, range(3))
    sae = random_start(SAEConfig(8, (1, 3)), range(3))
    sae.b_dec[:] = 0.01
    x = states.inputs(dictionary)
    inside, outside = tensor([0.1, 0.0, 0.0]), tensor([0.0, 0.2, 0.0])
    errors = (states.probs * sae.errors(x, (1, 3))).sum(-1)
    sizes = (states.probs * sae.penalties(x, (1, 3))).sum(-1)
    wanted = ((errors + inside[:, None] * sizes).log() + outside[:, None] * sizes).sum(-1)
    assert log_losses.log_loss(sae, x, states.probs, inside, outside).tolist() == pytest.approx(wanted.tolist())


def test_no_weight_is_a_fixed_point_without_a_penalty():
    """Each prefix's loss by hand, from the decoders that `theory` gives for the weight."""
    q, weight = 0.3, 0.7
    states = family(0.2, q).states()
    parent = theory.matryoshka_optimum(states, range(3), (1, 3), (weight, 1.0))
    left = states.acts.square().sum(-1) - (states.acts @ parent).square()
    inner = float(states.probs @ left)
    outer = float(states.probs @ (left * (states.acts[:, 1:] == 0).all(-1)))
    assert log_losses.next_weight(weight, q) == pytest.approx(outer / inner)
    assert log_losses.largest_return(np.array([0.05, q, 0.49])) < 1


@pytest.mark.usefixtures("shapes_unchecked")
def test_the_log_settles_where_its_own_weights_do():
    found = log_losses.run(replace(P, n_steps=2000, n_sweep_seeds=4))
    assert found.reweighting_gap < 1e-3
    assert (found.left(log_losses.FORMS[1]) < 0.5).all()
    assert found.arms["log, no penalty", log_losses.NEAR].mixing.abs().max() < 0.02
    assert found.control.decoder[:, 0].abs().sort(-1).values[:, -2].max() < 0.1
    assert set(log_losses.measured(found)) == {c.metric for c in claims.load()["log-of-losses"].criteria}
    axis = log_losses.draw(found).axes[0]
    assert [len(points.get_offsets()) for points in axis.collections] == [12] * 5
    assert axis.get_yticklabels()[1].get_text() == "log, penalty inside"


def test_the_control_of_the_log_mixes_where_there_is_a_hierarchy():
    criterion = next(c for c in claims.load()["log-of-losses"].criteria if c.metric == "control_mixing")
    states = family(0.3, 0.4).states()
    found = log_losses.independent(replace(P, n_sweep_seeds=4, n_steps=1000), states)
    assert (found.decoder[:, 0].abs().sort(-1).values[:, -2] > criterion.threshold).all()


@pytest.mark.usefixtures("shapes_unchecked")
def test_all_forms_side_by_side_train_as_alone():
    states = family(0.3, 0.4).states()
    dictionary = orthonormal_dictionaries(3, 8, range(2))
    near = start_near(dictionary, range(2), 0.5)
    together = log_losses.under_log(P, states, [(form, dictionary, near) for form in log_losses.FORMS[1:4]])
    x = states.inputs(dictionary)
    for sae, inside, outside in zip(together, (P.l1, 0, 0), (0, P.l1, 0), strict=True):
        alone = descend(
            lambda some, i=inside, o=outside: log_losses.log_loss(some, x, states.probs, tensor([i]), tensor([o])),
            near, log_losses.schedule(P), held={"b_enc": ..., "b_dec": ...},
        )  # fmt: skip
        assert (alone.sae.W_dec - sae.W_dec).abs().max() < 1e-6


def test_the_rise_is_that_of_seeds_live_and_judged_under_both():
    dictionary = orthonormal_dictionaries(3, 8, range(5))
    some = log_losses.read(random_start(SAEConfig(8, (1, 3)), range(5)), family(0.3, 0.4).states(), dictionary)

    def arm(partial, live):
        alive = torch.tensor(live)[:, None].expand(-1, 3)
        edges = replace(some.reading.edges, partial=tensor(partial)[:, None].expand(-1, 2))
        return replace(some, reading=replace(some.reading, live=alive, edges=edges))

    plain, log = arm([0, 0, 1, 0, 0], [True, True, True, False, True]), arm([1, 0, 1, 1, np.nan], [True] * 5)
    none = torch.zeros(5, 3, 3, dtype=torch.float64), torch.zeros(5, dtype=torch.float64)
    arms = {("sum", "random"): plain, ("log, penalty inside", "random"): log}
    found = log_losses.Found(arms, some.reading, *none)
    assert found.rise().tolist() == [1, 0, 0]
    assert log_losses.judged(plain).tolist() == [0, 0, 1, 0] and log_losses.judged(log).tolist() == [1, 0, 1, 1]
    dead = replace(found, arms=dict.fromkeys(arms, arm([1.0] * 5, [False] * 5)))
    assert not len(dead.rise()) and log_losses.interval(dead.rise()) == "no value"
    assert log_losses.interval(found.rise()) == "0.00 to 1.00"


# The shorter questions


def test_the_narrow_value_is_the_limit_of_a_heavy_prefix_and_of_a_spare_latent():
    found = remaining.limits(replace(P, n_steps=2000))
    assert found.at_one == pytest.approx(0.3251, abs=1e-4) and found.narrow == pytest.approx(0.3645, abs=1e-4)
    assert np.abs(found.trained - found.theory[:, None]).max() < 1e-3
    assert np.abs(found.spare - found.narrow).max() < 1e-3
    assert found.theory[-1] == pytest.approx(found.narrow, abs=0.001)
    axis = remaining.draw_limits(found).axes[0]
    assert axis.lines[-1].get_ydata()[0] == found.narrow and axis.get_xscale() == "log"


def test_no_seed_beats_the_floor_and_the_best_reach_it():
    found = remaining.floor(replace(P, n_seeds=48, n_steps=1000))
    assert found.latents == [1, 2, 3, 4, 5, 6] and found.trained.shape == (6, 16)
    assert (found.trained >= found.bound[:, None] - 1e-9).all()
    assert found.least[0] == pytest.approx(found.bound[0], abs=1e-6)
    # By hand: all five children of 0.16 left out, of a power of 0.3 (1 + 0.8).
    assert found.clean.tolist() == pytest.approx([0.8 * k / 5 / 1.8 for k in (5, 4, 3, 2, 1, 0)])
    axis = remaining.draw_floor(found).axes[0]
    assert axis.lines[2].get_ydata().tolist() == found.least.tolist()


def test_a_standard_sae_absorbs_its_parent_and_a_matryoshka_does_not():
    found = remaining.absorption_left(replace(P, n_seeds=24, n_steps=1500))
    assert found["the standard SAE, penalty"].near_lost > 0.9 and found["with the penalty"].near_lost == 0
    assert found["loud child"].near_lost == 1 and found["loud child"].missing > 0.5
    assert remaining.Left(0.5, 0.5, float("nan"), 1.0).near_lost == 1
    assert remaining.Left(0.5, 0.5, 0.5, 0.2).near_lost == pytest.approx(0.6)
    table = remaining.table_left(found).splitlines()
    assert len(table) == 11 and table[3].startswith("| with the penalty | ")


def test_misses_by_hand():
    some = remaining.Misses(1, 4)
    assert some.at_least_one_of_two[0] == pytest.approx(1 - 0.75**2)
    assert some.interval[0] < 0.25 < some.interval[1]
    # Of six runs two miss: the chance that the pair holds at least one of them.
    assert some.compared == pytest.approx(1 - 4 * 3 / (6 * 5))
    stored = remaining.misses()
    assert all(0 <= each.missed <= each.total == 32 for each in stored.values())


def test_mean_rates_are_l0_over_width():
    assert remaining.mean_rates() == pytest.approx((22 / 16384, 445 / 16384))


def test_no_seed_is_told_in_words():
    assert data.told(float("nan")) == "none" and data.told(0.5) == "50%" and data.told(0.123, ".2f") == "0.12"
    assert TrainConfig(200).steps == log_losses.schedule(P).steps
