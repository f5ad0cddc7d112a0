"""How long the event loop is held by each hostile input: bytes sent, and the longest wait of a client beside it.

    python benchmarks/hostile.py [--source SRC] [--repeats 3] [--only WORD]

A real `tailcut serve` answers a probe (`GET /v2/health/live`, again and again on one connection) while another
connection sends the input. The figure is the probe's longest wait, or the CPU time that the server's loop thread spent
meanwhile where that is less: what other processes take from it does not count. The median of the repeats is shown.
`--source` names the `src` folder of another checkout, to compare with.
"""

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
from tests.server.beside import GoodClient, wait_beside_s  # noqa: E402  the folder is on the path only now
from tests.server.hostile import ALL, make_models  # noqa: E402
from tests.servers import serving  # noqa: E402

_PROBE = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
_QUIET_S = 0.2  # without a word from the server, and it is done with an input
_LIMIT_S = 20.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", help="the src folder of another checkout")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    if arguments.source:
        os.environ["PYTHONPATH"] = str(Path(arguments.source).resolve())
    with tempfile.TemporaryDirectory() as folder:
        models = make_models(Path(folder))
        with serving(Path(folder), *models, "--grpc-port", "0") as server:
            client = GoodClient(server, _PROBE)
            print(f"{'input':<44}{'bytes':>12}{'longest wait, ms':>18}")
            for name, hostile in ALL.items():
                if arguments.only in name:
                    waits = [
                        wait_beside_s(server, client, hostile, limit_s=_LIMIT_S, quiet_s=_QUIET_S)
                        for _ in range(arguments.repeats)
                    ]
                    print(f"{name:<44}{len(hostile.data):>12,}{statistics.median(waits) * 1e3:>18.1f}", flush=True)
            client.close()
            server.stop()


if __name__ == "__main__":
    main()
