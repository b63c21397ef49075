"""A number that a run does not have (NaN: no seed qualified) stands in the prose as words, whatever its format."""

from math import isnan

from myst_nb.core import variables
from myst_nb.ext.glue import crossref, roles

NO_VALUE = "no value"
_plain = variables.format_plain_text


def in_words(text: str, fmt_spec: str) -> str:
    """The text in this format; `NO_VALUE` for NaN, and for words where a number was expected."""
    try:
        missing = isnan(float(text.strip("'\"")))
    except ValueError:
        return _plain(text, fmt_spec if fmt_spec[-1:] in ("", "s") else "")
    return NO_VALUE if missing else _plain(text, fmt_spec)


def setup(app):
    """Put it in the place of MyST-NB's own, which both of its roles look up by name."""
    for module in (variables, crossref, roles):
        module.format_plain_text = in_words
    return {"parallel_read_safe": True, "parallel_write_safe": True}
