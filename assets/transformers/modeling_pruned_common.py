# Written by slicegpt-gpu (MIT licence): what the pruned models of all architectures share.
"""The layers of a pruned model differ in their attention heads and in the width of their MLPs.

Everything else is the model of transformers: it is built with the sizes of the dense model, which the config still says,
and then each layer's linear layers are made as small as the `pruning` section of config.json has them: layers[i] holds
num_attention_heads, num_key_value_heads and intermediate_size of layer i.
"""

from torch import nn
from transformers.pytorch_utils import Conv1D

# What the linear layers of an attention read and write; `None` is the residual stream.
ATTENTION = {
    "q_proj": (None, "queries"),
    "k_proj": (None, "keys"),
    "v_proj": (None, "keys"),
    "qkv_proj": (None, "fused"),
    "c_attn": (None, "fused"),
    "query_key_value": (None, "fused"),
    "Wqkv": (None, "fused"),
    "o_proj": ("queries", None),
    "out_proj": ("queries", None),
    "c_proj": ("queries", None),
    "dense": ("queries", None),
}
# Those of an MLP.
MLP = {
    "gate_proj": (None, "channels"),
    "up_proj": (None, "channels"),
    "gate_up_proj": (None, "gated"),
    "c_fc": (None, "channels"),
    "fc1": (None, "channels"),
    "fc_in": (None, "channels"),
    "dense_h_to_4h": (None, "channels"),
    "down_proj": ("channels", None),
    "c_proj": ("channels", None),
    "fc2": ("channels", None),
    "fc_out": ("channels", None),
    "dense_4h_to_h": ("channels", None),
}


class LayerConfig:
    """The config of the model with a number of heads of its own, for an attention that looks there."""

    def __init__(self, config, heads, kv_heads):
        self.__dict__.update(model_config=config, num_attention_heads=heads, num_key_value_heads=kv_heads)

    def __getattr__(self, name):
        # Before there is a config, as when it is copied, there is nothing to ask.
        if name.startswith("__") or "model_config" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.model_config, name)

    def __setattr__(self, name, value):
        setattr(self.model_config, name, value)


def resized(linear, inputs, outputs):
    """A linear layer of the same kind; `None` keeps a size."""
    if isinstance(linear, Conv1D):
        old_inputs, old_outputs = linear.weight.shape
        return Conv1D(outputs or old_outputs, inputs or old_inputs)
    return type(linear)(inputs or linear.in_features, outputs or linear.out_features, bias=linear.bias is not None)


def shares_keys(attention, kv_heads):
    """Whether queries can share keys, where there are so many; falcon's share one, or those of their group."""
    grouped = hasattr(attention, "num_key_value_groups") or getattr(attention, "new_decoder_architecture", False)
    return grouped or (kv_heads == 1 and getattr(attention, "multi_query", False))


def prune_layer(layer, sizes):
    """Gives a layer of transformers its sizes."""
    heads, kv_heads = sizes["num_attention_heads"], sizes["num_key_value_heads"]
    attention_name = next(name for name in ("self_attn", "attn", "attention", "self_attention") if hasattr(layer, name))
    # That of gpt_neo is in one that chooses its kind.
    if hasattr(getattr(layer, attention_name), "attention"):
        attention_name += ".attention"
    attention = layer.get_submodule(attention_name)
    head_dim = attention.head_dim if hasattr(attention, "head_dim") else attention.head_size
    if heads != kv_heads and not shares_keys(attention, kv_heads):
        raise ValueError(f"{type(attention).__name__} shares no keys and values, but pruning has {heads} heads for {kv_heads}")
    # Each class has some of these.
    own = {
        "num_heads": heads,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "num_kv_heads": kv_heads,
        "num_key_value_groups": heads // kv_heads,
        "split_size": heads * head_dim,
        "embed_dim": heads * head_dim,
    }
    for name, value in own.items():
        if hasattr(attention, name):
            setattr(attention, name, value)
    if hasattr(attention, "config"):
        attention.config = LayerConfig(attention.config, heads, kv_heads)
    widths = {
        None: None,
        "queries": heads * head_dim,
        "keys": kv_heads * head_dim,
        "fused": (heads + 2 * kv_heads) * head_dim,
        "channels": sizes["intermediate_size"],
        "gated": 2 * sizes["intermediate_size"],
    }
    linears = [name for name, module in layer.named_modules() if isinstance(module, (nn.Linear, Conv1D))]
    for name in linears:
        parent, _, last = name.rpartition(".")
        inputs, outputs = (ATTENTION if parent == attention_name else MLP)[last]
        parent = layer.get_submodule(parent)
        setattr(parent, last, resized(getattr(parent, last), widths[inputs], widths[outputs]))


class PrunedForCausalLM:
    """Before a model with a head, whose layers lie at `layers`."""

    def __init__(self, config):
        super().__init__(config)
        for layer, sizes in zip(self.get_submodule(self.layers), config.pruning["layers"], strict=True):
            prune_layer(layer, sizes)
        self.post_init()
