"""Training many SAEs at once: every seed and every setting of a sweep in one loop.

All instances lie side by side in one flat buffer, so that a step is a handful of batched products and one fused
Adam update, however many SAEs and prefixes there are. Gradients are derived by hand and tested against autograd of
`SAE.loss`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm import tqdm

from matryoshka_mixing.features import FeatureTree, States
from matryoshka_mixing.sae import SAE, SAEConfig

ROWS_IN_FLIGHT = 1 << 24
"""Input numbers (instances x rows x dimensions) held at a time; larger sweeps are split (our default)."""
INSTANCES_AT_ONCE = 512
"""Instances side by side at most, about what fits a core's cache (our default)."""
BLOCK = 64
"""Steps whose counts are drawn in one go."""


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
    """What training returns; all leading axes are (settings, seeds).

    Attributes:
        sae: the parameters.
        loss: the final loss, exact on states, or that of the last batch for a sampled tree.
        grad_norm: norm of the gradient there, divided by E||x||^2.
        converged: whether that norm is within the tolerance. Sampled batches keep jittering, so
            there it is a measure of noise rather than of failure.
        history: training loss at each recorded step, shape (records, settings, seeds).
        steps: the recorded steps.
        path: the parameters after each of the updates in `snapshots`, with axes (snapshots, settings, seeds).
    """

    sae: SAE
    loss: Float[Tensor, "settings seeds"]
    grad_norm: Float[Tensor, "settings seeds"]
    converged: Bool[Tensor, "settings seeds"]
    history: Float[Tensor, "records settings seeds"]
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
        A `Trained` with axes (settings, seeds). Instances do not influence each other: a result does not
        depend on what else is trained beside it, nor on how the sweep is split to fit into memory.

    Raises:
        ValueError: if settings disagree in shape, `start` does not fit them, or there are no seeds.
    """
    settings = [settings] if isinstance(settings, Setting) else list(settings)
    if not settings:
        raise ValueError("no settings were given; train needs at least 1.")
    first = settings[0].sae
    for setting in settings:
        same = ("d_in", "widths", "encoder_bias", "decoder_bias")
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

    places = [(s, i) for s in range(len(settings)) for i in range(n_seeds)]
    rows = max(_rows(setting, config) for setting in settings)
    chunk = max(1, min(INSTANCES_AT_ONCE, ROWS_IN_FLIGHT // (rows * first.d_in)))
    flat = start.map(lambda parameter: parameter.flatten(0, 1))
    parts = []
    with tqdm(total=len(places) * config.steps, disable=not progress, unit="SAE-step") as bar:
        for low in range(0, len(places), chunk):
            run = _Chunk(settings, places[low : low + chunk], flat[low : low + chunk], config, device, dtype)
            parts.append(run.fit(bar.update))
    joined = [torch.cat(column, dim=-1).cpu() for column in zip(*(part[1:] for part in parts), strict=True)]
    shape = (len(settings), n_seeds)
    loss, grad_norm, history = (tensor.unflatten(-1, shape) for tensor in joined)
    columns = zip(*(vars(part[0]).values() for part in parts), strict=True)
    saes = SAE(*(torch.cat(column, dim=1).cpu().unflatten(1, shape) for column in columns))
    recorded = _recorded(config)
    return Trained(saes[-1], loss, grad_norm, grad_norm <= config.tolerance, history, recorded, saes[:-1])


def _rows(setting: Setting, config: TrainConfig) -> int:
    """Rows of input that one instance holds at a time."""
    if isinstance(setting.data, States) and (config.batch_size is None or len(setting.data) <= config.batch_size):
        return len(setting.data)
    if config.batch_size is None:
        raise ValueError("a FeatureTree can only be sampled; give batch_size, or pass tree.states() as data.")
    return config.batch_size * _steps_drawn(config.batch_size)


def _steps_drawn(batch_size: int) -> int:
    """Steps whose rows are drawn in one go: fewer for large batches, so that what is drawn stays small."""
    return max(1, min(BLOCK, 4096 // batch_size))


def _recorded(config: TrainConfig) -> list[int]:
    return sorted({round(s) for s in np.linspace(0, config.steps - 1, min(config.records, config.steps))})


class _Adam:
    """Adam (Kingma and Ba 2015) on one buffer, in place, with epsilon inside the root.

    torch.optim's would cost seconds of imports. A reciprocal root is several times faster than a root and a division,
    and epsilon inside it keeps single precision clear of denormal numbers, which are slow.
    """

    def __init__(self, theta: Tensor, config: TrainConfig):
        self.theta, self.config = theta, config
        self.mean, self.square, self.scale = (torch.zeros_like(theta) for _ in range(3))

    def step(self, gradient: Tensor, step: int) -> None:
        """Update number `step`, from 0."""
        beta1, beta2 = self.config.betas
        unbias = 1 - beta2 ** (step + 1)
        size = self.config.learning_rate(step) * unbias**0.5 / (1 - beta1 ** (step + 1))
        self.mean.lerp_(gradient, 1 - beta1)
        self.square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        torch.add(self.square, self.config.eps**2 * unbias, out=self.scale).rsqrt_()
        self.theta.addcmul_(self.mean, self.scale, value=-size)


class _Chunk:
    """Instances trained side by side: their data, and parameters and gradients in flat buffers.

    A buffer holds first, for each instance, the rows of W_enc^T and those of the decoder (b_dec leads them, as a row
    that is always on); then every instance's b_enc. A bias that is not trained has no place in it.
    """

    def __init__(self, settings, places, start: SAE, config: TrainConfig, device: str, dtype: torch.dtype):
        self.config, self.places = config, places
        self.sae = settings[0].sae
        self.place = {"device": device, "dtype": dtype}
        self.settings = [settings[s] for s, _ in places]
        weights = torch.tensor([s.sae.weights for s in self.settings], **self.place)
        held = torch.tensor([[k < m for k in range(self.sae.d_sae)] for m in self.sae.widths], **self.place)
        total, reach = weights.sum(-1, keepdim=True), weights @ held
        # Total weight of the prefixes that hold each decoder row, and of those that hold both of two rows.
        reach_all = torch.cat([total, reach], 1) if self.sae.decoder_bias else reach
        self.both = torch.minimum(reach_all[:, :, None], reach_all[:, None])
        self.twice_both, self.twice_reach = 2 * self.both, 2 * reach_all[..., None]
        self.total = total[:, 0]
        l1 = torch.tensor([s.sae.l1 for s in self.settings], **self.place)
        self.penalty = l1[:, None] * reach if l1.any() else None

        parts = [start.W_enc.transpose(1, 2), *[start.b_dec[:, None]] * self.sae.decoder_bias, start.W_dec]
        rows, b_enc = torch.cat(parts, 1), start.b_enc[:, : self.sae.d_sae * self.sae.encoder_bias]
        self.shapes = rows.shape, b_enc.shape
        self.theta = torch.cat([rows.flatten(), b_enc.flatten()]).to(**self.place)
        self.gradient = torch.zeros_like(self.theta)
        self.inner = torch.zeros(len(rows), rows.shape[1], rows.shape[1], **self.place)

    def views(self, buffer: Tensor) -> list[Tensor]:
        """A buffer as its rows, (instances, rows, d_in), and the encoder biases, (instances, d_sae or 0)."""
        parts = buffer.split([shape.numel() for shape in self.shapes])
        return [part.view(shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def result(self) -> SAE:
        """The parameters in the field's layout; biases that were not trained are 0."""
        (rows, b_enc), k = self.views(self.theta), self.sae.d_sae
        zeros = rows.new_zeros(len(rows), max(k, self.sae.d_in))
        return SAE(
            W_enc=rows[:, :k].transpose(1, 2).contiguous(),
            b_enc=b_enc.clone() if self.sae.encoder_bias else zeros[:, :k],
            W_dec=rows[:, -k:].clone(),
            b_dec=rows[:, k].clone() if self.sae.decoder_bias else zeros[:, : self.sae.d_in],
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
                advance(BLOCK * len(self.places))
        advance(config.steps % BLOCK * len(self.places))
        if all(isinstance(setting.data, States) for setting in self.settings):
            x, probs = self.states()
        final = self.loss_and_gradient(x, probs)
        power = (probs * x.square().sum(-1)).sum(-1).clamp_min(torch.finfo(probs.dtype).tiny)
        norm = torch.cat([part.flatten(1) for part in self.views(self.gradient)], 1).norm(dim=-1)
        columns = zip(*(vars(sae).values() for sae in [*kept, self.result()]), strict=True)
        return SAE(*map(torch.stack, columns)), final, norm / power, torch.stack(history)

    def loss_and_gradient(self, x: Tensor, probs: Tensor, want_loss: bool = True) -> Tensor | None:
        """The loss of each instance (if wanted), with its gradient left in the buffer.

        x is (rows, d_in) or (instances, rows, d_in), probs (instances, rows). Written out, the prefixes' squared
        errors need only two products: with c = W_dec x, D = W_dec W_dec^T, u_k the weight of the prefixes that hold
        latent k and M_kl = min(u_k, u_l) that of the prefixes that hold both,

            sum_m w_m ||x - x_m||^2  =  u_0 ||x||^2 - 2 sum_k u_k a_k c_k + sum_kl a_k M_kl D_kl a_l,

        so all prefixes together cost what one does. The decoder bias is a decoder row with a = 1 in every prefix.
        """
        (rows, b_enc), (g_rows, g_b_enc) = self.views(self.theta), self.views(self.gradient)
        k, first, weights = self.sae.d_sae, int(self.sae.decoder_bias), probs[:, None]
        products, gram = rows @ x.transpose(-1, -2), rows @ rows.transpose(1, 2)
        pre, along = products[:, :k], products[:, k:]
        if self.sae.encoder_bias:
            pre = pre + b_enc[..., None]
        if self.sae.decoder_bias:
            pre = pre - gram[:, :k, k, None]
        on = pre.relu() if not first else torch.cat([torch.ones_like(pre[:, :1]), pre.relu()], 1)
        weighed = on * weights
        form, moments = self.both * gram[:, k:, k:], weighed @ on.transpose(1, 2)

        # The gradient is  outer @ x + inner @ rows:  parts along the inputs, and parts along the rows themselves.
        pull = self.twice_reach * along
        g_acts = torch.baddbmm(pull, form, on, beta=-1, alpha=2)[:, first:]
        inner = self.inner
        torch.mul(self.twice_both, moments, out=inner[:, k:, k:])
        if self.penalty is not None:
            diagonals = [m.diagonal(dim1=1, dim2=2)[:, k + first :] for m in (gram, inner)]
            norms, fired = diagonals[0].sqrt(), weighed[:, first:].sum(-1)
            g_acts = g_acts + (self.penalty * norms)[..., None]
            diagonals[1].addcdiv_(self.penalty * fired, norms.clamp_min(1e-30))
        g_pre = g_acts * weights * (pre > 0)
        slope = g_pre.sum(-1)
        if self.sae.decoder_bias:
            inner[:, :k, k] = inner[:, k, :k] = -slope
        if self.sae.encoder_bias:
            g_b_enc.copy_(slope)
        outer = torch.cat([g_pre, self.twice_reach * -weighed], 1)
        torch.baddbmm(outer @ x, inner, rows, out=g_rows)
        loss = None
        if want_loss:
            power = (probs * x.square().sum(-1)).sum(-1)
            loss = self.total * power + (form * moments).sum((1, 2)) - (pull * weighed).sum((1, 2))
            if self.penalty is not None:
                loss = loss + (self.penalty * norms * fired).sum(-1)
        return loss

    def states(self) -> tuple[Tensor, Tensor]:
        """Inputs and probabilities of every instance; shorter ones are padded with states of probability 0."""
        rows = max(len(setting.data) for setting in self.settings)
        known: dict[int, tuple[Tensor, Tensor]] = {}
        for setting in self.settings:
            if id(setting) not in known:
                x, missing = setting.data.inputs(setting.dictionary), rows - len(setting.data)
                padded = torch.nn.functional.pad(x, (0, 0, 0, missing))
                known[id(setting)] = padded, torch.nn.functional.pad(setting.data.probs, (0, missing))
        x, probs = zip(*(known[id(setting)] for setting in self.settings), strict=True)
        shared = x[0] if all(torch.equal(x[0], other) for other, _ in known.values()) else torch.stack(x)
        return shared.to(**self.place), torch.stack(probs).to(**self.place)

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The input of each step: the exact states, counts over them, or sampled rows."""
        size = self.config.batch_size
        if size is None:
            x, probs = self.states()
            while True:
                yield x, probs
        streams = [np.random.Generator(np.random.PCG64((self.config.seed, i))) for _, i in self.places]
        if all(isinstance(s.data, States) and len(s.data) <= size for s in self.settings):
            # A batch drawn from finitely many states is a vector of counts: one multinomial draw.
            x, probs = self.states()
            shares = [p / p.sum() for p in probs.double().cpu().numpy()]
            while True:
                drawn = [r.multinomial(size, p, size=BLOCK) for r, p in zip(streams, shares, strict=True)]
                for counts in torch.from_numpy(np.stack(drawn, axis=1)).to(**self.place) / size:
                    yield x, counts
        uniform, block = torch.full((len(self.settings), size), 1 / size, **self.place), _steps_drawn(size)
        while True:
            drawn = [self._sample(s, size * block, r) for s, r in zip(self.settings, streams, strict=True)]
            for x in torch.stack(drawn, dim=0).unflatten(1, (block, size)).transpose(0, 1):
                yield x.to(**self.place), uniform

    @staticmethod
    def _sample(setting: Setting, n: int, stream: np.random.Generator) -> Tensor:
        if isinstance(setting.data, States):
            edges = np.cumsum(setting.data.probs.numpy())
            rows = np.searchsorted(edges / edges[-1], stream.random(n), side="right")
            return setting.data.inputs(setting.dictionary)[rows]
        generator = torch.Generator().manual_seed(int(stream.integers(2**62)))
        return setting.data.sample(n, generator).to(setting.dictionary) @ setting.dictionary
