"""A toy that is not small: a thousand features in a tree, in 768 dimensions; its run, and the page that shows it.

`python sweeps/thousand.py run` trains the SAEs and stores what was found; `python sweeps/thousand.py` writes the page
and its figure from that.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass

import design
import matplotlib as mpl
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from tqdm import tqdm

from matryoshka_mixing import figures, metrics
from matryoshka_mixing._commands import replacing, write_text
from matryoshka_mixing.chapters.how_far.expectation import pattern_optimum
from matryoshka_mixing.chapters.real_activations.data import objective
from matryoshka_mixing.features import FeatureTree, States
from matryoshka_mixing.sae import SAE, SAEConfig, random_start, start_near
from matryoshka_mixing.training import TrainConfig, descend

FOLDER = design.ROOT / "sweeps/stored/thousand"
PAGE = design.ROOT / "book/thousand.md"
FIGURE = design.ROOT / "book/_static/thousand.svg"
D_IN, ROOTS, CHILDREN, LEAVES = 768, 40, (0.384, 0.192, 0.128, 0.096), (0.16,) * 5
WIDTHS = (62, 125, 250, 500, 1000)
STEPS, BATCH, SEED, NOISE = 400, 256, 0, 0.1
ROWS, TESTED = 64_000, 8_000  # inputs to train on, and to read absorption on
LARGE, SAMPLES = 16_384, 200_000_000  # SynthSAEBench's size

# Fixed before the run.
FIRINGS = 300  # an edge is judged where its child fires this often in training, as far as its rate says
CLOSE, ALIKE, NOTHING, DROP = 0.05, 0.8, 0.05, 0.1
FOUND = 0.8  # from a random start: a latent is a feature's where their cosine is at least this


def thousand_features() -> FeatureTree:
    """Forty independent families of 25: a root, four exclusive children, five exclusive leaves below each child.

    Roots fire by Zipf's law, half as often as one over their number; children by Zipf's law given their root (the
    first .384, none in a fifth of the cases); leaves .16 each given the child. All magnitudes are 1.
    """
    leaves = tuple(FeatureTree(p) for p in LEAVES)
    children = tuple(FeatureTree(p, leaves, mutually_exclusive_children=True) for p in CHILDREN)
    roots = tuple(FeatureTree(0.5 / n, children, mutually_exclusive_children=True) for n in range(1, ROOTS + 1))
    return FeatureTree(1.0, roots, is_read_out=False)


def family_states() -> States:
    """The 25 states of one family given that its root fires, which are the same for all."""
    root = FeatureTree(1.0, thousand_features().children[0].children, mutually_exclusive_children=True)
    return FeatureTree(1.0, (root,), is_read_out=False).states()


def ranks_by_rate(tree: FeatureTree) -> list[int]:
    """The position of each feature's latent: the more often it fires, the earlier."""
    order = np.argsort(-tree.firing_probabilities().numpy(), kind="stable")
    return np.argsort(order).tolist()


def predicted(ranks: list[int], widths: tuple[int, ...]) -> dict[tuple[int, int], float]:
    """Theory's cosine of every parent's latent with each child's direction, from rates and ranks alone.

    Each family is taken by itself, as if all directions were orthogonal (`pattern_optimum`); a feature without a latent
    stands in one more prefix that weighs next to nothing. Edges whose parent has no latent are left out.
    """
    states, found = family_states(), {}
    size = states.acts.shape[1]
    parents = FeatureTree(1.0, thousand_features().children[:1], is_read_out=False).parents()
    for first in tqdm(range(0, len(ranks), size), desc=f"theory, {widths[-1]} latents", leave=False):
        own = ranks[first : first + size]
        prefixes, weights = (*widths, len(ranks) + 1), (*[1.0] * len(widths), 1e-6)
        rows = pattern_optimum(states, torch.eye(size, dtype=torch.float64), own, prefixes, weights)
        found |= {
            (first + parent, first + child): float(rows[parent, child])
            for child, parent in enumerate(parents)
            if parent is not None and own[parent] < widths[-1]
        }
    return found


@dataclass(frozen=True)
class Arm:
    """One SAE of the run: its prefixes, whether it starts at random, and for how many times the steps it trains."""

    name: str
    widths: tuple[int, ...]
    random: bool = False
    times: int = 1


ARMS = (
    Arm("Matryoshka, 1,000 latents", WIDTHS),
    Arm("standard, 1,000 latents", WIDTHS[-1:]),
    Arm("Matryoshka, 250 latents", WIDTHS[:3]),
    Arm("Matryoshka, 500 latents", WIDTHS[:4]),
    Arm("Matryoshka, 1,000 latents, random start", WIDTHS, random=True, times=10),
)


def trained(arm: Arm, rows: torch.Tensor, directions: torch.Tensor, ranks: list[int], k: float, steps: int) -> SAE:
    """Train one SAE by a plain PyTorch loop, which on this many latents is faster than the compiled trainer."""
    config = SAEConfig(directions.shape[1], arm.widths, activation="batchtopk", k=k)
    order = np.argsort(ranks)[: config.d_sae].tolist()
    if arm.random:
        start = random_start(config, [SEED], decoder_norm=1.0)[0]
    else:
        start = start_near(directions, [SEED], NOISE, order=order)[0]
    loss = objective(rows, config, BATCH, SEED)
    none = {"b_enc": np.s_[:], "b_dec": np.s_[:]}
    return descend(loss, start.map(torch.Tensor.float).with_config(config), TrainConfig(steps, lr=1e-3), held=none).sae


def ranks_found(sae: SAE, directions: torch.Tensor) -> list[int]:
    """The position of each feature's latent in an SAE that started anywhere; its width for a feature without one.

    Latents are assigned to features; from a cosine of `FOUND` on (no chance in so many dimensions) a pair counts.
    """
    cosines = metrics.decoder_cosines(sae, directions.to(sae.W_dec))
    latents = metrics.match(cosines)
    own = cosines[latents.clamp_min(0), torch.arange(len(latents))]
    return torch.where((latents >= 0) & (own >= FOUND), latents, len(sae.W_dec)).tolist()


def inputs(tree: FeatureTree, directions: torch.Tensor, n: int, seed: int) -> torch.Tensor:
    """Sampled inputs, float32."""
    generator = torch.Generator().manual_seed(seed)
    parts = [tree.sample(min(4000, n - at), generator).float() @ directions.float() for at in range(0, n, 4000)]
    return torch.cat(parts)


def directions_of(n: int, d_in: int = D_IN) -> torch.Tensor:
    """Random unit directions, more than there are dimensions: no two are orthogonal (cosines of some .036)."""
    rows = torch.randn(n, d_in, generator=torch.Generator().manual_seed(SEED), dtype=torch.float64)
    return rows / rows.norm(dim=-1, keepdim=True)


def read(sae: SAE, tree: FeatureTree, directions: torch.Tensor, ranks: list[int]) -> pd.DataFrame:
    """What each edge whose parent has a latent shows, on fresh inputs for what needs inputs.

    Directions are not orthogonal here, and a clean latent would have with another feature's direction the cosine that
    its own feature's direction has. That is taken off.

    Returns:
        `parent` and `child`, the features; `cosine` of the parent's latent with the child's direction, `stranger` with
        that of the same child in the next family, both less what a clean latent would have; `with_child` and `alone`,
        the share of inputs with the parent on which its latent fires, beside the child and with no child at all (NaN
        where there is none among the inputs).
    """
    parents, rows = tree.parents(), []
    size, latents = len(ranks) // ROOTS, sae.W_dec.shape[0]
    unit = sae.W_dec / sae.W_dec.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    cosines, clean = unit @ directions.to(unit).T, (directions @ directions.T).to(unit)
    there = tree.sample(TESTED, SEED + 1) > 0
    childless: dict[int, torch.Tensor] = {}
    fires = sae.encode(there.to(unit) @ directions.to(unit), torch.full((TESTED,), 1 / TESTED)) > 0
    for child, parent in enumerate(parents):
        if parent is None or ranks[parent] >= latents:
            continue
        k = ranks[parent]
        if parent not in childless:
            below = [c for c, p in enumerate(parents) if p == parent]
            childless[parent] = there[:, parent] & ~there[:, below].any(1)
        other = (child + size) % len(ranks)
        beside, alone = there[:, child], childless[parent]
        rows.append({
            "parent": parent, "child": child, "cosine": float(cosines[k, child] - clean[parent, child]),
            "stranger": float(cosines[k, other] - clean[parent, other]),
            "with_child": float(fires[beside, k].double().mean()), "alone": float(fires[alone, k].double().mean()),
        })  # fmt: skip
    return pd.DataFrame(rows)


def run(steps: int = STEPS) -> None:
    """Train every arm, read every edge, and store both beside what it took."""
    torch.set_num_threads(1)
    tree = thousand_features()
    ranks, directions, rates = ranks_by_rate(tree), directions_of(tree.n_features), tree.firing_probabilities()
    rows, k = inputs(tree, directions, ROWS, SEED), float(rates.sum())
    tables, costs, held = [], {}, {}
    for arm in ARMS:
        started = time.process_time()
        sae = trained(arm, rows, directions, ranks, k, steps * arm.times)
        costs[arm.name] = round(time.process_time() - started, 1)
        places = ranks_found(sae, directions) if arm.random else ranks
        held[arm.name] = sum(place < arm.widths[-1] for place in places)
        found = read(sae, tree, directions, places)
        theory = predicted(places, arm.widths)
        found["predicted"] = [theory[edge] for edge in zip(found["parent"], found["child"], strict=True)]
        found["firings"] = rates.numpy()[found["child"]] * steps * arm.times * BATCH
        tables.append(found.assign(arm=arm.name))
        print(f"{arm.name}: {len(found)} edges, {costs[arm.name]} s of one core", file=sys.stderr)
    FOLDER.mkdir(parents=True, exist_ok=True)
    pd.concat(tables).round(4).to_csv(FOLDER / "edges.csv", index=False)
    write_text(FOLDER / "cost.json", json.dumps({"steps": steps, "seconds": costs, "held": held}, indent=1) + "\n")


# The page, from what is stored


def judged() -> dict[str, pd.DataFrame]:
    """The stored edges whose child fires often enough, by arm."""
    table = pd.read_csv(FOLDER / "edges.csv")
    return {arm.name: table[(table["arm"] == arm.name) & (table["firings"] >= FIRINGS)] for arm in ARMS}


def summary(edges: pd.DataFrame) -> dict[str, float]:
    """The numbers that are held against the thresholds; `alike` is NaN where theory says the same for all edges."""
    told = edges["predicted"].std() > 1e-3
    both = edges.dropna(subset=["with_child", "alone"])
    return {
        "edges": len(edges),
        "gap": (edges["cosine"] - edges["predicted"]).abs().median(),
        "alike": edges["cosine"].corr(edges["predicted"]) if told else float("nan"),
        "cosine": edges["cosine"].median(),
        "predicted": edges["predicted"].median(),
        "stranger": edges["stranger"].abs().median(),
        "drops": (both["alone"] - both["with_child"] > DROP).mean(),
    }


def draw(edges: dict[str, pd.DataFrame]) -> Figure:
    """Every judged edge: what theory expects of it against what was found, a panel an arm."""
    figure, axes = figures.grid(len(edges), 2, (3.4, 3.0), sharey=True, sharex=True)
    for axis, (name, table) in zip(axes, edges.items(), strict=True):
        axis.plot([-0.05, 0.4], [-0.05, 0.4], color="0.5", lw=1)
        axis.plot(table["predicted"], table["cosine"], "o", ms=3, alpha=0.6, color=figures.COLOURS[0])
        axis.set_title(name, fontsize=10, loc="left")
        axis.set(xlabel="theory, from rates and ranks", ylabel="found")
        axis.tick_params(labelbottom=True)  # beneath some columns no panel follows
    return figure


def page() -> str:
    """The page in MyST Markdown, from what is stored alone."""
    edges, cost = judged(), json.loads((FOLDER / "cost.json").read_text())
    found = {name: summary(table) for name, table in edges.items()}
    nested, plain, anywhere = (found[ARMS[i].name] for i in (0, 1, -1))
    checks = [
        (f"Matryoshka: median distance from theory at most {CLOSE}", nested["gap"], nested["gap"] <= CLOSE),
        (f"Matryoshka: correlation with theory over edges at least {ALIKE}", nested["alike"], nested["alike"] >= ALIKE),
        (f"standard: median cosine at most {NOTHING}, as theory says", plain["cosine"], plain["cosine"] <= NOTHING),
        (f"Matryoshka: median cosine with a stranger, in size, at most {NOTHING}", nested["stranger"],
         nested["stranger"] <= NOTHING),
        (f"recall drops by more than {DROP} on a smaller share of edges than in the standard SAE: difference",
         nested["drops"] - plain["drops"], nested["drops"] < plain["drops"]),
        (f"random start: median distance from theory at most {CLOSE}", anywhere["gap"], anywhere["gap"] <= CLOSE),
        (f"random start: correlation with theory over edges at least {ALIKE}", anywhere["alike"],
         anywhere["alike"] >= ALIKE),
    ]  # fmt: skip
    lines = [f"| {text} | {value:.3f} | {'met' if met else '**not met**'} |" for text, value, met in checks]
    arms = []
    for name, r in found.items():
        alike = "" if np.isnan(r["alike"]) else f"{r['alike']:.2f}"
        cells = [name, r["edges"], *(f"{r[key]:.3f}" for key in ("predicted", "cosine", "gap")), alike]
        arms.append("| " + " | ".join(map(str, [*cells, f"{r['drops']:.0%}", f"{cost['seconds'][name]:.0f}"])) + " |")
    weak = WEAK if max(nested["drops"], plain["drops"]) < 0.05 else ""
    samples, tree = cost["steps"] * BATCH, thousand_features()
    return TEXT.format(
        checks="\n".join(lines), arms="\n".join(arms), weak=weak,
        samples=f"{samples:,}", steps=cost["steps"], firings=FIRINGS, noise=NOISE,
        found=FOUND, times=ARMS[-1].times, held=cost["held"][ARMS[-1].name],
        features=f"{tree.n_features:,}", l0=f"{float(tree.firing_probabilities().sum()):.1f}",
        widths=", ".join(f"{width:,}" for width in WIDTHS), **on_paper(cost["seconds"][ARMS[0].name] / samples),
    )  # fmt: skip


def on_paper(per_sample: float) -> dict[str, str]:
    """What SynthSAEBench's size would take: from seconds a sample here, and by counting multiplications.

    A step costs a sample d_in * latents multiplications forward, for the encoder; all else touches only the few latents
    that fire.
    """
    flops = 2.0 * D_IN * LARGE * SAMPLES
    return {
        "grown": f"{LARGE / WIDTHS[-1]:.0f}",
        "core_days": f"{per_sample * LARGE / WIDTHS[-1] * SAMPLES / 86400:,.0f}",
        "petaflop": f"{flops / 1e15:,.0f}",
        "gpu_seconds": f"{flops / 50e12:,.0f}",
        "memory": f"{2 * 4 * D_IN * LARGE * 4 / 1e6:.0f}",
        "inputs_gb": f"{SAMPLES * D_IN * 4 / 1e9:,.0f}",
    }


WEAK = """
The line on recall says little: from near the truth, and in so few steps, next to nothing is absorbed in either SAE.
"""

TEXT = """\
# A thousand features

The chapters' toys have three features, or twenty. Does the theory still say what happens in a tree of a thousand, with
more features than dimensions? {{cite:t}}`chanin2026synthsaebench` built data of this kind: features in trees, rates by
Zipf's law, superposition. This page trains Matryoshka SAEs on a tree a sixteenth as large, and reads every edge against
the theory. It is written by `python sweeps/thousand.py` from what `python sweeps/thousand.py run` found.

## The toy

Forty independent families of 25 features: a root, four exclusive children, and five exclusive leaves below each child.
Roots fire by Zipf's law, and so do children given their root; all magnitudes are 1. The {features} directions are
random in 768 dimensions, so that no two are orthogonal. On average {l0} features fire.

BatchTopK SAEs with K at that number and without biases, {samples} samples each in {steps} steps. Latents are sorted by
rate, and start within {noise:g} of the truth (relative to its length): the question is where the solution lies. A
Matryoshka SAE of 1,000 latents has prefixes of {widths}; narrower ones have the first of these. The control has one
prefix, the full width. One more Matryoshka SAE starts at random and takes {times} times the steps. There a feature
has a latent where their cosine is at least {found:g}, and theory is told in which prefix that latent is.

Theory takes each family by itself, as if all directions were orthogonal, and knows nothing but rates and ranks: which
features fire together how often, and which prefix first holds the latent of each. Thresholds were fixed before the run.
An edge is judged where its child fires at least {firings} times in training, as far as its rate says.

## What was found

```{{figure}} _static/thousand.svg
:name: fig-thousand
:alt: A panel for each SAE, a point for each edge, found against predicted cosine; on the line both are equal.

The cosine of a parent's latent with its child, for every judged edge: what theory expects, and what was found (less the
overlap of the two true directions). On the line both are equal. {{download}}`Numbers <_static/thousand.csv>`
```

| SAE | edges | theory, median | found, median | median distance | correlation | recall drops | seconds |
| --- | --- | --- | --- | --- | --- | --- | --- |
{arms}

*Recall drops*: the share of judged edges on which the parent's latent fires by more than .1 less often beside the child
than with no child. *Seconds*: training, on one core.

| asked before the run | found | |
| --- | --- | --- |
{checks}
{weak}
From the random start {held} of {features} features have a latent; the edges are those whose parent has one.

## How it grows, on paper

SynthSAEBench's data has 16,384 features, and SAEs are trained on 200 million samples of it. A sample of an SAE as wide
as that costs {grown} times what it does here, where nearly all work is one product with the encoder's matrix:
{core_days} days of one such core. That product takes {petaflop} PFLOP, which a GPU of 50 TFLOPS does in {gpu_seconds}
seconds; the rest of a step (choosing the largest, gathering decoders, Adam) would decide there. Parameters and Adam's
moments take {memory} MB. All inputs would be {inputs_gb} GB, so they are drawn as they are needed.
{{py:func}}`matryoshka_mixing.training.descend` takes any loss on any device, and one that samples on the GPU keeps all
of it there. It was not run: there was no GPU at hand.

The theory grows more gently. A family is a small problem by itself, of half a second, and families are taken one after
the other.
"""


def write() -> None:
    """Write the page and its figure, each in one move."""
    mpl.use("agg")
    figures.use_style()
    mpl.rcParams |= {"svg.hashsalt": "a thousand features", "svg.fonttype": "none"}
    drawn = draw(judged())
    with replacing(FIGURE) as draft:
        drawn.savefig(draft, format="svg", metadata={"Date": None})
    write_text(FIGURE.with_suffix(".csv"), figures.numbers(drawn))
    write_text(PAGE, page())


def main() -> None:
    """Run, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", nargs="?", choices=["run", "page"], default="page")
    parser.add_argument("--steps", type=int, default=STEPS, help="training steps, for a trial")
    options = parser.parse_args()
    if options.action == "run":
        run(options.steps)
    else:
        write()


if __name__ == "__main__":
    main()
