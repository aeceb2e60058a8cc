# Written by slicegpt-gpu (MIT licence).
from torch import nn
from transformers.models.mpt.modeling_mpt import MptBlock, MptForCausalLM

from .configuration_sliced_mpt import SlicedMptConfig
from .modeling_sliced_common import SlicedNorm, carry, end_widths, slice_layer

ATTENTION = ("norm_1", ["attn.Wqkv"], "attn.out_proj")
MLP = ("norm_2", ["ffn.up_proj"], "ffn.down_proj")


class SlicedMptBlock(MptBlock):
    def __init__(self, config, layer_idx):
        super().__init__(config, layer_idx)
        slice_layer(self, config, layer_idx, ATTENTION, MLP)

    def forward(self, hidden_states, layer_past=None, **kwargs):
        attention, weights = self.attn(self.norm_1(hidden_states), past_key_values=layer_past, **kwargs)
        hidden_states = carry(hidden_states, self.attn_shortcut_Q) + self.resid_attn_dropout(attention)
        # The MLP adds what it is given second.
        return self.ffn(self.norm_2(hidden_states), carry(hidden_states, self.mlp_shortcut_Q)), weights


class SlicedMptForCausalLM(MptForCausalLM):
    config_class = SlicedMptConfig
    _no_split_modules = ["SlicedMptBlock"]

    def __init__(self, config):
        super().__init__(config)
        first, last = end_widths(config)
        layers = [SlicedMptBlock(config, index) for index in range(config.n_layers)]
        self.transformer.wte = nn.Embedding(config.vocab_size, first)
        self.transformer.blocks = nn.ModuleList(layers)
        self.transformer.norm_f = SlicedNorm(config, config.layer_norm_epsilon)
        self.lm_head = nn.Linear(last, config.vocab_size, bias=False)
        self.post_init()
