"""A remedy against mixing: the prefixes train the encoder, the full reconstruction trains the decoder.

    plain    both     min  sum over prefixes m of  w_m (E ||x - x_m||^2 + l1 ...)
    split    encoder  min  the same
    split    decoder  min  (sum of the w_m) (E ||x - x_n||^2 + l1 ...),  n the full width
    settled  decoder  min  E ||x - x_n||^2, by least squares; then the encoder alone, min as above; in turn

With an L1 penalty the second stage has no rest in scale: activations weighed by their decoder's norms are what counts,
and encoder and decoder drift apart, the one growing as the other shrinks. Read activations times norms.

The terms of the prefixes that mix a child into its parent act on the decoder; those that keep the parent's latent
firing beside its child act on the encoder. So the decoder is kept from the first and the encoder is not. Derived for
this project; its chapter holds it against what was published.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from matryoshka_mixing._checks import whole
from matryoshka_mixing.features import States
from matryoshka_mixing.sae import SAE, SAEConfig
from matryoshka_mixing.training import Setting, TrainConfig, fitting, train

ROWS = 1 << 14
"""Inputs that are sampled to refit a decoder where the data are a tree (our default)."""
ROUNDS = 8
"""How often decoder and encoder are settled in turn (our default; a chapter's ledger says how it was decided)."""


def full_decoder(config: SAEConfig) -> SAEConfig:
    """The same SAE, whose decoder and decoder bias are trained by the full reconstruction alone.

    It weighs as much as all prefixes together, so that the decoder keeps up with the encoder.

    Raises:
        ValueError: for a standard SAE, whose one prefix is the full width: nothing would change.
    """
    if len(config.widths) < 2:
        raise ValueError(f"widths are {config.widths}; the remedy is for an SAE with at least 2 prefixes.")
    return replace(config, decoder_weights=(*[0.0] * (len(config.widths) - 1), sum(config.weights)))


def refit(
    sae: SAE, x: Float[Tensor, "*#instances batch d_in"], probs: Float[Tensor, "*#instances batch"] | None = None
) -> SAE:
    """The same encoder with the decoder of least squared error: ordinary least squares on the activations.

    It undoes what the penalty does to a decoder (it shrinks, and leans toward whatever shrinks beside it). A latent
    that never fires keeps its row, and directions that the activations leave open stay as they are. The encoder's bias
    follows that of the decoder, so that every latent of a ReLU SAE fires as before; TopK and BatchTopK rank activations
    by the decoder's norms and may choose otherwise, and BatchTopK gets a new threshold. Where the SAE has one bias
    alone, both stay.

    Args:
        sae: with any leading axes; which biases it has says its configuration.
        x: inputs, many more than latents; a tensor or an array.
        probs: weight of each row, such as the states' probabilities; all alike if None.

    Raises:
        ValueError: if instances differ in configuration, or the inputs are none or not finite.
    """
    config = sae.one_config
    x = torch.as_tensor(x).to(sae.W_dec)
    if not x.shape[-2] or not x.isfinite().all():
        raise ValueError(f"x has the shape {tuple(x.shape)} and must hold at least one row, of finite numbers.")
    weights = x.new_full(x.shape[-2:-1], 1 / x.shape[-2]) if probs is None else probs
    biased = config.decoder_bias and config.encoder_bias
    acts = sae.encode(x, probs)
    known = torch.cat([acts, torch.ones_like(acts[..., :1])], -1) if biased else acts
    by_row = known.mT * weights.unsqueeze(-2)
    # The smallest change that leaves the least error: where no input asks for one, the decoder stays.
    change = torch.linalg.pinv(by_row @ known, hermitian=True, rtol=1e-10) @ (by_row @ (x - sae.decode(acts)))
    latents = sae.W_dec.shape[-2]
    moved = change[..., latents:, :].sum(-2)
    fitted = replace(
        sae, W_dec=sae.W_dec + change[..., :latents, :], b_dec=sae.b_dec + moved,
        b_enc=sae.b_enc + (moved.unsqueeze(-2) @ sae.W_enc).squeeze(-2),
    )  # fmt: skip
    return fitted.with_threshold(x, weights) if config.activation == "batchtopk" else fitted


@dataclass(frozen=True)
class Stages:
    """The SAEs after each stage of the remedy, with axes (settings, seeds).

    Attributes:
        plain: after plain Matryoshka training.
        split: after the full reconstruction trained the decoder, and the prefixes the encoder.
        settled: after decoder and encoder were settled in turn; the last word has the decoder.
    """

    plain: SAE
    split: SAE
    settled: SAE


def remedied(
    settings: Sequence[Setting] | Setting,
    start: SAE,
    config: TrainConfig,
    after: TrainConfig | None = None,
    *,
    rounds: int = ROUNDS,
    threads: int | None = None,
) -> Stages:
    """Train every setting with the remedy, in three stages.

    Args:
        settings: Matryoshka SAEs and their data, as `train` takes them; not with drawn prefixes.
        start: initial parameters, as `train` takes them.
        config: of the plain stage.
        after: of the second stage, and of all rounds together; None: the same at a third of the learning rate.
        rounds: how often, at the end, the decoder is refitted and the encoder then trained alone; at least 0.
        threads: as in `train`.

    Raises:
        ValueError: as `train` and `full_decoder`, if rounds is negative, or if a setting draws its prefixes or holds
            what the last stage fits.
    """
    settings = _settled_from(settings, rounds)
    if any(some.drawn for some in settings):
        raise ValueError(
            "a setting draws its prefixes, which two sets of weights cannot say; set drawn to 0 and give each prefix "
            "the weight that it has on average."
        )
    second = [replace(some, sae=full_decoder(some.sae)) for some in settings]
    after = after or replace(config, lr=config.lr / 3, snapshots=())
    plain = train(settings, start, config, threads=threads).sae
    split = train(second, plain, after, threads=threads).sae
    return Stages(plain, split, settle(settings, split, after, rounds, threads=threads))


def settle(
    settings: Sequence[Setting] | Setting,
    sae: SAE,
    config: TrainConfig,
    rounds: int = ROUNDS,
    *,
    threads: int | None = None,
) -> SAE:
    """The last stage: the decoder by least squares, and the encoder alone by the prefixes' loss, in turn.

    Where batches are sampled, every round draws the same ones again, as the seed of `config` says.

    Args:
        settings: Matryoshka SAEs and their data, as `train` takes them.
        sae: what to settle, with axes (seeds,), for every setting, or (settings, seeds); as the start of `train`.
        config: of all rounds together.
        rounds: how often the encoder is trained, each time between two fits of the decoder; at least 0.
        threads: as in `train`.

    Raises:
        ValueError: as `train`, if rounds is negative, or if a setting holds what is fitted: W_dec and both biases.
    """
    settings = _settled_from(settings, rounds)
    sae = fitting(settings, sae, config, torch.float64).map(Tensor.double)
    sae = SAE.stack([sae[i].with_config(some.sae) for i, some in enumerate(settings)])
    still = [replace(some, held={**some.held, "W_dec": ..., "b_dec": ...}) for some in settings]
    short = replace(config, steps=max(1, config.steps // max(1, rounds)), snapshots=())
    rows = [_rows(some) for some in settings]
    settled = _refitted(sae, rows)
    for _ in range(rounds):
        settled = _refitted(train(still, settled, short, threads=threads).sae, rows)
    return settled


def _settled_from(settings: Sequence[Setting] | Setting, rounds: int) -> list[Setting]:
    """The settings as a list, after what `settle` cannot do was refused."""
    if whole("rounds", rounds) < 0:
        raise ValueError(f"rounds is {rounds}; it must be at least 0.")
    settings = [settings] if isinstance(settings, Setting) else list(settings)
    if held := sorted({name for some in settings for name in some.held} - {"W_enc"}):
        raise ValueError(f"a setting holds {held}, which least squares would move; hold W_enc alone, or train without.")
    return settings


def _refitted(sae: SAE, rows: Sequence[tuple[Tensor, Tensor]]) -> SAE:
    """Every setting's SAEs refitted on its own inputs."""
    return SAE.stack([refit(sae[i], *some) for i, some in enumerate(rows)])


def _rows(setting: Setting) -> tuple[Tensor, Tensor]:
    """Inputs of a setting with their weights: states that are given, else samples.

    Samples that are alike are one row, but not for BatchTopK, which may keep an activation on some of them alone.
    """
    if isinstance(setting.data, States):
        acts, probs = setting.data.acts, setting.data.probs
    else:
        acts, counts = setting.data.sample(ROWS, torch.Generator().manual_seed(0)), torch.ones(ROWS)
        if setting.sae.activation != "batchtopk":
            acts, counts = acts.unique(dim=0, return_counts=True)
        probs = counts.double() / ROWS
    return (acts if setting.dictionary is None else acts @ setting.dictionary), probs
