"""The benchmark: its arithmetic by hand, its page from made-up results, its loops agreeing. Nothing is timed."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import agreement
import contenders
import numpy as np
import page
import pytest
import run
import torch
from floor import floor

H, T = run.HIERARCHY[0], run.TREE[0]


def cell(contender, rates, instances=1, problem=H, **more):
    runs = [{"rate": rate, "peak_memory": 2e8} for rate in rates]
    common = {"problem": problem, "batch": 200, "threads": 1, "dtype": "float32"}
    return common | {"contender": contender, "instances": instances, "runs": runs} | more


def answer(contender, seconds, settled=(30, 40)):
    runs = [{"seconds": s, "timed": 1} for s in seconds]
    common = {"problem": H, "batch": 200, "threads": 1, "settling": {"settled": list(settled)}}
    return common | {"contender": contender, "runs": runs}


@pytest.fixture
def results():
    """One target met (SAELens), one missed (plain loop), on the hierarchy; the tree's peer SAELens failed."""
    return {
        "quick": False,
        "repetitions": 2,
        "minutes": 7.0,
        "machine": {"processor": "Abacus", "cores": 2},
        "method": ["By counting."],
        "unlike": ["Apples and pears."],
        "peaks": {"1": [{"float32": 1e9, "float64": 1e9, "copy": 1e9}]},
        "floors": [{"problem": H, "batch": 200, "rows": 4, "dtype": "float32", "operations": 1000, "bytes": 2000}],
        "steps": [
            cell("saelens", [100, 110]),
            cell("loop", [1000, 1000]),
            cell("ours", [50_000, 44_000], 256),
            cell("ours", [250_000, 250_000], 4096),
            cell("saelens", [], problem=T) | {"runs": [{"error": "ImportError: no such thing"}] * 2},
            cell("loop", [10, 10], problem=T),
            cell("ours", [120, 110], 256, problem=T),
            cell("ours", [], 4096, problem=T, skipped="too many"),
        ],
        "answers": [answer("saelens", [300, 300]), answer("loop", [200, 220]), answer("ours", [2, 2])],
        "scaling": [
            {"axis": axis, axis: value, "run": {"seconds": 1e-4 / value, "peak_memory": 1e8 + 1e3 * value}}
            for axis in page.AXES
            for value in (1, 101)
        ],
        "gpu": None,
    }


def found(results, text):
    (one,) = [one for one in page.verdicts(results) if text in one["text"]]
    return one


def test_paired_ratio_by_hand():
    assert run.paired_ratio([10, 30, 50], [10, 10, 10]) == {"median": 3, "low": 1, "high": 5, "pairs": 3}
    assert run.paired_ratio([10, None, 40], [5, 10, 10]) == {"median": 3, "low": 2, "high": 4, "pairs": 2}
    assert run.paired_ratio([None], [1]) is None


def test_the_ratio_is_paired_and_not_that_of_the_medians():
    assert run.paired_ratio([10, 200, 30], [10, 100, 10])["median"] == 2, "medians would give 3"


def test_floor_by_hand():
    # B = 3 rows, d = 2, k = 1, so r = 2, with 2*2 + 1 + 2 = 7 parameters:
    # 4*3*2*(1 + 2) + 2*2*3 + 2*1*2 + 3*2*3 + 2*3*4 + 2*2*4 + 4*1*2 + 6*3*1 + 10*7
    assert floor(3, 2, 1, 8, shared=True)["operations"] == 72 + 12 + 4 + 18 + 24 + 16 + 8 + 18 + 70
    assert floor(3, 2, 1, 8, shared=True)["bytes"] == 8 * (6 * 7 + 3)
    assert floor(3, 2, 1, 4, shared=False)["bytes"] == 4 * (6 * 7 + 3 * 2)


def test_targets_are_judged_by_the_lowest_ratio_at_256_or_more(results):
    met, missed = found(results, "ours / SAELens"), found(results, "ours / plain loop")
    assert met["ratio"] == {"median": 450, "low": 400, "high": 500, "pairs": 2} and met["met"] is True
    assert missed["ratio"]["median"] == 47 and missed["met"] is False


def test_the_page_shows_met_missed_failed_and_left_out(results):
    text = page.page(results)
    assert "ours / SAELens | 300 | 450 | 400–500 | **met** |" in text
    assert "ours / plain loop | 100 | 47 | 44–50 | **not met** |" in text
    assert "| SAELens | 1 | float32 | failed: ImportError: no such thing |" in text
    assert "| ours | 4,096 | float32 | not measured: too many |" in text
    assert all(
        words in text
        for words in ("Abacus", "Apples and pears.", "By counting.", "No GPU was at hand, so none was measured.")
    )
    assert "2 are met, 2 are not met and 0 were not measured" in text


def test_a_failed_peer_is_named_in_the_verdict_and_never_counts_as_beaten(results):
    tree = found(results, T)
    assert tree["ratio"]["median"] == 11.5 and "SAELens failed: ImportError" in tree["why"]
    results["steps"][5]["runs"] = [{"error": "RuntimeError: broken"}]
    tree = found(results, T)
    assert tree["met"] is None and tree["ratio"] is None
    assert "not measured (" in page.verdict_table(results)


def test_fewer_seconds_are_better(results):
    one = found(results, "best peer / ours")
    assert one["ratio"]["median"] == pytest.approx(105) and one["met"] is False


def test_the_multiple_of_the_floor(results):
    (one,) = page.floors(results)
    # 2000 bytes at 1e9 a second are 2 us, more than 1000 operations; a step of ours takes 4 us.
    assert one["bound"] == "memory" and one["multiple"] == pytest.approx(2)


def test_a_gpu_is_named_only_if_it_was_measured(results):
    results["gpu"] = {"card": "Slide rule", "instances": 100_000, "rate": 5e6}
    assert "On Slide rule: 100,000 SAEs at once, 5,000,000" in page.page(results)


def test_the_page_is_written_with_its_figures_or_says_that_there_is_nothing(results, tmp_path):
    page.write(tmp_path / "missing.json", tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"speed.md", "agreement.md"}
    assert "No benchmark has been run" in (tmp_path / "speed.md").read_text()
    assert "No comparison with SAELens" in (tmp_path / "agreement.md").read_text()
    (tmp_path / "results.json").write_text(page.json.dumps(results))
    page.write(tmp_path / "results.json", tmp_path)
    for name in ("speed-ratios.png", "speed-scaling.png"):
        assert (tmp_path / name).read_bytes()[:4] == b"\x89PNG"
        assert name in (tmp_path / "speed.md").read_text()


def test_the_stored_comparison_with_saelens_is_within_its_tolerance_and_could_fail(tmp_path):
    stored = json.loads((Path(page.__file__).parent / "agreement.json").read_text())
    rows = stored["comparisons"]
    assert {(row["class"], row["inputs"]) for row in rows} == {
        (kind, data) for kind in agreement.KINDS for data in ("tree", "Gaussian")
    }
    assert all(row[key] <= agreement.TOLERANCE for row in rows for key in ("loss", "gradient", "trainer"))
    assert all(row["control"] > 100 * agreement.TOLERANCE for row in rows)
    rows[1]["trainer"] = 0.25
    assert "is 2e-01; 1e-05 is allowed" in page.agreement(stored)


def test_the_comparison_holds_our_own_two_forms_together_and_sees_another_k():
    """Without SAELens at hand: the loss for reading and the trainer, on the inputs of the comparison."""
    for config in agreement.KINDS.values():
        x, sae = agreement.inputs("tree", torch.Generator().manual_seed(0)), agreement.start(config, 0)
        loss, gradient = agreement.ours(config, sae, x)
        same, other = agreement.trained(config, sae, x)
        assert torch.allclose(loss, same, rtol=1e-12, atol=0)
        assert all(torch.allclose(gradient[name], other[name], rtol=0, atol=1e-12) for name in gradient)
        assert not torch.allclose(loss, agreement.ours(replace(config, k=2 * config.k), sae, x)[0], rtol=1e-3)


def test_nothing_measured_still_makes_a_page(results):
    broken = copy.deepcopy(results)
    for one in broken["steps"] + broken["answers"]:
        one["runs"] = [{"error": "MemoryError: "}]
    for one in broken["scaling"]:
        one["run"] = {"error": "MemoryError: "}
    text = page.page(broken)
    assert "0 are met" in text and "**met**" not in text and "speed-ratios" not in text


def test_settled_is_the_step_after_the_last_excursion():
    values = torch.tensor([0.0, 1.0, 0.5, 1.0, 1.0]).reshape(5, 1, 1)
    assert contenders.settled([0, 10, 20, 30, 40], values) == 30
    assert contenders.settled([0, 10], torch.ones(2, 1, 1)) == 0


@pytest.mark.parametrize("problem", contenders.PROBLEMS.values(), ids=contenders.PROBLEMS)
def test_the_plain_loop_draws_from_the_same_tree(problem):
    torch.manual_seed(0)
    n, tree = 40_000, problem.tree()
    stream = torch.Generator().manual_seed(1)
    ours, theirs = (acts.double().T.cov() for acts in (tree.sample(n, stream), problem.draw(n)))
    assert tree.n_features == problem.n_features
    # A product of two binary features has a standard error of at most 0.5 / sqrt(n).
    assert (ours - theirs).abs().max() < 6 * 0.5 * (2 / n) ** 0.5


def test_the_floor_counts_the_distinct_inputs_of_a_batch():
    assert contenders.PROBLEMS[H].distinct(200) == 4
    problem, stream = contenders.PROBLEMS[T], torch.Generator().manual_seed(0)
    drawn = [len(problem.tree().sample(200, stream).unique(dim=0)) for _ in range(100)]
    assert problem.distinct(200) == pytest.approx(np.mean(drawn), abs=1.5)
    assert {one["rows"] for one in run.floors()} == {4, problem.distinct(200), problem.distinct(4096)}


def test_plain_loop_and_ours_reach_the_same_answer(monkeypatch):
    monkeypatch.setattr(contenders, "SCHEDULE", contenders.trainer.TrainConfig(steps=600))
    monkeypatch.setattr(contenders.trainer, "TrainConfig", lambda **given: contenders.FirstSteps(steps=600, **given))
    asked = {"problem": run.HIERARCHY[0], "batch": 200, "seeds": [0]}
    (steps, loop), (_, ours) = (contenders.path(asked | {"contender": name}) for name in ("loop", "ours"))
    assert steps == list(range(0, 600, 10))
    np.testing.assert_allclose(loop[0], ours[0], atol=1e-6)  # the same start
    np.testing.assert_allclose(loop[-1], ours[-1], atol=0.05)  # batches differ


def test_a_cell_that_breaks_is_an_error_without_paths():
    found = contenders.measure({"measure": "steps", "contender": "ours", "problem": "none", "batch": 200})
    assert found["error"] == "KeyError: 'none'"
    assert contenders.without_paths(OSError("no /some/where/file.py")) == "OSError: no .../file.py"
