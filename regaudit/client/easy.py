"""One exchange on a libcurl handle: what is sent, what is believed, and what each of its faults means."""

from __future__ import annotations

import os
import re
import socket
import time
import zlib
from dataclasses import dataclass
from typing import IO, Any
from urllib.parse import urlsplit

import pycurl
import requests
from requests.adapters import DEFAULT_CA_BUNDLE_PATH

from regaudit.client import faults
from regaudit.client.bodies import Incoming
from regaudit.client.exchange import SAFE_METHODS, Headers, HeaderText, Request, Response
from regaudit.client.faults import LocalFault
from regaudit.client.transport import SLOW_PIECE, Transport
from regaudit.errors import AddressRefused, RegistryError
from regaudit.text import redact

# What `urlsplit` and libcurl read alike; any other address takes the way of the blocking driver first.
_PLAIN_URL = re.compile(r"https?://[A-Za-z0-9._\[\]:-]+(/[A-Za-z0-9._~:/?\[\]!$&'()*+,;=%-]*)?")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_MISSING = re.compile(r"with (\d+) bytes (?:missing|remaining to read)")
_OTHER_NAME = re.compile(r"subject name matches target .*?('.*')")
_OF_TLS = re.compile(r"alert|SSL routines|private key|client certificate")
_NO_HEADERS = Headers()
_LINE_ENDS = (b"\r\n", b"\n")
_ABORT = -1
# On so many connections a request of HTTP/2 may be left aside before it counts as one without an answer.
_MOST_STREAMS = 5
# A manifest, a config and a list differ in what they ask for, and repositories in their tokens.
_MOST_KINDS = 8
# As http.client has them for the other driver.
_MOST_FIELDS = 100
_LONGEST_FIELD = 65536


@dataclass(slots=True)
class Ended:
    """An exchange that has ended, by a response or an error."""

    request: Request
    context: Any
    response: Response | None = None
    error: BaseException | None = None
    seconds: float | None = None


class Easy:
    """An easy handle: one exchange at a time, and where `again`, one after the other.

    Parameters
    ----------
    guarded : bool
        Whether to refuse private addresses before connecting to them.
    """

    def __init__(self, transport: Transport, *, guarded: bool, again: bool) -> None:
        self._transport, self.guarded, self.again = transport, guarded, again
        self._lines: list[bytes] = []
        self._method, self._sent_fields = "GET", {"": ""}
        self._known_lines: dict[tuple[tuple[str, str], ...], list[bytes]] = {}
        self._fresh = self._patient = False
        self._file: IO[bytes] | None = None
        self.curl = pycurl.Curl()
        self._configure(self.curl)

    def _configure(self, curl: pycurl.Curl) -> None:
        transport = self._transport
        curl.setopt(pycurl.HEADERFUNCTION, self._lines.append)
        curl.setopt(pycurl.WRITEFUNCTION, self._write)
        curl.setopt(pycurl.PREREQFUNCTION, self._before)
        if self.guarded:
            curl.setopt(pycurl.OPENSOCKETFUNCTION, self._socket)
        if not self.again:
            curl.setopt(pycurl.FRESH_CONNECT, 1)
            curl.setopt(pycurl.FORBID_REUSE, 1)
        curl.setopt(pycurl.NOSIGNAL, 1)
        curl.setopt(pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS)
        curl.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_2TLS)
        # what is no HTTP comes as a body then, and can be told from an answer that was cut
        curl.setopt(pycurl.HTTP09_ALLOWED, 1)
        curl.setopt(pycurl.CONNECTTIMEOUT_MS, max(1, int(transport.connect_seconds * 1000)))
        # named, and empty: libcurl would otherwise read the environment
        curl.setopt(pycurl.PROXY, "")
        curl.setopt(pycurl.NOPROXY, "")
        self._proxy = ""
        _configure_tls(curl, transport)

    def close(self) -> None:
        """Let go of the handle."""
        self._close_file()
        self.curl.close()

    def begin(
        self, request: Request, context: Any, *, fresh: bool = False, patient: bool = False, shared: bool = False
    ) -> None:
        """Prepare an exchange.

        Parameters
        ----------
        fresh : bool
            Use a connection that was not used before.
        patient : bool
            Wait for a connection that is being made: it may take several at a time.
        shared : bool
            Whether connections take several at a time, which is HTTP/2.

        Raises
        ------
        BadResponse
            For an address or a header field that cannot be sent.
        OSError
            The body cannot be opened.
        """
        self.request, self.context, self._shared = request, context, shared
        self._lines.clear()
        self._incoming: Incoming | None = None
        self._status, self._headers, self._peer = 0, _NO_HEADERS, ""
        self._fault: BaseException | None = None
        self._attempts = 0
        self.stale = self.framed = False
        self._bytes = self._marked = self._seen_lines = self._uploaded = 0
        self._started = self._moved = time.monotonic()
        try:
            self._address(request, fresh=fresh, patient=patient)
        except (requests.RequestException, UnicodeError, pycurl.error) as error:
            raise faults.unreadable(request, redact(error, 160)) from None

    def _address(self, request: Request, *, fresh: bool, patient: bool) -> None:
        curl = self.curl
        curl.setopt(pycurl.URL, _url(request))
        if self._transport.proxies:
            self._choose_proxy(request)
        if request.headers != self._sent_fields:
            curl.setopt(pycurl.HTTPHEADER, self._field_lines(request))
            self._sent_fields = dict(request.headers)
        if patient != self._patient:
            curl.setopt(pycurl.PIPEWAIT, int(patient))
            self._patient = patient
        if self.again and fresh != self._fresh:
            curl.setopt(pycurl.FRESH_CONNECT, int(fresh))
            self._fresh = fresh
        if not self.again:
            self._send_body(request)
        elif request.method != self._method:
            curl.setopt(pycurl.NOBODY if request.method == "HEAD" else pycurl.HTTPGET, 1)
        self._method = request.method

    def _field_lines(self, request: Request) -> list[bytes]:
        """Return the lines of the header; kinds of requests take turns on a handle, and each has lines of its own."""
        key = tuple(request.headers.items())
        lines = self._known_lines.get(key)
        if lines is None:
            if len(self._known_lines) >= _MOST_KINDS:
                self._known_lines.clear()
            lines = self._known_lines[key] = _field_lines(self._transport.fields(request))
        return lines

    def _choose_proxy(self, request: Request) -> None:
        proxy = self._transport.proxies_for(request.url).get(request.url.partition(":")[0].lower(), "")
        if proxy != self._proxy:
            self.curl.setopt(pycurl.PROXY, proxy)
            self._proxy = proxy

    def _send_body(self, request: Request) -> None:
        curl, body = self.curl, request.body
        if body is None and request.method in {"DELETE", "OPTIONS", *SAFE_METHODS}:
            curl.setopt(pycurl.NOBODY if request.method == "HEAD" else pycurl.HTTPGET, 1)
        elif body is None or isinstance(body, bytes):
            self._upload(memoryview(body or b""))
        else:
            self._file = body.open()
            curl.setopt(pycurl.UPLOAD, 1)
            curl.setopt(pycurl.INFILESIZE_LARGE, body.size)
            curl.setopt(pycurl.READFUNCTION, self._read_file)
        if request.method != "HEAD":
            curl.setopt(pycurl.CUSTOMREQUEST, request.method)

    def _upload(self, view: memoryview) -> None:
        def read(size: int) -> bytes:
            piece = bytes(view[self._uploaded : self._uploaded + size])
            self._uploaded += len(piece)
            return piece

        self.curl.setopt(pycurl.UPLOAD, 1)
        self.curl.setopt(pycurl.INFILESIZE_LARGE, len(view))
        self.curl.setopt(pycurl.READFUNCTION, read)

    # -- called by libcurl, which prints and forgets what they raise ---------------------------

    def _read_file(self, size: int) -> bytes | int:
        try:
            piece = b"" if self._file is None else self._file.read(size)
        except Exception as error:  # noqa: BLE001 -- kept for whoever waits for the exchange
            self._fault = LocalFault(error) if isinstance(error, OSError) else error
            return int(pycurl.READFUNC_ABORT)
        self._uploaded += len(piece)
        return piece

    def _write(self, piece: bytes) -> int | None:
        try:
            incoming = self._incoming or self._open(piece)
            incoming.take(piece)
        except Exception as error:  # noqa: BLE001 -- as above
            self._fault = error
            return _ABORT
        self._bytes += len(piece)
        return _ABORT if incoming.enough else None

    def _before(self, peer: str, *_: Any) -> int:
        """Look at the address before anything is sent; a second time it is libcurl that tries again by itself.

        That is for the conversation to decide, but for what a server of HTTP/2 left aside when it said goodbye or
        has no stream for: it was not processed (RFC 9113, section 8.7), and belongs on another connection.
        """
        self._peer = peer
        self._attempts += 1
        if self._attempts > (_MOST_STREAMS if self._shared else 1):
            self._fault = faults.truncated(self.request, "the connection was closed before it could be used again")
        elif self.request.public_only:
            self._refuse_private(peer)
        return int(pycurl.PREREQFUNC_OK if self._fault is None else pycurl.PREREQFUNC_ABORT)

    def _socket(self, _purpose: int, address: Any) -> Any:
        self._refuse_private(address.addr[0])
        if self._fault is not None:
            return pycurl.SOCKET_BAD
        return _Lent(socket.socket(address.family, address.socktype, address.protocol))

    def _refuse_private(self, peer: str) -> None:
        try:
            faults.refuse_private(urlsplit(self.request.url).hostname or "", peer)
        except AddressRefused as error:
            self._fault = error

    # -- how it ends --------------------------------------------------------------------------

    def late(self, now: float) -> RegistryError | None:
        """Return the error where the exchange has passed its deadline, or stands still for too long."""
        request = self.request
        if self._progress():
            self._moved = now
        if request.deadline is not None and now - self._started >= request.deadline:
            return faults.late(request, request.deadline)
        if now - self._moved < self._transport.silence(request):
            return None
        return (
            faults.silent(request)
            if request.deadline is not None
            else faults.late(request, self._transport.stall_seconds)
        )

    def _progress(self) -> bool:
        lines = len(self._lines) + self._uploaded
        if lines != self._seen_lines:
            self._seen_lines = lines
            return True
        if self._bytes - self._marked < (SLOW_PIECE if self.request.deadline is None else 1):
            return False
        self._marked = self._bytes
        return True

    def end(self, code: int, message: str) -> Ended:
        """Return what the exchange came to, by libcurl's word for it."""
        ended = Ended(self.request, self.context)
        enough = self._incoming is not None and self._incoming.enough
        fault = self._fault or (self._translated(code, message) if code and not enough else None)
        if fault is None:
            try:
                ended.response = self._response()
            except Exception as error:  # noqa: BLE001 -- as above
                fault = error
            else:
                ended.seconds = self._first_byte()
        ended.error = None if fault is None else self._ours(fault)
        self._close_file()
        return ended

    def _first_byte(self) -> float:
        """Return the seconds from when the request was sent; connecting does not count."""
        return float(self.curl.getinfo(pycurl.STARTTRANSFER_TIME) - self.curl.getinfo(pycurl.PRETRANSFER_TIME))

    def _ours(self, fault: BaseException) -> BaseException:
        if isinstance(fault, LocalFault):
            return fault.error
        if isinstance(fault, zlib.error):
            return faults.unreadable(self.request, redact(fault, 160))
        return fault.with_traceback(None)

    def _response(self) -> Response:
        incoming = self._incoming or self._open(b"")
        body = incoming.end()
        now = time.monotonic()
        return Response(
            self._status,
            self.request.url,
            self._headers,
            body,
            now,
            now - self._started,
            self._peer or None,
            incoming.received,
        )

    def _open(self, beginning: bytes) -> Incoming:
        """Read the headers, which are complete as soon as the body begins."""
        lines = self._lines
        if not lines:
            raise self._no_http(beginning)
        if lines[-1] not in _LINE_ENDS:
            # libcurl takes the end of the connection for the end of the headers
            self.stale = True
            raise faults.truncated(self.request, "inside its headers")
        if lines.count(b"\r\n") > 1:  # those of 100 Continue, or of a proxy's CONNECT, came before
            ends = [number for number, line in enumerate(lines[:-1]) if line in _LINE_ENDS]
            starts = [end + 1 for end in ends if lines[end + 1].startswith(b"HTTP/")]
            lines = lines[starts[-1] if starts else 0 :]
            del lines[next(n for n, line in enumerate(lines) if line in _LINE_ENDS) + 1 :]  # trailers
        if len(lines) > _MOST_FIELDS + 2 or max(map(len, lines)) > _LONGEST_FIELD:
            raise faults.unreadable(self.request, f"more than {_MOST_FIELDS} header fields, or one that is too long")
        self._status = int(lines[0].split()[1])
        self._headers = HeaderText(b"".join(lines[1:-1]).decode("latin-1"))
        framed = self.framed = not lines[0].startswith(b"HTTP/1.")
        self._incoming = Incoming(self.request, self._status, self._headers, framed=framed)
        return self._incoming

    def _no_http(self, beginning: bytes) -> RegistryError:
        if beginning.startswith(b"\x15\x03"):
            return faults.speaks_tls(self.request)
        if b"HTTP/".startswith(beginning[:5]):
            return faults.truncated(self.request, "inside its status line")
        return faults.unreadable(self.request, redact(beginning[:60].decode("latin-1"), 160))

    def _translated(self, code: int, message: str) -> RegistryError:  # noqa: PLR0911 -- a table
        """Return our error for one of libcurl's."""
        request, reason = self.request, self._reason(code, message)
        if self.curl.getinfo(pycurl.HTTP_CONNECTCODE) == 407:
            return faults.proxy_asks(request)
        if code == pycurl.E_OPERATION_TIMEDOUT:
            return faults.silent(request)
        if self._proxy and (code in _NOT_CONNECTED or (not self._attempts and code == pycurl.E_RECV_ERROR)):
            return faults.proxy_unreachable(request, reason)
        if code in _TLS or (not self._lines and _OF_TLS.search(message)):
            return faults.tls_failed(request, reason)
        if code in _NOT_CONNECTED:
            return faults.unreachable(request, reason)
        if code in _UNREADABLE or "response headers" in message:
            return faults.unreadable(request, reason)
        return faults.truncated(request, reason)

    def _reason(self, code: int, message: str) -> str:
        """Return why, in words that are the same as the other driver's where they are often read."""
        if missing := _MISSING.search(message):
            return f"{int(missing[1]):,} bytes were still to come"
        if other := _OTHER_NAME.search(message):
            return f"the certificate is not valid for {other[1]}"
        number = self.curl.getinfo(pycurl.OS_ERRNO)
        if number and code in {pycurl.E_COULDNT_CONNECT, *_WIRE}:
            return os.strerror(number)
        return redact(message or pycurl.easy_strerror(code), 160)

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


_NOT_CONNECTED = frozenset({pycurl.E_COULDNT_CONNECT, pycurl.E_COULDNT_RESOLVE_HOST, pycurl.E_COULDNT_RESOLVE_PROXY})
_WIRE = frozenset({pycurl.E_RECV_ERROR, pycurl.E_SEND_ERROR})
_TLS = frozenset(
    {
        pycurl.E_SSL_CONNECT_ERROR,
        pycurl.E_PEER_FAILED_VERIFICATION,
        pycurl.E_SSL_CERTPROBLEM,
        pycurl.E_SSL_CACERT_BADFILE,
        pycurl.E_SSL_CIPHER,
        pycurl.E_SSL_ISSUER_ERROR,
        pycurl.E_USE_SSL_FAILED,
    }
)
# Among them CURLE_TOO_LARGE (100), which pycurl has no name for.
_UNREADABLE = frozenset(
    {
        pycurl.E_UNSUPPORTED_PROTOCOL,
        pycurl.E_URL_MALFORMAT,
        pycurl.E_FTP_WEIRD_SERVER_REPLY,  # the number that HTTP uses too
        pycurl.E_BAD_CONTENT_ENCODING,
        pycurl.E_FILESIZE_EXCEEDED,
        pycurl.E_WRITE_ERROR,
        100,
    }
)


class _Lent:
    """A socket for pycurl, which makes a descriptor of its own of it, and lets go of this one."""

    def __init__(self, own: socket.socket) -> None:
        self._own = own

    def fileno(self) -> int:
        """Return the descriptor to copy."""
        return self._own.fileno()

    def __del__(self) -> None:
        self._own.close()


def _configure_tls(curl: pycurl.Curl, transport: Transport) -> None:
    # as the blocking driver: the authorities that requests brings, and no others
    authorities = DEFAULT_CA_BUNDLE_PATH if isinstance(transport.verify, bool) else str(transport.verify)
    for verify, name, file, folder in (
        (pycurl.SSL_VERIFYPEER, pycurl.SSL_VERIFYHOST, pycurl.CAINFO, pycurl.CAPATH),
        (pycurl.PROXY_SSL_VERIFYPEER, pycurl.PROXY_SSL_VERIFYHOST, pycurl.PROXY_CAINFO, pycurl.PROXY_CAPATH),
    ):
        curl.setopt(verify, 1 if transport.verify else 0)
        curl.setopt(name, 2 if transport.verify else 0)
        curl.setopt(file, authorities)
        curl.unsetopt(folder)
    if transport.client_certificate is not None:
        certificate, key = transport.client_certificate
        curl.setopt(pycurl.SSLCERT, str(certificate))
        curl.setopt(pycurl.SSLKEY, str(key))


def _url(request: Request) -> str:
    if _PLAIN_URL.fullmatch(request.url):
        return request.url
    return str(requests.Request(request.method, request.url).prepare().url)


def _field_lines(fields: dict[str, str]) -> list[bytes]:
    by_name = {name.lower(): (name, value) for name, value in fields.items()}  # the last of a name counts
    return [b"Expect:", *(_field_line(name, value) for name, value in by_name.values())]


def _field_line(name: str, value: str) -> bytes:
    if _CONTROL.search(f"{name}{value}") or not value == value.strip():
        raise requests.exceptions.InvalidHeader(f"the header {name!r} cannot be sent: it holds a control character")
    return f"{name}: {value}".encode("latin-1") if value else f"{name};".encode("latin-1")
