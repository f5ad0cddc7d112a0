"""Compiles the .proto files of src/tailcut/wire to .binpb files beside them, the descriptors that the server reads.

    python scripts/compile_proto.py [--check]

With --check nothing is written; the exit code says whether the files are up to date. Needs grpcio-tools.
"""

import sys
import tempfile
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_tools import protoc

WIRE = Path(__file__).parent.parent / "src" / "tailcut" / "wire"


def compile_proto(source: Path) -> bytes:
    """The descriptor set of a file, without comments and positions."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.binpb"
        code = protoc.main(["protoc", f"-I{WIRE}", f"--descriptor_set_out={out}", str(source)])
        if code:
            sys.exit(f"protoc refused {source.name}")
        return FileDescriptorSet.FromString(out.read_bytes()).SerializeToString(deterministic=True)


if __name__ == "__main__":
    for source in sorted(WIRE.glob("*.proto")):
        compiled = compile_proto(source)
        target = source.with_suffix(".binpb")
        if "--check" in sys.argv:
            if not target.exists() or target.read_bytes() != compiled:
                sys.exit(f"{target.name} is not what {source.name} compiles to")
            continue
        target.write_bytes(compiled)
        print(f"{target.name}: {len(compiled)} bytes")
