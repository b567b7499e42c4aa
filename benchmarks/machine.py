"""The machine that measured: processors, load, and the versions of everything that took part."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

# How to ask each program for its version; all of them end at once.
_ASKING = {
    "docker-registry": ["--version"],
    "nginx": ["-v"],
    "wrk": ["-v"],
    "skopeo": ["--version"],
    "node": ["--version"],
}
_PACKAGES = ("requests", "urllib3", "pycurl", "pandas", "pyarrow", "numpy")
_VERSION = re.compile(r"\d+(\.\d+)+\S*")
# Debian keeps nginx where only root's PATH leads.
_ELSEWHERE = "/usr/sbin:/usr/local/sbin"


def find(program: str) -> str | None:
    """Return the path of a program, or None."""
    return shutil.which(program) or shutil.which(program, path=_ELSEWHERE)


def missing(*programs: str) -> str | None:
    """Return what to type for the programs that are not there, or None."""
    packages = {"nginx": "nginx-light", "node": "nodejs npm"}
    absent = [packages.get(program, program) for program in programs if find(program) is None]
    return f"`apt-get install {' '.join(absent)}` first" if absent else None


def load() -> str:
    return " ".join(f"{value:.2f}" for value in os.getloadavg())


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def described(load_before: str) -> dict[str, str]:
    """Return the facts of a run that began at the load `load_before`."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": f"{os.cpu_count()} processors, {processor()}, {_memory_gib():.0f} GiB, {platform.system()} {platform.release()}",
        "load average before and after (1, 5, 15 minutes)": f"{load_before}; {load()}",
        "programs": ", ".join(f"{name} {_program_version(name)}" for name in _ASKING if find(name)),
        "regaudit": _regaudit_version(),
        "Python": f"{platform.python_version()}, {', '.join(_package_versions())}",
    }


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)


def _program_version(name: str) -> str:
    done = subprocess.run([str(find(name)), *_ASKING[name]], capture_output=True, text=True, check=False)
    found = _VERSION.search(done.stdout + done.stderr)
    return found[0] if found else "of unknown version"


def _regaudit_version() -> str:
    from regaudit._version import __version__

    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return __version__
    return f"{__version__}, commit {commit}"


def _package_versions() -> list[str]:
    installed = {item.metadata["Name"].lower(): item.version for item in metadata.distributions()}
    found = [f"{name} {installed[name]}" for name in _PACKAGES if name in installed]
    return [*found, _libcurl()] if "pycurl" in installed else found


def _libcurl() -> str:
    import pycurl

    return next(part.replace("/", " ") for part in pycurl.version.split() if part.startswith("libcurl"))
