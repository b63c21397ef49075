"""Where the remedy comes to rest, without training it.

Throughout, a are the activations, D the decoder, G = E[a a^T] and B = E[a x^T] over the inputs, and u the weight of all
prefixes together.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from matryoshka_mixing.sae import SAE, SAEConfig


def decoder(
    acts: Float[Tensor, "*instances rows d_sae"],
    x: Float[Tensor, "*#instances rows d_in"],
    probs: Float[Tensor, " rows"],
    norms: Float[Tensor, "*instances d_sae"],
    l1: float,
) -> Float[Tensor, "*instances d_sae d_in"]:
    """The decoder at which the remedy's second stage rests, for given activations; no decoder bias.

    The full reconstruction's gradient is `-2 (B - G D) + l1 diag(E a_k / ||d_k||) D`, whatever u is, so

        D = (G + (l1 / 2) diag(E a_k / ||d_k||))^-1 B

    Without a penalty that is ordinary least squares. With one it is a ridge, whose strength the latents' own norms set:
    what the penalty leaves of a child's input, x - a D, is in part the child's, and the parent, active there as well,
    leans toward it. The lean is of first order in l1.

    Args:
        acts: activations, of latents that all fire.
        x, probs: inputs and their weights.
        norms: of the decoder's rows, which the formula needs on the right-hand side.
        l1: weight of the penalty.
    """
    by_row = acts.mT * probs
    shrink = (l1 / 2) * by_row.sum(-1) / norms
    return torch.linalg.solve(by_row @ acts + torch.diag_embed(shrink), by_row @ x)


def gap(
    sae: SAE, x: Float[Tensor, "instances rows d_in"], probs: Float[Tensor, " rows"]
) -> Float[Tensor, " instances"]:
    """The largest distance of a decoder entry from `decoder`'s, for SAEs of one configuration with no decoder bias.

    NaN where a latent never fires: its row follows from nothing.
    """
    assert isinstance(sae.config, SAEConfig)
    acts, rows = sae.encode(x, probs), sae.W_dec
    fires = (acts > 0).any(-2).all(-1)
    expected = decoder(acts[fires], x[fires], probs, rows[fires].norm(dim=-1), sae.config.l1)
    found = rows.new_full(fires.shape, torch.nan)
    found[fires] = (rows[fires] - expected).abs().amax((-1, -2))
    return found


def latents(directions: Float[Tensor, "*instances features d_in"]) -> Float[Tensor, "*instances features d_in"]:
    """The unit decoder of one parent and its exclusive children when settled, the parent first; no penalty.

    Each latent fires with its own feature and no other. On the parent alone the full reconstruction is exact only if
    the parent's decoder is the parent's direction f_0. Beside child i the full width is exact whatever the parent's
    latent writes there, since the child's latent adds the rest; so the inner prefix alone decides, and the parent's
    activation is that of the projection, 1 + f_0 . f_i. What is left for the child is

        d_i = f_i - (f_0 . f_i) f_0

    the child without its part along the parent. For orthogonal features that is the truth; for others it is not.
    """
    parent, children = directions[..., :1, :], directions[..., 1:, :]
    rest = children - (children * parent).sum(-1, keepdim=True) * parent
    return normalize(torch.cat([parent, rest], -2), dim=-1)


def halving(inner: float, outer: float) -> float:
    """By what the child's lean on its parent shrinks in one round of settling: outer / (inner + outer).

    With least squares the parent's decoder is clean, f_0. If a child's decoder still holds -c f_0 beside f_i, the outer
    prefix wants 1 + c of the parent's latent, the inner one 1; the encoder settles at the mean by their weights, and
    the next fit gives the child what is left.
    """
    return outer / (inner + outer)


def field(theta: Float[Tensor, " parameters"], like: SAE, config: SAEConfig, x: Tensor, probs: Tensor) -> Tensor:
    """What the second stage follows: the gradient of the prefixes' loss for the encoder, of the full one for the rest.

    Args:
        theta: all parameters of one SAE in a row, W_enc, b_enc, W_dec and b_dec.
        like: an SAE of these shapes.
        config: from `remedy.full_decoder`.
        x, probs: inputs and their weights.
    """
    names = list(like.parameters)
    parts = torch.split(theta, [value.numel() for value in like.parameters.values()])
    given = {name: part.reshape(like.parameters[name].shape) for name, part in zip(names, parts, strict=True)}
    sae = SAE(**given, config=config)
    losses = sae.loss(x, probs, config), sae.loss(x, probs, config.for_decoder)
    found = [
        torch.autograd.grad(loss, [given[name] for name in some], create_graph=True)
        for loss, some in zip(losses, (names[:2], names[2:]), strict=True)
    ]
    return torch.cat([grad.flatten() for some in found for grad in some])
