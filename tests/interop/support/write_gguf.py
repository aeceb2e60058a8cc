"""Parity fixtures as the GGUF files that llama.cpp's converter makes of such models, written with the gguf package."""

import json

import gguf
import numpy as np

# By model_type: llama.cpp's architecture, and whether it has queries and keys in the order that turns neighbours together.
ARCHITECTURES = {
    "llama": ("llama", True), "mistral": ("llama", True), "qwen2": ("qwen2", False), "qwen3": ("qwen3", False), "smollm3": ("smollm3", True),
    "granite": ("granite", True), "starcoder2": ("starcoder2", False), "phi": ("phi2", False), "phi3": ("phi3", False), "gpt2": ("gpt2", False),
    "gpt_neox": ("gptneox", False),
}
LAYER = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "self_attn.dense": "attn_output",
    "self_attn.qkv_proj": "attn_qkv", "attention.query_key_value": "attn_qkv", "attention.dense": "attn_output", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "mlp.gate_up_proj": "ffn_up", "mlp.fc1": "ffn_up", "mlp.fc2": "ffn_down",
    "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down", "mlp.dense_h_to_4h": "ffn_up", "mlp.dense_4h_to_h": "ffn_down",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "ln_1": "attn_norm", "ln_2": "ffn_norm",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
}
TOP = {
    "embed_tokens": "token_embd", "wte": "token_embd", "embed_in": "token_embd", "wpe": "position_embd", "norm": "output_norm", "final_layernorm": "output_norm",
    "ln_f": "output_norm", "final_layer_norm": "output_norm", "lm_head": "output", "embed_out": "output",
}


def turned(values, heads):
    """Rows of each head with those that turn together, half a head apart, side by side."""
    return values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)


def write(fixture, path, tensors, kind=None):
    """Writes the file; matrices whose rows allow it in `kind`, everything else in f32."""
    config = json.loads((fixture / "config.json").read_text())
    model_type = config["model_type"]
    architecture, interleaved = ARCHITECTURES[model_type]
    get = lambda *names: next((config[name] for name in names if config.get(name) is not None), None)
    width, heads = get("hidden_size", "n_embd"), get("num_attention_heads", "n_head")
    kv_heads = get("num_key_value_heads") or heads
    head_dim = get("head_dim") or width // heads
    rope = {"rope_theta": get("rope_theta", "rotary_emb_base") or 10000.0, "partial_rotary_factor": get("partial_rotary_factor", "rotary_pct"), **(get("rope_parameters", "rope_scaling") or {})}
    rope.setdefault("rope_type", rope.get("type"))
    writer = gguf.GGUFWriter(None, architecture)
    writer.add_type("model")
    writer.add_context_length(get("max_position_embeddings", "n_positions"))
    writer.add_embedding_length(width)
    writer.add_block_count(get("num_hidden_layers", "n_layer"))
    writer.add_feed_forward_length(get("intermediate_size", "n_inner") or 4 * width)
    writer.add_head_count(heads)
    if model_type not in ("gpt2", "gpt_neox"):
        writer.add_head_count_kv(kv_heads)
    eps = get("rms_norm_eps")
    writer.add_layer_norm_rms_eps(eps) if eps is not None else writer.add_layer_norm_eps(get("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon"))
    if get("head_dim") is not None:
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    if model_type != "gpt2":
        share = rope.get("partial_rotary_factor") or {"gpt_neox": 0.25, "phi": 0.5}.get(model_type, 1.0)
        writer.add_rope_dimension_count(int(head_dim * share))
        writer.add_rope_freq_base(rope["rope_theta"])
    if rope.get("rope_type") == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    if model_type == "gpt_neox":
        writer.add_parallel_residual(config.get("use_parallel_residual", True))
    if model_type == "granite":
        writer.add_attention_scale(config["attention_multiplier"])
        writer.add_embedding_scale(config["embedding_multiplier"])
        writer.add_residual_scale(config["residual_multiplier"])
        writer.add_logit_scale(config["logits_scaling"])
    if model_type == "phi3":
        writer.add_sliding_window(config.get("sliding_window") or 0)
    writer.add_tokenizer_model("no_vocab")
    writer.add_vocab_size(config["vocab_size"])
    tied = config.get("tie_word_embeddings", True)
    for name, values in sorted(tensors.items()):
        parts = name.split(".")
        end = parts.pop()
        stem = ".".join(parts)
        number = next((index for index, part in enumerate(parts) if part.isdigit()), None)
        if number is None:
            target = TOP[parts[-1]]
            if target == "output" and end == "weight" and tied:
                continue
        else:
            rest = ".".join(parts[number + 1:])
            target = f"blk.{parts[number]}.{LAYER[rest]}"
            if model_type == "gpt2" and end == "weight" and values.ndim == 2:
                values = values.T
            if rest == "attention.query_key_value":
                values = values.reshape(heads, 3, head_dim, *values.shape[1:]).swapaxes(0, 1).reshape(values.shape)
            if interleaved and rest.endswith(("q_proj", "k_proj")):
                values = turned(values, heads if rest.endswith("q_proj") else kv_heads)
        values = np.ascontiguousarray(values, dtype=np.float32)
        whole = kind is not None and values.ndim == 2 and values.shape[1] % gguf.GGML_QUANT_SIZES[kind][0] == 0
        if whole:
            writer.add_tensor(f"{target}.{end}", gguf.quants.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(f"{target}.{end}", values)
    if rope.get("rope_type") == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3(rope, head_dim))
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def llama3(rope, dim):
    plain = 1.0 / rope["rope_theta"] ** (np.arange(0, dim, 2) / dim)
    turns = plain / (2 * np.pi) * rope["original_max_position_embeddings"]
    share = np.clip((turns - rope["low_freq_factor"]) / (rope["high_freq_factor"] - rope["low_freq_factor"]), 0, 1)
    return (1 / ((1 - share) / rope["factor"] + share)).astype(np.float32)


def widen(path, target):
    """The same file with every tensor in f32, as the gguf package widens it."""
    reader = gguf.GGUFReader(path)
    writer = gguf.GGUFWriter(None, reader.fields["general.architecture"].contents())
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            writer.add_key_value(key, field.contents(), field.types[0], field.types[1] if len(field.types) > 1 else None)
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        writer.add_tensor(tensor.name, values.reshape(tuple(int(size) for size in reversed(tensor.shape))))
    writer.write_header_to_file(target)
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
