"""Who takes part: regaudit, and what people use instead. Each runs as a process of its own and gives a sample.

A sample has at least ``seconds``, of the reading alone where the program can tell, ``whole``, of the process from its start to its
end, and ``tags``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent
_NPM_PACKAGE = "docker-registry-client@3.4.0"
_SKOPEO = (
    'skopeo inspect --tls-verify=false --raw "docker://$0" >/dev/null &&'
    ' skopeo inspect --tls-verify=false --config "docker://$0" >/dev/null'
)


def regaudit(host: str, *options: str) -> dict[str, Any]:
    """Audit in a process that knows nobody's cache, settings or credentials but what `options` of reader.py name."""
    done = _json_of([sys.executable, str(_HERE / "reader.py"), host, *options])
    if not done["complete"]:
        raise RuntimeError(f"the audit of {host} is not complete: {done}")
    return done


def replay(host: str, recording: Path, connections: int, *options: str) -> dict[str, Any]:
    command = [sys.executable, str(_HERE / "replay.py"), host, str(recording), "--connections", str(connections)]
    return _json_of([*command, *options])


def loop(host: str, name: str, client: str, threads: int = 16) -> dict[str, Any]:
    command = [sys.executable, str(_HERE / "loop.py"), host, name, "--client", client, "--threads", str(threads)]
    return _json_of(command)


def skopeo(host: str, images: Sequence[str], processes: int) -> dict[str, Any]:
    """Loop over images (``NAME:TAG``), so many processes side by side: the manifest and the config of each."""
    command = ["xargs", "-P", str(processes), "-n", "1", "sh", "-c", _SKOPEO]
    started = time.perf_counter()
    subprocess.run(command, input="\n".join(f"{host}/{one}" for one in images), text=True, check=True)
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "whole": seconds, "tags": len(images)}


def install_node_client(folder: Path) -> str | None:
    """Install the npm package docker-registry-client in a folder, and return why that was not possible, or None."""
    if not (shutil.which("node") and shutil.which("npm")):
        return "`apt-get install nodejs npm` first"
    shutil.copy(_HERE / "read.js", folder)
    command = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(folder), _NPM_PACKAGE]
    try:
        # offline it tries for minutes
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    except subprocess.TimeoutExpired:
        return "npm could not install docker-registry-client within two minutes"
    if done.returncode:
        return f"npm could not install docker-registry-client: {(done.stderr.splitlines() or ['no reason given'])[0]}"
    return None


def node_client(folder: Path, host: str, names: Sequence[str], concurrency: int) -> dict[str, Any]:
    return _json_of(["node", str(folder / "read.js"), host, str(concurrency), *names])


def _json_of(command: list[str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as home:
        started = time.perf_counter()
        done = subprocess.run(command, env=environment(home), stdout=subprocess.PIPE, text=True, check=True)
        whole = time.perf_counter() - started
    return {**json.loads(done.stdout), "whole": whole}


def environment(home: str) -> dict[str, str]:
    foreign = ("REGAUDIT_", "XDG_", "DOCKER_", "REGISTRY_")
    own = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return {**own, "HOME": home, "PYTHONPATH": str(_HERE.parent)}
