"""The packages that a model needs to run, as a CycloneDX document in JSON (https://cyclonedx.org/docs/1.6/json/).

It names no time and its serial number is made from its content, so that the same environment gives the same bytes.
"""

import json
import uuid
from collections.abc import Iterable
from typing import Any

from compressor.files import json_text
from compressor.measurement.machine.environment import versions
from compressor.release.packages import SAME, Package, closure, identifier

SBOM = "sbom.cdx.json"
ONNX_NEEDS = "onnxruntime", "numpy", "tokenizers"
"""What an ONNX folder needs to run (`compressor.runtime`)."""
TORCH_NEEDS = "torch", "transformers", "safetensors"
"""What the model directory needs beside."""


def sbom(name: str, licence: str | None, model_sha256: str, *, onnx: bool) -> bytes:
    """Return the document for a model called `name` under `licence`; its packages are those installed here.

    Where ONNX files are shipped what PyTorch needs is optional.
    """
    onnx_form = closure(ONNX_NEEDS) if onnx else {}
    packages = sorted({**closure(TORCH_NEEDS), **onnx_form}.values(), key=lambda package: package.name)
    components = [component(package, required=not onnx or package.name in onnx_form) for package in packages]
    model = {
        "type": "machine-learning-model",
        "bom-ref": "model",
        "name": name,
        "hashes": [{"alg": "SHA-256", "content": model_sha256}],
        **({"licenses": licences(licence)} if licence else {}),
    }
    roots = _references(components, {*TORCH_NEEDS, *(ONNX_NEEDS if onnx else ()), *SAME["onnxruntime"]})
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "tools": {
                "components": [{"type": "application", "name": "compressor", "version": versions()["compressor"]}]
            },
            "component": model,
        },
        "components": components,
        "dependencies": [
            {"ref": "model", "dependsOn": roots},
            *(
                {"ref": _reference(package), "dependsOn": _references(components, set(package.needs))}
                for package in packages
            ),
        ],
    }
    serial = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(document, sort_keys=True))
    return json_text({**document, "serialNumber": f"urn:uuid:{serial}"}).encode()


def component(package: Package, *, required: bool) -> dict[str, Any]:
    """Return the component of a package."""
    return {
        "type": "library",
        "bom-ref": _reference(package),
        "name": package.name,
        "version": package.version,
        "scope": "required" if required else "optional",
        **({"licenses": licences(package.licence)} if package.licence else {}),
        "purl": _reference(package),
    }


def licences(named: str) -> list[dict[str, Any]]:
    """Return a licence as the format has it: an SPDX expression where that is what it is, else a name."""
    known = identifier(named)
    return [{"license": {"name": named}} if known is None else {"expression": known}]


def _reference(package: Package) -> str:
    # a build such as 2.13.0+cpu is a version of its own: a purl writes the plus in percent
    return f"pkg:pypi/{package.name}@{package.version.replace('+', '%2B')}"


def _references(components: Iterable[dict[str, Any]], names: set[str]) -> list[str]:
    return sorted(entry["bom-ref"] for entry in components if entry["name"] in names)
