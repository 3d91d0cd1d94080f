"""How an exported folder is used: the lines that a reader copies."""

import json


def snippet(directory: str, example: str = "a gripping film") -> str:
    """Return five lines of Python that classify a text with the ONNX folder or the cascade in `directory`."""
    return "\n".join(
        [
            "from compressor.runtime import Classifier",
            "",
            f"classify = Classifier({json.dumps(directory)})",
            f"print(classify({json.dumps(example)}))  # [{{'label': ..., 'score': ...}}]",
        ]
    )
