"""The dual role of feed-forward blocks: constructed changes, the bias of sampling, the null, removal on models made by hand."""

import copy
import dataclasses
import json

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from tiny import ABSOLUTE, TEXTS, save_model
from torch import nn

from compressor.analysis.ffn.energy import (
    GroupMoments,
    cluster_variance,
    corrected,
    energies,
    mean_share,
    ratio_and_share,
    row_groups,
    row_variance,
    split,
    split_half,
)
from compressor.analysis.ffn.ffn import analyze_ffn
from compressor.analysis.ffn.null import class_energies, permutation_nulls
from compressor.analysis.ffn.probe import probe_pairs
from compressor.analysis.ffn.removal import attention_entropy, run_removals, summarise
from compressor.analysis.ffn.states import FIELDS, PARTS, ffn_pass, recorded_blocks
from compressor.data.batches import encode, pad
from compressor.errors import UserError
from compressor.measurement.statistics import holm
from compressor.model.families import FAMILIES, family_of, layer_list
from compressor.model.load import find_model, load_classifier, load_tokenizer
from compressor.report.figures import style
from compressor.report.figures.ffn import harmful_layers, needed_finding
from compressor.report.sections.ffn import ffn_section


def moments_of(rows, labels, groups=10, classes=None, batches=3):
    """The moments of rows [N, H], merged from several batches."""
    classes = classes or int(labels.max()) + 1
    made = GroupMoments.empty(1, groups, classes, rows.shape[1])
    dealt = row_groups(labels, groups, seed=0)
    for part in np.array_split(np.arange(len(rows)), batches):
        made.add(rows[None, part], np.zeros((1, len(part))), np.ones(len(part)), dealt[part], labels[part])
    return made


def only(rows, labels, **options):
    """The split of one series."""
    return split(moments_of(rows, labels, **options), row_variance)[0][0]


def test_energies_are_those_worked_by_hand_and_add_up():
    # class 0: (2, 0), (4, 0), mean (3, 0); class 1: (1, 2), (1, 0), mean (1, 1); overall (2, 0.5)
    rows, labels = np.array([[2.0, 0], [4, 0], [1, 2], [1, 0]]), np.array([0, 0, 1, 1])
    moments = moments_of(rows, labels, groups=2)
    np.testing.assert_allclose(energies(moments)[:, 0], [4.25, 1.25, 1.0])
    assert energies(moments).sum() == pytest.approx(np.square(rows).sum(1).mean())
    # unbiased tr(Cov) is 2 in both classes, so V = 1 for each mean of two rows: bias 2 * (1/2) (1/2) of class and of common
    np.testing.assert_allclose(row_variance(moments), [[1.0, 1.0]])
    np.testing.assert_allclose(corrected(moments, row_variance)[:, 0], [3.75, 0.75, 2.0])


@pytest.mark.parametrize("classes", [2, 5])
def test_energies_of_merged_batches_equal_those_of_all_rows_at_once(classes):
    generator = np.random.default_rng(0)
    rows, labels = generator.normal(size=(211, 7)) + 3, generator.integers(classes, size=211)
    whole = moments_of(rows, labels, groups=1, batches=1)
    parts = moments_of(rows, labels, groups=13, batches=40)
    np.testing.assert_allclose(energies(parts), energies(whole), rtol=1e-12)
    np.testing.assert_allclose(corrected(parts, row_variance), corrected(whole, row_variance), rtol=1e-10)
    assert energies(parts).sum() == pytest.approx(np.square(rows).sum(1).mean(), rel=1e-12)
    assert corrected(parts, row_variance).sum() == pytest.approx(np.square(rows).sum(1).mean(), rel=1e-12)


@pytest.mark.parametrize("classes", [2, 3])
def test_a_common_change_has_share_one_and_no_finite_ratio(classes):
    labels = np.arange(90) % classes
    found = only(np.tile([3.0, 4.0, 0.1], (90, 1)), labels)
    assert (found.common, found.share, found.share_corrected) == (pytest.approx(25.01), 1.0, 1.0)
    assert found.ratio is None and found.ratio_corrected is None
    assert found.share_ci95 == (1.0, 1.0)


@pytest.mark.parametrize("classes", [2, 3])
def test_a_class_change_has_share_zero(classes):
    labels = np.arange(90) % classes
    centres = np.eye(classes) - 1 / classes  # their mean is 0
    found = only(centres[labels], labels)
    assert found.ratio == pytest.approx(0, abs=1e-6) and found.share_corrected == pytest.approx(0, abs=1e-6)
    assert found.class_corrected == pytest.approx(found.class_specific) == pytest.approx(1 - 1 / classes)


@pytest.mark.parametrize("classes", [2, 4])
def test_an_instance_change_is_what_chance_makes(classes):
    generator = np.random.default_rng(3)
    rows, labels = generator.normal(size=(400, 30)), np.arange(400) % classes
    found = only(rows, labels, groups=40)
    chance = (classes - 1) * 30 / 400  # sum pi (1 - pi) H / n_c
    assert found.class_specific == pytest.approx(chance, rel=0.5)
    assert abs(found.class_corrected) < 0.5 * chance
    null = permutation_nulls(rows[None].astype(np.float32), labels, permutations=400, seed=1)[0]
    assert null.p > 0.05
    assert null.class_null_mean == pytest.approx(chance, rel=0.1)  # the formula and the shuffles agree
    assert abs(split_half(moments_of(rows, labels, groups=40))[0]) < 0.5 * chance


def test_a_planted_class_part_is_found_by_all_three():
    generator = np.random.default_rng(1)
    labels = np.arange(600) % 2
    rows = generator.normal(size=(600, 20)) + 5.0
    rows[:, 0] += 0.6 * (2 * labels - 1)  # class energy 0.36
    found = only(rows, labels, groups=40)
    assert found.class_corrected == pytest.approx(0.36, abs=0.15)  # its error is 0.05
    assert split_half(moments_of(rows, labels, groups=40))[0] == pytest.approx(found.class_corrected, abs=0.02)
    assert permutation_nulls(rows[None].astype(np.float32), labels, permutations=200)[0].p == pytest.approx(1 / 201)
    low, high = found.ratio_ci95
    assert low < (20 * 25 / 0.36) ** 0.5 < high


def test_the_correction_holds_at_small_samples_where_the_measured_ratio_does_not():
    """R against sample size: the truth is 10 (common 100, class 1), in 40 dimensions of unit variance."""
    generator = np.random.default_rng(5)
    measured, mended = {}, {}
    for rows in (12, 24, 96, 1536):
        labels = np.arange(rows) % 2
        found = []
        for _ in range(60):
            drawn = generator.normal(size=(rows, 40))
            drawn[:, 0] += 10
            drawn[:, 1] += 2 * labels - 1
            moments = moments_of(drawn, labels, groups=2, batches=1)
            found.append(np.concatenate([energies(moments)[:2, 0], corrected(moments, row_variance)[:2, 0]]))
        plain_common, plain_class, common, class_part = np.mean(found, axis=0)
        measured[rows], mended[rows] = (plain_common / plain_class) ** 0.5, (common / class_part) ** 0.5
    assert mended[12] == pytest.approx(10, rel=0.15)
    assert all(mended[rows] == pytest.approx(10, rel=0.08) for rows in (24, 96, 1536))
    # bias of the class energy 40 / n: the measured ratio grows with the rows, as if the model had changed
    assert all(
        measured[rows] == pytest.approx(((100 + 40 / rows) / (1 + 40 / rows)) ** 0.5, rel=0.08) for rows in measured
    )
    assert measured[12] < 5.5 and list(measured.values()) == sorted(measured.values())


def test_the_interval_covers_the_true_ratio_about_as_often_as_it_says():
    generator, hits = np.random.default_rng(6), 0
    labels = np.arange(120) % 2
    for _ in range(100):
        rows = generator.normal(size=(120, 10))
        rows[:, 0] += 6
        rows[:, 1] += 2 * labels - 1  # R = 6
        low, high = only(rows, labels, groups=20, batches=1).ratio_ci95
        hits += low <= 6 and (high is None or high >= 6)
    assert 88 <= hits <= 100


def test_tokens_of_one_text_do_not_count_as_independent():
    """Every text repeats one vector 50 times: the correction must see 80 texts, not 4,000 tokens."""
    generator = np.random.default_rng(7)
    labels = np.arange(80) % 2
    naive, clustered = [], []
    for _ in range(40):
        made = GroupMoments.empty(1, 20, 2, 6)
        made.add(
            generator.normal(size=(1, 80, 6)), np.zeros((1, 80)), np.full(80, 50.0), row_groups(labels, 20, 0), labels
        )
        naive.append(corrected(made, row_variance)[1, 0])
        clustered.append(corrected(made, cluster_variance)[1, 0])
    assert np.mean(naive) > 0.06 and abs(np.mean(clustered)) < 0.02  # 6 / 80 = 0.075 is chance


def test_p_values_of_changes_without_classes_are_uniform():
    generator = np.random.default_rng(8)
    labels = np.arange(24) % 3
    changes = generator.normal(size=(250, 24, 4)).astype(np.float32)
    # one call shares its shuffles between layers, so every data set gets a call of its own
    p_values = [
        permutation_nulls(one[None], labels, permutations=99, seed=seed)[0].p for seed, one in enumerate(changes)
    ]
    assert kstest(p_values, "uniform").pvalue > 0.01


def test_class_energies_of_chunks_equal_the_definition(monkeypatch):
    monkeypatch.setattr("compressor.analysis.ffn.null.CHUNK", 100)
    generator = np.random.default_rng(9)
    rows, labels = (
        generator.normal(size=(30, 5)),
        np.stack([generator.permutation(np.arange(30) % 3) for _ in range(7)]),
    )
    found = class_energies((rows - rows.mean(0))[None], labels, 3)
    for order, energy in zip(labels, found[0], strict=True):
        assert energy == pytest.approx(energies(moments_of(rows, order))[1, 0])


def test_holm_multiplies_step_by_step_and_never_falls():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


def test_ratio_says_infinite_and_undefined_apart():
    assert ratio_and_share(4.0, 1.0, 5.0) == (2.0, pytest.approx(2 / 3))
    assert ratio_and_share(4.0, -0.1, 5.0) == (None, 1.0)
    assert ratio_and_share(0.0, 2.0, 5.0) == (0.0, 0.0)
    assert ratio_and_share(-1e-3, -1e-3, 5.0) == (None, None)


def test_mean_share_has_an_interval_or_says_that_there_is_none():
    generator = np.random.default_rng(10)
    labels = np.arange(100) % 2
    rows = generator.normal(size=(100, 3)) + 2
    rows[:, 0] += labels
    splits, left_out = split(moments_of(rows, labels), row_variance)
    mean, (low, high) = mean_share(splits, left_out)
    assert low < mean == splits[0].share_corrected < high
    assert mean_share(*split(moments_of(np.zeros((20, 3)), np.arange(20) % 2), row_variance)) == (None, None)


def test_groups_hold_every_class_evenly():
    labels = np.repeat([0, 1, 2], [40, 9, 4])
    groups = row_groups(labels, 10, seed=1)
    counts = np.array([[((groups == group) & (labels == label)).sum() for label in range(3)] for group in range(10)])
    assert (counts[:, 0] == 4).all() and counts[:, 1:].max() == 1


@pytest.mark.parametrize("model_type", list(FAMILIES))
def test_recorded_states_are_those_of_the_layers(tiny, model_type):
    model, family, encodings, _ = tiny(model_type)
    inputs = {name: torch.from_numpy(value) for name, value in pad(encodings, np.arange(6)).items()}
    with recorded_blocks(model, family) as taken, torch.inference_mode():
        hidden = model(**inputs, output_hidden_states=True).hidden_states
        blocks = taken()
    for layer, block, state in zip(layer_list(model, family), blocks, hidden[1:], strict=True):
        torch.testing.assert_close(block.after, state)
        norm = nn.Identity() if family.final_norm else layer.get_submodule(family.ffn_norm)
        torch.testing.assert_close(norm(block.before + block.raw), block.after)
    assert not any(module._forward_hooks for module in model.modules())


def test_blocks_that_run_in_chunks_of_the_sequence_are_recorded_whole(tiny):
    model, family, encodings, _ = tiny("bert")
    chunked = copy.deepcopy(model)
    for layer in layer_list(chunked, family):
        layer.chunk_size_feed_forward = 1
    inputs = {name: torch.from_numpy(value) for name, value in pad(encodings, np.arange(6)).items()}
    states = []
    for made in (model, chunked):
        with recorded_blocks(made, family) as taken, torch.inference_mode():
            made(**inputs)
            states.append(taken())
    for one, other in zip(*states, strict=True):
        for part, same in zip(one, other, strict=True):
            torch.testing.assert_close(part, same)


@pytest.mark.parametrize("model_type", list(FAMILIES))
def test_the_pass_equals_the_definitions_on_every_token(tiny, model_type):
    model, family, encodings, _ = tiny(model_type)
    labels, groups = np.arange(24) % 2, np.arange(24) % 4
    found = ffn_pass(model, family, encodings, labels, groups, 2, np.array([3, 20]), batch_size=5)
    rows = {"cls": [[], [], [], []], "tokens": [[], [], [], []]}
    for row in range(24):
        with recorded_blocks(model, family) as taken, torch.inference_mode():
            model(**{name: torch.from_numpy(value) for name, value in pad(encodings, np.array([row])).items()})
            block = taken()[2]
        if row == 20:
            np.testing.assert_allclose(found.before[2, 1], block.before[0, 0], atol=1e-5)
            np.testing.assert_allclose(found.after[2, 1], block.after[0, 0], atol=1e-5)
        for kind, some in (("cls", slice(0, 1)), ("tokens", slice(None))):
            states = [state[0, some].double().numpy() for state in block]
            for values, state in zip(rows[kind], [*states, np.full(len(states[0]), labels[row])], strict=True):
                values.append(state)
    for kind, position in (("cls", found.cls), ("tokens", found.tokens)):
        before, raw, after, of = (np.concatenate(values) for values in rows[kind])
        assert position.count == len(before)
        series = {"change": after - before, "raw": raw, "norm": after - before - raw}
        for index, part in enumerate(PARTS):
            whole = moments_of(series[part], of)
            found_here = energies(position.moments.series([2 * 3 + index]))
            np.testing.assert_allclose(found_here, energies(whole), rtol=1e-5, atol=1e-9)
        fields = dict(zip(FIELDS, position.fields[2], strict=True))
        radial = (before * series["change"]).sum(1) / np.linalg.norm(before, axis=1)
        assert fields["radial"] == pytest.approx(radial.mean(), rel=1e-4)
        assert fields["radial_squared"] == pytest.approx(np.square(radial).mean(), rel=1e-4)
        assert fields["sum"] == pytest.approx(np.linalg.norm(before + raw, axis=1).mean(), rel=1e-5)
        # the three energies add up to that of the change, which was summed on its own
        assert energies(position.moments.series([6])).sum() == pytest.approx(fields["change"], rel=1e-6)
        assert fields["raw_change"] + fields["norm_change"] == pytest.approx(fields["change"], rel=1e-5)
    first, others, everything = found.raw_means()
    tokens = sum(len(ids) for ids in encodings.input_ids)
    np.testing.assert_allclose((24 * first + (tokens - 24) * others) / tokens, everything, atol=1e-9)


@pytest.mark.parametrize("model_type", list(FAMILIES))
def test_removal_equals_a_model_whose_block_gives_that_vector(tiny, model_type):
    model, family, encodings, _ = tiny(model_type)
    generator = np.random.default_rng(0)
    bias = np.repeat(generator.normal(size=(4, 1, 32)), 2, axis=1)
    run = run_removals(model, family, encodings, {"removed": 0 * bias, "mean_kept": bias}, batch_size=7)
    inputs = {name: torch.from_numpy(value) for name, value in pad(encodings, np.arange(24)).items()}
    with torch.inference_mode():
        np.testing.assert_allclose(run.full, model(**inputs).logits, atol=1e-5)
        for kind, vectors in (("removed", 0 * bias), ("mean_kept", bias)):
            for layer in range(4):
                edited = copy.deepcopy(model)
                owner, _, leaf = family.ffn_output.rpartition(".")
                block = layer_list(edited, family)[layer].get_submodule(owner)
                output = copy.deepcopy(getattr(block, leaf))  # where layers are one, the others keep theirs
                setattr(block, leaf, output)
                output.weight.zero_()
                output.bias = nn.Parameter(torch.from_numpy(vectors[layer, 0]).float())
                np.testing.assert_allclose(run.logits[kind][layer], edited(**inputs).logits, atol=1e-4)


@pytest.mark.parametrize("model_type", ABSOLUTE)
def test_entropy_of_attention_equals_that_of_the_models_own_weights(tiny, model_type):
    _, family, encodings, folder = tiny(model_type)
    model = load_classifier(find_model(str(folder)))
    model.set_attn_implementation("eager")
    inputs = {name: torch.from_numpy(value) for name, value in pad(encodings, np.arange(8)).items()}
    mask = inputs["attention_mask"]
    with torch.inference_mode():
        output = model(**inputs, output_attentions=True, output_hidden_states=True)
        for layer, hidden, weights in zip(
            layer_list(model, family), output.hidden_states, output.attentions, strict=False
        ):
            each = -(weights * weights.clamp_min(1e-30).log()).sum(-1).mean(1)
            own = (each * mask).sum(1) / mask.sum(1)
            torch.testing.assert_close(
                attention_entropy(layer, hidden, family, mask).float(), own, atol=1e-4, rtol=1e-4
            )


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
