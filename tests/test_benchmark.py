"""The benchmark: its arithmetic by hand, its page from made-up results, its contenders agreeing. Nothing is timed."""

import copy
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import agreement
import numpy as np
import ours
import page
import peers
import problems
import pytest
import run
import torch
import worker
from floor import floor
from problems import PROBLEMS, Problem

from matryoshka_mixing.sae import SAE, random_start
from matryoshka_mixing.training import TrainConfig, train

H, M, T = run.HIERARCHY[0], run.HIERARCHY[1], run.TREE[0]


def cell(contender, rates, instances=64, **more):
    common = {"problem": M, "batch": 200, "threads": 1, "dtype": "float64"}
    runs = [{"rate": rate, "compile": 1.5} for rate in rates]
    return common | {"contender": contender, "instances": instances, "runs": runs} | more


def answer(contender, seconds, **more):
    runs = [{"seconds": s} for s in seconds]
    common = {"problem": M, "batch": 200, "threads": 1, "settling": {"settled": [30, 40]}}
    return common | {"contender": contender, "runs": runs} | more


@pytest.fixture
def results():
    """JAX is behind on the hierarchy, by less than it should, and ahead on the tree; SAELens failed."""
    return {
        "quick": False,
        "repetitions": 2,
        "minutes": 7.0,
        "machine": {"processor": "Abacus", "cores": 2},
        "method": ["By counting."],
        "unlike": ["Apples and pears."],
        "agreement": {"steps": 200, "difference": 3e-15},
        "speeds": [{"arithmetic": 1e9, "root": 1e9, "division": 1e9, "draw": 1e9}] * 2,
        "floors": [
            {"problem": M, "batch": 200, "inputs": 4.0, "arithmetic": 1e3, "root": 50, "division": 50, "draw": 900}
        ],
        "rates": [
            cell("ours", [100_000, 100_000], 1),
            cell("jax", [20_000, 25_000], 1),
            cell("ours", [200_000, 300_000], 4096),
            cell("jax", [10_000, 10_000], 4096),
            cell("loop", [1000, 1000], 1, dtype="float32"),
            cell("saelens", [], 1, dtype="float32") | {"runs": [{"error": "ImportError: no such thing"}] * 2},
            cell("ours", [600, 500], problem=T),
            cell("jax", [1200, 1100], problem=T),
            cell("ours", [380_000, 600_000], 4096, threads=2),
            cell("jax", [15_000, 15_000], 4096, threads=2),
        ],
        "answers": [
            answer("ours", [2, 2], compiler="cold"),
            answer("jax", [1, 1.5], compiler="cold"),
            answer("loop", [200, 220]),
        ],
        "gpu": None,
    }  # fmt: skip


def found(results, text):
    (one,) = [one for one in page.verdicts(results) if text in one["text"]]
    return one


def test_paired_ratio_by_hand():
    assert run.paired_ratio([10, 30, 50], [10, 10, 10]) == {"median": 3, "low": 1, "high": 5, "pairs": 3}
    assert run.paired_ratio([10, None, 40], [5, 10, 10]) == {"median": 3, "low": 2, "high": 4, "pairs": 2}
    assert run.paired_ratio([None], [1]) is None


def test_the_ratio_is_paired_and_not_that_of_the_medians():
    assert run.paired_ratio([10, 200, 30], [10, 100, 10])["median"] == 2, "medians would give 3"


def test_the_plan_holds_every_cell_once():
    cells = [json.dumps(cell, sort_keys=True) for cell in run.plan_rates(False) + run.plan_answers(False)]
    assert len(set(cells)) == len(cells)
    for threads in (1, 2):
        for contender in ("ours", "jax"):
            some = page.pick(run.plan_rates(False), contender=contender, threads=threads, dtype="float64")
            places = {(one["problem"], one["batch"], one["instances"]) for one in some}
            assert len(places) == len(some) == (2 * 3 * 4 + 2 * 2 * 3 if threads == 1 else 2 * 3 * 2 + 2 * 2)
    everyone = {"ours", "fast", "jax", "jax rows", "loop", "saelens"}
    assert {one["contender"] for one in run.plan_rates(True)} == everyone


def test_floor_by_hand():
    # One parent with one child, k = 1, d = 20: three inputs with 0, 1 and 2 active features, so f = 3; a = 2 as there
    # is one latent; fa = 1 + 2, aa = 1 + 1; 61 parameters.
    tiny = Problem(1, 0.5, 1, 0.5, 0, (1,))
    rows, products = (2 * 3 + 10 * 2 + 4 * 3) * 20, 4 * 2 * 2 * 20 + 20 * 2 * 3 + 2 * 20 * 4 + 4 * 3 + 3 * 2 + 2
    assert products < rows
    expected = 4 * 2 * 20 + 10 * 20 + 2 * 3 + 2 * 3 + products + 11 * 61
    assert floor(tiny, None) == {"inputs": 3, "arithmetic": expected, "root": 62, "division": 62, "draw": 0}
    one = floor(tiny, 1)
    assert one["inputs"] == pytest.approx(1) and one["draw"] == pytest.approx(1) and one["arithmetic"] < expected


def test_the_floor_counts_the_distinct_inputs_of_a_batch():
    stream = torch.Generator().manual_seed(0)
    drawn = [len(ours.tree(PROBLEMS[T]).sample(200, stream).unique(dim=0)) for _ in range(100)]
    assert floor(PROBLEMS[T], 200)["inputs"] == pytest.approx(np.mean(drawn), abs=1.5)


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
def test_all_contenders_have_the_same_inputs(problem):
    acts, probs = problem.states()
    states = ours.tree(problem).states()
    assert {(*map(int, row), round(p, 12)) for row, p in zip(acts, probs, strict=True)} == {
        (*map(int, row), round(p, 12)) for row, p in zip(states.acts.tolist(), states.probs.tolist(), strict=True)
    }
    torch.manual_seed(0)
    n, mean = 40_000, probs @ acts
    drawn = peers.draw(problem, n).numpy()
    # A product of two binary features has a standard error of at most 0.5 / sqrt(n).
    assert np.abs((acts.T * probs) @ acts - np.outer(mean, mean) - np.cov(drawn.T, bias=True)).max() < 3 / n**0.5
    assert np.allclose(problem.dictionary() @ problem.dictionary().T, np.eye(problem.n_features))


def test_all_contenders_have_the_projects_schedule():
    config = TrainConfig()
    assert (config.steps, config.betas, config.eps) == (problems.STEPS, problems.BETAS, problems.EPS)
    expected = [config.learning_rate(step) for step in range(config.steps)]
    np.testing.assert_allclose(problems.learning_rates(config.steps), expected, rtol=1e-14, atol=1e-18)
    assert ours.FirstSteps(7).learning_rate(5) == expected[5]
    assert problems.learning_rates(5000)[3000:].max() == 0


def test_settled_is_the_look_after_the_last_excursion():
    still = np.array([1.0, 0.0])
    decoders = np.tile(still, (5, 2, 1, 1))
    decoders[[0, 2], 0, 0] = [1, 1]
    decoders[:, :, :, :] *= np.arange(1, 6)[:, None, None, None]  # lengths do not matter
    assert problems.settled(decoders, np.eye(2)) == [30, 0]


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
@pytest.mark.parametrize("rows", [False, True])
def test_jax_has_the_same_loss_and_inputs(problem, rows):
    jax = pytest.importorskip("jax", reason="JAX is in the benchmark's environment only")
    import in_jax

    setting = ours.setting(problem)
    sae = random_start(setting.sae, [0])[0].map(lambda p: p + 0.05)
    leaves = {name: parameter.clone().requires_grad_() for name, parameter in sae.parameters.items()}
    x, probs = in_jax.batches(problem, 200, rows)(jax.random.key(0))
    given = torch.tensor(np.array(x)), torch.tensor(np.array(probs))
    loss = SAE(**leaves, config=setting.sae).loss(*given)
    loss.backward()
    value, gradient = jax.value_and_grad(in_jax.loss, argnums=1)(
        problem, {name: parameter.detach().numpy() for name, parameter in leaves.items()}, x, probs
    )
    assert float(value) == pytest.approx(float(loss.detach()), rel=1e-12)
    for name, leaf in leaves.items():
        np.testing.assert_allclose(gradient[name], leaf.grad, atol=1e-12)
    acts, chances = problem.states()
    for size in (200, 4096):
        many = jax.jit(jax.vmap(in_jax.batches(problem, size, rows)))(jax.random.split(jax.random.key(1), 50))
        x, probs = (np.array(part, float).reshape(-1, *part.shape[2:]) for part in many)
        drawn = x @ problem.dictionary().T
        assert np.abs((drawn.T * probs) @ drawn / 50 - (acts.T * chances) @ acts).max() < 3 / (50 * size) ** 0.5


def test_plain_loop_and_ours_reach_the_same_answer():
    asked, seen = PROBLEMS[H], []

    def look(step, decoder):
        seen.append(decoder.detach().double().numpy().copy())
        if step == 600:
            raise peers.Enough

    with pytest.raises(peers.Enough):
        peers.loop(asked, 200, 1, look)
    setting = ours.setting(asked)
    config = ours.FirstSteps(600, batch_size=200)
    decoder = train(setting, random_start(setting.sae, [1]), config).sae.W_dec[0, 0].numpy()
    assert len(seen) == 61
    np.testing.assert_allclose(
        seen[-1] @ asked.dictionary().T, decoder @ asked.dictionary().T, atol=0.1
    )  # batches differ


def test_a_cell_that_breaks_is_an_error_without_paths():
    asked = {"measure": "rate", "problem": "none", "batch": 200, "instances": 1, "threads": 1, "dtype": "float64"}
    assert worker.measure("ours", asked | {"aim": 1})["error"] == "KeyError: 'none'"
    assert worker.without_paths(OSError("no /some/where/file.py")) == "OSError: no .../file.py"


def test_a_target_is_judged_by_the_least_ratio_to_the_best_jax(results):
    one = found(results, f"{M}, batch 200: ours / JAX")
    # At 1 SAE 100/20 and 100/25; at 4,096 JAX would train one after the other: 200/20 and 300/25.
    assert one["measured"] == {"median": 4.5, "low": 4, "high": 5, "pairs": 2} and one["met"] is True
    assert one["where"] == "1 SAE"
    assert page.best_jax(results["rates"], results["rates"][2]) == [20_000, 25_000]
    tree = found(results, T)
    assert tree["measured"]["median"] == pytest.approx((0.5 + 5 / 11) / 2) and tree["met"] is False


def test_the_other_targets(results):
    threads = found(results, "two threads")
    assert threads["measured"] == {"median": 1.95, "low": 1.9, "high": 2, "pairs": 2} and threads["met"] is True
    assert threads["where"].endswith("4,096 SAEs")
    time = found(results, "time to the answer")
    assert time["measured"]["median"] == 0.625 and time["met"] is False
    # 1000 + 50 + 50 + 900 operations at 1e9 a second are 2 us; steps of ours take 5 and 3.3 us.
    least = found(results, "multiple of the floor")
    assert least["measured"]["median"] == pytest.approx((2.5 + 5 / 3) / 2) and least["met"] is True


def test_the_page_says_who_is_ahead_first(results):
    opening = page.page(results).split("\n\n")[1]
    assert "The strongest peer is JAX" in opening and "behind JAX in 1 of 3" in opening
    assert f"furthest behind on {T}, batch 200, 64 SAEs: 0.477" in opening
    assert "1.67 times as long as JAX" in opening
    results["rates"][6]["runs"] = [{"rate": 9000}] * 2
    assert "ours is ahead of JAX in all 3 cells. It is least ahead on" in page.opening(results)


def test_the_page_shows_met_missed_and_failed(results):
    text = page.page(results)
    assert "ours / JAX, the least | at least 3 | 4.5 (4–5) | 1 SAE | **met** |" in text
    assert "| **not met** |" in text
    assert "| SAELens | 1 | float32 | failed: ImportError: no such thing | – |" in text
    assert "Of 5 targets, 3 are met, 2 are not met and 0 were not measured." in text
    words = ("Abacus", "Apples and pears.", "By counting.", "No GPU was at hand, so none was measured.", "3e-15 apart")
    assert all(word in text for word in words)


def test_the_page_says_what_the_bits_cost(results):
    assert "## What the bits cost\n\nNot measured." in page.page(results)
    pairs = {M: ([1100, 1300], [1000, 1000]), T: ([300, 330], [300, 300])}
    results["rates"] = [
        cell(contender, rates, problem=problem)
        for problem, both in pairs.items()
        for contender, rates in zip(("fast", "ours"), both, strict=True)
    ]
    text = page.bits(results)
    assert "it takes 1.12 times as many steps a second in the median (64 SAEs)" in text
    assert f"| {T}, batch 200 | 1.05 (1–1.1) |\n| {M}, batch 200 | 1.2 (1.1–1.3) |" in text


def test_only_the_contender_with_fast_math_is_compiled_with_it():
    code = (
        "import {}; from matryoshka_mixing import _abreast, _kernel; "
        "print(*{{kernel.fit.targetoptions.get('fastmath') for kernel in (_abreast, _kernel)}})"
    )
    paths = {"PYTHONPATH": os.pathsep.join(sys.path)}
    for module, said in (("fast", "True"), ("ours", "None")):
        done = subprocess.run(
            [sys.executable, "-c", code.format(module)], env=os.environ | paths, capture_output=True, text=True
        )
        assert done.stdout.strip() == said, done.stderr


def test_a_gpu_is_named_only_if_it_was_measured(results):
    results["gpu"] = {"card": "Slide rule", "instances": 100_000, "rate": 5e6}
    assert "On Slide rule, by autograd (`descend`): 100,000 SAEs at once, 5,000,000" in page.page(results)


def test_nothing_measured_still_makes_a_page(results, tmp_path):
    broken = copy.deepcopy(results)
    for one in broken["rates"] + broken["answers"]:
        one["runs"] = [{"error": "MemoryError: "}]
    broken["speeds"], broken["agreement"] = [{"error": "MemoryError: "}], {"steps": 200, "error": "MemoryError: "}
    (tmp_path / "results.json").write_text(json.dumps(broken))
    page.write(tmp_path / "results.json", tmp_path)
    text = (tmp_path / "speed.md").read_text()
    assert "0 are met" in text and "**met**" not in text and "the measurement failed" in text


def test_the_page_is_written_with_its_figure_or_says_that_there_is_nothing(results, tmp_path):
    page.write(tmp_path / "missing.json", tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"speed.md", "agreement.md"}
    assert "No benchmark has been run" in (tmp_path / "speed.md").read_text()
    assert "No comparison with SAELens" in (tmp_path / "agreement.md").read_text()
    (tmp_path / "results.json").write_text(json.dumps(results))
    page.write(tmp_path / "results.json", tmp_path)
    assert "SAEs at once</text>" in (tmp_path / "speed-rates.svg").read_text(), "text is text"
    assert (tmp_path / "speed-rates.csv").read_text().startswith("panel,series,x,y,value\n")
    assert "speed-rates.svg" in (tmp_path / "speed.md").read_text()


def test_the_stored_comparison_with_saelens_is_within_its_tolerance_and_could_fail():
    stored = json.loads((Path(page.__file__).parent / "agreement.json").read_text())
    rows = stored["comparisons"]
    assert {(row["class"], row["inputs"]) for row in rows} == {
        (kind, data) for kind in agreement.KINDS for data in ("tree", "Gaussian")
    }
    assert all(row[key] <= agreement.TOLERANCE for row in rows for key in ("loss", "gradient", "trainer"))
    assert all(row["control"] > 100 * agreement.TOLERANCE for row in rows)
    rows[1]["trainer"] = 0.25
    assert "is 2e-01; 1e-05 is allowed" in page.agreement(stored)


@pytest.mark.parametrize("features", [False, True])
def test_the_comparison_holds_our_own_two_forms_together_and_sees_another_k(features):
    """Without SAELens at hand: the loss for reading and the trainer, on the inputs of the comparison."""
    for config in agreement.KINDS.values():
        x, sae = agreement.inputs("tree", torch.Generator().manual_seed(0)), agreement.start(config, 0)
        loss, gradient = agreement.ours(config, sae, x)
        same, other = agreement.trained(config, sae, x, features)
        assert torch.allclose(loss, same, rtol=1e-12, atol=0)
        assert all(torch.allclose(gradient[name], other[name], rtol=0, atol=1e-12) for name in gradient)
        assert not torch.allclose(loss, agreement.ours(replace(config, k=2 * config.k), sae, x)[0], rtol=1e-3)
