"""The book: its table of contents names files that exist, and the check of the rendered site can fail."""

import json
import subprocess
from pathlib import Path

import no_value
import pytest
import render
from myst_nb.ext.glue import crossref, roles

ROOT = Path(__file__).parent.parent
PAGE = '<html><body><a href="https://a.org">link</a><img src="data:image/png;base64,aGVsbG8="></body></html>'
GENERATED = {"book/speed"}  # written by benchmarks/page.py
TOC = """\
format: jb-book
root: index
parts:
  - caption: Part
    chapters:
      - file: book/one
        sections:
          - file: book/two
"""


def test_every_page_of_the_toc_has_a_source():
    pages = render.read_toc(ROOT / "_toc.yml")
    assert len(pages) == len(set(pages)) > 1
    assert [
        page
        for page in set(pages) - GENERATED
        # A page of details is made from its chapter's notebook.
        if not any((ROOT / page.removesuffix("_details")).with_suffix(end).is_file() for end in (".md", ".ipynb"))
    ] == []


def test_every_notebook_is_in_the_toc():
    notebooks = {f"notebooks/{path.stem}" for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert notebooks <= set(render.read_toc(ROOT / "_toc.yml"))


def test_the_picture_in_the_readme_is_the_notebooks_own():
    notebook = ROOT / "notebooks/03_matryoshka_inherits.ipynb"
    stored = render.stored_figure(notebook, "fig-matryoshka-curve")
    assert (ROOT / "book/_static/readme-figure.png").read_bytes() == stored
    with pytest.raises(ValueError, match="no figure called fig-none"):
        render.stored_figure(notebook, "fig-none")


def test_the_page_on_rerunning_has_a_table_for_each_chapter():
    notebooks = [Path("_build/report/notebooks/02_narrow_sae_mixes.ipynb"), Path("03_matryoshka_inherits.ipynb")]
    narrow, inherits = render.parameters_page(notebooks).split("\n\n")
    assert narrow.startswith(":::{dropdown} `02_narrow_sae_mixes`\n| parameter |") and narrow.endswith("|\n:::")
    assert "| `n_steps` |" in narrow and "inner_weight" not in narrow
    assert "`03_matryoshka_inherits`" in inherits and "| `inner_weight` |" in inherits
    with pytest.raises(ModuleNotFoundError):
        render.parameters_page([Path("11_of_no_module.ipynb")])


def test_a_bar_over_folded_code_says_what_it_does():
    from matryoshka_mixing.chapters import matryoshka_inherits as chapter

    walk = "the loss along the walk, relative to its start"
    assert render.bar("x = chapter.walk(p, s)\nfigure = chapter.draw_walk(x)", chapter) == f"Code: {walk}"
    assert render.bar("p = notebook.begin(globals())", chapter) == (
        "Code: check the parameters, and set up threads and figures"
    )
    assert render.bar("print(1); chapter.no_such()", chapter) == "Code"
    own, reading = {"mystnb": {"code_prompt_show": "Own"}}, ["loss = (x - y).square().sum()"]
    cells = [
        {"cell_type": "code", "metadata": {"tags": tags, **more}, "source": source, "outputs": []}
        for tags, more, source in [
            (["hide-input"], {}, ["chapter.draw_walk(x)"]), ([], {}, ["chapter.draw_walk(x)"]),
            (["hide-cell"], own, ["1"]), (["parameters"], {}, ["chapter.draw_walk(x)"]), ([], {}, reading),
        ]
    ]  # fmt: skip
    render.with_bars(cells, chapter)
    for folded in cells[:2]:
        assert folded["metadata"]["mystnb"]["code_prompt_show"] == f"Code: {walk}"
        assert folded["metadata"]["tags"] == ["hide-input"]
    assert cells[2]["metadata"] == {"tags": ["hide-cell"]} | own
    assert [cell["metadata"]["tags"] for cell in cells[3:]] == [["parameters"], []], "code that is there to be read"


def test_what_a_reader_moves_gets_the_runs_own_saes(tmp_path):
    page = '<div class="explorable" id="x"><script type="application/json">{"dots": [[0.1, 0.2, null]]}</script></div>'
    outputs = [{"data": {"text/plain": "1"}}, {"data": {"text/html": [page]}}]
    path = tmp_path / "03_matryoshka_inherits.ipynb"
    path.write_text(json.dumps({"cells": [{"cell_type": "markdown"}, {"cell_type": "code", "outputs": outputs}]}))
    packed = render.EXPLORABLE.search(render.explorable_page([path]))[1]
    assert json.loads(packed)["dots"] == [[0.1, 0.2, None]] and "start" not in json.loads(packed)
    assert "dots" not in render.EXPLORABLE.search(render.explorable_page([]))[1]
    path.write_text('{"cells": []}')
    with pytest.raises(ValueError, match="shows nothing that a reader can move"):
        render.explorable_page([path])


@pytest.fixture
def site(tmp_path):
    (tmp_path / "_toc.yml").write_text(TOC)
    (tmp_path / "book").mkdir()
    for page in render.read_toc(tmp_path / "_toc.yml"):
        (tmp_path / f"{page}.html").write_text(PAGE)
    return tmp_path


def test_a_good_site_passes(site):
    render.check(site, site / "_toc.yml")


def test_a_missing_page_is_caught(site):
    (site / "book/two.html").unlink()
    with pytest.raises(SystemExit, match=r"two\.html: the page is missing"):
        render.check(site, site / "_toc.yml")


@pytest.mark.parametrize(
    ("trouble", "complaint"),
    [
        ('<div class="output traceback highlight"></div>', "shows a traceback"),
        ("<pre>Traceback (most recent call last):</pre>", "shows a traceback"),
        ("<p>| a | b |\n| - | - |</p>", "shows the source of a table"),
        ('<script async src="https://example.org/x.js"></script>', "from outside"),
        ('<link rel="stylesheet" href="//example.org/x.css">', "from outside"),
        ('<img alt="A line." src="../_images/lost.png">', "which is not there"),
    ],
)
def test_trouble_on_a_page_is_caught(site, trouble, complaint):
    (site / "book/one.html").write_text(PAGE.replace("</body>", f"{trouble}</body>"))
    with pytest.raises(SystemExit, match=complaint):
        render.check(site, site / "_toc.yml")


def test_the_source_of_the_book_holds_what_is_wanted_and_nothing_else(tmp_path):
    origin, source = tmp_path / "page.md", tmp_path / "source"
    origin.write_text("one")
    assert not render.assemble(source, {Path("book/page.md"): origin})
    untouched = (source / "book/page.md").stat().st_mtime_ns
    assert not render.assemble(source, {Path("book/page.md"): origin})
    assert (source / "book/page.md").stat().st_mtime_ns == untouched

    assert render.assemble(source, {Path("book/other.md"): origin}), "a vanished page asks for a fresh build"
    assert [path.name for path in (source / "book").iterdir()] == ["other.md"]


@pytest.mark.parametrize("spec", ["", ".3f", ".0%", "d", ".2e"])
@pytest.mark.parametrize("text", ["nan", "'nan'"])
def test_a_number_that_a_run_does_not_have_stands_in_words(text, spec):
    assert no_value.in_words(text, spec) == no_value.NO_VALUE


@pytest.mark.parametrize(
    ("text", "spec", "shown"),
    [("0.3254", ".2f", "0.33"), ("7", "d", "7"), ("'below 1e-08'", "", "below 1e-08"), ("'none'", ".1%", "none")],
)
def test_numbers_and_words_stand_as_they_are(text, spec, shown):
    assert no_value.in_words(text, spec) == shown


def test_both_roles_ask_for_words(monkeypatch):
    for module in (crossref, roles):
        monkeypatch.setattr(module, "format_plain_text", None)
    monkeypatch.setattr(no_value.variables, "format_plain_text", None)
    no_value.setup(None)
    assert crossref.format_plain_text is roles.format_plain_text is no_value.in_words


def test_a_disk_that_is_full_is_told_once_not_file_by_file(tmp_path, monkeypatch):
    said = "WARNING: Failed to copy a file: OSError(28, 'No space left on device')\n" * 9
    done = subprocess.CompletedProcess([], 1, stdout=said)
    monkeypatch.setattr(render.subprocess, "run", lambda *_, **__: done)
    with pytest.raises(OSError, match=r"^\[Errno 28\] No space left on device: '.*'$"):
        render.jupyter_book(tmp_path, tmp_path, tmp_path / "log")
    done.stdout = "WARNING: a page is missing\n"
    with pytest.raises(SystemExit, match="a page is missing"):
        render.jupyter_book(tmp_path, tmp_path, tmp_path / "log")


def test_a_notebook_that_papermill_wrote_takes_its_chapters_place(tmp_path):
    chapter = tmp_path / "02_narrow.ipynb"
    chapter.write_text("committed")
    own = tmp_path / "elsewhere" / "out.ipynb"
    own.parent.mkdir()
    own.write_text(json.dumps({"cells": [], "metadata": {"papermill": {"input_path": "a/folder/02_narrow.ipynb"}}}))
    render.place(own, tmp_path)
    assert chapter.read_text() == own.read_text()


@pytest.mark.parametrize(
    "text",
    [
        "no JSON",
        "[]",
        "{}",
        '{"metadata": {}}',
        '{"metadata": {"papermill": {}}}',
        '{"metadata": {"papermill": {"input_path": null}}}',
        '{"metadata": {"papermill": {"input_path": "notebooks/03_no_chapter.ipynb"}}}',
        '{"metadata": {"papermill": {"input_path": "02_narrow.ipynb", "exception": true}}}',
        None,
    ],
)
def test_what_papermill_did_not_write_or_could_not_finish_takes_no_place(tmp_path, text):
    chapter, own = tmp_path / "02_narrow.ipynb", tmp_path / "out.nb"
    chapter.write_text("committed")
    if text is not None:
        own.write_text(text)
    with pytest.raises(SystemExit, match="write one with: papermill"):
        render.place(own, tmp_path)
    assert chapter.read_text() == "committed"
