"""Files are written in one move, and a command that is stopped ends in one line."""

import os

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from matryoshka_mixing import _commands


@pytest.mark.parametrize("stop", [ValueError("x"), OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_what_is_stopped_leaves_what_stood_there_before_and_no_draft(tmp_path, stop):
    path = tmp_path / "a.json"
    _commands.write_text(path, "old")
    with pytest.raises(type(stop)), _commands.replacing(path) as draft:
        draft.write_text("ne")
        raise stop
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.json"]


def test_what_is_written_takes_the_place_of_what_was_there(tmp_path):
    for text in ("old", "newer: ü"):
        _commands.write_text(tmp_path / "a", text)
        assert (tmp_path / "a").read_bytes() == text.encode()
    _commands.write_arrays(tmp_path / "b.npz", {"x": np.arange(3)})
    with np.load(tmp_path / "b.npz") as file:
        assert file["x"].tolist() == [0, 1, 2]
    assert sorted(os.listdir(tmp_path)) == ["a", "b.npz"]


@pytest.mark.parametrize("stop, said", [(KeyboardInterrupt(), "interrupted"), (OSError(28, "Full"), r"FAILED: .*Full")])
def test_a_command_that_is_stopped_says_in_one_line_how_it_goes_on(stop, said):
    line = rf"^\[mine\] {said}; the same command goes on with the seeds that are left$"
    with pytest.raises(SystemExit, match=line), _commands.resumable("mine", "seeds"):
        raise stop
    with pytest.raises(ValueError, match="a fault of ours"), _commands.resumable("mine", "seeds"):
        raise ValueError("a fault of ours")


def test_a_long_command_runs_on_one_thread():
    before = torch.get_num_threads()
    try:
        with threadpool_limits(2), _commands.resumable("mine", "seeds"):
            assert torch.get_num_threads() == 1
            assert {pool["num_threads"] for pool in threadpool_info()} == {1}
    finally:
        torch.set_num_threads(before)
