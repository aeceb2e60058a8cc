# Written by slicegpt-gpu (MIT licence).
from transformers.models.stablelm.modeling_stablelm import StableLmDecoderLayer, StableLmForCausalLM

from .configuration_sliced_stablelm import SlicedStableLmConfig
from .modeling_sliced_common import SlicedGatedForCausalLM, SlicedGatedLayer, carry, slice_layer

ATTENTION, MLP = SlicedGatedLayer.ATTENTION, SlicedGatedLayer.MLP


class SlicedStableLmDecoderLayer(StableLmDecoderLayer):
    def __init__(self, config, layer_idx):
        super().__init__(config, layer_idx)
        mlp = (ATTENTION[0], *MLP[1:]) if self.use_parallel_residual else MLP
        slice_layer(self, config, layer_idx, ATTENTION, mlp, parallel=self.use_parallel_residual)

    def forward(self, hidden_states, **kwargs):
        normed = self.input_layernorm(hidden_states)
        attention, _ = self.self_attn(normed, **kwargs)
        hidden_states = carry(hidden_states, self.attn_shortcut_Q) + attention
        if self.use_parallel_residual:
            return hidden_states + self.dropout(self.mlp(normed))
        mlp = self.mlp(self.post_attention_layernorm(hidden_states))
        return carry(hidden_states, self.mlp_shortcut_Q) + self.dropout(mlp)


class SlicedStableLmForCausalLM(SlicedGatedForCausalLM, StableLmForCausalLM):
    config_class = SlicedStableLmConfig
    layer_class = SlicedStableLmDecoderLayer
    _no_split_modules = ["SlicedStableLmDecoderLayer"]
