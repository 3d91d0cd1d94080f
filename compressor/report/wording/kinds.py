"""What a prediction is, and what its measure is called, where it is not one label a row."""

from collections.abc import Mapping, Sequence
from typing import Any

from compressor.data.answers.kinds import BY_WORD, MANY_LABELS, RANKING, SCORE, SINGLE, TOKENS
from compressor.report.formats import percent, percent_interval

INTERVALS = {
    SCORE: "normal, of a paired bootstrap over the texts",
    RANKING: "normal, of the mean difference of the queries, with half a query for a gain and a loss added",
    TOKENS: "normal, of a paired bootstrap over the texts, with half a text for a gain and a loss added",
}
"""Kind of task -> what the intervals of its metric are, where it is not counted."""
ACCURACY, COUNTED = SINGLE.row.metric, SINGLE.row.counted


def kind_in(result: Mapping[str, Any]) -> str:
    """Return the kind of task of a result; those of earlier versions do not say it, and have one label a row."""
    return (result["data"].get("answers") or {}).get("kind", SINGLE.kind)


def metric_of(versus: Mapping[str, Any] | None) -> str:
    """Return what the difference from the full model is one of: accuracy, or the measure of another kind of task."""
    return (versus or {}).get("metric", ACCURACY)


def counted_of(versus: Mapping[str, Any] | None) -> str:
    """Return what is counted where a comparison or an answer says how many changed: predictions, or queries of rankings."""
    return (versus or {}).get("counted", COUNTED)


def rows_of(versus: Mapping[str, Any] | None) -> str:
    """Return what evaluation rows are called: texts, or what is counted in their place."""
    counted = counted_of(versus)
    return "texts" if counted == COUNTED else counted


def intervals_of(answers: Mapping[str, Any] | None) -> str:
    """Return what the paired intervals of the metric are, in words."""
    return INTERVALS.get((answers or {}).get("kind"), "Tango's score interval of paired counts")


def headed(metric: str) -> str:
    """Return the name of a metric as a sentence or a heading begins with it."""
    return f"{metric[0].upper()}{metric[1:]}"


def is_share(metric: str) -> bool:
    """Return whether values of the metric are shares, which are shown in percent."""
    return "correlation" not in metric and "@" not in metric


def quality(value: float | None, metric: str = ACCURACY) -> str:
    """Return a value of the metric: a share in percent, a correlation as it is."""
    return percent(value) if value is None or is_share(metric) else f"{value:.3f}"


def quality_interval(interval: Sequence[float] | None, metric: str) -> str:
    """Return the interval of a value of the metric; see `quality`."""
    if interval is None or is_share(metric):
        return percent_interval(interval)
    return f"{interval[0]:.3f} to {interval[1]:.3f}"


def meaning(answers: Mapping[str, Any] | None) -> str:
    """Return what a prediction is and when it counts as changed; nothing where it is one label a row.

    `answers` is that part of result.json; results of earlier versions have none.
    """
    kind = (answers or {}).get("kind")
    if kind == SCORE:
        return (
            f"A prediction is a score here. It counts as changed where it moves by more than {answers['tolerance']:.3g}; models "
            "are compared by Spearman's correlation with the labels, a point being a hundredth of it."
        )
    if kind == RANKING:
        return (
            "A prediction is the order of the documents of a query here. It counts as changed where another document is on top; "
            "models are compared by the mean NDCG@10 over the queries, a point being a hundredth of it."
        )
    if kind == MANY_LABELS:
        return (
            "A prediction is the set of labels of a text here. It counts as changed where any label differs, and as right where "
            "the whole set is."
        )
    if kind == TOKENS:
        by_word = answers["metric"] == BY_WORD
        what = "the labels of the words of a text" if by_word else "the entities of a text"
        by = "the share of words with the right label" if by_word else "micro F1 of the entities (as seqeval has it)"
        return (
            f"A prediction is {what} here. It counts as changed where any of them differs; models are compared by {by}, a point "
            "being a hundredth of it."
        )
    return ""
