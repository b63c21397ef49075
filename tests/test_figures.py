import base64
import json
import re
import subprocess
import sys
import warnings
from functools import wraps
from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG

from matryoshka_mixing import figures
from matryoshka_mixing.figures import style
from matryoshka_mixing.metrics import Basin


def texts(figure):
    return [t.get_text() for axis in figure.axes if axis.get_visible() for t in axis.texts]


def test_the_style_is_seaborns_theme():
    seaborn = pytest.importorskip("seaborn")
    with mpl.rc_context():
        mpl.rcdefaults()
        plain = dict(mpl.rcParams)
        seaborn.set_theme(context="notebook", style="ticks", palette="colorblind")
        changed = {name: value for name, value in mpl.rcParams.items() if value != plain[name]}
    cycle, colours = changed.pop("axes.prop_cycle"), [mpl.colors.to_hex(each) for each in figures.COLOURS]
    assert changed.pop("image.cmap") == "rocket"  # of seaborn's own; every map of the book names its colours
    assert [mpl.colors.to_hex(each) for each in cycle.by_key()["color"]] == colours
    theme = {name: value for name, value in style.THEME.items() if name != "axes.prop_cycle"}
    assert theme == changed and len(theme) > 20


@pytest.fixture
def layouts(monkeypatch):
    """How often a figure was laid out, and where its panels were whenever it was drawn."""
    pytest.importorskip("IPython")
    seen = {"layouts": 0, "places": []}
    for name in ("ConstrainedLayoutEngine", "TightLayoutEngine"):
        engine = getattr(mpl.layout_engine, name)

        def execute(self, figure, before=engine.execute):
            seen["layouts"] += 1
            return before(self, figure)

        monkeypatch.setattr(engine, "execute", execute)
    for canvas, name in ((FigureCanvasSVG, "print_svg"), (FigureCanvasAgg, "print_png")):
        before = getattr(canvas, name)

        @wraps(before)
        def draw(self, *given, before=before, **options):
            done = before(self, *given, **options)
            seen["places"].append([axis.get_position().bounds for axis in self.figure.axes])
            return done

        monkeypatch.setattr(canvas, name, draw)
    return seen


@pytest.mark.parametrize("layout", ["constrained", "compressed", "tight", "none"])
def test_a_notebook_holds_each_figure_as_vector_bitmap_and_numbers_laid_out_once(layout, layouts):
    """Both are the figure's own size, uncropped, with its panels in the same places, and it keeps its layout."""
    figure, axes = figures.grid(2, 2, (3, 2), layout=layout)
    axes[0].plot([1.0, 2.0], [0.25, 0.5])
    axes[1].set_ylabel("y\n" * 5)
    if layout == "none":
        figure.subplots_adjust(left=0.3)
    engine = figure.get_layout_engine()
    held = style.pictures(figure)
    assert layouts["layouts"] == (layout != "none") and figure.get_layout_engine() is engine
    vector, bitmap = layouts["places"]
    assert np.allclose(vector, bitmap, rtol=0, atol=1e-12)
    assert held.keys() == {"image/svg+xml", "image/png", "text/csv"} and held["text/csv"] == figures.numbers(figure)
    wide, high = figure.get_size_inches()
    assert f'width="{wide * 72:g}pt" height="{high * 72:g}pt"' in held["image/svg+xml"]
    bitmap = base64.b64decode(held["image/png"])
    assert [int.from_bytes(bitmap[at : at + 4], "big") for at in (16, 20)] == [int(wide * 110), int(high * 110)]


def test_an_empty_figure_has_no_pictures():
    pytest.importorskip("IPython")
    assert style.pictures(mpl.pyplot.figure()).keys() == {"text/csv"}


IN_A_NOTEBOOK = """
import matplotlib
matplotlib.use("module://matplotlib_inline.backend_inline")
from IPython.core.interactiveshell import InteractiveShell
from matplotlib.figure import Figure
from matryoshka_mixing import figures

shell, drawn, draw = InteractiveShell.instance(), [], Figure.draw
shell.kernel = None
figures.use_style()
Figure.draw = lambda figure, renderer: drawn.append(figure) or draw(figure, renderer)
shell.run_cell("import matplotlib.pyplot as plt; axis = plt.figure().subplots()")
print("shown once and drawn", len(drawn), "times")
"""


def test_a_cell_draws_its_figure_for_the_layout_and_its_two_pictures_alone():
    pytest.importorskip("matplotlib_inline")
    done = subprocess.run([sys.executable, "-c", IN_A_NOTEBOOK], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["<Figure size 704x528 with 1 Axes>", "shown once and drawn 3 times"]


def test_formats_that_a_reader_chose_go_first(monkeypatch):
    config = pytest.importorskip("matplotlib_inline.config")
    figure, chosen = figures.heatmaps({"a": np.zeros((1, 2))}, ["x", "y"]), SimpleNamespace(figure_formats=set())
    monkeypatch.setattr(config.InlineBackend, "instance", lambda: chosen)
    assert style._shown(figure).keys() == {"image/svg+xml", "image/png", "text/csv"}
    chosen.figure_formats = {"png"}
    assert style._shown(figure) == {}


def test_heatmaps_write_every_value_on_one_centred_scale():
    figure = figures.heatmaps({"a": np.array([[1.0, -0.25], [-0.001, np.nan]]), "b": np.zeros((2, 2))}, ["x", "y"])
    assert texts(figure) == ["1.00", "-0.25", "0.00", "0.00", "0.00", "0.00", "0.00"]
    panel = figure.axes[0].collections[0]
    assert panel.get_clim() == (-1, 1) and panel.get_cmap().name == figures.DIVERGING


def test_activation_heatmaps_start_at_zero():
    figure = figures.heatmaps({"a": np.array([[2.0, 0.0]])}, ["x", "y"], ["s"], quantity="activation")
    assert figure.axes[0].collections[0].get_clim() == (0, 2)
    assert figure.axes[-1].get_ylabel() == "activation"


def test_cells_without_a_value_are_blank_and_warn_of_nothing():
    nothing = np.full((1, 2), np.nan)
    for quantity in ("cosine", "activation"):
        assert texts(figures.heatmaps({"a": nothing}, ["x", "y"], quantity=quantity)) == []
    plane = {"x": [1, 2], "y": [1, 2], "values": np.full((2, 2), np.nan), "xlabel": "x", "ylabel": "y"}
    figure = figures.cosine_maps({"a": plane | {"lines": [("at its end", [1, 2], [1, 2])]}}, "cosine")
    assert figure.axes[0].collections[0].get_clim() == (-1, 1) and texts(figure) == ["at its end"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["theory"]


def test_rounding_never_shows_a_signed_zero_or_its_noise():
    table = np.array([[-0.004, -1e-17, -0.005001, 0.125 + 1e-16, 0.125 - 1e-16]])
    assert texts(figures.heatmaps({"a": table}, list("vwxyz"))) == ["0.00", "0.00", "-0.01", "0.12", "0.12"]


def test_every_cell_can_be_read_on_its_colour():
    figure = figures.heatmaps({"a": np.linspace(-1, 1, 41)[None]}, [str(i) for i in range(41)])
    axis, scale = figure.axes[0], figure.axes[0].collections[0]

    def brightness(colour):
        parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in mpl.colors.to_rgb(colour)]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2] + 0.05

    for value, text in zip(np.linspace(-1, 1, 41), axis.texts, strict=True):
        pair = sorted([brightness(text.get_color()), brightness(scale.to_rgba(value))])
        assert pair[1] / pair[0] >= 4
    assert axis.texts[0].get_color() == "#ffffff" and axis.texts[20].get_color() == "#111111"


def test_theory_and_experiment_draws_lines_and_medians_without_missing_seeds():
    points = np.array([[1.0, 3.0, np.nan], [np.nan] * 3, [5.0, 5.0, 5.0]])
    series = {
        "label": "s",
        "x": [0, 1, 2],
        "line_x": [0, 2],
        "line_y": [0, 4],
        "points": points,
        "open_points": points,
    }
    axis = figures.theory_and_experiment([{"xlabel": "a", "ylabel": "b", "series": [series]}]).axes[0]
    assert axis.lines[0].get_ydata().tolist() == [0, 4]
    assert axis.containers[0][0].get_xdata().tolist() == [0, 2]
    assert axis.containers[0][0].get_ydata().tolist() == [2, 5]
    assert axis.containers[1][0].get_markerfacecolor() == "none"
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("a", "b")


def test_basins_are_drawn_by_loss_with_their_shares():
    found = [Basin(0.1, 1, [1], 0.25), Basin(0.2, 0, [0, 2, 3], 0.75)]
    cosines, live = np.full((4, 1, 2), 0.5), np.array([[False], [True], [False], [False]])
    figure = figures.basin_heatmaps(found, cosines, live, ["x", "y"])
    assert [axis.get_title() for axis in figure.axes[:2]] == [
        "25% of seeds\nloss 0.1000",
        "75% of seeds\nloss 0.2000",
    ]
    assert texts(figure) == ["0.50", "0.50"]


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=12), st.integers(1, 9))
@settings(max_examples=20)
def test_no_basin_is_lost_however_alike_their_titles_are(kinds, most):
    """Basins of the same loss and share, but other live latents, among others; each has a panel and a title."""
    mpl.pyplot.close("all")
    found = [Basin(0.1 * loss, i, [i], 0.1 * (share + 1)) for i, (loss, share) in enumerate(kinds)]
    cosines = np.arange(len(kinds))[:, None, None] / 10 + np.zeros((1, 2))
    figure = figures.basin_heatmaps(found, cosines, np.ones((len(kinds), 1), bool), ["x", "y"], most)
    panels = [axis for axis in figure.axes[:-1] if axis.collections]  # a grid may have empty places
    titles = [axis.get_title() for axis in panels]
    assert len(panels) == min(len(kinds), most) == len(set(titles))
    drawn = {axis.collections[0].get_array().flatten()[0] for axis in panels}
    assert len(drawn) == len(panels), "each shows its own"
    plain = [f"{basin.share:.0%} of seeds\nloss {basin.loss:.4f}" for basin in found]
    alike = {title for title in plain if plain.count(title) > 1}
    assert all(title in plain or title.rpartition(" (")[0] in alike for title in titles)


@pytest.mark.parametrize("shape", [(2, 5), (2, 2), (1, 3), (3, 3), (2, 0)])
@pytest.mark.parametrize("rows", [["r", "s"], None])
def test_heatmaps_without_a_name_for_each_column_and_row_are_refused(shape, rows):
    panels = {"good": np.zeros((2, 3)), "a": np.zeros(shape)}
    if rows is None and shape[1] == 3:
        assert len(figures.heatmaps(panels, list("abc")).axes) == 3
        return
    with pytest.raises(ValueError, match=r"panel 'a' has shape .*, but \d rows and 3 columns are named"):
        figures.heatmaps(panels, list("abc"), rows)


def test_solutions_are_numbered_and_carry_their_recovery():
    found = [Basin(0.1, 1, [1], 0.01), Basin(0.2, 0, [0], 0.99)]
    live, recovery = np.array([[False], [True]]), np.array([0.0, 0.5])
    figure = figures.basin_heatmaps(found, np.full((2, 1, 2), 0.5), live, ["x", "y"], 8, recovery)
    assert [axis.get_title() for axis in figure.axes[:2]] == [
        "1: 1.0% of seeds\nloss 0.1000\nrecovery 0.50",
        "2: 99% of seeds\nloss 0.2000\nrecovery 0.00",
    ]


def test_strips_and_paths():
    figure = figures.seed_strips(
        {"a": np.array([0.1, 0.2]), "b": np.array([0.3])}, "cosine", reference=0.2, label="theory"
    )
    assert sum(len(c.get_offsets()) for c in figure.axes[0].collections) == 3
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["a", "b"]
    medians = [line.get_xdata()[0] for line in figure.axes[0].lines[2:]]
    assert medians == pytest.approx([0.15, 0.3]) and figure.axes[0].lines[0].get_xdata()[0] == 0.2
    assert [t.get_text() for t in figure.axes[0].get_legend().get_texts()] == ["theory", "median"]
    path = figures.loss_path(np.array([0, 1]), {"a": np.array([1, 0])}, {"here": 0.5}, "x", "y")
    assert texts(path) == ["a", "here"]


def test_strips_of_controls_have_a_colour_of_their_own_and_empty_ones_no_median():
    axis = figures.seed_strips({"a": np.ones(2), "control: b": np.ones(1), "c": np.zeros(0)}, "cosine").axes[0]
    colours = [tuple(points.get_facecolor()[0][:3]) for points in axis.collections[:2]]
    assert colours == [tuple(figures.COLOURS[0]), tuple(figures.COLOURS[1])] and len(axis.lines) == 3
    axis = figures.seed_strips({"standard": np.ones(2), "sampled": np.ones(1)}, "cosine").axes[0]
    standard, ours = (tuple(points.get_facecolor()[0][:3]) for points in axis.collections)
    assert standard == mpl.colors.to_rgb(figures.colour("standard")) != ours


def test_a_quantity_has_one_colour_however_it_is_named():
    colours = [figures.colour(name, other=4) for name in ("parent's latent with a child", "parent's with a child")]
    assert colours == [figures.COLOURS[0]] * 2
    assert figures.colour("child's latent with the parent") != figures.colour("child's latent with a sibling")
    assert figures.colour("standard, random") == figures.colour("standard") != figures.colour("control: x")
    assert figures.colour("two children", 1) == figures.COLOURS[1]


def test_names_at_the_ends_of_lines_do_not_cover_each_other():
    axis = mpl.pyplot.subplots()[1]
    axis.set_ylim(0, 1)
    ends = [("a", 1.0, 0.5), ("b", 1.0, 0.51), ("c", 1.0, 0.9), ("d", 2.0, 0.5)]
    figures.end_labels(axis, [(name, x, y, "k") for name, x, y in ends], 100.0)
    places = {text.get_text(): text.xy[1] * 100 + text.get_position()[1] for text in axis.texts}
    assert places["b"] - places["a"] >= 12.5 and (places["a"] + places["b"]) / 2 == pytest.approx(50.5, abs=0.2)
    assert places["c"] == 90 and places["d"] == 50, "they stay where there is room"


def test_names_of_lines_that_end_low_keep_off_the_numbers_of_the_axis_whatever_its_scale():
    axis = mpl.pyplot.subplots()[1]
    axis.set(ylim=(1, 100), yscale="log")
    figures.end_labels(axis, [("middle", 1.0, 10.0, "k"), ("low, and of two lines", 2.0, 1.0, "k")], 100.0)
    shifts = {text.get_text(): text.get_position()[1] for text in axis.texts}
    assert shifts["middle"] == 0 and shifts["low, and of two\nlines"] == 7


def test_what_a_reader_moves_carries_its_data_and_nothing_from_outside():
    page = figures.explorable("an-id", {"q": 0.2, "n": 3}, [[0.1, 0.25, np.nan]], notebook="<03>")
    data = json.loads(re.search(r"json\">(\{.*\})<", page)[1])
    assert data["dots"] == [[0.1, 0.25, None]] and data["notebook"] == "<03>"
    assert data["start"] == {"q": 0.2, "n": 3} and data["run"] == {"n": 3}, "what is swept is not compared"
    assert 'id="an-id"' in page and "http" not in page and "<03>" not in page


def test_clouds_hold_every_point_and_the_line():
    panel = {
        "xlabel": "x",
        "ylabel": "y",
        "groups": {"a": ([1, 2], [3, 4]), "b": ([5], [6])},
        "curve": ([0, 1], [0, 2]),
    }
    axis = figures.clouds([panel]).axes[0]
    assert [len(points.get_offsets()) for points in axis.collections] == [2, 1]
    assert axis.lines[0].get_ydata().tolist() == [0, 2]


@pytest.mark.parametrize(
    "name",
    [
        "dogs",
        r"$\frac{",
        "$",
        "$$",
        r"\$x$",
        "a\nb\tc",
        "<script>alert(1)</script>",
        "名前 😀",
        "\u202eabc",
        "x" * 500,
        "",
    ],
)
def test_any_name_can_be_drawn_and_none_is_mathematics(name):
    text = mpl.pyplot.figure().text(0, 0, figures.label(name))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # drawn as a box
        text.figure.canvas.draw()
    assert len(figures.label(name).replace("\\$", "$")) <= 24 and "\n" not in figures.label(name)
