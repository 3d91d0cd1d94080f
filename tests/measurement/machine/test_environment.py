"""The account of the machine that a number was taken on."""

import json
import os

import joblib
import torch

from compressor.measurement.machine import environment as env


def test_environment_of_the_cpu():
    found = env.environment("cpu")
    assert found["device"]["kind"] == "cpu"
    assert found["device"]["name"]
    assert found["threads"] >= 1
    assert {"compressor", "python", "torch", "transformers", "optimum", "optimum_onnx", "onnxruntime"} <= found.keys()
    assert all(found[name] for name in ("compressor", "python", "torch", "transformers", "onnxruntime", "onnx"))
    json.dumps(found)


def test_processor_of_an_x86_machine():
    cores = [(0, 0), (0, 0), (0, 1), (0, 1)]
    cpuinfo = "\n\n".join(
        f"processor\t: {index}\nmodel name\t: Big CPU @ 2: fast\nphysical id\t: {chip}\ncore id\t\t: {core}\n"
        "flags\t\t: fpu avx2 avx512f avx512_vnni"
        for index, (chip, core) in enumerate(cores)
    )
    found = env.processor(cpuinfo)
    assert (found["name"], found["physical"]) == ("Big CPU @ 2: fast", 2)
    assert found["instructions"] == ["avx2", "avx512f", "avx512_vnni"]


def test_processor_of_an_arm_machine_and_of_an_unknown_one():
    assert env.processor("processor : 0\nFeatures : fp asimd asimddp")["instructions"] == ["asimd", "asimddp"]
    unknown = env.processor("")
    assert (unknown["physical"], unknown["instructions"]) == (None, [])
    assert unknown["logical"] >= unknown["usable"] >= 1


def test_a_container_gets_the_cores_that_its_limit_grants(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {7, 3, 5, 1}, raising=False)
    for granted, cores in ((64, [1, 3, 5, 7]), (2, [1, 3]), (1, [1])):
        monkeypatch.setattr(joblib, "cpu_count", lambda granted=granted: granted)
        assert env.usable_cores() == cores
        assert env.processor("")["usable"] == len(cores)
    before = torch.get_num_threads()
    with env.torch_threads(3):
        with env.granted_threads():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 3
        monkeypatch.setattr(joblib, "cpu_count", lambda: 64)
        with env.granted_threads():
            assert torch.get_num_threads() == 3, "more is not asked for than is wanted"
    assert torch.get_num_threads() == before


def test_what_the_instruction_sets_say_of_int8():
    assert env.int8_is_fast(["avx2", "avx512f", "avx512_vnni"]) is True
    assert env.int8_is_fast(["asimd", "asimddp"]) is True
    assert env.int8_is_fast(["avx2", "avx512f"]) is False
    assert env.int8_is_fast([]) is None
    assert set(env.INT8_INSTRUCTIONS) <= set(env.INSTRUCTIONS)
