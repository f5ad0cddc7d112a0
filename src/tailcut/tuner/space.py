"""The search space of a tune: the values of each setting that make sense for one model on one machine. Pure.

The space is pruned by what is known of the model and the machine before anything runs: no int8 if no operator gains, no
layout without convolutions, no openvino for strings. `catalogue.py` describes all settings to users.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from operator import attrgetter
from typing import Any, Literal

import msgspec

from tailcut.engines.base import EngineOptions, Form, U8Input
from tailcut.machine.allocator import Allocator
from tailcut.runtime.padding import Lengths, Places
from tailcut.runtime.rows import RowsSetting
from tailcut.runtime.settings import PaddedInput, PaddingSettings, Settings
from tailcut.spec import DType, ModelSpec
from tailcut.tuner.devices import device_choices, made_valid

Wire = Literal["json", "binary", "raw", "shared"]
Socket = Literal["tcp", "unix"]
BASELINE = Settings()  # what most people run: the engine's defaults, one call per request
BATCH_SIZES = (1, 4, 8, 16, 32, 64, 128)
# Flags of /proc/cpuinfo: a precision needs one of its set.
BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
INT8_FLAGS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"})  # that multiply int8 quickly
F16_FLAGS = frozenset({"avx512_fp16", "amx_fp16", "asimdhp"})
_UNSURE_TURNS = 2  # turns of the others before the first of a precision that may well be refused
_DELAYS = (0.5, 1.0)  # of the time of one row; near the best fixed delays of benchmarks/batching.py
_LEAST_DELAY_US = 20.0  # shorter delays are below the time to wake a thread
_MOST_BUCKETS = 4


@dataclass(frozen=True, slots=True)
class Wiring:
    """How requests are sent: the encoding, and the socket that clients connect to."""

    wire: Wire
    socket: Socket = "tcp"


@dataclass(frozen=True, slots=True)
class SpaceFacts:
    """What decides whether a value makes sense.

    Args:
        spec: the model's signature, which says whether rows are independent.
        usable_cpus, hardware_cpus: number of CPUs that this process may use, and of all.
        isa: flags of the processor.
        has_quota: whether a quota limits the CPU time; if so, nothing is pinned.
        wire: the encodings that clients may send.
        places: the free axes of each input other than the batch, with the dimension of each; None if there are too
            many.
        lengths: of the data's requests, along each dimension.
        quantizable: whether int8 would change any operator.
        copies: engines for which there is a copy in static int8.
        convolutions: whether the graph has any.
        lower_precision: whether less than float32 is allowed: only data can show that answers stay right.
        u8_input: how pixels are normalised, if clients may send pixels instead of floats.
        outputs: those that clients read; empty for all.
        fixed_dims: dimensions that always have the same size, in all configurations.
        local: whether clients run on the same machine, and may connect to a Unix socket or share memory.
        wiring: the encoding and socket that were measured to be the fastest; None if not measured yet.
        allocators: that can be loaded in place of the C library's.
        huge_heap: whether the C library's heap can use huge pages.
        cores: number of cores that this process may use; 1 if there is a quota.
        nodes: number of NUMA nodes of these cores; 1 if there is a quota.
        engines: that can compute this file, or a copy of the model.
        compiler: whether the compilers that PyTorch needs are installed, for the CPU or the device.
        device: where the model is computed; if it is a CUDA device, no configurations of the CPU are tried.
        rows: the setting `batching.rows` of every configuration.
        signature: of a file that has none.
    """

    spec: ModelSpec
    usable_cpus: int
    hardware_cpus: int
    isa: frozenset[str]
    has_quota: bool = False
    wire: Literal["json", "binary", "any"] = "any"
    places: Places | None = None
    lengths: tuple[Lengths, ...] = ()
    quantizable: bool = True
    copies: frozenset[Form] = frozenset()
    convolutions: bool = True
    lower_precision: bool = True
    u8_input: U8Input | None = None
    outputs: tuple[str, ...] = ()
    fixed_dims: tuple[str, ...] = ()
    local: bool = False
    wiring: Wiring | None = None
    allocators: tuple[Allocator, ...] = ()
    huge_heap: bool = False
    cores: int = 1
    nodes: int = 1
    engines: tuple[str, ...] = ("onnxruntime", "openvino")
    compiler: bool = False
    device: Literal["cpu", "cuda"] = "cpu"
    rows: RowsSetting = "auto"
    signature: tuple[str, ...] = ()


def changed(settings: Settings, **sections: dict[str, Any]) -> Settings:
    """The settings with some values replaced, given by section: `changed(settings, io={"wire": "json"})`."""
    for name, values in sections.items():
        part = msgspec.structs.replace(getattr(settings, name), **values)
        settings = msgspec.structs.replace(settings, **{name: part})
    return settings


def _replaced(struct: Any, field: str, value: Any) -> Any:
    """The struct with another value at a dotted path of field names."""
    name, _, rest = field.partition(".")
    return msgspec.structs.replace(struct, **{name: _replaced(getattr(struct, name), rest, value) if rest else value})


def engine_choices(facts: SpaceFacts) -> list[EngineOptions]:
    """The engines, precisions, threads and instances to measure in process, in turns of one shape of each kind.

    Of a slow model only the first few are measured. So a precision that may well be refused for its answers has its
    turn after the others', and threads that spin beside those that do not, because they are the engine's defaults.
    """
    if facts.device == "cuda":
        base = EngineOptions(
            name=facts.engines[0],  # type: ignore[arg-type]
            u8_input=facts.u8_input,
            outputs=facts.outputs,
            fixed_dims=facts.fixed_dims,
        )
        return list(
            device_choices(base, lower=facts.lower_precision, convolutions=facts.convolutions, compiler=facts.compiler)
        )
    shapes = _thread_shapes(facts)
    kinds: list[tuple[str, str]] = [("onnxruntime", "f32")]
    if not _has_text(facts):
        halves = (("bf16", BF16_FLAGS), ("f16", F16_FLAGS))
        kinds += [("openvino", name) for name, flags in halves if facts.lower_precision and flags & facts.isa]
        kinds.append(("openvino", "f32"))
    kinds += [(name, "int8_static") for name in sorted(facts.copies)]
    if facts.lower_precision and facts.quantizable:
        kinds.append(("onnxruntime", "int8"))
    kinds = [kind for kind in kinds if kind[0] in facts.engines]
    groups = [
        [
            [
                EngineOptions(
                    name=name,  # type: ignore[arg-type]
                    precision=precision,  # type: ignore[arg-type]
                    threads=threads,
                    instances=count,
                    spinning=spinning,
                    u8_input=facts.u8_input,
                    outputs=facts.outputs,
                    fixed_dims=facts.fixed_dims,
                )
                for spinning in ((False, True) if name == "onnxruntime" and threads > 1 else (True,))
            ]
            for threads, count in shapes
        ]
        for name, precision in kinds
    ]
    if kinds[-1:] == [("onnxruntime", "int8")]:
        groups[-1] = [[]] * _UNSURE_TURNS + groups[-1]
    torch = list(_torch_choices(facts, shapes)) if "torch" in facts.engines else []
    groups.insert(0, [[choice] for choice in torch if choice.compiler == "eager"])
    compiled = [choice for choice in torch if choice.compiler != "eager"]
    return [options for turn in zip_longest(*groups, fillvalue=()) for same in turn for options in same] + compiled


def _torch_choices(facts: SpaceFacts, shapes: list[tuple[int, int]]) -> Iterator[EngineOptions]:
    """Yield PyTorch configurations; compiled ones, which take up to minutes to load, with few thread counts only."""
    precisions = ["f32"] + (["bf16"] if facts.lower_precision and BF16_FLAGS & facts.isa else [])
    layouts = ["blocked"] + (["channels_last"] if facts.convolutions else [])
    kinds = [
        (compiler, precision, layout, threads, count)
        for compiler in ("eager", "aot_inductor", "inductor")
        if compiler == "eager" or (facts.compiler and (compiler == "inductor" or facts.u8_input is None))
        for threads, count in (shapes if compiler == "eager" else [shape for shape in shapes if shape[1] == 1][:2])
        for precision in (precisions if compiler != "aot_inductor" else ["f32"])
        for layout in (layouts if compiler == "eager" else layouts[:1])
    ]
    for compiler, precision, layout, threads, count in kinds:
        yield EngineOptions(
            name="torch",
            compiler=compiler,  # type: ignore[arg-type]
            precision=precision,  # type: ignore[arg-type]
            layout=layout,  # type: ignore[arg-type]
            threads=threads,
            instances=count,
            u8_input=facts.u8_input,
            outputs=facts.outputs,
            fixed_dims=facts.fixed_dims,
            signature=facts.signature,
        )


def batch_sizes(spec: ModelSpec) -> tuple[int, ...]:
    """The sizes to try: powers of two up to what one call takes, and that size itself."""
    if not spec.batched:
        return (1,)
    return tuple(dict.fromkeys(map(spec.within, BATCH_SIZES)))


def copy_engines(facts: SpaceFacts) -> tuple[Form, ...]:
    """The engines for which a copy of the model in static int8 may pay."""
    if not (facts.lower_precision and facts.quantizable) or "onnxruntime" not in facts.engines:  # which quantises
        return ()
    both = "openvino" in facts.engines and not _has_text(facts)
    return ("onnxruntime", "openvino") if both else ("onnxruntime",)


def _has_text(facts: SpaceFacts) -> bool:
    return any(tensor.dtype is DType.BYTES for tensor in facts.spec.inputs + facts.spec.outputs)


def _thread_shapes(facts: SpaceFacts) -> list[tuple[int, int]]:
    """Pairs of threads and instances that fit into the usable CPUs.

    The most promising come first: one thread with one or all instances, all threads but one, and half of them. Pairs of
    powers of two follow, those that use the most CPUs first.
    """
    cpus = facts.usable_cpus
    shapes = [(1, 1)]
    if cpus > 1:
        shapes += [(1, cpus), (cpus, 1)]
    if facts.nodes > 1 and (cpus // facts.nodes, facts.nodes) not in shapes:
        shapes.append((cpus // facts.nodes, facts.nodes))  # one instance of a node's size for each node
    if cpus > 2:
        shapes.append((cpus - 1, 1))  # one is left to the event loop
    if cpus > 3:
        shapes += [(cpus // 2, 1), (cpus // 2, 2)]
    powers = [1 << power for power in range(cpus.bit_length())]
    pairs = [(threads, count) for threads in powers for count in powers if threads * count <= cpus]
    pairs.sort(key=lambda pair: (-pair[0] * pair[1], abs(pair[0] - pair[1])))
    return list(dict.fromkeys([*shapes, *pairs]))


def serving_choices(facts: SpaceFacts, engine: EngineOptions, alone_us: float = 0.0) -> Iterator[Settings]:
    """Yield ways to serve an engine configuration: dispatch, batch size, delay and padding, over the fastest wire.

    Args:
        facts: of model and machine.
        engine: the engine configuration.
        alone_us: the time of one row; delays are shares of it, and none is offered if it is 0.
    """
    paddings = paddings_of(facts)
    wiring = quickest(facts)
    io = {"wire": wiring.wire, "socket": wiring.socket, "fast_path": is_fast(facts, wiring.wire)}
    base = changed(BASELINE, batching={"bind": facts.spec.fixed_rows}, io=io)
    base = msgspec.structs.replace(base, engine=engine)
    for dispatch in ("inline", "adaptive", "worker"):
        if dispatch != "worker" and engine.instances > 1:
            continue
        for size in batch_sizes(facts.spec):
            yield changed(base, batching={"dispatch": dispatch, "max_batch_size": size})
            for share in _DELAYS if dispatch == "worker" and size > 1 and alone_us >= _LEAST_DELAY_US else ():
                delay_us = round(share * alone_us)
                yield changed(
                    base, batching={"dispatch": dispatch, "max_batch_size": size, "max_queue_delay_us": delay_us}
                )
            for padding in paddings if size > 1 else ():
                yield changed(base, batching={"dispatch": dispatch, "max_batch_size": size, "padding": padding})


def wirings(facts: SpaceFacts) -> list[Wiring]:
    """The encodings and sockets that may be used, the simplest first."""
    raw = facts.wire == "any" and len(facts.spec.inputs) == 1 and facts.spec.fixed_rows
    wire: Wire = "json" if facts.wire == "json" else "raw" if raw else "binary"
    result = [Wiring(wire)]
    if facts.local:
        result.append(Wiring(wire, "unix"))
        if facts.wire == "any" and not _has_text(facts):
            result += [Wiring("shared"), Wiring("shared", "unix")]
    return result


def quickest(facts: SpaceFacts) -> Wiring:
    """The fastest encoding and socket; before they are measured, the last that need no shared memory."""
    return facts.wiring or [wiring for wiring in wirings(facts) if wiring.wire != "shared"][-1]


def quickest_wire(facts: SpaceFacts) -> Wire:
    """The encoding that costs the server least, of those that clients may send."""
    return quickest(facts).wire


def is_fast(facts: SpaceFacts, wire: Wire) -> bool:
    """Whether the fast path can serve these clients: fixed rows of one input, or JSON lists of floats."""
    inputs = facts.spec.inputs
    rows = facts.spec.fixed_rows and len(inputs) == 1 and inputs[0].dtype is not DType.BOOL
    floats = any(tensor.dtype in {DType.FP32, DType.FP64} for tensor in inputs)
    return wire != "shared" and (rows or (wire == "json" and floats))


def paddings_of(facts: SpaceFacts) -> list[PaddingSettings]:
    """Buckets by powers of two, and by quartiles of the data's lengths; the accuracy gate checks them."""
    if not facts.spec.batched or not facts.places or len(set(facts.lengths)) < 2 or _has_text(facts):
        return []
    inputs = tuple(PaddedInput(name=name, dims=_dims(axes)) for name, axes in facts.places.items())
    several = [sorted(lengths) for lengths in zip(*facts.lengths, strict=True)]
    if not all(lengths[-1] for lengths in several):
        return []
    kinds = ([_powers(lengths, len(several)) for lengths in several], [_quartiles(lengths) for lengths in several])
    paddings = [PaddingSettings(buckets=first, inputs=inputs, second_buckets=sum(rest, ())) for first, *rest in kinds]
    return list(dict.fromkeys(paddings))


def _dims(axes: tuple[tuple[int, int], ...]) -> tuple[int, ...]:
    """The dimension of each free axis, counted from 1; empty if they are in order."""
    dims = tuple(dimension + 1 for _, dimension in axes)
    return () if dims == tuple(range(1, len(dims) + 1)) else dims


def _powers(lengths: list[int], dimensions: int) -> tuple[int, ...]:
    """Powers of two that cover the lengths; with two dimensions, whose buckets multiply, only the longest few."""
    powers = sorted({1 << (length - 1).bit_length() for length in lengths if length})
    return tuple(powers if dimensions == 1 else powers[-_MOST_BUCKETS:])


def _quartiles(lengths: list[int]) -> tuple[int, ...]:
    places = range(1, _MOST_BUCKETS + 1)
    return tuple(sorted({lengths[(len(lengths) - 1) * step // _MOST_BUCKETS] for step in places} - {0}))


RUNG_FIELDS: dict[str, tuple[str, ...]] = {
    "algorithmic": (
        "batching.max_batch_size",
        "batching.max_queue_delay_us",
        "batching.bind",
        "batching.padding",
        "engine.cuda.graphs",
        "engine.cuda.buckets",
        "engine.cuda.conv_search",
        "engine.graph",
        "engine.outputs",
        "engine.fixed_dims",
    ),
    "layout": ("engine.layout", "engine.prepack", "engine.u8_input", "engine.static_buckets"),
    "parallelism": (
        "engine.threads",
        "engine.instances",
        "engine.spinning",
        "engine.spin_us",
        "engine.pinning",
        "engine.numa",
        "engine.cuda.slots",
        "batching.dispatch",
        "batching.second",
        "io.busy_poll_us",
        "io.own_core",
        "io.workers",
    ),
    "simd": ("engine.name", "engine.precision", "engine.compiler", "engine.device", "engine.cuda.index"),
    "allocation": (
        "engine.arena",
        "engine.arena_growth",
        "engine.cuda.pinned",
        "engine.cuda.graph_memory",
        "engine.cuda.caching",
        "engine.cuda.memory_limit_mb",
        "memory.huge_pages",
        "memory.prefault",
        "memory.lock",
        "memory.allocator",
        "memory.keep_freed",
        "memory.huge_heap",
        "memory.gc_freeze",
    ),
    "io": ("io.wire", "io.socket", "io.direct_bytes", "io.fast_path"),
}


def up_to(winner: Settings, rung: str, base: Settings) -> Settings:
    """The base with the winner's values of this rung and all rungs before it."""
    settings = base
    for name, fields in RUNG_FIELDS.items():
        settings = with_fields(settings, winner, fields)
        if name == rung:
            break
    return settings


def without(winner: Settings, rung: str, base: Settings) -> Settings:
    """The winner with the base's values of one rung."""
    return with_fields(winner, base, RUNG_FIELDS[rung])


def with_fields(settings: Settings, other: Settings, fields: tuple[str, ...]) -> Settings:
    """The settings with some fields taken from others; combinations that are invalid are corrected."""
    for field in fields:
        settings = _replaced(settings, field, attrgetter(field)(other))
    if settings.batching.dispatch != "worker" and settings.engine.instances != 1:
        settings = changed(settings, engine={"instances": 1})
    if settings.batching.dispatch == "inline" and settings.batching.max_queue_delay_us:
        settings = changed(settings, batching={"max_queue_delay_us": 0})
    settings = made_valid(settings)
    on_cpu = settings.engine.device == "cpu"
    if on_cpu and settings.engine.name not in {"openvino", "torch"} and settings.engine.precision in {"bf16", "f16"}:
        settings = changed(settings, engine={"precision": "f32"})
    return settings
