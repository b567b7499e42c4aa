"""Whatever is fed to the parsers, they raise what they declare and end soon.

`TARGETS` has a function for each parser of something that others write: headers, documents, files. It takes
bytes, returns where they were understood or refused with a declared error, and raises otherwise. The bytes that once
broke a parser, and some that once did something new in it, are in ``tests/data/fuzz/TARGET``.

As a program it searches for more, with atheris where that is installed and by its own mutations elsewhere::

    python tests/fuzzing.py --seconds 600            # shared out among all targets
    python tests/fuzzing.py --seconds 60 manifest plan

What it finds goes to ``.fuzz``; an input that breaks a parser ends the search of its target, is named, and belongs
into ``tests/data/fuzz``.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import logging
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parent
CORPUS = ROOT / "data" / "fuzz"
# No input may cost more than a second of the processor.
LONGEST = 1.0
# What a header line or a typed name may be long, and what a file or a document.
MOST_BYTES = 4096

_MODULES = (
    "regaudit.reference",
    "regaudit.manifest",
    "regaudit.schema1",
    "regaudit.text",
    "regaudit.client.challenges",
    "regaudit.client.credentials",
    "regaudit.client.exchange",
    "regaudit.client.layout",
    "regaudit.client.rates",
    "regaudit.client.tokens",
    "regaudit.client.v1",
    "regaudit.client.v2",
    "regaudit.cleaner.journal",
    "regaudit.cleaner.outcomes",
    "regaudit.cleaner.plan",
    "regaudit.analysis.in_use",
    "regaudit.analysis.policy",
    "regaudit.analysis.versions",
    "regaudit.inventory.snapshot",
)
TARGETS: dict[str, Callable[[bytes], None]] = {}


def target(function: Callable[[bytes], None]) -> Callable[[bytes], None]:
    """Register a target under its name."""
    TARGETS[function.__name__] = function
    return function


def check(name: str, data: bytes) -> None:
    """Feed a target, and raise where it broke or took too long."""
    started = time.process_time()
    TARGETS[name](data)
    spent = time.process_time() - started
    if spent > LONGEST:
        raise AssertionError(f"{name} took {spent:.1f} s of the processor for {len(data)} bytes")


def seeds(name: str) -> list[bytes]:
    """Return the kept inputs of a target."""
    return [path.read_bytes() for path in sorted((CORPUS / name).glob("*"))]


@contextlib.contextmanager
def written(data: bytes, name: str = "file") -> Iterator[Path]:
    """Write bytes to a file of their own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(data)
        yield path


# -- what a registry sends -------------------------------------------------------------------


@target
def challenges(data: bytes) -> None:
    """Feed WWW-Authenticate, several lines of it."""
    from regaudit.client.challenges import parse_challenges

    for challenge in parse_challenges(data.decode("latin-1").split("\n")):
        assert challenge.scheme == challenge.scheme.lower()
        assert all(name == name.lower() for name in challenge.parameters)


@target
def link(data: bytes) -> None:
    """Feed Link, and where it leads."""
    from regaudit.client import v2
    from regaudit.client.exchange import Headers, resolve

    found = v2.next_link(Headers([("Link", line) for line in data.decode("latin-1").split("\n")]))
    if found is not None:
        where = resolve("https://registry.example/v2/team/app/tags/list", found)
        assert where is None or where.startswith(("https://", "http://"))


@target
def headers(data: bytes) -> None:
    """Feed a block of header fields, read when it is asked for as if it had been read at once."""
    from regaudit.client.exchange import Headers, HeaderText
    from regaudit.client.rates import rate_limit

    text = data.decode("latin-1").replace("\r", "")
    lazy = HeaderText(text)
    names = [line.partition(":")[0] for line in text.split("\n") if line.find(":") > 0]
    eager = Headers(lazy.pairs)
    for name in names[:50]:
        assert lazy.all(name) == eager.all(name)
    for read in (lazy, eager):
        limit = rate_limit(read)
        assert limit is None or repr(limit)


@target
def retry_after(data: bytes) -> None:
    """Feed Retry-After beside Date: never a wait beyond a minute, and never a negative one."""
    from hostile import answer, session

    from regaudit.client.exchange import Request, Wait, send
    from regaudit.errors import RateLimited

    after, _, date = data.decode("latin-1").partition("\n")
    conversation = send(session(), Request("GET", "https://registry.example/v2/", "test"))
    next(conversation)
    try:
        step = conversation.send(answer(429, headers=[("Retry-After", after), ("Date", date)]))
    except RateLimited:
        return
    assert isinstance(step, Wait)
    assert 0 <= step.seconds <= 60


@target
def manifest(data: bytes) -> None:
    """Feed a manifest of any media type, and of none."""
    from regaudit.errors import BadManifest
    from regaudit.manifest import OCI_INDEX, OCI_MANIFEST, SCHEMA1_SIGNED, digest_of_document, parse_manifest

    for media_type in ("", OCI_MANIFEST, OCI_INDEX, SCHEMA1_SIGNED):
        try:
            found = parse_manifest(data, media_type)
        except BadManifest:
            continue
        assert found.raw == data
        assert found.digest == digest_of_document(data)
        json.dumps(found.to_dict())
        assert found.kind in {"image", "index", "artifact", "signature", "legacy", "unknown"}


@target
def signatures(data: bytes) -> None:
    """Feed a signed manifest of schema 1."""
    from regaudit.errors import BadResponse
    from regaudit.schema1 import verify_signatures

    with contextlib.suppress(BadResponse):
        assert verify_signatures(data)


@target
def image_config(data: bytes) -> None:
    """Feed an image config."""
    from regaudit.errors import BadManifest
    from regaudit.manifest import parse_image_config

    with contextlib.suppress(BadManifest):
        json.dumps(parse_image_config(data).to_dict(), default=str)


@target
def listing(data: bytes) -> None:
    """Feed a page of tags: names of the grammar, or an error beside those that came before."""
    from hostile import answer, session, talk

    from regaudit.client import v2
    from regaudit.errors import RegistryError
    from regaudit.reference import is_tag

    found, _ = talk(v2.tags(session(), "team/app"), answer(200, data, headers={"Content-Type": "application/json"}))
    assert all(map(is_tag, found.names))
    assert found.error is None or isinstance(found.error, RegistryError)


@target
def error_body(data: bytes) -> None:
    """Feed what a registry says with its no: short, and fit to be shown."""
    from hostile import answer

    from regaudit.client.exchange import error_of
    from regaudit.text import clean

    for status in (400, 401, 404, 405, 429, 500):
        message = str(error_of(answer(status, data), "listing"))
        assert clean(message) == message
        assert len(message) < 1000


@target
def token_reply(data: bytes) -> None:
    """Feed what a token server answers: a token that can be sent, or an error."""
    from hostile import answer, session, talk

    from regaudit.client.exchange import TokenServer
    from regaudit.client.tokens import request_token
    from regaudit.errors import RegistryError

    server = TokenServer("https://registry.example/token", "s")
    with contextlib.suppress(RegistryError):
        token, _ = talk(request_token(session(), server, "repository:a:pull"), answer(200, data))
        assert token.value.isascii()
        assert token.value.isprintable()
        assert 55 <= token.renew_at <= 86400


# -- what a person types ---------------------------------------------------------------------


@target
def reference(data: bytes) -> None:
    """Feed a name of an image, a repository, a registry, or a pattern."""
    from regaudit.errors import InvalidReference
    from regaudit.reference import (
        compile_pattern,
        parse_index,
        parse_reference,
        parse_registry,
        parse_repo,
        parse_repo_and_ref,
        parse_target,
    )
    from regaudit.text import clean

    text = data.decode("utf-8", "surrogateescape")
    for parse in (parse_reference, parse_registry, parse_repo, parse_repo_and_ref, parse_index, parse_target):
        try:
            shown = str(parse(text))
        except InvalidReference as error:
            shown = str(error)
        assert clean(shown) == shown
    with contextlib.suppress(InvalidReference):
        compile_pattern(text).fullmatch("team/app" * 20)


@target
def typed(data: bytes) -> None:
    """Feed a duration, a range of versions, a digest."""
    import pyarrow as pa

    from regaudit.analysis.versions import VersionRange, Versions
    from regaudit.errors import UsageError
    from regaudit.reference import Digest
    from regaudit.text import parse_duration

    text = data.decode("utf-8", "replace")
    for parse in (parse_duration, Digest):
        with contextlib.suppress(UsageError):
            parse(text)
    with contextlib.suppress(UsageError):
        VersionRange(text).selects(Versions.of(pa.array(["1.0.0", "2.0.0-rc.1", "latest"])), doubt=True)


# -- files -----------------------------------------------------------------------------------


@target
def docker_config(data: bytes) -> None:
    """config.json. Nothing is on the path, so that no helper is found."""
    from regaudit.client.credentials import find_credentials, find_part_credentials
    from regaudit.errors import UsageError
    from regaudit.reference import RegistryName

    with written(data, "config.json") as path:
        for find in (find_credentials, find_part_credentials):
            with contextlib.suppress(UsageError):
                find(RegistryName("reg.io"), environ={"DOCKER_CONFIG": str(path.parent), "PATH": ""}, home=path.parent)


@target
def plan(data: bytes) -> None:
    """Feed a plan file, as it is."""
    from regaudit.cleaner.plan import Plan
    from regaudit.errors import PlanError

    with written(data, "plan.json") as path, contextlib.suppress(PlanError):
        Plan.load(path)


@target
def sealed_plan(data: bytes) -> None:
    """Feed a plan file by somebody who knows how its seal is made: whatever is in it, it loads or it is a plan error."""
    from regaudit.cleaner.plan import Plan, _hash, _texts
    from regaudit.errors import PlanError

    try:
        document = json.loads(data)
        document.pop("seal", None)
        content = {name: value for name, value in document.items() if name not in {"hash", "approval"}}
        document["hash"] = _hash(_texts(content))
        document["seal"] = _hash(_texts(document))
        raw = json.dumps(document).encode()
    except (ValueError, TypeError, AttributeError, RecursionError):
        return
    with written(raw, "plan.json") as path:
        try:
            loaded = Plan.load(path)
        except PlanError:
            return
        loaded.frame()
        str(loaded)
        repr(loaded)
        loaded._repr_html_()
        with contextlib.suppress(PlanError):
            loaded.check()


@target
def policy(data: bytes) -> None:
    """Feed a policy file."""
    from regaudit.analysis.policy import Policy
    from regaudit.errors import UsageError

    with written(data, "policy.toml") as path, contextlib.suppress(UsageError):
        json.dumps(Policy.load(path).to_dict(), default=str)


@target
def in_use(data: bytes) -> None:
    """Feed a list of what is in use: lines, JSON, YAML."""
    from regaudit.analysis.in_use import references_in_use
    from regaudit.errors import UsageError

    for name in ("list.txt", "pods.yaml"):
        with written(data, name) as path, contextlib.suppress(UsageError):
            references_in_use(path)


@target
def journal(data: bytes) -> None:
    """Feed a file in the place of a journal."""
    from regaudit.cleaner.journal import Journal
    from regaudit.errors import JournalError

    with written(data, "journal.sqlite") as path, contextlib.suppress(JournalError), Journal(path) as book:
        book.verify()
        book.runs()
        list(book.entries())


@target
def journal_entry(data: bytes) -> None:
    """Feed entries that somebody wrote into a journal: a line for each, of event and data."""
    from regaudit.cleaner.journal import Journal
    from regaudit.cleaner.outcomes import recorded_run
    from regaudit.errors import JournalError

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "journal.sqlite")
        Journal(path).close()
        connection = sqlite3.connect(path)
        for number, line in enumerate(data.decode("utf-8", "replace").split("\n")[:20], start=1):
            event, _, fields = line.partition(" ")
            values = (number, "2026-06-01T00:00:00+00:00", "r", event, "k", fields, "0" * 64, "0" * 64)
            connection.execute("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)
        connection.commit()
        connection.close()
        with Journal(path) as book:
            for question in (book.verify, book.runs, lambda: recorded_run(book, "r")):
                with contextlib.suppress(JournalError):
                    question()


@target
def snapshot_header(data: bytes) -> None:
    """Feed the header of a saved snapshot, without its tables."""
    from regaudit.errors import SnapshotError
    from regaudit.inventory.snapshot import Snapshot

    with written(data, "snapshot.json") as path, contextlib.suppress(SnapshotError):
        Snapshot.load(path.parent)


@target
def layout(data: bytes) -> None:
    """Feed the index of an OCI image layout."""
    from regaudit.client.layout import Layout
    from regaudit.errors import RegauditError

    with written(data, "index.json") as path:
        path.with_name("oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        with contextlib.suppress(RegauditError):
            found = Layout(path.parent, make=False)
            found.named()
            found.find()


# -- searching -------------------------------------------------------------------------------


def mutated(data: bytes, others: list[bytes], chance: random.Random) -> bytes:
    """Return bytes with a few changes: bits, pieces of other inputs, repetitions, words of the grammars."""
    raw = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4, 8))):
        at = chance.randrange(len(raw) + 1)
        end = min(len(raw), at + chance.choice((0, 1, 2, 8, 40)))
        other = chance.choice(others)
        cut = chance.randrange(len(other) + 1)
        raw[at:end] = chance.choice(
            (
                bytes([chance.randrange(256)]),
                other[cut : cut + chance.choice((1, 8, 64))],
                bytes(raw[at:end]) * chance.choice((2, 3, 200)),
                chance.choice(_WORDS),
                b"",
            )
        )
    return bytes(raw[:MOST_BYTES])


_WORDS = (
    *(b"null", b"true", b"-1", b"1e999", b"NaN", b"9" * 5000, b'"\\ud800"', b"[]", b"{}", b"[" * 200, b'"a":1,"a":2'),
    *(
        b"\0",
        b"\r\n",
        b"\x1b[31m",
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b'"',
        b"\\",
        b"=",
        b", ",
        b"; ",
        b"<",
        b">",
        b"%2e",
        b"../",
    ),
    *(b'Bearer realm="', b"sha256:" + b"0" * 64, b"rel=next", b"config", b"layers", b"manifests", b"size", b"digest"),
)


def search(name: str, seconds: float, seed: int) -> int:
    """Mutate the kept inputs for some seconds and return how many were tried: without atheris."""
    chance = random.Random(seed)
    pool = seeds(name) or [b""]
    ends, tried = time.monotonic() + seconds, 0
    while time.monotonic() < ends:
        data = mutated(chance.choice(pool), pool, chance)
        tried += 1
        try:
            check(name, data)
        except BaseException:
            found = _found(name) / f"crash-{seed}-{tried}"
            found.write_bytes(data)
            print(f"{name}: {found} breaks it", file=sys.stderr)
            raise
    return tried


def _found(name: str) -> Path:
    folder = Path(".fuzz") / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _with_atheris(name: str, seconds: int) -> None:
    """Search by coverage; ends the process, with 77 where something broke."""
    import atheris

    with atheris.instrument_imports(include=["regaudit"]):
        for module in _MODULES:
            importlib.import_module(module)
    folder = _found(name)
    options = [
        f"-max_total_time={seconds}",
        f"-max_len={MOST_BYTES}",
        "-timeout=20",
        "-print_final_stats=1",
        "-verbosity=0",
    ]
    where = [str(folder), *([str(CORPUS / name)] if (CORPUS / name).is_dir() else [])]
    atheris.Setup([sys.argv[0], *options, f"-artifact_prefix={folder}/", *where], lambda data: check(name, data))
    atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("targets", nargs="*", choices=[*TARGETS, []], help="all unless named")
    parser.add_argument("--seconds", type=int, default=600, help="in all")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)  # in a process of its own
    given = parser.parse_args()
    logging.disable(logging.CRITICAL)
    chosen: list[str] = given.targets or list(TARGETS)
    if given.one:
        _with_atheris(chosen[0], given.seconds)
    share = max(1, given.seconds // len(chosen))
    by_coverage = importlib.util.find_spec("atheris") is not None
    broken = [name for name in chosen if not _searched(name, share, by_coverage=by_coverage)]
    sys.exit(f"broken: {', '.join(broken)}" if broken else 0)


def _searched(name: str, seconds: int, *, by_coverage: bool) -> bool:
    """Search one target, say how many inputs were tried, and return whether all held."""
    if not by_coverage:
        try:
            print(f"{name}: {search(name, seconds, random.SystemRandom().randrange(10**6)):,} inputs", flush=True)
        except Exception as error:  # noqa: BLE001 -- whatever it is, it is the finding
            print(f"{name}: BROKEN: {error!r}", flush=True)
            return False
        return True
    command = [sys.executable, __file__, "--one", "--seconds", str(seconds), name]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False
    )
    (_found(name).parent / f"{name}.log").write_text(done.stdout)
    tried = next((line.split()[-1] for line in done.stdout.splitlines() if "number_of_executed_units" in line), "?")
    print(f"{name}: {tried} inputs{'' if done.returncode == 0 else ' BROKEN: see .fuzz/' + name + '.log'}", flush=True)
    return done.returncode == 0


if __name__ == "__main__":
    main()
