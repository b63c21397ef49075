"""The lists of dependencies agree with each other and with what is imported."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parent.parent
OWN = {"matryoshka_mixing"} | {
    path.stem for folder in ("scripts", "sweeps", "tests") for path in (ROOT / folder).rglob("*.py")
}
ON_DEMAND = {"ipython", "llvmlite"}
"""Come with ipykernel and with numba, in the version that these need."""


def plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned(file):
    """Name -> versions of a requirements file."""
    found = {}
    for line in (ROOT / file).read_text().splitlines():
        if match := re.match(r"([A-Za-z0-9._-]+)==([^\s;]+)", line):
            found.setdefault(plain(match[1]), set()).add(match[2])
    return found


def imported(folder):
    """The distributions that files of a folder import, by their plain names."""
    modules = set()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                modules.add(node.module.split(".")[0])
    known = packages_distributions()
    return {plain(known.get(module, [module])[0]) for module in modules - set(sys.stdlib_module_names) - OWN}


def package_dependencies():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    return {plain(re.match(r"[A-Za-z0-9._-]+", entry)[0]) for entry in listed}


def test_the_lock_file_holds_what_is_asked_for_and_no_place_to_get_it_from():
    asked, locked = pinned("requirements.in"), pinned("requirements.txt")
    assert len(asked) > 20
    assert {name: locked.get(name) for name in asked} == asked
    text = (ROOT / "requirements.txt").read_text()
    assert not re.search(r"://|^-|\+cpu|nvidia|^triton", text, re.MULTILINE)


def test_the_package_declares_what_it_imports_and_nothing_else():
    found = imported("src") - ON_DEMAND - {"myst-nb"}  # for `claims.glue` alone, which says so
    assert found == package_dependencies()


def test_all_that_is_imported_is_pinned():
    assert imported("src") | imported("scripts") | imported("notebooks") <= set(pinned("requirements.in")) | ON_DEMAND


def test_the_sweeps_run_with_the_reports_versions():
    report, sweeps = pinned("requirements.in"), pinned("sweeps/requirements.txt")
    shared = set(report) & set(sweeps)
    assert shared >= {"torch", "numpy", "numba", "papermill", "ipykernel"}
    assert {name: sweeps[name] for name in shared} == {name: report[name] for name in shared}
    assert sweeps["snakemake"] and sweeps["snakemake-executor-plugin-slurm"]
    assert not re.search(r"://|^-|\+cpu|nvidia|^triton", (ROOT / "sweeps/requirements.txt").read_text(), re.MULTILINE)
