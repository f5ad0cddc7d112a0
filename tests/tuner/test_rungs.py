"""What each rung offers a model on a machine, and what it says when that is nothing."""

from dataclasses import replace

import pytest

from tailcut.spec import DType, ModelSpec, TensorSpec
from tailcut.tuner.rungs import BASELINE, RUNGS, Facts, changed, starting_settings


def spec(dtype: DType = DType.FP32, shape: tuple[int | None, ...] = (None, 2048)) -> ModelSpec:
    return ModelSpec("m", (TensorSpec("x", dtype, shape),), (TensorSpec("y", dtype, shape),))


FACTS = Facts(spec(), usable_cpus=2, hardware_cpus=2, isa=frozenset({"avx512_bf16"}))
BOUND = changed(starting_settings(), batching={"bind": True, "max_batch": 8})


def offers(number: int, facts: Facts = FACTS, best=BOUND) -> list[str]:
    return [candidate.setting for group in RUNGS[number].offer(facts, best) for candidate in group]


@pytest.mark.parametrize("number", range(6))
def test_every_rung_has_two_candidates_for_an_ordinary_model(number: int) -> None:
    """A batched float32 model with rows of fixed size finds a choice on every rung."""
    assert len(offers(number)) >= 2


def test_every_candidate_is_another_setting() -> None:
    """No candidate is the baseline by another name, and no two of a rung are the same."""
    for rung in RUNGS:
        settings = [candidate.settings for group in rung.offer(FACTS, starting_settings()) for candidate in group]
        assert starting_settings() not in settings
        assert len(set(settings)) == len(settings)


def test_a_model_without_a_batch_dimension_is_not_batched() -> None:
    """With the batch fixed at 1 rows may be bound, but no batch sizes are offered; without any batch nothing is."""
    assert offers(0, replace(FACTS, spec=spec(shape=(1, 16))), starting_settings()) == ["batching.bind=True"]
    assert offers(0, replace(FACTS, spec=spec(shape=(7, 16))), starting_settings()) == []
    assert "no batch dimension" in RUNGS[0].nothing


def test_parallel_instances_are_offered_beside_threads() -> None:
    """One thread, one thread with as many instances as CPUs, dispatch, spinning."""
    found = " | ".join(offers(2))
    for words in ("engine.threads=1", "engine.instances=2", "dispatch=inline", "spinning=False", "io.spin_us"):
        assert words in found


def test_a_quota_takes_pinning_away() -> None:
    """Threads are not bound to cores that a quota may take from under them."""
    assert any("engine.pinning" in name for name in offers(2))
    assert not any("engine.pinning" in name for name in offers(2, replace(FACTS, has_quota=True)))


def test_one_cpu_is_offered_no_more_threads() -> None:
    """Nothing that spins or doubles threads on a single CPU."""
    alone = replace(FACTS, usable_cpus=1, hardware_cpus=1)
    assert not any("spin_us" in name or "instances" in name or "engine.pinning" in name for name in offers(2, alone))


def test_worker_processes_share_the_cpus() -> None:
    """One for each CPU, or two where that leaves several to each; none beside a single CPU."""
    settings = {
        one.settings.io.workers: one.settings.engine.threads
        for group in RUNGS[5].offer(replace(FACTS, usable_cpus=8), BOUND)
        for one in group
    }
    assert settings | {2: 4, 8: 1} == settings
    assert any("io.workers=2" in name for name in offers(5))
    assert not any("workers" in name for name in offers(5, replace(FACTS, usable_cpus=1)))


def test_bf16_needs_the_instructions() -> None:
    """A processor without bfloat16 is not offered it; int8 is offered to all."""
    assert any("bf16" in name for name in offers(3))
    plain = offers(3, replace(FACTS, isa=frozenset({"avx2"})))
    assert not any("bf16" in name for name in plain)
    assert any("int8" in name for name in plain)


def test_strings_stay_with_onnxruntime() -> None:
    """openvino takes no strings, so it is not offered."""
    assert not any("openvino" in name for name in offers(3, replace(FACTS, spec=spec(DType.BYTES))))


@pytest.mark.parametrize(("wire", "wires"), [("json", []), ("binary", ["binary"]), ("any", ["binary", "raw"])])
def test_clients_decide_what_the_wire_may_be(wire: str, wires: list[str]) -> None:
    """Only what the clients can speak is offered."""
    found = [name.removeprefix("io.wire=") for name in offers(5, replace(FACTS, wire=wire)) if "wire" in name]
    assert found == wires


def test_precision_is_known_to_change() -> None:
    """bf16 and int8 say so; float32 on another engine does not."""
    for group in RUNGS[3].offer(FACTS, BASELINE):
        for candidate in group:
            assert candidate.changes_precision == ("bf16" in candidate.setting or "int8" in candidate.setting)


def test_int8_is_offered_where_an_operator_gains() -> None:
    """Without such an operator the rung has the other engine only; with strings it has nothing left."""
    assert any("int8" in name for name in offers(3))
    assert offers(3, replace(FACTS, int8=False))
    assert not any("int8" in name for name in offers(3, replace(FACTS, int8=False)))
    assert offers(3, replace(FACTS, int8=False, spec=spec(DType.BYTES, (None, 1)))) == []
