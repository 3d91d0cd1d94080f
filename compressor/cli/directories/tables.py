"""Tables of the ONNX files of a directory."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from compressor.cli.tables import table


def export_table(written: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return one line per ONNX variant: size, parity with PyTorch, fused nodes, path."""
    rows = [
        (
            name,
            f"{entry['bytes'] / 1e6:.1f} MB",
            f"{entry['parity']['max_abs']:.2g}",
            f"{entry['parity']['agreement']:.1%}",
            ", ".join(f"{count} {kind}" for kind, count in entry["fused"].items() if count),
            entry["path"],
        )
        for name, entry in written.items()
    ]
    return table("ONNX", ["variant", "file", "largest logit difference", "same labels", "fused nodes", "path"], rows)
