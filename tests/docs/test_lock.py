"""The lock: a digest for every pin but torch, which pip holds files against and refuses others."""

import hashlib
import importlib.util
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
SPEC = importlib.util.spec_from_file_location("make_lock", ROOT / "docs/make_lock.py")
make_lock = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(make_lock)
PINS = make_lock.pins((ROOT / "constraints.txt").read_text("utf-8"))
LOCK = make_lock.read((ROOT / "docs/requirements.lock").read_text("utf-8"))
OTHERWISE = {"onnxruntime", "optimum-onnx", "sentence-transformers"}
"""Pins of other platforms, and of what benchmarks alone use; a lock may lack them."""


def test_every_pin_has_a_digest_and_nothing_else_has():
    versions = dict(LOCK.keys())
    assert versions == {name: PINS[name] for name in versions}
    lacking = {name for name in PINS.keys() - versions.keys() - OTHERWISE if not make_lock.LEFT_OUT.match(name)}
    assert lacking == set()
    assert all(digests and all(re.fullmatch("[0-9a-f]{64}", digest) for digest in digests) for digests in LOCK.values())


def direct():
    """Return what `make install` asks for, by name; an extra that stands for another is what that holds."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    more = project["optional-dependencies"]
    lines = [*project["dependencies"], *more["demo"], *more["dev"], *more["docs"]]
    wanted = [Requirement(line) for line in lines]
    return {make_lock.normal(each.name): each for each in wanted if each.name != project["name"]}


def test_every_direct_requirement_is_locked_but_torch():
    assert direct().keys() - {name for name, _ in LOCK} == {"torch"}


def test_every_pin_is_a_release_that_its_requirement_allows():
    assert [name for name, version in PINS.items() if Version(version).is_prerelease] == []
    for name, wanted in direct().items():
        assert wanted.specifier.contains(PINS[name]), name


def test_no_index_and_no_path_of_a_machine_stands_in_it():
    text = (ROOT / "docs/requirements.lock").read_text("utf-8")
    assert not re.search(r"https?:|file:|--index|--find-links|--extra|/opt|/work|/home", text)
    assert text == make_lock.written(LOCK)


def test_digests_of_other_platforms_stay_while_the_version_does():
    old = {("a", "1"): {"x"}, ("b", "1"): {"y"}, ("gone", "1"): {"z"}}
    new = {("a", "1"): {"w"}, ("b", "2"): {"v"}}
    assert make_lock.merged(old, new, {"a": "1", "b": "2"}) == {("a", "1"): {"w", "x"}, ("b", "2"): {"v"}}
    entry = {
        "metadata": {"name": "A.b", "version": "1"},
        "download_info": {"archive_info": {"hashes": {"sha256": "f"}}},
    }
    folder = {"metadata": {"name": "own", "version": "1"}, "download_info": {"dir_info": {}}}
    torch = {**entry, "metadata": {"name": "torch", "version": "2"}}
    assert make_lock.reported({"install": [entry, folder, torch]}) == {("a-b", "1"): {"f"}}
    with pytest.raises(ValueError, match="no line of a lock: 'a==1'"):
        make_lock.read("a==1\n")


def pip(*arguments):
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--require-hashes", "--disable-pip-version-check",
         *map(str, arguments)],
        capture_output=True, text=True, check=False, env={"PATH": "", "PIP_CONFIG_FILE": "/dev/null"},
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def wheel(folder, content):
    path = folder / "tiny_thing-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny_thing.py", content)
        archive.writestr("tiny_thing-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-thing\nVersion: 1.0\n")
        archive.writestr(
            "tiny_thing-1.0.dist-info/WHEEL",
            "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr("tiny_thing-1.0.dist-info/RECORD", "")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_pip_installs_what_a_lock_says_and_refuses_a_file_that_is_another(tmp_path):
    digest = wheel(tmp_path, "value = 1\n")
    (tmp_path / "own.lock").write_text(make_lock.written({("tiny-thing", "1.0"): {digest, "0" * 64}}), encoding="utf-8")
    places = "--find-links", tmp_path, "-r", tmp_path / "own.lock"
    code, said = pip(*places, "--target", tmp_path / "good")
    assert code == 0, said
    assert (tmp_path / "good" / "tiny_thing.py").read_text() == "value = 1\n"
    wheel(tmp_path, "value = 2\n")
    code, said = pip(*places, "--target", tmp_path / "bad")
    assert (code, "DO NOT MATCH THE HASHES" in said) == (1, True)
    assert not (tmp_path / "bad").exists()


def test_pip_reads_the_lock_of_this_package():
    code, said = pip(
        "--dry-run", "--ignore-installed", "-r", ROOT / "docs/requirements.lock", "--find-links", ROOT / "tests"
    )
    assert (code, "No matching distribution found for accelerate==" in said) == (1, True)
