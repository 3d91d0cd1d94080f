"""The sentences on the guarded early exit, for the report and the terminal."""

from collections.abc import Mapping
from typing import Any

from compressor.report.formats import count, layers_text, percent, percent_interval, ratio, ratio_interval


def uses_exits(cascade: Mapping[str, Any]) -> bool:
    """Return whether any text may leave early: a threshold is set, and not all are out of reach."""
    return any(entry["threshold"] is not None for entry in cascade["exits"])


def early_layers(cascade: Mapping[str, Any]) -> list[int]:
    """Return the layers behind which texts may leave early; the end of the layers is none of them."""
    return [entry["layer"] for entry in cascade["exits"] if entry["layer"] < cascade["layers"]]


def cascade_reading(cascade: Mapping[str, Any]) -> list[str]:
    """Return three paragraphs: what happens to a text, what is certified on which assumption, what was measured.

    The third is missing where the exits were not measured on the evaluation split, apart from what the run ships.
    """
    certificate, measured = cascade["certificate"], cascade.get("evaluation")
    exits = early_layers(cascade)
    bits = cascade.get("precision", "float32") == "int8"
    model = f"{'full' if cascade['model'] == 'full' else 'compressed'} model{' in 8 bits' if bits else ''}"
    happens = (
        f"Behind {layers_text(exits)} of the {model} a small linear head looks at each text; where its lead over the next "
        "class reaches the threshold, the text is answered there, and only the others go on to the last layer. "
        f"The heads learned the full model's logits from {count(cascade['fit_rows'])} texts, without labels and in closed form: "
        "three quarters for the fit, one for its strength, the exits and the order of thresholds."
        if exits
        else f"Every text goes through all layers of the {model}: no exit behind an earlier one was expected to cost less."
    )
    if cascade.get("full"):
        happens += (
            " Where the lead at the end of these layers is below a threshold as well, the text starts again in the full model "
            "in float32, which changes none."
        )
    if bits:
        happens += " Exits and thresholds are those of the 8-bit files, so their rounding is in the certificate."
    changed = f"{count(certificate['flips'])} of {count(certificate['rows'])} calibration texts"
    source = f"; {certificate['source']}" if certificate.get("source") else ""
    if not certificate["met"]:
        holds = (
            f"Nothing could be certified: already with the most cautious thresholds, {changed} get another prediction than "
            f"from the full model, and up to {percent(certificate['bound'])} may in general, more than the "
            f"{percent(certificate['max_flips'])} allowed. So no text leaves early."
        )
    else:
        holds = (
            f"Certificate: with {100 * certificate['confidence']:g} % confidence at most {percent(certificate['max_flips'])} "
            "of all predictions differ from the full model's, if the texts to come are drawn like the calibration texts (each "
            f"counted once{source}). {changed} changed, which bounds the share at {percent(certificate['bound'])} (Clopper and "
            "Pearson); thresholds were tested in an order fixed beforehand, up to the first that failed "
            f"({count(certificate['tested'])} tests)."
        )
        if not uses_exits(cascade):
            holds += " No threshold that lets a text leave early passed, so none does."
    if not measured:
        return [happens, holds]
    early = sum(measured["shares"][: len(exits)])
    again = f" and {percent(measured['shares'][-1])} started again in float32" if cascade.get("full") else ""
    found = (
        f"On the evaluation split {percent(early)} of the texts left early{again}; {count(measured['flips'])} of "
        f"{count(measured['rows'])} predictions changed ({percent(measured['flip_rate'])}, 95 % interval "
        f"{percent_interval(measured['flip_ci95'])}). The encoder did {percent(measured['work'])} of the full model's work: "
        f"{saving(measured)} (95 % interval of the ratio {ratio_interval(measured['compute_ratio_ci95'])}), counted in FLOPs at "
        "the texts' real lengths, exits included."
    )
    if bits:
        found += (
            f" An operation in 8 bits counts {cascade['speed']:.2f} of one in float32, as their times did when the cascade "
            "was made, and a try at an exit as many as take as long in float32."
        )
    return [happens, holds, found]


def saving(measured: Mapping[str, Any]) -> str:
    """Return `1.67x less encoder work`, or how much more where the exits cost more than they save."""
    if measured["compute_ratio"] < 1:
        return f"{ratio(measured['work'])} the encoder work"
    return f"{ratio(measured['compute_ratio'])} less encoder work"


def cascade_line(cascade: Mapping[str, Any]) -> str:
    """Return one line for the terminal: exits, certificate, what was measured."""
    certificate, measured = cascade["certificate"], cascade["evaluation"]
    exits = layers_text(early_layers(cascade))
    exits += " in 8 bits" if cascade.get("precision") == "int8" else ""
    exits += ", unsure texts again in float32" if cascade.get("full") else ""
    certified = (
        f"certified at most {percent(certificate['max_flips'])} changed predictions ({certificate['confidence']:.0%})"
        if certificate["met"]
        else f"nothing certified at {percent(certificate['max_flips'])} changed predictions, so no text leaves early"
    )
    return f"cascade: exits behind {exits}, {certified}, {percent(measured['flip_rate'])} measured, {saving(measured)}"


def cascade_finding(cascade: Mapping[str, Any]) -> str:
    """Return the title of the figure."""
    certificate, measured = cascade["certificate"], cascade["evaluation"]
    if not certificate["met"]:
        return f"No thresholds keep changed predictions below {percent(certificate['max_flips'])} with confidence"
    if not uses_exits(cascade):
        return (
            f"No text may leave early: every threshold tried might change more than {percent(certificate['max_flips'])}"
        )
    if measured["work"] >= 1:
        return f"The exits cost more than they save: {saving(measured)}"
    return (
        f"{percent(1 - measured['work'])} of the encoder's work saved with {percent(measured['flip_rate'])} changed "
        f"predictions; certified: at most {percent(certificate['max_flips'])}"
    )
