"""The dual role of feed-forward blocks: analyses of models made by hand, the section of the report, what is refused."""

import copy
import dataclasses
import json

import numpy as np
import pytest
import torch
from tiny import TEXTS, save_model

from compressor.analysis.ffn.ffn import analyze_ffn
from compressor.analysis.ffn.probe import probe_pairs
from compressor.analysis.ffn.removal import run_removals, summarise
from compressor.data.batches import encode
from compressor.errors import UserError
from compressor.model.families import FAMILIES, family_of, layer_list
from compressor.model.load import find_model, load_classifier, load_tokenizer
from compressor.report.figures import style
from compressor.report.figures.ffn import harmful_layers, needed_finding
from compressor.report.sections.ffn import ffn_section


@pytest.fixture
def constant():
    """A function: (model, family) -> a copy whose blocks 1 and 3 give one vector whatever they see."""

    def make(model, family):
        made = copy.deepcopy(model)
        with torch.no_grad():
            for layer in (0, 2):
                layer_list(made, family)[layer].get_submodule(family.ffn_output).weight.zero_()
                layer_list(made, family)[layer].get_submodule(family.ffn_output).bias.normal_()
        return made

    return make


def test_a_block_with_one_output_for_all_loses_nothing_where_its_mean_stays(tiny, constant):
    model, family, encodings, _ = tiny("bert")
    torch.manual_seed(0)
    found = run_analysis(constant(model, family), family, encodings)
    for layer in (found.layers[0], found.layers[2]):
        _, mean, means = layer.removal
        assert (mean.flips, means.flips) == (0, 0) and mean.kl < 1e-9 and abs(mean.entropy_shift) < 1e-6
        assert layer.cls.raw.share_corrected == layer.tokens.raw.share == 1.0 and layer.cls.raw.ratio_corrected is None
    assert all(layer.removal[0].kl > 1e-6 for layer in found.layers)
    assert found.layers[1].removal[1].kl > 1e-6  # this block does more than its mean


def run_analysis(model, family, encodings, copies=3, classes=3, gold=True, **options):
    """The analysis of repeated texts whose classes follow their length."""
    rows = np.tile(np.arange(len(encodings)), copies)
    encodings = encodings.take(rows)
    labels = np.argsort(np.argsort(encodings.lengths, kind="stable")) * classes // len(encodings)
    options = {"permutations": 20, "batch_size": 16, "seed": 2} | options
    return analyze_ffn(
        model, family, encodings, labels, encodings, labels if gold else None, classes=classes, **options
    )


@pytest.mark.parametrize("model_type", list(FAMILIES))
def test_every_family_gives_plain_json_and_a_section(tiny, model_type):
    model, family, encodings, _ = tiny(model_type)
    found = run_analysis(model, family, encodings, gold=model_type != "roberta")
    stored = json.loads(json.dumps(dataclasses.asdict(found), allow_nan=False))
    assert [layer["layer"] for layer in stored["layers"]] == [1, 2, 3, 4]
    assert (stored["rows"], stored["evaluation_rows"], stored["seed"]) == (72, 72, 2)
    for layer in stored["layers"]:
        for kind in ("cls", "tokens"):
            change = layer[kind]["change"]
            for names in (
                ("common", "class_specific", "instance"),
                ("common_corrected", "class_corrected", "instance_corrected"),
            ):
                assert sum(change[name] for name in names) == pytest.approx(layer[kind]["energy"], rel=1e-5)
            assert layer[kind]["raw_share"] + layer[kind]["norm_share"] == pytest.approx(1, abs=1e-4)
        assert [entry["kind"] for entry in layer["removal"]] == ["removed", "mean_kept", "means_kept"]
        assert (layer["removal"][0]["accuracy_delta"] is None) == (model_type == "roberta")
    assert stored["layers"][-1]["removal"][0]["entropy_shift"] is None
    check_section(ffn_section(stored), draw=model_type == "bert")


def check_section(section, draw=True):
    """Two sentences, two figures that can be drawn, tables whose rows fit their columns."""
    assert section.reading.count(". ") == 1 and section.reading.endswith(".")
    assert set(section.figures) == {"ffn_ratio", "ffn_needed"}
    for figure in section.figures.values():
        assert figure.get_suptitle() and (not draw or style.png(figure).startswith(b"\x89PNG"))
    for table in section.tables:
        assert table.rows and {len(row) for row in table.rows} == {len(table.columns)}
        assert all(isinstance(cell, str) and "nan" not in cell for row in table.rows for cell in row)


def test_the_section_shows_ratios_that_are_infinite_or_undefined(tiny, constant):
    model, family, encodings, _ = tiny("distilbert")
    stored = json.loads(json.dumps(dataclasses.asdict(run_analysis(constant(model, family), family, encodings))))
    for layer, values in zip(stored["layers"], ((None, 1.0), (None, None), (3.0, 0.75), (0.0, 0.0)), strict=True):
        change = layer["cls"]["change"]
        change["ratio_corrected"], change["share_corrected"] = change["ratio"], change["share"] = values
        change["ratio_ci95"] = [values[0], None]
        layer["null"] |= {"ratio_null_low": None, "ratio_null_high": None}
    stored |= {"mean_share_cls": None, "mean_share_cls_ci95": None}
    section = ffn_section(stored)
    check_section(section)
    assert "could not be told" in section.reading
    assert [row[6] for row in section.tables[0].rows] == ["∞", "–", "3.00x", "0x"]
    assert "∞ (layer 1)" in section.figures["ffn_ratio"].get_suptitle().replace("\n", " ")


def test_harmful_means_below_zero_beyond_chance_for_so_many_layers():
    def layer(number, difference, p, flips):
        probe = {"difference": difference, "mcnemar_p_holm": p}
        return {"layer": number, "probe": probe, "removal": [{"kind": "removed", "flip_rate": flips}]}

    layers = [layer(1, -0.05, 0.001, 0.125), layer(2, -0.05, 0.2, 0.5), layer(3, 0.1, 0.001, 0.25)]
    assert harmful_layers(layers) == [1]
    assert needed_finding(layers) == (
        "The FFN of layer 1 looks harmful to a probe, but without it 12.50 % of the predictions change"
    )
    assert (
        needed_finding(layers[1:])
        == "No FFN looks harmful to a probe; without one, 25.00 to 50.00 % of the predictions change"
    )


def test_probes_see_a_class_that_a_block_adds_or_takes_away():
    generator = np.random.default_rng(11)
    labels = np.arange(200) % 2
    noise, told = generator.normal(size=(200, 6)), generator.normal(size=(200, 6))
    told[:, 0] += 4 * (2 * labels - 1)
    gains, loses = probe_pairs(np.stack([noise, told]), np.stack([told, noise]), labels)
    assert gains.after == 1.0 and gains.before < 0.65 and gains.difference_ci95[0] > 0.3
    assert loses.difference == pytest.approx(-gains.difference) and loses.mcnemar_p_holm < 1e-6
    assert gains.mcnemar_p_holm == pytest.approx(2 * gains.mcnemar_p)
    rare = probe_pairs(noise[None], told[None], np.r_[labels[:-1], 2])[0]
    assert (rare.rows, rare.folds) == (199, 5)


def test_summary_counts_flips_and_what_the_mean_saves(tiny):
    model, family, encodings, _ = tiny("bert")
    run = run_removals(model, family, encodings, {kind: np.zeros((4, 2, 32)) for kind in ("removed", "means_kept")})
    full = run.full.argmax(1)
    run.logits["means_kept"][0] = run.full
    removed, kept = summarise(run, (full + 1) % 3)[0]
    assert (kept.flips, kept.kl, kept.accuracy_delta) == (0, pytest.approx(0, abs=1e-12), 0.0)
    assert kept.flips_saved == removed.flip_rate and removed.flips_saved is None
    assert removed.flips == (run.logits["removed"][0].argmax(1) != full).sum()
    assert removed.later_layers == 3 and removed.entropy_ci95[0] <= removed.entropy_shift <= removed.entropy_ci95[1]


def test_same_seed_same_analysis_and_samples_are_bounded(tiny):
    model, family, encodings, _ = tiny("electra")
    first, again = (run_analysis(model, family, encodings, sample_rows=30, removal_rows=17) for _ in range(2))
    assert first == again
    assert (first.rows, first.sample_rows, first.evaluation_rows) == (72, 30, 17)
    assert first.layers[0].null.rows == 30 and first.layers[0].removal[0].rows == 17


def test_a_rare_class_keeps_rows_in_the_sample(tiny):
    model, family, encodings, _ = tiny("bert")
    labels = np.r_[np.zeros(68, int), np.ones(4, int)]
    encodings = encodings.take(np.tile(np.arange(24), 3))
    found = analyze_ffn(model, family, encodings, labels, encodings, None, classes=3, sample_rows=2, permutations=20)
    assert 5 <= found.sample_rows <= 8 and found.layers[0].probe.folds == 4


def test_classes_of_few_rows_are_left_out(tiny):
    model, family, encodings, _ = tiny("bert")
    labels = np.r_[np.zeros(11, int), np.ones(10, int), np.full(3, 2)]
    found = analyze_ffn(model, family, encodings, labels, encodings, None, classes=3, labels="model", permutations=20)
    assert (found.rows, found.left_out_rows, found.class_rows, found.labels) == (21, 3, [11, 10, 3], "model")


def test_one_layer_is_enough(tmp_path):
    folder = save_model(tmp_path / "one", "bert", layers=1, num_labels=2)
    source = find_model(str(folder))
    model, encodings = load_classifier(source), encode(TEXTS, load_tokenizer(source), 40)
    found = run_analysis(model, family_of("bert"), encodings, classes=2)
    check_section(ffn_section(json.loads(json.dumps(dataclasses.asdict(found)))))


def test_relative_positions_give_no_entropy(tmp_path):
    folder = save_model(tmp_path / "relative", "bert", layers=2, position_embedding_type="relative_key")
    source = find_model(str(folder))
    model, encodings = load_classifier(source), encode(TEXTS, load_tokenizer(source), 40)
    found = run_analysis(model, family_of("bert"), encodings)
    assert found.layers[0].removal[0].entropy_shift is None and found.layers[0].removal[0].later_layers == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes_of": np.zeros(24, int)}, "data.calibration: its classes .* have 24, 0, 0 rows"),
        ({"classes_of": np.zeros(5, int)}, "data.calibration: 5 labels for 24 rows"),
        ({"classes_of": np.r_[np.zeros(23, int), 3]}, "data.calibration, row 23: class 3 is none of the model's 3"),
        ({"gold": np.r_[-1, np.zeros(23, int)]}, "data.evaluation, row 0: class -1"),
        ({"evaluation": []}, "data.evaluation: there is no row"),
    ],
)
def test_input_that_does_not_fit_is_refused_before_the_pass(tiny, change, message):
    model, family, encodings, _ = tiny("bert")
    given = {"calibration": encodings, "classes_of": np.arange(24) % 3, "evaluation": encodings, "gold": None} | change
    if "evaluation" in change:
        given["evaluation"] = encodings.take(np.array([], dtype=int))
    with pytest.raises(UserError, match=message):
        analyze_ffn(model, family, **given, classes=3)
