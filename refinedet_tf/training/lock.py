"""The lock of a run folder: one process at a time trains into it."""

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from refinedet_tf.errors import InputError, shortened_text
from refinedet_tf.files import explain_os_errors, is_folder
from refinedet_tf.json_files import parse_json

HELD = (errno.EAGAIN, errno.EACCES)
"""What the system answers when another process holds the lock."""

MAX_BYTES = 10_000
"""The largest size of a lock file that is read."""


class RunLock:
    """A lock on a run folder, held as long as the context lasts.

    It is a lock of the operating system (`flock`) on the file `.lock`, which ends with the process however
    the process ends, also by SIGKILL. On NFS and SMB the server keeps it, so that it holds between machines
    unless the folder is mounted with local locks. On a file system without locks, only a living process on
    the same machine is recognised, by the number in the file.

    A folder that does not exist is not made before `take`, so that a start that fails leaves nothing.

    Args:
        folder: the run folder.
        needed: false for the workers that leave no files; then nothing happens.

    Raises:
        InputError: another process trains into the folder, or the lock cannot be written.
    """

    def __init__(self, folder: Path, needed: bool = True) -> None:
        self.file = folder / ".lock"
        self._needed = needed
        self._handle: int | None = None

    def __enter__(self) -> "RunLock":
        if is_folder(self.file.parent):
            self.take()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._handle is None:
            return
        # The file goes before the lock, so that it is never the file of another process.
        with contextlib.suppress(OSError):
            self.file.unlink()
        os.close(self._handle)
        self._handle = None

    def take(self) -> None:
        """Makes the folder and locks it, unless this is done already.

        Raises:
            InputError: another process trains into the folder, or the folder or the lock cannot be written.
        """
        if not self._needed or self._handle is not None:
            return
        with explain_os_errors(self.file.parent):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            while self._handle is None:
                self._try()

    def _try(self) -> None:
        """Opens and locks the file, unless another process has just removed it."""
        handle = os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        try:
            locked = _lock(handle)
            owner = _read_owner(handle)
            if locked is False or (locked is None and _is_alive(owner)):
                raise InputError(
                    f"{shortened_text(self.file.parent)} is in use by another training{_describe(owner)}: "
                    "wait for its end, stop it, or name another --output"
                )
            if not _is_at(handle, self.file):
                return
            facts = {"host": socket.gethostname(), "process": os.getpid(), "since": _now()}
            os.ftruncate(handle, 0)
            os.pwrite(handle, json.dumps(facts).encode() + b"\n", 0)
            self._handle, handle = handle, -1
        finally:
            if handle >= 0:
                os.close(handle)


def _lock(handle: int) -> bool | None:
    """Says whether the lock was free and is taken now; None if the file system has no locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in HELD else None
    return True


def _is_at(handle: int, file: Path) -> bool:
    """Says whether an open file still is the one of that name."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(file, follow_symlinks=False))  # noqa: PTH116
    except FileNotFoundError:
        return False


def _read_owner(handle: int) -> dict[str, Any]:
    """Returns what the owner of the lock wrote, or an empty object."""
    try:
        owner = parse_json(os.pread(handle, MAX_BYTES, 0), ".lock")
    except (OSError, InputError):
        return {}
    return owner if isinstance(owner, dict) else {}


def _is_alive(owner: dict[str, Any]) -> bool:
    """Says whether a process of this machine, other than this one, wrote the file and still lives."""
    process = owner.get("process")
    if owner.get("host") != socket.gethostname() or not isinstance(process, int) or process < 1:
        return False
    try:
        os.kill(process, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return process != os.getpid()


def _describe(owner: dict[str, Any]) -> str:
    if not {"host", "process", "since"} <= owner.keys():
        return ""
    host, process, since = (shortened_text(owner[key], 100) for key in ("host", "process", "since"))
    return f" (process {process} on {host}, since {since})"


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")
