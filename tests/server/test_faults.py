"""What clients are told of errors, and what only the log has."""

import logging

import pytest

from tailcut.errors import EngineError, InvalidInputError
from tailcut.server.faults import fault, known, public_message
from tailcut.server.http.replies import error_reply


def test_the_words_of_an_engine_stay_in_the_log() -> None:
    """A client is told of its own mistakes in full."""
    assert public_message(InvalidInputError("input 'x' is missing")) == "input 'x' is missing"
    assert public_message(EngineError("node Conv_3 failed at 0x7f")) == "the model failed on this input"


@pytest.mark.parametrize("text", ["half of a pair: \ud800", "\udcff", "caf\u00e9 \udfff"])
def test_text_that_is_not_valid_is_answered(text: str) -> None:
    """A request always has an answer, whatever an error says."""
    message = text.encode(errors="replace").decode()
    assert public_message(InvalidInputError(text)) == message
    assert error_reply(400, text).endswith(f'{{"error":"{message}"}}'.encode())


def test_a_fault_of_the_server_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """With its traceback; its client is told that there was one, and no more."""
    with caplog.at_level(logging.ERROR, "tailcut"):
        assert fault(KeyError("secret")) == "the server failed on this message"
    (record,) = caplog.records
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], KeyError)


def test_errors_for_the_client_are_no_faults(caplog: pytest.LogCaptureFixture) -> None:
    """It is kept as it is; anything else becomes an error that says nothing of its cause."""
    error = InvalidInputError("no")
    assert known(error) is error
    assert not caplog.records
    with caplog.at_level(logging.ERROR, "tailcut"):
        message = known(KeyError("secret"))
    assert isinstance(message, EngineError)
    assert "secret" not in str(message)
    assert len(caplog.records) == 1
