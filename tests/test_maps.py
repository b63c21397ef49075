"""Maps of where a verdict holds: what is read from a table, its figures, and the page with its stored sweeps."""

import json
import os
import re
import subprocess
import sys

import execute
import maps
import matplotlib.pyplot as plt
import pandas as pd
import pytest
import yaml

from matryoshka_mixing import claims

HOME = {"child_probability": 0.4, "l1": 0.0}
STORED = sorted(maps.STORED.glob("*.csv"))
KEY = maps.key("mse-reason")


def table(verdicts, sweep="mine", claim="mse-reason"):
    """A table with one criterion a run: (child_probability, l1) -> verdict, and the key number its probability."""
    rows = []
    for i, ((q, l1), verdict) in enumerate(verdicts.items()):
        rows.append(
            {"sweep": sweep, "run": f"r{i}", "chapter": "02_narrow_sae_mixes", "status": "done", "n_seeds": 64}
            | {"child_probability": q, "l1": l1, "n_children": 2, "claim": claim, "verdict": verdict}
            | {"metric": KEY.metric, "role": "decisive", "value": q}
            | {"outcome": "met" if verdict == "supported" else "failed"}
        )
    known = {"parent_probability": 0.3, "d_model": 20, "n_sweep_seeds": 2, "seed": 0, "start_noise": 0.5}
    known |= {"n_steps": 600, "batch_size": 200, "n_grid": 3}
    return pd.DataFrame(rows).assign(**known)


STAR = {
    (0.4, 0.0): "supported", (0.02, 0.0): "refuted", (0.1, 0.0): "supported", (0.5, 0.0): "supported",
    (0.4, 0.01): "supported", (0.4, 0.1): "mixed", (0.4, 1.0): "supported",
}  # fmt: skip


@pytest.fixture
def star():
    return maps.Found.of(table(STAR), "mse-reason")


def test_what_varies_and_the_verdict_at_home_are_read_from_the_table(star):
    assert star.varied == ("child_probability", "l1") and star.home == HOME and star.at_home == "supported"
    assert list(star.runs["key"]) == [q for q, _ in STAR]
    assert list(star.runs["why"][:3]) == ["", f"“{KEY.says}”", ""]
    assert list(star.runs["core"][:3]) == [True, False, True]
    with pytest.raises(ValueError, match=r"no verdict on topk-too; it has \['mse-reason'\]"):
        maps.Found.of(table(STAR), "topk-too")


def test_how_far_a_parameter_can_move_stops_at_the_first_other_verdict(star):
    assert star.reach("child_probability") == {"low": 0.1, "below": 0.02, "high": 0.5, "above": None}
    assert star.reach("l1") == {"low": 0, "below": None, "high": 0.01, "above": 0.1}, (
        "not 1, which lies beyond a change"
    )


def test_the_screening_puts_first_what_changes_the_verdict_most_often_and_then_what_moves_the_number(star):
    found = star.screened()
    assert list(found.index) == ["child_probability", "l1"]
    assert list(found["changed"]) == pytest.approx([1 / 3, 1 / 3]) and list(found["span"]) == pytest.approx([0.48, 0])
    line = maps.screen_line(star)
    assert "7 runs" in line and "with child's probability (at 1 of 3 values), L1 penalty (at 1 of 3 values)." in line


def test_the_nearest_flip_its_reason_and_its_command(star):
    run = star.flip()
    assert (run["l1"], run["verdict"]) == (0.1, "mixed"), "a tenth of the way, the other nine tenths and more"
    lines = maps.flip_lines(star)
    assert f"verdict, L1 penalty 0.1, is *mixed*; not met: “{KEY.says}”." in lines
    command = "papermill notebooks/02_narrow_sae_mixes.ipynb out.ipynb -p l1 0.1 -p n_seeds 64 -p n_steps 600"
    assert f"{command} -p n_sweep_seeds" not in lines and "-p l1 0.1 -p n_seeds 64 -p n_sweep_seeds 2" in lines


def test_where_nothing_flips_it_is_said():
    found = maps.Found.of(table(dict.fromkeys(STAR, "supported")), "mse-reason")
    assert found.flip() is None and "In all 7 runs the verdict is *supported*" in maps.flip_lines(found)


def test_an_axis_that_spans_much_is_logarithmic():
    found = maps.Found.of(table({(0.4, 0.001): "supported", (0.1, 0.01): "mixed", (0.2, 1.0): "mixed"}), "mse-reason")
    assert list(found.places()["l1"]) == pytest.approx([0, 1 / 3, 1])
    assert list(found.places()["child_probability"]) == pytest.approx([1, 0, 1 / 3])


def test_the_share_comes_with_its_interval(star):
    count, total, low, high = star.share()
    assert (count, total) == (5, 7) and low == pytest.approx(0.359, abs=1e-3) and high == pytest.approx(0.918, abs=1e-3)
    assert maps.share_line(star) == "supported in 5 of 7; refuted in 1 of 7; mixed in 1 of 7"
    assert maps.share_line(star, random=True).startswith(
        "supported in 5 of 7 (95% interval of the share: 0.36 to 0.92); refuted in 1"
    )


def test_a_mixed_run_of_which_only_support_is_missing_is_told_apart(star):
    assert maps.core_line(star) == ""
    rows = table(STAR)
    rows.loc[rows["verdict"] == "mixed", "role"] = "supporting"
    assert maps.core_line(maps.Found.of(rows, "mse-reason")).startswith(" In 1 of the 1 mixed runs all that is")


def test_a_missed_control_shows_in_the_cell_and_in_the_key(star):
    """Convergence first, where several are missed; a cell without one is plain."""
    extra = [("r5", "converged", "control"), ("r5", "control_saving", "control"), ("r6", "control_saving", "control")]
    rows = table(STAR)
    more = [rows[rows["run"] == run].assign(metric=m, role=role, outcome="failed") for run, m, role in extra]
    found = maps.Found.of(pd.concat([rows, *more]), "mse-reason")
    assert list(found.runs["control"]) == ["none"] * 5 + ["convergence", "another"]
    assert list(maps.numbers(found)["control"].value_counts()) == [5, 1, 1]

    def hatches(figure):
        inside = [patch.get_hatch() for axis in figure.axes for patch in axis.patches if patch.get_hatch()]
        return sorted(inside), [text.get_text() for text in figure.legends[0].get_texts()]

    for draw in (maps.draw_map, lambda found: maps.draw_overview([found])):
        cells, key = hatches(draw(found))
        assert cells == ["...", "///"] and {"control not met: convergence", "control not met: another"} < set(key)
        cells, key = hatches(draw(star))
        assert not cells and not any("control" in word for word in key)
    plt.close("all")


def test_a_claim_gets_the_map_over_what_its_screening_puts_first(star):
    def wider(points, d_model):
        rows = table(points)
        return rows.assign(run=rows["run"] + f"-{d_model}", d_model=d_model)

    fits = maps.Found.of(table({(q, l1): "mixed" for q in (0.2, 0.4) for l1 in (0.0, 0.1)}), "mse-reason")
    line = {(q, 0.0): "mixed" for q in (0.2, 0.4)}
    other = maps.Found.of(pd.concat([wider(line, 20), wider(line, 50)]), "mse-reason")
    screen = maps.Found.of(pd.concat([table(STAR), wider({(0.4, 0.0): "supported"}, 50)]), "mse-reason")
    assert other.varied == ("child_probability", "d_model") and len(screen.varied) == 3
    assert maps.plane_of(screen, [other, fits]) is fits and maps.plane_of(screen, [other]) is other
    assert maps.plane_of(screen, []) is None
    undecided = maps.Found.of(table(dict.fromkeys(STAR, "inconclusive")), "mse-reason")
    assert maps.plane_of(undecided, [fits]) is fits, "shown where home decides nothing too: other points may"
    assert "decide nothing (not met" in maps.section(undecided, fits, [])


def test_how_far_each_parameter_can_move_stands_in_one_cell(star):
    row = maps.reach_table([star]).splitlines()[2]
    assert row == "| Mixing lowers the reconstruction loss: *supported* | (0.02) 0.1–0.5 | 0–0.01 (0.1) |"


def words(figure):
    return [text.get_text() for axis in figure.axes for text in axis.texts]


def test_the_map_shows_each_run_with_its_sign_and_number_and_frames_the_home():
    plane = {(q, l1): "supported" if q > 0.1 else "refuted" for q in (0.05, 0.2, 0.4) for l1 in (0.0, 0.1)}
    figure = maps.draw_map(maps.Found.of(table(plane), "mse-reason"))
    (axis,) = figure.axes
    assert sorted(words(figure)) == sorted(["✗\n0.05"] * 2 + ["✓\n0.2"] * 2 + ["✓\n0.4"] * 2)
    assert [label.get_text() for label in axis.get_xticklabels()] == ["0.05", "0.2", "0.4"]
    framed = [patch.get_xy() for patch in axis.patches if not patch.get_fill()]
    assert framed == [pytest.approx((2 - 0.46, 0 - 0.42))]
    plt.close(figure)


def test_the_overview_has_a_row_a_claim_and_a_group_a_parameter_from_low_to_high(star):
    other = maps.Found.of(table(dict.fromkeys(STAR, "inconclusive"), claim="mse-reason"), "mse-reason")
    figure = maps.draw_overview([star, other])
    assert words(figure) == ["child's probability", *"✗✓✓✓????", "L1 penalty", *"✓✓±✓????"]
    (axis,) = figure.axes
    assert [text.get_position()[0] for text in axis.texts[1:5]] == [0, 1, 2, 3]
    framed = [patch.get_xy()[0] for patch in axis.patches if not patch.get_fill()]
    assert framed == pytest.approx([2 - 0.46, 2 - 0.46, 5 - 0.46, 5 - 0.46])
    plt.close(figure)


def test_parameters_that_do_not_fit_side_by_side_get_a_row_of_their_own():
    assert maps._in_rows(["a", "b", "c"], {"a": 10, "b": 11, "c": 2}) == [["a"], ["b", "c"]]


def test_without_a_stored_sweep_the_page_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(maps, "STORED", tmp_path)
    assert "No sweep is stored" in maps.page() and "No sweep is stored" in maps.costs()


def test_a_map_without_the_chapters_own_point_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(maps, "STORED", tmp_path)
    here = {key: verdict for key, verdict in STAR.items() if key != (0.4, 0.0)}
    table(here).to_csv(tmp_path / "mine_map.csv", index=False)
    with pytest.raises(ValueError, match=r"mine_map has no run at the chapter's own point.*add it to the grid"):
        list(maps.stored("map"))
    table(STAR).to_csv(tmp_path / "mine_map.csv", index=False)
    assert [found.at_home for _, found in maps.stored("map")] == ["supported"]


# What is stored


@pytest.fixture(scope="module")
def page():
    return maps.page()


def test_the_page_is_what_the_stored_tables_give(page):
    assert maps.PAGE.read_text(encoding="utf-8") == page, "run: python sweeps/maps.py"
    assert maps.COSTS.read_text(encoding="utf-8") == maps.costs(), "run: python sweeps/maps.py"
    for figure in re.findall(r"_static/(where-[\w-]+)\.svg", page):
        assert (maps.FIGURES / f"{figure}.svg").is_file()
        assert f"<_static/{figure}.csv>" in page, "the numbers behind it"
        assert set(pd.read_csv(maps.FIGURES / f"{figure}.csv")) >= {"verdict", "key", "metric", "claim"}


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_a_stored_table_belongs_to_the_sweep_file_beside_it(path):
    found = pd.read_csv(path)
    assert set(found["run"]) == set(maps.design.load(path.parent.with_name(f"{path.stem}.yml")).runs)


@pytest.mark.parametrize("path", [p for p in STORED if p.stem.endswith("_map")], ids=lambda path: path.stem)
def test_a_map_crosses_the_two_parameters_that_some_claims_screening_puts_first(path):
    screens = {found.claim: found for _, found in maps.stored("screen")}
    crossed = [found for name, found in maps.stored("map") if name == path.stem]

    def first_two(found):
        """Whether no parameter matters more than those that are crossed; others may matter as much."""
        order = screens[found.claim].screened()[["changed", "span"]].round(9)
        return sorted(order.loc[list(found.varied)].values.tolist()) == sorted(order.iloc[:2].values.tolist())

    assert any(first_two(found) for found in crossed)
    assert all(found.at_home == screens[found.claim].at_home for found in crossed), "the same run"


def test_every_tested_claim_is_on_the_page_or_it_is_said_why_not(page):
    swept = {found.claim for _, found in maps.stored("screen")}
    for name, claim in claims.load().items():
        if claim.notebook:
            assert name in swept or claim.notebook in maps.WHY_NONE, name
            assert f"| {claim.title} |" in page


@pytest.mark.parametrize("path", STORED[:1], ids=lambda path: path.stem)
def test_a_stored_run_computed_again_gives_the_same_verdicts_and_numbers(path, tmp_path):
    stored = pd.read_csv(path)
    sweep = maps.design.load(path.parent.with_name(f"{path.stem}.yml"))
    run = stored[stored["verdict"] != "supported"]["run"].iloc[0]
    parameters = sweep.runs[run]
    output = tmp_path / f"{sweep.chapter}.ipynb"
    source = maps.design.ROOT / f"notebooks/{sweep.chapter}.py"
    if os.environ.get("SWEEP_TESTS") == "1":  # the slow way, which a reader goes
        execute.run(source, output, dict(parameters))
    else:
        sheet = tmp_path / "parameters.yml"
        sheet.write_text(yaml.safe_dump(dict(parameters)))
        command = [sys.executable, maps.design.ROOT / "sweeps/point.py", source, "--profile", sheet, "--output", output]
        subprocess.run(command, check=True)  # not in here: tests check types that notebooks leave open
    expected = stored[stored["run"] == run].set_index(["claim", "metric"])
    for claim, record in claims.collect([output]).items():
        for outcome in record["outcomes"]:
            row = expected.loc[claim, outcome["criterion"]["metric"]]
            assert (row["verdict"], row["outcome"]) == (record["verdict"], outcome["outcome"]), json.dumps(outcome)
            assert (row["passed"], row["total"]) == (outcome["passed"], outcome["total"])
            assert row["value"] == pytest.approx(outcome["value"], rel=1e-3, abs=1e-6)
