"""What make runs again after a change: the chapters that stand on the changed file, and no others."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALL = sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.py"))
PACKAGE = "src/matryoshka_mixing"
BUILT, SOURCE, TOUCHED = 2000, 1000, 3000  # times of files, in seconds


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A copy of the project in which every notebook has just been run."""
    copy = tmp_path_factory.mktemp("project")
    for part in ("Makefile", "pyproject.toml", "requirements.txt", "book/claims.yml"):
        (copy / part).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / part, copy / part)
    for part in ("notebooks", "scripts", "src"):
        shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__", "*.ipynb"))
    outputs = [copy / f"_build/report/notebooks/{name}.ipynb" for name in ALL]
    for path in [*outputs, copy / ".venv/installed", copy / f"{PACKAGE}/chapters/how_far/table.npz"]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for path in copy.rglob("*"):
        os.utime(path, (BUILT, BUILT) if "_build" in path.parts or ".venv" in path.parts else (SOURCE, SOURCE))
    return copy


def make(project, *arguments):
    """Ask make what it would do; the options of a make that runs the tests are left behind."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    return subprocess.run(["make", "-n", *arguments], cwd=project, env=env, capture_output=True, text=True)


def would_run(project):
    """Return the notebooks that `make` would execute now."""
    result = make(project, "executed", "PROFILE=report")
    assert result.returncode == 0, result.stderr
    return sorted(re.findall(r"execute\.py notebooks/(\w+)\.py", result.stdout))


def after_touching(project, *files):
    """Return the notebooks that `make` would execute if these files had changed."""
    for file in files:
        assert (project / file).exists(), file
        os.utime(project / file, (TOUCHED, TOUCHED))
    try:
        return would_run(project)
    finally:
        for file in files:
            os.utime(project / file, (SOURCE, SOURCE))


def test_nothing_is_run_twice(built):
    assert len(ALL) >= 10
    assert would_run(built) == []


@pytest.mark.parametrize("name", ALL)
def test_a_chapter_is_run_again_for_its_own_source_and_module_alone(name, built):
    assert after_touching(built, f"notebooks/{name}.py") == [name]
    module = built / PACKAGE / "chapters" / name.split("_", 1)[1]
    own = [file for file in [module.with_suffix(".py"), *module.glob("*.py")] if file.is_file()]
    assert own, f"{name} has no module of its name in chapters"
    for file in own:
        assert after_touching(built, file.relative_to(built)) == [name]


def test_a_chapters_own_data_count(built):
    assert after_touching(built, f"{PACKAGE}/chapters/how_far/table.npz") == ["10_how_far"]


@pytest.mark.parametrize(
    "file",
    [
        *(
            f"{PACKAGE}/{name}.py"
            for name in ("__init__", "features", "sae", "_kernel", "training", "claims", "notebook")
        ),
        f"{PACKAGE}/figures/style.py",
        f"{PACKAGE}/figures/seaborn.mplstyle",
        f"{PACKAGE}/chapters/_shared.py",
        "book/claims.yml",
        "notebooks/profiles/report.yml",
        "scripts/execute.py",
        "scripts/kernels.py",
        "requirements.txt",
    ],
)
def test_every_chapter_is_run_again_for_what_all_stand_on(file, built):
    assert after_touching(built, file) == ALL


def test_every_chapter_is_run_again_for_data_of_the_package(built):
    data = [path.relative_to(built) for kind in ("json", "npz") for path in (built / PACKAGE).glob(f"*.{kind}")]
    assert data
    for file in data:
        assert after_touching(built, file) == ALL


@pytest.mark.parametrize("file", ["notebooks/profiles/quick.yml", "notebooks/conftest.py", "scripts/render.py"])
def test_what_no_chapter_stands_on_runs_none(file, built):
    assert after_touching(built, file) == []


def test_an_unknown_profile_is_refused(built):
    result = make(built, "book", "PROFILE=no")
    assert result.returncode == 2 and "choose one of: full quick report" in result.stderr


def test_the_site_of_the_committed_notebooks_runs_none(built):
    for name in ALL:
        copied = built / f"_build/committed/notebooks/{name}.ipynb"
        copied.parent.mkdir(parents=True, exist_ok=True)
        copied.touch()
    result = make(built, "_build/committed/ledger.json", "BUILD=_build/committed")
    assert "claims collect _build/committed/notebooks/" in result.stdout and "execute.py" not in result.stdout
    copying = make(built, "site").stdout
    assert all(f"notebooks/{name}.ipynb" in copying for name in ALL) and "render.py place" not in copying
    own = make(built, "site", "WITH=mine/out.ipynb other.ipynb").stdout
    assert "render.py place _build/committed/notebooks mine/out.ipynb other.ipynb" in own


def test_what_is_run_as_on_another_cpu_can_be_chosen(built):
    chosen = make(built, "elsewhere", "ONLY=01 10").stdout
    assert "notebooks/01_*.ipynb notebooks/10_*.ipynb" in chosen and "notebooks/02" not in chosen
    everything = make(built, "elsewhere").stdout
    assert all(f"notebooks/{name[:2]}_*.ipynb" in everything for name in ALL)
