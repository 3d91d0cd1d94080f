"""Tables and sentences for a terminal: which columns stay, what wraps, what is said of the rest."""

import re

import pytest
from rich.cells import cell_len

from compressor.cli.tables import READABLE, WIDE, Column, Grid, fit, numbers, ratio_text, speedup_text, words
from compressor.console import TIE, say, show, wrap

REASON = "23 of 1,821 predictions change; at 99.0% confidence up to 2.02% may, allowed are 1.00%"
COLUMNS = [
    *words("file"), *numbers("speed-up [95 %]", "changed", "size"), Column("why not", words=True, below=True),
    *numbers("p90", rank=1), *numbers("runs", rank=2),
]  # fmt: skip
ROWS = [
    ("onnx/int8", "4.76x [4.38, 5.21]", "23 of 1,821", "23.8 MB", REASON, "12.25", "1,000"),
    ("pytorch/bfloat16", "1.48x [1.43, 1.54]", "3 of 1,821", "90.9 MB", "as fast as it gets", "17.50", "2,000"),
]


@pytest.fixture
def printed(monkeypatch, capsys):
    """Return a function: width (None for a pipe), parts -> what is printed on stdout."""

    def call(width, *parts):
        monkeypatch.setenv("COLUMNS", str(width)) if width else monkeypatch.delenv("COLUMNS", raising=False)
        show(*parts)
        return capsys.readouterr().out

    return call


@pytest.mark.parametrize("width", [20, 30, 40, 50, 60, 70, 80, 99, 100, 120, 200])
def test_nothing_is_wider_than_the_terminal_and_no_number_is_cut(printed, width):
    text = printed(width, Grid("what else was built", COLUMNS, ROWS))
    assert max(map(cell_len, text.splitlines())) <= width
    assert "…" not in text
    essential = ("4.76x", "[4.38, 5.21]", "23.8 MB", "1.48x", "[1.43, 1.54]", "90.9 MB", "2.02%")
    assert [number for number in essential if number not in text] == []
    gone = re.search(r"not shown at this width: ([^(]*)\(--json has all\)", " ".join(text.split()))
    hidden = gone.group(1).strip().split(", ") if gone else []
    for name, number in (("p90", "12.25"), ("runs", "1,000")):
        assert (number in text) != (name in hidden)


def test_more_than_five_columns_need_a_wide_terminal(printed):
    narrow = [Column(name, rank=int(place > 3)) for place, name in enumerate("abcdefg")]
    row = [str(place) for place in range(7)]
    assert [len(fit(narrow, [row], room)[0]) for room in (60, WIDE - 1, WIDE)] == [5, 5, 7]
    assert "not shown at this width: f, g" in printed(80, Grid("", narrow, [row]))
    assert "not shown" not in printed(WIDE, Grid("", narrow, [row]))


def test_the_highest_rank_goes_first_and_essential_columns_never():
    columns = [*words("name"), *numbers("a" * 20, rank=2), *numbers("b" * 20, rank=1), *numbers("c" * 20)]
    row = [["x", "1", "2", "3"]]
    assert fit(columns, row, 70)[0] == [0, 1, 2, 3]
    assert fit(columns, row, 60)[0] == [0, 2, 3]
    assert fit(columns, row, 40)[0] == [0, 3]
    assert fit(columns, row, 15) == ([0, 3], [])  # no room: a block of lines a row


def test_a_column_without_a_text_is_left_out(printed):
    text = printed(
        80, Grid("", [*words("model"), *numbers("load", "GPU memory")], [("a", "0.5 s", ""), ("b", "1 s", "")])
    )
    assert ("load" in text, "GPU" in text) == (True, False)


def test_reasons_stand_below_a_table_that_has_no_room_for_them_each_once(printed):
    rows = [*ROWS, ("onnx/fp16", *ROWS[1][1:])]
    text = " ".join(printed(60, Grid("", COLUMNS, rows)).split())
    assert f"onnx/int8: {REASON}" in text
    assert "pytorch/bfloat16, onnx/fp16: as fast as it gets" in text
    assert "why not" not in text
    wide = printed(80, Grid("", COLUMNS, rows))
    assert "why not" in wide
    shown, widths = fit(COLUMNS, rows, 80)
    assert widths[shown.index(4)] >= READABLE


def test_a_column_of_reasons_that_nobody_has_is_left_out(printed):
    text = printed(60, Grid("", COLUMNS[:5], [(*row[:4], "") for row in ROWS]))
    assert "onnx/int8" in text
    assert "why not" not in text


def test_rows_become_lines_where_not_even_the_essential_columns_fit(printed):
    text = printed(30, Grid("title", COLUMNS[:4], [row[:4] for row in ROWS]))
    assert "file: onnx/int8\nspeed-up [95 %]: 4.76x\n[4.38, 5.21]\nchanged: 23 of 1,821\nsize: 23.8 MB\n\nfile:" in text


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("", 5, [""]),
        ("kept   as it is", 20, ["kept   as it is"]),
        ("1.19x [1.17, 1.21]", 12, ["1.19x", "[1.17, 1.21]"]),
        ("of 91 MB, more", 9, ["of 91 MB,", "more"]),
        ("takes 2.3 ms", 8, ["takes", "2.3 ms"]),
        (f"not{TIE}[5]{TIE}+0.2, gripping", 14, ["not [5] +0.2,", "gripping"]),
        ("/a/folder/file.onnx", 10, ["/a/folder/", "file.onnx"]),
        ("abcdefghij", 4, ["abcd", "efgh", "ij"]),
        ("日本語のテキスト", 6, ["日本語", "のテキ", "スト"]),
        ("one\ntwo three", 5, ["one", "two", "three"]),
    ],
)  # fmt: skip
def test_lines_end_between_words_and_long_words_at_their_seams(text, width, lines):
    assert wrap(text, width) == lines


def test_sentences_wrap_in_a_terminal_and_paths_stay_whole(printed, monkeypatch, capsys):
    path = "/a/very/long/path/to/a/run/directory/report.html"
    sentence = f"report: {path} holds the whole account of what was measured"
    assert printed(30, sentence) == f"report:\n{path}\nholds the whole account of\nwhat was measured\n"
    assert printed(None, sentence) == f"{sentence}\n"
    monkeypatch.setenv("COLUMNS", "20")
    say("warning: a sentence of many words")
    assert capsys.readouterr().err == "warning: a sentence\nof many words\n"


@pytest.mark.parametrize(
    ("environment", "coloured"),
    [({}, False), ({"FORCE_COLOR": "1"}, True), ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False)],
)
def test_colours_only_in_a_terminal_that_wants_them(printed, monkeypatch, environment, coloured):
    for name in ("FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"TERM": "xterm-256color", **environment}.items():
        monkeypatch.setenv(name, value)
    assert ("\x1b[" in printed(80, Grid("title", COLUMNS, ROWS, styles={0: "green"}), "a sentence")) == coloured


def test_markup_and_emoji_of_hostile_names_are_printed_as_they_are(printed):
    text = printed(80, Grid("[red]t[/]", words("[b]x"), [("[bold]:smile:[/x]",)]), "[link=x]y")
    assert [name for name in ("[red]t[/]", "[b]x", "[bold]:smile:[/x]", "[link=x]y") if name not in text] == []


def test_a_name_cannot_steer_the_terminal(printed):
    hostile = "a\x1b[31mb\x07c\td\x9b2Je\r"
    for width in (None, 80):
        text = printed(width, Grid(hostile, words(hostile), [(hostile,)]), hostile)
        assert re.findall(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", text) == []
        assert text.count("a [31mb c d 2Je") == 4


def test_a_ratio_has_its_interval_in_brackets_and_noise_none():
    row = {"speedup": 0.5, "speedup_ci95": [0.48, 0.51], "claimed": False, "slower": True}
    assert ratio_text(0.5, [0.48, 0.51]) == "0.50x [0.48, 0.51]"
    assert speedup_text(row) == "0.50x [0.48, 0.51] (slower)"
    assert speedup_text({**row, "claimed": True, "slower": False}) == "0.50x [0.48, 0.51]"
    assert [
        speedup_text({**row, "slower": False}),
        speedup_text(None),
        speedup_text({**row, "speedup_ci95": None}),
    ] == [""] * 3
