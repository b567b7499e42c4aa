"""What every test stands on: an environment of its own, a guard at the network, and registries to talk to.

`sandbox` and `registry` are fresh for each test, `built` makes sandboxes with options; `sample_sandbox` and `sample_registry` are shared and only
read. `docker_registry` is a real one, empty and fresh; `sample_docker_registry` is shared and holds the
sample: a test that deletes or pushes there takes repositories of its own by `unique_name`.
"""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import logging
import multiprocessing
import multiprocessing.forkserver
import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import pytest
from docker_registry import PROGRAM, DockerRegistry, push
from door import Door, serving
from drivers import BULK_DRIVERS, DRIVERS, through_bulk
from hostile import Decoy, Hostile
from hypothesis import HealthCheck, settings

from regaudit import text
from regaudit.client import bulk
from regaudit.client.registry import Registry
from regaudit.sandbox.sample import Sample, sample_images
from regaudit.sandbox.server import Sandbox

# One time for every test: the ages in the sample count from it, and the bytes do not change overnight.
NOW = datetime(2026, 6, 1, tzinfo=UTC)

# On a shared machine a slow example is no finding, and a failure must be the same for whoever looks.
settings.register_profile("ci", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("dev", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "dev")
# The proofs of docs/proofs.md at their full size.
_LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"

_PERSONAL = ("DOCKER_", "XDG_", "REGAUDIT_", "REGISTRY_")
_PROXIES = frozenset({"http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy"})
_COUNTER = itertools.count(1)

T = TypeVar("T")


# Files of a minute each. With several workers they come first, or one of these would be alone at the end.
_LONGEST = (
    "test_browser",
    "test_docs",
    "test_real_audit",
    "test_notebook",
    "test_proof_bytes",
    "test_cli",
    "test_plan",
    "test_cleaner",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; the order within a file stays."""
    items.sort(key=lambda item: _LONGEST.index(item.path.stem) if item.path.stem in _LONGEST else len(_LONGEST))


def cases(few: T, many: T) -> T:
    """Return how many cases a proof takes: few in every run, many where ``HYPOTHESIS_PROFILE=long``."""
    return many if _LONG else few


def need(program: str, reason: str) -> str:
    """Return the path of a program; without it the test is skipped here and fails in CI.

    Parameters
    ----------
    program : str
        ``docker-registry``, ``skopeo``, ``chromium``.
    reason : str
        What the test wants it for.
    """
    path = shutil.which(program)
    if path is None:
        message = f"{program} is not installed ({reason}): apt-get install {program}"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(message)
    return str(path)


# -- every test ------------------------------------------------------------------------------


@pytest.fixture(scope="session", autouse=True)
def _nobody_elses_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Forget the developer's variables, before any fixture of the session looks at them."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(_PERSONAL) or name.lower() in _PROXIES:
                patch.delenv(name)
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        # One for all: its cache of fonts takes seconds to make, in every process anew.
        patch.setenv("MPLCONFIGDIR", str(tmp_path_factory.mktemp("matplotlib")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _interrupts_arrive() -> None:
    """Let Ctrl-C reach the programs that tests start: a shell has what it runs in the background ignore it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the test a home of its own, so that what it stores there is gone with it."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))


@pytest.fixture(autouse=True)
def _own_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget what is taken out of messages: one test's password may be another's word."""
    monkeypatch.setattr(text, "_KNOWN_SECRETS", type(text._KNOWN_SECRETS)(maxlen=text._KNOWN_SECRETS.maxlen))


@pytest.fixture(autouse=True)
def _own_log() -> Iterator[None]:
    """Put the log back as it was: what one test shows of it is no other's business."""
    logger = logging.getLogger("regaudit")
    level, handlers = logger.level, list(logger.handlers)
    yield
    logger.setLevel(level)
    logger.handlers[:] = handlers


@pytest.fixture(scope="session", autouse=True)
def _only_this_machine() -> Iterator[None]:
    """Fail whoever looks up a foreign name or connects to a foreign address; other processes are free."""
    connect, connect_ex, getaddrinfo = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo

    def guarded_connect(self: socket.socket, address: Any) -> None:
        _refuse_foreign(self.family, address)
        connect(self, address)

    def guarded_connect_ex(self: socket.socket, address: Any) -> int:
        _refuse_foreign(self.family, address)
        return connect_ex(self, address)

    def guarded_getaddrinfo(host: Any, *arguments: Any, **options: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if name is not None and name.endswith(".invalid"):  # RFC 6761: never resolves, so nobody need be asked
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        if name is not None and not _is_number(name) and not f".{name}".endswith(".localhost"):
            pytest.fail(f"a test looked up {name!r}: tests talk to 127.0.0.1 only")
        return getaddrinfo(host, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded_connect)
        patch.setattr(socket.socket, "connect_ex", guarded_connect_ex)
        patch.setattr(socket, "getaddrinfo", guarded_getaddrinfo)
        yield


def _refuse_foreign(family: int, address: Any) -> None:
    if family not in {socket.AF_INET, socket.AF_INET6}:
        return
    host = str(address[0])
    if host != "localhost" and not _is_loopback(host):
        pytest.fail(f"a test connected to {address!r}: tests talk to 127.0.0.1 only")


def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def _is_number(host: str) -> bool:
    """Return whether a host is an address in any spelling: nobody is asked for ``0x7f.1`` either."""
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        try:
            socket.inet_aton(host)
        except (OSError, UnicodeError):
            return False
    return True


@pytest.fixture
def every_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let progress be told after every result, not ten times a second."""
    monkeypatch.setattr("regaudit.inventory.progress.SECONDS_BETWEEN_CALLS", 0.0)


@pytest.fixture(scope="module")
def processes() -> Iterator[Any]:
    """Give a maker of processes that have imported everything: one is made in a hundredth of a second."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["regaudit.cleaner.cleaner"])
    yield context
    # There is no public way to end the server, which would outlive the tests.
    multiprocessing.forkserver._forkserver._stop()  # type: ignore[attr-defined]


# -- drivers ---------------------------------------------------------------------------------


@pytest.fixture(params=DRIVERS)
def each_driver(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the test once for each driver: `Registry.run`, and so every method of the doors, goes through it."""
    if request.param != "blocking":
        monkeypatch.setattr(Registry, "run", through_bulk)
    return str(request.param)


@pytest.fixture(params=BULK_DRIVERS)
def each_bulk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the test once for each way to run many conversations at once, which `Registry` takes by itself."""
    chosen = bulk.choose_driver
    monkeypatch.setattr(bulk, "choose_driver", lambda name: chosen(name or request.param))
    return str(request.param)


# -- registries ------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def sample() -> Sample:
    """Give the sample of images as it stands at `NOW`."""
    return sample_images(NOW)


@pytest.fixture
def sandbox(sample: Sample) -> Iterator[Sandbox]:
    """Give a fresh registry in memory with the sample, to read, change and break."""
    with Sandbox() as server:
        server.store.load(sample)
        yield server


@pytest.fixture
def built() -> Iterator[Callable[..., Door]]:
    """Make sandboxes with options, ``door = built(page=7)``; all are closed at the end, with their doors."""
    with contextlib.ExitStack() as opened:
        yield lambda **options: opened.enter_context(serving(**options))


@pytest.fixture
def registry(sandbox: Sandbox) -> Iterator[Registry]:
    """Give a `Registry` on the test's own sandbox."""
    with Registry(sandbox.host) as door:
        yield door


@pytest.fixture(scope="session")
def sample_sandbox(sample: Sample) -> Iterator[Sandbox]:
    """Give a registry in memory with the sample, shared by all tests: read only."""
    with Sandbox() as server:
        server.store.load(sample)
        yield server


@pytest.fixture
def sample_registry(sample_sandbox: Sandbox) -> Iterator[Registry]:
    """Give a `Registry` on the shared sandbox: read only."""
    with Registry(sample_sandbox.host) as door:
        yield door


@pytest.fixture
def hostile() -> Iterator[Hostile]:
    """Give a server that misbehaves as the test scripts it."""
    with Hostile() as server:
        yield server


@pytest.fixture
def decoy() -> Iterator[Decoy]:
    """Give a listener to whom nobody should speak."""
    with Decoy() as listener:
        yield listener


@pytest.fixture(scope="session")
def docker_registry_program() -> str:
    """Give the path of docker-registry, or end the test."""
    return need(PROGRAM, "a real registry to talk to")


@pytest.fixture
def docker_registry(docker_registry_program: str, tmp_path: Path) -> Iterator[DockerRegistry]:
    """Give a real registry of the test's own: empty, without a login, with deletion."""
    with DockerRegistry(tmp_path / "docker-registry") as server:
        yield server


@pytest.fixture(scope="session")
def sample_storage(docker_registry_program: str, sample: Sample, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the storage of a real registry with the sample, to copy: a copy takes a moment, a push seconds."""
    with DockerRegistry(tmp_path_factory.mktemp("sample-storage")) as server, Registry(server.host) as door:
        push(door, sample)
    return server.storage


@pytest.fixture(scope="session")
def sample_docker_registry(sample_storage: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    """Give a real registry with the sample, shared by all tests: change only repositories of `unique_name`."""
    folder = tmp_path_factory.mktemp("docker-registry")
    with DockerRegistry(folder, storage=Path(shutil.copytree(sample_storage, folder / "copy"))) as server:
        yield server


@pytest.fixture
def full_docker_registry(sample_storage: Path, tmp_path: Path) -> Iterator[DockerRegistry]:
    """Give a real registry of the test's own with the sample, its referrers under fallback tags."""
    with DockerRegistry(tmp_path, storage=Path(shutil.copytree(sample_storage, tmp_path / "copy"))) as server:
        yield server


@pytest.fixture
def unique_name() -> Callable[[str], str]:
    """Return a function from a repository name to one that no other test of this run uses."""
    number = next(_COUNTER)
    return lambda name: f"test-{os.getpid()}-{number}/{name}"
