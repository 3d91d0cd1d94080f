"""Tables of the ONNX files of a directory."""

from collections.abc import Mapping
from typing import Any

from compressor.cli.tables import Grid, numbers, words


def export_table(written: Mapping[str, Mapping[str, Any]]) -> Grid:
    """Return one line per ONNX variant, the smallest first: size, parity with PyTorch, path, fused nodes."""
    rows = [
        (
            name,
            f"{entry['bytes'] / 1e6:.1f} MB",
            f"{entry['parity']['max_abs']:.2g}",
            f"{entry['parity']['agreement']:.1%}",
            entry["path"],
            ", ".join(f"{count} {kind}" for kind, count in entry["fused"].items() if count),
        )
        for name, entry in sorted(written.items(), key=lambda item: item[1]["bytes"])
    ]
    columns = [*words("variant"), *numbers("file", "largest logit difference", "same labels"), *words("path")]
    return Grid("ONNX", [*columns, *words("fused nodes", rank=1)], rows)
