"""JupyterLab in Chromium for the browser tests: a server and a page of one's own, in temporary folders.

Nothing here waits for a fixed time: each step waits for what it needs to see. The page reaches this
machine only; every other request is aborted.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import Any

# Starting a server, a kernel or a page takes some seconds, and twenty times as long on a machine that is busy with other tests.
STARTUP_SECONDS = 120.0
ACTION_MS = 30_000.0
CHROMIUM_OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
SERVER_OPTIONS = (
    "--no-browser",
    "--allow-root",
    "--ip=127.0.0.1",
    "--ServerApp.port_retries=0",
    "--ServerApp.password=",
    "--ServerApp.disable_check_xsrf=True",
    "--IdentityProvider.token=",
    "--LabApp.expose_app_in_browser=True",
    "--LabApp.news_url=None",
    "--LabApp.extension_manager=readonly",
    "--JupyterNotebookApp.expose_app_in_browser=True",
)
KERNEL_IS_IDLE = "window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"


def chromium() -> str | None:
    """Return where Chromium is, or None."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def missing() -> str:
    """Return what the browser tests would need and do not find, or nothing."""
    packages = [
        name for name in ("playwright", "jupyterlab", "notebook", "ipykernel") if importlib.util.find_spec(name) is None
    ]
    return ", ".join([*packages, *([] if chromium() else ["chromium"])])


class Lab:
    """A running JupyterLab.

    Attributes
    ----------
    url : str
        Where it listens.
    folder : Path
        The folder that it shows; notebooks are written here.
    """

    def __init__(self, home: Path) -> None:
        self.folder = home / "work"
        self.folder.mkdir(parents=True)
        _quieten(home / "config")
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._log = (home / "server.log").open("w")
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "jupyterlab",
                *SERVER_OPTIONS,
                f"--port={port}",
                f"--ServerApp.root_dir={self.folder}",
            ],
            env=_environment(home),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            cwd=self.folder,
        )
        try:
            wait_until(self._answers, STARTUP_SECONDS, "JupyterLab does not answer")
        except BaseException:
            self.close()
            raise

    def read(self, name: str) -> Any:
        """Return a notebook as it was saved last."""
        return json.loads((self.folder / name).read_text())

    def close(self) -> None:
        """End the server, which ends its kernels."""
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def _answers(self) -> bool:
        if self._process.poll() is not None:
            raise RuntimeError(f"JupyterLab ended: {Path(self._log.name).read_text()[-2000:]}")
        with (
            suppress(urllib.error.URLError, ConnectionError),
            urllib.request.urlopen(f"{self.url}/api/status") as reply,
        ):
            return reply.status == 200
        return False


class Notebook:
    """A notebook open in a page of JupyterLab, or of Notebook 7.

    Parameters
    ----------
    classic : bool
        Whether to open it in Notebook 7, which the same server offers.
    """

    def __init__(self, page: Any, lab: Lab, name: str, *, classic: bool = False) -> None:
        self.page, self.name, self._classic = page, name, classic
        self.open(lab)

    def open(self, lab: Lab) -> None:
        """Show it, with the kernel that it has had or another one."""
        place = f"lab/workspaces/{Path(self.name).stem}/tree/{self.name}?reset"
        self.page.goto(f"{lab.url}/{f'notebooks/{self.name}' if self._classic else place}")
        self.page.wait_for_function(KERNEL_IS_IDLE, timeout=STARTUP_SECONDS * 1000)

    def form(self, source: str | None = None) -> Any:
        """Run all cells, the first of them with another source where one is given, and return the form that they show.

        The kernel stays the same: what took seconds to import is there.
        """
        self.command("notebook:clear-all-cell-outputs")
        self.page.wait_for_function("document.querySelector('.regaudit') === null")
        if source is not None:
            self.page.evaluate(
                "text => window.jupyterapp.shell.currentWidget.content.model.cells.get(0).sharedModel.setSource(text)",
                source,
            )
        self.command("notebook:run-all-cells")
        self.page.wait_for_function(
            "document.querySelector('.regaudit tbody tr:not([hidden])') || document.querySelector('.jp-RenderedText[data-mime-type*=stderr]')",
            timeout=STARTUP_SECONDS * 1000,  # a kernel's first cell imports pandas and more
        )
        form = self.page.locator(".regaudit")
        assert form.count() == 1, self.page.locator(".jp-OutputArea").all_text_contents()
        return form

    def command(self, name: str, **arguments: Any) -> None:
        """Carry out a command of JupyterLab and wait until it is done."""
        self.page.evaluate("([name, args]) => window.jupyterapp.commands.execute(name, args)", [name, arguments])

    def save(self) -> None:
        """Save the notebook."""
        self.command("docmanager:save")

    def theme(self, name: str) -> None:
        """Switch to a theme, "JupyterLab Light" or "JupyterLab Dark"."""
        self.command("apputils:change-theme", theme=name)
        light = str(name.endswith("Light")).lower()
        self.page.wait_for_selector("#jupyterlab-splash", state="detached")
        self.page.wait_for_selector(f"body[data-jp-theme-light='{light}']", state="attached")

    @property
    def cells(self) -> int:
        """How many cells the notebook has."""
        count: int = self.page.evaluate("window.jupyterapp.shell.currentWidget.content.model.cells.length")
        return count


@contextmanager
def browser_page(home: Path) -> Iterator[Any]:
    """Open a page of a Chromium of one's own; what it asks of other machines is aborted."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            str(home), executable_path=chromium(), args=list(CHROMIUM_OPTIONS), viewport={"width": 1400, "height": 1600}
        )
        context.set_default_timeout(ACTION_MS)
        context.route("**/*", _only_this_machine)
        page = context.pages[0] if context.pages else context.new_page()
        page.on("dialog", lambda dialog: dialog.accept())
        try:
            yield page
        finally:
            context.close()


def wait_until(condition: Callable[[], Any], seconds: float, complaint: str) -> None:
    """Ask again and again until a condition holds; raises `TimeoutError` where it does not in time."""
    import threading

    pause = threading.Event()
    deadline = monotonic() + seconds
    while not condition():
        if monotonic() > deadline:
            raise TimeoutError(complaint)
        pause.wait(0.05)


def _only_this_machine(route: Any) -> None:
    if route.request.url.startswith(("http://127.0.0.1:", "ws://127.0.0.1:", "data:", "blob:")):
        route.continue_()
    else:
        route.abort()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def _quieten(config: Path) -> None:
    """Switch off the question whether to fetch news, which would cover the page."""
    settings = (
        config / "lab" / "user-settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    )
    settings.parent.mkdir(parents=True)
    settings.write_text('{"fetchNews": "false", "checkForUpdates": false}')


def _environment(home: Path) -> dict[str, str]:
    places = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTER_DATA_DIR": "data",
        "IPYTHONDIR": "ipython",
        "XDG_STATE_HOME": "state",
        "XDG_CACHE_HOME": "cache",
    }
    return os.environ | {name: str(home / folder) for name, folder in places.items()}
