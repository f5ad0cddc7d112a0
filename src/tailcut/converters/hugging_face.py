"""Converts folders of Hugging Face models, by optimum.

Nothing is downloaded, no code in the folder is run, and weights are read from safetensors only: other files are
pickles.
"""

import contextlib
import io
import logging
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from tailcut.converters.original import Original, first_line, need
from tailcut.engines.base import Arrays
from tailcut.errors import UnsupportedError

_INSTALL = "optimum-onnx transformers torch"


class Folder:
    """A model in a folder that `save_pretrained` wrote."""

    def __init__(self, path: Path) -> None:
        self._torch = need("torch", _INSTALL)
        transformers = need("transformers", _INSTALL)
        self._exporter = need("optimum.exporters.onnx", _INSTALL).main_export
        self._path = path
        try:
            names = transformers.AutoConfig.from_pretrained(path, local_files_only=True).architectures
            if not names:
                raise ValueError("its config.json names no class of a model (architectures)")  # noqa: TRY301  likewise
            name = names[0]
            kind = getattr(transformers, name)
            self._task = need("optimum.exporters.tasks", _INSTALL).TasksManager.infer_task_from_model(kind)
            self._model = kind.from_pretrained(path, local_files_only=True, use_safetensors=True).eval()
        except Exception as error:  # noqa: BLE001  the libraries' errors share no base
            raise UnsupportedError(f"{path}: transformers cannot load it: {first_line(error)}") from None
        self.what = f"a {name} for {self._task}"

    def write(self, folder: Path) -> Path:
        """See `Original.write`."""
        with _quiet():
            try:
                self._exporter(
                    str(self._path),
                    output=folder,
                    task=self._task,
                    do_validation=False,
                    local_files_only=True,
                    library_name="transformers",  # compared with its class, whatever else is installed
                )
            except Exception as error:  # noqa: BLE001  as in __init__
                raise UnsupportedError(f"optimum cannot convert {self.what}: {first_line(error)}") from None
        graphs = sorted(folder.glob("*.onnx"))
        if len(graphs) != 1:
            names = ", ".join(graph.name for graph in graphs) or "none"
            raise UnsupportedError(f"{self.what} becomes several graphs ({names}): use optimum-cli export onnx")
        return graphs[0]

    def answer(self, inputs: Arrays, outputs: Arrays) -> list[np.ndarray]:
        """See `Original.answer`."""
        tensors = {name: self._torch.from_numpy(array) for name, array in inputs.items()}
        with self._torch.inference_mode():
            result = self._model(**tensors)
        return [result[name].numpy() for name in outputs if name in result]


def load_folder(path: Path) -> Original:
    """Load the model in a folder.

    Raises:
        UnsupportedError: a library is missing, or cannot load it.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"
    with _quiet():
        return Folder(path)


@contextlib.contextmanager
def _quiet() -> Any:
    """Suppress the output and warnings of the libraries."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
