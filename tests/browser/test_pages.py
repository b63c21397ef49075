"""Every page as a reader meets it: accessible, silent, self-contained, and as wide as the screen."""

import re
from pathlib import Path

import axe_playwright_python
import pytest
import render

ROOT = Path(__file__).parents[2]
PAGES = [*render.read_toc(ROOT / "_toc.yml"), "genindex", "search"]
AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
WIDTHS = (1280, 768, 390)
SMALLEST = 9  # CSS pixels of a figure's text
HEAVIEST = 1_000_000  # bytes of a page before its figures
SEEN = 250  # CSS pixels of the first figure that the first screen shows at least

# Pages that show their finding on the first screen at 1280 x 900.
FIGURE_FIRST = [page for page in PAGES if page.startswith("notebooks/") and not page.endswith("_details")]

FIRST_FIGURE = """() => {
    const found = document.querySelector('main figure img, main figure svg, main .explorable svg');
    return found ? Math.round(found.getBoundingClientRect().top + scrollY) : null;
}"""
FIGURE_TEXT = """() => [...document.querySelectorAll('main svg[viewBox]')].flatMap((drawing) => {
    const scale = drawing.getBoundingClientRect().width / drawing.viewBox.baseVal.width;
    const texts = [...drawing.querySelectorAll('text')];
    return texts.map((text) => [parseFloat(getComputedStyle(text).fontSize) * scale, text.textContent]);
}).sort((a, b) => a[0] - b[0])[0]"""
OVERFLOW = """() => {
    const wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
    if (wide <= 0) return null;
    const out = (element) => element.getBoundingClientRect().right > innerWidth + 1;
    const guilty = [...document.querySelectorAll('main *')].filter(out);
    return `${wide} px by ${guilty.slice(0, 3).map((e) => e.outerHTML.slice(0, 90)).join(' | ')}`;
}"""
# What is fetched for a page, its fonts included, less the drawings in it; not what its script makes of the formulas.
WEIGHT = """async () => {
    await document.fonts.ready;
    const sum = (sizes) => sizes.reduce((total, size) => total + size, 0);
    const drawn = sum([...document.querySelectorAll('.figure-box')].map((box) => box.innerHTML.length));
    const fetched = ['navigation', 'resource'].flatMap((kind) => performance.getEntriesByType(kind));
    return sum(fetched.filter((one) => !one.name.includes('/_images/')).map((one) => one.decodedBodySize)) - drawn;
}"""
# Figures whose caption does not lead to the numbers behind them.
NO_NUMBERS = """() => [...document.querySelectorAll('main figure:has(> figcaption)')].filter((figure) =>
    !figure.closest('.explorable') && !figure.querySelector('figcaption a.download')).map((figure) => figure.id)"""
# What search engines and shared links show of a page that begins with text, as far as it lacks.
UNTOLD = """() => {
    const said = (key) => document.querySelector(`meta[property='og:${key}']`)?.content ?? '';
    const lacks = ['title', 'description', 'image'].filter((key) => !said(key));
    return said('site_name') === 'Matryoshka Mixing' ? lacks : [...lacks, `a site called ${said('site_name')}`];
}"""
# The page has answered to its new size: the theme's sidebars slide, and boxes that come to scroll learn it by a frame.
SETTLED = """async () => {
    const frames = async () => { for (const _ of [1, 2]) await new Promise(requestAnimationFrame); };
    await frames();
    await Promise.all(document.getAnimations().map((each) => each.finished));
    await frames();
}"""
# What axe-core need not walk through: a figure is one picture with one description to whoever cannot see it; tokens of
# code that is folded; of the API's many entries, which are written alike, all but some.
THINNED = """() => {
    document.querySelectorAll('.figure-box svg[role=img]').forEach((drawing) => drawing.replaceChildren());
    document.querySelectorAll('pre').forEach((code) => code.checkVisibility() || (code.textContent = code.textContent));
    document.querySelectorAll('dl.py').forEach((entry, i) => i < 40 || entry.remove());
}"""
# Text in the same kinds of elements has the same colours: what is left is one of each kind, with what it stands in.
REDUCED = """() => {
    const kind = (element) => element === document.body ? ''
        : `${kind(element.parentElement)} ${element.tagName}.${element.className}`;
    const kinds = new Map(), all = [...document.body.querySelectorAll('*')];
    for (const element of all) {
        const written = [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim());
        if (written && element.checkVisibility() && !kinds.has(kind(element))) kinds.set(kind(element), element);
    }
    const kept = new Set();
    for (let element of kinds.values()) for (; element; element = element.parentElement) kept.add(element);
    all.forEach((element) => kept.has(element) || element.remove());
    return kinds.size;
}"""
COLOURS = ["color-contrast", "link-in-text-block"]


def violations(page, **options):
    """What axe-core has to say, one line for each rule."""
    options |= {"resultTypes": ["violations"], "preload": False}
    found = page.evaluate("options => axe.run(options)", options)["violations"]
    return [f"{v['id']} ({v['impact']}) x {len(v['nodes'])}: {v['nodes'][0]['html'][:160]}" for v in found]


@pytest.mark.parametrize("path", PAGES)
def test_page(tab, address, path):
    """Loaded once: silent, self-contained, light, figures early and legible, no wider than the screen, accessible."""
    page, heard = tab
    heard.clear()
    page.set_viewport_size({"width": WIDTHS[0], "height": 900})
    page.goto(f"{address}/{path}.html", wait_until="load")
    wrong = []
    if (weight := page.evaluate(WEIGHT)) > HEAVIEST and path != "book/api":  # one page for all of it, to search in
        wrong.append(f"{weight} bytes before its figures")
    if path.startswith("notebooks/"):
        wrong += [f"no numbers behind {figure}" for figure in page.evaluate(NO_NUMBERS)]
        wrong += [f"the tags of a shared link lack {each}" for each in page.evaluate(UNTOLD)]
    top = page.evaluate(FIRST_FIGURE)
    if path in FIGURE_FIRST and (top is None or top > 900 - SEEN):
        wrong.append(f"the first figure begins at {top}")
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        if wide := page.evaluate(OVERFLOW):
            wrong.append(f"at {width}: {wide}")
        if (smallest := page.evaluate(FIGURE_TEXT)) and smallest[0] < SMALLEST - 0.05:
            wrong.append(f"at {width}: text of {smallest[0]:.1f} px: {smallest[1]}")
    page.set_viewport_size({"width": WIDTHS[0], "height": 900})
    page.evaluate(SETTLED)
    page.evaluate(THINNED)
    page.evaluate(AXE)
    wrong += violations(page, rules={rule: {"enabled": False} for rule in COLOURS})
    assert page.evaluate(REDUCED) > 10
    for theme in ("light", "dark"):
        page.evaluate("theme => { document.documentElement.dataset.theme = theme }", theme)
        wrong += [f"{theme}: {each}" for each in violations(page, runOnly=COLOURS)]
    assert heard + wrong == []


@pytest.mark.parametrize(("word", "wanted"), [("absorption", "notebooks/01_"), ("hedging", "book/index")])
def test_search_finds_the_page_that_explains_it(open_page, word, wanted):
    page, heard = open_page("search")
    page.goto(f"{page.url}?q={word}")
    page.wait_for_selector(".search-summary:has-text('Search finished')")
    links = page.eval_on_selector_all("#search-results li > a", "links => links.map((a) => a.href)")
    assert any(wanted in link for link in links) and heard == []
    kinds = ["api" if "book/api" in link else "page" for link in links]
    assert kinds == sorted(kinds, reverse=True), "what explains a word comes before the function that bears it"


def test_terms_equations_and_citations_say_what_they_stand_for(open_page):
    page, heard = open_page("notebooks/03_matryoshka_inherits")
    tip = page.locator("#tip")
    for link, says in [
        ("main a.term", "unit of an SAE|no room|latents than"), ("main a.reference[href^='#equation-']", "β"),
        ("main a[href*='references.html#']", "20[0-9][0-9]"),
    ]:  # fmt: skip
        page.locator(link).first.focus()
        tip.wait_for()
        assert re.search(says, tip.inner_text())
        page.keyboard.press("Escape")
        assert tip.is_hidden()
    page.locator("main a.term").first.hover()
    tip.wait_for()
    assert heard == []


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
