"""Figures of an audit on their own, for a run that has no report yet."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compressor.report.figures import selection as figures_selection
from compressor.report.figures import style
from compressor.report.tables import selection as tables


def audit_figures(
    run_dir: Path, audit: Mapping[str, Any], timing: Mapping[str, Any], plan: Mapping[str, Any]
) -> list[Path]:
    """Write figures/audit.png and figures/frontier.png of `run_dir`; the three are the contents of its JSON files."""
    frontier = tables.frontier_rows(audit["frontier"], timing)
    shown = tables.main_series(frontier, plan["rank_by"])
    drawn = {
        "audit": figures_selection.audit_figure(tables.audit_rows(audit)),
        "frontier": figures_selection.frontier_figure(frontier, shown, audit["layers"], audit["rows"], plan["chosen"]),
    }
    (run_dir / "figures").mkdir(exist_ok=True)
    paths = [run_dir / "figures" / f"{name}.png" for name in drawn]
    for path, figure in zip(paths, drawn.values(), strict=True):
        path.write_bytes(style.png(figure))
    return paths
