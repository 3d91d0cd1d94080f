"""Random layers whose roles are planted, as tensors by name and as checkpoints in several layouts."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from compressor.analysis.roles.roles import roles_of
from compressor.analysis.roles.weights import Weights, weights_of

WIDTH, FFN, HEADS = 32, 64, 4
BERT = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attention_out": "attention.output.dense",
    "ffn_in": "intermediate.dense",
    "ffn_out": "output.dense",
}


def name(layer: int, part: str) -> str:
    """Return the tensor name of a part of a layer, numbered from 1."""
    return f"bert.encoder.layer.{layer - 1}.{BERT[part]}.weight"


def encoder(layers: int = 12, seed: int = 0) -> dict[str, torch.Tensor]:
    """Return the tensors of an encoder whose layers differ by chance alone."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {part: (WIDTH, WIDTH) for part in BERT} | {"ffn_in": (FFN, WIDTH), "ffn_out": (WIDTH, FFN)}
    made = {"bert.embeddings.word_embeddings.weight": torch.randn(50, WIDTH, generator=generator)}
    made["bert.embeddings.position_ids"] = torch.arange(50)
    for layer in range(1, layers + 1):
        made |= {name(layer, part): torch.randn(shape, generator=generator) * 0.1 for part, shape in shapes.items()}
        for part, shape in shapes.items():
            made[name(layer, part).replace("weight", "bias")] = torch.zeros(shape[0])
        for norm in ("attention.output", "output"):
            made[f"bert.encoder.layer.{layer - 1}.{norm}.LayerNorm.weight"] = torch.ones(WIDTH)
    return made


def weights(tensors: dict[str, torch.Tensor], **config: object) -> Weights:
    """Return tensors as the weights that an analysis reads."""
    config = {"num_attention_heads": HEADS, "model_type": "bert", **config}
    return weights_of(config, tensors, tensors.__getitem__, "model test")


def layer_matrices(layers: int, gated: bool, seed: int = 0) -> list[dict[str, torch.Tensor]]:
    """Return the matrices of decoder layers by part, [outputs, inputs]."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {part: (WIDTH, WIDTH) for part in BERT} | {"ffn_in": (FFN, WIDTH), "ffn_out": (WIDTH, FFN)}
    if gated:
        shapes["gate"] = (FFN, WIDTH)
    return [{part: torch.randn(shape, generator=generator) for part, shape in shapes.items()} for _ in range(layers)]


def llama(matrices: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Return the tensors of a gated decoder under the names of llama."""
    names = {"query": "self_attn.q_proj", "key": "self_attn.k_proj", "value": "self_attn.v_proj"}
    names |= {
        "attention_out": "self_attn.o_proj",
        "gate": "mlp.gate_proj",
        "ffn_in": "mlp.up_proj",
        "ffn_out": "mlp.down_proj",
    }
    made = {"model.embed_tokens.weight": torch.ones(5, WIDTH)}
    for index, layer in enumerate(matrices):
        made |= {f"model.layers.{index}.{names[part]}.weight": matrix for part, matrix in layer.items()}
        made[f"model.layers.{index}.input_layernorm.weight"] = torch.zeros(WIDTH)
    return made


def gpt2(matrices: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Return the tensors of a plain decoder as gpt2 stores them: [inputs, outputs], queries, keys and values in one."""
    names = {
        "attention_in": "attn.c_attn",
        "attention_out": "attn.c_proj",
        "ffn_in": "mlp.c_fc",
        "ffn_out": "mlp.c_proj",
    }
    return {
        f"transformer.h.{index}.{names[part]}.weight": matrix.T.contiguous()
        for index, layer in enumerate(matrices) for part, matrix in _fused(layer).items()
    }  # fmt: skip


def neox(matrices: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Return the tensors of a plain decoder under the names of gpt-neox."""
    names = {"attention_in": "attention.query_key_value", "attention_out": "attention.dense"}
    names |= {"ffn_in": "mlp.dense_h_to_4h", "ffn_out": "mlp.dense_4h_to_h"}
    return {
        f"gpt_neox.layers.{index}.{names[part]}.weight": matrix
        for index, layer in enumerate(matrices) for part, matrix in _fused(layer).items()
    }  # fmt: skip


def _fused(layer: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    fused = {"attention_in": torch.cat([layer[part] for part in ("query", "key", "value")])}
    return fused | {part: layer[part] for part in ("attention_out", "ffn_in", "ffn_out")}


def save(folder: Path, tensors: dict[str, torch.Tensor], shards: int = 1, **config: object) -> Path:
    """Write a checkpoint: config.json and one safetensors file, or several and their index."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "test", "num_attention_heads": HEADS, **config}))
    if shards == 1:
        save_file(tensors, folder / "model.safetensors")
        return folder
    placed = {tensor: f"model-{index % shards}.safetensors" for index, tensor in enumerate(tensors)}
    for file in set(placed.values()):
        save_file({tensor: tensors[tensor] for tensor in tensors if placed[tensor] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    return folder


def roles(tensors, draws=40, seed=0, **config):
    return roles_of(weights(tensors, **config), draws=draws, seed=seed)
