"""PyTorch programs on a CUDA device.

Pure: which bucket a batch is computed in (`buckets.py`), the states and the order of a staging slot (`staging.py`), and
which host memory is registered (`pinned.py`). Thin: streams, events and graphs (`device.py`), and the engine that puts
them together (`engine.py`), which also runs on a stand-in for the device, so that everything but the device itself is
tested without one.
"""
