# Written by slicegpt-gpu (MIT licence).
from torch import nn
from transformers.models.gptj.modeling_gptj import GPTJBlock, GPTJForCausalLM

from .configuration_sliced_gptj import SlicedGPTJConfig
from .modeling_sliced_common import Head, PaddedDropout, PaddedNorm, carry, end_widths, slice_layer

ATTENTION = ("ln_1", ["attn.q_proj", "attn.k_proj", "attn.v_proj"], "attn.out_proj")
MLP = ("ln_1", ["mlp.fc_in"], "mlp.fc_out")


class SlicedGPTJBlock(GPTJBlock):
    def __init__(self, config, layer_idx):
        super().__init__(config, layer_idx)
        slice_layer(self, config, layer_idx, ATTENTION, MLP, parallel=True)
        self.width = config.slicing["layers"][layer_idx]["attention_input"]

    def forward(self, hidden_states, **kwargs):
        hidden_states = hidden_states[..., : self.width]
        normed = self.ln_1(hidden_states)
        attention, weights = self.attn(hidden_states=normed, **kwargs)
        return carry(hidden_states, self.attn_shortcut_Q) + attention + self.mlp(normed), weights


class SlicedGPTJForCausalLM(GPTJForCausalLM):
    config_class = SlicedGPTJConfig
    _no_split_modules = ["SlicedGPTJBlock"]

    def __init__(self, config):
        super().__init__(config)
        first, last = end_widths(config)
        layers = [SlicedGPTJBlock(config, index) for index in range(config.num_hidden_layers)]
        self.transformer.wte = nn.Embedding(config.vocab_size, first)
        self.transformer.drop = PaddedDropout(config.embd_pdrop)
        self.transformer.h = nn.ModuleList(layers)
        self.transformer.ln_f = PaddedNorm(config, config.layer_norm_epsilon)
        self.transformer.drop.width = self.transformer.ln_f.width = max(first, last)
        self.lm_head = Head(last, config.vocab_size, bias=True)
        self.post_init()
