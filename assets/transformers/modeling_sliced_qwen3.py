# Written by slicegpt-gpu (MIT licence).
from torch import nn
from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer, Qwen3ForCausalLM

from .configuration_sliced_qwen3 import SlicedQwen3Config
from .modeling_sliced_common import SlicedNorm, carry, end_widths, slice_layer

ATTENTION = ("input_layernorm", ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"], "self_attn.o_proj")
MLP = ("post_attention_layernorm", ["mlp.gate_proj", "mlp.up_proj"], "mlp.down_proj")


class SlicedQwen3DecoderLayer(Qwen3DecoderLayer):
    def __init__(self, config, layer_idx):
        super().__init__(config, layer_idx)
        slice_layer(self, config, layer_idx, ATTENTION, MLP)

    def forward(self, hidden_states, **kwargs):
        attention, _ = self.self_attn(self.input_layernorm(hidden_states), **kwargs)
        hidden_states = carry(hidden_states, self.attn_shortcut_Q) + attention
        mlp = self.mlp(self.post_attention_layernorm(hidden_states))
        return carry(hidden_states, self.mlp_shortcut_Q) + mlp


class SlicedQwen3ForCausalLM(Qwen3ForCausalLM):
    config_class = SlicedQwen3Config
    _no_split_modules = ["SlicedQwen3DecoderLayer"]

    def __init__(self, config):
        super().__init__(config)
        first, last = end_widths(config)
        layers = [SlicedQwen3DecoderLayer(config, index) for index in range(config.num_hidden_layers)]
        self.model.embed_tokens = nn.Embedding(config.vocab_size, first, config.pad_token_id)
        self.model.layers = nn.ModuleList(layers)
        self.model.norm = SlicedNorm(config, config.rms_norm_eps)
        self.lm_head = nn.Linear(last, config.vocab_size, bias=False)
        self.post_init()
