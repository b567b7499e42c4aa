"""A real registry for tests: Debian's docker-registry, one process in a folder of its own.

Used so::

    with DockerRegistry(tmp_path) as server:
        registry = Registry(server.host)
        push(registry, sample_images(now))
        server.garbage_collect()
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from certificates import Authority, Certificate
from token_server import ISSUER, SERVICE, TokenServer

from regaudit.client.registry import Registry
from regaudit.sandbox.sample import Sample, SampleRepository

PROGRAM = "docker-registry"
# Who may log in where `login=True`. The hash is bcrypt of the password: docker-registry reads no other kind.
USERNAME, PASSWORD = "alice", "secret"
_HTPASSWD = f"{USERNAME}:$2b$05$regauditregauditregauOvZ9DLIvKZ8eZUXF8ZDp9mQEIwK2mhSW\n"

_LISTENING = re.compile(r'listening on (127\.0\.0\.1:\d+)[",]')
# It is up in a twentieth of a second; a loaded machine may take a hundred times as long.
_PATIENCE = 20.0


class DockerRegistry:
    """A docker-registry process on 127.0.0.1, from the ``with`` to its end.

    Parameters
    ----------
    folder : Path
        Where storage and configuration go.
    deletion : bool
        False makes it answer 405 to every DELETE.
    login : bool
        Whether it asks for Basic authentication as `USERNAME` and `PASSWORD`.
    tokens : TokenServer, optional
        Where it sends people for tokens, and whose tokens it accepts.
    tls : Certificate, optional
        Speak TLS with it.
    clients : Authority, optional
        Speak only to who has a certificate of this authority.
    storage : Path, optional
        The storage of another registry, to look at the same things through another door.

    Attributes
    ----------
    host : str
        ``127.0.0.1:PORT``; the same after a restart.
    storage : Path
        Where it keeps what was pushed: the ground truth, and the place to break things.
    """

    def __init__(
        self,
        folder: Path,
        *,
        deletion: bool = True,
        login: bool = False,
        tokens: TokenServer | None = None,
        tls: Certificate | None = None,
        clients: Authority | None = None,
        storage: Path | None = None,
    ) -> None:
        self.storage = storage or folder / "storage"
        folder.mkdir(parents=True, exist_ok=True)
        self.storage.mkdir(exist_ok=True)
        self._folder, self._deletion, self._login = folder, deletion, login
        self._tokens, self._tls, self._clients = tokens, tls, clients
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._log: deque[str] = deque(maxlen=50)
        self.host = "127.0.0.1:0"  # the system chooses a free port, and the first start keeps it

    @property
    def url(self) -> str:
        return f"{'http' if self._tls is None else 'https'}://{self.host}"

    def start(self) -> None:
        """Start the process and wait until it listens."""
        self._process = subprocess.Popen(
            [PROGRAM, "serve", str(self._configuration())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=_environment(),
            text=True,
        )
        up = threading.Event()
        self._reader = threading.Thread(target=self._read_log, args=(self._process, up), daemon=True)
        self._reader.start()
        if not up.wait(_PATIENCE) or self._process.poll() is not None:
            self.stop()
            raise RuntimeError("docker-registry did not start:\n" + "".join(self._log))

    def stop(self, *, kill: bool = False) -> None:
        """End the process, at once where `kill`; what was pushed stays in `storage`."""
        if self._process is None:
            return
        (self._process.kill if kill else self._process.terminate)()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._reader is not None:
            self._reader.join()
        self._process = None

    def restart(self) -> None:
        """Kill the process and start it again on the same port, with the same storage."""
        self.stop(kill=True)
        self.start()

    def garbage_collect(self, *, delete_untagged: bool = False) -> str:
        """Free what no manifest holds, and return what the collector says.

        The server holds no cache of what exists, so it may stay up as long as nobody pushes.
        """
        options = ["--delete-untagged"] if delete_untagged else []
        command = [PROGRAM, "garbage-collect", *options, str(self._configuration())]
        done = subprocess.run(command, env=_environment(), capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            raise RuntimeError(f"garbage-collect failed:\n{done.stderr}")
        return done.stdout

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _configuration(self) -> Path:
        configuration: dict[str, Any] = {
            "version": "0.1",
            "log": {"level": "info", "accesslog": {"disabled": True}},
            "storage": {
                "filesystem": {"rootdirectory": str(self.storage)},
                "delete": {"enabled": self._deletion},
                "maintenance": {"uploadpurging": {"enabled": False}},
            },
            "http": {"addr": self.host, "secret": "the tests' own"},
        }
        if self._login:
            passwords = self._folder / "htpasswd"
            passwords.write_text(_HTPASSWD)
            configuration["auth"] = {"htpasswd": {"realm": "tests", "path": str(passwords)}}
        if self._tokens is not None:
            whom = {"realm": self._tokens.realm, "service": SERVICE, "issuer": ISSUER}
            configuration["auth"] = {"token": whom | {"rootcertbundle": str(self._tokens.bundle)}}
        if self._tls is not None:
            configuration["http"]["tls"] = {"certificate": str(self._tls.certificate), "key": str(self._tls.key)}
        if self._clients is not None:
            configuration["http"]["tls"]["clientcas"] = [str(self._clients.certificate)]
        file = self._folder / "config.yml"
        file.write_text(json.dumps(configuration))  # JSON is YAML
        return file

    def _read_log(self, process: subprocess.Popen[str], up: threading.Event) -> None:
        assert process.stderr is not None
        with process.stderr as log:
            for line in log:
                self._log.append(line)
                listening = _LISTENING.search(line)
                if listening:
                    self.host = listening[1]
                    up.set()
        up.set()  # it ended: whoever waits shall look


def push(registry: Registry, sample: Sample, *, prefix: str = "") -> None:
    """Push a sample through the project's own client, repositories side by side.

    `prefix` goes in front of every repository name (``"mine/"``). Broken tags and emptied
    repositories stay behind: no client can push them.
    """
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda part: push_repository(registry, part, prefix=prefix), sample.repositories))


def push_repository(registry: Registry, part: SampleRepository, *, prefix: str = "") -> None:
    """Push one repository of a sample: blobs, then manifests by digest, then tags."""
    repository = registry.repository(prefix + part.name)
    for data in part.blobs.values():
        repository.upload_blob(data)
    manifests = {manifest.digest: manifest for manifest in part.manifests}
    tagged = set(part.tags.values())
    for manifest in part.manifests:
        if manifest.digest not in tagged:
            repository.put_manifest(manifest.digest, manifest.raw, manifest.media_type)
        for tag in (tag for tag, digest in part.tags.items() if digest == manifest.digest):
            repository.put_manifest(tag, manifests[manifest.digest].raw, manifest.media_type)


def _environment() -> dict[str, str]:
    # REGISTRY_* variables of a developer's shell would change the configuration.
    return {name: value for name, value in os.environ.items() if not name.startswith("REGISTRY_")}
