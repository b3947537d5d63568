"""One process at a time in a run's folder: two would mix their logs and delete each other's checkpoints."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from evolpo import InputError

LOCK = ".lock"
TAKEN = (errno.EAGAIN, errno.EACCES)
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Hold a run's folder for the length of the block.

    The lock is one of POSIX: it belongs to the process and goes when that ends, in whatever way; other machines see it
    on the file systems that pass locks on. Where the file system knows none, there is none.

    Raises:
        InputError: another process works in the folder, or the folder cannot be written.
    """
    try:
        file = (run / LOCK).open("a+")
    except OSError as error:
        raise InputError(f"resume: {run} cannot be written ({error.strerror}); resume a copy of it") from None
    with file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in TAKEN:
                file.seek(0)
                holder = file.read().strip() or "another process"
                raise InputError(f"resume: {run} is being worked on by {holder}; wait, or end it first") from None
        else:
            _sign(file.fileno())
        yield


def _sign(descriptor: int) -> None:
    """Write who holds the lock, for whoever finds it taken."""
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
    except OSError as error:
        if error.errno not in NO_SPACE:  # on a full disk the lock alone must do
            raise
