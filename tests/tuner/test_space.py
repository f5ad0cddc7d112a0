"""What the search space offers a model on a machine, and what the catalogue says of it."""

import numpy as np

from tailcut.engines.base import EngineOptions
from tailcut.lab.describe import lengths_of, rows_of_data
from tailcut.runtime.settings import BatchingSettings, IoSettings, MemorySettings, Settings
from tailcut.spec import DType, ModelSpec, Rows, TensorSpec
from tailcut.tuner.catalogue import CATALOGUE
from tailcut.tuner.space import (
    BASELINE,
    RUNG_FIELDS,
    Facts,
    changed,
    copy_engines,
    engine_choices,
    paddings_of,
    quickest_wire,
    refinements,
    serving_choices,
    up_to,
    without,
)

IDS = TensorSpec("ids", DType.INT64, (None, None))
MASK = TensorSpec("mask", DType.INT64, (None, None))
FIXED = TensorSpec("x", DType.FP32, (None, 4))
MEAN = TensorSpec("y", DType.FP32, (None, 8))
TEXT = TensorSpec("text", DType.BYTES, (None,))
BF16 = frozenset({"avx512_bf16"})


def facts(*inputs: TensorSpec, cpus: int = 2, rows: Rows = Rows.INDEPENDENT, **rest: object) -> Facts:
    isa = rest.pop("isa", BF16)
    return Facts(ModelSpec("m", inputs or (FIXED,), (MEAN,), rows), cpus, 8, isa, **rest)  # type: ignore[arg-type]


def test_every_field_of_a_profile_is_on_one_rung() -> None:
    """But for those that say how rows relate, and what cannot be searched."""
    sections = {"engine": EngineOptions, "batching": BatchingSettings, "memory": MemorySettings, "io": IoSettings}
    there = {f"{section}.{name}" for section, kind in sections.items() for name in kind.__struct_fields__}
    listed = [field for fields in RUNG_FIELDS.values() for field in fields]
    assert set(listed) == there - {"batching.rows", "engine.reshapes", "engine.signature"}
    assert len(listed) == len(set(listed))


def test_the_catalogue_explains_every_field() -> None:
    """Each setting stands on the rung of its fields, with words for everything."""
    explained = {field for setting in CATALOGUE for field in setting.fields}
    assert explained == {field for fields in RUNG_FIELDS.values() for field in fields}
    for setting in CATALOGUE:
        assert set(setting.fields) <= set(RUNG_FIELDS[setting.rung])
        assert all((setting.values, setting.needs, setting.helps, setting.hurts, setting.source))


def test_engines_and_precisions() -> None:
    """Both engines with threads and instances that fit the CPUs; less than float32 only where it is allowed."""
    kinds = {(one.name, one.precision) for one in engine_choices(facts())}
    assert kinds == {("onnxruntime", "f32"), ("onnxruntime", "int8"), ("openvino", "f32"), ("openvino", "bf16")}
    assert all(one.threads * one.instances <= 2 for one in engine_choices(facts()))


def test_files_that_one_engine_computes_get_no_other() -> None:
    """What only openvino reads is measured there alone, in float32 and what the processor has, and never quantised."""
    only = facts(engines=("openvino",), quantizable=False)
    assert {(one.name, one.precision) for one in engine_choices(only)} == {("openvino", "f32"), ("openvino", "bf16")}
    assert copy_engines(only) == ()
    exact = {one.precision for one in engine_choices(facts(lower_precision=False))}
    assert exact == {"f32"}


def test_static_int8_where_there_is_a_copy() -> None:
    """Of each engine with its copy; a copy may pay where int8 changes an operator, and only data can show it right."""
    found = {(one.name, one.precision) for one in engine_choices(facts(copies=frozenset({"openvino"})))}
    assert ("openvino", "int8_static") in found
    assert ("onnxruntime", "int8_static") not in found
    assert copy_engines(facts()) == ("onnxruntime", "openvino")
    assert copy_engines(facts(TEXT)) == ("onnxruntime",)
    assert copy_engines(facts(quantizable=False)) == copy_engines(facts(lower_precision=False)) == ()


def test_facts_prune() -> None:
    """No bf16 without its instructions, no int8 without a gain, no strings on openvino, one thread on one CPU."""
    assert "bf16" not in {one.precision for one in engine_choices(facts(isa=frozenset({"avx2"})))}
    assert "int8" not in {one.precision for one in engine_choices(facts(quantizable=False))}
    assert {one.name for one in engine_choices(facts(TEXT))} == {"onnxruntime"}
    assert {(one.threads, one.instances) for one in engine_choices(facts(cpus=1))} == {(1, 1)}


def test_batches_only_where_rows_are_independent() -> None:
    """A model with dependent rows is served a request a call, with each dispatch."""
    engine = EngineOptions(threads=1)
    independent = list(serving_choices(facts(), engine))
    dependent = list(serving_choices(facts(rows=Rows.DEPENDENT), engine))
    assert {one.batching.max_batch_size for one in independent} == {1, 4, 8, 16, 32, 64, 128}
    assert {one.batching.max_batch_size for one in dependent} == {1}
    assert {one.batching.dispatch for one in dependent} == {"inline", "adaptive", "worker"}


def test_several_instances_need_workers() -> None:
    """Inline and adaptive dispatch compute on one thread."""
    found = serving_choices(facts(), EngineOptions(threads=1, instances=2))
    assert {one.batching.dispatch for one in found} == {"worker"}


def test_buckets_come_from_the_datas_lengths() -> None:
    """Powers of two that hold them, and their quartiles; every input with a free dimension is padded with 0."""
    powers, quartiles = paddings_of(facts(IDS, MASK, FIXED, lengths=(3, 5, 9, 12, 20, 30, 30, 31)))
    assert powers.buckets == (4, 8, 16, 32)
    assert quartiles.buckets == (5, 12, 30, 31)
    assert [(one.name, one.value) for one in powers.inputs] == [("ids", 0), ("mask", 0)]


def test_nothing_is_padded_where_there_is_nothing_to_pad() -> None:
    """All of one length, no free dimension, two of them in one input, or dependent rows."""
    image = TensorSpec("image", DType.FP32, (None, 3, None, None))
    assert paddings_of(facts(IDS, MASK, lengths=(16, 16))) == []
    assert paddings_of(facts(FIXED)) == []
    assert paddings_of(facts(image, lengths=(3, 4))) == []
    assert paddings_of(facts(IDS, rows=Rows.DEPENDENT, lengths=(3, 4))) == []


def test_data_of_several_lengths_is_taken_in_turns() -> None:
    """Arrays NAME/GROUP of a data file are one group a length."""
    spec = ModelSpec("m", (IDS, MASK), (MEAN,))
    data = {f"{name}/{length}": np.ones((2, length), np.int64) for name in ("ids", "mask") for length in (3, 5)}
    assert lengths_of(spec, rows_of_data(spec, data, 10)) == (3, 5, 3, 5)
    assert lengths_of(spec, rows_of_data(spec, data, 3)) == (3, 5, 3)


def test_the_quickest_wire_is_one_that_clients_speak() -> None:
    """Raw for one input of fixed size, binary for others, JSON where nothing else is allowed."""
    assert quickest_wire(facts()) == "raw"
    assert quickest_wire(facts(IDS, MASK)) == "binary"
    assert quickest_wire(facts(wire="json")) == "json"


def test_other_allocators_are_for_onnxruntime() -> None:
    """openvino ends a process that runs on one."""
    for name in ("onnxruntime", "openvino"):
        found = refinements(facts(allocators=("jemalloc",)), changed(BASELINE, engine={"name": name}))
        assert any(one.memory.allocator == "jemalloc" for one in found) is (name == "onnxruntime")


def test_refinements_change_one_thing() -> None:
    """Each differs from the winner, and pinning is left out under a quota."""
    winner = changed(BASELINE, engine={"threads": 2}, batching={"max_batch_size": 8})
    found = refinements(facts(), winner)
    assert winner not in found
    assert len({one.describe(winner) for one in found}) == len(found)
    assert any(one.engine.pinning for one in found)
    assert not any(one.engine.pinning for one in refinements(facts(has_quota=True), winner))


def test_rungs_add_up_to_the_winner() -> None:
    """Rung by rung from the baseline, and one can be taken out; what would be invalid together is made valid."""
    winner = changed(
        BASELINE,
        engine={"name": "openvino", "precision": "bf16", "threads": 1},
        batching={"max_batch_size": 32, "dispatch": "inline"},
        io={"wire": "raw"},
    )
    steps = [up_to(winner, rung, BASELINE) for rung in RUNG_FIELDS]
    assert steps[-1] == winner
    assert steps[0].batching.max_batch_size == 32
    assert steps[0].engine == Settings().engine
    assert without(winner, "simd", BASELINE).engine.precision == "f32"
    several = changed(winner, batching={"dispatch": "worker"}, engine={"instances": 2})
    assert without(several, "parallelism", BASELINE).engine.instances == 1
