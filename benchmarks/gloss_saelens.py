"""SAEs that SAELens itself trains on chapter 12's activations, read and diagnosed by ours; and what a step costs.

    python benchmarks/gloss_saelens.py          # five seeds of two kinds: trains, reads, diagnoses (some ten minutes)
    python benchmarks/gloss_saelens.py check    # a short training of the first seed again: as it was stored?
    python benchmarks/gloss_saelens.py time     # computing seconds a step, beside ours; alone on the machine

All run in the benchmark's environment, and write beside the chapter's rows: `saelens.npz` and `steps.json`.

A BatchTopK and a Matryoshka BatchTopK SAE of 1,024 latents, K = 8, on the bare rows. SAELens saves each, `exchange`
reads it. The same work is timed with a PyTorch loop (`real_activations.data.objective` under `descend`) and with the
compiled trainer, on one thread: rounds in which all take turns, so that what slows the machine slows all.
"""

import argparse
import importlib.util
import json
import shutil
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from matryoshka_mixing._commands import write_arrays, write_text

CHAPTER = Path(__file__).parents[1] / "src/matryoshka_mixing/chapters/real_activations"
WIDTHS, K, BATCH, SEEDS, POWER = (32, 128, 512, 1024), 8, 256, (0, 1, 2, 3, 4), 128.0
KINDS = ("BatchTopK", "Matryoshka BatchTopK")
KEPT = ("judged", "movement", "chance", "along", "permuted", "lean", "bound", "predicted")
SHORT, TOLERANCE = 100, 0.01
"""Steps of the training that `check` repeats; by how much an unexplained share of variance may differ there."""


def rows() -> torch.Tensor:
    """The chapter's rows; importing the chapter would draw figures too, and the benchmark's environment cannot."""
    with np.load(CHAPTER / "glosses.npz") as file:
        x = torch.from_numpy(file["rows"].astype(np.float32) * file["scale"].astype(np.float32))
    x = x - x.mean(0)
    return x * (POWER / x.square().sum(-1).mean()).sqrt()


def batches(x: torch.Tensor, seed: int):
    """Batches of rows for ever."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield x[torch.randint(len(x), (BATCH,), generator=generator)]


def fit(kind: str, x: torch.Tensor, steps: int, seed: int):
    """Train one SAE with SAELens's classes and trainer."""
    import sae_lens as sl
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    torch.manual_seed(seed)
    shared = {"d_in": x.shape[1], "d_sae": WIDTHS[-1], "k": K, "dtype": "float32", "device": "cpu"}
    if kind == KINDS[1]:
        config = sl.MatryoshkaBatchTopKTrainingSAEConfig(**shared, matryoshka_widths=list(WIDTHS))
        sae = sl.MatryoshkaBatchTopKTrainingSAE(config)
    else:
        sae = sl.BatchTopKTrainingSAE(sl.BatchTopKTrainingSAEConfig(**shared))
    how = SAETrainerConfig(
        total_training_samples=steps * BATCH, train_batch_size_samples=BATCH, lr=2e-3, lr_end=0.0,
        lr_warm_up_steps=steps // 50, lr_decay_steps=steps * 6 // 10, feature_sampling_window=10**9,
        logger=LoggingConfig(log_to_wandb=False),
    )  # fmt: skip
    SAETrainer(cfg=how, sae=sae, data_provider=batches(x, seed)).fit()
    return sae


def diagnosed(kind: str, x: torch.Tensor, steps: int, seed: int, draws: int = 19):
    """Train, save as SAELens does, read, and diagnose."""
    from matryoshka_mixing import exchange
    from matryoshka_mixing.diagnose import diagnose

    with tempfile.TemporaryDirectory() as folder:
        fit(kind, x, steps, seed).save_inference_model(folder)
        sae = exchange.read_saelens(folder, widths=WIDTHS)
    return diagnose(sae, x, widths=WIDTHS, draws=draws)


def train_all(output: Path, steps: int, seeds: tuple[int, ...]) -> None:
    """Every seed of both kinds, and the short training; what was interrupted goes on where it was."""
    x, parts = rows(), output.with_name(f"{output.name}.runs")
    parts.mkdir(exist_ok=True)
    jobs = [(kind, steps, seed, 19) for seed in seeds for kind in KINDS]
    jobs += [(kind, SHORT, seeds[0], 1) for kind in KINDS]
    found = {}
    for kind, n, seed, draws in tqdm(jobs, unit="SAE"):
        path = parts / f"{kind}.{n}.{seed}.npz"
        if not path.is_file():
            one = diagnosed(kind, x, n, seed, draws)
            arrays = {name: getattr(one, name).numpy().astype(np.float32) for name in KEPT}
            write_arrays(path, arrays | {"fvu": one.fvu_prefixes, "fvu_refitted": one.fvu_refitted})
            print(f"{kind}, {n} steps, seed {seed}\n{one.words}", flush=True)
        with np.load(path) as file:
            found[kind, n, seed] = dict(file)
    names = (*KEPT, "fvu", "fvu_refitted")
    arrays = {f"{kind}.{m}": np.stack([found[kind, steps, seed][m] for seed in seeds]) for kind in KINDS for m in names}
    arrays |= {f"short.{kind}": found[kind, SHORT, seeds[0]]["fvu"] for kind in KINDS}
    told = {"seeds": seeds, "steps": steps, "latents": WIDTHS[-1], "k": K, "sae_lens": version("sae-lens")}
    write_arrays(output, arrays | {name: np.array(value) for name, value in told.items()})
    shutil.rmtree(parts)


def check(stored: Path) -> None:
    """Train shortly again, and hold the prefixes' unexplained shares against the stored; a control must not agree."""
    x = rows()
    with np.load(stored) as file:
        before, seed = {kind: file[f"short.{kind}"] for kind in KINDS}, int(file["seeds"][0])
    for kind in KINDS:
        again, control = (np.array(diagnosed(kind, x, n, seed, 1).fvu_prefixes) for n in (SHORT, SHORT // 4))
        apart = [float(np.abs(some - before[kind]).max()) for some in (again, control)]
        print(f"{kind}: {SHORT} steps again differ by {apart[0]:.4f}, a quarter of them (control) by {apart[1]:.4f}")
        if not apart[0] < TOLERANCE < apart[1]:
            sys.exit("the stored results do not come again")


def contenders(x: torch.Tensor) -> dict:
    """Each as a function of the number of steps."""
    from matryoshka_mixing.features import States
    from matryoshka_mixing.sae import SAEConfig, random_start
    from matryoshka_mixing.training import Setting, TrainConfig, descend, train

    # By its path, as importing the chapter needs what draws its figures.
    spec = importlib.util.spec_from_file_location("glosses", CHAPTER / "data.py")
    data = importlib.util.module_from_spec(spec)
    sys.modules["glosses"] = data
    spec.loader.exec_module(data)
    config = SAEConfig(x.shape[1], WIDTHS, activation="batchtopk", k=K)
    start = random_start(config, SEEDS[:1], decoder_norm=1.0)
    states = States(x.double(), torch.full((len(x),), 1 / len(x), dtype=torch.float64))
    single = start[0].map(torch.Tensor.float).with_config(config)

    def loop(steps: int) -> None:
        descend(data.objective(x, config, BATCH, SEEDS[0]), single, TrainConfig(steps, 2e-3))

    def compiled(steps: int) -> None:
        train(
            Setting(config, states), start, TrainConfig(steps, 2e-3, batch_size=BATCH), threads=1, dtype=torch.float32
        )

    theirs = {f"SAELens, {kind}": lambda steps, kind=kind: fit(kind, x, steps, SEEDS[0]) for kind in KINDS}
    return {"plain loop": loop, "compiled trainer": compiled} | theirs


def time_all(output: Path, rounds: int, few: int) -> None:
    """Computing seconds a step, by the difference of two trainings, in rounds that begin with another each time."""
    runs = contenders(rows())
    for run in runs.values():
        run(2)  # the first call compiles
    seconds = {name: [] for name in runs}
    for i in tqdm(range(rounds), unit="round"):
        names = list(runs)
        for name in names[i % len(names) :] + names[: i % len(names)]:
            spent = []
            for steps in (2, 2 + few):
                before = time.process_time()
                runs[name](steps)
                spent.append(time.process_time() - before)
            seconds[name].append(round((spent[1] - spent[0]) / few, 5))
    about = {"rounds": rounds, "steps": few, "latents": WIDTHS[-1], "batch": BATCH, "k": K}
    about |= {name: version(name) for name in ("torch", "numba", "sae-lens")}
    write_text(output, json.dumps(about | {"seconds_a_step": seconds}, indent=1) + "\n")
    loop = np.array(seconds["plain loop"])
    for name, each in seconds.items():
        ratios = np.array(each) / loop
        told = f"{np.median(ratios):.2f} times the loop's ({ratios.min():.2f} to {ratios.max():.2f})"
        print(f"{name}: {np.median(each) * 1e3:.1f} ms a step, {told}")


def main() -> None:
    """Train and diagnose, check, or time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", nargs="?", choices=["train", "check", "time"], default="train")
    parser.add_argument("--steps", type=int, default=1000, help="of SAELens's training")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS), help="each draws start and batches")
    parser.add_argument("--rounds", type=int, default=7, help="of timing")
    parser.add_argument("--few", type=int, default=200, help="steps that are timed at once")
    parser.add_argument("--output", type=Path, default=None, help="file to write, or to check against")
    options = parser.parse_args()
    torch.set_num_threads(1)
    output = options.output or CHAPTER / ("steps.json" if options.action == "time" else "saelens.npz")
    if options.action == "train":
        train_all(output, options.steps, tuple(options.seeds))
    elif options.action == "check":
        check(output)
    else:
        time_all(output, options.rounds, options.few)


if __name__ == "__main__":
    main()
