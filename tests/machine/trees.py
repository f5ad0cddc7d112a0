"""Made-up file trees, as the kernel shows them on machines that we do not have."""

from pathlib import Path


def plant(root: Path, files: dict[str, str]) -> Path:
    """Write files under `root`, with the folders they need."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def cpu_files(cpu: int, siblings: str, package: int = 0) -> dict[str, str]:
    """One CPU's place among the cores, and its first-level and last-level caches."""
    folder = f"cpu/cpu{cpu}"
    caches = [("0", "1", "Data", "48K", siblings), ("1", "1", "Instruction", "32K", siblings)]
    caches.append(("3", "3", "Unified", "36864K", f"{package * 4}-{package * 4 + 3}"))
    files = {
        f"{folder}/topology/thread_siblings_list": siblings,
        f"{folder}/topology/physical_package_id": str(package),
    }
    for index, level, kind, size, shared in caches:
        names = {"level": level, "type": kind, "size": size, "shared_cpu_list": shared}
        files |= {f"{folder}/cache/index{index}/{name}": text for name, text in names.items()}
    return files
