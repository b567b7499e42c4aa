"""A registry of files: nginx gives out manifests, configs and pages of tags that were written before.

It costs next to nothing to answer, so that what is measured is the client.
"""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import time
from pathlib import Path
from typing import Self

from machine import find
from stored_images import digest_of, image

from regaudit.manifest import OCI_MANIFEST

REPOSITORY = "bench"
# Room for a million tags, so that the names are as long however many there are.
_DIGITS = 7
_PAGE = 1000
# It listens within a few hundredths of a second; 20,000 digests to hash into a map take it a little longer.
_PATIENCE = 20.0
# It keeps files open; out of descriptors it would accept nobody for half a second at a time, so that some are left for connections.
_MOST_OPEN_FILES = 100_000
_MOST_CONNECTIONS = 4096

_CONFIGURATION = """
daemon off;
{user}
pid {folder}/nginx.pid;
error_log {folder}/error.log;
worker_processes 1;
worker_rlimit_nofile {descriptors};
events {{ worker_connections {connections}; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  types {{ }}
  sendfile on;
  tcp_nopush on;
  keepalive_requests 1000000000;
  open_file_cache max={open_files} inactive=1h;
  open_file_cache_valid 1h;
  map_hash_max_size 262144;
  map_hash_bucket_size 256;
  map $image $digest {{ include {folder}/digests.map; }}
  map $arg_last $next_page {{ include {folder}/pages.map; }}
  server {{
    listen 127.0.0.1:{port};
    root {folder}/files;
    default_type application/json;
    location = /v2/ {{ add_header Docker-Distribution-Api-Version registry/2.0; return 200 '{{}}'; }}
    location = /v2/_catalog {{ return 200 '{{"repositories":["{repository}"]}}'; }}
    location = /v2/{repository}/tags/list {{ add_header Link $next_page; try_files /tags/after$arg_last =404; }}
    location ~ "^/v2/{repository}/manifests/t\\d{{{fixed}}}(?<image>\\d{{{counted}}})$" {{
      default_type {media_type};
      add_header Docker-Content-Digest $digest;
      try_files /manifests/$image.json =404;
    }}
    location ~ "^/v2/{repository}/blobs/(?<blob>sha256:[0-9a-f]{{64}})$" {{
      default_type application/octet-stream;
      try_files /blobs/$blob =404;
    }}
  }}
}}
"""


def _descriptors() -> int:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 2 * _MOST_OPEN_FILES if most == resource.RLIM_INFINITY else most


class StaticRegistry:
    """nginx on 127.0.0.1 with one repository of `tags` tags on `images` different images.

    A tag's image is found by the last digits of its name, so `images` is 1, a power of ten, or as many as there are tags.

    Attributes
    ----------
    host : str
        ``127.0.0.1:PORT``.
    """

    def __init__(self, folder: Path, *, tags: int, images: int) -> None:
        self._folder = folder
        counted = len(str(images - 1)) if images > 1 else 0
        if images != min(10**counted, tags):
            raise ValueError(f"{images} images for {tags} tags: name a power of ten, or as many as tags")
        self.tags, self.images, self._counted = tags, images, counted
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.host = f"127.0.0.1:{port}"
        self._write_images()
        self._write_pages()
        descriptors = _descriptors()
        (folder / "nginx.conf").write_text(
            _CONFIGURATION.format(
                folder=folder,
                port=port,
                user="user root;" if os.geteuid() == 0 else "",
                repository=REPOSITORY,
                media_type=OCI_MANIFEST,
                fixed=_DIGITS - counted,
                counted=counted,
                connections=_MOST_CONNECTIONS,
                descriptors=descriptors,
                open_files=max(1, min(_MOST_OPEN_FILES, descriptors - 2 * _MOST_CONNECTIONS)),
            )
        )

    def _write_images(self) -> None:
        manifests, blobs = self._folder / "files/manifests", self._folder / "files/blobs"
        for folder in (manifests, blobs):
            folder.mkdir(parents=True)
        lines = []
        for number in range(self.images):
            made = image(REPOSITORY, number)
            digits = f"{number:0{self._counted}}" if self._counted else ""
            (manifests / f"{digits}.json").write_bytes(made.manifest)
            (blobs / digest_of(made.config)).write_bytes(made.config)
            lines.append(f'"{digits}" {made.digest};\n')
        (self._folder / "digests.map").write_text("".join(lines))

    def _write_pages(self) -> None:
        pages = self._folder / "files/tags"
        pages.mkdir()
        lines, last = [], ""
        for start in range(0, self.tags, _PAGE):
            names = [f"t{number:0{_DIGITS}}" for number in range(start, min(start + _PAGE, self.tags))]
            quoted = ",".join(f'"{name}"' for name in names)
            (pages / f"after{last}").write_text(f'{{"name":"{REPOSITORY}","tags":[{quoted}]}}')
            if start + _PAGE < self.tags:
                target = f"/v2/{REPOSITORY}/tags/list?last={names[-1]}&n={_PAGE}"
                lines.append(f'"{last}" "<{target}>; rel=\\"next\\"";\n')
            last = names[-1]
        (self._folder / "pages.map").write_text("".join(lines))

    def __enter__(self) -> Self:
        command = [str(find("nginx")), "-p", str(self._folder), "-c", str(self._folder / "nginx.conf")]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._wait()
        return self

    def _wait(self) -> None:
        address, until = ("127.0.0.1", int(self.host.partition(":")[2])), time.monotonic() + _PATIENCE
        while self._process.poll() is None and time.monotonic() < until:
            try:
                socket.create_connection(address).close()
            except OSError:
                time.sleep(0.01)
            else:
                return
        self.__exit__()
        raise RuntimeError(f"nginx did not start:\n{(self._folder / 'error.log').read_text()}")

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()
