"""Which configurations race: the best of several kinds."""

from dataclasses import replace
from functools import partial

from tailcut.runtime.settings import Settings
from tailcut.tuner.finalists import FINALISTS, PredictedConfiguration, finalists, kinds_of, pareto
from tailcut.tuner.space import changed


def predicted(rate: float, alone_ms: float = 1.0, **sections: dict) -> PredictedConfiguration:
    return PredictedConfiguration(changed(Settings(), **sections), rate, alone_ms, 10.0, 1 << 20)


def many() -> list[PredictedConfiguration]:
    """Three dispatches, seven sizes, four engines: larger batches a little better, inline best."""
    result = []
    for engine, gain in (("onnxruntime", 1.0), ("openvino", 0.9)):
        for threads in (1, 2):
            for dispatch, share in (("inline", 1.0), ("adaptive", 0.8), ("worker", 0.7)):
                for size in (1, 4, 8, 16, 32, 64, 128):
                    rate = 1000 * gain * share * (1 + size / 1000) / threads
                    settings = {"engine": {"name": engine, "threads": threads}}
                    batching = {"dispatch": dispatch, "max_batch_size": size}
                    result.append(predicted(rate, threads * share, batching=batching, **settings))
    return result


def test_the_best_is_among_them() -> None:
    """First of all."""
    chosen = finalists(many())
    assert chosen[0].rate == max(item.rate for item in many())
    assert len(chosen) == FINALISTS


def test_they_are_of_several_kinds() -> None:
    """Not eight batch sizes of one engine and dispatch."""
    chosen = finalists(many())
    assert {item.settings.batching.dispatch for item in chosen} == {"inline", "adaptive", "worker"}
    assert {item.settings.engine.name for item in chosen} == {"onnxruntime", "openvino"}


def test_each_dispatch_has_its_best_in_the_race() -> None:
    """Even if the measured overhead of one dispatch makes all of its configurations look poor, but not hopeless."""
    others = [item for item in many() if item.settings.batching.dispatch != "inline"]
    for share, there in ((0.4, True), (0.2, False)):
        inline = [
            predicted(share * others[0].rate, 9.0, batching={"dispatch": "inline", "max_batch_size": size})
            for size in (1, 2)
        ]
        assert (inline[0] in finalists([*others, *inline])) is there


def test_each_shape_of_the_best_engine_has_its_best_in_the_race() -> None:
    """Two instances that are predicted to be slower than many of one instance, but not to be hopeless."""
    others = many()
    best = max(item.rate for item in others)
    for share, there in ((0.4, True), (0.2, False)):
        two = [
            predicted(
                share * best,
                9.0,
                engine={"threads": 1, "instances": 2},
                batching={"dispatch": "worker", "max_batch_size": size},
            )
            for size in (1, 2)
        ]
        assert [item in finalists([*others, *two]) for item in two] == [there, False]


def test_one_that_waits_for_batches_races_against_one_that_does_not() -> None:
    """Of the same engine and dispatch, although eight others are expected to do better."""
    waiting = [
        predicted(
            1000.0 - number, batching={"dispatch": "worker", "max_batch_size": 4 + number, "max_queue_delay_us": 7000}
        )
        for number in range(4)
    ]
    eager = [
        predicted(700.0 + size, batching={"dispatch": "worker", "max_batch_size": size, "max_queue_delay_us": 0})
        for size in (4, 8)
    ]
    others = [predicted(900.0, engine={"threads": threads, "instances": 2}) for threads in range(1, 9)]
    chosen = finalists([*waiting, *eager, *others])
    assert [item for item in chosen if item in waiting + eager] == [waiting[0], eager[1]]


def test_of_a_slow_model_each_shape_of_both_engines_races_once() -> None:
    """Where a call takes long, its dispatch makes no difference: five finalists are five ways to compute."""
    choices = [
        predicted(
            rate + dispatch - size / 1000,
            20.0 - dispatch / 10,
            engine={"name": name, "threads": threads, "instances": instances},
            batching={"max_batch_size": size, "dispatch": ("worker", "adaptive", "inline")[dispatch]},
        )
        for name, threads, instances, rate in (
            ("openvino", 2, 1, 110.0),
            ("onnxruntime", 2, 1, 100.0),
            ("openvino", 1, 2, 95.0),
            ("onnxruntime", 1, 2, 80.0),
            ("onnxruntime", 1, 1, 60.0),
        )
        for dispatch in range(3 if instances == 1 else 1)
        for size in (4, 8, 32)
    ]
    chosen = finalists(choices, 5, kinds=partial(kinds_of, by_dispatch=False))
    assert len(chosen) == 5
    assert {item.settings.engine for item in chosen} == {item.settings.engine for item in choices}


def test_the_largest_batch_alone_makes_no_finalist() -> None:
    """A lone request is computed at once whatever the largest batch is: seven differ otherwise."""
    chosen = [(item.settings.engine, item.settings.batching.dispatch) for item in finalists(many())]
    assert len(set(chosen)) == len(chosen) - 1 == 7


def test_two_finalists_are_computed_differently() -> None:
    """The second is the best on another engine, or in another precision, unless that is hopeless."""
    assert [finalist.settings.engine.name for finalist in finalists(many(), 2)] == ["onnxruntime", "openvino"]
    item, quick = predicted(900.0), predicted(800.0, 0.1, engine={"threads": 1})
    for rate, second in ((500.0, "bf16"), (100.0, "f32")):
        half = predicted(rate, engine={"name": "openvino", "precision": "bf16"})
        assert finalists([item, quick, half], 2)[1].settings.engine.precision == second


def test_the_lone_request_has_its_own() -> None:
    """One that is slower under load and much quicker alone races, too."""
    quick = predicted(700.0, 0.01, batching={"max_batch_size": 2, "dispatch": "adaptive"})
    assert quick in finalists([*many(), quick])


def test_few_are_all_taken() -> None:
    """Where there are less than eight, each races."""
    item, other = predicted(1.0), predicted(2.0, batching={"max_batch_size": 2})
    assert finalists([item, other]) == [other, item]
    assert finalists([]) == []


def test_the_pareto_front() -> None:
    """Who is beaten in everything is not on it."""
    fast, quick, poor = predicted(100.0, 5.0), predicted(50.0, 1.0), predicted(40.0, 2.0)
    assert pareto([poor, quick, fast]) == [fast, quick]


def test_accuracy_is_an_axis_where_it_is_known_of_both() -> None:
    """A slower configuration is on the front for its more accurate answers, and not for those that nobody compared."""
    fast = predicted(100.0, 1.0, engine={"precision": "int8"})
    slow = predicted(50.0, 2.0)
    assert pareto([fast, slow], {fast.settings: 0.9991, slow.settings: 1.0}) == [fast, slow]
    assert pareto([fast, slow], {fast.settings: 1.0, slow.settings: 1.0}) == [fast]
    assert pareto([fast, slow], {slow.settings: 1.0}) == [fast]


def test_the_most_frugal_equal_races() -> None:
    """One that is equal by the objective and takes clearly less CPU has a place; one that is worse has none."""
    spinning = [replace(item, cpu_us=60_000.0) for item in many()]
    best = max(item.rate for item in spinning)
    quiet = replace(predicted(0.96 * best, 9.0, engine={"threads": 1, "spinning": False}), cpu_us=15_000.0)
    assert quiet in finalists([*spinning, quiet])
    worse = replace(quiet, rate=0.49 * best)
    assert worse not in finalists([*spinning, worse])
