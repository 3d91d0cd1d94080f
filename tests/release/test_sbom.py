"""The SBOM is CycloneDX 1.6 of what really runs the model; packages name their licences as SPDX does where that is clear."""

import json
import re
from email.message import Message
from types import SimpleNamespace

import pytest

from compressor.release.packages import canonical, closure, licence_of
from compressor.release.sbom import licences, sbom


def document(**changes):
    return json.loads(sbom("demo", "apache-2.0", "0" * 64, **{"onnx": True, **changes}))


def test_the_document_is_of_the_format():
    made = document()
    assert (made["bomFormat"], made["specVersion"], made["version"]) == ("CycloneDX", "1.6", 1)
    assert re.fullmatch(
        r"urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-5[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", made["serialNumber"]
    )
    assert made["metadata"]["component"]["licenses"] == [{"expression": "Apache-2.0"}]
    assert "timestamp" not in made["metadata"]
    references = [entry["bom-ref"] for entry in made["components"]]
    assert len(references) == len(set(references)) == len(made["dependencies"]) - 1
    assert {ref for entry in made["dependencies"] for ref in entry["dependsOn"]} <= set(references)
    for entry in made["components"]:
        assert entry["purl"] == f"pkg:pypi/{entry['name']}@{entry['version'].replace('+', '%2B')}"


def test_packages_are_those_that_the_forms_need():
    scopes = {entry["name"]: entry["scope"] for entry in document()["components"]}
    assert {scopes[name] for name in ("numpy", "tokenizers", "flatbuffers")} == {"required"}
    assert {scopes[name] for name in ("torch", "transformers", "safetensors", "sympy")} == {"optional"}
    assert {"onnxruntime", "onnxruntime-gpu"} & set(scopes)
    assert not {"pytest", "datasets", "optimum", "compressor"} & set(scopes)
    alone = {entry["name"]: entry["scope"] for entry in document(onnx=False)["components"]}
    assert set(alone.values()) == {"required"}
    assert not {"onnxruntime", "onnxruntime-gpu"} & set(alone)


def test_the_same_environment_gives_the_same_bytes():
    assert sbom("a", None, "0" * 64, onnx=True) == sbom("a", None, "0" * 64, onnx=True)
    assert document()["serialNumber"] != json.loads(sbom("b", None, "0" * 64, onnx=True))["serialNumber"]


@pytest.mark.parametrize(
    ("fields", "licence"),
    [
        ({"License-Expression": "MIT OR Apache-2.0", "License": "old"}, "MIT OR Apache-2.0"),
        (
            {"License": "Apache 2.0 License", "Classifier": "License :: OSI Approved :: Apache Software License"},
            "Apache-2.0",
        ),
        ({"License": "a long text " * 20, "Classifier": "License :: OSI Approved :: MIT License"}, "MIT"),
        ({"License": "BSD-2-Clause", "Classifier": "License :: OSI Approved :: BSD License"}, "BSD-2-Clause"),
        ({"License": "bsd-3-clause"}, "BSD-3-Clause"),
        ({"Classifier": "License :: OSI Approved :: BSD License"}, "BSD License"),
        ({"License": "UNKNOWN", "Classifier": "License :: OSI Approved :: ISC License (ISCL)"}, "ISC"),
        ({"Classifier": "License :: OSI Approved"}, ""),
        ({}, ""),
    ],
)
def test_licences_of_packages(fields, licence):
    metadata = Message()
    for key, value in fields.items():
        metadata[key] = value
    assert licence_of(SimpleNamespace(metadata=metadata, files=None)) == licence


@pytest.mark.parametrize(
    ("end", "licence"),
    [("Neither the name of\nus nor", "BSD-3-Clause"), ("THIS SOFTWARE IS", "BSD-2-Clause"), (None, "BSD License")],
)
def test_which_bsd_licence_it_is_says_its_text(end, licence):
    class File:
        name = "LICENSE.txt"

        def __str__(self):
            return "x.dist-info/licenses/LICENSE.txt"

        def read_text(self):
            return "do" if end is None else f"Redistribution and use in\n source and binary forms ... {end}"

    metadata = Message()
    metadata["Classifier"] = "License :: OSI Approved :: BSD License"
    assert licence_of(SimpleNamespace(metadata=metadata, files=[File()])) == licence


def test_a_licence_that_is_no_expression_is_a_name():
    assert licences("mit") == [{"expression": "MIT"}]
    assert licences("BSD License") == [{"license": {"name": "BSD License"}}]
    assert licences("other") == [{"license": {"name": "other"}}]


def test_extras_and_markers_decide_what_is_needed():
    assert "numpy" in closure(["tokenizers", "numpy; python_version > '3'"])
    assert closure(["numpy; python_version < '3'"]) == {}
    assert closure(["no-such-package"]) == {}
    plain, more = closure(["transformers"]), closure(["transformers[torch]"])
    assert "torch" in more
    assert "torch" not in plain
    assert set(plain["huggingface-hub"].needs) <= set(plain)
    assert canonical("Typing_Extensions") == "typing-extensions"
