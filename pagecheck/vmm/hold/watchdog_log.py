"""What a watchdog reports when its owner may be gone: its stderr, and the system's log.

Danger: a write to a terminal, a pipe or a log that nobody reads blocks, or kills. Decision: stderr
is a memfd (`cat /proc/PID/fd/2` shows it, and the owner quotes it), and /dev/log is a datagram
socket that is asked without waiting.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from typing import Final

SYSTEM_LOG: Final = "/dev/log"
_DAEMON_WARNING: Final = 3 * 8 + 4  # RFC 3164, 4.1.1


def write_line(text: str) -> None:
    """Writes one line to both."""
    line = f"pagecheck[{os.getpid()}]: watchdog: {text}"
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        log.setblocking(False)
        log.sendto(f"<{_DAEMON_WARNING}>{line}".encode(errors="replace"), SYSTEM_LOG)
