import pytest

from matryoshka_mixing.parameters import PARAMETERS, check

GOOD = {
    "parent_probability": 0.3,
    "child_probability": 0.4,
    "n_children": 2,
    "l1": 0.0,
    "n_seeds": 64,
    "d_model": 20,
}


def test_good_values_pass_and_other_names_are_left_alone():
    check(GOOD | {"__name__": "__main__", "_i": "", "In": [], "check": check, "n_children": 2})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"child_probability": 1.2},
            "child_probability = 1.2: .* It must be a number from 1e-06 to 1; change it with `-p",
        ),
        ({"parent_probability": -0.1}, "parent_probability = -0.1"),
        ({"parent_probability": "0.3"}, "parent_probability = '0.3'"),
        ({"l1": -1}, "l1 = -1: .* at least 0"),
        ({"l1": float("nan")}, "l1 = nan"),
        ({"n_seeds": 0}, "n_seeds = 0: .* a whole number of at least 1"),
        ({"n_seeds": 2.5}, "n_seeds = 2.5"),
        ({"n_seeds": True}, "n_seeds = True"),
        ({"n_children": 1}, "n_children = 1"),
        ({"n_children": 2.0}, "n_children = 2.0: .* a whole number from 2 to 12"),
        ({"n_children": 16}, "n_children = 16"),
        ({"child_probability": 0.6}, "sum to 1.2; at most 1 is possible"),
        ({"d_model": 2}, "leaves no room for 3 orthogonal features"),
        ({"n_seed": 3}, "n_seed = 3 is not a parameter of these notebooks. Did you mean n_seeds?"),
        ({"zzz": 3}, "zzz = 3 is not a parameter .* The parameters are parent_probability"),
    ],
)
def test_bad_values_and_misspelt_names(change, message):
    with pytest.raises(ValueError, match=message):
        check(GOOD | change)


def test_every_parameter_says_what_it_means():
    assert all(parameter.meaning and parameter.allowed for parameter in PARAMETERS.values())


def test_a_tree_file_is_read_and_its_mistakes_named(tmp_path):
    path = tmp_path / "tree.json"
    check({"tree_path": ""})
    path.write_text('{"active_prob": 1, "is_read_out": false, "children": [{"active_prob": 0.3}]}')
    check({"tree_path": str(path)})
    path.write_text('{"active_prob": 1, "is_read_out": false, "children": [{"active_prob": 1.3}]}')
    with pytest.raises(ValueError, match=r"root\.children\[0\]: a feature has active_prob 1\.3"):
        check({"tree_path": str(path)})
    for value in (str(tmp_path / "none.json"), str(tmp_path), 3):
        with pytest.raises(ValueError, match=r"no such file\. It must be the path of a JSON file, or empty"):
            check({"tree_path": value})
