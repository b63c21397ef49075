"""What many tests start from."""

import pytest

from matryoshka_mixing.features import family, orthonormal_dictionary


@pytest.fixture
def tree():
    """The three-feature hierarchy at the default probabilities."""
    return family(0.3, 0.4)


@pytest.fixture
def dictionary():
    """Three orthonormal directions in 20 dimensions."""
    return orthonormal_dictionary(3, 20, 0)
