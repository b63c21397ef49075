"""The explorable: its arithmetic is `theory`'s, and the frame that stands without JavaScript is its own first.

Unequal children with a penalty have no closed form; there the numbers are those of trained SAEs.
"""

import json
import subprocess

import explorable
import numpy as np
import pytest
import torch
from penalised import penalised_family

from matryoshka_mixing import metrics, theory
from matryoshka_mixing.chapters import what_cures_it
from matryoshka_mixing.features import FeatureTree, family, orthonormal_dictionary
from matryoshka_mixing.sae import SAEConfig, start_near
from matryoshka_mixing.training import Setting, TrainConfig, train

CASES = [
    {"q": q, "n": n, "times": 1, "beta": beta, "l1": l1, "blamed": blamed, "mode": mode}
    for q, n, beta in [(0.4, 2, 1.0), (0.02, 2, 0.1), (0.49, 2, 10.0), (0.15, 5, 2.0), (0.08, 12, 0.5)]
    for l1 in (0.0, 0.03, 0.3)
    for blamed, mode in [(1.0, "whole"), (0.3, "whole"), (2.0, "whole"), (0.0, "whole"), (1.0, "without")]
]
UNEQUAL = [
    {"q": q, "n": n, "times": times, "beta": beta, "l1": 0.0, "blamed": blamed, "mode": "whole"}
    for q, n in [(0.4, 2), (0.02, 2), (0.49, 2), (0.1, 3), (0.32, 3), (0.15, 5), (0.08, 12)]
    for times in (1.5, 3.0, 10.0)
    for beta in (0.1, 1.0, 10.0)
    for blamed in (0.3, 1.0)
]


def in_javascript(expression, cases):
    return explorable.evaluate(f"{json.dumps(cases)}.map((state) => {expression})")


def in_python(case):
    blamed = 0.0 if case["mode"] == "without" else case["blamed"]
    return penalised_family(case["q"], case["n"], case["beta"], case["l1"], blamed)


def solved(cases):
    """What the explorable finds, and its loss there."""
    solution = "const s = E.solve(state), [p, ...rest] = s.parent; return [s, E.loss(rest.map((c) => c / p), state)]"
    return in_javascript(f"(() => {{{solution}}})()", cases)


def each_chance(case):
    """How often each child fires beside its parent: the first `times` as often as the others, on average q."""
    share = torch.tensor([case["times"], *[1.0] * (case["n"] - 1)], dtype=torch.float64)
    return case["q"] * share / share.mean()


def test_every_number_is_the_theorys():
    for case, (solution, loss) in zip(CASES, solved(CASES), strict=True):
        expected = in_python(case)
        mixed = expected.parent[1]
        assert solution["parent"] == pytest.approx([expected.parent[0], mixed, mixed], abs=1e-12)
        for child in solution["children"]:
            assert child == pytest.approx(expected.child, abs=1e-12)
        assert solution["absorption"] == (expected.beside == 0)
        assert loss == pytest.approx(expected.loss, abs=1e-12)


def test_every_number_of_unequal_children_is_the_theorys():
    for case, (solution, loss) in zip(UNEQUAL, solved(UNEQUAL), strict=True):
        alone, pulls = 1 - case["q"] * case["n"], case["beta"] * case["blamed"] * each_chance(case)
        ratios = theory.unequal_ratios(alone * (1 + case["beta"]), pulls)
        parent = torch.nn.functional.normalize(torch.cat([torch.ones(1, dtype=torch.float64), ratios]), dim=0)
        one = torch.eye(case["n"] + 1, dtype=torch.float64)
        first, other = (theory.child_decoder(parent, one[0] + one[i])[[0, i, 3 - i]] for i in (1, 2))
        assert solution["parent"] == pytest.approx(parent[:3].tolist(), abs=1e-12)
        assert solution["children"][0] == pytest.approx(first.tolist(), abs=1e-11)
        assert solution["children"][1] == pytest.approx(other.tolist(), abs=1e-11)
        assert solution["absorption"] == 0
        # What a decoder leaves of the weighted power is all but its eigenvalue: the parent alone has power 1, both 2.
        eigenvalue = float(alone * (1 + case["beta"]) + (pulls * (1 + ratios)).sum())
        assert loss == pytest.approx(float(alone * (1 + case["beta"]) + 2 * pulls.sum()) - eigenvalue, abs=1e-12)


@pytest.mark.parametrize(
    ("change", "silent"),
    [({"times": 3}, [False, False]), ({"q": 0.3, "n": 3, "times": 6, "beta": 0.1, "l1": 0.28}, [False, True])],
)
def test_unequal_children_with_a_penalty_are_what_training_finds(change, silent):
    case = {"q": 0.4, "n": 2, "times": 1, "beta": 1.0, "l1": 0.1, "blamed": 1, "mode": "whole"} | change
    n = case["n"]
    states, dictionary = family(0.3, each_chance(case).tolist(), n).states(), orthonormal_dictionary(n + 1, 20, 0)
    config = SAEConfig(20, (1, n + 1), (case["beta"], 1.0), l1=case["l1"], encoder_bias=False, decoder_bias=False)
    run = train(Setting(config, states, dictionary), start_near(dictionary, range(3), 0.05), TrainConfig(6000))
    found = metrics.decoder_cosines(run.sae, dictionary)[0].median(0).values
    [[solution, loss]] = solved([case])
    assert solution["silent"] == silent
    assert found[0, :3].tolist() == pytest.approx(solution["parent"], abs=2e-5)
    assert found[1, :3].tolist() == pytest.approx(solution["children"][0], abs=2e-5)
    assert found[2, [0, 2, 1]].tolist() == pytest.approx(solution["children"][1], abs=2e-5)
    assert float(run.loss[0].median()) == pytest.approx(0.3 * loss, abs=1e-7)


def test_the_minimum_of_the_drawn_loss_is_the_solution():
    kept = [case for case in CASES + UNEQUAL if case["blamed"] >= 0.3]
    steps = "[[0, 0], [-1, 0], [1, 0], [0, -1], [0, 1]]"
    losses = in_javascript(
        "(() => {const [p, ...rest] = E.solve(state).parent; "
        f"return {steps}.map((step) => E.loss(rest.map((c, k) => c / p + step[k] * 1e-4), state))}})()",
        kept,
    )
    for case, (at, *beside) in zip(kept, losses, strict=True):
        assert at <= min(beside) + 1e-12, case


def test_the_loss_without_a_penalty_is_the_walks():
    """By the other way: the second moment re-weighted, on the states themselves."""
    states, ratios = family(1.0, 0.4).states(), np.linspace(0, 0.7, 8)
    pull = states.probs * theory.prefix_weights(states, range(3), (1, 3), (1.0, 1.0))
    weighted = type(states)(states.acts, pull / pull.sum())
    decoders = torch.tensor([[1, t, t] for t in ratios], dtype=torch.float64)
    expected = pull.sum() * theory.one_latent_loss(weighted, decoders)
    found = explorable.evaluate(f"{ratios.tolist()}.map((t) => E.loss([t, t], E.START))")
    assert found == pytest.approx(expected.tolist(), abs=1e-12)


def test_with_the_remedy_nothing_is_mixed_and_nothing_absorbed():
    found = explorable.evaluate("E.solve({...E.START, mode: 'remedy'})")
    assert (found["parent"], found["children"], found["absorption"]) == ([1, 0, 0], [[0, 1, 0]] * 2, 0)
    lowest = explorable.evaluate("[-0.1, 0, 0.1].map((t) => E.loss([t, t], {...E.START, mode: 'remedy'}))")
    assert lowest[1] == 0 < min(lowest[0], lowest[2])


def test_values_stay_where_the_closed_forms_hold():
    assert explorable.evaluate("E.tidy({...E.START, q: 0.5, n: 3, l1: 2})") | {"turn": 0} == {
        "q": 0.32, "n": 3, "times": 1, "beta": 1, "l1": 0.3, "blamed": 1, "turn": 0, "mode": "whole"
    }  # fmt: skip
    assert explorable.evaluate("E.tidy({...E.START, l1: 0.2, mode: 'remedy'})")["l1"] == 0


def test_the_words_say_what_is_seen():
    whole, without, remedy = explorable.evaluate(
        "['whole', 'without', 'remedy'].map((mode) => E.words({...E.START, mode}))"
    )
    assert ".325 with each child (truth 0)" in whole and "−.543 with its sibling (truth 0)" in whole
    assert "of 0 with each child" in without and "with a cosine of .707: absorption." in without
    assert "nothing is mixed, nothing is absorbed" in remedy


def test_the_words_tell_unequal_children_apart():
    two, many, partly = explorable.evaluate(
        "[{times: 4}, {times: 4, n: 4, q: 0.2}, {times: 10, n: 3, q: 0.32, beta: 0.1, l1: 0.3}]"
        ".map((change) => E.words({...E.START, ...change}))"
    )
    assert two.startswith("Child 1 fires on .640 of the parent's inputs, child 2 on .160.")
    assert ".540 with child 1 and .091 with child 2 (truth 0)" in two and "no absorption" in two
    assert "with each other child (truth 0)" in many
    assert "silent wherever another child fires" in partly and partly.endswith(": absorption.")


def test_the_command_runs_the_notebook_at_these_values():
    found = explorable.evaluate("E.command({...E.START, q: 0.2, beta: 10 ** 0.05}, '03_name')")
    assert found == (
        "papermill notebooks/03_name.ipynb out.ipynb "
        "-p child_probability 0.2 -p n_children 2 -p inner_weight 1.122 -p l1 0"
    )
    assert "-p l1 0.03" in explorable.evaluate("E.command({...E.START, mode: 'without'}, '04')")


def test_the_command_for_unequal_children_brings_a_tree_file(tmp_path):
    found, without = explorable.evaluate(
        "['whole', 'without'].map((mode) => E.command({...E.START, n: 3, q: 0.3, times: 4, mode}, '03_name'))"
    )
    note, write, run = found.split("\n")
    assert note.startswith("# Chapter 11 takes unequal children; its SAEs have biases")
    subprocess.run(write, shell=True, cwd=tmp_path, check=True)
    tree = FeatureTree.from_json(tmp_path / "children.json")
    assert torch.equal(tree.states().probs, family(0.3, (0.6, 0.15, 0.15), 3).states().probs)
    assert run == (
        "papermill notebooks/11_what_cures_it.ipynb out.ipynb -p tree_path children.json -p inner_weight 1 -p l1 0"
    )
    what_cures_it.Parameters(tree_path=str(tmp_path / "children.json"), inner_weight=1, l1=0)
    assert without.startswith("# No chapter trains unequal children without these terms; this trains equal ones.\n")


def test_the_picture_marks_what_was_trained_at_other_values():
    config = {"x": "q", "run": {"n": 2, "beta": 1}, "dots": [[0.1, 0.06, None], [0.4, 0.325, -0.54]]}
    changes = [{}, {"beta": 3}, {"times": 2}]
    same, *others = explorable.evaluate(
        f"{json.dumps(changes)}.map((change) => E.picture({{...E.START, ...change}}, {json.dumps(config)}))"
    )
    assert same.count('class="trained"') == 3 and "trained other" not in same
    for other in others:
        assert other.count('class="trained other"') == 3 and "not these" in other
    assert "NaN" not in same + "".join(others) and "undefined" not in same + "".join(others)


def test_the_frame_without_javascript_is_the_first_one():
    committed = (explorable.STATIC / "explorable.html").read_text()
    assert committed == explorable.first_frame(), "run python scripts/explorable.py"
