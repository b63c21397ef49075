"""The sparse autoencoder. A standard SAE is a Matryoshka SAE with one prefix.

    acts = relu((x - b_dec) @ W_enc + b_enc)
    x_m  = b_dec + acts[:m] @ W_dec[:m]                        the reconstruction by the first m latents
    loss = sum over prefixes m of  w_m * ( E ||x - x_m||^2 + l1 * E sum_{k<m} acts_k ||W_dec_k|| )

Every tensor may carry leading `instances` axes: hundreds of SAEs are one object.
Source of the method: Nabeshima 2024; Bussmann et al. 2025 (arXiv 2503.17547).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor


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

    Raises:
        ValueError: naming the value, what is allowed, and what to do.
    """

    d_in: int
    widths: tuple[int, ...]
    weights: tuple[float, ...] | None = None
    l1: float = 0.0
    encoder_bias: bool = True
    decoder_bias: bool = True

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

    @property
    def d_sae(self) -> int:
        """Number of latents."""
        return self.widths[-1]


@dataclass
class SAE:
    """The parameters of one or many SAEs, in the field's names and layouts."""

    W_enc: Float[Tensor, "*instances d_in d_sae"]
    b_enc: Float[Tensor, "*instances d_sae"]
    W_dec: Float[Tensor, "*instances d_sae d_in"]
    b_dec: Float[Tensor, "*instances d_in"]

    def encode(self, x: Float[Tensor, "*#instances batch d_in"]) -> Float[Tensor, "*instances batch d_sae"]:
        """Activations of the latents, at least 0."""
        return torch.relu((x - self.b_dec.unsqueeze(-2)) @ self.W_enc + self.b_enc.unsqueeze(-2))

    def decode(
        self, acts: Float[Tensor, "*instances batch d_sae"], width: int | None = None
    ) -> Float[Tensor, "*instances batch d_in"]:
        """Reconstruction by the first `width` latents (all of them if None)."""
        return self.b_dec.unsqueeze(-2) + acts[..., :width] @ self.W_dec[..., :width, :]

    def errors(
        self, x: Float[Tensor, "*#instances batch d_in"], widths: Sequence[int]
    ) -> Float[Tensor, "*instances prefixes batch"]:
        """Squared error ||x - x_m||^2 of each prefix on each input."""
        acts = self.encode(x)
        return torch.stack([(x - self.decode(acts, width)).square().sum(-1) for width in widths], dim=-2)

    def penalties(
        self, x: Float[Tensor, "*#instances batch d_in"], widths: Sequence[int]
    ) -> Float[Tensor, "*instances prefixes batch"]:
        """L1 penalty of each prefix on each input, sum_{k<m} acts_k ||W_dec_k||."""
        sizes = self.encode(x) * self.W_dec.norm(dim=-1).unsqueeze(-2)
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
        terms = self.errors(x, config.widths) + config.l1 * self.penalties(x, config.widths)
        return (weights * (probs.unsqueeze(-2) * terms).sum(-1)).sum(-1)

    def map(self, change) -> SAE:
        """A new SAE with `change` applied to every parameter."""
        return SAE(change(self.W_enc), change(self.b_enc), change(self.W_dec), change(self.b_dec))

    def __getitem__(self, index) -> SAE:
        """Selects instances (leading axes)."""
        return self.map(lambda parameter: parameter[index])


def stack(saes: Sequence[SAE]) -> SAE:
    """SAEs of one shape along a new leading axis, for example one start for each setting of a sweep."""
    return SAE(*map(torch.stack, zip(*(vars(sae).values() for sae in saes), strict=True)))


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
    return _tied(rows, decoder_norm * rows)


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


def _tied(encoder_rows: Tensor, decoder_rows: Tensor) -> SAE:
    instances, d_sae, d_in = decoder_rows.shape
    return SAE(
        W_enc=encoder_rows.transpose(-1, -2).contiguous(),
        b_enc=encoder_rows.new_zeros(instances, d_sae),
        W_dec=decoder_rows.clone(),
        b_dec=encoder_rows.new_zeros(instances, d_in),
    )
