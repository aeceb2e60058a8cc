# Written by slicegpt-gpu (MIT licence).
from torch import nn
from transformers.models.phi3.modeling_phi3 import Phi3DecoderLayer, Phi3ForCausalLM

from .configuration_sliced_phi3 import SlicedPhi3Config
from .modeling_sliced_common import SlicedNorm, carry, end_widths, slice_layer

ATTENTION = ("input_layernorm", ["self_attn.qkv_proj"], "self_attn.o_proj")
MLP = ("post_attention_layernorm", ["mlp.gate_up_proj"], "mlp.down_proj")


class SlicedPhi3DecoderLayer(Phi3DecoderLayer):
    def __init__(self, config, layer_idx):
        super().__init__(config, layer_idx)
        slice_layer(self, config, layer_idx, ATTENTION, MLP)

    def forward(self, hidden_states, **kwargs):
        attention, _ = self.self_attn(self.input_layernorm(hidden_states), **kwargs)
        hidden_states = carry(hidden_states, self.attn_shortcut_Q) + self.resid_attn_dropout(attention)
        mlp = self.mlp(self.post_attention_layernorm(hidden_states))
        return carry(hidden_states, self.mlp_shortcut_Q) + self.resid_mlp_dropout(mlp)


class SlicedPhi3ForCausalLM(Phi3ForCausalLM):
    config_class = SlicedPhi3Config
    _no_split_modules = ["SlicedPhi3DecoderLayer"]

    def __init__(self, config):
        super().__init__(config)
        first, last = end_widths(config)
        layers = [SlicedPhi3DecoderLayer(config, index) for index in range(config.num_hidden_layers)]
        self.model.embed_tokens = nn.Embedding(config.vocab_size, first, config.pad_token_id)
        self.model.layers = nn.ModuleList(layers)
        self.model.norm = SlicedNorm(config, config.rms_norm_eps)
        self.lm_head = nn.Linear(last, config.vocab_size, bias=False)
        self.post_init()
