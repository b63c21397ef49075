"""The sparse autoencoder. A standard SAE is a Matryoshka SAE with one prefix.

    acts = keep * relu((x - b_dec) @ W_enc + b_enc)            keep = 1, with TopK and JumpReLU see below
    x_m  = b_dec + acts[:m] @ W_dec[:m]                        the reconstruction by the first m latents
    loss = sum over prefixes m of  w_m * ( E ||x - x_m||^2 + l1 * E sum_{k<m} acts_k ||W_dec_k|| )

With TopK and BatchTopK keep is 1 for the largest activations, with JumpReLU above a latent's threshold; else 0.
Every tensor may carry leading `instances` axes: hundreds of SAEs are one object.
Source of the method: Nabeshima 2024; Bussmann et al. 2025 (arXiv 2503.17547). TopK: Gao et al. 2024 (arXiv 2406.04093);
BatchTopK: Bussmann et al. 2024 (arXiv 2412.06410). JumpReLU: Rajamanoharan et al. 2024 (arXiv 2407.14435).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, SupportsIndex, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from matryoshka_mixing import _random
from matryoshka_mixing._checks import flag, number, seed_numbers, several, whole
from matryoshka_mixing._commands import replacing

Activation = Literal["relu", "topk", "batchtopk", "jumprelu"]
ACTIVATIONS: tuple[str, ...] = get_args(Activation)
TRAINED = ("W_enc", "b_enc", "W_dec", "b_dec")
"""The trained tensors of an SAE."""
EDGE = 1e-6
"""A share of a row below this counts as none, and above one less this as all (our default)."""


@dataclass(frozen=True)
class SAEConfig:
    """What is fixed about an SAE before it is trained.

    Attributes:
        d_in: dimension of the input.
        widths: latents in each prefix, strictly increasing; the last is the number of latents.
            One width makes a standard SAE.
        weights: weight of each prefix in the loss, at least 0; none given, every prefix has weight 1.
        l1: weight of the L1 penalty on decoder-norm-weighted activations, at least 0.
        encoder_bias, decoder_bias: whether the biases are trained; a bias that is not stays 0.
        activation: "relu"; "topk", which keeps the k largest activations of each input; "batchtopk", which keeps
            the largest of a whole batch, k for each input on average; or "jumprelu", which keeps what exceeds a
            threshold of each latent's own.
        k: how many are kept: a whole number from 1 to the number of latents for "topk", any number above 0 up to it
            for "batchtopk", None for "relu" and "jumprelu".
        decoder_weights: weight of each prefix in the gradient of W_dec and b_dec, where it is to differ from that in
            the gradient of W_enc and b_enc, to which `weights` then belongs alone; None: the same.

    Raises:
        ValueError: naming the value, what is allowed, and what to do.
    """

    d_in: int
    widths: tuple[int, ...]
    weights: tuple[float, ...] = ()
    l1: float = 0.0
    encoder_bias: bool = True
    decoder_bias: bool = True
    activation: Activation = "relu"
    k: float | None = None
    decoder_weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "d_in", whole("d_in", self.d_in))
        if self.d_in < 1:
            raise ValueError(f"d_in is {self.d_in}; the input needs at least 1 dimension.")
        given = several("widths", self.widths, "the latents of each prefix, such as (1, 3)")
        object.__setattr__(self, "widths", tuple(whole("widths", width) for width in given))
        if not self.widths or self.widths[0] < 1 or any(a >= b for a, b in pairwise(self.widths)):
            raise ValueError(
                f"widths are {self.widths}; they must be whole numbers from 1 up that strictly increase, "
                "such as (1, 3). Sort them and take out repeats."
            )
        given = several(
            "weights", () if self.weights is None else self.weights, "one for each prefix, such as (0.5, 1)"
        )
        object.__setattr__(self, "weights", self._checked("weights", given or (1.0,) * len(self.widths)))
        if self.decoder_weights is not None:
            object.__setattr__(self, "decoder_weights", self._checked("decoder_weights", self.decoder_weights))
        object.__setattr__(self, "l1", float(number("l1", self.l1)))
        for name in ("encoder_bias", "decoder_bias"):
            object.__setattr__(self, name, flag(name, getattr(self, name)))
        if self.k is not None:
            object.__setattr__(self, "k", number("k", self.k))
        if not 0 <= self.l1 < math.inf:
            raise ValueError(f"l1 is {self.l1}; a penalty must be a finite number of at least 0.")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation is {self.activation!r}; it must be one of {ACTIVATIONS}.")
        if self.activation in ("relu", "jumprelu"):
            if self.k is not None:
                kept = "a ReLU SAE keeps every activation" + " above a threshold" * (self.activation == "jumprelu")
                raise ValueError(f"k is {self.k}, but {kept}; leave k out, or choose topk.")
        elif self.k is None or not 0 < self.k <= self.d_sae:
            raise ValueError(
                f"k is {self.k} for {self.d_sae} latents; {self.activation} keeps above 0 and at most all."
            )
        elif self.activation == "topk" and self.k != int(self.k):
            raise ValueError(f"k is {self.k}; topk keeps a whole number for each input. batchtopk takes any.")

    def _checked(self, name: str, weights: Iterable[float]) -> tuple[float, ...]:
        weights = tuple(float(number(name, weight)) for weight in several(name, weights, "one for each prefix"))
        if len(weights) != len(self.widths) or any(not 0 <= w < math.inf for w in weights):
            raise ValueError(
                f"{name} are {weights} for widths {self.widths}; give one finite weight of at least 0 for each."
            )
        if not any(weights):
            raise ValueError(f"{name} are {weights}; at least one must be above 0, or nothing is trained.")
        return weights

    @property
    def d_sae(self) -> int:
        """Number of latents."""
        return self.widths[-1]

    @property
    def for_decoder(self) -> SAEConfig:
        """Itself, unless `decoder_weights` are given; then the configuration whose loss decoder and bias descend."""
        return self if self.decoder_weights is None else replace(self, weights=self.decoder_weights)


@dataclass(frozen=True, eq=False)
class SAE:
    """The parameters of one or many SAEs, in the field's names and layouts, with their configuration.

    Attributes:
        W_enc, b_enc, W_dec, b_dec: the trained tensors, or arrays, of one floating type; leading axes, if any, are the
            instances.
        config: of all instances; or one for each entry of the first axis, alike in d_in and the number of latents. None
            makes them standard ReLU SAEs.
        threshold: of each BatchTopK SAE, what an activation times its decoder row's norm must exceed to be kept where
            no batch is there to choose from: the middle between the smallest that is kept and the largest that is
            not, at the end on exact states, else a running mean over batches. Of a JumpReLU SAE, what each latent's
            activation must exceed, shape `(*instances, d_sae)`. None for others.

    Raises:
        ValueError: if shapes or types do not fit each other or the configuration, or JumpReLU SAEs stand beside others.
    """

    W_enc: Float[Tensor, "*instances d_in d_sae"]
    b_enc: Float[Tensor, "*instances d_sae"]
    W_dec: Float[Tensor, "*instances d_sae d_in"]
    b_dec: Float[Tensor, "*instances d_in"]
    config: SAEConfig | tuple[SAEConfig, ...] | None = None
    threshold: Float[Tensor, "*instances"] | Float[Tensor, "*instances d_sae"] | None = None

    def __post_init__(self) -> None:
        for name in (*TRAINED, "threshold"):
            given = getattr(self, name)
            if not isinstance(given, Tensor) and (name in TRAINED or given is not None):
                try:  # a copy, as what a file gave may be read-only
                    object.__setattr__(self, name, torch.from_numpy(np.array(given)))
                except TypeError:
                    raise ValueError(
                        f"{name} is {repr(given)[:80]}; it must be a tensor or array of numbers."
                    ) from None
        types = {name: parameter.dtype for name, parameter in self.parameters.items()}
        if len(set(types.values())) > 1 or not self.b_dec.is_floating_point():
            shown = ", ".join(f"{name} {str(kind).removeprefix('torch.')}" for name, kind in types.items())
            raise ValueError(f"the tensors are {shown}; they must have one floating type, such as float64.")
        own: Any = SAEConfig(self.W_dec.shape[-1], (self.W_dec.shape[-2],)) if self.config is None else self.config
        each = (own,) if isinstance(own, SAEConfig) else several("config", own, "one SAEConfig, or a tuple of such")
        if not each or not all(isinstance(one, SAEConfig) for one in each):
            raise ValueError(f"config is {repr(own)[:80]}; give one SAEConfig, or a tuple of such.")
        object.__setattr__(self, "config", each[0] if len(set(each)) == 1 else each)
        instances, each = self.instances, self._each
        shape = each[0].d_in, each[0].d_sae
        wanted = {"W_enc": shape, "b_enc": shape[1:], "W_dec": shape[::-1], "b_dec": shape[:1]}
        for name, tail in wanted.items():
            if getattr(self, name).shape != (*instances, *tail):
                raise ValueError(
                    f"{name} has shape {tuple(getattr(self, name).shape)}; for {instances or 'no'} instances with d_in "
                    f"{shape[0]} and {shape[1]} latents it must be {(*instances, *tail)}."
                )
        if len(each) > 1 and (
            not instances or len(each) != instances[0] or any((c.d_in, c.d_sae) != shape for c in each)
        ):
            raise ValueError(
                f"{len(each)} configurations for instances {instances}; give one for all, or one for each entry of the "
                "first axis, alike in d_in and the number of latents."
            )
        jumps = {c.activation == "jumprelu" for c in each}
        if len(jumps) > 1:
            raise ValueError("JumpReLU SAEs have a threshold for each latent; keep them apart from others.")
        if jumps == {True}:
            instances = (*instances, shape[1])
            if self.threshold is None:
                raise ValueError(f"a JumpReLU SAE needs the threshold of each latent, shape {instances}.")
        if self.threshold is not None and self.threshold.shape != instances:
            raise ValueError(f"threshold has shape {tuple(self.threshold.shape)}; it must be {instances}.")

    @property
    def instances(self) -> tuple[int, ...]:
        """Shape of the leading axes; empty for a single SAE."""
        return tuple(self.b_dec.shape[:-1])

    @property
    def one_config(self) -> SAEConfig:
        """The configuration that all instances share.

        Raises:
            ValueError: if they have several.
        """
        if len(set(self._each)) > 1:
            raise ValueError(f"these SAEs have {len(self._each)} configurations; select along the first axis first.")
        return self._each[0]

    @property
    def _each(self) -> tuple[SAEConfig, ...]:
        assert self.config is not None  # filled in on construction
        return self.config if isinstance(self.config, tuple) else (self.config,)

    def encode(
        self, x: Float[Tensor, "*#instances batch d_in"], probs: Float[Tensor, "*#instances batch"] | None = None
    ) -> Float[Tensor, "*instances batch d_sae"]:
        """Activations of the latents, at least 0.

        BatchTopK chooses among all rows of `x`, of which `probs` says how likely each is. Where its budget runs out
        within a row that stands for many inputs, only some of them keep the activation; here it is kept. Without
        `probs` every row is taken by itself, against the `threshold` of training.

        Raises:
            ValueError: if `x` is no tensor, or has other leading axes than one for the rows, with or without those of
                the instances; or if a BatchTopK SAE has neither `probs` nor a threshold.
        """
        acts, share = self._activate(x, probs)
        return acts * (share > 0)

    def _activate(self, x: Tensor, probs: Tensor | None) -> tuple[Tensor, Tensor]:
        """Activations before anything is dropped, and the share of each that is kept."""
        if not isinstance(x, Tensor):
            raise ValueError(f"x is a {type(x).__name__}; give a tensor, such as torch.from_numpy(rows).")
        x = x.to(self.b_dec.dtype)
        if x.ndim not in (2, 2 + len(self.instances)) or x.shape[-1] != self.b_dec.shape[-1]:
            raise ValueError(
                f"x has shape {tuple(x.shape)}; it must be (rows, {self.b_dec.shape[-1]}), with or without leading "
                f"axes that fit the instances {self.instances}. Flatten other axes into the rows."
            )
        if len({config.activation for config in self._each}) > 1:
            rows = [(_entry(x, i, 2), None if probs is None else _entry(probs, i, 1)) for i in range(len(self._each))]
            parts = [self[i]._activate(*some) for i, some in enumerate(rows)]
            return torch.stack([acts for acts, _ in parts]), torch.stack([share for _, share in parts])
        acts = torch.relu((x - self.b_dec.unsqueeze(-2)) @ self.W_enc + self.b_enc.unsqueeze(-2))
        activation = self._each[0].activation
        if activation == "relu":
            return acts, torch.ones_like(acts)
        if activation == "jumprelu":
            assert self.threshold is not None  # checked on construction
            return acts, (acts > self.threshold.unsqueeze(-2)).to(acts)
        sizes = acts.detach() * self.W_dec.detach().norm(dim=-1).unsqueeze(-2)
        ks = acts.new_tensor([config.k for config in self._each])
        k = ks.reshape(-1, *[1] * (len(self.instances) - 1)).expand(self.instances) if self.instances else ks[0]
        if activation == "topk":
            return acts, largest(sizes, k)
        if probs is not None:
            return acts, largest_of_batch(sizes, k, probs.to(acts).expand(acts.shape[:-1]))
        if self.threshold is None or self.threshold.isnan().any():
            raise ValueError(
                "a BatchTopK SAE chooses within a batch: give probs, such as torch.full((rows,), 1 / rows), or train "
                "it, which finds a threshold for one input at a time."
            )
        return acts, (sizes > self.threshold[..., None, None]).to(acts)

    def with_threshold(
        self, x: Float[Tensor, "*#instances batch d_in"], probs: Float[Tensor, "*#instances batch"]
    ) -> SAE:
        """A BatchTopK SAE with the threshold that keeps of single rows what it keeps of all of them together.

        The middle between the smallest size that is kept and the largest that is not; half of the former where none is
        left. Which of two entries of one size is kept it cannot tell. `probs` as in `encode`.
        """
        acts, share = self._activate(x, probs)
        sizes = acts * self.W_dec.norm(dim=-1).unsqueeze(-2)
        smallest = sizes.masked_fill((share == 0) | (sizes == 0), torch.inf).amin((-2, -1))
        largest = sizes.masked_fill(share > 0, 0).amax((-2, -1))
        return replace(self, threshold=torch.where(smallest.isinf(), largest, (smallest + largest) / 2).detach())

    def decode(
        self, acts: Float[Tensor, "*instances batch d_sae"], width: int | None = None
    ) -> Float[Tensor, "*instances batch d_in"]:
        """Reconstruction by the first `width` latents (all of them if None).

        Raises:
            ValueError: if there are not so many latents, or none.
        """
        width = None if width is None else self._width(width)
        return self.b_dec.unsqueeze(-2) + acts[..., :width] @ self.W_dec[..., :width, :]

    def errors(
        self,
        x: Float[Tensor, "*#instances batch d_in"],
        widths: Sequence[int],
        probs: Float[Tensor, "*#instances batch"] | None = None,
    ) -> Float[Tensor, "*instances prefixes batch"]:
        """Squared error ||x - x_m||^2 of each prefix on each input.

        Where BatchTopK keeps an activation on some inputs of a row only, the mean over the row. `probs` as in `encode`.

        Raises:
            ValueError: as `decode`, for each of the widths.
        """
        acts, share = self._activate(x, probs)

        def all_prefixes(kept: Tensor) -> Tensor:
            return torch.stack([(x - self.decode(acts * kept, width)).square().sum(-1) for width in widths], dim=-2)

        if all(config.activation != "batchtopk" for config in self._each):
            return all_prefixes(share)
        # At most one activation of the batch is kept in part.
        part = torch.where((share > 0) & (share < 1), share, 1).amin(-1).unsqueeze(-2)
        return part * all_prefixes((share > 0).to(acts)) + (1 - part) * all_prefixes((share == 1).to(acts))

    def penalties(
        self,
        x: Float[Tensor, "*#instances batch d_in"],
        widths: Sequence[int],
        probs: Float[Tensor, "*#instances batch"] | None = None,
    ) -> Float[Tensor, "*instances prefixes batch"]:
        """L1 penalty of each prefix on each input, sum_{k<m} acts_k ||W_dec_k||; the rest as in `errors`."""
        acts, share = self._activate(x, probs)
        sizes = acts * share * self.W_dec.norm(dim=-1).unsqueeze(-2)
        return torch.stack([sizes[..., : self._width(width)].sum(-1) for width in widths], dim=-2)

    def loss(
        self,
        x: Float[Tensor, "*#instances batch d_in"],
        probs: Float[Tensor, "*#instances batch"],
        config: SAEConfig | None = None,
        terms: Float[Tensor, "prefixes batch"] | None = None,
    ) -> Float[Tensor, "*instances"]:
        """The loss of the module's docstring, written for reading; `train` has the fast form.

        Args:
            x: inputs.
            probs: weight of each row: state probabilities, or 1/batch for sampled rows.
            config: whose widths, weights and penalty to take; the SAE's own if None.
            terms: by what each term (a prefix on a row) is multiplied; 1 if None.
        """
        if config is None and len(self._each) > 1:
            rows = [(_entry(x, i, 2), _entry(probs, i, 1)) for i in range(len(self._each))]
            return torch.stack([self[i].loss(*some, terms=terms) for i, some in enumerate(rows)])
        config = config or self._each[0]
        weights = self.b_dec.new_tensor(config.weights)
        each = self.errors(x, config.widths, probs) + config.l1 * self.penalties(x, config.widths, probs)
        if terms is not None:
            each = terms * each
        return (weights * (probs.unsqueeze(-2) * each).sum(-1)).sum(-1)

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The four trained tensors by name."""
        return {name: getattr(self, name) for name in TRAINED}

    def map(self, change: Callable[[Tensor], Tensor]) -> SAE:
        """A new SAE with `change`, which leaves shapes as they are, applied to every tensor."""
        changed: dict[str, Any] = {name: change(parameter) for name, parameter in self.parameters.items()}
        return replace(self, **changed, threshold=None if self.threshold is None else change(self.threshold))

    def with_config(self, config: SAEConfig | tuple[SAEConfig, ...]) -> SAE:
        """The same parameters under another configuration; only JumpReLU SAEs that stay so keep their threshold."""
        new = config if isinstance(config, tuple) else (config,)
        jumps = {c.activation for c in (*self._each, *new)} == {"jumprelu"}
        return replace(self, config=config, threshold=self.threshold if jumps else None)

    def first(self, width: int) -> SAE:
        """The SAE of the first `width` latents, with the prefixes up to there; the last takes the weight of the longer.

        Raises:
            ValueError: if there are not so many latents, or none.
        """
        width = self._width(width)
        jumps = self._each[0].activation == "jumprelu"  # then the threshold is one of each latent

        def cut(config: SAEConfig) -> SAEConfig:
            shorter = [m for m in config.widths if m < width]

            def kept(weights: tuple[float, ...]) -> tuple[float, ...]:
                return *weights[: len(shorter)], sum(weights[len(shorter) :])

            return replace(
                config, widths=(*shorter, width), k=config.k and min(config.k, width),
                weights=kept(config.weights), decoder_weights=config.decoder_weights and kept(config.decoder_weights),
            )  # fmt: skip

        return SAE(
            self.W_enc[..., :width], self.b_enc[..., :width], self.W_dec[..., :width, :], self.b_dec,
            tuple(cut(config) for config in self._each),
            self.threshold[..., :width] if self.threshold is not None and jumps else self.threshold,
        )  # fmt: skip

    def _width(self, width: int) -> int:
        """A number of latents that there are, at least 1."""
        if not 1 <= (width := whole("width", width)) <= self._each[0].d_sae:
            raise ValueError(f"width is {width}; it must be from 1 to the {self._each[0].d_sae} latents.")
        return width

    @classmethod
    def stack(cls, saes: Sequence[SAE]) -> SAE:
        """One SAE object of several, along a new first axis; their configurations may differ in all but sizes."""
        each = [sae._each for sae in saes]
        if any(len(some) > 1 for some in each):
            raise ValueError("configurations may differ along the first axis alone; index the settings first.")
        return cls._joined(saes, torch.stack, tuple(some[0] for some in each))

    @classmethod
    def cat(cls, saes: Sequence[SAE]) -> SAE:
        """One SAE object of several, along the first axis of their instances."""
        each = [sae._each if len(sae._each) > 1 else sae._each * len(sae) for sae in saes]
        return cls._joined(saes, torch.cat, tuple(config for some in each for config in some))

    @classmethod
    def _joined(cls, saes: Sequence[SAE], how: Callable, config: tuple[SAEConfig, ...]) -> SAE:
        parameters = {name: how([getattr(sae, name) for sae in saes]) for name in TRAINED}
        if all(sae.threshold is None for sae in saes):
            return cls(**parameters, config=config)
        unknown = [sae.b_dec.new_full(sae.instances, math.nan) for sae in saes]
        bounds = [none if sae.threshold is None else sae.threshold for sae, none in zip(saes, unknown, strict=True)]
        return cls(**parameters, config=config, threshold=how(bounds))

    def reshape(self, *instances: int) -> SAE:
        """The same SAEs with other leading axes; configurations may differ along the first alone."""
        return self._arranged(torch.arange(math.prod(self.instances)).reshape(instances))

    def __len__(self) -> int:
        """Number of entries of the first axis."""
        if not self.instances:
            raise TypeError("a single SAE has no length.")
        return self.instances[0]

    def __getitem__(self, index) -> SAE:
        """Selects instances, as of a tensor that has the leading axes alone.

        Raises:
            IndexError: if there are no such instances.
            ValueError: if they would differ in configuration along another axis than the first.
        """
        if not self.instances:
            raise IndexError("this is a single SAE; it has no instances to select.")
        return self._arranged(torch.arange(math.prod(self.instances)).reshape(self.instances)[index])

    def __iter__(self) -> Iterator[SAE]:
        """The instances along the first axis."""
        return (self[i] for i in range(len(self)))

    def _arranged(self, chosen: Tensor) -> SAE:
        """The instances of these numbers, in this arrangement."""
        number = math.prod(self.instances)

        def pick(tensor: Tensor) -> Tensor:
            tail = tensor.shape[len(self.instances) :]
            return tensor.reshape(number, *tail)[chosen.flatten()].reshape((*chosen.shape, *tail))

        each = self._each if chosen.numel() else self._each[:1]
        if len(each) > 1:
            entries = chosen.reshape(chosen.shape[0] if chosen.ndim else 1, -1) // (number // len(each))
            found = [{each[i] for i in entry} for entry in entries.tolist()]
            if any(len(some) > 1 for some in found):
                raise ValueError("these instances differ in configuration along more than their first axis.")
            each = tuple(some.pop() for some in found)
        threshold = None if self.threshold is None else pick(self.threshold)
        return SAE(**{name: pick(one) for name, one in self.parameters.items()}, config=each, threshold=threshold)

    def save(self, path: str | Path) -> None:
        """Write a safetensors file: these instances and their configuration, and nothing else; in one move."""
        from safetensors.torch import save_file

        tensors = dict(self.parameters) | ({} if self.threshold is None else {"threshold": self.threshold})
        configs = json.dumps([asdict(config) for config in self._each])
        held = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        with replacing(path) as draft:
            save_file(held, draft, {"config": configs})

    @classmethod
    def load(cls, path: str | Path) -> SAE:
        """Read what `save` wrote.

        Raises:
            ValueError: if the file is no such file, or is damaged.
            OSError: if it cannot be read.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no mapping
                configs = json.loads((file.metadata() or {})["config"])
            if not isinstance(configs, list) or not all(isinstance(config, dict) for config in configs):
                raise ValueError(f"its configuration is {str(configs)[:80]}")
            plain: list[Any] = [{k: tuple(v) if isinstance(v, list) else v for k, v in one.items()} for one in configs]
            return cls(**tensors, config=tuple(SAEConfig(**one) for one in plain))
        except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"{path} holds no SAE that SAE.save wrote, or is damaged: {error}") from None


def _entry(tensor: Tensor, i: int, own: int) -> Tensor:
    """Entry i of the first axis, where there is one before the last `own` axes; one entry stands for all."""
    return tensor if tensor.ndim <= own else tensor[i if len(tensor) > 1 else 0]


def largest(
    sizes: Float[Tensor, "*instances batch d_sae"], k: Float[Tensor, "*instances"]
) -> Float[Tensor, "*instances batch d_sae"]:
    """TopK: 1 for the k largest entries of each row, else 0; of equal ones the first."""
    ranks = sizes.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    return (ranks < k[..., None, None]).to(sizes)


def largest_of_batch(
    sizes: Float[Tensor, "*instances batch d_sae"],
    k: Float[Tensor, "*instances"],
    probs: Float[Tensor, "*instances batch"],
) -> Float[Tensor, "*instances batch d_sae"]:
    """BatchTopK: the share of each entry that is kept, so that the largest add up to k for each input on average.

    A row stands for a share `probs` of the batch, so the budget may run out within the entry on the edge: that one is
    kept on part of its inputs, all others are kept or dropped. This is the batch of many equal rows, done exactly.
    """
    shape, flat = sizes.shape, sizes.flatten(-2)
    order = flat.argsort(dim=-1, descending=True, stable=True)
    mass = probs[..., None].expand(shape).flatten(-2).gather(-1, order)
    before = mass.cumsum(-1) - mass
    share = ((k[..., None] - before) / mass.clamp_min(torch.finfo(mass.dtype).tiny)).clamp(0, 1)
    share = torch.where(share > 1 - EDGE, 1, torch.where(share < EDGE, 0, share))  # no crumbs from rounding
    return torch.empty_like(flat).scatter_(-1, order, share).unflatten(-1, shape[-2:])


def random_start(config: SAEConfig, seeds: Iterable[SupportsIndex], decoder_norm: float = 0.1) -> SAE:
    """Random initialisation, one instance a seed, float64.

    Encoder directions are uniform on the unit sphere; the decoder holds the same directions with norm
    `decoder_norm` (0.1 in the original code); biases are 0. A seed gives the same SAE in any company.

    Raises:
        ValueError: if there are no seeds, or the norm is below 0 or not finite.
    """
    decoder_norm = _size("decoder_norm", decoder_norm, "the norm of the decoder's rows")
    rows = _drawn((config.d_sae, config.d_in), seeds, _random.START)
    rows = rows / _random.lengths(rows)
    return _tied(rows, decoder_norm * rows, config)


def start_near(
    directions: Float[Tensor, "*seeds features d_in"],
    seeds: Iterable[SupportsIndex],
    noise: float = 0.1,
    *,
    order: Sequence[int] | None = None,
) -> SAE:
    """A start near given directions (one a latent), one instance a seed, float64; a standard SAE until it is trained.

    To each direction comes Gaussian noise whose expected length is `noise` times the direction's own norm, so
    that `noise` means the same in every dimension. The decoder is the noisy direction, the encoder the same
    divided by its squared norm, and biases are 0. Noise of 0.1 leaves a cosine of about 0.995.

    Args:
        directions: for all seeds, or for each seed its own.
        seeds: of the noise.
        noise: see above, at least 0.
        order: which direction each latent starts at, such as `FeatureTree.by_level()`: features are numbered depth
            first, prefixes should hold whole levels. None: as they come.

    Raises:
        ValueError: for a noise or an order that is not possible, directions without a length, or seeds that do not fit
            them.
    """
    noise = _size("noise", noise, "relative to the directions' norm")
    directions = torch.as_tensor(directions, dtype=torch.float64).detach().cpu()
    if directions.ndim not in (2, 3):
        raise ValueError(
            f"directions have shape {tuple(directions.shape)}; it must be (features, d_in), or of each seed."
        )
    lengths = _random.lengths(directions)
    if not ((lengths > 0) & lengths.isfinite()).all():
        raise ValueError("directions hold a row that is not finite, or of length 0; each must point somewhere.")
    if order is not None:
        given = several("the entries of order", order, "the number of each latent's direction, such as tree.by_level()")
        order = [whole("order", place) for place in given]
        if not set(order) <= set(range(directions.shape[-2])) or len(set(order)) < len(order):
            raise ValueError(
                f"order is {order}; it must name some of the {directions.shape[-2]} directions, each once."
            )
        directions, lengths = directions[..., order, :], lengths[..., order, :]
    d_sae, d_in = directions.shape[-2:]
    scale = noise * lengths / math.sqrt(d_in)
    drawn = _drawn((d_sae, d_in), seeds, _random.NOISE)
    if directions.ndim == 3 and len(directions) != len(drawn):
        raise ValueError(
            f"directions are given for {len(directions)} seeds, but there are {len(drawn)}; give those of each, or one "
            "dictionary for all."
        )
    rows = directions + scale * drawn
    return _tied(rows / _random.lengths(rows).square(), rows, SAEConfig(d_in, (d_sae,)))


def _drawn(shape: tuple[int, int], seeds: Iterable[SupportsIndex], purpose: int) -> Float[Tensor, "seeds d_sae d_in"]:
    """Standard normal rows of each seed."""
    return torch.stack([_random.normals(shape, seed, purpose) for seed in seed_numbers(seeds)])


def _size(name: str, value: Any, what: str) -> float:
    """A finite number of at least 0."""
    if not 0 <= number(name, value) < math.inf:
        raise ValueError(f"{name} is {value}; it is {what} and must be a finite number of at least 0.")
    return float(value)


def _tied(encoder_rows: Tensor, decoder_rows: Tensor, config: SAEConfig) -> SAE:
    instances, d_sae, d_in = decoder_rows.shape
    return SAE(
        W_enc=encoder_rows.transpose(-1, -2).contiguous(),
        b_enc=encoder_rows.new_zeros(instances, d_sae),
        W_dec=decoder_rows.clone(),
        b_dec=encoder_rows.new_zeros(instances, d_in),
        config=config,
    )
