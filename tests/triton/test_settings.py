"""What the fields of a configuration mean here."""

from dataclasses import replace
from typing import Any

import pytest
from tests.triton.repositories import CONFIG

from tailcut.engines.base import Reshape
from tailcut.errors import UnsupportedError
from tailcut.spec import DType, ModelSpec, TensorSpec
from tailcut.triton import settings
from tailcut.triton.config import parse_config
from tailcut.triton.settings import ConfigReading, check_backend, engine_of, read_settings

BOTH = ("onnxruntime", "openvino")


def spec(*shape: int | None, dtype: DType = DType.INT32) -> ModelSpec:
    dims = shape or (None, 16)
    ends = [tuple(TensorSpec(f"{side}{place}", dtype, dims) for place in (0, 1)) for side in ("INPUT", "OUTPUT")]
    return ModelSpec("m", *ends)


def config(more: str = "", **replaced: str) -> Any:
    text = CONFIG.format(name="m", kind="TYPE_INT32", more=more)
    for old, new in replaced.items():
        text = text.replace(old, new)
    return parse_config(text, "here")


def reading(more: str = "", **replaced: str) -> ConfigReading:
    return read_settings(config(more, **replaced), spec(), "onnxruntime")


def test_a_plain_configuration() -> None:
    """It bounds the batch, leaves rows to the evidence, and has nothing to note."""
    result = reading()
    assert result.max_batch_size == result.settings.batching.max_batch_size == 8
    assert result.settings.batching.rows == "auto"
    assert (result.notes, result.is_fixed, result.queue_rows, result.samples) == ((), False, None, ())


def test_dynamic_batching() -> None:
    """It is the user's word that rows are independent; delay and queue are taken over, the rest is said."""
    result = reading(
        "dynamic_batching { preferred_batch_size: [ 4, 8 ] max_queue_delay_microseconds: 100 preserve_ordering: true "
        "priority_levels: 2 default_priority_level: 1 default_queue_policy { max_queue_size: 50 "
        "default_timeout_microseconds: 9 allow_timeout_override: true } priority_queue_policy { key: 1 value {} } }"
    )
    assert result.settings.batching.rows == "independent"
    assert result.settings.batching.max_queue_delay_us == 100
    assert result.queue_rows == 50 * 8
    assert result.is_fixed
    fields = {note.split()[0] for note in result.notes}
    assert fields == {
        "preferred_batch_size",
        "preserve_ordering",
        "max_queue_size",
        "default_priority_level",
        "timeouts",
        "priority_queue_policy",
        "allow_timeout_override",
    }


def test_without_a_batch_requests_run_whole() -> None:
    """max_batch_size 0: dims are whole shapes."""
    whole = config(**{"max_batch_size: 8": "max_batch_size: 0", "dims: [ 16 ]": "dims: [ -1, 16 ]"})
    result = read_settings(whole, spec(), "onnxruntime")
    assert (result.settings.batching.rows, result.max_batch_size) == ("dependent", None)


@pytest.mark.parametrize("more", ["", "dynamic_batching { }"])
def test_dynamic_batching_without_a_batch_is_not_used(more: str) -> None:
    """And a line says so."""
    whole = config(more, **{"max_batch_size: 8": "max_batch_size: 0", "dims: [ 16 ]": "dims: [ -1, 16 ]"})
    result = read_settings(whole, spec(), "onnxruntime")
    assert result.settings.batching.rows == "dependent"
    assert list(result.notes) == (["dynamic_batching is not used: max_batch_size is 0"] if more else [])


@pytest.mark.parametrize(
    ("more", "shape", "rows", "note"),
    [
        ("", (None, 16), "auto", ""),
        ("", (1, 16), "auto", ""),
        ("dynamic_batching { }", (None, 16), "independent", "dynamic_batching declares rows independent"),
        ("dynamic_batching { }", (1, 16), "auto", "dynamic_batching is not used: a first axis of the model is fixed"),
    ],
)
def test_what_is_left_to_the_model_is_completed(more: str, shape: tuple[int | None, ...], rows: str, note: str) -> None:
    """As Triton gives a model a largest batch where all first axes are free, and merges requests as it is told."""
    bare = parse_config(f'name: "m" backend: "onnxruntime" {more}', "here")
    result = read_settings(bare, spec(*shape), "onnxruntime")
    assert (result.settings.batching.rows, result.max_batch_size) == (rows, None)
    assert len(result.notes) == bool(note)
    assert all(note in line for line in result.notes)


def test_instances_threads_and_optimisation() -> None:
    """They are settings of the engine, and nothing is measured then."""
    result = reading(
        "instance_group [ { count: 2 kind: KIND_CPU }, { kind: KIND_GPU gpus: [ 0 ] } ] "
        'parameters { key: "intra_op_thread_count" value { string_value: "3" } } '
        'parameters { key: "enable_mem_arena" value { string_value: "0" } } '
        'parameters { key: "mine" value { string_value: "x" } } optimization { graph { level: -1 } }'
    )
    engine = result.settings.engine
    assert (engine.instances, engine.threads, engine.arena, engine.graph) == (3, 3, False, "basic")
    assert result.is_fixed
    assert any("GPUs: computed where --device says" in note for note in result.notes)
    assert any(note.startswith("parameters mine ") for note in result.notes)


@pytest.mark.parametrize(
    ("streams", "threads", "engine", "each"),
    [(2, 4, "openvino", 2), (2, 5, "openvino", 2), (4, 2, "openvino", 1), (0, 4, "openvino", 4), (2, 4, "torch", 4)],
)
def test_threads_of_openvino_are_those_of_all_streams(streams: int, threads: int, engine: str, each: int) -> None:
    """Its backend hands the number on as it is; other engines have so many for each instance."""
    text = " ".join(
        f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}'
        for key, value in (("NUM_STREAMS", streams), ("INFERENCE_NUM_THREADS", threads))
    )
    result = read_settings(config(text), spec(), engine).settings.engine
    assert (result.instances, result.threads) == (streams or 1, each)


@pytest.mark.parametrize(
    ("value", "arena"),
    [("0", False), ("false", False), ("OFF", False), ("1", True), ("True", True), ("on", True), ("no", None)],
)
def test_the_arena_has_the_words_of_the_backend(value: str, arena: bool | None) -> None:
    """In any case; other words, and other engines, are named."""
    text = f'parameters {{ key: "enable_mem_arena" value {{ string_value: "{value}" }} }}'
    result = reading(text)
    assert result.settings.engine.arena == (arena is not False)
    assert [note[: note.index(":")] for note in result.notes] == (
        [] if arena is not None else ["parameter enable_mem_arena 'no' is not used"]
    )
    other = read_settings(config(text, onnxruntime_onnx="openvino"), spec(), "openvino")
    assert other.settings.engine.arena
    assert other.notes == (f"parameter enable_mem_arena {value!r} is not used: openvino has no such arena",)


@pytest.mark.parametrize(
    ("level", "graph", "layout"), [(-1, "basic", "blocked"), (1, "all", "plain"), (2, "off", "blocked")]
)
def test_levels_of_graph_optimisation_are_those_of_the_backend(level: int, graph: str, layout: str) -> None:
    """Its 2 is no optimisation at all; other numbers, and other engines, are named."""
    text = f"optimization {{ graph {{ level: {level} }} }}"
    engine = reading(text).settings.engine
    assert (engine.graph, engine.layout) == (graph, layout)
    assert not reading(text).notes
    other = read_settings(config(text, onnxruntime_onnx="openvino"), spec(), "openvino")
    assert (other.settings.engine.graph, other.settings.engine.layout) == ("all", "blocked")
    assert other.notes == (f"optimization.graph.level {level} is not used: openvino optimises graphs its own way",)
    [note] = reading("optimization { graph { level: 7 } }").notes
    assert note == "optimization.graph.level 7 is not used: levels are -1, 1, 2"


@pytest.mark.parametrize(
    ("backend", "able", "engine"),
    [
        ("paddle", ("openvino",), "openvino"),
        ("armnn_tflite", ("openvino",), "openvino"),
        ("torch_aoti", ("torch", "onnxruntime"), "torch"),
    ],
)
def test_backends_of_files_that_are_served(backend: str, able: tuple[str, ...], engine: str) -> None:
    """Whatever else computes them there."""
    assert engine_of(config(onnxruntime_onnx=backend), able) == engine


def test_the_engine_that_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing names one, it is the first that is there; where none is, opening it says what to install."""
    nameless = config(**{'platform: "onnxruntime_onnx"': ""})
    monkeypatch.setattr(settings, "is_installed", lambda engine: engine == "openvino")
    assert engine_of(nameless, BOTH) == "openvino"
    monkeypatch.setattr(settings, "is_installed", lambda _engine: False)
    assert engine_of(nameless, BOTH) == "onnxruntime"


def test_the_engine() -> None:
    """By backend or platform, or by an accelerator; what only openvino reads stays there."""
    assert engine_of(config(), BOTH) == "onnxruntime"
    assert engine_of(config('backend: "openvino"'), BOTH) == "openvino"
    accelerated = 'optimization { execution_accelerators { cpu_execution_accelerator { name: "openvino" } } }'
    assert engine_of(config(accelerated), BOTH) == "openvino"
    assert engine_of(config(), ("openvino",)) == "openvino"
    check_backend(config())
    with pytest.raises(UnsupportedError, match="platform 'tensorrt_plan' is not served"):
        check_backend(config(onnxruntime_onnx="tensorrt_plan"))


def test_reshape() -> None:
    """Clients see dims, the model its own shape."""
    text = "dims: [ 1 ] reshape { shape: [ ] }"
    flat = config(**{"dims: [ 16 ]": text})
    result = read_settings(flat, spec(None), "onnxruntime").settings.engine.reshapes
    assert result[0] == Reshape(name="INPUT0", client=(-1, 1), model=(-1,))
    assert [item.name for item in result] == ["INPUT0", "INPUT1", "OUTPUT0", "OUTPUT1"]


def test_free_dimensions_that_have_one_size_are_fixed() -> None:
    """Those of inputs by INPUT:AXIS, and those of outputs for clients that read the metadata."""
    result = read_settings(config(), spec(None, None), "onnxruntime").settings.engine
    assert result.fixed_dims == ("INPUT0:1=16", "INPUT1:1=16")
    assert result.reshapes == tuple(
        Reshape(name=name, client=(-1, 16), model=(-1, 16)) for name in ("OUTPUT0", "OUTPUT1")
    )


def test_some_outputs() -> None:
    """Those that are not listed are not computed."""
    fewer = config(**{'{ name: "OUTPUT0" data_type: TYPE_INT32 dims: [ 16 ] },': ""})
    assert read_settings(fewer, spec(), "onnxruntime").settings.engine.outputs == ("OUTPUT1",)


def test_an_output_that_is_not_listed_may_have_no_rows() -> None:
    """Such as a loss: the batch is that of the outputs that are served."""
    both = spec()
    loss = replace(both, outputs=(both.outputs[0], TensorSpec("loss", DType.FP32, ())))
    item = ',\n  { name: "OUTPUT1" data_type: TYPE_INT32 dims: [ 16 ] }'
    result = read_settings(config(**{item: ""}), loss, "onnxruntime")
    assert (result.settings.engine.outputs, result.max_batch_size) == (("OUTPUT0",), 8)
    listed = config(**{item: ', { name: "loss" data_type: TYPE_FP32 dims: [ ] }'})
    with pytest.raises(UnsupportedError, match="'loss' is FP32"):
        read_settings(listed, loss, "onnxruntime")


def test_warm_up_requests() -> None:
    """Each entry is a kind of request that the model is warmed up with."""
    inputs = " ".join(
        f'inputs {{ key: "INPUT{index}" value {{ data_type: TYPE_INT32 dims: 16 {data} }} }}'
        for index, data in enumerate(("zero_data: true", 'input_data_file: "f"'))
    )
    result = reading(f'model_warmup {{ name: "w" batch_size: 4 count: 3 {inputs} }}')
    [request] = result.samples
    assert request.rows == 4
    assert [array.shape for array in request.of(spec()).make(4, 0).values()] == [(4, 16), (4, 16)]
    assert any("input_data_file" in note for note in result.notes)
    assert any(note.startswith("count of model_warmup is not used: ") for note in result.notes)


@pytest.mark.parametrize(
    ("dims", "reads"),
    [("16", 1), ("17", 0), ("[ 1, 16 ]", 0), ("-1", 0)],
)
def test_a_warm_up_request_that_does_not_fit_is_named(dims: str, reads: int) -> None:
    """The configuration is at fault then, and the model is warmed up otherwise."""
    inputs = " ".join(
        f'inputs {{ key: "INPUT{place}" value {{ data_type: TYPE_INT32 dims: {dims} zero_data: true }} }}'
        for place in (0, 1)
    )
    result = reading(f'model_warmup {{ name: "w" {inputs} }}')
    assert len(result.samples) == reads
    assert [note.split(" with dims ")[0] for note in result.notes] == [
        "model_warmup 'w' is not used: the model does not take input 'INPUT0'"
    ] * (1 - reads)


def test_a_warm_up_request_without_an_input_is_named() -> None:
    """The model is served all the same."""
    inputs = 'inputs { key: "INPUT0" value { data_type: TYPE_INT32 dims: 16 zero_data: true } }'
    result = reading(f'model_warmup {{ name: "w" {inputs} }}')
    assert not result.samples
    assert result.notes == (
        "model_warmup 'w' is not used: it has no input 'INPUT1'; it is warmed up with other requests",
    )


@pytest.mark.parametrize(
    ("batch", "kind", "why"),
    [
        ("batch_size: 64", "TYPE_INT32", "its batch_size 64 is over max_batch_size 8"),
        ("batch_size: 8", "TYPE_FP32", "its input 'INPUT0' is TYPE_FP32, and the model takes TYPE_INT32"),
    ],
)
def test_a_warm_up_request_of_another_type_or_size_is_named(batch: str, kind: str, why: str) -> None:
    """The model is warmed up otherwise."""
    inputs = " ".join(
        f'inputs {{ key: "INPUT{place}" value {{ data_type: {kind} dims: 16 zero_data: true }} }}' for place in (0, 1)
    )
    result = reading(f'model_warmup {{ name: "w" {batch} {inputs} }}')
    assert not result.samples
    assert result.notes == (f"model_warmup 'w' is not used: {why}; it is warmed up with other requests",)


def test_settings_of_the_engine_that_are_not_applied_are_named() -> None:
    """A number that is a word, and a backend that does not read the file."""
    streams = 'parameters { key: "NUM_STREAMS" value { string_value: "AUTO" } }'
    [note] = reading(streams).notes
    assert note == "parameter NUM_STREAMS 'AUTO' is not used: it is not a number; instance_group counts"
    [note] = read_settings(config(), spec(), "openvino").notes
    assert note == "platform or backend 'onnxruntime_onnx' is not used: openvino computes files of this kind"
    accelerated = 'optimization { execution_accelerators { cpu_execution_accelerator { name: "openvino" } } }'
    assert not read_settings(config(accelerated), spec(), "openvino").notes
    [note] = reading(accelerated).notes
    assert note == "execution_accelerators openvino is not used: onnxruntime computes files of this kind"


@pytest.mark.parametrize(
    ("more", "replaced", "words"),
    [
        ("", {"max_batch_size: 8": "max_batch_size: -1"}, "max_batch_size is -1, must be 0 or more"),
        ("sequence_batching {}", {}, "sequence_batching is not served"),
        ("model_transaction_policy { decoupled: true }", {}, "decoupled"),
        ("", {'"INPUT1" data_type': '"INPUT1" optional: true data_type'}, "'INPUT1' is optional"),
        ("", {'"INPUT1" data_type': '"INPUT1" is_shape_tensor: true data_type'}, "shape tensor"),
        ("", {"INPUT1": "OTHER"}, "no input 'OTHER'"),
        ("", {"TYPE_INT32": "TYPE_FP32"}, "is INT32 in the model and TYPE_FP32 in the configuration"),
        ("", {"[ 16 ]": "[ 17 ]"}, r"dims \[17\] after the batch dimension"),
        ("", {',\n  { name: "INPUT1" data_type: TYPE_INT32 dims: [ 16 ] }': ""}, "lists no input 'INPUT1'"),
    ],
)
def test_what_is_refused(more: str, replaced: dict[str, str], words: str) -> None:
    """What would change answers, and what does not fit the model."""
    with pytest.raises(UnsupportedError, match=words):
        reading(more, **replaced)


def test_a_fixed_first_axis_has_no_batch() -> None:
    """max_batch_size needs a free one."""
    with pytest.raises(UnsupportedError, match=r"dims|first axis"):
        read_settings(config(), spec(1, 16), "onnxruntime")


def test_labels_are_noted() -> None:
    """The classification extension is not served."""
    [note] = reading(**{'"OUTPUT0" data_type': '"OUTPUT0" label_filename: "l.txt" data_type'}).notes
    assert "the classification extension is not served" in note
