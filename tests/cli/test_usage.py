"""Command lines that cannot be read, and completion in a shell."""

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run"], ["missing argument 'RECIPE'", "`compressor run --help`"]),
        (["run", "--devic", "cpu", "a.yaml"], ["no such option: --devic", "--device", "`compressor run --help`"]),
        (["rnu"], ["no such command 'rnu'", "Did you mean 'run'", "`compressor --help`"]),
        (["bench", "--batch", "many", "a"], ["'--batch'", "integer", "`compressor bench --help`"]),
        (["analyze", "rolls"], ["no such command 'rolls'", "`compressor analyze --help`"]),
    ],
)
def test_a_command_line_that_cannot_be_read_is_told_in_one_sentence(command, arguments, words):
    code, stdout, stderr = command(*arguments)
    assert (code, stdout, stderr.count("\n")) == (2, "", 1)
    assert stderr.startswith("error: ")
    assert [word for word in words if word not in stderr] == []


@pytest.mark.parametrize("arguments", [[], ["analyze"]])
def test_a_group_without_a_command_gets_its_help(command, arguments):
    code, stdout, stderr = command(*arguments)
    assert (code, "error: " in stdout + stderr) == (2, False)
    assert stdout + stderr == command(*arguments, "--help")[1]


def test_a_shell_completes_commands_and_the_script_can_be_installed(tmp_path):
    def call(*arguments, **environment):
        given = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "HOME": str(tmp_path), "SHELL": "/bin/bash"}
        return subprocess.run(
            [sys.executable, "-m", "compressor", *arguments],
            capture_output=True, text=True, check=False, env={**given, **environment},
        )  # fmt: skip

    asked = {"_COMPRESSOR_COMPLETE": "complete_bash", "COMP_WORDS": "compressor an", "COMP_CWORD": "1"}
    assert call(**asked).stdout.split() == ["analyze"]
    asked |= {"COMP_WORDS": "compressor run --dev", "COMP_CWORD": "2"}
    assert call(**asked).stdout.split() == ["--device"]
    # detection looks at the processes above, which a test does not choose
    undetected = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    done = call("--install-completion", "bash", **undetected)
    assert done.returncode == 0, done.stderr
    (script,) = (tmp_path / ".bash_completions").iterdir()
    assert "_COMPRESSOR_COMPLETE=complete_bash" in script.read_text(encoding="utf-8")
    assert str(script) in (tmp_path / ".bashrc").read_text(encoding="utf-8")
