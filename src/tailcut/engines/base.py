"""The interface of all engines, and the set of options that all of them read.

An engine is a loaded model. `bind` ties it to arrays that the caller owns; calling the bound object computes from the
inputs into the outputs without allocating. `run` is for models whose outputs have no known size.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol, runtime_checkable

import msgspec
import numpy as np

from tailcut.errors import UnsupportedError
from tailcut.spec import ModelSpec

Arrays = Mapping[str, np.ndarray]
Bound = Callable[[], None]


# int8: weights are quantised at load, activations dynamically; with torch on a device, only weights.
# int8_static: the file is a quantised copy.
# tf32: a CUDA device multiplies float32 with 10 bits of mantissa.
Precision = Literal["f32", "tf32", "bf16", "f16", "int8", "int8_static"]
Form = Literal["onnxruntime", "openvino"]  # the engine that a quantised copy of a model is made for


class U8Input(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Float inputs that are uint8 on the wire; the graph computes `x * scale + offset`, per channel."""

    scale: tuple[float, ...] = (1.0,)
    offset: tuple[float, ...] = (0.0,)
    # The axis of the channels: 1, the last, or (auto) the last where only that has the number of channels, else 1.
    channels: Literal["auto", "first", "last"] = "auto"


class Reshape(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A tensor that has another shape for clients than for the model: the same elements in the same order.

    Both shapes are complete, with -1 for a free dimension; free dimensions correspond to each other in their order.
    """

    name: str
    client: tuple[int, ...]
    model: tuple[int, ...]
    side: Literal["", "input", "output"] = ""  # needed where an input and an output have the same name


class CudaOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings for a CUDA device, which engines on the CPU ignore."""

    index: int = 0  # of the device, among the visible ones (CUDA_VISIBLE_DEVICES)
    graphs: bool = True  # a captured graph for each bucket, instead of launching operators one by one
    # Sizes to which batches are padded: powers of two, given sizes (powers of two beyond them), or none.
    buckets: Literal["auto", "off"] | tuple[int, ...] = "auto"
    conv_search: Literal["default", "heuristic", "exhaustive"] = "heuristic"  # onnxruntime only, for convolutions
    # torch only, except memory_limit_mb.
    slots: int = 0  # batches on the device at a time; 1: nothing overlaps; 0: one more than instances
    pinned: bool = True  # the slab is registered with CUDA, so that copies run asynchronously
    # Memory of captured graphs: separate for each graph, or shared by those of a slot, which never run simultaneously.
    graph_memory: Literal["private", "shared"] = "private"
    caching: bool = True  # memory of a batch is kept for the next, instead of being returned to the driver
    memory_limit_mb: int = 0  # limit of onnxruntime's device memory for this model; 0: none


class EngineOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of an engine; it ignores those that it does not have, and `tailcut tune` never tries them."""

    # none computes nothing: it measures the server
    name: Literal["onnxruntime", "openvino", "torch", "none"] = "onnxruntime"
    precision: Precision = "f32"
    graph: Literal["off", "basic", "all"] = "all"
    # NCHW as written, the engine's own blocked layout (NCHWc), or NHWC in memory
    layout: Literal["plain", "blocked", "channels_last"] = "blocked"
    # torch only: operator by operator, torch.compile, or a library compiled ahead of time.
    compiler: Literal["eager", "inductor", "aot_inductor"] = "eager"
    device: Literal["cpu", "cuda"] = "cpu"  # cuda: programs of PyTorch, and ONNX models with onnxruntime-gpu
    cuda: CudaOptions = CudaOptions()
    prepack: bool = True  # weights are reordered at load for the matrix kernels
    threads: int = 0  # intra-op threads of one instance; 0 leaves it to the engine
    instances: int = 1  # batches that may compute at the same time
    spinning: bool = True  # engine threads spin between calls instead of sleeping
    spin_us: int = 0  # how long they spin at most before they sleep; 0 leaves it to the engine
    pinning: bool = False  # engine threads are bound to cores
    arena: bool = True  # the engine keeps its scratch memory between calls
    # How that memory grows when a call needs more: to the next power of two, or by the requested size.
    arena_growth: Literal["power_of_two", "as_requested"] = "power_of_two"
    static_buckets: bool = False  # where requests are padded, an instance is compiled for the sizes of each bucket
    numa: bool = False  # instances are spread over the NUMA nodes, each with weights, threads and memory of its own
    u8_input: U8Input | None = None
    outputs: tuple[str, ...] = ()  # the outputs of the model that are computed and served; empty: all
    # Sizes for free dimensions of the inputs: NAME=SIZE, or INPUT:AXIS=SIZE for dimensions without a name.
    fixed_dims: tuple[str, ...] = ()
    reshapes: tuple[Reshape, ...] = ()
    # Inputs and outputs, for a file that does not declare them (TorchScript), a line each: input x FP32 [-1, 256]
    signature: tuple[str, ...] = ()


def parse_fixed_dim(text: str) -> tuple[str, int]:
    """The name and size in `NAME=SIZE`.

    Raises:
        UnsupportedError: the text is not of this form.
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
        """Bind C-contiguous arrays of the exact shapes and dtypes to the model, and return the call that computes.

        The arrays must outlive the bound object, and must be all of the model's inputs and outputs, by name.

        Raises:
            InvalidInputError: an array does not fit.
            UnsupportedError: a tensor has no fixed size (BYTES, or free output dimensions beside the batch).
            ReleasedError: the engine was closed.
        """

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Compute all outputs into new arrays.

        Raises:
            EngineError: the engine rejected the inputs or failed.
            ReleasedError: the engine was closed.
        """

    def close(self) -> None:
        """Free the engine; no call may be in progress."""


@runtime_checkable
class Interruptible(Protocol):
    """An engine whose calls can be interrupted."""

    def interrupt(self, thread: int) -> None:
        """End the call that runs on this thread (`threading.get_ident`) early, with an EngineError."""


@runtime_checkable
class RequestEngine(Protocol):
    """An engine that gets the requests of a batch separately, because their outputs may differ in size."""

    @property
    def one_by_one(self) -> bool:
        """Whether requests should be passed one at a time, each with the timeout of a whole call."""

    def run_apart(self, requests: Sequence[Arrays]) -> list[list[np.ndarray]]:
        """Compute the outputs of each request, in the order of `spec.outputs`, into new arrays.

        Raises:
            EngineError: the engine rejected an input or failed.
            BatchLostError: the process that computed them ended; none must be tried again.
        """
