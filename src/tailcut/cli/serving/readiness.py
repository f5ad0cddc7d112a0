"""Tells systemd that the server is ready, so that `systemctl start` returns when it answers (sd_notify(3))."""

import os
import socket
from contextlib import suppress


def tell_systemd() -> None:
    """Send READY=1 to the socket that systemd names for units of `Type=notify`; do nothing without one."""
    name = os.environ.get("NOTIFY_SOCKET", "")
    if name[:1] not in {"/", "@"}:
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"READY=1", f"\0{name[1:]}" if name[0] == "@" else name)
