# Written by slicegpt-gpu (MIT licence): what the pruned models of all architectures share.
"""The layers of a pruned model differ in their attention heads and in the width of their MLPs.

Everything else is the model of transformers: it is built with the sizes of the dense model, which the config still says,
and then each layer's linear layers are made as small as the `pruning` section of config.json has them: layers[i] holds
num_attention_heads, num_key_value_heads and intermediate_size of layer i, or num_experts if it is a mixture.
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


def prune_attention(attention, table, sizes):
    """Gives the attention of a layer its heads."""
    heads, kv_heads = sizes["num_attention_heads"], sizes["num_key_value_heads"]
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
        "gated_queries": 2 * heads * head_dim,
        "keys": kv_heads * head_dim,
        "fused": (heads + 2 * kv_heads) * head_dim,
    }
    resize(attention, table, widths)


def resize(module, table, widths):
    """Gives the linear layers in a module their widths."""
    for name, linear in list(module.named_children()):
        if isinstance(linear, (nn.Linear, Conv1D)):
            inputs, outputs = table[name]
            setattr(module, name, resized(linear, widths[inputs], widths[outputs]))


def prune_experts(mixture, count):
    """Gives a mixture its number of experts."""
    # That of gpt_oss has another name for what the others call a gate.
    router = mixture.router if hasattr(mixture, "router") else mixture.gate
    for module in (router, mixture.experts):
        module.num_experts = count
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(parameter[:count].detach().clone()))


def stored_as(pruned, dense):
    """Has transformers, which has all experts of a layer in one tensor, read and write them as it does those of the dense model."""
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping, register_checkpoint_conversion_mapping

    register_checkpoint_conversion_mapping(pruned, get_checkpoint_conversion_mapping(dense), overwrite=True)


def prune_layer(layer, sizes, table):
    """Gives a layer of transformers its sizes."""
    for name in ("self_attn", "attn", "attention", "self_attention"):
        # The heads of a gated delta net, in place of attention, stay.
        if attention := getattr(layer, name, None):
            # That of gpt_neo is in one that chooses its kind.
            prune_attention(getattr(attention, "attention", attention), table, sizes)
    if "num_experts" in sizes:
        return prune_experts(layer.mlp, sizes["num_experts"])
    channels = sizes["intermediate_size"]
    mlp = getattr(layer, "mlp", None) or getattr(layer, "ffn", None) or layer
    resize(mlp, MLP, {None: None, "channels": channels, "gated": 2 * channels})


class PrunedForCausalLM:
    """Before a model with a head, whose layers lie at `layers`."""

    attention = ATTENTION

    def __init__(self, config):
        super().__init__(config)
        for layer, sizes in zip(self.get_submodule(self.layers), config.pruning["layers"], strict=True):
            prune_layer(layer, sizes, self.attention)
        self.post_init()
