"""The section on the dual role of feed-forward blocks, from the JSON of `compressor.analysis.ffn.ffn.analyze_ffn` alone."""

from collections.abc import Mapping
from typing import Any

from compressor.report.figures.ffn import LABELS, harmful_layers, needed_figure, ratio_figure, removal_of, spread, times
from compressor.report.formats import (
    bare_points,
    count,
    interval,
    layers_text,
    number,
    p_value,
    percent,
    percent_interval,
    points,
    points_interval,
    relative,
    score,
    with_interval,
)
from compressor.report.sections.section import Section, SectionTable

KINDS = {"removed": "removed", "mean_kept": "one mean kept", "means_kept": "two means kept"}
INTERVAL = "95 % interval"


def ffn_section(analysis: Mapping[str, Any]) -> Section:
    """Return the section; `analysis` holds the keys of FfnAnalysis."""
    layers = analysis["layers"]
    return Section(
        id="ffn",
        title="What the feed-forward blocks do",
        reading=_reading(analysis),
        figures={"ffn_ratio": ratio_figure(analysis), "ffn_needed": needed_figure(analysis)},
        tables=[
            _energy_table(analysis, "cls"),
            _removal_table(analysis),
            _probe_table(layers),
            _energy_table(analysis, "tokens"),
            _geometry_table(layers, "cls"),
            _geometry_table(layers, "tokens"),
        ],
        notes=_notes(analysis),
    )


def _reading(analysis: Mapping[str, Any]) -> str:
    layers, mean = analysis["layers"], analysis["mean_share_cls"]
    first = (
        "How much of a feed-forward block's work on the [CLS] state is the same for every text could not be told."
        if mean is None
        else f"On average over the layers, {percent(mean)} (95 % interval {percent_interval(analysis['mean_share_cls_ci95'])}) "
        "of what a feed-forward block does to the [CLS] states of a class it does to those of all texts alike."
    )
    gone, kept = ([removal_of(layer, kind)["flip_rate"] for layer in layers] for kind in ("removed", "means_kept"))
    harmful = harmful_layers(layers)
    named = f" ({layers_text(harmful)})" if harmful else ""
    return (
        f"{first} Taking out one block changes {spread(gone)} of {count(analysis['evaluation_rows'])} predictions, keeping only "
        f"its average output {spread(kept)}, and a linear probe finds {len(harmful)} of {len(layers)} blocks harmful{named}."
    )


def _energy_table(analysis: Mapping[str, Any], kind: str) -> SectionTable:
    cls = kind == "cls"
    rows = []
    for layer in analysis["layers"]:
        change = layer[kind]["change"]
        whole = layer[kind]["energy"]
        parts = {
            part: percent(max(0.0, change[f"{part}_corrected"]) / whole) if whole else "–"
            for part in ("common", "class", "instance")
        }
        low, high = change["ratio_ci95"]
        row = {
            "layer": str(layer["layer"]),
            "E|Δ|²": number(whole),
            **parts,
            "R as measured": times(change["ratio"], change["share"]),
            "R corrected": times(change["ratio_corrected"], change["share_corrected"]),
            INTERVAL: "–" if low is None else f"{times(low, None)} to {times(high, 1.0)}",
            "share R/(1+R)": percent(change["share_corrected"]),
        }
        if cls:
            row |= {
                "class energy as measured": number(change["class_specific"]),
                "corrected": number(change["class_corrected"]),
                "split halves": number(layer["split_half_class"]),
                "p (Holm)": p_value(layer["null"]["p_holm"]),
            }
        rows.append(row)
    share, bounds = analysis[f"mean_share_{kind}"], analysis[f"mean_share_{kind}_ci95"]
    return SectionTable(
        title=f"Energy of the change of {'[CLS]' if cls else 'all tokens'}",
        columns=[*rows[0]],
        rows=[[*row.values()] for row in rows],
        note=f"Parts of the energy are corrected for sampling (not below 0); mean share {percent(share)} (95 % interval "
        f"{percent_interval(bounds)}), {count(analysis['rows' if cls else 'tokens'])} {'texts' if cls else 'tokens'}."
        + (
            f" p: {count(analysis['permutations'])} shuffles of the labels reach the class energy, Holm over layers."
            if cls
            else ""
        ),
        folded=not cls,
    )


def _removal_table(analysis: Mapping[str, Any]) -> SectionTable:
    rows = []
    for layer in analysis["layers"]:
        for entry in layer["removal"]:
            rows.append(
                [str(layer["layer"]), KINDS[entry["kind"]], percent(entry["flip_rate"]), percent_interval(entry["flip_ci95"]),
                 with_interval(bare_points, entry["flips_saved"], entry["flips_saved_ci95"]), points(entry["accuracy_delta"]),
                 points_interval(entry["accuracy_ci95"]), p_value(entry["mcnemar_p_holm"]), score(entry["kl"]),
                 _signed(entry["entropy_shift"]), interval(_signed, entry["entropy_ci95"])]
            )  # fmt: skip
    saved = [removal_of(layer, "means_kept")["flips_saved_ci95"] for layer in analysis["layers"]]
    better, worse = sum(low > 0 for low, _ in saved), sum(high < 0 for _, high in saved)
    accuracy = "no labels, so no accuracy"
    if analysis["accuracy"] is not None:
        accuracy = f"the whole model has {percent(analysis['accuracy'])} accuracy"
    return SectionTable(
        title="Each block really removed",
        columns=[
            *("layer", "block", "changed predictions", INTERVAL, "fewer than removed, points", "accuracy change"),
            *(INTERVAL, "p (Holm)", "KL divergence", "later attention entropy", INTERVAL),
        ],
        rows=rows,
        note=f"n = {count(analysis['evaluation_rows'])} evaluation texts; {accuracy}. One mean: over all tokens; two means: one "
        f"at [CLS], one over the other tokens: fewer predictions change than with the block removed in {better} layers, more in "
        f"{worse} (paired 95 % intervals). Entropy: mean change over the heads, tokens and layers behind the block.",
        text_columns=(0, 1),
    )


def _probe_table(layers: list[Mapping[str, Any]]) -> SectionTable:
    rows = []
    for layer in layers:
        probe = layer["probe"]
        row = [str(layer["layer"])]
        for side in ("before", "after"):
            row += [percent(probe[side]), percent_interval(probe[f"{side}_ci95"])]
        gain = points(probe["difference"]), points_interval(probe["difference_ci95"])
        rows.append([*row, *gain, p_value(probe["mcnemar_p_holm"])])
    probe = layers[0]["probe"]
    return SectionTable(
        title="What a linear probe reads before and after each block",
        columns=["layer", "before", INTERVAL, "after", INTERVAL, "difference", INTERVAL, "p (Holm)"],
        rows=rows,
        note=f"Logistic regression on the standardised [CLS] state, {probe['folds']} folds, "
        f"n = {count(probe['rows'])} calibration texts.",
    )


def _geometry_table(layers: list[Mapping[str, Any]], kind: str) -> SectionTable:
    rows = []
    for layer in layers:
        change = layer[kind]
        row = [str(layer["layer"])]
        for part in ("raw", "norm"):
            energy = sum(change[part][name] for name in ("common", "class_specific", "instance"))
            row += [number(energy), times(change[part]["ratio_corrected"], change[part]["share_corrected"])]
            row += [relative(change[f"{part}_share"])]
        row += [percent(change["radial_share"]), number(change["radial_mean"])]
        row += [number(change[f"length_{state}"]) for state in ("before", "sum", "after")]
        row += [score(change[f"variation_{state}"]) for state in ("before", "sum", "after")]
        rows.append(row)
    return SectionTable(
        title=f"Block, LayerNorm and length of the state: {'[CLS]' if kind == 'cls' else 'all tokens'}",
        columns=[
            *("layer", "block: energy", "R", "part along Δ", "LayerNorm: energy", "R", "part along Δ", "radial share"),
            *("radial step", "|state| before", "sum", "after", "variation before", "sum", "after"),
        ],
        rows=rows,
        note="Δ = the block's own output + what the closing LayerNorm does to the sum; their parts along Δ add up to 100 %, and "
        "one may be negative. Radial: along the state before. Variation: standard deviation over mean of |state|.",
        folded=True,
    )


def _notes(analysis: Mapping[str, Any]) -> list[str]:
    left_out = analysis["left_out_rows"]
    return [
        "Δ is the state behind a feed-forward block and its LayerNorm minus the state in front of it (behind the attention's "
        "LayerNorm). E|Δ|² = |d|² + Σ π |d_c − d|² + E|Δ − d_c|² exactly: common, class-specific, instance; "
        "R = |d| / √(class-specific).",
        "Class means of few texts differ by chance: Σ π_c (1 − π_c) V_c is taken off the class part, V_c the variance of a class "
        "mean (of tokens: from how far groups of texts are apart), and clipped at 0, where R is ∞. Split halves need no "
        "correction and check it.",
        f"Classes are {LABELS.get(analysis['labels'], analysis['labels'])} of {count(analysis['rows'])} calibration texts "
        f"(seed {analysis['seed']}, {analysis['groups']} jackknife groups)"
        + (f"; {count(left_out)} texts of classes with fewer than 4 were left out." if left_out else "."),
        "R depends on the classes and texts looked at, and a common change is not a useless one: it may hold the state where "
        "later layers expect it. Probes say what can be read, not what the model reads; only removal does. Reference figures: a "
        "BERT-base of 12 layers, as published, without null or intervals.",
    ]


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.3f}".replace("-", "−")
