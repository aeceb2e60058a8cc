"""Checkpoints whose layers differ in heads and MLP width, made by hand from dense ones: what `compress --per-layer` writes."""

import json
import shutil

import torch
from program import ROOT
from safetensors.torch import load_file, save_file

CODE = ROOT / "assets" / "transformers"
# In the names of the classes.
CLASSES = {
    "llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3", "smollm3": "SmolLM3", "granite": "Granite",
    "starcoder2": "Starcoder2", "phi": "Phi", "phi3": "Phi3", "opt": "OPT", "gpt2": "GPT2", "gptj": "GPTJ", "gpt_neo": "GPTNeo",
    "gpt_neox": "GPTNeoX", "gemma": "Gemma", "gemma2": "Gemma2", "gemma3_text": "Gemma3Text", "ministral": "Ministral", "olmo": "Olmo",
    "olmo2": "Olmo2", "stablelm": "StableLm", "cohere": "Cohere", "falcon": "Falcon", "bloom": "Bloom", "mpt": "Mpt",
    "qwen3_5_text": "Qwen3_5Text",
}
# What the linear layers of each name read or write; those of an attention first where an MLP has the name as well.
READS = {
    "q_proj": "queries", "k_proj": "keys", "v_proj": "keys", "qkv_proj": "qkv", "c_attn": "qkv", "query_key_value": "grouped",
    "Wqkv": "qkv",
    "gate_proj": "channels", "up_proj": "channels", "gate_up_proj": "gated", "c_fc": "channels", "fc1": "channels",
    "fc_in": "channels", "dense_h_to_4h": "channels",
}
WRITES = {
    "o_proj": "queries", "out_proj": "queries", "dense": "queries", "down_proj": "channels", "fc2": "channels",
    "fc_out": "channels", "dense_4h_to_h": "channels",
}


def first(config, *names):
    return next(config[name] for name in names if config.get(name) is not None)


def heads_stay(config):
    """Whether slopes, or norms of queries and keys, depend on the number of heads."""
    kind = config["model_type"]
    per_head = config.get("use_qk_norm") or (kind == "stablelm" and config.get("qk_layernorm"))
    return kind in ("bloom", "mpt", "olmo2") or per_head or bool(config.get("alibi"))


def key_value_heads(config, heads):
    if config["model_type"] == "falcon":
        return config["num_kv_heads"] if config["new_decoder_architecture"] else 1 if config["multi_query"] else heads
    return config.get("num_key_value_heads") or heads


def prune(source, output):
    """Writes a copy of `source` in which the first layer has lost heads, where they can leave, and every layer some channels, no run
    of them."""
    shutil.copytree(source, output, dirs_exist_ok=True)
    config = json.loads((source / "config.json").read_text())
    kind = config["model_type"]
    heads = first(config, "num_attention_heads", "n_head", "num_heads", "n_heads")
    hidden = first(config, "hidden_size", "n_embd", "d_model")
    kv_heads = key_value_heads(config, heads)
    head_dim = config.get("head_dim") or hidden // heads
    sizes = (config.get(name) for name in ("intermediate_size", "ffn_dim", "ffn_hidden_size", "n_inner"))
    channels = next(filter(None, sizes), 4 * hidden)
    count = first(config, "num_hidden_layers", "n_layer", "num_layers", "n_layers")
    tensors = {}
    for path in source.glob("*.safetensors"):
        if path.name != "logits.safetensors":
            tensors |= load_file(path)
    layers = []
    units = []
    # Layers with gated delta nets have no heads that leave.
    attends = config.get("layer_types", []).index("full_attention") if kind == "qwen3_5_text" else 0
    for layer in range(count):
        fewer = layer == attends and not heads_stay(config)
        kept = [kv_heads - 1] if fewer else list(range(kv_heads))
        group = heads // kv_heads
        # Where all share one key, half of the queries leave.
        start = group // 2 if fewer and kv_heads == 1 else 0
        queries = [head * group + query for head in kept for query in range(start, group)]
        in_groups = [head * (group + 2) + part for head in kept for part in range(start, group + 2)]
        mlp = [channel for channel in range(channels) if channel % (layer + 2) != 1]
        rows = lambda numbers, width=head_dim: [number * width + at for number in numbers for at in range(width)]
        q, k = rows(queries), rows(kept)
        after = lambda start, numbers: [start + number for number in numbers]
        units.append({
            "queries": q, "gated_queries": rows(queries, 2 * head_dim), "keys": k, "channels": mlp, "gated": mlp + after(channels, mlp), "grouped": rows(in_groups),
            "qkv": q + after(heads * head_dim, k) + after((heads + kv_heads) * head_dim, k),
        })
        layers.append({"num_attention_heads": len(queries), "num_key_value_heads": len(kept), "intermediate_size": len(mlp)})
    for name in list(tensors):
        parts = name.split(".")
        number = next((int(part) for part in parts if part.isdigit()), None)
        if number is None or parts[-1] not in ("weight", "bias"):
            continue
        linear, tensor = parts[-2], tensors[name]
        if "linear_attn" in parts:
            continue
        attention = any(part in ("self_attn", "attn", "attention", "self_attention") for part in parts)
        # GPT-2's weights are transposed.
        columns = kind == "gpt2" and tensor.dim() == 2
        if linear in READS:
            chosen = "gated_queries" if kind == "qwen3_5_text" and linear == "q_proj" else READS[linear]
            tensor = tensor.index_select(1 if columns else 0, torch.tensor(units[number][chosen]))
        elif parts[-1] == "weight" and (linear in WRITES or linear == "c_proj"):
            chosen = WRITES.get(linear, "queries" if attention else "channels")
            tensor = tensor.index_select(0 if columns else 1, torch.tensor(units[number][chosen]))
        tensors[name] = tensor.contiguous()
    for path in output.glob("*.safetensors*"):
        path.unlink()
    save_file(tensors, output / "model.safetensors", metadata={"format": "pt"})
    name = CLASSES[kind]
    config |= {
        "model_type": f"pruned_{kind}",
        "architectures": [f"Pruned{name}ForCausalLM"],
        "auto_map": {
            "AutoConfig": f"configuration_pruned_{kind}.Pruned{name}Config",
            "AutoModelForCausalLM": f"modeling_pruned_{kind}.Pruned{name}ForCausalLM",
        },
        "pruning": {"layers": layers},
    }
    (output / "config.json").write_text(json.dumps(config))
    for file in (f"configuration_pruned_{kind}.py", f"modeling_pruned_{kind}.py", "modeling_pruned_common.py"):
        shutil.copy(CODE / file, output / file)
    return layers
