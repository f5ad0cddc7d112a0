"""What a tune offers on a CUDA device: engines, precisions, layouts, graphs and instances. Pure."""

from collections.abc import Iterator

from msgspec.structs import replace

from tailcut.engines.base import CudaOptions, EngineOptions
from tailcut.runtime.settings import Settings

# The engines that a device has, and the precisions of each that need data to show that answers stay right. There is no
# int8: both would compute dequantised floats (docs/decisions/057-onnx-on-a-device.md).
_LOWER = {"onnxruntime": ("tf32", "f16"), "torch": ("tf32", "bf16", "f16")}
_INSTANCES = (1, 2)


def device_choices(base: EngineOptions, *, lower: bool, convolutions: bool) -> Iterator[EngineOptions]:
    """Yield the configurations of an engine on a device; the first one is plain float32.

    Args:
        base: the engine's name, and what holds for all: outputs, fixed dimensions, pixels.
        lower: whether less than float32 is allowed.
        convolutions: whether the graph has any.
    """
    precisions = ("f32", *(_LOWER[base.name] if lower else ()))
    layouts = ("blocked", "channels_last") if convolutions else ("blocked",)
    for instances in _INSTANCES:
        for precision in precisions:
            for layout in layouts:
                yield replace(base, device="cuda", threads=1, instances=instances, precision=precision, layout=layout)
    yield replace(base, device="cuda", threads=1, cuda=CudaOptions(graphs=False))


def made_valid(settings: Settings) -> Settings:
    """The settings without what their device does not have."""
    engine = settings.engine
    if engine.device == "cuda" and engine.name not in _LOWER:
        engine = replace(engine, device="cpu")
    if engine.device == "cuda":
        allowed = engine.precision == "f32" or engine.precision in _LOWER[engine.name]
        engine = replace(engine, compiler="eager", precision=engine.precision if allowed else "f32")
    elif engine.precision == "tf32":
        engine = replace(engine, precision="f32")
    if engine.device == "cpu" and engine.name == "onnxruntime" and engine.layout == "channels_last":
        engine = replace(engine, layout="blocked")
    return replace(settings, engine=engine)
