"""The page in a browser: nothing sticks out of a phone, no row is hidden, and the folded page is short."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from report_cases import HOSTILE, built, shipped_result, whole_result

from compressor.report.build import build_report

BROWSERS = "chromium", "chromium-browser", "google-chrome"
WIDTHS = {"phone": 400, "desk": 1280}
LONGEST = 7000
"""Pixels that the folded page may be high on a desk."""
PROBE = """
const found = {wide: [], hidden: [], height: document.documentElement.scrollHeight};
found.first = document.querySelector(".halves").getBoundingClientRect().bottom + scrollY;
for (const details of document.querySelectorAll("details")) details.open = true;
const scrolls = ".scroll, pre, nav .inner";
const named = element => element.tagName + "." + (element.getAttribute("class") || "") + ": " + element.textContent.trim().slice(0, 60);
if (document.documentElement.scrollWidth > innerWidth) found.wide.push("page: " + document.documentElement.scrollWidth);
for (const element of document.body.querySelectorAll("*")) {
  const inside = element.parentElement.closest(scrolls);
  if (inside || element.parentElement.closest("svg") || element.tagName === "SCRIPT") continue;
  const own = element.getBoundingClientRect(), around = element.parentElement.getBoundingClientRect();
  if (own.width && around.width && own.right > around.right + 1) found.wide.push(named(element));
}
for (const text of document.querySelectorAll("svg text")) {
  const own = text.getBoundingClientRect(), around = text.closest("svg").getBoundingClientRect();
  for (const other of text.closest("svg").querySelectorAll("text")) {
    const next = other.getBoundingClientRect();
    if (own.left < next.left && own.right > next.left && own.top < next.bottom && next.top < own.bottom) found.wide.push(named(text));
  }
  if (own.right > around.right + 1 || own.left < around.left - 1 || own.bottom > around.bottom + 1) found.wide.push(named(text));
}
for (const box of document.querySelectorAll(scrolls)) {
  if (box.scrollHeight > box.clientHeight + 1) found.hidden.push(named(box));
}
for (const row of document.querySelectorAll("tr")) {
  if (!row.getBoundingClientRect().height) found.hidden.push(named(row));
}
parent.postMessage(found, "*");
"""
FRAMES = """<!doctype html><body><pre id="found"></pre><script>
const found = {};
addEventListener("message", event => {
  for (const frame of document.querySelectorAll("iframe")) if (frame.contentWindow === event.source) found[frame.id] = event.data;
  document.querySelector("#found").textContent = JSON.stringify(found);
});
</script>"""


def dumped(page: Path) -> str:
    """Return what a page has become once a browser has shown it and run what runs; skips where there is no browser."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"no browser on PATH ({', '.join(BROWSERS)})")
    options = (
        *(
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--disable-component-update",
        ),
        *("--disable-sync", "--no-first-run", "--disable-dev-shm-usage", "--virtual-time-budget=10000", "--dump-dom"),
    )
    return subprocess.run(
        [browser, *options, f"--user-data-dir={page.parent / 'profile'}", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout


def looked_at(folder: Path) -> dict[str, dict]:
    """Return what a browser finds in folder/report.html on a phone and on a desk.

    {wide: elements that stick out, hidden: boxes with rows out of sight, height: pixels while folded, first: where the
    first screen ends}.
    """
    page = (folder / "report.html").read_text(encoding="utf-8")
    # the copy lets the probe run, which the page itself forbids
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    (folder / "probed.html").write_text(page.replace("</body>", f"<script>{PROBE}</script></body>"), encoding="utf-8")
    frames = "".join(
        f'<iframe id="{name}" src="probed.html" style="width: {width}px; height: 800px; border: 0"></iframe>'
        for name, width in WIDTHS.items()
    )
    (folder / "frames.html").write_text(FRAMES + frames, encoding="utf-8")
    seen = dumped(folder / "frames.html")
    found = json.loads(html.unescape(re.search(r'<pre id="found">(.*?)</pre>', seen, re.DOTALL)[1]))
    assert set(found) == set(WIDTHS)
    return found


def many_texts() -> dict:
    """A run that ships a file, with long words, long labels and markup in its texts."""
    result = shipped_result("near")
    for row in result["flipped"]:
        row.update(texts=["x" * 400, HOSTILE], gold="a-label-without-a-space-" * 4)
    return result


def many_cells() -> dict:
    """A run of twelve layers that was timed in twelve cells."""
    result = whole_result(12, (4, 9))
    for entry in result["variants"].values():
        entry["latency"] = [{**row, "batch": row["batch"] + more} for more in range(4) for row in entry["latency"]]
    return result


def every_step() -> dict:
    """A run whose answer has every factor that there is, one of them a loss."""
    result = shipped_result()
    names = ("set-up", "runtime", "exact tail", "layers and neurons", "8 bits", "early exit")
    factors = [{"name": name, "ratio": 1.3, "ci95": [1.2, 1.4]} for name in names]
    factors[-1].update(ratio=3 / 1.3**5, ci95=[0.7, 0.9])
    result["answer"]["factors"] = factors
    return result


CASES = {
    "a technique": many_cells,
    "an answer": shipped_result,
    "an answer with long words": many_texts,
    "an answer of every step": every_step,
    "nothing to ship": lambda: shipped_result("exact", None),
}


@pytest.mark.parametrize("case", CASES)
def test_the_page_fits_a_phone_and_folds_to_a_few_screens(tmp_path: Path, case: str) -> None:
    built(tmp_path, CASES[case]())
    for width, found in looked_at(tmp_path).items():
        assert found["wide"] == [], width
        assert found["hidden"] == [], width
    assert found["height"] <= LONGEST


def test_the_probe_finds_what_it_looks_for(tmp_path: Path) -> None:
    built(tmp_path, whole_result())
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    wrong = '<div><div style="width: 3000px">too wide</div></div><div class="scroll" style="height: 20px"><table><tr><td>1<tr><td>2</table>'
    (tmp_path / "report.html").write_text(
        page.replace("<footer>", f'{wrong}</div><div style="height: 9000px"></div><footer>')
    )
    for found in looked_at(tmp_path).values():
        assert any("too wide" in name for name in found["wide"])
        assert len(found["hidden"]) == 1
        assert found["height"] > LONGEST


def test_the_first_screen_holds_the_answer(tmp_path: Path) -> None:
    result = shipped_result()
    (tmp_path / "result.json").write_text(json.dumps(result))
    build_report(tmp_path)
    assert looked_at(tmp_path)["desk"]["first"] <= 800


PAYLOADS = (
    "<script>MARK</script>",
    '"><img src=x onerror="MARK">',
    "' autofocus onfocus='MARK' x='",
    "</title></style></textarea></code></pre><svg onload=MARK>",
    "<iframe srcdoc='<script>parent.MARK</script>'></iframe>",
    "[a](javascript:MARK) ![b](x onerror=MARK) `</code><script>MARK</script>`",
    "{{ 7 * 7 }}{% raw %}<details open ontoggle=MARK>",
)
MARK = "document.documentElement.dataset.ran=1"
FREE = (
    "name",
    "recipe",
    "environment",
    "flipped",
    "explain",
    "texts",
    "gold",
    "label",
    "warnings",
    "misses",
    "task",
    "why",
)
"""Parts of a result whose texts a user, their data or their model may have chosen."""
FIXED = {
    "search",
    "of",
    "kind",
    "score",
    "trainer",
    "refit",
    "key",
    "variant",
    "outcome",
    "blocks",
    "layers",
    "units",
    "provider",
}


def poisoned(value, payload: str, free: bool = False):
    """Return a part of a result with the payload behind every text that somebody else may have chosen."""
    if isinstance(value, dict):
        return {
            key: item if key in FIXED else poisoned(item, payload, free or key in FREE) for key, item in value.items()
        }
    if isinstance(value, list):
        return [poisoned(item, payload, free) for item in value]
    return f"{value} {payload}" if free and isinstance(value, str) else value


@pytest.mark.parametrize("make", [whole_result, lambda: shipped_result("near")], ids=["technique", "answer"])
def test_no_text_of_a_result_runs_in_the_page(tmp_path: Path, make) -> None:
    payload = " ".join(PAYLOADS).replace("MARK", MARK)
    built(tmp_path, poisoned(make(), payload))
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("dataset.ran=1") > 20
    # without the policy of the page, which would forbid it once more
    open_page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    assert open_page != page
    (tmp_path / "open.html").write_text(open_page, encoding="utf-8")
    for name in ("report.html", "open.html"):
        assert "data-ran" not in re.search("<html[^>]*>", dumped(tmp_path / name))[0]


@pytest.mark.parametrize("policy", [True, False])
def test_a_script_that_got_in_is_seen_and_the_policy_stops_it(tmp_path: Path, policy: bool) -> None:
    built(tmp_path, whole_result())
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = page if policy else re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    page = page.replace("<footer>", f"<script>{MARK}</script><img src=x onerror='{MARK}'><footer>")
    (tmp_path / "open.html").write_text(page, encoding="utf-8")
    assert ("data-ran" in re.search("<html[^>]*>", dumped(tmp_path / "open.html"))[0]) != policy
