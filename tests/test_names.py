"""Names from a user's tree or file, wherever they reach a figure, HTML or a message: text, one line, not too long."""

import html
import json

import matplotlib as mpl
import numpy as np
import pytest
import torch

import matryoshka_mixing as mm
from matryoshka_mixing import claims, figures
from matryoshka_mixing.chapters import _shared, every_prefix, what_cures_it
from matryoshka_mixing.diagnose import page as diagnosis
from matryoshka_mixing.features import FeatureTree

NAMES = {
    "mathematics": r"$\frac{",
    "dollars": "a$b$c",
    "a script": "<script>alert(1)</script>",
    "an attribute": "\" onload='x'",
    "an entity": "&lt;b&gt;",
    "long": "x" * 5000,
    "emoji": "dog 🐕‍🦺",
    "right to left": "כלב",
    "turned": "a\u202egod",
    "lines": "a\nb\r\n\tc",
    "no sign": "\0\x1b[31m",
    "half a sign": "\ud800",
    "Markdown": "[a](javascript:x) `b` **c** | d",
}


def tree_of(name):
    leaves = FeatureTree(0.4, id=name), FeatureTree(0.4, id="other")
    return FeatureTree(1.0, (FeatureTree(0.3, leaves, True, id=name),), is_read_out=False)


def texts(figure):
    """What stands in a figure once it is drawn, which fails for text that is bad mathematics."""
    figures.use_style()
    figure.canvas.draw()
    return [text.get_text() for text in figure.findobj(mpl.text.Text)]


def harmless(text):
    return len(text) < 200 and all(char.isprintable() for char in text) and "$" not in text.replace(r"\$", "")


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_names_in_figures_of_a_readers_tree(name, tmp_path):
    path = tmp_path / "tree.json"
    path.write_text(json.dumps(tree_of(name).to_dict()))
    # Chapter 06: the names of features.
    toy = every_prefix.toy(every_prefix.Parameters(tree_path=str(path), n_sweep_seeds=1, n_steps=50))
    matrix = np.eye(3)
    assert all(map(harmless, toy.shown_names))
    assert all(map(harmless, texts(every_prefix._images({"a": matrix}, toy.shown_names, toy.shown_names))))
    # Chapter 11: the same.
    chosen = what_cures_it.Parameters(tree_path=str(path))
    case = what_cures_it.toys.Case.of(what_cures_it.toys.chosen(chosen), "relu", range(1))
    names = what_cures_it.page.Page(chosen, case, {}, {}).names
    assert all(map(harmless, names)) and all(map(harmless, texts(figures.heatmaps({"a": matrix}, names))))


@pytest.mark.parametrize("name", [name for name in NAMES.values() if len(name) < 200 and not {"/", "\0"} & set(name)])
def test_the_name_of_a_tree_file_in_words_figures_and_verdicts(name, tmp_path):
    if name == "\ud800":
        pytest.skip("no file can be called so")
    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps(tree_of("a").to_dict()))
    toy = every_prefix.toy(every_prefix.Parameters(tree_path=str(path), n_sweep_seeds=1, n_steps=50))
    assert harmless(figures.label(toy.name, 60))
    claim = toy.claim("not-sampling")
    verdict = claims.Verdict(claim, "inconclusive", ())
    for text in (verdict._html(), claims.Verdict(claims.Claim("x", claim.title, "", ""), "mixed", ()).headline()):
        assert html.escape(toy.name) in text and "<script" not in text
    nothing = every_prefix.Against(toy, {"a": np.array([])}, {"a": np.array([])}, {"a": np.array([])})
    assert all(map(harmless, texts(every_prefix.draw_theory(nothing))))


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_names_in_messages(name):
    never = FeatureTree(1.0, (FeatureTree(0.3, (FeatureTree(0.0, id=name),), id="p"),), is_read_out=False)
    with pytest.raises(ValueError, match="can never fire") as error:
        _shared.refuse_unfit(never, "tree_path = 'x'")
    assert len(str(error.value)) < 300 and str(error.value).isprintable()


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_names_in_the_page_of_a_diagnosis(name):
    tree = mm.family(0.3, 0.4)
    directions = mm.orthonormal_dictionary(3, 12, 0)
    sae = mm.start_near(directions, [0])[0].with_config(mm.SAEConfig(12, (1, 3)))
    acts = tree.sample(300, 0)
    rows = acts @ directions + 0.05 * torch.randn(300, 12, generator=torch.Generator().manual_seed(0)).double()
    found = mm.diagnose(sae, rows, labels=acts > 0, hierarchy=[None, 0, 0], names=[name, "a", "b"], draws=1)
    page = diagnosis.html(found, name)
    shown = html.escape(figures.in_one_line(name))
    assert page.count(shown) >= 4 and "<script" not in page and len(page) < 200_000
    page.encode("utf-8")


def test_one_function_makes_all_of_them():
    assert figures.label("a$\n" + "b" * 99) == r"a\$ " + "b" * 20 + "…"
    assert figures.in_one_line("a$\u202e" + "b" * 99) == "a$ " + "b" * 36 + "…"
