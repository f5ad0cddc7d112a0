"""One worker thread for each physical core, pinned to it, so that no two share execution units.

python examples/pinning.py
"""

import threading

from tailcut import pin_thread, topology, usable_cpus
from tailcut.errors import UnsupportedError
from tailcut.machine.quota import affinity_mask


def main() -> None:
    machine, allowed = topology(), affinity_mask()
    print(
        f"{len(machine.cpus)} CPUs on {len(machine.cores)} cores and {len(machine.nodes)} nodes; {usable_cpus()} usable"
    )
    firsts = [min(allowed.intersection(core.cpus)) for core in machine.cores if allowed.intersection(core.cpus)]
    print_turn = threading.Lock()

    def work(worker: int, cpu: int) -> None:
        try:
            pin_thread(cpu)
            where = f"CPU {', '.join(map(str, affinity_mask()))}"
        except UnsupportedError as error:  # macOS: the worker runs, only unpinned
            where = f"any CPU: {error}"
        with print_turn:
            print(f"worker {worker} runs on {where}")

    workers = [threading.Thread(target=work, args=pair) for pair in enumerate(firsts[: usable_cpus()])]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


if __name__ == "__main__":
    main()
