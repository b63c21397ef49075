"""Does an SAE have the trouble that the toys have? A diagnosis that needs no true features.

    found = mm.diagnose(sae, rows)          # any SAE with prefixes, any activations, of shape (rows, d_in)
    print(found.words)

or, from files, `python -m matryoshka_mixing.diagnose SAE ACTIVATIONS` (see there). Rows that lie in several arrays or
files, one after the other, are given as a list, or as a folder.

**Idea.** In a Matryoshka SAE an inner latent's decoder is drawn toward later latents that fire with it, because the
prefixes that hold the one and miss the others must reconstruct without them. The full reconstruction has no such pull.
So hold all activations, refit the decoder (and its bias) to the full reconstruction alone, and see how each inner
latent's decoder row turns:

    refit     min over D of  E ||x - b - acts @ D||^2                   normal equations, G = acts^T acts
    movement  sine of the angle between W_dec[k] and D[k]
    pull      u_k = sum over later latents j of  r_kj G_kj W_dec[j]     r_kj: weight of the prefixes with k, without j
    lean      part of the movement along u_k, both across W_dec[k]

With the same activations the prefix losses have an optimum as well, at which the second moment G is re-weighted by the
prefixes that hold both latents: (G * R) W = diag(r) G D. How far that W leans from D is what is *predicted*.

**Penalty.** Without any prefix an L1 penalty turns a row toward whatever shrinks beside it: where it is at rest,
G (D - W) = l1 / 2 (sum of the latent's activations) W / ||W||. The part of the lean that this makes is *by penalty*.

**Chance.** Residuals with random signs (a wild bootstrap: Wu 1986) say how far a refit turns for nothing. A latent
*leans* if what the penalty leaves of its lean exceeds the leans of all draws and `LEAST`: for 19 draws one latent in 20
does for nothing at most.

**Complements.** A latent may stand for its parent by being silent there, while the decoder bias holds the parent. Its
children's latents then fire where it does not, so it cannot lean toward them, though it is mixed as well. It counts as
*opposite*: it turns as the prefix losses predict, half as far or more, but not along the pull. So do, by less, latents
that come in after the first prefix and make up for what that one bends in the decoder bias.

**Partners.** With a latent that leans come up to three later ones that it leans toward, with the cosine of its decoder
to each and that of its refitted decoder. The change from the one to the other is what counts, not their sign: a later
row may itself point away from the parent, so that a latent that leans toward it has a cosine of 0 or below. The lean, a
part of a turn, understates the cosine with the true child.

**Limits.** Only turning is seen, so only mixing that the full reconstruction would undo. A standard SAE that mixes, or
absorbs, is at its optimum; a narrow SAE has no later latents; a parent whose latent is silent beside a child is not
seen either. Labels can show these (see `label_edges`), and the cosine with the true child, which a lean understates.
Two latents that nearly double each other may turn toward each other for nothing. A decoder that is a least-squares fit
already, as after `remedy.refit` or `remedy.remedied`, cannot turn in another such fit: on the rows of its own fit the
finding says so (`Diagnosis.fitted`); on other rows of the same kind it turns as far as by chance, which says as little.

**Memory.** For n latents of d dimensions some 24 n^2 + 8 (draws + 8) n d bytes (`memory`): 3 GB for 8,192 latents of
768, 31 GB for 32,768. Fewer draws need less, and say less.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from matryoshka_mixing import metrics
from matryoshka_mixing._checks import number, whole
from matryoshka_mixing.sae import SAE, SAEConfig

LEAST = 0.01
"""A smaller lean is not worth a word (a sine; our default)."""
SELDOM = 30
"""A latent that fires on fewer rows than this is not judged (our default)."""
UNEXPLAINED = 0.5
"""From this share of the variance on, what is left unexplained makes one ask whether these are the SAE's activations
(our default)."""
FEW = 10
"""With fewer rows than so many a latent only large leans exceed chance (our default)."""
FITTED = 1e-3
"""A decoder whose judged rows all move by a smaller share of their length in the refit is a fit already (our default:
rounding to float16 moves them less, to bfloat16 more; training by gradients leaves more)."""
TOLD = 5
"""How many latents, those that lean most, are told in the few sentences."""


@dataclass(frozen=True)
class Partner:
    """A later latent that an inner one leans toward.

    The change from `cosine` to `refitted` is what counts, not their sign: the later row may itself point away from the
    parent. And the lean, a part of the turn, understates the cosine with the true child.

    Attributes:
        latent: its number.
        together: cosine of the two latents' activations over all rows, from 0 to 1.
        cosine: of the inner latent's decoder with this one's refitted row, in [-1, 1].
        refitted: the same for the inner latent's refitted row.
    """

    latent: int
    together: float
    cosine: float
    refitted: float


@dataclass(frozen=True)
class Edge:
    """A labelled parent and child; shares in [0, 1], None where the edge cannot be judged.

    Attributes:
        parent, child: their names.
        latent: the parent's latent; None if it has none.
        rows: on how many rows both are.
        recall_with, recall_without: share of the parent's rows with and without the child on which the latent fires.
        gap: the second less the first; above 0 where the child silences the parent's latent.
        partial: how much of the parent other latents write beside the child (see `metrics.Edges`).
        carrier: the latent that writes most of it.
        cosine: of the parent's latent's decoder with the child's direction, in [-1, 1]; and with the parent's, `own`.
    """

    parent: str
    child: str
    latent: int | None
    rows: int
    recall_with: float | None
    recall_without: float | None
    gap: float | None
    partial: float | None
    carrier: int | None
    cosine: float | None
    own: float | None


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """What `diagnose` found; arrays have one entry for each inner latent.

    Attributes:
        rows, widths: how many rows were used, and the prefixes (those with a weight).
        draws: of random signs; of latents that do not lean one in draws + 1 exceeds all of them.
        fires: share of the rows on which each latent fires, in [0, 1].
        judged: whether it fires on `SELDOM` rows or more.
        movement: sine of the angle by which its decoder turns in the refit, from 0 to 1; NaN for zero rows.
        chance: the same where signs of residuals are random; mean over the draws.
        along: cosine of the movement with the pull, in [-1, 1].
        permuted: the same where later latents have each other's decoders.
        lean: part of the movement along the pull, in [-1, 1]: positive where W_dec leans toward later latents.
        bound: the largest lean over the draws.
        predicted: the lean that the prefix losses predict for these activations.
        agreement: cosine of the movement with the predicted one, in [-1, 1].
        by_penalty: the part of the lean that the L1 penalty makes.
        leans: whether a judged latent's lean, less `by_penalty`, exceeds both `bound` and `LEAST`.
        opposite: whether a judged latent turns as predicted (less what the penalty makes), at least half as far, and by
            more than `LEAST` and than in any draw, with a lean of 0 or below or none: as a mixed complement does, or
            what makes up for a decoder bias that shorter prefixes have bent.
        l1: the penalty that was reckoned with.
        shrinkage: the penalty under which the last prefix's own latents would shrink as they do (their median).
        explained: how many of the latents that lean would not, if `shrinkage` were the penalty; said if it is most.
        partners: of the latents that lean, by number; those that lean most come first.
        fvu, fvu_refitted: fraction of variance unexplained by the full reconstruction, before and after the refit.
        fvu_prefixes: that of each prefix, before.
        refitted: the refitted decoder, shape (latents, d_in).
        edges: of labelled features, if labels were given.
        fitted: whether the refit moves no judged row by more than `FITTED` of its length. The decoder then is a
            least-squares fit to these rows already, and that none of its latents leans says nothing.
    """

    rows: int
    widths: tuple[int, ...]
    draws: int
    fires: Float[Tensor, " inner"]
    judged: Bool[Tensor, " inner"]
    movement: Float[Tensor, " inner"]
    chance: Float[Tensor, " inner"]
    along: Float[Tensor, " inner"]
    permuted: Float[Tensor, " inner"]
    lean: Float[Tensor, " inner"]
    bound: Float[Tensor, " inner"]
    predicted: Float[Tensor, " inner"]
    agreement: Float[Tensor, " inner"]
    by_penalty: Float[Tensor, " inner"]
    leans: Bool[Tensor, " inner"]
    opposite: Bool[Tensor, " inner"]
    l1: float
    shrinkage: float
    explained: int
    partners: dict[int, list[Partner]]
    fvu: float
    fvu_refitted: float
    fvu_prefixes: list[float]
    refitted: Float[Tensor, "latents d_in"]
    edges: list[Edge] = field(default_factory=list)
    fitted: bool = False

    def median(self, name: str) -> float:
        """The median of one of the arrays over the judged latents for which it is known; NaN if there are none."""
        values = getattr(self, name)[self.judged]
        values = values[~values.isnan()]
        return float(values.quantile(0.5)) if len(values) else float("nan")

    @property
    def words(self) -> str:
        """The finding in a few sentences."""
        judged, n, doubts = int(self.judged.sum()), len(self.judged), self._doubts()
        if not judged:
            return f"None of {n} inner latents fires on {SELDOM} rows or more; give more rows."
        if self.lean[self.judged].isnan().all():
            lines = [f"None of {judged} inner latents ever fires beside a later one, so none can lean toward one."]
            return "\n".join(doubts + lines + self._complements())
        lines = [
            *doubts,
            f"Of {judged} inner latents {int(self.leans.sum())} lean toward later latents that fire with them"
            + (f" ({n - judged} more fire too seldom to be judged)" if judged < n else "")
            + f"; by chance up to {judged / (self.draws + 1):.3g} would.",
            f"Median movement {self.median('movement'):.3f}, by chance {self.median('chance'):.3f}; cosine with the "
            f"pull of later latents {self.median('along'):.2f}, with permuted ones {self.median('permuted'):.2f}.",
            f"Median lean {self.median('lean'):.3f}, predicted {self.median('predicted'):.3f}"
            + (f"; the L1 penalty of {self.l1:g} makes {self.median('by_penalty'):.3f}." if self.l1 else "."),
            *self._shells(),
            f"The refit takes the unexplained share of variance from {self.fvu:.3f} to {self.fvu_refitted:.3f}.",
        ]
        if self.fitted:
            lines.append(
                "The decoder is a least-squares fit to these activations already: that no latent moves says nothing."
            )
        lines += self._complements()
        if self.explained > self.leans.sum() / 2:
            lines.append(
                f"The last prefix's latents shrink as under an L1 penalty of {self.shrinkage:.2g}, which would explain "
                f"{self.explained} of the latents that lean. If one was trained with, give it as l1."
            )
        if self.partners:
            lines.append(
                "Toward a later latent, the change from cosine to refitted counts, not the sign of either; a lean "
                "understates the cosine with the true child."
            )
        if self.edges:
            some = [edge for edge in self.edges if edge.gap is not None]
            worst = sum(edge.gap > 0.1 for edge in some if edge.gap is not None)
            lines.append(
                f"{len(some)} of {len(self.edges)} labelled edges can be judged; in {worst} the parent's latent fires "
                "less often beside the child, by more than 0.1."
            )
        return "\n".join(lines)

    def _shells(self) -> list[str]:
        """The finding by prefix, where there are several inner ones, and the latents that lean most."""
        parts, inner = [], self.widths[:-1]
        for first, last in zip((0, *inner), inner, strict=False):
            judged = self.judged[first:last]
            if judged.any():
                lean = float(self.lean[first:last][judged].nanmedian())
                parts.append(
                    f"{first} to {last - 1}: {int(self.leans[first:last].sum())} of {int(judged.sum())} ({lean:.3f})"
                )
        lines = [f"By prefix, latents that lean of those judged, and their median lean: {'; '.join(parts)}."]
        most = [
            f"{k} ({float(self.lean[k]):.3f}, toward {', '.join(str(one.latent) for one in some)})"
            for k, some in list(self.partners.items())[:TOLD]
        ]
        return lines[: len(inner) > 1] + [f"Most lean latents {'; '.join(most)}."] * bool(most)

    def _doubts(self) -> list[str]:
        """What makes the finding worth little."""
        doubts = []
        if not self.fvu < UNEXPLAINED:
            doubts.append(
                f"The SAE leaves {self.fvu:.2f} of these activations' variance unexplained. Are they what it was "
                "trained on: the layer, the scale, the centring? If not, nothing below says anything."
            )
        latents = len(self.refitted)
        if self.rows < FEW * latents:
            doubts.append(
                f"{self.rows} rows are few for {latents} latents: by chance a lean reaches {self.median('bound'):.3f} "
                f"here, and smaller ones are not seen. Better give {FEW * latents} or more."
            )
        return doubts

    def _complements(self) -> list[str]:
        if not self.opposite.any():
            return []
        middle = float(self.movement[self.opposite].quantile(0.5))
        return [
            f"{int(self.opposite.sum())} turn as the prefix losses predict, but not along the pull of later latents "
            f"(median movement {middle:.3f}): as complements do, which are silent where their feature is, while the "
            "decoder bias holds it; or, mostly by less, those that make up for what shorter prefixes bend in the bias."
        ]

    def to_dict(self) -> dict[str, Any]:
        """All but the refitted decoder, as plain data; NaN becomes None."""
        plain: dict[str, Any] = {"words": self.words}
        for name, value in vars(self).items():
            if name == "refitted":
                continue
            plain[name] = value.tolist() if isinstance(value, Tensor) else value
        plain["partners"] = {str(k): [asdict(partner) for partner in some] for k, some in self.partners.items()}
        plain["edges"] = [asdict(edge) for edge in self.edges]
        return {k: [None if x != x else x for x in v] if isinstance(v, list) else v for k, v in plain.items()}


@dataclass(frozen=True)
class _Sums:
    """What one pass over the rows collects; the last latent stands for the bias, and always fires."""

    gram: np.ndarray
    cross: np.ndarray
    by_chance: np.ndarray
    fires: np.ndarray
    errors: np.ndarray
    power: float


def diagnose(
    sae: SAE,
    rows: Any,
    *,
    widths: Sequence[int] | None = None,
    labels: Any = None,
    hierarchy: Sequence[int | None] | None = None,
    names: Sequence[str] | None = None,
    l1: float | None = None,
    ridge: float = 1e-3,
    draws: int = 19,
    batch: int = 4096,
    seed: int = 0,
    progress: bool = False,
) -> Diagnosis:
    """Whether inner latents lean toward later ones that fire with them, and how far, without the true features.

    The decoder is refitted to the full reconstruction with all activations held; a lean is a part of the turn of a
    latent's row in that fit. It sees what the full reconstruction would undo, and no more: a lean understates the
    cosine with the true child, the more so the larger the share of the parent's inputs that children cover, and a
    standard SAE that mixes or absorbs is at its optimum. The formulas and all limits stand at the head of
    `matryoshka_mixing/diagnose/__init__.py`.

    Args:
        sae: one SAE, of any activation. BatchTopK takes each row against its threshold. If its decoder is a
            least-squares fit to these rows already, it cannot be judged by how it turns, and the finding says so.
        rows: activations, shape (rows, d_in): a tensor, an array, or what is read in slices, such as a memory map; or
            a list of these, such as the shards of a store, one after the other.
        widths: the prefixes to look at, in place of the SAE's own; for a standard SAE, as a control. Prefixes of weight
            0 train nothing and are left out.
        labels: which rows hold which feature, shape (rows, features), true or false.
        hierarchy: the number of each feature's parent, or None; with `labels`.
        names: of the features, for messages.
        l1: weight of the penalty on activations times the decoder's norms that the SAE was trained with, beside
            ||x - reconstruction||^2 (a sum over dimensions); None: that of its configuration, which files of other
            libraries leave at 0.
        ridge: pull of each refitted row toward where it was, in units of the median latent's second moment; of the
            bias, in units of the rows on which the median latent fires.
        draws: how many draws of random signs, at least 1.
        batch: rows at a time.
        seed: of the signs and permutations.
        progress: show a progress bar.

    Raises:
        ValueError: if shapes, types or values do not fit, or there are too few rows or prefixes; it says what to do.
    """
    rows = in_one(rows)
    sae, config = _ready(sae, rows, widths, ridge, draws, batch, seed)
    l1 = config.l1 if l1 is None else float(number("l1", l1))
    if not 0 <= l1 < np.inf:
        raise ValueError(f"l1 is {l1}; it must be finite and at least 0.")
    if (labels is None) != (hierarchy is None):
        raise ValueError("labels and hierarchy belong together: which rows hold which feature, and each one's parent.")
    if labels is not None and hierarchy is not None:
        _labelled(rows, labels, hierarchy, names)  # before the pass over the rows, which may take long
    sums = _collect(sae, config, rows, draws, batch, seed, progress)
    W, b = sae.W_dec.double().numpy(), sae.b_dec.double().numpy()
    n, inner = len(W), config.widths[-2]
    scale = np.diag(sums.gram)[:n]
    if not (scale > 0).any():
        raise ValueError("no latent fires on any row; are these the activations that the SAE was trained on?")
    # The bias counts rows, whatever the unit of the activations.
    pull = ridge * np.append(np.full(n, np.median(scale[scale > 0])), np.median(sums.fires[sums.fires > 0]))
    factor = _factor(sums.gram.copy(), pull)
    moved = _solve(factor, sums.cross)
    D = W + moved[:n]

    # The prefixes' weights: together[i, j] is that of the prefixes that hold both.
    def reach(weights: Sequence[float]) -> np.ndarray:
        place = np.searchsorted(config.widths, np.arange(n), side="right")
        tail = np.cumsum(weights[::-1])[::-1]
        return np.append(tail[place], tail[0])  # the bias is in all

    r = reach(config.weights)
    apart = (r[:inner, None] - np.minimum(r[:inner, None], r[None, :n])) * sums.gram[:inner, :n]
    u = apart @ W
    order = np.random.default_rng(seed).permutation(np.arange(inner, n))
    shuffled = W.copy()
    shuffled[inner:] = W[order]
    q = reach(config.for_decoder.weights)
    both = np.minimum(q[:, None], q[None, :])
    both *= sums.gram
    start = np.concatenate([D, (b + moved[n])[None]])
    expected = _solve(_factor(both, pull * q), q[:, None] * (sums.gram @ start + pull[:, None] * start))

    def turn(after: np.ndarray, before: np.ndarray, toward: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """From `after` to `before`: the turn across `before`, its sine, and its part along `toward`."""
        unit = _unit(before[:inner])
        across = -_across(after[:inner], unit) / np.linalg.norm(after[:inner], axis=1, keepdims=True)
        return across, np.linalg.norm(across, axis=1), (across * _unit(_across(toward, unit))).sum(1)

    with np.errstate(invalid="ignore", divide="ignore"):
        way, movement, lean = turn(D, W, u)
        along = lean / movement
        permuted = turn(D, W, apart @ shuffled)[2] / movement
        random = [turn(W + _solve(factor, part)[:n], W, u) for part in sums.by_chance]
        forecast, far, predicted = turn(D, expected[:n], u)
        agreement = (_unit(way) * _unit(forecast)).sum(1)
        units, amount = _unit(W), sums.gram[:n, n:]
        shrunk = 2 * (sums.cross[:n] * units).sum(1) / amount[:, 0]
        last = (np.arange(n) >= inner) & (sums.fires >= SELDOM)
        shrinkage = max(float(np.median(shrunk[last])), 0.0) if last.any() else 0.0
        alone = np.nan_to_num(np.concatenate([amount * units, np.zeros((1, len(b)))]) / 2)
        (penal, _, by_penalty), (_, _, by_shrinkage) = (
            turn(W + by * _solve(factor, alone)[:n], W, u) for by in (l1, shrinkage)
        )
        as_predicted = ((way - penal) * _unit(forecast)).sum(1)
    bound, most_by_chance = (np.max([part[i] for part in random], axis=0) for i in (2, 1))
    judged = sums.fires[:inner] >= SELDOM
    steps, lengths = (np.linalg.norm(part[:inner][judged], axis=1) for part in (moved, W))
    leans, otherwise = (judged & (lean - by > np.maximum(bound, LEAST)) for by in (by_penalty, by_shrinkage))
    opposite = judged & ~(lean > 0) & (as_predicted > np.max([most_by_chance, far / 2, np.full(inner, LEAST)], axis=0))
    most = [int(k) for k in np.argsort(-np.nan_to_num(lean, nan=-1), kind="stable") if leans[k]]
    before = float(sums.errors[-1])
    after = before - 2 * float((moved * sums.cross).sum()) + float((moved * (sums.gram @ moved)).sum())
    total = len(rows)

    def tensor(values: Any) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values))

    found = Diagnosis(
        total, config.widths, draws, tensor(sums.fires[:inner] / total), tensor(judged), tensor(movement),
        tensor(np.mean([part[1] for part in random], axis=0)), tensor(along), tensor(permuted), tensor(lean),
        tensor(bound), tensor(predicted), tensor(agreement), tensor(by_penalty), tensor(leans), tensor(opposite),
        l1, shrinkage, int((leans & ~otherwise).sum()) if shrinkage > l1 else 0,
        {k: _partners(k, way[k], apart[k], W, D, sums.gram) for k in most},
        before / sums.power, after / sums.power, (sums.errors / sums.power).tolist(), tensor(D),
        fitted=bool(judged.any() and (steps <= FITTED * lengths).all()),
    )  # fmt: skip
    if labels is None or hierarchy is None:
        return found
    return replace(found, edges=label_edges(sae, rows, labels, hierarchy, names))


def _ready(
    sae: SAE, rows: Any, widths: Sequence[int] | None, ridge: float, draws: int, batch: int, seed: int
) -> tuple[SAE, SAEConfig]:
    """The SAE in float32 at least and its configuration, after all that can be wrong was looked at."""
    _refuse_others(sae)
    config = sae.one_config
    if widths is not None:
        given: Any = tuple(widths) if isinstance(widths, Iterable) else widths
        config = replace(config, widths=given, weights=(), decoder_weights=None)
        if config.widths[-1] != sae.b_enc.shape[-1]:
            raise ValueError(f"widths are {tuple(widths)}; the last must be the SAE's {sae.b_enc.shape[-1]} latents.")
    if len(config.widths) < 2:
        latents = config.widths[0]
        raise ValueError(
            f"the SAE has one prefix, its {latents} latents, so none comes later than another. "
            + (f"Give widths: its own, or some to compare with, such as ({-(-latents // 4)}, {latents})."
               if latents > 1 else "An SAE with one latent cannot lean.")
        )  # fmt: skip
    if not config.weights[-1] or not config.for_decoder.weights[-1]:
        raise ValueError(
            f"the last of the prefixes {config.widths} has weight 0, so nothing trains its latents; give the widths "
            "that were trained."
        )
    config = _weighed(config)
    shape = tuple(rows.shape)
    if len(shape) != 2 or shape[1] != config.d_in:
        raise ValueError(f"the activations have shape {shape}; for this SAE it must be (rows, {config.d_in}).")
    if shape[0] < config.d_sae:
        raise ValueError(
            f"{shape[0]} rows are too few to refit {config.d_sae} latents; give at least as many rows as latents, and "
            "better ten times as many."
        )
    if not 0 < number("ridge", ridge) < np.inf:
        raise ValueError(f"ridge is {ridge}; it must be finite and above 0.")
    for name, value, least in (("draws", draws, 1), ("batch", batch, 1), ("seed", seed, 0)):
        if whole(name, value) < least:
            raise ValueError(f"{name} is {value}; it must be at least {least}.")
    wide = torch.promote_types(sae.W_dec.dtype, torch.float32)
    return sae.map(lambda p: p.detach().cpu().to(wide)), config


def _refuse_others(sae: SAE) -> None:
    """ValueError for what is no single SAE."""
    if not isinstance(sae, SAE):
        raise ValueError(f"sae is a {type(sae).__name__}; give an SAE, such as exchange.read(path) reads from a file.")
    if sae.instances:
        raise ValueError(f"this holds SAEs with axes {sae.instances}; diagnose one at a time, such as sae[0].")


def _weighed(config: SAEConfig) -> SAEConfig:
    """The configuration without prefixes of weight 0, which pull at nothing."""
    kept = [i for i, weight in enumerate(config.weights) if weight]
    if len(kept) < 2:
        raise ValueError(
            f"of the prefixes {config.widths} with weights {config.weights} one alone has a weight above 0, so none "
            "pulls apart from another; give the widths that were trained, or some to compare with."
        )

    def some(values: tuple) -> tuple:
        return tuple(values[i] for i in kept)

    return replace(
        config, widths=some(config.widths), weights=some(config.weights),
        decoder_weights=config.decoder_weights and some(config.decoder_weights),
    )  # fmt: skip


class Shards:
    """Rows that lie in several arrays, one after the other, read as if in one: it has a `shape`, and gives slices.

    Args:
        parts: of shape (rows, d_in) each: tensors, arrays, memory maps, or what else gives rows in slices.
        names: of the parts, for messages.

    Raises:
        ValueError: if there are none, or one has another shape; it says which.
    """

    def __init__(self, parts: Sequence[Any], names: Sequence[str] | None = None):
        self.parts = list(parts)
        names = [f"part {i} of the activations" for i in range(len(self.parts))] if names is None else names
        shapes = [_shape(part, name) for part, name in zip(self.parts, names, strict=True)]
        if not shapes:
            raise ValueError("the activations are an empty list; give at least one array of shape (rows, d_in).")
        for name, shape in zip(names, shapes, strict=True):
            if len(shape) != 2 or shape[1:] != shapes[0][1:]:
                raise ValueError(
                    f"{name} has shape {shape}, and the first {shapes[0]}; each must be (rows, d_in), with one d_in."
                )
        self.starts = np.cumsum([0, *(shape[0] for shape in shapes)]).tolist()
        self.shape = (self.starts[-1], shapes[0][1])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, some: slice) -> Tensor:
        first, last, _ = some.indices(len(self))
        ends = zip(self.parts, self.starts[:-1], self.starts[1:], strict=True)
        return torch.cat([
            _floats(part[max(first - start, 0) : last - start])
            for part, start, end in ends
            if max(first, start) < min(last, end)
        ])  # fmt: skip


def in_one(rows: Any) -> Any:
    """What has a `shape` and gives rows in slices: these, or those of a list one after the other.

    Raises:
        ValueError: if it is neither; it says what to give.
    """
    if isinstance(rows, list | tuple):
        return Shards(rows)
    _shape(rows, "what was given as activations")
    return rows


def _shape(part: Any, name: str) -> tuple[int, ...]:
    if (shape := getattr(part, "shape", None)) is None:
        raise ValueError(
            f"{name} is a {type(part).__name__}; give a tensor or an array of shape (rows, d_in), or a list of such: "
            "np.load(path, mmap_mode='r') reads one from a file, np.array makes one of lists of numbers."
        )
    return tuple(shape)


def _floats(part: Any) -> Tensor:
    """Some rows as a tensor; ValueError if they are no floating-point numbers."""
    if not isinstance(part, Tensor):
        part = np.array(part)  # a copy, of a memory map too
        part = torch.from_numpy(part) if part.dtype.kind == "f" else part
    if not (isinstance(part, Tensor) and part.is_floating_point()):
        raise ValueError(f"the activations are {part.dtype}; they must be floating-point numbers. Convert them first.")
    return part.detach().cpu()


def batches(rows: Any, size: int, dtype: torch.dtype, progress: bool = False) -> Iterator[tuple[int, Tensor]]:
    """The rows, some at a time, with the number of the first.

    Raises:
        ValueError: if they are not floating-point numbers, or one is not finite, with its place.
    """
    from tqdm import tqdm

    with tqdm(total=len(rows), disable=not progress, unit="row", unit_scale=True) as bar:
        for first in range(0, len(rows), size):
            x = _floats(rows[first : first + size])
            if not x.isfinite().all():
                row, column = (~x.isfinite()).nonzero()[0].tolist()
                raise ValueError(f"row {first + row}, column {column} of the activations is not finite; leave it out.")
            yield first, x.to(dtype)
            bar.update(len(x))


def _collect(sae: SAE, config: SAEConfig, rows: Any, draws: int, size: int, seed: int, progress: bool) -> _Sums:
    """One pass over the rows. Activations are few, so products with them are sparse."""
    from scipy.sparse import csr_array

    n, d = sae.W_dec.shape
    gram, cross, chance = np.zeros((n + 1, n + 1)), np.zeros((n + 1, d)), np.zeros((draws, n + 1, d))
    fires, errors = np.zeros(n), np.zeros(len(config.widths))
    power, total = 0.0, np.zeros(d)
    signs = np.random.default_rng(seed)
    for _, x in batches(rows, size, sae.W_dec.dtype, progress):
        acts = sae.encode(x)
        residual = (x - sae.decode(acts)).double().numpy()
        for i, width in enumerate(config.widths):
            errors[i] += float((x - sae.decode(acts, width)).square().sum(dtype=torch.float64))
        dense = torch.cat([acts, acts.new_ones(len(x), 1)], 1).double().numpy()
        sparse = csr_array(dense).T.tocsr()
        gram += sparse @ dense
        cross += sparse @ residual
        for part in chance:
            part += sparse @ (residual * signs.choice([-1.0, 1.0], len(x))[:, None])
        fires += (acts > 0).sum(0).numpy()
        power += float(x.square().sum(dtype=torch.float64))
        total += x.double().sum(0).numpy()
    variance = power - float(total @ total) / len(rows)
    if not variance > 0:
        raise ValueError("all rows are equal; there is nothing to explain.")
    return _Sums(gram, cross, chance, fires, errors, variance)


def memory(latents: int, d_in: int, draws: int = 19) -> float:
    """How much memory `diagnose` takes at its height, in gigabytes, roughly: it holds what every two latents share."""
    return (24 * latents**2 + 8 * (draws + 8) * latents * d_in) / 1e9


def _factor(gram: np.ndarray, ridge: np.ndarray) -> np.ndarray:
    """The upper Cholesky factor of gram + diag(ridge), in the place of `gram`."""
    from scipy.linalg import cholesky

    gram[np.diag_indices_from(gram)] += ridge
    return cholesky(gram.T, overwrite_a=True)  # transposed, as LAPACK takes columns: nothing is copied


def _solve(factor: np.ndarray, right: np.ndarray) -> np.ndarray:
    from scipy.linalg import cho_solve

    return cho_solve((factor, False), right)


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def _across(rows: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """What of each row lies across a unit vector."""
    return rows - (rows * unit).sum(-1, keepdims=True) * unit


def _partners(
    k: int, way: np.ndarray, apart: np.ndarray, W: np.ndarray, D: np.ndarray, gram: np.ndarray
) -> list[Partner]:
    """The later latents whose pull goes most along the movement of latent k."""
    pull = apart * (W @ way)
    chosen = [int(j) for j in np.argsort(-pull)[:3] if pull[j] > 0]

    def cosine(row: np.ndarray, j: int) -> float:
        return float(row @ D[j] / (np.linalg.norm(row) * np.linalg.norm(D[j])))

    return [
        Partner(j, float(gram[k, j] / np.sqrt(gram[k, k] * gram[j, j])), cosine(W[k], j), cosine(D[k], j))
        for j in chosen
    ]


def label_edges(
    sae: SAE, rows: Any, labels: Any, hierarchy: Sequence[int | None], names: Sequence[str] | None = None
) -> list[Edge]:
    """What becomes of labelled parents beside their children, by `metrics.assign` and `metrics.edges`.

    A feature's direction is its coefficient in the least-squares fit of the rows by all labels and a constant, so that
    its magnitude is 1 wherever it is. All activations are held in memory at once.

    Args:
        sae: one SAE.
        rows: activations, shape (rows, d_in), or a list of such.
        labels: shape (rows, features), true or false (or 1 and 0).
        hierarchy: the number of each feature's parent, or None; parents come before their children.
        names: of the features.

    Raises:
        ValueError: if these do not fit, labels hold other values, or one is on no row or on all.
    """
    _refuse_others(sae)
    rows = in_one(rows)
    features, names = _labelled(rows, labels, hierarchy, names)
    x = torch.cat([x for _, x in batches(rows, 1 << 14, torch.float64)])
    design = torch.cat([features, torch.ones(len(x), 1)], 1).double()
    directions = torch.linalg.lstsq(design, x).solution[:-1]
    sae = sae.map(lambda p: p.detach().cpu().double())
    acts, probs = sae.encode(x), torch.full((len(x),), 1 / len(x), dtype=torch.float64)
    latents = metrics.assign(sae, acts, features, probs, directions, hierarchy)
    found = metrics.edges(sae, acts, latents, features, probs, directions, hierarchy)
    written, cosines = sae.W_dec @ torch.linalg.pinv(directions), metrics.decoder_cosines(sae, directions)
    pairs = [(parent, child) for child, parent in enumerate(hierarchy) if parent is not None]
    edges = []
    for e, (parent, child) in enumerate(pairs):
        judged, beside = bool(found.judged[e]), features[:, child] > 0
        share = acts[beside].mean(0) * written[:, parent]
        share[latents[parent]] = 0
        values = {key: float(getattr(found, key)[e]) for key in ("recall_with", "recall_without", "gap", "partial")}
        toward = {"cosine": child, "own": parent}
        shown: dict[str, Any] = {key: None if value != value or not judged else value for key, value in values.items()}
        edges.append(
            Edge(
                names[parent], names[child], int(latents[parent]) if judged else None, int(beside.sum()),
                carrier=int(share.argmax()) if judged and share.max() > 0 else None, **shown,
                **{key: float(cosines[latents[parent], to]) if judged else None for key, to in toward.items()},
            )
        )  # fmt: skip
    return edges


def _labelled(
    rows: Any, labels: Any, hierarchy: Sequence[int | None], names: Sequence[str] | None
) -> tuple[Float[Tensor, "rows features"], list[str]]:
    """The labels as numbers and the features' names, after all that can be wrong with them was looked at."""
    if isinstance(hierarchy, str | Mapping) or not isinstance(hierarchy, Iterable):
        raise ValueError(
            f"hierarchy is a {type(hierarchy).__name__}; give a list with the number of each feature's parent, or "
            "None, such as [None, 0]; and the names as names."
        )
    for parent in hierarchy:
        if parent is not None:
            whole("hierarchy", parent)
    # A copy, as what a file gave may be read-only.
    given = labels if isinstance(labels, Tensor) else np.array(labels)
    if not isinstance(given, Tensor) and given.dtype.kind not in "biuf":
        raise ValueError(f"labels are {given.dtype}; they must be true or false (or 1 and 0).")
    table = given if isinstance(given, Tensor) else torch.from_numpy(given)
    if table.ndim != 2 or len(table) != len(rows) or table.shape[1] != len(hierarchy):
        raise ValueError(
            f"labels have shape {tuple(table.shape)} and the hierarchy {len(hierarchy)} entries; for {len(rows)} rows "
            f"they must be ({len(rows)}, features) and one entry a feature: the number of its parent, or None."
        )
    if not ((table == 0) | (table == 1)).all():
        raise ValueError("labels must be true or false (or 1 and 0) for each row and feature.")
    features = table.detach().cpu().double()
    names = [f"feature {i}" for i in range(len(hierarchy))] if names is None else list(names)
    if len(names) != len(hierarchy):
        raise ValueError(f"{len(names)} names were given for {len(hierarchy)} features; give one for each.")
    for i, (name, parent) in enumerate(zip(names, hierarchy, strict=True)):
        if not 0 < int(features[:, i].sum()) < len(features):
            raise ValueError(f"{name} is on {int(features[:, i].sum())} of {len(features)} rows; leave it out.")
        if parent is not None and not 0 <= parent < i:
            raise ValueError(f"the parent of {name} has number {parent}; parents must come before their children.")
        if parent is not None and (features[:, i] > features[:, parent]).any():
            raise ValueError(f"{name} is on rows where its parent {names[parent]} is not; a child implies its parent.")
    return features, names
