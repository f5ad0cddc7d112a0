"""Runs torch.compile for the CPU and for devices: its options, its cache and its errors."""

import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from tailcut.engines.torch.package import cache_folder
from tailcut.engines.torch.program import short
from tailcut.errors import ModelFileError, TailcutError
from tailcut.spec import ModelSpec

_COMPILED_ROWS = (2, 1)  # sizes that are compiled separately: code for other sizes never covers 1


def compiler_options(*, computes_indices: bool) -> dict[str, Any]:
    """The options of inductor on the CPU.

    Its loops check indices. On one thread, an index out of bounds is an error of the call; on several threads, the
    exception cannot be caught and ends the process. Matrix products use several threads in any case.
    """
    return {"freezing": True, **({"cpp.threads": 1} if computes_indices else {})}


def compiled(module: Any, options: dict[str, Any]) -> Callable[..., Sequence[Any]]:
    """The module, compiled for all sizes at its first call; a call outside of that call's mode compiles again."""
    call: Callable[..., Sequence[Any]] = torch.compile(module, dynamic=True, fullgraph=True, options=options)
    return call


def first_sizes(spec: ModelSpec) -> tuple[int, ...]:
    """The numbers of rows to compute before the first request, so that no request waits for the compiler."""
    return _COMPILED_ROWS if spec.batchable else (1,)


@contextmanager
def compiling(path: Path) -> Iterator[None]:
    """Keep what is compiled in a `with` block in the user's cache, and silence PyTorch's log.

    Raises:
        UnsupportedError: another user can write into the cache.
        ModelFileError: PyTorch cannot compile the program.
    """
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "inductor"))
    log = logging.getLogger("torch")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except TailcutError as error:
        raise ModelFileError(f"{path}: PyTorch cannot compile it: {error}") from None
    except Exception as error:  # noqa: BLE001  PyTorch's errors share no base
        raise ModelFileError(f"{path}: PyTorch cannot compile it: {short(error)}") from None
    finally:
        log.setLevel(level)
