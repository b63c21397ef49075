"""What nbval compares of a stored figure: what it says and how many marks it has, not where they are."""

import importlib.util
import io
from pathlib import Path

import matplotlib.pyplot as plt
import nbval.plugin
import numpy as np
import pytest

from matryoshka_mixing import figures


@pytest.fixture(scope="module")
def said():
    was = nbval.plugin.IPyNbCell.sanitize, nbval.kernel.KernelManager
    spec = importlib.util.spec_from_file_location(
        "conftest_of_notebooks", Path(__file__).parents[1] / "notebooks/conftest.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert nbval.plugin.IPyNbCell.sanitize is not was[0], "nbval's cells are those that compare so"
    yield module.said
    nbval.plugin.IPyNbCell.sanitize, nbval.kernel.KernelManager = was


def drawing(values, label="a label"):
    figures.use_style()
    figure = figures.heatmaps({label: np.array([values])}, [f"f{i}" for i in range(len(values))])
    file = io.BytesIO()
    figure.savefig(file, format="svg")
    plt.close(figure)
    return file.getvalue().decode()


def test_a_figure_is_what_it_says(said):
    same = said(drawing([0.25, -0.5]))
    assert same == said(drawing([0.25 + 1e-9, -0.5])), "another CPU"
    assert "-0.50" in same.splitlines() and "a label" in same.splitlines() and "f1" in same.splitlines()
    others = [drawing([0.26, -0.5]), drawing([0.25, -0.5], "another"), drawing([0.25, -0.5, 0.1])]
    assert all(said(other) != same for other in others)


def test_other_outputs_are_compared_as_they_are(said):
    for output in ("0.25\n", "<div>", "a word on <svg", None):
        assert said(output) == output
