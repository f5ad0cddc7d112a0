"""PyTorch behind the engine protocol: exported programs (`.pt2`), on the CPU.

What a file may contain is in `archive.py`, its signature in `program.py`, the proof of its rows in `rows/`, what is
done to its graph in `passes.py`, and how it computes in `engine.py`. Nothing here imports onnx, onnxruntime, openvino
or numba.
"""
