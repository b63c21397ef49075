"""What many tests start from."""

import os

import hypothesis
import jaxtyping
import matplotlib as mpl
import pytest

from matryoshka_mixing import figures
from matryoshka_mixing.features import family, orthonormal_dictionary

# A deadline would make every property a test of how busy the machine is.
hypothesis.settings.register_profile("untimed", deadline=None, derandomize="CI" in os.environ)
hypothesis.settings.load_profile("untimed")


mpl.use("agg")


@pytest.fixture(autouse=True)
def canvas():
    """Figures have the report's style, and none outlives its test."""
    figures.use_style()
    yield
    mpl.pyplot.close("all")


@pytest.fixture
def tree():
    """The three-feature hierarchy at the default probabilities."""
    return family(0.3, 0.4)


@pytest.fixture
def dictionary():
    """Three orthonormal directions in 20 dimensions."""
    return orthonormal_dictionary(3, 20, 0)


@pytest.fixture
def shapes_unchecked():
    """Checking shapes takes longer than all the rest of a large table, or of a long training by autograd."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
