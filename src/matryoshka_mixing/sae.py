"""The sparse autoencoder. A standard SAE is a Matryoshka SAE with one prefix.

    acts = keep * relu((x - b_dec) @ W_enc + b_enc)            keep = 1; TopK, BatchTopK: 1 for the largest, else 0
    x_m  = b_dec + acts[:m] @ W_dec[:m]                        the reconstruction by the first m latents
    loss = sum over prefixes m of  w_m * ( E ||x - x_m||^2 + l1 * E sum_{k<m} acts_k ||W_dec_k|| )

Every tensor may carry leading `instances` axes: hundreds of SAEs are one object.
Source of the method: Nabeshima 2024; Bussmann et al. 2025 (arXiv 2503.17547). TopK: Gao et al. 2024 (arXiv 2406.04093);
BatchTopK: Bussmann et al. 2024 (arXiv 2412.06410).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

ACTIVATIONS = ("relu", "topk", "batchtopk")
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
        weights: weight of each prefix in the loss, at least 0; None gives every prefix weight 1.
        l1: weight of the L1 penalty on decoder-norm-weighted activations, at least 0.
        encoder_bias, decoder_bias: whether the biases are trained; a bias that is not stays 0.
        activation: "relu"; "topk", which keeps the k largest activations of each input; or "batchtopk", which keeps
            the largest of a whole batch, k for each input on average.
        k: how many are kept: a whole number from 1 to the number of latents for "topk", any number above 0 up to it for
            "batchtopk", None for "relu".

    Raises:
        ValueError: naming the value, what is allowed, and what to do.
    """

    d_in: int
    widths: tuple[int, ...]
    weights: tuple[float, ...] | None = None
    l1: float = 0.0
    encoder_bias: bool = True
    decoder_bias: bool = True
    activation: str = "relu"
    k: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))
        weights = (1.0,) * len(self.widths) if self.weights is None else tuple(self.weights)
        object.__setattr__(self, "weights", weights)
        if self.d_in < 1:
            raise ValueError(f"d_in is {self.d_in}; the input needs at least 1 dimension.")
        if not self.widths or self.widths[0] < 1 or any(a >= b for a, b in pairwise(self.widths)):
            raise ValueError(
                f"widths are {self.widths}; they must be whole numbers from 1 up that strictly increase, "
                "such as (1, 3). Sort them and take out repeats."
            )
        if len(weights) != len(self.widths) or any(not 0 <= w < float("inf") for w in weights):
            raise ValueError(
                f"weights are {weights} for widths {self.widths}; give one finite weight of at least 0 for each."
            )
        if not any(weights):
            raise ValueError(f"weights are {weights}; at least one must be above 0, or nothing is trained.")
        if not 0 <= self.l1 < float("inf"):
            raise ValueError(f"l1 is {self.l1}; a penalty must be a finite number of at least 0.")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation is {self.activation!r}; it must be one of {ACTIVATIONS}.")
        if self.activation == "relu":
            if self.k is not None:
                raise ValueError(f"k is {self.k}, but a ReLU SAE keeps every activation; leave k out, or choose topk.")
        elif self.k is None or not 0 < self.k <= self.d_sae:
            raise ValueError(
                f"k is {self.k} for {self.d_sae} latents; {self.activation} keeps above 0 and at most all."
            )
        elif self.activation == "topk" and self.k != int(self.k):
            raise ValueError(f"k is {self.k}; topk keeps a whole number for each input. batchtopk takes any.")

    @property
    def d_sae(self) -> int:
        """Number of latents."""
        return self.widths[-1]


@dataclass
class SAE:
    """The parameters of one or many SAEs, in the field's names and layouts, and how they activate (see `SAEConfig`)."""

    W_enc: Float[Tensor, "*instances d_in d_sae"]
    b_enc: Float[Tensor, "*instances d_sae"]
    W_dec: Float[Tensor, "*instances d_sae d_in"]
    b_dec: Float[Tensor, "*instances d_in"]
    activation: str = "relu"
    k: Float[Tensor, "*instances"] | None = None

    def encode(
        self, x: Float[Tensor, "*#instances batch d_in"], probs: Float[Tensor, "*#instances batch"] | None = None
    ) -> Float[Tensor, "*instances batch d_sae"]:
        """Activations of the latents, at least 0.

        BatchTopK chooses among all rows of `x`, of which `probs` says how likely each is (equally, if None). Where its
        budget runs out within a row that stands for many inputs, only some of them keep the activation; here it
        is kept.
        """
        acts, share = self._activate(x, probs)
        return acts * (share > 0)

    def _activate(self, x: Tensor, probs: Tensor | None) -> tuple[Tensor, Tensor]:
        """Activations before anything is dropped, and the share of each that is kept."""
        acts = torch.relu((x - self.b_dec.unsqueeze(-2)) @ self.W_enc + self.b_enc.unsqueeze(-2))
        if self.activation == "relu":
            return acts, torch.ones_like(acts)
        sizes = acts.detach() * self.W_dec.detach().norm(dim=-1).unsqueeze(-2)
        if self.activation == "topk":
            return acts, largest(sizes, self.k)
        if probs is None:
            probs = acts.new_full(acts.shape[-2:-1], 1 / acts.shape[-2])
        return acts, largest_of_batch(sizes, self.k, probs.expand(acts.shape[:-1]))

    def decode(
        self, acts: Float[Tensor, "*instances batch d_sae"], width: int | None = None
    ) -> Float[Tensor, "*instances batch d_in"]:
        """Reconstruction by the first `width` latents (all of them if None)."""
        return self.b_dec.unsqueeze(-2) + acts[..., :width] @ self.W_dec[..., :width, :]

    def errors(
        self,
        x: Float[Tensor, "*#instances batch d_in"],
        widths: Sequence[int],
        probs: Float[Tensor, "*#instances batch"] | None = None,
    ) -> Float[Tensor, "*instances prefixes batch"]:
        """Squared error ||x - x_m||^2 of each prefix on each input.

        Where BatchTopK keeps an activation on some inputs of a row only, the mean over the row. `probs` as in `encode`.
        """
        acts, share = self._activate(x, probs)

        def all_prefixes(kept: Tensor) -> Tensor:
            return torch.stack([(x - self.decode(acts * kept, width)).square().sum(-1) for width in widths], dim=-2)

        if self.activation != "batchtopk":
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
        """L1 penalty of each prefix on each input, sum_{k<m} acts_k ||W_dec_k||; `probs` as in `errors`."""
        acts, share = self._activate(x, probs)
        sizes = acts * share * self.W_dec.norm(dim=-1).unsqueeze(-2)
        return torch.stack([sizes[..., :width].sum(-1) for width in widths], dim=-2)

    def loss(
        self,
        x: Float[Tensor, "*#instances batch d_in"],
        probs: Float[Tensor, "*#instances batch"],
        config: SAEConfig,
    ) -> Float[Tensor, "*instances"]:
        """The loss of the module's docstring, written for reading; `train` has the fast form.

        `probs` weighs the rows of `x`: state probabilities, or 1/batch for sampled rows.
        """
        weights = torch.tensor(config.weights, dtype=x.dtype, device=x.device)
        terms = self.errors(x, config.widths, probs) + config.l1 * self.penalties(x, config.widths, probs)
        return (weights * (probs.unsqueeze(-2) * terms).sum(-1)).sum(-1)

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The four trained tensors by name."""
        return {name: getattr(self, name) for name in TRAINED}

    def map(self, change: Callable[[Tensor], Tensor]) -> SAE:
        """A new SAE with `change` applied to every parameter (and to k)."""
        changed = {name: change(parameter) for name, parameter in self.parameters.items()}
        return replace(self, **changed, k=None if self.k is None else change(self.k))

    @classmethod
    def join(cls, saes: Sequence[SAE], how: Callable[[list[Tensor]], Tensor] = torch.stack) -> SAE:
        """One SAE object of several of the same activation: `torch.stack` makes a new first axis."""
        names = [*TRAINED, *(["k"] if saes[0].k is not None else [])]
        return replace(saes[0], **{name: how([getattr(sae, name) for sae in saes]) for name in names})

    def __getitem__(self, index) -> SAE:
        """Selects instances (leading axes)."""
        return self.map(lambda parameter: parameter[index])


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


def random_start(config: SAEConfig, seeds: Sequence[int], decoder_norm: float = 0.1) -> SAE:
    """Random initialisation, one instance a seed, float64.

    Encoder directions are uniform on the unit sphere; the decoder holds the same directions with norm
    `decoder_norm` (0.1 in the original code); biases are 0. A seed gives the same SAE in any company.
    """
    directions = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        directions.append(torch.randn(config.d_sae, config.d_in, dtype=torch.float64, generator=generator))
    rows = torch.nn.functional.normalize(torch.stack(directions), dim=-1)
    return with_activation(_tied(rows, decoder_norm * rows), config)


def start_near(directions: Float[Tensor, "d_sae d_in"], seeds: Sequence[int], noise: float = 0.1) -> SAE:
    """A start near given directions (one a latent), one instance a seed, float64.

    To each direction comes Gaussian noise whose expected length is `noise` times the direction's own norm, so
    that `noise` means the same in every dimension. The decoder is the noisy direction, the encoder the same
    divided by its squared norm, and biases are 0. Noise of 0.1 leaves a cosine of about 0.995.
    """
    if noise < 0:
        raise ValueError(f"noise is {noise}; it is relative to the directions' norm and must be at least 0.")
    d_in = directions.shape[-1]
    scale = noise * directions.norm(dim=-1, keepdim=True) / d_in**0.5
    rows = torch.stack(
        [
            directions
            + scale * torch.randn(directions.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
            for seed in seeds
        ]
    )
    return _tied(rows / rows.square().sum(-1, keepdim=True), rows)


def with_activation(sae: SAE, config: SAEConfig) -> SAE:
    """The same parameters, activated as the configuration says."""
    k = None if config.k is None else torch.full_like(sae.b_dec[..., 0], config.k)
    return replace(sae, activation=config.activation, k=k)


def _tied(encoder_rows: Tensor, decoder_rows: Tensor) -> SAE:
    instances, d_sae, d_in = decoder_rows.shape
    return SAE(
        W_enc=encoder_rows.transpose(-1, -2).contiguous(),
        b_enc=encoder_rows.new_zeros(instances, d_sae),
        W_dec=decoder_rows.clone(),
        b_dec=encoder_rows.new_zeros(instances, d_in),
    )
