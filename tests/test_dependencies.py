"""The lists of dependencies agree with each other and with what is imported; so do the files that state a version."""

import ast
import re
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import release_check
import yaml

ROOT = Path(__file__).parent.parent
OWN = {"matryoshka_mixing"} | {
    path.stem for folder in ("scripts", "sweeps", "tests") for path in (ROOT / folder).rglob("*.py")
}
ON_DEMAND = {"ipython", "llvmlite", "matplotlib-inline"}
"""Come with ipykernel and with numba, in the versions that these need."""


def plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned(file):
    """Name -> versions of a requirements file."""
    found = {}
    for line in (ROOT / file).read_text().splitlines():
        if match := re.match(r"([A-Za-z0-9._-]+)==([^\s;]+)", line):
            found.setdefault(plain(match[1]), set()).add(match[2])
    return found


@cache
def distributions():
    """Module -> the distributions that hold it; to look through all that is installed takes seconds."""
    return packages_distributions()


def imported(folder):
    """The distributions that files of a folder import, by their plain names."""
    modules = set()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                modules.add(node.module.split(".")[0])
    known = distributions()
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


def test_all_files_state_the_same_version_and_only_a_release_has_a_date():
    versions = release_check.stated_versions()
    assert len(versions) == 4 and len(set(versions.values())) == 1, versions
    newest = re.search(r"^## \[.*?\] - (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1]
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited.get("date-released", "unreleased") == newest


# What runs from a file

FORBIDDEN = {
    "eval", "exec", "os.system", "os.popen", "pickle.load", "pickle.loads", "yaml.load", "yaml.unsafe_load",
    "yaml.full_load", "torch.load", "np.load", "numpy.load", "joblib.load", "pandas.read_pickle",
}  # fmt: skip
"""Calls that can run what a file says."""
ALLOWED = {
    "src/matryoshka_mixing/plain.py: yaml.load(text, Loader=_Once)",  # no object is made, see the tests of bad input
    "src/matryoshka_mixing/exchange.py: torch.load(path, map_location='cpu', weights_only=True, "
    "mmap=mapped and zipfile.is_zipfile(path))",
    "scripts/mutate.py: exec(compile(ast.fix_missing_locations(changed), module.__file__, 'exec'), vars(module))",
}


def dangerous(path):
    """Calls of a file that can run what another file says, and shell strings."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        options = {option.arg: ast.unparse(option.value) for option in node.keywords}
        safe = ast.unparse(node.func) in ("np.load", "numpy.load") and options.get("allow_pickle", "False") == "False"
        if options.get("shell", "False") != "False" or (ast.unparse(node.func) in FORBIDDEN and not safe):
            yield ast.unparse(node)


def test_nothing_runs_from_a_file():
    found = {
        f"{path.relative_to(ROOT)}: {call}"
        for folder in ("src", "scripts", "sweeps", "benchmarks", "book/_ext", "examples", "notebooks")
        for path in (ROOT / folder).rglob("*.py")
        for call in dangerous(path)
    }
    assert found == ALLOWED


def test_what_could_run_is_seen(tmp_path):
    path = tmp_path / "x.py"
    for call in ("np.load(a, allow_pickle=True)", "subprocess.run(f'ls {a}', shell=True)", "yaml.load(a, Loader=L)"):
        path.write_text(call)
        assert list(dangerous(path)) == [call]
    path.write_text("np.load(a); np.load(a, allow_pickle=False); subprocess.run(['ls', a]); yaml.safe_load(a)")
    assert not list(dangerous(path))
