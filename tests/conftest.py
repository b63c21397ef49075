"""Shapes written in signatures are checked at run time in every test."""

from jaxtyping import install_import_hook

install_import_hook("matryoshka_mixing", "typecheck.checked")

import pytest  # noqa: E402
import torch  # noqa: E402

from matryoshka_mixing.features import family, orthonormal_dictionary  # noqa: E402


@pytest.fixture
def tree():
    """The three-feature hierarchy at the default probabilities."""
    return family(0.3, 0.4)


@pytest.fixture
def dictionary():
    """Three orthonormal directions in 20 dimensions."""
    return orthonormal_dictionary(3, 20, torch.Generator().manual_seed(0))
