"""The file of the token, where an application is planned and where its replicas start."""

from pathlib import Path

import pytest

from tailcut.errors import UsageError
from tailcut.models import digits_model
from tailcut.ray.application import make_plan
from tailcut.ray.token import read_token


@pytest.mark.parametrize("content", [b"\xff\xfe", b"", b"two words"])
def test_no_token(tmp_path: Path, content: bytes) -> None:
    """A file that is there is looked at before anything is deployed; it may also be on the nodes only."""
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(UsageError, match=r"token: must contain one token of ASCII characters without spaces"):
        make_plan(digits_model(), token_file=tmp_path / "token")
    assert make_plan(digits_model(), token_file=tmp_path / "none").token_file == str(tmp_path / "none")
    with pytest.raises(UsageError, match="none: the token cannot be read: No such file"):
        read_token(tmp_path / "none")
