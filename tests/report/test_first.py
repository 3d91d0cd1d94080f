"""The first screen: numbers, steps, changed texts and the lines to deploy, with values worked by hand."""

import copy
import html
import re

import pytest
from report_cases import HOSTILE, TIER_CASES, check_pages, pages, shipped_result, whole_result

from compressor.export.deploy import snippet
from compressor.report.figures.waterfall import HEIGHT, TOP, waterfall
from compressor.report.tables import first


def visible(page: str) -> str:
    """The words of a page that are not code."""
    page = re.sub(r"<(style|script|pre|code)\b.*?</\1>", " ", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", " ", page)))


def test_numbers_of_an_answer_are_those_of_its_line() -> None:
    page, markdown = pages(shipped_result())
    for text in (visible(page), markdown.replace("\\[", "[")):
        assert (
            "Ship onnx/int8: 4.00 ms instead of 12.0 ms (3.0x [2.9, 3.1]), 23 MB instead of 91 MB, 4 of 872 predictions changed"
            in text
        )
        assert "95 % interval 2.9x to 3.1x; one text at a time, real lengths" in text
        assert "0.46 % of the evaluation texts; accuracy −0.23 points (−0.60 to +0.20) at 95 %" in text
        assert "868 as today" in text
        assert "−75.0 %" in text
    assert page.count('<dd class="value">3.0x</dd>') == 1
    # 4 of 12 ms, and 22.7 of 90.868376 MB
    assert '<i class="after" style="width: 33.33%">' in page
    assert '<i class="after" style="width: 24.98%">' in page
    assert '<i class="rest" style="width: 0.46%">' in page


def test_numbers_of_a_run_without_an_answer_are_those_of_its_headline() -> None:
    page, _ = pages(whole_result())
    assert '<dd class="value">1.19x to 1.21x</dd>' in page
    assert "1.19x to 1.21x as fast in 8 of 12 comparisons" in page
    assert '<dd class="value">26 of 872</dd>' in page


def test_steps_multiply_to_the_speed_up() -> None:
    steps = first.steps(shipped_result()["answer"])
    assert [step["name"] for step in steps] == ["today", "runtime", "exact tail", "8 bits"]
    assert [step["to_ms"] for step in steps] == pytest.approx([12.0, 6.0, 5.0, 4.0])
    assert first.steps(shipped_result("exact", None)["answer"]) == []


def test_on_fixed_lengths_steps_start_from_the_median() -> None:
    answer = {**shipped_result()["answer"], "cell": {"batch": 1, "length": 32}}
    assert first.steps(answer)[0]["to_ms"] == 11.8


def test_columns_of_the_picture() -> None:
    steps = [{"name": "today", "to_ms": 8.0, "ratio": None}, {"name": "layers and neurons", "to_ms": 2.0, "ratio": 4.0},
             {"name": "early exit", "to_ms": 4.0, "ratio": 0.5}]  # fmt: skip
    today, saved, lost, now = waterfall(steps)["columns"]
    assert [column["kind"] for column in (today, saved, lost, now)] == ["today", "saved", "lost", "now"]
    assert [column["number"] for column in (today, saved, lost, now)] == ["8.00", "−6.00", "+2.00", "4.00"]
    assert (today["y"], today["height"]) == (TOP, HEIGHT)
    assert (saved["y"], saved["level"]) == (TOP, TOP + HEIGHT * 0.75)
    assert (lost["y"], lost["level"]) == (TOP + HEIGHT * 0.5, TOP + HEIGHT * 0.5)
    assert (now["y"], now["height"]) == (TOP + HEIGHT * 0.5, HEIGHT * 0.5)
    assert saved["lines"] == ["layers and", "neurons", "4.00x"]
    assert (today["centre"], now["centre"]) == (12.5, 87.5)


@pytest.mark.parametrize("tier", TIER_CASES)
def test_every_tier_has_its_badge_and_its_count(tier: str) -> None:
    result = shipped_result(tier)
    page, markdown = pages(result)
    assert f'<span class="badge {tier}">{tier}</span>' in page
    assert f".badge.{tier}" in page
    assert f"Tier “{tier}”" in markdown
    flips = len(result["flipped"])
    assert page.count('<span class="said">') == min(flips, 5)
    if flips == 0:
        assert all("No prediction changed." in text for text in (page, markdown))
    else:
        assert f"{min(flips, 5)} of {TIER_CASES[tier]['flips']} changed predictions" in page


def test_an_undecided_answer_says_what_it_lacks() -> None:
    page, _ = pages(shipped_result("undecided"))
    assert "too few rows to show near" in page
    assert "goal “near” undecided" in page
    assert "about 3,100 rows with the same shares" in page


def test_where_nothing_is_shipped_nothing_is_deployed() -> None:
    page, markdown = pages(shipped_result("exact", None))
    check_pages(page, markdown)
    for text in (page, markdown):
        assert "Keep what runs today (12.0 ms): nothing that was built is faster." in text
        assert "Nothing is shipped" in text or text is markdown
        assert "How to deploy" not in text
        assert "No prediction changed." in text
    assert "nothing to ship" in page


def test_the_lines_to_deploy_are_those_of_the_export() -> None:
    page, markdown = pages(shipped_result())
    assert f"```python\n{snippet('onnx/int8')}\n```" in markdown
    boxes = [html.unescape(code) for code in re.findall(r'<pre class="copy[^"]*"><code>(.*?)</code>', page, re.DOTALL)]
    assert boxes[0] == snippet("onnx/int8")
    assert 'folder = "onnx/int8"' in boxes[2]


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({}, "onnx/int8"),  # the fastest of those that were timed
        ({"shipped": {"variant": "optimized"}}, "onnx/optimized"),
        ({"cascade": {"exits": []}}, "onnx/cascade"),
    ],
)
def test_a_run_without_an_answer_deploys_its_best_file(change: dict, path: str) -> None:
    result = {**whole_result(), "answer": None, "shipped": None, "cascade": None, **change}
    latency = [{**row, "variant": name} for name, entry in result["variants"].items() for row in entry["latency"]]
    found = first.deploy(result, latency, 96)
    assert (found["path"], found["code"]) == (path, snippet(path))
    assert found["note"].endswith(
        "" if "cascade" in path else "This file: 26 of 872 predictions changed (near), 76 MB."
    )


def test_a_pytorch_answer_is_loaded_in_its_precision() -> None:
    answer = {"path": "model", "engine": "pytorch", "precision": "bfloat16"}
    code = first.deploy({"answer": answer}, [], 96)["code"]
    compile(code, "snippet", "exec")
    assert 'from_pretrained("model", dtype=torch.bfloat16)' in code
    assert "max_length=96" in code


def test_what_else_was_built_is_said_with_the_reason() -> None:
    page, markdown = pages(shipped_result())
    for text in (page, markdown):
        assert "meets the goal, and is not as fast" in text
        assert "3 of 1,750" in text
    assert "The plan</h2>" not in page  # no layer is left out
    assert "All 6 layers stay." in page


def test_a_shipped_early_exit_stands_with_its_certificate() -> None:
    result = shipped_result(path="onnx/cascade")
    result["variants"]["onnx_cascade"] = result["variants"].pop("onnx_int8")
    result["answer"]["key"] = "onnx_cascade"
    result["ship"]["exits"] = {
        **{"model": "full", "precision": "int8", "full": True, "layers": 6, "fit_rows": 4000},
        "exits": [{"layer": layer, "threshold": 2.75, "explained": 0.9} for layer in (3, 6)],
        "certificate": {"met": True, "flips": 4, "rows": 1821, "bound": 0.0056, "max_flips": 0.006, "confidence": 0.975,
                        "tested": 9, "shares": [0.625, 0.35, 0.025]},
    }  # fmt: skip
    page, markdown = pages(result)
    check_pages(page, markdown)
    for text in (page, markdown):
        assert "with 97.5 % confidence at most 0.60 % of all predictions differ" in text
        assert "On the evaluation split" not in text
    assert "| layer 3 | 2.75 | 62.50 % | – | 90.00 % |" in markdown
    assert 'href="#cascade"' in page
    assert 'Classifier("onnx/cascade")' in markdown
    assert "early exit</th>" in page  # its times stand beside today's


def test_texts_and_labels_are_escaped_and_cut() -> None:
    result = shipped_result()
    result["flipped"] = [
        {**result["flipped"][0], "texts": [f"{HOSTILE}{'y' * 300}"], "gold": HOSTILE,
         "full": {"label": HOSTILE, "confidence": 0.9}, "compressed": {"label": "<b>", "confidence": 0.6}}
    ]  # fmt: skip
    page, markdown = pages(result)
    assert "<script>alert" not in page + markdown
    assert "<b>" not in markdown
    said = re.search(r'<span class="said">(.*?)</span>', page)[1]
    assert len(html.unescape(said)) == 140
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; &amp; a | pipe → &lt;b&gt;" in page
    assert "a \\| pipe" in markdown


def test_no_raw_name_of_a_variant_or_score_is_shown() -> None:
    result = whole_result()
    result["goals"]["misses"] = ["onnx_int8: too slow."]
    result["plan"]["rank_by"] = "every_other"
    for page in (visible(pages(made)[0]) for made in (result, shipped_result())):
        assert re.findall(r"\b[a-z]+_\w+", page) == []
    assert "compressed, ONNX int8: too slow." in visible(pages(result)[0])


def test_one_node_is_no_nodes() -> None:
    result = whole_result()
    result["head"]["nodes"] = 1
    page, _ = pages(result)
    assert "with a head of 1 node folded" in page
    assert "1 nodes" not in page


def test_earlier_results_are_read_as_they_are() -> None:
    result = shipped_result()
    result["flipped"] = []
    before = copy.deepcopy(result)
    page, _ = pages(result)
    assert "The run kept no examples of the 4 changed predictions." in page
    assert result == before
