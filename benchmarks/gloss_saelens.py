"""Two SAEs that SAELens itself trained on chapter 12's activations, read and diagnosed by ours; and the time it takes.

    .venv-benchmark/bin/python benchmarks/gloss_saelens.py train _build/saelens    # SAELens's classes and trainer
    .venv/bin/python benchmarks/gloss_saelens.py diagnose _build/saelens           # stored beside the chapter's rows

A BatchTopK and a Matryoshka BatchTopK SAE of 1,024 latents, K = 8, on the bare rows. The same work is timed with a
plain PyTorch loop (`real_activations.data.objective` under `descend`) and with the compiled trainer, in computing
seconds a step of one thread, so that other work on the machine counts little.
"""

import argparse
import json
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

CHAPTER = Path(__file__).parents[1] / "src/matryoshka_mixing/chapters/real_activations"
WIDTHS, K, BATCH, SEED, POWER = (32, 128, 512, 1024), 8, 256, 0, 128.0
KINDS = ("BatchTopK", "Matryoshka BatchTopK")
KEPT = ("rows", "widths", "fvu", "fvu_refitted", "fvu_prefixes", "words")
MEDIANS = ("movement", "chance", "along", "permuted", "lean", "predicted", "agreement")


def rows() -> torch.Tensor:
    """The chapter's rows; its own module draws figures too, and the benchmark's environment cannot."""
    with np.load(CHAPTER / "glosses.npz") as file:
        x = torch.from_numpy(file["rows"].astype(np.float32) * file["scale"].astype(np.float32))
    x = x - x.mean(0)
    return x * (POWER / x.square().sum(-1).mean()).sqrt()


def batches(x: torch.Tensor):
    """Batches of rows for ever."""
    generator = torch.Generator().manual_seed(SEED)
    while True:
        yield x[torch.randint(len(x), (BATCH,), generator=generator)]


def fit(kind: str, x: torch.Tensor, steps: int, folder: Path) -> float:
    """Train with SAELens, save for inference, and return the computing seconds a step."""
    import sae_lens as sl
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    torch.manual_seed(SEED)
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
    trainer = SAETrainer(cfg=how, sae=sae, data_provider=batches(x))
    started = time.process_time()
    trainer.fit()
    spent = time.process_time() - started
    sae.save_inference_model(folder)
    return spent / steps


def train_all(folder: Path, steps: int) -> None:
    """Train both kinds with SAELens into `folder`."""
    x, seconds = rows(), {}
    for kind in KINDS:
        (folder / kind).mkdir(parents=True, exist_ok=True)
        seconds[kind] = fit(kind, x, steps, folder / kind)
    told = {"steps": steps, "sae_lens": version("sae-lens"), "seconds_a_step": seconds}
    (folder / "trained.json").write_text(json.dumps(told))


def timed(x: torch.Tensor, few: int = 30) -> dict[str, float]:
    """Computing seconds a step of the plain loop and of the compiled trainer, on the Matryoshka SAE."""
    from matryoshka_mixing.chapters.real_activations import data
    from matryoshka_mixing.features import States
    from matryoshka_mixing.sae import SAEConfig, random_start
    from matryoshka_mixing.training import Setting, TrainConfig, descend, train

    config = SAEConfig(x.shape[1], WIDTHS, activation="batchtopk", k=K)
    start = random_start(config, [SEED], decoder_norm=1.0)
    loss = data.objective(x, config, BATCH, SEED)
    states = States(x.double(), torch.full((len(x),), 1 / len(x), dtype=torch.float64))

    def loop(steps: int) -> None:
        descend(loss, start[0].map(torch.Tensor.float).with_config(config), TrainConfig(steps, 2e-3))

    def compiled(steps: int) -> None:
        train(Setting(config, states), start, TrainConfig(steps, 2e-3, batch_size=BATCH), dtype=torch.float32)

    found = {}
    for name, run in (("plain loop", loop), ("compiled trainer", compiled)):
        run(1)  # the first call compiles
        spent = []
        for steps in (1, 1 + few):
            before = time.process_time()
            run(steps)
            spent.append(time.process_time() - before)
        found[name] = (spent[1] - spent[0]) / few
    return found


def diagnose_all(folder: Path, output: Path) -> None:
    """Diagnose what `train_all` left, time our own two ways, and write one file."""
    from matryoshka_mixing import exchange
    from matryoshka_mixing.diagnose import diagnose

    x, found = rows(), {}
    told = json.loads((folder / "trained.json").read_text())
    for kind in KINDS:
        diagnosis = diagnose(exchange.read_saelens(folder / kind, widths=WIDTHS), x, widths=WIDTHS)
        plain = diagnosis.to_dict()
        found[kind] = {name: plain[name] for name in KEPT} | {n: round(diagnosis.median(n), 4) for n in MEDIANS}
        found[kind] |= {"judged": int(diagnosis.judged.sum()), "leaning": int(diagnosis.leans.sum())}
        print(f"{kind}\n{diagnosis.words}", flush=True)
    seconds = {f"SAELens, {kind}": spent for kind, spent in told["seconds_a_step"].items()} | timed(x)
    stored = {
        "steps": told["steps"], "sae_lens": told["sae_lens"], "latents": WIDTHS[-1], "batch": BATCH, "k": K,
        "diagnosis": found, "seconds_a_step": {name: round(spent, 4) for name, spent in seconds.items()},
    }  # fmt: skip
    draft = output.with_name(f".{output.name}.partial")
    draft.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
    draft.replace(output)
    print(json.dumps(stored["seconds_a_step"]))


def main() -> None:
    """Train with SAELens, or diagnose."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=["train", "diagnose"])
    parser.add_argument("folder", type=Path, help="where the trained SAEs lie")
    parser.add_argument("--steps", type=int, default=1000, help="of SAELens's training")
    parser.add_argument("--output", type=Path, default=CHAPTER / "saelens.json", help="file to write")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.action == "train":
        train_all(options.folder, options.steps)
    else:
        diagnose_all(options.folder, options.output)


if __name__ == "__main__":
    main()
