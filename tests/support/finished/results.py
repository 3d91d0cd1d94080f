"""What of a result.json is the same each time."""

TIMES = {"timing", "prediction"}


def timeless(result):
    """Drop what depends on the clock."""
    for variant in result["variants"].values():
        variant["latency"] = [(row["batch"], row["length"], row["provider"]) for row in variant["latency"]]
    for key in ("seconds", "predicted_seconds", "sets_known"):
        result["plan"].pop(key)
    return {key: value for key, value in result.items() if key not in {"stages", "benchmark", "goals"} | TIMES}
