"""The toy model: a tree of features, its finitely many states, and samples from it.

A feature fires only if its parent fires. A *state* is one distinct input: a vector of feature activations with
its probability, so that every expectation over the data is an exact finite sum.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, SupportsIndex

import torch
from jaxtyping import Float
from torch import Tensor

from matryoshka_mixing import _random, plain
from matryoshka_mixing._checks import flag, number, seed_numbers, whole
from matryoshka_mixing._commands import write_text

STATE_LIMIT = 1 << 16
"""How many states `FeatureTree.states` enumerates at most, unless told otherwise (our default)."""
DEEPEST = 32
"""Levels that a tree file may have at most (our default)."""
MOST_NODES = 10_000
"""Nodes that a tree file may have at most (our default)."""
LOUDEST = 1e6
"""The largest magnitude in a tree file (our default); squares of much larger ones overflow."""


@dataclass(frozen=True, eq=False)
class States:
    """Every distinct input of a toy model, with its probability; or rows of real activations, with theirs.

    Attributes:
        acts: activation of each feature in each state, shape (states, features).
        probs: probability of each state, shape (states,), summing to 1.

    Raises:
        ValueError: if lengths do not fit, a value is not finite, or the probabilities are none.
    """

    acts: Float[Tensor, "states features"]
    probs: Float[Tensor, " states"]

    def __post_init__(self) -> None:
        for name in ("acts", "probs"):
            object.__setattr__(self, name, torch.as_tensor(getattr(self, name), dtype=torch.float64).detach().cpu())
        if self.acts.ndim != 2 or self.probs.shape != self.acts.shape[:1] or not len(self.probs):
            raise ValueError(
                f"acts have shape {tuple(self.acts.shape)} and probs {tuple(self.probs.shape)}; they must be "
                "(states, features) and (states,), with at least one state."
            )
        if not self.acts.isfinite().all():
            raise ValueError("acts hold values that are not finite.")
        total = float(self.probs.sum())
        if not (self.probs >= 0).all() or not abs(total - 1) < 1e-6:
            raise ValueError(
                f"probs sum to {total:.8g}, the smallest is {float(self.probs.min()):.3g}; they must be at least 0 and "
                "sum to 1. Divide them by their sum."
            )

    def inputs(self, dictionary: Float[Tensor, "*seeds features d_model"]) -> Float[Tensor, "*seeds states d_model"]:
        """The inputs x = acts @ dictionary that an SAE sees."""
        dictionary = dictionary if dictionary.is_floating_point() else dictionary.double()
        return self.acts.to(dictionary) @ dictionary

    @property
    def power(self) -> float:
        """E||x||^2 for orthonormal directions, which is what reconstructing nothing costs."""
        return float((self.probs[:, None] * self.acts.square()).sum())

    def __len__(self) -> int:
        return len(self.probs)


@dataclass(frozen=True)
class FeatureTree:
    """One feature and everything below it; the root is usually a mere container (`is_read_out=False`).

    Compatible with the `tree.json` of noanabeshima/matryoshka-saes. There, the probabilities of exclusive
    children are weights of one draw and sum to 1 with a dummy child for "none"; here they may sum to less
    than 1, and what is missing is "none". Files whose exclusive children sum to 1 mean the same in both.

    Attributes:
        active_prob: probability that the feature fires given that its parent fires, in [0, 1].
        children: the features below it, as a sequence; a tree itself is none, as it stands for all its nodes.
        mutually_exclusive_children: at most one child fires (else the children are independent).
        is_read_out: whether the feature has a direction of its own in the input.
        magnitude_mean: activation when it fires, on average before it is clipped at 0; any non-negative number.
        magnitude_std: standard deviation of that activation (normal, before it is clipped); 0 = always the mean.
        id: a name for messages and figures.

    Raises:
        ValueError: for a value outside its range, naming the node and what is allowed.
    """

    active_prob: float
    children: tuple[FeatureTree, ...] = ()
    mutually_exclusive_children: bool = False
    is_read_out: bool = True
    magnitude_mean: float = 1.0
    magnitude_std: float = 0.0
    id: str | None = field(default=None)

    def __post_init__(self) -> None:
        if self.id is not None and not isinstance(self.id, str):
            raise ValueError(f"a feature has id {repr(self.id)[:80]}; it must be text, or None.")
        name = f"feature {self.id!r}" if self.id else "a feature"
        for key in ("active_prob", "magnitude_mean", "magnitude_std"):
            object.__setattr__(self, key, float(number(f"{key} of {name}", getattr(self, key))))
        for key in ("mutually_exclusive_children", "is_read_out"):
            object.__setattr__(self, key, flag(f"{key} of {name}", getattr(self, key)))
        given: Any = self.children
        alone = isinstance(given, FeatureTree) or not isinstance(given, Iterable)  # a tree would yield all its nodes
        object.__setattr__(self, "children", () if alone else tuple(given))
        if alone or not all(isinstance(child, FeatureTree) for child in self.children):
            raise ValueError(
                f"{name} has children {repr(given)[:80]}; they must be a sequence of FeatureTree. Write (child,), with "
                "its comma, where there is one."
            )
        if not 0 <= self.active_prob <= 1:
            raise ValueError(
                f"{name} has active_prob {self.active_prob}; a probability must lie in [0, 1]. "
                "Give the probability that it fires given that its parent fires."
            )
        for key in ("magnitude_mean", "magnitude_std"):
            value = getattr(self, key)
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} has {key} {value}; it must be a finite number of at least 0.")
        total = sum(child.active_prob for child in self.children)
        if self.mutually_exclusive_children and total > 1 + 1e-9:
            raise ValueError(
                f"{name} has {len(self.children)} mutually exclusive children whose probabilities sum to "
                f"{total:g}; at most 1 is possible. Lower them to {part_of_one(len(self.children)):g} each or less, "
                "or make the children independent."
            )

    def __iter__(self) -> Iterator[FeatureTree]:
        """All nodes, parents before their children (the order in which features are numbered)."""
        yield self
        for child in self.children:
            yield from child

    @property
    def n_features(self) -> int:
        """Number of features with a direction of their own."""
        return sum(node.is_read_out for node in self)

    @property
    def names(self) -> list[str]:
        """The name of every feature (its `id`, or its number)."""
        return [node.id or f"feature {i}" for i, (node, *_) in enumerate(self._read_out())]

    def parents(self) -> list[int | None]:
        """For each feature the number of its nearest read-out ancestor, or None."""
        return [above for _, above, _ in self._read_out()]

    def firing_probabilities(self) -> Float[Tensor, " features"]:
        """How often each feature is active, in [0, 1], without listing states: a product along the path from the root.

        Each node above contributes its `active_prob`, the feature itself also the chance that its magnitude is above 0.
        """
        found = [fires * node.loud_probability for node, _, fires in self._read_out()]
        return torch.tensor(found, dtype=torch.float64)

    def _read_out(self) -> list[tuple[FeatureTree, int | None, float]]:
        """Each feature: its node, its nearest read-out ancestor, and how likely all nodes down to it are active."""
        found: list[tuple[FeatureTree, int | None, float]] = []

        def visit(node: FeatureTree, above: int | None, fires: float) -> None:
            fires = fires * node.active_prob
            if node.is_read_out:
                found.append((node, above, fires))
                above = len(found) - 1
            for child in node.children:
                visit(child, above, fires)

        visit(self, None, 1.0)
        return found

    @property
    def loud_probability(self) -> float:
        """The chance that the magnitude is above 0, which is below 1 where it varies and is clipped."""
        if self.magnitude_std == 0:
            return float(self.magnitude_mean > 0)
        return 0.5 * math.erfc(-self.magnitude_mean / (self.magnitude_std * 2**0.5))

    def by_level(self) -> list[int]:
        """The features in the order of their depth: all without a parent, then their children, and so on.

        Features are numbered depth first, but a prefix of a Matryoshka SAE should hold a level whole: pass it as
        `order` to `start_near` where the latents are to learn the levels one after the other.
        """
        depth: list[int] = []
        for parent in self.parents():
            depth.append(0 if parent is None else depth[parent] + 1)
        return sorted(range(len(depth)), key=depth.__getitem__)

    def count_states(self) -> int:
        """Upper bound on the number of states (before equal ones are merged), without enumerating them."""
        return max(1, self._count_firing() + (self.active_prob < 1))

    def can_list(self, limit: int = STATE_LIMIT) -> bool:
        """Whether `states` can list them all: magnitudes do not vary, and there are at most `limit`."""
        return self.count_states() <= limit and not any(node.is_read_out and node.magnitude_std for node in self)

    def _count_firing(self) -> int:
        """States of this subtree in which this feature fires; one of which nothing is read out has none of its own."""
        if self.active_prob == 0 or not any(node.is_read_out for node in self):
            return 0
        if self.mutually_exclusive_children:
            return 1 + sum(child._count_firing() for child in self.children)
        return math.prod(child.count_states() for child in self.children)

    def states(self, limit: int = STATE_LIMIT) -> States:
        """All states with their probabilities, equal ones merged, in float64.

        Raises:
            ValueError: if there may be more than `limit` states, magnitudes vary (infinitely many), or no feature is
                read out.
        """
        self._refuse_empty()
        varying = [node for node in self if node.is_read_out and node.magnitude_std > 0]
        if varying:
            raise ValueError(
                f"{len(varying)} feature(s) have magnitude_std > 0, so the tree has infinitely many states. "
                "Use sample(), or set magnitude_std to 0."
            )
        if (count := self.count_states()) > limit:
            raise ValueError(
                f"the tree has up to {count} states, more than the limit of {limit}. "
                f"Use sample(), or raise the limit with states(limit={count})."
            )
        acts, probs = self._enumerate()
        acts, where = torch.unique(acts, dim=0, return_inverse=True)
        merged = torch.zeros(len(acts), dtype=torch.float64).index_add_(0, where, probs)
        return States(acts[merged > 0], merged[merged > 0])

    def _refuse_empty(self) -> None:
        if not self.n_features:
            raise ValueError("no feature of the tree is read out, so it has no inputs; set is_read_out where one is.")

    def _enumerate(self) -> tuple[Tensor, Tensor]:
        """States of this subtree given that its parent fires, the silent one first; columns as its features."""
        if self.active_prob == 0 or not self.n_features:
            return torch.zeros(1, self.n_features, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
        tables = [child._enumerate() for child in self.children]
        if self.mutually_exclusive_children:
            acts, probs = _exclusive(tables)
        else:
            acts, probs = torch.zeros(1, 0, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
            for child_acts, child_probs in tables:
                possible = child_probs > 0
                child_acts, child_probs = child_acts[possible], child_probs[possible]
                rows = len(acts), len(child_acts)
                acts = torch.cat([acts.repeat_interleave(rows[1], 0), child_acts.repeat(rows[0], 1)], dim=1)
                probs = (probs[:, None] * child_probs).flatten()
        if self.is_read_out:
            acts = torch.cat([acts.new_full((len(acts), 1), self.magnitude_mean), acts], dim=1)
        silent = acts.new_zeros(1, acts.shape[1]), probs.new_tensor([1 - self.active_prob])
        return torch.cat([silent[0], acts]), torch.cat([silent[1], self.active_prob * probs])

    def sample(self, n: int, seed: int | torch.Generator) -> Float[Tensor, "n features"]:
        """`n` independent inputs as feature activations, float64, shape (n, features); from a seed, or a generator.

        Raises:
            ValueError: if no feature is read out.
        """
        self._refuse_empty()
        generator = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
        columns: list[Tensor] = []

        def uniform() -> Tensor:
            return torch.rand(n, dtype=torch.float64, generator=generator)

        def visit(node: FeatureTree, fires: Tensor) -> None:
            if node.is_read_out:
                magnitude = torch.full((n,), node.magnitude_mean, dtype=torch.float64)
                if node.magnitude_std > 0:
                    noise = torch.randn(n, dtype=torch.float64, generator=generator)
                    magnitude = (magnitude + node.magnitude_std * noise).clamp_min(0)
                columns.append(magnitude * fires)
            # Exclusive children share one uniform draw, cut into an interval for each and a rest for none.
            shared, edge = uniform() if node.mutually_exclusive_children else None, 0.0
            for child in node.children:
                draw = uniform() if shared is None else shared - edge
                visit(child, fires & (draw >= 0) & (draw < child.active_prob))
                edge += child.active_prob

        visit(self, uniform() < self.active_prob)
        return torch.stack(columns, dim=1)

    def to_dict(self) -> dict:
        """The tree as plain data, in the form of the field's `tree.json`."""
        data = {
            "active_prob": self.active_prob,
            "is_read_out": self.is_read_out,
            "mutually_exclusive_children": self.mutually_exclusive_children,
            "magnitude_mean": self.magnitude_mean,
            "magnitude_std": self.magnitude_std,
            "children": [child.to_dict() for child in self.children],
        }
        return data | ({"id": self.id} if self.id else {})

    @classmethod
    def from_dict(cls, data: Any) -> FeatureTree:
        """The reverse of `to_dict`; only `active_prob` is required of a node.

        Raises:
            ValueError: naming the path of the offending node, such as `root.children[0].children[2]`.
        """
        level, nodes = [data], 1
        for _ in range(DEEPEST):
            below = [node["children"] for node in level if isinstance(node, dict) and "children" in node]
            level = [child for children in below if isinstance(children, list) for child in children]
            if (nodes := nodes + len(level)) > MOST_NODES:
                raise ValueError(f"root: the tree has more than {MOST_NODES:,} nodes; that is the most.")
        if level:
            raise ValueError(f"root: the tree is more than {DEEPEST} levels deep; that is the most.")
        import jsonschema  # here, as only files need it

        validator = jsonschema.Draft202012Validator(_NODE)
        for error in sorted(validator.iter_errors(data), key=lambda error: [str(key) for key in error.path]):
            path = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in error.path)
            hint = "; give magnitude_mean and magnitude_std instead" if path.endswith(".is_binary") else ""
            raise ValueError(f"root{path}: {error.message}{hint}.")

        def build(node: dict, path: str) -> FeatureTree:
            children = [build(child, f"{path}.children[{i}]") for i, child in enumerate(node.get("children", []))]
            known = {key: value for key, value in node.items() if key not in ("children", "is_binary")}
            try:
                return cls(children=tuple(children), **known)
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from None

        return build(data, "root")

    @classmethod
    def from_json(cls, path: str | Path) -> FeatureTree:
        """Read a tree file (UTF-8). Raises ValueError with the path of the offending node if it is malformed."""
        node = plain.read_json(path)
        try:
            return cls.from_dict(node)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def to_json(self, path: str | Path) -> None:
        """Write a tree file; an interrupted write leaves what stood there before."""
        write_text(path, json.dumps(self.to_dict(), indent=2) + "\n")


_NODE = {
    "type": "object",
    "required": ["active_prob"],
    "additionalProperties": False,
    "properties": {
        "active_prob": {"type": "number", "minimum": 0, "maximum": 1},
        "is_read_out": {"type": "boolean"},
        "mutually_exclusive_children": {"type": "boolean"},
        "magnitude_mean": {"type": "number", "minimum": 0, "maximum": LOUDEST},
        "magnitude_std": {"type": "number", "minimum": 0, "maximum": LOUDEST},
        "is_binary": {"const": True},
        "children": {"type": "array", "items": {"$ref": "#"}},
        "id": {"type": "string"},
    },
}
"""JSON schema of a node of a tree file."""


def part_of_one(n: int) -> float:
    """A share that `n` may have each, to six digits: 1 / n, rounded down."""
    return math.floor(1e6 / n) / 1e6


def _exclusive(tables: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """At most one of the subtrees fires: its firing states beside zeros for the others, then "none"."""
    widths = [acts.shape[1] for acts, _ in tables]
    rows, probs = [torch.zeros(1, sum(widths), dtype=torch.float64)], []
    for i, (acts, child_probs) in enumerate(tables):
        left, right = sum(widths[:i]), sum(widths[i + 1 :])
        rows.append(torch.nn.functional.pad(acts[1:], (left, right)))
        probs.append(child_probs[1:])
    firing = torch.cat(probs) if probs else torch.zeros(0, dtype=torch.float64)
    return torch.cat(rows), torch.cat([(1 - firing.sum()).clamp_min(0)[None], firing])


def family(
    parent_probability: float,
    child_probability: float | Sequence[float],
    n_children: int = 2,
    *,
    parent_magnitude: float = 1.0,
    child_magnitude: float = 1.0,
    exclusive: bool = True,
) -> FeatureTree:
    """One parent with its children: the three-feature hierarchy and its relatives.

    Args:
        parent_probability: probability that the parent fires, in [0, 1].
        child_probability: probability of a child given the parent; one for all, or one each.
        n_children: number of children, at least 1; must fit `child_probability` where that is a sequence.
        parent_magnitude, child_magnitude: activations when firing, at least 0.
        exclusive: whether at most one child fires.
    """
    if (n_children := whole("n_children", n_children)) < 1:
        raise ValueError(f"n_children is {n_children}; a family needs at least 1 child.")
    one = isinstance(child_probability, (int, float)) or getattr(child_probability, "ndim", 1) == 0
    each: Any = [child_probability] * n_children if one else child_probability
    if len(each) != n_children:
        raise ValueError(
            f"{len(each)} child probabilities were given for {n_children} children; give one for each, or one for all."
        )
    children = tuple(FeatureTree(p, magnitude_mean=child_magnitude, id=f"child {i + 1}") for i, p in enumerate(each))
    parent = FeatureTree(parent_probability, children, exclusive, magnitude_mean=parent_magnitude, id="parent")
    return FeatureTree(1.0, (parent,), is_read_out=False)


def independent(probabilities: Sequence[float]) -> FeatureTree:
    """Features without hierarchy, each firing by itself: the negative control."""
    leaves = tuple(FeatureTree(p, id=f"feature {i}") for i, p in enumerate(probabilities))
    return FeatureTree(1.0, leaves, is_read_out=False)


def without_hierarchy(tree: FeatureTree) -> FeatureTree:
    """Independent features of magnitude 1 that fire as often as those of `tree`: the control of each experiment.

    One that fires more often than half of the time fires half of the time here: a parent then always has more variance
    than its children, and the best direction is unique.
    """
    return independent(tree.firing_probabilities().clamp_max(0.5).tolist())


def overlapping(parent_probability: float, child_probability: float, both: float) -> States:
    """A parent and two equally likely children that fire together with probability `both` given the parent.

    From 0 (mutually exclusive) over `child_probability ** 2` (independent) to `child_probability`, where the children
    never fire apart and are one feature.

    Raises:
        ValueError: if no joint distribution has these probabilities.
    """
    p, q = parent_probability, child_probability
    if not 0 <= p <= 1 or not max(0.0, 2 * q - 1) - 1e-12 <= both <= q + 1e-12 <= 1 + 1e-12:
        raise ValueError(
            f"both is {both} for parent_probability {p} and child_probability {q}; the two must lie in [0, 1], "
            f"and both from {max(0.0, 2 * q - 1):g} to {q:g}."
        )
    acts = torch.tensor([[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 0, 1], [1, 1, 1]], dtype=torch.float64)
    chances = [1 - p, p * (1 - 2 * q + both), p * (q - both), p * (q - both), p * both]
    probs = torch.tensor(chances, dtype=torch.float64)
    return States(acts[probs > 1e-12], probs[probs > 1e-12])  # not those of probability 0, up to rounding


def orthonormal_dictionary(
    n_features: int, d_model: int, seed: int | torch.Generator
) -> Float[Tensor, "features d_model"]:
    """Random orthonormal directions, one row a feature, float64; a seed gives the same on every CPU.

    Args:
        n_features: how many.
        d_model: their dimension.
        seed: at least 0; or a generator, from which one is drawn.

    Raises:
        ValueError: if `d_model` is smaller than `n_features`.
    """
    if not 1 <= n_features <= d_model:
        raise ValueError(
            f"d_model is {d_model}, which leaves no room for {n_features} orthogonal features; "
            f"it must be at least {max(n_features, 1)}."
        )
    if isinstance(seed, torch.Generator):
        seed = int(torch.randint(1 << 62, (), generator=seed))
    return _random.orthonormal(n_features, d_model, *seed_numbers([seed]), _random.DICTIONARY)


def orthonormal_dictionaries(
    n_features: int, d_model: int, seeds: Iterable[SupportsIndex]
) -> Float[Tensor, "seeds features d_model"]:
    """`orthonormal_dictionary` of each seed.

    Adam is not rotation-invariant: a share of seeds that all have one dictionary would be a share of that dictionary.

    Raises:
        ValueError: if `d_model` is smaller than `n_features`, or there are no seeds.
    """
    return torch.stack([orthonormal_dictionary(n_features, d_model, seed) for seed in seed_numbers(seeds)])


def equal_cosine_dictionary(
    n_features: int, cosine: float, d_model: int, seed: int | torch.Generator
) -> Float[Tensor, "features d_model"]:
    """Unit directions of which every two have the same cosine, in a random frame, one row a feature, float64.

    Each is a part of one axis of a random orthonormal frame and a part of the sum of all, the symmetric root of their
    Gram matrix: cosine 0 gives `orthonormal_dictionary` of the same seed.

    Raises:
        ValueError: if `d_model` is smaller than `n_features`, or no such directions exist.
    """
    lowest = -1 / (n_features - 1) if n_features > 1 else -1.0
    if not lowest < cosine < 1:
        raise ValueError(
            f"cosine is {cosine}; {n_features} independent directions can have every pairwise cosine only between "
            f"{lowest:g} and 1 (both left out)."
        )
    frame = orthonormal_dictionary(n_features, d_model, seed)
    own = math.sqrt(1 - cosine)
    shared = (math.sqrt(1 + (n_features - 1) * cosine) - own) / n_features
    # Summed one by one: a matrix product is not the same to the last bit on every CPU.
    return own * frame + shared * sum(frame)


def retuned(tree: FeatureTree, name: str, **changes: Any) -> FeatureTree:
    """The tree with some attributes of the feature of that id changed.

    Raises:
        ValueError: if no feature, or more than one, has that id, or a value is outside its range.
    """
    if (found := sum(node.id == name for node in tree)) != 1:
        raise ValueError(f"{found} features are called {name!r}; exactly one must be. Ids here: {tree.names}.")

    def visit(node: FeatureTree) -> FeatureTree:
        mine = changes if node.id == name else {}
        return replace(node, children=tuple(visit(child) for child in node.children), **mine)

    return visit(tree)


def twenty_feature_tree() -> FeatureTree:
    """The toy model of Nabeshima (2024), from `twenty_features.json`; directions are left to the dictionary.

    Three parents of probability 0.15, each with three mutually exclusive children of 0.2 given the parent, and eight
    independent features of 0.05; every magnitude 1.
    """
    return FeatureTree.from_json(Path(__file__).with_name("twenty_features.json"))
