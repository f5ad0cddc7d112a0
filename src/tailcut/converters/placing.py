"""Puts the files of a conversion into place: a graph and its weights, which are named after the target.

Weights with a fixed name would replace those of another conversion into the same folder. A graph is never beside the
weights of another one, even if it replaces an earlier model and the process ends halfway.
"""

import logging
from contextlib import suppress
from pathlib import Path

from tailcut.engines.graph import external_files, external_tensors, load_graph
from tailcut.engines.model_files import model_files
from tailcut.errors import ModelFileError, UsageError

_log = logging.getLogger("tailcut")


def name_after(target: Path, written: Path) -> Path:
    """Rename a graph to the name of the target, and its weights to names that begin with it, in their folder.

    Raises:
        ModelFileError: the graph or its weights cannot be read.
        UsageError: another model beside the target has weights with that name.
    """
    if len(model_files(written)) > 1:
        model = load_graph(written)
        files = external_files(model, written)
        names = {name: f"{target.name}.data{number or ''}" for number, name in enumerate(files)}
        for name in names.values():
            _check_unused(target.with_name(name), target)
        for tensor in external_tensors(model):
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = names[entry.value]
        for name, file in files.items():
            file.rename(written.with_name(names[name]))
        written.write_bytes(model.SerializeToString())
    return written.rename(written.with_name(target.name))


def put_beside(target: Path, graph: Path) -> None:
    """Move a graph named after the target, and its weights, from a folder on the same file system."""
    _, *weights = model_files(graph)
    if weights:
        target.unlink(missing_ok=True)
    for file in weights:
        file.replace(target.with_name(file.name))
        _log.info("weights are beside it, in %s", file.name)
    graph.replace(target)


def _check_unused(weights: Path, target: Path) -> None:
    """Check that no other model in the target's folder reads this file."""
    if not weights.exists():
        return
    for other in sorted(target.parent.glob("*.onnx")):
        with suppress(ModelFileError):
            if other.name != target.name and any(file.samefile(weights) for file in model_files(other)):
                raise UsageError(f"{weights}: has the weights of {other.name}: write {target.name} to another folder")
