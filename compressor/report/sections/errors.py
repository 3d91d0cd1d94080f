"""The analysis of confident errors as a section: sentences, tables and figures from its JSON alone."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from compressor.report.figures.errors import (
    REFERENCE_MARGIN,
    REFERENCE_SHARE,
    margins_figure,
    recovery_figure,
    reliability_figure,
)
from compressor.report.formats import (
    BLANK,
    count,
    cut,
    number,
    p_value,
    percent,
    percent_interval,
    points,
    points_interval,
    with_interval,
)
from compressor.report.sections.section import Section, SectionTable

LEARNED = 0.03
"""Accuracy on other rows this far above that on evaluation: the model has probably learned from them."""
LONGEST_TEXT = 300
READERS = {"probe": "probe, layer {}", "knn": "kNN, layer {}", "head": "head, {} nodes"}
OUTCOMES = {
    "lost": "lost: only the full model is right",
    "gained": "gained: only the compressed model is right",
    "both wrong": "both wrong",
    "wrong": "wrong",
}

Json = Mapping[str, Any]
_share = partial(with_interval, percent, unit=" %")
_points = partial(with_interval, points, unit=" points")
_number = partial(with_interval, number)


def errors_section(analysis: Json) -> Section:
    """Return the section of an ErrorsAnalysis as JSON."""
    found, matrix = analysis["recovery"], analysis["matrix"]
    figures = {"errors_margins": margins_figure(analysis), "errors_reliability": reliability_figure(analysis)}
    tables = [_errors_table(analysis), _calibration_table(analysis)]
    if found is not None:
        figures["errors_recovery"] = recovery_figure(found)
        tables.append(_recovery_table(found))
    if matrix is not None:
        tables.append(_matrix_table(matrix, analysis["rows"]))
    tables.append(_slices_table(analysis))
    if analysis["examples"]:
        tables.append(_examples_table(analysis))
    return Section("errors", "Confident errors", reading(analysis), figures, tables, _notes(analysis))


def reading(analysis: Json) -> str:
    """Return two sentences: how many errors are confident, and whether a layer still knew better."""
    full, found = analysis["models"]["full"], analysis["recovery"]
    if not full["errors"]:
        ece = full["before"]["ece"]
        return (
            f"The full model makes no error on {count(analysis['rows'])} texts, so there is none to explain. "
            f"Its confidence is off by {percent(ece['value'])} on average (95 % interval {percent_interval(ece['ci95'])})."
        )
    share = full["high_confidence_share"]
    first = (
        f"The full model is wrong on {count(full['errors'])} of {count(analysis['rows'])} texts, and in "
        f"{percent(share['value'])} of these errors (95 % interval {percent_interval(share['ci95'])}) it is clearly surer of "
        "its wrong answer than of the right one."
    )
    if found is None:
        fit = full["temperature"]
        change = fit["changes"]["high_confidence_share"]
        return (
            f"{first} Dividing its logits by one temperature ({number(fit['temperature'])}) changes that share by "
            f"{points(change['value'])} (95 % interval {points_interval(change['ci95'])})."
        )
    return f"{first} {_recovered(found)}"


def _recovered(found: Json) -> str:
    """Return the sentence on what readers of the layers still get right: more than luck would, or not."""
    union = found["groups"][-1]
    missed = (
        f"{percent(found['unfixed_share'])} of the errors (95 % interval {percent_interval(found['unfixed_ci95'])})"
    )
    if union["beyond_chance_ci95"] is None:
        return f"No probe, neighbour vote or small head on any layer's state would have avoided {missed}."
    more = f"{points(union['beyond_chance'])}, 95 % interval {points_interval(union['beyond_chance_ci95'])}"
    if union["beyond_chance_ci95"][0] > 0:
        return (
            "Some layers still knew answers that the end lost: probes, neighbour votes and small heads on their states get more "
            f"of the errors right than luck would ({more}), and {missed} are beyond them all."
        )
    return (
        f"No probe, neighbour vote or small head on any layer's state would have avoided {missed}, and the others are avoided "
        f"no more often than by luck ({more}), which points at what the model represents rather than at its head."
    )


def _errors_table(analysis: Json) -> SectionTable:
    at = f"{analysis['high_confidence_margin']:g}"
    rows = [
        [name, percent(model["accuracy"]), count(model["errors"]), _share(**model["error_rate"]),
         count(model["high_confidence"]), _share(**model["high_confidence_share"]), _number(**model["mean_margin"])]
        for name, model in analysis["models"].items()
    ]  # fmt: skip
    low, high = (f"{100 * bound:.0f} %" for bound in REFERENCE_SHARE)
    margin = " to ".join(f"{bound:g}" for bound in REFERENCE_MARGIN)
    rows.append(["reference range", *[BLANK] * 4, f"{low} to {high}", margin])
    return SectionTable(
        "Errors and how sure the model was of them",
        ("model", "accuracy", "errors", "error rate", f"margin above {at}", "share of the errors", "mean margin"),
        rows,
        "In brackets: 95 % intervals. The reference range was reported for fine-tuned BERT classifiers, not measured here.",
    )


def _calibration_table(analysis: Json) -> SectionTable:
    rows = []
    for name, model in analysis["models"].items():
        fit = model["temperature"]
        changes = fit["changes"]
        for when, label in (("before", "as it is"), ("after", f"at {number(fit['temperature'])}")):
            state = model[when]
            rows.append(
                [f"{name}, {label}", _share(**state["ece"]), percent(state["ece_if_calibrated"]), p_value(state["ece_p"]),
                 points(state["overconfidence"]["value"]), _number(**state["nll"]),
                 percent(state["high_confidence_share"]["value"])]
            )  # fmt: skip
        rows.append([f"{name}, change", _points(**changes["ece"]), *[BLANK] * 3, _number(**changes["nll"]),
                     _points(**changes["high_confidence_share"])])  # fmt: skip
    return SectionTable(
        "Calibration, and what one temperature changes",
        ("model, temperature", "calibration error", "by chance", "p", "too sure by", "log loss", "confident errors"),
        rows,
        "The temperature is fitted on the selection split and read on the evaluation split; changes are paired, text by text. In "
        "brackets: 95 % intervals. By chance: the calibration error that a calibrated model shows on as many texts; p is that of "
        "the error found. Too sure by: mean confidence minus accuracy.",
    )


def _recovery_table(found: Json) -> SectionTable:
    rows = [
        [row["kind"] if row["number"] is None else READERS[row["kind"]].format(row["number"]), percent(row["accuracy"]),
         count(row["fixed"]), _share(row["fixed_share"], row["fixed_ci95"]), percent(row["chance_share"]),
         _points(row["beyond_chance"], row["beyond_chance_ci95"]), count(row["broken"]), _net(row["net"]),
         p_value(row["p_holm"])]
        for row in (*found["readers"], *found["groups"])
    ]  # fmt: skip
    return SectionTable(
        "What readers of the [CLS] states would have got right",
        ("reader", "accuracy", "fixed", "share", "by luck", "beyond luck", "broken", "net", "p (Holm)"),
        rows,
        f"n = {count(found['errors'])} errors of {count(found['rows'])} texts; in brackets: 95 % intervals. Broken: right "
        "answers of the model that the reader gets wrong; p is that of the net. A union fixes an error where one of its readers "
        "is right, and breaks an answer where one is wrong.",
    )


def _matrix_table(matrix: Json, rows: int) -> SectionTable:
    cells = {
        "both right": matrix["both_right"],
        "lost: only the full model is right": matrix["lost"],
        "gained: only the compressed model is right": matrix["gained"],
        "both wrong, the same answer": matrix["both_wrong_alike"],
        "both wrong, different answers": matrix["both_wrong_differently"],
    }
    delta = matrix["comparison"]
    return SectionTable(
        "Full against compressed, text by text",
        ("outcome", "texts", "share"),
        [[name, count(value), percent(value / rows)] for name, value in cells.items()],
        f"Accuracy change {points(delta['accuracy_delta'])} (95 % interval {points_interval(delta['ci95'])}, McNemar p "
        f"{p_value(delta['mcnemar_p'])}); calibration error {_points(**matrix['changes']['ece'])}; share of confident errors "
        f"{_points(**matrix['changes']['high_confidence_share'])}.",
    )


def _slices_table(analysis: Json) -> SectionTable:
    ordered = sorted(analysis["slices"], key=lambda row: (row["outcome"] == "flips", row["p_holm"], row["p"]))
    found = sum(row["p_holm"] < 0.05 for row in ordered)
    rows = [
        [row["outcome"], f"{row['feature']}: {row['value']}", count(row["rows"]), _share(row["share"], row["share_ci95"]),
         percent(row["rest_share"]), _points(row["difference"], row["difference_ci95"]), p_value(row["p"]),
         p_value(row["p_holm"])]
        for row in ordered
    ]  # fmt: skip
    return SectionTable(
        "Kinds of texts with more or fewer errors",
        ("outcome", "kind of text", "texts", "share", "other texts", "difference", "p", "p (Holm)"),
        rows,
        f"{found} of {len(ordered)} comparisons hold after the correction (p below 0.05). Kinds of at least "
        f"{analysis['least_slice_rows']} texts; in brackets: 95 % intervals; Fisher's exact test, corrected by Holm over the "
        "kinds of each outcome.",
        text_columns=(0, 1),
    )


def _examples_table(analysis: Json) -> SectionTable:
    compressed, found = "compressed" in analysis["models"], analysis["recovery"] is not None
    cells = {
        "outcome": lambda row: OUTCOMES[row["outcome"]],
        "text": lambda row: cut(" | ".join(row["texts"]), LONGEST_TEXT),
        "gold": lambda row: row["gold"],
        "full": lambda row: _answer(row["full"]),
        **({"compressed": lambda row: _answer(row["compressed"])} if compressed else {}),
        **({"layers whose probe is right": lambda row: _layers(row["fixed_by"])} if found else {}),
        "row": lambda row: row["id"],
    }
    rows = [[cell(row) for cell in cells.values()] for row in analysis["examples"]]
    note = "The most confident errors of each outcome first; the share is the probability of the answer."
    return SectionTable("Examples", [*cells], rows, note, text_columns=tuple(range(len(cells))), folded=True)


def _notes(analysis: Json) -> Sequence[str]:
    found, full = analysis["recovery"], analysis["models"]["full"]
    fit = full["temperature"]
    notes = [
        f"Margin = p(predicted) − p(gold) of an error; confident above {analysis['high_confidence_margin']:g}. "
        f"Calibration error (ECE) over {analysis['bins']} bins of equal mass at most. Intervals of shares are Wilson's, the "
        f"others a bootstrap over the {count(analysis['rows'])} texts (seed {analysis['seed']})."
    ]
    if fit["fitted"] and fit["selection_accuracy"] - full["accuracy"] > LEARNED:
        notes.append(
            f"The full model is right on {percent(fit['selection_accuracy'])} of the selection split and on "
            f"{percent(full['accuracy'])} of the evaluation split: it has probably learned from those rows, and a temperature "
            f"fitted there is too low. The evaluation split itself would ask for {number(fit['evaluation_temperature'])}, "
            "which is used for nothing."
        )
    if not fit["fitted"]:
        notes.append("Every row of the selection split is right, so no temperature can be fitted there and 1 is kept.")
    if found is not None:
        heads = ", ".join(map(str, found["head_nodes"]))
        notes.append(
            f"Readers are fitted on {count(found['fit_rows'])} labelled rows ({found['fit_source']}), on standardised [CLS] "
            f"states: a penalised linear probe and {found['neighbours']} nearest neighbours behind every layer, heads of "
            f"{heads} nodes on the last state, which stay the linear readout that they start from unless training helps on rows "
            "held out. With two classes, a reader is right on an error whenever it disagrees with the "
            "model: so luck is how often it says the same on right answers that the model gave alike and about as surely. "
            "That a reader of this kind fails does not show that no reader could succeed."
        )
        if (found["fit_accuracy"] or 0) - full["accuracy"] > LEARNED:
            notes.append(
                f"The full model is right on {percent(found['fit_accuracy'])} of the rows that the readers are fitted on, so it "
                "has probably learned from them; readers of its last layers then copy the model, and what they would find on "
                "fresh rows may be more."
            )
    return notes


def _net(rows: int) -> str:
    return f"{rows:+,}".replace("-", "−") if rows else "0"


def _answer(side: Json) -> str:
    return f"{side['label']} ({percent(side['confidence'])})"


def _layers(fixed_by: Json | None) -> str:
    return BLANK if fixed_by is None else ", ".join(map(str, fixed_by["probe"])) or "none"
