"""A reading that a person stops keeps what it has, says what is missing, and ends at once."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from hostile import Hostile, Stall, error, reply

from regaudit.inventory.snapshot import Snapshot
from regaudit.manifest import OCI_MANIFEST

# Well above what stopping takes, and far below any deadline of the client.
PROMPT = 5.0

MANIFEST = {
    "schemaVersion": 2,
    "mediaType": OCI_MANIFEST,
    "config": {"mediaType": "application/vnd.example+json", "digest": "sha256:" + "0" * 64, "size": 2},
    "layers": [],
}
CELL = """
import regaudit as ra
registry = ra.Registry({host!r})
print("reading", flush=True)
snapshot = ra.collect(registry, "team/app", progress=False)
print("read", snapshot.complete, snapshot.tags["tag"].tolist(), snapshot.problems["error"].tolist())
"""


@pytest.fixture
def stalling():
    """Serve one tag at once and never answer for another; `stuck` is set when that is asked for."""
    with Hostile() as server:
        server.stuck = threading.Event()

        def never(_):
            server.stuck.set()
            return Stall()

        server.on("GET /v2/", reply(json={}))
        server.on("GET /v2/team/app/tags/list", reply(json={"name": "team/app", "tags": ["quick", "stuck"]}))
        server.on("GET /v2/team/app/manifests/quick", reply(json=MANIFEST, headers={}))
        server.on("GET /v2/team/app/manifests/stuck", never)
        yield server


@pytest.mark.notebook
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_stop_button_of_a_kernel_ends_a_cell_that_collects(stalling, tmp_path, monkeypatch):
    from jupyter_client.manager import start_new_kernel

    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    manager, client = start_new_kernel()
    try:
        client.execute(CELL.format(host=stalling.host))
        assert stalling.stuck.wait(30)
        stopped = time.monotonic()
        manager.interrupt_kernel()
        printed = output_until_idle(client)
        assert time.monotonic() - stopped < PROMPT
        assert "read False" in printed
        assert "interrupted" in printed
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def output_until_idle(client):
    printed = ""
    while True:
        message = client.get_iopub_msg(timeout=30)
        content = message["content"]
        if message["msg_type"] == "stream":
            printed += content["text"]
        if message["msg_type"] == "error":
            pytest.fail("\n".join(content["traceback"]))
        if content.get("execution_state") == "idle" and "reading" in printed:
            return printed


def test_ctrl_c_on_the_command_line_writes_what_was_read_and_marks_it_incomplete(stalling, tmp_path):
    command = [
        sys.executable,
        "-m",
        "regaudit.cli",
        "audit",
        f"{stalling.host}/team/app",
        "--out",
        str(tmp_path / "out"),
        "-q",
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    ) as process:
        assert stalling.stuck.wait(30)
        stopped = time.monotonic()
        process.send_signal(signal.SIGINT)
        printed, said = process.communicate(timeout=30)
    assert time.monotonic() - stopped < PROMPT
    assert process.returncode == 1
    assert "Traceback" not in said
    assert "interrupted" in said.splitlines()[-1]
    snapshot = Snapshot.load(tmp_path / "out" / "snapshot")
    assert "written to" in printed
    assert not snapshot.complete
    assert snapshot.unread == {"team/app"}


@pytest.mark.usefixtures("each_bulk")
def test_a_second_reading_after_an_interrupted_one_is_whole(stalling):
    """The interrupt must not leave the registry object in a state in which nothing can be read any more."""
    from regaudit.client.registry import Registry
    from regaudit.inventory.collect import collect

    def interrupt(progress):
        if progress.tags_total:
            raise KeyboardInterrupt

    with Registry(stalling.host) as registry:
        first = collect(registry, "team/app", progress=interrupt)
        stalling.on("GET /v2/team/app/manifests/stuck", error(404, "MANIFEST_UNKNOWN"))
        second = collect(registry, "team/app", progress=False)
    assert not first.complete
    assert second.complete
    assert second.problems["error"].tolist() == ["dangling"]
