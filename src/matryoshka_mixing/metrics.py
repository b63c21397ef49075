"""What an SAE learned, measured against the true features. Pure functions of tensors; leading axes are instances."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from matryoshka_mixing._checks import several, whole
from matryoshka_mixing.features import FeatureTree, States
from matryoshka_mixing.sae import SAE

if TYPE_CHECKING:
    import pandas

SILENT = 1e-6
"""An activation at most this large counts as zero (our default; features fire at about 1)."""
STANDS = 0.5
"""Cosine from which a latent stands for a feature, wherever it fires (our default)."""


def decoder_cosines(
    sae: SAE, dictionary: Float[Tensor, "*#instances features d_in"]
) -> Float[Tensor, "*instances d_sae features"]:
    """Cosine of each latent's decoder row with each true feature, in [-1, 1]; a zero row gives 0."""
    return normalize(sae.W_dec, dim=-1) @ normalize(dictionary.to(sae.W_dec), dim=-1).mT


def encoder_cosines(
    sae: SAE, dictionary: Float[Tensor, "*#instances features d_in"]
) -> Float[Tensor, "*instances d_sae features"]:
    """Cosine of each latent's encoder column with each true feature, in [-1, 1].

    Encoder parts outside the span of the features never see an input and stay where they started, so they are
    left out before the cosine is taken.
    """
    dictionary = dictionary.to(sae.W_enc)
    within = sae.W_enc.mT @ torch.linalg.pinv(dictionary) @ dictionary
    return normalize(within, dim=-1) @ normalize(dictionary, dim=-1).mT


def match(
    cosines: Float[Tensor, "*instances d_sae features"], fires: Bool[Tensor, "*instances d_sae"] | None = None
) -> Int[Tensor, "*instances features"]:
    """The latent of each feature: the one-to-one assignment with the largest sum of absolute cosines.

    Absolute, because a latent may stand for its feature with the opposite sign: where the decoder bias carries
    the feature, its latent takes it away again. Features without a latent get -1. (Kuhn 1955, through SciPy.)

    Args:
        cosines: from `decoder_cosines`, or any score of at least 0.
        fires: which latents are live, from `live`; dead ones stand for nothing. All of them, if None.
    """
    from scipy.optimize import linear_sum_assignment  # here, as importing it takes a third of a second

    scores = cosines.abs() if fires is None else torch.where(fires[..., None], cosines.abs() + 1, 0.0)
    flat = scores.reshape(-1, *scores.shape[-2:])
    found = torch.full((len(flat), flat.shape[-1]), -1)
    for i, table in enumerate(flat.cpu().numpy()):
        latents, features = linear_sum_assignment(table, maximize=True)
        found[i, features] = torch.from_numpy(latents)
    found = found.reshape(*cosines.shape[:-2], cosines.shape[-1])
    if fires is not None:
        found[~fires.expand(cosines.shape[:-1]).gather(-1, found.clamp_min(0))] = -1
    return found


@dataclass(frozen=True)
class Mixing:
    """Decoder cosines between a feature's latent and features that it should not hold. Last axis: the pairs.

    Pairs of parent and child are in the order of the children's numbers, those of siblings in that of the first, then
    of the second. Where features are not orthogonal, a perfect SAE has their own cosines.

    In `Reading.mixing` the latent of a feature is the one that `match` finds, by absolute cosine and whatever it fires
    on: a feature that no latent holds may get one that is left over. `Reading.assigned` goes by what latents do.

    Attributes:
        own: each feature's latent with the feature itself, shape `(*instances, features)`; NaN without a latent.
        parent_to_child: a parent's latent with each of its children.
        child_to_sibling: a child's latent with each of its siblings.
        child_to_parent: a child's latent with its parent.
    """

    own: Float[Tensor, "*instances features"]
    parent_to_child: Float[Tensor, "*instances pc"]
    child_to_sibling: Float[Tensor, "*instances cs"]
    child_to_parent: Float[Tensor, "*instances cp"]


def _checked(parents: Sequence[int | None] | FeatureTree, features: int) -> list[int | None]:
    """The parents of so many features, each before its children."""
    given = parents.parents() if isinstance(parents, FeatureTree) else parents
    each = several("parents", given, "one entry a feature, such as tree.parents()")
    found = [None if parent is None else whole("parents", parent) for parent in each]
    wrong = next((i for i, parent in enumerate(found) if parent is not None and not 0 <= parent < i), None)
    if wrong is not None or len(found) != features:
        why = f"{len(found)} for {features} features" if wrong is None else f"{found[wrong]} for feature {wrong}"
        raise ValueError(
            f"parents hold {why}; give one entry a feature: None where it has no parent, else its parent's number. "
            "Parents come before their children, as from FeatureTree.parents()."
        )
    return found


def mixing(
    cosines: Float[Tensor, "*instances d_sae features"],
    latents: Int[Tensor, "*instances features"],
    parents: Sequence[int | None] | FeatureTree,
) -> Mixing:
    """The three mixings of a family or tree; pairs whose latent is missing are NaN.

    Args:
        cosines: from `decoder_cosines`.
        latents: from `match`.
        parents: from `FeatureTree.parents`: the number of each feature's parent, which comes before it, or None; or
            the tree.

    Raises:
        ValueError: if the parents are none, or not of so many features.
    """
    parents = _checked(parents, cosines.shape[-1])
    features = range(len(parents))
    rows = cosines.gather(-2, latents.clamp_min(0)[..., None].expand(*latents.shape, len(parents)))
    rows = torch.where(latents[..., None] >= 0, rows, torch.nan)

    def pairs(chosen: list[tuple[int, int]]) -> Tensor:
        return torch.stack([rows[..., i, j] for i, j in chosen], -1) if chosen else rows[..., 0, :0]

    return Mixing(
        own=rows.diagonal(dim1=-2, dim2=-1),
        parent_to_child=pairs([(p, c) for c, p in enumerate(parents) if p is not None]),
        child_to_sibling=pairs(
            [(i, j) for i in features for j in features if i != j and parents[i] == parents[j] is not None]
        ),
        child_to_parent=pairs([(c, p) for c, p in enumerate(parents) if p is not None]),
    )


def labelled(
    cosines: Float[Tensor, "*instances d_sae features"],
    latents: Int[Tensor, "*instances features"],
    tree: FeatureTree | Sequence[int | None],
) -> pandas.DataFrame:
    """What each feature's latent holds of every feature, one row a pair, with their names and how they are related.

    The columns: `instance` (its place among all), `latent` (its number), `stands_for`, `feature`, `relation` of the
    feature to the one that the latent stands for ("itself", "child", "grandchild", "parent", "grandparent",
    "descendant" and "ancestor" beyond these, "sibling" or "unrelated"), and `cosine`. A feature without a latent (-1)
    has no rows. Arguments as for `mixing`; features of which parents alone are given are named by their numbers.
    """
    import pandas  # here, as all else does without

    parents = _checked(tree, cosines.shape[-1])
    names = tree.names if isinstance(tree, FeatureTree) else [f"feature {i}" for i in range(len(parents))]

    def above(feature: int) -> list[int]:
        parent = parents[feature]
        return [] if parent is None else [parent, *above(parent)]

    def relation(own: int, other: int) -> str:
        if own == other:
            return "itself"
        if own in above(other):
            return ("child", "grandchild", "descendant")[min(above(other).index(own), 2)]
        if other in above(own):
            return ("parent", "grandparent", "ancestor")[min(above(own).index(other), 2)]
        return "sibling" if parents[own] == parents[other] is not None else "unrelated"

    rows = []
    for instance, (table, chosen) in enumerate(
        zip(cosines.reshape(-1, *cosines.shape[-2:]), latents.reshape(-1, latents.shape[-1]), strict=True)
    ):
        for own, latent in enumerate(chosen.tolist()):
            for other in range(len(names) if latent >= 0 else 0):
                cosine = float(table[latent, other])
                rows.append((instance, latent, names[own], names[other], relation(own, other), cosine))
    return pandas.DataFrame(rows, columns=["instance", "latent", "stands_for", "feature", "relation", "cosine"])


def live(acts: Float[Tensor, "*instances states d_sae"]) -> Bool[Tensor, "*instances d_sae"]:
    """Whether each latent fires on any state; one that does not is dead."""
    return (acts > SILENT).any(-2)


def assign(
    sae: SAE,
    acts: Float[Tensor, "*instances states d_sae"],
    features: Float[Tensor, "*#instances states features"],
    probs: Float[Tensor, "*#instances states"],
    dictionary: Float[Tensor, "*#instances features d_in"],
    parents: Sequence[int | None] | FeatureTree,
) -> Int[Tensor, "*instances features"]:
    """The latent of each feature by what it does: first by firing, then by absolute cosine. One to one, as in `match`.

    As many features as possible get a live latent that points toward them, fires wherever they do, and nowhere outside
    of their family (the inputs of their topmost ancestor). A latent stands for a feature only if it points toward it
    and either fires so or has a cosine of at least `STANDS`; or if it is a *complement*: its cosine is at most
    `-STANDS` and the decoder bias holds at least half of the feature's mean magnitude, so that the latent takes the
    feature away where it is absent. Where none does the feature gets -1. `match` goes by cosines alone: it may give a
    child a latent that takes it away, and a parent the latent that takes it away beside a loud child.

    Arguments and errors as for `edges`.
    """
    parents = _checked(parents, features.shape[-1])
    seen = (probs > 0)[..., None]
    present, fires = (features > 0) & seen, (acts > SILENT) & seen
    top = list(range(len(parents)))
    for feature, parent in enumerate(parents):  # parents come before their children
        top[feature] = feature if parent is None else top[parent]

    def never(these: Tensor, those: Tensor) -> Tensor:
        return these.mT.float() @ those.float() == 0  # sums of ones and zeros, so that none is 0 by rounding

    cosines = decoder_cosines(sae, dictionary)
    with_it = never(~fires & seen, present) & never(fires, ~present[..., top] & seen)
    size = (probs[..., None] * features).sum(-2) / (probs[..., None] * present).sum(-2)
    bias = (sae.b_dec.unsqueeze(-2) @ _inverse(dictionary.to(sae.b_dec))).squeeze(-2)
    complement = (cosines <= -STANDS) & (bias >= size / 2).unsqueeze(-2)
    is_parent = torch.tensor([feature in parents for feature in range(len(parents))])
    stands = ((cosines > 0) & (with_it | (cosines >= STANDS))) | complement
    certain = ((cosines > 0) & with_it) | (complement & never(fires, present) & is_parent)
    worth = len(parents) + 1.0  # one more of these is worth more than any cosines
    taken = stands | ~is_parent  # a leaf keeps a latent that leads toward it a little from being its parent's
    latents = match(torch.where(taken, cosines.abs() + worth * certain, 0.0), live(acts))
    held = stands.gather(-2, latents.clamp_min(0).unsqueeze(-2)).squeeze(-2)
    return torch.where(held, latents, -1)


@dataclass(frozen=True)
class Edges:
    """What becomes of each parent on the inputs on which it and one of its children fire.

    The last axis of every tensor is the pairs of a parent and its child, in the order of `Mixing.parent_to_child`.
    Shares lie in [0, 1] and are of the probability of those inputs. They are NaN where an edge cannot be judged: the
    parent is *missing*, or the two never fire together. See `edges` for the formulas.

    Attributes:
        represented: share on which the parent's latent fires, or, if it is a complement, stays silent.
        carried: share on which it does not, and other latents write at least half of the parent's magnitude.
        partial: how much of the parent other latents write, even where its own latent still fires a little.
        recall_without: share of the parent's inputs *without* this child on which it is represented; NaN if there are
            none.
        missing: whether the parent is represented on no input at all; no share is then meant.
        complement: whether the parent's latent takes it away where it is absent, the decoder bias holding it.
        weight: probability that parent and child fire together.
    """

    represented: Float[Tensor, "*instances pairs"]
    carried: Float[Tensor, "*instances pairs"]
    partial: Float[Tensor, "*instances pairs"]
    recall_without: Float[Tensor, "*instances pairs"]
    missing: Bool[Tensor, "*instances pairs"]
    complement: Bool[Tensor, "*instances pairs"]
    weight: Float[Tensor, "*instances pairs"]

    @property
    def silent(self) -> Float[Tensor, "*instances pairs"]:
        """Share on which the parent is not represented; what of it is not `carried` is lost."""
        return 1 - self.represented

    @property
    def recall_with(self) -> Float[Tensor, "*instances pairs"]:
        """Share of the parent's inputs *with* this child on which it is represented: `represented` by another name."""
        return self.represented

    @property
    def gap(self) -> Float[Tensor, "*instances pairs"]:
        """`recall_without - recall_with`, in [-1, 1]: above 0 where the child silences the parent's latent."""
        return self.recall_without - self.recall_with

    @property
    def judged(self) -> Bool[Tensor, "*instances pairs"]:
        """Whether the edge can be judged; its mean is the share of edges that can."""
        return ~self.represented.isnan()

    def mean(self, share: Float[Tensor, "*instances pairs"]) -> Float[Tensor, "*instances"]:
        """The mean of one of the shares over the edges that have it, by their weight; NaN where none has."""
        weight = torch.where(share.isnan(), 0, self.weight)
        return (weight * share.nan_to_num()).sum(-1) / weight.sum(-1)


def edges(
    sae: SAE,
    acts: Float[Tensor, "*instances states d_sae"],
    latents: Int[Tensor, "*instances features"],
    features: Float[Tensor, "*#instances states features"],
    probs: Float[Tensor, "*#instances states"],
    dictionary: Float[Tensor, "*#instances features d_in"],
    parents: Sequence[int | None] | FeatureTree,
) -> Edges:
    """What becomes of each parent beside each of its children: the one definition of absorption.

    Let k be the parent's latent, from `assign`, and a the parent's magnitude on an input. Of every decoder row the
    part along the parent is its coefficient of the parent's direction (W_dec @ pinv(dictionary)); times its activation
    it is what the latent *writes* of the parent. With *others* the sum over all latents but k, and *all* the sum over
    all latents and the decoder bias,

        represented   k fires (a complement: k is silent)
        carried       not represented, and others >= a / 2
        partial       others / max(all, a / 2), clipped to [0, 1]

    each averaged over the inputs on which parent and child fire. An L1 penalty shrinks `others` and `all` alike, and
    leaves `partial` where it is; where nobody writes the parent nothing is absorbed, and the parent is lost. `partial`
    is 1 wherever a parent is carried and its own latent silent, and counts in part where a small firing is left.
    After Chanin et al. 2024 (arXiv 2409.14507), who ask for a silent latent and another one that holds its direction.

    Args:
        sae: the SAEs, of any activation.
        acts: activations of their latents on every state, or on sampled inputs.
        latents: from `assign`.
        features: activations of the true features on the same inputs; they and `probs` may have leading axes as well.
        probs: probability of each state; 1 / n for n sampled inputs.
        dictionary: the true directions. Where they are linearly dependent, a row has no coefficients, and no edge can
            be judged: as a parent that is missing.
        parents: as for `mixing`.

    Raises:
        ValueError: as `mixing`.
    """
    parents = _checked(parents, features.shape[-1])
    inverse = _inverse(dictionary.to(sae.W_dec))
    parts, bias = sae.W_dec @ inverse, (sae.b_dec.unsqueeze(-2) @ inverse).squeeze(-2)
    signs = decoder_cosines(sae, dictionary)
    columns: list[list[Tensor]] = []
    for child, parent in enumerate(parents):
        if parent is None:
            continue
        k, part, size = latents[..., parent, None], parts[..., parent], features[..., parent]
        own = acts.gather(-1, k.clamp_min(0).unsqueeze(-2).expand(*acts.shape[:-1], 1)).squeeze(-1)
        complement = signs[..., parent].gather(-1, k.clamp_min(0)) < 0
        shown = ((own > SILENT) ^ complement) & (k >= 0)
        every = (acts @ part.unsqueeze(-1)).squeeze(-1)
        others = every - own * part.gather(-1, k.clamp_min(0))
        held = torch.maximum(every + bias[..., parent, None], size / 2)
        partial = torch.where(size > 0, others / held, 0).clamp(0, 1)
        alone, beside = (probs * (size > 0) * there for there in (features[..., child] <= 0, features[..., child] > 0))
        weight, missing = beside.sum(-1), ~(shown & (alone + beside > 0)).any(-1) | part.isnan().any(-1)
        fits = (shown, ~shown & (others >= size / 2), partial)
        shares = [(beside * fit).sum(-1) / weight for fit in fits] + [(alone * shown).sum(-1) / alone.sum(-1)]
        columns.append(
            [share.masked_fill(missing, torch.nan) for share in shares]
            + [missing, complement.squeeze(-1) & ~missing, weight.expand(missing.shape)]
        )
    if not columns:
        none = acts.new_zeros(*acts.shape[:-2], 0)
        return Edges(none, none, none, none, none.bool(), none.bool(), none)
    return Edges(*(torch.stack(column, -1) for column in zip(*columns, strict=True)))


def _inverse(dictionary: Float[Tensor, "*instances features d_in"]) -> Float[Tensor, "*instances d_in features"]:
    """What takes a row to its coefficients of the directions; NaN where they are linearly dependent."""
    independent = torch.linalg.matrix_rank(dictionary, rtol=1e-6) == dictionary.shape[-2]
    return torch.where(independent[..., None, None], torch.linalg.pinv(dictionary), torch.nan)


def each_its_own(
    acts: Float[Tensor, "*instances states d_sae"],
    latents: Int[Tensor, "*instances features"],
    features: Float[Tensor, "states features"],
) -> Bool[Tensor, "*instances"]:
    """Whether every feature's latent fires on all inputs that hold the feature, and on no others.

    The theory assumes it. False where a feature has no latent.

    Args:
        acts: activations of the latents on every state.
        latents: from `match`.
        features: activations of the true features on the same states.
    """
    right = firing(acts, latents) == (features > 0)
    return right.all(-2).all(-1) & (latents >= 0).all(-1)


def firing(
    acts: Float[Tensor, "*instances states d_sae"],
    latents: Int[Tensor, "*instances features"],
) -> Bool[Tensor, "*instances states features"]:
    """Whether each feature's latent fires on each state; where a feature has none, the first latent stands in."""
    index = latents.clamp_min(0).unsqueeze(-2).expand(*acts.shape[:-1], latents.shape[-1])
    return acts.gather(-1, index) > SILENT


@dataclass(frozen=True)
class Basin:
    """One distinct solution that seeds reached.

    Attributes:
        loss: its loss.
        live: how many of its latents fire.
        seeds: the instances that ended there.
        share: their share of all instances.
    """

    loss: float
    live: int
    seeds: list[int]
    share: float


def same_loss(
    loss: Float[Tensor, "*shape"], other: Float[Tensor, "*#shape"] | float, power: Float[Tensor, "*#shape"] | float
) -> Bool[Tensor, "*shape"]:
    """Whether two losses are the same solution's: they differ by at most 1e-4 (our default) of E||x||^2, `power`."""
    return (loss - other).abs() <= 1e-4 * power


def basins(loss: Float[Tensor, " seeds"], live_latents: Bool[Tensor, "seeds d_sae"], power: float) -> list[Basin]:
    """Groups seeds that reached the same loss with as many live latents; lowest loss first.

    What counts as the same is said in `same_loss`; `power` is E||x||^2 of the data. Solutions that are mirror images
    (siblings swapped) share a loss, and so a basin.
    """
    alive = live_latents.sum(-1)
    return grouped(loss, alive, lambda a, b: bool(alive[a] == alive[b]) and bool(same_loss(loss[a], loss[b], power)))


def grouped(loss: Tensor, alive: Tensor, same: Callable[[int, int], bool]) -> list[Basin]:
    """Seeds in the order of their loss, each with the first that it is the same as."""
    groups: list[list[int]] = []
    for seed in torch.argsort(loss, stable=True).tolist():
        mine = next((group for group in groups if same(seed, group[0])), None)
        if mine is None:
            groups.append(mine := [])
        mine.append(seed)
    return [Basin(float(loss[g[0]]), int(alive[g[0]]), sorted(g), len(g) / len(loss)) for g in groups]


@dataclass(frozen=True)
class Reading:
    """Everything the chapters ask of trained SAEs, on every state of their data; see `read`.

    Attributes:
        decoder, encoder: cosines with the true features.
        acts: activations on every state.
        live: which latents fire on any.
        latents: the latent of each feature by cosine, from `match`.
        mixing: the decoder cosines of these, so of latents matched by absolute cosine.
        assigned: the latent of each feature by what it does, from `assign`.
        edges: what becomes of parents beside their children, by `assigned`.
    """

    decoder: Float[Tensor, "*instances d_sae features"]
    encoder: Float[Tensor, "*instances d_sae features"]
    acts: Float[Tensor, "*instances states d_sae"]
    live: Bool[Tensor, "*instances d_sae"]
    latents: Int[Tensor, "*instances features"]
    mixing: Mixing
    assigned: Int[Tensor, "*instances features"]
    edges: Edges

    @property
    def all_live(self) -> Bool[Tensor, "*instances"]:
        """Whether no latent of the SAE is dead."""
        return self.live.all(-1)

    @property
    def absorption(self) -> Float[Tensor, "*instances"]:
        """Absorption in one number from 0 to 1, how much of parents other latents write beside a child.

        The mean of `Edges.partial` over the edges that can be judged, by weight; NaN where none can.
        """
        return self.edges.mean(self.edges.partial)


def read(
    sae: SAE,
    states: States | Sequence[States],
    dictionary: Float[Tensor, "*#instances features d_in"],
    parents: Sequence[int | None] | FeatureTree,
) -> Reading:
    """Measure SAEs against the truth: cosines, activations, live latents, matching, mixing, absorption.

    Args:
        sae: parameters with any leading axes.
        states: the data, of all; or, for a sweep, those of each setting, with as many states each. The parameters' axes
            are then (settings, seeds). A tree whose states cannot be listed is read on samples:
            `States(tree.sample(n, 0), torch.full((n,), 1 / n))`.
        dictionary: the true directions, of all instances or of each seed its own; a tensor or an array. Where features
            are not orthogonal, the mixing of a perfect SAE is their own cosine. Where they are linearly dependent, such
            as more features than dimensions, the edges cannot be judged and are NaN.
        parents: for each feature the number of its parent, which comes before it, or None, as from
            `FeatureTree.parents`; or the tree.

    Raises:
        ValueError: naming what is none of these, or does not fit the others.
    """
    if not isinstance(sae, SAE):
        raise ValueError(f"sae is of type {type(sae).__name__}; give an SAE, of a run `run.sae` or `run.sae[0]`.")
    each = [states] if isinstance(states, States) else states
    if not isinstance(each, Sequence) or not each or not all(isinstance(some, States) for some in each):
        raise ValueError(
            f"states are of type {type(states).__name__}; give States, such as tree.states(), or a list with those of "
            "each setting. Samples of a tree are States(tree.sample(n, 0), torch.full((n,), 1 / n))."
        )
    axes, shapes = sae.instances, [tuple(some.acts.shape) for some in each]
    if each is states and (len(axes) != 2 or len(each) not in (1, axes[0]) or len(set(shapes)) > 1):
        raise ValueError(
            f"states are given for {len(each)} settings, of shapes {shapes}; for SAEs with the axes {axes} give one "
            "States, or alike ones for each setting of (settings, seeds)."
        )
    if dictionary is None:
        raise ValueError(
            "dictionary is None; give the direction of each feature, or the identity where inputs have none."
        )
    dictionary = torch.as_tensor(dictionary, dtype=torch.float64).detach().cpu()
    own, wanted = dictionary.shape[:-2], (shapes[0][1], sae.b_dec.shape[-1])
    of_seeds = len(own) == 1 and len(axes) == 2
    fits = dictionary.shape[-2:] == wanted and (of_seeds or len(own) in (0, len(axes)))
    if not fits or any(a not in (1, b) for a, b in zip(own, axes[len(axes) - len(own) :], strict=True)):
        raise ValueError(
            f"the dictionary has shape {tuple(dictionary.shape)}; for {wanted[0]} features and d_in {wanted[1]} it "
            f"must be {wanted}, with or without leading axes that fit those of the SAEs, {axes}."
        )
    if broken := [name for name, value in sae.parameters.items() if not value.isfinite().all()]:
        raise ValueError(
            f"the SAE's {', '.join(broken)} hold values that are not finite; its training must have failed."
        )
    if not dictionary.isfinite().all():
        raise ValueError("the dictionary holds values that are not finite.")
    parents = _checked(parents, wanted[0])
    if isinstance(states, States) and not of_seeds:
        features, probs = states.acts, states.probs
    else:
        each = each if len(each) > 1 else [each[0]] * len(sae)
        features = torch.stack([setting.acts for setting in each])[:, None]
        probs = torch.stack([setting.probs for setting in each])[:, None]
    sae = sae.map(lambda p: p.detach().cpu().double())
    decoder = decoder_cosines(sae, dictionary)
    acts = sae.encode(features @ dictionary, probs)
    fires = live(acts)
    latents = match(decoder, fires)
    seen = features, probs, dictionary, parents
    assigned = assign(sae, acts, *seen)
    return Reading(
        decoder=decoder,
        encoder=encoder_cosines(sae, dictionary),
        acts=acts,
        live=fires,
        latents=latents,
        mixing=mixing(decoder, latents, parents),
        assigned=assigned,
        edges=edges(sae, acts, assigned, *seen),
    )
