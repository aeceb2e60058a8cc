# Written by slicegpt-gpu (MIT licence).
from torch import nn
from transformers.models.gpt_neo.modeling_gpt_neo import GPTNeoBlock, GPTNeoForCausalLM

from .configuration_sliced_gpt_neo import SlicedGPTNeoConfig
from .modeling_sliced_common import Head, PaddedDropout, PaddedNorm, carry, end_widths, slice_layer

READS = ["attn.attention.q_proj", "attn.attention.k_proj", "attn.attention.v_proj"]
ATTENTION = ("ln_1", READS, "attn.attention.out_proj")
MLP = ("ln_2", ["mlp.c_fc"], "mlp.c_proj")


class SlicedGPTNeoBlock(GPTNeoBlock):
    def __init__(self, config, layer_idx):
        super().__init__(config, layer_idx)
        slice_layer(self, config, layer_idx, ATTENTION, MLP)
        self.width = config.slicing["layers"][layer_idx]["attention_input"]

    def forward(self, hidden_states, **kwargs):
        hidden_states = hidden_states[..., : self.width]
        attention, weights = self.attn(self.ln_1(hidden_states), **kwargs)
        hidden_states = carry(hidden_states, self.attn_shortcut_Q) + attention
        return carry(hidden_states, self.mlp_shortcut_Q) + self.mlp(self.ln_2(hidden_states)), weights


class SlicedGPTNeoForCausalLM(GPTNeoForCausalLM):
    config_class = SlicedGPTNeoConfig
    _no_split_modules = ["SlicedGPTNeoBlock"]

    def __init__(self, config):
        super().__init__(config)
        first, last = end_widths(config)
        layers = [SlicedGPTNeoBlock(config, index) for index in range(config.num_layers)]
        self.transformer.wte = nn.Embedding(config.vocab_size, first)
        self.transformer.wpe = nn.Embedding(config.max_position_embeddings, first)
        self.transformer.drop = PaddedDropout(float(config.embed_dropout))
        self.transformer.h = nn.ModuleList(layers)
        self.transformer.ln_f = PaddedNorm(config, config.layer_norm_epsilon)
        self.transformer.drop.width = self.transformer.ln_f.width = max(first, last)
        self.lm_head = Head(last, config.vocab_size, bias=True)
        self.post_init()
