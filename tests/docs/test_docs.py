"""README and docs as a reader uses them: every block of code runs, every link leads somewhere, nothing made is stale."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from tiny import letter_rows, save_model

from compressor.recipe.compression import Recipe
from compressor.recipe.sweep import SweepRecipe

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RUN_BY_CI = {"install", "demo", "test"}
"""Targets of the Makefile that .ci/run calls: too much for a test."""
LONG = {"sweep", "data"}
"""Pages whose blocks carry out runs by themselves, beside that of all pages."""
SHORT = [
    *("--set", "benchmark.min_seconds=0", "--set", "benchmark.max_seconds=1", "--set", "benchmark.min_runs=5"),
    *("--set", "benchmark.footprint=false"),
]


def blocks(language: str) -> list:
    """Return every block of a language as a parameter of a test, named after its page."""
    found = [
        (page, text) for page in PAGES for name, text in BLOCK.findall(page.read_text("utf-8")) if name == language
    ]
    long = LONG if language != "yaml" else set()
    return [
        pytest.param(text, id=f"{page.stem}-{number}", marks=[pytest.mark.slow] if page.stem in long else [])
        for number, (page, text) in enumerate(found)
    ]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return a folder as the pages speak of it: a classifier, files of reviews, the recipes, a finished run."""
    from compressor.cli.app import main

    folder = tmp_path_factory.mktemp("place")
    names = {"num_labels": 2, "id2label": {0: "negative", 1: "positive"}, "label2id": {"negative": 0, "positive": 1}}
    save_model(folder / "my-model", "bert", layers=3, max_position_embeddings=160, **names)
    rows = letter_rows(360)
    for name, part in (("reviews", rows), ("train", rows[:300]), ("validation", rows[300:])):
        lines = ["review,sentiment", *(f"{text},{('negative', 'positive')[label]}" for text, label in part)]
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "recipes").symlink_to(ROOT / "recipes")
    for text in re.findall(
        r"^```yaml\n(name: mine\n.*?)^```$", (ROOT / "docs/data.md").read_text("utf-8"), re.M | re.S
    ):
        (folder / "mine.yaml").write_text(text, encoding="utf-8")
    sweep = {
        "name": "fleet",
        "base": "mine.yaml",
        "models": {"own": "./my-model"},
        "list": [{"name": name, **_nested(SHORT)} for name in ("one", "two")],
    }
    (folder / "sweep.yaml").write_text(yaml.safe_dump(sweep), encoding="utf-8")
    arguments = [
        "quick",
        f"{folder}/my-model",
        f"{folder}/reviews.csv",
        "--goal",
        "exact",
        "--out",
        f"{folder}/runs/demo",
    ]
    with pytest.raises(SystemExit) as end:
        main([*arguments, "--name", "demo", *SHORT])
    assert not end.value.code
    int8 = folder / "runs/demo/onnx/int8"
    assert int8.is_dir() or not _multiplies_8_bits()
    return folder


def _nested(options: list[str]) -> dict:
    """Return what `--set KEY=VALUE ...` replaces, as a sweep has it."""
    pairs = (value.partition("=") for value in options if value != "--set")
    return {key: yaml.safe_load(text) for key, _, text in pairs}


def _multiplies_8_bits() -> bool:
    from compressor.measurement.machine.environment import int8_is_fast, processor

    return int8_is_fast(processor()["instructions"])


@pytest.mark.parametrize("text", blocks("python"))
def test_python_blocks_run(text, place, monkeypatch):
    if "onnx/int8" in text and not _multiplies_8_bits():
        pytest.skip("this processor multiplies no 8-bit numbers, so a run makes no int8 file")
    monkeypatch.chdir(place)
    exec(compile(text, "block", "exec"), {"__name__": "block"})


@pytest.mark.parametrize("text", blocks("sh"))
def test_shell_blocks_run(text, place, monkeypatch, command):
    for line in text.splitlines():
        words = shlex.split(line, comments=True)
        for done in made_by_make(words) if words[:1] == ["make"] else [words]:
            monkeypatch.chdir(place)
            if done[:1] == ["cp"]:
                subprocess.run(done, check=True)
            elif done[:1] == ["compressor"]:
                cut = [] if {"validate", "--dry-run"} & set(done) or done[1] not in {"run", "quick"} else SHORT
                code, _, error = command(*done[1:], *cut)
                assert code in (0, 3), error
            else:
                assert done == [], f"{line}: no test knows how to run this"


def made_by_make(words: list[str]) -> list[list[str]]:
    """Return the commands of ours that a line with `make` stands for; none where .ci/run calls its target."""
    target = next(word for word in words[1:] if "=" not in word)
    if target in RUN_BY_CI:
        assert f"make {target}\n" in (ROOT / ".ci/run").read_text("utf-8")
        return []
    printed = subprocess.run(
        [*words[:1], "-n", "--old-file", ".venv/.installed", "-C", str(ROOT), *words[1:]],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    own = [line for line in printed.splitlines() if line.startswith(".venv/bin/compressor ")]
    assert own, printed
    return [shlex.split(line.removeprefix(".venv/bin/")) for line in own]


@pytest.mark.parametrize("text", blocks("yaml"))
def test_yaml_blocks_are_recipes(text):
    values = yaml.safe_load(text)
    if "base" in values:
        SweepRecipe.model_validate(values)
        return
    Recipe.model_validate({"name": "x", "model": {"path": "m"}, "data": {"task": "sst2"}, **values})


def test_every_block_says_what_it_is():
    known = {"python", "sh", "yaml", "text"}
    for page in PAGES:
        assert {name for name, _ in BLOCK.findall(page.read_text("utf-8"))} <= known, page


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    text = BLOCK.sub("", page.read_text("utf-8"))
    return {re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in re.findall(r"^#+ (.+?)\s*$", text, re.M)}


def test_links_lead_somewhere():
    more = [ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "benchmarks").glob("**/*.md"))]
    for page in [*PAGES, *more]:
        for target, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", BLOCK.sub("", page.read_text("utf-8"))):
            there = page.parent / target if target else page
            assert target.startswith("https://") or there.exists(), f"{page.name}: {target}"
            assert not anchor or target.startswith("https://") or anchor in anchors(there), (
                f"{page.name}: {target}#{anchor}"
            )


@pytest.mark.parametrize("name", ["recipes", "families"])
def test_the_pages_made_by_scripts_are_what_they_make(name):
    import importlib.util

    spec = importlib.util.spec_from_file_location(f"make_{name}", ROOT / f"docs/make_{name}.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert (ROOT / f"docs/{name}.md").read_text("utf-8") == script.page(), "make docs"


def test_every_direct_dependency_has_the_licence_that_it_names():
    """Indirect ones differ from machine to machine; where a direct one is installed, the page says what it says."""
    import importlib.util

    from compressor.release.packages import closure

    spec = importlib.util.spec_from_file_location("make_licences", ROOT / "docs/make_licences.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    rows = re.findall(r"^\| ([\w.-]+) \| ([^|]+) \|", (ROOT / "docs/licences.md").read_text("utf-8"), re.M)
    told = dict(rows)
    assert sorted(set(script.direct()) - set(told)) == [], "make docs"
    assert [name for name, licence in rows if licence.strip() in ("", "UNKNOWN")] == []
    here = closure([*script.requirements(), *script.LEFT_OUT])
    # the builds of torch carry other libraries each
    other = {name: script.licence(here[name]) for name in script.direct() if name in here and name != "torch"}
    assert other == {name: told[name] for name in other}, "make docs"


def test_every_key_of_a_recipe_is_explained():
    for line in (ROOT / "docs/recipes.md").read_text("utf-8").splitlines():
        assert not line.startswith("| `") or line.rstrip("| ").count(" | ") >= 3, line


def test_every_command_is_in_the_list():
    from compressor.cli.app import COMMANDS

    page = (ROOT / "docs/commands.md").read_text("utf-8")
    names = [command.__name__ for group in COMMANDS.values() for command in group]
    assert [name for name in names if f"`compressor {name.replace('_', '-')}" not in page] == []


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 130
