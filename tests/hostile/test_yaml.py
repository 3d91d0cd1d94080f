"""YAML that is small and stands for much, in every place that reads some: refused at once, with the line and the limit."""

import time

import pytest

from compressor.errors import LONGEST, UserError
from compressor.model.card import source_metadata
from compressor.recipe import text
from compressor.recipe.file import load_recipe

LAUGHS = "[&a0 [x,x,x,x,x,x,x,x,x,x], " + ", ".join(
    f"&a{level} [{','.join([f'*a{level - 1}'] * 10)}]" for level in range(1, 12)
) + "]"  # fmt: skip
DOUBLED = "{a0: &a0 {k: x}, " + ", ".join(f"a{n}: &a{n} {{b: *a{n - 1}, c: *a{n - 1}}}" for n in range(1, 40)) + "}"
MERGED = "{a0: &a0 {k: x}, " + ", ".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}" for n in range(1, 40)) + "}"
HOSTILE = {
    "lists of aliases": (LAUGHS, "more than 100,000 values"),
    "mappings of aliases": (DOUBLED, "more than 100,000 values|more than 40 deep"),
    "merged mappings": (MERGED, "more than 100,000 values|more than 40 deep"),
    "a chain of aliases": ("[" + "&a0 [x], " + ", ".join(f"&a{n} [*a{n - 1}]" for n in range(1, 99)) + "]", "more than 40 deep"),
    "an alias of itself": ("&a [*a]", "within what it stands for"),
    "lists in lists": ("[" * 100_000, "more than 40 deep"),
    "mappings in mappings": ("{a: " * 100_000, "more than 40 deep"),
    "a key twice": ("{a: 1, a: 2}", "the key 'a' stands twice"),
    "a long number": ("9" * 5000, "a number has 5,000 signs"),
    "a long number in base 16": ("0x" + "f" * 500_000, "a number has 500,002 signs"),
    "a long number in base 60": ("1:" * 100_000 + "1", "a number has 200,001 signs"),
    "many values": ("[" + "1," * 400_000 + "]", "more than 100,000 values"),
    "a long text": ("x" * 1_100_000, "and 1,000,000 are read"),
    "an object of Python": ("!!python/object/apply:os.system [exit]", "could not determine a constructor"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_it_is_refused_as_a_file_and_as_an_option(case, tiny_task, tmp_path, command):
    value, words = HOSTILE[case]
    (tmp_path / "recipe.yaml").write_text(f"seed: 1\nname: {value}\n", encoding="utf-8")
    for arguments in (
        ["validate", tmp_path / "recipe.yaml"],
        ["validate", tiny_task / "recipe.yaml", "--set", f"name={value}"],
    ):
        started = time.process_time()
        code, _, error = command(*arguments)
        assert time.process_time() - started < 5
        with pytest.raises(UserError, match=f"^error: .*not valid YAML.*({words})"):
            raise UserError(error)
        assert (code, error.count("\n")) == (2, 1)
        assert len(error) < LONGEST + 50


def test_limits_let_a_long_sweep_pass():
    entries = "".join(f"- {{name: p{n}, selection.layers: 2, data.max_length: 64}}\n" for n in range(5000))
    assert len(text.parse(entries)) == 5000
    nested = "[" * 30 + "]" * 30
    assert text.parse(nested)
    assert text.parse("a: &a {x: 1}\nb: {<<: *a, y: 2}\nc: *a")["b"] == {"x": 1, "y": 2}
    assert text.parse("") is None


def test_the_line_of_a_key_that_stands_twice_is_named(tmp_path):
    (tmp_path / "r.yaml").write_text("name: a\nseed: 1\nname: b\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"r\.yaml:3: not valid YAML \(the key 'name' stands twice\)"):
        load_recipe(tmp_path / "r.yaml")


def test_an_option_changes_one_of_two_places_that_share_an_anchor(tiny_task, tmp_path):
    content = (tiny_task / "recipe.yaml").read_text(encoding="utf-8")
    content = content.replace("{split: train, size: 60}", "&a {size: 60}").replace(
        "selection: {size: 60}", "selection: *a"
    )
    (tmp_path / "r.yaml").write_text(content, encoding="utf-8")
    recipe = load_recipe(tmp_path / "r.yaml", ["data.calibration.size=50"])
    assert (recipe.data.calibration.size, recipe.data.selection.size) == (50, 60)


@pytest.mark.parametrize("value", [LAUGHS, DOUBLED, "[" * 100_000])
def test_a_model_card_is_read_within_the_same_limits(value, tmp_path):
    (tmp_path / "README.md").write_text(f"---\nlicense: {value}\n---\n", encoding="utf-8")
    assert source_metadata(tmp_path) == {}


def test_a_sweep_is_counted_before_its_points_are_made(tiny_task, tmp_path, command):
    grid = "".join(f"  key{n}: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]\n" for n in range(9))
    (tmp_path / "sweep.yaml").write_text(f"name: s\nbase: {tiny_task}/recipe.yaml\ngrid:\n{grid}", encoding="utf-8")
    for more in ([], ["--dry-run"]):
        code, _, error = command("sweep" if more else "validate", tmp_path / "sweep.yaml", *more)
        assert (code, error) == (
            2,
            "error: sweep s: there are 1,000,000,000 points, and at most 10,000 are run; leave some out.\n",
        )


@pytest.mark.parametrize("name", ["..", "../out", "/tmp/out", "a/b", "", ".hidden", "x" * 200])
def test_a_name_is_no_way_out_of_the_folder_of_runs(name, tiny_task, tmp_path, command, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = (tiny_task / "recipe.yaml").read_text(encoding="utf-8").replace("name: tiny", f"name: '{name}'")
    (tmp_path / "recipe.yaml").write_text(base, encoding="utf-8")
    (tmp_path / "sweep.yaml").write_text(f"name: '{name}'\nbase: {tiny_task}/recipe.yaml\n", encoding="utf-8")
    for arguments in (["run", "recipe.yaml"], ["sweep", "sweep.yaml"]):
        code, _, error = command(*arguments)
        assert code == 2
        assert ": name: string should " in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["recipe.yaml", "sweep.yaml"]


def test_a_sentence_is_short_and_moves_no_cursor(tiny_task, command):
    code, _, error = command("validate", tiny_task / "recipe.yaml", "--set", "selection.search=" + "x" * 100_000)
    assert (code, len(error) < LONGEST + 50) == (2, True)
    code, _, error = command("validate", tiny_task / "recipe.yaml", "--set", "a\x1b[2J\u009b.b=1")
    assert (code, "\x1b" in error, "\u009b" in error) == (2, False, False)
