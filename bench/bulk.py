"""Bodies of any size, generated and thrown away: the API behind a proxy, and its client.

`python -m bench.bulk PORT` serves: `GET /v1/stream/N` answers N MiB, every other request is read to
its end and answered with a small JSON. Blocking sockets and threads; what arrives is dropped in the
kernel (MSG_TRUNC), so that both ends together take less of a core than the copying in between.
"""

import socket
import sys
import threading

from bench.upstream import SMALL

MIB = 1_048_576
BLOCK = bytes(MIB)
SILENCE_S_MAX = 60


def download(port: int, mib: int) -> None:
    """Read a generated answer to its end. Raises EOFError when there is less of it."""
    with socket.create_connection(("127.0.0.1", port), timeout=SILENCE_S_MAX) as client:
        client.sendall(_request(b"GET /v1/stream/%d" % mib, 0))
        head, rest = _read_head(client)
        assert head.startswith(b"HTTP/1.1 200"), head
        _drop(client, mib * MIB - len(rest))


def upload(port: int, mib: int) -> None:
    """Send a generated body and read the answer, which comes when all of it has arrived."""
    with socket.create_connection(("127.0.0.1", port), timeout=SILENCE_S_MAX) as client:
        client.sendall(_request(b"POST /v1/upload", mib * MIB))
        _send(client, mib)
        head, _ = _read_head(client)
        assert head.startswith(b"HTTP/1.1 200"), head


def _request(line: bytes, length: int) -> bytes:
    return (
        b"%b HTTP/1.1\r\nhost: bench\r\nx-account-id: acct_42\r\n"
        b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % (line, length)
    )


def _read_head(connection: socket.socket) -> tuple[bytes, bytes]:
    """A head, and what of the body came with it. Raises EOFError at the end of the connection."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(4_096)
        if not more:
            raise EOFError
        data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, rest


def _drop(connection: socket.socket, size: int) -> None:
    """Receive so many bytes without copying them. Raises EOFError when fewer come."""
    unused = bytearray(MIB)
    while size > 0:
        got = connection.recv_into(unused, min(size, MIB), socket.MSG_TRUNC)
        if not got:
            raise EOFError(f"{size:,} bytes are missing")
        size -= got


def _send(connection: socket.socket, mib: int) -> None:
    for _ in range(mib):
        connection.sendall(BLOCK)


def _serve(connection: socket.socket) -> None:
    """Answer requests until the client leaves."""
    with connection:
        while True:
            try:
                head, rest = _read_head(connection)
            except (EOFError, OSError):
                return
            _answer(connection, head, rest)


def _answer(connection: socket.socket, head: bytes, rest: bytes) -> None:
    path = head.split(b" ", 2)[1]
    if path.startswith(b"/v1/stream/"):
        mib = int(path.rsplit(b"/", 1)[1])
        kind = b"content-type: application/json"
        length = b"content-length: %d" % (mib * MIB)
        connection.sendall(b"HTTP/1.1 200 OK\r\n%b\r\n%b\r\n\r\n" % (kind, length))
        _send(connection, mib)
        return
    length = head.lower().partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0]
    _drop(connection, int(length or 0) - len(rest))
    connection.sendall(SMALL)


def main(port: int) -> None:
    """Serve for ever, a thread for each connection."""
    with socket.create_server(("127.0.0.1", port), backlog=128) as server:
        while True:
            connection, _ = server.accept()
            threading.Thread(target=_serve, args=(connection,), daemon=True).start()


if __name__ == "__main__":
    main(int(sys.argv[1]))
