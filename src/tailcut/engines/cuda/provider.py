"""The options of onnxruntime's CUDA provider for those of an engine, and what is missing where there is no provider.

Pure. The names are those of onnxruntime's documentation of the CUDA execution provider.
"""

from collections.abc import Collection

from tailcut.engines.base import EngineOptions
from tailcut.errors import UnsupportedError

PROVIDER = "CUDAExecutionProvider"
_PRECISIONS = {"f32", "tf32", "f16"}


def check_options(options: EngineOptions) -> None:
    """Check that the provider supports the options.

    Raises:
        UnsupportedError: it does not; the message names the setting, and what to use.
    """
    if options.precision in {"int8", "int8_static"}:
        raise UnsupportedError(
            f"onnxruntime on device cuda has no precision {options.precision}: its provider computes quantised models "
            "as floats, which takes longer than the model itself: use f32, tf32 or f16"
        )
    if options.precision not in _PRECISIONS:
        raise UnsupportedError(f"onnxruntime on device cuda has no precision {options.precision}: use f32, tf32 or f16")


def provider_options(options: EngineOptions, *, graphs: bool) -> dict[str, str]:
    """The provider's options.

    Args:
        options: of the engine.
        graphs: whether calls are captured, which requires all of a model's operators to run on the device.
    """
    cuda = options.cuda
    settings = {
        "device_id": str(cuda.index),
        "use_tf32": str(int(options.precision == "tf32")),
        "enable_cuda_graph": str(int(graphs)),
        "prefer_nhwc": str(int(options.layout == "channels_last")),
        "cudnn_conv_algo_search": cuda.conv_search.upper(),
        "cudnn_conv_use_max_workspace": "1",
        # Copies wait for computations on their memory only if both are on one stream.
        "do_copy_in_default_stream": "1",
        # By the requested size instead of powers of two: buckets have fixed sizes.
        "arena_extend_strategy": "kSameAsRequested",
    }
    if cuda.memory_limit_mb:
        settings["gpu_mem_limit"] = str(cuda.memory_limit_mb << 20)
    return settings


def missing_provider(version: str, available: Collection[str]) -> str:
    """Why onnxruntime cannot compute on a CUDA device, in one line; "" where that can be tried.

    Args:
        version: of onnxruntime.
        available: the providers that it has.
    """
    if PROVIDER not in available:
        return (
            f"device cuda: onnxruntime {version} is built without CUDA: pip uninstall onnxruntime, and "
            "pip install onnxruntime-gpu"
        )
    return ""
