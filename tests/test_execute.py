"""Running a notebook as make does and as nbval does: kernels, profiles, failures, and bytes that repeat."""

import gc
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import execute
import jupytext
import kernels
import nbformat
import papermill.engines
import pytest

from matryoshka_mixing.parameters import PARAMETERS

ROOT = Path(__file__).parent.parent
TRANSPORT = "# %%\nfrom ipykernel.kernelapp import IPKernelApp\n\nprint(IPKernelApp.instance().transport)\n"
MATPLOTLIB = "# %%\nimport matplotlib\n\nprint(matplotlib.get_cachedir() == matplotlib.get_configdir())\n"


def read(path):
    return nbformat.read(path, as_version=4)


def run(source, folder):
    """Execute a one-cell notebook as make does, and return what it wrote: name of the stream -> text."""
    path = folder / "tiny.py"
    path.write_text(source)
    execute.run(path, path.with_suffix(".ipynb"), {})
    return {output.name: output.text for output in read(path.with_suffix(".ipynb")).cells[0].outputs}


def nbval(path):
    command = [sys.executable, "-m", "pytest", "--nbval", "--nbval-current-env", "-q", "-c", "/dev/null", str(path)]
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "scripts"), os.environ.get("PYTHONPATH", "")])}
    return subprocess.run(command, cwd=path.parent, env=env, capture_output=True, text=True)


def test_kernels_of_make_and_nbval_meet_in_files_and_leave_none(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(folder := Path(tempfile.mkdtemp(dir="/tmp", prefix="t-"))))
    monkeypatch.setattr(tempfile, "tempdir", None)
    try:
        assert run(TRANSPORT, tmp_path) == {"stdout": "ipc\n"}
        gc.collect()
        assert list(folder.glob("kernel-*")) == []
        # The notebook holds "ipc" now, so nbval passes with the project's conftest and fails without it.
        bare = nbval(tmp_path / "tiny.ipynb")
        assert bare.returncode == 1 and "tcp" in bare.stdout
        shutil.copy(ROOT / "notebooks/conftest.py", tmp_path)
        ours = nbval(tmp_path / "tiny.ipynb")
        assert ours.returncode == 0, ours.stdout
        assert list(folder.glob("kernel-*")) == []
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize("manager", [kernels.Private, kernels.AsyncPrivate])
def test_no_two_kernels_share_a_socket(manager):
    one, two = manager(), manager()
    assert one.transport == two.transport == "ipc"
    assert one.ip != two.ip and Path(one.ip).is_absolute()


def test_where_the_path_of_a_socket_would_be_too_long_ports_are_used(tmp_path, monkeypatch):
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    assert kernels.Private().transport == "tcp"


def test_a_cache_folder_that_cannot_be_written_leaves_no_warning_in_an_output(tmp_path, monkeypatch):
    monkeypatch.delenv("MPLCONFIGDIR", raising=False)
    blocked = tmp_path / "file"
    blocked.touch()
    for variable in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, str(blocked))
    assert run(MATPLOTLIB, tmp_path) == {"stdout": "True\n"}

    monkeypatch.setattr(kernels, "surroundings", lambda given=None: dict(os.environ))
    assert "created a temporary cache directory" in run(MATPLOTLIB, tmp_path)["stderr"]


def test_surroundings_are_the_projects_unless_the_caller_says_otherwise(tmp_path, monkeypatch):
    monkeypatch.setattr(kernels, "MATPLOTLIB", tmp_path / "matplotlib")
    assert kernels.surroundings({"A": "1", "MPLBACKEND": "agg"}) == {
        "A": "1",
        "MPLCONFIGDIR": str(tmp_path / "matplotlib"),
        "SOURCE_DATE_EPOCH": "0",
    }
    assert len(list((tmp_path / "matplotlib").glob("fontlist-*.json"))) == 1
    timeless = {"SOURCE_DATE_EPOCH": "0"}
    assert kernels.surroundings({"MPLCONFIGDIR": "/own"}) == {"MPLCONFIGDIR": "/own"} | timeless
    (tmp_path / "file").touch()
    monkeypatch.setattr(kernels, "MATPLOTLIB", tmp_path / "file" / "matplotlib")
    assert kernels.surroundings({"A": "1"}) == {"A": "1"} | timeless


def test_a_notebook_runs_with_the_variables_it_is_given(tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    notebook = jupytext.reads('# %%\nimport os\n\nprint(os.environ["MPLBACKEND"])\n', fmt="py:percent")
    notebook.metadata["kernelspec"] = execute.KERNEL
    executed = execute.executed(notebook, str(tmp_path / "out.ipynb"), {}, cwd=str(tmp_path))
    assert "inline" in executed.cells[0].outputs[0].text


# Failures, profiles, bytes

TINY = """\
# %% tags=["parameters"]
width = 3  # latents
tree_path = ""  # a file

# %%
print(width)
print(open(tree_path).read() if tree_path else "no tree")
"""


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "01_tiny.py"
    path.write_text(TINY)
    return path


def main(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["execute.py", *map(str, arguments)])
    execute.main()


def test_two_runs_write_the_same_bytes_and_follow_the_profile(source, tmp_path):
    execute.run(source, tmp_path / "one.ipynb", {"width": 3})
    execute.run(source, tmp_path / "two.ipynb", {"of_another_chapter": 1})
    execute.run(source, tmp_path / "other.ipynb", {"width": 5})
    assert (tmp_path / "one.ipynb").read_bytes() == (tmp_path / "two.ipynb").read_bytes()
    other = read(tmp_path / "other.ipynb")
    assert other.cells[-1].outputs[0].text == "5\nno tree\n"
    assert other.cells[1].metadata.tags == ["injected-parameters", "remove-cell"]


def test_a_failing_notebook_leaves_its_traceback_and_no_output(tmp_path):
    source, path = tmp_path / "bad.py", tmp_path / "bad.ipynb"
    source.write_text('# %%\nraise ValueError("width must be 1 or more, not 0")\n')
    with pytest.raises(RuntimeError, match=r"cell \[1\].*ValueError: width must be 1 or more"):
        execute.run(source, path, {})
    assert sorted(file.name for file in tmp_path.iterdir()) == ["bad.failed.ipynb", "bad.failed.log", "bad.py"]


def test_a_kernel_that_dies_leaves_what_it_had_done(tmp_path):
    source, path = tmp_path / "dies.py", tmp_path / "dies.ipynb"
    source.write_text("# %%\nprint('done so far')\n\n# %%\nimport os\nos._exit(1)\n")
    with pytest.raises(RuntimeError, match="Kernel died"):
        execute.run(source, path, {})
    assert sorted(file.name for file in tmp_path.iterdir()) == ["dies.failed.ipynb", "dies.failed.log", "dies.py"]
    assert read(tmp_path / "dies.failed.ipynb").cells[0].outputs[0].text == "done so far\n"


def test_the_notebook_is_saved_at_the_start_and_the_end_only(tmp_path, monkeypatch):
    source, saved = tmp_path / "many.py", []
    source.write_text("# %%\n1\n\n# %%\n2\n\n# %%\n3\n")
    write = papermill.engines.write_ipynb
    monkeypatch.setattr(papermill.engines, "write_ipynb", lambda nb, path: (saved.append(path), write(nb, path)))
    execute.run(source, tmp_path / "many.ipynb", {})
    assert len(saved) == 2


def test_nbval_sees_a_changed_number(source, tmp_path):
    path = tmp_path / "tiny.ipynb"
    execute.run(source, path, {})
    unchanged = nbval(path)
    assert unchanged.returncode == 0, unchanged.stdout

    doctored = read(path)
    doctored.cells[1].outputs[0].text = "4\nno tree\n"
    nbformat.write(doctored, path)
    assert nbval(path).returncode == 1


def test_a_path_in_a_profile_starts_from_the_callers_folder(source, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "here/my.json").write_text("my tree")
    (tmp_path / "profile.yml").write_text("tree_path: my.json\n")
    monkeypatch.chdir(tmp_path / "here")
    main(monkeypatch, source, "--output", tmp_path / "out.ipynb", "--profile", tmp_path / "profile.yml")
    assert read(tmp_path / "out.ipynb").cells[-1].outputs[0].text == "3\nmy tree\n"
    assert execute.load_profile(tmp_path / "profile.yml", [source]) == {"tree_path": str(tmp_path / "here/my.json")}


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        ("widht: 4\n", "no notebook has a parameter widht. Did you mean width"),
        ("width: 4\ndepth: 1\nzzz: 1\n", "no notebook has a parameter zzz. There are depth, tree_path, width"),
        ("- width\n", "a profile is a mapping"),
        ("width: {a: 1}\n", "width must be a plain value"),
    ],
)
def test_a_wrong_profile_stops_before_anything_runs(profile, message, source, tmp_path, monkeypatch):
    source.with_name("02_other.py").write_text('# %% tags=["parameters"]\ndepth = 1  # layers\n')
    (tmp_path / "profile.yml").write_text(profile)
    monkeypatch.setattr(execute.papermill, "execute_notebook", lambda *_, **__: pytest.fail("it ran"))
    with pytest.raises(SystemExit, match=message):
        main(monkeypatch, source, "--output", tmp_path / "out.ipynb", "--profile", tmp_path / "profile.yml")
    assert not (tmp_path / "out.ipynb").exists()


def test_a_profile_may_hold_parameters_of_other_chapters(source, tmp_path):
    other = source.with_name("02_other.py")
    other.write_text('# %% tags=["parameters"]\ndepth = 1  # layers\n')
    (tmp_path / "profile.yml").write_text("depth: 2\ntree_path: ''\n")
    profile = execute.load_profile(tmp_path / "profile.yml", [source, other])
    assert profile == {"depth": 2, "tree_path": ""}
    assert execute.overrides(execute.declared_parameters(jupytext.read(source)), profile) == {}


def test_the_parameters_that_are_paths_are_known_by_their_names():
    assert [name for name, parameter in PARAMETERS.items() if parameter.tree_file] == [
        name for name in PARAMETERS if name.endswith("_path")
    ]
