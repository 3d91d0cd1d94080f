"""Made-up results for the tests of the report, and what must hold of every report."""

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

from matplotlib.image import imread

from compressor.report.build import OPTIONAL, build_report, render_html, render_markdown
from compressor.report.context import report_context

CELLS = [(1, 32, 9.0), (8, 128, 80.0), (8, "workload", 41.0)]
FORMATS = {"": 1.0, "onnx_fp32": 0.8, "onnx_optimized": 0.7, "onnx_int8": 0.4}
HOSTILE = "<script>alert('x')</script> & a | pipe"


def comparison(**changes: object) -> dict:
    """A comparison of 872 rows: 10 gained, 12 lost, 4 wrong both times."""
    return {
        "rows": 872, "agreement": 846 / 872, "flips": 26, "flip_rate": 26 / 872, "gained": 10, "lost": 12,
        "accuracy_delta": -2 / 872, "ci95": [-0.012, 0.008], "lower_bound": -0.0105, "mcnemar_p": 0.8318, "tier": "near",
        "max_abs_logit": 1.9, **changes,
    }  # fmt: skip


def latency(variant: str, time: float, speedup: float, against: str | None) -> list[dict]:
    """One entry a cell; the speed-up of the second cell is not claimed."""
    provider = "CPUExecutionProvider" if "onnx" in variant else "PyTorch CPU"
    rows = []
    for index, (batch, length, base) in enumerate(CELLS):
        p50, gain = base * time, speedup + 0.01 * index
        interval = None if against in (None, variant) else [gain - 0.02, gain + 0.02]
        rows.append({
            "batch": batch, "length": length, "provider": provider, "p50_ms": p50, "p90_ms": 1.1 * p50, "p99_ms": 1.4 * p50,
            "runs": 100 + index, "speedup": gain if interval else 1.0, "speedup_ci95": interval, "against": against,
            "claimed": interval is not None and index != 1, "complete": index != 2,
        })  # fmt: skip
    return rows


def variant(accuracy: float, share: float, versus: dict | None, times: list[dict]) -> dict:
    """One entry of `variants`; `share` scales its size."""
    return {
        "accuracy": accuracy, "accuracy_ci95": [accuracy - 0.02, accuracy + 0.02], "f1": accuracy, "mcc": 2 * accuracy - 1,
        "parameters": round(22_713_986 * share), "encoder_flops": 2.8e9 * share, "bytes": round(90_868_376 * share),
        "predictions_sha256": "ab" * 32, "versus_full": versus, "latency": times,
    }  # fmt: skip


def whole_result(layers: int = 6, skip: tuple[int, ...] = (4,)) -> dict:
    """A made-up result with every part, made new for each test."""
    variants = {}
    for name, time in FORMATS.items():
        full = f"full_{name}" if name else "full"
        small = name or "compressed"
        versus = comparison(flips=3, agreement=869 / 872, flip_rate=3 / 872, gained=1, lost=2, accuracy_delta=-1 / 872,
                            ci95=[-0.005, 0.002], lower_bound=-0.004, tier="lossless") if name else None  # fmt: skip
        variants[full] = variant(0.9, 1.0, versus, latency(full, time, 1 / time, "full" if name else None))
        variants[small] = variant(0.8977, 5 / 6, comparison(), latency(small, time / 1.19, 1.19, full))
    trace = [
        {
            "skip": [layer],
            "agreement": 0.97 - 0.01 * abs(layer - 4),
            "kl": 0.02 + 0.01 * abs(layer - 4),
            "raw_agreement": 0.9,
        }
        for layer in range(1, layers + 1)
    ]
    return {
        "schema": 1,
        "name": "sst2",
        "recipe": {"name": "sst2", "seed": 0, "data": {"task": "sst2", "max_length": 96}, "goals": {"confidence": 0.95}},
        "environment": {"compressor": "0.1.0", "python": "3.11", "device": {"kind": "cpu", "name": "EPYC"}, "cuda": None,
                        "cpu": {"threads": 2, "instructions": ["avx2", "fma"]}},
        "data": {
            "task": "sst2",
            "splits": {name: {"rows": 872, "sha256": "cd" * 32} for name in ("calibration", "selection", "evaluation")},
            "removed_overlaps": {"train": 12, "calibration": 3},
        },
        "layers": [{"layer": 0, "separability": 0.0, "gain": None, "degenerate": True}]
        + [{"layer": i, "separability": 0.05 * i**1.5, "gain": 0.05 * (i**1.5 - (i - 1) ** 1.5)} for i in range(1, layers + 1)],
        "scores": {"score": "trace_ratio", "labels": "teacher", "rows": 1800, "sample_rows": 1800},
        "plan": {
            "skip": list(skip), "keep": [i for i in range(1, layers + 1) if i not in skip], "search": "exhaustive",
            "layers": layers, "sets_evaluated": layers, "sets_total": layers, "layer_applications": 21, "seconds": 12.3,
            "chosen": {"skip": list(skip), "agreement": 0.97, "kl": 0.02, "raw_agreement": 0.95},
            "ranked": {"skip": [1], "agreement": 0.94, "kl": 0.05, "raw_agreement": 0.9},
            "regret": {"agreement": 0.03, "kl": 0.03}, "trace": trace,
        },
        "head": {"nodes": 8, "trainer": "gradient",
            "optimizer": "lbfgs",
            "folded": True, "targets": "teacher", "epochs": 4, "best_epoch": 3, "class_weights": None,
                 "selection_loss": [0.5, 0.4, 0.3, 0.35], "agreement_before": 0.95, "agreement_after": 0.97, "loss_before": 0.4, "loss_after": 0.3, "fold_error": 2e-7},
        "variants": variants,
        "flipped": [
            {"id": "validation:17", "texts": [HOSTILE, "second"], "gold": "negative",
             "full": {"label": "negative", "confidence": 0.71}, "compressed": {"label": "positive", "confidence": 0.55},
             "outcome": "lost"},
        ],
        "benchmark": {
            "noise_floor": [{"batch": b, "length": s, "ratio": 1.001, "ci95": [0.985, 1.015]} for b, s, _ in CELLS],
            "threads": 2, "providers": ["CPUExecutionProvider"], "protocol": "Rounds interleave all models.",
            "flops_tokens": 128,
        },
        "parity": {"fp32": {"max_abs": 3e-7, "agreement": 1.0, "rows": 872}},
        "fused_nodes": {"fp32": {}, "optimized": {"Attention": 5}},
        "analysis": {},
        "goals": {"met": False, "misses": ["batch 1, 32 tokens: 1.19x, wanted 1.5x."]},
        "stages": [{"name": "teacher", "seconds": 31.2, "cached": False}, {"name": "scores", "seconds": 200.0, "cached": True}],
    }  # fmt: skip


TIER_CASES = {
    "exact": {"flips": 0, "gained": 0, "lost": 0, "accuracy_delta": 0.0, "ci95": [-0.001, 0.001], "max_abs_logit": 2e-5},
    "lossless": {"flips": 4, "gained": 1, "lost": 3, "accuracy_delta": -2 / 872, "ci95": [-0.006, 0.002]},
    "near": {"flips": 26, "gained": 10, "lost": 12, "accuracy_delta": -2 / 872, "ci95": [-0.012, 0.008]},
    "undecided": {"flips": 30, "gained": 8, "lost": 20, "accuracy_delta": -12 / 872, "ci95": [-0.027, 0.001],
                  "lower_bound": -0.024, "rows_to_decide": 3100},
    "lossy": {"flips": 80, "gained": 20, "lost": 55, "accuracy_delta": -35 / 872, "ci95": [-0.06, -0.02],
              "lower_bound": -0.056},
}  # fmt: skip
"""Tier -> what is measured of a file of that tier."""


def shipped_result(tier: str = "lossless", path: str | None = "onnx/int8", texts: int = 9) -> dict:
    """A made-up result of a run that decides what to ship: 12 ms become 4 in three steps, 2.0 x 1.2 x 1.25 = 3."""
    result = whole_result(6, ())
    versus = comparison(**TIER_CASES[tier], tier=tier)
    versus.update(agreement=1 - versus["flips"] / 872, flip_rate=versus["flips"] / 872)
    full, small = variant(0.9, 1.0, None, []), variant(0.9 + versus["accuracy_delta"], 0.25, versus, [])
    row = {"batch": 1, "length": "workload", "provider": "CPUExecutionProvider", "runs": 100, "complete": True}
    times = {"p50_ms": 3.9, "p90_ms": 4.5, "p95_ms": 4.8, "p99_ms": 5.5, "speedup": 3.0, "speedup_ci95": [2.9, 3.1]}
    full["latency"] = [{**row, "p50_ms": 11.8, "p90_ms": 14.0, "p95_ms": 15.0, "p99_ms": 16.0, "speedup": 1.0, "speedup_ci95": None,
                        "against": "full", "claimed": False}]  # fmt: skip
    small["latency"] = [{**row, **times, "against": "full", "claimed": True}]
    factors = [{"name": name, "ratio": ratio, "ci95": [ratio - 0.05, ratio + 0.05]}
               for name, ratio in (("runtime", 2.0), ("exact tail", 1.2), ("8 bits", 1.25))]  # fmt: skip
    built = {"path": path, "flips": 3, "rows": 1750, "flip_bound": 0.0044, "bytes": 22_700_000}
    met = {"lossy": False, "undecided": None}.get(tier, True)
    answer = {
        **{"variant": path, "key": "onnx_int8" if path else "full", "path": path, "engine": "onnx", "precision": "int8"},
        **{"threads": 1, "goal": "near", "met": met, "misses": [] if met else ["near: up to 5.60 points, allowed are 2.00."]},
        **{"p50_ms": 3.9, "mean_ms": 4.0, "baseline_p50_ms": 11.8, "baseline_mean_ms": 12.0},
        **{"baseline": {"engine": "pytorch", "padding": "dynamic", "compile": False, "dtype": "float32"}},
        **{"cell": {"batch": 1, "length": "workload"}, "speedup": 3.0, "speedup_ci95": [2.9, 3.1], "factors": factors},
        **{key: versus[key] for key in ("flips", "rows", "accuracy_delta", "ci95", "tier")},
        **{"flip_bound": 0.011, "bytes": 22_700_000, "baseline_bytes": 90_868_376, "why": "Of 2 compositions, 2 keep to near."},
        "alternatives": [{"variant": "pytorch/bfloat16", "speedup": 1.4, "speedup_ci95": [1.3, 1.5], **built, "path": "model",
                          "why_not": "meets the goal, and is not as fast"}],
    }  # fmt: skip
    if path is None:  # what runs today stays, and no file is looked at
        kept = {
            "variant": "today",
            "engine": "pytorch",
            "precision": "float32",
            "threads": None,
            "factors": [],
            "speedup": 1.0,
        }
        kept |= {"speedup_ci95": [1.0, 1.0], "mean_ms": 12.0, "p50_ms": 11.8, "bytes": 90_868_376}
        answer |= {**kept, "why": "Nothing that was built is faster."}
    flips = [{**result["flipped"][0], "id": f"validation:{number}"} for number in range(min(texts, versus["flips"]))]
    return {
        **result,
        "plan": {**result["plan"], "skip": [], "units": [], "trace": result["plan"]["trace"][:1]},
        "head": None,
        "goals": {"met": None, "misses": [], "selection": None},
        "variants": {
            "full": full,
            "compressed": variant(0.9, 1.0, comparison(flips=0, tier="exact"), []),
            **({"onnx_int8": small} if path else {}),
        },
        "flipped": flips,
        "ship": {
            "chosen": answer["variant"],
            "candidates": [{**built, "variant": path, "latency": small["latency"][0]}] if path else [],
        },
        "answer": answer,
    }


def built(folder: Path, result: dict) -> tuple[str, str]:
    """Write result.json, build, and return the page and the Markdown."""
    (folder / "result.json").write_text(json.dumps(result))
    build_report(folder)
    return (folder / "report.html").read_text(), (folder / "report.md").read_text()


def pages(result: dict) -> tuple[str, str]:
    """The page and the Markdown without figures (drawing takes most of the time), no-break spaces as spaces."""
    context = {**report_context({**OPTIONAL, **result}), "figures": {}}
    return render_html(context).replace("\u00a0", " "), render_markdown(context)


def check_pages(page: str, markdown: str, lines: int = 105) -> None:
    """Check that tags close in order, that nothing but the page's script runs, nothing is fetched, no value is missing
    and the Markdown has fewer than `lines` lines."""
    parser = References()
    parser.feed(page)
    assert parser.open == []
    assert parser.scripts == 1
    assert all(url.startswith(("#", "data:image/png;base64,")) for url in parser.urls)
    assert not re.search(r"@import|url\(", page)
    words = set(re.findall(r"\w+", re.sub(r"base64,[^\"]*", "", page) + markdown))
    assert not words & {"None", "nan", "inf", "Undefined"}
    assert len(markdown.splitlines()) < lines


def check_figures(folder: Path, page: str, markdown: str, lines: int = 105) -> None:
    """Check that every drawn figure is a readable PNG, linked from the Markdown and part of the page."""
    check_pages(page, markdown, lines)
    drawn = sorted((folder / "figures").glob("*.png"))
    assert {f"figures/{path.name}" for path in drawn} == set(re.findall(r"figures/\w+\.png", markdown))
    assert all(base64.b64encode(path.read_bytes()).decode() in page for path in drawn)
    assert all(imread(path).shape[1] >= 1000 for path in drawn)
    # the account of the figures, and no file half written
    assert [path.relative_to(folder).as_posix() for path in folder.glob("**/.*")] == ["figures/.written.json"]


class References(HTMLParser):
    """Collects what a browser would fetch or run, and checks that tags are closed in order."""

    VOID = {"meta", "img", "hr", "br", "link", "input"}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.open, self.urls, self.scripts = [], [], 0

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.scripts += tag == "script"
        self.urls += [
            value for name, value in attributes if name in {"src", "href", "srcset", "data", "action", "poster"}
        ]
        assert not [name for name, _ in attributes if name.startswith("on")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def unlabelled(result: dict) -> dict:
    for entry in result["variants"].values():
        entry.update(accuracy=None, accuracy_ci95=None, f1=None, mcc=None)
        if entry["versus_full"]:
            entry["versus_full"].update(
                gained=None, lost=None, accuracy_delta=None, ci95=None, mcnemar_p=None, lower_bound=-0.042
            )
    for row in result["flipped"]:
        row.update(gold=None, outcome="unlabelled")
    return result


def bare(result: dict) -> dict:
    result = unlabelled(result)
    result["variants"] = {name: {**result["variants"][name], "latency": []} for name in ("full", "compressed")}
    result["plan"].update(regret=None, ranked=None, chosen=None, trace=[])
    return {**result, "head": None, "goals": None, "parity": {}, "fused_nodes": {}, "flipped": [], "benchmark": {}}


def no_speedup(result: dict) -> dict:
    for entry in result["variants"].values():
        for row in entry["latency"]:
            row["claimed"] = False
    return result
