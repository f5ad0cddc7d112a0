"""The record beside a profile: what is taken over from it, and what is not."""

import json
import resource
import time
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from tests.engines.models import perceptron

from tailcut.engines import EngineOptions
from tailcut.lab.trial import FAILED_MS
from tailcut.tuner.engine_estimate import EngineEstimate
from tailcut.tuner.journal import Journal, Key
from tailcut.tuner.simulate import WayIn
from tailcut.tuner.space import BASELINE, changed

KEY = Key("model", "engines", "machine", "x:float32[1, 4]")
ONE, TWO = EngineOptions(threads=1), EngineOptions(threads=2)


def estimate(options: EngineOptions = ONE) -> EngineEstimate:
    times = {1: [np.arange(1000, 2000)], 2: [np.arange(1500, 2500)]}
    return EngineEstimate(options, times, [np.full(5, 9000)], {1: 1400.5, 2: 1900.0}, 1 << 20, 0.25, batched=True)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "m.trials.jsonl"


def test_an_estimate_comes_back_as_it_was(path: Path) -> None:
    """Its times as quantiles, which say the same median; options without a line are not there."""
    Journal(path, KEY).add_estimate(estimate())
    (result,) = Journal(path, KEY).estimates([ONE, TWO])
    assert result.options == ONE
    assert result.sizes == [1, 2]
    assert result.median_ns(1) == pytest.approx(1500, rel=0.01)
    assert result.alone_ns == 9000
    assert result.cpu_ns == {1: 1400, 2: 1900}
    assert (result.memory_bytes, result.load_s, result.batched) == (1 << 20, 0.25, True)


def test_an_estimate_from_a_busy_machine_is_measured_again(path: Path) -> None:
    """Its calls took twice their CPU time, because they waited for a CPU; on a device they wait for that."""
    busy = replace(estimate(), cpu_ns={1: 700.0, 2: 1000.0})
    journal = Journal(path, KEY)
    journal.add_estimate(busy)
    assert Journal(path, KEY).estimates([ONE]) == []
    device = msgspec.structs.replace(ONE, device="cuda")
    journal.add_estimate(replace(busy, options=device))
    assert [item.options for item in Journal(path, KEY).estimates([ONE, device])] == [device]


def test_an_estimate_that_is_not_whole_is_measured_again(path: Path) -> None:
    """What a killed tune knew of the first sizes is stored; the line of all sizes is the one that counts."""
    journal = Journal(path, KEY)
    journal.add_estimate(estimate(), whole=False)
    assert Journal(path, KEY).estimates([ONE]) == []
    journal.add_estimate(estimate())
    assert len(Journal(path, KEY).estimates([ONE])) == 1
    assert [json.loads(line).get("whole", True) for line in path.read_text().splitlines()] == [False, True]


def test_a_block_is_stored_with_its_failed_requests(path: Path) -> None:
    """Percentiles are of the answers; of none there are none."""
    journal = Journal(path, KEY)
    journal.add_block("verified", BASELINE, 50.0, np.array([1.0] * 99 + [FAILED_MS]), arm="tuned")
    journal.add_block("verified", BASELINE, 50.0, np.array([FAILED_MS]), arm="tuned")
    some, none = (json.loads(line) for line in path.read_text().splitlines())
    names = ("kind", "arm", "rate", "samples", "errors", "p50_ms", "p99_ms")
    assert [some[name] for name in names] == ["verified", "tuned", 50.0, 99, 1, 1.0, 1.0]
    assert [none[name] for name in names] == ["verified", "tuned", 50.0, 0, 1, None, None]


def test_a_way_in_that_was_not_measured_is_not_taken_over(path: Path) -> None:
    """The usual costs stand in the file for the profile's evidence."""
    Journal(path, KEY).add_way(BASELINE, WayIn(1, 2, 3, 4, 5), measured=False)
    assert Journal(path, KEY).way(BASELINE) is None
    assert json.loads(path.read_text())["receive_ns"] == 1


def test_a_way_in_comes_back(path: Path) -> None:
    """Of the settings it was measured with, and of no others."""
    way = WayIn(1, 2, 3, 4, 5)
    Journal(path, KEY).add_way(BASELINE, way)
    journal = Journal(path, KEY)
    assert journal.way(BASELINE) == way
    assert journal.way(changed(BASELINE, batching={"max_batch_size": 8})) is None


def test_what_an_engine_costs_the_loop_comes_back(path: Path) -> None:
    """The latest of each engine."""
    for slower_ns in (7, 9):
        Journal(path, KEY).add_engine_ns(ONE, slower_ns)
    journal = Journal(path, KEY)
    assert (journal.engine_ns("onnxruntime"), journal.engine_ns("openvino")) == (9, None)


@pytest.mark.parametrize("name", ["model", "engines", "machine", "request"])
def test_another_key_is_measured_anew(path: Path, name: str) -> None:
    """Another model, engine version, machine or request shape takes nothing over; nor does --fresh."""
    Journal(path, KEY).add_estimate(estimate())
    assert Journal(path, replace(KEY, **{name: "other"})).estimates([ONE]) == []
    assert Journal(path, KEY, fresh=True).estimates([ONE]) == []


def test_old_and_failed_estimates_are_measured_anew(path: Path) -> None:
    """A line of yesterday, and a configuration that failed."""
    journal = Journal(path, KEY)
    journal.add_estimate(estimate())
    journal.add_estimate(EngineEstimate(TWO, error="no room"))
    line = json.loads(path.read_text().splitlines()[0]) | {"at": time.time() - 86400}
    rest = path.read_text().splitlines()[1]
    path.write_text(f"{json.dumps(line)}\n{rest}\n")
    assert Journal(path, KEY).estimates([ONE, TWO]) == []


def test_a_killed_tune_leaves_a_file_that_reads(path: Path) -> None:
    """A last line that was cut off is left out, and the next one does not join it; lines of other kinds are no harm."""
    Journal(path, KEY).add_estimate(estimate())
    with path.open("ab") as file:
        file.write(b'\xff\x00\n[1]\n{"kind": "estimate", "at": 17')
    journal = Journal(path, KEY)
    assert len(journal.estimates([ONE])) == 1
    journal.add_estimate(estimate(TWO))
    assert {item.options for item in Journal(path, KEY).estimates([ONE, TWO])} == {ONE, TWO}


def test_a_full_disk_costs_the_record_alone(path: Path) -> None:
    """One line names the file, and nothing more is stored."""
    words: list[str] = []
    journal = Journal(path, KEY, warn=words.append)
    path.symlink_to("/dev/full")
    for _ in range(3):
        journal.add("heat", BASELINE, score=12.5)
    assert words == [f"{path} cannot be written: No space left on device: the tune continues without it"]


def test_a_line_of_which_only_the_beginning_fits_is_reported(path: Path) -> None:
    """The next tune leaves that part out, and takes the lines before it over."""
    words: list[str] = []
    journal = Journal(path, KEY, warn=words.append)
    journal.add_estimate(estimate())
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, before[1]))
    try:
        journal.add_estimate(estimate(TWO))
        journal.add_estimate(estimate(TWO))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert words == [f"{path} cannot be written: File too large: the tune continues without it"]
    assert [item.options for item in Journal(path, KEY).estimates([ONE, TWO])] == [ONE]


def test_a_file_that_may_not_be_written_is_reported(tmp_path: Path) -> None:
    """A folder in its place, before anything is measured."""
    words: list[str] = []
    Journal(tmp_path, KEY, warn=words.append).add("heat", BASELINE, score=1.0)
    assert words == [f"{tmp_path} cannot be written: Is a directory: the tune continues without it"]


def test_lines_carry_their_key(path: Path) -> None:
    """Model hash, engine versions, machine, settings and what was found, one JSON object a line."""
    Journal(path, KEY).add("heat", BASELINE, score=12.5, objective="goodput")
    line = json.loads(path.read_text())
    assert line.keys() >= {"kind", "at", "model", "engines", "machine", "request", "settings", "score"}
    assert line["settings"]["batching"]["max_batch_size"] == 1


def test_without_a_path_nothing_is_stored(tmp_path: Path) -> None:
    """And nothing is taken over."""
    journal = Journal(None, KEY)
    journal.add_estimate(estimate())
    assert journal.estimates([ONE]) == []
    assert list(tmp_path.iterdir()) == []


def test_the_key_of_a_model(tmp_path: Path) -> None:
    """The same twice; another with another model or other shapes."""
    item, other = (perceptron([4, size], tmp_path / f"{size}.onnx") for size in (3, 5))
    request = {"x": np.zeros((1, 4), np.float32)}
    key = Key.of(item, [request], "auto")
    assert key == Key.of(item, [request], "auto")
    assert key.model != Key.of(other, [request], "auto").model
    assert key.request != Key.of(item, [{"x": np.zeros((2, 4), np.float32)}], "auto").request
    assert "onnxruntime" in key.engines
