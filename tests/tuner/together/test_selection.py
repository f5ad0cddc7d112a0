"""Which combinations race: short lists with every shape of threads, scores by the worst off, and the best alone."""

import numpy as np
import pytest

from tailcut.tuner.finalists import PredictedConfiguration
from tailcut.tuner.simulate import Configuration, ServiceTimes, WayIn
from tailcut.tuner.space import BASELINE, changed
from tailcut.tuner.together.selection import ExpectedCombination, expected, list_length, racing, score, shortlist

FREE = WayIn(0, 0, 0, 0, 0)


def settings(threads: int, *, spinning: bool = False, size: int = 1) -> object:
    return changed(BASELINE, engine={"threads": threads, "spinning": spinning}, batching={"max_batch_size": size})


def rank(predicted: PredictedConfiguration) -> float:
    return predicted.rate


def test_the_score_is_of_the_model_that_is_worst_off() -> None:
    """A limit that is missed by half counts, whatever the other model has to spare."""
    assert score([5.0, 40.0], [10.0, 20.0]) == 0.5
    assert score([5.0, 10.0], [10.0, 20.0]) == 2.0
    assert score([float("inf"), 10.0], [10.0, 20.0]) == 0.0


def test_a_short_list_has_every_shape() -> None:
    """Eight sizes of the best shape do not crowd out those that are better beside others: fewer threads, a worker."""
    predicted = [
        PredictedConfiguration(settings(2, spinning=True, size=size), 1000.0 + size, 1.0, 1.0, 0)
        for size in range(1, 9)
    ]
    predicted += [
        PredictedConfiguration(settings(1), 400.0, 1.0, 1.0, 0),
        PredictedConfiguration(settings(2), 500.0, 1.0, 1.0, 0),
    ]
    inline = changed(settings(1), batching={"dispatch": "inline"})
    predicted.append(PredictedConfiguration(inline, 450.0, 1.0, 1.0, 0))
    chosen = shortlist(predicted, 5, rank)
    assert chosen[0] == settings(2, spinning=True, size=8)
    assert {settings(1), settings(2), inline} <= set(chosen)
    assert len(chosen) <= 5
    assert len(set(chosen)) == len(chosen)


@pytest.mark.parametrize(("models", "length"), [(2, 16), (3, 6), (4, 4), (8, 2)])
def test_the_product_of_short_lists_is_bounded(models: int, length: int) -> None:
    """However many models there are: at most 256 combinations."""
    assert list_length(models) == length
    assert length**models <= 256


def test_every_combination_is_simulated() -> None:
    """The best first: threads that spin beside a slow model lose to those that sleep."""
    service = ServiceTimes(np.array([1]), np.array([[500_000.0]]), 2)
    slow = ServiceTimes(np.array([1]), np.array([[20_000_000.0]]), 2)
    lists = [[settings(2, spinning=True), settings(2)], [settings(2)]]
    known = [
        {item: Configuration(service, FREE, max_batch_size=1) for item in lists[0]},
        {item: Configuration(slow, FREE, max_batch_size=1) for item in lists[1]},
    ]
    random = np.random.default_rng(0)
    arrivals = [np.cumsum(random.exponential(1e9 / rate, 400)).astype(np.int64) for rate in (100, 20)]
    result = expected(lists, known, arrivals, [10.0, 100.0], 2.0)
    assert [item.settings[0].engine.spinning for item in result] == [False, True]
    assert result[0].score > result[1].score
    assert result[0].score == pytest.approx(score(result[0].p99_ms, [10.0, 100.0]))


def test_different_shapes_race_and_the_best_alone() -> None:
    """One of each engine and dispatch, the best first, and what is best for each model by itself, once."""
    alone = (settings(2, spinning=True), settings(2, spinning=True))
    simulated = [
        ExpectedCombination((settings(1, size=size), settings(threads)), (1.0, 1.0), 3.0 - size / 10 - threads)
        for threads in (1, 2)
        for size in (1, 4)
    ]
    chosen = racing(simulated, 4, alone)
    assert chosen == [simulated[0].settings, simulated[2].settings, alone]
    assert racing(simulated, 4, simulated[0].settings) == [simulated[0].settings, simulated[2].settings]
    assert racing(simulated, 2, alone) == [simulated[0].settings, alone]
    assert racing(simulated, 2, simulated[0].settings) == [simulated[0].settings, simulated[2].settings]


def test_long_calls_leave_the_loop_to_the_neighbours() -> None:
    """A model of 25 ms computes inline as well as on a worker when it is alone; beside a quick one it does not."""
    quick = ServiceTimes(np.array([1]), np.array([[1_000_000.0]]))
    slow = ServiceTimes(np.array([1]), np.array([[25_000_000.0]]))
    inline = changed(settings(1), batching={"dispatch": "inline"})
    known = [
        {settings(1): Configuration(quick, FREE, max_batch_size=1)},
        {
            inline: Configuration(slow, FREE, "inline", 1),
            settings(1): Configuration(slow, FREE, "worker", 1),
        },
    ]
    random = np.random.default_rng(1)
    arrivals = [np.cumsum(random.exponential(1e9 / rate, 1000)).astype(np.int64) for rate in (40, 10)]
    result = expected([[settings(1)], [inline, settings(1)]], known, arrivals, [50.0, 500.0], 2.0)
    assert [item.settings[1].batching.dispatch for item in result] == ["worker", "inline"]
    assert result[0].score > 2 * result[1].score
