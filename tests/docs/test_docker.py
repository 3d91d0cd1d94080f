"""Dockerfiles and workflows: what they copy is there, what they call exists, and they agree with the package on versions."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FILES = ("Dockerfile", "Dockerfile.gpu")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def steps(name):
    """Return (instruction, rest) of a Dockerfile, continued lines joined."""
    text = re.sub(r"^#.*\n", "", (ROOT / "docs/docker" / name).read_text("utf-8"), flags=re.M).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize("name", FILES)
def test_what_is_copied_is_there_and_not_ignored(name):
    allowed = {
        line[1:] for line in (ROOT / f"docs/docker/{name}.dockerignore").read_text().splitlines() if line[0] == "!"
    }
    copied = {word for kind, rest in steps(name) if kind == "COPY" for word in shlex.split(rest)[:-1]}
    assert copied == allowed
    assert [word for word in copied if not (ROOT / word).exists()] == []
    # all that the wheel is built from
    assert {PROJECT["readme"], *PROJECT["license-files"], "compressor", "pyproject.toml"} <= copied


@pytest.mark.parametrize("name", FILES)
def test_the_image_runs_the_program_as_a_user(name):
    told = dict(steps(name))
    assert set(PROJECT["scripts"]) == set(yaml.safe_load(told["ENTRYPOINT"]))
    assert told["USER"] not in {"root", "0"}
    assert told["WORKDIR"] == "/work"
    runs = " ".join(rest for kind, rest in steps(name) if kind == "RUN")
    assert "-c /tmp/constraints.txt" in runs
    assert ("download.pytorch.org/whl/cpu" in runs) == (name == "Dockerfile")
    assert {extra for extra in re.findall(r"compressor\[(\w+)\]", runs)} <= set(PROJECT["optional-dependencies"])


def test_the_workflow_runs_what_a_change_must_pass_on_every_python():
    flow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text("utf-8"))
    pythons = flow["jobs"]["run"]["strategy"]["matrix"]["python"]
    assert pythons == ["3.11", "3.12", "3.13"]
    assert PROJECT["requires-python"] == f">={pythons[0]}"
    assert {step.get("run") for step in flow["jobs"]["run"]["steps"]} == {None, ".ci/run"}
    images = {re.search(r"python:(\d\.\d+)", rest)[1] for name in FILES for kind, rest in steps(name) if kind == "FROM"}
    assert images <= set(pythons)
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M)
    lines = [step["run"] for job in flow["jobs"].values() for step in job["steps"] if "run" in step]
    assert [line for line in lines if line.startswith("make ") and line.split()[1] not in targets] == []
    assert [line for line in lines if line.startswith(".") and "/bin/" not in line and not (ROOT / line).exists()] == []
