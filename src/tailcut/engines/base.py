"""What every engine promises, and the one set of options that all of them read.

An engine is a loaded model. `bind` ties it to arrays that the caller owns; calling the bound object computes from the
one into the other and allocates nothing. `run` is the plain way, for models whose outputs have no size known before.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol, runtime_checkable

import msgspec
import numpy as np

from tailcut.errors import UnsupportedError
from tailcut.spec import ModelSpec

Arrays = Mapping[str, np.ndarray]
Bound = Callable[[], None]


# int8: weights quantised at load, activations with scales as they come; of torch on a device, weights alone.
# int8_static: the file is a quantised copy.
# tf32: a CUDA device multiplies float32 with 10 bits of the mantissa.
Precision = Literal["f32", "tf32", "bf16", "f16", "int8", "int8_static"]
Form = Literal["onnxruntime", "openvino"]  # the engine that a quantised copy of a model is made for


class U8Input(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A float input taken as uint8 on the wire; the graph computes `x * scale + offset`, per channel."""

    scale: tuple[float, ...] = (1.0,)
    offset: tuple[float, ...] = (0.0,)
    # The axis of the channels: 1, the last, or (auto) the last where only that one is as long as there are numbers.
    channels: Literal["auto", "first", "last"] = "auto"


class Reshape(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A tensor that clients see in another shape than the model: the same elements in the same order.

    Both are whole shapes, with -1 for a free dimension; the free ones correspond to each other in their order.
    """

    name: str
    client: tuple[int, ...]
    model: tuple[int, ...]
    side: Literal["", "input", "output"] = ""  # of the tensor, where an input and an output have that name


class CudaOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of a CUDA device, which engines on the CPU ignore."""

    index: int = 0  # of the device, among those that CUDA_VISIBLE_DEVICES leaves
    graphs: bool = True  # a captured graph for each bucket, instead of launching operator after operator
    # Rows that batches are filled up to: powers of two, sizes of one's own (powers of two beyond), or nothing at all.
    buckets: Literal["auto", "off"] | tuple[int, ...] = "auto"
    conv_search: Literal["default", "heuristic", "exhaustive"] = "heuristic"  # of onnxruntime, for convolutions
    # The others but for memory_limit_mb are torch's.
    slots: int = 0  # batches that are on the device at a time; 1: nothing overlaps; 0: one more than instances
    pinned: bool = True  # the memory that sockets receive into is registered, so that copies run beside everything else
    # Of captured graphs: of each graph alone, or of all graphs of a slot, which are never computed at a time.
    graph_memory: Literal["private", "shared"] = "private"
    caching: bool = True  # what a batch took is kept for the next, instead of given back to the driver
    memory_limit_mb: int = 0  # of onnxruntime's memory on the device, for this model; 0: none


class EngineOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of an engine; what one engine has no use for, it ignores, and `tailcut tune` never offers."""

    # none computes nothing: it measures the server
    name: Literal["onnxruntime", "openvino", "torch", "none"] = "onnxruntime"
    precision: Precision = "f32"
    graph: Literal["off", "basic", "all"] = "all"
    # NCHW as written, the engine's own blocked layout (NCHWc), or NHWC in memory
    layout: Literal["plain", "blocked", "channels_last"] = "blocked"
    # Of torch: operator by operator, torch.compile, or a library that is compiled ahead of time.
    compiler: Literal["eager", "inductor", "aot_inductor"] = "eager"
    device: Literal["cpu", "cuda"] = "cpu"  # cuda: programs of PyTorch, and ONNX models with onnxruntime-gpu
    cuda: CudaOptions = CudaOptions()
    prepack: bool = True  # weights re-laid once at load for the matrix kernels
    threads: int = 0  # intra-op threads of one instance; 0 leaves it to the engine
    instances: int = 1  # batches that may compute at the same time
    spinning: bool = True  # engine threads spin between calls instead of sleeping
    spin_us: int = 0  # how long at most, before they sleep; 0 leaves it to the engine
    pinning: bool = False  # engine threads bound to cores
    arena: bool = True  # the engine keeps its scratch memory between calls
    # By how much that memory grows when a call needs more: to the next power of two, or by what the call asks for.
    arena_growth: Literal["power_of_two", "as_requested"] = "power_of_two"
    static_buckets: bool = False  # where requests are padded, each bucket has an instance compiled for its sizes
    numa: bool = False  # instances on the nodes in turns, each node with weights, threads and memory of its own
    u8_input: U8Input | None = None
    outputs: tuple[str, ...] = ()  # of the model, those that are computed and served; empty: all
    # Free dimensions of the inputs that always have one size: NAME=SIZE, or INPUT:AXIS=SIZE where they have no name.
    fixed_dims: tuple[str, ...] = ()
    reshapes: tuple[Reshape, ...] = ()
    # Inputs and outputs of a file that does not say its own (TorchScript), a line each: input x FP32 [-1, 256]
    signature: tuple[str, ...] = ()


def parse_fixed_dim(text: str) -> tuple[str, int]:
    """The name of a dimension, and its size.

    Raises:
        UnsupportedError: it is not NAME=SIZE.
    """
    name, _, size = text.rpartition("=")
    if not name or not size.isdecimal() or not 0 < int(size) < 1 << 31:
        raise UnsupportedError(f"fixed_dims: {text!r} is not NAME=SIZE, such as height=224, or INPUT:AXIS=SIZE")
    return name, int(size)


class Engine(Protocol):
    """A loaded model. Bound objects are not thread-safe, but up to `options.instances` may run at the same time."""

    spec: ModelSpec
    options: EngineOptions

    def bind(self, inputs: Arrays, outputs: Arrays) -> Bound:
        """Tie C-contiguous arrays of exact shape and dtype to the model, and return the call that computes.

        The arrays must outlive the bound object; names must be all of the model's inputs and outputs.

        Raises:
            UnsupportedError: a tensor has no fixed size (BYTES, or free output dimensions beside the batch).
        """

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Compute all outputs into fresh arrays.

        Raises:
            EngineError: the engine refused the inputs or failed.
        """

    def close(self) -> None:
        """Give the engine's memory back; no call may be in flight."""


@runtime_checkable
class Interruptible(Protocol):
    """An engine that can be told to give up a call."""

    def interrupt(self, thread: int) -> None:
        """Have the call that runs on this thread now (`threading.get_ident`) end early, with an EngineError."""


@runtime_checkable
class RequestEngine(Protocol):
    """An engine that is given the requests of a batch each by itself, because their outputs may differ in size."""

    @property
    def one_by_one(self) -> bool:
        """Whether requests are to be handed in one by one: each has the time of a whole call."""

    def run_apart(self, requests: Sequence[Arrays]) -> list[list[np.ndarray]]:
        """Compute the outputs of each request, in the order of `spec.outputs`, into fresh arrays.

        Raises:
            EngineError: the engine refused an input or failed.
            BatchLostError: what computed them ended; none is to be tried again.
        """
