"""The explorable: its arithmetic is `theory`'s, and the frame that stands without JavaScript is its own first."""

import json

import explorable
import numpy as np
import pytest
import torch

from matryoshka_mixing import theory
from matryoshka_mixing.features import family

CASES = [
    {"q": q, "n": n, "beta": beta, "l1": l1, "blamed": blamed, "mode": mode}
    for q, n, beta in [(0.4, 2, 1.0), (0.02, 2, 0.1), (0.49, 2, 10.0), (0.15, 5, 2.0), (0.08, 12, 0.5)]
    for l1 in (0.0, 0.03, 0.3)
    for blamed, mode in [(1.0, "whole"), (0.3, "whole"), (2.0, "whole"), (0.0, "whole"), (1.0, "without")]
]


def in_javascript(expression, cases):
    return explorable.evaluate(f"{json.dumps(cases)}.map((state) => {expression})")


def in_python(case):
    blamed = 0.0 if case["mode"] == "without" else case["blamed"]
    return theory.penalised_family(case["q"], case["n"], case["beta"], case["l1"], blamed)


def test_every_number_is_the_theorys():
    found = in_javascript("{const s = E.solve(state); return [s, E.loss(s.t, state)]}".join(["(() => ", ")()"]), CASES)
    for case, (solution, loss) in zip(CASES, found, strict=True):
        expected = in_python(case)
        assert solution["parent"] == pytest.approx(expected.parent, abs=1e-12)
        assert solution["child"] == pytest.approx(expected.child, abs=1e-12)
        assert (solution["absorption"] == 1) == (expected.beside == 0)
        assert loss == pytest.approx(expected.loss, abs=1e-12)


def test_the_minimum_of_the_drawn_loss_is_the_solution():
    kept = [case for case in CASES if case["blamed"] >= 0.3]
    losses = in_javascript("[-1, 0, 1].map((k) => E.loss(E.solve(state).t + k * 1e-4, state))", kept)
    for case, found in zip(kept, losses, strict=True):
        low, at, high = found
        assert at <= low + 1e-12 and at <= high + 1e-12, case


def test_the_loss_without_a_penalty_is_the_walks():
    """By the other way: the second moment re-weighted, on the states themselves."""
    states, ratios = family(1.0, 0.4).states(), np.linspace(0, 0.7, 8)
    pull = states.probs * theory.prefix_weights(states, range(3), (1, 3), (1.0, 1.0))
    weighted = type(states)(states.acts, pull / pull.sum())
    decoders = torch.tensor([[1, t, t] for t in ratios], dtype=torch.float64)
    expected = pull.sum() * theory.one_latent_loss(weighted, decoders)
    found = explorable.evaluate(f"{ratios.tolist()}.map((t) => E.loss(t, E.START))")
    assert found == pytest.approx(expected.tolist(), abs=1e-12)


def test_with_the_remedy_nothing_is_mixed_and_nothing_absorbed():
    found = explorable.evaluate("E.solve({...E.START, mode: 'remedy'})")
    assert (found["parent"], found["child"], found["absorption"]) == ([1, 0], [0, 1, 0], 0)
    lowest = explorable.evaluate("[-0.1, 0, 0.1].map((t) => E.loss(t, {...E.START, mode: 'remedy'}))")
    assert lowest[1] == 0 < min(lowest[0], lowest[2])


def test_values_stay_where_the_closed_forms_hold():
    assert explorable.evaluate("E.tidy({...E.START, q: 0.5, n: 3, l1: 2})") | {"turn": 0} == {
        "q": 0.32, "n": 3, "beta": 1, "l1": 0.3, "blamed": 1, "turn": 0, "mode": "whole"
    }  # fmt: skip
    assert explorable.evaluate("E.tidy({...E.START, l1: 0.2, mode: 'remedy'})")["l1"] == 0


def test_the_words_say_what_is_seen():
    whole, without, remedy = explorable.evaluate(
        "['whole', 'without', 'remedy'].map((mode) => E.words({...E.START, mode}))"
    )
    assert ".325 with each child (truth 0)" in whole and "−.543 with its sibling (truth 0)" in whole
    assert "of 0 with each child" in without and "with a cosine of .707: absorption." in without
    assert "nothing is mixed, nothing is absorbed" in remedy


def test_the_command_runs_the_notebook_at_these_values():
    found = explorable.evaluate("E.command({...E.START, q: 0.2, beta: 10 ** 0.05}, '03_name')")
    assert found == (
        "papermill notebooks/03_name.ipynb out.ipynb "
        "-p child_probability 0.2 -p n_children 2 -p inner_weight 1.122 -p l1 0"
    )
    assert "-p l1 0.03" in explorable.evaluate("E.command({...E.START, mode: 'without'}, '04')")


def test_the_picture_marks_what_was_trained_at_other_values():
    config = {"x": "q", "run": {"n": 2, "beta": 1}, "dots": [[0.1, 0.06, None], [0.4, 0.325, -0.54]]}
    same, other = explorable.evaluate(f"[1, 3].map((beta) => E.picture({{...E.START, beta}}, {json.dumps(config)}))")
    assert same.count('class="trained"') == 3 and "trained other" not in same
    assert other.count('class="trained other"') == 3 and "not these" in other
    assert "NaN" not in same + other and "undefined" not in same + other


def test_the_frame_without_javascript_is_the_first_one():
    committed = (explorable.STATIC / "explorable.html").read_text()
    assert committed == explorable.first_frame(), "run python scripts/explorable.py"
