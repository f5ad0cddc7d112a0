"""Compiles src/tailcut/wire/inference.proto to inference.binpb beside it, the descriptor that the server reads.

    python scripts/compile_proto.py [--check]

With --check nothing is written; the exit code says whether the file is up to date. Needs grpcio-tools.
"""

import sys
import tempfile
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_tools import protoc

WIRE = Path(__file__).parent.parent / "src" / "tailcut" / "wire"


def compile_proto() -> bytes:
    """The descriptor set of inference.proto, without comments and positions."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "inference.binpb"
        code = protoc.main(["protoc", f"-I{WIRE}", f"--descriptor_set_out={out}", str(WIRE / "inference.proto")])
        if code:
            sys.exit("protoc refused inference.proto")
        return FileDescriptorSet.FromString(out.read_bytes()).SerializeToString(deterministic=True)


if __name__ == "__main__":
    compiled = compile_proto()
    target = WIRE / "inference.binpb"
    if "--check" in sys.argv:
        sys.exit(not target.exists() or target.read_bytes() != compiled)
    target.write_bytes(compiled)
    print(f"{target.name}: {len(compiled)} bytes")
