"""The run on the page, what the stored run says, and the numbers that the ledger judges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from matryoshka_mixing import figures, metrics, plain, remedy
from matryoshka_mixing.chapters.what_cures_it import contestants, fixed_point, losses, switching
from matryoshka_mixing.chapters.what_cures_it.measures import best_of, measure
from matryoshka_mixing.chapters.what_cures_it.stored import NAMES, STORED
from matryoshka_mixing.chapters.what_cures_it.toys import ACTIVATIONS, KINDS, Case, Parameters, chosen, toys
from matryoshka_mixing.features import States
from matryoshka_mixing.sae import SAE, SAEConfig
from matryoshka_mixing.training import Setting, TrainConfig, train

RANDOM, NEAR = range(2)
"""Places of the two kinds of start."""
OURS, PLAIN, STANDARD, BALANCED = "ours", "plain Matryoshka", "standard", "balanced weights"
APART, TOGETHER, AFTER = "split with OrtSAE", "Matryoshka with OrtSAE", "OrtSAE after plain"
CALLED, WHERE = {"relu": "ReLU", "batchtopk": "BatchTopK"}, ("random starts", "near the truth")
ENCODER, DECODER = {"W_enc": ..., "b_enc": ...}, {"W_dec": ..., "b_dec": ...}
"""What is held still where the other goes on alone."""
BEST = 8
"""Runs of which the one of lowest loss is kept, in the row on best of k seeds."""


@dataclass(frozen=True)
class Stored:
    """What the stored run found.

    Attributes:
        remedies: their names, in the order of the first axis of all else.
        toys: names of the toys.
        found: by toy and activation, shape (remedies, kinds, seeds, measures), in the order of `NAMES`.
        prefixes: likewise the FVU of each prefix.
        prefixes_l0: likewise how many of each prefix's latents fire.
        values: likewise the chosen free numbers, NaN for remedies without.
        stages: likewise how many times the toy's steps each remedy took.
        tried: by toy and activation, what each free number gave on other seeds, shape (numbers, kinds, 4), in the order
            of `settings` and with the measures of `stored.tried`.
        switching: by toy, shape (variants, seeds, measures), in the order of `switching.VARIANTS`.
        decided: by question and toy, shape (variants, seeds, measures), in the order of `switching.QUESTIONS`.
        more: of ours on twenty features, further random seeds, shape (seeds, measures).
        costs: of a step of each remedy in plain PyTorch, in units of plain Matryoshka's.
        compiled_costs: the same in our compiled trainer, of plain, every and random prefixes.
    """

    remedies: list[str]
    toys: list[str]
    found: Mapping[tuple[str, str], Float[np.ndarray, "remedies kinds seeds measures"]]
    prefixes: Mapping[tuple[str, str], Float[np.ndarray, "remedies kinds seeds prefixes"]]
    prefixes_l0: Mapping[tuple[str, str], Float[np.ndarray, "remedies kinds its_seeds its_prefixes"]]
    values: Mapping[tuple[str, str], Float[np.ndarray, " remedies"]]
    stages: Mapping[tuple[str, str], Float[np.ndarray, " remedies"]]
    tried: Mapping[tuple[str, str], Float[np.ndarray, "settings kinds 4"]]
    switching: Mapping[str, Float[np.ndarray, "variants varied_seeds measures"]]
    decided: Mapping[tuple[str, str], Float[np.ndarray, "two fresh_seeds measures"]]
    more: Float[np.ndarray, "further_seeds measures"]
    costs: Float[np.ndarray, " timed"]
    compiled_costs: Float[np.ndarray, " three"]

    @classmethod
    def load(cls, path: Path = STORED) -> Stored:
        """Read a stored run."""
        data = plain.read_arrays(path, {"remedies": ()})
        keys = [tuple(key.split("/")) for key in data if "/" in key]
        toys = list(dict.fromkeys(key[0] for key in keys))
        found, prefixes, prefixes_l0, values, stages, tried = [
            {(toy, act): data[f"{toy}/{act}/{what}"] for toy, act, part in keys if part == what}
            for what in ("measures", "prefixes", "prefixes_l0", "values", "stages", "tried")
        ]
        remedies = data["remedies"].tolist()
        wanted = len(remedies), len(KINDS), len(NAMES)
        if wrong := {key: t.shape for key, t in found.items() if t.ndim != 4 or (*t.shape[:2], t.shape[3]) != wanted}:
            raise ValueError(
                f"{path}: {wrong} are the shapes of measures; they must be (remedies, kinds, seeds, measures), here "
                f"{wanted[:2]}, any, {wanted[2]}. Compute the file again."
            )
        varied = {toy: data[key] for toy in switching.TOYS if (key := f"switching, {toy}") in data}
        both = [(question, toy) for question in switching.QUESTIONS for toy in toys]
        decided = {each: data[key] for each in both if (key := ", ".join(each)) in data}
        more = [data[key] for key in data if key.startswith("more seeds")]
        costs, compiled = (data.get(name, np.zeros(0)) for name in ("costs", "compiled_costs"))
        seeds = np.concatenate([np.zeros((0, len(NAMES))), *more])
        of_all = found, prefixes, prefixes_l0, values, stages, tried
        return cls(remedies, toys, *of_all, varied, decided, seeds, costs, compiled)

    def seeds(self, name: str, toy: str, measure: str, kind: int = RANDOM, activation: str = "relu") -> np.ndarray:
        """One measure of every seed."""
        table = self.found[toy, activation][self.remedies.index(name), kind]
        return table[:, NAMES.index(measure)].astype(float)

    def means(self, measure: str, kind: int = RANDOM, activation: str = "relu") -> pd.DataFrame:
        """A measure's mean over seeds, one row a remedy and one column a toy; seeds without a value left out."""
        rows = {
            name: [_mean(self.seeds(name, toy, measure, kind, activation)) for toy in self.toys]
            for name in self.remedies
        }
        return pd.DataFrame.from_dict(rows, orient="index", columns=self.toys)

    def price(self, name: str, toy: str, kind: int = NEAR, activation: str = "relu") -> float:
        """The first prefix's median FVU in units of that of plain Matryoshka."""
        table = self.prefixes[toy, activation]
        mine, plain = (np.median(table[self.remedies.index(one), kind, :, 0]) for one in (name, PLAIN))
        return float(mine / plain)

    def cost(self, name: str) -> float:
        """The time of a step in plain PyTorch, in units of plain Matryoshka's."""
        return float(self.costs[self.remedies.index(name)])

    def steps(self, toy: str, activation: str = "relu") -> pd.Series:
        """How many training steps each remedy took, in units of plain Matryoshka's."""
        taken = pd.Series(self.stages[toy, activation], self.remedies)
        return taken / taken[PLAIN]

    def best(self, name: str, toy: str, measure: str, activation: str = "relu") -> float:
        """The mean of a measure if, of every `BEST` random seeds, that of the lowest plain loss is kept."""
        loss = self.seeds(PLAIN, toy, "loss", RANDOM, activation)
        return best_of(self.seeds(name, toy, measure, RANDOM, activation), loss, BEST)


def settings() -> list[tuple[str, float]]:
    """Every remedy with a free number, with every number that was tried."""
    return [(name, value) for name, some in contestants.contestants().items() for value in some.values]


def as_html(table: pd.DataFrame, name: str, caption: str = "") -> str:
    """A table of two digits for the page; its `name` stands in the place of a number drawn at random."""
    style = table.style.format(precision=2, na_rep="no value").set_uuid(name)
    return (style.set_caption(caption) if caption else style).to_html()


def _mean(values: np.ndarray) -> float:
    """The mean of those values that are numbers; NaN if none is."""
    return float(known.mean()) if (known := values[~np.isnan(values)]).size else float("nan")


def table(stored: Stored, activation: str = "relu", kind: int = RANDOM) -> pd.DataFrame:
    """Every remedy in one row: means over toys and seeds, and what it costs.

    Mixings are the largest absolute cosine of their kind in an SAE; FVU of the first prefix and steps are in units of
    plain Matryoshka's, means over toys. The last rows keep the best of some seeds.
    """
    listed, columns = contestants.contestants(), {
        "parent to child": "parent_to_child", "child to sibling": "child_to_sibling",
        "child to parent": "child_to_parent", "absorption": "absorption", "silent": "silent",
        "features at .95": "recovered95", "at .99": "recovered99", "dead": "dead", "clean seeds": "clean",
        "FVU": "fvu", "L0": "l0",
    }  # fmt: skip
    found = pd.DataFrame({head: stored.means(name, kind, activation).mean(axis=1) for head, name in columns.items()})
    if kind == RANDOM:
        for name in (PLAIN, OURS):
            kept = [[stored.best(name, toy, key, activation) for toy in stored.toys] for key in columns.values()]
            found.loc[f"{name}, best of {BEST}"] = np.mean(kept, axis=1)
    prices = {name: np.mean([stored.price(name, toy, kind, activation) for toy in stored.toys]) for name in listed}
    found["FVU, first prefix"] = pd.Series(prices)
    found["steps"] = pd.DataFrame({toy: stored.steps(toy, activation) for toy in stored.toys}).mean(axis=1)
    found["time of a step"] = pd.Series(dict(zip(stored.remedies, stored.costs, strict=True)))
    found["and"] = pd.Series({name: some.cost for name, some in listed.items()})
    return found


def by_prefix(stored: Stored, toy: str, activation: str = "relu", kind: int = RANDOM) -> pd.DataFrame:
    """FVU and L0 of every prefix of a toy's SAE, one row a remedy: medians over seeds.

    Columns are pairs of the measure and the prefix's latents; the last prefix is the full SAE, whatever its width.
    """
    widths = toys()[toy].widths
    found: dict[tuple[str, str], np.ndarray] = {}
    for head, all_of_them in (("FVU", stored.prefixes), ("L0", stored.prefixes_l0)):
        middle = np.median(all_of_them[toy, activation][:, kind], axis=1)
        found |= {(head, f"first {width}"): middle[:, i] for i, width in enumerate(widths[:-1])}
        found[head, "all"] = middle[:, -1]
    return pd.DataFrame(found, index=stored.remedies)


def all_prefixes(stored: Stored, kind: int = RANDOM) -> str:
    """`by_prefix` of every toy and activation, one table below the other."""
    return "".join(
        as_html(by_prefix(stored, toy, act, kind), f"prefixes-{act}-{i}", f"{toy}, {CALLED[act]}")
        for act in ACTIVATIONS
        for i, toy in enumerate(stored.toys)
    )


def other_tables(stored: Stored) -> str:
    """`table` near the truth, and of BatchTopK from both kinds of start, one below the other."""
    which = [(act, kind) for act in ACTIVATIONS for kind in (RANDOM, NEAR)][1:]
    return "".join(
        as_html(table(stored, act, kind), f"table-{act}-{kind}", f"{CALLED[act]}, {WHERE[kind]}") for act, kind in which
    )


def by_toy(stored: Stored, activation: str = "relu") -> str:
    """Mixing and absorption of every remedy on every toy, for both kinds of start: means over seeds."""
    found = ""
    for kind in (RANDOM, NEAR):
        both = {name: stored.means(name, kind, activation) for name in ("mixing", "absorption")}
        found += as_html(pd.concat(both, axis=1), f"toys-{activation}-{kind}", f"{CALLED[activation]}, {WHERE[kind]}")
    return found


def steps(stored: Stored, activation: str = "relu") -> pd.DataFrame:
    """How many training steps each remedy took, one row a remedy and one column a toy."""
    each = {toy: stored.stages[toy, activation] * toys()[toy].training.steps for toy in stored.toys}
    return pd.DataFrame(each, index=stored.remedies).round().astype(int)


def tries(stored: Stored, activation: str = "relu") -> pd.DataFrame:
    """What every free number gave on the seeds on which it was chosen: means over toys, one row a remedy and number."""
    every = np.stack([stored.tried[toy, activation] for toy in stored.toys])
    found = {
        (WHERE[kind], name): np.nanmean(every[:, :, kind, i], 0)
        for kind in (RANDOM, NEAR)
        for name, i in (("mixing", 0), ("absorption", 1), ("clean seeds", 3))
    }
    return pd.DataFrame(found, index=[f"{name}, {value:g}" for name, value in settings()])


def walk(stored: Stored, kind: int, activation: str = "relu") -> Float[np.ndarray, "bases 2"]:
    """Mixing and absorption of balanced weights, from the lightest inner prefixes to the heaviest: means over toys."""
    rows = [i for i, (name, _) in enumerate(settings()) if name == BALANCED]
    every = np.stack([stored.tried[toy, activation][rows, kind, :2] for toy in stored.toys])
    return np.nanmean(every, 0)


def fresh(stored: Stored) -> pd.DataFrame:
    """Share of clean seeds of what was decided on seeds of its own: a row for each variant, one column a toy."""
    clean = {each: found[..., NAMES.index("clean")].mean(1) for each, found in stored.decided.items()}
    tables = []
    for question, asked in switching.QUESTIONS.items():
        columns = {toy: clean[question, toy] for toy in stored.toys if (question, toy) in clean}
        tables.append(pd.DataFrame(columns, index=list(asked.variants)))
    return pd.concat(tables)


def chosen_numbers(stored: Stored, activation: str = "relu") -> pd.DataFrame:
    """The free number that was best on other seeds, one row a remedy that has one and one column a toy."""
    columns = {toy: pd.Series(stored.values[toy, activation], stored.remedies) for toy in stored.toys}
    return pd.DataFrame(columns).dropna()


def unequal(stored: Stored, names: Sequence[str] = (PLAIN, BALANCED, OURS)) -> pd.DataFrame:
    """What remedies do to three children of .1, .3 and .5: means over seeds near the truth."""
    keys = {"parent to child": "parent_to_child", "child to sibling": "child_to_sibling",
            "child to parent": "child_to_parent", "absorption": "absorption", "clean seeds": "clean"}  # fmt: skip
    columns = {head: stored.means(key, NEAR)["unequal children"].loc[list(names)] for head, key in keys.items()}
    return pd.DataFrame(columns)


def switched(stored: Stored) -> pd.DataFrame:
    """Ours and the same with one thing changed: the share of clean seeds by toy, then means over toys and seeds.

    L0 is in units of the true one.
    """
    names = list(switching.VARIANTS)
    columns = {f"clean, {toy}": table[..., NAMES.index("clean")].mean(1) for toy, table in stored.switching.items()}
    scale = np.array([toys()[toy].true_l0 for toy in stored.switching])
    heads = {"absorption": "absorption", "largest mixing": "mixing", "FVU": "fvu", "dead": "dead", "L0 / true L0": "l0"}
    for head, key in heads.items():
        each = np.stack([np.nanmean(table[..., NAMES.index(key)], 1) for table in stored.switching.values()])
        columns[head] = (each / scale[:, None] if key == "l0" else each).mean(0)
    return pd.DataFrame(columns, index=names)


@dataclass(frozen=True)
class Page:
    """The run on the page: plain, our remedy, and the remedy that the reader chose.

    Attributes:
        p: the chapter's parameters.
        case: what is trained on, from random starts.
        saes: by remedy, one SAE a random seed.
        found: by remedy, the measures of `measures.measure` from random starts, then those near the truth, where a
            sixth of the seeds suffices.
    """

    p: Parameters
    case: Case
    saes: Mapping[str, SAE]
    found: Mapping[str, tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]]]

    @classmethod
    def run(cls, p: Parameters) -> Page:
        """Train and measure."""
        cases = [
            Case.of(
                chosen(p), "relu", range(p.seed, p.seed + n), l1=p.l1, inner_weight=p.inner_weight, d_model=p.d_model,
                start_noise=p.start_noise, kinds=(kind,),
            )
            for kind, n in zip(KINDS, (p.n_seeds, max(1, p.n_seeds // 6)), strict=True)
        ]  # fmt: skip
        saes, found, listed = {}, {}, contestants.contestants()
        for name in dict.fromkeys((PLAIN, OURS, p.remedy)):
            some = listed[name]
            both = [some.fit(case, *some.values[len(some.values) // 2 :][:1]) for case in cases]
            pairs = zip(cases, both, strict=True)
            random, near = (measure(case, sae, name == "matching pursuit") for case, sae in pairs)
            saes[name], found[name] = both[RANDOM], (random, near)
        return cls(p, cases[RANDOM], saes, found)

    def of(self, name: str, measure: str, kind: int = RANDOM) -> np.ndarray:
        """One measure of every seed."""
        return self.found[name][kind][measure][0]

    def share_clean(self, name: str, kind: int = RANDOM) -> float:
        """Share of clean seeds."""
        return float(self.of(name, "clean", kind).mean())

    @cached_property
    def shown(self) -> int:
        """The random seed that is drawn: the first that our remedy leaves clean, or the first of all."""
        return int(self.of(OURS, "clean").argmax())

    def decoder(self, name: str) -> Float[np.ndarray, "d_sae features"]:
        """Decoder cosines of the seed that is drawn."""
        return metrics.decoder_cosines(self.saes[name][self.shown], self.case.dictionary[self.shown]).numpy()

    @property
    def names(self) -> list[str]:
        """Of the features, as figures show them."""
        return [figures.label(name) for name in self.case.toy.tree.names]


@dataclass(frozen=True)
class Theory:
    """The remedy's second stage and its rounds against what theory says, from near the truth.

    Attributes:
        gap: largest distance of a decoder entry from theory's rest, in SAEs whose decoder went on alone and converged.
        converged: share of these that did.
        drift: how long the parent's decoder row is after the second stage, as a share of its length before; median.
        leans: the largest cosine of a child's latent with its parent after every round of settling, median over seeds.
        predicted: the same by theory, from the first.
        slanted: largest distance of a cosine from theory's after settling, for features that are not orthogonal.
        turning: the largest entry of the antisymmetric part of the field's Jacobian at the clean point; 0 for a
            descent.
        stable: the smallest real part of that Jacobian's eigenvalues.
    """

    gap: float
    converged: float
    drift: float
    leans: Float[np.ndarray, " rounds"]
    predicted: Float[np.ndarray, " rounds"]
    slanted: float
    turning: float
    stable: float


def theory(p: Parameters, seeds: int = 8, rounds: int = 5) -> Theory:
    """Train what `Theory` compares, on the three-feature hierarchy; small, and to convergence."""
    p = Parameters(
        l1=p.l1, d_model=max(p.d_model, 3), n_seeds=seeds, seed=p.seed, start_noise=min(p.start_noise, 0.5),
        n_steps=2 * Parameters.n_steps,
    )  # fmt: skip
    case = Case.of(chosen(p), "relu", range(p.seed, p.seed + seeds), l1=p.l1, d_model=p.d_model, kinds=KINDS[1:])
    x, probs = case.rows()
    plain = train(case.setting(case.plain), case.start(), case.toy.training)
    config, slow = remedy.full_decoder(case.plain), TrainConfig(20_000, lr=0.005)
    second = train(case.setting(config), plain.sae, case.toy.training)
    drift = second.sae.W_dec[0, :, 0].norm(dim=-1) / plain.sae.W_dec[0, :, 0].norm(dim=-1)
    rest = train(case.setting(config, held=ENCODER), second.sae, slow)
    done = rest.converged[0]
    gap = fixed_point.gap(rest.sae[0], x, probs)[done]
    gap = gap[~gap.isnan()]
    leans, now = [], remedy.refit(plain.sae[0], x, probs)
    for _ in range(rounds):
        leans.append(_lean(case, now))
        alone = case.fit(case.plain, now.reshape(seeds), held=DECODER)
        now = remedy.refit(alone, x, probs)
    rate = fixed_point.halving(*case.plain.weights)
    field = _jacobian(case)
    return Theory(
        float(gap.max()) if len(gap) else float("nan"), float(done.double().mean()), float(drift.median()),
        np.array(leans), leans[0] * rate ** np.arange(rounds), _slanted(case), float((field - field.mT).abs().max()),
        float(torch.linalg.eigvals(field).real.min()),
    )  # fmt: skip


def _lean(case: Case, sae: SAE) -> float:
    """The largest cosine of a child's latent with its parent, in size, median over seeds."""
    found = measure(case, sae)
    return float(np.median(found["child_to_parent"][0]))


def _slanted(case: Case, cosine: float = 0.2) -> float:
    """How far settled latents lie from theory's where every two features have this cosine; no penalty."""
    features = case.toy.tree.n_features
    frame = torch.linalg.cholesky(torch.full((features, features), cosine).fill_diagonal_(1.0).double())
    slanted = frame @ case.dictionary
    config, start = replace(case.plain, l1=0.0), case.start()
    clean = fixed_point.latents(slanted)
    near = replace(start, W_dec=clean, W_enc=torch.linalg.pinv(slanted), b_enc=0 * start.b_enc)
    stages = remedy.remedied(
        Setting(config, case.toy.states, slanted), near, case.toy.training, TrainConfig(24_000, lr=0.01), rounds=12
    )
    rows = torch.nn.functional.normalize(stages.settled[0].W_dec, dim=-1)
    return float((rows - clean).abs().max())


def _jacobian(case: Case) -> Float[Tensor, "parameters parameters"]:
    """Of the field that the second stage follows, at the clean point of one seed without a penalty."""
    directions = torch.eye(3, dtype=torch.float64)
    x, probs = case.toy.states.inputs(directions), case.toy.states.probs
    config = remedy.full_decoder(SAEConfig(3, (1, 3), decoder_bias=False))
    # Activations of exactly 0 lie on ReLU's edge: there the latents stay silent, as with any bias below 0.
    clean = SAE(directions, torch.tensor([0.0, -1e-9, -1e-9]).double(), directions, directions[0] * 0, config)
    theta = torch.cat([value.flatten() for value in clean.parameters.values()])
    return torch.autograd.functional.jacobian(lambda some: fixed_point.field(some, clean, config, x, probs), theta)


def one_step(p: Parameters) -> tuple[Tensor, ...]:
    """Inputs, and parameters of one SAE that require their gradient: x, W_enc, b_enc, W_dec, b_dec."""
    case = Case.of(chosen(p), "relu", range(p.seed, p.seed + 1), l1=p.l1, d_model=p.d_model, kinds=KINDS[:1])
    generator = torch.Generator().manual_seed(p.seed)
    acts = case.toy.states.acts[torch.multinomial(case.toy.states.probs, 256, True, generator=generator)]
    sae = case.start()[0]
    sae = replace(sae, b_dec=0.1 * torch.randn(sae.b_dec.shape, dtype=torch.float64, generator=generator))
    return acts @ case.dictionary[0], *(value.clone().requires_grad_() for value in sae.parameters.values())


def package_gradient(p: Parameters, x: Tensor, *parameters: Tensor) -> list[Tensor]:
    """The gradient of the remedy's second stage by the package, of W_enc, b_enc, W_dec and b_dec.

    It is read off the compiled trainer: one step of plain gradient descent moves a parameter by minus its gradient.
    """
    widths = chosen(p).widths
    config = remedy.full_decoder(SAEConfig(p.d_model, widths, l1=p.l1))
    rows = States(x.detach(), torch.full((len(x),), 1 / len(x), dtype=torch.float64))
    W_enc, b_enc, W_dec, b_dec = (value.detach()[None] for value in parameters)
    start = SAE(W_enc, b_enc, W_dec, b_dec, config)
    step = TrainConfig(1, lr=1e-3, warmup=0, cooldown=0, optimiser="gd")
    after = train(Setting(config, rows), start, step).sae[0]
    return [
        (before - now)[0] / 1e-3
        for before, now in zip(start.parameters.values(), after.parameters.values(), strict=True)
    ]


def package_fit(p: Parameters, x: Tensor, *parameters: Tensor) -> Tensor:
    """The reconstruction by `remedy.refit`'s decoder for these parameters, without the decoder bias, which is held."""
    config = SAEConfig(p.d_model, chosen(p).widths, l1=p.l1, decoder_bias=False)
    W_enc, b_enc, W_dec, b_dec = (value.detach() for value in parameters)
    sae = SAE(W_enc, b_enc, W_dec, b_dec, config)
    acts = sae.encode(x)
    return acts @ remedy.refit(sae, x).W_dec


def package_apart(W_dec: Tensor) -> float:
    """OrtSAE's penalty of a decoder, as the contestants pay it."""
    W_dec = W_dec.detach()
    sae = SAE(W_dec.mT, W_dec[:, 0], W_dec, W_dec[0])
    return float(losses.alike(sae))


def measured_published(stored: Stored) -> dict[str, object]:
    """The numbers of the claim on published remedies."""
    groups = "published", "idea", "earlier chapters"
    published = [name for name, some in contestants.contestants().items() if some.group in groups]

    def worst(kind: int, activation: str) -> pd.Series:
        return stored.means("clean", kind, activation).min(axis=1)

    toy, clean = stored.toys[0], stored.means("clean")
    solved = clean.loc[published, clean.loc[OURS] >= 0.5]
    return {
        "best_published_where_ours_solves": float(solved.min(axis=1).max()),
        "best_published_near_truth": float(worst(NEAR, "relu")[published].max()),
        "best_published_on_its_worst_toy": float(worst(RANDOM, "relu")[published].max()),
        "best_published_on_its_worst_toy_batchtopk": float(worst(RANDOM, "batchtopk")[published].max()),
        "ours_on_its_worst_toy": float(worst(RANDOM, "relu")[OURS]),
        "ours_near_truth": float(worst(NEAR, "relu")[OURS]),
        "plain_mixing_near_truth": stored.seeds(PLAIN, toy, "mixing", NEAR),
        "standard_absorption_near_truth": stored.seeds(STANDARD, toy, "absorption", NEAR),
    }


def clean_on_the_tree(stored: Stored) -> Float[np.ndarray, " seeds"]:
    """1 for every random seed of ours on twenty features that ends clean, the further seeds included."""
    further = stored.more[:, NAMES.index("clean")].astype(float)
    return np.concatenate([stored.seeds(OURS, "twenty features", "clean"), further])


def clean_where_plain_has_latents(stored: Stored, activation: str = "relu") -> pd.DataFrame:
    """Random seeds in which plain Matryoshka training gives every feature a latent, and those of them that ours cleans.

    There no latent is dead, no feature without one, and every parent's edges can be judged; one row a toy.
    """
    rows = {}
    for toy in stored.toys:
        has = [stored.seeds(PLAIN, toy, name, RANDOM, activation) == 0 for name in ("dead", "missing", "unjudged")]
        clean = stored.seeds(OURS, toy, "clean", RANDOM, activation)[np.all(has, 0)]
        rows[toy] = {"seeds with all latents": len(clean), "clean": int(clean.sum())}
    return pd.DataFrame.from_dict(rows, orient="index")


def measured_apart(stored: Stored) -> dict[str, object]:
    """The numbers of the claim on the split with OrtSAE's penalty."""

    def over(name: str, activation: str = "relu") -> np.ndarray:
        clean = stored.means("clean", RANDOM, activation)
        return (clean.loc[APART] - clean.loc[name]).to_numpy()

    return {
        "clean_apart_twenty_features": stored.seeds(APART, "twenty features", "clean"),
        "gain_over_ours": float(over(OURS).mean()),
        "loss_on_its_worst_toy": float(-over(OURS).min()),
        "gain_over_ortsae_after_plain": float(over(AFTER).mean()),
        "clean_apart_near_truth": float(stored.means("clean", NEAR).loc[APART].min()),
        "gain_over_ours_batchtopk": float(over(OURS, "batchtopk").mean()),
        "clean_without_the_split": float(stored.means("clean").loc[TOGETHER].mean()),
    }


def measured_ours(stored: Stored, page: Page, theory: Theory) -> dict[str, object]:
    """The numbers of the claim on our remedy."""

    def change(measure: str, how: str) -> np.ndarray:
        ours, plain = (stored.means(measure).loc[name].to_numpy() for name in (OURS, PLAIN))
        return plain - ours if how == "less" else ours / plain

    found = clean_where_plain_has_latents(stored)
    near = {act: float(stored.means("clean", NEAR, act).loc[OURS].min()) for act in ACTIVATIONS}
    return {
        "clean_on_the_page": page.of(OURS, "clean"),
        "clean_four_children": stored.seeds(OURS, "four children", "clean"),
        "clean_twenty_features": clean_on_the_tree(stored),
        "worst_toy_near_truth": near["relu"],
        "prefix_price_near_truth": max(stored.price(OURS, toy) for toy in stored.toys),
        "full_price": float(change("fvu", "ratio").max()),
        "clean_where_plain_has_latents": float((found["clean"] / found["seeds with all latents"]).min()),
        "unsolved_three_levels": stored.seeds(OURS, "three levels", "clean"),
        "unsolved_loud_child": stored.seeds(OURS, "loud child", "clean"),
        "dead_latents_fewer": float(change("dead", "less").mean()),
        "clean_near_truth_batchtopk": near["batchtopk"],
        "theory_gap": theory.gap,
        "plain_clean": page.of(PLAIN, "clean"),
    }
