"""The memory that workers share: connection counts and the sum of what each has counted."""

from collections.abc import Iterator

import pytest

from tailcut.runtime.statistics import ModelStatistics
from tailcut.server.latency import LatencyHistogram
from tailcut.server.workers.scoreboard import Occupant, Scoreboard
from tailcut.server.workers.sums import Counts, concise


@pytest.fixture
def scoreboard() -> Iterator[Scoreboard]:
    scoreboard = Scoreboard.make(3, models=0)
    yield scoreboard
    scoreboard.close()


def counted(**server: int) -> Counts:
    """What a worker without a model has counted."""
    return {"at_ns": 9, "server": server, "models": {}}


def test_the_connections_of_those_that_accept(scoreboard: Scoreboard) -> None:
    """Empty places and those that have left do not count."""
    assert scoreboard.accepting() == []
    scoreboard.hold(1, 7)
    scoreboard.hold(3, 5)
    assert (scoreboard.accepting(), scoreboard.connections(1)) == ([7, 5], 7)
    scoreboard.leave(3)
    assert scoreboard.accepting() == [7]


def test_totals_survive_their_worker(scoreboard: Scoreboard) -> None:
    """A worker's counts are in the sum while it lives; afterwards its totals still are, its moment is not."""
    scoreboard.publish(1, counted(accepted=5, connections=2))
    scoreboard.publish(2, counted(accepted=7, connections=1))
    assert scoreboard.totals() == counted(accepted=12, connections=3)
    scoreboard.fold(1)
    assert scoreboard.totals() == counted(accepted=12, connections=1)
    scoreboard.publish(1, counted(accepted=1, connections=1))
    scoreboard.fold(1)
    scoreboard.fold(2)
    assert scoreboard.totals() == counted(accepted=13, connections=0)


def test_a_shorter_snapshot_replaces_a_longer_one(scoreboard: Scoreboard) -> None:
    """Nothing of the old one is read."""
    scoreboard.publish(1, counted(**{f"name{index}": 1 for index in range(1000)}))
    scoreboard.publish(1, counted(a=1))
    assert scoreboard.totals() == counted(a=1)


def test_another_process_sees_the_same(scoreboard: Scoreboard) -> None:
    """Opened by its descriptor, as a worker does, the region shows what was written; changes show both ways."""
    import os

    other = Scoreboard(os.dup(scoreboard.descriptor), 3, models=0)
    scoreboard.publish(2, counted(a=1))
    other.hold(1, 4)
    assert other.totals() == counted(a=1)
    assert scoreboard.accepting() == [4]
    other.close()


def test_a_half_written_snapshot_is_no_number(scoreboard: Scoreboard) -> None:
    """What a worker left when it was killed in the middle of writing counts as nothing."""
    scoreboard.publish(1, counted(a=1))
    at = bytes(scoreboard._map).index(b'{"a":1}')
    scoreboard._map[at + 5 : at + 6] = b"7"
    scoreboard.publish(2, counted(a=2))
    assert scoreboard.totals() == counted(a=2)


def of_model(sizes: int = 0, exemplars: int = 0, name: str = "m") -> Counts:
    """What a worker with one model has counted, whose batches had so many sizes."""
    counts = {
        "by_rows": {str(rows): [1, 1000] for rows in range(1, sizes + 1)},
        "exemplars": {str(bucket): [1.5, 100, "a" * 32] for bucket in range(exemplars)},
        "batch_exemplars": {},
        "stages": {},
        "stage_batches": {},
        "requests": 1,
    }
    return {"at_ns": 1, "server": {}, "models": {name: {"1": counts}}}


def test_counts_without_room_lose_detail(scoreboard: Scoreboard, caplog: pytest.LogCaptureFixture) -> None:
    """Exemplars and exact sizes of batches go; all counts stay, and it is logged once."""
    for _ in range(3):
        scoreboard.publish(1, of_model(sizes=8192, exemplars=9))
    (counts,) = scoreboard.totals()["models"]["m"].values()
    assert counts["by_rows"] == {"1": [1, 1000]} | {
        str(2 * half): [half, 1000 * half] for half in (2**power for power in range(13))
    }
    assert (counts["exemplars"], counts["requests"]) == ({}, 1)
    (line,) = [record.getMessage() for record in caplog.records]
    assert "sizes of batches rounded up" in line


def test_no_room_at_all(scoreboard: Scoreboard, caplog: pytest.LogCaptureFixture) -> None:
    """What was published last stays, the neighbour's place is untouched, and it is logged once."""
    scoreboard.publish(1, of_model())
    for _ in range(3):
        scoreboard.publish(1, of_model(name="x" * 70_000))
    assert scoreboard.totals() == of_model()
    (line,) = [record.getMessage() for record in caplog.records]
    assert "not reported" in line


def test_each_model_has_room(scoreboard: Scoreboard, caplog: pytest.LogCaptureFixture) -> None:
    """A place for many models takes, of each, as much as a model publishes."""
    histogram = LatencyHistogram(limit_ns=10**7)
    buckets = range(len(histogram.counts))
    exemplars = {str(bucket): [1.7e9 + 0.123456, 10**12, "a" * 32] for bucket in buckets}
    statistics = ModelStatistics().as_dict() | dict.fromkeys(("queued", "queued_rows", "computing", "oldest_ns"), 0)
    counts = of_model()["models"]["m"]["1"] | {
        **dict.fromkeys(statistics, 10**18),
        "by_rows": {str(rows): [10**9, 10**15] for rows in (*range(1, 129), *range(136, 65537, 8))},
        "latency": dict.fromkeys(map(str, buckets), 10**9),
        "exemplars": exemplars,
        "batch_exemplars": exemplars,
    }
    published = concise({"at_ns": 1, "server": {}, "models": {"m": {"1": counts}}})
    published["models"] = {f"model-{index}": published["models"]["m"] for index in range(50)}
    roomy = Scoreboard.make(1, models=50)
    roomy.publish(1, published)
    roomy.publish(0, published)
    roomy.fold(1)
    (known,) = roomy.totals()["models"]["model-49"].values()
    assert (known["requests"], len(known["by_rows"]), len(known["exemplars"])) == (2 * 10**18, 200, len(buckets))
    assert caplog.records == []
    roomy.close()


def test_what_is_wrong_with_counts_ends_with_their_worker(scoreboard: Scoreboard) -> None:
    """A place that cannot be added up is emptied, and readers do not wait."""
    scoreboard.hold(1, 1)
    scoreboard.publish(1, {"server": 5, "models": {}})
    scoreboard.publish(2, counted(accepted=1))
    with pytest.raises(AttributeError):
        scoreboard.fold(1)
    assert scoreboard._words[1] % 2 == 0
    assert (scoreboard.totals(), scoreboard.accepting()) == (counted(accepted=1), [])


def test_the_workers_that_are_there(scoreboard: Scoreboard) -> None:
    """Each with its process, its post and its own counts, from its first publication until its place is emptied."""
    scoreboard.occupy(1, 4_194_304, 0)
    scoreboard.occupy(3, 77, 1)
    assert list(scoreboard.occupants()) == []
    scoreboard.publish(1, counted(accepted=5))
    scoreboard.publish(3, counted(accepted=6))
    assert list(scoreboard.occupants()) == [
        Occupant(4_194_304, 0, counted(accepted=5)),
        Occupant(77, 1, counted(accepted=6)),
    ]
    scoreboard.fold(1)
    assert [occupant.pid for occupant in scoreboard.occupants()] == [77]
    assert scoreboard.totals() == counted(accepted=11)
