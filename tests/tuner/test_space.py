"""What the search space offers a model on a machine, and what the catalogue says of it."""

import dataclasses

import numpy as np
import pytest
from msgspec.structs import replace

from tailcut.engines.base import CudaOptions, EngineOptions, U8Input
from tailcut.lab.describe import rows_of_data
from tailcut.runtime.settings import BatchingSettings, IoSettings, MemorySettings, Settings
from tailcut.spec import DType, ModelSpec, Rows, TensorSpec
from tailcut.tuner.catalogue import CATALOGUE
from tailcut.tuner.dimensions import data_lengths, learned_places
from tailcut.tuner.refinements import refinements
from tailcut.tuner.space import (
    BASELINE,
    RUNG_FIELDS,
    SpaceFacts,
    Wiring,
    changed,
    copy_engines,
    engine_choices,
    paddings_of,
    quickest_wire,
    serving_choices,
    up_to,
    wirings,
    with_fields,
    without,
)

IDS = TensorSpec("ids", DType.INT64, (None, None))
MASK = TensorSpec("mask", DType.INT64, (None, None))
IMAGE = TensorSpec("image", DType.FP32, (None, 3, None, None))
FIXED = TensorSpec("x", DType.FP32, (None, 4))
MEAN = TensorSpec("y", DType.FP32, (None, 8))
TEXT = TensorSpec("text", DType.BYTES, (None,))
BF16 = frozenset({"avx512_bf16"})


def facts(*inputs: TensorSpec, cpus: int = 2, rows: Rows = Rows.INDEPENDENT, **rest: object) -> SpaceFacts:
    isa = rest.pop("isa", BF16)
    return SpaceFacts(ModelSpec("m", inputs or (FIXED,), (MEAN,), rows), cpus, 8, isa, **rest)  # type: ignore[arg-type]


def padded(*inputs: TensorSpec, sizes: list[tuple[int, ...]], rows: Rows = Rows.INDEPENDENT) -> SpaceFacts:
    """Facts of data whose free dimensions have these sizes, taken in the order of the inputs' axes."""
    spec = ModelSpec("m", inputs, (MEAN,), rows)
    requests = []
    for request in sizes:
        left = iter(request)
        shapes = {t.name: [dim or (1 if not axis else next(left)) for axis, dim in enumerate(t.shape)] for t in inputs}
        requests.append({name: np.zeros(shape) for name, shape in shapes.items()})
    places = learned_places(spec, requests)
    return facts(*inputs, rows=rows, places=places, lengths=data_lengths(places, requests))


def test_every_field_of_a_profile_is_on_one_rung() -> None:
    """But for those that say how rows relate, and what cannot be searched."""
    sections = {"engine": EngineOptions, "batching": BatchingSettings, "memory": MemorySettings, "io": IoSettings}
    there = {f"{section}.{name}" for section, kind in sections.items() for name in kind.__struct_fields__}
    there = there - {"engine.cuda"} | {f"engine.cuda.{name}" for name in CudaOptions.__struct_fields__}
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
    kinds = {(engine_choice.name, engine_choice.precision) for engine_choice in engine_choices(facts())}
    assert kinds == {("onnxruntime", "f32"), ("onnxruntime", "int8"), ("openvino", "f32"), ("openvino", "bf16")}
    assert all(engine_choice.threads * engine_choice.instances <= 2 for engine_choice in engine_choices(facts()))


def test_files_that_one_engine_computes_get_no_other() -> None:
    """What only openvino reads is measured there alone, in float32 and what the processor has, and never quantised."""
    only = facts(engines=("openvino",), quantizable=False)
    assert {(engine_choice.name, engine_choice.precision) for engine_choice in engine_choices(only)} == {
        ("openvino", "f32"),
        ("openvino", "bf16"),
    }
    assert copy_engines(only) == ()
    exact = {engine_choice.precision for engine_choice in engine_choices(facts(lower_precision=False))}
    assert exact == {"f32"}


def test_programs_compete_with_their_copy() -> None:
    """PyTorch, whose plain float32 comes first, and the engines of ONNX models; what takes long to load comes last."""
    several = ("torch", "onnxruntime", "openvino")
    result = engine_choices(facts(engines=several, compiler=True, convolutions=False))
    assert {item.name for item in result} == set(several)
    assert (result[0].name, result[0].precision, result[0].compiler) == ("torch", "f32", "eager")
    assert {item.name for item in result[:3]} == set(several)
    compilers = [item.compiler for item in result]
    assert "eager" not in compilers[compilers.index("aot_inductor") :]
    ahead = {(item.precision, item.layout, item.u8_input) for item in result if item.compiler == "aot_inductor"}
    assert ahead == {("f32", "blocked", None)}
    assert {item.precision for item in result if item.compiler == "inductor"} == {"f32", "bf16"}
    pixels = engine_choices(facts(engines=several, compiler=True, u8_input=U8Input(scale=(1.0,), offset=(0.0,))))
    assert {item.compiler for item in pixels} == {"eager", "inductor"}
    assert {engine_choice.compiler for engine_choice in engine_choices(facts(engines=several))} == {"eager"}


def test_static_int8_where_there_is_a_copy() -> None:
    """Of each engine with its copy; a copy may pay where int8 changes an operator, and only data can show it right."""
    result = {
        (engine_choice.name, engine_choice.precision)
        for engine_choice in engine_choices(facts(copies=frozenset({"openvino"})))
    }
    assert ("openvino", "int8_static") in result
    assert ("onnxruntime", "int8_static") not in result
    assert copy_engines(facts()) == ("onnxruntime", "openvino")
    assert copy_engines(facts(TEXT)) == ("onnxruntime",)
    assert copy_engines(facts(quantizable=False)) == copy_engines(facts(lower_precision=False)) == ()


def test_facts_prune() -> None:
    """No bf16 without its instructions, no int8 without a gain, no strings on openvino, one thread on one CPU."""
    assert "bf16" not in {engine_choice.precision for engine_choice in engine_choices(facts(isa=frozenset({"avx2"})))}
    assert "int8" not in {engine_choice.precision for engine_choice in engine_choices(facts(quantizable=False))}
    assert {engine_choice.name for engine_choice in engine_choices(facts(TEXT))} == {"onnxruntime"}
    assert {(engine_choice.threads, engine_choice.instances) for engine_choice in engine_choices(facts(cpus=1))} == {
        (1, 1)
    }


@pytest.mark.parametrize(("most", "sizes"), [(128, {1, 4, 8, 16, 32, 64, 128}), (12, {1, 4, 8, 12}), (1, {1})])
def test_no_batch_is_larger_than_a_call_takes(most: int, sizes: set[int]) -> None:
    """Neither in the search nor where requests are padded; the largest that it takes is tried as well."""
    lengths = padded(IDS, sizes=[(3,), (9,)])
    bound = dataclasses.replace(lengths, spec=dataclasses.replace(lengths.spec, most_rows=most))
    tried = list(serving_choices(bound, EngineOptions(threads=1)))
    assert {item.batching.max_batch_size for item in tried} == sizes
    refined = refinements(bound, tried[0])
    assert max(item.batching.max_batch_size for item in refined) <= most


def test_batches_only_where_rows_are_independent() -> None:
    """A model with dependent rows is served a request a call, with each dispatch."""
    engine = EngineOptions(threads=1)
    independent = list(serving_choices(facts(), engine))
    dependent = list(serving_choices(facts(rows=Rows.DEPENDENT), engine))
    assert {item.batching.max_batch_size for item in independent} == {1, 4, 8, 16, 32, 64, 128}
    assert {item.batching.max_batch_size for item in dependent} == {1}
    assert {item.batching.dispatch for item in dependent} == {"inline", "adaptive", "worker"}


def test_several_instances_need_workers() -> None:
    """Inline and adaptive dispatch compute on one thread."""
    result = serving_choices(facts(), EngineOptions(threads=1, instances=2))
    assert {item.batching.dispatch for item in result} == {"worker"}


def test_buckets_come_from_the_datas_lengths() -> None:
    """Powers of two that hold them, and their quartiles; every input with a free dimension is padded with 0."""
    sizes = [(length, length) for length in (3, 5, 9, 12, 20, 30, 30, 31)]
    powers, quartiles = paddings_of(padded(IDS, MASK, FIXED, sizes=sizes))
    assert powers.buckets == (4, 8, 16, 32)
    assert quartiles.buckets == (5, 12, 30, 31)
    assert [(item.name, item.value, item.dims) for item in powers.inputs] == [("ids", 0, ()), ("mask", 0, ())]
    assert not powers.second_buckets


def test_buckets_of_two_dimensions() -> None:
    """Height and width have buckets of their own; so have the lengths of two inputs, and of a mask over both."""
    powers, quartiles = paddings_of(padded(IMAGE, sizes=[(24, 100), (30, 60), (17, 90), (33, 120)]))
    assert (powers.buckets, powers.second_buckets) == ((32, 64), (64, 128))
    assert (quartiles.buckets, quartiles.second_buckets) == ((17, 24, 30, 33), (60, 90, 100, 120))
    assert powers.inputs[0].dims == ()
    other = TensorSpec("other", DType.INT64, (None, None))
    both = TensorSpec("both", DType.INT64, (None, None, None))
    sizes = [(3, 9, 9, 3), (5, 5, 5, 5), (2, 6, 6, 2)]
    powers, _ = paddings_of(padded(IDS, other, both, sizes=sizes))
    assert [item.dims for item in powers.inputs] == [(), (2,), (2, 1)]


def test_equal_sizes_are_one_dimension() -> None:
    """A mask over pairs of one sequence has its length twice, and buckets once."""
    pairs = TensorSpec("pairs", DType.INT64, (None, None, None))
    powers, _ = paddings_of(padded(IDS, pairs, sizes=[(3, 3, 3), (7, 7, 7)]))
    assert (powers.buckets, powers.second_buckets) == ((4, 8), ())
    assert [item.dims for item in powers.inputs] == [(), (1, 1)]


def test_two_dimensions_have_few_buckets_each() -> None:
    """They multiply: at most four each, the longest ones."""
    powers, quartiles = paddings_of(padded(IMAGE, sizes=[(1 << n, 3 << n) for n in range(9)]))
    assert powers.buckets == (32, 64, 128, 256)
    assert len(quartiles.buckets) == len(quartiles.second_buckets) == 4


def test_nothing_is_padded_where_there_is_nothing_to_pad() -> None:
    """All of one length, no free dimension, three of them, strings, or dependent rows."""
    volume = TensorSpec("volume", DType.FP32, (None, None, None, None))
    words = TensorSpec("words", DType.BYTES, (None, None))
    assert paddings_of(padded(IDS, MASK, sizes=[(16, 16), (16, 16)])) == []
    assert paddings_of(padded(FIXED, sizes=[(), ()])) == []
    assert paddings_of(padded(volume, sizes=[(2, 3, 4), (5, 7, 9)])) == []
    assert paddings_of(padded(words, sizes=[(3,), (4,)])) == []
    assert paddings_of(padded(IDS, rows=Rows.DEPENDENT, sizes=[(3,), (4,)])) == []


def test_data_of_several_lengths_is_taken_in_turns() -> None:
    """Arrays NAME/GROUP of a data file are one group a length."""
    spec = ModelSpec("m", (IDS, MASK), (MEAN,))
    data = {f"{name}/{length}": np.ones((2, length), np.int64) for name in ("ids", "mask") for length in (3, 5)}
    for count, lengths in ((10, (3, 5, 3, 5)), (3, (3, 5, 3))):
        requests = rows_of_data(spec, data, count)
        assert data_lengths(learned_places(spec, requests), requests) == tuple((length,) for length in lengths)


def test_the_quickest_wire_is_one_that_clients_speak() -> None:
    """Raw for one input of fixed size, binary for others, JSON where nothing else is allowed."""
    assert quickest_wire(facts()) == "raw"
    assert quickest_wire(facts(IDS, MASK)) == "binary"
    assert quickest_wire(facts(wire="json")) == "json"


def test_how_requests_may_travel() -> None:
    """Over Unix sockets where clients are near, in shared memory where they may also send what they like."""
    assert wirings(facts()) == [Wiring("raw")]
    near = [Wiring("raw"), Wiring("raw", "unix"), Wiring("shared"), Wiring("shared", "unix")]
    assert wirings(facts(local=True)) == near
    assert wirings(facts(local=True, wire="binary")) == [Wiring("binary"), Wiring("binary", "unix")]
    assert wirings(facts(local=True, wire="json")) == [Wiring("json"), Wiring("json", "unix")]
    assert {wiring.wire for wiring in wirings(facts(TEXT, local=True))} == {"binary"}


def test_what_was_measured_is_what_is_served() -> None:
    """Before that, the plainest wire over the nearest socket; the fast path only where a client could use it."""
    engine = EngineOptions(threads=1)
    for known, io in (
        (facts(), ("raw", "tcp", True)),
        (facts(local=True), ("raw", "unix", True)),
        (facts(local=True, wiring=Wiring("shared", "tcp")), ("shared", "tcp", False)),
        (facts(IDS, MASK), ("binary", "tcp", False)),
        (facts(wire="json"), ("json", "tcp", True)),
        (facts(IDS, wire="json"), ("json", "tcp", False)),
    ):
        result = {
            (serving_choice.io.wire, serving_choice.io.socket, serving_choice.io.fast_path)
            for serving_choice in serving_choices(known, engine)
        }
        assert result == {io}


def test_the_shapes_that_win_most_are_measured_first() -> None:
    """Each engine with one thread, then an instance on each CPU, then one instance on all of them."""
    for name in ("onnxruntime", "openvino"):
        shapes = [
            (choice.threads, choice.instances)
            for choice in engine_choices(facts(cpus=2))
            if (choice.name, choice.precision) == (name, "f32")
        ]
        assert list(dict.fromkeys(shapes)) == [(1, 1), (1, 2), (2, 1)]


def test_the_defaults_are_measured_before_what_may_be_refused() -> None:
    """Of a slow model only the first few are: every shape in float32, spinning or not, before dynamic int8."""
    choices = engine_choices(facts(quantizable=True, engines=("onnxruntime", "openvino")))
    own = [(choice.threads, choice.instances, choice.spinning) for choice in choices if choice.name == "onnxruntime"]
    assert own[:4] == [(1, 1, True), (1, 2, True), (2, 1, False), (2, 1, True)]
    precisions = [choice.precision for choice in choices]
    assert precisions == sorted(precisions, key=lambda precision: precision == "int8")
    assert precisions.count("int8") == 4


def test_nodes_have_an_instance_each() -> None:
    """Where there are several, and CPUs enough for that."""
    shapes = {
        (engine_choice.threads, engine_choice.instances) for engine_choice in engine_choices(facts(cpus=24, nodes=4))
    }
    assert (6, 4) in shapes
    assert (6, 4) not in {
        (engine_choice.threads, engine_choice.instances) for engine_choice in engine_choices(facts(cpus=24))
    }


def test_pairs_of_threads_and_instances_between_the_extremes() -> None:
    """Powers of two whose product fits come after one, all, and half of the CPUs, those that fill them first."""
    choices = [choice for choice in engine_choices(facts(cpus=16)) if choice.name == "onnxruntime"]
    shapes = list(dict.fromkeys((choice.threads, choice.instances) for choice in choices))
    first = [(1, 1), (1, 16), (16, 1), (15, 1), (8, 1), (8, 2)]
    assert shapes[: len(first)] == first
    assert shapes[len(first) :][:2] == [(4, 4), (2, 8)]
    assert {(4, 1), (4, 2), (2, 1), (1, 8)} <= set(shapes)
    assert all(threads * count <= 16 for threads, count in shapes)
    few = {(choice.threads, choice.instances) for choice in engine_choices(facts(cpus=2))}
    assert few == {(1, 1), (2, 1), (1, 2)}


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
    device = CudaOptions(graphs=False, slots=1, pinned=False, index=1)
    winner = changed(BASELINE, engine={"device": "cuda", "cuda": device})
    known = ("algorithmic", "parallelism", "simd", "allocation")
    cuda = {rung: with_fields(BASELINE, winner, RUNG_FIELDS[rung]).engine.cuda for rung in known}
    assert cuda["algorithmic"] == CudaOptions(graphs=False)
    assert cuda["parallelism"] == CudaOptions(slots=1)
    assert cuda["simd"] == CudaOptions(index=1)
    assert cuda["allocation"] == CudaOptions(pinned=False)
    assert without(winner, "parallelism", BASELINE).engine.cuda == replace(device, slots=0)
    several = changed(winner, batching={"dispatch": "worker"}, engine={"instances": 2})
    assert without(several, "parallelism", BASELINE).engine.instances == 1
