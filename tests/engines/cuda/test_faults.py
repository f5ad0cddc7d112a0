"""What errors of a device mean, in the words that CUDA, PyTorch and onnxruntime have for them."""

import pytest

from tailcut.engines.cuda.faults import Fault, device_error, fault_of
from tailcut.errors import BatchLostError, DeviceError, DeviceLostError, EngineError


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.15 GiB", Fault.FULL),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", Fault.FULL),
        ("bfc_arena.cc:359 Available memory of 268 is smaller than requested bytes of 4294967296", Fault.FULL),
        ("Non-zero status code returned: Failed to allocate memory for requested buffer of size 1024", Fault.FULL),
        ("CUDA failure 2: out of memory ; GPU=0 ; hostname=a ; expr=cudaMalloc((void**)&p, size);", Fault.FULL),
        ("CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be ...", Fault.LOST),
        ("CUDA error: device-side assert triggered", Fault.LOST),
        ("CUDA failure 719: unspecified launch failure ; GPU=0", Fault.LOST),
        ("CUDA failure 700: an illegal memory access was encountered ; GPU=0", Fault.LOST),
        ("CUDA error: uncorrectable ECC error encountered", Fault.LOST),
        ("CUDA error: CUDA-capable device(s) is/are busy or unavailable", Fault.LOST),
        ("CUDA error: no kernel image is available for execution on the device", Fault.UNSUPPORTED),
        ("\"upsample_nearest3d_out_frame\" not implemented for 'Half'", Fault.UNSUPPORTED),
        ("Could not run 'aten::_sparse_mm' with arguments from the 'CUDA' backend.", Fault.UNSUPPORTED),
        ("NOT_IMPLEMENTED : Could not find an implementation for Gelu(20) node with name 'g'", Fault.UNSUPPORTED),
        ("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)", Fault.OTHER),
        ("", Fault.OTHER),
    ],
)
def test_every_known_text(text: str, fault: Fault) -> None:
    """Its kind, and an error of one line that belongs to it."""
    assert fault_of(text) is fault
    error = device_error(RuntimeError(text), "PyTorch")
    kinds = {Fault.FULL: DeviceError, Fault.LOST: DeviceLostError, Fault.UNSUPPORTED: DeviceError}
    assert type(error) is kinds.get(fault, EngineError)
    assert "\n" not in str(error)
    assert str(error).startswith("PyTorch")


def test_a_batch_on_a_lost_device_is_not_tried_again() -> None:
    """Each of its requests would fail in the same way."""
    assert issubclass(DeviceLostError, BatchLostError)
    assert not issubclass(DeviceError, BatchLostError)
