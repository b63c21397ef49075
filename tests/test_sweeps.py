"""Sweeps of notebooks: sweep files become runs or a clear error, runs become one table; the engine, where asked for."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import design
import gather
import nbformat
import pandas as pd
import point
import pytest
import yaml
from IPython.core.interactiveshell import InteractiveShell

from matryoshka_mixing.chapters import narrow_sae_mixes
from matryoshka_mixing.claims import MIME

ROOT = Path(__file__).parent.parent
NARROW = {"chapter": "02_narrow_sae_mixes", "profile": "quick"}
FILES = sorted((ROOT / "sweeps").glob("*.yml"))


def load(folder, **sheet):
    """Write a sweep file and load it."""
    path = folder / "mine.yml"
    path.write_text(yaml.safe_dump(NARROW | sheet))
    return design.load(path)


# From a sweep file to runs


def test_a_grid_holds_every_combination_with_all_parameters_of_the_chapter(tmp_path):
    sweep = load(tmp_path, fixed={"n_seeds": 5}, design={"grid": {"child_probability": [0.1, 0.2], "l1": [0, 0.1, 1]}})
    assert (sweep.name, sweep.varied) == ("mine", ("child_probability", "l1"))
    found = [(run["child_probability"], run["l1"]) for run in sweep.runs.values()]
    assert found == [(q, l1) for q in (0.1, 0.2) for l1 in (0, 0.1, 1)]
    for run in sweep.runs.values():
        assert set(run) == set(narrow_sae_mixes.Parameters.described())
        assert (run["n_seeds"], run["n_steps"], run["d_model"]) == (5, 600, 20), "fixed, then profile, then default"


def test_one_at_a_time_moves_each_alone_and_holds_the_home_once(tmp_path):
    values = {"l1": [0, 0.1], "start_noise": [0.1, 2]}
    runs = load(tmp_path, design={"one_at_a_time": values}).runs.values()
    assert [(run["l1"], run["start_noise"]) for run in runs] == [(0, 0.5), (0.1, 0.5), (0, 0.1), (0, 2)]


def test_a_random_design_fills_every_part_of_every_range_once_and_repeats(tmp_path):
    ranges = {"child_probability": [0.1, 0.5], "l1": {"low": 0.001, "high": 1, "log": True}, "n_children": [2, 5]}
    what = {"random": {"runs": 8, "seed": 3, "ranges": ranges | {"child_probability": [0.02, 0.18]}}}
    runs = list(load(tmp_path, design=what).runs.values())
    assert sorted(int((run["child_probability"] - 0.02) / 0.02) for run in runs) == list(range(8))
    assert sorted(int(8 * (1 + math.log10(run["l1"]) / 3)) for run in runs) == list(range(8))
    assert sorted(run["n_children"] for run in runs) == [2, 2, 3, 3, 4, 4, 5, 5]
    assert list(load(tmp_path, design=what).runs.values()) == runs
    what["random"]["seed"] = 4
    assert list(load(tmp_path, design=what).runs.values()) != runs


def test_a_run_is_known_by_what_it_computes(tmp_path):
    one = load(tmp_path, design={"grid": {"l1": [0, 0.5]}})
    other = load(tmp_path, fixed={"child_probability": 0.4}, design={"one_at_a_time": {"l1": [0.5, 0.0, 1]}})
    assert set(one.runs) < set(other.runs), "0 and 0.0 are one value; a default may be given; more points keep the old"
    seeded = load(tmp_path, seeds=[0, 100], design={"grid": {"l1": [0, 0.5]}})
    assert len(seeded.runs) == 4 and set(one.runs) < set(seeded.runs)


def test_points_that_the_chapter_does_not_allow_are_refused_or_skipped_as_the_file_says(tmp_path):
    grid = {"grid": {"child_probability": [0.2, 0.5], "n_children": [2, 4]}}
    with pytest.raises(
        ValueError, match=r"mine.yml: 1 of 4 runs cannot run, the first with .*at most 1 is possible.*skip"
    ):
        load(tmp_path, design=grid)
    sweep = load(tmp_path, unfit="skip", design=grid)
    assert len(sweep.runs) == 3 and sweep.left_out == 1


@pytest.mark.parametrize(
    ("sheet", "message"),
    [
        ({"design": {"grid": {"n_seed": [1]}}, "unfit": "skip"}, "not a parameter of this .* Did you mean n_seeds"),
        ({"design": {"grid": {"inner_weight": [1]}}, "unfit": "skip"}, "a parameter of other chapters"),
        ({"design": {"grid": {"l1": [-1]}}}, "l1 = -1: weight of the L1 penalty.*from 0 to 10"),
        ({"design": {"grid": {"l1": 1}}}, "must give each parameter a list of values"),
        ({"design": {"grid": {}}}, "must give each parameter a list of values"),
        ({"design": {"lattice": {"l1": [1]}}}, "must be one of grid, one_at_a_time, random"),
        ({"design": {"random": {"runs": 0, "seed": 0, "ranges": {"l1": [0, 1]}}}}, "give at least 1"),
        ({"design": {"random": {"runs": 2, "seed": 0, "ranges": {"l1": [1, 0]}}}}, "low must be below high"),
        ({"design": {"random": {"runs": 2, "seed": 0, "ranges": {"l1": [0]}}}}, r"must be \[low, high\]"),
        ({"design": {"random": {"runs": 2, "seed": 0, "ranges": {"l1": {"low": 0, "high": 1, "log": 1}}}}}, "above 0"),
        ({"design": {"random": {"runs": 2}}}, "must hold runs, seed and ranges"),
        ({"design": {"grid": {"l1": [1]}}, "fixed": {"l1": 0}}, "l1: given twice"),
        ({"design": {"grid": {"l1": [1]}}, "fixed": {"seed": 0}, "seeds": [0]}, "seed: given twice"),
        ({"design": {"grid": {"l1": [1]}}, "seeds": [0, 10]}, "lie 10 apart, but a run takes 16"),
        ({"design": {"grid": {"l1": [1]}}, "seeds": 3}, "must be a list such as"),
        ({"design": {"grid": {"l1": [1]}}, "profile": "slow"}, "must be one of full, quick, report"),
        ({"design": {"grid": {"l1": [1]}}, "chapter": "02"}, "must be one of 01_standard"),
        ({"design": {"grid": {"l1": [1]}}, "unfit": "maybe"}, "must be refuse or skip"),
        ({"designs": {}}, "a sweep file holds chapter, design"),
    ],
)  # fmt: skip
def test_a_bad_sweep_file_is_refused_in_words(sheet, message, tmp_path):
    with pytest.raises(ValueError, match=f"mine.yml: .*{message}"):
        load(tmp_path, **sheet)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_sweep_files_that_come_with_it_are_good(path):
    assert design.load(path).runs


def test_the_plan_is_written_and_left_alone_where_it_is_the_same(tmp_path):
    sweep = load(tmp_path, design={"grid": {"l1": [0, 0.5]}})
    design.write(sweep, tmp_path / "out")
    files = sorted(path for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert len(files) == 3 and json.loads(files[0].read_text())["runs"] == list(sweep.runs)
    assert yaml.safe_load(files[1].read_text()) in sweep.runs.values()
    before = [path.stat().st_mtime_ns for path in files]
    design.write(sweep, tmp_path / "out")
    assert [path.stat().st_mtime_ns for path in files] == before


# From runs to a table


@pytest.fixture
def ran(tmp_path):
    """A sweep of three runs: one done, one failed, one not run."""
    sweep = load(tmp_path, design={"grid": {"l1": [0, 0.5, 1]}})
    design.write(sweep, tmp_path)
    done, failed, _ = (tmp_path / "runs" / run for run in sweep.runs)
    notebook = json.loads((ROOT / "notebooks/02_narrow_sae_mixes.ipynb").read_text())
    notebook["metadata"]["cost"] = {"seconds": 21.5, "cpu_seconds": 3.25, "memory_mb": 500}
    (done / "02_narrow_sae_mixes.ipynb").write_text(json.dumps(notebook))
    (failed / "02_narrow_sae_mixes.failed.log").write_text("Traceback\n\nValueError: no\n\n")
    return tmp_path


def test_the_table_has_a_row_for_each_run_claim_and_criterion_and_says_what_failed(ran):
    table = gather.gather(ran)
    assert list(table.drop_duplicates("run")["status"]) == ["done", "failed", "not run"]
    done = table[table["status"] == "done"]
    assert (
        set(done["claim"]) == {"narrow-mixing", "mse-reason"} and (done["l1"] == 0).all() and (done["seed"] == 0).all()
    )
    row = done[(done["metric"] == "child_cosine_near_truth")].iloc[0]
    assert row["value"] == pytest.approx(0.3644, abs=1e-3) and row["passed"] == row["total"] == 192
    assert row["verdict"] == "supported" and (row["seconds"], row["cpu_seconds"], row["memory_mb"]) == (21.5, 3.25, 500)
    others = table[table["status"] != "done"]
    assert list(others["reason"]) == ["ValueError: no", ""] and others["claim"].isna().all()
    assert list(others["l1"]) == [0.5, 1]
    assert gather.summary(table).splitlines()[:2] == [
        "3 runs: 1 done, 1 failed, 1 not run",
        "  narrow-mixing: 1 supported",
    ]


def test_a_notebook_without_its_verdicts_is_a_failure_with_a_reason(ran):
    notebook = next(ran.glob("runs/*/*.ipynb"))
    notebook.write_text(re.sub(r"verdict\+json", "lost", notebook.read_text()))
    table = gather.gather(ran)
    assert table["status"].value_counts().to_dict() == {"failed": 2, "not run": 1}
    assert table["reason"].str.contains("claims.yml expects verdicts on").sum() == 1


def test_the_table_is_written_and_told(ran, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["gather.py", str(ran), "--output", str(ran / "table.csv")])
    gather.main()
    written = pd.read_csv(ran / "table.csv")
    assert len(written) == len(gather.gather(ran)) and set(written["chapter"]) == {"02_narrow_sae_mixes"}
    assert capsys.readouterr().out.startswith("3 runs: 1 done, 1 failed, 1 not run")


# One run

SMALL = """\
# %% tags=["parameters"]
first = 1  # a parameter
second = 2  # another

# %%
print(first + second)

# %% [markdown]
# Words.

# %%
from matryoshka_mixing.claims import MIME


class Shown:
    def _repr_mimebundle_(self, include=None, exclude=None):
        return {"text/plain": "shown", MIME: {"sum": first + second}}


Shown()

# %% mystnb={"figure": {"name": "fig-small"}}
print("before the figure")
figure = 1 / 0

# %%
if first > 5:
    raise ValueError("first is too large")
"""


@pytest.fixture
def small(tmp_path):
    """A notebook, where its outputs go, and its parameters."""
    paths = tmp_path / "small.py", tmp_path / "out/small.ipynb", tmp_path / "parameters.yml"
    paths[0].write_text(SMALL)
    yield paths
    InteractiveShell.clear_instance()


def test_a_run_holds_what_the_cells_print_and_show_with_the_given_parameters(small):
    small[2].write_text("{first: 5, others: 3}")
    assert point.attempt(*small) == {"code": 0, "told": "[small] done"}
    written = nbformat.read(small[1], 4)
    outputs = [output for cell in written.cells for output in cell.get("outputs", [])]
    assert outputs[0].text == "7\n"
    assert outputs[1]["data"] == {"text/plain": "shown", MIME: {"sum": 7}}
    assert outputs[2].text == "before the figure\n" and len(outputs) == 3, "but no figure is drawn"
    cost = written.metadata["cost"]
    assert cost["cpu_seconds"] >= 0 and 0 < cost["seconds"] < 60 and 10 < cost["memory_mb"] < 100_000


def test_a_run_that_fails_says_where_and_leaves_no_notebook(small):
    small[2].write_text("first: 6")
    done = point.attempt(*small)
    assert done["code"] == 1 and "FAILED in ValueError: first is too large" in done["told"]
    log = small[1].with_suffix(".failed.log").read_text()
    assert not small[1].exists() and "if first > 5:" in log and log.endswith("ValueError: first is too large\n")


def test_without_a_server_nobody_answers(tmp_path):
    assert point.ask(str(tmp_path / "socket"), {}) is None


# The engine itself: it has an environment of its own, and takes minutes

ENGINE = ROOT / ".venv-sweep/bin/snakemake"
engine = pytest.mark.skipif(
    os.environ.get("SWEEP_TESTS") != "1" or not ENGINE.exists(),
    reason="runs the engine for minutes: SWEEP_TESTS=1 asks for it, after `make .venv-sweep/installed`",
)
slurm = pytest.mark.skipif(
    not all(
        shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin") for program in ("slurmctld", "slurmd", "munged")
    ),
    reason="no Slurm here: apt-get install slurmctld slurmd slurm-client munge",
)


def snakemake(path, *options):
    """Start the engine on a sweep file, in a group of processes of its own."""
    command = [ENGINE, "--snakefile", "sweeps/Snakefile", "--config", f"sweep={path}", "--cores", "1", *options]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


@pytest.fixture
def sheet(tmp_path):
    """Write a sweep file of a name that no other sweep has; its results are removed afterwards."""
    path = tmp_path / f"test-{tmp_path.name}.yml"

    def write(**sheet):
        path.write_text(yaml.safe_dump(NARROW | {"fixed": {"n_seeds": 4, "n_steps": 50}} | sheet))
        return path

    yield write
    shutil.rmtree(ROOT / "_build/sweeps" / path.stem, ignore_errors=True)


@pytest.mark.parametrize("name", ["", "no", "narrow rehearsal"])
def test_make_refuses_a_sweep_that_is_not_there(name):
    env = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    done = subprocess.run(["make", "sweep", f"SWEEP={name}"], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 2 and f"SWEEP={name} is unknown; choose one of: " in done.stderr


@engine
def test_a_bad_design_stops_the_engine_before_the_first_run(sheet):
    path = sheet(design={"grid": {"l1": [-1, 0]}})
    process = snakemake(path)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 1 and "1 of 2 runs cannot run" in output and "from 0 to 10" in output
    assert "Traceback" not in output and not (ROOT / "_build/sweeps" / path.stem / "plan.json").exists()


@engine
def test_a_killed_sweep_goes_on_runs_nothing_twice_and_gathers_all(sheet):
    # Runs of some seconds, so that the kill hits the second one.
    path = sheet(design={"grid": {"l1": [0, 0.5, 1]}}, fixed={"n_seeds": 64, "n_steps": 2000})
    folder = ROOT / "_build/sweeps" / path.stem
    process = snakemake(path)
    deadline = time.monotonic() + 400
    while not (first := list(folder.glob("runs/*/*.ipynb"))):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)
    time.sleep(1)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    before = first[0].stat().st_mtime_ns
    output = snakemake(path, "--unlock").communicate(timeout=120)[0]
    second = snakemake(path)
    output = second.communicate(timeout=500)[0]
    assert second.returncode == 0 and "3 runs: 3 done" in output, output
    assert first[0].stat().st_mtime_ns == before and re.search(r"run +2\n", output), "two were missing"
    table = pd.read_csv(folder / "table.csv")
    assert set(table["l1"]) == {0, 0.5, 1} and table["verdict"].notna().all()
    assert table["cpu_seconds"].between(0.1, 100).all(), "seconds of a run, which takes about one"


@engine
@slurm
def test_a_sweep_through_slurm_survives_a_killed_job():
    done = subprocess.run(["sweeps/slurm/rehearsal.sh"], cwd=ROOT, capture_output=True, text=True, timeout=590)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the killed job was started again, and the sweep ended right" in done.stdout
