"""How the pages of this folder's tests are drawn."""

from collections.abc import Iterator
from functools import partial

import pytest
from jinja2 import Environment, FileSystemBytecodeCache


@pytest.fixture(scope="package", autouse=True)
def templates_compiled_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Each page has an environment of its own, which would compile the templates anew: a tenth of a second of CPU."""
    kept = FileSystemBytecodeCache(str(tmp_path_factory.mktemp("templates")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tailcut.report.html.Environment", partial(Environment, bytecode_cache=kept))
        yield
