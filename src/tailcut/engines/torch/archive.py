"""Checks an exported program before PyTorch reads it, from the names and bytes of its files.

`torch.export.load` is not safe for files of unknown origin: it unpickles weights and constants that are marked as
pickles, example inputs that it cannot read safely, and every file of its older format; it evaluates symbolic sizes as
Python, looks up operators by any dotted name below `torch`, imports the modules that a tree of outputs names, and loads
compiled code. A program that `torch.export.save` writes needs none of that, so whatever is not on the lists below is
refused. The example inputs are a pickle in every file; the caller reads them with `weights_only` first.
"""

import ast
import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tailcut.errors import UnsupportedError

PROGRAM = "models/model.json"
EXAMPLES = "data/sample_inputs/model.pt"
_PAYLOADS = {
    "data/weights/model_weights_config.json": "weight_",
    "data/constants/model_constants_config.json": "tensor_",
}
_KNOWN = re.compile(
    r"models/model\.json|archive_(?:format|version)|byteorder|\.?(?:data/)?(?:version|serialization_id)"
    r"|\.data/(?:version|serialization_id)|data/sample_inputs/model\.pt|extra/.*"
    r"|data/weights/(?:weight_\d+|model_weights_config\.json)"
    r"|data/constants/(?:tensor_\d+|model_constants_config\.json)"
)
# Libraries of operators that PyTorch does not register by itself, and the modules that do.
REGISTERED_BY = {
    "quantized_decomposed": "torch.ao.quantization.fx._decomposed",
    "torchao": "torchao",
    "torchvision": "torchvision",
}
_LIBRARIES = "|".join(("aten", "prims", "quantized", "mkldnn", "onednn", *REGISTERED_BY))
_REGISTERED = re.compile(rf'"torch\.ops\.({"|".join(REGISTERED_BY)})\.'.encode())
_HIGHER = "cond|while_loop|scan|map_impl|invoke_subgraph|wrap_with_set_grad_enabled|wrap_with_autocast"
_PYTHON = "add|sub|mul|truediv|floordiv|mod|neg|pow|eq|ne|lt|le|gt|ge|getitem|and_|or_|not_|index"
_TARGET = re.compile(
    rf"torch\.ops\.(?:{_LIBRARIES})\.(?:[A-Za-z_]\w*)\.[A-Za-z]\w*|torch\.ops\.higher_order\.(?:{_HIGHER})"
    rf"|_operator\.(?:{_PYTHON})|math\.(?:ceil|floor|trunc|sqrt|pow|log2)|torch\._?sym_\w+"
)
_FILES = {"torch.ops.aten.from_file.default", "torch.ops.aten.from_file.out"}  # operators that open files
_FUNCTIONS = frozenset(  # the functions of sympy and torch.utils._sympy that PyTorch writes into sizes
    [
        "Symbol",
        "Integer",
        "Rational",
        "Float",
        "Add",
        "Mul",
        "Pow",
        "Mod",
        "Max",
        "Min",
        "Abs",
        "floor",
        "ceiling",
        "Eq",
        "Ne",
        "Lt",
        "Le",
        "Gt",
        "Ge",
        "StrictLessThan",
        "LessThan",
        "StrictGreaterThan",
        "GreaterThan",
        "Equality",
        "Unequality",
        "And",
        "Or",
        "Not",
        "Piecewise",
        "FloorDiv",
        "ModularIndexing",
        "Where",
        "PythonMod",
        "CleanDiv",
        "CeilToInt",
        "FloorToInt",
        "CeilDiv",
        "PowByNatural",
        "FloatPow",
        "FloatTrueDiv",
        "IntTrueDiv",
        "TruncToFloat",
        "TruncToInt",
        "RoundToInt",
        "RoundDecimal",
        "ToFloat",
        "Identity",
    ]
)
_TREES = {None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict"}
_WORD = re.compile(r"[A-Za-z_]\w*\Z")
_DEEPEST = 200  # levels of nested objects in a program, whose graphs contain graphs
_NODES = (
    ast.Expression, ast.Call, ast.keyword, ast.Name, ast.Load, ast.Constant, ast.BinOp, ast.UnaryOp, ast.Compare,
    ast.operator, ast.unaryop, ast.cmpop, ast.Tuple,
)  # fmt: skip


def check_archive(names: Sequence[str], read: Callable[[str], bytes]) -> None:
    """Refuse a program whose loading could run anything but its own operators.

    Args:
        names: the names of the archive's files, without the folder that contains all of them.
        read: returns the bytes of a file.

    Raises:
        UnsupportedError: it contains something that is not allowed; says what.
        ValueError: it is not the archive of a program.
    """
    _check_names(names)
    for config, prefix in _PAYLOADS.items():
        for name, payload in dict(json.loads(read(config))["config"]).items():
            if payload.get("use_pickle") is not False:
                raise _refused(f"tensor {name!r} as a pickle", "save it with plain tensors as weights")
            if not str(payload.get("path_name", "")).startswith(prefix):
                raise _refused(f"constant {name!r}, which is not a tensor", "export it without custom objects")
    try:
        for item in _objects(json.loads(read(PROGRAM)), 0):
            _check_object(item)
    except RecursionError:
        raise ValueError("its graph is nested too deep") from None


def libraries_of(names: Sequence[str], read: Callable[[str], bytes]) -> set[str]:
    """The libraries in `REGISTERED_BY` whose operators a program uses; arguments as for `check_archive`."""
    return {name.decode() for name in _REGISTERED.findall(read(PROGRAM))} if PROGRAM in names else set()


def _check_names(names: Sequence[str]) -> None:
    if PROGRAM not in names or EXAMPLES not in names or not all(config in names for config in _PAYLOADS):
        if any(name.startswith("data/aotinductor/") for name in names):
            raise _refused("compiled code (an AOTInductor package)", "name the program that torch.export.save wrote")
        raise ValueError("it holds no program that torch.export.save wrote")
    for name in names:
        if name.startswith("data/aotinductor/"):
            raise _refused("compiled code", "save the program by itself with torch.export.save")
        if not _KNOWN.fullmatch(name):
            raise _refused(f"the file {name!r}", "save it again with torch.export.save of PyTorch 2.9 or later")


def _objects(value: Any, depth: int) -> Iterator[dict[str, Any]]:
    """Yield every JSON object, at any depth."""
    if depth > _DEEPEST:
        raise RecursionError
    if isinstance(value, dict):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _objects(item, depth + 1)


def _check_object(item: dict[str, Any]) -> None:
    if "target" in item and "inputs" in item:
        target = str(item["target"])
        if not _TARGET.fullmatch(target) or target in _FILES:
            raise _refused(f"the operator {target}", "export it with PyTorch's own operators")
    if "expr_str" in item:
        _check_size(str(item["expr_str"]))
    for key in ("in_spec", "out_spec"):
        if isinstance(item.get(key), str):
            _check_tree(item[key])


def _check_size(text: str) -> None:
    """Check that a size is arithmetic on symbols and numbers, because PyTorch evaluates it as Python."""
    try:
        nodes = list(ast.walk(ast.parse(text, mode="eval"))) if len(text) < 10_000 else []
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        nodes = []
    safe = bool(nodes)
    for node in nodes:
        safe = safe and isinstance(node, _NODES)
        if isinstance(node, ast.Call):
            safe = safe and isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            safe = safe and _WORD.match(node.value) is not None
        elif isinstance(node, ast.Name):
            safe = safe and not node.id.startswith("__")
    if not safe:
        raise _refused(f"the size {text[:80]!r}", "export it with other dynamic shapes")


def _check_tree(text: str) -> None:
    """Check that inputs and outputs are packed in Python's own containers with plain keys."""
    tree = json.loads(text) if text else None
    for item in _objects(tree, 0):
        kind = item.get("type")
        if kind not in _TREES:
            raise _refused(f"inputs or outputs of type {kind}", "export it with tensors, tuples and dicts of tensors")
        context = item.get("context")
        if isinstance(context, str) and any(True for _ in _objects(json.loads(context or "null"), 0)):
            raise _refused("keys that are not plain values", "export it with text as keys")


def _refused(what: str, advice: str) -> UnsupportedError:
    return UnsupportedError(f"the program contains {what}, which is not loaded: {advice}, or trust the file (--trust)")
