import json
import re
from dataclasses import dataclass

import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st

from matryoshka_mixing.parameters import PARAMETERS, Chapter, given

GOOD = {"parent_probability": 0.3, "child_probability": 0.4, "n_children": 2, "l1": 0.0, "n_seeds": 64, "d_model": 20}


@dataclass(frozen=True)
class Parameters(Chapter):
    parent_probability: float = given("parent_probability", 0.25)
    child_probability: float = given("child_probability", 0.4)
    n_children: int = given("n_children", 2)
    l1: float = given("l1", 0.03)
    d_model: int = given("d_model", 20, high=500, meaning="size of the input")
    n_seeds: int = given("n_seeds", 192)
    seed: int = given("seed", 0)
    tree_path: str = given("tree_path", "")


def test_good_values_are_taken_and_other_things_are_left_alone():
    others = {"__name__": "__main__", "_i": "", "In": [], "Out": {}, "check": pytest}
    found = Parameters.of(GOOD | others | {"n_children": 3, "child_probability": 0.2})
    assert (found.n_children, found.parent_probability, found.tree_path) == (3, 0.3, "")
    assert Parameters.of({}) == Parameters()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"child_probability": 1.2}, "child_probability = 1.2: .* a number from 1e-06 to 1; change it with `-p"),
        ({"parent_probability": -0.1}, "parent_probability = -0.1"),
        ({"parent_probability": "0.3"}, "parent_probability = '0.3'"),
        ({"parent_probability": None}, "parent_probability = None"),
        ({"l1": -1}, "l1 = -1: .* from 0 to 10"),
        ({"l1": float("nan")}, "l1 = nan"),
        ({"l1": float("inf")}, "l1 = inf"),
        ({"n_seeds": 0}, "n_seeds = 0: .* a whole number from 1 to 10000"),
        ({"n_seeds": 2.5}, "n_seeds = 2.5"),
        ({"n_seeds": True}, "n_seeds = True"),
        ({"n_children": 1}, "n_children = 1"),
        ({"n_children": 2.0}, "n_children = 2.0: .* a whole number from 2 to 12"),
        ({"n_children": [2]}, r"n_children = \[2\]"),
        ({"d_model": 501}, "d_model = 501: size of the input. It must be a whole number from 1 to 500"),
        ({"child_probability": 0.6}, "sum to 1.2; at most 1 is possible"),
        ({"d_model": 2}, "leaves no room for 3 orthogonal features"),
        ({"n_seed": 3}, "n_seed = 3 is not a parameter of this chapter. Did you mean n_seeds"),
        ({"N_SEEDS": 3}, "N_SEEDS = 3 is not a parameter of this chapter. Did you mean n_seeds"),
        ({"inner_weight": 3}, "inner_weight = 3 is a parameter of other chapters. The parameters here are parent"),
        ({"zzz": 3}, "zzz = 3 is not a parameter of this chapter. The parameters here are parent_probability"),
        ({"zzz": (1, 2)}, "zzz = "),
        ({"seed": 10**20}, "seed = 1000"),
    ],
)  # fmt: skip
def test_bad_values_and_names_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        Parameters.of(GOOD | change)


@drawn(st.integers(2, 12), st.floats(0.01, 1))
def test_of_children_that_do_not_fit_both_parameters_are_named_and_what_is_advised_is_taken(n, chance):
    asked = {"n_children": n, "child_probability": chance}
    if n * chance <= 1 + 1e-9:
        assert Parameters(**asked).n_children == n
        return
    with pytest.raises(ValueError, match=re.escape(f"n_children = {n} and child_probability = {chance}")) as error:
        Parameters(**asked)
    advised = re.search(r"child_probability to ([\d.]+) or less(?:, or n_children to (\d+))?", str(error.value))
    assert Parameters(**asked | {"child_probability": float(advised[1])}).n_children == n
    assert (advised[2] is None) == (2 * chance > 1 + 1e-9)
    if advised[2]:
        assert Parameters(**asked | {"n_children": int(advised[2])}).child_probability == chance


def test_a_tree_file_takes_the_place_of_a_family_that_is_then_not_checked(tmp_path):
    path = tmp_path / "tree.json"
    path.write_text(json.dumps({"active_prob": 0.5}))
    for impossible in ({"n_children": 12}, {"n_children": 12, "child_probability": 0.01, "d_model": 9}):
        assert Parameters(tree_path=str(path), **impossible).n_children == 12
        with pytest.raises(ValueError, match=r"at most 1 is possible|no room for"):
            Parameters(**impossible)


def test_the_cell_and_the_table_say_what_the_object_says():
    assert "d_model = 20  # size of the input: a whole number from 1 to 500\n" in Parameters.cell()
    assert 'tree_path = ""  # ' in Parameters.cell()
    namespace = {}
    exec(Parameters.cell(), {}, namespace)
    assert Parameters.of(namespace) == Parameters()
    assert "| `l1` | `0.03` | weight of the L1 penalty | a number from 0 to 10 |" in Parameters.table()


def test_every_parameter_says_what_it_means():
    assert all(parameter.meaning and parameter.allowed for parameter in PARAMETERS.values())
    quotes = [p.meaning for p in PARAMETERS.values() if {"'", '"', "="} & set(p.meaning)]
    assert quotes == [], "papermill's parser gives up on them"


def test_a_tree_file_is_read_and_its_mistakes_named(tmp_path):
    path = tmp_path / "tree.json"
    path.write_text('{"active_prob": 1, "is_read_out": false, "children": [{"active_prob": 0.3}]}')
    assert Parameters(tree_path=str(path)).tree_path == str(path)
    path.write_text('{"active_prob": 1, "is_read_out": false, "children": [{"active_prob": 1.3}]}')
    with pytest.raises(ValueError, match=r"root\.children\[0\]\.active_prob: 1\.3 is greater than the maximum of 1"):
        Parameters(tree_path=str(path))
    for value in (str(tmp_path / "none.json"), str(tmp_path)):
        with pytest.raises(ValueError, match=r"no such file\. It must be the path of a JSON file, or empty"):
            Parameters(tree_path=value)


@dataclass(frozen=True)
class Long(Chapter):
    n_seeds: int = given("n_seeds", 192)
    n_steps: int = given("n_steps", 2000)


def test_what_would_take_days_is_begun_only_when_insisted(monkeypatch):
    with pytest.raises(
        ValueError, match=r"n_seeds = 10000, n_steps = 1000000: .* 44.4 hours of one core.*MATRYOSHKA_INSIST=1"
    ):
        Long(10_000, 1_000_000)
    monkeypatch.setenv("MATRYOSHKA_INSIST", "1")
    assert Long(10_000, 1_000_000).needs() == pytest.approx((8e10 * 2e-6 / 3600, 80_000 * 4 * 8 * 9 * 20 / 1e9))
