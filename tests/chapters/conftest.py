"""What all tests of chapters start from."""

import pytest

from matryoshka_mixing import parameters


@pytest.fixture(autouse=True)
def insisting(monkeypatch):
    """Parameters may ask for days and for all memory: what they allow is set up here, and not run."""
    monkeypatch.setenv(parameters.INSIST, "1")
