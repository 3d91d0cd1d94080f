"""What templates and figures show, put together from a result: rows, sentences and what is missing."""

from collections.abc import Collection
from typing import Any

import yaml

from compressor.data.answers.kinds import SINGLE_LABEL
from compressor.export.deploy import example, optimum_lines, tokenizer_texts, torch_lines, use_of
from compressor.model.units import Shape, parts_of, plan_units, unit_of
from compressor.report import formats
from compressor.report.analyses import drawn_sections
from compressor.report.figures.waterfall import waterfall
from compressor.report.tables import first
from compressor.report.tables import selection as tables
from compressor.report.wording import cascade as wording_cascade
from compressor.report.wording import export as wording_export
from compressor.report.wording import selection as wording_selection
from compressor.report.wording import wording
from compressor.report.wording.answer import answer_facts
from compressor.report.wording.card import other_measures
from compressor.report.wording.kinds import intervals_of, meaning, metric_of, rows_of


def report_context(result: dict[str, Any]) -> dict[str, Any]:
    """Return everything that the templates and figures show: the result, its latency rows and its sentences."""
    variants, plan, answer = _by_variant(result["variants"]), result["plan"], result["answer"]
    full, compressed = variants["full"], variants["compressed"]
    judged = wording.judged_variant(result)
    if answer and answer["key"] != "compressed" and not plan_units(plan):
        del variants["compressed"]  # the full model once more
    subject, guarded = result["variants"][judged], result["cascade"]
    layers_left = plan["layers"] - (0 if guarded and guarded["model"] == "full" else len(plan["skip"]))
    # the early exit is timed in a benchmark of its own, on real texts, unless it is what the run ships
    latency = latency_rows(variants, apart=() if answer else (formats.CASCADE,))
    median = {(row["variant"], row["cell"]): row["p50_ms"] for row in latency}
    # earlier results have one noise floor a cell, without a model, for all comparisons
    noise = {
        (row.get("model"), formats.cell_name(row["batch"], row["length"])): row["ci95"]
        for row in result["benchmark"].get("noise_floor") or []
    }
    comparisons = [
        {
            **row,
            "against_p50_ms": median.get((row["against"], row["cell"])),
            "noise": noise.get((row["against"], row["cell"]), noise.get((None, row["cell"]))),
        }
        for row in latency
        if row["variant"] == judged or not formats.is_full(row["variant"])
        if row["speedup"] is not None and row["against"] not in (None, row["variant"])
    ]
    own = [row for row in comparisons if not guarded or row["variant"] == judged]
    best = max((row for row in own if row["claimed"]), key=lambda row: (row["complete"], row["speedup"]), default=None)
    goals = _in_words(result["goals"] or {}, variants)
    signed = goals if goals.get("met") is not None else None
    tokens = result["benchmark"].get("flops_tokens")
    flops_at = f" at {tokens} tokens" if tokens else ""
    facts = {
        "Accuracy": wording.accuracy_fact(full, subject),
        "Agreement": wording.agreement_fact(subject["versus_full"]),
        "Speed": wording.speed_fact(own, best),
        "Size": wording.size_fact(full, subject, flops_at),
        "Goals": wording.goals_fact(signed),
        **(answer_facts(answer) if answer else {}),
    }
    max_length = (result["recipe"].get("data") or {}).get("max_length", 128)
    steps, deploy = first.steps(answer), first.deploy(result, latency, max_length)
    signed_off = {"met": answer["met"], "misses": answer["misses"]} if answer else signed
    return {
        **result,
        "variants": variants,
        "full": full,
        "compressed": compressed,
        "subject": subject,
        "subject_name": "early exit" if guarded else "compressed",
        "layers_left": layers_left,
        "versus": subject["versus_full"],
        "changed": answer["flips"] if answer else compressed["versus_full"]["flips"],
        "numbers": first.numbers(result, subject, own),
        "steps": steps,
        "waterfall": waterfall(steps) if steps else None,
        "changed_rows": first.changed_rows(result["flipped"]),
        "deploy": deploy,
        "built_rows": first.built_rows(result),
        "signed_off": signed_off,
        "tier": answer["tier"] if answer else subject["versus_full"]["tier"],
        "nothing_shipped": bool(answer) and answer["path"] is None,
        "plan_shown": not answer or bool(plan_units(plan)),
        "same_format": all(
            formats.format_of(row["variant"]) == formats.format_of(row["against"]) for row in comparisons
        ),
        "labelled": full["accuracy"] is not None,
        "tier_meaning": wording.tier_meaning(subject["versus_full"]),
        "metric": metric_of(subject["versus_full"]),
        "counted": rows_of(subject["versus_full"]),
        "intervals_are": intervals_of(result["data"].get("answers")),
        "predictions_are": meaning(result["data"].get("answers")),
        "measures": other_measures(result, judged),
        "headline": wording.headline(result, own),
        "facts": facts,
        "plan_reading": wording.plan_reading(plan),
        "warnings": result["data"].get("warnings") or [],  # results of earlier versions have none
        "seen_note": wording_selection.seen_note(result["data"].get("provenance") or {}),
        "mix": plan.get("mix"),  # runs of earlier versions have none
        "units": plan_units(plan),
        "parts_gone": {
            layer: formats.layers_text([unit_of(layer, part)]) + " removed"
            for layer, part in parts_of(plan_units(plan)).items()
        },
        "zeros": _has_zeros(plan.get("mix")),
        "part_rows": tables.part_rows(plan),
        "part_amounts": tables.part_amounts(plan),
        **tables.plan_sets(plan),
        **selection_context(result),
        "goals": signed,
        "latency": latency,
        "compared": {(row["variant"], row["cell"]): row for row in comparisons},
        "formats": {formats.format_of(row["variant"]): row["variant"] for row in comparisons},
        "comparisons": comparisons,
        "footprint": _by_variant(result["benchmark"].get("footprint") or {}),
        # the folders that load as they are, the one to deploy first
        "onnx": sorted(
            (f"onnx/{name[5:]}" for name in variants if name.startswith("onnx_") and not formats.is_cascade(name)),
            key=lambda path: path != (deploy or {}).get("path"),
        ),
        **cascade_context(result),
        "sections": drawn_sections(result["analysis"]),
        "shipping_reading": wording_export.shipping_reading(result["shipped"]),
        "tail_reading": wording_export.tail_reading(result["tail"]),
        # the full model's spared file against its file that computes all rows
        "saving_rows": [
            {**row, "against_p50_ms": median.get((row["against"], row["cell"]))}
            for row in latency
            if row["against"] == "full_onnx_alltokens" and row["variant"] == "full_onnx_optimized"
        ],
        "operator_rows": wording_export.operator_rows(result["operators"]),
        "flops_at": flops_at,
        "max_length": max_length,
        **_lines(result["data"], max_length),
        "recipe_yaml": yaml.safe_dump(result["recipe"], sort_keys=False, allow_unicode=True),
    }


def _lines(data: dict[str, Any], max_length: int) -> dict[str, str]:
    """Return the lines of Python that load the model, or what differs in them by the kind of answers and by pairs."""
    row, answers = example(data.get("texts")), data.get("answers")
    single = answers is None or answers["kind"] == SINGLE_LABEL
    return {
        "torch_code": torch_lines("model", "float32", max_length, row, answers=answers),
        "optimum_code": optimum_lines("folder", row, max_length, answers),
        "tokenizer_texts": tokenizer_texts(row, answers),
        "by_word": use_of(answers).by_word,
        "answers_of_logits": "logits.argmax(-1)" if single else "logits",
    }


def _by_variant(entries: dict[str, Any]) -> dict[str, Any]:
    return dict(sorted(entries.items(), key=lambda item: formats.variant_order(item[0])))


def _in_words(goals: dict[str, Any], variants: Collection[str]) -> dict[str, Any]:
    """Return the goals with the variant that a miss begins with as the report calls it."""
    misses = []
    for miss in goals.get("misses") or []:
        name, colon, rest = miss.partition(":")
        misses.append(f"{formats.variant_name(name)}{colon}{rest}" if name in variants else miss)
    return {**goals, "misses": misses}


def _has_zeros(mix: dict[str, Any] | None) -> bool:
    """Return whether zeros stand in the model's directory for parts of layers."""
    if mix is None:
        return False
    heads = mix.get("heads") or map(int, mix["attention"])  # runs of earlier versions do not count them
    return not Shape(tuple(mix["ffn_widths"]), tuple(heads), mix.get("full_heads", 1)).uniform()


def selection_context(result: dict[str, Any]) -> dict[str, Any]:
    """Return the audit, the frontier, the candidates for the goals and the predicted speed-up; None or empty without."""
    audit, plan = result["audit"], result["plan"]
    scores = tables.audit_rows(audit) if audit else []
    frontier = tables.frontier_rows(audit["frontier"], result["timing"]) if audit and audit.get("frontier") else None
    candidates = (result["goals"] or {}).get("selection")
    prediction = tables.prediction_rows(result["prediction"] or [])
    cells = (result["timing"] or {}).get("cells") or []
    timed = {formats.cell_name(cell["batch"], cell["length"]): cell for cell in cells}
    return {
        "audit_rows": scores,
        "regret_sizes": tables.regret_sizes(scores),
        "frontier": frontier,
        "main_series": tables.main_series(frontier, plan.get("rank_by")) if frontier else [],
        "candidates": candidates,
        "candidates_reading": wording_selection.candidates_reading(candidates) if candidates else "",
        "prediction_rows": prediction,
        "distillation_reading": wording.distillation_reading(result["distill"]) if result["distill"] else "",
        "prediction_reading": wording_selection.prediction_reading(prediction),
        "timing_cells": dict.fromkeys(row["cell"] for row in prediction) | timed,
    }


def cascade_context(result: dict[str, Any]) -> dict[str, Any]:
    """Return the sentences, exits and latency rows of the guarded early exit; empty where the run has none."""
    cascade, answer = result["cascade"], result["answer"]
    if not cascade:
        shipped = result["ship"]["exits"] if answer and formats.is_cascade(answer["key"]) else None
        return {
            "cascade_reading": wording_cascade.cascade_reading(shipped) if shipped else [],
            "cascade_exits": tables.exit_rows(shipped) if shipped else [],
            "cascade_latency": [],
        }
    noise = {(row["batch"], row["length"]): row["ci95"] for row in cascade["noise_floor"]}
    latency = [
        {
            "against_p50_ms": None,
            **row,
            "cell": formats.cell_name(row["batch"], row["length"]),
            "noise": noise.get((row["batch"], row["length"])),
        }
        for row in result["variants"][formats.CASCADE]["latency"]
    ]
    return {
        "cascade_reading": wording_cascade.cascade_reading(cascade),
        "cascade_exits": tables.exit_rows(cascade),
        "cascade_latency": latency,
    }


def latency_rows(variants: dict[str, dict], apart: Collection[str] = ()) -> list[dict]:
    """Return every latency entry with its variant and cell name: cells by batch and length, formats side by side.

    Variants `apart` are left out.
    """
    rows = [
        {
            "complete": True,
            "speedup_vs_pytorch": None,
            "p95_ms": None,
            **entry,
            "variant": name,
            "cell": formats.cell_name(entry["batch"], entry["length"]),
        }
        for name, variant in variants.items()
        if name not in apart
        for entry in variant["latency"]
    ]

    def place(row: dict) -> tuple:
        workload = isinstance(row["length"], str)
        return row["batch"], workload, 0 if workload else row["length"], formats.variant_order(row["variant"])

    return sorted(rows, key=place)
