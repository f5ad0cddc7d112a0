"""Data files as commands read them: arrays by name, one array without, and what is refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tailcut.cli.options import indices_of, load_data, parse_bytes, parse_counts
from tailcut.cli.outputs import refuse_overwriting
from tailcut.errors import UsageError
from tailcut.lab.data import ONLY_INPUT

RAGGED = np.array([[1, 2], [3]], object)


def test_arrays_by_name(tmp_path: Path) -> None:
    """All arrays of an .npz file."""
    np.savez(tmp_path / "d.npz", x=np.arange(3), y=np.array(["a"]))
    assert {name: array.tolist() for name, array in load_data(tmp_path / "d.npz").items()} == {
        "x": [0, 1, 2],
        "y": ["a"],
    }


def test_one_array(tmp_path: Path) -> None:
    """The array of an .npy file has no name."""
    np.save(tmp_path / "d.npy", np.arange(3))
    assert load_data(tmp_path / "d.npy")[ONLY_INPUT].tolist() == [0, 1, 2]


def test_lists_of_different_lengths(tmp_path: Path) -> None:
    """Python objects are never unpickled; the line names the array and says how to save requests of several lengths."""
    np.savez(tmp_path / "d.npz", ids=RAGGED)
    with pytest.raises(UsageError, match=r"array 'ids' contains Python objects.*named ids/0, ids/1 and so on"):
        load_data(tmp_path / "d.npz")
    np.save(tmp_path / "d.npy", RAGGED)
    with pytest.raises(UsageError, match=r"it contains Python objects.*named NAME/0"):
        load_data(tmp_path / "d.npy")


def test_other_files(tmp_path: Path) -> None:
    """Noise, an empty file and none at all."""
    for name, content in (("noise.npz", b"noise"), ("empty.npz", b""), ("cut.npz", b"PK\x03\x04")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UsageError, match=r"not a readable \.npz file"):
            load_data(tmp_path / name)
    with pytest.raises(UsageError, match="no such data file"):
        load_data(tmp_path / "none.npz")


@pytest.mark.parametrize(
    ("text", "size"), [("500MB", 500_000_000), ("1.5 GB", 1_500_000_000), ("512MiB", 512 << 20), ("8kB", 8000)]
)
def test_amounts_of_memory(text: str, size: int) -> None:
    """Decimal and binary units."""
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "500", "lots", "-1MB", "1TB", "0MB", "0.0001kB"])
def test_what_is_no_amount_of_memory(text: str) -> None:
    """One line that shows how to write it."""
    with pytest.raises(UsageError, match="write 500MB"):
        parse_bytes(text)


@pytest.mark.parametrize("text", ["", "1,", "0", "-1", "\N{SUPERSCRIPT TWO}"])
def test_what_are_no_counts(text: str) -> None:
    """A superscript is a digit, and no number."""
    assert parse_counts("1, 8") == [1, 8]
    with pytest.raises(UsageError, match="not a list of positive whole numbers"):
        parse_counts(text)


def test_indices() -> None:
    """In the order in which they are written."""
    assert (indices_of(None), indices_of("0"), indices_of("3, 1")) == ((), (0,), (3, 1))


@pytest.mark.parametrize("text", ["", "a", "1,", "1,1", "-1"])
def test_what_are_no_indices(text: str) -> None:
    """Another form is refused."""
    with pytest.raises(UsageError, match="is not a list of device indices"):
        indices_of(text)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["bench", "http://127.0.0.1:9", "-o", "r.json", "--report", "r.json"], "the file of --output"),
        (["bench", "http://127.0.0.1:9", "--body", "body", "-o", "./body"], "body, which is read"),
        (
            ["bench", "http://127.0.0.1:9", "--mix", "m=1", "--data", "m=x.npz", "--report", "x.npz"],
            "x.npz, which is read",
        ),
        (["plan", "p.toml", "--rate", "1", "--slo", "p99=5ms", "--report", "p.toml"], "p.toml, which is read"),
        (["microbench", "json:dumps", "--save", "r.json", "--report", "r.json"], "the file of --save"),
        (["explain", "p.toml", "--rate", "1", "--report", "p.toml"], "p.toml, which is read"),
        (["explain", "p.toml", "--rate", "1", "--report", "r", "--trace", "r"], "the file of --report"),
    ],
)
def test_no_file_is_overwritten_by_another(
    tmp_path: Path, mistake: Callable[..., str], command: list[str], words: str
) -> None:
    """An output that is an input, or another output, is refused before anything is done."""
    assert f"would overwrite {words}: name another file" in mistake(tmp_path, *command)


def test_devices_may_be_written_twice() -> None:
    """What is no file holds nothing that could be lost."""
    refuse_overwriting({"--output": Path("/dev/null"), "--report": Path("/dev/null")}, [Path("/dev/null")])
