"""Every bound of the server, with its default. Nothing here is unlimited."""

from dataclasses import dataclass

QUESTION_BYTES = 64 * 1024  # the body of a question about the server


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """Sizes in bytes, times in seconds."""

    body_bytes: int = 64 << 20
    buffered_bytes: int = 512 << 20  # bodies in buffers of their own, all connections together
    connections: int = 4096  # over it, the connection that has been idle longest makes room
    head_timeout_s: float = 10.0  # from the first byte to the empty line
    body_timeout_s: float = 30.0  # from the empty line to the last byte
    write_timeout_s: float = 30.0  # an answer that the client does not read, and what it needs at the rate below
    write_rate: int = 64 << 10  # bytes a second
    watchers: int = 16  # of the live page's figures, each process
    idle_timeout_s: float = 300.0  # between two requests
    deadline_s: float = 30.0  # from the complete request to its answer, where the request names none
    linger_s: float = 2.0  # how long a refused body is read away, so that the refusal arrives
    drain_s: float = 5.0  # on SIGTERM: accepting goes on this long with readiness off

    def write_s(self, size_bytes: int) -> float:
        """How long a client may take to read so much: in total, however its reading is spread."""
        return self.write_timeout_s + size_bytes / self.write_rate
