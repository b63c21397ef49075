"""The contender that this project ships: `training.train`."""

import time
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from problems import D_IN, EVERY, L1, PROBLEMS, STEPS, Problem, settled

from matryoshka_mixing.features import FeatureTree, family
from matryoshka_mixing.sae import SAE, SAEConfig, random_start
from matryoshka_mixing.training import Setting, TrainConfig, train

DEFAULT = TrainConfig()
BEFORE, SOME = 300, 8
"""Steps that are trained before the clock runs, and SAEs that train them; more are copies of these."""


@dataclass(frozen=True)
class FirstSteps(TrainConfig):
    """The first `steps` updates of the default schedule."""

    def learning_rate(self, step: int) -> float:
        """Learning rate of update number `step`."""
        return DEFAULT.learning_rate(step)


def tree(problem: Problem) -> FeatureTree:
    """The toy model as the project's tree."""
    families = [family(problem.parent, problem.child, problem.children).children[0] for _ in range(problem.parents)]
    loose = [FeatureTree(problem.loose_prob)] * problem.loose
    return FeatureTree(1.0, (*families, *loose), is_read_out=False)


def setting(problem: Problem) -> Setting:
    """Few inputs: exact, or batches from them. Many: batches only, so that no run ends with the exact loss."""
    data = tree(problem).states() if problem.few else tree(problem)
    return Setting(SAEConfig(D_IN, problem.widths, l1=L1), data, torch.from_numpy(problem.dictionary()))


@cache
def start(name: str, n: int) -> SAE:
    """SAEs that are trained a little: what a step costs depends on how many latents are active."""
    one, config = setting(PROBLEMS[name]), FirstSteps(BEFORE, batch_size=200)
    some = train(one, random_start(one.sae, range(SOME)), config).sae[0]
    return some[torch.arange(n) % SOME]


def seconds(cell: dict, steps: int) -> float:
    """Of one call."""
    before = time.perf_counter()
    train(
        setting(PROBLEMS[cell["problem"]]), start(cell["problem"], cell["instances"]),
        TrainConfig(steps, batch_size=cell["batch"], records=1),
        threads=cell["threads"], dtype=getattr(torch, cell["dtype"]), device=cell.get("device", "cpu"),
    )  # fmt: skip
    return time.perf_counter() - before


@cache
def steps_for(aim: float, **cell) -> int:
    """How many steps take about so long."""
    start(cell["problem"], cell["instances"])  # untimed
    single, steps = min(seconds(cell, 1) for _ in range(2)), 8
    while (more := seconds(cell, steps) - single) < aim / 4:
        steps *= 4
    return max(8, round(steps * aim / more))


def rate(cell: dict) -> dict:
    """Training steps of one SAE per second: a call with many steps less a call with one."""
    keys = ("problem", "batch", "instances", "threads", "dtype", "device")
    steps = steps_for(cell["aim"], **{key: cell[key] for key in keys if key in cell})
    single = seconds(cell, 1)
    if (more := seconds(cell, steps) - single) <= 0:
        raise RuntimeError("the steps were lost in the set-up's noise")
    return {"rate": cell["instances"] * (steps - 1) / more, "steps": steps}


def settling(cell: dict) -> dict:
    """The step at which the schedule has settled, for each seed."""
    problem = PROBLEMS[cell["problem"]]
    one = setting(problem)
    first = random_start(one.sae, cell["seeds"])
    found = train(one, first, TrainConfig(batch_size=cell["batch"], snapshots=tuple(range(EVERY, STEPS, EVERY)))).path
    later = found.W_dec[0].movedim(1, 0).numpy()
    return {"settled": settled(np.concatenate([first.W_dec[None].numpy(), later]), problem.dictionary())}


def answer(cell: dict) -> dict:
    """Train all seeds until the settled step."""
    one = setting(PROBLEMS[cell["problem"]])
    config = FirstSteps(cell["steps"], batch_size=cell["batch"])
    train(one, random_start(one.sae, range(cell["n_seeds"])), config, threads=cell["threads"])
    return {}


def trained(cell: dict) -> dict:
    """A start and its decoders after a few exact steps, to hold JAX against."""
    one = setting(PROBLEMS[cell["problem"]])
    first = random_start(one.sae, range(3))
    found = train(one, first, FirstSteps(cell["steps"])).sae
    given = {name: parameter.tolist() for name, parameter in first.parameters.items()}
    return {"start": given, "W_dec": found.W_dec[0].tolist()}


def gpu(cell: dict) -> dict:
    """Many SAEs at once on a GPU, by autograd, if there is one."""
    if not torch.cuda.is_available():
        return {"card": None}
    return {"card": torch.cuda.get_device_name(), "instances": cell["instances"]} | rate(cell)
