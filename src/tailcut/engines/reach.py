"""Which vector instructions the engines use here, as far as they say so themselves."""

from importlib.metadata import PackageNotFoundError, version

from tailcut.engines.telemetry import import_openvino
from tailcut.machine.checks import Reach


def engine_reaches() -> tuple[Reach, ...]:
    """What each installed engine reports; loads OpenVINO."""
    return tuple(reach for reach in (_onnxruntime(), _openvino()) if reach is not None)


def _onnxruntime() -> Reach | None:
    try:
        installed = version("onnxruntime")
    except PackageNotFoundError:
        return None
    return Reach("onnxruntime", None, f"{installed} chooses by the processor's flags at run time and reports no choice")


def _openvino() -> Reach | None:
    try:
        openvino = import_openvino()
    except ImportError:
        return None
    found = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    numbers = [name for name in found if name in ("FP32", "FP16", "BF16", "INT8")]
    return Reach("openvino", None, f"{version('openvino')} computes fast in {' '.join(sorted(numbers))}")
