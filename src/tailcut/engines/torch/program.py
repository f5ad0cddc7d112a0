"""Reads exported programs safely, with their signature, row analysis, and hints for generated requests."""

import io
import logging
import operator
import re
import threading
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import sympy
import torch
from torch.export.pt2_archive import _package
from torch.utils import _pytree

from tailcut.engines.base import EngineOptions, parse_fixed_dim
from tailcut.engines.files import ENGINES_OF, FileKind, kind_of, model_name
from tailcut.engines.hints import InputHints
from tailcut.engines.installed import is_installed
from tailcut.engines.torch.archive import EXAMPLES, REGISTERED_BY, check_archive, libraries_of
from tailcut.engines.torch.indices import has_unchecked_indices, index_bounds
from tailcut.engines.torch.rows.analysis import RowAnalysis
from tailcut.engines.torch.rows.nodes import expression
from tailcut.engines.torch.sizes import ExportedSizes
from tailcut.engines.trust import is_trusted
from tailcut.errors import ModelFileError, UnsupportedError
from tailcut.spec import DType, ModelSpec, RowEvidence, Rows, TensorSpec

DTYPES = {
    torch.bool: DType.BOOL,
    torch.uint8: DType.UINT8,
    torch.uint16: DType.UINT16,
    torch.uint32: DType.UINT32,
    torch.uint64: DType.UINT64,
    torch.int8: DType.INT8,
    torch.int16: DType.INT16,
    torch.int32: DType.INT32,
    torch.int64: DType.INT64,
    torch.float16: DType.FP16,
    torch.bfloat16: DType.BF16,
    torch.float32: DType.FP32,
    torch.float64: DType.FP64,
}
_ENDLESS = {"while_loop"}  # operators that repeat part of the graph as often as values say
_REASON_CHARS = 200
_OF_DEVICE = re.compile(r"cuda|nvidia|support for \w+ devices", re.IGNORECASE)  # PyTorch's words for no device
_READING = threading.Lock()  # PyTorch's reader keeps its state in a global, and allows no second reader


@dataclass(frozen=True, slots=True)
class Arguments:
    """The arguments that a program is called with.

    Args:
        places: for each input of the spec, its index among the program's user inputs.
        constants: the other user inputs, by index.
    """

    places: tuple[int, ...]
    constants: Mapping[int, Any]

    def all(self, tensors: Sequence[Any]) -> list[Any]:
        """All user inputs in the program's order, including those that are not tensors."""
        arguments: list[Any] = [None] * (len(self.places) + len(self.constants))
        for index, tensor in zip(self.places, tensors, strict=True):
            arguments[index] = tensor
        for index, value in self.constants.items():
            arguments[index] = value
        return arguments


@dataclass(frozen=True, slots=True)
class TorchProgram:
    """A program and what is known of it.

    Args:
        exported: the result of `torch.export.load`.
        spec: its signature, with the result of the row analysis.
        hints: what is known of its inputs beyond the signature.
        arguments: the arguments of its calls; an engine keeps only these, as `exported` holds the original weights.
        outputs: for each output of the spec, its index among the program's outputs.
        weight_bytes: size of its parameters, buffers and constants.
        endless: an operator whose running time depends on values of a request; "" without one.
        sizes: the sizes that it was exported for; every request is checked, because other sizes may get wrong answers.
        computes_indices: it computes indices from a request's values, which cannot be checked in advance.
    """

    exported: Any
    spec: ModelSpec
    hints: InputHints
    arguments: Arguments
    outputs: tuple[int, ...]
    weight_bytes: int = 0
    endless: str = ""
    sizes: ExportedSizes = ExportedSizes()  # noqa: RUF009  frozen
    computes_indices: bool = False


def read_program(path: Path, options: EngineOptions, name: str | None = None) -> TorchProgram:
    """Read a program without running any code that the file contains.

    Raises:
        ModelFileError: it cannot be read, or it is not a program.
        UnsupportedError: it contains something that is not allowed, changes its own state, or has inputs that are not
            tensors.
    """
    return _described(load_exported(path), path, options, name)


def short(error: BaseException) -> str:
    """PyTorch's message in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:_REASON_CHARS]


def load_exported(path: Path) -> Any:
    """Load a program with PyTorch; the archive is first checked through PyTorch's reader, so both see the same files.

    Raises:
        ModelFileError: it cannot be read, or it is not a program.
        UnsupportedError: it contains something that is not allowed.
    """
    kind = kind_of(path)
    if kind is not FileKind.PROGRAM:
        raise ModelFileError(f"{path}: {kind}, not a PyTorch program: it needs the engine {ENGINES_OF[kind][0]}")
    with _READING:
        return _read(path)


def _read(path: Path) -> Any:
    log = logging.getLogger("torch.export")
    level = log.level
    log.setLevel(logging.CRITICAL)  # it logs a stack for each error that it raises
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if not is_trusted(path):
                _check(file)
            _register(file)
            is_pickled = _is_pickled(file)
            file.seek(0)
            if is_pickled:
                return torch.export.load(file)
            return _package.load_pt2(file).exported_programs["model"]  # as above, but raises
    except UnsupportedError as error:
        raise UnsupportedError(f"{path}: {error}") from None
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read: {error.strerror or error}") from None
    except Exception as error:  # noqa: BLE001  PyTorch's errors share no base
        advice = ": export it on the CPU" if _OF_DEVICE.search(str(error)) else ""
        raise ModelFileError(f"{path}: PyTorch cannot load it: {short(error)}{advice}") from None
    finally:
        log.setLevel(level)


def _check(file: Any) -> None:
    if _is_pickled(file):
        raise UnsupportedError("it is in a format based on pickles: save it again with PyTorch 2.9 or later")
    file.seek(0)
    with _package.PT2ArchiveReader(file) as reader:
        check_archive(reader.get_file_names(), reader.read_bytes)
        examples = reader.read_bytes(EXAMPLES)
    if examples:
        try:
            torch.load(io.BytesIO(examples), weights_only=True)
        except Exception:  # noqa: BLE001  as in load_exported
            raise UnsupportedError(
                "its example inputs are not plain tensors: export it with tensors, or trust the file (--trust)"
            ) from None


def _is_pickled(file: Any) -> bool:
    """Whether it has PyTorch's older format."""
    with zipfile.ZipFile(file) as archive:
        return "version" in archive.namelist()


def _register(file: Any) -> None:
    """Import the packages that register the program's operators, because PyTorch's reader does not import them."""
    file.seek(0)
    if _is_pickled(file):
        return
    file.seek(0)
    with _package.PT2ArchiveReader(file) as reader:
        libraries = libraries_of(reader.get_file_names(), reader.read_bytes)
    for library in sorted(libraries):
        module = REGISTERED_BY[library]
        package = module.partition(".")[0]
        try:
            import_module(module)
        except ImportError as error:
            advice = "install a version that does" if is_installed(package) else f"pip install {package}"
            what = f"operators of {library}, which no installed package registers"
            raise UnsupportedError(f"the program has {what} ({short(error)}): {advice}") from None


def _described(exported: Any, path: Path, options: EngineOptions, name: str | None) -> TorchProgram:
    signature = exported.graph_signature
    names = list(_changed(exported.graph))
    written = [*signature.user_inputs_to_mutate.values(), *(name for name in names if name in signature.user_inputs)]
    if written:
        raise UnsupportedError(f"{path}: the program writes into its input {written[0]!r}: have forward copy it first")
    changed = [*signature.buffers_to_mutate.values(), *(signature.inputs_to_buffers.get(name, name) for name in names)]
    if changed:
        raise UnsupportedError(f"{path}: the program changes {changed[0]!r} at each call: export it in eval() mode")
    nodes = {node.name: node for node in exported.graph.nodes}
    places, constants = _user_inputs(signature, path)
    inputs = {name: nodes[name] for name in places}
    sizes = ExportedSizes.of(inputs, exported.range_constraints)
    fixed = _fixed(inputs, options, path)
    for symbol, size in fixed.items():
        sizes.check_fixed(str(symbol), size)
    outputs = _user_outputs(exported, nodes, path)
    missing = set(options.outputs) - set(outputs)
    if missing or not outputs:
        what = f"output {min(missing)!r}" if missing else "output that is a tensor"
        raise UnsupportedError(f"{path}: the program has no {what}: it has {', '.join(outputs) or 'none'}")
    kept = {label: outputs[label] for label in options.outputs or outputs}
    spec = ModelSpec(
        name or model_name(path),
        tuple(_tensor(label, node, path, fixed) for label, node in inputs.items()),
        tuple(_tensor(label, node, path, fixed) for label, (_, node) in kept.items()),
    )
    if spec.batchable and inputs:
        spec = replace(spec, most_rows=sizes.most(0, 0))
    evidence = _rows(exported.graph, spec, list(inputs.values()), {label: node for label, (_, node) in kept.items()})
    if spec.batchable and sizes.least(0, 0) > 1:
        evidence = RowEvidence(Rows.DEPENDENT, f"the program was exported for {sizes.least(0, 0)} or more rows")
    weights = [*exported.state_dict.values(), *exported.constants.values()]
    operators = {str(node.target) for node in exported.graph.nodes}
    return TorchProgram(
        exported,
        replace(_as_sent(spec, options), rows=evidence.rows, rows_reason=evidence.reason),
        _hints(spec, list(inputs.values())),
        Arguments(tuple(places.values()), constants),
        tuple(index for index, _ in kept.values()),
        sum(tensor.nbytes for tensor in weights if isinstance(tensor, torch.Tensor)),
        next(iter(_ENDLESS & operators), ""),
        sizes,
        has_unchecked_indices(exported.graph, list(inputs.values())),
    )


def _as_sent(spec: ModelSpec, options: EngineOptions) -> ModelSpec:
    """The signature as clients see it: with uint8 instead of float inputs if the options say so."""
    if options.u8_input is None:
        return spec
    floats = {DType.FP32, DType.FP16}
    if not any(tensor.dtype in floats for tensor in spec.inputs):
        raise UnsupportedError("u8_input needs a model with a float32 or float16 input; this one has none")
    inputs = [replace(tensor, dtype=DType.UINT8) if tensor.dtype in floats else tensor for tensor in spec.inputs]
    return replace(spec, inputs=tuple(inputs))


def _changed(graph: Any) -> Iterator[str]:
    """Yield inputs and buffers that an operator writes into, also through views of them."""
    for node in graph.nodes:
        for argument, operand in _operands(node):
            if argument.alias_info is not None and argument.alias_info.is_write:
                yield from _shown(operand)


def _shown(operand: Any) -> Iterator[str]:
    """Yield the inputs and buffers whose memory an operand shares; for a list, those of all its tensors."""
    left, seen = [operand], set()
    while left:
        node = left.pop()
        if isinstance(node, list | tuple):
            left.extend(node)
        elif getattr(node, "op", "") == "placeholder":
            yield node.name
        elif getattr(node, "op", "") == "call_function" and node not in seen:
            seen.add(node)
            if node.target is operator.getitem:  # one of several views, as chunk returns them
                left.append(node.args[0])
            elif _is_view(node):
                left.extend(value for argument, value in _operands(node) if argument.alias_info is not None)


def _operands(node: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each operand of a call, after its entry in the operator's schema."""
    schema = getattr(node.target, "_schema", None)
    for index, argument in enumerate(schema.arguments if schema is not None else ()):
        if index < len(node.args):
            yield argument, node.args[index]
        elif argument.name in node.kwargs:
            yield argument, node.kwargs[argument.name]


def _is_view(node: Any) -> bool:
    returns = getattr(getattr(node.target, "_schema", None), "returns", ())
    return any(value.alias_info is not None for value in returns)


def _user_inputs(signature: Any, path: Path) -> tuple[dict[str, int], dict[int, Any]]:
    """The indices of the tensors by name, and the other values by index."""
    places: dict[str, int] = {}
    constants: dict[int, Any] = {}
    for index, spec_input in enumerate(spec for spec in signature.input_specs if spec.kind.name == "USER_INPUT"):
        kind = type(spec_input.arg).__name__
        if kind == "ConstantArgument":
            constants[index] = spec_input.arg.value
        elif kind == "TensorArgument":
            places[spec_input.arg.name] = index
        else:
            raise UnsupportedError(
                f"{path}: input {spec_input.arg.name!r} is not a tensor: export it with tensors only"
            )
    return places, constants


def _user_outputs(exported: Any, nodes: Mapping[str, Any], path: Path) -> dict[str, tuple[int, Any]]:
    """The index and the node of each returned tensor, by name; returned numbers and None are left out."""
    specs = [spec for spec in exported.graph_signature.output_specs if spec.kind.name == "USER_OUTPUT"]
    outputs: dict[str, tuple[int, Any]] = {}
    for index, (name, output) in enumerate(zip(_output_names(exported), specs, strict=True)):
        if type(output.arg).__name__ != "TensorArgument":
            continue
        if name in outputs:
            raise UnsupportedError(f"{path}: two outputs are called {name!r}: export the program with other keys")
        outputs[name] = (index, nodes[output.arg.name])
    return outputs


def _output_names(exported: Any) -> list[str]:
    """The names of outputs: the keys of a returned dict, `output` for one tensor, numbered for several."""
    spec = exported.call_spec.out_spec
    places = _pytree.tree_unflatten(list(range(spec.num_leaves)), spec)
    paths = [path for path, _ in _pytree.tree_flatten_with_path(places)[0]]
    if len(paths) == 1 and not any(hasattr(key, "key") for key in paths[0]):
        return ["output"]
    names = []
    for path in paths:
        keys = [str(getattr(key, "key", getattr(key, "idx", ""))) for key in path]
        names.append(".".join(keys) if hasattr(path[0], "key") else "output_" + "_".join(keys))
    return names


def _tensor(name: str, node: Any, path: Path, fixed: Mapping[sympy.Expr, int]) -> TensorSpec:
    value = node.meta["val"]
    if value.dtype not in DTYPES:
        raise UnsupportedError(f"{path}: tensor {name!r} has type {value.dtype}, which the protocol has no name for")
    sizes = [expression(dim).subs(fixed) for dim in value.shape]
    return TensorSpec(name, DTYPES[value.dtype], tuple(int(size) if size.is_Integer else None for size in sizes))


def _fixed(nodes: Mapping[str, Any], options: EngineOptions, path: Path) -> dict[sympy.Expr, int]:
    """Sizes of the symbols that the user fixes, by INPUT:AXIS or by the symbol's own name."""
    fixed: dict[sympy.Expr, int] = {}
    for name, size in map(parse_fixed_dim, options.fixed_dims):
        names = [
            expression(dim)
            for input_name, node in nodes.items()
            for axis, dim in enumerate(node.meta["val"].shape)
            if not isinstance(dim, int) and name in {f"{input_name}:{axis}", str(expression(dim))}
        ]
        if not names:
            raise UnsupportedError(f"{path}: fixed_dims: no free dimension is called {name!r}: use INPUT:AXIS=SIZE")
        fixed |= dict.fromkeys(names, size)
    return fixed


def _rows(graph: Any, spec: ModelSpec, inputs: list[Any], outputs: Mapping[str, Any]) -> RowEvidence:
    if not spec.batchable or not inputs:
        return RowEvidence(Rows.DEPENDENT, "the program has no free first axis")
    firsts = {expression(node.meta["val"].shape[0]) for node in inputs}
    if len(firsts) != 1:
        return RowEvidence(Rows.DEPENDENT, "the first axes of the inputs differ in length")
    if not isinstance(first := next(iter(firsts)), sympy.Symbol):
        return RowEvidence(Rows.DEPENDENT, f"the program was exported for a first axis of {first}, not for any length")
    try:
        return RowAnalysis(firsts.pop()).run(graph, inputs, outputs)
    except (LookupError, TypeError, ValueError, AttributeError) as error:  # an operator with unusual arguments
        return RowEvidence(Rows.UNKNOWN, f"the graph cannot be followed ({type(error).__name__})")


def _hints(spec: ModelSpec, nodes: list[Any]) -> InputHints:
    """Which free axes have equal lengths, and the bounds of integers that index a table."""
    names = {
        tensor.name: tuple(None if isinstance(dim, int) else str(expression(dim)) for dim in node.meta["val"].shape)
        for tensor, node in zip(spec.inputs, nodes, strict=True)
    }
    by_name = {tensor.name: node for tensor, node in zip(spec.inputs, nodes, strict=True)}
    bounds = index_bounds(by_name)
    return InputHints(names, {}, bounds.below, bounds.below_axes, bounds.from_end)
