"""What readers do with a notebook and nbval cannot show: run it at their own parameters, from any folder."""

import os
import re
from pathlib import Path

import execute
import jupytext
import nbformat
import papermill
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from matryoshka_mixing import claims, figures, notebook, theory, training
from matryoshka_mixing.chapters import narrow_sae_mixes

ROOT = Path(__file__).parent.parent
SMALL = {"n_seeds": 6, "n_sweep_seeds": 1, "n_steps": 300, "n_grid": 3}


def rerun(name, folder, **parameters):
    """Run a notebook with papermill in another folder, and return the path of the executed one."""
    source = jupytext.read(ROOT / f"notebooks/{name}.py")
    source.metadata["kernelspec"] = execute.KERNEL
    small = {key: value for key, value in SMALL.items() if key in execute.declared_parameters(source)}
    output = folder / f"{name}.ipynb"
    execute.executed(source, str(output), small | parameters, cwd=str(folder))
    return output


def test_every_number_follows_the_parameters(tmp_path):
    found = claims.collect([rerun("02_narrow_sae_mixes", tmp_path, child_probability=0.2, n_children=4)])
    values = {o["criterion"]["metric"]: o["value"] for o in found["narrow-mixing"]["outcomes"]}
    expected = theory.parent_cosines(theory.narrow_ratio(0.2, 4), 4)[1]
    assert values["child_cosine_near_truth"] == pytest.approx(expected, abs=0.01)
    for record in found.values():
        totals = [o["total"] for o in record["outcomes"] if o["criterion"]["share"]]
        assert all(total <= SMALL["n_seeds"] for total in totals) and any(totals)
        assert record["verdict"] != "supported", "six seeds cannot carry a share of 90%"


def test_the_tree_that_the_book_shows_runs_from_the_readers_folder(tmp_path):
    page = (ROOT / "book/rerun.md").read_text()
    (tmp_path / "my_tree.json").write_text(re.search(r"```json\n(.*?)```", page, re.DOTALL)[1])
    output = rerun("06_every_prefix", tmp_path, tree_path="my_tree.json")
    assert set(claims.collect([output])) == {"not-sampling", "improves-on-standard"}


def test_a_bad_value_stops_before_any_training(tmp_path):
    """One value stands for all: which ones are refused, and in what words, the chapters' own tests show."""
    with pytest.raises(papermill.PapermillExecutionError, match=r"sum to 1\.5; at most 1 is possible"):
        rerun("02_narrow_sae_mixes", tmp_path, child_probability=0.5, n_children=3)
    cells = nbformat.read(tmp_path / "02_narrow_sae_mixes.ipynb", as_version=4).cells
    reached = [cell.source for cell in cells if cell.cell_type == "code" and cell.execution_count]
    assert "notebook.begin(globals())" in reached[-1] and len(reached) == 3, "the cell after both sets of parameters"


@pytest.mark.parametrize(("given", "cores", "used"), [(None, {0, 3, 5}, "3"), (None, None, "4"), ("2", {0}, "2")])
def test_the_first_call_lets_saes_be_trained_on_all_cores_unless_a_number_is_given(given, cores, used, monkeypatch):
    monkeypatch.setattr(figures, "use_style", lambda: None)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: cores)
    if cores is None:  # as on macOS
        monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setenv(training.THREADS, given or "1")
    if given is None:
        monkeypatch.delenv(training.THREADS)
    notebook.begin({"chapter": narrow_sae_mixes})
    assert os.environ[training.THREADS] == used


def test_the_first_call_hands_over_the_chapters_parameters(monkeypatch):
    monkeypatch.setenv(training.THREADS, "1")
    called = []
    monkeypatch.setattr(figures, "use_style", lambda: called.append("style"))
    with threadpool_limits(2):
        chosen = notebook.begin({"chapter": narrow_sae_mixes, "n_seeds": 3})
        assert {pool["num_threads"] for pool in threadpool_info()} == {1}, "threads of BLAS slow small matrices down"
    assert chosen == narrow_sae_mixes.Parameters(n_seeds=3) and called == ["style"]
    for namespace in ({"n_seeds": 3}, {"chapter": claims}):
        with pytest.raises(ValueError, match="import the chapter's module first"):
            notebook.begin(namespace)
