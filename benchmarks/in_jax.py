"""The contender in JAX: `vmap` over SAEs of `lax.scan` over steps, compiled by `jit`; gradients by `grad`, float64.

It has every trick of ours that helps it (what was faster on one core in trials):

- The dictionary is shared by all SAEs, so the inputs are a constant and x @ W_enc is one product for all SAEs.
- On few inputs a batch is how often each was drawn (from uniform numbers in small batches, as multinomial numbers in
  large ones); on many it is drawn from the list of all inputs by an alias table. `rows` switches this off: a batch is
  then drawn feature by feature and multiplied row by row, as people do.
- Few prefixes are taken one by one; many by the quadratic form that holds all prefixes,
  sum_m w_m ||x - x_m||^2 = u_0 ||x||^2 - 2 sum_k u_k a_k c_k + a' (M o D D') a with M_kl = min(u_k, u_l).
- Two steps are unrolled on few inputs. On two threads the SAEs are shared out over two CPU devices.

Neither other random generators (rbg), wider vectors, fast-math, a trailing axis for the SAEs, nor sums written out
elementwise were faster.
"""

import time
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec
from problems import BETAS, D_IN, EPS, EVERY, L1, PROBLEMS, STEPS, Problem, learning_rates, settled

jax.config.update("jax_enable_x64", True)
COST: dict[tuple, float] = {}
"""Seconds of a step of one SAE, as last measured: how many steps to compile for."""
MULTINOMIAL = 1000
"""From batches of this size on, counts are drawn as multinomial numbers."""


def start(problem: Problem, n: int) -> dict:
    """Random parameters by the law of `random_start`."""
    rows = np.random.default_rng(0).standard_normal((n, problem.widths[-1], D_IN))
    rows /= np.linalg.norm(rows, axis=-1, keepdims=True)
    zeros = jnp.zeros((n, len(rows[0]))), jnp.zeros((n, D_IN))
    return {
        "W_enc": jnp.asarray(rows.swapaxes(1, 2)), "b_enc": zeros[0],
        "W_dec": jnp.asarray(0.1 * rows), "b_dec": zeros[1],
    }  # fmt: skip


def loss(problem: Problem, p: dict, x, probs):
    """The loss of one SAE on inputs of given weight."""
    acts = jax.nn.relu(x @ p["W_enc"] + (p["b_enc"] - p["b_dec"] @ p["W_enc"]))
    mean_acts, norms = probs @ acts, jnp.linalg.norm(p["W_dec"], axis=-1)
    widths = np.array(problem.widths)
    reach = (widths[:, None] > np.arange(widths[-1])).sum(0)  # u: how many prefixes hold each latent
    penalty = L1 * (reach * mean_acts * norms).sum()
    if len(widths) <= 2:
        rest, error, low = x - p["b_dec"], 0.0, 0
        for width in problem.widths:
            rest, low = rest - acts[:, low:width] @ p["W_dec"][low:width], width
            error += probs @ (rest * rest).sum(-1)
        return error + penalty
    u = np.append(len(widths), reach)  # b_dec is a latent that is always on
    acts = jnp.concatenate([jnp.ones((len(x), 1)), acts], 1)
    rows = jnp.concatenate([p["b_dec"][None], p["W_dec"]])
    form = np.minimum(u[:, None], u) * (rows @ rows.T)
    errors = len(widths) * (x * x).sum(-1) + (((acts @ form) - 2 * u * (x @ rows.T)) * acts).sum(-1)
    return probs @ errors + penalty


def alias_table(probs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For draws in one step each (Vose 1991): up to where a cell keeps a draw, and who gets the rest."""
    scaled, other = probs * len(probs), np.arange(len(probs), dtype=np.int32)
    small, large = list(np.flatnonzero(scaled < 1)), list(np.flatnonzero(scaled >= 1))
    while small and large:
        low, high = small.pop(), large[-1]
        other[low] = high
        scaled[high] -= 1 - scaled[low]
        if scaled[high] < 1:
            small.append(large.pop())
    return scaled, other


def batches(problem: Problem, size: int | None, rows: bool):
    """A function from a key to inputs and their weights."""
    acts, probs = problem.states()
    x, even = jnp.asarray(acts @ problem.dictionary()), jnp.full(size or 1, 1 / (size or 1))
    if size is None:
        return lambda key: (x, jnp.asarray(probs))
    if rows:
        return lambda key: (by_features(problem, key, size) @ problem.dictionary(), even)
    if problem.few and size >= MULTINOMIAL:
        return lambda key: (x, jax.random.multinomial(key, float(size), jnp.asarray(probs)) / size)
    if problem.few:
        edges = jnp.asarray(np.append(0, np.cumsum(probs)[:-1]), jnp.float32)

        def counted(key):
            above = (jax.random.uniform(key, (size, 1), jnp.float32) >= edges).sum(0)
            return x, (above - jnp.append(above[1:], 0)) / size

        return counted
    cut, other = map(jnp.asarray, alias_table(probs))

    def listed(key):
        u = jax.random.uniform(key, (size,)) * len(probs)
        state = u.astype(jnp.int32)
        return x[jnp.where(u - state >= cut[state], other[state], state)], even

    return listed


def by_features(problem: Problem, key, size: int):
    """Feature activations of a batch: one uniform number for each parent with its children, and each loose feature."""
    chances = np.array([problem.parent, *[problem.parent * problem.child] * problem.children])
    begins = np.append(0, np.arange(problem.children) * problem.parent * problem.child)
    low = np.append(np.tile(begins, problem.parents), np.zeros(problem.loose))
    high = low + np.append(np.tile(chances, problem.parents), np.full(problem.loose, problem.loose_prob))
    group = np.append(np.repeat(np.arange(problem.parents), len(chances)), problem.parents + np.arange(problem.loose))
    u = jax.random.uniform(key, (size, problem.parents + problem.loose), jnp.float32)[:, group]
    return ((u >= low.astype(np.float32)) & (u < high.astype(np.float32))).astype(float)


def trainer(problem: Problem, size: int | None, steps: int, every: int | None = None, rows: bool = False):
    """A compiled function from (parameters, keys) to the trained parameters and the decoders at every `every` steps."""
    every, draw, gradient = every or steps, batches(problem, size, rows), jax.grad(partial(loss, problem))
    unroll = 2 if problem.few else 1

    def step(key, carry, now):
        (p, mean, square), (number, rate) = carry, now
        g = gradient(p, *draw(jax.random.fold_in(key, number)))
        mean = jax.tree.map(lambda m, g: BETAS[0] * m + (1 - BETAS[0]) * g, mean, g)
        square = jax.tree.map(lambda v, g: BETAS[1] * v + (1 - BETAS[1]) * (g * g), square, g)
        rate, scale = rate / (1 - BETAS[0] ** (number + 1.0)), lax.rsqrt(1 - BETAS[1] ** (number + 1.0))
        p = jax.tree.map(lambda p, m, v: p - rate * m / (jnp.sqrt(v) * scale + EPS), p, mean, square)
        return (p, mean, square), None

    def train(p, key):
        def block(carry, now):
            return lax.scan(partial(step, key), carry, now, unroll=unroll)[0], carry[0]["W_dec"]

        zeros = jax.tree.map(jnp.zeros_like, p)
        schedule = (
            jnp.arange(steps).reshape(-1, every),
            jnp.asarray(learning_rates(steps, max(steps, STEPS))).reshape(-1, every),
        )
        (p, _, _), seen = lax.scan(block, (p, zeros, zeros), schedule)
        return p, seen

    return jax.vmap(train)


def compiled(problem: Problem, n: int, *how, **more):
    """The trainer for n SAEs, the arguments it takes (a function, as they are used up), and seconds of compilation."""
    train, devices = trainer(problem, *how, **more), jax.devices()
    sharing = jax.NamedSharding(jax.make_mesh((1,), ("seeds",), devices=devices[:1]), PartitionSpec())
    if n % len(devices) == 0 and len(devices) > 1:
        mesh = jax.make_mesh((len(devices),), ("seeds",))
        train = jax.shard_map(
            train, mesh=mesh, in_specs=PartitionSpec("seeds"), out_specs=PartitionSpec("seeds"), check_vma=False
        )
        sharing = jax.NamedSharding(mesh, PartitionSpec("seeds"))

    def arguments():
        return jax.block_until_ready(
            jax.device_put((start(problem, n), jax.random.split(jax.random.key(0), n)), sharing)
        )

    before = time.perf_counter()
    ready = jax.jit(train, donate_argnums=0).lower(*arguments()).compile()
    return ready, arguments, time.perf_counter() - before


def seconds(ready, arguments) -> float:
    """Of one run."""
    given = arguments()
    before = time.perf_counter()
    jax.block_until_ready(ready(*given))
    return time.perf_counter() - before


@cache
def prepared(problem: str, n: int, size: int | None, rows: bool, aim: float) -> tuple:
    """What is needed to measure a cell again and again: the trainer of so many steps that it runs for about `aim`."""
    key = problem, size, rows
    # First a guess from fewer SAEs, or a short trial; a trial that is long enough is kept.
    steps = max(8, round(aim / COST[key] / n)) if key in COST else 16
    while True:
        ready, arguments, took = compiled(PROBLEMS[problem], n, size, steps, rows=rows)
        seconds(ready, arguments)
        known, COST[key] = key in COST, seconds(ready, arguments) / steps / n
        if known or COST[key] * steps * n > aim / 3:
            return ready, arguments, steps, took
        steps = round(aim / COST[key] / n)


def rate(cell: dict) -> dict:
    """Training steps of one SAE per second, compilation left out and told apart."""
    n, rows = cell["instances"], cell["contender"] == "jax rows"
    ready, arguments, steps, took = prepared(cell["problem"], n, cell["batch"], rows, cell["aim"])
    return {"rate": n * steps / seconds(ready, arguments), "steps": steps, "compile": took}


def settling(cell: dict) -> dict:
    """The step at which the schedule has settled, for each seed."""
    problem = PROBLEMS[cell["problem"]]
    ready, arguments, _ = compiled(problem, len(cell["seeds"]), cell["batch"], STEPS, EVERY)
    decoders = np.asarray(ready(*arguments())[1]).swapaxes(0, 1)
    return {"settled": settled(decoders, problem.dictionary())}


def answer(cell: dict) -> dict:
    """Train all seeds until the settled step."""
    ready, arguments, took = compiled(PROBLEMS[cell["problem"]], cell["n_seeds"], cell["batch"], cell["steps"])
    jax.block_until_ready(ready(*arguments()))
    return {"compile": took}


def trained(cell: dict) -> dict:
    """Decoders of a given start after a few exact steps, to hold ours against."""
    problem, given = PROBLEMS[cell["problem"]], {key: jnp.asarray(value) for key, value in cell["start"].items()}
    keys = jax.random.split(jax.random.key(0), len(given["b_dec"]))
    found = jax.jit(trainer(problem, None, cell["steps"]))(given, keys)[0]
    return {"W_dec": found["W_dec"].tolist()}
