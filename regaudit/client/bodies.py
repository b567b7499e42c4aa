"""The body of an answer as it comes in: to a sink or into memory, never beyond its cap, and whole or not at all."""

from __future__ import annotations

import zlib

from regaudit.client.exchange import ERROR_CAP, Headers, Request, Sink, too_large
from regaudit.client.faults import LocalFault, compressed_too_short, encoded, endless, proxy_asks

_SUCCESS = frozenset({200, 206})
_WITHOUT_BODY = frozenset({204, 304})
_STEP = 256 << 10


class Incoming:
    """Takes the body of one answer, piece by piece.

    Parameters
    ----------
    framed : bool
        Whether the protocol itself says where a body ends, as HTTP/2 does.

    Attributes
    ----------
    wanted : bool
        False where the answer has no body: nothing need be read.
    enough : bool
        True once no more bytes are wanted: of a long error text, the beginning is kept.
    received : int
        Bytes of the body so far; those of a sink as they came.

    Raises
    ------
    AccessDenied
        It is a proxy that answers, and asks for a login.
    TruncatedResponse
        The answer does not say where it ends.
    BadResponse
        It is encoded in a way that was not asked for.
    """

    def __init__(self, request: Request, status: int, headers: Headers, *, framed: bool = False) -> None:
        if status == 407:
            raise proxy_asks(request)
        self._request = request
        self._sink: Sink | None = None
        self._inflate: zlib._Decompress | None = None
        self._data = bytearray()
        self._is_error = not 200 <= status < 300
        self.received = 0
        self.enough = False
        self.wanted = request.method != "HEAD" and status not in _WITHOUT_BODY
        if not self.wanted or self._is_error:
            return
        if not framed and not _says_where_it_ends(headers):
            raise endless(request)
        if request.into is not None and status in _SUCCESS:
            self._sink = request.into
            _begin(self._sink, status, headers)
            return
        encoding = headers.get("content-encoding", "").strip().lower()
        if encoding not in {"", "identity", "gzip"}:
            raise encoded(request, encoding)
        self._inflate = zlib.decompressobj(wbits=31) if encoding == "gzip" else None

    @property
    def streams(self) -> bool:
        """Whether the body goes to a sink."""
        return self._sink is not None

    def take(self, piece: bytes) -> None:
        """Take the next bytes.

        Raises
        ------
        TooLarge
            Together they are more than the cap.
        LocalFault
            The sink cannot take them.
        zlib.error
            They are not compressed as announced.
        """
        if self._sink is not None:
            self._pour(self._sink, piece)
        elif self._is_error:
            self._data += piece
            self.enough = len(self._data) >= ERROR_CAP
        else:
            self._keep(piece)

    def end(self) -> bytes:
        """Return the whole body, empty where it went to a sink."""
        if self._inflate is not None and not self._inflate.eof:
            raise compressed_too_short(self._request)
        if self._sink is None:
            del self._data[ERROR_CAP if self._is_error else len(self._data) :]
            self.received = len(self._data)
        return bytes(self._data)

    def _pour(self, sink: Sink, piece: bytes) -> None:
        self.received += len(piece)
        try:
            sink.write(piece)
        except OSError as error:
            raise LocalFault(error) from None

    def _keep(self, piece: bytes) -> None:
        if self._inflate is None:
            self._data += piece
        else:
            self._unpack(self._inflate, piece)
        if len(self._data) > self._request.cap:
            raise too_large(self._request)
        if self._inflate is not None and self._inflate.unused_data:
            raise zlib.error("more after its end")

    def _unpack(self, inflate: zlib._Decompress, piece: bytes) -> None:
        """Unpack a piece step by step: of a bomb a few bytes become many megabytes, and zlib holds them twice."""
        while len(self._data) <= self._request.cap:
            unpacked = inflate.decompress(piece, _STEP)
            self._data += unpacked
            piece = inflate.unconsumed_tail
            if not piece and len(unpacked) < _STEP:
                return


def _begin(sink: Sink, status: int, headers: Headers) -> None:
    try:
        sink.begin(status, headers)
    except OSError as error:
        raise LocalFault(error) from None


def _says_where_it_ends(headers: Headers) -> bool:
    return "content-length" in headers or "chunked" in headers.get("transfer-encoding", "").lower()
