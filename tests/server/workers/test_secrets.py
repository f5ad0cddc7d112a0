"""Which changes leave workers in their place: those of the certificate and the token alone."""

import os
from pathlib import Path

import pytest

from tailcut.errors import UsageError
from tailcut.server.workers.secrets import TOKEN, Secrets


def secrets(folder: Path, models: list[Path] | None) -> Secrets:
    """A token beside models; what is there is noted."""
    token = folder / "token"
    token.write_text("first")

    def read() -> str:
        if " " in token.read_text():
            raise UsageError("two words")
        return token.read_text()

    made = Secrets(None, token, read, lambda: models)
    made.note()
    return made


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "m.onnx").write_bytes(b"model")
    return tmp_path / "m.onnx"


def test_the_token_alone(tmp_path: Path, model: Path) -> None:
    """Until it has been read; what is not right is still to be read."""
    made = secrets(tmp_path, [model])
    assert not made.changed_alone()
    (tmp_path / "token").write_text("a token")
    assert made.changed_alone()
    assert made.read() == b""
    assert made.changed_alone()
    (tmp_path / "token").write_text("second")
    assert made.read() == TOKEN
    assert not made.changed_alone()


def test_a_model_besides(tmp_path: Path, model: Path) -> None:
    """Written with the same size and time, replaced, or gone; also where models are not known."""
    made = secrets(tmp_path, [model])
    (tmp_path / "token").write_text("second")
    before = model.stat()
    model.write_bytes(b"MODEL")
    os.utime(model, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert not made.changed_alone()
    model.unlink()
    assert not made.changed_alone()
    made.note()
    (tmp_path / "token").write_text("third!")
    assert made.changed_alone()
    made.forget()
    assert not made.changed_alone()
    assert not secrets(tmp_path, None).changed_alone()
