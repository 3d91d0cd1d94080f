"""The report: right numbers and words, safe and offline, whole with every part missing, the same bytes each time."""

import base64
import copy
import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from matplotlib.image import imread

from compressor.errors import UserError
from compressor.report import figures, figures_selection, formats
from compressor.report.build import OPTIONAL, build_report, latency_rows, render_html, render_markdown, report_context

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


def without_optional_parts(result: dict) -> dict:
    return {
        key: result[key]
        for key in ("schema", "name", "recipe", "environment", "data", "layers", "plan", "variants", "stages")
    }


def many_classes(result: dict) -> dict:
    result["flipped"] = [
        {**result["flipped"][0], "id": f"row:{i}", "full": {"label": f"class {i} $x_1$", "confidence": 0.2}}
        for i in range(50)
    ]
    return result


def no_speedup(result: dict) -> dict:
    for entry in result["variants"].values():
        for row in entry["latency"]:
            row["claimed"] = False
    return result


def not_finite(result: dict) -> dict:
    result["layers"][3].update(separability=float("nan"), gain=None)
    result["head"]["fold_error"] = float("nan")
    return result


SHAPES = {
    "whole": whole_result,
    "unlabelled": lambda: unlabelled(whole_result()),
    "bare": lambda: bare(whole_result(2, (2,))),
    "without optional parts": lambda: without_optional_parts(whole_result()),
    "24 layers, exhaustive": lambda: whole_result(24, (5, 6, 7, 20)),
    "many classes": lambda: many_classes(whole_result()),
    "no speed-up": lambda: no_speedup(whole_result()),
    "not finite": lambda: not_finite(whole_result()),
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


def check_pages(page: str, markdown: str) -> None:
    """Check that tags close in order, that nothing but the copy script runs, nothing is fetched and no value is missing."""
    parser = References()
    parser.feed(page)
    assert parser.open == []
    assert parser.scripts == 1
    assert all(url.startswith(("#", "data:image/png;base64,")) for url in parser.urls)
    assert not re.search(r"@import|url\(", page)
    words = set(re.findall(r"\w+", re.sub(r"base64,[^\"]*", "", page) + markdown))
    assert not words & {"None", "nan", "inf", "Undefined"}
    assert len(markdown.splitlines()) < 80


def check_figures(folder: Path, page: str, markdown: str) -> None:
    """Check that every drawn figure is a readable PNG, linked from the Markdown and part of the page."""
    check_pages(page, markdown)
    drawn = sorted((folder / "figures").iterdir())
    assert {f"figures/{path.name}" for path in drawn} == set(re.findall(r"figures/\w+\.png", markdown))
    assert all(base64.b64encode(path.read_bytes()).decode() in page for path in drawn)
    assert all(imread(path).shape[1] >= 1000 for path in drawn)
    assert not list(folder.glob("**/.*"))


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


@pytest.mark.parametrize("shape", SHAPES)
def test_report_is_whole_and_safe(shape: str) -> None:
    check_pages(*pages(SHAPES[shape]()))


@pytest.mark.parametrize("shape", ["unlabelled", "bare", "24 layers, exhaustive", "not finite"])
def test_report_with_figures_is_offline(tmp_path: Path, shape: str) -> None:
    check_figures(tmp_path, *built(tmp_path, SHAPES[shape]()))


def test_same_result_gives_same_bytes(tmp_path: Path) -> None:
    check_figures(tmp_path, *built(tmp_path, whole_result()))
    first = {
        path.name: path.read_bytes()
        for path in (*tmp_path.iterdir(), *(tmp_path / "figures").iterdir())
        if path.is_file()
    }
    again = {path.name: path.read_bytes() for path in build_report(tmp_path)}
    assert list(again) == [
        *("report.html", "report.md", "separability.png", "accuracy.png", "latency.png", "speedup.png", "head.png"),
    ]
    assert again == {name: data for name, data in first.items() if name != "result.json"}


def test_figures_of_an_earlier_build_do_not_stay(tmp_path: Path) -> None:
    (tmp_path / "figures").mkdir()
    for name in ("head.png", "mine.png"):
        (tmp_path / "figures" / name).write_bytes(b"old")
    built(tmp_path, bare(whole_result()))
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == [
        "accuracy.png",
        "mine.png",
        "separability.png",
    ]


def test_summary_says_the_numbers() -> None:
    page, markdown = pages(whole_result())
    for text in (page, markdown):
        assert (
            "Near: 1 of 6 layers removed, accuracy not distinguishable from the full model, 26 of 872 predictions changed, "
            "1.19x to 1.21x as fast in 8 of 12 comparisons." in text
        )
        assert (
            "Full 90.00 %, compressed 89.77 %; paired 95 % interval −1.20 to +0.80 points: not distinguishable." in text
        )
        assert "The interval leaves room for a loss of 1.20 points. n = 872, one example is 0.11 points." in text
        assert "26 of 872 predictions changed (2.98 %): 10 gained, 12 lost, 4 wrong both times." in text
        # the fastest cell is incomplete, the next not claimed: the best is the first
        assert (
            "Best claimed: PyTorch, batch 1, 32 tokens, PyTorch CPU; p50 9.00 ms → 7.56 ms, 95 % interval 1.17x to 1.21x"
            in text
        )
        assert "22,713,986" in text
        assert "90.9 MB" in text
        assert "2.80 GF → 2.33 GF (−16.7 %)" in text
        assert "batch 1, 32 tokens: 1.19x, wanted 1.5x." in text
        assert (
            "skips layer 1, the chosen one layer 4: agreement 94.00 % against 97.00 %, a regret of 3.00 points" in text
        )
    assert "1 of 26 changed predictions are shown" in page
    assert "above -2 points" in page
    assert "Selection split only; evaluation data was not used" in page
    assert 'AutoModelForSequenceClassification.from_pretrained("model")' in page
    assert "5 × Attention" not in page  # `optimized` has no parity row in this result
    assert page.count("incomplete</span>") == 8
    assert "threads: 2, instructions: avx2, fma" in page
    assert "all measured: 1.19x to 1.21x. Fewer runs than wanted in 4 of them." in page
    assert "200.0 s" not in page
    assert "3 min 20 s" in page


def test_snippets_are_python_and_name_every_variant() -> None:
    page, _ = pages(whole_result())
    snippets = [html.unescape(code) for code in re.findall(r'<pre class="copy"><code>(.*?)</code>', page, re.DOTALL)]
    assert len(snippets) == 4
    for code in snippets[:3]:
        compile(code, "snippet", "exec")
        assert "max_length=96" in code
    assert 'folder = "onnx/fp32"  # or onnx/optimized, onnx/int8\n' in snippets[1]
    assert yaml.safe_load(snippets[3]) == whole_result()["recipe"]


def test_texts_are_escaped() -> None:
    page, _ = pages({**whole_result(), "name": HOSTILE})
    assert "<script>alert" not in page
    assert page.count("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; &amp; a | pipe") >= 3


def test_markdown_escapes_what_would_break_a_table() -> None:
    result = whole_result()
    result["goals"]["misses"] = ["a|b\n# c <img src=x> [d](e)"]
    _, text = pages(result)
    assert "a\\|b # c &lt;img src=x> \\[d](e)" in text


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"tier": "exact", "flips": 0, "flip_rate": 0.0, "ci95": [0.0, 0.0]},
            "Exact: 1 of 6 layers removed, every prediction as in",
        ),
        ({"tier": "lossless"}, "Lossless: "),
        (
            {"tier": "lossy", "accuracy_delta": -0.031, "ci95": [-0.05, -0.01]},
            "accuracy −3.10 points (worse than the full model)",
        ),
        ({"accuracy_delta": 0.02, "ci95": [0.001, 0.04]}, "accuracy +2.00 points (better than the full model)"),
        ({"accuracy_delta": 0.02, "ci95": [0.0, 0.04]}, "accuracy not distinguishable from the full model"),
        ({"tier": "lossy"}, "not even near (the one-sided 95 % bound"),
        ({"rows": 277}, "Small sample: n = 277, one example is 0.36 points."),
    ],
)
def test_headline_claims_no_more_than_the_interval(changes: dict, sentence: str) -> None:
    result = whole_result()
    result["variants"]["compressed"]["versus_full"].update(changes)
    assert all(sentence in text for text in pages(result))


def test_unlabelled_unmeasured_and_unclaimed_are_said() -> None:
    page, _ = pages(bare(whole_result()))
    for words in ("accuracy not measured (no labels)", "No latency was measured", "The recipe sets no goals", "No ONNX file",
                  "No set was tried", "Without labels the bound", 'kept no examples of the 26 changed'):  # fmt: skip
        assert words in page
    assert "Compensation head" not in page
    page, markdown = pages(no_speedup(whole_result()))
    assert "no speed-up above the noise floor." in page
    assert (
        "No speed-up above the noise floor. Claimed in 0 of 12 comparisons; all measured: 1.19x to 1.21x. Fewer"
        in markdown
    )
    assert '<span class="badge good">claimed' not in page


def test_plan_table_ranks_by_agreement_and_keeps_the_named_sets() -> None:
    result = whole_result(24, (4,))
    result["plan"]["ranked"]["skip"] = [24]
    context = report_context({**OPTIONAL, **result})
    assert [row["skip"] for row in context["sets"][:3]] == [[4], [3], [5]]
    assert len(context["sets"]) == 21
    assert (context["sets"][-1]["rank"], context["sets"][-1]["skip"]) == (24, [24])


def test_latency_rows_pair_full_and_compressed_within_a_cell() -> None:
    rows = latency_rows(dict(sorted(whole_result()["variants"].items())))
    assert [row["cell"] for row in rows[::8]] == ["batch 1, 32 tokens", "batch 8, 128 tokens", "batch 8, real lengths"]
    assert [row["variant"] for row in rows[:4]] == ["full", "compressed", "full_onnx_fp32", "onnx_fp32"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "there is no result here"),
        ("{", "not a JSON file"),
        ("[]", "schema None is not 1"),
        ('{"schema": 2}', "schema 2 is not 1"),
        ('{"schema": 1, "name": "x"}', "recipe, environment, data, layers, plan, variants, stages is missing"),
    ],
)
def test_bad_result_is_one_sentence(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "result.json").write_text(text)
    with pytest.raises(UserError, match=re.escape(message)) as error:
        build_report(tmp_path)
    assert "result.json: " in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "report.html").exists()


def test_result_without_a_compressed_model_or_not_text(tmp_path: Path) -> None:
    result = whole_result()
    del result["variants"]["compressed"]
    (tmp_path / "result.json").write_text(json.dumps(result))
    with pytest.raises(UserError, match=r"variants\.compressed is missing"):
        build_report(tmp_path)
    (tmp_path / "result.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not a JSON file"):
        build_report(tmp_path)


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (formats.percent(0.97018), "97.02 %"),
        (formats.percent(0.99999), ">99.99 %"),
        (formats.percent(1.0), "100.00 %"),
        (formats.percent(1e-6), "<0.01 %"),
        (formats.percent(None), "–"),
        (formats.points(-0.0023), "−0.23 points"),
        (formats.points(0.012), "+1.20 points"),
        (formats.points(-1e-6), "0.00 points"),
        (formats.points_interval([-0.012, 0.008]), "−1.20 to +0.80 points"),
        (formats.ratio(1.19), "1.19x"),
        (formats.ratio(0.998), "0.998x"),
        (formats.ratio_interval(None), "–"),
        (formats.milliseconds(9.104), "9.10 ms"),
        (formats.milliseconds(123.4), "123 ms"),
        (formats.seconds(31.24), "31.2 s"),
        (formats.seconds(3725), "62 min 05 s"),
        (formats.megabytes(90_868_376), "90.9 MB"),
        (formats.gigaflops(2.8e9), "2.80 GF"),
        (formats.change(5, 6), "−16.7 %"),
        (formats.change(5, 0), "–"),
        (formats.number(2e-7), "2.00e-07"),
        (formats.number(-0.0312), "−0.0312"),
        (formats.number(float("nan")), "–"),
        (formats.p_value(0.0004), "<0.001"),
        (formats.layers_text([2, 4, 5]), "layers 2, 4 and 5"),
        (formats.strip([2, 4], 5), "●○●○●"),
        (formats.variant_name("full_onnx_int8"), "full, ONNX int8"),
        (formats.variant_name("compressed"), "compressed, PyTorch"),
        (formats.cell_name(8, "workload"), "batch 8, real lengths"),
    ],
)
def test_formats(shown: str, text: str) -> None:
    assert shown == text


def test_figures_state_their_finding() -> None:
    result = whole_result()
    figure = figures_selection.separability_figure(result["layers"], [4], "trace_ratio", 1800)
    # gains: 0.05 (8 - 5.196) = 0.140 of 0.05 * 14.697 = 0.735
    assert figure.get_suptitle() == "Skipped layer 4 adds 0.140 of the 0.735 that all 6 layers add"
    assert "n = 1,800" in figure.axes[1].get_xlabel()
    rows = [{"variant": "compressed", "delta": -0.03, "ci95": [-0.05, -0.01], "flip_rate": 0.03},
            {"variant": "onnx_int8", "delta": 0.0, "ci95": [-0.01, 0.01], "flip_rate": 0.03}]  # fmt: skip
    assert "1 worse, 1 not distinguishable" in figures.accuracy_figure(rows, 872).get_suptitle()
    assert (
        figures.head_figure([0.5, 0.3, 0.4], 2)
        .get_suptitle()
        .endswith("0.500 after the first epoch, 0.300 at its best")
    )


def test_head_that_was_not_folded_is_said() -> None:
    result = whole_result()
    page, _ = pages(result)
    assert "with a head of 8 nodes folded into its classifier" in page
    assert "Agreement with the full model on the selection split: 95.00 % before, 97.00 % after; loss" in page
    result["head"].update(folded=False, fold_error=None, agreement_after=0.94)
    page, _ = pages(result)
    assert "Not folded in: the stock head has the lower loss" in page
    assert "folded into its classifier" not in page


def test_variants_have_one_order_whatever_the_file_has() -> None:
    result = whole_result()
    shuffled = {**result, "variants": dict(sorted(result["variants"].items()))}
    assert pages(shuffled) == pages(result)


def test_context_leaves_the_result_as_it_was() -> None:
    result = {**OPTIONAL, **whole_result()}
    before = copy.deepcopy(result)
    report_context(result)
    assert result == before
