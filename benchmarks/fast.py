"""Ours with fast-math, which may reorder sums and contract products: what the same bits on every CPU cost."""

import numba

exact = numba.njit
numba.njit = lambda **options: exact(**options | {"fastmath": True, "cache": False})

from ours import rate  # noqa: E402, F401, compiled by the above

numba.njit = exact
