"""TorchScript (`torch.jit.save`) on the CPU, only from files that the user trusts, because it can run any code.

Such a file does not contain the types and shapes of its inputs. The settings (`engine.signature`) or the configuration
of a model repository declare them; a tune infers them from calls with its data. The graph is not analysed, so nothing
is known about its rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from tailcut.engines.base import Arrays, Bound, Engine, EngineOptions
from tailcut.engines.binding import check_arrays
from tailcut.engines.declared import declared_spec
from tailcut.engines.files import FileKind, kind_of, model_name
from tailcut.engines.torch.engine import TorchEngine, as_array, as_tensor, copy_output, dtype_name, use_threads
from tailcut.engines.torch.program import DTYPES, short
from tailcut.engines.trust import is_trusted
from tailcut.errors import EngineError, ModelFileError, ReleasedError, TailcutError, UnsupportedError, UsageError
from tailcut.spec import TensorSpec

_GROUPS = 4  # of requests with equal lengths, from which a signature is inferred


def open_torch(path: Path, options: EngineOptions, name: str | None = None) -> Engine:
    """Load an exported program, or TorchScript.

    Raises:
        ModelFileError, UnsupportedError: as `TorchEngine` and `ScriptEngine`.
    """
    return (ScriptEngine if kind_of(path) is FileKind.SCRIPT else TorchEngine)(path, options, name)


class ScriptEngine:
    """A scripted or traced module; calls may run concurrently."""

    def __init__(self, path: Path, options: EngineOptions, name: str | None = None) -> None:
        check_trusted(path)
        if (options.precision, options.compiler, options.u8_input) != ("f32", "eager", None):
            raise UnsupportedError(f"{path}: TorchScript runs unchanged: use precision f32 and compiler eager")
        if options.outputs or options.fixed_dims:
            raise UnsupportedError(f"{path}: TorchScript has no outputs or fixed_dims: declare them in its signature")
        self.spec = declared_spec(options.signature, name or model_name(path))
        self.options = options
        use_threads(options.threads)
        self._module: Any = load_script(path)
        self._convention = _Convention.of(path, self._module, self.spec.input_names)
        if options.layout == "channels_last":
            self._module.to(memory_format=torch.channels_last)

    def bind(self, inputs: Arrays, outputs: Arrays) -> Bound:
        """See `Engine.bind`."""
        self._open()
        check_arrays(self.spec, inputs, outputs)
        ins = [as_tensor(inputs[name]) for name in self.spec.input_names]
        outs = [as_tensor(outputs[name]) for name in self.spec.output_names]
        keep = (dict(inputs), dict(outputs))

        def call(_keep: object = keep) -> None:
            for name, out, result in zip(self.spec.output_names, outs, self._compute(ins), strict=True):
                copy_output(name, out, result)

        return call

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """See `Engine.run`."""
        held = [np.array(inputs[name], order="C") for name in self.spec.input_names]  # the module may write into them
        results = self._compute(list(map(as_tensor, held)))
        arrays = {}
        for tensor, result in zip(self.spec.outputs, results, strict=True):
            if not tensor.accepts(tuple(result.shape)) or DTYPES.get(result.dtype) != tensor.dtype:
                came = f"{dtype_name(result)} {list(result.shape)}"
                raise EngineError(f"output {tensor.name!r} is {came}, but declared as {tensor.describe()}")
            arrays[tensor.name] = as_array(tensor, result)
        return arrays

    def close(self) -> None:
        """See `Engine.close`."""
        self._module = None

    def _compute(self, ins: Sequence[Any]) -> Sequence[Any]:
        module = self._open()
        use_threads(self.options.threads)
        if self.options.layout == "channels_last":
            ins = [
                tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor for tensor in ins
            ]
        try:
            with torch.inference_mode():
                results = list(_tensors(_picked(self._convention.call(module, ins), self.spec.output_names)))
        except TailcutError:
            raise
        except Exception as error:  # noqa: BLE001  as in __init__
            raise EngineError(f"PyTorch failed: {_last_line(error)}") from None
        if len(results) != len(self.spec.outputs):
            declared = ", ".join(self.spec.output_names)
            raise EngineError(f"the module returns {len(results)} tensors, but {declared} are declared")
        return results

    def _open(self) -> Any:
        if self._module is None:
            raise ReleasedError("the engine was closed")
        return self._module


@dataclass(frozen=True, slots=True)
class _Convention:
    """How `forward` takes its inputs, by the rules of Triton.

    Its only parameter may be a dict of tensors by name. Otherwise, inputs are passed by name if each has the name of a
    parameter, and in their order if not.
    """

    names: tuple[str, ...]
    by: Literal["dict", "name", "order"]

    @classmethod
    def of(cls, path: Path, module: Any, names: Sequence[str]) -> "_Convention":
        """The convention of a module for inputs with these names.

        Raises:
            UnsupportedError: it cannot be called with them.
        """
        parameters = _parameters(module)
        if _takes_dict(parameters):
            return cls(tuple(names), "dict")
        known = [parameter.name for parameter in parameters]
        if len(names) > len(known):
            takes = f"{len(known)} ({', '.join(known)})" if known else "none"
            raise UnsupportedError(f"{path}: {len(names)} inputs are declared, but forward takes {takes}")
        by_name = {*names} <= {*known}
        _check_parameters(path, parameters, names if by_name else known[: len(names)])
        return cls(tuple(names), "name" if by_name else "order")

    def call(self, module: Any, tensors: Sequence[Any]) -> Any:
        """The module's result for tensors in the order of the names."""
        if self.by == "order":
            return module(*tensors)
        named = dict(zip(self.names, tensors, strict=True))
        return module(named) if self.by == "dict" else module(**named)


def _parameters(module: Any) -> Sequence[Any]:
    """The parameters of `forward`, without the module itself."""
    return list(module.forward.schema.arguments[1:])


def _takes_dict(parameters: Sequence[Any]) -> bool:
    """Whether a dict is the only parameter."""
    return len(parameters) == 1 and parameters[0].type.kind() == "DictType"


def _check_parameters(path: Path, parameters: Sequence[Any], given: Sequence[str]) -> None:
    """Check that `forward` can be called with tensors for only these parameters.

    Raises:
        UnsupportedError: a given parameter is not a tensor, or a required one is not given.
    """
    for parameter in parameters:
        if parameter.name in given and parameter.type.kind() in {"ListType", "DictType"}:
            what = f"the parameter {parameter.name!r} of forward is a {parameter.type.annotation_str}"
            raise UnsupportedError(f"{path}: {what}: only tensors, or one dict of tensors, can be sent")
        if parameter.name not in given and not parameter.has_default_value():
            raise UnsupportedError(f"{path}: forward needs {parameter.name!r}, but no declared input is for it")


def _picked(result: Any, names: Sequence[str]) -> Any:
    """The values of a dict that has all output names as keys, in their order; any other result unchanged."""
    if not isinstance(result, dict):
        return result
    named = {str(key): value for key, value in result.items()}
    return [named[name] for name in names] if {*names} == {*named} else result


def check_trusted(path: Path) -> None:
    """Check that the user trusts the file.

    Raises:
        UnsupportedError: it is not trusted.
    """
    if not is_trusted(path):
        raise UnsupportedError(
            f"{path}: TorchScript can run any code: export the model with torch.export.save (.pt2), or trust the "
            "file (--trust)"
        )


def load_script(path: Path) -> Any:
    """Load the module of a trusted file.

    Raises:
        ModelFileError: PyTorch cannot load it, or it has no `forward`.
    """
    try:
        module = torch.jit.load(str(path), map_location="cpu").eval()
    except Exception as error:  # noqa: BLE001  PyTorch's errors share no base
        raise ModelFileError(f"{path}: PyTorch cannot load it: {short(error)}") from None
    if not hasattr(module, "forward"):
        raise ModelFileError(f"{path}: the module has no forward")
    return module


def seen_signature(path: Path, data: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """Infer a file's inputs and outputs from calls with the arrays of a data file, as lines of `engine.signature`.

    First axes are rows. Another axis of an input is free if its size differs between the input's arrays (NAME/GROUP),
    and another axis of an output if its size differs between calls.

    Args:
        path: a file that the user trusts.
        data: arrays by the names of the parameters of `forward`, without some that have defaults, or of the keys of the
            dict that it takes; or one array without a name for the only parameter.

    Raises:
        UnsupportedError: the file is not trusted, or the module takes or returns types that the protocol lacks.
        ModelFileError: PyTorch cannot load it.
        UsageError: the arrays are not the inputs.
        EngineError: it fails on them.
    """
    check_trusted(path)
    module = load_script(path)
    parameters = _parameters(module)
    names = [parameter.name for parameter in parameters]
    known = list(dict.fromkeys(name.partition("/")[0] for name in data if name))
    if _takes_dict(parameters):
        names = known or names
    else:
        names = [
            parameter.name for parameter in parameters if parameter.name in known or not parameter.has_default_value()
        ] or names
    convention = _Convention.of(path, module, names)
    calls = [[array[:rows] for array in group] for group in _groups(names, data) for rows in (1, 2)]
    answers = [_named(_answer(module, convention, call)) for call in calls]
    if not answers[0]:
        raise UnsupportedError(f"{path}: the module returns no tensor")
    inputs = {name: [_seen(call[index]) for call in calls] for index, name in enumerate(names)}
    outputs = {name: [_seen(answer[name]) for answer in answers if name in answer] for name in answers[0]}
    return (
        *(_line("input", name, seen) for name, seen in inputs.items()),
        *(_line("output", name, seen) for name, seen in outputs.items()),
    )


def _groups(names: Sequence[str], data: Mapping[str, np.ndarray]) -> list[list[Any]]:
    """Tensors of the first groups of requests, in the order of the parameters, with two rows each.

    Float64, numpy's default for floats, becomes float32.
    """
    if len(names) == 1 and "" in data:
        data = {names[0]: data[""]}
    known = list(dict.fromkeys(name.partition("/")[0] for name in data))
    labels = list(dict.fromkeys(name.partition("/")[2] for name in data if name.partition("/")[0] in names))
    keys = [[f"{name}/{label}" if label else name for name in names] for label in labels[:_GROUPS]]
    if not keys or any(key not in data for group in keys for key in group):
        raise UsageError(f"the data file has the arrays {', '.join(known)}; forward takes {', '.join(names)}")
    if any(not data[key].size or not data[key].ndim for group in keys for key in group):
        raise UsageError("the data file has an array without rows: its first axis is that of the requests")
    calls = []
    for group in keys:
        arrays = [np.concatenate([data[key], data[key]])[:2] for key in group]
        arrays = [array.astype(np.float32) if array.dtype == np.float64 else array for array in arrays]
        try:
            calls.append([as_tensor(np.ascontiguousarray(array)) for array in arrays])
        except TypeError:  # strings
            raise UsageError("the data file has an array of a type that PyTorch lacks") from None
    return calls


def _answer(module: Any, convention: _Convention, call: Sequence[Any]) -> Any:
    try:
        with torch.inference_mode():
            return convention.call(module, call)
    except Exception as error:  # noqa: BLE001  as in load_script
        raise EngineError(f"PyTorch failed on the data: {_last_line(error)}") from None


def _named(result: Any) -> dict[str, Any]:
    """The tensors of a result by name: the keys of a dict, `output` for one tensor, numbered for several."""
    tensors = list(_tensors(result))
    if isinstance(result, dict) and len(result) == len(tensors):
        return dict(zip(map(str, result), tensors, strict=True))
    return {"output" if len(tensors) == 1 else f"output_{index}": tensor for index, tensor in enumerate(tensors)}


def _seen(tensor: Any) -> tuple[Any, tuple[int, ...]]:
    return tensor.dtype, tuple(tensor.shape)


def _line(kind: str, name: str, seen: Sequence[tuple[Any, tuple[int, ...]]]) -> str:
    """The line of a signature for a tensor in several calls; sizes that differ are free."""
    (dtype, shape), *_ = seen
    if dtype not in DTYPES or len({len(dims_seen) for _, dims_seen in seen}) > 1:
        raise UnsupportedError(
            f"{kind} {name!r} is {dtype} with {len(shape)} axes in some calls only, which a signature cannot express"
        )
    sizes = list(zip(*(dims_seen for _, dims_seen in seen), strict=True))
    dims = tuple(None if len(set(size)) > 1 else size[0] for size in sizes)
    return f"{kind} {name} {TensorSpec(name, DTYPES[dtype], dims).describe()}"


def _tensors(result: Any) -> Sequence[Any]:
    """All tensors of a result, in order."""
    if isinstance(result, torch.Tensor):
        return [result]
    parts = result.values() if isinstance(result, dict) else result if isinstance(result, tuple | list) else ()
    return [tensor for part in parts for tensor in _tensors(part)]


def _last_line(error: BaseException) -> str:
    """The last line of TorchScript's traceback, which is the error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:200]
