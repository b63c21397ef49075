"""Does the package work where there is no checkout? Build it, install it elsewhere, and use it there.

The wheel goes into a new environment in a temporary folder, with the extras `book` and `diagnose`; there its data is
read, an SAE is trained and diagnosed, and a notebook runs by papermill. The other extras must resolve. The sdist must
build, and hold what the wheel is built from; all files that state the version must state the same one.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = "02_narrow_sae_mixes"
DIAGNOSED = ["sae.safetensors", "rows.parquet", "--output", "found", "--quiet"]
USE = """
import pandas
import matryoshka_mixing as mm
from importlib.metadata import version
from matryoshka_mixing import claims, original
from matryoshka_mixing.chapters.real_activations import data, experiments
from matryoshka_mixing.chapters.what_cures_it.page import Stored

assert "site-packages" in mm.__file__, mm.__file__
tree = mm.family(0.3, 0.4)
directions = mm.orthonormal_dictionaries(3, 20, range(2))
setting = mm.Setting(mm.SAEConfig(20, (1, 3)), tree.states(), directions)
trained = mm.train(setting, mm.start_near(directions, range(2)), mm.TrainConfig(100))
assert len(claims.load()) > 10 and len(original.stored.load())
assert len(data.rows()) and len(experiments.stored()) and Stored.load().toys
trained.sae[0, 0].save("sae.safetensors")
rows = tree.sample(3000, 0) @ directions[0]
pandas.DataFrame(rows.numpy(), columns=[str(i) for i in range(20)]).to_parquet("rows.parquet")
print(version("matryoshka-mixing"))
"""
SOURCES = {"LICENSE", "CITATION.cff", "README.md", "pyproject.toml", "book/claims.yml", "tests/test_sae.py"}
"""Files of the sdist."""


def run(*command: str | Path, **options) -> str:
    """Run a command; its output, or its end with what it said."""
    done = subprocess.run([str(part) for part in command], text=True, capture_output=True, **options)
    if done.returncode:
        sys.exit(f"error: {' '.join(map(str, command))}\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return done.stdout


def stated_versions() -> dict[str, str]:
    """The version by the file that states it; of the changelog the newest entry's."""
    patterns = {
        "pyproject.toml": r'^version = "(.+)"$',
        "CITATION.cff": r"^version: (.+)$",
        "src/matryoshka_mixing/__init__.py": r'^__version__ = "(.+)"$',
        "CHANGELOG.md": r"^## \[(\d.*?)\]",
    }
    return {
        name: re.search(pattern, (ROOT / name).read_text(encoding="utf-8"), re.M)[1]
        for name, pattern in patterns.items()
    }


def main() -> None:
    """Check everything; the first failure ends with its reason."""
    versions = stated_versions()
    if len(set(versions.values())) > 1:
        sys.exit(f"error: the versions differ: {versions}")
    with tempfile.TemporaryDirectory() as folder:
        away, python = Path(folder), Path(folder) / "environment/bin/python"
        print("[release] building", flush=True)
        run(sys.executable, "-m", "venv", python.parent.parent)
        run(python, "-m", "pip", "install", "--quiet", "build")
        run(python, "-m", "build", "--outdir", away / "dist", ROOT)
        wheel, sdist = (next((away / "dist").glob(pattern)) for pattern in ("*.whl", "*.tar.gz"))
        with tarfile.open(sdist) as file:
            held = {name.split("/", 1)[-1] for name in file.getnames()}
        if lacking := sorted(SOURCES - held):
            sys.exit(f"error: {sdist.name} lacks {lacking}")
        print(f"[release] {wheel.name}, {sdist.name}; installing the wheel with book and diagnose", flush=True)
        run(python, "-m", "pip", "install", "--quiet", "-c", ROOT / "requirements.txt", f"{wheel}[book,diagnose]")
        run(python, "-m", "pip", "install", "--quiet", "--dry-run", f"{wheel}[sweep,test]")
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        found = run(python, "-c", USE, cwd=away, env=environment).strip()
        if found != versions["pyproject.toml"]:
            sys.exit(f"error: the installed package says version {found}, the files say {versions}")
        print(f"[release] version {found}; diagnosing", flush=True)
        run(python, "-m", "matryoshka_mixing.diagnose", *DIAGNOSED, cwd=away, env=environment)
        if not all((away / f"found/diagnosis.{ending}").is_file() for ending in ("html", "json")):
            sys.exit("error: the diagnosis wrote no page, or no numbers")
        shutil.copy(ROOT / f"notebooks/{NOTEBOOK}.ipynb", away)
        print(f"[release] running {NOTEBOOK} by papermill", flush=True)
        options = ["-k", "python3", "-p", "n_seeds", "8", "-p", "n_steps", "200", "--log-level", "ERROR"]
        run(python, "-m", "papermill", f"{NOTEBOOK}.ipynb", "out.ipynb", *options, cwd=away, env=environment)
        print("[release] done")


if __name__ == "__main__":
    main()
