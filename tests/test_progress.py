"""Progress goes to stderr, and only for work that takes a while."""

from compressor import progress
from compressor.progress import bars, plain, silent, track_for_terminal


def test_every_track_yields_the_items():
    for track in (silent, plain, bars):
        assert list(track([1, 2, 3], "work", total=3)) == [1, 2, 3]


def test_plain_lines_appear_on_stderr_after_two_seconds_and_not_before(capsys, monkeypatch):
    now = iter([0.0, 1.0, 2.5, 2.5, 3.0, 9.0, 9.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    assert list(plain("abcd", "work")) == list("abcd")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == ["  work: 1/4", "  work: 3/4"]


def test_no_bars_where_stderr_is_no_terminal(monkeypatch):
    assert track_for_terminal() is plain
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert track_for_terminal() is bars
