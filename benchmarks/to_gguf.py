"""Writes a Llama-shaped checkpoint as a BF16 GGUF without a tokenizer, for timing llama.cpp on the same weights.

python benchmarks/to_gguf.py --model DIR --out FILE.gguf        (needs the gguf package)
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a clone that is not installed

import gguf
import torch

from specdecodes.models.families import ModelSpec
from specdecodes.models.loading import open_checkpoint
from specdecodes.offload.storage.store import load_tensor

NAMES = {
    "input_layernorm.weight": "attn_norm.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a checkpoint folder")
    parser.add_argument("--out", required=True, help="the GGUF file")
    arguments = parser.parse_args()
    checkpoint = open_checkpoint(arguments.model)
    spec, tensors = checkpoint.spec, {}
    for name, span in checkpoint.outer().items():
        tensors[
            {"embedding": "token_embd.weight", "norm.weight": "output_norm.weight", "head.weight": "output.weight"}[
                name
            ]
        ] = span
    for index in range(spec.layers):
        tensors |= {f"blk.{index}.{NAMES[name]}": span for name, span in checkpoint.layer(index).items()}
    if spec.tied:
        del tensors["output.weight"]
    writer = gguf.GGUFWriter(arguments.out, "llama", use_temp_file=False)
    describe(writer, spec)
    for name, span in tensors.items():
        one_dimensional = len(span.shape) == 1
        kind = gguf.GGMLQuantizationType.F32 if one_dimensional else gguf.GGMLQuantizationType.BF16
        bytes_each = 4 if one_dimensional else 2
        writer.add_tensor_info(
            name, span.shape, torch.empty(0).numpy().dtype, span.nbytes // 2 * bytes_each, raw_dtype=kind
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, span in tensors.items():
        tensor = load_tensor(span)
        heads = {"attn_q.weight": spec.heads, "attn_k.weight": spec.kv_heads}.get(
            name.partition(".")[2].partition(".")[2]
        )
        if heads:  # llama.cpp rotates neighbouring pairs, checkpoints rotate halves
            tensor = tensor.view(heads, 2, spec.head_dim // 2, -1).transpose(1, 2).reshape(tensor.shape)
        data = tensor.float().numpy() if tensor.ndim == 1 else tensor.contiguous().view(torch.uint8).numpy()
        writer.write_tensor_data(data)
    writer.close()


def describe(writer: gguf.GGUFWriter, spec: ModelSpec) -> None:
    """The model's shape and an empty vocabulary of its size."""
    writer.add_context_length(spec.max_positions)
    writer.add_embedding_length(spec.hidden_size)
    writer.add_block_count(spec.layers)
    writer.add_feed_forward_length(spec.intermediate_size)
    writer.add_head_count(spec.heads)
    writer.add_head_count_kv(spec.kv_heads)
    writer.add_key_length(spec.head_dim)
    writer.add_value_length(spec.head_dim)
    writer.add_layer_norm_rms_eps(spec.norm_eps)
    writer.add_rope_dimension_count(spec.head_dim)
    writer.add_rope_freq_base(float(spec.inv_freq[1] ** (-spec.head_dim / 2)))
    writer.add_vocab_size(spec.vocab_size)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    writer.add_tokenizer_model("no_vocab")


if __name__ == "__main__":
    main()
