# Written by slicegpt-gpu (MIT licence).
from torch import nn
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaForCausalLM

from .configuration_sliced_llama import SlicedLlamaConfig
from .modeling_sliced_common import SlicedNorm, carry, end_widths, slice_layer

ATTENTION = ("input_layernorm", ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"], "self_attn.o_proj")
MLP = ("post_attention_layernorm", ["mlp.gate_proj", "mlp.up_proj"], "mlp.down_proj")


class SlicedLlamaDecoderLayer(LlamaDecoderLayer):
    def __init__(self, config, layer_idx):
        super().__init__(config, layer_idx)
        slice_layer(self, config, layer_idx, ATTENTION, MLP)

    def forward(self, hidden_states, **kwargs):
        attention, _ = self.self_attn(self.input_layernorm(hidden_states), **kwargs)
        hidden_states = carry(hidden_states, self.attn_shortcut_Q) + attention
        mlp = self.mlp(self.post_attention_layernorm(hidden_states))
        return carry(hidden_states, self.mlp_shortcut_Q) + mlp


class SlicedLlamaForCausalLM(LlamaForCausalLM):
    config_class = SlicedLlamaConfig
    _no_split_modules = ["SlicedLlamaDecoderLayer"]

    def __init__(self, config):
        super().__init__(config)
        first, last = end_widths(config)
        layers = [SlicedLlamaDecoderLayer(config, index) for index in range(config.num_hidden_layers)]
        self.model.embed_tokens = nn.Embedding(config.vocab_size, first, config.pad_token_id)
        self.model.layers = nn.ModuleList(layers)
        self.model.norm = SlicedNorm(config, config.rms_norm_eps)
        self.lm_head = nn.Linear(last, config.vocab_size, bias=False)
        self.post_init()
