"""Rows of latencies."""


def row(speedup, interval, claimed, against="runs/a/full", **changes):
    return {
        **{"batch": 1, "length": 32, "speedup": speedup, "speedup_ci95": interval, "claimed": claimed},
        **{"against": against, "runs": 100, **changes},
    }


def floor(model, low, high, length=32):
    return {"batch": 1, "length": length, "model": model, "ratio": 1.0, "ci95": [low, high]}
