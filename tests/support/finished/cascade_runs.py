"""How runs with a cascade are made quickly, and read."""

import json

from compressor.cli.app import main

QUICK = {"min_seconds": 0, "max_seconds": 5, "footprint": False}


def main_quietly(*arguments):
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as end:
        assert not end.code


def read(out, name="result.json"):
    return json.loads((out / name).read_text(encoding="utf-8"))


def evaluation(result):
    path = result["recipe"]["data"]["validation"]
    with open(path, encoding="utf-8") as file:  # noqa: PTH123
        return [line.split(",")[0] for line in file.read().splitlines()[1:]]
