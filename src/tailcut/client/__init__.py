"""Clients of a Tailcut server, or of any server with the Open Inference Protocol v2 and binary tensors over HTTP/1.1.

`Client` and `AsyncClient` are available as `tailcut.Client` and `tailcut.AsyncClient`; `Client` does not load asyncio.
"""

from tailcut.client.policy import Hedge, Retries

__all__ = ["Hedge", "Retries"]
