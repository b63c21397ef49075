"""Does a Matryoshka SAE mix? A diagnosis from files, without true features.

    python -m matryoshka_mixing.diagnose SAE ACTIVATIONS... [--widths 128 512 2048] [--labels TABLE --hierarchy JSON]

Prints the finding, and writes a page (diagnosis.html) and the numbers (diagnosis.json).
"""

import argparse
import json
import math
import os
import sys
from pathlib import Path

from matryoshka_mixing import exchange
from matryoshka_mixing._commands import write_text
from matryoshka_mixing.diagnose import diagnose, files, memory
from matryoshka_mixing.diagnose.page import html


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m matryoshka_mixing.diagnose", description=__doc__.splitlines()[0],
        epilog="BatchTopK SAEs of SAELens are saved as JumpReLU without their prefixes: give --widths. Some "
        f"{memory(8192, 768):.0f} GB of memory are needed for 8,192 latents of 768 dimensions, "
        f"{memory(32768, 2304):.0f} for 32,768 of 2,304.",
    )  # fmt: skip
    add = parser.add_argument
    add(
        "sae",
        type=Path,
        help="folder of SAELens or dictionary_learning, a file of SAE.save, or weights alone (.pt, ...)",
    )
    add(
        "activations",
        type=Path,
        nargs="+",
        help="of shape (rows, d_in): .npy, .npz, .safetensors, .pt or .parquet; several are read as one, in the order "
        "given, a folder's in the order of their numbers",
    )
    add("--key", help="name of the array in a file that holds several (.npz, .safetensors, .pt)")
    add("--widths", type=int, nargs="+", help="prefixes, in place of the SAE's own; the last is its number of latents")
    add("--scale", type=float, help="by what SAELens multiplied inputs in training (expected_average_only_in)")
    add("--activation", choices=("topk", "batchtopk"), help="of weights alone that hold a k, or with --k")
    add("--k", type=float, help="with --activation: latents that fire on an input, where the weights do not say")
    add("--labels", type=Path, help="which rows hold which feature: .npy, .parquet or .csv, a column for each")
    add(
        "--hierarchy",
        type=Path,
        help='with --labels: JSON with each feature\'s parent, {"animal": null, "dog": "animal"}',
    )
    add("--l1", type=float, help="penalty that it was trained with, where its file does not say (see diagnose)")
    add("--draws", type=int, default=19, help="draws of random signs (default 19: one latent in 20 leans by chance)")
    add("--ridge", type=float, default=1e-3, help="in units of the median latent's second moment (default 0.001)")
    add("--batch", type=int, default=4096, help="rows at a time (default 4096)")
    add("--seed", type=int, default=0, help="of the signs (default 0)")
    add("--output", type=Path, default=Path("."), help="folder for diagnosis.html and diagnosis.json (default: here)")
    add("--quiet", action="store_true", help="no progress bar")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Read, diagnose, write and print; 2 if the input does not fit, or nothing can be written."""
    options = _parser().parse_args(arguments)
    try:
        if options.scale is not None and not 0 < options.scale < math.inf:
            raise ValueError(f"--scale is {options.scale}; it must be a finite number above 0.")
        if options.seed < 0:
            raise ValueError(f"--seed is {options.seed}; it must be at least 0.")
        home = next(path for path in (options.output, *options.output.absolute().parents) if path.exists())
        if not home.is_dir() or not os.access(home, os.W_OK):
            raise ValueError(f"--output {options.output} cannot be written: {home} is no folder, or not yours.")
        if (options.labels is None) != (options.hierarchy is None):
            raise ValueError("--labels and --hierarchy belong together; give both or none.")
        asked = {name: getattr(options, name) for name in ("widths", "scale", "activation", "k")}
        sae = exchange.read(options.sae, **{name: value for name, value in asked.items() if value is not None})
        rows = files.activations(options.activations, options.key)
        table, parents, names = (None, None, None)
        if options.labels is not None:
            table, parents, names = files.labels(options.labels, options.hierarchy)
        latents, d_in = sae.W_dec.shape
        needs = memory(latents, d_in, options.draws)
        if needs > 1 and not options.quiet:
            print(f"This takes some {needs:.0f} GB of memory; fewer --draws take less.", file=sys.stderr)
        found = diagnose(
            sae, rows, widths=options.widths, labels=table, hierarchy=parents, names=names, l1=options.l1,
            ridge=options.ridge, draws=options.draws, batch=options.batch, seed=options.seed,
            progress=not options.quiet,
        )  # fmt: skip
        options.output.mkdir(parents=True, exist_ok=True)
        write_text(options.output / "diagnosis.json", json.dumps(found.to_dict(), indent=1) + "\n")
        write_text(options.output / "diagnosis.html", html(found, options.sae.resolve().name))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(found.words)
    print(f"Written: {options.output / 'diagnosis.html'}, {options.output / 'diagnosis.json'}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("interrupted; nothing was written")
