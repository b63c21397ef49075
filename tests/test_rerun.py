"""What readers do with a notebook: run it with papermill, at their own parameters, from any folder."""

from pathlib import Path

import execute
import jupytext
import nbformat
import papermill
import pytest

from matryoshka_mixing import claims, theory
from matryoshka_mixing.features import FeatureTree, family

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
SMALL = {"n_seeds": 6, "n_sweep_seeds": 1, "n_steps": 300, "n_grid": 3}


def rerun(name, folder, parameters):
    """Run a notebook in another folder, and return the executed one."""
    notebook = jupytext.read(NOTEBOOKS / f"{name}.py")
    notebook.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "Python 3"}
    given = {key: value for key, value in SMALL.items() if key in execute.declared_parameters(notebook)}
    return papermill.execute_notebook(
        notebook, str(folder / "out.ipynb"), given | parameters, progress_bar=False, cwd=str(folder)
    )


EXPECTED = {
    "02_narrow_sae_mixes": ("child_cosine_near_truth", theory.parent_cosines(theory.narrow_ratio(0.2, 4), 4)[1]),
    "03_matryoshka_inherits": ("child_cosine_near_truth", theory.parent_cosines(theory.matryoshka_ratio(0.2, 4), 4)[1]),
    "04_why_it_happens": ("child_to_parent", theory.child_cosines(theory.matryoshka_ratio(0.2, 4), 4)[0]),
}
"""What theory gives at the parameters of the test."""


@pytest.mark.parametrize("name", [path.stem for path in sorted(NOTEBOOKS.glob("[0-9]*.py"))])
def test_every_notebook_follows_its_parameters_from_any_folder(name, tmp_path):
    chosen = {"child_probability": 0.2, "n_children": 4}
    if name == "06_every_prefix":
        small = FeatureTree(1.0, (*family(0.3, 0.2, 4).children, FeatureTree(0.1)), is_read_out=False)
        small.to_json(tmp_path / "small.json")
        chosen = {"tree_path": "small.json"}
    rerun(name, tmp_path, chosen)
    found = claims.collect([named(tmp_path / "out.ipynb", name)])
    values = {o["criterion"]["metric"]: o["value"] for r in found.values() for o in r["outcomes"]}
    if name in EXPECTED:
        metric, expected = EXPECTED[name]
        assert values[metric] == pytest.approx(expected, abs=0.01)
    for record in found.values():
        totals = [o["total"] for o in record["outcomes"] if o["criterion"]["share"]]
        assert all(total <= 18 for total in totals) and any(totals)
        assert record["verdict"] != "supported", "six seeds cannot carry a share of 90%"


def named(path, name):
    return path.rename(path.with_name(f"{name}.ipynb"))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"child_probability": 0.6}, "sum to 1.2; at most 1 is possible"),
        ({"d_model": 2}, "leaves no room for 3 orthogonal features"),
        ({"n_seed": 3}, "Did you mean n_seeds"),
        ({"l1": -0.5}, "l1 = -0.5"),
    ],
)
def test_a_bad_value_stops_before_any_training(parameters, message, tmp_path):
    with pytest.raises(papermill.PapermillExecutionError, match=message):
        rerun("02_narrow_sae_mixes", tmp_path, parameters)
    executed = nbformat.read(tmp_path / "out.ipynb", as_version=4)
    reached = [cell.source for cell in executed.cells if cell.cell_type == "code" and cell.execution_count]
    assert not any("train(" in source for source in reached)
    assert "parameters.check(globals())" in reached[-1], "the first cell after the parameters"
