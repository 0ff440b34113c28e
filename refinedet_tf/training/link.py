"""A connection between two workers that carries messages: one JSON object per line."""

import contextlib
import json
import select
import socket
import threading
from typing import Any

from refinedet_tf.errors import InputError
from refinedet_tf.json_files import parse_json

MAX_BYTES = 2**22
"""Longer messages are refused; the largest real one, the facts of all workers, has some kilobytes each."""


class LinkBroken(Exception):
    """The other end is gone, or it does not speak as a worker of this program does."""


class Link:
    """One end of a connection; several threads may send, and one may receive.

    Args:
        connection: a connected socket, which the link closes.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.buffer = b""
        self.sending = threading.Lock()
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, kind: str, **values: Any) -> None:
        """Sends a message; a failure is ignored here, because receiving then fails as well."""
        line = json.dumps({"kind": kind, **values}).encode() + b"\n"
        with self.sending, contextlib.suppress(OSError):
            self.connection.sendall(line)

    def receive(self, seconds: float) -> dict[str, Any]:
        """Waits for the next message.

        Args:
            seconds: how long to wait for each of its parts.

        Raises:
            TimeoutError: nothing came within that time.
            LinkBroken: the other end is gone, or what came is not a message.
        """
        self.connection.settimeout(seconds)
        while b"\n" not in self.buffer:
            try:
                part = self.connection.recv(2**16)
            except TimeoutError:
                raise
            except OSError as error:
                raise LinkBroken(str(error)) from None
            if not part or len(self.buffer) > MAX_BYTES:
                raise LinkBroken("the connection was closed")
            self.buffer += part
        line, _, self.buffer = self.buffer.partition(b"\n")
        try:
            message = parse_json(line, "a message of another worker")
        except InputError as error:
            raise LinkBroken(str(error)) from None
        if not isinstance(message, dict) or not isinstance(message.get("kind"), str):
            raise LinkBroken("this is no message of a worker")
        return message

    def is_closed(self) -> bool:
        """Says, without waiting, whether the other end closed the connection."""
        readable, _, _ = select.select([self.connection], [], [], 0)
        if not readable:
            return False
        try:
            return not self.connection.recv(1, socket.MSG_PEEK)
        except OSError:
            return True

    def finish(self) -> None:
        """Says that nothing more will be sent; the other end may still send."""
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)

    def end(self, seconds: float) -> None:
        """Says that nothing more will be sent, and closes the connection when the other end has done so.

        What was sent would be lost if the connection were closed before it was read.

        Args:
            seconds: the longest waiting for each part that the other end still sends.
        """
        self.finish()
        with contextlib.suppress(OSError):
            self.connection.settimeout(seconds)
            while self.connection.recv(2**16):
                pass
        self.close()

    def close(self) -> None:
        """Closes the connection."""
        self.connection.close()
