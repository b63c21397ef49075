"""Sweeps streamed to disk: the bits of one call, laziness, a kill in the middle, and folders that do not fit."""

import signal
import subprocess
import sys
import time

import pytest
import torch

from matryoshka_mixing.features import family, orthonormal_dictionaries
from matryoshka_mixing.sae import SAEConfig, random_start
from matryoshka_mixing.streaming import Stored, stream
from matryoshka_mixing.training import Setting, TrainConfig, train

SAE = SAEConfig(5, widths=(1, 3))
START = random_start(SAE, range(3))
CONFIG = TrainConfig(60, batch_size=16, snapshots=(10, 60))


def settings(n=5):
    directions = orthonormal_dictionaries(3, 5, range(3))
    return [Setting(SAE, family(0.3, 0.1 + 0.05 * i).states(), directions) for i in range(n)]


def assert_same(chunks, whole):
    """Chunks hold, to the last bit, what one call of `train` gives."""
    for name in ("loss", "grad_norm", "converged"):
        assert torch.equal(torch.cat([getattr(chunk, name) for chunk in chunks]), getattr(whole, name))
    assert torch.equal(torch.cat([chunk.history for chunk in chunks], dim=1), whole.history)
    for name in ("sae", "path"):
        parts, all_of_it = [getattr(chunk, name).parameters for chunk in chunks], getattr(whole, name).parameters
        assert all(torch.equal(torch.cat([part[key] for part in parts]), all_of_it[key]) for key in all_of_it)
    assert all(chunk.steps == whole.steps and chunk.sae.config == whole.sae.config for chunk in chunks)


@pytest.mark.parametrize("config", [CONFIG, TrainConfig(40)], ids=["batches and snapshots", "exact"])
def test_chunks_hold_the_bits_of_one_call(config, tmp_path):
    stored = stream(settings(), START, config, folder=tmp_path, chunk=2)
    assert [len(chunk.loss) for chunk in stored] == [2, 2, 1] and len(stored) == 3
    assert_same(list(stored), train(settings(), START, config))


def test_settings_are_read_one_chunk_at_a_time(tmp_path):
    done = []

    def lazily():
        for i, setting in enumerate(settings()):
            done.append(len(list(tmp_path.glob("[0-9]*"))))
            assert i // 2 <= done[-1], "a chunk is on disk before the next is asked for"
            yield setting

    stream(lazily(), START, CONFIG, folder=tmp_path, chunk=2)
    assert done == [0, 0, 1, 1, 2]


LONG = """
import sys
from test_streaming import START, settings
from matryoshka_mixing.streaming import Stored, stream
from matryoshka_mixing.training import TrainConfig
stream(settings(), START, TrainConfig(int(sys.argv[2]), batch_size=16), folder=sys.argv[1], chunk=1)
"""


def test_a_killed_sweep_goes_on_and_ends_with_the_same_bits(tmp_path):
    steps = 200_000  # some tenths of a second a chunk
    process = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.path[:0] = ['tests']\n" + LONG, tmp_path, str(steps)]
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "00001").is_dir():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("[0-9]*")}
    assert 2 <= len(before) < 5, "it was killed in the middle"

    config = TrainConfig(steps, batch_size=16)
    stored = stream(settings(), START, config, folder=tmp_path, chunk=1)
    after = {path.name: path.stat().st_mtime_ns for path in stored.chunks}
    assert len(after) == 5 and before.items() <= after.items(), "what was done is not done again"
    assert not list(tmp_path.glob(".*"))
    assert_same(list(stored), train(settings(), START, config))


def test_chunks_are_in_the_order_of_their_numbers_and_only_ours_are_removed(tmp_path):
    for name in ("100000", "99999", "00002", "notes", "1a"):
        (tmp_path / name).mkdir()
    assert [path.name for path in Stored(tmp_path).chunks] == ["00002", "99999", "100000"]
    with pytest.raises(ValueError, match="has no chunk 00000, but 3 later ones"):
        iter(Stored(tmp_path))
    with pytest.raises(ValueError, match="none is no folder"):
        len(Stored(tmp_path / "none"))
    own, others = tmp_path / "new" / ".00000.7.partial", tmp_path / "new" / ".final.safetensors.7.partial"
    own.mkdir(parents=True)
    others.write_text("of SAE.save")
    stream(settings(1), START, CONFIG, folder=tmp_path / "new")
    assert not own.exists() and others.exists()


@pytest.mark.parametrize(
    "change",
    [
        {"settings": settings(6)[1:]},
        {"start": random_start(SAE, range(1, 4))},
        {"config": TrainConfig(61, batch_size=16, snapshots=(10, 60))},
        {"chunk": 3},
        {"dtype": torch.float32},
    ],
    ids=lambda change: next(iter(change)),
)
def test_another_sweep_in_the_folder_is_refused(change, tmp_path):
    asked = {"settings": settings(), "start": START, "config": CONFIG, "folder": tmp_path, "chunk": 2}
    stream(**asked)
    with pytest.raises(ValueError, match=r"00000 holds another sweep.*or an empty folder"):
        stream(**(asked | change))


def test_bad_input_gets_a_clear_error(tmp_path):
    with pytest.raises(ValueError, match="chunk is 0; it must be at least 1"):
        stream(settings(), START, folder=tmp_path, chunk=0)
    with pytest.raises(ValueError, match="no settings were given"):
        stream([], START, folder=tmp_path)
    with pytest.raises(ValueError, match=r"start has the axes \(1, 3\); it must have one"):
        stream(settings(), START[None], folder=tmp_path)
    stream(settings(), START, CONFIG, folder=tmp_path, chunk=2)
    with pytest.raises(ValueError, match="holds 3 chunks, of which 1 belong"):
        stream(settings(2), START, CONFIG, folder=tmp_path, chunk=2)


def test_a_damaged_chunk_is_named(tmp_path):
    stored = stream(settings(), START, CONFIG, folder=tmp_path, chunk=5)
    (tmp_path / "00000/numbers.safetensors").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"00000 is damaged.*Remove it"):
        list(stored)
    (tmp_path / "00000/chunk.json").unlink()
    with pytest.raises(ValueError, match="holds no chunk that stream wrote"):
        list(stored)
