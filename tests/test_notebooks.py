"""The committed notebooks: paired with their sources, executed, complete, and free of what varies.

Each check takes notebook objects and returns a list of complaints; the second half of the file proves
that every one of them complains about a doctored notebook.
"""

import ast
import importlib
import re
from dataclasses import dataclass
from pathlib import Path

import execute
import jupytext
import nbformat
import papermill
import pytest
from jupytext.config import load_jupytext_configuration_file

from matryoshka_mixing.parameters import Chapter, given

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.py"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PROFILES = sorted((ROOT / "notebooks/profiles").glob("*.yml"))
PAIRING = load_jupytext_configuration_file(str(ROOT / "pyproject.toml"))
MACHINE_PATH = re.compile(r"(?:/home/|/Users/|/root/|/tmp/|/usr/lib/|site-packages|[A-Z]:\\\\)")

HIDDEN = {"hide-input", "hide-cell", "remove-input", "remove-cell"}
LONGEST_VISIBLE, LONGEST_HIDDEN, WIDEST = 12, 25, 120  # lines, lines, columns
MOST_NUMBERS = 3  # inserted from the run, in a paragraph
NESTING = (ast.Dict, ast.DictComp, ast.List, ast.ListComp)

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
each_source = pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)


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


def check_parameters(notebook, parameters):
    """The cell is the one that the chapter's `parameters` write, and the next code cell checks it."""
    cells = code_cells(notebook)
    tagged = [number for number, cell in enumerate(cells) if execute.is_parameters(cell)]
    if len(tagged) != 1:
        return [f"{len(tagged)} cells are tagged parameters, not one"]
    complaints = []
    if cells[tagged[0]].source != parameters.cell():
        complaints.append(f"the parameters cell is not Parameters.cell():\n{parameters.cell()}")
    following = cells[tagged[0] + 1].source if tagged[0] + 1 < len(cells) else ""
    calls = [ast.unparse(node) for node in ast.walk(ast.parse(following)) if isinstance(node, ast.Call)]
    if "notebook.begin(globals())" not in calls:
        complaints.append("the first code cell after the parameters does not call notebook.begin(globals())")
    return complaints


def check_cells(notebook):
    """Cells are short, and what a chapter computes and draws stands in its module."""
    complaints = []
    for cell in code_cells(notebook):
        lines, tree = cell.source.splitlines(), ast.parse(cell.source)
        most = LONGEST_HIDDEN if HIDDEN & set(cell.metadata.get("tags", [])) else LONGEST_VISIBLE
        if len(lines) > most and not execute.is_parameters(cell):
            complaints.append(f"{len(lines)} lines, where at most {most} are allowed: {lines[0]}")
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
                complaints.append(f"belongs into the chapter's module: {lines[node.lineno - 1]}")
            if isinstance(node, NESTING) and any(isinstance(part, ast.Dict | ast.DictComp) for part in parts(node)):
                complaints.append(f"a nested dictionary belongs into the chapter's module: {lines[node.lineno - 1]}")
    return complaints


def parts(node):
    return [each for each in ast.walk(node) if each is not node]


def check_numbers(notebook):
    """Return the paragraphs, list items and captions with more than three inserted numbers; tables may hold any."""
    parts = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            prose = re.sub(r"(?m)^\|.*$", "", cell.source)
            parts += re.split(r"\n\s*\n|\n(?=(?:[-*]|\d+\.) )", prose)
        parts.append(cell.metadata.get("mystnb", {}).get("figure", {}).get("caption", ""))
    many = [part for part in parts if len(re.findall(r"\{glue:text\}`", part)) > MOST_NUMBERS]
    return [f"more than {MOST_NUMBERS} inserted numbers: {part.strip()[:60]}" for part in many]


def check_width(notebook):
    """Lines of the .py; headers of cells and rows of Markdown tables cannot be broken."""
    lines = as_text(notebook).splitlines()
    return [
        f"{len(line)} columns: {line}" for line in lines if len(line) > WIDEST and not line.startswith(("# %%", "# |"))
    ]


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
    complaints += [f"an address in memory: {found}" for found in re.findall(r"\S+ at 0x[0-9a-f]+", texts(notebook))]
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
@pytest.mark.parametrize("check", [check_executed, check_figures, check_stable])
def test_notebook(path, check):
    assert check(read(path)) == []


@each_source
@pytest.mark.parametrize("check", [check_cells, check_width, check_numbers])
def test_source(path, check):
    assert check(jupytext.read(path)) == []


@each_source
def test_parameters(path):
    chapter = importlib.import_module(f"matryoshka_mixing.chapters.{path.stem.split('_', 1)[1]}")
    assert check_parameters(jupytext.read(path), chapter.Parameters) == []


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
n_children = 3  # number of mutually exclusive children: a whole number from 2 to 12

# %% tags=["hide-input"]
from matryoshka_mixing import notebook
from matryoshka_mixing.chapters import tiny as chapter

p = notebook.begin(globals())

# %%
print(p.n_children)

# %% mystnb={"figure": {"name": "fig-one", "caption": "One."}, "image": {"alt": "A line."}}
draw()
"""


@dataclass(frozen=True)
class Parameters(Chapter):
    n_children: int = given("n_children", 3)


@pytest.fixture
def good():
    notebook = jupytext.reads(SOURCE, fmt="py:percent")
    cells = code_cells(notebook)
    for count, cell in enumerate(cells, start=1):
        cell.execution_count = count
    cells[2].outputs = [nbformat.v4.new_output("stream", name="stdout", text="3\n")]
    cells[3].outputs = [nbformat.v4.new_output("display_data", data={"image/png": "aGVsbG8="})]
    execute.clean(notebook)
    return notebook


def check_own_parameters(notebook):
    return check_parameters(notebook, Parameters)


def all_complaints(notebook):
    complaints = check_paired(notebook, SOURCE) + check_own_parameters(notebook)
    for check in (check_executed, check_figures, check_stable, check_cells, check_width):
        complaints += check(notebook)
    return complaints


def strip_outputs(notebook):
    for cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None


def store_an_error(notebook):
    notebook.cells[3].outputs = [nbformat.v4.new_output("error", ename="ValueError", evalue="no", traceback=[])]


def write_to_stderr(notebook):
    notebook.cells[3].outputs[0].name = "stderr"


def change_the_source(notebook):
    notebook.cells[3].source = "print(p.n_children + 1)"


def lose_the_image(notebook):
    notebook.cells[4].outputs = []


def lose_the_alt_text(notebook):
    notebook.cells[4].metadata.mystnb.image.alt = ""


def show_an_image_without_caption(notebook):
    notebook.cells[3].outputs = notebook.cells[4].outputs


def lose_the_parameters(notebook):
    notebook.cells[1].metadata.tags = []


def lose_a_comment(notebook):
    notebook.cells[1].source = "n_children = 3"


def change_a_default(notebook):
    notebook.cells[1].source = Parameters.cell().replace("3", "4", 1)


def begin_late(notebook):
    notebook.cells[2], notebook.cells[3] = notebook.cells[3], notebook.cells[2]


def begin_with_nothing(notebook):
    notebook.cells[2].source = "p = notebook.begin({})"


def end_with_the_parameters(notebook):
    notebook.cells = notebook.cells[:2]


def write_a_long_cell(notebook):
    notebook.cells[3].source = "\n".join(["print(3)"] * 13)


def write_a_long_hidden_cell(notebook):
    notebook.cells[2].source = "\n".join(["print(3)"] * 26)


def define_a_function(notebook):
    notebook.cells[3].source = "def f():\n    return 3"


def define_a_class(notebook):
    notebook.cells[3].source = "class A:\n    pass"


def define_a_lambda(notebook):
    notebook.cells[3].source = "f = lambda: 3"


def nest_a_dictionary(notebook):
    notebook.cells[4].source = 'draw({"a": {"x": 1}})'


def list_dictionaries(notebook):
    notebook.cells[4].source = 'draw([{"x": x} for x in range(3)])'


def write_a_wide_line_of_code(notebook):
    notebook.cells[3].source = f"print({'1' * 114})"


def write_a_wide_line_of_prose(notebook):
    notebook.cells[0].source = "# A notebook\n\n" + "a" * 119


def insert_many_numbers(notebook):
    notebook.cells[0].source = "# A notebook\n\n" + 4 * "of {glue:text}`n`\n"


def insert_many_numbers_in_an_item(notebook):
    notebook.cells[0].source = "- one {glue:text}`n`\n- " + "of {glue:text}`n:.2f` " * 4


def insert_many_numbers_in_a_caption(notebook):
    notebook.cells[4].metadata["mystnb"]["figure"]["caption"] = 4 * "of {glue:text}`n` "


def keep_the_times(notebook):
    notebook.cells[3].metadata["execution"] = {"iopub.execute_input": "2020-01-01T00:00:00"}


def keep_the_versions(notebook):
    notebook.metadata.language_info["version"] = "3.11.7"


def inject_parameters(notebook):
    notebook.cells[3].metadata["tags"] = ["injected-parameters"]


def print_a_path(notebook):
    notebook.cells[3].outputs[0].text = "/home/someone/matryoshka\n"


def show_an_object_without_a_name(notebook):
    notebook.cells[3].outputs[0].text = "<pandas.io.formats.style.Styler at 0x7f2fe49c5a90>\n"


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
        (check_own_parameters, lose_the_parameters),
        (check_own_parameters, lose_a_comment),
        (check_own_parameters, change_a_default),
        (check_own_parameters, begin_late),
        (check_own_parameters, begin_with_nothing),
        (check_own_parameters, end_with_the_parameters),
        (check_cells, write_a_long_cell),
        (check_cells, write_a_long_hidden_cell),
        (check_cells, define_a_function),
        (check_cells, define_a_class),
        (check_cells, define_a_lambda),
        (check_cells, nest_a_dictionary),
        (check_cells, list_dictionaries),
        (check_width, write_a_wide_line_of_code),
        (check_width, write_a_wide_line_of_prose),
        (check_numbers, insert_many_numbers),
        (check_numbers, insert_many_numbers_in_an_item),
        (check_numbers, insert_many_numbers_in_a_caption),
        (check_stable, keep_the_times),
        (check_stable, keep_the_versions),
        (check_stable, inject_parameters),
        (check_stable, print_a_path),
        (check_stable, show_an_object_without_a_name),
    ],
)
def test_a_doctored_notebook_is_caught(good, check, doctor):
    doctor(good)
    assert check(good)


def test_what_the_limits_allow_passes(good):
    good.cells[0].source = "# A notebook\n\n" + "a" * 118 + "\n\n| " + "a" * 200 + " |"
    good.cells[2].source += "\nprint(3)" * 21
    good.cells[3].source = "\n".join([f"print({'1' * 113})"] * 11 + ['measured = {"a": [1, 2], "b": (3, 4)}'])
    number = "{glue:text}`n` "
    good.cells[0].source += f"\n| {9 * number}|\n\n{3 * number}\n\n- {3 * number}\n- {3 * number}\n"
    assert check_cells(good) + check_width(good) + check_own_parameters(good) + check_numbers(good) == []


def test_a_changed_source_is_caught(good):
    change_the_source(good)
    assert check_paired(good, SOURCE)


def test_a_profile_that_disagrees_is_caught():
    assert check_agreement({"width": 4, "height": 1}, [{"width": 3}])
    assert not check_agreement({"width": 3, "height": 1}, [{"width": 3}])


def test_a_tuple_default_equals_the_list_of_a_profile():
    source = '# %% tags=["parameters"]\nwidth = (1, 3)\n'
    declared = execute.declared_parameters(jupytext.reads(source, "py:percent"))
    assert execute.overrides(declared, {"width": [1, 3]}) == {}
    assert execute.overrides(declared, {"width": [1, 4]}) == {"width": [1, 4]}
