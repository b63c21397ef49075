from dataclasses import replace

import numpy as np
import pytest
import torch

from matryoshka_mixing import training
from matryoshka_mixing.features import FeatureTree, family, independent, orthonormal_dictionary, without_hierarchy
from matryoshka_mixing.sae import SAE, SAEConfig, random_start, start_near, with_activation
from matryoshka_mixing.training import Setting, TrainConfig, descend, train

ROUNDING = 1e-8
"""Products are summed in another order in other company; Adam carries the difference of 1e-16 this far in 200 steps."""
BARE = SAEConfig(20, (1, 3), encoder_bias=False, decoder_bias=False)


MANY = independent([0.3, 0.2, 0.15, 0.1, 0.1, 0.05, 0.05])
"""A tree with 128 states: more than are drawn as counts over all of them."""


def chunk_of(setting, start, config, device="cpu"):
    """All seeds of one setting side by side."""
    place = {"device": device, "dtype": torch.float64}
    source = training._Source(setting, config, torch.float64)
    return training._Chunk([(setting.sae, source, i) for i in range(len(start.W_enc))], start, config, place)


@pytest.mark.parametrize("encoder_bias", [False, True])
@pytest.mark.parametrize("decoder_bias", [False, True])
@pytest.mark.parametrize("l1", [0.0, 0.1])
@pytest.mark.parametrize(("widths", "weights"), [((3,), (1.0,)), ((1, 3), (0.5, 2.0)), ((1, 2, 3), (1.0, 0.0, 3.0))])
@pytest.mark.parametrize("groups", [None, 1, 2, 4])
def test_gradient_by_hand_agrees_with_autograd_over_the_loop_of_prefixes(
    encoder_bias, decoder_bias, l1, widths, weights, groups, tree, dictionary
):
    config = SAEConfig(20, widths, weights, l1, encoder_bias, decoder_bias)
    start = start_near(dictionary, range(4), noise=0.8)
    noise = torch.Generator().manual_seed(0)
    start.b_enc.add_(0.1 * encoder_bias * torch.randn(4, 3, dtype=torch.float64, generator=noise))
    start.b_dec.add_(0.1 * decoder_bias * torch.randn(4, 20, dtype=torch.float64, generator=noise))
    setting = Setting(config, tree.states(), dictionary)
    chunk = chunk_of(setting, start, TrainConfig())
    with torch.inference_mode():
        ((x, probs),) = chunk.states()
        loss = chunk.loss_and_gradient(x.expand(groups, -1, -1).contiguous() if groups else x, probs)

    leaves = start.map(lambda parameter: parameter.clone().requires_grad_())
    expected = leaves.loss(tree.states().inputs(dictionary), tree.states().probs, config)
    expected.sum().backward()
    assert torch.allclose(loss, expected, rtol=0, atol=1e-13)
    rows = chunk.gradient[..., :-1]
    assert torch.allclose(rows[:, :3], leaves.W_enc.grad.transpose(1, 2), rtol=0, atol=1e-13)
    assert torch.allclose(rows[:, 4:], leaves.W_dec.grad, rtol=0, atol=1e-13)
    assert torch.allclose(chunk.gradient[:, :3, -1], leaves.b_enc.grad * encoder_bias, rtol=0, atol=1e-13)
    assert torch.allclose(rows[:, 3], leaves.b_dec.grad * decoder_bias, rtol=0, atol=1e-13)
    assert not chunk.gradient[:, 3:, -1].any()


@pytest.mark.parametrize(("activation", "k"), [("topk", 1), ("topk", 2), ("batchtopk", 0.33), ("batchtopk", 1.2)])
@pytest.mark.parametrize("l1", [0.0, 0.1])
@pytest.mark.parametrize("batch_size", [None, 7])
def test_gradient_of_topk_by_hand_agrees_with_autograd(activation, k, l1, batch_size, tree, dictionary):
    config = SAEConfig(20, (1, 2, 3), (1.0, 0.5, 3.0), l1, activation=activation, k=k)
    start = with_activation(start_near(dictionary, range(6), noise=0.8), config)
    noise = torch.Generator().manual_seed(0)
    start.b_enc.add_(0.1 * torch.randn(6, 3, dtype=torch.float64, generator=noise))
    start.b_dec.add_(0.1 * torch.randn(6, 20, dtype=torch.float64, generator=noise))
    chunk = chunk_of(Setting(config, tree.states(), dictionary), start, TrainConfig(batch_size=batch_size))
    with torch.inference_mode():
        x, probs = next(chunk.batches())
        loss = chunk.loss_and_gradient(x, probs)
    probs = probs.clone()
    leaves = SAE(
        **{name: p.clone().requires_grad_() for name, p in start.parameters.items()}, activation=activation, k=start.k
    )
    expected = leaves.loss(tree.states().inputs(dictionary), probs, config)
    expected.sum().backward()
    assert torch.allclose(loss, expected, rtol=0, atol=1e-13)
    rows = chunk.gradient[..., :-1]
    for found, name in [
        (rows[:, :3], "W_enc"),
        (rows[:, 4:], "W_dec"),
        (rows[:, 3], "b_dec"),
        (chunk.gradient[:, :3, -1], "b_enc"),
    ]:
        wanted = getattr(leaves, name).grad
        assert torch.allclose(found, wanted.mT if name == "W_enc" else wanted, rtol=0, atol=1e-13), name
    if batch_size is None:
        kept, _ = leaves._activate(x[..., :-1], probs)[1].sort(-1)
        assert ((kept > 0) & (kept < 1)).any() == (activation == "batchtopk"), "the edge is there to be tested"


def test_topk_settings_train_side_by_side_as_they_do_alone(tree, dictionary):
    start, schedule = random_start(BARE, range(6)), TrainConfig(150, snapshots=(10,))
    sweep = [Setting(replace(BARE, activation="batchtopk", k=k), tree.states(), dictionary) for k in (0.4, 0.9, 3)]
    together = train(sweep, start, schedule)
    assert together.sae.activation == together.path.activation == "batchtopk"
    assert together.sae.k.tolist() == [[0.4] * 6, [0.9] * 6, [3] * 6] and together.path.k.shape == (1, 3, 6)
    for i, setting in enumerate(sweep):
        alone = train(setting, start, schedule).sae
        assert torch.allclose(together.sae.W_dec[i], alone.W_dec[0], rtol=0, atol=ROUNDING)
    everything = train(Setting(BARE, tree.states(), dictionary), start, schedule)
    assert torch.allclose(together.sae.W_dec[2], everything.sae.W_dec[0], rtol=0, atol=ROUNDING), "k = all is ReLU"
    with pytest.raises(ValueError, match="must share d_in, widths, encoder_bias, decoder_bias, activation"):
        train([sweep[0], Setting(BARE, tree.states(), dictionary)], start, schedule)


def test_training_agrees_with_a_plain_loop_one_sae_at_a_time(tree, dictionary):
    config, schedule = SAEConfig(20, (1, 3), l1=0.03), TrainConfig(200)
    start = start_near(dictionary, range(2), noise=0.5)
    states = tree.states()
    run = train(Setting(config, states, dictionary), start, schedule)
    for i in range(2):
        sae = start[i].map(lambda parameter: parameter.clone().requires_grad_())
        optimiser = torch.optim.Adam(sae.parameters.values(), betas=schedule.betas, eps=schedule.eps)
        for step in range(schedule.steps):
            optimiser.param_groups[0]["lr"] = schedule.learning_rate(step)
            loss = sae.loss(states.inputs(dictionary), states.probs, config)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        for name, parameter in sae.parameters.items():
            assert torch.allclose(getattr(run.sae, name)[0, i], parameter, rtol=0, atol=1e-9), name


def test_a_prefix_of_weight_zero_trains_like_the_standard_sae_to_the_last_digit(tree, dictionary):
    start, schedule = random_start(BARE, range(8)), TrainConfig(300)
    runs = [
        train(Setting(replace(BARE, widths=w, weights=b), tree.states(), dictionary), start, schedule)
        for w, b in [((3,), (1.0,)), ((1, 3), (0.0, 1.0))]
    ]
    assert torch.equal(runs[0].sae.W_dec, runs[1].sae.W_dec)
    assert torch.equal(runs[0].loss, runs[1].loss)


@pytest.mark.parametrize("batch_size", [None, 50, 3])
@pytest.mark.parametrize("many", [False, True])
def test_results_do_not_depend_on_company_or_chunking(batch_size, many, tree, dictionary, monkeypatch):
    states = (MANY if many else tree).states()
    dictionary = orthonormal_dictionary(7, 20, torch.Generator().manual_seed(0)) if many else dictionary
    schedule, start = TrainConfig(150, batch_size=batch_size), random_start(BARE, range(12))
    sweep = [Setting(replace(BARE, l1=l1), states, dictionary) for l1 in (0.0, 0.05)]
    together = train(sweep, start, schedule)
    alone = train(sweep[1], start[:5], schedule)
    rows = training._Source(sweep[0], schedule, torch.float64).n_rows
    monkeypatch.setattr(training, "BYTES_AT_ONCE", {"cpu": 7 * 8 * training._numbers(BARE, rows)})
    split = train(sweep, start, schedule)
    for name in ("W_enc", "W_dec"):
        whole = getattr(together.sae, name)
        assert torch.allclose(whole, getattr(split.sae, name), rtol=0, atol=ROUNDING)
        assert torch.allclose(whole[1, :5], getattr(alone.sae, name)[0], rtol=0, atol=ROUNDING)
    assert torch.allclose(together.history, split.history, rtol=0, atol=ROUNDING)


def test_a_sweep_too_large_for_memory_is_split(tree, dictionary, monkeypatch):
    sizes, chunk = [], training._Chunk
    monkeypatch.setattr(training, "_Chunk", lambda members, *rest: sizes.append(len(members)) or chunk(members, *rest))
    monkeypatch.setattr(training, "BYTES_AT_ONCE", {"cpu": 7 * 8 * training._numbers(BARE, 4)})
    sweep = [Setting(replace(BARE, l1=l1), tree.states(), dictionary) for l1 in (0.0, 0.05)]
    train(sweep, random_start(BARE, range(12)), TrainConfig(2))
    assert sizes == [7, 7, 7, 3]


@pytest.mark.parametrize(("at_once", "alike"), [(7, [4, 4, 4]), (9, [4, 4]), (3, [3, 1, 1, 3])])
def test_the_seeds_of_a_setting_share_their_inputs(at_once, alike, dictionary, monkeypatch):
    """Settings with other inputs are split between chunks only where not even one fits; no result depends on it."""
    seen, chunk = [], training._Chunk
    monkeypatch.setattr(training, "_Chunk", lambda *given: seen.append(chunk(*given)) or seen[-1])
    monkeypatch.setattr(training, "BYTES_AT_ONCE", {"cpu": at_once * 8 * training._numbers(BARE, 4)})
    sweep = [Setting(BARE, family(0.3, 0.4, 2, child_magnitude=size).states(), dictionary) for size in (0.5, 1.0, 3.0)]
    start = random_start(BARE, range(4))
    run = train(sweep, start, TrainConfig(100))
    assert [made.alike for made in seen] == alike
    for i, setting in enumerate(sweep):
        alone = train(setting, start, TrainConfig(100))
        assert torch.allclose(run.sae.W_dec[i], alone.sae.W_dec[0], rtol=0, atol=ROUNDING)
        assert torch.allclose(run.loss[i], alone.loss[0], rtol=0, atol=ROUNDING)
        assert torch.allclose(run.grad_norm[i], alone.grad_norm[0], rtol=0, atol=ROUNDING)


def test_states_of_different_number_are_padded_without_effect(dictionary):
    narrow = SAEConfig(20, (1,), encoder_bias=False, decoder_bias=False)
    one, two = family(0.3, 0.4, 1).states(), family(0.3, 0.4, 2).states()
    start = start_near(dictionary[:1], range(4))
    sweep = [Setting(narrow, one, dictionary[:2]), Setting(narrow, two, dictionary)]
    both = train(sweep, start, TrainConfig(200))
    for i, setting in enumerate(sweep):
        single = train(setting, start, TrainConfig(200))
        assert torch.allclose(both.sae.W_dec[i], single.sae.W_dec[0], rtol=0, atol=ROUNDING)


@pytest.mark.parametrize(("batch_size", "few"), [(400, 64), (400, 2), (3, 2)])
def test_sampled_batches_agree_with_the_exact_loss(batch_size, few, tree, dictionary, monkeypatch):
    """As counts over all 4 states, or as the states drawn; both must centre on the exact solution."""
    start = start_near(dictionary, range(48), noise=0.1)
    setting = Setting(BARE, tree.states(), dictionary)
    exact = train(setting, start, TrainConfig(1500)).sae.W_dec[0, :, 0]
    monkeypatch.setattr(training, "FEW", few)
    schedule = TrainConfig(1500, batch_size=batch_size, lr=0.02 if batch_size > 3 else 0.004)
    sampled = train(setting, start, schedule).sae.W_dec[0, :, 0]
    cosines = torch.nn.functional.cosine_similarity(exact, sampled)
    assert cosines.min() > (0.999 if batch_size > 3 else 0.97)
    assert cosines.min() < 1 - 1e-9, "batches were not sampled at all"


@pytest.mark.parametrize("listed", [True, False])
def test_a_batch_of_distinct_states_is_distributed_like_one_of_rows(listed, monkeypatch):
    """Each state comes with its probability and each batch is full, whether states are counted or drawn as rows."""
    monkeypatch.setattr(FeatureTree, "can_list", lambda tree: listed)
    directions = orthonormal_dictionary(7, 20, torch.Generator().manual_seed(0))
    size, batches, states = 100, 1500, MANY.states()
    chunk = chunk_of(Setting(BARE, MANY, directions), random_start(BARE, range(2)), TrainConfig(batch_size=size))
    powers = 2.0 ** torch.arange(7, dtype=torch.float64)
    counts = torch.zeros(batches, 2, 128, dtype=torch.float64)
    for step, (x, probs) in zip(range(batches), chunk.batches(), strict=False):
        key = (x[..., :-1] @ directions.T @ powers).round().long()
        counts[step].scatter_add_(1, key, size * probs)
        if listed:
            drawn = [kept[some > 0] for kept, some in zip(key, probs, strict=True)]
            assert all(len(each) == len(each.unique()) for each in drawn) and x.shape[1] < size
    assert torch.allclose(counts.sum(-1), torch.full((batches, 2), float(size), dtype=torch.float64))
    p = torch.zeros(128, dtype=torch.float64).scatter_(0, (states.acts @ powers).long(), states.probs)
    spread = (p * (1 - p) * size).sqrt()
    assert ((counts.mean((0, 1)) - size * p).abs() < 5.5 * spread / (2 * batches) ** 0.5).all()
    common = p > 0.01
    assert torch.allclose(counts.std((0, 1))[common], spread[common], rtol=0.15)
    silent, pair = counts[..., 0].flatten(), counts[..., 1].flatten()
    expected = -((p[0] * p[1] / (1 - p[0]) / (1 - p[1])) ** 0.5)
    assert torch.corrcoef(torch.stack([silent, pair]))[0, 1].item() == pytest.approx(expected.item(), abs=0.1)
    assert not torch.equal(counts[:, 0], counts[:, 1])


def test_any_data_train_side_by_side_as_they_do_alone(tree, dictionary):
    directions = orthonormal_dictionary(7, 20, torch.Generator().manual_seed(0))
    varying = FeatureTree(1.0, tuple(FeatureTree(0.3, magnitude_std=0.1) for _ in range(3)), is_read_out=False)
    sweep = [
        Setting(BARE, tree.states(), dictionary),
        Setting(BARE, MANY.states(), directions),
        Setting(BARE, varying, dictionary),
    ]
    start, schedule = start_near(dictionary, range(4)), TrainConfig(150, batch_size=50)
    alone = [train(setting, start, schedule).sae.W_dec[0] for setting in sweep]
    for members in ([0, 1], [1, 2], [0, 1, 2]):
        together = train([sweep[i] for i in members], start, schedule).sae.W_dec
        for i, decoder in zip(members, together, strict=True):
            assert torch.allclose(decoder, alone[i], rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("activation", ["relu", "topk", "batchtopk"])
@pytest.mark.parametrize(("batch_size", "many"), [(None, False), (50, False), (50, True)])
def test_no_tensor_stays_behind_on_the_processor(batch_size, many, activation, tree, dictionary):
    """The meta device computes nothing, and refuses what lies on another: what a GPU would refuse, it does."""
    directions = orthonormal_dictionary(7, 20, torch.Generator().manual_seed(0)) if many else dictionary
    sae = replace(BARE, l1=0.1, activation=activation, k=None if activation == "relu" else 1)
    setting = Setting(sae, MANY if many else tree.states(), directions)
    chunk = chunk_of(setting, random_start(BARE, range(2)), TrainConfig(3, batch_size=batch_size), device="meta")
    sae, *rest = chunk.fit(lambda steps: None)
    assert all(tensor.device.type == "meta" for tensor in [*sae.parameters.values(), *rest])


def test_batches_are_multinomial_and_differ_between_instances(tree, dictionary):
    setting = Setting(BARE, tree.states(), dictionary)
    chunk = chunk_of(setting, random_start(BARE, range(2)), TrainConfig(batch_size=100))
    counts = torch.stack([100 * probs for _, (_, probs) in zip(range(640), chunk.batches(), strict=False)])
    assert torch.allclose(counts.sum(-1), torch.full((640, 2), 100.0, dtype=torch.float64))
    assert not torch.equal(counts[:, 0], counts[:, 1])
    p = tree.states().probs
    bound = 5 * (p * (1 - p) / (100 * 640)).sqrt()
    assert ((counts.mean(0) / 100 - p).abs() < bound).all()
    assert counts.var(0)[0, 0].item() == pytest.approx((100 * p * (1 - p))[0].item(), rel=0.3)


def test_trees_too_large_for_states_train_on_samples(dictionary):
    tree = FeatureTree(1.0, tuple(FeatureTree(0.3, magnitude_std=0.1) for _ in range(3)), is_read_out=False)
    config = SAEConfig(20, (3,), l1=0.01)
    run = train(Setting(config, tree, dictionary), start_near(dictionary, range(2)), TrainConfig(300, batch_size=64))
    assert (run.loss < 0.1).all() and torch.isfinite(run.history).all()
    with pytest.raises(ValueError, match="can only be sampled; give batch_size"):
        train(Setting(config, tree, dictionary), start_near(dictionary, range(2)), TrainConfig(10))


def test_says_when_it_has_not_converged(tree, dictionary):
    start = start_near(dictionary, range(5), noise=0.5)
    setting = Setting(BARE, tree.states(), dictionary)
    short, long = train(setting, start, TrainConfig(5)), train(setting, start, TrainConfig(1500))
    assert not short.converged.any() and "0 of 5 SAEs converged; the largest" in short.report()
    assert long.converged.all() and long.report() == "5 of 5 SAEs converged"
    assert long.grad_norm.max() < 1e-9


def test_history_is_the_loss_at_the_recorded_steps(tree, dictionary):
    states, start = tree.states(), start_near(dictionary, range(2))
    run = train(Setting(BARE, states, dictionary), start, TrainConfig(50, records=7))
    assert run.steps[0] == 0 and run.steps[-1] == 49 and run.history.shape == (7, 1, 2)
    assert torch.allclose(run.history[0, 0], start.loss(states.inputs(dictionary), states.probs, BARE), atol=1e-14)
    assert (run.loss < run.history[0]).all()
    assert torch.allclose(run.loss[0], run.sae[0].loss(states.inputs(dictionary), states.probs, BARE), atol=1e-13)


def test_the_final_loss_over_many_states_is_summed_in_parts():
    states = independent([0.5, 0.4] + [0.1] * 9).states()
    assert len(states) == 2048
    directions = orthonormal_dictionary(11, 20, torch.Generator().manual_seed(0))
    config = SAEConfig(20, (1, 3), l1=0.1)
    run = train(Setting(config, states, directions), random_start(config, range(2)), TrainConfig(5, batch_size=20))
    assert torch.allclose(run.loss[0], run.sae[0].loss(states.inputs(directions), states.probs, config), atol=1e-13)


def test_schedule_warms_up_and_cools_down_to_nothing():
    config = TrainConfig(1000, lr=0.5, warmup=0.1, cooldown=0.5)
    rates = np.array([config.learning_rate(step) for step in range(1000)])
    assert rates[0] == pytest.approx(0.5 / 100) and rates[100:500] == pytest.approx(0.5) and rates[-1] < 1e-5
    assert (np.diff(rates[500:]) <= 0).all()


def test_progress_bar_shows_only_when_asked(tree, dictionary, capsys):
    setting, start = Setting(BARE, tree.states(), dictionary), start_near(dictionary, range(2))
    train(setting, start, TrainConfig(70))
    assert capsys.readouterr().err == ""
    train(setting, start, TrainConfig(70), progress=True)
    assert "140/140" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps is 0; it must be at least 1"),
        ({"lr": 0.0}, "lr is 0.0; it must be above 0"),
        ({"betas": (0.9, 1.0)}, r"betas is \(0.9, 1.0\)"),
        ({"batch_size": 0}, "batch_size is 0; it must be at least 1, or None"),
        ({"warmup": 0.6, "cooldown": 0.6}, "cooldown is 0.6; .* with warmup at most 1"),
        ({"tolerance": 0.0}, "tolerance is 0.0"),
    ],
)
def test_bad_schedules(change, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**change)


def test_bad_sweeps_and_starts(tree, dictionary):
    setting, start = Setting(BARE, tree.states(), dictionary), start_near(dictionary, range(2))
    with pytest.raises(ValueError, match="no settings were given"):
        train([], start)
    with pytest.raises(ValueError, match="must share"):
        train([setting, replace(setting, sae=replace(BARE, widths=(2, 3)))], start)
    with pytest.raises(ValueError, match=r"start.W_enc has shape \(1, 2, 20, 1\)"):
        train(setting, start_near(dictionary[:1], range(2)))
    with pytest.raises(ValueError, match="zero seeds"):
        train(setting, start[:0])
    with pytest.raises(ValueError, match=r"the dictionary has shape \(2, 20\); for 3 features"):
        Setting(BARE, tree.states(), dictionary[:2])


def test_independent_features_are_recovered_where_a_hierarchy_is_mixed(tree, dictionary):
    """The negative control of the whole report, and proof that it can fail: the same test on the hierarchy."""
    narrow = SAEConfig(20, (1,), encoder_bias=False, decoder_bias=True)
    for data, mixed in [(without_hierarchy(tree), False), (tree, True)]:
        run = train(
            Setting(narrow, data.states(), dictionary),
            start_near(dictionary[:1], range(8)),
            TrainConfig(1500),
        )
        foreign = torch.nn.functional.normalize(run.sae.W_dec[0, :, 0], dim=-1) @ dictionary[1:].T
        assert (foreign.abs() > 0.1).all() if mixed else (foreign.abs() < 1e-6).all()


def test_descend_is_train_with_autograd():
    """On the loss that both know, from the same start, they take the same path."""
    dictionary = orthonormal_dictionary(3, 20, torch.Generator().manual_seed(0))
    states, config = family(0.3, 0.4).states(), SAEConfig(20, (1, 3), (2.0, 1.0), l1=0.03)
    start, how = random_start(config, range(6)), TrainConfig(300, snapshots=(1, 20))
    x = states.inputs(dictionary)
    ours = train(Setting(config, states, dictionary), start, how)
    other = descend(lambda sae: sae.loss(x, states.probs, config), start, how, scale=states.power)
    assert torch.allclose(other.loss, ours.loss[0], atol=1e-9)
    assert torch.allclose(other.sae.W_dec, ours.sae.W_dec[0], atol=1e-7)
    assert torch.allclose(other.grad_norm, ours.grad_norm[0], atol=1e-7)
    assert torch.allclose(other.history, ours.history[:, 0], atol=1e-9) and other.steps == ours.steps
    assert torch.allclose(other.path.W_dec, ours.path.W_dec[:, 0], atol=1e-9) and len(other.path.W_dec) == 2


def test_descend_leaves_alone_what_is_held():
    dictionary = orthonormal_dictionary(3, 20, torch.Generator().manual_seed(0))
    states, config = family(0.3, 0.4).states(), SAEConfig(20, (1, 3))
    start, x = random_start(config, range(4)), states.inputs(dictionary)
    held = {"b_enc": ..., "W_dec": np.s_[..., 0, :]}
    run = descend(lambda sae: sae.loss(x, states.probs, config), start, TrainConfig(50), held=held)
    assert torch.equal(run.sae.b_enc, start.b_enc) and torch.equal(run.sae.W_dec[:, 0], start.W_dec[:, 0])
    assert not torch.equal(run.sae.W_dec[:, 1], start.W_dec[:, 1]) and not torch.equal(run.sae.b_dec, start.b_dec)


def test_descend_refuses_what_it_cannot_use():
    start = random_start(SAEConfig(4, (2,)), range(3))
    with pytest.raises(ValueError, match=r"held names \['W_out'\]; the parameters of an SAE are \['W_enc'"):
        descend(lambda sae: sae.b_dec.sum(-1), start, held={"W_out": ...})
    with pytest.raises(ValueError, match=r"gave shape \(\) for instances of shape \(3,\); sum over states"):
        descend(lambda sae: sae.W_dec.square().sum(), start, TrainConfig(2))
