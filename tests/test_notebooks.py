"""The committed notebooks: paired with their sources, executed, complete, and free of what varies.

Each check takes notebook objects and returns a list of complaints; the second half of the file proves
that every one of them complains about a doctored notebook.
"""

import re
from pathlib import Path

import execute
import jupytext
import nbformat
import papermill
import pytest
from jupytext.config import load_jupytext_configuration_file

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.py"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PROFILES = sorted((ROOT / "notebooks/profiles").glob("*.yml"))
PAIRING = load_jupytext_configuration_file(str(ROOT / "pyproject.toml"))
MACHINE_PATH = re.compile(r"(?:/home/|/Users/|/root/|/tmp/|/usr/lib/|site-packages|[A-Z]:\\\\)")

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


# The checks


def check_paired(notebook, source):
    same = as_text(notebook) == as_text(jupytext.reads(source, fmt="py:percent"))
    return [] if same else ["the notebook and its .py differ: run 'make notebooks'"]


def as_text(notebook):
    """Return the source text of `notebook`, metadata keys sorted as nbformat stores them."""
    stored = nbformat.reads(nbformat.writes(notebook), as_version=4)
    return jupytext.writes(stored, fmt="py:percent", config=PAIRING)


def check_executed(notebook):
    complaints = []
    for cell in code_cells(notebook):
        name = cell.source.splitlines()[0] if cell.source else "an empty cell"
        if cell.execution_count is None:
            complaints.append(f"not executed: {name}")
        for output in cell.outputs:
            if output.output_type == "error":
                complaints.append(f"{output.ename}: {name}")
            if output.get("name") == "stderr":
                complaints.append(f"wrote to stderr: {name}")
    if not any(cell.outputs for cell in code_cells(notebook)):
        complaints.append("no cell has an output")
    return complaints


def check_figures(notebook):
    complaints = []
    for cell in code_cells(notebook):
        settings = cell.metadata.get("mystnb", {})
        has_image = any("image/png" in output.get("data", {}) for output in cell.outputs)
        is_shown = not {"remove-cell", "remove-output"} & set(cell.metadata.get("tags", []))
        if "figure" in settings:
            name = settings["figure"].get("name", "a figure without a name")
            missing = [key for key in ("name", "caption") if not settings["figure"].get(key)]
            missing += [] if settings.get("image", {}).get("alt") else ["alt text"]
            missing += [] if has_image else ["image"]
            complaints += [f"{name}: no {what}" for what in missing]
        elif has_image and is_shown and not is_glued_only(cell):
            complaints.append(f"an image without number, caption and alt text: {cell.source.splitlines()[0]}")
    return complaints


def is_glued_only(cell):
    """Tell whether every image of `cell` is kept for a glue directive rather than shown in place."""
    return all("scrapbook" in output.get("metadata", {}) for output in cell.outputs if "data" in output)


def check_parameters(notebook):
    cells = [cell for cell in notebook.cells if execute.is_parameters(cell)]
    if len(cells) != 1:
        return [f"{len(cells)} cells are tagged parameters, not one"]
    return [f"no comment: {line}" for line in cells[0].source.splitlines() if line.strip() and "#" not in line]


def check_stable(notebook):
    complaints = [
        f"notebook metadata: {key}" for key in notebook.metadata if key not in ("kernelspec", "language_info")
    ]
    if set(notebook.metadata.get("language_info", {})) - {"name"}:
        complaints.append("notebook metadata: the version of the language")
    for cell in notebook.cells:
        complaints += [f"cell metadata: {key}" for key in cell.metadata if key not in execute.STABLE_CELL_METADATA]
        if "injected-parameters" in cell.metadata.get("tags", []):
            complaints.append("an injected cell: the notebook was run with other than its own defaults")
    complaints += [f"a path of one machine: {path}" for path in MACHINE_PATH.findall(texts(notebook))]
    return complaints


def texts(notebook):
    """Return all that a notebook says, images left out."""
    parts = [cell.source for cell in notebook.cells]
    for output in (output for cell in code_cells(notebook) for output in cell.outputs):
        parts += [output.get("text", ""), *output.get("traceback", [])]
        parts += [str(value) for kind, value in output.get("data", {}).items() if "image/" not in kind]
    return "\n".join(parts)


def check_agreement(profile, defaults):
    """Complain of values that differ from the notebooks' own `defaults`."""
    return [
        f"{key}: {value}, but a default is {own[key]}"
        for own in defaults
        for key, value in execute.overrides(own, profile).items()
    ]


# The notebooks as they are committed


def test_every_source_has_its_notebook_and_the_reverse():
    assert SOURCES
    assert [path.stem for path in SOURCES] == [path.stem for path in NOTEBOOKS]


@each_notebook
def test_paired(path):
    assert check_paired(read(path), path.with_suffix(".py").read_text()) == []


@each_notebook
@pytest.mark.parametrize("check", [check_executed, check_figures, check_parameters, check_stable])
def test_notebook(path, check):
    assert check(read(path)) == []


@each_notebook
def test_papermill_understands_every_parameter(path):
    """Its parser gives up on a line whose comment holds a quote or an equals sign."""
    declared = execute.declared_parameters(read(path))
    assert set(papermill.inspect_notebook(str(path))) == set(declared)


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_profile(path):
    profile = execute.load_profile(path, SOURCES)
    if path.stem == "report":
        assert check_agreement(profile, [execute.declared_parameters(jupytext.read(path)) for path in SOURCES]) == []


# The checks complain when they should


SOURCE = """\
# %% [markdown]
# # A notebook

# %% tags=["parameters"]
width = 3  # latents, 1 or more

# %%
print(width)

# %% mystnb={"figure": {"name": "fig-one", "caption": "One."}, "image": {"alt": "A line."}}
draw()
"""


@pytest.fixture
def good():
    notebook = jupytext.reads(SOURCE, fmt="py:percent")
    cells = code_cells(notebook)
    for count, cell in enumerate(cells, start=1):
        cell.execution_count = count
    cells[1].outputs = [nbformat.v4.new_output("stream", name="stdout", text="3\n")]
    cells[2].outputs = [nbformat.v4.new_output("display_data", data={"image/png": "aGVsbG8="})]
    execute.clean(notebook)
    return notebook


def all_complaints(notebook):
    complaints = check_paired(notebook, SOURCE)
    for check in (check_executed, check_figures, check_parameters, check_stable):
        complaints += check(notebook)
    return complaints


def strip_outputs(notebook):
    for cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None


def store_an_error(notebook):
    notebook.cells[2].outputs = [nbformat.v4.new_output("error", ename="ValueError", evalue="no", traceback=[])]


def write_to_stderr(notebook):
    notebook.cells[2].outputs[0].name = "stderr"


def change_the_source(notebook):
    notebook.cells[2].source = "print(width + 1)"


def lose_the_image(notebook):
    notebook.cells[3].outputs = []


def lose_the_alt_text(notebook):
    notebook.cells[3].metadata.mystnb.image.alt = ""


def show_an_image_without_caption(notebook):
    notebook.cells[2].outputs = notebook.cells[3].outputs


def lose_the_parameters(notebook):
    notebook.cells[1].metadata.tags = []


def lose_a_comment(notebook):
    notebook.cells[1].source = "width = 3"


def keep_the_times(notebook):
    notebook.cells[2].metadata["execution"] = {"iopub.execute_input": "2020-01-01T00:00:00"}


def keep_the_versions(notebook):
    notebook.metadata.language_info["version"] = "3.11.7"


def inject_parameters(notebook):
    notebook.cells[2].metadata["tags"] = ["injected-parameters"]


def print_a_path(notebook):
    notebook.cells[2].outputs[0].text = "/home/someone/matryoshka\n"


def test_a_good_notebook_passes_every_check(good):
    assert all_complaints(good) == []


@pytest.mark.parametrize(
    ("check", "doctor"),
    [
        (check_executed, strip_outputs),
        (check_executed, store_an_error),
        (check_executed, write_to_stderr),
        (check_figures, lose_the_image),
        (check_figures, lose_the_alt_text),
        (check_figures, show_an_image_without_caption),
        (check_parameters, lose_the_parameters),
        (check_parameters, lose_a_comment),
        (check_stable, keep_the_times),
        (check_stable, keep_the_versions),
        (check_stable, inject_parameters),
        (check_stable, print_a_path),
    ],
)
def test_a_doctored_notebook_is_caught(good, check, doctor):
    doctor(good)
    assert check(good)


def test_a_changed_source_is_caught(good):
    change_the_source(good)
    assert check_paired(good, SOURCE)


def test_a_profile_that_disagrees_is_caught():
    assert check_agreement({"width": 4, "height": 1}, [{"width": 3}])
    assert not check_agreement({"width": 3, "height": 1}, [{"width": 3}])


def test_a_tuple_default_equals_the_list_of_a_profile():
    declared = execute.declared_parameters(jupytext.reads(SOURCE.replace("width = 3", "width = (1, 3)"), "py:percent"))
    assert execute.overrides(declared, {"width": [1, 3]}) == {}
    assert execute.overrides(declared, {"width": [1, 4]}) == {"width": [1, 4]}
