"""torch.compile, for the CPU and for devices: what it is asked for, and what is made of its errors."""

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

_COMPILED_ROWS = (2, 1)  # sizes that compile apart: one is never generalised to


def compiler_options(*, computes_indices: bool) -> dict[str, Any]:
    """What inductor is asked for on the CPU.

    Its loops check the indices that they look up. On one thread a wrong one is an error of the call; on several it is
    thrown where nothing can catch it, and ends the process. Products of matrices have their threads either way.
    """
    return {"freezing": True, **({"cpp.threads": 1} if computes_indices else {})}


def compiled(module: Any, options: dict[str, Any]) -> Callable[..., Sequence[Any]]:
    """The module compiled for all sizes, at its first call; a call outside of the mode of that one compiles anew."""
    call: Callable[..., Sequence[Any]] = torch.compile(module, dynamic=True, fullgraph=True, options=options)
    return call


def first_sizes(spec: ModelSpec) -> tuple[int, ...]:
    """Rows of the calls to make before the first request, so that none of them waits for the compiler."""
    return _COMPILED_ROWS if spec.batchable else (1,)


@contextmanager
def compiling(path: Path) -> Iterator[None]:
    """Have what is compiled in a `with` block kept in the user's cache, without PyTorch's own log lines.

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
