"""A real browser over the rendered site: Debian's Chromium, driven by Playwright; nothing is downloaded."""

import os
import shutil
from pathlib import Path

import pytest
import render
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parents[2]
SITE = ROOT / "_build/html"
# One long-lived process, no calls home; without a user namespace (in a container) the sandbox cannot start.
OPTIONS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
]  # fmt: skip


def missing(reason):
    """Skip, but where CI asks for this test, fail."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI=true asks for the browser tests: {reason}", pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def address():
    """Where the rendered site is served."""
    if not (SITE / "index.html").is_file():
        missing("there is no rendered site: run 'make book' first")

    with render.served(SITE) as found:
        yield found


@pytest.fixture(scope="session")
def browser():
    """Chromium, by its path."""
    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if path is None:
        missing("no chromium found: install Debian's package, or name another in CHROMIUM")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=OPTIONS)
        yield started
        started.close()


def listened(context, address):
    """A new page of a context, and a list that its console's complaints and its requests to elsewhere join."""
    page, heard = context.new_page(), []
    page.on("console", lambda m: heard.append(f"console {m.type}: {m.text}") if m.type in ("error", "warning") else 0)
    page.on("pageerror", lambda error: heard.append(f"error: {error}"))
    page.on(
        "request",
        lambda r: None if r.url.startswith((address, "data:", "blob:")) else heard.append(f"outside: {r.url}"),
    )
    page.on("response", lambda r: heard.append(f"{r.status}: {r.url}") if r.status >= 400 else None)
    return page, heard


@pytest.fixture(scope="session")
def tab(browser, address):
    """One page, in which one document after the other is opened, and what it complains of."""
    # Without motion: a colour on its way from light to dark is none of the two.
    context = browser.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    context.add_init_script("localStorage.setItem('mode', 'light'); localStorage.setItem('theme', 'light')")
    yield listened(context, address)
    context.close()


@pytest.fixture
def open_page(browser, address):
    """Open a document in a page of its own; gives the page and what it complains of."""
    contexts = []

    def open_(path, width=1280, height=900, **options):
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        context.add_init_script("localStorage.setItem('mode', 'light'); localStorage.setItem('theme', 'light')")
        page, heard = listened(context, address)
        page.goto(f"{address}/{path}.html", wait_until="load")
        return page, heard

    yield open_
    for context in contexts:
        context.close()
