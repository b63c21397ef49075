"""What chapters 1 to 3 share."""

from dataclasses import replace

import pytest
import torch

from matryoshka_mixing import theory
from matryoshka_mixing.chapters import _shared
from matryoshka_mixing.chapters import matryoshka_inherits as chapter
from matryoshka_mixing.features import without_hierarchy
from matryoshka_mixing.sae import random_start, start_near

P = chapter.Parameters(n_seeds=4, n_sweep_seeds=2, n_steps=20, seed=3, batch_size=8)
SETUP = chapter.set_up(P)
ARM = SETUP.fit("random")


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def made_up(loss, rows, live):
    """An arm whose seeds have this loss, this first decoder row and these live latents."""
    decoder = tensor(rows)[:, None].expand(-1, 3, -1)
    reading = replace(ARM.reading, decoder=decoder, live=torch.tensor(live)[:, None].expand(-1, 3))
    return replace(ARM, reading=reading, trained=replace(ARM.trained, loss=tensor([loss])))


ROWS = [[0.9, 0.2, -0.3], [0.5, 0.5, 0.5], [-0.9, -0.4, -0.1], [0.1, 0.2, 0.3]]


def test_cosines_are_those_of_live_seeds():
    arm = made_up([3.0, 1.0, 2.0, 0.0], ROWS, [True, False, True, True])
    assert arm.child_cosines.tolist() == [-0.3, -0.4, 0.2]
    assert arm.child_cosines_either_sign.tolist() == [0.2, 0.1, 0.2]
    assert arm.foreign_cosines.tolist() == [0.3, 0.4, 0.2]


def test_the_typical_seed_has_the_median_loss_of_the_live_ones():
    assert made_up([3.0, 1.0, 2.0, 0.0], ROWS, [True, False, True, True]).typical == 2
    assert made_up([3.0, 1.0, 2.0, 0.0], ROWS, [False, True, False, False]).typical == 1
    assert made_up([3.0, 1.0, 2.0, 0.0], ROWS, [False] * 4).typical == 2  # the upper of two in the middle
    dead = made_up([3.0, 1.0, 2.0, 0.0], ROWS, [False] * 4)
    assert dead.child_cosines.shape == dead.child_cosines_either_sign.shape == dead.foreign_cosines.shape == (0,)


def test_a_median_shared_by_several_seeds_up_to_rounding_is_the_first_ones():
    nearly = [1.0 + 1e-13, 0.5, 1.0, 1.0 - 1e-13]
    assert made_up(nearly, ROWS, [True] * 4).typical == 0
    assert made_up(nearly, ROWS, [False, True, True, True]).typical == 2


def test_a_seed_draws_its_own_directions():
    drawn = SETUP.directions(range(3, 6))
    assert torch.allclose(drawn @ drawn.mT, torch.eye(3, dtype=torch.float64).expand(3, 3, 3))
    assert not torch.allclose(drawn[0], drawn[1]) and torch.equal(drawn[1], SETUP.directions([4])[0])
    assert torch.equal(SETUP.directions([4], 5)[:, :3], drawn[1:2])  # a smaller family has the first of a larger one


def test_an_arm_is_what_its_words_say():
    assert ARM.trained.loss.shape == (1, 4) and ARM.loss.shape == ARM.live.shape == (4,)
    assert torch.equal(SETUP.start("random", range(3, 5)).W_enc, random_start(SETUP.sae, [3, 4]).W_enc)
    near = start_near(SETUP.directions([3]), [3], P.start_noise)
    assert torch.equal(SETUP.start("near the truth", [3]).W_dec, near.W_dec)
    x, probs = SETUP.states.inputs(SETUP.directions(SETUP.seeds)), SETUP.states.probs
    assert (ARM.trained.sae[0].loss(x, probs, SETUP.sae) - ARM.loss).abs().max() < 1e-12
    biased = SETUP.fit("random", decoder_bias=True)
    assert (
        not ARM.trained.sae.b_dec.any() and biased.trained.sae.b_dec.abs().amin() >= 0 < biased.trained.sae.b_dec.norm()
    )
    control = SETUP.fit("random", decoder_bias=True, hierarchy=False)
    assert control.reading.acts.shape[1] == len(without_hierarchy(SETUP.tree).states()) == 8 != len(SETUP.states)
    sampled = SETUP.fit_both(sampled=True)
    assert list(sampled) == ["random", "near the truth"]
    assert not torch.equal(sampled["random"].trained.sae.W_dec, ARM.trained.sae.W_dec)


def test_the_share_of_seeds_that_converged():
    done = replace(ARM, trained=replace(ARM.trained, converged=torch.tensor([[True, True, False, True]])))
    none = replace(ARM, trained=replace(ARM.trained, converged=torch.zeros(1, 4, dtype=torch.bool)))
    assert _shared.converged({"a": done, "b": none}) == 3 / 8


def test_the_gap_between_medians():
    assert _shared.median_gap(tensor([1.0, 2.0, 9.0]), tensor([5.0])) == 3
    assert torch.tensor(_shared.median_gap(tensor([]), tensor([5.0]))).isnan()


def test_the_walk_starts_at_the_parent_and_is_lowest_at_the_prediction():
    ratio = theory.narrow_ratio(0.4, 2)
    position, decoders = _shared.steps_to(ratio, 2)
    assert decoders[[0, 100, 200]].tolist() == [[1, 0, 0], pytest.approx([1, ratio, ratio]), [1, 2 * ratio, 2 * ratio]]
    assert position[[0, 100, 200]].tolist() == [0, 1, 2]
    walk = _shared.Walk(position, theory.one_latent_loss(SETUP.states, decoders))
    assert int(walk.loss.argmin()) == 100
    assert walk.saving == pytest.approx(1 - float(walk.loss[100] / walk.loss[0]))


def test_a_walk_is_drawn_relative_to_its_start():
    axis = _shared.draw_walk(tensor([0.0, 1.0]), {"a": tensor([4.0, 1.0])}).axes[0]
    assert axis.lines[0].get_ydata().tolist() == [1, 0.25]
