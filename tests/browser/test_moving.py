"""What a reader moves, by mouse, keyboard and touch; what it shows is the theory's."""

import re

import pytest
import torch
from penalised import penalised_family

from matryoshka_mixing import theory


def shown(page):
    """The two cosines that the words give."""
    words = page.locator(".explorable-words").first.inner_text()
    mixed, sibling = re.search(r"cosine of (\S+) with each child.*one of (\S+) with its sibling", words).groups()
    return [float(each.replace("−", "-")) for each in (mixed, sibling)]


def expected(q=0.4, n=2, beta=1.0, l1=0.0):
    found = penalised_family(q, n, beta, l1)
    return [pytest.approx(value, abs=6e-4) for value in (found.parent[1], found.child[2])]


def unequal(q, n, beta, times):
    """The parent's latent with child 1 and each other, child 1's with another, another's with child 1; no penalty."""
    share = torch.tensor([times, *[1.0] * (n - 1)], dtype=torch.float64)
    ratios = theory.unequal_ratios((1 - n * q) * (1 + beta), beta * q * share / share.mean())
    parent = torch.nn.functional.normalize(torch.cat([torch.ones(1, dtype=torch.float64), ratios]), dim=0)
    one = torch.eye(n + 1, dtype=torch.float64)
    first, second = (theory.child_decoder(parent, one[0] + one[i]) for i in (1, 2))
    return [pytest.approx(float(value), abs=6e-4) for value in (parent[1], parent[2], first[2], second[1])]


def shown_unequal(page):
    """The four cosines that the words give."""
    words = page.locator(".explorable-words").first.inner_text()
    said = r"cosine of (\S+) with child 1 and (\S+) with.*one of (\S+) with.*one of (\S+) with child 1"
    return [float(each.replace("−", "-")) for each in re.search(said, words).groups()]


def slider(page, key):
    return page.locator(f".explorable input[data-key={key}]").first


def test_its_first_state_carries_the_message(open_page):
    page, heard = open_page("book/index")
    assert shown(page) == expected() and heard == []
    assert page.locator(".explorable .trained").count() > 5, "trained SAEs of the run"
    assert page.locator(".explorable .trained.other").count() == 0


def test_by_keyboard(open_page):
    page, _ = open_page("book/index")
    slider(page, "q").focus()
    for _ in range(10):
        page.keyboard.press("ArrowLeft")
    assert slider(page, "q").get_attribute("aria-valuetext") == "0.30"
    assert shown(page) == expected(q=0.3)
    slider(page, "l1").focus()
    page.keyboard.press("End")
    assert shown(page) == expected(q=0.3, l1=0.3)
    slider(page, "n").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert shown(page) == expected(q=0.24, n=4, l1=0.3), "no more children than the parent has room for"
    assert "-p child_probability 0.24 -p n_children 4" in page.locator(".explorable-command").inner_text()


def test_by_mouse(open_page):
    page, _ = open_page("book/index")
    box = slider(page, "beta").bounding_box()
    slider(page, "beta").click(position={"x": box["width"] - 3, "y": box["height"] / 2})
    assert shown(page) == expected(beta=10.0)
    page.get_by_text("without the terms that mix").click()
    assert shown(page) == [0, 0] and "every input with a child" in page.locator(".explorable-meter").inner_text()
    page.get_by_text("with the remedy").click()
    assert shown(page) == [0, 0] and "none" in page.locator(".explorable-meter").inner_text()
    assert slider(page, "l1").is_disabled()
    page.get_by_text("Start again").click()
    assert shown(page) == expected()


def test_unequal_children(open_page):
    page, heard = open_page("book/index")
    slider(page, "times").focus()
    for _ in range(6):
        page.keyboard.press("ArrowRight")
    assert slider(page, "times").get_attribute("aria-valuetext") == "4 times"
    assert slider(page, "q").get_attribute("aria-valuetext") == "0.64, 0.16"
    assert shown_unequal(page) == unequal(0.4, 2, 1.0, 4)
    assert page.locator(".explorable .trained").count() == page.locator(".explorable .trained.other").count() > 5
    assert '{"active_prob":0.64},{"active_prob":0.16}' in page.locator(".explorable-command").inner_text()
    box = slider(page, "n").bounding_box()
    slider(page, "n").click(position={"x": box["width"] - 3, "y": box["height"] / 2})
    assert shown_unequal(page) == unequal(0.08, 12, 1.0, 4)
    slider(page, "times").focus()
    page.keyboard.press("Home")
    assert shown(page) == expected(q=0.08, n=12) and heard == []


def test_by_touch(open_page):
    page, _ = open_page("book/index", width=390, height=844, has_touch=True, is_mobile=True)
    box = slider(page, "q").bounding_box()
    slider(page, "q").tap(position={"x": 3, "y": box["height"] / 2})
    assert shown(page) == expected(q=0.02)
    page.get_by_text("without the terms that mix").tap()
    assert "every input" in page.locator(".explorable-meter").inner_text()
    box = slider(page, "times").bounding_box()
    page.get_by_text("Start again").tap()
    slider(page, "times").tap(position={"x": box["width"] - 3, "y": box["height"] / 2})
    assert shown_unequal(page) == unequal(0.4, 2, 1.0, 10)


def test_the_command_is_copied(open_page):
    page, _ = open_page("book/index", permissions=["clipboard-read", "clipboard-write"])
    page.get_by_text("Copy the papermill command").click()
    page.get_by_text("Copied.").wait_for()
    assert page.evaluate("navigator.clipboard.readText()").startswith(
        "papermill notebooks/03_matryoshka_inherits.ipynb"
    )


def test_without_javascript_the_first_frame_stands(open_page):
    page, _ = open_page("book/index", java_script_enabled=False)
    assert page.locator(".explorable svg").count() == 3
    assert shown(page) == expected()


def test_the_same_in_a_chapter(open_page):
    page, heard = open_page("notebooks/04_why_it_happens")
    slider(page, "blamed").focus()
    page.keyboard.press("Home")
    assert shown(page)[0] == 0 and heard == []
    page.keyboard.press("End")
    most = float(slider(page, "blamed").get_attribute("max"))
    found = penalised_family(0.4, 2, blamed=most)
    assert shown(page) == [pytest.approx(v, abs=6e-4) for v in (found.parent[1], found.child[2])]
