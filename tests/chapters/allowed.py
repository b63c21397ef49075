"""Values of a chapter's parameters for hypothesis: all that the chapter declares, and those just outside."""

import math

from hypothesis import strategies as some

COUNTS = ("n_seeds", "n_sweep_seeds", "n_grid", "d_model")
"""More of these make the set-up larger and not different: their upper end is tried once, by hand."""
MOST = 20


def within(parameter, name, chosen):
    """Values from the declared range, as far as they fit to the number of children that is chosen already."""
    if parameter.choices:
        return some.sampled_from(parameter.choices)
    children = chosen.get("n_children", 2)
    low, high = parameter.low, min(parameter.high, MOST) if name in COUNTS else parameter.high
    if name == "child_probability":
        high = min(high, 1 / children)
    if name == "d_model":
        low = max(low, children + 1)
    return some.integers(int(low), int(high)) if parameter.whole else some.floats(low, high)


@some.composite
def values(draw, parameters):
    """Values for a chapter's `Parameters` from all over the declared ranges."""
    described = {name: p for name, p in parameters.described().items() if not p.tree_file}
    numbers = [p for p in described.values() if not p.choices]
    assert all(math.isfinite(p.low) and math.isfinite(p.high) for p in numbers)
    chosen = {}
    for name in sorted(described, key=lambda name: name != "n_children"):
        chosen[name] = draw(within(described[name], name, chosen))
    return chosen


def outside(parameters):
    """For every parameter a value below its range and one above, each with the parameter's name."""
    found = []
    for name, parameter in parameters.described().items():
        if parameter.tree_file or parameter.choices:
            found.append((name, "neither a file nor a word that is allowed"))
            continue
        step = 1 if parameter.whole else 1e-6 * parameter.high
        found += [(name, parameter.low - step), (name, parameter.high + step)]
    return found
