"""Run a notebook's code in this process, without a kernel, and see what it would show."""

import ast
import builtins
import contextlib
import importlib
import io
import math
import re
import warnings
from pathlib import Path

import execute
import jupytext
import matplotlib as mpl
import myst_nb

from matryoshka_mixing import claims

ROOT = Path(__file__).resolve().parents[2]
NUMBERLESS = re.compile(r"(?<![a-z_])(nan|inf|None)(?![a-z_])")
"""What no reader should see: a number that is none."""


def run(name, **parameters):
    """Run notebook `name` with these parameters; return what it hands to the page, and its figures.

    Raises:
        ValueError: what the notebook itself raises, and AssertionError for what no reader should see.
    """
    mpl.use("agg")
    source = jupytext.read(ROOT / f"notebooks/{name}.py")
    code = [cell for cell in source.cells if cell.cell_type == "code"]
    declared = execute.declared_parameters(source)
    small = {"n_seeds": 2, "n_sweep_seeds": 1, "n_steps": 60, "n_grid": 3}
    chosen = {key: value for key, value in small.items() if key in declared} | parameters
    space, glued, printed = {"__name__": "__main__"}, {}, io.StringIO()
    shown = []

    def hand_over(key, value, display=False):
        glued[key] = value

    kept = myst_nb.glue
    myst_nb.glue = hand_over
    try:
        with contextlib.redirect_stdout(printed), warnings.catch_warnings():
            warnings.simplefilter("error")
            for cell in code:
                values = chosen if execute.is_parameters(cell) else {}
                shown.append(_last_value(cell.source, space))
                space.update(values)
    finally:
        myst_nb.glue = kept
        figures = list(map(mpl.pyplot.figure, mpl.pyplot.get_fignums()))
        mpl.pyplot.close("all")
    _look(glued, shown, printed.getvalue(), figures)
    return glued, shown, printed.getvalue()


def chapter_of(name):
    """The parameters of the notebook's chapter."""
    return importlib.import_module(f"matryoshka_mixing.chapters.{name[3:]}").Parameters


def _last_value(source, space):
    """Run a cell; the value of its last line if it is an expression, as a notebook shows it."""
    tree = ast.parse(source)
    last = tree.body[-1] if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    body = tree.body[:-1] if last is not None else tree.body
    exec(compile(ast.Module(body, []), "<cell>", "exec"), space)
    return builtins.eval(compile(ast.Expression(last.value), "<cell>", "eval"), space) if last is not None else None


def _look(glued, shown, printed, figures):
    """AssertionError for a number that is none, and for an empty figure."""
    for key, value in glued.items():
        # A NaN stands as "no value" in the prose (book/_ext/no_value.py).
        assert not (isinstance(value, float) and math.isinf(value)), f"{key} is {value}"
        assert not (isinstance(value, str) and NUMBERLESS.search(value)), f"{key} is {value}"
    for value in shown:
        if isinstance(value, claims.Verdict):
            text = value.headline() + value._html()
            assert not NUMBERLESS.search(re.sub(r"<[^>]*>", " ", text)), f"{value.claim.id}: {text}"
            assert any(o.value is not None for o in value.outcomes) or value.verdict == "inconclusive", "from nothing"
        elif hasattr(value, "_repr_html_"):
            text = re.sub(r"<(style|script).*?</\1>|<[^>]*>", " ", value._repr_html_() or "", flags=re.DOTALL)
            assert not re.search(r"(?<![a-zA-Z_])nan(?![a-zA-Z_])", text), f"nan in a table: {text[:2000]}"
    assert not NUMBERLESS.search(printed), printed
    for number, figure in enumerate(figures):
        figure.canvas.draw()
        assert any(axis.has_data() or axis.texts for axis in figure.axes), f"figure {number} is empty"
