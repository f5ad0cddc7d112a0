"""Which small changes of a winner are raced: those that could matter for the model, the machine and the winner."""

import pytest

from tailcut.engines.base import CudaOptions
from tailcut.runtime.settings import PaddedInput, PaddingSettings, Settings, check
from tailcut.spec import DType, ModelSpec, Rows, TensorSpec
from tailcut.tuner.refinements import holds_weights_again, least_gain, refinements
from tailcut.tuner.space import BASELINE, SpaceFacts, changed

FIXED = TensorSpec("x", DType.FP32, (None, 4))
PADDING = PaddingSettings(buckets=(4, 8), inputs=(PaddedInput(name="x"),))


def facts(cpus: int = 2, **rest: object) -> SpaceFacts:
    spec = ModelSpec("m", (FIXED,), (TensorSpec("y", DType.FP32, (None, 8)),), Rows.INDEPENDENT)
    return SpaceFacts(spec, cpus, 8, frozenset(), **rest)  # type: ignore[arg-type]


def changes(known: SpaceFacts, winner: Settings) -> set[str]:
    return {refinement.describe(winner) for refinement in refinements(known, winner)}


def test_other_allocators_are_for_onnxruntime() -> None:
    """openvino ends a process that runs on one."""
    for name in ("onnxruntime", "openvino"):
        result = refinements(facts(allocators=("jemalloc",)), changed(BASELINE, engine={"name": name}))
        assert any(item.memory.allocator == "jemalloc" for item in result) is (name == "onnxruntime")


def test_refinements_change_one_thing() -> None:
    """Each differs from the winner, and pinning is left out under a quota."""
    winner = changed(BASELINE, engine={"threads": 2}, batching={"max_batch_size": 8})
    result = refinements(facts(), winner)
    assert winner not in result
    assert len({item.describe(winner) for item in result}) == len(result)
    assert any(item.engine.pinning for item in result)
    assert not any(refinement.engine.pinning for refinement in refinements(facts(has_quota=True), winner))


@pytest.mark.parametrize(
    ("size", "larger", "smaller"),
    [(1, [128, 4], []), (8, [128, 16], [4]), (64, [128], [32]), (128, [], [64]), (48, [128, 64], [32])],
)
def test_other_sizes_of_batches(size: int, larger: list[int], smaller: list[int]) -> None:
    """The largest, in case no step up to it shows anything, and the next one, first; the next smaller one last."""
    winner = changed(BASELINE, batching={"max_batch_size": size})
    found = [item.batching.max_batch_size for item in refinements(facts(), winner)]
    assert [other for other in found if other != size] == larger + smaller
    assert found[: len(larger)] == larger
    assert not smaller or found[-1:] == smaller


def test_one_row_is_the_only_size_of_a_model_that_takes_no_batches() -> None:
    """Nothing else is tried."""
    single = ModelSpec("m", (FIXED,), (TensorSpec("y", DType.FP32, (None, 8)),), Rows.DEPENDENT)
    known = SpaceFacts(single, 2, 8, frozenset())
    assert {item.batching.max_batch_size for item in refinements(known, BASELINE)} == {BASELINE.batching.max_batch_size}


def test_a_core_for_the_event_loop_leaves_the_others_to_the_engine() -> None:
    """One thread fewer on two cores; nothing where the loop computes, has no second core, or has twins."""
    winner = changed(BASELINE, engine={"threads": 2})
    result = next(refinement for refinement in refinements(facts(cores=2), winner) if refinement.io.own_core)
    assert (result.engine.threads, result.engine.instances) == (1, 1)
    several = changed(BASELINE, engine={"threads": 2, "instances": 4})
    result = next(refinement for refinement in refinements(facts(cpus=8, cores=8), several) if refinement.io.own_core)
    assert (result.engine.threads, result.engine.instances) == (2, 3)
    inline = changed(winner, batching={"dispatch": "inline"})
    for known, other in ((facts(cores=1), winner), (facts(cpus=1, cores=2), winner), (facts(cores=2), inline)):
        assert not any(refinement.io.own_core for refinement in refinements(known, other))


@pytest.mark.parametrize(("cpus", "workers"), [(1, []), (2, [2]), (4, [2]), (8, [2, 4]), (16, [2, 4, 8])])
def test_processes(cpus: int, workers: list[int]) -> None:
    """Powers of two up to half of the CPUs, which are shared out among their engines."""
    several = [item for item in refinements(facts(cpus=cpus), BASELINE) if item.io.workers > 1]
    assert [item.io.workers for item in several] == workers
    assert [item.engine.threads for item in several] == [cpus // count for count in workers]


def test_nodes() -> None:
    """Instances are bound to nodes where there are several of both, and so many processes are tried, too."""
    several = changed(BASELINE, engine={"threads": 4, "instances": 2})
    assert "engine.numa=True" in changes(facts(cpus=8, nodes=2), several)
    assert "engine.numa=True" not in changes(facts(cpus=8, nodes=1), several)
    assert "engine.numa=True" not in changes(facts(cpus=8, nodes=4), several)
    assert any("io.workers=4" in words for words in changes(facts(cpus=8, nodes=4), several))


def test_a_device_is_on_one_node() -> None:
    """Its launching threads are bound there, also where they are fewer than nodes, and no weights are held again."""
    device = changed(BASELINE, engine={"device": "cuda", "instances": 1})
    assert "engine.numa=True" in changes(facts(cpus=8, nodes=2), device)
    assert "engine.numa=True" not in changes(facts(cpus=8, nodes=1), device)
    near = changed(device, engine={"numa": True})
    assert not holds_weights_again(near)
    assert holds_weights_again(changed(near, engine={"device": "cpu"}))


def test_batches_of_a_device_need_not_be_filled_up() -> None:
    """Where they have several rows; it is one change, and none where it is so already."""
    device = changed(BASELINE, engine={"device": "cuda"}, batching={"max_batch_size": 8})
    assert "engine.cuda.buckets=off" in changes(facts(), device)
    for winner in (
        changed(device, batching={"max_batch_size": 1}),
        changed(device, engine={"device": "cpu"}),
        changed(device, engine={"cuda": CudaOptions(buckets="off")}),
    ):
        assert not any("buckets" in words for words in changes(facts(), winner))


def test_the_cpu_helps_a_device() -> None:
    """Each engine of the CPU as a second one; nothing on the CPU alone, and nothing where batches cannot be routed."""
    device = changed(BASELINE, engine={"device": "cuda"}, batching={"max_queue_delay_us": 50})
    known = facts(cpus=8)

    def seconds(winner: Settings) -> list[Settings]:
        return [
            refinement
            for refinement in refinements(known, winner)
            if refinement.batching.second != winner.batching.second
        ]

    result = seconds(device)
    assert [item.batching.second.engine.name for item in result if item.batching.second] == ["onnxruntime", "openvino"]
    assert all(item.batching.second and item.batching.second.use == "route" for item in result)
    assert not any(item.batching.max_queue_delay_us for item in result)
    assert all(map(holds_weights_again, result))
    for item in result:
        check(item)
        assert not seconds(item)
    for batching in ({"dispatch": "inline", "max_queue_delay_us": 0}, {"padding": PADDING}):
        assert not seconds(changed(device, batching=batching))
    assert not seconds(BASELINE)


def test_the_arena() -> None:
    """Off, or with another growth where it is on; only onnxruntime has one."""
    assert {"engine.arena=False", "engine.arena_growth=as_requested"} <= changes(facts(), BASELINE)
    grown = changed(BASELINE, engine={"arena_growth": "as_requested"})
    assert "engine.arena=False engine.arena_growth=power_of_two" in changes(facts(), grown)
    assert not any("arena" in words for words in changes(facts(), changed(BASELINE, engine={"name": "openvino"})))


def test_sizes_of_buckets_are_compiled_where_there_are_buckets() -> None:
    """Their pools must not spin beside each other; one of one thread has none that spin."""
    padded = changed(BASELINE, batching={"padding": PADDING}, engine={"threads": 2})
    assert "engine.spinning=False engine.static_buckets=True" in changes(facts(), padded)
    alone = changed(padded, engine={"threads": 1})
    assert "engine.static_buckets=True" in changes(facts(), alone)
    assert not any("static_buckets" in words for words in changes(facts(), BASELINE))


def test_the_fast_path_goes_where_it_gains_little() -> None:
    """It takes memory and time to start: it is dropped unless that costs more than a hundredth."""
    winner = changed(BASELINE, io={"wire": "raw"})
    without = next(refinement for refinement in refinements(facts(), winner) if not refinement.io.fast_path)
    assert least_gain(without, winner) < 1
    assert all(
        least_gain(refinement, winner) > 1 for refinement in refinements(facts(), winner) if refinement.io.fast_path
    )
    assert all(refinement.io.fast_path is False for refinement in refinements(facts(), without))


def test_huge_pages_under_the_heap_are_the_c_librarys() -> None:
    """Another allocator has no such option."""
    assert "memory.huge_heap=True" in changes(facts(huge_heap=True), BASELINE)
    assert "memory.huge_heap=True" not in changes(facts(), BASELINE)
    other = changed(BASELINE, memory={"allocator": "jemalloc"})
    assert "memory.huge_heap=True" not in changes(facts(huge_heap=True), other)


def test_regions_of_shared_memory_are_one_processs() -> None:
    """No second worker process, and no bodies to receive into rows."""
    result = refinements(facts(), changed(BASELINE, io={"wire": "shared"}))
    assert all(item.io.workers == 1 for item in result)


def test_what_holds_the_weights_again_is_known() -> None:
    """Of which no estimate knows the memory."""
    for section, name in (("engine", "static_buckets"), ("engine", "numa")):
        assert holds_weights_again(changed(BASELINE, **{section: {name: True}}))
    assert holds_weights_again(changed(BASELINE, io={"workers": 2}))
    assert not holds_weights_again(BASELINE)


def test_buckets_are_raced_where_lengths_differ() -> None:
    """The winner with each kind of buckets, in batches that are worth it; a winner that pads, without."""
    known = facts(places={"x": ((1, 0),)}, lengths=((3,), (7,), (12,), (16,)))
    result = [
        refinement.batching for refinement in refinements(known, BASELINE) if refinement.batching.padding is not None
    ]
    assert [(item.padding.buckets, item.max_batch_size) for item in result if item.padding] == [
        ((4, 8, 16), 8),
        ((3, 7, 12, 16), 8),
    ]
    winner = changed(BASELINE, batching={"padding": PADDING, "max_batch_size": 32}, engine={"static_buckets": True})
    plain = next(refinement for refinement in refinements(known, winner) if refinement.batching.padding is None)
    assert not plain.engine.static_buckets
    assert plain.batching.max_batch_size == 32
