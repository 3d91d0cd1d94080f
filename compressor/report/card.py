"""A finished run as a small card for notebooks: line, three numbers, variants, warnings. Nothing in it is fetched or run."""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from compressor.report.formats import change, count, cut, megabytes, milliseconds, points, ratio
from compressor.report.tables.variants import variant_rows
from compressor.report.wording.kinds import counted_of, quality
from compressor.report.wording.wording import judged_variant

# every colour is that of the notebook's own text, so that it looks right in light and in dark
STYLE = Markup("""<style>
.cmpr-card { border: 1px solid color-mix(in srgb, currentColor 25%, transparent); border-radius: 8px; padding: .8em 1em;
  max-width: 56em; font-family: system-ui, sans-serif; font-size: 14px; line-height: 1.45; overflow-wrap: anywhere; }
.cmpr-card p { margin: 0 0 .6em; }
.cmpr-card p:last-child { margin: 0; }
.cmpr-card .cmpr-soft { opacity: .75; font-size: .9em; }
.cmpr-card .cmpr-facts { display: flex; flex-wrap: wrap; gap: .4em 2.2em; margin: 0 0 .7em; }
.cmpr-card .cmpr-facts b { display: block; font-size: 1.5em; line-height: 1.25; font-variant-numeric: tabular-nums; }
.cmpr-card .cmpr-scroll { overflow-x: auto; margin: 0 0 .6em; }
.cmpr-card table { border-collapse: collapse; margin: 0; font-size: .92em; font-variant-numeric: tabular-nums; }
.cmpr-card table th, .cmpr-card table td { text-align: right; white-space: nowrap; padding: .25em .9em .25em 0; color: inherit;
  background: none; border: 0; border-top: 1px solid color-mix(in srgb, currentColor 18%, transparent); }
.cmpr-card table th:first-child { text-align: left; }
.cmpr-card thead th { border-top: 0; font-weight: 400; opacity: .75; }
.cmpr-card tbody th { font-weight: 400; }
.cmpr-card tr.cmpr-shipped > * { font-weight: 650; }
</style>""")
HEAD = "variant", "accuracy", "changed", "p50", "speed-up", "weights", "tier"


def card_html(result: Mapping[str, Any], line: str, report: str) -> str:
    """Return the card of a result as HTML; `line` stands on top, `report` (a path) below. Every value is escaped."""
    facts = Markup("").join(
        Markup("<div><b>{}</b><span class='cmpr-soft'>{}</span></div>").format(value, text)
        for value, text in card_facts(result)
    )
    head = Markup("").join(Markup("<th>{}</th>").format(name) for name in HEAD)
    rows = Markup("").join(_row(row) for row in variant_rows(result).values())
    warnings = Markup("").join(
        Markup("<p class='cmpr-soft'><b>Warning.</b> {}</p>").format(cut(warning, 400))
        for warning in result["data"].get("warnings") or ()
    )
    return str(
        Markup(
            "{}<div class='cmpr-card'><p><strong>{}</strong></p><div class='cmpr-facts'>{}</div><div class='cmpr-scroll'><table>"
            "<thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>{}<p class='cmpr-soft'>{} · {}</p></div>"
        ).format(STYLE, line, facts, head, rows, warnings, result["name"], report)
    )


def card_facts(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return number and words of speed, changed predictions and size: of what is to be shipped, or what is judged."""
    answer, rows = result.get("answer"), variant_rows(result)
    counted = counted_of(result["data"].get("answers"))
    if answer:
        times = f"{milliseconds(answer['baseline_mean_ms'])} → {milliseconds(answer['mean_ms'])}"
        speed = ratio(answer["speedup"]), f"as fast as today, {times}"
        row, size = answer, (answer["bytes"], answer["baseline_bytes"])
    else:
        row = rows[judged_variant(result)]
        size = row["bytes"], rows["full"]["bytes"]
        against = f"as fast as {rows[row['against']]['name']}" if row["against"] else "speed not measured"
        speed = ratio(row["speedup"]), against + (", within noise" if row["claimed"] is False else "")
    return [
        speed,
        (count(row["flips"]), f"of {count(row['rows'])} {counted} changed, {row['tier']}"),
        (change(*size), f"{megabytes(size[1])} → {megabytes(size[0])}"),
    ]


def _row(row: Mapping[str, Any]) -> Markup:
    changed = "reference" if row["flips"] is None else f"{count(row['flips'])} of {count(row['rows'])}"
    delta = "" if not row["accuracy_delta"] else f" ({points(row['accuracy_delta'])})"
    cells = (
        f"{quality(row['accuracy'], row['metric'])}{delta}", changed, milliseconds(row["p50_ms"]), ratio(row["speedup"]),
        megabytes(row["bytes"]), row["tier"] or "",
    )  # fmt: skip
    inside = Markup("").join(Markup("<td>{}</td>").format(cell) for cell in cells)
    mark = Markup(" class='cmpr-shipped'") if row["shipped"] else ""
    return Markup("<tr{}><th>{}</th>{}</tr>").format(mark, cut(row["name"], 60), inside)
