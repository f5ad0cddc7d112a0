"""Answers read from bytes that come in pieces."""

from tailcut.wire.http1.answers import AnswerReader, HttpAnswer


def read(data: bytes, step: int, reader: AnswerReader | None = None) -> list[HttpAnswer]:
    """Answers from bytes that come in pieces of `step` at most."""
    reader, answers = reader or AnswerReader(), []
    while data:
        target = reader.target()
        count = min(step, len(target), len(data))
        target[:count] = data[:count]
        data = data[count:]
        answer = reader.received(count)
        if answer is not None:
            answers.append(answer)
    return answers
