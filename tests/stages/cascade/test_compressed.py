"""A cascade of the compressed model: certified on rows set aside, in float32 and in eight bits."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from cascade_runs import read
from report_cases import check_pages

from compressor import load_model
from compressor.cascade.runtime import CascadeClassifier
from compressor.data.batches import pad
from compressor.files import write_json
from compressor.measurement.predictions import predict
from compressor.progress import silent
from compressor.recipe.file import load_recipe
from compressor.report.tables.selection import exit_rows
from compressor.run.checks import prepare
from compressor.stages.cascade.build import PRECISIONS
from compressor.stages.cascade.cascade import compute, measured_outcome
from compressor.stages.cascade.shared import work_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return the run directory of the compressed model, which two tests share for its finished stages."""
    return tmp_path_factory.mktemp("runs") / "compressed"


def test_a_compressed_model_is_certified_on_rows_set_aside(task, folder, command):
    out, sets = folder, ("--set", "cascade.model=compressed", "--set", "cascade.exits=auto")
    sets += "--set", "cascade.max_flips=0.5", "--set", "selection.layers=1"
    code, _, stderr = command("run", task / "recipe.yaml", "--out", out, "--device", "cpu", *sets)
    assert code == 0, stderr
    cascade = read(out)["cascade"]
    assert (cascade["model"], cascade["layers"], cascade["certificate"]["rows"]) == ("compressed", 2, 75)
    assert read(out)["data"]["splits"]["calibration"]["rows"] == 75
    assert [entry["layer"] for entry in cascade["exits"]] == [1]
    # all texts at the end of two of three layers would take two thirds of the work, and the exit's share on top
    assert cascade["evaluation"]["work"] < 2 / 3 + 0.1
    assert "of the compressed model" in (out / "report.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_cascade_runs_on_a_model_that_lost_parts_of_layers(task, tmp_path, command):
    out, mix = tmp_path / "run", "selection={units: [ffn, width], widths: [0.5], budget: {keep: 0.8}, beam_width: 2}"
    sets = "--set", mix, "--set", "cascade={model: compressed, exits: [2], max_flips: 0.5}"
    code, _, stderr = command("run", task / "recipe.yaml", "--out", out, "--device", "cpu", *sets)
    assert code == 0, stderr
    result = read(out)
    cascade, kept = result["cascade"], result["plan"]["mix"]["kept"]
    assert (cascade["model"], cascade["layers"], cascade["certificate"]["met"]) == ("compressed", 3, True)
    classifier = CascadeClassifier(out / "onnx/cascade")
    encodings = prepare(load_recipe(out / "recipe.yaml"), out, "cpu", silent).evaluation
    model = load_model(out / "model")
    batch = pad(encodings, np.arange(len(encodings)))
    with torch.inference_mode():
        wanted = model(**{name: torch.from_numpy(value) for name, value in batch.items()}).logits
    np.testing.assert_allclose(classifier.every_logit(batch)[-1], wanted, atol=1e-4)
    # at the end of the narrower model all texts would take its share of the work, and the exit's on top
    assert cascade["evaluation"]["work"] < kept + 0.1


def test_where_nothing_can_be_certified_the_run_ends_well_and_says_so(task, folder, command):
    out = folder
    sets = "--set", "cascade.model=compressed", "--set", "cascade.max_flips=0.04", "--set", "cascade.exits=[1]"
    code, stdout, stderr = command("run", task / "recipe.yaml", "--out", out, "--device", "cpu", *sets)
    assert code == 0, stderr
    cascade = read(out)["cascade"]
    assert not cascade["certificate"]["met"]
    assert cascade["certificate"]["thresholds"] == [None]
    assert cascade["evaluation"]["shares"] == [0.0, 1.0]
    assert "nothing certified at 4.00 % changed predictions, so no text leaves early" in " ".join(stdout.split())
    page, markdown = ((out / name).read_text(encoding="utf-8") for name in ("report.html", "report.md"))
    check_pages(page, markdown, 135)
    assert "Nothing could be certified" in markdown
    assert "never reached" in markdown


@pytest.mark.parametrize("precision", ["float32", pytest.param("int8", marks=pytest.mark.slow)])
def test_a_compressed_model_before_the_full_one_can_always_be_certified(task, folder, command, precision):
    out = folder
    sets = "cascade.model=compressed", "cascade.max_flips=0.04", "cascade.exits=[1]", f"cascade.precision={precision}"
    sets += ("cascade.unsure_to_full=true",) * (precision == "float32")
    arguments = [part for name in sets for part in ("--set", name)]
    code, _, stderr = command("run", task / "recipe.yaml", "--out", out, "--device", "cpu", *arguments)
    assert code == 0, stderr
    cascade = read(out)["cascade"]
    assert (cascade["certificate"]["met"], cascade["full"], cascade["layers"]) == (True, True, 2)
    assert [entry["layer"] for entry in cascade["exits"]] == [1, 2]
    assert (cascade["speed"] == 1) == (precision == "float32")
    classify = CascadeClassifier(out / "onnx/cascade")
    assert classify.settings["parts"] == ["front.onnx", "back.onnx", "full.onnx"]
    run = prepare(load_recipe(out / "recipe.yaml"), out, "cpu", silent)
    batch = pad(run.evaluation, np.arange(len(run.evaluation)))
    found, left = classify.compute(batch, (np.inf, np.inf))  # the full model has a layer more
    assert set(left.tolist()) == {2}
    with torch.inference_mode():
        wanted = run.teacher(**{name: torch.from_numpy(value) for name, value in batch.items()}).logits
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    assert "of the compressed model" + " in 8 bits" * (precision == "int8") in (out / "report.md").read_text("utf-8")


def test_no_text_certifies_twice_or_what_it_helped_to_make(task, tmp_path):
    lines = (task / "train.csv").read_text(encoding="utf-8").splitlines()
    often = [lines[1]] * 150  # one text is a quarter of the file
    (tmp_path / "train.csv").write_text("\n".join([*lines, *often]) + "\n", encoding="utf-8")
    sets = [f"data.train={tmp_path / 'train.csv'}", "cascade.max_flips=0.2", "data.calibration.size=280"]
    for model in ("full", "compressed"):
        recipe = load_recipe(task / "recipe.yaml", [*sets, f"cascade.model={model}", "cascade.exits=[1]"])
        data = prepare(recipe, tmp_path / "run", "cpu", silent).data
        assert len(set(data.guard.texts)) == len(data.guard)
        if model == "compressed":
            assert not set(data.guard.texts) & set(data.calibration.texts)


@pytest.mark.slow
def test_an_eight_bit_cascade_is_certified_with_its_rounding_and_says_so(task, tmp_path, command):
    out, sets = tmp_path / "run", ("--set", "cascade.precision=int8", "--set", "cascade.unsure_to_full=true")
    code, stdout, stderr = command("run", task / "recipe.yaml", "--out", out, "--device", "cpu", *sets)
    assert code == 0, stderr
    result, made = read(out), read(out, "cascade.json")
    cascade, variant = result["cascade"], result["variants"]["onnx_cascade"]
    assert (made["precision"], made["full"]) == ("int8", True)
    assert [entry["layer"] for entry in made["exits"]] == [1, 2, 3]
    assert [entry["explained"] is None for entry in made["exits"]] == [False, False, True]
    settings = read(out / "onnx/cascade", "cascade.json")
    assert settings["parts"] == ["front.onnx", "middle.onnx", "back.onnx", "full.onnx"]
    assert (settings["precision"], settings["full"], settings["exits"]) == ("int8", True, [1, 2, 3])
    # the certificate is that of the finished files
    run = prepare(load_recipe(out / "recipe.yaml"), out, "cpu", silent)
    teacher = predict(run.teacher, run.guard)
    thresholds = [np.inf if value is None else value for value in made["certificate"]["thresholds"]]
    work = replace(work_of(run, run.teacher_source, made["speed"]), exit_work=made["exit_work"])
    outcome = measured_outcome(out / "onnx/cascade", work, (1, 2, 3), run.guard, teacher)
    assert made["certificate"]["flips"] == outcome.flips(thresholds)
    assert made["certificate"]["work"] == pytest.approx(
        outcome.cost(thresholds) / work.full.costs((), run.guard.lengths).mean()
    )
    assert not outcome.wrong_at_end.any()  # the full model in float32
    with np.load(out / "cascade_evaluation.npz") as file:
        left = file["exits"]
    assert cascade["evaluation"]["shares"] == [np.mean(left == part) for part in range(4)]
    assert variant["bytes"] > (out / "full-onnx/optimized/model.onnx").stat().st_size
    page, markdown = ((out / name).read_text(encoding="utf-8") for name in ("report.html", "report.md"))
    check_pages(page, markdown, 135)
    for text in (page, markdown):
        assert "of the full model in 8 bits" in text
        assert "starts again in the full model" in text
    assert "in 8 bits, unsure texts again in float32" in " ".join(stdout.split())
    assert [row["name"] for row in exit_rows(cascade)][2:] == ["layer 3 (the last)", "full model, float32"]


def test_rounding_that_changes_every_answer_is_in_the_certificate(task, tmp_path, monkeypatch):
    """8-bit layers that answer the opposite: alone nothing is certified, before the full model no text stays in them."""

    def opposite(source, target, _observed):
        graph = onnx.load(str(source))
        last = graph.graph.output[0].name
        for node in graph.graph.node:
            node.output[:] = [f"{name}_before" if name == last else name for name in node.output]
        graph.graph.node.append(onnx.helper.make_node("Neg", [f"{last}_before"], [last]))
        onnx.save_model(graph, str(target))

    monkeypatch.setitem(PRECISIONS, "int8", opposite)
    found = {}
    for again in ("false", "true"):
        sets = ["cascade.precision=int8", f"cascade.unsure_to_full={again}", "cascade.exits=[1]"]
        run = prepare(load_recipe(task / "recipe.yaml", sets), tmp_path / again, "cpu", silent)
        folder = tmp_path / again
        folder.mkdir()
        write_json(folder / "tail.json", {"form": "reassociated"})
        compute(run, folder)
        found[again] = read(folder, "cascade.json")
    # the heads learned from the full model's logits, not from those of the layers: whoever reaches the end is wrong
    assert found["false"]["certificate"]["shares"][1] < 0.1 or not found["false"]["certificate"]["met"]
    certificate = found["true"]["certificate"]
    assert certificate["met"]
    assert certificate["flips"] >= round(150 * certificate["shares"][1])
    assert certificate["shares"][2] > 0.1
