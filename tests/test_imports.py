"""Imports go one way, and `--help` does not wait for torch."""

import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "compressor"
TIERS = (
    (
        "errors",
        "console",
        "progress",
        "recipe_base",
        "recipe_training",
        "recipe",
        "recipe_file",
        "recipe_placement",
        "rundir",
    ),
    ("data",),
    ("model", "measurement"),
    ("compensation",),
    ("cascade",),
    ("selection", "export", "analysis", "cold_start"),
    ("report",),
    ("run", "explain"),
    ("stages_selection",),
    ("stages_distill",),
    ("stages_model",),
    ("stages",),
    ("stages_analysis", "stages_cascade", "stages_latency", "stages_shipping"),
    ("bench_targets", "bench_texts"),
    ("results_cascade", "bench", "compare"),
    ("results",),
    ("stage_inputs",),
    ("pipeline",),
    ("analyze", "dry_run"),
    ("terminal",),
    ("terminal_analyze", "terminal_compare", "terminal_explain", "terminal_selection"),
    ("cli_options", "cli_analyze", "cli_tools"),
    ("cli",),
)
RANK = {name: rank for rank, names in enumerate(TIERS) for name in names}


def test_modules_import_only_from_lower_tiers_or_their_own_package():
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        own = path.relative_to(PACKAGE).with_suffix("").parts[0]
        if own == "__init__":
            continue  # the public names, imported when first used
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            for name in names:
                parts = name.split(".")
                if parts[0] != "compressor" or len(parts) < 2:
                    continue
                same_tier = RANK[parts[1]] == RANK[own]
                if parts[1] != own and not (
                    RANK[parts[1]] < RANK[own] or (same_tier and RANK[own] in (0, 2, RANK["cli_tools"]))
                ):
                    wrong.append(f"{path.relative_to(PACKAGE)} imports {name}")
    assert wrong == []


def test_help_needs_no_heavy_import():
    code = (
        "import sys\nfrom compressor.cli import main\ntry:\n    main(['run', '--help'])\nexcept SystemExit as end:\n"
        "    assert not end.code\nheavy = {'torch', 'transformers', 'sklearn', 'onnxruntime', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--device" in done.stdout
