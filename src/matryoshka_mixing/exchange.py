"""SAEs of other libraries, in and out, and trees of features in SAELens's form.

    sae = exchange.read("path/to/sae")                   # of SAELens, dictionary_learning or this package
    exchange.write_saelens(sae, "path/to/folder")        # for sae_lens.SAE.load_from_disk

An SAE that was read gives the same activations and reconstructions as in its own library, in this package's form:
the decoder bias is always subtracted from the input, and no input is normalised. No file is ever unpickled.
Formats: SAELens 6.54 (`cfg.json`, `sae_weights.safetensors`), saprmarks/dictionary_learning (`ae.pt`, `config.json`).
"""

from __future__ import annotations

import json
import pickle
import warnings
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from matryoshka_mixing import plain
from matryoshka_mixing._commands import replacing
from matryoshka_mixing.features import FeatureTree
from matryoshka_mixing.sae import SAE, SAEConfig

SAELENS = "6.54.12"
"""The version of SAELens whose form is written and read."""
CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
TORCH = (".pt", ".pth", ".bin")
"""How files of `torch.save` end."""
ALIKE = 1e-3
"""Decoder norms that differ by a smaller share count as equal; rounding to 16 bits makes less (our default)."""
_PICKLES = (b"PK\x03\x04", b"\x80")
"""How pickles begin; a safetensors file has the length of its header there, and then a brace."""


def read(path: str | Path, **options: Any) -> SAE:
    """Read an SAE of SAELens (a folder), of dictionary_learning (a folder, or its `ae.pt`), or of `SAE.save` (a file).

    A `.pt`, `.pth` or `.bin` file, and a `.safetensors` file without the configuration that `SAE.save` writes, hold
    weights alone, and are read by `read_dictionary_learning`.

    Args:
        path: the folder or file.
        options: of `read_saelens` or `read_dictionary_learning`; `widths` also for what `SAE.save` wrote.

    Raises:
        ValueError: if it holds none of these, or one that cannot be read; it says why.
        OSError: if there is no such path.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; give a folder of SAELens, an ae.pt, or a .safetensors file.")
    folder = path.parent if path.name == WEIGHTS else path
    if folder.is_dir() and (folder / CONFIG).exists():
        _refuse_options(path, options, "widths", "scale")
        return read_saelens(folder, **options)
    if path.suffix in TORCH or (path / "ae.pt").exists():
        _refuse_options(path, options, "widths", "activation", "k")
        return read_dictionary_learning(path, **options)
    if path.is_dir():
        raise ValueError(f"{path} holds neither {CONFIG} (SAELens) nor ae.pt (dictionary_learning).")
    if path.name == WEIGHTS:
        raise ValueError(f"{path} has no {CONFIG} beside it, which says what SAELens means by these tensors; add it.")
    _refuse_pickles(path)
    if path.suffix == ".safetensors" and _lacks_configuration(path):
        _refuse_options(path, options, "widths", "activation", "k")
        try:
            return read_dictionary_learning(path, **options)
        except ValueError as error:
            raise ValueError(f"{error} (It has no configuration of SAE.save either.)") from None
    _refuse_options(path, options, "widths")
    sae = SAE.load(path)
    if options.get("widths") is None:
        return sae
    try:
        widths = _prefixes(options["widths"], sae.W_dec.shape[-2])
        return replace(sae, config=replace(sae.one_config, widths=widths, weights=(), decoder_weights=None))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _lacks_configuration(path: Path) -> bool:
    """Whether this is a whole safetensors file, but not of `SAE.save`."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return "config" not in (file.metadata() or {})
    except SafetensorError:
        return False


def _refuse_options(path: Path, options: Mapping[str, Any], *known: str) -> None:
    """ValueError for what this kind of file does not need."""
    if more := sorted(options.keys() - set(known)):
        raise ValueError(f"{path} is read without {', '.join(more)}; leave that out. Its options are {list(known)}.")


# SAELens


def write_saelens(sae: SAE, folder: str | Path, metadata: Mapping[str, Any] | None = None) -> None:
    """Write an SAE as SAELens does, for its `SAE.load_from_disk`; each file in one move.

    ReLU becomes "standard", TopK "topk"; BatchTopK and JumpReLU become "jumprelu" with a threshold for each latent.
    TopK there ranks activations as they are, here by the decoder row's norm as well: rows are written with length 1,
    and activations grow by what their rows lose. All other kinds keep theirs. The widths and weights of prefixes go
    into the metadata, from where `read_saelens` takes them.

    Args:
        sae: one SAE, without instances.
        folder: is made if it is missing.
        metadata: more of it, such as `{"model_name": ..., "hook_name": ...}`.

    Raises:
        ValueError: if `sae` holds several, or is a BatchTopK SAE without a threshold.
    """
    if sae.instances:
        raise ValueError(f"this holds SAEs with axes {sae.instances}; write one at a time, such as sae[0].")
    config = sae.one_config
    tensors = {name: parameter.detach().cpu() for name, parameter in sae.parameters.items()}
    norms = tensors["W_dec"].norm(dim=-1)
    extra: dict[str, Any] = {}
    if config.activation == "topk":
        assert config.k is not None  # SAEConfig demands it
        extra = {"k": int(config.k), "rescale_acts_by_decoder_norm": False}
        tensors = _unit_rows(tensors, norms)
    elif config.activation == "batchtopk":
        if sae.threshold is None:
            raise ValueError(
                "this BatchTopK SAE has no threshold, which JumpReLU needs; `train` finds one, and so does "
                "sae.with_threshold(rows)."
            )
        tensors["threshold"] = sae.threshold.detach().cpu() / norms  # infinite where a row is zero: it never matters
    elif config.activation == "jumprelu":
        assert sae.threshold is not None  # checked on construction
        tensors["threshold"] = sae.threshold.detach().cpu()
    architecture = {"relu": "standard", "topk": "topk"}.get(config.activation, "jumprelu")
    prefixes = {"matryoshka_widths": list(config.widths), "matryoshka_weights": list(config.weights)}
    about = {"sae_lens_version": SAELENS} | prefixes | dict(metadata or {})
    data = {
        "architecture": architecture, "d_in": config.d_in, "d_sae": config.d_sae,
        "dtype": str(sae.W_dec.dtype).removeprefix("torch."), "device": "cpu", "apply_b_dec_to_input": True,
        "normalize_activations": "none", "reshape_activations": "none", **extra, "metadata": about,
    }  # fmt: skip
    _write(Path(folder), data, tensors)


def _write(folder: Path, data: dict, tensors: dict[str, Tensor]) -> None:
    from safetensors.torch import save_file

    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; give the folder that {CONFIG} and {WEIGHTS} are to be written to.")
    try:
        text = json.dumps(data)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the metadata cannot be written as JSON: {error}.") from None
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / CONFIG) as about, replacing(folder / WEIGHTS) as weights:
        save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, weights)
        about.write_text(text, encoding="utf-8")


def read_saelens(folder: str | Path, *, widths: Sequence[int] | None = None, scale: float | None = None) -> SAE:
    """Read an SAE that SAELens saved, by `save_model` or `save_inference_model`.

    Architectures "standard", "topk", "jumprelu" (BatchTopK and Matryoshka SAEs among them), and, saved in training,
    "batchtopk" and "matryoshka_batchtopk".

    Args:
        folder: with `cfg.json` and `sae_weights.safetensors`.
        widths: of the prefixes, where the file does not say: SAELens keeps none once a Matryoshka SAE is saved for
            inference.
        scale: by what inputs were multiplied in training, where `normalize_activations` is
            "expected_average_only_in": the file does not say. It is folded into the weights.

    Raises:
        ValueError: naming what is unknown, missing, damaged or of the wrong shape, and what to do.
        OSError: if a file cannot be read.
    """
    folder = Path(folder)
    config = _json(folder / CONFIG)
    tensors = _safetensors(folder / WEIGHTS)
    metadata = config.get("metadata") or {}
    architecture = config.get("architecture", "standard")
    if not isinstance(architecture, str) or not isinstance(metadata, dict):
        raise ValueError(
            f"{folder / CONFIG}: architecture is {architecture!r:.60} and metadata {metadata!r:.60}; they must be a "
            "name and an object."
        )
    k = config.get("k")
    if (config.get("activation_fn") or config.get("activation_fn_str")) == "topk":  # before SAELens 6
        architecture, k = "topk", (config.get("activation_fn_kwargs") or {}).get("k")
    known = ("standard", "topk", "jumprelu", "batchtopk", "matryoshka_batchtopk")
    if "transcoder" in architecture or config.get("d_out") is not None:
        raise ValueError(f"{folder}: a transcoder maps one place of a model to another; it is no autoencoder.")
    if architecture not in known:
        raise ValueError(f"{folder}: the architecture is {architecture!r}; what can be read is {known}.")
    if config.get("finetuning_scaling_factor"):
        raise ValueError(f"{folder}: it has a finetuning_scaling_factor; fold it into W_dec first.")
    tensors.pop("finetuning_scaling_factor", None)
    normalised = config.get("normalize_activations") or "none"
    normalised = "expected_average_only_in" if normalised is True else normalised
    if normalised == "expected_average_only_in":
        if scale is None or not scale > 0:
            raise ValueError(
                f"{folder}: inputs were multiplied by a factor in training, and the file does not say which; give it "
                f"as scale (above 0; it is {scale}). With scale=1 the SAE takes inputs that are multiplied already."
            )
    elif normalised != "none":
        raise ValueError(
            f"{folder}: normalize_activations is {normalised!r}, which changes inputs one by one or mixes their "
            'dimensions. Do that to your rows, write "none" into a copy of cfg.json, and read that.'
        )
    elif scale is not None:
        raise ValueError(f"{folder}: scale is {scale}, but inputs were not multiplied by a factor; leave it out.")
    batch = architecture in ("batchtopk", "matryoshka_batchtopk")
    extra = {"jumprelu": ("threshold",)}.get(architecture, ("topk_threshold",) if batch else ())
    _check(folder, tensors, extra, config.get("d_in"), config.get("d_sae"))
    tensors = _widened(tensors)
    if not config.get("apply_b_dec_to_input", True):
        tensors["b_enc"] = tensors["b_enc"] + tensors["b_dec"] @ tensors["W_enc"]
    rescaled = config.get("rescale_acts_by_decoder_norm", batch)
    threshold = tensors.pop("threshold", tensors.pop("topk_threshold", None))
    if scale is not None:
        tensors = tensors | {
            "W_enc": tensors["W_enc"] * scale, "W_dec": tensors["W_dec"] / scale, "b_dec": tensors["b_dec"] / scale,
        }  # fmt: skip
        threshold = threshold / scale if batch and rescaled and threshold is not None else threshold
    norms = tensors["W_dec"].norm(dim=-1)
    if architecture == "topk" or batch:
        if rescaled:
            tensors = _unit_rows(tensors, norms)
        else:
            tensors, threshold = _ranked_alike(folder, tensors, norms, threshold)
    found = {"widths": config.get("matryoshka_widths") or metadata.get("matryoshka_widths") or [len(norms)]}
    found["weights"] = metadata.get("matryoshka_weights") or []
    for name, value in found.items():
        if not isinstance(value, list):
            raise ValueError(f"{folder}: matryoshka_{name} is {value!r}; it must be a list of numbers.")
    given = found["widths"] if widths is None else widths
    activation = "batchtopk" if batch else {"standard": "relu"}.get(architecture, architecture)
    k = k if architecture == "topk" or batch else None
    return _built(folder, tensors, threshold, given, activation, k, found["weights"])


# dictionary_learning


def read_dictionary_learning(
    path: str | Path, *, widths: Sequence[int] | None = None, activation: str | None = None, k: float | None = None
) -> SAE:
    """Read an SAE of saprmarks/dictionary_learning, or of your own with the same names.

    Its classes AutoEncoder, AutoEncoderNew, AutoEncoderTopK, BatchTopKSAE, MatryoshkaBatchTopKSAE, JumpReluAutoEncoder.
    Weights alone are read; a file that wants code to run is refused. Decoder rows keep their lengths. The tensors'
    names tell the kinds apart, and whether the decoder bias is subtracted from the input before the encoder::

        W_enc (d_in, latents), b_enc, W_dec (latents, d_in), b_dec      subtracted
        encoder.weight (latents, d_in), encoder.bias,
            decoder.weight (d_in, latents), and bias or b_dec           subtracted
            decoder.weight (d_in, latents), decoder.bias                not subtracted (AutoEncoderNew)
        either, with k                                                  TopK or BatchTopK; group_sizes: its prefixes
        either, with threshold, without k                               JumpReLU, not subtracted

    If yours subtracts a bias that it calls decoder.bias, call it b_dec in the file.

    Args:
        path: `ae.pt`, its folder, or a .pt, .pth, .bin or .safetensors file of the same tensors.
        widths: of the prefixes, in place of what the file says.
        activation: "topk" or "batchtopk", where no `config.json` beside the file tells these apart.
        k: how many latents fire on an input, where `activation` is given and the file does not hold it.

    Raises:
        ValueError: naming what is unknown, missing, damaged or of the wrong shape, and what to do.
        OSError: if a file cannot be read.
    """
    path = Path(path)
    path = path / "ae.pt" if path.is_dir() else path
    tensors = _safetensors(path) if path.suffix == ".safetensors" else _weights_only(path)
    beside = path.with_name("config.json")
    named = (_json(beside).get("trainer") or {}).get("dict_class") if beside.exists() else None
    if named == "GatedAutoEncoder" or "r_mag" in tensors:
        raise ValueError(f"{path}: a gated SAE has an encoder of two parts, which this package has not.")
    kinds = {"AutoEncoderTopK": "topk", "BatchTopKSAE": "batchtopk", "MatryoshkaBatchTopKSAE": "batchtopk"}
    others = {"AutoEncoder": "relu", "AutoEncoderNew": "relu", "JumpReluAutoEncoder": "jumprelu"}
    if named is not None and named not in kinds | others:
        raise ValueError(f"{path}: its class is {named!r}; what can be read is {tuple(kinds | others)}.")
    stored, groups = tensors.pop("k", None), tensors.pop("group_sizes", None)
    if stored is not None and (k is not None or stored.numel() != 1):
        raise ValueError(
            f"{path}: it holds k = {stored.tolist()}, which must be one number; leave your own k ({k}) out."
        )
    k = k if stored is None else float(stored)
    if k is None:
        kind = "jumprelu" if "threshold" in tensors else "relu"
        if activation is not None:
            raise ValueError(
                f"{path}: activation is {activation!r}, but the file holds no k; give k too, or leave activation out "
                f"({kind}, by its tensors)."
            )
    else:
        kind = activation or ("batchtopk" if groups is not None else kinds.get(named or "", ""))
        if kind not in ("topk", "batchtopk"):
            raise ValueError(
                f"{path}: its tensors may be those of a TopK or a BatchTopK SAE; give activation='topk' or "
                f"'batchtopk', or keep its config.json beside it (activation is {activation!r})."
            )
    own = "bias" in tensors or "b_dec" in tensors  # AutoEncoderNew has the bias in its decoder layer, and not before
    names = {
        "encoder.weight": "W_enc", "encoder.bias": "b_enc", "decoder.weight": "W_dec", "decoder.bias": "b_dec",
        "bias": "b_dec",
    }  # fmt: skip
    tensors = {
        names.get(name, name): t.mT if name.endswith("r.weight") and t.ndim > 1 else t for name, t in tensors.items()
    }
    if kind == "topk":
        tensors.pop("threshold", None)
    _check(path, tensors, ("threshold",) if kind in ("batchtopk", "jumprelu") else ())
    tensors = _widened(tensors)
    if kind == "jumprelu" or not own:
        tensors["b_enc"] = tensors["b_enc"] + tensors["b_dec"] @ tensors["W_enc"]
    threshold = tensors.pop("threshold", None)
    if kind in ("topk", "batchtopk"):
        tensors, threshold = _ranked_alike(path, tensors, tensors["W_dec"].norm(dim=-1), threshold)
    stated = (len(tensors["b_enc"]),) if groups is None else tuple(accumulate(groups.flatten().tolist()))
    return _built(path, tensors, threshold, stated if widths is None else widths, kind, k, ())


# What both share


def _built(
    path: Path, tensors: dict[str, Tensor], threshold: Tensor | None, widths: Sequence[int], activation: str,
    k: float | None, weights: Sequence[float],
) -> SAE:  # fmt: skip
    """The SAE, with an error that names the file."""
    kind: Any = activation
    try:
        found = _prefixes(widths, len(tensors["b_enc"]))
        weights = tuple(weights) if len(weights) == len(found) else ()
        config = SAEConfig(tensors["b_dec"].shape[0], found, weights, activation=kind, k=k)
        if kind == "jumprelu" and threshold is not None:  # it may be one for all
            threshold = threshold.expand(len(tensors["b_enc"]))
        return SAE(**tensors, config=config, threshold=threshold)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _prefixes(widths: Sequence[int], latents: int) -> tuple[int, ...]:
    """The prefixes' widths, before anything else that they would make look wrong."""
    given: Any = tuple(widths) if isinstance(widths, Iterable) else widths
    found = SAEConfig(1, given).widths
    if found[-1] != latents:
        raise ValueError(
            f"widths are {found}; the last must be the SAE's {latents} latents. Give the widths that were trained."
        )
    return found


def _unit_rows(tensors: dict[str, Tensor], norms: Tensor) -> dict[str, Tensor]:
    """Decoder rows of length 1, the activations as much longer: the reconstruction stays."""
    above = torch.where(norms > 0, norms, 1)
    longer = {name: tensors[name] * norms for name in ("W_enc", "b_enc")}
    return tensors | longer | {"W_dec": tensors["W_dec"] / above[:, None]}


def _ranked_alike(
    path: Path, tensors: dict[str, Tensor], norms: Tensor, threshold: Tensor | None
) -> tuple[dict[str, Tensor], Tensor | None]:
    """For libraries that rank activations without their decoder norms: the same where these are all equal."""
    low, high = float(norms.min()), float(norms.max())
    if not high - low <= ALIKE * high:
        raise ValueError(
            f"{path}: it ranks activations as they are, and its decoder rows have lengths from {low:.4g} to "
            f"{high:.4g}; here they are ranked times that length, which would keep others. Only SAEs with rows of one "
            "length can be read."
        )
    return tensors, None if threshold is None else threshold * norms.mean()


def _widened(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """All in one type: that of the weights, or float32 where these are shorter."""
    dtype = tensors["W_dec"].dtype if tensors["W_dec"].dtype == torch.float64 else torch.float32
    return {name: tensor.to(dtype) for name, tensor in tensors.items()}


def _check(
    path: Path, tensors: dict[str, Tensor], extra: Sequence[str], d_in: int | None = None, d_sae: int | None = None
) -> None:
    """Names, shapes and values, before anything is computed."""
    wanted = {"W_enc", "b_enc", "W_dec", "b_dec", *extra}
    if tensors.keys() != wanted:
        lacking, more = sorted(wanted - tensors.keys()), sorted(tensors.keys() - wanted)
        raise ValueError(f"{path}: it lacks the tensors {lacking}, and has {more}, which are unknown for its kind.")
    if tensors["W_dec"].ndim != 2:
        raise ValueError(f"{path}: W_dec has shape {tuple(tensors['W_dec'].shape)}; it must be (latents, d_in).")
    n, d = tensors["W_dec"].shape
    if d_in not in (None, d) or d_sae not in (None, n):
        raise ValueError(
            f"{path}: W_dec has shape {(n, d)}, but the configuration says d_in {d_in} and d_sae {d_sae}; it must be "
            f"{(d_sae, d_in)}. The files belong to different SAEs, or one is damaged."
        )
    shapes = {"W_enc": (d, n), "b_enc": (n,), "b_dec": (d,), "threshold": (n,), "topk_threshold": ()}
    for name, tensor in tensors.items():
        wrong = name in shapes and tensor.shape != shapes[name] and not (name == "threshold" and tensor.ndim == 0)
        if wrong:
            raise ValueError(
                f"{path}: {name} has shape {tuple(tensor.shape)}; for W_dec {(n, d)} it is {shapes[name]}."
            )
        if not tensor.is_floating_point():
            raise ValueError(f"{path}: {name} holds {tensor.dtype}; it must hold floating-point numbers.")
        # A threshold may be infinite: its latent then never fires.
        if not tensor.isfinite().all() and ("threshold" not in name or tensor.isnan().any()):
            raise ValueError(f"{path}: {name} holds NaN or infinities; the training must have failed.")


def _json(path: Path) -> dict[str, Any]:
    data = plain.read_json(path)
    if not isinstance(data, dict):
        raise ValueError(f"{path} holds a {type(data).__name__}; it must hold an object, the configuration.")
    return data


def _refuse_pickles(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(9)
    if head.startswith(_PICKLES) and head[8:] != b"{":
        raise ValueError(
            f"{path} is a pickle under another name. Pickles can run code and are not opened here; save the weights as "
            "safetensors, or call it .pt if torch.save wrote it (then weights alone are read)."
        )


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    _refuse_pickles(path)
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file, or is cut short or damaged: {error}") from None


def read_torch(path: Path, mapped: bool = False) -> Any:
    """What `torch.save` wrote.

    Args:
        path: the file.
        mapped: whether tensors are read from the file when they are looked at, and not now.

    Raises:
        ValueError: if the file is damaged, or a pickle that names any function or class, which is refused before it
            runs.
        OSError: if it cannot be read.
    """
    try:
        with warnings.catch_warnings():  # on the form of the pickle, before it is refused
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped and zipfile.is_zipfile(path))
    except pickle.UnpicklingError:
        raise ValueError(
            f"{path} is no file of numbers alone: it names code to run, or is damaged. It was not unpickled; save its "
            "tensors as safetensors where you trust it."
        ) from None
    except (RuntimeError, EOFError) as error:
        raise ValueError(f"{path} is cut short or damaged: {str(error) or 'it ends early'}") from None


def _weights_only(path: Path) -> dict[str, Tensor]:
    """The tensors of a `torch.save`."""
    data = read_torch(path)
    if not isinstance(data, dict) or not all(isinstance(tensor, Tensor) for tensor in data.values()):
        inner = [name for name, some in data.items() if isinstance(some, dict)] if isinstance(data, dict) else []
        hint = f" Under {inner} it holds others; save the one with the weights by itself." if inner else ""
        raise ValueError(f"{path} holds no state_dict: a {type(data).__name__}, not tensors by name.{hint}")
    return dict(data)


# Trees


def tree_to_saelens(tree: FeatureTree) -> dict[str, Any]:
    """A tree in the form of SAELens's synthetic data.

    There all features fire by themselves; then children of silent parents are silenced, and of exclusive siblings that
    fire together one is left, each as likely. The probabilities are chosen so that the outcome has the tree's own law.
    (A magnitude that noise takes to 0 silences the children there, not here.)

    Returns:
        "hierarchy", the content of SAELens's `hierarchy.json` (for `Hierarchy.from_dict`), and, for its
        `ActivationGenerator`, "firing_probabilities", "mean_firing_magnitudes" and "std_firing_magnitudes".

    Raises:
        ValueError: if a node without a direction of its own has a probability below 1, or exclusive siblings.
    """
    probs: list[float] = []
    means: list[float] = []
    stds: list[float] = []

    def visit(node: FeatureTree, fires: float) -> dict[str, Any]:
        index = None
        if node.is_read_out:
            index = len(probs)
            probs.append(fires)
            means.append(node.magnitude_mean)
            stds.append(node.magnitude_std)
        elif fires < 1:
            raise ValueError(
                f"a node without a direction has active_prob {fires}; in SAELens such a node always fires."
            )
        exclusive = node.mutually_exclusive_children and len(node.children) > 1
        each = [child.active_prob for child in node.children]
        if exclusive:
            if not all(child.is_read_out for child in node.children):
                raise ValueError("one of several exclusive children has no direction; SAELens does not exclude it.")
            each = _before_exclusion(each)
        return {
            "feature_index": index, "mutually_exclusive_children": exclusive, "scale_children_by_parent": False,
            "feature_id": node.id,
            "children": [visit(child, p) for child, p in zip(node.children, each, strict=True)],
        }  # fmt: skip

    top = visit(tree, tree.active_prob)
    roots = [top] if tree.is_read_out or top["mutually_exclusive_children"] else top["children"]
    return {
        "hierarchy": {"roots": roots}, "firing_probabilities": probs, "mean_firing_magnitudes": means,
        "std_firing_magnitudes": stds,
    }  # fmt: skip


def tree_from_saelens(data: Mapping[str, Any]) -> tuple[FeatureTree, list[int]]:
    """The reverse of `tree_to_saelens`; features outside the hierarchy become independent ones.

    Args:
        data: "hierarchy" and "firing_probabilities"; magnitudes are 1 without noise if they are not given.

    Returns:
        The tree, and the index there of each of its features (here parents come first).

    Raises:
        ValueError: if an index has no probability or comes twice, or if children are scaled by a parent's noise.
    """
    probs = [float(p) for p in data["firing_probabilities"]]
    means = [float(m) for m in data.get("mean_firing_magnitudes", [1.0] * len(probs))]
    stds = [float(s) for s in data.get("std_firing_magnitudes", [0.0] * len(probs))]
    order: list[int] = []

    def visit(node: Mapping[str, Any], fires: float | None = None) -> FeatureTree:
        index = node.get("feature_index")
        if index is not None and (not 0 <= index < len(probs) or index in order):
            raise ValueError(f"feature_index {index} comes twice, or is not among {len(probs)} firing_probabilities.")
        if index is not None:
            order.append(index)
        if node.get("scale_children_by_parent") and index is not None and stds[index] > 0:
            raise ValueError(
                f"the children of feature {index} are scaled by its noise; set scale_children_by_parent off."
            )
        below, exclusive = list(node.get("children", [])), bool(node.get("mutually_exclusive_children"))
        each: list[float | None] = [None] * len(below)
        if exclusive:
            excluded = [child.get("feature_index") for child in below]
            if not all(i in range(len(probs)) for i in excluded):
                raise ValueError(
                    f"exclusive children have feature_index {excluded}, of {len(probs)} firing_probabilities; what is "
                    "meant is unclear. Give each its own."
                )
            each = list(_after_exclusion([probs[i] for i in excluded]))
        children = tuple(visit(child, p) for child, p in zip(below, each, strict=True))
        if index is None:
            return FeatureTree(1.0, children, exclusive, is_read_out=False, id=node.get("feature_id"))
        own = probs[index] if fires is None else fires
        name = node.get("feature_id") or f"feature {index}"
        return FeatureTree(own, children, exclusive, True, means[index], stds[index], name)

    roots = [visit(root) for root in data["hierarchy"]["roots"]]
    loose = [i for i in range(len(probs)) if i not in order]
    order += loose
    roots += [FeatureTree(probs[i], magnitude_mean=means[i], magnitude_std=stds[i], id=f"feature {i}") for i in loose]
    return FeatureTree(1.0, tuple(roots), is_read_out=False), order


def _after_exclusion(probs: Sequence[float]) -> list[float]:
    """How likely each is to be the one that is left: p_i E[1 / (1 + others that fire)], by an exact integral.

    1 / (1 + n) is the integral of s^n from 0 to 1, and E s^n over independent others is a product.
    """
    import numpy as np

    p = np.asarray(probs, float)
    nodes, weights = np.polynomial.legendre.leggauss(len(p) // 2 + 1)
    s = (nodes + 1) / 2
    factors = 1 - p[:, None] * (1 - s)
    return [float(p[i] * (weights @ np.delete(factors, i, 0).prod(0)) / 2) for i in range(len(p))]


def _before_exclusion(probs: Sequence[float]) -> list[float]:
    """The reverse of `_after_exclusion`."""
    import numpy as np
    from scipy.optimize import least_squares

    target, tight = np.asarray(probs, float), {"xtol": 1e-15, "ftol": 1e-15, "gtol": 1e-15}

    def off(p: np.ndarray) -> np.ndarray:
        return np.asarray(_after_exclusion(p.tolist())) - target

    found = least_squares(off, target, bounds=(0, 1), **tight)
    if np.abs(found.fun).max() > 1e-6:
        raise ValueError(f"no independent probabilities leave exclusive children with {list(probs)}.")
    return [float(p) for p in found.x]
