"""Words and tables of the report, worked by hand: formats, snippets, titles, what is not claimed."""

import copy
import html
import re

import pytest
import yaml
from report_cases import CELLS, HOSTILE, bare, check_pages, no_speedup, pages, whole_result

from compressor.report import formats
from compressor.report.build import OPTIONAL
from compressor.report.context import latency_rows, report_context
from compressor.report.figures import figures
from compressor.report.figures import selection as figures_selection


def test_snippets_are_python_and_name_every_variant() -> None:
    page, _ = pages(whole_result())
    snippets = [html.unescape(code) for code in re.findall(r'<pre class="copy"><code>(.*?)</code>', page, re.DOTALL)]
    assert len(snippets) == 4
    for code in snippets[:3]:
        compile(code, "snippet", "exec")
        assert "max_length=96" in code
    assert 'folder = "onnx/int8"  # or onnx/fp32, onnx/optimized\n' in snippets[1]
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


def test_a_comparison_is_held_against_the_noise_of_its_own_opponent() -> None:
    result = whole_result()
    old = [row["noise"] for row in report_context({**OPTIONAL, **result})["comparisons"]]
    assert set(map(tuple, old)) == {(0.985, 1.015)}  # an earlier version measured one noise floor a cell
    result["benchmark"]["noise_floor"] = [
        {"batch": batch, "length": length, "model": full, "ratio": 1.0, "ci95": [0.9, 1.0 + index / 100]}
        for batch, length, _ in CELLS
        for index, full in enumerate(("full", "full_onnx_fp32", "full_onnx_optimized"))
    ]
    rows = {row["variant"]: row["noise"] for row in report_context({**OPTIONAL, **result})["comparisons"]}
    noise = {"compressed": [0.9, 1.0], "onnx_fp32": [0.9, 1.01], "onnx_optimized": [0.9, 1.02], "onnx_int8": None}
    assert rows == noise
    page, _ = pages(result)
    assert "0.90x to 1.02x" in page


def test_cold_start_and_memory_are_shown_where_they_were_measured() -> None:
    result = whole_result()
    assert "Cold start" not in pages(result)[0]
    started = {"load_s": 0.25, "first_call_s": 0.0125, "peak_bytes": 2e8, "imported_bytes": 5e7, "gpu_bytes": None}
    started |= {"batch": 1, "length": 32, "children": 3}
    result["benchmark"]["footprint"] = {"onnx_int8": started, "full": {**started, "peak_bytes": None}}
    page, markdown = pages(result)
    assert "Cold start and memory" in page
    assert "GPU memory" not in page
    assert "full, PyTorch 250 ms + 12.5 ms, –; compressed, ONNX int8 250 ms + 12.5 ms, 200.0 MB." in markdown
    check_pages(page, markdown)
    result["benchmark"]["footprint"]["onnx_int8"] = {**started, "gpu_bytes": 1e9}
    assert "GPU memory" in pages(result)[0]


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
