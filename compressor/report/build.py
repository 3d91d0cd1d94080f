"""Build report.html, report.md and figures/*.png of a run from its result.json."""

import base64
import hashlib
import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup
from matplotlib.figure import Figure

from compressor.errors import UserError
from compressor.files import check_schema, read_json, write_files, write_text
from compressor.report import formats
from compressor.report.analyses import drawn_sections, figure_files
from compressor.report.context import report_context
from compressor.report.figures import cascade as figures_cascade
from compressor.report.figures import charges as figures_charges
from compressor.report.figures import figures, style
from compressor.report.figures import selection as figures_selection
from compressor.report.tables import selection as tables
from compressor.report.wording import export as wording_export
from compressor.report.wording.kinds import quality, quality_interval

SCHEMA = 1
REQUIRED = ("name", "recipe", "environment", "data", "layers", "plan", "variants", "stages")
OPTIONAL = {
    **{"scores": {}, "benchmark": {}, "parity": {}, "fused_nodes": {}, "operators": {}, "analysis": {}},
    **{"flipped": [], "explain": []},
    **dict.fromkeys(
        (
            "head",
            "refit",
            "distill",
            "goals",
            "audit",
            "timing",
            "prediction",
            "cascade",
            "tail",
            "shipped",
            "ship",
            "answer",
            "archive",
        )
    ),
}
"""Parts that a run may lack, and what stands for them."""
TEMPLATES = Path(__file__).parent / "templates"
FILTERS = (
    *("percent", "points", "ratio", "milliseconds", "seconds", "megabytes", "gigaflops", "millions", "count", "number"),
    *("p_value", "score", "change", "points_interval", "percent_interval", "ratio_interval", "layers_text"),
    *("variant_name", "tie", "plain", "bare_points", "relative", "correlation", "correlation_interval", "score_name"),
)
"""Functions of `formats` that the templates use by name."""
PAGE_SCRIPT = (TEMPLATES / "page.js").read_text(encoding="utf-8")
"""Copies a box at a click, and unfolds what a link leads to and what is printed."""


def build_report(run_dir: Path) -> list[Path]:
    """Write report.html, report.md and figures/*.png from `run_dir`/result.json; return their paths in that order.

    Each file is written beside its place and renamed, and the same result gives the same bytes. Figures of an earlier
    build that this result has no data for are removed. Raises UserError when result.json is missing, unreadable or of
    another schema.
    """
    run_dir = Path(run_dir)
    context = report_context(read_result(run_dir / "result.json"))
    drawn = context["figures"] = {name: style.picture(figure) for name, figure in draw_figures(context).items()}
    folder = run_dir / "figures"
    try:
        write_text(run_dir / "report.html", render_html(context))
        write_text(run_dir / "report.md", render_markdown(context))
        pictures = {f"{name}.png": picture["png"] for name, picture in drawn.items()}
        written = write_files(folder, pictures | figure_files(context["sections"]))
    except OSError as error:
        raise UserError(
            f"{run_dir}: the report cannot be written here ({error.strerror}); check rights and space."
        ) from error
    return [run_dir / "report.html", run_dir / "report.md", *written]


def read_result(path: Path) -> dict[str, Any]:
    """Return result.json with its optional parts filled in. Raises UserError where it is no result of schema 1."""
    try:
        result = read_json(path)
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no result here; give the folder of a finished run.") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path and its rights.") from error
    except ValueError as error:  # not JSON, or not UTF-8
        raise UserError(f"{path}: not a JSON file ({error}); run the recipe again to write it anew.") from error
    check_schema(result, SCHEMA, path, "run the recipe again")
    missing = [key for key in REQUIRED if key not in result]
    missing += [f"variants.{key}" for key in ("full", "compressed") if key not in result.get("variants", {key: 0})]
    if missing:
        raise UserError(f"{path}: {', '.join(missing)} is missing; run the recipe again to write a whole result.")
    # a head that the stock head beats on the selection split is reported but not folded in
    head = {"optimizer": None, "folded": True, **result["head"]} if result.get("head") else None
    distill = (
        {"held": 0, "curve": [], **result["distill"]} if result.get("distill") else None
    )  # earlier ones held none out
    return {**OPTIONAL, **result, "head": head, "distill": distill}


def draw_figures(context: dict[str, Any]) -> dict[str, Figure]:
    """Return the figures that the result has data for, by name."""
    scores, audit, frontier = (context[name] for name in ("scores", "audit", "frontier"))
    drawn = {}
    if context["layers"]:
        drawn["separability"] = figures_selection.separability_figure(
            context["layers"], context["plan"]["skip"], scores.get("score", ""), scores.get("rows")
        )
    if context["part_amounts"]:
        drawn["mix"] = figures_selection.mix_figure(context["part_amounts"], context["plan"]["layers"])
    if context["audit_rows"] and audit.get("correlations"):
        drawn["audit"] = figures_selection.audit_figure(context["audit_rows"])
    if frontier and frontier["rows"][0]["size"] == 0:
        drawn["frontier"] = figures_selection.frontier_figure(
            frontier, context["main_series"], context["plan"]["layers"], audit["rows"], context["plan"]["chosen"]
        )
    compared = [
        {"variant": name, "delta": versus["accuracy_delta"], "ci95": versus["ci95"], "flip_rate": versus["flip_rate"]}
        for name, variant in context["variants"].items()
        if (versus := variant["versus_full"])
    ]
    if compared:
        drawn["accuracy"] = figures.accuracy_figure(compared, context["versus"]["rows"], context["metric"])
    if context["latency"]:
        drawn["latency"] = figures.latency_figure(context["latency"])
    if context["comparisons"]:
        drawn["speedup"] = figures.speedup_figure(context["comparisons"], context["same_format"])
    drawn |= _training_figures(context["distill"], context["head"])
    if context["cascade"]:
        drawn["cascade"] = figures_cascade.cascade_figure(context["cascade"])
    if context["explain"]:
        drawn["charges"] = figures_charges.charges_figure(context["explain"])
    return drawn


def _training_figures(distill: dict[str, Any] | None, head: dict[str, Any] | None) -> dict[str, Figure]:
    """Return the curves of what was trained, by name."""
    drawn = {}
    if distill and distill["curve"]:
        drawn["distill"] = figures.distill_figure(distill["curve"], distill["kept_step"])
    if head and head["selection_loss"]:
        unit = "node" if head["trainer"] == "forward" else "epoch"
        drawn["head"] = figures.head_figure(head["selection_loss"], head["best_epoch"], unit)
    return drawn


def render_html(context: dict[str, Any]) -> str:
    """Return the page of a run."""
    return render_page("report.html.j2", PAGE_SCRIPT, context)


def render_page(template: str, script: str, context: Mapping[str, Any]) -> str:
    """Return a page. Its policy lets a browser run its one script alone and fetch nothing."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = _environment().get_template(template)
    return page.render(**context, page_script=Markup(script), script_digest=digest)  # noqa: S704 (our own constant)


def build_analysis(out: Path, name: str, analysis: Mapping[str, Any], title: str) -> list[Path]:
    """Write out/NAME.html, a page of one analysis, and its figures below out/figures; return their paths."""
    sections = drawn_sections({name: analysis})
    footer = f"Every number was measured in this call; {name}.json holds them all."
    page = _environment().get_template("analysis.html.j2").render(title=title, sections=sections, footer=footer)
    write_text(out / f"{name}.html", page)
    return [out / f"{name}.html", *write_files(out / "figures", figure_files(sections), instead_of=f"{name}_")]


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
    pictures = {f"{name}.png": style.png(figure) for name, figure in drawn.items()}
    return write_files(run_dir / "figures", pictures, instead_of="audit.")


def render_markdown(context: dict[str, Any]) -> str:
    """Return the Markdown summary; every value is escaped so that none can break a table or add markup."""
    lines = {f"deploy_{key}": Markup(text) for key, text in (context["deploy"] or {}).items()}  # noqa: S704 (our own lines)
    return _environment(finalize=_escape_markdown).get_template("report.md.j2").render(**context, **lines)


def _escape_markdown(text: Any) -> Any:  # noqa: ANN401
    if not isinstance(text, str) or isinstance(text, Markup):  # code as it is
        return text
    for sign, escaped in (("\\", "\\\\"), ("|", "\\|"), ("<", "&lt;"), ("`", "\\`"), ("[", "\\["), ("_", "\\_")):
        text = text.replace(sign, escaped)
    return re.sub(r"\s+", " ", text)


@cache  # templates are compiled once, however many pages are made
def _environment(finalize: Callable[[Any], Any] | None = None) -> Environment:
    """Return the templates, HTML escaped by itself; `finalize` is what else happens to every printed value."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=select_autoescape(("html.j2",), default=False),
        finalize=finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update({name: getattr(formats, name) for name in FILTERS})
    environment.filters |= {"quality": quality, "quality_interval": quality_interval}
    environment.globals.update(
        strip=formats.strip, format_of=formats.format_of, is_full=formats.is_full, claim=formats.claim
    )
    environment.globals.update(row_rho=tables.row_rho, parity_words=wording_export.parity_words)
    return environment
