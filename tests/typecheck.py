"""The checker of the shapes option in pyproject: a whole number may stand where a float is asked for (PEP 484)."""

from beartype import BeartypeConf, beartype

_check = beartype(conf=BeartypeConf(is_pep484_tower=True))


def checked(function):
    """Check what is made once; a function within a function is made in each call, and its check costs 2 ms a time."""
    return function if "<locals>" in function.__qualname__ else _check(function)
