"""A diagnosis as a figure, and as one page of HTML that loads nothing from outside."""

from __future__ import annotations

import io
from html import escape
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from matryoshka_mixing import figures
from matryoshka_mixing.diagnose import LEAST, Diagnosis, Edge

NAMED = 10
"""How many latents, those that lean most, stand in the table; all others are in the JSON file."""

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 58rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto; }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid #ccc; font-variant-numeric: tabular-nums; }
th { background: #f3f3f3; } td:last-child, th:last-child { text-align: left; }
figure { margin: 1rem 0; } svg { max-width: 100%; height: auto; } figcaption { font-size: .9rem; color: #444; }
"""


def draw(found: Diagnosis) -> Figure:
    """Left: how far refits turn, and by chance. Right: each latent's lean against the predicted one."""
    figure, axes = figures.grid(2, 2, (4.6, 3.6))
    judged = found.judged.numpy()
    movement, chance = found.movement.numpy()[judged], found.chance.numpy()[judged]
    bins = np.linspace(
        0, max(float(np.nanmax(movement, initial=0)), float(np.nanmax(chance, initial=0)), 0.05), 30
    ).tolist()
    axes[0].hist(chance, bins, color="0.75", label="random signs")
    axes[0].hist(movement, bins, histtype="step", linewidth=2, color=figures.COLOURS[0], label="refit")
    axes[0].set(xlabel="movement (sine of the turn)", ylabel="inner latents")
    axes[0].legend()
    names = "predicted", "lean", "leans", "opposite"
    predicted, lean, leans, opposite = (getattr(found, name).numpy()[judged] for name in names)
    for chosen, marker, colour, label in (
        (~leans & ~opposite, "o", "0.6", "does not lean"), (leans, "D", figures.COLOURS[3], "leans"),
        (opposite, "v", figures.COLOURS[2], "the other way"),
    ):  # fmt: skip
        axes[1].scatter(predicted[chosen], lean[chosen], 14, color=colour, marker=marker, label=label)
    ends = [float(f(np.append(np.concatenate([predicted, lean]), 0))) for f in (np.nanmin, np.nanmax)]
    axes[1].plot(ends, ends, color="black", linewidth=0.8)
    axes[1].set(xlabel="predicted lean", ylabel="lean toward later latents")
    axes[1].legend()
    return figure


def _row(cells: list[str], tag: str = "td") -> str:
    return "<tr>" + "".join(f"<{tag}>{cell}</{tag}>" for cell in cells) + "</tr>"


def _table(head: list[str], rows: list[list[str]]) -> str:
    body = "\n".join(_row(row) for row in rows)
    return f"<table><thead>{_row(head, 'th')}</thead>\n<tbody>{body}</tbody></table>"


def _partners(found: Diagnosis, k: int) -> str:
    return "; ".join(
        f"{one.latent} (fire together {one.together:.2f}; cosine {one.cosine:.2f}, refitted {one.refitted:.2f})"
        for one in found.partners[k]
    )


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _edge(edge: Edge) -> list[str]:
    latents = ["–" if one is None else str(one) for one in (edge.latent, edge.carrier)]
    cosines = [_number(value) for value in (edge.own, edge.cosine)]
    shares = [_number(value) for value in (edge.recall_with, edge.recall_without, edge.gap, edge.partial)]
    names = [escape(figures.in_one_line(name)) for name in (edge.parent, edge.child)]
    return [*names, str(edge.rows), latents[0], *cosines, *shares, latents[1]]


def _advice(found: Diagnosis) -> str:
    """What follows for the reader, as a list."""
    chance = float(found.judged.sum()) / (found.draws + 1)
    items = [
        f"Of the judged latents {chance:.3g} would lean by chance. Where no more do, there is nothing to do.",
        "Read a latent that leans together with the later ones beside it: its decoder holds a part of theirs, at least "
        f"as large as its lean. The table names {NAMED} at most, diagnosis.json all.",
        "The refitted decoder (<code>Diagnosis.refitted</code>, from Python) undoes a part of it, and takes the "
        f"unexplained share from {found.fvu:.3f} to {found.fvu_refitted:.3f}.",
        "Who can train on lets the prefixes teach the encoder alone and the full reconstruction the decoder "
        "(<code>matryoshka_mixing.full_decoder</code>), and asks again.",
    ]
    return "<ul>" + "".join(f"<li>{item}</li>" for item in items) + "</ul>"


def html(found: Diagnosis, name: str) -> str:
    """The page.

    Args:
        found: from `diagnose`.
        name: of the SAE, for the title.
    """
    name = figures.in_one_line(name)
    style: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": "diagnosis",
        "font.size": 11,
        "figure.constrained_layout.use": True,
    }
    with plt.rc_context(style):
        figure, buffer = draw(found), io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
        plt.close(figure)
    picture = buffer.getvalue()
    picture = picture[picture.index("<svg") :].replace(
        "<svg", '<svg role="img" aria-label="Histogram of movements; scatter of lean against predicted lean"', 1
    )
    most = _table(
        ["latent", "fires on", "movement", "lean", "predicted", "toward"],
        [
            [str(k), f"{found.fires[k]:.2%}", *(f"{getattr(found, key)[k]:.3f}" for key in ("movement", "lean")),
             f"{found.predicted[k]:.3f}", _partners(found, k)]
            for k in list(found.partners)[:NAMED]
        ],
    )  # fmt: skip
    parts = [
        f"<h1>Do its latents mix? {escape(name)}</h1>",
        f"<p>{found.rows:,} rows; prefixes {', '.join(map(str, found.widths))}. "
        f"Unexplained by each prefix: {', '.join(f'{share:.3f}' for share in found.fvu_prefixes)}.</p>",
        *(f"<p>{escape(line)}</p>" for line in found.words.splitlines()),
        f"<figure>{picture}<figcaption>Activations held, the decoder is refitted to the full reconstruction alone. "
        "Left: how far each inner latent's row turns, and how far it turns where residuals have random signs. Right: "
        "the part of the turn that lies along later latents that fire with it, against what the prefix losses predict; "
        "the line is where both are equal. The other way: as predicted, but away from later latents, as a complement "
        "turns.</figcaption></figure>",
        "<h2>The latents that lean most</h2>",
        most if found.partners else f"<p>None leans by more than chance and {LEAST}.</p>",
        "<h2>What to do</h2>",
        _advice(found),
    ]
    if found.edges:
        head = [
            "parent", "child", "rows", "latent", "cosine with the parent", "with the child", "recall with", "without",
            "gap", "written by others", "carrier",
        ]  # fmt: skip
        parts += [
            "<h2>Labelled parents beside their children</h2>",
            _table(head, [_edge(edge) for edge in found.edges]),
        ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Diagnosis of {escape(name)}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )
