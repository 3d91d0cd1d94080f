"""The diagnosis of a machine on the terminal."""

from collections.abc import Mapping
from typing import Any

from compressor.cli.tables import ALARM, Column, Grid, words


def doctor_tables(diagnosis: Mapping[str, Any]) -> list[Grid | str]:
    """Return the diagnosis: providers, CUDA side by side, the processor; then the verdict, and what to do about it."""
    cpu, memory = diagnosis["cpu"], diagnosis["free_memory_bytes"]
    entries = sorted(diagnosis["providers"], key=lambda entry: not entry["usable"])
    providers = [(entry["name"], "yes" if entry["usable"] else "no", entry["reason"] or "") for entry in entries]
    columns = [*words("provider", "usable"), Column("why not", words=True, below=True)]
    broken = {place: ALARM for place, entry in enumerate(entries) if not entry["usable"]}
    driver = [("driver", "", diagnosis["driver"] or "no driver", "")]
    toolkits = [
        (name, entry["version"], entry["cuda"] or "CPU build", entry["cudnn"] or "")
        for name, entry in diagnosis["toolkits"].items()
    ]
    machine = [
        ("processor", cpu["name"]),
        ("GPU", diagnosis["gpu"] or "none in use"),
        ("cores", f"{cpu['physical'] or '?'} physical, {cpu['logical']} logical, {cpu['usable']} usable here"),
        ("threads of PyTorch", str(diagnosis["threads"])),
        ("free memory", f"{memory / 2**30:.1f} GiB" if memory else "unknown"),
        ("instruction sets", ", ".join(cpu["instructions"]) or "unknown"),
        ("int8", diagnosis["int8"]),
    ]
    found = [
        f"{'problem' if entry['serious'] else 'note'}: {entry['problem']}. Remedy: {entry['remedy']}"
        for entry in diagnosis["findings"]
    ]
    versions = ", ".join(f"{name} {version or 'missing'}" for name, version in diagnosis["versions"].items())
    return [
        Grid("execution providers of ONNX Runtime", columns, providers, styles=broken),
        Grid("CUDA", words("", "version", "CUDA", "cuDNN"), driver + toolkits),
        Grid("machine", words("", ""), machine),
        f"versions: {versions}",
        *found,
        f"{diagnosis['summary']}; the fastest provider that works is {diagnosis['best']}",
    ]
