"""Several queues on shared cores: each alone is the single queue's, and what they share adds up."""

import numpy as np
import pytest

from tailcut.kernels import sharing
from tailcut.tuner.shapes import ShapeMix
from tailcut.tuner.simulate import Configuration, DispatchKind, ServiceTimes, WayIn, simulate
from tailcut.tuner.together.simulation import CoTenant, prepare, simulate_together

MS = 1_000_000
FREE = WayIn(receive_ns=0, answer_ns=0, batch_ns=0, wake_ns=0, outside_ns=0)
USUAL = WayIn(receive_ns=20_000, answer_ns=20_000, batch_ns=15_000, wake_ns=30_000, outside_ns=50_000)


def fixed(*times_ms: float, threads: int = 1) -> ServiceTimes:
    """Batches of 1, 2, 4, ... rows take exactly so long."""
    return ServiceTimes(2 ** np.arange(len(times_ms)), np.array(times_ms)[:, None] * MS, threads)


def poisson(rate: float, count: int, seed: int = 1) -> np.ndarray:
    return np.cumsum(np.random.default_rng(seed).exponential(1e9 / rate, count)).astype(np.int64)


def single(service: ServiceTimes, **settings: object) -> Configuration:
    return Configuration(service, FREE, max_batch_size=1, queue_rows=1 << 30, **settings)  # type: ignore[arg-type]


def test_one_model_is_the_single_queue() -> None:
    """Request by request, where nothing is shared."""
    configuration, arrivals = single(fixed(1.0)), poisson(600, 20_000)
    (result,) = simulate_together([CoTenant(configuration)], [arrivals], 2.0)
    assert np.array_equal(result.latencies_ns, simulate(configuration, arrivals).latencies_ns)


@pytest.mark.parametrize("shapes", [1, 5])
@pytest.mark.parametrize("dispatch", ["inline", "worker", "adaptive"])
def test_one_model_with_batches_is_nearly_the_single_queue(dispatch: DispatchKind, shapes: int) -> None:
    """Request overheads, batches, delays and shapes: the medians and the batches agree, for each dispatch."""
    delay_us = 200 if dispatch == "worker" else 0
    mix = ShapeMix((1 / shapes,) * shapes)
    configuration = Configuration(fixed(0.3, 0.4, 0.6, 1.0), USUAL, dispatch, 8, delay_us, mix=mix)
    arrivals = poisson(1500, 20_000)
    (result,) = simulate_together([CoTenant(configuration)], [arrivals], 2.0)
    item = simulate(configuration, arrivals)
    assert result.percentile_ms(0.5) == pytest.approx(item.percentile_ms(0.5), rel=0.03)
    assert result.percentile_ms(0.99) == pytest.approx(item.percentile_ms(0.99), rel=0.1)
    assert result.batches == pytest.approx(item.batches, rel=0.03)
    assert result.loop_busy_s == pytest.approx(item.loop_busy_s, rel=0.02)


def test_models_that_share_nothing_do_not_disturb_each_other() -> None:
    """With a core for each, both are as they would be alone."""
    configurations = [single(fixed(1.0)), single(fixed(3.0))]
    arrivals = [poisson(500, 5000), poisson(200, 2000, 2)]
    result = simulate_together([CoTenant(configuration) for configuration in configurations], arrivals, 4.0)
    for prediction, configuration, own in zip(result, configurations, arrivals, strict=True):
        assert np.array_equal(prediction.latencies_ns, simulate(configuration, own).latencies_ns)


def test_two_on_one_core_take_half_of_it_each() -> None:
    """Two batches that begin together end together, after twice the time: processor sharing."""
    at_once = [np.array([0]), np.array([0])]
    result = simulate_together([CoTenant(single(fixed(2.0))), CoTenant(single(fixed(2.0)))], at_once, 1.0)
    assert [item.latencies_ns.tolist() for item in result] == [[4 * MS], [4 * MS]]


def test_a_batch_is_quicker_from_when_its_neighbour_ends() -> None:
    """1 ms of the short one takes 2 ms, and the long one then has the core for its other 2 ms."""
    result = simulate_together(
        [CoTenant(single(fixed(1.0))), CoTenant(single(fixed(3.0)))], [np.array([0]), np.array([0])], 1.0
    )
    assert [item.latencies_ns.tolist() for item in result] == [[2 * MS], [4 * MS]]


def test_spinning_threads_keep_a_core_from_the_neighbour() -> None:
    """After the first model's batch its second thread spins, so two threads of the other have one core and a half."""
    fast, slow = single(fixed(0.5, threads=2)), single(fixed(20.0, threads=2))
    arrivals = [np.array([0]), np.array([MS])]
    for spin_ns, expected_ms in ((0, 20.0), (50 * MS, 30.0)):
        _, result = simulate_together([CoTenant(fast, spin_ns), CoTenant(slow)], arrivals, 2.0)
        assert result.latencies_ns[0] / MS == pytest.approx(expected_ms, rel=0.01)


def test_what_finds_no_room_is_refused() -> None:
    """A model's queue is its own: one that is full refuses, and the other answers all."""
    crowded = Configuration(fixed(10.0), FREE, max_batch_size=1, queue_rows=4)
    result = simulate_together([CoTenant(crowded), CoTenant(single(fixed(1.0)))], [np.arange(50), np.arange(50)], 2.0)
    assert result[0].refused > 40
    assert result[1].refused == 0
    assert result[0].percentile_ms(0.99) == float("inf")


def test_inline_models_wait_for_each_other_on_the_loop() -> None:
    """One loop computes both: the second begins when the first is answered, however many cores there are."""
    configurations = [Configuration(fixed(2.0), FREE, "inline", 1), Configuration(fixed(1.0), FREE, "inline", 1)]
    result = simulate_together(
        [CoTenant(configuration) for configuration in configurations], [np.array([0]), np.array([1])], 4.0
    )
    assert result[0].latencies_ns.tolist() == [2 * MS]
    assert result[1].latencies_ns[0] == 3 * MS - 1


def test_the_same_question_has_the_same_answer() -> None:
    """Service times are drawn from a seed."""
    service = ServiceTimes(np.array([1]), np.array([[0.5, 1.0, 4.0]]) * MS)
    members = [CoTenant(single(service)), CoTenant(single(fixed(1.0, 1.5)))]
    arrivals = [poisson(300, 2000), poisson(200, 1500, 3)]
    first, second = (simulate_together(members, arrivals, 1.0, 7) for _ in range(2))
    assert [item.latencies_ns.tolist() for item in first] == [item.latencies_ns.tolist() for item in second]
    assert all(len(item.latencies_ns) == len(own) for item, own in zip(first, arrivals, strict=True))


def test_what_is_compiled_beforehand_is_what_a_tune_calls() -> None:
    """A second set of argument types would be compiled within the budget."""
    prepare()
    members = [CoTenant(single(fixed(1.0))), CoTenant(single(fixed(1.0, 1.5)), spin_ns=MS)]
    assert len(simulate_together(members, [poisson(300, 100), poisson(300, 100)], 2.0)) == 2
    assert len(sharing.run.signatures) == 1
