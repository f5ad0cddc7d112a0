"""What a tune offers on a CUDA device: engines, precisions, layouts, graphs, instances, and the CPU as well. Pure."""

from collections.abc import Collection, Iterator

from msgspec.structs import replace

from tailcut.engines.base import CudaOptions, EngineOptions
from tailcut.runtime.settings import SecondEngine, Settings

# The engines for a device, and the precisions of each that need data to show that answers stay right. onnxruntime has
# no int8 there: it would compute with dequantised floats (docs/decisions/057-onnx-on-a-device.md). In torch's int8,
# weights are converted to floats in the product, which pays only if compiled (065-compiled-and-int8-on-a-device.md).
_LOWER = {"onnxruntime": ("tf32", "f16"), "torch": ("tf32", "bf16", "f16")}
_COMPILED = {"onnxruntime": (), "torch": ("int8",)}
_INSTANCES = (1, 2)


def device_choices(
    base: EngineOptions, *, lower: bool, convolutions: bool, compiler: bool = False
) -> Iterator[EngineOptions]:
    """Yield the configurations of an engine on a device: plain float32 first, those that are compiled last.

    Args:
        base: the engine's name, and what is common to all: outputs, fixed dimensions, pixels.
        lower: whether less than float32 is allowed.
        convolutions: whether the graph has any.
        compiler: whether the compilers that PyTorch needs are installed.
    """
    device = replace(base, device="cuda", threads=1)
    precisions = ("f32", *(_LOWER[base.name] if lower else ()))
    layouts = ("blocked", "channels_last") if convolutions else ("blocked",)
    for instances in _INSTANCES:
        for precision in precisions:
            for layout in layouts:
                yield replace(device, instances=instances, precision=precision, layout=layout)
    yield replace(device, cuda=CudaOptions(graphs=False))
    for precision in (
        (*precisions, *(_COMPILED[base.name] if lower else ())) if compiler and base.name == "torch" else ()
    ):
        yield replace(device, compiler="inductor", precision=precision)


def second_engines(first: EngineOptions, engines: Collection[str], *, cpus: int, bf16: bool) -> Iterator[SecondEngine]:
    """Yield the CPU engines that may share a device's batches; none where the first engine is on the CPU.

    Each leaves a CPU to the event loop and to the thread that launches. `fallback` is not among them: it is for a
    device that fails, and has no effect that could be measured.

    Args:
        first: the engine on the device.
        engines: CPU engines that load files of this kind.
        cpus: number that may be used.
        bf16: whether bfloat16 is allowed, and the processor has it.
    """
    if first.device == "cpu":
        return
    kinds = [(name, "f32") for name in engines]
    kinds += [(name, "bf16") for name in engines if bf16 and name in {"openvino", "torch"}]
    for name, precision in kinds:
        engine = EngineOptions(
            name=name,  # type: ignore[arg-type]
            precision=precision,  # type: ignore[arg-type]
            threads=max(1, cpus - 1),
            spinning=False,
            u8_input=first.u8_input,
            outputs=first.outputs,
            fixed_dims=first.fixed_dims,
            reshapes=first.reshapes,
        )
        yield SecondEngine(use="route", engine=engine)


def made_valid(settings: Settings) -> Settings:
    """The settings without what their device or engine does not support."""
    engine = settings.engine
    if engine.device == "cuda" and engine.name not in _LOWER:
        engine = replace(engine, device="cpu")
    if engine.device == "cuda":
        allowed = engine.precision in {"f32", *_LOWER[engine.name], *_COMPILED[engine.name]}
        compiles = engine.name == "torch" and engine.compiler == "inductor"
        engine = replace(
            engine, compiler="inductor" if compiles else "eager", precision=engine.precision if allowed else "f32"
        )
    elif engine.precision == "tf32" or (engine.name == "torch" and engine.precision == "int8"):
        engine = replace(engine, precision="f32")
    if engine.device == "cpu" and engine.name == "onnxruntime" and engine.layout == "channels_last":
        engine = replace(engine, layout="blocked")
    batching = settings.batching
    alone = batching.dispatch != "worker" or batching.max_queue_delay_us or batching.padding is not None
    twice = batching.second is not None and engine.device == batching.second.engine.device == "cpu"
    if batching.second is not None and (alone or (twice and batching.second.engine.name == engine.name)):
        batching = replace(batching, second=None)
    return replace(settings, engine=engine, batching=batching)
