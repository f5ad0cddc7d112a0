"""Saved micro-benchmarks: they come back as they went, strangers' files are refused, and changes are found."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
from benchmarks.microbench_truth import DISTRIBUTIONS, pair

from tailcut.errors import UsageError
from tailcut.lab.microbench_record import changes, grew_slower, microbench_record, read_microbench, save_microbench
from tailcut.lab.records import MicrobenchResult, OverheadRecord


def record(seed: int = 0, scale: float = 1.0) -> MicrobenchResult:
    result = pair(seed, DISTRIBUTIONS["normal, 2 %"], scale)
    return microbench_record(result, machine={"cpu": "a processor"}, command="tailcut microbench")


def test_a_record_comes_back_as_it_went(tmp_path: Path) -> None:
    """What is read is what was saved, and it is JSON without NaN."""
    path = tmp_path / "old.json"
    saved = record()
    save_microbench(path, saved)
    assert msgspec.json.decode(path.read_bytes(), type=MicrobenchResult) == saved
    (item, *_), (other, *_) = read_microbench(path).functions, saved.functions
    assert (item.name, item.median_ns, item.samples_ns) == (other.name, other.median_ns, other.samples_ns)


def test_a_record_holds_all_it_takes_to_doubt_it() -> None:
    """Every sample, its calls, the harness's own cost, and the interleaved comparison."""
    result = record()
    function = result.functions[0]
    assert function.samples == len(function.samples_ns) == len(function.loops) == 101
    assert function.median_ns.low <= function.median_ns.point <= function.median_ns.high
    assert result.overhead_ns == OverheadRecord(clock=0.0, loop=0.0)  # a synthetic timer costs nothing
    assert [comparison.name for comparison in result.comparisons] == ["new"]


@pytest.mark.slow
def test_a_change_between_runs_is_found() -> None:
    """A fifth slower than the saved run is worse, a fifth faster better, and a fresh run of the same indistinct."""
    old = record(seed=1)
    for scale, word in ((1.2, "worse"), (0.8, "better"), (1.0, "indistinct")):
        entries = {entry.name: entry for entry in changes(record(seed=2, scale=scale), old)}
        assert entries["new"].verdict == word
        assert entries["old"].verdict == "indistinct"
        assert grew_slower(list(entries.values())) is (word == "worse")


@pytest.mark.slow
def test_equal_saved_runs_are_not_distinguished() -> None:
    """Fresh runs of the same function against a saved one cry wolf in none of 8 seeded cases."""
    old = record(seed=100)
    assert not any(grew_slower(changes(record(seed=seed), old)) for seed in range(4))


def test_functions_known_to_one_side_only_are_left_out() -> None:
    """A new function has nothing to be compared with."""
    old = record()
    del old.functions[1:]
    assert [entry.name for entry in changes(record(), old)] == ["old"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "no such baseline"),
        ("{", "not a saved micro-benchmark"),
        ("[]", "not a saved micro-benchmark"),
        ('{"runs": []}', "not a saved micro-benchmark"),
        (
            '{"kind": "microbench", "functions": [{"name": "f", "median_ns": {}, "samples_ns": [1, -1, 1, 1]}]}',
            "samples",
        ),
    ],
)
def test_strangers_files_are_refused_in_one_line(tmp_path: Path, text: str | None, words: str) -> None:
    """A file that is missing, broken or something else is named with what to do."""
    path = tmp_path / "old.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError, match=words) as caught:
        read_microbench(path)
    assert str(path) in str(caught.value)


def test_samples_are_positive() -> None:
    """The saved figures are what a comparison can divide by."""
    assert (np.array(record().functions[0].samples_ns) > 0).all()
