"""A whole run asks no network for anything, and an attempt to would not go unseen."""

import socket
import subprocess
import sys

import pytest
from tiny import sets

WATCH = """
import sys
ATTEMPTS = []
NETWORK = {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr",
           "socket.sendto", "socket.sendmsg", "urllib.Request", "http.client.connect", "ftplib.connect"}

def watch(event, arguments):
    if event in NETWORK:
        ATTEMPTS.append((event, str(arguments)[:200]))

sys.addaudithook(watch)
"""
RUN = (
    WATCH
    + """
from compressor.cli.app import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    code = end.code or 0
assert not ATTEMPTS, ATTEMPTS
sys.exit(code)
"""
)
"""A command in a process of its own, since a hook cannot be taken away again.

A library may bind a socket of this machine to learn what it has; what C code opens by itself no hook of Python sees.
"""
WHOLE = sets(
    "export.variants=[fp32,optimized,int8]",
    "analysis=[ffn,errors,roles]",
    "cascade={exits: auto, max_flips: 0.2}",
    "data.calibration.seen_in_training=false",
    "selection.audit=true",
    "goals={max_drop: 1}",
)


@pytest.mark.slow
def test_a_whole_run_with_cascade_and_analyses_asks_no_network(tiny_task, tmp_path):
    recipe = str(tiny_task / "recipe.yaml")
    for arguments in (
        ["run", recipe, "--out", str(tmp_path / "run"), *WHOLE],
        ["verify", str(tmp_path / "run")],
        ["bundle", str(tmp_path / "run"), "--out", str(tmp_path / "b.tar"), "--all"],
    ):
        done = subprocess.run([sys.executable, "-c", RUN, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode in {0, 3}, done.stderr[-2000:]


def test_a_small_run_with_its_export_asks_no_network(tiny_task, tmp_path):
    arguments = [
        "run",
        str(tiny_task / "recipe.yaml"),
        "--out",
        str(tmp_path / "run"),
        *sets("export.variants=[optimized]"),
    ]
    done = subprocess.run([sys.executable, "-c", RUN, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode in {0, 3}, done.stderr[-2000:]
    assert (tmp_path / "run" / "onnx" / "optimized" / "model.onnx").is_file()


@pytest.mark.parametrize(
    "attempt",
    [
        "import socket; socket.getaddrinfo('localhost', 80)",
        "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))",
        "import socket; socket.socket().connect_ex(('127.0.0.1', 9))",
        "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9/')",
    ],
)
def test_the_watch_sees_an_attempt(attempt):
    code = f"{WATCH}\ntry:\n    exec({attempt!r})\nexcept OSError:\n    pass\nsys.exit(3 if ATTEMPTS else 0)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 3
    assert socket  # the name that the attempts speak of


def test_a_model_that_is_not_here_is_the_one_reason_to_ask_a_hub(tiny_task, command, monkeypatch):
    asked = []

    def no_network(host, *rest, **more):
        asked.append(host)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    code, _, error = command("score", tiny_task / "recipe.yaml", "--set", "model.path=nobody/nothing-at-all")
    assert (code, "the hub cannot be reached" in error or "no such directory here" in error) == (2, True)
    assert asked == []
    assert command("validate", tiny_task / "recipe.yaml", "--set", "model.path=nobody/nothing-at-all")[0] == 0
    assert asked == []
