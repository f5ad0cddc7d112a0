"""Graphs in ONNX's own text, as files that OpenVINO reads."""

from pathlib import Path

import onnx
import openvino as ov
from onnx import parser


def save(path: Path, text: str) -> Path:
    """A graph such as `(float[n, 8] x) => (float[n, 8] y) { y = Relu(x) }`."""
    onnx.save(parser.parse_model(f'<ir_version: 9, opset_import: ["" : 18]> g {text}'), path)
    return path


def as_ir(onnx_file: Path) -> Path:
    path = onnx_file.with_suffix(".xml")
    ov.save_model(ov.Core().read_model(str(onnx_file)), path, compress_to_fp16=False)
    return path
