"""How a command ends: our own faults, interruptions and signals, and what a terminal can show."""

import json
import os
import signal
import subprocess
import sys
from importlib.metadata import version

import pytest
import torch

from compressor.errors import UserError


def test_our_own_faults_end_with_1_and_a_traceback_only_on_demand(tiny_task, tmp_path, command, monkeypatch):
    def broken(*_arguments, **_options):
        raise RuntimeError("parity failure: made up")

    monkeypatch.setattr("compressor.stages.predictions.check_parity", broken)
    code, _, stderr = command("run", tiny_task / "recipe.yaml", "--out", tmp_path / "run")
    assert (code, "parity failure: made up" in stderr, "Traceback" in stderr) == (1, True, False)
    with pytest.raises(RuntimeError, match="made up"):
        command("--debug", "run", tiny_task / "recipe.yaml", "--out", tmp_path / "run")


def test_version_and_both_module_names():
    said = f"compressor {version('compressor')}"
    for module in ("compressor", "compressor.cli"):
        done = subprocess.run([sys.executable, "-m", module, "--version"], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == said


@pytest.mark.slow
def test_bytes_that_are_no_text_and_terminals_that_know_few_signs(tiny_task):
    def call(*arguments, encoding="utf-8"):
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONIOENCODING": encoding}
        done = subprocess.run(
            [sys.executable, "-m", "compressor", *arguments], capture_output=True, env=environment, check=False
        )
        return done.returncode, done.stdout, done.stderr

    code, _, stderr = call("explain", os.fspath(tiny_task / "model"), b"caf\xe9")
    assert (code, b"bytes that are no UTF-8 text" in stderr, b"Traceback" in stderr) == (2, True, False)
    code, stdout, stderr = call("explain", os.fspath(tiny_task / "model"), "a b \u03c9", encoding="ascii")
    assert (code, stderr) == (0, b"")
    assert stdout.isascii()
    for encoding in ("ascii", "latin-1"):  # what the terminal lacks is escaped as JSON has it
        told = call("explain", os.fspath(tiny_task / "model"), "a caf\u00e9 \U0001f600", "--json", encoding=encoding)
        assert (told[0], json.loads(told[1].decode())["texts"]) == (0, ["a caf\u00e9 \U0001f600"]), told[2]
    code, _, stderr = call("validate", os.fspath(tiny_task / "caf\u00e9.yaml"), encoding="ascii")
    assert (code, b"no such recipe file" in stderr, b"Traceback" in stderr) == (2, True, False)


@pytest.mark.parametrize("words", [["schema"], ["analyze", "errors", "x.yaml"]])
def test_an_interruption_says_how_to_go_on(command, monkeypatch, words):
    def interrupt(*_arguments, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr("compressor.cli.machine.commands.print_json", interrupt)
    monkeypatch.setattr("compressor.pipeline.analyses.analyze_errors_of", interrupt)
    code, _, stderr = command(*words)
    assert (code, stderr) == (130, "interrupted; run the same command again to resume.\n")


def test_a_scheduler_that_ends_a_command_is_told_so_too(command, monkeypatch):
    before = signal.getsignal(signal.SIGTERM)

    def end(*_arguments, **_options):
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("went on")

    monkeypatch.setattr("compressor.pipeline.pipeline.run_recipe", end)
    code, _, stderr = command("run", "recipes/demo.yaml")
    assert (code, stderr.splitlines()[-1]) == (143, "terminated; run the same command again to resume.")
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(("number", "code", "word"), [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "terminated")])
def test_a_signal_that_meets_compiled_code_ends_a_command_as_any_other(command, monkeypatch, number, code, word):
    class Row:
        """A sequence within which the signal comes: torch makes an error of its own of what the handler raises."""

        def __len__(self):
            return 1

        def __getitem__(self, place):
            if place:
                raise IndexError
            os.kill(os.getpid(), getattr(signal, number))
            return 1.0

    monkeypatch.setattr("compressor.pipeline.pipeline.run_recipe", lambda *_, **__: torch.tensor(Row()))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    try:
        found, _, stderr = command("run", "recipes/demo.yaml")
    finally:
        signal.signal(signal.SIGINT, before)
    assert (found, stderr.splitlines()[-1]) == (code, f"{word}; run the same command again to resume.")


def test_a_signal_that_is_to_be_ignored_stays_so(command, monkeypatch):
    def end(*_arguments, **_options):
        os.kill(os.getpid(), signal.SIGINT)
        raise UserError("it went on.")

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        monkeypatch.setattr("compressor.pipeline.pipeline.run_recipe", end)
        code, _, stderr = command("run", "recipes/demo.yaml")
        assert (code, stderr.splitlines()[-1]) == (2, "error: it went on.")
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
