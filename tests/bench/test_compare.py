"""Finished runs side by side: what is paired, what is not and why, on run directories made by hand."""

import json

import pytest
from run_cases import FIRST, GOLD, SECOND, change_result, latency_row, make_run

from compressor.bench.compare import compare_runs


def test_gained_lost_and_delta_are_those_counted_by_hand(runs):
    compared = compare_runs(runs)
    (row,) = compared["paired"]
    low, high = row.pop("ci95")
    assert row == {
        "run": 2, "against": 1, "rows": 8, "agreement": 5 / 8, "flips": 3, "gained": 2, "lost": 1,
        "metric": "accuracy", "accuracy_delta": 1 / 8, "mcnemar_p": 1.0, "verdict": "not distinguishable",
    }  # fmt: skip
    assert low < 0 < 1 / 8 < high
    assert [(run["accuracy"], run["agreement"], run["flips"]) for run in compared["runs"]] == [
        (6 / 8, 6 / 8, 2),
        (7 / 8, 7 / 8, 1),
    ]
    assert [(run["skip"], run["layers"]) for run in compared["runs"]] == [([5], 6), ([2, 4], 6)]


def test_verdict_and_sign_speak_of_the_later_run(tmp_path):
    gold = [0, 1] * 20
    good = make_run(tmp_path / "good", gold, full=gold, gold=gold)
    bad = make_run(tmp_path / "bad", [0] * 40, full=gold, gold=gold)  # loses all 20 of class 1
    (row,) = compare_runs([good, bad])["paired"]
    assert (row["verdict"], row["gained"], row["lost"], row["accuracy_delta"]) == ("worse", 0, 20, -0.5)
    assert row["mcnemar_p"] == pytest.approx(2 * 0.5**20)
    assert row["ci95"][1] < 0
    (row,) = compare_runs([bad, good])["paired"]
    assert (row["verdict"], row["gained"], row["lost"], row["accuracy_delta"]) == ("better", 20, 0, 0.5)


def test_every_later_run_is_paired_with_the_first(tmp_path, runs):
    same = make_run(tmp_path / "c", FIRST)
    rows = compare_runs([*runs, same])["paired"]
    assert [(row["run"], row["against"], row["flips"], row["verdict"]) for row in rows] == [
        (2, 1, 3, "not distinguishable"),
        (3, 1, 0, "identical predictions"),
    ]


def test_other_evaluation_rows_are_never_paired_even_if_there_are_as_many(tmp_path, runs):
    other = make_run(tmp_path / "other", SECOND, sha="cd" * 32, name="elsewhere")
    compared = compare_runs([*runs, other])
    assert [row["run"] for row in compared["paired"]] == [2]
    assert compared["notes"][0] == (
        "run 3 (elsewhere) is not paired with run 1 (made): the evaluation rows differ (8 rows, sha cdcdcdcdcdcd against "
        "8 rows, sha abababababab)."
    )


def test_other_label_names_are_not_paired(tmp_path, runs):
    other = make_run(tmp_path / "other", SECOND, names=("negative", "neutral"))
    compared = compare_runs([runs[0], other])
    assert compared["paired"] == []
    assert "the label names differ (label 1 is 'neutral' against 'positive')" in compared["notes"][0]
    more = make_run(tmp_path / "more", SECOND, names=("negative", "positive", "mixed"))
    assert "label 2 is 'mixed' against None" in compare_runs([runs[0], more])["notes"][0]


def test_unlabelled_runs_are_paired_by_their_predictions_alone(tmp_path, compare):
    folders = [make_run(tmp_path / name, predicted, gold=None) for name, predicted in (("a", FIRST), ("b", SECOND))]
    compared = compare_runs(folders)
    (row,) = compared["paired"]
    assert (row["agreement"], row["flips"], row["verdict"]) == (5 / 8, 3, "not measured")
    assert [row[key] for key in ("gained", "lost", "accuracy_delta", "ci95", "mcnemar_p")] == [None] * 5
    assert not any("gold labels" in note for note in compared["notes"])
    code, stdout, _ = compare(*folders)
    assert (code, "no labels" in stdout, "not measured" in stdout) == (0, True, True)


def test_labels_kept_by_one_run_serve_both_and_kept_by_none_are_missed(tmp_path, runs):
    old = make_run(tmp_path / "old", SECOND, keep_labels=False)
    older = make_run(tmp_path / "older", FIRST, keep_labels=False)
    for pair in ([runs[0], old], [older, runs[1]]):
        assert compare_runs(pair)["paired"] == compare_runs(runs)["paired"]
    compared = compare_runs([older, old])
    assert compared["paired"][0]["accuracy_delta"] is None
    assert "neither run kept the gold labels" in compared["notes"][0]
    assert "remove predictions.npz from one of them and run its recipe again" in compared["notes"][0]


def test_different_full_models_are_told_and_equal_ones_are_not(tmp_path, runs):
    other = make_run(tmp_path / "other", SECOND, full=[*GOLD[:-1], 0])
    assert "different full models" in compare_runs([runs[0], other])["notes"][0]
    assert not any("different full models" in note for note in compare_runs(runs)["notes"])


def test_the_cell_is_the_first_that_all_runs_measured(tmp_path):
    a = make_run(tmp_path / "a", cells=((1, 32), (8, 64), (8, 128)))
    b = make_run(tmp_path / "b", cells=((8, 128), (8, 64)))
    c = make_run(tmp_path / "c", cells=((8, 128),))
    assert compare_runs([a, b])["cell"] == {"batch": 8, "length": 64}
    compared = compare_runs([a, b, c])
    assert compared["cell"] == {"batch": 8, "length": 128}
    assert [run["latency"]["p50_ms"] for run in compared["runs"]] == [18.0] * 3


def test_real_lengths_are_one_cell_only_where_the_texts_are_the_same(tmp_path, compare):
    workload = ((1, "workload"),)
    a, b = (make_run(tmp_path / name, cells=workload) for name in "ab")
    other = make_run(tmp_path / "other", cells=workload, sha="cd" * 32)
    assert compare_runs([a, b])["cell"] == {"batch": 1, "length": "workload"}
    assert "times at batch 1, real lengths" in compare(a, b)[1]
    compared = compare_runs([a, b, other])
    assert (compared["cell"], [run["latency"] for run in compared["runs"]]) == (None, [None] * 3)
    assert compared["notes"][-1].startswith("No latency is shown")
    code, stdout, _ = compare(a, b, other)
    assert (code, "p50" in stdout) == (0, False)


def test_latencies_of_different_runs_come_with_a_warning(tmp_path, runs):
    notes = compare_runs(runs)["notes"]
    assert len(notes) == 1
    assert "at different times, maybe on different machines" in notes[0]
    assert f"`compressor bench {runs[0]} {runs[1]}`" in notes[0]
    for number, other in enumerate(({"device": "Xeon"}, {"threads": 8})):
        warned = compare_runs([runs[0], make_run(tmp_path / f"other {number}", **other)])["notes"]
        assert warned[-1].startswith("The machines differ (run 1 (made): EPYC, 2 threads; run 2 (made): ")
        assert f"'{tmp_path}/other {number}'`" in warned[0]


def test_ratios_within_the_noise_are_left_out_and_counted(tmp_path, compare):
    noise = [latency_row(1, 32, 12.345, speedup=1.02, speedup_ci95=[0.95, 1.09], claimed=False, complete=False)]
    many = {"skip": tuple(range(1, 24, 2)), "layers": 24, "name": "[red] and a long name that wraps"}
    folders = [make_run(tmp_path / str(number), **many, latency=noise) for number in range(3)]
    folders.append(make_run(tmp_path / "fast", **many))
    code, stdout, _ = compare(*folders)
    assert (code, "\u2026" in stdout, "1.02x" in stdout) == (0, False, False)
    assert "3 of 4 ratios within the noise of the opponent, so not claimed and left blank" in stdout
    assert stdout.count("12.35 ms (cut)") == 3
    assert all(text in stdout for text in ("3: [red]", str(folders[-1]), "12 of 24", "identical predictions"))


def test_the_fastest_run_stands_first_and_what_ships_is_marked(tmp_path, compare):
    slow = make_run(tmp_path / "slow", name="slow")
    fast = make_run(
        tmp_path / "fast", name="fast", latency=[latency_row(1, 32, 5.0, speedup=2.4, speedup_ci95=[2.3, 2.5])]
    )
    change_result(fast, lambda result: result.update(answer={"key": "compressed"}))
    code, stdout, _ = compare(slow, fast, "--variant", "compressed")
    assert code == 0
    assert stdout.index("2: fast (ships)") < stdout.index("1: slow")
    assert "slow (ships)" not in stdout


def test_the_table_shows_runs_pairs_and_notes(runs, compare):
    code, stdout, stderr = compare(*runs)
    assert (code, stderr) == (0, "")
    shown = ("75.0% [65.0%, 85.0%]", "2 of 6 (layers 2 and 4)", "20.9 M", "2.39 GF", "83.8 MB", "11.00 ms", "1.20x [1.10, 1.30]",
             "batch 1, 32 tokens", "+12.50 points", "62.5%", "not distinguishable", "note: ", f"2: {runs[1]}")  # fmt: skip
    assert [text for text in shown if text not in stdout] == []


def test_json_is_alone_on_stdout(runs, compare):
    code, stdout, stderr = compare(*runs, "--json", "--variant", "onnx_int8")
    compared = json.loads(stdout)
    assert (code, stderr) == (0, "")
    assert list(compared) == ["runs", "cell", "paired", "notes"]
    assert compared == compare_runs(runs, "onnx_int8")
    assert {run["variant"] for run in compared["runs"]} == {"onnx_int8"}


def test_the_full_models_of_two_runs_can_be_compared_and_skip_nothing(runs, compare):
    compared = compare_runs(runs, "full")
    assert [(run["skip"], run["tier"]) for run in compared["runs"]] == [([], None)] * 2
    assert compared["paired"][0]["verdict"] == "identical predictions"
    code, stdout, _ = compare(*runs, "--variant", "full")
    assert (code, "0 of 6" in stdout) == (0, True)
