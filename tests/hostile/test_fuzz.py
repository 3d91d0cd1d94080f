"""Whatever a configuration, a tokenizer, a data file or a recipe holds: exit code 0, 2 or 3 and one sentence, never our fault.

The slow test tries over 5,000 inputs, the fast one some hundred of each kind.
"""

import contextlib
import copy
import json
import shutil
from collections import Counter

import pandas as pd
import pyarrow as pa
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from odd import CHEAP, CONFIG_FIELDS, FILES, PLAN_FIELDS, RECIPE_FIELDS, TABLES, VALUES
from tiny import save_model

from compressor.cli.app import main
from compressor.errors import UserError
from compressor.recipe.file import load_recipe

seen = Counter()
"""Inputs of each command."""


def outcome(capsys, *arguments):
    """Return the exit code of a command; fails where an error is not one sentence, or is called our fault."""
    seen[arguments[0]] += 1
    capsys.readouterr()
    try:
        main([str(argument) for argument in arguments])
        code = 0
    except SystemExit as end:
        code = end.code or 0
    stderr = capsys.readouterr().err
    assert code in {0, 2, 3}, (code, stderr, arguments)
    assert "Traceback" not in stderr
    assert "our fault" not in stderr, stderr
    return code


def fuzz(examples):
    return settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
    )


def try_recipes(examples, tiny_task, tmp_path, capsys):
    known = yaml.safe_load((tiny_task / "recipe.yaml").read_text())

    @fuzz(examples)
    @given(st.lists(st.tuples(st.sampled_from(list(RECIPE_FIELDS)), VALUES), min_size=1, max_size=3), st.booleans())
    def check(changes, as_options):
        if as_options:
            sets = [word for field, value in changes for word in ("--set", f"{field}={json.dumps(value)}")]
            outcome(capsys, "validate", tiny_task / "recipe.yaml", *sets)
            return
        recipe = json.loads(json.dumps(known))
        for field, value in changes:
            *above, last = field.split(".")
            place = recipe
            for part in above:
                place = place.setdefault(part, {}) if isinstance(place, dict) else {}
            if isinstance(place, dict):
                place[last] = value
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(recipe), encoding="utf-8", errors="surrogatepass")
        outcome(capsys, "validate", path)

    check()


def try_plans(examples, tiny_task, tmp_path, capsys):
    """Combine values that are allowed alone: what they ask for in the stages up to the plan."""
    recipe, allowed = tiny_task / "recipe.yaml", []
    common = [0, 1, 2, 3, 20, 0.5, 0.9, 1.0, True, False, None, {}, [1], [1, 2], {"keep": 0.6}, {"max_drop": 0.2}]
    for field in PLAN_FIELDS:
        words = RECIPE_FIELDS[field]
        for value in [*words, *([word] for word in words), words, *common]:
            with contextlib.suppress(UserError):
                load_recipe(recipe, [change := f"{field}={json.dumps(value)}"])
                allowed.append(change)

    @fuzz(examples)
    @given(st.lists(st.sampled_from(allowed), min_size=1, max_size=3))
    def check(changes):
        sets = [word for change in changes for word in ("--set", change)]
        outcome(capsys, "plan", recipe, *sets, *CHEAP, "--out", tmp_path / "plan")

    check()


def try_texts(examples, tiny_task, tmp_path, capsys):
    @fuzz(examples)
    @given(st.binary(max_size=120) | st.text(max_size=80).map(lambda text: text.encode("utf-8", "surrogatepass")))
    def check(content):
        (tmp_path / "any.yaml").write_bytes(content)
        outcome(capsys, "validate", tmp_path / "any.yaml")

    @fuzz(examples)
    @given(st.text(max_size=40) | st.text("a.=:{}[]&*-\n ", max_size=20))
    def options(text):
        outcome(capsys, "validate", tiny_task / "recipe.yaml", f"--set={text}")
        outcome(capsys, "validate", tiny_task / "recipe.yaml", f"--set=data.max_length={text}")
        outcome(capsys, "schema", f"--kind={text}")

    check()
    options()


def try_words(examples, tiny_task, capsys):
    @fuzz(examples)
    @given(st.text(max_size=60), st.none() | st.text(max_size=20), st.booleans())
    def check(text, pair, as_json):
        words = [text, *([] if pair is None else [pair])]
        outcome(capsys, "explain", tiny_task / "model", *(["--json"] if as_json else []), "--", *words)

    check()


def try_files(examples, scores, tiny_task, tmp_path, capsys):
    def sets(path, skip):
        on_bad_row = f"data.on_bad_row={'skip' if skip else 'error'}"
        return "--set", f"data.train={path}", "--set", on_bad_row

    @fuzz(examples)
    @given(FILES, st.sampled_from(["csv", "tsv", "jsonl", "parquet"]), st.booleans())
    def check(content, suffix, skip):
        path = tmp_path / f"rows.{suffix}"
        path.write_bytes(content)
        outcome(capsys, "validate", tiny_task / "recipe.yaml", *sets(path, skip))

    @fuzz(scores)
    @given(TABLES, st.booleans(), st.booleans())
    def tables(columns, skip, good):
        texts, labels = columns
        frame = pd.DataFrame({"text": texts, "label": [labels[row % len(labels)] for row in range(len(texts))]})
        frame = pd.concat([frame, rows_of(tiny_task)]) if good else frame
        try:
            frame.to_parquet(tmp_path / "rows.parquet")
        except (pa.ArrowException, TypeError, ValueError):  # such a file cannot be
            return
        outcome(
            capsys, "score", tiny_task / "recipe.yaml", *sets(tmp_path / "rows.parquet", skip), "--out", tmp_path / "s"
        )

    @fuzz(scores)
    @given(FILES, st.integers(0, 4000), st.sampled_from(["csv", "tsv", "jsonl"]), st.booleans())
    def among_good_rows(content, place, suffix, skip):
        frame, path = rows_of(tiny_task), tmp_path / f"rows.{suffix}"
        text = frame.to_json(orient="records", lines=True) if suffix == "jsonl" else frame.to_csv(
            sep="," if suffix == "csv" else "\t", index=False)  # fmt: skip
        path.write_bytes(text[:place].encode() + content + text[place:].encode())
        outcome(capsys, "score", tiny_task / "recipe.yaml", *sets(path, skip), "--out", tmp_path / "s")

    check()
    tables()
    among_good_rows()


def rows_of(tiny_task):
    return pd.read_csv(tiny_task / "train.csv")


def try_models(examples, loads, tmp_path, tiny_task, capsys):
    folder = save_model(tmp_path / "model", layers=2, num_labels=2)
    known = json.loads((folder / "config.json").read_text())
    names = "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"
    files = {name: (folder / name).read_bytes() for name in names if (folder / name).is_file()}

    @fuzz(examples)
    @given(st.dictionaries(st.sampled_from(CONFIG_FIELDS), VALUES, min_size=1, max_size=2))
    def configs(changes):
        (folder / "config.json").write_text(json.dumps({**known, **changes}))
        outcome(capsys, "validate", tiny_task / "recipe.yaml", "--set", f"model.path={folder}")

    @fuzz(loads)
    @given(st.dictionaries(st.sampled_from(CONFIG_FIELDS), VALUES, min_size=1, max_size=1), st.booleans())
    def loading(changes, scored):
        (folder / "config.json").write_text(json.dumps({**known, **changes}))
        if scored:
            sets = "--set", f"model.path={folder}", "--out", tmp_path / "s"
            outcome(capsys, "score", tiny_task / "recipe.yaml", *sets)
        else:
            outcome(capsys, "explain", folder, "a b c")

    @fuzz(loads)
    @given(st.sampled_from(list(files)), st.integers(0, 4000), st.binary(max_size=20), st.booleans())
    def tokenizers(name, place, noise, cut):
        (folder / "config.json").write_text(json.dumps(known))
        for other, content in files.items():
            (folder / other).write_bytes(content)
        content = files[name]
        (folder / name).write_bytes(content[:place] + noise + (b"" if cut else content[place:]))
        outcome(capsys, "explain", folder, "a b c")

    @fuzz(loads)
    @given(st.data())
    def tokenizer_values(data):
        for other, content in files.items():
            (folder / other).write_bytes(content)
        name = data.draw(st.sampled_from(list(files)))
        (folder / name).write_text(json.dumps(mutated(data, json.loads(files[name]))))
        outcome(capsys, "explain", folder, "a b c")

    configs()
    loading()
    tokenizers()
    tokenizer_values()
    shutil.rmtree(folder)


def mutated(data, value):
    """Return a copy of some JSON of which one part, at any depth, is something else or gone."""
    value = copy.deepcopy(value)
    place, key = value, None
    while isinstance(place, dict | list) and place:
        above, key = place, data.draw(st.sampled_from(list(place) if isinstance(place, dict) else range(len(place))))
        place = above[key]
        if data.draw(st.integers(0, 3)) == 0:
            break
    if data.draw(st.integers(0, 3)) == 0:
        del above[key]
    else:
        above[key] = data.draw(VALUES)
    return value


@pytest.fixture(scope="module")
def finished(tiny_task):
    """Return the directory of a whole run with an audit, analyses and a cascade."""
    out = tiny_task / "runs" / "fuzzed"
    sets = "export.variants=[optimized]", "selection.audit=true", "analysis=[ffn,errors]", "goals={max_drop: 1}"
    options = [word for change in sets for word in ("--set", change)]
    with pytest.raises(SystemExit) as end:
        main(["run", str(tiny_task / "recipe.yaml"), "--out", str(out), *options])
    assert not end.value.code
    return out


def try_results(reports, comparisons, finished, tmp_path, capsys):
    shutil.copytree(finished, tmp_path / "run")
    file = tmp_path / "run" / "result.json"
    whole = json.loads(file.read_text())

    @fuzz(comparisons)
    @given(st.data())
    def compare(data):
        file.write_text(json.dumps(mutated(data, whole)))
        outcome(capsys, "compare", finished, tmp_path / "run")

    @fuzz(reports)
    @given(st.data())
    def report(data):
        file.write_text(json.dumps(mutated(data, whole)))
        outcome(capsys, "report", tmp_path / "run")

    compare()
    report()


def test_some_hundred_odd_inputs(tiny_task, tmp_path, capsys):
    try_recipes(100, tiny_task, tmp_path, capsys)
    try_texts(50, tiny_task, tmp_path, capsys)
    try_words(10, tiny_task, capsys)
    try_files(100, 15, tiny_task, tmp_path, capsys)
    try_models(80, 20, tmp_path, tiny_task, capsys)


@pytest.mark.slow
def test_over_five_thousand_odd_inputs(tiny_task, finished, tmp_path, capsys):
    seen.clear()
    try_recipes(1400, tiny_task, tmp_path, capsys)
    try_plans(100, tiny_task, tmp_path, capsys)
    try_texts(500, tiny_task, tmp_path, capsys)
    try_words(150, tiny_task, capsys)
    try_files(1000, 150, tiny_task, tmp_path, capsys)
    try_models(500, 200, tmp_path, tiny_task, capsys)
    try_results(40, 400, finished, tmp_path, capsys)
    assert seen.total() >= 5000, seen
