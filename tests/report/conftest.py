"""How the tests of this folder render pages."""

from collections.abc import Iterator
from functools import partial

import pytest
from jinja2 import Environment, FileSystemBytecodeCache


@pytest.fixture(scope="package", autouse=True)
def templates_compiled_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Share one template environment: each page has its own, and would spend 0.1 s of CPU on compiling templates."""
    kept = FileSystemBytecodeCache(str(tmp_path_factory.mktemp("templates")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tailcut.report.html.Environment", partial(Environment, bytecode_cache=kept))
        yield
