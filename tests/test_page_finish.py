"""The finish of each page: figures move in, scripts go out, a downloaded notebook reads without the book."""

import io
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import pages
import pydata_sphinx_theme
import pytest
from fontTools.ttLib import TTFont

PAGE = """<html><head><script defer src="../_static/scripts/fontawesome.js?digest=1"></script>
<script src="../searchindex.js"></script></head><body><img src="logo.svg"><main><img alt="first" src="a.png">
<img alt="second" src="b.png"><a href="../_sources/notebooks/03_x.ipynb" target="_blank"></main></body></html>"""


@pytest.fixture
def drawing():
    figure, axis = plt.subplots(figsize=(4, 3))
    axis.plot([0, 1], [0, 1], marker="o", mec="white")
    axis.set(xlabel="a label", title="<title>")
    file = io.BytesIO()
    figure.savefig(file, format="svg")
    plt.close(figure)
    return file.getvalue().decode()


def test_a_page_gets_lighter_once_and_for_all():
    done = pages.lighter(PAGE, "03_x.html")
    assert (
        "fontawesome" not in done and "searchindex" not in done and "searchindex" in pages.lighter(PAGE, "search.html")
    )
    assert '<img alt="first"' in done and '<img loading="lazy" alt="second"' in done and '<img src="logo' in done
    assert 'download="03_x.ipynb"' in done
    assert pages.lighter(done, "03_x.html") == done
    guarded = pages.guarded(done)
    assert guarded.count("Content-Security-Policy") == 1 and pages.guarded(guarded) == guarded


@pytest.mark.parametrize("nothing", ["", " <p></p>\n", "&nbsp;", "\xa0"])
def test_an_empty_header_of_a_table_is_a_cell(nothing):
    page = f'<th class="blank level0">{nothing}</th><th>a</th>'
    assert pages.lighter(page, "x") == "<td></td><th>a</th>"


def test_references_have_no_roles_that_screen_readers_stumble_on():
    page = '<div role="list" class="citation-list"><div class="citation" role="doc-biblioentry"><ul role="list">'
    assert pages.lighter(page, "x") == '<div class="citation-list"><div class="citation"><ul role="list">'


def test_a_vector_figure_moves_into_its_page(drawing, tmp_path):
    (tmp_path / "_images").mkdir()
    (tmp_path / "_images/x.svg").write_text(drawing)
    page = '<figure><img alt="What &lt;it&gt; shows" src="../_images/x.svg"></figure>' * 2
    (tmp_path / "notebooks").mkdir()
    done = pages.with_figures(page, tmp_path / "notebooks", tmp_path)
    assert "<img" not in done and done.count('role="img" aria-label="What &lt;it&gt; shows"') == 2
    assert "a label</text>" in done and "&lt;title&gt;</text>" in done, "text is text"
    assert "min-width: 288px" in done and "#262626" not in done and "currentColor" in done
    assert 'style="fill: #ffffff"' not in done and "stroke: var(--pst-color-background)" in done
    ids = [part.split('"')[0] for part in done.split(' id="')[1:]]
    assert len(ids) == len(set(ids)) and all(name.startswith(("f0-", "f1-")) for name in ids)
    assert all(f'id="{part.split(chr(34))[0]}"' in done for part in done.split('href="#')[1:])


def test_a_figure_that_is_too_heavy_or_elsewhere_stays_outside(drawing, tmp_path):
    (tmp_path / "_images").mkdir()
    (tmp_path / "_images/x.svg").write_text(drawing + " " * pages.HEAVIEST)
    for page in ('<img alt="a" src="_images/x.svg">', '<img alt="a" src="_images/none.svg">'):
        assert pages.with_figures(page, tmp_path, tmp_path) == page


def test_only_icons_that_are_shown_stay():
    sheet = '.a{b:c}.fa-bars:before,.fa-navicon:before{content:"1"}.fa-xmark:before{content:"2"}'
    assert pages.used_icons(sheet, {"fa-bars"}) == '.a{b:c}.fa-bars:before,.fa-navicon:before{content:"1"}'


def test_rules_for_classes_that_are_nowhere_go():
    sheet = "@media print{.a .b{c:d}.e{f:g}}a:hover,.e{h:i}.a-b{j:k}@font-face{l:m}.e.a{n:o}"
    assert pages.used_rules(sheet, {"a", "b"}) == "@media print{.a .b{c:d}}a:hover,.e{h:i}@font-face{l:m}"
    for sheet in (".a:not(.e,.f):has(> :is(.g)) .b{c:d}", "html{a:b}"):
        assert pages.used_rules(sheet, {"a", "b"}) == sheet


def test_the_font_of_icons_keeps_only_what_is_named(tmp_path):
    theme = Path(pydata_sphinx_theme.__file__).parent / "theme/pydata_sphinx_theme/static"
    shutil.copytree(theme / "vendor/fontawesome/webfonts", tmp_path / "fonts")
    source = 'url(x/fa-solid-900.woff2) format("woff2"),url(x/fa-solid-900.ttf) format("truetype")'
    sheet = tmp_path / "styles.css"
    sheet.write_text(source + '.fa-bars:before{content:"\\f0c9"}.tip{content:"\\f05a"}')
    for _ in range(2):
        pages.smaller_font(sheet, tmp_path / "fonts")
        assert sheet.read_text().startswith('url(x/fa-solid-900.woff) format("woff").fa-bars')
        assert set(TTFont(tmp_path / "fonts/fa-solid-900.woff").getBestCmap()) == {0xF0C9, 0xF05A}
        assert not list((tmp_path / "fonts").glob("*.ttf"))


def test_a_downloaded_notebook_reads_without_the_book():
    def hand(name, **data):
        return {"metadata": {"scrapbook": {"name": name}}, "data": data}

    outputs = [
        hand("found", **{"text/plain": ["0.3251"]}), hand("gap", **{"text/plain": "'3.3e-06'"}),
        hand("bound", **{"text/plain": "<HTML object>", "text/html": "<b>below 1e-08</b>"}),
        {"data": {"text/plain": "1"}},
    ]  # fmt: skip
    prose = [
        "It is {glue:text}`found:.3f` or {glue:text}`gap`, at most {glue:}`bound`; ",
        "{glue:text}`../notebooks/09_x.ipynb::lost_value:.2f` in {doc}`04_why`, {cite:p}`a2024,b2025`.",
    ]
    notebook = {"cells": [{"cell_type": "code", "outputs": outputs}, {"cell_type": "markdown", "source": prose}]}
    assert pages.to_read(notebook)["cells"][1]["source"] == (
        "It is 0.325 or 3.3e-06, at most below 1e-08; lost value in [04_why](04_why.ipynb), [a2024,b2025]."
    )


def test_a_downloaded_notebook_holds_the_figure_that_comes_first():
    picture = {"metadata": {"scrapbook": {"name": "f"}}, "data": {"application/papermill.record/image/png": "eA=="}}
    prose = "```{glue:figure} f\n:name: fig-f\n\nWhat it {term}`shows <show>`.\n```\n\nSee {doc}`03_x_details`."
    cells = [{"cell_type": "markdown", "source": [prose]}, {"cell_type": "code", "outputs": [picture]}]
    read = pages.to_read({"cells": cells})["cells"][0]
    assert read["source"] == "![f](attachment:f.png)\n\n*What it shows.*\n\nSee [03_x](03_x.ipynb)."
    assert read["attachments"] == {"f.png": {"image/png": "eA=="}}


def test_a_site_is_finished_and_finishing_it_again_changes_nothing(tmp_path):
    scripts, styles, sources = (tmp_path / name for name in ("_static/scripts", "_static/styles", "_sources/notebooks"))
    for folder in (scripts, styles, sources):
        folder.mkdir(parents=True)
    for name in ("fontawesome.js", "fontawesome.js.map", "theme.js.map"):
        (scripts / name).touch()
    (scripts / "theme.js").write_text('add("fa-sun")')
    (styles / "pydata-sphinx-theme.css").write_text('.fa-sun:before{content:"1"}.fa-moon:before{content:"2"}')
    (sources / "03_x.ipynb").write_text('{"cells": [{"cell_type": "markdown", "source": "{glue:}`a_b`"}]}')
    (tmp_path / "03_x.html").write_text(PAGE)
    builder = SimpleNamespace(name="html")
    (tmp_path / "whole").mkdir()
    (sources / "03_x_details.ipynb").write_text('{"cells": []}')
    (tmp_path / "whole/03_x.ipynb").write_text('{"cells": [{"cell_type": "markdown", "source": "{glue:}`c_d`"}]}')
    for _ in range(2):
        pages._finish(SimpleNamespace(outdir=tmp_path, srcdir=tmp_path, builder=builder), None)
        assert [path.name for path in scripts.iterdir()] == ["theme.js"]
        assert (styles / "pydata-sphinx-theme.css").read_text() == '.fa-sun:before{content:"1"}'
        for name in ("03_x", "03_x_details"):  # the notebook that runs, whatever a page shows of it
            assert json.loads((sources / f"{name}.ipynb").read_text())["cells"][0]["source"] == "c d"
        assert "Content-Security-Policy" in (tmp_path / "03_x.html").read_text()


def test_cells_of_a_styled_table_keep_a_name_only_where_a_rule_needs_it():
    cells = [f'<td id="T_a_row{i}_col0" class="data row{i} col0" >{i}</td>' for i in range(2)]
    cells.append('<th id="T_a_level0_col0" class="col_heading level0 col0" colspan="6">mixing</th>')
    page = "<style>#T_a_row1_col0 {color: red}</style><table>" + "".join(cells) + "</table>"
    assert pages.unnamed(page) == page.replace(cells[0], "<td>0</td>").replace(cells[2], '<th colspan="6">mixing</th>')
