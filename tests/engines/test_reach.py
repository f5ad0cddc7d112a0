"""What the engines say of the instructions they use."""

from tailcut.engines.reach import engine_reaches
from tailcut.machine.fingerprint import isa_flags


def test_each_engine_is_named() -> None:
    """Both engines are named with their version; OpenVINO lists bf16 where the processor computes in it."""
    result = {reach.name: reach.detail for reach in engine_reaches()}
    assert set(result) == {"onnxruntime", "openvino"}
    assert "FP32" in result["openvino"]
    if isa_flags() & {"avx512_bf16", "amx_bf16"}:
        assert "BF16" in result["openvino"]
