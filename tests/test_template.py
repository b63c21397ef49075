"""One template for every chapter: what stands where, how long it is, and how it becomes pages.

Chapters that do not keep it yet are named below, with what they lack.
"""

import json
import re
from pathlib import Path

import jupytext
import numpy as np
import pytest
import render
from matplotlib import pyplot as plt

from matryoshka_mixing import figures

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.py"))
ORDER = [
    "What was predicted", "Setup", "Does it hold up?", "The verdict", "What would change our mind", "Rerun it",
]  # fmt: skip
MOST_WORDS, MOST_FIGURES = 1200, 6


def main_line(notebook):
    return [cell for cell in notebook.cells if "details" not in render.tags(cell)]


def words(prose):
    """How many words a reader reads: a role, a formula and a number count one, code and figures none."""
    prose = re.sub(r"(?ms)^(```|:::).*?^\1\s*$", "", prose)
    prose = re.sub(r"(?s)\$\$.*?\$\$(\s*\([\w-]+\))?", "x", prose)
    prose = re.sub(r"\$[^$]+\$|\{[\w:]+\}`[^`]*`", "x", prose)
    prose = re.sub(r"(?m)^\|[-| :]*$", "", prose)
    return len(re.findall(r"[^\s|*#>-][^\s|]*", prose))


def check_length(notebook):
    cells = main_line(notebook)
    text = [cell.source for cell in cells if cell.cell_type == "markdown"]
    drawn = sum("figure" in cell.metadata.get("mystnb", {}) for cell in cells)
    drawn += sum(part.count("{glue:figure}") for part in text)
    total = sum(map(words, text))
    return ["too many words"] * (total > MOST_WORDS) + ["too many figures"] * (drawn > MOST_FIGURES)


def check_opening(notebook):
    """Claim, badge, one sentence with a number of the run, and the decisive figure."""
    first = notebook.cells[0].source
    paragraphs = [part for part in first.split("\n\n") if not part.startswith(("```", "#"))]
    kinds = [
        "claim" if part.startswith("**Claim") else "badge" if part.startswith("{glue:}`") else "text"
        for part in paragraphs
    ]
    complaints = []
    badges = kinds.count("badge")
    if not re.match(r"# \S", first) or kinds[: badges + 2] != ["claim", *["badge"] * badges, "text"] or not badges:
        complaints.append(f"the opening is {kinds}, not a claim, its badges and a sentence")
    elif "{glue:text}`" not in paragraphs[badges + 1]:
        complaints.append("the sentence after the badge has no number of the run")
    tagged = [cell for cell in notebook.cells if "decisive" in render.tags(cell)]
    if len(tagged) + first.count("{glue:figure}") != 1:
        complaints.append(
            f"{len(tagged)} cells are tagged decisive, {first.count('{glue:figure}')} figures are glued first"
        )
    complaints += [
        f"no figure: {cell.source[:40]}" for cell in tagged if "figure" not in cell.metadata.get("mystnb", {})
    ]
    return complaints


def check_sections(notebook):
    text = "\n".join(cell.source for cell in main_line(notebook) if cell.cell_type == "markdown")
    headings = re.findall(r"(?m)^## (.*)$", text)
    places = {name: [i for i, found in enumerate(headings) if found.startswith(name)] for name in ORDER}
    missing = [f"no section: {name}" for name, found in places.items() if not found]
    found = [places[name][0] for name in ORDER if places[name]]
    return missing + ([] if found == sorted(found) else [f"sections in another order: {headings}"])


def check_details(notebook):
    """A second page is reached from the first, and stands in the table of contents."""
    if len(main_line(notebook)) == len(notebook.cells):
        return []
    name = f"{notebook.metadata['name']}_details"
    text = "\n".join(cell.source for cell in main_line(notebook))
    complaints = [] if f"{{doc}}`{name}`" in text else [f"nothing leads to {name}"]
    listed = f"notebooks/{name}" in render.read_toc(ROOT / "_toc.yml")
    return complaints + ([] if listed else [f"{name} is not in the table of contents"])


CHECKS = [check_length, check_opening, check_sections, check_details]


def read(path):
    notebook = jupytext.read(path)
    notebook.metadata["name"] = path.stem
    return notebook


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_every_chapter_keeps_the_template(path):
    assert {complaint for check in CHECKS for complaint in check(read(path))} == set()


# The checks complain when they should

GOOD = """\
# %% [markdown]
# # A chapter
#
# **Claim.** So it is.
#
# {glue:}`a-claim`
#
# In short: {glue:text}`found:.2f`, where the truth is 0.

# %% [markdown]
# ## What was predicted
# ## Setup

# %% tags=["decisive"] mystnb={"figure": {"name": "fig-a", "caption": "A."}}
draw()

# %% [markdown]
# ## Does it hold up?
# ## The verdict
# ## What would change our mind
# ## Rerun it
"""


def complaints(source):
    notebook = jupytext.reads(source, fmt="py:percent")
    notebook.metadata["name"] = "99_none"
    return [complaint for check in CHECKS for complaint in check(notebook)]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# **Claim.** So it is.\n", "# So it is.\n"),
        ("# {glue:}`a-claim`\n", "# \n"),
        ("{glue:text}`found:.2f`", "0.25"),
        ('tags=["decisive"] ', ""),
        ('mystnb={"figure": {"name": "fig-a", "caption": "A."}}', ""),
        ("# ## Setup\n", ""),
        ("# ## What was predicted\n# ## Setup", "# ## Setup\n# ## What was predicted"),
        ("# ## Setup", "# ## Setup\n" + "# word word\n" * 600),
        ("draw()", 'draw()\n\n# %% mystnb={"figure": {"name": "x"}}\ndraw()' * MOST_FIGURES),
        ("# %% [markdown]\n# ## Does it", '# %% [markdown] tags=["details"]\n# more\n\n# %% [markdown]\n# ## Does it'),
    ],
)
def test_a_chapter_that_breaks_it_is_caught(old, new):
    assert complaints(GOOD) == []
    assert GOOD.count(old) == 1 and complaints(GOOD.replace(old, new))


# How a notebook becomes pages


def hand(name):
    return {"output_type": "display_data", "metadata": {"scrapbook": {"name": name}}, "data": {"text/plain": "1"}}


@pytest.fixture
def pages(tmp_path):
    """A notebook that draws last what shall be seen first, with a part that goes to a second page."""
    from matryoshka_mixing.chapters import matryoshka_inherits as chapter

    shown = {"output_type": "display_data", "metadata": {}, "data": {"image/png": "x", "text/csv": "panel,series\n"}}
    figure = {"figure": {"name": "fig-a", "caption": "A."}, "image": {"alt": "a"}}
    code = {"cell_type": "code", "execution_count": 1, "source": ["figure = chapter.draw_walk(x)"]}
    text = {"cell_type": "markdown", "metadata": {}}
    cells = [
        text | {"source": ["# A chapter\n", "\n", "**Claim.**"]},
        text | {"source": ["## Setup"]},
        code | {"metadata": {"tags": ["hide-input", "decisive"], "mystnb": figure}, "outputs": [hand("a"), shown]},
        text | {"source": ["More."], "metadata": {"tags": ["details"]}},
        code | {"metadata": {"tags": ["details", "remove-cell"]}, "outputs": [hand("b")]},
    ]
    (tmp_path / "03_x.ipynb").write_text(json.dumps({"cells": cells}))
    found = render.pages_of(tmp_path / "03_x.ipynb", chapter)
    assert set(found) == {"03_x.ipynb", "03_x_details.ipynb", "fig-a.csv"}
    return found


def names(cell):
    return [output["metadata"]["scrapbook"]["name"] for output in cell.get("outputs", []) if render.is_glued(output)]


def test_the_decisive_figure_comes_first_and_once(pages):
    first, figure, setup, target, drawing, glue = json.loads(pages["03_x.ipynb"])["cells"]
    assert "Claim" in "".join(first["source"]) and "Setup" in "".join(setup["source"])
    assert figure["metadata"]["tags"] == ["remove-input"] and len(figure["outputs"]) == 1
    assert figure["metadata"]["mystnb"]["figure"]["name"] == "fig-a"
    assert figure["metadata"]["mystnb"]["figure"]["caption"].endswith("{ref}`Code <fig-a-code>`")
    assert target["source"] == "(fig-a-code)=", "the caption leads to the code"
    assert "figure" not in drawing["metadata"]["mystnb"] and drawing["outputs"] == []
    assert "the loss along the walk" in drawing["metadata"]["mystnb"]["code_prompt_show"]
    assert names(glue) == ["a", "b"], "whatever is handed to the prose is there once"


def test_details_have_a_page_of_their_own(pages):
    head, more, code, glue = json.loads(pages["03_x_details.ipynb"])["cells"]
    assert head["source"].startswith("# A chapter: details\n") and "{doc}`03_x`" in head["source"]
    assert more["source"] == ["More."] and code["outputs"] == [] and names(glue) == ["a", "b"]


def test_the_numbers_behind_a_figure_are_a_click_away(pages):
    assert pages["fig-a.csv"] == "panel,series\n"
    assert "{download}`Numbers </numbers/fig-a.csv>`" in pages["03_x.ipynb"]


@pytest.mark.parametrize("options", ["---\nname: fig-b\nalt: x\n---\n", ":name: fig-b\n\n"])
def test_so_are_those_of_a_figure_that_stands_in_prose(options):
    output = hand("b") | {"data": {"application/papermill.record/text/csv": ["panel\n", "1\n"]}}
    handed = render.handed_numbers([{"cell_type": "markdown"}, {"cell_type": "code", "outputs": [hand("a"), output]}])
    cell = {
        "source": [f"Text.\n\n```{{glue:figure}} b\n{options}What it shows.\n```\n\n```{{glue:figure}} a\n", "A.\n```"]
    }
    assert render.with_glued_numbers(cell, handed) == {"fig-b.csv": "panel\n1\n"}
    assert "What it shows. {download}`Numbers </numbers/fig-b.csv>`\n```\n\n" in cell["source"]
    assert cell["source"].endswith("```{glue:figure} a\nA.\n```"), "one without numbers stays as it is"


# What those numbers are


def rows(figure):
    table = [line.split(",") for line in figures.numbers(figure).splitlines()]
    plt.close(figure)
    assert tuple(table[0]) == ("panel", "series", "x", "y", "value")
    return table[1:]


def test_numbers_of_lines_clouds_and_bars():
    figure, axis = plt.subplots()
    axis.plot([0, 1], [0.25, 1 / 3], label="theory")
    axis.axhline(0)
    axis.scatter([1, 2], [3, float("nan")], label="seeds")
    axis.bar([4], [5])
    axis.set_title("p")
    assert rows(figure) == [
        ["p", "theory", "0", "0.25", ""], ["p", "theory", "1", "0.3333", ""],
        ["p", "seeds", "1", "3", ""], ["p", "", "4", "2.5", "5"],
    ]  # fmt: skip


def test_numbers_of_cells_have_the_names_of_their_row_and_column():
    figure = figures.heatmaps({"p": np.array([[1.0, -0.5], [0.0, 0.25]])}, ["a", "b"], ["r", "s"])
    assert rows(figure) == [
        ["p", "", "a", "r", "1"], ["p", "", "b", "r", "-0.5"], ["p", "", "a", "s", "0"], ["p", "", "b", "s", "0.25"],
    ]  # fmt: skip


def test_strips_name_their_groups():
    table = rows(
        figures.seed_strips({"one": np.array([0.1, 0.2]), "control: two": np.zeros(1)}, "cosine", reference=0.5)
    )
    points = [(y, x) for _, _, x, y, _ in table if y in ("one", "control: two")]
    assert {("one", "0.1"), ("one", "0.2"), ("control: two", "0")} <= set(points)
