"""Every page as a reader meets it: accessible, silent, self-contained, and as wide as the screen."""

from pathlib import Path

import axe_playwright_python
import pytest
import render

ROOT = Path(__file__).parents[2]
PAGES = [*render.read_toc(ROOT / "_toc.yml"), "genindex", "search"]
AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
WIDTHS = (1280, 768, 390)
SMALLEST = 9  # CSS pixels of a figure's text

# Pages on which the first figure stands on the first screen at 1280 x 900; the others are reported.
FIGURE_FIRST = {"book/index"}
# Pages whose figures keep their text readable at every width; the others are reported.
READABLE = {"book/index"}

each_page = pytest.mark.parametrize("path", PAGES)

FIRST_FIGURE = """() => {
    const found = document.querySelector('main figure img, main figure svg, main .cell_output img');
    return found ? Math.round(found.getBoundingClientRect().top + scrollY) : null;
}"""
FIGURE_TEXT = """() => [...document.querySelectorAll('main figure svg text')].map((text) => {
    const drawing = text.ownerSVGElement, scale = drawing.getBoundingClientRect().width / drawing.viewBox.baseVal.width;
    return parseFloat(getComputedStyle(text).fontSize) * scale;
})"""
OVERFLOW = """() => {
    const wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
    if (wide <= 0) return null;
    const out = (element) => element.getBoundingClientRect().right > innerWidth + 1;
    const guilty = [...document.querySelectorAll('main *')].filter(out);
    return `${wide} px by ${guilty.slice(0, 3).map((e) => e.outerHTML.slice(0, 90)).join(' | ')}`;
}"""


def violations(page):
    """What axe-core has to say, one line for each rule."""
    if not page.evaluate("typeof axe !== 'undefined'"):
        page.evaluate(AXE)
    found = page.evaluate("axe.run({resultTypes: ['violations'], preload: false})")["violations"]
    return [f"{v['id']} ({v['impact']}) x {len(v['nodes'])}: {v['nodes'][0]['html'][:160]}" for v in found]


@each_page
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_everyone_can_use_it_and_it_loads_nothing_from_outside(open_page, path, theme):
    page, heard = open_page(path, theme=theme)
    assert page.evaluate("document.documentElement.dataset.theme") == theme
    assert heard + violations(page) == []


@each_page
def test_it_is_no_wider_than_the_screen(open_page, path):
    page, _ = open_page(path)
    found = {}
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        if wide := page.evaluate(OVERFLOW):
            found[width] = wide
    assert found == {}


@each_page
def test_its_figures_come_early_and_can_be_read(open_page, path, record_property):
    page, _ = open_page(path)
    top = page.evaluate(FIRST_FIGURE)
    record_property("first_figure_px", top)
    if path in FIGURE_FIRST:
        assert top is not None and top < 900
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        smallest = min(page.evaluate(FIGURE_TEXT), default=None)
        record_property(f"smallest_text_{width}", smallest)
        if path in READABLE:
            assert smallest is not None and smallest >= SMALLEST, width


@pytest.mark.parametrize(("word", "wanted"), [("absorption", "notebooks/01_"), ("hedging", "book/index")])
def test_search_finds_the_page_that_explains_it(open_page, word, wanted):
    page, heard = open_page("search")
    page.goto(f"{page.url}?q={word}")
    page.wait_for_selector("#search-results li a")
    links = page.eval_on_selector_all("#search-results li > a", "links => links.map((a) => a.href)")
    assert any(wanted in link for link in links) and heard == []
    kinds = ["api" if "book/api" in link else "page" for link in links]
    assert kinds == sorted(kinds, reverse=True), "what explains a word comes before the function that bears it"


def test_the_theme_can_be_switched(open_page):
    page, heard = open_page("book/index")
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    for _ in range(3):
        page.locator(".theme-switch-button:visible").first.click()
        if page.evaluate("document.documentElement.dataset.theme") == "dark":
            break
    assert page.evaluate(ground) != light and heard == []


def test_verdicts_can_be_filtered_and_linked(open_page):
    page, _ = open_page("book/index")
    rows = page.locator("#verdicts tbody tr")
    total = rows.count()
    button = page.locator(".verdict-filter button").nth(1)
    kind, shown = button.inner_text().rstrip(")").split(" (")
    button.click()
    assert page.locator("#verdicts tbody tr:visible").count() == int(shown) <= total
    assert f"verdict={button.get_attribute('value')}" in page.url and kind
    page.reload()
    assert page.locator("#verdicts tbody tr:visible").count() == int(shown)
    link = rows.first.locator("a.headerlink").get_attribute("href")
    assert page.locator(link).count() == 1
