"""The placement experiment from the command line: refusals in one sentence, and a whole tiny run that is not done twice."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import letter_rows, save_rows, wordpiece
from transformers import BertForMaskedLM

from compressor.errors import UserError
from compressor.model.families import family_of
from compressor.model.load import find_model, load_classifier
from compressor.model.sublayers import shape_of
from compressor.placement import experiment as analyze
from compressor.placement import runs as placement_runs
from compressor.placement.experiment import folder_of, prepare_placement, train_placement
from compressor.placement.runs import DIGITS
from compressor.recipe.file import load_any, load_spec
from compressor.recipe.placement import PlacementRecipe
from compressor.report.analyses import SECTIONS
from compressor.report.figures.placement import LOOKS
from compressor.report.sections.placement import OUTCOMES, widths_text

RECIPES = sorted((Path(__file__).parents[2] / "recipes" / "placement").glob("*.yaml"))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """Return the file of an experiment that takes seconds: seven letters' words, one task of its own."""
    folder = tmp_path_factory.mktemp("placement")
    rows = letter_rows(200)
    (folder / "text.txt").write_text("\n".join(text for text, _ in rows) + "\n", encoding="utf-8")
    save_rows(folder, rows, 150)
    (folder / "recipe.yaml").write_text(
        f"""name: tiny-placement
seeds: [0, 1]
text: {{files: {folder}/text.txt, held_out: 0.2}}
encoder: {{layers: 4, hidden: 8, heads: 2, ffn: 16, vocab_size: 64, positions: 24, dropout: 0.1}}
placements: {{ratios: [70], explicit: [{{name: ends, layers: [1, 4]}}]}}
pretrain: {{steps: 4, batch_size: 4, length: 16, lr: 1.0e-3, checkpoint_steps: 2}}
tasks:
  - {{train: {folder}/train.csv, validation: {folder}/validation.csv, text: text, label: label, max_length: 16, train_rows: 32}}
finetune: {{epochs: 1, batch_size: 16}}
""",
        encoding="utf-8",
    )
    return folder / "recipe.yaml"


@pytest.fixture(scope="module")
def finished(recipe, tmp_path_factory):
    """Return the folder of the finished experiment and its result."""
    folder = tmp_path_factory.mktemp("out") / "run"
    found, _ = analyze.analyze_placement_of(recipe, out=folder)
    return folder, found


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("text.files=missing.txt", "missing.txt: no such file; correct text.files"),
        ("text.files=null", "no text: give either files or hub"),
        ("text.files={empty}", "no text in"),
        ("placements.explicit=[{name: odd, widths: [16, 48]}]", "placements.explicit.0.widths: 2 widths for 4 layers"),
        ("placements.explicit=[{name: odd, widths: [-8, 24, 24, 24]}]", "placements.explicit.0.widths.0"),
        ("placements.explicit=[{name: odd, widths: [16, 16, 16, 8]}]", "the widths sum to 56"),
        ("placements.explicit=[{name: odd, layers: [5]}]", "layer 5 does not exist"),
        ("placements.ratios=[120]", "less than or equal to 100"),
        ("placements.ratios=[0]", "greater than or equal to 1"),
        ("placements.places=[centre]", "not one of 'first', 'middle' or 'last'"),
        ("encoder.tokenizer={letters}", "vocabulary mismatch: it has 31 tokens, encoder.vocab_size is 64"),
        ("encoder.tokenizer=nowhere", "no such directory"),
        ("encoder.heads=3", "hidden (8) must be a multiple of heads (3)"),
        ("pretrain.length=32", "pretrain.length (32) is longer than encoder.positions (24)"),
        ("pretrain.accumulate=3", "batch_size (4) must be a multiple of accumulate (3)"),
        ("tasks=[{task: sst3, max_length: 16}]", "'sst3' is not known"),
        ("tasks=[{task: demo}]", "tasks.0.max_length (128) is longer than encoder.positions (24)"),
        ("pretrain.stepz=3", "unknown key; did you mean 'steps'"),
        ("tasks=[{tsk: demo}]", "unknown key; did you mean 'task'"),
        ("seeds=[1, 1]", "named once"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is(recipe, tmp_path, command, monkeypatch, change, words):
    monkeypatch.setattr(placement_runs, "pretrain", None)  # would fail with another exit code
    (tmp_path / "empty.txt").write_text("\n \n", encoding="utf-8")
    wordpiece(tmp_path).save_pretrained(tmp_path / "letters")
    change = change.replace("{empty}", str(tmp_path / "empty.txt")).replace("{letters}", str(tmp_path / "letters"))
    code, out, err = command(
        "analyze", "placement", recipe, "--out", tmp_path / "out", "--device", "cpu", "--set", change
    )
    assert code == 2
    assert out == ""
    assert words in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "out" / "runs").exists()


def test_validate_tells_the_kinds_of_recipes_apart(recipe, tmp_path, command):
    code, out, _ = command("validate", recipe, "--json")
    assert code == 0
    assert json.loads(out)["pretrain"]["steps"] == 4
    code, _, err = command("validate", recipe, "--set", "pretrain={batch_size: 4}")
    assert code == 2
    assert "pretrain.steps: this key is missing; add it (`compressor schema --kind placement` describes it)" in err
    (tmp_path / "empty.yaml").write_text("{}", encoding="utf-8")
    assert "(`compressor schema` describes it)" in command("validate", tmp_path / "empty.yaml")[2]  # the common kind
    code, _, err = command("run", recipe)
    assert code == 2
    assert "this is a recipe for `compressor analyze placement`" in err
    (tmp_path / "run.yaml").write_text("name: x\nmodel: {path: x}\ndata: {task: demo}\n", encoding="utf-8")
    code, _, err = command("analyze", "placement", tmp_path / "run.yaml")
    assert code == 2
    assert "this is a recipe for `compressor run`" in err
    assert (
        "key is missing; add it (`compressor schema --kind placement`"
        in command("analyze", "placement", tmp_path / "empty.yaml")[2]
    )


def test_a_folder_of_something_else_is_refused(recipe, tmp_path, command):
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    code, _, err = command("analyze", "placement", recipe, "--out", tmp_path, "--device", "cpu")
    assert (code, "holds other files" in err) == (2, True)
    with pytest.raises(UserError, match="holds other files"):
        folder_of(load_spec(recipe, PlacementRecipe), tmp_path)


def test_the_command_writes_page_figures_and_json(recipe, finished, command):
    folder, found = finished
    code, out, err = command("analyze", "placement", recipe, "--out", folder, "--device", "cpu")
    assert code == 0, err
    assert "In the masked-language loss" in out
    assert json.loads((folder / "placement.json").read_text()) == json.loads(json.dumps(found))
    page = (folder / "placement.html").read_text()
    assert "Where feed-forward blocks belong" in page
    assert page.count("data:image/png") == 2
    assert {path.name for path in (folder / "figures").glob("*.png")} == {
        "placement_ratio.png",
        "placement_importance.png",
    }
    code, out, _ = command("analyze", "placement", recipe, "--out", folder, "--device", "cpu", "--json")
    assert json.loads(out) == json.loads(json.dumps(found))


def test_the_result_holds_every_run(finished):
    folder, found = finished
    names = ["uniform", "first-70", "last-70", "ends"]  # 70 % are three of four layers, the middle ones the first ones
    assert [placement["name"] for placement in found["placements"]] == names
    assert len(found["runs"]) == 2 * len(names)
    assert len({run["parameters"] for run in found["runs"]}) == 1
    for run in found["runs"]:
        assert run["status"] == "ok"
        assert run["mlm_loss"] > 0
        assert len(run["tasks"]["train"]["predictions"]) == found["rows"]["train"] == 50
        assert 0 <= run["tasks"]["train"]["accuracy"] <= 1
    assert {each["metric"] for each in found["improvements"]} == {"mlm_loss", "train"}
    assert all(len(each["values"]) == 2 for each in found["improvements"])
    assert [verdict["outcome"] for verdict in found["verdicts"]] == ["untested", "untested"]
    assert str(folder) not in json.dumps({key: value for key, value in found.items() if key != "recipe"})


def test_pretrained_models_are_ordinary_directories_of_their_shape(finished):
    folder, _ = finished
    source = find_model(str(folder / "runs" / "ends-seed1" / "model"))
    model = load_classifier(source, new_labels=["a", "b"])
    assert shape_of(model, family_of("bert")).ffn_widths == (32, 0, 0, 32)
    uniform = BertForMaskedLM.from_pretrained(folder / "runs" / "uniform-seed1" / "model")
    embeddings = "bert.embeddings.word_embeddings.weight"
    assert uniform.state_dict()[embeddings].shape == (64, 8)
    assert torch.isfinite(uniform(input_ids=torch.tensor([[2, 7, 8, 3]])).logits).all()


def test_what_is_finished_is_not_done_again(recipe, finished, monkeypatch):
    folder, found = finished
    monkeypatch.setattr(placement_runs, "pretrain", None)
    monkeypatch.setattr(placement_runs, "finetune", None)
    again, _ = analyze.analyze_placement_of(recipe, out=folder)
    assert again == found


def test_an_interrupted_experiment_goes_on_where_it_was(recipe, finished, tmp_path):
    _, found = finished
    loaded = load_spec(recipe, PlacementRecipe)
    count = iter(range(9))  # one run with its fine-tuning is 4 + 2 steps

    def dying(iterable, *_, **__):
        for item in iterable:
            if next(count, None) is None:
                raise KeyboardInterrupt
            yield item

    with pytest.raises(KeyboardInterrupt):
        train_placement(prepare_placement(loaded, tmp_path / "run"), track=dying)
    assert len(list((tmp_path / "run" / "runs").glob("*/pretrained.json"))) >= 1
    again, _ = analyze.analyze_placement_of(recipe, out=tmp_path / "run")
    for run, other in zip(again["runs"], found["runs"], strict=True):
        assert {**run, "seconds": 0} == {**other, "seconds": 0}
    assert again["improvements"] == found["improvements"]


def test_a_run_that_another_process_is_at_is_left_for_later(recipe, finished, tmp_path, monkeypatch):
    order, made = [], prepare_placement(load_spec(recipe, PlacementRecipe), tmp_path / "run")
    monkeypatch.setattr(placement_runs, "_run", lambda job, *_: order.append(job.name))

    class Taken:
        """A lock that somebody else holds at the first look."""

        def __init__(self, path, timeout):
            self.free = timeout == -1 or "last-70-seed0" not in str(path)

        def __enter__(self):
            if not self.free:
                raise placement_runs.Timeout("lock")

        def __exit__(self, *_):
            return None

    monkeypatch.setattr(placement_runs, "FileLock", Taken)
    train_placement(made)
    assert len(order) == len(set(order)) == len(made.jobs)
    assert order[-1] == "last-70-seed0"


def test_an_unstable_run_is_shown_and_left_out(recipe, finished, tmp_path, monkeypatch):
    honest = placement_runs.pretrain

    def shaky(model, *arguments, **options):
        done = honest(model, *arguments, **options)
        if shape_of(model, family_of("bert")).ffn_widths[1:3] != (0, 0) or options["seed"] != 1:
            return done
        event = {"step": 3, "reason": "the loss is not finite", "rate": 1e-3, "back_to": None}
        return type(done)("unstable", 2, done.curve, 3, [event], done.seconds)

    monkeypatch.setattr(placement_runs, "pretrain", shaky)
    found, _ = analyze.analyze_placement_of(recipe, ["tasks=[]"], tmp_path / "run")
    bad = [run for run in found["runs"] if run["status"] != "ok"]
    assert [(run["placement"], run["seed"], run["mlm_loss"]) for run in bad] == [("ends", 1, None)]
    own = next(each for each in found["improvements"] if each["placement"] == "ends")
    assert (own["seeds"], own["missing"]) == ([0], [1])
    section = SECTIONS["placement"](found)
    assert "1 of 8 runs were unstable and left out" in section.reading
    assert "ends, seed 1: the loss is not finite in step 3, given up." in section.tables[-1].note


@pytest.mark.slow
def test_two_processes_train_one_model_as_one_process_does(recipe, tmp_path):
    changes = ["--set", "encoder.dropout=0.0", "--set", "tasks=[]", "--device", "cpu"]
    arguments = ["-m", "compressor.cli", "analyze", "placement", str(recipe), *changes, "--out"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    for start, name in (([sys.executable], "one"), (launch, "two")):
        subprocess.run(
            [*start, *arguments, str(tmp_path / name)], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
    one, two = (json.loads((tmp_path / name / "placement.json").read_text()) for name in ("one", "two"))
    for run, other in zip(one["runs"], two["runs"], strict=True):
        assert run["mlm_loss"] == pytest.approx(other["mlm_loss"], abs=1e-5)
        assert run["curve"] == pytest.approx(other["curve"], abs=1e-5)


def test_every_outcome_has_words_and_every_place_a_look():
    from compressor.recipe.placement import Place

    assert set(LOOKS) == set(Place.__args__)
    assert set(OUTCOMES) == {"wins", "ahead", "behind", "undecided", "untested"}
    assert widths_text([0, 0, 96, 96, 96, 0]) == "3-5: 96"
    assert widths_text([16, 24, 0, 24, 16, 16]) == "1, 5-6: 16; 2, 4: 24"
    assert len(DIGITS) == 36


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipes_are_valid(path):
    recipe = load_any(path)
    assert isinstance(recipe, PlacementRecipe)
    assert len(recipe.seeds) >= 3
    assert {"first", "middle", "last"} == set(recipe.placements.places)
