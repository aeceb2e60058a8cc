# Written by slicegpt-gpu (MIT licence).
import inspect

from torch import nn
from transformers.models.gpt2.modeling_gpt2 import GPT2Block, GPT2LMHeadModel

from .configuration_sliced_gpt2 import SlicedGPT2Config
from .modeling_sliced_common import (
    Head,
    PaddedDropout,
    PaddedNorm,
    carry,
    end_widths,
    layer_output,
    slice_layer,
)

ATTENTION = ("ln_1", ["attn.c_attn"], "attn.c_proj")
MLP = ("ln_2", ["mlp.c_fc"], "mlp.c_proj")

# GPT2Model passes some of these by position, and not the same ones in all versions.
ARGUMENTS = list(inspect.signature(GPT2Block.forward).parameters)[2:]


class SlicedGPT2Block(GPT2Block):
    def __init__(self, config, layer_idx):
        super().__init__(config, layer_idx)
        slice_layer(self, config, layer_idx, ATTENTION, MLP)
        self.width = config.slicing["layers"][layer_idx]["attention_input"]

    def forward(self, hidden_states, *args, **kwargs):
        kwargs.update(zip(ARGUMENTS, args))
        hidden_states = hidden_states[..., : self.width]
        attention, weights = self.attn(self.ln_1(hidden_states), **kwargs)
        hidden_states = carry(hidden_states, self.attn_shortcut_Q) + attention
        return layer_output(carry(hidden_states, self.mlp_shortcut_Q) + self.mlp(self.ln_2(hidden_states)), weights)


class SlicedGPT2ForCausalLM(GPT2LMHeadModel):
    config_class = SlicedGPT2Config
    _no_split_modules = ["SlicedGPT2Block"]

    def __init__(self, config):
        super().__init__(config)
        first, last = end_widths(config)
        layers = [SlicedGPT2Block(config, index) for index in range(config.num_hidden_layers)]
        self.transformer.wte = nn.Embedding(config.vocab_size, first)
        self.transformer.wpe = nn.Embedding(config.max_position_embeddings, first)
        self.transformer.drop = PaddedDropout(config.embd_pdrop)
        self.transformer.h = nn.ModuleList(layers)
        self.transformer.ln_f = PaddedNorm(config, config.layer_norm_epsilon)
        self.transformer.drop.width = self.transformer.ln_f.width = max(first, last)
        self.lm_head = Head(last, config.vocab_size, bias=True)
        self.post_init()
