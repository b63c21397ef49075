"""What is measured: the problems, the contenders, and a worker that measures one cell in a process of its own.

The worker imports its libraries once, then forks for every cell, so that each has its own peak memory and no trace of
the cell before. It reads one cell a line as JSON and answers with one line.
"""

import json
import os
import re
import resource
import signal
import sys
import time
from dataclasses import dataclass

import torch

from matryoshka_mixing import training as trainer
from matryoshka_mixing.features import FeatureTree, States, family, orthonormal_dictionary
from matryoshka_mixing.sae import SAEConfig, random_start

D_IN = 20
L1 = 0.03
TIME_LIMIT = 180
"""Seconds after which a cell is given up."""
SCHEDULE = trainer.TrainConfig()
"""Optimiser settings of the plain loop and of ours."""
SAELENS = {"lr": 0.003, "warm_up": 0.02, "decay": 0.6}
"""Adam rate of SAELens, and the shares of the steps with linear warm-up and linear decay to 0."""


@dataclass(frozen=True)
class Problem:
    """Parents with exclusive children, and independent features beside them; and an SAE for them."""

    parents: int
    parent: float
    children: int
    child: float
    loose: int
    widths: tuple[int, ...]

    @property
    def n_features(self) -> int:
        """Number of features."""
        return self.parents * (1 + self.children) + self.loose

    def tree(self) -> FeatureTree:
        """The toy model as the project's tree."""
        families = [family(self.parent, self.child, self.children).children[0] for _ in range(self.parents)]
        return FeatureTree(1.0, (*families, *[FeatureTree(0.05)] * self.loose), is_read_out=False)

    def distinct(self, n: int) -> int:
        """Distinct inputs that ours multiplies in a batch of n: all if they are few, else the mean number drawn."""
        probs = self.tree().states().probs
        return len(probs) if len(probs) <= trainer.FEW else round((1 - (1 - probs) ** n).sum().item())

    def draw(self, n: int) -> torch.Tensor:
        """A batch of feature activations, as one would write it in plain PyTorch (float32)."""
        parents = torch.rand(n, self.parents, 1) < self.parent
        edges = self.child * torch.arange(self.children)
        spot = torch.rand(n, self.parents, 1)
        children = parents & (spot >= edges) & (spot < edges + self.child)
        loose = torch.rand(n, self.loose) < 0.05
        return torch.cat([torch.cat([parents, children], -1).flatten(1), loose], 1).float()


PROBLEMS = {
    "hierarchy, one latent": Problem(1, 0.3, 2, 0.4, 0, (1,)),
    "hierarchy, widths 1 and 3": Problem(1, 0.3, 2, 0.4, 0, (1, 3)),
    "tree, 20 latents": Problem(3, 0.15, 3, 0.2, 8, (20,)),
    "tree, 20 prefixes": Problem(3, 0.15, 3, 0.2, 8, tuple(range(1, 21))),
}


def dictionary(problem: Problem) -> torch.Tensor:
    """Orthonormal directions of the features."""
    return orthonormal_dictionary(problem.n_features, D_IN, torch.Generator().manual_seed(0))


def cosines(decoder: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    """Cosine of every decoder row with every true feature."""
    return torch.nn.functional.normalize(decoder.double(), dim=-1) @ directions.T


# The plain loop: one SAE, autograd, torch.optim.Adam, a fresh batch each step.


def plain_loop(problem: Problem, batch: int, steps: int, seed: int, look=lambda step, decoder: None) -> None:
    """The first `steps` updates of the schedule; `look` is called before each with the step and the decoder."""
    torch.manual_seed(seed)
    directions = dictionary(problem).float()
    start = random_start(SAEConfig(D_IN, problem.widths), [seed])
    W_enc, b_enc, W_dec, b_dec = (torch.nn.Parameter(p[0].float()) for p in start.parameters.values())
    optimiser = torch.optim.Adam([W_enc, b_enc, W_dec, b_dec], betas=SCHEDULE.betas, eps=SCHEDULE.eps)
    for step in range(steps):
        look(step, W_dec)
        optimiser.param_groups[0]["lr"] = SCHEDULE.learning_rate(step)
        x = problem.draw(batch) @ directions
        acts = torch.relu((x - b_dec) @ W_enc + b_enc)
        penalty = acts * W_dec.norm(dim=-1)
        loss = 0
        for width in problem.widths:
            error = (x - b_dec - acts[:, :width] @ W_dec[:width]).square().sum(-1)
            loss = loss + (error + L1 * penalty[:, :width].sum(-1)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


# SAELens with its own toy training.


class Enough(Exception):
    """Raised to leave SAELens' training at a chosen step."""


def saelens(problem: Problem, batch: int, steps: int, seed: int, every: int, look) -> None:
    """SAELens' schedule of `steps` updates; `look` is called every `every` steps with the step and the decoder."""
    from sae_lens import (
        MatryoshkaBatchTopKTrainingSAE,
        MatryoshkaBatchTopKTrainingSAEConfig,
        StandardTrainingSAE,
        StandardTrainingSAEConfig,
    )
    from sae_lens.synthetic import ActivationGenerator, FeatureDictionary, HierarchyNode, hierarchy_modifier
    from sae_lens.synthetic.training import train_toy_sae

    torch.manual_seed(seed)
    # There, exclusive children fire independently first and one of those that fire is kept.
    before = 1 - (1 - problem.children * problem.child) ** (1 / problem.children)
    size, roots, firing = 1 + problem.children, [], []
    for p in range(problem.parents):
        children = [HierarchyNode(p * size + c) for c in range(1, size)]
        roots.append(HierarchyNode(p * size, children=children, mutually_exclusive_children=True))
        firing += [problem.parent] + [before] * problem.children
    data = ActivationGenerator(
        problem.n_features,
        torch.tensor(firing + [0.05] * problem.loose),
        modify_activations=hierarchy_modifier(roots),
    )
    directions = FeatureDictionary(problem.n_features, D_IN, bias=False, initializer=None)
    directions.feature_vectors.data = dictionary(problem).float()
    k = problem.widths[-1]
    if len(problem.widths) == 1:
        sae = StandardTrainingSAE(StandardTrainingSAEConfig(d_in=D_IN, d_sae=k, l1_coefficient=L1))
    else:
        active = problem.parents * problem.parent * (1 + problem.children * problem.child) + problem.loose * 0.05
        sae = MatryoshkaBatchTopKTrainingSAE(
            MatryoshkaBatchTopKTrainingSAEConfig(d_in=D_IN, d_sae=k, k=active, matryoshka_widths=list(problem.widths))
        )
    train_toy_sae(
        sae,
        directions,
        data,
        training_samples=steps * batch,
        batch_size=batch,
        lr=SAELENS["lr"],
        lr_warm_up_steps=round(SAELENS["warm_up"] * steps),
        lr_decay_steps=round(SAELENS["decay"] * steps),
        n_snapshots=steps // every - 1,
        snapshot_fn=lambda run: look(run.n_training_steps, run.sae.W_dec),
    )


# Ours.


@dataclass(frozen=True)
class FirstSteps(trainer.TrainConfig):
    """The first `steps` updates of the schedule that has `SCHEDULE.steps` of them."""

    def learning_rate(self, step: int) -> float:
        """Learning rate of update number `step`."""
        return SCHEDULE.learning_rate(step)


def setting(problem: Problem) -> trainer.Setting:
    """Few states: exact, or batches from them. Many: batches only, so that no run ends with the exact loss."""
    tree = problem.tree()
    data = tree.states() if tree.count_states() <= trainer.FEW else tree
    return trainer.Setting(SAEConfig(D_IN, problem.widths, l1=L1), data, dictionary(problem))


def random_setting(rows: int, d_in: int, latents: int) -> trainer.Setting:
    """Random inputs in equal shares, for the scaling: the cost does not depend on what they are."""
    stream = torch.Generator().manual_seed(0)
    acts = torch.rand(rows, 4, generator=stream, dtype=torch.float64)
    states = States(acts, torch.full((rows,), 1 / rows, dtype=torch.float64))
    return trainer.Setting(SAEConfig(d_in, (1, latents), l1=L1), states, orthonormal_dictionary(4, d_in, stream))


def seconds_per_step(one: trainer.Setting, instances: int, batch: int | None, dtype: torch.dtype, aim: float, device):
    """Seconds per step of all instances together: a call with many steps less a call with one."""
    start = random_start(one.sae, range(instances))

    def call(steps: int) -> float:
        # Batches are drawn in blocks; a block must not be longer than the call, or batches are drawn for nothing.
        trainer.BLOCK = min(BLOCK, steps)
        config = trainer.TrainConfig(steps=steps, batch_size=batch, records=max(1, steps // 30))
        before = time.perf_counter()
        trainer.train(one, start, config, dtype=dtype, device=device)
        return time.perf_counter() - before

    single, steps = min(call(1), call(1)), 8
    while (more := call(steps) - single) < aim:
        steps *= 2
    return more / (steps - 1), steps


BLOCK = trainer.BLOCK


def measure_steps(cell: dict) -> dict:
    """Question (a): training steps of one SAE per second."""
    problem = PROBLEMS[cell["problem"]]
    if cell["contender"].startswith("ours"):
        batch = None if cell["contender"] == "ours exact" else cell["batch"]
        dtype = getattr(torch, cell["dtype"])
        one = setting(problem)
        each, steps = seconds_per_step(one, cell["instances"], batch, dtype, cell["aim"], cell.get("device", "cpu"))
        return {"rate": cell["instances"] / each, "steps": steps}
    marks = []

    def look(step, _):
        marks.append((step, time.perf_counter()))

    steps = cell["steps"]
    if cell["contender"] == "loop":
        plain_loop(problem, cell["batch"], steps, 0, look)
        marks = marks[20:]
    else:
        saelens(problem, cell["batch"], steps, 0, 20, look)
    (first, began), (last, ended) = marks[0], marks[-1]
    return {"rate": (last - first) / (ended - began), "steps": last - first}


def path(cell: dict) -> tuple[list[int], torch.Tensor]:
    """Decoder cosines along one whole schedule: the steps, and values of shape (steps, seeds, latents, features)."""
    problem, seen = PROBLEMS[cell["problem"]], {}

    def look(step, decoder):
        if step % 10 == 0:
            seen.setdefault(step, []).append(decoder.detach().clone())

    if cell["contender"] == "saelens":
        for seed in cell["seeds"]:
            saelens(problem, cell["batch"], SCHEDULE.steps, seed, 10, look)
    elif cell["contender"] == "loop":
        for seed in cell["seeds"]:
            plain_loop(problem, cell["batch"], SCHEDULE.steps, seed, look)
    else:
        one, original, calls = setting(problem), trainer._Chunk.loss_and_gradient, iter(range(1 << 30))

        def watched(chunk, *args, **kwargs):
            step = next(calls)
            for decoder in chunk.result().W_dec if step % 10 == 0 else ():
                look(step, decoder)
            return original(chunk, *args, **kwargs)

        trainer._Chunk.loss_and_gradient = watched
        config = trainer.TrainConfig(batch_size=None if cell["contender"] == "ours exact" else cell["batch"])
        trainer.train(one, random_start(one.sae, cell["seeds"]), config)
        trainer._Chunk.loss_and_gradient = original
    return list(seen), cosines(torch.stack([torch.stack(decoders) for decoders in seen.values()]), dictionary(problem))


def settled(steps: list[int], values: torch.Tensor, within: float = 1e-3) -> int:
    """The first recorded step from which on all values stay `within` of the last ones."""
    outside = (values - values[-1]).abs().flatten(1).amax(1) > within
    late = [i for i, out in enumerate(outside.tolist()) if out]
    return steps[late[-1] + 1] if late else steps[0]


def measure_settling(cell: dict) -> dict:
    """Question (b), untimed: the step at which the schedule has settled, for each of a few seeds."""
    steps, values = path(cell)
    return {"settled": [settled(steps, values[:, seed]) for seed in range(len(cell["seeds"]))]}


def measure_answer(cell: dict) -> dict:
    """Question (b): seconds for all seeds until the settled step."""
    problem, steps = PROBLEMS[cell["problem"]], cell["steps"]
    if cell["contender"].startswith("ours"):
        one = setting(problem)
        config = FirstSteps(steps=steps, batch_size=None if cell["contender"] == "ours exact" else cell["batch"])
        start = random_start(one.sae, range(cell["n_seeds"]))
        trainer.train(one, start, trainer.TrainConfig(steps=10, batch_size=config.batch_size))
        before = time.perf_counter()
        trainer.train(one, start, config)
        return {"seconds": time.perf_counter() - before, "timed": cell["n_seeds"]}

    def stop(step, _):
        if step >= steps:
            raise Enough

    before = time.perf_counter()
    try:
        if cell["contender"] == "loop":
            plain_loop(problem, cell["batch"], steps, cell["seed"])
        else:
            saelens(problem, cell["batch"], SCHEDULE.steps, cell["seed"], 10, stop)
    except Enough:
        pass
    return {"seconds": (time.perf_counter() - before) * cell["n_seeds"], "timed": 1}


def measure_scaling(cell: dict) -> dict:
    """Seconds per step of one SAE, on exact states in float64."""
    one = random_setting(cell["rows"], cell["d_in"], cell["latents"])
    each, steps = seconds_per_step(one, cell["instances"], None, torch.float64, cell["aim"], "cpu")
    return {"seconds": each / cell["instances"], "steps": steps}


def measure_peak(cell: dict) -> dict:
    """The machine's own speed: one large product and one large copy, the best of a few."""
    n, best = 1536, {}
    for name in ("float32", "float64"):
        a = torch.rand(n, n, dtype=getattr(torch, name))
        best[name] = 2 * n**3 / _best(lambda a=a: a @ a)
    source = torch.rand(1 << 25)
    target = torch.empty_like(source)
    # A copy reads and writes.
    best["copy"] = 2 * source.numel() * 4 / _best(lambda: target.copy_(source))
    return best


def _best(work, times: int = 5) -> float:
    work()
    seconds = []
    for _ in range(times):
        before = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - before)
    return min(seconds)


def measure_gpu(cell: dict) -> dict:
    """100,000 SAEs at once on a GPU, if there is one."""
    if not torch.cuda.is_available():
        return {"card": None}
    each, steps = seconds_per_step(
        setting(PROBLEMS[cell["problem"]]), cell["instances"], None, torch.float32, cell["aim"], "cuda"
    )
    found = {"card": torch.cuda.get_device_name(), "instances": cell["instances"], "steps": steps}
    return found | {"rate": cell["instances"] / each}


MEASURES = {
    "steps": measure_steps,
    "settling": measure_settling,
    "answer": measure_answer,
    "scaling": measure_scaling,
    "peak": measure_peak,
    "gpu": measure_gpu,
}


def without_paths(error: BaseException) -> str:
    """The error in one line; folders of this machine are nobody's business."""
    return re.sub(r"(?:/[\w.@+-]+)+/", ".../", f"{type(error).__name__}: {error}".splitlines()[0])


def measure(cell: dict) -> dict:
    """One cell, with the peak memory of the process in bytes; or the error."""
    try:
        found = MEASURES[cell["measure"]](cell)
    except Exception as error:
        return {"error": without_paths(error)}
    return found | {"peak_memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def serve(threads: int, library: str) -> None:
    """Answer cells until the input ends; `library` is imported once, so that no cell pays for it."""
    answers = os.fdopen(os.dup(1), "w")
    silence = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(silence, stream)  # progress bars and warnings of the libraries
    broken = None
    try:
        if library == "saelens":
            import sae_lens.synthetic  # noqa: F401
        if library != "ours":
            torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])  # its first use imports much more
    except Exception as error:
        broken = {"error": without_paths(error)}
    for line in sys.stdin:
        cell, (receive, send) = json.loads(line), os.pipe()
        if broken:
            found = broken
        elif child := os.fork():
            os.close(send)
            with os.fdopen(receive) as pipe:
                text = pipe.read()
            status = os.waitpid(child, 0)[1]
            found = json.loads(text) if text else {"error": f"the process ended with status {status}"}
        else:
            signal.alarm(TIME_LIMIT)
            torch.set_num_threads(threads)
            os.write(send, json.dumps(measure(cell)).encode())
            os._exit(0)
        print(json.dumps(found), file=answers, flush=True)


if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.argv[2])
