"""Installed packages as a release speaks of them: version, licence, and what they need in turn."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression
from packaging.requirements import InvalidRequirement, Requirement

SPDX = {
    "apache software license": "Apache-2.0",
    "apache 2.0 license": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "apache-2.0": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache": "Apache-2.0",
    "mit license": "MIT",
    "mit": "MIT",
    "bsd 3-clause license": "BSD-3-Clause",
    "3-clause bsd license": "BSD-3-Clause",
    "python software foundation license": "PSF-2.0",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "isc license (iscl)": "ISC",
    "the unlicense (unlicense)": "Unlicense",
}
"""What metadata calls a licence, in small letters -> its identifier."""
BSD = {"bsd", "bsd license"}
"""Names that several licences go by; the text in the package says which."""
WORDY = 60
"""Characters from which on the field `License` is a text and not a name."""
LICENCE_FILE = re.compile(r"(LICEN[CS]E|COPYING)", re.IGNORECASE)
SAME = {"onnxruntime": ("onnxruntime-gpu",), "onnxruntime-gpu": ("onnxruntime",)}
"""Distribution -> others that install the same module."""


@dataclass(frozen=True)
class Package:
    """An installed package. `needs` are the names of others that it requires here, `licence` is "" where it names none."""

    name: str
    version: str
    licence: str
    needs: tuple[str, ...]


def canonical(name: str) -> str:
    """Return the name of a package as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def closure(roots: Iterable[str]) -> dict[str, Package]:
    """Return name -> package of `roots` (requirements such as `typer>=0.16`) and of all that they need, sorted by name.

    What is not installed here is left out.
    """
    found: dict[str, Package] = {}
    todo = [(Requirement(root), "") for root in roots if _applies(Requirement(root), "")]
    seen: set[tuple[str, frozenset[str]]] = set()
    while todo:
        requirement, _ = todo.pop()
        installed = _installed(requirement.name)
        if installed is None or (key := (canonical(installed.name), frozenset(requirement.extras))) in seen:
            continue
        seen.add(key)
        wanted = [
            (one, extra)
            for one in _requirements(installed)
            for extra in ("", *sorted(requirement.extras))
            if _applies(one, extra)
        ]
        todo += wanted
        needs = {canonical(other.name) for one, _ in wanted if (other := _installed(one.name))} - {key[0]}
        before = found[key[0]].needs if key[0] in found else ()
        found[key[0]] = Package(key[0], installed.version, licence_of(installed), tuple(sorted({*needs, *before})))
    return dict(sorted(found.items()))


def licence_of(installed: Distribution) -> str:
    """Return the licence that a package names, as an SPDX identifier where that is clear, "" where it names none."""
    metadata = installed.metadata
    expression = metadata.get("License-Expression")
    if expression:
        return expression.strip()
    classifiers = [
        entry.rpartition(" :: ")[2]
        for entry in metadata.get_all("Classifier") or []
        if entry.startswith("License ::") and not entry.endswith("OSI Approved")
    ]
    named = (metadata.get("License") or "").strip()
    names = [named] if named not in {"", "UNKNOWN"} and "\n" not in named and len(named) < WORDY else []
    # a name such as BSD-2-Clause says more than the classifier, a whole text says less
    known = [SPDX.get(name.lower()) or identifier(name) for name in (*names, *classifiers)]
    clear = next(filter(None, known), None) or next(iter([*names, *classifiers]), "")
    return (_bsd(installed) or clear) if clear.lower() in BSD else clear


def identifier(name: str) -> str | None:
    """Return a licence as the list of SPDX writes it, None for what is no expression of that list."""
    try:
        return canonicalize_license_expression(name)
    except InvalidLicenseExpression:
        return None


def _bsd(installed: Distribution) -> str | None:
    """Return which of the BSD licences lies in a package, None where none does."""
    texts = [
        file.read_text()
        for file in installed.files or []
        if LICENCE_FILE.match(file.name) and ".dist-info" in str(file)
    ]
    text = " ".join(" ".join(texts).split()).lower()
    if "redistribution and use in source and binary forms" not in text:
        return None
    return "BSD-3-Clause" if "neither the name" in text or "names of its contributors" in text else "BSD-2-Clause"


def _requirements(installed: Distribution) -> Iterator[Requirement]:
    for line in installed.requires or []:
        try:
            yield Requirement(line)
        except InvalidRequirement:  # older packages hold what no tool reads any more
            continue


def _applies(requirement: Requirement, extra: str) -> bool:
    """Tell whether a requirement holds on this machine; with `extra` whether it is that extra that asks for it."""
    if requirement.marker is None:
        return extra == ""
    if extra == "":
        return requirement.marker.evaluate({"extra": ""})
    return requirement.marker.evaluate({"extra": extra}) and not requirement.marker.evaluate({"extra": ""})


def _installed(name: str) -> Distribution | None:
    for known in (name, *SAME.get(canonical(name), ())):
        try:
            return distribution(known)
        except PackageNotFoundError:
            continue
    return None
