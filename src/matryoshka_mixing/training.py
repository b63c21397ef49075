"""Training many SAEs at once: every seed and every setting of a sweep in one loop.

All instances lie side by side in one buffer, so that a step is a handful of batched products and one fused Adam
update, however many SAEs and prefixes there are. A sampled batch is held as its distinct inputs and how often each was
drawn. Gradients are derived by hand and tested against autograd of `SAE.loss`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import groupby

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm import tqdm

from matryoshka_mixing.features import FeatureTree, States
from matryoshka_mixing.sae import SAE, TRAINED, SAEConfig, largest, largest_of_batch

BYTES_AT_ONCE = {"cpu": 1 << 22, "cuda": 1 << 33}
"""What instances trained side by side may hold; larger sweeps are split. About a cache, or a card (our defaults)."""
BLOCK = 128
"""Steps whose batches are drawn in one go, at most."""
FEW = 96
"""Up to so many states, a batch holds all of them with their counts; beyond, only those that were drawn."""


@dataclass(frozen=True)
class Setting:
    """One point of a sweep: an SAE and the data it is trained on.

    Attributes:
        sae: the SAE's configuration.
        data: `States` (exact, or batches drawn from them) or a `FeatureTree` (sampled batches only).
        dictionary: direction of each feature, shape (features, d_in).
    """

    sae: SAEConfig
    data: States | FeatureTree
    dictionary: Float[Tensor, "features d_in"]

    def __post_init__(self) -> None:
        features = self.data.acts.shape[1] if isinstance(self.data, States) else self.data.n_features
        if self.dictionary.shape != (features, self.sae.d_in):
            raise ValueError(
                f"the dictionary has shape {tuple(self.dictionary.shape)}; for {features} features and "
                f"d_in {self.sae.d_in} it must be {(features, self.sae.d_in)}."
            )


@dataclass(frozen=True)
class TrainConfig:
    """How to train: Adam with linear warm-up and a cool-down to zero.

    Attributes:
        steps: number of updates, at least 1.
        lr: peak learning rate, above 0.
        betas: Adam's decay rates, each in [0, 1).
        eps: Adam's epsilon, above 0. Much smaller ones let Adam amplify rounding noise in directions that the
            data do not span.
        warmup: share of the steps in which the rate rises from 0, in [0, 1].
        cooldown: share of the steps, at the end, in which it falls to 0 (half a cosine), in [0, 1].
        batch_size: inputs in a sampled batch; None trains on the exact expected loss.
        tolerance: an instance has converged when its gradient norm is at most this times its E||x||^2.
        seed: seeds the batches (with the instance's own number); unused on exact states.
        records: how many points of the loss history to keep.
        snapshots: after how many updates to keep the parameters, in increasing order; none by default.
    """

    steps: int = 3000
    lr: float = 0.02
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    warmup: float = 0.02
    cooldown: float = 0.6
    batch_size: int | None = None
    tolerance: float = 1e-6
    seed: int = 0
    records: int = 100
    snapshots: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        checks = [
            ("steps", self.steps >= 1, "at least 1"),
            ("lr", 0 < self.lr < float("inf"), "above 0"),
            ("betas", all(0 <= b < 1 for b in self.betas), "each in [0, 1)"),
            ("eps", self.eps > 0, "above 0"),
            ("warmup", 0 <= self.warmup <= 1, "a share in [0, 1]"),
            ("cooldown", 0 <= self.cooldown <= 1 - self.warmup, "a share, and with warmup at most 1"),
            ("batch_size", self.batch_size is None or self.batch_size >= 1, "at least 1, or None for exact"),
            ("tolerance", self.tolerance > 0, "above 0"),
            ("records", self.records >= 1, "at least 1"),
            (
                "snapshots",
                list(self.snapshots) == sorted({s for s in self.snapshots if 1 <= s <= self.steps}),
                f"whole numbers from 1 to {self.steps} that strictly increase",
            ),
        ]
        for name, holds, allowed in checks:
            if not holds:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be {allowed}.")

    def learning_rate(self, step: int) -> float:
        """Learning rate of update number `step` (from 0)."""
        warm, cool = self.warmup * self.steps, self.cooldown * self.steps
        rise = min(1.0, (step + 1) / warm) if warm else 1.0
        left = min(1.0, (self.steps - step) / cool) if cool else 1.0
        return self.lr * rise * (0.5 - 0.5 * float(np.cos(np.pi * left)))


@dataclass(frozen=True)
class Trained:
    """What training returns; the instances' axes are (settings, seeds), or those of the start of `descend`.

    Attributes:
        sae: the parameters.
        loss: the final loss, exact on states, or that of the last batch for a sampled tree.
        grad_norm: norm of the gradient there, divided by E||x||^2 (by `scale` in `descend`).
        converged: whether that norm is within the tolerance. Sampled batches keep jittering, so
            there it is a measure of noise rather than of failure.
        history: training loss at each recorded step, shape `(records, *instances)`.
        steps: the recorded steps.
        path: the parameters after each of the updates in `snapshots`, with axes (snapshots, settings, seeds).
    """

    sae: SAE
    loss: Float[Tensor, "*instances"]
    grad_norm: Float[Tensor, "*instances"]
    converged: Bool[Tensor, "*instances"]
    history: Float[Tensor, "records ..."]
    steps: list[int]
    path: SAE

    def report(self) -> str:
        """How many instances converged, in one line."""
        done, total = int(self.converged.sum()), self.converged.numel()
        line = f"{done} of {total} SAEs converged"
        if done < total:
            line += f"; the largest of the others' relative gradient norms is {self.grad_norm.max():.0e}"
        return line


def train(
    settings: Sequence[Setting] | Setting,
    start: SAE,
    config: TrainConfig = TrainConfig(),
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float64,
    progress: bool = False,
) -> Trained:
    """Train every setting from every start, all at once.

    Args:
        settings: points of the sweep; they must share d_in, widths and which biases are trained.
        start: initial parameters with axes (seeds,), used for every setting, or (settings, seeds).
        config: how to train.
        device, dtype: where and in what precision.
        progress: show a progress bar.

    Returns:
        A `Trained` with axes (settings, seeds). Instances do not influence each other: up to rounding (in
        float64, 1e-8 after 150 steps), a result does not depend on what else is trained beside it, nor on how the
        sweep is split to fit into memory.

    Raises:
        ValueError: if settings disagree in shape, `start` does not fit them, or there are no seeds.
    """
    settings = [settings] if isinstance(settings, Setting) else list(settings)
    if not settings:
        raise ValueError("no settings were given; train needs at least 1.")
    first = settings[0].sae
    for setting in settings:
        same = ("d_in", "widths", "encoder_bias", "decoder_bias", "activation")
        if any(getattr(setting.sae, key) != getattr(first, key) for key in same):
            raise ValueError(f"settings trained together must share {', '.join(same)}; got {first} and {setting.sae}.")
    if start.W_enc.ndim == 3:
        start = start.map(lambda parameter: parameter.expand(len(settings), *parameter.shape))
    n_seeds = start.W_enc.shape[1]
    if start.W_enc.shape != (len(settings), n_seeds, first.d_in, first.d_sae):
        raise ValueError(
            f"start.W_enc has shape {tuple(start.W_enc.shape)}; for {len(settings)} setting(s) with "
            f"d_in {first.d_in} and {first.d_sae} latents it must be "
            f"(seeds, {first.d_in}, {first.d_sae}), with or without a leading {len(settings)}."
        )
    if n_seeds < 1:
        raise ValueError("start holds zero seeds; give at least 1.")

    place = {"device": device, "dtype": dtype}
    sources: dict[tuple[int, int], _Source] = {}
    for setting in settings:
        key = id(setting.data), id(setting.dictionary)
        sources[key] = sources.get(key) or _Source(setting, config, dtype)
    members = [
        (setting.sae, sources[id(setting.data), id(setting.dictionary)], seed)
        for setting in settings
        for seed in range(n_seeds)
    ]
    size = max(_numbers(first, source.n_rows) for source in sources.values()) * dtype.itemsize
    chunk = max(1, BYTES_AT_ONCE.get(torch.device(device).type, BYTES_AT_ONCE["cpu"]) // size)
    chunk -= chunk % n_seeds if chunk > n_seeds else 0  # whole settings, whose seeds share their inputs
    flat = start.map(lambda parameter: parameter.flatten(0, 1))
    parts = []
    with tqdm(total=len(members) * config.steps, disable=not progress, unit="SAE-step") as bar:
        for low in range(0, len(members), chunk):
            run = _Chunk(members[low : low + chunk], flat[low : low + chunk], config, place)
            parts.append(run.fit(bar.update))
    joined = [torch.cat(column, dim=-1).cpu() for column in zip(*(part[1:] for part in parts), strict=True)]
    shape = (len(settings), n_seeds)
    loss, grad_norm, history = (tensor.unflatten(-1, shape) for tensor in joined)
    saes = SAE.join([part[0] for part in parts], partial(torch.cat, dim=1))
    saes = saes.map(lambda parameter: parameter.cpu().unflatten(1, shape))
    recorded = _recorded(config)
    return Trained(saes[-1], loss, grad_norm, grad_norm <= config.tolerance, history, recorded, saes[:-1])


def descend(
    objective: Callable[[SAE], Tensor],
    start: SAE,
    config: TrainConfig = TrainConfig(),
    *,
    held: Mapping[str, object] | None = None,
    scale: float = 1.0,
) -> Trained:
    """Train on any loss: for interventions and losses of your own, which `train` does not know.

    The same Adam and schedule as `train`, with autograd in place of gradients by hand, so slower by several times.
    For example, a Matryoshka SAE whose terms (a prefix on a state) are weighed one by one:

        descend(lambda sae: (terms * sae.errors(x, widths)).sum((-2, -1)), start, held={"b_enc": ..., "b_dec": ...})

    Args:
        objective: from the parameters to one loss for each instance, shape `(*instances)`. One that draws its own
            samples should draw anew on each call.
        start: initial parameters with any leading axes.
        config: how to train; `batch_size` and `seed` are unused.
        held: what stays as it starts: for a parameter's name an index into it, such as
            `{"b_enc": ..., "W_dec": np.s_[..., 0, :]}` for the encoder biases and the first latent's decoder.
        scale: gradient norms are divided by this (E||x||^2 to compare with `train`).

    Raises:
        ValueError: if the objective does not give one number for each instance, or `held` names no parameter.
    """
    if unknown := set(held or {}) - set(TRAINED):
        raise ValueError(f"held names {sorted(unknown)}; the parameters of an SAE are {list(TRAINED)}.")
    instances, shapes = start.b_dec.shape[:-1], [parameter.shape for parameter in start.parameters.values()]
    theta = torch.cat([parameter.flatten() for parameter in start.parameters.values()]).requires_grad_()

    def views(buffer: Tensor) -> SAE:
        parts = buffer.split([shape.numel() for shape in shapes])
        views = (part.view(shape) for part, shape in zip(parts, shapes, strict=True))
        return replace(start, **dict(zip(TRAINED, views, strict=True)))

    def loss_and_gradient() -> tuple[Tensor, Tensor]:
        loss = objective(views(theta))
        if loss.shape != instances:
            raise ValueError(
                f"the objective gave shape {tuple(loss.shape)} for instances of shape {tuple(instances)}; "
                "sum over states and prefixes, and leave the instances."
            )
        (gradient,) = torch.autograd.grad(loss.sum(), theta)
        for name, index in (held or {}).items():
            views(gradient).parameters[name][index] = 0
        return loss.detach(), gradient

    adam, history, kept, recorded = _Adam(theta.detach(), config), [], [], set(_recorded(config))
    for step in range(config.steps):
        loss, gradient = loss_and_gradient()
        if step in recorded:
            history.append(loss)
        adam.step(gradient, step)
        if step + 1 in config.snapshots:
            kept.append(views(theta.detach().clone()))
    loss, gradient = loss_and_gradient()
    parts = [part.flatten(len(instances)) for part in views(gradient).parameters.values()]
    norm = torch.cat(parts, -1).norm(dim=-1) / scale
    saes = SAE.join([*kept, views(theta.detach().clone())])
    recorded, done = _recorded(config), norm <= config.tolerance
    return Trained(saes[-1], loss, norm, done, torch.stack(history), recorded, saes[:-1])


def _numbers(sae: SAEConfig, rows: int) -> int:
    """Numbers that one instance holds: its inputs and what is computed from them, parameters and Adam's moments."""
    directions = 2 * sae.d_sae + 1
    return rows * (sae.d_in + 1 + 3 * directions) + directions * (4 * (sae.d_in + 1) + 3 * directions)


def _recorded(config: TrainConfig) -> list[int]:
    return sorted({round(s) for s in np.linspace(0, config.steps - 1, min(config.records, config.steps))})


class _Adam:
    """Adam (Kingma and Ba 2015) on one buffer, in place: the fused kernel of torch.optim, without its imports."""

    def __init__(self, theta: Tensor, config: TrainConfig):
        self.theta, self.config = theta, config
        self.mean, self.square = torch.zeros_like(theta), torch.zeros_like(theta)
        self.count = torch.zeros((), dtype=torch.float32, device=theta.device)

    def step(self, gradient: Tensor, step: int) -> None:
        """Update number `step`, from 0."""
        torch._fused_adam_(
            [self.theta],
            [gradient],
            [self.mean],
            [self.square],
            [],
            [self.count.fill_(step + 1)],
            lr=self.config.learning_rate(step),
            beta1=self.config.betas[0],
            beta2=self.config.betas[1],
            eps=self.config.eps,
            weight_decay=0.0,
            amsgrad=False,
            maximize=False,
        )


_listed = lru_cache(maxsize=4)(FeatureTree.states)  # a large tree takes longer than many steps


class _Source:
    """Where the batches of one data set come from: its states, if they can be listed, or samples of its tree.

    Inputs carry a last entry of 1, which meets the encoder biases.
    """

    def __init__(self, setting: Setting, config: TrainConfig, dtype: torch.dtype):
        data, size = setting.data, config.batch_size
        self.data, self.dictionary, self.dtype = data, setting.dictionary, dtype
        self.size, self.exact = size, isinstance(data, States)
        if size is None and not self.exact:
            raise ValueError("a FeatureTree can only be sampled; give batch_size, or pass tree.states() as data.")
        states = data if self.exact else _listed(data) if data.can_list() else None
        self.listed, self.n_rows = states is not None, size
        if states is None:
            return
        shares = (states.probs.double() / states.probs.sum()).numpy()
        few = size is None or len(states) <= FEW
        order = np.arange(len(states)) if few else np.argsort(-shares, kind="stable")[: np.count_nonzero(shares)]
        self.table, self.probs = self.inputs(states.acts[order]), states.probs[order]
        self.shares = shares[order]
        self.ascending, rare = self.shares.argsort(), self.shares[FEW:].cumsum()
        self.rare = rare / rare[-1:]
        # So many states differ in a batch, on average.
        self.n_rows = len(order) if few else round((1 - (1 - self.shares) ** size).sum())

    def inputs(self, acts: Tensor) -> Tensor:
        """Inputs with these feature activations, (..., d_in + 1)."""
        return torch.nn.functional.pad(acts.to(self.dictionary) @ self.dictionary, (0, 1), value=1.0).to(self.dtype)

    def draw(self, stream: np.random.Generator, steps: int) -> tuple[np.ndarray, np.ndarray]:
        """Which states so many batches hold, and how often each was drawn: both (steps, most in a batch).

        Few states are all held. Of many, the likeliest are drawn as counts, with one count for all others; those are
        then drawn one by one. numpy draws one binomial count after the other, and the last, the likeliest, is free.
        """
        if len(self.shares) <= FEW:
            counts = np.empty((steps, len(self.shares)))
            counts[:, self.ascending] = stream.multinomial(self.size, self.shares[self.ascending], steps)
            return np.broadcast_to(np.arange(len(self.shares)), counts.shape), counts
        counts = stream.multinomial(self.size, np.append(self.shares[FEW:].sum(), self.shares[FEW - 1 :: -1]), steps)
        likely, others = counts[:, :0:-1], counts[:, 0]
        rare = FEW + self.rare.searchsorted(stream.random(others.sum()), side="right")
        keys, times = np.unique(len(self.shares) * np.arange(steps).repeat(others) + rare, return_counts=True)
        step, rare = np.divmod(keys, len(self.shares))
        number = np.count_nonzero(likely, axis=1)[:, None]
        total = number + np.bincount(step, minlength=steps)[:, None]
        place = np.arange(total.max())
        first, then = place < number, (place >= number) & (place < total)
        drawn, counts = np.zeros(first.shape, np.int64), np.zeros(first.shape)
        drawn[first], counts[first] = likely.nonzero()[1], likely[likely > 0]
        drawn[then], counts[then] = rare, times
        return drawn, counts

    def rows(self, stream: np.random.Generator, steps: int) -> tuple[Tensor, Tensor]:
        """The inputs of so many batches, (most in a batch, steps, d_in + 1), and how often each was drawn."""
        if self.listed:
            drawn, counts = self.draw(stream, steps)
            return torch.from_numpy(self.table.numpy()[drawn.T]), torch.from_numpy(counts.T)
        generator = torch.Generator().manual_seed(int(stream.integers(2**62)))
        x = self.inputs(self.data.sample(steps * self.size, generator)).unflatten(0, (self.size, steps))
        return x, torch.ones(self.size, steps)


class _Chunk:
    """Instances trained side by side: their data, and parameters and gradients in one buffer each.

    A buffer is (instances, 2 d_sae + 1, d_in + 1). An instance's rows are those of W_enc^T, then b_dec, then those of
    W_dec; the last column holds b_enc, and zeros beside the rest. What is not trained keeps a gradient of 0.
    """

    def __init__(self, members: list[tuple[SAEConfig, _Source, int]], start: SAE, config: TrainConfig, place: dict):
        self.config, self.place, self.members = config, place, members
        self.saes, self.sae = [sae for sae, _, _ in members], members[0][0]
        self.sources = list(dict.fromkeys(source for _, source, _ in members))
        which = [self.sources.index(source) for _, source, _ in members]
        self.which = torch.tensor(which, device=place["device"])
        # Neighbours with the same inputs, the seeds of a setting, are multiplied as one larger matrix.
        self.alike = math.gcd(*(len(list(run)) for _, run in groupby(which)))
        if all(source.listed for source in self.sources):
            pad = torch.nn.utils.rnn.pad_sequence
            tables = pad([source.table for source in self.sources], batch_first=True)
            if torch.equal(tables, tables[:1].expand_as(tables)):
                tables, self.which = tables[:1], self.which * 0
            self.tables = tables.to(**place)
            probs = pad([source.probs for source in self.sources], batch_first=True)
            self.probs = probs[which].to(**place)

        k = self.sae.d_sae
        weights = torch.tensor([sae.weights for sae in self.saes], **place)
        held = torch.tensor([[j < m for j in range(k)] for m in self.sae.widths], **place)
        # Total weight of the prefixes that hold each decoder row (b_dec is in all), and that hold both of two rows.
        reach = torch.cat([weights.sum(-1, keepdim=True), weights @ held], 1)
        self.total, self.twice_reach, self.minus_twice_reach = reach[:, 0], 2 * reach[..., None], -2 * reach[..., None]
        self.twice_both = 2 * torch.minimum(reach[:, :, None], reach[:, None])
        l1 = torch.tensor([sae.l1 for sae in self.saes], **place)
        self.penalty = l1[:, None] * reach[:, 1:] if any(sae.l1 for sae in self.saes) else None
        relu = self.sae.activation == "relu"
        self.k = None if relu else torch.tensor([float(sae.k) for sae in self.saes], **place)

        rows = torch.cat([start.W_enc.transpose(1, 2), start.b_dec[:, None], start.W_dec], 1)
        last = torch.nn.functional.pad(start.b_enc * self.sae.encoder_bias, (0, k + 1))
        self.theta = torch.cat([rows, last[..., None]], 2).to(**place)
        self.theta[:, k] *= self.sae.decoder_bias
        self.trained = torch.ones_like(self.theta[0])
        self.trained[k:, -1] = 0
        self.trained[:k, -1] = self.sae.encoder_bias
        self.trained[k, :-1] = self.sae.decoder_bias
        self.rows = 0

    def allocate(self, rows: int) -> None:
        """Buffers and views for batches of so many rows: made once, since at this size making them is what costs."""
        k, n = self.sae.d_sae, len(self.members)

        def new(*shape: int) -> Tensor:
            return torch.zeros(n, *shape, **self.place)

        self.rows = rows
        self.gradient, self.decoder, self.theta_T = torch.zeros_like(self.theta), self.theta[:, k:], self.theta.mT
        # All rows with the inputs, and the decoder's rows with all rows.
        self.products, self.gram = new(2 * k + 1, rows), new(k + 1, 2 * k + 1)
        self.pre, self.along = self.products[:, :k], self.products[:, k:]
        self.shift, self.gram_dec = self.gram[:, 0, :k, None], self.gram[:, :, k:]
        self.norms_squared = self.gram_dec.diagonal(dim1=1, dim2=2)[:, 1:]
        self.on, self.weighed, self.pull = new(k + 1, rows) + 1, new(k + 1, rows), new(k + 1, rows)
        self.on_T, self.acts = self.on.mT, self.on[:, 1:]
        self.form, self.moments, self.inner = new(k + 1, k + 1), new(k + 1, k + 1), new(2 * k + 1, 2 * k + 1)
        self.linear, self.fired = self.form[:, 1:, 0], self.moments[:, 1:, 0]
        self.inner_dec = self.inner[:, k:, k:]
        self.inner_diagonal = self.inner_dec.diagonal(dim1=1, dim2=2)[:, 1:]
        self.slopes = self.inner[:, :k, k], self.inner[:, k, :k]
        self.slope = self.gradient[:, :k, -1]

    def result(self) -> SAE:
        """The parameters in the field's layout."""
        k, rows = self.sae.d_sae, self.theta[..., :-1]
        return SAE(
            W_enc=rows[:, :k].transpose(1, 2).contiguous(),
            b_enc=self.theta[:, :k, -1].clone(),
            W_dec=rows[:, k + 1 :].clone(),
            b_dec=rows[:, k].clone(),
            activation=self.sae.activation,
            k=self.k,
        )

    @torch.inference_mode()
    def fit(self, advance: Callable[[int], object]) -> tuple[SAE, Tensor, Tensor, Tensor]:
        """Train, then return the parameters (snapshots first), final loss, relative gradient norm and history."""
        config, history, kept, recorded = self.config, [], [], set(_recorded(self.config))
        adam = _Adam(self.theta, config)
        for step, (x, probs) in zip(range(config.steps), self.batches(), strict=False):
            loss = self.loss_and_gradient(x, probs, want_loss=step in recorded)
            if loss is not None:
                history.append(loss)
            adam.step(self.gradient, step)
            if step + 1 in config.snapshots:
                kept.append(self.result())
            if (step + 1) % BLOCK == 0:
                advance(BLOCK * len(self.members))
        advance(config.steps % BLOCK * len(self.members))
        # The loss is a sum over rows: many states are taken a part at a time.
        exact, final, gradient, power = all(source.exact for source in self.sources), 0, 0, 0
        for part, weights in self.states(1024) if exact else [(x, probs)]:
            final = final + self.loss_and_gradient(part, weights)
            gradient = gradient + self.gradient
            power = power + (weights * self.squares(part)).sum(-1)
        relative = gradient.flatten(1).norm(dim=-1) / power.clamp_min(torch.finfo(power.dtype).tiny)
        return SAE.join([*kept, self.result()]), final, relative, torch.stack(history)

    def loss_and_gradient(self, x: Tensor, probs: Tensor, want_loss: bool = True) -> Tensor | None:
        """The loss of each instance (if wanted), with its gradient left in the buffer.

        x is (rows, d_in + 1), or (groups, rows, d_in + 1) for groups of as many neighbours each that share inputs, and
        probs (instances, rows). Written out, the prefixes' squared errors need only two products: with c = W_dec x,
        D = W_dec W_dec^T, u_k the weight of the prefixes that hold latent k and M_kl = min(u_k, u_l) that of the
        prefixes that hold both,

            sum_m w_m ||x - x_m||^2  =  u_0 ||x||^2 - 2 sum_k u_k a_k c_k + sum_kl a_k M_kl D_kl a_l,

        so all prefixes together cost what one does. The decoder bias is a decoder row with a = 1 in every prefix.
        """
        if x.shape[-2] != self.rows:
            self.allocate(x.shape[-2])
        weights = probs[:, None]
        theta, products, gradient = self.theta, self.products, self.gradient
        if x.ndim == 3:
            theta, products, gradient = (b.view(len(x), -1, b.shape[-1]) for b in (theta, products, gradient))
        torch.matmul(theta, x.mT, out=products)
        torch.bmm(self.decoder, self.theta_T, out=self.gram)
        torch.clamp_min(self.pre.sub_(self.shift), 0, out=self.acts)
        split = None if self.k is None else self.drop(probs)
        torch.mul(self.on, weights, out=self.weighed)
        torch.bmm(self.weighed, self.on_T, out=self.moments)
        if split is not None:
            share, whole = split
            self.moments.diagonal(dim1=1, dim2=2)[:, 1:].add_((self.weighed[:, 1:] * whole * (1 - share)).sum(-1))
        torch.mul(self.twice_both, self.gram_dec, out=self.form)
        torch.mul(self.twice_reach, self.along, out=self.pull)
        # The gradient is  outer @ x + inner @ rows:  parts along the inputs, and parts along the rows themselves.
        torch.mul(self.twice_both, self.moments, out=self.inner_dec)
        if self.penalty is not None:
            norms = self.norms_squared.sqrt().clamp_min_(1e-30)
            self.linear.addcmul_(self.penalty, norms)
            self.inner_diagonal.addcmul_(self.fired, self.penalty / norms)
        loss = None
        if want_loss:
            power = (probs * self.squares(x)).sum(-1)
            loss = self.total * power + (self.form * self.moments / 2).sum((1, 2))
            loss -= (self.pull * self.weighed).sum((1, 2))
            if self.penalty is not None:
                loss += (self.penalty * norms * self.fired).sum(-1) / 2
        g_acts = torch.baddbmm(self.pull, self.form, self.on, beta=-1)[:, 1:]
        if split is not None:
            size = self.form.diagonal(dim1=1, dim2=2)[:, 1:, None]
            g_acts.mul_(share).addcmul_(size * share, whole - self.acts)
        outer = products  # no longer needed
        torch.mul(g_acts.mul_(weights), self.acts > 0, out=self.pre)
        torch.mul(self.minus_twice_reach, self.weighed, out=self.along)
        torch.matmul(outer, x, out=gradient)
        for place in self.slopes:
            torch.neg(self.slope, out=place)
        self.gradient.baddbmm_(self.inner, self.theta).mul_(self.trained)
        return loss

    def drop(self, probs: Tensor) -> tuple[Tensor, Tensor] | None:
        """Leave of each activation the share that TopK or BatchTopK keeps.

        An activation a that is kept on a share s of a row's inputs has mean s a, mean square s a^2, and with any other
        latent the mean product s a b. With s a in the buffer, only its own square, s^2 a^2, is then short of
        s (1 - s) a^2.

        Returns:
            The shares and the whole activations, (instances, d_sae, rows); None for TopK, where nothing is split.
        """
        norms = self.norms_squared.sqrt()
        if self.sae.activation == "topk":
            self.acts.mul_(largest((self.acts * norms[..., None]).mT, self.k).mT)
            return None
        whole = self.acts.clone()
        share = largest_of_batch((whole * norms[..., None]).mT, self.k, probs).mT
        self.acts.mul_(share)
        return share, whole

    def squares(self, x: Tensor) -> Tensor:
        """||x||^2 of inputs that `loss_and_gradient` takes: (rows,), or (instances, rows)."""
        squares = x[..., :-1].square().sum(-1)
        return squares if x.ndim == 2 else squares.repeat_interleave(len(self.members) // len(x), 0)

    def states(self, rows: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """The inputs of all states and their probabilities, so many at a time."""
        count = self.probs.shape[1]
        for low in range(0, count, rows or count):
            part = slice(low, low + (rows or count))
            x = self.tables[:, part]
            yield x[0] if len(x) == 1 else x[self.which[:: self.alike]], self.probs[:, part]

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The input of each step: all states with their probabilities or counts, those that were drawn, or samples."""
        size, device = self.config.batch_size, self.place["device"]
        if size is None:
            (exact,) = self.states()
            while True:
                yield exact
        drawers = [(source, np.random.default_rng((self.config.seed, seed))) for _, source, seed in self.members]
        steps = max(1, min(BLOCK, (1 << 16) // size))
        if not all(source.listed for source in self.sources):
            while True:
                drawn = zip(*(source.rows(stream, steps) for source, stream in drawers), strict=True)
                x, counts = (torch.nn.utils.rnn.pad_sequence(some) for some in drawn)
                for step in range(steps):
                    yield x[:, :, step].transpose(0, 1).to(**self.place), counts[:, :, step].T.to(**self.place) / size
        if self.probs.shape[1] <= FEW:
            ((x, _),) = self.states()
            while True:
                counts = np.zeros((BLOCK, *self.probs.shape))
                for i, (source, stream) in enumerate(drawers):
                    counts[:, i, : len(source.shares)] = source.draw(stream, BLOCK)[1]
                for share in torch.from_numpy(counts / size).to(**self.place):
                    yield x, share
        table, first = self.tables.flatten(0, 1), self.which[:, None] * self.tables.shape[1]
        while True:
            drawn = [source.draw(stream, steps) for source, stream in drawers]
            most = max(states.shape[1] for states, _ in drawn)
            states, counts = np.zeros((steps, len(drawn), most), np.int64), np.zeros((steps, len(drawn), most))
            for i, (some, times) in enumerate(drawn):
                states[:, i, : some.shape[1]], counts[:, i, : some.shape[1]] = some, times
            places = torch.from_numpy(states).to(device) + first
            for place, share in zip(places, torch.from_numpy(counts / size).to(**self.place), strict=True):
                yield table.index_select(0, place.flatten()).unflatten(0, place.shape), share
