# Written by slicegpt-gpu (MIT licence): what the sliced models of all architectures share.
"""Slicing makes the residual stream of a model narrower and gives every point of it its own basis.

Norms are fused into the linear layers that read them, so all that is left of them is a division; where the basis changes
between two points, a shortcut carries the residual from one to the other. Everything else is the model of transformers.
The widths are in the `slicing` section of config.json: norm_width is the width before slicing, hidden_size still says it
too, and layers[i] holds attention_input, mlp_input (not in parallel layers) and output of layer i.
"""

import torch
import transformers
from torch import nn
from transformers.pytorch_utils import Conv1D

# Before version 5, the layers of some architectures return tuples.
TUPLES = int(transformers.__version__.split(".")[0]) < 5


class SlicedNorm(nn.Module):
    """x / sqrt(sum(x^2) / norm_width + eps), the sum over the coordinates that slicing has left."""

    def __init__(self, config, eps):
        super().__init__()
        self.norm_width = config.slicing["norm_width"]
        self.eps = eps

    def forward(self, hidden_states):
        wide = hidden_states.float()
        mean_square = wide.square().sum(-1, keepdim=True) / self.norm_width
        return (wide * torch.rsqrt(mean_square + self.eps)).to(hidden_states.dtype)

    def extra_repr(self):
        return f"norm_width={self.norm_width}, eps={self.eps}"


# The models of gpt2 and gptj give what leaves their last norm the width of what enters their first layer. So that both can
# have a width of their own, zeros are put after the narrower one, and whoever reads it leaves them out.


def padded(hidden_states, width):
    return nn.functional.pad(hidden_states, (0, width - hidden_states.shape[-1]))


class PaddedDropout(nn.Dropout):
    def forward(self, hidden_states):
        return padded(super().forward(hidden_states), self.width)


class PaddedNorm(SlicedNorm):
    def forward(self, hidden_states):
        return padded(super().forward(hidden_states), self.width)


class Head(nn.Linear):
    def forward(self, hidden_states):
        return super().forward(hidden_states[..., : self.in_features])


def carry(hidden_states, shortcut):
    """The residual in the next basis; as it is where the basis stays."""
    return hidden_states if shortcut is None else hidden_states @ shortcut


def end_widths(config):
    """The width of the embeddings, and the width that the head reads."""
    layers = config.slicing["layers"]
    return layers[0]["attention_input"], layers[-1]["output"]


def eps_of(norm):
    """What a norm of transformers adds to a mean square; olmo's only has it in its code."""
    return getattr(norm, "eps", getattr(norm, "variance_epsilon", 1e-5))


def has_bias(norm):
    """Whether what reads this norm has a bias once it has gone in there."""
    return getattr(norm, "bias", None) is not None


def embedding(old, width):
    """An embedding of the same kind, which multiplies by the same."""
    scale = {"embed_scale": old.scalar_embed_scale} if hasattr(old, "scalar_embed_scale") else {}
    return type(old)(old.num_embeddings, width, old.padding_idx, **scale)


def resized(linear, inputs, outputs, bias):
    """A linear layer of the same kind; `None` keeps a size, `bias` adds a bias if there is none."""
    if isinstance(linear, Conv1D):
        old_inputs, old_outputs = linear.weight.shape
        return Conv1D(outputs or old_outputs, inputs or old_inputs)
    bias = bias or linear.bias is not None
    return type(linear)(inputs or linear.in_features, outputs or linear.out_features, bias=bias)


def replace(layer, name, change):
    """Puts change(module) in the place of the module called `name`."""
    parent, _, last = name.rpartition(".")
    parent = layer.get_submodule(parent)
    setattr(parent, last, change(getattr(parent, last)))


def slice_layer(layer, config, layer_idx, attention, mlp, parallel=False):
    """Gives a layer of transformers its widths and shortcuts.

    `attention` and `mlp` name the norm of that block, the linear layers that read it, and the one that writes the residual.
    Where attention and MLP are parallel, both read the layer's input and write its output, past one shortcut.
    """
    widths = config.slicing["layers"][layer_idx]
    first, last = widths["attention_input"], widths["output"]
    middle = None if parallel else widths["mlp_input"]
    bias = has_bias(layer.get_submodule(attention[0]))
    norms = []
    for (norm, reads, write), inputs, outputs in (attention, first, middle or last), (mlp, middle or first, last):
        for name in reads:
            replace(layer, name, lambda linear: resized(linear, inputs, None, bias))
        replace(layer, write, lambda linear: resized(linear, None, outputs, False))
        norms.append(norm)
    for norm in set(norms):
        replace(layer, norm, lambda old: SlicedNorm(config, eps_of(old)))

    def shortcut(name, inputs, outputs):
        return nn.Parameter(torch.eye(inputs, outputs)) if widths.get(name, True) else None

    layer.attn_shortcut_Q = shortcut("attn_shortcut", first, middle or last)
    if not parallel:
        layer.mlp_shortcut_Q = shortcut("mlp_shortcut", middle, last)


def layer_output(hidden_states, attention_weights):
    """What a layer of phi, opt, gpt2, gpt_neox or stablelm returns in this version of transformers."""
    return (hidden_states, attention_weights) if TUPLES else hidden_states


class SlicedGatedLayer:
    """Before a decoder layer of llama and those like it, which differ in their attention and in what they multiply by."""

    parallel = False
    residual_multiplier = 1.0

    ATTENTION = ("input_layernorm", ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"], "self_attn.o_proj")
    MLP = ("post_attention_layernorm", ["mlp.gate_proj", "mlp.up_proj"], "mlp.down_proj")

    def __init__(self, config, layer_idx):
        super().__init__(config, layer_idx)
        slice_layer(self, config, layer_idx, self.ATTENTION, self.MLP, self.parallel)

    def attend(self, normed, **kwargs):
        return self.self_attn(normed, **kwargs)[0]

    def forward(self, hidden_states, **kwargs):
        normed = self.input_layernorm(hidden_states)
        attention = self.attend(normed, **kwargs)
        hidden_states = carry(hidden_states, self.attn_shortcut_Q) + attention * self.residual_multiplier
        if self.parallel:
            return hidden_states + self.mlp(normed) * self.residual_multiplier
        mlp = self.mlp(self.post_attention_layernorm(hidden_states))
        return carry(hidden_states, self.mlp_shortcut_Q) + mlp * self.residual_multiplier


class SlicedGatedForCausalLM:
    """Before the model with a head of these, of phi3 or of stablelm; `layer_class` is its sliced layer."""

    def __init__(self, config):
        super().__init__(config)
        first, last = end_widths(config)
        layers = [self.layer_class(config, index) for index in range(config.num_hidden_layers)]
        self.model.embed_tokens = embedding(self.model.embed_tokens, first)
        self.model.layers = nn.ModuleList(layers)
        self.lm_head = nn.Linear(last, config.vocab_size, bias=has_bias(self.model.norm))
        self.model.norm = SlicedNorm(config, eps_of(self.model.norm))
        self.post_init()
