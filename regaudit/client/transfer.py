"""Blobs on their way: where one that is read goes, and where one that is sent comes from.

Neither holds more of a blob in memory than the piece that is passing through.
"""

from __future__ import annotations

import errno
import io
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol, TypeAlias

from regaudit.client.exchange import Headers
from regaudit.errors import BadResponse, TooLarge, UsageError
from regaudit.reference import Digest
from regaudit.text import atomic_write, clean

# Called with the bytes that have passed and the bytes in all (None where that is not known).
TransferProgress: TypeAlias = Callable[[int, int | None], object]

_PIECE = 1 << 20
_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)")


class Writable(Protocol):
    """What a blob can be written to; it is never rewound."""

    def write(self, data: bytes, /) -> object:
        """Take the next bytes."""


class Download:
    """A sink that hashes a blob on its way, and goes on where a broken exchange stopped.

    Parameters
    ----------
    target : Writable
        Gets every byte once and in order, however often the exchange breaks.
    digest : Digest
        What the bytes must hash to.
    size : int, optional
        What the blob must measure, as its descriptor declares it; more is never written.
    progress : callable, optional
        Called after each piece.

    Attributes
    ----------
    position : int
        Bytes taken so far.
    total : int or None
        Bytes of the whole blob, once the registry said.
    """

    def __init__(
        self, target: Writable, digest: Digest, *, size: int | None = None, progress: TransferProgress | None = None
    ) -> None:
        self._target, self._digest, self._size, self._progress = target, digest, size, progress
        self._hasher = digest.hasher()
        self._skip = 0
        self.position = 0
        self.total = size

    def take_up(self, beginning: IO[bytes]) -> None:
        """Count the bytes that an earlier attempt has written to the target."""
        while piece := beginning.read(_PIECE):
            self._hasher.update(piece)
            self.position += len(piece)

    def begin(self, status: int, headers: Headers) -> None:
        """Find out which part of the blob follows: the rest, or all of it again, whose beginning is then passed over.

        Raises
        ------
        BadResponse
            Another part than was asked for, or another size than was declared.
        """
        if status == 206:
            start, total = _content_range(headers.get("content-range", ""))
            self._skip = self.position - start
        else:
            self._skip, total = self.position, _length(headers)
        if self._skip < 0:
            raise BadResponse(f"{self._digest.short}: the registry sent another part of the blob than was asked for")
        if None not in {total, self.total} and total != self.total:
            raise BadResponse(f"{self._digest.short}: the registry has {total} bytes where {self.total} were declared")
        self.total = total if total is not None else self.total

    def write(self, data: bytes, /) -> None:
        """Take the next bytes."""
        if self._skip:
            passed = min(self._skip, len(data))
            self._skip -= passed
            data = data[passed:]
        if self.total is not None and self.position + len(data) > self.total:
            raise TooLarge(f"{self._digest.short}: more than the {self.total:,} bytes that the blob should have")
        _write_all(self._target, data)
        self._hasher.update(data)
        self.position += len(data)
        if self._progress is not None and data:
            self._progress(self.position, self.total)

    @property
    def whole(self) -> bool:
        """Whether everything has arrived, as far as the registry said how much that is."""
        return self.total is None or self.position == self.total

    @property
    def matches(self) -> bool:
        """Whether what was taken hashes to the digest."""
        return bool(self._hasher.hexdigest() == self._digest.encoded)


def _write_all(target: Writable, data: bytes) -> None:
    """Write all of some bytes, where the target takes a part of them at a time too."""
    while data:
        taken = target.write(data)
        if isinstance(target, io.RawIOBase) and not taken:
            raise BlockingIOError(errno.EAGAIN, "what a blob is written to takes nothing more: let it block")
        # What tells nothing, or nonsense, has taken all.
        data = data[taken:] if isinstance(taken, int) and 0 < taken < len(data) else b""


def _content_range(text: str) -> tuple[int, int | None]:
    match = _CONTENT_RANGE.fullmatch(text.strip())
    if match is None:
        raise BadResponse(
            f"a part of a blob came with the Content-Range {clean(text, 80)!r}, which says not which part"
        )
    return int(match[1]), None if match[3] == "*" else int(match[3])


def _length(headers: Headers) -> int | None:
    text = headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


class Content:
    """What is uploaded: bytes, a file by its path, or a file that is open and can be rewound.

    It can be opened again for every attempt, and sent in parts.

    Attributes
    ----------
    size : int
        In bytes.
    """

    def __init__(
        self,
        data: bytes | Path | IO[bytes],
        *,
        start: int = 0,
        size: int | None = None,
        progress: TransferProgress | None = None,
    ) -> None:
        self._data, self._start, self._progress = data, start, progress
        self._whole = _size(data)
        self.size = self._whole - start if size is None else size

    def part(self, start: int, size: int) -> Content:
        """Return the part of this content that begins at a byte and has a size."""
        return Content(self._data, start=self._start + start, size=size, progress=self._progress)

    def open(self) -> Any:
        """Return a new reader from the beginning; closing it leaves a file that the user opened open."""
        if isinstance(self._data, Path):
            file: IO[bytes] = self._data.open("rb")
        else:
            file = io.BytesIO(self._data) if isinstance(self._data, bytes) else self._data
        file.seek(self._start)
        return _Reader(file, self, close=isinstance(self._data, Path))

    def digest(self, algorithm: str = "sha256") -> Digest:
        """Return the digest of the content, read once for that."""
        hasher = Digest.of(b"", algorithm).hasher()
        reader = Content(self._data, start=self._start, size=self.size).open()
        try:
            while piece := reader.read(_PIECE):
                hasher.update(piece)
        finally:
            reader.close()
        return Digest(f"{algorithm}:{hasher.hexdigest()}")

    def tell(self, position: int) -> None:
        """Tell the progress callback that the bytes of this part up to a position have been sent."""
        if self._progress is not None:
            self._progress(self._start + position, self._whole)


class _Reader:
    """Reads one part of a content, and no further."""

    def __init__(self, file: IO[bytes], content: Content, *, close: bool) -> None:
        self._file, self._content, self._close = file, content, close
        self._read = 0

    def read(self, size: int = -1) -> bytes:
        left = self._content.size - self._read
        data = self._file.read(left if size < 0 else min(size, left))
        self._read += len(data)
        if not data and left and size:
            raise OSError(errno.EIO, "what is uploaded has become shorter than it was")
        if data:
            self._content.tell(self._read)
        return data

    def close(self) -> None:
        if self._close:
            self._file.close()


def _size(data: bytes | Path | IO[bytes]) -> int:
    if isinstance(data, bytes):
        return len(data)
    if isinstance(data, Path):
        return data.stat().st_size
    return data.seek(0, os.SEEK_END)


def is_stream(data: object) -> bool:
    """Return whether something can be read once only, from its beginning to its end: a pipe, a socket.

    Raises
    ------
    UsageError
        It cannot be read at all, or gives text.
    """
    if isinstance(data, bytes | Path):
        return False
    if not hasattr(data, "read") or isinstance(data, io.TextIOBase):
        raise UsageError("a blob is uploaded from bytes, a pathlib.Path, or a file that is open for reading bytes")
    seekable = getattr(data, "seekable", None)
    return not (seekable is not None and seekable())


@contextmanager
def opened(target: str | Path | Writable) -> Iterator[Writable]:
    """Give a file to write to; at a path, it takes its name only where nothing went wrong.

    Raises
    ------
    UsageError
        No file can be at the path.
    """
    if not isinstance(target, str | Path):
        yield target
        return
    path = Path(target)
    if path.is_dir():
        raise UsageError(f"{clean(path, 200)} is a folder: name a file")
    if not path.parent.is_dir():
        raise UsageError(f"{clean(path.parent, 200)} is not a folder: make it first, or name another")
    # A name of its own for each attempt: nobody can lay a link there, and two that write to one path do not mix.
    with atomic_write(path, "wb") as file:
        yield file


__all__ = ["Content", "Download", "TransferProgress", "Writable", "is_stream", "opened"]
