"""Which vector instructions the engines use on this machine, as far as they report it."""

from importlib.metadata import version

from tailcut.engines.installed import how_to_install, is_installed
from tailcut.engines.telemetry import import_openvino
from tailcut.machine.checks import Reach


def engine_reaches() -> tuple[Reach, ...]:
    """What each engine for ONNX models reports, or how to install it; loads OpenVINO."""
    return _onnxruntime(), _openvino()


def _onnxruntime() -> Reach:
    if not is_installed("onnxruntime"):
        return _missing("onnxruntime")
    detail = f"{version('onnxruntime')} chooses by the processor's flags at run time and reports no choice"
    return Reach("onnxruntime", None, detail)


def _openvino() -> Reach:
    if not is_installed("openvino"):
        return _missing("openvino")
    import_openvino()
    from tailcut.engines.openvino_core import core  # noqa: PLC0415  half a second, and only where it is asked for

    capabilities = core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    numbers = [name for name in capabilities if name in ("FP32", "FP16", "BF16", "INT8")]
    return Reach("openvino", None, f"{version('openvino')} computes fast in {' '.join(sorted(numbers))}")


def _missing(engine: str) -> Reach:
    return Reach(engine, None, f"not installed ({how_to_install(engine)})")
