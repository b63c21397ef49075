import ast
import fnmatch
import json
import math
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import allowed
import jupytext
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from matryoshka_mixing import metrics, plain, remedy
from matryoshka_mixing.chapters import what_cures_it as chapter
from matryoshka_mixing.chapters.what_cures_it import (
    contestants,
    costs,
    drawing,
    fixed_point,
    losses,
    measures,
    noise,
    page,
    stored,
    switching,
    toys,
)
from matryoshka_mixing.features import family
from matryoshka_mixing.sae import SAE, SAEConfig, random_start
from matryoshka_mixing.training import TrainConfig

NOTEBOOK = Path(__file__).parents[2] / "notebooks/11_what_cures_it.py"
P = chapter.Parameters(n_seeds=3, n_steps=40, d_model=6, remedy="OrtSAE")
TINY = {name: replace(toy, training=replace(toy.training, steps=4)) for name, toy in toys.toys().items()}


def drawn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def some_sae(config, seed=0):
    """One SAE with a leading axis, whose latents fire on some inputs."""
    start = random_start(config, [seed])
    return replace(start, b_enc=start.b_enc + 0.4, W_dec=drawn(1, config.d_sae, config.d_in, seed=seed + 1))


ROWS = drawn(1, 7, 5, seed=3), torch.tensor([0.1, 0.2, 0.05, 0.15, 0.2, 0.1, 0.2], dtype=torch.float64)
CONFIG = SAEConfig(5, (1, 3, 4), (1.0, 2.0, 1.0), l1=0.1)


# The losses, each beside its formula written out in numbers


def by_hand(sae):
    """Activations, decoder rows, inputs without the decoder bias, and weights, as NumPy arrays."""
    x = ROWS[0][0].numpy() - sae.b_dec[0].numpy()
    acts = np.maximum(x @ sae.W_enc[0].numpy() + sae.b_enc[0].numpy(), 0)
    return acts, sae.W_dec[0].numpy(), x, ROWS[1].numpy()


def plain_loss(acts, rows, x, probs, widths, weights, l1):
    total = 0.0
    for width, weight in zip(widths, weights, strict=True):
        for a, some, p in zip(acts, x, probs, strict=True):
            miss = some - sum((a[k] * rows[k] for k in range(width)), np.zeros(5))
            total += weight * p * (miss @ miss + l1 * sum(a[k] * np.linalg.norm(rows[k]) for k in range(width)))
    return total


def cosines(rows):
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit @ unit.T - 9 * np.eye(len(rows))


def test_ortsae_by_hand():
    sae = some_sae(CONFIG)
    expected = plain_loss(*by_hand(sae), (4,), (1.0,), 0.1)
    rows = by_hand(sae)[1]
    expected += 0.7 * np.mean([max(0, max(row)) ** 2 for row in cosines(rows)])
    found = losses.ortsae(contestants.one_prefix(CONFIG), 0.7, lambda: ROWS)(sae)
    assert float(found) == pytest.approx(expected, rel=1e-12)


def test_ortsaes_penalty_beside_the_prefixes_by_hand():
    """Against all prefixes together it weighs as much as against one; split, the decoder alone pays it."""
    sae, weight = some_sae(CONFIG), sum(CONFIG.weights)
    inner, full = (plain_loss(*by_hand(sae), *some, 0.1) for some in ((CONFIG.widths, CONFIG.weights), ((4,), (1.0,))))
    penalty = 0.7 * np.mean([max(0, max(row)) ** 2 for row in cosines(by_hand(sae)[1])])
    found = losses.with_ortsae(CONFIG, 0.7, lambda: ROWS)(sae)
    assert float(found) == pytest.approx(inner + weight * penalty, rel=1e-12) and weight == 4
    encoder, decoder = losses.split_with_ortsae(CONFIG, 0.7, lambda: ROWS)(sae)
    assert float(encoder) == pytest.approx(inner, rel=1e-12)
    assert float(decoder) == pytest.approx(weight * (full + penalty), rel=1e-12)


def test_after_plain_goes_on_where_plain_has_settled():
    """With nothing to descend it is the plain SAE; and the penalty does what it is for."""
    case = toys.Case.of(TINY["three features"], "relu", range(2))
    plain = case.fit(case.plain)
    still = contestants.after_plain(lambda config, rows: lambda sae: 0 * sae.W_dec.sum((-1, -2)))(case)
    assert torch.equal(still.W_dec, plain.W_dec) and still.config == case.plain
    longer = toys.Case.of(replace(TINY["three features"], training=TrainConfig(300)), "relu", range(2))
    alike = [
        losses.neighbours(contestants.after_plain(losses.split_with_ortsae, True)(longer, weight))[0].max()
        for weight in (0.0, 100.0)
    ]
    assert alike[1] < 0.05 < alike[0]


def test_c2r_by_hand():
    sae = some_sae(CONFIG)
    acts, rows, x, probs = by_hand(sae)
    norms = np.sqrt((probs[:, None] * acts**2).sum(0))
    near = [(max(0, max(row)) ** 2, int(np.argmax(row))) for row in cosines(rows)]
    expected = plain_loss(acts, rows, x, probs, (4,), (1.0,), 0.1)
    expected += 0.7 * np.mean([value * (norms[k] + norms[n]) for k, (value, n) in enumerate(near)])
    found = losses.c2r(contestants.one_prefix(CONFIG), 0.7, lambda: ROWS)(sae)
    assert float(found) == pytest.approx(expected, rel=1e-9)


def test_detached_deltas_by_hand_and_their_gradient():
    sae = some_sae(CONFIG)
    acts, rows, x, probs = by_hand(sae)
    expected, blocks = 0.0, [(0, 1, 1.0), (1, 3, 2.0), (3, 4, 1.0)]
    for first, last, weight in blocks:
        rest = x - acts[:, :last] @ rows[:last]
        sizes = (acts[:, first:last] * np.linalg.norm(rows[first:last], axis=1)).sum(1)
        expected += weight * probs @ ((rest**2).sum(1) + 0.1 * sizes)
    leaf = sae.W_dec.clone().requires_grad_()
    found = losses.deltas(CONFIG, lambda: ROWS)(replace(sae, W_dec=leaf))
    assert found.item() == pytest.approx(expected, rel=1e-12)
    found.sum().backward()
    # The first row learns from the first block alone, whose target does not move.
    own = -2 * (probs * acts[:, 0]) @ (x - acts[:, :1] @ rows[:1]) + 0.1 * probs @ acts[:, 0] * rows[
        0
    ] / np.linalg.norm(rows[0])
    assert np.abs(leaf.grad[0, 0].numpy() - own).max() < 1e-12


def test_log_and_unsquared_by_hand():
    sae = some_sae(CONFIG)
    acts, rows, x, probs = by_hand(sae)
    power = probs @ (ROWS[0][0].numpy() ** 2).sum(1)
    each = [plain_loss(acts, rows, x, probs, (width,), (1.0,), 0.1) for width in CONFIG.widths]
    expected = sum(w * math.log(loss + 1e-4 * power) for w, loss in zip(CONFIG.weights, each, strict=True))
    assert float(losses.logarithm(CONFIG, lambda: ROWS)(sae)) == pytest.approx(expected, rel=1e-12)
    expected = 0.0
    for width, weight in zip(CONFIG.widths, CONFIG.weights, strict=True):
        error = ((x - acts[:, :width] @ rows[:width]) ** 2).sum(1)
        sizes = (acts[:, :width] * np.linalg.norm(rows[:width], axis=1)).sum(1)
        miss = error if width == 4 else np.sqrt(error + 1e-4 * power)
        expected += weight * probs @ (miss + 0.1 * sizes)
    assert float(losses.unsquared(CONFIG, lambda: ROWS)(sae)) == pytest.approx(expected, rel=1e-12)


def test_availability_is_the_mean_over_all_draws():
    sae = some_sae(CONFIG)
    acts, rows, x, probs = by_hand(sae)
    keep, expected = np.linspace(1, 0.4, 4), 0.0
    for kept in np.ndindex(2, 2, 2, 2):
        chance = np.prod([c if k else 1 - c for c, k in zip(keep, kept, strict=True)])
        error = ((x - acts @ (np.array(kept)[:, None] / keep[:, None] * rows)) ** 2).sum(1)
        expected += chance * probs @ error
    expected += 0.1 * probs @ (acts * np.linalg.norm(rows, axis=1)).sum(1)
    assert float(losses.availability(CONFIG, 0.4, lambda: ROWS)(sae)) == pytest.approx(expected, rel=1e-12)


def test_gated_terms_are_those_where_nothing_outside_fires():
    sae = some_sae(CONFIG)
    acts, rows, x, probs = by_hand(sae)
    encoder, decoder = losses.gated(CONFIG, lambda: ROWS)(sae)
    assert float(encoder) == pytest.approx(
        plain_loss(acts, rows, x, probs, CONFIG.widths, CONFIG.weights, 0.1), rel=1e-12
    )
    expected = 0.0
    for width, weight in zip(CONFIG.widths, CONFIG.weights, strict=True):
        shown = ~(acts[:, width:] > 1e-6).any(1)
        expected += weight * plain_loss(acts, rows, x, probs * shown, (width,), (1.0,), 0.1)
    assert float(decoder) == pytest.approx(expected, rel=1e-12)
    assert float(decoder) < float(encoder)


def test_matching_pursuit_by_hand():
    sae = some_sae(CONFIG)
    _, rows, x, probs = by_hand(sae)
    unit, expected = rows / np.linalg.norm(rows, axis=1, keepdims=True), np.zeros((7, 4))
    rest = x.copy()
    for i in range(7):
        for _ in range(3):
            products = unit @ rest[i]
            best = int(np.argmax(products))
            if products[best] > 0:
                expected[i, best] += products[best]
                rest[i] = rest[i] - products[best] * unit[best]
    acts, left = losses.pursue(sae, ROWS[0], 3)
    assert np.abs(acts[0].numpy() - expected).max() < 1e-12 and np.abs(left[0].numpy() - rest).max() < 1e-12
    found = losses.matching_pursuit(3, lambda: ROWS)(sae)
    assert float(found) == pytest.approx(probs @ (rest**2).sum(1), rel=1e-12)


def test_a_mean_with_an_empty_prefix_is_the_sum_but_for_two_constants():
    """Bussmann et al. take the mean over prefixes, the empty one among them, which only the decoder bias can change."""
    sae, widths = some_sae(CONFIG), CONFIG.widths
    whole = replace(sae, b_dec=torch.zeros(1, 5).double())
    x, probs = ROWS
    errors = whole.errors(x, widths, probs) + CONFIG.l1 * whole.penalties(x, widths, probs)
    empty = x.square().sum(-1, keepdim=True).mT
    mean = (probs * torch.cat([empty, errors], -2)).sum(-1).mean(-1)
    power = (probs * empty).sum()
    total = whole.loss(x, probs, replace(CONFIG, weights=(1.0, 1.0, 1.0)))
    assert mean.item() == pytest.approx((total.item() + power.item()) / 4, rel=1e-12)


@pytest.mark.parametrize("k", [None, 0.61, 1.53])
def test_terms_add_up_to_the_loss_of_the_package_and_so_do_their_gradients(k):
    config = CONFIG if k is None else replace(CONFIG, activation="batchtopk", k=k)
    found = []
    for loss in (lambda some: losses.total(some, config, *ROWS), lambda some: some.with_config(config).loss(*ROWS)):
        leaves = {name: value.clone().requires_grad_() for name, value in some_sae(CONFIG).parameters.items()}
        value = loss(replace(some_sae(CONFIG), **leaves)).sum()
        found.append([value, *torch.autograd.grad(value, list(leaves.values()))])
    for mine, theirs in zip(*found, strict=True):
        assert (mine - theirs).abs().max() < 1e-12
    if k is not None:  # the budget runs out within a row
        share = losses.firing(some_sae(CONFIG), config, *ROWS)[1]
        assert ((share > 0) & (share < 1)).sum() == 1


def test_what_is_kept_on_some_inputs_counts_as_on_so_many_rows():
    """BatchTopK on rows of which one stands for many, and on so many rows: the same loss."""
    config, sae = replace(CONFIG, activation="batchtopk", k=0.6, l1=0.0), some_sae(CONFIG)
    counts = (ROWS[1] * 20).round().long()
    many = ROWS[0][:, torch.repeat_interleave(torch.arange(7), counts)], torch.full((20,), 0.05, dtype=torch.float64)
    one_prefix = contestants.one_prefix(config)
    for loss in (
        lambda rows: losses.ortsae(one_prefix, 0.7, rows), lambda rows: losses.c2r(one_prefix, 0.7, rows),
        lambda rows: losses.availability(config, 0.4, rows), lambda rows: losses.deltas(config, rows),
        lambda rows: losses.logarithm(config, rows),
    ):  # fmt: skip
        assert loss(lambda: ROWS)(sae).item() == pytest.approx(loss(lambda: many)(sae).item(), rel=1e-9)


@pytest.mark.parametrize("activation", toys.ACTIVATIONS)
def test_merged_rows_have_the_loss_of_all(activation):
    acts = TINY["twenty features"].tree.sample(120, 5).reshape(2, 60, 20)
    merged, probs = losses.merged(acts)
    assert merged.shape[1] < 50 and torch.allclose(probs.sum(-1), torch.ones(2).double())
    for i in range(2):  # each row once, with its share
        rows, counts = acts[i].unique(dim=0, return_counts=True)
        kept = merged[i][probs[i] > 0]
        places = [int((kept == row).all(-1).nonzero()) for row in rows]
        assert len(kept) == len(rows) and torch.allclose(probs[i][probs[i] > 0][places], counts.double() / 60)
    config = SAEConfig(20, (5, 20), l1=0.1)
    config = config if activation == "relu" else replace(config, l1=0.0, activation="batchtopk", k=1.5)
    sae = SAE.stack([some_sae(config, seed)[0] for seed in range(2)])
    even = torch.full((2, 60), 1 / 60, dtype=torch.float64)
    assert torch.allclose(losses.total(sae, config, merged, probs), losses.total(sae, config, acts, even), rtol=1e-12)


# The contestants


def test_names_and_groups_are_told_alike_everywhere():
    listed = contestants.contestants()
    assert tuple(listed) == toys.REMEDIES and {some.group for some in listed.values()} == set(drawing.GROUPS)
    keys = (NOTEBOOK.parents[1] / "book/references.bib").read_text()
    assert all(some.source == "" or f"{{{some.source}," in keys for some in listed.values())
    assert set(contestants.BY_AUTOGRAD) < set(listed)


def test_the_page_lists_every_contestant_with_its_formula_and_source():
    rows = [line[4:].split(" | ") for line in NOTEBOOK.read_text().splitlines() if line.startswith("# | ")]
    told = {row[0]: row for row in rows}
    for name, some in contestants.contestants().items():
        _, words, formula, source = told[name]
        assert words and formula == some.formula
        assert source.rstrip(" |") == (f"{{cite:p}}`{some.source}`" if some.source else "")


@pytest.mark.parametrize("activation", toys.ACTIVATIONS)
@pytest.mark.parametrize("toy", ["three features", "twenty features"])
def test_remedies_take_the_steps_that_are_told(toy, activation, monkeypatch):
    taken = []

    def pretend(data_or_loss, start, how, **_):
        taken.append(how.steps)
        by_autograd = callable(data_or_loss)
        return SimpleNamespace(sae=start if by_autograd or len(start.instances) == 2 else start.reshape(1, len(start)))

    for module, name in ((losses, "descend"), (toys, "train"), (remedy, "train")):
        monkeypatch.setattr(module, name, pretend)
    monkeypatch.setattr(remedy, "_refitted", lambda sae, rows: sae)
    case = toys.Case.of(toys.toys()[toy], activation, range(1))
    for name, some in contestants.contestants().items():
        taken.clear()
        some.fit(case, *some.values[:1])
        runs = len(contestants.K_FACTORS) if name == "right L0" else 1
        assert sum(taken) == pytest.approx(runs * some.stages * case.toy.training.steps, abs=8), name


@pytest.mark.parametrize("activation", toys.ACTIVATIONS)
def test_every_contestant_trains_and_is_measured(activation):
    case = toys.Case.of(TINY["three levels"], activation, range(2))
    for name, some in contestants.contestants().items():
        found = measures.measure(case, some.fit(case, *some.values[:1]), name == "matching pursuit")
        assert set(stored.NAMES) < set(found)
        assert all(found[key].shape == (2, 2) for key in stored.NAMES)
        assert found["prefixes"].shape == (2, 2, 3)
        assert np.isin(found["clean"], (0, 1)).all() and np.isfinite(found["fvu"]).all()


def test_a_case_holds_random_starts_and_then_near_ones():
    case = toys.Case.of(TINY["three features"], "relu", range(3, 6))
    start = case.start()
    assert len(start) == 6 and torch.equal(case.dictionary[:3], case.dictionary[3:])
    assert (start.b_enc[:3] == toys.AWAKE).all() and not start.b_enc[3:].any()
    close = metrics.decoder_cosines(start, case.dictionary)[3:].diagonal(dim1=1, dim2=2)
    assert close.min() > 0.7
    more = case.start(replace(case.plain, widths=(1, 5)))
    assert more.W_dec.shape == (6, 5, 20) and torch.equal(more.W_dec[3:, :3], start.W_dec[3:])
    tree = toys.Case.of(TINY["twenty features"], "batchtopk", range(1))
    x, probs = tree.rows(50)
    assert x.shape == (2, 50, 20) and float(probs.sum()) == pytest.approx(1)
    assert tree.plain.k == pytest.approx(1.12, abs=0.01) and tree.plain.l1 == 0
    next_rows = losses.batches(tree)
    x, probs = next_rows()
    assert x.shape[::2] == (2, 20) and x.shape[1] == probs.shape[1] < 200, "200 samples, of which many are alike"
    assert torch.allclose(probs.sum(-1), torch.ones(2).double()) and torch.allclose(200 * probs, (200 * probs).round())
    assert (again := next_rows()[0]).shape != x.shape or not torch.equal(again, x)


def test_weights_widths_and_spares_are_what_their_names_say(monkeypatch):
    seen = []

    def fit_nothing(self, config, *_, **more):
        seen.append((config, more))
        return random_start(config, self.seeds)

    monkeypatch.setattr(toys.Case, "fit", fit_nothing)
    case = toys.Case.of(TINY["three levels"], "relu", range(1))
    for fit in (contestants.standard, contestants.every_prefix, contestants.wider, contestants.spare):
        fit(case)
    contestants.balanced(case, 0.5)
    contestants.random_prefixes(case)
    widths = [config.widths for config, _ in seen]
    assert widths == [(7,), tuple(range(1, 8)), (2, 4, 7), (1, 3, 11), (1, 3, 7), tuple(range(1, 8))]
    assert seen[4][0].weights == (0.25, 0.5, 1.0) and seen[5][1]["drawn"] == 3


def test_the_right_l0_is_that_of_the_least_similar_rows():
    case = toys.Case.of(TINY["three features"], "batchtopk", range(2))
    picked = contestants.right_l0(case)
    base = contestants.one_prefix(case.plain)
    each_k = [replace(base, k=base.k * factor) for factor in contestants.K_FACTORS]
    runs = [case.fit(config, stages=contestants.STAGES) for config in each_k]
    each = [contestants.mean_cosine(run) for run in runs]
    assert torch.allclose(contestants.mean_cosine(picked), torch.stack(each).amin(0))
    rows = torch.tensor([[[1.0, 0.0], [0.0, 2.0], [-1.0, 0.0]]]).double()
    assert float(contestants.mean_cosine(SAE(rows.mT, rows[..., 0], rows, rows[:, 0]))) == pytest.approx(1 / 3)


# Switching, and the cost of a step


def test_the_first_variant_is_the_remedy_and_the_others_change_one_thing(monkeypatch):
    case = toys.Case.of(TINY["three features"], "relu", range(3), kinds=toys.KINDS[:1])
    same = switching.VARIANTS["ours"].fit(case)
    assert torch.equal(same.W_dec, contestants.ours(case).W_dec)
    light, gradual = (switching.VARIANTS[name] for name in ("a light full reconstruction", "gradually, in 8 parts"))
    three = SAEConfig(4, (1, 2, 4), (0.5, 1.0, 1.0))
    assert switching.How()._toward(three, 1.0).decoder_weights == (0, 0, 2.5)
    assert gradual._toward(three, 0.25).decoder_weights == (0.375, 0.75, 1.375)
    assert light._toward(three, 1.0).decoder_weights == (0, 0, 1)
    steps = []
    fit = toys.Case.fit
    monkeypatch.setattr(remedy, "settle", lambda settings, sae, *_: sae)
    monkeypatch.setattr(toys.Case, "fit", lambda self, *a, stages=1.0, **b: steps.append(stages) or fit(self, *a, **b))
    for how in switching.VARIANTS.values():
        steps.clear()
        how.fit(case)
        settled = (switching.STAGES - how.before) / 2
        assert sum(steps) == pytest.approx(switching.STAGES - settled if how.second else how.before)


def test_a_step_in_plain_pytorch_descends_the_losses_that_it_times(monkeypatch):
    sae, widths = costs.Plain.random(6, (2, 3, 7), 5), (2, 3, 7)
    whole, probs = SAE(*sae.leaves, config=SAEConfig(6, widths, l1=sae.l1)), torch.full((5,), 0.2)
    assert sae.total(widths).item() == pytest.approx(whole.loss(sae.x, probs).item(), rel=1e-5)
    every = SAEConfig(6, tuple(range(1, 8)), l1=sae.l1)
    assert sae.total(range(1, 8)).item() == pytest.approx(whole.loss(sae.x, probs, every).item(), rel=1e-5)
    steps = costs.steps(6, widths=(2, 3, 30), batch=5)
    assert set(steps) | set(costs.SAME) == set(contestants.contestants()) and not set(steps) & set(costs.SAME)
    for step in steps.values():
        step()
    clock = iter([9.0, 9.0, 1.0, 3.0, 2.0, 5.0, 4.0, 16.0])
    monkeypatch.setattr(costs, "_seconds", lambda step: next(clock))
    assert costs.ratios({costs.PLAIN: list, "other": list}, turns=3) == {costs.PLAIN: 1.0, "other": 3.0}


# The measures


def test_a_true_sae_is_clean_and_spoilt_ones_are_not():
    case = toys.Case.of(TINY["three features"], "relu", range(2))
    true = SAE(case.dictionary.mT, torch.zeros(4, 3).double(), case.dictionary, torch.zeros(4, 20).double(), case.plain)
    found = measures.measure(case, true)
    assert (found["clean"] == 1).all() and found["fvu"].max() < 1e-12 and found["l0"] == pytest.approx(0.54)
    # Without children's latents the first prefix misses children of power 0.24 in 0.54.
    assert found["prefixes"][..., 0] == pytest.approx(0.24 / 0.54)
    leaning = replace(true, W_dec=true.W_dec + 0.06 * true.W_dec[:, [1, 2, 0]])
    assert (measures.measure(case, leaning)["clean"] == 0).all()
    dead = replace(true, b_enc=torch.tensor([0.0, -9.0, 0.0]).double().expand(4, 3))
    found = measures.measure(case, dead)
    assert (found["clean"] == 0).all() and (found["dead"] == 1).all() and (found["missing"] == 1).all()
    none = replace(true, b_enc=true.b_enc - 9)
    assert np.isnan(measures.measure(case, none)["mixing"]).all()


def test_best_of_k_by_listing_all_draws():
    values, loss = np.array([1.0, 5.0, 2.0, 8.0, 3.0]), np.array([0.3, 0.1, 0.5, 0.2, 0.4])
    kept = [values[min(some, key=lambda i: loss[i])] for some in combinations(range(5), 3)]
    assert measures.best_of(values, loss, 3) == pytest.approx(np.mean(kept))


# Theory


@pytest.fixture(scope="module")
def theory():
    return page.theory(chapter.Parameters(d_model=6), seeds=3, rounds=4)


def test_the_second_stage_rests_where_theory_says(theory):
    assert theory.converged > 0 and theory.gap < 1e-6


def test_every_round_halves_the_lean(theory):
    assert theory.leans[0] > 0.2
    assert np.abs(theory.leans / theory.predicted - 1).max() < 0.05


def test_features_that_are_not_orthogonal_settle_without_their_part_along_the_parent(theory):
    assert theory.slanted < 1e-6


def test_it_is_a_game_and_stable(theory):
    assert theory.turning > 0.1 and theory.stable > -1e-9


def test_the_settled_latents_by_hand():
    rows = torch.tensor([[1.0, 0.0], [0.6, 0.8]]).double()
    assert (fixed_point.latents(rows) - torch.eye(2)).abs().max() < 1e-12
    assert fixed_point.halving(1.0, 1.0) == 0.5 and fixed_point.halving(3.0, 1.0) == 0.25


def test_the_fixed_point_zeroes_the_gradient_of_the_full_loss():
    config = remedy.full_decoder(replace(CONFIG, decoder_bias=False))
    sae = replace(some_sae(config), b_dec=torch.zeros(1, 5).double())
    x, probs = ROWS
    acts, norms = sae.encode(x), sae.W_dec.norm(dim=-1)
    for _ in range(500):  # the formula holds the norms of its own solution
        rows = fixed_point.decoder(acts, x, probs, norms, config.l1)
        norms = rows.norm(dim=-1)
    leaf = rows.requires_grad_()
    replace(sae, W_dec=leaf).loss(x, probs, config.for_decoder).sum().backward()
    assert leaf.grad.abs().max() < 1e-8
    assert float(fixed_point.gap(replace(sae, W_dec=rows.detach()), x, probs)) < 1e-9


# The page


def test_the_ten_lines_of_plain_pytorch_do_what_the_package_does():
    cells = [cell.source for cell in jupytext.read(NOTEBOOK).cells if "loss.backward()" in cell.source]
    assert len(cells) == 1 and len(cells[0].splitlines()) <= 12
    scope = {"torch": torch, "l1": 0.03, "widths": (1, 3)}
    scope |= dict(zip(("x", "W_enc", "b_enc", "W_dec", "b_dec"), page.one_step(P), strict=True))
    exec(compile(ast.parse(cells[0]), "the page", "exec"), scope)
    parameters = [scope[name] for name in ("W_enc", "b_enc", "W_dec", "b_dec")]
    found = page.package_gradient(P, scope["x"], *parameters)
    for mine, theirs in zip(parameters, found, strict=True):
        assert theirs.abs().max() > 1e-4 and (mine.grad - theirs).abs().max() < 1e-10


def test_the_page_runs_at_other_parameters(tmp_path):
    path = tmp_path / "own.json"
    family(0.3, 0.2, 3).to_json(path)
    for p in (P, replace(P, tree_path=str(path), remedy="ours")):
        run = page.Page.run(p)
        assert set(run.saes) == {"plain Matryoshka", "ours", p.remedy}
        assert 0 <= run.share_clean("ours") <= 1 and run.decoder("ours").shape[1] == len(run.names)
        assert drawing.decoders(run).axes


@given(allowed.values(chapter.Parameters))
@settings(max_examples=15, deadline=None)
def test_every_allowed_value_can_be_set_up(values):
    p = chapter.Parameters(**values)
    toy = toys.chosen(p)
    case = toys.Case.of(toy, "relu", range(p.seed, p.seed + 1), l1=p.l1, d_model=p.d_model)
    assert case.start().W_dec.isfinite().all() and toys.levels(toy.tree) == toy.widths


@pytest.mark.parametrize(("name", "value"), allowed.outside(chapter.Parameters))
def test_values_outside_are_refused(name, value):
    with pytest.raises(ValueError, match=f"^{name} = "):
        chapter.Parameters(**{name: value})


def test_unfit_words_and_trees_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"remedy = 'prayer'.* It must be one of these: standard, "):
        chapter.Parameters(remedy="prayer")
    flat, large = tmp_path / "flat.json", tmp_path / "large.json"
    flat.write_text(json.dumps({"active_prob": 1.0, "is_read_out": False, "children": [{"active_prob": 0.2}]}))
    with pytest.raises(ValueError, match="no feature has a child"):
        chapter.Parameters(tree_path=str(flat))
    toys.twenty_feature_tree().to_json(large)
    assert toys.chosen(chapter.Parameters(tree_path=str(large))).sampled, "32,000 states are not listed"


# Noise


def test_where_the_penalty_is_smaller_than_the_noise_it_cures_nothing():
    """In noisy rows a penalty of 2.5 times the noise leaves inner latents clean, one of half of it worse than plain."""
    found = noise.own_cosines(ratios=(0.5, 2.5), seeds=2)
    assert found.loc[2.5, "ours"] > 0.999 > 0.95 > found.loc[2.5, "plain"]
    assert found.loc[0.5, "ours"] < found.loc[0.5, "plain"] < 0.95


# The stored run


def test_a_part_is_what_the_stored_file_holds(tmp_path):
    toy = TINY["three features"]
    listed = contestants.contestants()
    parts, found = {}, {}
    for name in ("plain Matryoshka", "OrtSAE", "ours"):
        parts[name] = part = stored.part(toy, "relu", name, range(2), range(2))
        assert part["measures"].shape == (2, 2, len(stored.NAMES)) and part["prefixes"].shape == (2, 2, 2)
        assert part["tried"].shape == (len(listed[name].values), 2, 4)
    for name, some in listed.items():  # the others are put in by hand
        by_hand = parts["plain Matryoshka"] | {"tried": np.zeros((len(some.values), 2, 4))}
        part = parts.get(name, by_hand)
        found |= {f"three features/relu/{key}/{name}": value for key, value in part.items()}
    tried = np.ones((3, 2, 4))
    assert stored.choose(listed["OrtSAE"], tried) == 0.01
    tried[1, :, 2] = 0.5
    assert stored.choose(listed["OrtSAE"], tried) == 0.1 and math.isnan(stored.choose(listed["ours"], tried[:0]))
    path = tmp_path / "some.npz"
    stored.write_arrays(path, stored.joined(found))
    kept = page.Stored.load(path)
    assert kept.toys == ["three features"] and kept.seeds("ours", "three features", "fvu").shape == (2,)
    assert kept.price("plain Matryoshka", "three features") == 1
    assert kept.tried["three features", "relu"].shape == (len(page.settings()), 2, 4)
    assert kept.values["three features", "relu"][list(listed).index("OrtSAE")] in listed["OrtSAE"].values
    assert not list(tmp_path.glob(".*"))


def test_the_stored_run_goes_on_where_it_was_stopped_and_ends_with_the_same_bits(tmp_path, monkeypatch):
    """Parts that draw numbers stand in for those that train; each counts its calls."""
    called, fatal = [], ["b"]

    def part(name):
        def compute():
            called.append(name)
            if fatal == [name]:
                raise KeyboardInterrupt
            return {name: np.random.default_rng(ord(name)).normal(size=4)}

        return compute

    monkeypatch.setattr(stored, "parts", lambda: {name: part(name) for name in "abc"})
    with pytest.raises(KeyboardInterrupt):
        stored.main(["--output", str(tmp_path / "stopped.npz")])
    assert not (tmp_path / "stopped.npz").exists()
    fatal.clear()
    stored.main(["--output", str(tmp_path / "stopped.npz")])
    assert called == ["a", "b", "b", "c"], "what was done is not done again"
    stored.main(["--output", str(tmp_path / "whole.npz")])
    assert (tmp_path / "stopped.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()


@pytest.mark.skipif(not stored.STORED.is_file(), reason="nothing is stored yet")
def test_some_parts_are_computed_anew_and_the_others_kept(tmp_path, monkeypatch, capsys):
    """Of the stored file itself: what is split and joined is the file again, bit by bit."""
    before = plain.read_arrays(stored.STORED)
    names, called = list(stored.parts()), []
    anew = [name for name in names if fnmatch.fnmatchcase(name, "loud child, *, OrtSAE")]

    def part(name):
        def compute():
            called.append(name)
            return stored.split(before)[name]

        return compute

    monkeypatch.setattr(stored, "parts", lambda: {name: part(name) for name in names})
    path = tmp_path / "again.npz"
    for wrong, says in (("loud child", "no part is named 'loud child'"), ("costs", "there is no file")):
        with pytest.raises(SystemExit):
            stored.main(["--output", str(path), "--anew", wrong])
        assert says in capsys.readouterr().err and not list(tmp_path.iterdir())
    lacking = "more seeds, 11032"
    stored.write_arrays(path, {key: array for key, array in before.items() if key != lacking})
    stored.main(["--output", str(path), "--anew", "loud child, *, OrtSAE"])
    after = plain.read_arrays(path)
    assert called == [*anew, lacking] and len(anew) == 2, "what the file lacks is computed as well"
    assert after.keys() == before.keys()
    assert all(after[key].tobytes() == before[key].tobytes() for key in before)


STORED = pytest.mark.skipif(not stored.STORED.is_file(), reason="nothing is stored yet")


@STORED
def test_some_of_the_stored_run_comes_out_again():
    found = page.Stored.load()
    toy = toys.toys()["three features"]
    for activation in toys.ACTIVATIONS:
        case = toys.Case.of(toy, activation, stored.SEEDS[:2])
        for name in ("standard", "plain Matryoshka", "ours"):
            runs = stored.run(case, contestants.contestants()[name], math.nan)
            for again, all_of_it in zip(runs, (found.found, found.prefixes, found.prefixes_l0), strict=True):
                kept = all_of_it["three features", activation][found.remedies.index(name), :, :2]
                assert (np.isnan(again) == np.isnan(kept)).all()
                assert np.abs(np.nan_to_num(again - kept)).max() < 1e-4


@STORED
def test_figures_show_the_numbers_of_the_stored_run():
    found = page.Stored.load()
    assert found.remedies == list(toys.REMEDIES) and found.toys == list(toys.toys())
    mixing, absorption = (found.means(name).mean(axis=1) for name in ("mixing", "absorption"))
    drawn = [np.ma.filled(part.get_offsets()[0], np.nan) for part in drawing.frontier(found).axes[0].collections]
    points = {tuple(np.round(pair, 9)) for pair in drawn if np.isfinite(pair).all()}
    assert points == {
        tuple(np.round(pair, 9)) for pair in zip(mixing, absorption, strict=True) if np.isfinite(pair).all()
    }
    assert len(points) > 15
    grid = drawing.clean(found).axes[0].collections[0].get_array()
    assert np.allclose(grid, found.means("clean"))
    table = page.table(found)
    assert table.loc["ours", "clean seeds"] == pytest.approx(found.means("clean").loc["ours"].mean())
    assert drawing.price(found).axes and drawing.recovered(found).axes
    measured = page.measured_published(found)
    every, ours = found.means("clean"), found.means("clean").loc["ours"]
    groups = [
        some.name for some in contestants.contestants().values() if some.group not in ("ours", "baseline", "relative")
    ]
    solved = [toy for toy in found.toys if ours[toy] >= 0.5]
    assert 0 < len(solved) < len(found.toys)
    least = [min(every.loc[name, toy] for toy in solved) for name in groups]
    assert measured["best_published_where_ours_solves"] == max(least) > 0
    assert measured["best_published_on_its_worst_toy"] <= measured["best_published_where_ours_solves"]
    assert measured["ours_on_its_worst_toy"] == ours.min() and measured["ours_near_truth"] > 0.5


@STORED
def test_tables_show_the_numbers_of_the_stored_run():
    found = page.Stored.load()
    assert len(found.more) == sum(len(seeds) for seeds in stored.MORE)
    by_prefix = page.by_prefix(found, "three levels")
    assert by_prefix.shape == (len(found.remedies), 6) == (25, 6)
    fvu = found.seeds("plain Matryoshka", "three levels", "fvu")
    assert by_prefix["FVU", "all"]["plain Matryoshka"] == pytest.approx(np.median(fvu))
    assert (by_prefix["L0", "first 1"] <= by_prefix["L0", "all"]).all()
    assert page.all_prefixes(found).count("<table") == 12 and page.other_tables(found).count("<table") == 3
    assert page.by_toy(found).count("<table") == 2
    varied = page.switched(found)
    for toy in switching.TOYS:  # the first variant is the remedy itself
        assert varied.loc["ours", f"clean, {toy}"] == pytest.approx(found.seeds("ours", toy, "clean").mean())
    numbers = page.chosen_numbers(found)
    assert all(set(numbers.loc[name]) <= set(contestants.contestants()[name].values) for name in numbers.index)
    assert page.unequal(found)["clean seeds"]["ours"] == found.means("clean", 1)["unequal children"]["ours"]
    assert found.cost("plain Matryoshka") == 1 and found.cost("ours") > 1
    taken = page.steps(found)
    assert taken.loc["plain Matryoshka", "three features"] == taken.loc["OrtSAE", "three features"] == 4000
    assert taken.loc["plain Matryoshka", "twenty features"] == 5000 == taken.loc["ours", "twenty features"] / 1.5
    assert page.steps(found, "batchtopk").loc["OrtSAE", "three features"] == 4000
    assert page.table(found)["steps"][["plain Matryoshka", "ours"]].tolist() == [1, 1.5]
    for key, taken in found.stages.items():
        assert (taken >= contestants.STAGES).all(), f"{key}: every remedy has at least plain's steps"
        assert not np.isnan(found.prefixes_l0[key]).all(axis=(1, 2, 3)).any(), f"{key}: L0 is counted in every row"
    tried = page.tries(found)
    assert len(tried) == len(page.settings()) and tried["random starts", "clean seeds"].between(0, 1).all()
    row = [name for name, _ in page.settings()].index("balanced weights")
    assert page.walk(found, 0)[0] == pytest.approx(tried.iloc[row][["random starts"]].to_numpy()[:2])
    fresh = page.fresh(found)
    clean = found.decided["rounds", "unequal children"][1, :, stored.NAMES.index("clean")]
    assert fresh.loc["eight rounds", "unequal children"] == pytest.approx(clean.mean())
    assert len(fresh) == 4 and fresh.notna().all(axis=None) and list(fresh) == found.toys
    three, eight, late, early = (row for _, row in fresh.iterrows())
    assert (eight >= three).all(), "the page: no toy loses"
    assert (early - late).mean() < 0.05 and (early < late).any(), "the page: the switch stays late"
