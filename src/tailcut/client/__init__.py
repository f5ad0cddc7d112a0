"""Clients of a Tailcut server, or of any that speaks the Open Inference Protocol v2 with binary tensors over HTTP/1.1.

`Client` and `AsyncClient` themselves are `tailcut.Client` and `tailcut.AsyncClient`: the one loads no asyncio.
"""

from tailcut.client.policy import Hedge, Retries

__all__ = ["Hedge", "Retries"]
