"""Edits of a program's graph: which outputs it computes, in which precision, and where it writes them.

Each takes a `torch.fx.GraphModule` of PyTorch's own operators and returns one. Parameters are shared, unless an edit
converts them.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from tailcut.engines.base import U8Input
from tailcut.engines.channels import per_channel
from tailcut.errors import UnsupportedError

PIXEL_DTYPES = frozenset({torch.float32, torch.float16})  # inputs of these types can be taken as uint8
# Operators that are faster in lower precision; operators between them stay in float32, as in `torch.autocast`.
_PRODUCTS = frozenset(
    [
        "linear",
        "addmm",
        "mm",
        "bmm",
        "matmul",
        "baddbmm",
        "conv1d",
        "conv2d",
        "conv3d",
        "convolution",
        "conv_transpose1d",
        "conv_transpose2d",
        "scaled_dot_product_attention",
    ]
)

# Products whose argument at this index may be a weight; the argument before it is the other factor.
_WEIGHTED = {"linear": 1, "matmul": 1, "mm": 1, "addmm": 2}
_TRANSPOSED = frozenset({"t", "transpose", "permute", "numpy_T"})
_INT8 = 127  # the largest int8 whose negative is an int8, too


def flat(exported: Any, outputs: Sequence[int]) -> fx.GraphModule:
    """The program with its parameters inside, positional inputs, and a tuple of these outputs."""
    module: fx.GraphModule = exported.module(check_guards=False)  # guards are Python code
    module.requires_grad_(requires_grad=False)
    graph = module.graph
    graph.set_codegen(fx.graph.CodeGen())
    [end] = [node for node in graph.nodes if node.op == "output"]
    results = end.args[0] if isinstance(end.args[0], tuple | list) else (end.args[0],)
    end.args = (tuple(results[index] for index in outputs),)
    graph.eliminate_dead_code()
    # Without the hooks of PyTorch's module, which require the names of arguments from the export.
    return fx.GraphModule(module, graph)


def lowered(module: fx.GraphModule, dtype: torch.dtype) -> fx.GraphModule:
    """Compute matrix products, convolutions and attention in this dtype, and convert their results back to float32.

    Weights are converted once; the originals stay if another operator reads them.
    """
    graph = module.graph
    weights: dict[str, str] = {}
    for node in [node for node in graph.nodes if _name(node) in _PRODUCTS]:
        value = node.meta.get("val")
        if value is None or value.dtype != torch.float32:
            continue
        changed = {}
        for operand in {arg for arg in [*node.args, *node.kwargs.values()] if isinstance(arg, fx.Node)}:
            if _dtype(module, operand) == torch.float32:
                changed[operand] = _cast(module, node, operand, dtype, weights)
        node.args = tuple(changed.get(arg, arg) if isinstance(arg, fx.Node) else arg for arg in node.args)
        node.kwargs = {k: changed.get(arg, arg) if isinstance(arg, fx.Node) else arg for k, arg in node.kwargs.items()}
        with graph.inserting_after(node):
            back = graph.call_function(torch.ops.aten.to.dtype, (node, torch.float32))
        back.meta = dict(node.meta)
        node.replace_all_uses_with(back, delete_user_cb=lambda user, own=back: user is not own)
    graph.eliminate_dead_code()
    module.delete_all_unused_submodules()
    _drop_unread(module)
    module.recompile()
    return module


def weights_in_int8(module: fx.GraphModule) -> fx.GraphModule:
    """Store weights of matrix products in int8 with a scale for each output; products are computed in bfloat16.

    Scales follow from the weights alone, so that rows stay independent. Convolutions are unchanged.

    Raises:
        UnsupportedError: there is no such product.
    """
    graph, count = module.graph, 0
    for node in [node for node in graph.nodes if _name(node) in _WEIGHTED and not node.kwargs]:
        index = _WEIGHTED[_name(node)]
        operands = node.args[index - 1 : index + 1]
        weight = _constant(module, operands[-1]) if len(operands) == 2 else None
        if weight is None or weight.dtype != torch.float32 or weight.dim() != 2:
            continue
        value = node.meta.get("val")
        if value is None or value.dtype != torch.float32:
            continue
        axis = 0 if _name(node) == "linear" else 1  # the weight's axis of outputs
        scale = weight.abs().amax(1 - axis, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny) / _INT8
        names = f"int8_{count}", f"int8_{count}_scale"
        module.register_buffer(names[0], (weight / scale).round().to(torch.int8), persistent=False)
        module.register_buffer(names[1], scale.reshape(-1), persistent=False)
        bias = node.args[0] if index == 2 else node.args[2] if len(node.args) > 2 else None
        product = torch.ops.aten.mm.default if index == 2 else node.target
        with graph.inserting_before(node):
            small = [
                graph.call_function(torch.ops.aten.to.dtype, (operand, torch.bfloat16))
                for operand in (operands[0], graph.get_attr(names[0]))
            ]
            made = graph.call_function(product, tuple(small))
            made = graph.call_function(torch.ops.aten.to.dtype, (made, torch.float32))
            made = graph.call_function(torch.ops.aten.mul.Tensor, (made, graph.get_attr(names[1])))
            if bias is not None:
                made = graph.call_function(torch.ops.aten.add.Tensor, (made, bias))
        made.meta = dict(node.meta)
        node.replace_all_uses_with(made)
        count += 1
    if not count:
        raise UnsupportedError("precision int8: the program has no matrix product with constant weights")
    graph.eliminate_dead_code()
    module.delete_all_unused_submodules()
    _drop_unread(module)
    module.recompile()
    return module


def pixels(module: fx.GraphModule, fold: U8Input) -> fx.GraphModule:
    """Take float32 and float16 inputs as uint8: `x * scale + offset` per channel, on the program's device."""
    graph = module.graph
    for node in [node for node in graph.nodes if node.op == "placeholder"]:
        value = node.meta.get("val")
        if getattr(value, "dtype", None) not in PIXEL_DTYPES:
            continue
        dims = [dim if isinstance(dim, int) else 0 for dim in value.shape]
        for name, values in (("scale", fold.scale), ("offset", fold.offset)):
            array = torch.from_numpy(per_channel(values, dims, fold.channels).copy())
            module.register_buffer(f"{node.name}_{name}", array.to(_device_of(module)), persistent=False)
        users = list(node.users)
        with graph.inserting_after(node):
            floats = graph.call_function(torch.ops.aten.to.dtype, (node, torch.float32))
        with graph.inserting_after(floats):
            scale = graph.get_attr(f"{node.name}_scale")
        with graph.inserting_after(scale):
            scaled = graph.call_function(torch.ops.aten.mul.Tensor, (floats, scale))
        with graph.inserting_after(scaled):
            offset = graph.get_attr(f"{node.name}_offset")
        with graph.inserting_after(offset):
            shifted = graph.call_function(torch.ops.aten.add.Tensor, (scaled, offset))
        with graph.inserting_after(shifted):
            done = graph.call_function(torch.ops.aten.to.dtype, (shifted, value.dtype))
        for made in (floats, scaled, shifted, done):
            made.meta = dict(node.meta)
        for user in users:
            user.replace_input_with(node, done)
    graph.lint()
    module.recompile()
    return module


def channels_last(module: fx.GraphModule) -> fx.GraphModule:
    """Keep images with their channels last in memory: convert weights once, and inputs of rank 4 in each call.

    Such a tensor may not allow a view of another shape, so views become reshapes, which copy if they have to.
    """
    module.to(memory_format=torch.channels_last)
    for node in module.graph.nodes:
        if node.target is torch.ops.aten.view.default:
            node.target = torch.ops.aten.reshape.default
    for node in [node for node in module.graph.nodes if node.op == "placeholder"]:
        value = node.meta.get("val")
        if getattr(value, "ndim", 0) == 4:
            with module.graph.inserting_after(node):
                laid = module.graph.call_function(
                    torch.ops.aten.contiguous.default, (node,), {"memory_format": torch.channels_last}
                )
            laid.meta = dict(node.meta)
            node.replace_all_uses_with(laid, delete_user_cb=lambda user, own=laid: user is not own)
    module.recompile()
    return module


def into_rows(module: fx.GraphModule) -> fx.GraphModule | None:
    """A copy that takes tensors for its outputs as further arguments and writes into them; None if that is impossible.

    The last operator of each output must have a variant with `out`, and no output may be an operand of another one.
    """
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    graph.graph_copy(module.graph, copies)
    [end] = [node for node in module.graph.nodes if node.op == "output"]
    results = end.args[0]
    writers = [_writer(result) for result in results]
    if len(set(results)) < len(results) or not all(writers):
        return None
    last = [node for node in graph.nodes if node.op == "placeholder"]
    written = []
    for number, (result, writer) in enumerate(zip(results, writers, strict=True)):
        with graph.inserting_after(last[-1]) if last else graph.inserting_before():
            last.append(graph.placeholder(f"out_{number}"))
        copy = copies[result]
        copy.target = writer
        copy.kwargs = {**copy.kwargs, "out": last[-1]}
        written.append(copy)
    graph.output(tuple(written))
    graph.lint()
    return fx.GraphModule(module, graph)


def _writer(node: Any) -> Any:
    """The variant of an operator that takes the same arguments and `out`; None without one."""
    if not isinstance(node, fx.Node) or node.op != "call_function":
        return None
    packet = getattr(node.target, "overloadpacket", None)
    if packet is None or node.target._schema.is_mutable:  # noqa: SLF001  what the operator takes is said nowhere else
        return None
    own = str(node.target).rpartition(".")[2]
    name = "out" if own == "default" else f"{own}_out"
    writer = getattr(packet, name, None) or (getattr(packet, "out", None) if own in {"Tensor", "default"} else None)
    if writer is None or len(node.target._schema.returns) != 1:  # noqa: SLF001  likewise
        return None
    given = [(argument.name, str(argument.type)) for argument in node.target._schema.arguments]  # noqa: SLF001  likewise
    takes = [(argument.name, str(argument.type)) for argument in writer._schema.arguments]  # noqa: SLF001  likewise
    return writer if takes == [*given, ("out", "Tensor")] else None


def _cast(
    module: fx.GraphModule, node: fx.Node, operand: fx.Node, dtype: torch.dtype, weights: dict[str, str]
) -> fx.Node:
    graph = module.graph
    if operand.op != "get_attr":
        with graph.inserting_before(node):
            return graph.call_function(torch.ops.aten.to.dtype, (operand, dtype))
    own = str(operand.target)
    if own not in weights:
        weights[own] = f"lowered_{len(weights)}"
        module.register_buffer(weights[own], _attribute(module, own).to(dtype), persistent=False)
    with graph.inserting_before(node):
        return graph.get_attr(weights[own])


def _drop_unread(module: fx.GraphModule) -> None:
    """Free weights that no operator reads any more."""
    read = {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}
    for name in [name for name, _ in [*module.named_parameters(), *module.named_buffers()] if name not in read]:
        owner = module.get_submodule(name.rpartition(".")[0])
        delattr(owner, name.rpartition(".")[2])


def _device_of(module: fx.GraphModule) -> Any:
    """The device of its parameters; the CPU for a program without parameters."""
    return next((tensor.device for tensor in [*module.parameters(), *module.buffers()]), torch.device("cpu"))


def _constant(module: fx.GraphModule, node: Any) -> Any:
    """The value of a weight, possibly transposed; None for a node that is computed from inputs."""
    if not isinstance(node, fx.Node):
        return None
    if node.op == "get_attr":
        return _attribute(module, str(node.target))
    if _name(node) not in _TRANSPOSED or node.kwargs:
        return None
    source = _constant(module, node.args[0])
    return None if source is None else node.target(source, *node.args[1:])


def _attribute(module: fx.GraphModule, name: str) -> Any:
    owner = module.get_submodule(name.rpartition(".")[0])
    return getattr(owner, name.rpartition(".")[2])


def _dtype(module: fx.GraphModule, node: fx.Node) -> torch.dtype | None:
    value = _attribute(module, str(node.target)) if node.op == "get_attr" else node.meta.get("val")
    return getattr(value, "dtype", None)


def _name(node: fx.Node) -> str:
    packet = getattr(node.target, "overloadpacket", None)
    return "" if packet is None else str(packet).rpartition(".")[2]
