"""The lock of a run folder: one process at a time trains into it."""

import contextlib
import errno
import os
import socket
import time
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import BaseModel, PositiveInt

from refinedet_tf.errors import InputError, shortened_text
from refinedet_tf.files import explain_os_errors, is_folder
from refinedet_tf.json_files import check_tree, read_json

WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""What the system answers on a file system without locks."""

PATIENCE = 0.2
"""The seconds for which a lock is tried again: its file may just have been removed by its last owner."""

MAX_BYTES = 10_000
"""The largest size of a lock file that is read."""


class RunLock(contextlib.AbstractContextManager):
    """A lock on a run folder, held as long as the context lasts.

    It is a lock of the operating system (`flock`) on the file `.lock`, which ends with the process however
    the process ends, also by SIGKILL. On NFS and SMB the server keeps it, so that it holds between machines
    unless the folder is mounted with local locks. On a file system without locks, only a living process on
    the same machine is recognised, by the number in the file.

    A folder that does not exist is not made before `take`, so that a start that fails leaves nothing. Where
    the lock is not `needed`, for the workers that leave no files, nothing happens.

    Raises:
        InputError: another process trains into the folder, or the lock cannot be written.
    """

    def __init__(self, folder: Path, needed: bool = True) -> None:
        self.file = folder / ".lock"
        self._lock = FileLock(self.file, timeout=PATIENCE, fallback_to_soft=False)
        self._needed = needed
        self._is_taken = False

    def __enter__(self) -> "RunLock":
        if is_folder(self.file.parent):
            self.take()
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_taken:
            # The file goes before the lock, so that it is never the file of another process.
            with contextlib.suppress(OSError):
                self.file.unlink()
            self._lock.release()
            self._is_taken = False

    def take(self) -> None:
        """Makes the folder and locks it, unless this is done already.

        Raises:
            InputError: another process trains into the folder, or the folder or the lock cannot be written.
        """
        if not self._needed or self._is_taken:
            return
        with explain_os_errors(self.file.parent):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            if not self._acquire():
                raise InputError(
                    f"{shortened_text(self.file.parent)} is in use by another training"
                    f"{_read_owner(self.file) or ''}: wait for its end, stop it, or name another --output"
                )
            now = time.strftime("%Y-%m-%d %H:%M:%S")
            owner = _Owner(host=socket.gethostname(), process=os.getpid(), since=now)
            self.file.write_text(owner.model_dump_json() + "\n", encoding="utf-8")
        self._is_taken = True

    def _acquire(self) -> bool:
        """Says whether the folder was free and is taken now."""
        try:
            self._lock.acquire()
        except Timeout:
            return False
        except OSError as error:
            if error.errno not in WITHOUT_LOCKS:
                raise
            return not _is_alive(_read_owner(self.file))
        return True


class _Owner(BaseModel, strict=True):
    """What the owner of the lock writes."""

    host: str
    process: PositiveInt
    since: str

    def __str__(self) -> str:
        host, since = shortened_text(self.host, 100), shortened_text(self.since, 100)
        return f" (process {self.process} on {host}, since {since})"


def _read_owner(file: Path) -> _Owner | None:
    try:
        return check_tree(read_json(file, max_bytes=MAX_BYTES), _Owner, file)
    except InputError:
        return None


def _is_alive(owner: _Owner | None) -> bool:
    """Says whether a process of this machine, other than this one, wrote the file and still lives."""
    if owner is None or owner.host != socket.gethostname() or owner.process == os.getpid():
        return False
    try:
        os.kill(owner.process, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True
