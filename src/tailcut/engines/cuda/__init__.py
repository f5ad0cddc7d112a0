"""PyTorch programs on a CUDA device.

Pure: the bucket in which a batch is computed (`buckets.py`), the states of staging slots (`staging.py`), and which host
memory is registered (`pinned.py`). Thin: streams, events and graphs (`device.py`), and the engine that combines them
(`engine.py`). It also runs on a stand-in for the device, so that everything but the device itself is tested without
one.
"""
