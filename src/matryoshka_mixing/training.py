"""Training many SAEs: `train` by a compiled step, `descend` by autograd on any loss.

`train` takes every setting of a sweep from every seed: small ReLU SAEs on few states four at a time (see `_abreast`),
all others one by one, each wholly in the cache (see `_kernel`). Threads take shares of them. What comes of an SAE does
not depend, to the last bit, on what is trained beside it, on the number of threads, or on the CPU.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm import tqdm

from matryoshka_mixing import _abreast, _batches, _kernel, _random
from matryoshka_mixing._checks import number, whole
from matryoshka_mixing.features import FeatureTree, States
from matryoshka_mixing.sae import ACTIVATIONS, SAE, TRAINED, SAEConfig

THREADS = "MATRYOSHKA_MIXING_THREADS"
"""The environment variable that says on how many threads SAEs are trained where nothing else does."""


@dataclass(frozen=True, eq=False)
class Setting:
    """One point of a sweep: an SAE and the data it is trained on.

    Attributes:
        sae: the SAE's configuration.
        data: `States` (exact, or batches drawn from them) or a `FeatureTree` (sampled batches only).
        dictionary: direction of each feature, shape (features, d_in), or (seeds, features, d_in) with those of each
            seed. None: the states are the inputs themselves, shape (states, d_in), such as activations of a model.
        terms: by what each term of the loss, a prefix on a state, is multiplied, shape (prefixes, states); None: 1.
        decoder_terms: the same for the gradient of W_dec and b_dec, where it is to differ from that of W_enc and b_enc;
            None: `terms`.
        drawn: how many shorter prefixes are drawn at each step, without replacement and with chances proportional to
            `sae.weights`; with the full one, all then weigh the same. 0: all prefixes, with their weights.
        held: what stays as it starts: for a parameter's name an index into it, such as `{"b_enc": ..., "W_dec": 0}` for
            the encoder biases and the first latent's decoder.

    Raises:
        ValueError: naming what does not fit, what is allowed, and what to do.
    """

    sae: SAEConfig
    data: States | FeatureTree
    dictionary: Float[Tensor, "*seeds features d_in"] | None = None
    terms: Float[Tensor, "prefixes states"] | None = None
    decoder_terms: Float[Tensor, "prefixes states"] | None = None
    drawn: int = 0
    held: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.sae, SAEConfig) or not isinstance(self.data, States | FeatureTree):
            raise ValueError(
                f"a Setting takes an SAEConfig, and States or a FeatureTree, not {type(self.sae).__name__} and "
                f"{type(self.data).__name__}; n rows of activations are States(rows, torch.full((n,), 1 / n))."
            )
        for name in ("dictionary", "terms", "decoder_terms"):
            if getattr(self, name) is not None:
                given = torch.as_tensor(getattr(self, name), dtype=torch.float64)
                object.__setattr__(self, name, given.detach().cpu())
        states = len(self.data) if isinstance(self.data, States) else 0
        features = self.data.acts.shape[1] if isinstance(self.data, States) else self.data.n_features
        if self.dictionary is None:
            if not states or features != self.sae.d_in:
                raise ValueError(
                    f"without a dictionary the data must be States whose rows are inputs of {self.sae.d_in} numbers; "
                    f"give the directions of its {features} features."
                )
        elif self.dictionary.ndim not in (2, 3) or self.dictionary.shape[-2:] != (features, self.sae.d_in):
            raise ValueError(
                f"the dictionary has shape {tuple(self.dictionary.shape)}; for {features} features and "
                f"d_in {self.sae.d_in} it must be {(features, self.sae.d_in)}, with or without leading seeds."
            )
        if self.dictionary is not None and not self.dictionary.isfinite().all():
            raise ValueError("the dictionary holds values that are not finite.")
        for name in ("terms", "decoder_terms"):
            terms, shape = getattr(self, name), (len(self.sae.widths), states) if states else None
            if terms is not None and (terms.shape != shape or not ((terms >= 0) & terms.isfinite()).all()):
                raise ValueError(
                    f"{name} have shape {tuple(terms.shape)}; they must be finite numbers of at least 0, one for "
                    f"each prefix and state: {shape or 'only States have them'}."
                )
        most = sum(weight > 0 for weight in self.sae.weights[:-1])
        if not 0 <= whole("drawn", self.drawn) <= most:
            raise ValueError(f"drawn is {self.drawn}; it must be from 0 to the {most} shorter prefixes with a weight.")
        if self.drawn and not (self.terms is self.decoder_terms is self.sae.decoder_weights is None):
            raise ValueError("drawn prefixes go neither with terms nor with decoder_weights.")
        _refuse_unknown(self.held)
        d_in, d_sae = self.sae.d_in, self.sae.d_sae
        shapes = {"W_enc": (d_in, d_sae), "b_enc": (d_sae,), "W_dec": (d_sae, d_in), "b_dec": (d_in,)}
        for name, index in self.held.items():
            try:
                np.broadcast_to(0, shapes[name])[index]
            except IndexError as error:
                raise ValueError(f"held[{name!r}] is {index!r}; for shape {shapes[name]} {error}.") from None

    @property
    def states(self) -> States:
        """The data, where they are states.

        Raises:
            ValueError: if they are a tree, which is sampled.
        """
        if not isinstance(self.data, States):
            raise ValueError("this setting samples a FeatureTree; only States can be read: give tree.states() as data.")
        return self.data

    @property
    def directions(self) -> Float[Tensor, "*seeds features d_in"]:
        """The dictionary, where there is one.

        Raises:
            ValueError: if the states are the inputs themselves.
        """
        if self.dictionary is None:
            raise ValueError("this setting has no dictionary: its states are the inputs themselves.")
        return self.dictionary

    @property
    def inputs(self) -> Float[Tensor, "*seeds states d_in"]:
        """Every state as an input; see `States.inputs`."""
        return self.states.inputs(self.directions)


def _refuse_unknown(held: Mapping[str, object]) -> None:
    if not isinstance(held, Mapping):
        raise ValueError(
            f"held is {repr(held)[:80]}; give an index into each parameter that stays, such as {{'b_enc': ...}}."
        )
    if unknown := set(held) - set(TRAINED):
        raise ValueError(f"held names {sorted(unknown)}; the parameters of an SAE are {list(TRAINED)}.")


@dataclass(frozen=True)
class TrainConfig:
    """How to train: Adam or gradient descent, with linear warm-up and a cool-down to zero.

    Attributes:
        steps: number of updates, at least 1.
        lr: peak learning rate, above 0.
        betas: Adam's decay rates, each in [0, 1).
        eps: Adam's epsilon, above 0. Much smaller ones let Adam amplify rounding noise in directions that the
            data do not span.
        warmup: share of the steps in which the rate rises from 0, in [0, 1].
        cooldown: share of the steps, at the end, in which it falls to 0, in [0, 1]; with warmup at most 1.
        batch_size: inputs in a sampled batch; None trains on the exact expected loss.
        tolerance: an instance has converged when its gradient norm is at most this times its E||x||^2.
        seed: seeds the batches and drawn prefixes, with the instance's place among the seeds of the call (so a seed of
            a sampled run that is trained alone sees other batches); unused where nothing is drawn.
        records: how many points of the loss history to keep.
        snapshots: after how many updates to keep the parameters, in increasing order; none by default.
        optimiser: "adam", which treats every coordinate by itself and so depends on how the features lie in them; or
            "gd", plain gradient descent, which does not.
        clip: a longer gradient of one SAE is shortened to this, above 0; None leaves all as they are.
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
    optimiser: Literal["adam", "gd"] = "adam"
    clip: float | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "seed", "records") + ("batch_size",) * (self.batch_size is not None):
            object.__setattr__(self, name, whole(name, getattr(self, name)))
        for name in ("lr", "eps", "warmup", "cooldown", "tolerance") + ("clip",) * (self.clip is not None):
            object.__setattr__(self, name, number(name, getattr(self, name)))
        for name, kind in (("snapshots", whole), ("betas", number)):
            if not isinstance(values := getattr(self, name), Iterable):
                raise ValueError(f"{name} is {values!r}; it must be a tuple of numbers.")
            object.__setattr__(self, name, tuple(kind(name, value) for value in values))
        checks = [
            ("steps", self.steps >= 1, "at least 1"),
            ("lr", 0 < self.lr < math.inf, "above 0"),
            ("betas", len(self.betas) == 2 and all(0 <= b < 1 for b in self.betas), "two numbers, each in [0, 1)"),
            ("eps", self.eps > 0, "above 0"),
            ("warmup", 0 <= self.warmup <= 1, "a share in [0, 1]"),
            ("cooldown", 0 <= self.cooldown <= 1 - self.warmup + 1e-9, "a share, and with warmup at most 1"),
            ("batch_size", self.batch_size is None or self.batch_size >= 1, "at least 1, or None for exact"),
            ("tolerance", self.tolerance > 0, "above 0"),
            ("seed", 0 <= self.seed < 1 << 63, "at least 0 and below 2^63"),
            ("records", self.records >= 1, "at least 1"),
            (
                "snapshots",
                list(self.snapshots) == sorted({s for s in self.snapshots if 1 <= s <= self.steps}),
                f"whole numbers from 1 to {self.steps} that strictly increase",
            ),
            ("optimiser", self.optimiser in ("adam", "gd"), "'adam' or 'gd'"),
            ("clip", self.clip is None or self.clip > 0, "above 0, or None"),
        ]  # fmt: skip
        for name, holds, allowed in checks:
            if not holds:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be {allowed}.")

    def learning_rate(self, step: int | np.ndarray) -> float | np.ndarray:
        """Learning rate of update number `step` (from 0), or of many updates.

        The cool-down follows 3 u^2 - 2 u^3 with u from 1 to 0: the shape of half a cosine from products and sums alone,
        which every system rounds alike.
        """
        warm, cool = self.warmup * self.steps, self.cooldown * self.steps
        rise = np.minimum(1.0, (step + 1) / warm) if warm else 1.0
        left = np.minimum(1.0, (self.steps - step) / cool) if cool else 1.0
        rate = self.lr * rise * left * left * (3.0 - 2.0 * left)
        return rate * np.ones(len(step)) if isinstance(step, np.ndarray) else float(rate)

    @cached_property
    def rates(self) -> np.ndarray:
        """The learning rate of every update."""
        return np.asarray(self.learning_rate(np.arange(self.steps)))

    @cached_property
    def recorded(self) -> list[int]:
        """The steps whose loss is kept."""
        return sorted({round(s) for s in np.linspace(0, self.steps - 1, min(self.records, self.steps))})


@dataclass(frozen=True, eq=False)
class Trained:
    """What training returns; the instances' axes are (settings, seeds), or those of the start of `descend`.

    Attributes:
        sae: the parameters.
        loss: the final loss, exact on states, or that of the last batch for a sampled tree. With drawn prefixes, of
            those of the last step.
        grad_norm: norm of the gradient there, divided by E||x||^2 (by `scale` in `descend`).
        converged: whether that norm is within the tolerance. Sampled batches keep jittering, so
            there it is a measure of noise rather than of failure.
        history: training loss at each recorded step, with the steps' axis before the instances'.
        steps: the recorded steps.
        path: the parameters after each of the updates in `snapshots`, whose axis comes after the instances'.
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
    threads: int | None = None,
    device: str | torch.device | None = "cpu",
    dtype: torch.dtype = torch.float64,
    progress: bool = False,
) -> Trained:
    """Train every setting from every start.

    Args:
        settings: points of the sweep. They share d_in and the number of latents, and may differ in all else.
        start: initial parameters with axes (seeds,), used for every setting, or (settings, seeds); a single SAE is one
            seed. Their configuration does not matter: the settings have theirs.
        config: how to train.
        threads: on how many cores to train, each a share of the SAEs. By default what the environment
            variable MATRYOSHKA_MIXING_THREADS says (a notebook of the book sets it to all cores), else 1.
        device: "cpu", or another on which `descend` then trains each setting, all seeds side by side (BatchTopK then
            finds no threshold).
        dtype: torch.float64 or torch.float32.
        progress: show a progress bar.

    Returns:
        A `Trained` with axes (settings, seeds). On the CPU an instance's result is the same to the last bit whatever is
        trained beside it, on any number of threads, and on any CPU.

    Raises:
        ValueError: if settings disagree in size, `start` does not fit them, there are no seeds, or no threads.
    """
    settings = [settings] if isinstance(settings, Setting) else list(settings)
    threads = threads_of(threads)
    start = fitting(settings, start, config, dtype)
    device = "cpu" if device is None else str(device)
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device is {device}, and PyTorch finds none of its kind here; leave it at cpu.")
    if device != "cpu":
        return _train_by_autograd(settings, start, config, device, dtype, progress)
    jobs = [
        _kind(setting)(setting, start, i, config, np.float64 if dtype is torch.float64 else np.float32)
        for i, setting in enumerate(settings)
    ]
    _run(jobs, start.instances[1], config.steps, threads, progress)
    saes = [job.sae(job.theta) for job in jobs]
    path = SAE.stack([job.saes_along() for job in jobs])
    loss, grad_norm, _ = torch.from_numpy(np.stack([job.final for job in jobs])).to(dtype).unbind(-1)
    history = torch.from_numpy(np.stack([job.history for job in jobs])).to(dtype).movedim(-1, 0)
    # One setting keeps its axis; so do settings of one configuration, which stack as one.
    return Trained(SAE.stack(saes), loss, grad_norm, grad_norm <= config.tolerance, history, config.recorded, path)


def threads_of(threads: int | None) -> int:
    """The number of threads that was asked for, or else the environment's.

    Raises:
        ValueError: if it is no whole number from 1 on.
    """
    given = os.environ.get(THREADS, "1") if threads is None else str(threads)
    if not given.isdecimal() or int(given) < 1:
        raise ValueError(f"{THREADS if threads is None else 'threads'} is {given}; it must be at least 1.")
    return int(given)


def fitting(settings: list[Setting], start: SAE, config: TrainConfig, dtype: torch.dtype) -> SAE:
    """The start with axes (settings, seeds), after all that can be wrong was looked at; see `train`."""
    if not settings:
        raise ValueError("no settings were given; train needs at least 1.")
    for value, kind in [(config, TrainConfig), (start, SAE), *((setting, Setting) for setting in settings)]:
        if not isinstance(value, kind):
            raise ValueError(f"{type(value).__name__} was given in place of {kind.__name__}.")
    if not start.instances:
        start = SAE.stack([start])
    if wrong := [name for name, parameter in start.parameters.items() if not parameter.isfinite().all()]:
        raise ValueError(f"start holds values that are not finite in {', '.join(wrong)}.")
    first = settings[0].sae
    for setting in settings:
        if (setting.sae.d_in, setting.sae.d_sae) != (first.d_in, first.d_sae):
            raise ValueError(
                f"settings trained together must share d_in and the number of latents; got {first} and {setting.sae}."
            )
        if setting.sae.activation == "jumprelu":
            raise ValueError(
                "train does not train JumpReLU SAEs: their thresholds have no gradient. Train with batchtopk, whose "
                "threshold makes a JumpReLU SAE (see `exchange`), or pass a loss of your own to descend."
            )
        if config.batch_size is None and isinstance(setting.data, FeatureTree):
            raise ValueError("a FeatureTree can only be sampled; give batch_size, or pass tree.states() as data.")
    if dtype not in (torch.float64, torch.float32):
        raise ValueError(f"dtype is {dtype}; it must be torch.float64 or torch.float32.")
    if len(start.instances) == 1:
        start = start.with_config(start._each[0]).map(lambda p: p.expand(len(settings), *p.shape))
    if len(start.instances) != 2 or start.W_enc.shape != (len(settings), start.instances[1], first.d_in, first.d_sae):
        raise ValueError(
            f"start.W_enc has shape {tuple(start.W_enc.shape)}; for {len(settings)} setting(s) with "
            f"d_in {first.d_in} and {first.d_sae} latents it must be "
            f"(seeds, {first.d_in}, {first.d_sae}), with or without a leading {len(settings)}."
        )
    seeds = start.instances[1]
    if seeds < 1:
        raise ValueError("start holds zero seeds; give at least 1.")
    for setting in settings:
        if setting.dictionary is not None and setting.dictionary.ndim == 3 and len(setting.dictionary) != seeds:
            raise ValueError(
                f"a setting has dictionaries for {len(setting.dictionary)} seeds, but start holds {seeds}; "
                "give one for each."
            )
    return start


_listed = lru_cache(maxsize=4)(FeatureTree.states)  # a large tree takes as long as many steps


def _list(data: States | FeatureTree) -> States | None:
    """All states of the data, if they can be listed."""
    return data if isinstance(data, States) else _listed(data) if data.can_list() else None


class _Job:
    """All seeds of one setting: their parameters in the kernel's layout, and what it needs to train them."""

    def __init__(self, setting: Setting, start: SAE, number: int, config: TrainConfig, dtype: type):
        sae, data = setting.sae, setting.data
        self.config, self.dtype, self.seeds = sae, dtype, start.instances[1]
        features = 0 if setting.dictionary is None else setting.dictionary.shape[-2]
        self.shape = shape = _kernel.Shape.of(sae.d_in, sae.d_sae, features)
        self.size = config.batch_size or 0
        listed = _list(data)
        if listed is not None:
            self.inputs = _batches.state_inputs(listed, features == 0, shape.row, dtype, self.size)
        elif isinstance(data, FeatureTree):
            self.inputs = _batches.tree_inputs(data, dtype)
        self.exact = isinstance(data, States)
        dictionary = torch.zeros(1, 1, 0) if setting.dictionary is None else setting.dictionary
        dictionary = dictionary if dictionary.ndim == 3 else dictionary[None]
        self.dictionary: np.ndarray = np.ascontiguousarray(dictionary.flatten(1).numpy(), dtype)
        self.loss = _loss(setting)
        own = {name: parameter[number] for name, parameter in start.parameters.items()}
        self.theta = self.pack(own)
        free = self.pack({name: torch.ones_like(parameter[:1]) for name, parameter in own.items()})
        if setting.held:
            for name, index in setting.held.items():
                self.unpack(free)[name][0][index] = 0
        trained = shape.size if sae.encoder_bias else shape.b_enc if sae.decoder_bias else shape.b_dec
        beta1, beta2 = map(float, config.betas)
        self.optimiser = _kernel.Optimiser.of(
            config.rates, config.optimiser == "adam", beta1, beta2, float(config.eps), float(config.clip or math.inf),
            free[0], bool(setting.held), trained,
        )  # fmt: skip
        self.recorded = np.zeros(config.steps, np.uint8)
        self.recorded[config.recorded] |= 1
        self.recorded[[step - 1 for step in config.snapshots]] |= 2
        self.path: np.ndarray = np.zeros((self.seeds, len(config.snapshots), shape.size), dtype)
        self.history = np.zeros((self.seeds, len(config.recorded)))
        self.final = np.zeros((self.seeds, 3))
        self.streams = np.zeros(self.seeds, np.uint64)
        if self.size or setting.drawn:  # to begin a stream takes as long as many steps
            for seed in range(self.seeds):
                self.streams[seed : seed + 1] = _random.stream(config.seed, seed, _random.BATCHES)

    def pack(self, parameters: Mapping[str, Tensor]) -> np.ndarray:
        """Parameters in the kernel's layout, one row an SAE; a bias that is not trained is 0."""
        theta: np.ndarray = np.zeros((len(parameters["W_dec"]), self.shape.size), self.dtype)
        used = {"b_enc": self.config.encoder_bias, "b_dec": self.config.decoder_bias}
        for name, view in self.unpack(theta).items():
            if used.get(name, True):
                view[:] = parameters[name].detach().cpu().numpy()
        return theta

    def unpack(self, theta: np.ndarray) -> dict[str, np.ndarray]:
        """Views of such an array in the field's layout."""
        shape, n = self.shape, len(theta)
        rows = theta[:, : shape.b_dec].reshape(n, 2, shape.d_sae, shape.row)[..., : shape.d_in]
        return {
            "W_enc": rows[:, 0].swapaxes(1, 2),
            "b_enc": theta[:, shape.b_enc : shape.b_enc + shape.d_sae],
            "W_dec": rows[:, 1],
            "b_dec": theta[:, shape.b_dec : shape.b_dec + shape.d_in],
        }

    def sae(self, theta: np.ndarray) -> SAE:
        """The SAEs of such an array."""
        parameters = {name: torch.from_numpy(view.copy()) for name, view in self.unpack(theta).items()}
        batchtopk = self.config.activation == "batchtopk" and theta is self.theta
        threshold = torch.from_numpy(self.final[:, 2].astype(self.dtype)) if batchtopk else None
        return SAE(**parameters, config=self.config, threshold=threshold)

    def saes_along(self) -> SAE:
        """Those of the snapshots, with axes (seeds, snapshots)."""
        return self.sae(self.path.reshape(-1, self.shape.size)).reshape(*self.path.shape[:2])

    def room(self) -> tuple:
        """What one thread needs to train these SAEs, one after the other."""
        batch = _batches.room(self.inputs, self.size, max(self.shape.features, 1))
        whole = _batches.room(self.inputs, 0, 0) if self.exact else batch
        # Drawn prefixes are written into the loss: every thread has its own.
        loss = self.loss._replace(reach=self.loss.reach.copy(), reach_decoder=self.loss.reach_decoder.copy())
        most = max(len(batch.state), len(whole.state))
        return loss, batch, whole, _kernel.make_room(self.shape, most, len(self.config.widths), self.dtype)

    def many(self) -> _kernel.Many:
        """The SAEs as the kernels take them."""
        return _kernel.Many(
            self.theta, self.dictionary, len(self.dictionary), self.streams, self.recorded, self.history, self.path,
            self.history.shape[1], self.path.shape[1], self.final,
        )  # fmt: skip

    def fit(self, first: int, last: int, room: tuple, done: np.ndarray) -> None:
        """Train the seeds from that number on and before the last."""
        loss, batch, whole, step = room
        _kernel.fit(
            self.many(), first, last, self.shape, loss, self.inputs, batch, whole, self.size, self.exact,
            self.optimiser, step, done,
        )  # fmt: skip


class _SideBySide(_Job):
    """The same for small ReLU SAEs on listed states, of which four are trained at once (see `_abreast`)."""

    side_by_side = _abreast.ABREAST
    """So many SAEs take as long as one."""

    def room(self) -> tuple:
        """What one thread needs to train these SAEs."""
        plan = _abreast.Plan.of(self.shape, self.optimiser)
        batch = _batches.room(self.inputs, self.size, 0)
        return plan, batch, _abreast.make_room(plan, self.inputs.n_states, self.dtype)

    def fit(self, first: int, last: int, room: tuple, done: np.ndarray) -> None:
        """Train the seeds from that number on and before the last."""
        plan, batch, step = room
        _abreast.fit(
            self.many(), first, last, plan, self.loss, self.inputs, batch, self.size, self.exact, self.optimiser, step,
            done,
        )  # fmt: skip


def _kind(setting: Setting) -> type[_Job]:
    """Which of the two kernels trains a setting.

    That may not depend on the seeds, as the two round differently. So a single small SAE takes as long as four.
    """
    sae, listed = setting.sae, _list(setting.data)
    if setting.dictionary is None or listed is None or sae.activation != "relu" or setting.drawn:
        return _Job
    small = setting.dictionary.shape[-2] + sae.d_sae <= _abreast.MOST_ROWS and len(listed) <= _abreast.MOST_STATES
    return _SideBySide if small else _Job


def _loss(setting: Setting) -> _kernel.Loss:
    """The setting's loss as the kernel takes it; the weight of the prefixes that hold each latent is summed here."""
    sae, latents = setting.sae, np.arange(setting.sae.d_sae)
    holds = np.array([np.append(True, latents < width) for width in sae.widths], float)  # all hold b_dec

    def reach(weights: Sequence[float], terms: Tensor | None) -> np.ndarray:
        each = np.ones((len(weights), lines)) if terms is None else terms.numpy()
        # Added one after the other: a matrix product rounds differently from one CPU to another.
        parts = zip(weights, each, holds, strict=True)
        return sum(weight * term[:, None] * held for weight, term, held in parts).ravel()

    decoder_terms = setting.terms if setting.decoder_terms is None else setting.decoder_terms
    lines = 1 if decoder_terms is None else decoder_terms.shape[1]
    both = reach(sae.weights, setting.terms), reach(sae.for_decoder.weights, decoder_terms)
    return _kernel.Loss(
        *both, not np.array_equal(*both), sae.d_sae + 1 if lines > 1 else 0,
        float(sae.l1), ACTIVATIONS.index(sae.activation), float(sae.k or 0), sae.encoder_bias, sae.decoder_bias,
        np.array(sae.widths), np.array(sae.weights), len(sae.widths), int(setting.drawn),
    )  # fmt: skip


def _shares(jobs: Sequence, seeds: int, threads: int) -> Iterator[tuple]:
    """What one call trains: a job, the first of its seeds, and the one after the last.

    A call costs as much as many steps of a small SAE, and the threads should end together. So shares get ever smaller
    (guided self-scheduling, Polychronopoulos and Kuck 1987), by half of what each thread would get of the rest, in
    whole groups of those that are trained side by side.
    """
    left = len(jobs) * seeds
    for job in jobs:
        first, group = 0, getattr(job, "side_by_side", 1)
        while first < seeds:
            last = min(seeds, first + max(1, left // (2 * threads * group)) * group)
            yield job, first, last
            left -= last - first
            first = last


BRIEF = 1 << 14
"""Fewer steps than this are not worth the start of a thread."""


def _run(jobs: Sequence, seeds: int, steps: int, threads: int, progress: bool) -> None:
    """Train all jobs (`_Job`, or what has its `room` and `fit`), every thread a share of the SAEs at a time.

    An interruption stops them within a moment: compiled code hears of none, so it runs beside the thread that does.
    """
    work, lock, marks = _shares(jobs, seeds, threads), threading.Lock(), np.zeros((threads, 2), np.int64)

    def worker(done: np.ndarray) -> None:
        last, room = None, ()
        while not done[1]:
            with lock:
                found = next(work, None)
            if found is None:
                return
            job, begin, end = found
            if job is not last:
                last, room = job, job.room()
            job.fit(begin, end, room, done)

    with tqdm(total=len(jobs) * seeds * steps, disable=not progress, unit="SAE-step") as bar:

        def advance() -> None:
            bar.update(int(marks[:, 0].sum()) - bar.n)

        if threads == 1 and bar.total < BRIEF:
            worker(marks[0])
            advance()
            return
        with ThreadPoolExecutor(threads) as pool:
            futures = [pool.submit(worker, done) for done in marks]
            try:
                while wait(futures, 0.05).not_done:
                    advance()
            finally:
                marks[:, 1] = 1
            for future in futures:
                future.result()
        advance()


def descend(
    objective: Callable[[SAE], Tensor | tuple[Tensor, Tensor]],
    start: SAE,
    config: TrainConfig = TrainConfig(),
    *,
    held: Mapping[str, Any] | None = None,
    scale: float | Tensor = 1.0,
    progress: bool = False,
) -> Trained:
    """Train on any loss: for interventions and losses of your own, which `train` does not know; on any device.

    The same optimiser and schedule as `train`, with autograd in place of gradients by hand, so slower by far.
    For example, a Matryoshka SAE with the logarithm of each prefix's loss:

        descend(lambda sae: (probs * sae.errors(x, widths)).sum(-1).log().sum(-1), start, held={"b_dec": ...})

    Args:
        objective: from the parameters to one loss for each instance, shape `(*instances)`; or to two, of which the
            first gives the gradient of W_enc and b_enc and the second that of W_dec and b_dec. One that draws its own
            samples should draw anew on each call.
        start: initial parameters with any leading axes. Its configuration says how it activates, and stays: unlike
            `train`, nothing here knows another (`start.with_config(config)` gives it one). A BatchTopK SAE has no
            threshold afterwards; `SAE.with_threshold` finds it.
        config: how to train; `batch_size` and `seed` are unused.
        held: what stays as it starts: for a parameter's name an index into it, such as
            `{"b_enc": ..., "W_dec": np.s_[..., 0, :]}` for the encoder biases and the first latent's decoder.
        scale: gradient norms are divided by this (E||x||^2 to compare with `train`).
        progress: show a progress bar, in steps.

    Raises:
        ValueError: if the objective does not give one number for each instance, or `held` names no parameter.
    """
    _refuse_unknown(held or {})
    instances, n = start.instances, len(start.instances)
    sae = start.with_config(start._each).map(lambda parameter: parameter.detach().clone())
    means = {name: torch.zeros_like(parameter) for name, parameter in sae.parameters.items()}
    squares = {name: torch.zeros_like(parameter) for name, parameter in sae.parameters.items()}
    history, path, recorded = [], [], set(config.recorded)
    for step in tqdm(range(config.steps), disable=not progress, unit="step"):
        loss, gradient = _loss_and_gradient(objective, sae, held or {})
        if step in recorded:
            history.append(loss)
        if config.clip is not None:
            shorter = (config.clip / (_length(gradient, n) + 1e-6)).clamp_max(1)
            gradient = {name: g * shorter.reshape(*instances, *[1] * (g.ndim - n)) for name, g in gradient.items()}
        rate, (beta1, beta2) = float(config.rates[step]), config.betas
        for name, parameter in sae.parameters.items():
            now = gradient[name]
            if config.optimiser == "gd":
                parameter.sub_(rate * now)
                continue
            means[name].mul_(beta1).add_(now, alpha=1 - beta1)
            squares[name].mul_(beta2).addcmul_(now, now, value=1 - beta2)
            below = (squares[name].sqrt() / math.sqrt(1 - beta2 ** (step + 1))).add_(config.eps)
            parameter.addcdiv_(means[name], below, value=-rate / (1 - beta1 ** (step + 1)))
        if step + 1 in config.snapshots:
            path.append(sae.map(Tensor.clone))
    loss, gradient = _loss_and_gradient(objective, sae, held or {})
    norm = _length(gradient, n) / scale
    return Trained(sae, loss, norm, norm <= config.tolerance, torch.stack(history), config.recorded, _along(path, sae))


def _loss_and_gradient(
    objective: Callable[[SAE], Tensor | tuple[Tensor, Tensor]], sae: SAE, held: Mapping[str, Any]
) -> tuple[Tensor, dict[str, Tensor]]:
    """The first loss of an objective of `descend`, and what each parameter follows."""
    instances, names = sae.instances, list(TRAINED)
    leaves = {name: parameter.detach().requires_grad_() for name, parameter in sae.parameters.items()}
    given = objective(replace(sae, **dict[str, Any](leaves)))
    losses = given if isinstance(given, tuple) else (given,)
    for loss in losses:
        if loss.shape != instances:
            raise ValueError(
                f"the objective gave shape {tuple(loss.shape)} for instances of shape {tuple(instances)}; "
                "sum over states and prefixes, and leave the instances."
            )
    sums = [loss.sum() for loss in losses]
    parts = [names] if len(losses) == 1 else [names[:2], names[2:]]
    gradient: dict[str, Tensor] = {}
    for total, part in zip(sums, parts, strict=True):
        found = torch.autograd.grad(
            total, [leaves[name] for name in part], retain_graph=True, allow_unused=True, materialize_grads=True
        )
        gradient |= dict(zip(part, found, strict=True))
    for name, index in held.items():
        gradient[name][index] = 0
    return losses[0].detach(), gradient


def _length(gradient: dict[str, Tensor], instances: int) -> Tensor:
    """The norm of each instance's gradient, all parameters together."""
    return torch.cat([part.flatten(instances) for part in gradient.values()], -1).norm(dim=-1)


def _along(path: list[SAE], like: SAE) -> SAE:
    """Snapshots as one SAE object, along a new last axis of instances."""
    n, saes = len(like.instances), [*path, like]  # the last is dropped again: there may be no other
    parameters = {
        name: torch.stack([getattr(sae, name) for sae in saes], n).narrow(n, 0, len(path)) for name in like.parameters
    }
    threshold = None
    if like.threshold is not None and like.threshold.ndim > n:  # JumpReLU's, which training leaves as they are
        threshold = like.threshold.unsqueeze(n).expand(*like.instances, len(path), -1)
    return SAE(**parameters, config=like.config, threshold=threshold)


def objective(setting: Setting, seeds: Sequence[int], config: TrainConfig, device: str = "cpu", dtype=torch.float64):
    """The loss of a setting for `descend`, from SAEs with axis (seeds,): the readable form of what `train` does.

    Batches and prefixes come from PyTorch's generators, so sampled runs see other batches than those of `train`. The
    SAEs must activate as the setting's: start `descend` from `start.with_config(setting.sae)`.

    Returns:
        The function, and E||x||^2 of each seed. It raises ValueError for an SAE that activates otherwise.
    """
    sae, data = setting.sae, setting.data
    place = {"device": device, "dtype": dtype}
    states = _list(data)
    basis = None if setting.dictionary is None else setting.dictionary.to(**place)
    terms, decoder_terms = (
        None if given is None else given.to(**place)
        for given in (setting.terms, setting.terms if setting.decoder_terms is None else setting.decoder_terms)
    )
    generator = torch.Generator().manual_seed(config.seed)
    if isinstance(data, FeatureTree) and states is None:
        acts = data.sample(1 << 14, 0)
        listed = States(acts, torch.full((len(acts),), 1 / len(acts), dtype=torch.float64))
    elif states is not None:
        listed = states

    def inputs(acts: Tensor) -> Tensor:
        return acts.to(**place) if basis is None else acts.to(**place) @ basis

    fixed = inputs(listed.acts), listed.probs.to(**place)
    power = (fixed[1] * fixed[0].square().sum(-1)).sum(-1)

    def batch() -> tuple[Tensor, Tensor]:
        size = config.batch_size
        if size is None:
            return fixed
        if isinstance(data, FeatureTree) and states is None:
            acts = torch.stack([data.sample(size, generator) for _ in seeds])
            return inputs(acts), acts.new_full((len(seeds), size), 1 / size).to(**place)
        drawn = torch.multinomial(listed.probs.expand(len(seeds), -1), size, replacement=True, generator=generator)
        counts = torch.zeros(len(seeds), len(listed), dtype=torch.float64)
        counts.scatter_add_(1, drawn, torch.full(drawn.shape, 1 / size, dtype=torch.float64))
        return fixed[0], counts.to(**place)

    def loss(some: SAE) -> Tensor | tuple[Tensor, Tensor]:
        own = some.one_config
        if (own.activation, own.k) != (sae.activation, sae.k):
            raise ValueError(
                f"the start is an SAE with {own.activation} and k {own.k}, and the setting's has {sae.activation} and "
                f"k {sae.k}; start from start.with_config(setting.sae)."
            )
        (x, probs), chosen = batch(), sae
        if setting.drawn:
            weights = torch.tensor(sae.weights[:-1], dtype=torch.float64)
            taken = torch.multinomial(weights, setting.drawn, generator=generator).tolist()
            share = 1 / (setting.drawn + 1)
            chosen = replace(sae, weights=(*(share * (m in taken) for m in range(len(weights))), share))
        if sae.decoder_weights is setting.decoder_terms is None:
            return some.loss(x, probs, chosen, terms)
        return some.loss(x, probs, chosen, terms), some.loss(x, probs, sae.for_decoder, decoder_terms)

    return loss, power


def _train_by_autograd(
    settings: list[Setting], start: SAE, config: TrainConfig, device: str, dtype: torch.dtype, progress: bool
) -> Trained:
    """Every setting by `descend`, its seeds side by side."""
    runs = []
    for i, setting in enumerate(tqdm(settings, disable=not progress, unit="setting")):
        own = start[i].with_config(setting.sae).map(lambda p: p.to(device=device, dtype=dtype))
        held = dict(setting.held)
        for name, trained in (("b_enc", setting.sae.encoder_bias), ("b_dec", setting.sae.decoder_bias)):
            if not trained:
                held[name] = ...
                getattr(own, name).zero_()
        # An index of `Setting.held` is into one SAE's parameter.
        held = {key: (slice(None), *(index if isinstance(index, tuple) else (index,))) for key, index in held.items()}
        loss, power = objective(setting, range(start.instances[1]), config, device, dtype)
        run = descend(loss, own, config, held=held, scale=power)
        if config.batch_size and isinstance(setting.data, States):  # the last word is exact, as on the CPU
            exact, _ = objective(setting, range(start.instances[1]), replace(config, batch_size=None), device, dtype)
            found, gradient = _loss_and_gradient(exact, run.sae, held)
            run = replace(run, loss=found, grad_norm=_length(gradient, 1) / power)
        runs.append(run)
    saes = SAE.stack([run.sae for run in runs]).map(Tensor.cpu)
    path = SAE.stack([run.path for run in runs]).map(Tensor.cpu)
    loss, norm = (torch.stack([getattr(run, name) for run in runs]).cpu() for name in ("loss", "grad_norm"))
    history = torch.stack([run.history for run in runs], 1).cpu()
    return Trained(saes, loss, norm, norm <= config.tolerance, history, config.recorded, path)
