"""The tables of the benchmark of compensation: what cascades save and cost, pooled by hand."""

from benchmarks.compensation import tables


def task(full, labels, predictions, work, allowed=("0.05",)):
    """Return a task's entry whose cascades all predict `predictions` at `work` a row, of 4 that the full model does."""
    entry = {"predictions": predictions, "work": work, "full_work": [4.0] * len(work)}
    return {"full": full, "labels": labels, "cascade": dict.fromkeys(allowed, entry)}


def test_cascades_are_pooled_over_the_rows_of_all_tasks_at_bounds_that_all_have():
    tasks = {
        "sst2": task("0011", "0001", "0001", [1.0, 1.0, 2.0, 4.0], ("0.05", "0.01")),
        "cola": task("111111", "111111", "011111", [2.0] * 6),
    }
    lines = tables.cascade_reading({"tasks": tasks}).splitlines()
    assert len(lines) == 1  # one task alone has the other bound
    assert lines[0].startswith("- At most 5% changed, all rows of 2 tasks: 2.00x less encoder work [")  # 40 / 20
    assert "20.00 % changed predictions [" in lines[0]  # 2 of 10
    assert "accuracy +0.00 points [" in lines[0]  # one gained, one lost
    assert tables.cascade_reading({"tasks": {"cola": tasks["cola"], "rte": task("1", "1", "1", [4.0], ())}}) == ""
