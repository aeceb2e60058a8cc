# Written by slicegpt-gpu (MIT licence).
from transformers.models.phi3.modeling_phi3 import Phi3DecoderLayer, Phi3ForCausalLM

from .configuration_sliced_phi3 import SlicedPhi3Config
from .modeling_sliced_common import SlicedGatedForCausalLM, carry, slice_layer

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


class SlicedPhi3ForCausalLM(SlicedGatedForCausalLM, Phi3ForCausalLM):
    config_class = SlicedPhi3Config
    layer_class = SlicedPhi3DecoderLayer
    _no_split_modules = ["SlicedPhi3DecoderLayer"]
