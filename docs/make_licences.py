"""Write docs/licences.md anew: the licence of every package that this one needs, as the installed packages name it.

Run it in the environment of `constraints.txt` on Linux x86-64, for which the page speaks.
"""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement

from compressor.release.packages import SAME, Package, canonical, closure

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/licences.md"
HEAD = """# Licences of dependencies

`compressor` itself is Apache-2.0. Made by `make docs` from what the installed packages of `constraints.txt` name, on Linux
x86-64; identifiers are those of [SPDX](https://spdx.org/licenses/). `compressor bundle` puts the ones that a model needs to
run, in the versions that are there, into its SBOM (CycloneDX). The licence of a model is that of its source, which its card
names. The usual build of torch for Linux brings NVIDIA's CUDA libraries along, under NVIDIA's own terms; the build for CPUs,
which this table was made with, does not.

| package | licence | for |
| --- | --- | --- |
"""
BEHIND = """
## What these need in turn

| package | licence |
| --- | --- |
"""
USED = {"": "running", "demo": "the example", "dev": "tests and style"}
"""Group of requirements -> what it is for."""
NAMED_ELSEWHERE: dict[str, str] = {}
"""Package whose metadata names no licence -> the one that its source has."""


def direct() -> dict[str, str]:
    """Return name -> what it is needed for, of every requirement of pyproject.toml: "" for running, else the extra's name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    return {canonical(Requirement(line).name): extra for extra, lines in reversed(groups.items()) for line in lines}


def requirements() -> list[str]:
    """Return every requirement of pyproject.toml, of all extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [*project["dependencies"], *(line for lines in project["optional-dependencies"].values() for line in lines)]


def licence(package: Package) -> str:
    """Return the licence of a package; raises LookupError for one that names none."""
    named = package.licence or NAMED_ELSEWHERE.get(package.name, "")
    if not named:
        raise LookupError(f"{package.name} names no licence: look it up, and name it in NAMED_ELSEWHERE")
    return named


def page() -> str:
    """Return the page."""
    every, wanted = closure(requirements()), direct()
    missing = [name for name in wanted if name not in every and not {*SAME.get(name, ())} & set(every)]
    if missing:
        raise LookupError(
            f"{', '.join(missing)} is not installed, so nothing says its licence; `make install` installs it"
        )
    used = {name: USED.get(extra, f"the extra `{extra}`") for name, extra in wanted.items()}
    first = [f"| {name} | {licence(every[name])} | {used[name]} |" for name in every if name in wanted]
    rest = [f"| {name} | {licence(package)} |" for name, package in every.items() if name not in wanted]
    return HEAD + "\n".join(first) + "\n" + BEHIND + "\n".join(rest) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
