"""PyTorch behind the engine protocol, on the CPU: exported programs (`.pt2`) and TorchScript.

`archive.py` says what a file may contain, `program.py` reads its signature, `rows/` proves that its rows are
independent, `passes.py` edits its graph, and `engine.py` computes; `script.py` is for TorchScript. Nothing here imports
onnx, onnxruntime, openvino or numba.
"""
