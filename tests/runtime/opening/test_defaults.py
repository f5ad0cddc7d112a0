"""What follows from a model's times."""

import pytest

from tailcut.runtime.opening.defaults import (
    LARGEST_BATCH,
    LEAST_BATCH,
    SAFE_SETTINGS,
    ConfigurationEstimate,
    DefaultChoice,
    ModelFacts,
    ServingPlace,
    TimeComparison,
    choose,
    compare,
    describe_comparison,
    is_clear,
    may_spin,
    middle,
    sizes_to_try,
)

US, MS = 1e3, 1e6
HERE = ServingPlace(cpus=2, threads=2)
AMONG_OTHERS = ServingPlace(cpus=2, threads=2, alone=False)
ROWS = ModelFacts(batched=True, timed=True)
WHOLE = ModelFacts(batched=False, timed=True)
TINY = {1: 6 * US, 2: 7 * US, 4: 10 * US, 8: 20 * US, 16: 38 * US, 32: 65 * US, 64: 110 * US, 128: 200 * US}
RANKER = {1: 400 * US, 2: 450 * US, 4: 500 * US, 8: 700 * US, 16: 1.1 * MS, 32: 2 * MS, 64: 3.9 * MS, 128: 7.8 * MS}
TREES = {size: size * 20 * US for size in (1, 2, 4, 8, 16, 32, 64, 128)}


def chosen(call_ns: dict[int, float], facts: ModelFacts = ROWS, around: ServingPlace = HERE) -> tuple[str, int]:
    choice = choose(facts, ConfigurationEstimate(1, spinning=False, call_ns=call_ns), around)
    assert choice.reason
    assert "\n" not in choice.reason
    return choice.dispatch, choice.max_batch_size


@pytest.mark.parametrize(
    ("call_ns", "facts", "around", "expected"),
    [
        pytest.param(TINY, ROWS, HERE, ("inline", 128), id="tens of microseconds"),
        pytest.param(TINY, ROWS, AMONG_OTHERS, ("inline", 32), id="beside other models"),
        pytest.param(TREES, ROWS, HERE, ("adaptive", 32), id="a full queue would keep the event loop"),
        pytest.param(
            {size: size * 5 * US for size in (1, 2, 4, 8, 16, 32)},
            ModelFacts(batched=True, timed=True, queue_rows=64),
            HERE,
            ("adaptive", 128),
            id="a row is long enough to be computed beside the event loop",
        ),
        pytest.param(
            {size: size * 5 * US for size in (1, 2, 4, 8, 16, 32)},
            ModelFacts(batched=True, timed=True, queue_rows=64),
            ServingPlace(1, 1),
            ("inline", 32),
            id="there is no other CPU",
        ),
        pytest.param(RANKER, ROWS, HERE, ("adaptive", 32), id="short alone, long together"),
        pytest.param(RANKER, ROWS, AMONG_OTHERS, ("worker", 32), id="not short enough beside other models"),
        pytest.param({1: 20 * MS}, ROWS, HERE, ("worker", LEAST_BATCH), id="long"),
        pytest.param({1: 4 * MS, 2: 5 * MS, 4: 8 * MS}, ROWS, HERE, ("worker", 16), id="no time for larger batches"),
        pytest.param({1: 4 * MS, 2: 4 * MS, 4: 16 * MS}, ROWS, HERE, ("worker", LEAST_BATCH), id="larger is worse"),
        pytest.param(
            {1: 4 * MS}, ModelFacts(batched=True, timed=True, most_rows=3), HERE, ("worker", 3), id="little memory"
        ),
        pytest.param({1: 50 * US}, WHOLE, HERE, ("adaptive", 1), id="a request whole"),
        pytest.param({1: 3 * US}, WHOLE, HERE, ("inline", 1), id="a short request whole"),
        pytest.param({1: 150 * US}, WHOLE, HERE, ("worker", 1), id="a longer request whole, several at a time"),
        pytest.param({1: 6 * US}, ModelFacts(batched=True, timed=False), HERE, ("worker", 32), id="free lengths"),
        pytest.param({1: 6 * US}, ModelFacts(batched=False, timed=False), HERE, ("worker", 32), id="dependent rows"),
        pytest.param(
            TINY, ModelFacts(batched=True, timed=True, endless="Loop"), HERE, ("worker", 32), id="may run for ever"
        ),
        pytest.param(
            {1: 6 * US, 2: 7 * US, 3: 9 * US},
            ROWS,
            ServingPlace(2, 2, max_batch_size=3),
            ("inline", 3),
            id="the user's size",
        ),
        pytest.param(
            TINY | {256: 400 * US},
            ROWS,
            ServingPlace(2, 2, max_batch_size=256),
            ("adaptive", 256),
            id="the user's size is too long",
        ),
    ],
)
def test_dispatch_and_batch_follow_from_the_times(
    call_ns: dict[int, float], facts: ModelFacts, around: ServingPlace, expected: tuple[str, int]
) -> None:
    """Inline for microseconds a row, adaptive for short calls, else a worker; conservative beside others."""
    assert chosen(call_ns, facts, around) == expected


@pytest.mark.parametrize(
    ("facts", "threads", "call_ns", "expected"),
    [
        pytest.param(WHOLE, 1, 5 * MS, 4, id="one thread each"),
        pytest.param(WHOLE, 4, 5 * MS, 1, id="all cores for one request"),
        pytest.param(WHOLE, 1, 50 * US, 1, id="short enough for the event loop"),
        pytest.param(ROWS, 1, 5 * MS, 1, id="requests share calls"),
        pytest.param(ModelFacts(batched=False, timed=False), 1, 50 * US, 4, id="a request decides its time"),
    ],
)
def test_requests_that_share_no_call_are_computed_several_at_a_time(
    facts: ModelFacts, threads: int, call_ns: float, expected: int
) -> None:
    """An instance for each core that the threads of one leave; the reason says so."""
    choice = choose(facts, ConfigurationEstimate(threads, spinning=False, call_ns={1: call_ns}), ServingPlace(4, 4))
    assert choice.instances == expected
    assert (f"{expected} are computed at a time" in choice.reason) == (expected > 1)


@pytest.mark.parametrize(
    ("one_ns", "other_ns", "better"),
    [
        pytest.param((10 * MS, 50 * MS), (5.5 * MS, 45 * MS), True, id="clearly faster"),
        pytest.param((10 * MS, 50 * MS), (9.5 * MS, 50 * MS), True, id="a long call that is no slower"),
        pytest.param((10 * MS, 50 * MS), (15 * MS, 70 * MS), False, id="a long call that cannot use them"),
        pytest.param((300 * US, 2 * MS), (290 * US, 2 * MS), False, id="a short call that is hardly faster"),
        pytest.param((300 * US, 2 * MS), (200 * US, 1.8 * MS), True, id="a short call that is faster"),
        pytest.param((300 * US, 2 * MS), (200 * US, 3 * MS), False, id="faster alone, slower beside an event loop"),
    ],
)
def test_more_threads_are_chosen_where_they_help(
    one_ns: tuple[float, float], other_ns: tuple[float, float], better: bool
) -> None:
    """A lone client's latency and a batch beside a busy event loop count alike; long calls need only be no slower."""
    item = ConfigurationEstimate(1, spinning=False, call_ns={1: one_ns[0]}, busy_ns={8: one_ns[1]})
    other = ConfigurationEstimate(2, spinning=False, call_ns={1: other_ns[0]}, busy_ns={8: other_ns[1]})
    assert compare(item, other).better == better


@pytest.mark.parametrize(
    ("cpu_ns", "better"),
    [
        pytest.param((35 * MS, 40 * MS), True, id="hardly more CPU time"),
        pytest.param((35 * MS, 68 * MS), False, id="the second thread does nothing useful"),
    ],
)
def test_long_calls_are_judged_by_their_cpu_time_where_other_processes_disturb(
    cpu_ns: tuple[float, float], better: bool
) -> None:
    """Two threads on cores that others use look slower than one; the CPU time tells what they do when left alone."""
    item = ConfigurationEstimate(1, spinning=False, call_ns={1: 49 * MS}, busy_ns={1: 60 * MS}, cpu_ns=cpu_ns[0])
    other = ConfigurationEstimate(2, spinning=False, call_ns={1: 73 * MS}, busy_ns={1: 90 * MS}, cpu_ns=cpu_ns[1])
    assert compare(item, other).better == better


@pytest.mark.parametrize(("other_ns", "better"), [(2.4 * MS, True), (3.3 * MS, False)])
def test_threads_of_requests_that_share_no_call_compete_with_instances(other_ns: float, better: bool) -> None:
    """Four threads for one request must beat four requests on a thread each, as far as a lone client gains by them."""
    result = compare(ConfigurationEstimate(1, False, {1: 6 * MS}), ConfigurationEstimate(4, False, {1: other_ns}))
    assert result.crowded == pytest.approx(4 * result.alone)
    assert result.better == better


def test_spinning_must_be_clearly_faster() -> None:
    """Long calls or not; and it is not tried where the event loop, another model or a quota needs the time."""
    asleep = ConfigurationEstimate(4, spinning=False, call_ns={1: 5 * MS}, busy_ns={4: 20 * MS})
    assert not compare(asleep, ConfigurationEstimate(4, True, {1: 4.9 * MS}, {4: 20 * MS})).better
    assert compare(asleep, ConfigurationEstimate(4, True, {1: 4 * MS}, {4: 18 * MS})).better
    assert may_spin(ServingPlace(4, 4))
    assert not may_spin(ServingPlace(2, 2))
    assert not may_spin(ServingPlace(4, 4, alone=False))
    assert not may_spin(ServingPlace(4, 4, quota=True))


def test_comparisons_go_on_until_they_agree() -> None:
    """Three of one mind are enough; what counts then, and when the time is over, is the median."""
    good, bad = TimeComparison(0.6, 0.8, 0.9), TimeComparison(1.4, 2.0, 0.9)
    assert not is_clear([good, good])
    assert is_clear([good, good, good])
    assert not is_clear([good, bad, good, good])
    assert middle([good, bad, good, good]) == good
    item, other = ConfigurationEstimate(1, False, {1: MS}), ConfigurationEstimate(2, True, {1: MS})
    assert describe_comparison(item, other, good).startswith("2 threads spinning beside 1 asleep: x0.60 of the time")


def test_sizes_are_those_that_memory_and_the_user_allow() -> None:
    """Powers of two up to the largest; the user's own size is measured as well."""
    assert sizes_to_try(ROWS, HERE) == [1, 2, 4, 8, 16, 32, 64, LARGEST_BATCH]
    assert sizes_to_try(ROWS, ServingPlace(2, 2, max_batch_size=5)) == [1, 2, 4, 5]
    assert sizes_to_try(ModelFacts(batched=True, timed=True, most_rows=5), HERE) == [1, 2, 4]
    assert sizes_to_try(WHOLE, HERE) == [1]
    assert sizes_to_try(ModelFacts(batched=True, timed=False), HERE) == [1]


def test_a_choice_comes_back_from_the_settings_it_was_applied_to() -> None:
    """It changes nothing else, and its threads are cut to what a process may use."""
    choice = DefaultChoice(
        threads=1, spinning=True, dispatch="worker", max_batch_size=64, instances=4, reason="because"
    )
    settings = choice.apply(SAFE_SETTINGS)
    assert DefaultChoice.of(settings, "because") == choice
    assert DefaultChoice.of(SAFE_SETTINGS, "").apply(settings) == SAFE_SETTINGS
    assert choice.within(HERE).instances == 2
    assert DefaultChoice(threads=4, spinning=True, dispatch="adaptive", max_batch_size=64).within(HERE).threads == 2
    assert choice.describe() == "threads=1 instances=4 dispatch=worker max_batch_size=64"
    assert (
        DefaultChoice.of(SAFE_SETTINGS, "").describe() == "threads=auto spinning=true dispatch=worker max_batch_size=32"
    )
