"""A network namespace of one's own: a second host on the same machine.

It has no name. The kernel takes it away, with every interface and queueing discipline in it, once
the last process in it has ended and the last handle is closed. However a run ends, by `kill -9`
included, nothing of it can be left behind.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from collections.abc import Iterator
from typing import Final

from splitbed.errors import LinkError

_CLONE_NEWNET: Final = 0x40000000
_HERE: Final = "/proc/thread-self/ns/net"


class Namespace:
    """A handle on a network namespace: a new one, or the one at a path under /proc.

    Raises LinkError where this process may not make or enter one.
    """

    def __init__(self, path: str = "") -> None:
        self._fd = _open(path) if path else _unshared()
        self.path = f"/proc/{os.getpid()}/fd/{self._fd}"
        """Where another process of the same user finds it, while this handle is open."""

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """The calling thread is in the namespace meanwhile; so is whatever it starts there.

        Sockets stay in the namespace in which they were made.
        """
        before = _open(_HERE)
        try:
            _enter(self._fd)
            try:
                yield
            finally:
                _enter(before)
        finally:
            os.close(before)

    def close(self) -> None:
        """Let go of it. Calling it twice is fine."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _unshared() -> int:
    before = _open(_HERE)
    try:
        if _libc().unshare(_CLONE_NEWNET) != 0:
            raise _refused("make")
        made = _open(_HERE)
        _enter(before)
    finally:
        os.close(before)
    return made


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise LinkError(f"no network namespace at {path}: {error.strerror}") from error


def _enter(fd: int) -> None:
    if _libc().setns(fd, _CLONE_NEWNET) != 0:
        raise _refused("enter")


def _refused(verb: str) -> LinkError:
    code = ctypes.get_errno()
    why = "that takes root" if code == errno.EPERM else os.strerror(code)
    return LinkError(
        f"cannot {verb} a network namespace ({why}): run as root, or use --backend relay"
    )


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
