"""An exported program behind the engine protocol, on the CPU.

`compiler = "eager"` calls one operator after the other from Python, which needs no preparation and costs a few
microseconds per operator. `"inductor"` is torch.compile, which fuses operators with a C++ compiler and may take minutes
when the model is opened. `"aot_inductor"` compiles the program ahead of time into a library, which is kept and loaded
again. Everything runs in inference mode. If the last operator can write into a given tensor, outputs are computed in
the bound rows; otherwise, they are copied.
"""

import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # otherwise, a pool of processes stays
# OpenMP's threads sleep between calls: threads that spin compete for the cores that other work leaves free. With two
# threads on two busy cores, a call of a small convolutional network took 0.3 ms sleeping and 100 to 240 ms spinning.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from tailcut.engines.base import Arrays, Bound, EngineOptions
from tailcut.engines.binding import check_arrays
from tailcut.engines.compilers import need_compiler
from tailcut.engines.samples import find_samples
from tailcut.engines.torch import passes
from tailcut.engines.torch.compiling import compiled, compiler_options, compiling, first_sizes
from tailcut.engines.torch.indices import check_indices
from tailcut.engines.torch.package import compiled_ahead
from tailcut.engines.torch.program import Arguments, TorchProgram, read_program, short
from tailcut.errors import EngineError, InvalidInputError, ReleasedError, TailcutError, UnsupportedError
from tailcut.machine.fingerprint import isa_flags
from tailcut.spec import DType, TensorSpec

_LOWER = {"bf16": torch.bfloat16, "f16": torch.float16}
_FLAGS = {"bf16": {"avx512_bf16", "amx_bf16", "bf16"}, "f16": {"avx512_fp16", "amx_fp16", "asimdhp"}}
_THREADS = threading.local()  # `count`: the thread count that this thread has set last
Call = Callable[..., Sequence[Any]]


class TorchEngine:
    """A program with its settings; calls of different bound objects may run concurrently."""

    def __init__(self, path: Path, options: EngineOptions, name: str | None = None) -> None:
        _check_options(options)
        self.options = options
        use_threads(self.options.threads)
        program = read_program(path, options, name)
        self.spec, self.hints = program.spec, program.hints
        self._arguments: Arguments | None = program.arguments
        self._sizes = program.sizes
        module = passes.flat(program.exported, program.outputs)
        if options.u8_input is not None:
            module = passes.pixels(module, options.u8_input)
        if options.layout == "channels_last":
            module = passes.channels_last(module)
        if options.precision in _LOWER:
            module = passes.lowered(module, _LOWER[options.precision])
        self._call: Call = module
        self._write: Call | None = passes.into_rows(module) if options.compiler == "eager" else None
        if options.compiler != "eager":
            self._compile(path, program, module)

    def bind(self, inputs: Arrays, outputs: Arrays) -> Bound:
        """See `Engine.bind`."""
        arguments = self._open()
        check_arrays(self.spec, inputs, outputs)
        self._sizes.check([inputs[tensor.name].shape for tensor in self.spec.inputs])
        given = [as_tensor(inputs[tensor.name]) for tensor in self.spec.inputs]
        ins = arguments.all(given)
        outs = [as_tensor(outputs[tensor.name]) for tensor in self.spec.outputs]
        write, compute, names = self._write, self._call, self.spec.output_names
        keep = (dict(inputs), dict(outputs))

        def call(_keep: object = keep) -> None:
            if self._arguments is None:
                raise ReleasedError("the engine was closed")
            use_threads(self.options.threads)
            try:
                self._check_compiled(given)
                with torch.inference_mode():
                    if write is not None:
                        write(*ins, *outs)
                        return
                    results = compute(*ins)
                    for name, out, result in zip(names, outs, results, strict=True):
                        copy_output(name, out, result)
            except TailcutError:
                raise
            except Exception as error:  # noqa: BLE001  PyTorch's errors share no base
                raise self._failure(error, given) from None

        return call

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """See `Engine.run`."""
        every = self._open()
        use_threads(self.options.threads)
        held = [np.require(inputs[tensor.name], requirements=["C", "W"]) for tensor in self.spec.inputs]
        self._sizes.check([array.shape for array in held])
        # Created outside of inference mode, as in bind: PyTorch would compile again for tensors of another mode.
        given = list(map(as_tensor, held))
        arguments = every.all(given)
        self._check_compiled(given)
        try:
            with torch.inference_mode():
                results = self._call(*arguments)
                return {
                    tensor.name: as_array(tensor, result)
                    for tensor, result in zip(self.spec.outputs, results, strict=True)
                }
        except Exception as error:  # noqa: BLE001  as in bind
            raise self._failure(error, given) from None

    def close(self) -> None:
        """See `Engine.close`."""
        self._arguments = None
        self._write = None
        self._call = _closed

    def _compile(self, path: Path, program: TorchProgram, module: Any) -> None:
        """Compile before the first request.

        Raises:
            UnsupportedError: there is no C++ compiler.
            ModelFileError: PyTorch cannot compile the program.
        """
        need_compiler(self.options.compiler, "cpu")
        with compiling(path):
            samples = find_samples(self)  # with the program before it is compiled
            ahead = self.options.compiler == "aot_inductor"
            chosen = compiler_options(computes_indices=program.computes_indices)
            self._call = compiled_ahead(path, program, self.options, chosen) if ahead else compiled(module, chosen)
            for rows in first_sizes(self.spec):
                self.run(samples.make(max(rows, samples.rows), seed=0))

    def _check_compiled(self, given: Sequence[Any]) -> None:
        """Refuse indices out of bounds before compiled code uses them: on several threads, they end the process."""
        if self.options.compiler != "eager":
            check_indices(self.spec, self.hints, given)

    def _failure(self, error: Exception, given: Sequence[Any]) -> TailcutError:
        """The error for a failed call; for an index out of bounds, an InvalidInputError that names the input."""
        try:
            check_indices(self.spec, self.hints, given)
        except InvalidInputError as mistake:
            return mistake
        # When compiled code raises, the compiler tries to compile what handles the error, and may raise its own error.
        of_compiler = type(error).__module__.startswith("torch._dynamo")
        words = "the compiled program raised an error on this request" if of_compiler else short(error)
        return EngineError(f"PyTorch failed: {words}")

    def _open(self) -> Arguments:
        if self._arguments is None:
            raise ReleasedError("the engine was closed")
        return self._arguments


def _check_options(options: EngineOptions) -> None:
    precision = options.precision
    if precision in {"int8", "int8_static"}:
        raise UnsupportedError(
            f"torch has no precision {precision} on the CPU: use f32 or bf16, or convert the program to ONNX"
        )
    if precision in _FLAGS and not _FLAGS[precision] & isa_flags():
        raise UnsupportedError(f"this processor has no {precision} instructions: use precision f32")
    own = (precision, options.layout == "channels_last", options.u8_input)
    if options.compiler == "aot_inductor" and own != ("f32", False, None):
        raise UnsupportedError(
            "compiler 'aot_inductor' has precision f32, the program's own layout and no u8_input: use 'inductor'"
        )


def use_threads(count: int) -> None:
    """Set how many threads PyTorch uses for calls from this thread; it has a count for each calling thread."""
    if count and getattr(_THREADS, "count", 0) != count:
        torch.set_num_threads(count)
        _THREADS.count = count


def as_tensor(array: np.ndarray) -> Any:
    """A tensor that shares an array's memory; bfloat16, which numpy itself lacks, is passed by its bits."""
    if array.dtype == DType.BF16.numpy:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def as_array(spec: TensorSpec, result: Any) -> np.ndarray:
    """An output as a new array in the dtype of its spec."""
    owned = result.detach().contiguous()  # TorchScript may return a parameter
    if owned.data_ptr() == result.data_ptr():
        owned = owned.clone()
    if spec.dtype is DType.BF16:
        bits: np.ndarray = owned.view(torch.int16).numpy().view(DType.BF16.numpy)
        return bits
    array: np.ndarray = owned.numpy()
    return array


def copy_output(name: str, row: Any, result: Any) -> None:
    """Copy an output into its rows.

    Raises:
        EngineError: it has another shape or type, which PyTorch's own copy would broadcast or round.
    """
    if result.shape != row.shape:
        raise EngineError(f"output {name!r} has the shape {list(result.shape)}, not {list(row.shape)}")
    if result.dtype != row.dtype:
        raise EngineError(f"output {name!r} is {dtype_name(result)}, not {dtype_name(row)}")
    row.copy_(result.detach())


def dtype_name(tensor: Any) -> str:
    """The name of a tensor's type, such as `float32`."""
    return str(tensor.dtype).removeprefix("torch.")


def _closed(*_: object) -> Sequence[Any]:
    raise ReleasedError("the engine was closed")
