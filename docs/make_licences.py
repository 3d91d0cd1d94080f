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
which this table was made with, does not. What `ray` needs in turn is not listed, since `make install` leaves it out.

| package | licence | for |
| --- | --- | --- |
"""
BEHIND = """
## What these need in turn

| package | licence |
| --- | --- |
"""
USED = {"": "running", "demo": "the example", "docs": "these pages", "dev": "tests and style"}
"""Group of requirements -> what it is for."""
NAMED_ELSEWHERE: dict[str, str] = {}
"""Package whose metadata names no licence -> the one that its source has."""
LEFT_OUT = {"ray": "Apache-2.0"}
"""Package that `make install` leaves out -> the licence that its metadata names: the page is the same with and without it."""


def groups() -> dict[str, list[str]]:
    """Return the requirements of pyproject.toml: "" for running, else the extra's name. An extra in another is left out."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    every = {"": project["dependencies"], **project["optional-dependencies"]}
    return {
        name: [line for line in lines if Requirement(line).name != project["name"]] for name, lines in every.items()
    }


def direct() -> dict[str, str]:
    """Return name -> what it is needed for, of every requirement: "" for running, else the extra's name."""
    return {canonical(Requirement(line).name): extra for extra, lines in reversed(groups().items()) for line in lines}


def requirements() -> list[str]:
    """Return every requirement of pyproject.toml, of all extras, that `make install` installs."""
    every = [line for lines in groups().values() for line in lines]
    return [line for line in every if canonical(Requirement(line).name) not in LEFT_OUT]


def licence(package: Package) -> str:
    """Return the licence of a package; raises LookupError for one that names none."""
    named = package.licence or NAMED_ELSEWHERE.get(package.name, "")
    if not named:
        raise LookupError(f"{package.name} names no licence: look it up, and name it in NAMED_ELSEWHERE")
    return named


def page() -> str:
    """Return the page."""
    every, wanted = closure(requirements()), direct()
    missing = [name for name in wanted if name not in LEFT_OUT and not {name, *SAME.get(name, ())} & set(every)]
    if missing:
        raise LookupError(
            f"{', '.join(missing)} is not installed, so nothing says its licence; `make install` installs it"
        )
    used = {name: USED.get(extra, f"the extra `{extra}`") for name, extra in wanted.items()}
    named = {**LEFT_OUT, **{name: licence(package) for name, package in every.items()}}
    first = [f"| {name} | {named[name]} | {used[name]} |" for name in sorted(named) if name in wanted]
    rest = [f"| {name} | {named[name]} |" for name in every if name not in wanted]
    return HEAD + "\n".join(first) + "\n" + BEHIND + "\n".join(rest) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
