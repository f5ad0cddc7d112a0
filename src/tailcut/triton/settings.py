"""Translates a configuration into the settings of a profile. Pure.

A repository is written for another server. Options that Tailcut has are applied; for options that it handles
differently, a note says how (`notes.py`); options that would change outputs (optional inputs, sequences, decoupled
models) are refused.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import msgspec

from tailcut.engines.base import EngineOptions, Reshape
from tailcut.engines.filling import ROWS, SampleInput, Values
from tailcut.engines.installed import is_installed
from tailcut.errors import UnsupportedError
from tailcut.runtime.rows import RowsSetting
from tailcut.runtime.samples import SampleRequest
from tailcut.runtime.settings import BatchingSettings, Settings
from tailcut.spec import DType, ModelSpec, TensorSpec
from tailcut.triton.names import type_of
from tailcut.triton.notes import notes_of

_ENGINES = {
    "onnxruntime": "onnxruntime",
    "onnxruntime_onnx": "onnxruntime",
    "openvino": "openvino",
    "paddle": "openvino",
    "armnn_tflite": "openvino",
    "tensorflow": "openvino",
    "tensorflow_savedmodel": "openvino",
    "tensorflow_graphdef": "openvino",
    "pytorch": "torch",
    "pytorch_libtorch": "torch",
    "torch_aoti": "torch",
}
_LEVELS: dict[int, dict[str, str]] = {  # optimization.graph.level of Triton's onnxruntime backend
    -1: {"graph": "basic"},
    1: {"layout": "plain"},  # extended, which is all but the blocked layout
    2: {"graph": "off"},
}
_THREADS = ("intra_op_thread_count", "INFERENCE_NUM_THREADS", "CPU_THREADS_NUM", "TF_NUM_INTRA_THREADS")
_INSTANCES = ("NUM_STREAMS", "CPU_THROUGHPUT_STREAMS")
_SWITCH = {"0": False, "false": False, "off": False, "1": True, "true": True, "on": True}  # case-insensitive
_INDEXED = re.compile(r"__\d+\Z")
_TEXT = {DType.BYTES: "STRING"}


@dataclass(frozen=True, slots=True)
class ConfigReading:
    """A translated configuration.

    Args:
        settings: settings for a profile.
        samples: requests to warm up with.
        max_batch_size: the largest batch; None if the configuration does not set it.
        queue_rows: how many rows may queue; None if the configuration does not say.
        is_fixed: whether it sets how the model is computed, so that nothing is measured.
        notes: a line for each field that means something else here.
    """

    settings: Settings
    samples: tuple[SampleRequest, ...] = ()
    max_batch_size: int | None = None
    queue_rows: int | None = None
    is_fixed: bool = False
    notes: tuple[str, ...] = ()


def check_backend(config: Any) -> None:
    """Check that some engine reads the files of the model's backend, before the files are looked for.

    Raises:
        UnsupportedError: the configuration names a backend or platform without such an engine.
    """
    wanted = config.backend or config.platform
    if wanted and wanted not in _ENGINES:
        raise UnsupportedError(
            f"{'backend' if config.backend else 'platform'} {wanted!r} is not served: the files of "
            f"{', '.join(sorted(_ENGINES))} are"
        )


def engine_of(config: Any, able: Sequence[str]) -> str:
    """Choose among the engines that can compute a file, for a configuration that passed `check_backend`."""
    accelerators = [
        accelerator.name for accelerator in config.optimization.execution_accelerators.cpu_execution_accelerator
    ]
    if "openvino" in accelerators and "openvino" in able:
        return "openvino"
    usual = next(filter(is_installed, able), able[0])  # opening the engine tells what to install
    name = _ENGINES.get(config.backend or config.platform, usual)
    return name if name in able else usual


def read_settings(config: Any, spec: ModelSpec, engine: str, signature: tuple[str, ...] = ()) -> ConfigReading:
    """Translate a model's configuration.

    Args:
        config: the message of `config.pbtxt`.
        spec: the model's own signature.
        engine: name of the engine that computes it.
        signature: the result of `declared_signature` if the file has no signature of its own.

    Raises:
        UnsupportedError: the configuration does not match the model, or asks for something that is not served.
    """
    refuse(config)
    batched = config.max_batch_size > 0
    options = EngineOptions(
        name=engine,  # type: ignore[arg-type]
        signature=signature,
        outputs=_outputs(config, spec),
        reshapes=tuple(_reshapes(config, spec, batched=batched)),
        fixed_dims=tuple(_fixed_dims(config, spec, batched=batched)),
    )
    batchable = replace(spec, outputs=tuple(_kept(config, spec))).batchable
    if batched and not batchable:
        raise UnsupportedError(f"max_batch_size is {config.max_batch_size}, but a first axis of the model is fixed")
    options, fixed = _engine_settings(config, options)
    dynamic = config.dynamic_batching if config.HasField("dynamic_batching") else None
    delay_us = 0 if dynamic is None else int(dynamic.max_queue_delay_microseconds)
    rows, unused = _rows(config, batchable=batchable)
    batching = BatchingSettings(
        max_batch_size=max(1, config.max_batch_size) if batched or config.input else 32,
        max_queue_delay_us=delay_us,
        rows=rows,
    )
    samples, unfit = _samples(config, spec, batched=batched)
    waiting = dynamic.default_queue_policy.max_queue_size if dynamic is not None else 0
    return ConfigReading(
        Settings(engine=options, batching=batching),
        samples,
        config.max_batch_size or None,
        waiting * max(1, config.max_batch_size) or None,  # it counts requests, of max_batch_size rows at most
        fixed or bool(delay_us),
        (
            *unused,
            *notes_of(config, {*_THREADS, *_INSTANCES, "enable_mem_arena"}),
            *_notes_of_engine(config, engine),
            *unfit,
        ),
    )


def declared_signature(config: Any) -> tuple[str, ...]:
    """The inputs and outputs that a configuration lists, in order, for a file that does not contain its own signature.

    Names of the form NAME__INDEX are ordered by their index, as Triton does for TorchScript; else they are in the order
    of the configuration. The module takes them in this order, unless they are named after its parameters.
    """
    first = [-1] if config.max_batch_size > 0 else []
    lines = []
    for kind, tensors in (("input", list(config.input)), ("output", list(config.output))):
        if all(_INDEXED.search(tensor.name) for tensor in tensors):
            tensors.sort(key=lambda tensor: int(tensor.name.rpartition("__")[2]))
        for tensor in tensors:
            dims = first + list(tensor.reshape.shape if tensor.HasField("reshape") else tensor.dims)
            lines.append(f"{kind} {tensor.name} {type_of(tensor).removeprefix('TYPE_')} {dims}")
    return tuple(lines)


def _rows(config: Any, *, batchable: bool) -> tuple[RowsSetting, tuple[str, ...]]:
    """Whether rows are independent, and a note if dynamic batching is not used.

    Dynamic batching is the user's statement that rows are independent, even if the batch size is left out, which Triton
    then completes for a model whose first axes are free. Without a batch dimension, requests are computed whole.
    """
    dynamic = config.HasField("dynamic_batching")
    if config.max_batch_size > 0:
        return "independent" if dynamic else "auto", ()
    if config.input:
        return "dependent", ("dynamic_batching is not used: max_batch_size is 0",) if dynamic else ()
    if not dynamic:
        return "auto", ()
    if not batchable:
        return "auto", ("dynamic_batching is not used: a first axis of the model is fixed",)
    return "independent", ("max_batch_size is left to the server: dynamic_batching declares rows independent",)


def refuse(config: Any) -> None:
    """Refuse a configuration whose options, if ignored, would change answers.

    Raises:
        UnsupportedError: the configuration has such an option.
    """
    if config.max_batch_size < 0:
        raise UnsupportedError(f"max_batch_size is {config.max_batch_size}, must be 0 or more")
    if config.HasField("sequence_batching"):
        raise UnsupportedError("sequence_batching is not served: requests of a sequence would need one instance each")
    if config.model_transaction_policy.decoupled:
        raise UnsupportedError("a decoupled model is not served: each request has one answer")
    for tensor in config.input:
        if tensor.optional:
            raise UnsupportedError(
                f"input {tensor.name!r} is optional, which is not supported: every request must have all inputs"
            )
    for tensor in (*config.input, *config.output):
        if tensor.is_shape_tensor:
            raise UnsupportedError(f"tensor {tensor.name!r} is a shape tensor, which only TensorRT has")


def _outputs(config: Any, spec: ModelSpec) -> tuple[str, ...]:
    """The names of the listed outputs if they are fewer than the model's; else empty."""
    kept = tuple(tensor.name for tensor in _kept(config, spec))
    return kept if len(kept) < len(spec.outputs) else ()


def _kept(config: Any, spec: ModelSpec) -> Sequence[TensorSpec]:
    """The model's outputs that are listed; all of them if none is."""
    listed = {tensor.name for tensor in config.output}
    return [tensor for tensor in spec.outputs if tensor.name in listed] if listed else spec.outputs


def _listed(config: Any, spec: ModelSpec) -> Iterator[tuple[Literal["input", "output"], Any, TensorSpec]]:
    """Yield each tensor of the configuration with the model's.

    Raises:
        UnsupportedError: the model has no such tensor or another type, or an input is missing.
    """
    kind: Literal["input", "output"]
    for kind, listed, there in (("input", config.input, spec.inputs), ("output", config.output, spec.outputs)):
        known = {tensor.name: tensor for tensor in there}
        for tensor in listed:
            if tensor.name not in known:
                raise UnsupportedError(f"the model has no {kind} {tensor.name!r}: it has {', '.join(known)}")
            wanted = known[tensor.name]
            if tensor.data_type and type_of(tensor) != f"TYPE_{_TEXT.get(wanted.dtype, wanted.dtype.value)}":
                raise UnsupportedError(
                    f"{kind} {tensor.name!r} is {wanted.dtype} in the model and {type_of(tensor)} in the configuration"
                )
            yield kind, tensor, wanted
        missing = [name for name in known if name not in {tensor.name for tensor in listed}]
        if kind == "input" and listed and missing:
            raise UnsupportedError(f"the configuration lists no input {missing[0]!r}, which the model needs")


def _reshapes(config: Any, spec: ModelSpec, *, batched: bool) -> Iterator[Reshape]:
    """Yield the tensors whose shape differs between clients and the model, and check all others.

    An output with a free size has the size of the configuration, for clients that read the metadata.

    Raises:
        UnsupportedError: a shape does not match the model's.
    """
    first = [-1] if batched else []
    shared = {*spec.input_names} & {*spec.output_names}
    for kind, tensor, known in _listed(config, spec):
        dims = tuple(first + list(tensor.dims))
        side: Literal["", "input", "output"] = kind if tensor.name in shared else ""
        is_reshaped = tensor.HasField("reshape")
        shape = tuple(first + list(tensor.reshape.shape)) if is_reshaped else dims
        if len(shape) != len(known.shape) or any(
            dim != -1 and size not in {None, dim} for dim, size in zip(shape, known.shape, strict=True)
        ):
            given = f"{'reshape' if is_reshaped else 'dims'} {list(shape[batched:])}"
            raise UnsupportedError(
                f"{tensor.name!r} is {known.describe()} in the model, but the configuration has {given}"
                f"{' after the batch dimension' if batched else ''}"
            )
        resized = any(dim != -1 and size is None for dim, size in zip(shape, known.shape, strict=True))
        if is_reshaped or (kind == "output" and resized):
            yield Reshape(name=tensor.name, client=dims, model=shape, side=side)


def _fixed_dims(config: Any, spec: ModelSpec, *, batched: bool) -> Iterator[str]:
    """Yield the free dimensions of inputs that the configuration fixes, such as `x:1=128`."""
    known = {tensor.name: tensor for tensor in spec.inputs}
    for tensor in config.input:
        dims = tensor.reshape.shape if tensor.HasField("reshape") else tensor.dims
        for axis, (dim, size) in enumerate(zip(dims, known[tensor.name].shape[batched:], strict=False)):
            if dim != -1 and size is None:
                yield f"{tensor.name}:{axis + batched}={dim}"


def _engine_settings(config: Any, options: EngineOptions) -> tuple[EngineOptions, bool]:
    """The options with threads, instances and graph optimisation, and whether threads or instances are set."""
    parameters = {name: value.string_value for name, value in config.parameters.items()}
    changes: dict[str, Any] = {}
    threads = next((parameters[name] for name in _THREADS if parameters.get(name, "").isdecimal()), "")
    streams = next((parameters[name] for name in _INSTANCES if parameters.get(name, "").isdecimal()), "")
    count = sum(max(1, group.count) for group in config.instance_group)
    if count > 1 or streams:
        changes["instances"] = max(1, count, int(streams or 1))
    if threads and int(threads):  # openvino's number is for all streams together
        shared = changes.get("instances", 1) if options.name == "openvino" else 1
        changes["threads"] = max(1, int(threads) // shared)
    fixed = bool(changes)
    if options.name == "onnxruntime":
        changes |= _LEVELS.get(config.optimization.graph.level, {})
    arena = _SWITCH.get(parameters.get("enable_mem_arena", "").lower())
    if arena is not None and options.name == "onnxruntime":
        changes["arena"] = arena
    return msgspec.structs.replace(options, **changes), fixed


def _notes_of_engine(config: Any, engine: str) -> Iterator[str]:
    """Yield a note for each engine setting that cannot be applied."""
    wanted = config.backend or config.platform
    accelerators = [
        accelerator.name for accelerator in config.optimization.execution_accelerators.cpu_execution_accelerator
    ]
    if "openvino" in accelerators and engine != "openvino":
        yield f"execution_accelerators openvino is not used: {engine} computes files of this kind"
    if wanted and _ENGINES.get(wanted) != engine and engine not in accelerators:
        yield f"platform or backend {wanted!r} is not used: {engine} computes files of this kind"
    level = config.optimization.graph.level
    if level and engine != "onnxruntime":
        yield f"optimization.graph.level {level} is not used: {engine} optimises graphs its own way"
    elif level and level not in _LEVELS:
        yield f"optimization.graph.level {level} is not used: levels are {', '.join(map(str, _LEVELS))}"
    for names, instead in ((_THREADS, "the engine has as many threads as CPUs"), (_INSTANCES, "instance_group counts")):
        for name in names:
            value = config.parameters[name].string_value if name in config.parameters else ""
            if value and not value.isdecimal():
                yield f"parameter {name} {value!r} is not used: it is not a number; {instead}"
    arena = config.parameters["enable_mem_arena"].string_value if "enable_mem_arena" in config.parameters else None
    if arena is not None and engine != "onnxruntime":
        yield f"parameter enable_mem_arena {arena!r} is not used: {engine} has no such arena"
    elif arena is not None and arena.lower() not in _SWITCH:
        yield f"parameter enable_mem_arena {arena!r} is not used: it is none of {', '.join(_SWITCH)}; the arena is on"


def _samples(config: Any, spec: ModelSpec, *, batched: bool) -> tuple[tuple[SampleRequest, ...], list[str]]:
    """A request for each entry of model_warmup, and a note for each entry that the model would refuse."""
    first = [ROWS] if batched else []
    listed = {tensor.name: tensor for tensor in config.input}
    samples, unfit = [], []
    for warmup in config.model_warmup:
        rows = max(1, warmup.batch_size)
        most = config.max_batch_size
        why = f"its batch_size {rows} is over max_batch_size {most}" if rows > max(1, most) else ""
        why = why or _why_unfit(warmup, spec, listed, [rows] if batched else [])
        if why:
            unfit.append(f"model_warmup {warmup.name!r} is not used: {why}; it is warmed up with other requests")
            continue
        inputs = {tensor.name: _filled(tensor, warmup.inputs[tensor.name], first) for tensor in spec.inputs}
        samples.append(SampleRequest(inputs=inputs, rows=rows))
    return tuple(samples), unfit


def _why_unfit(warmup: Any, spec: ModelSpec, listed: Mapping[str, Any], rows: list[int]) -> str:
    """Why the model would refuse the request of an entry of model_warmup; "" if it accepts it."""
    for tensor in spec.inputs:
        if tensor.name not in warmup.inputs:
            return f"it has no input {tensor.name!r}"
        given = warmup.inputs[tensor.name]
        wanted = f"TYPE_{_TEXT.get(tensor.dtype, tensor.dtype.value)}"
        if given.data_type and type_of(given) != wanted:
            return f"its input {tensor.name!r} is {type_of(given)}, and the model takes {wanted}"
        dims = list(given.dims)
        if not _accepts(listed.get(tensor.name), tensor, dims, rows):
            return f"the model does not take input {tensor.name!r} with dims {dims}"
    return ""


def _filled(tensor: TensorSpec, given: Any, first: list[int]) -> SampleInput:
    """How to fill an input of model_warmup."""
    values: Values = "numerals" if tensor.dtype is DType.BYTES else "constant"
    if given.random_data and values == "constant":
        values = "normal" if tensor.dtype.numpy.kind == "f" else "integers"
    return SampleInput(shape=tuple(first + list(given.dims)), values=values, high=2 if values == "integers" else 1)


def _accepts(listed: Any | None, tensor: TensorSpec, dims: list[int], rows: list[int]) -> bool:
    """Whether clients may send an input of these dims, by the configuration (if it lists the input) and the model."""
    if min(dims, default=0) < 0:
        return False
    if listed is not None:
        wanted = list(listed.dims)
        if len(dims) != len(wanted) or any(dim not in {-1, size} for dim, size in zip(wanted, dims, strict=True)):
            return False
        if listed.HasField("reshape"):
            return True
    return tensor.accepts((*rows, *dims))
