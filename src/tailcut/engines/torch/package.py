"""Programs compiled ahead of time into libraries, which are kept in the user's cache.

A library is code, so it is loaded only from a folder that no other user can write to.
"""

import hashlib
import logging
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.export.pt2_archive import _package
from torch.utils import _pytree

from tailcut.engines.base import EngineOptions
from tailcut.engines.torch.program import TorchProgram
from tailcut.errors import UnsupportedError
from tailcut.machine.fingerprint import isa_flags

_log = logging.getLogger("tailcut")


def compiled_ahead(
    path: Path, program: TorchProgram, options: EngineOptions, chosen: Mapping[str, Any]
) -> Callable[..., Sequence[Any]]:
    """Compile a program, or load its library; the result takes the program's inputs and returns its outputs, in order.

    Args:
        path, program, options: what to compile, and the engine's options.
        chosen: the options of inductor.

    Raises:
        UnsupportedError: another user can write into the cache.
    """
    package = cache_folder() / f"{_key(path, options, chosen)}.pt2"
    if not package.exists():
        own = package.with_name(f".{os.getpid()}-{package.name}")
        torch._inductor.aoti_compile_and_package(  # noqa: SLF001  PyTorch documents it under this name
            program.exported, package_path=str(own), inductor_configs=dict(chosen)
        )
        own.replace(package)
        _log.info("compiled ahead of time: %s", package)
    runner = _package.load_pt2(str(package), num_runners=max(options.instances, 1)).aoti_runners["model"]
    in_spec, outputs = program.exported.call_spec.in_spec, program.outputs

    def call(*arguments: Any) -> Sequence[Any]:
        positional, named = _pytree.tree_unflatten(arguments, in_spec)
        results = _pytree.tree_leaves(runner(*positional, **named))
        return [results[index] for index in outputs]

    return call


def cache_folder() -> Path:
    """The folder for compiled code, which only this user can write to.

    Raises:
        UnsupportedError: another user can write there.
    """
    base = os.environ.get("XDG_CACHE_HOME")
    folder = (Path(base) if base else Path.home() / ".cache") / "tailcut" / "torch"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    status = folder.stat()
    if status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UnsupportedError(
            f"{folder}: others can write there, so compiled code is not loaded from it: chmod 700 it"
        )
    return folder


def _key(path: Path, options: EngineOptions, chosen: Mapping[str, Any]) -> str:
    """A hash of all that a library depends on: program, PyTorch, processor, threads, and inductor's options."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    words = [digest, torch.__version__, *sorted(isa_flags()), str(options.threads), ",".join(options.fixed_dims)]
    words += [f"{name}={value}" for name, value in sorted(chosen.items())]
    return hashlib.sha256(" ".join(words).encode()).hexdigest()[:32]
