# Written by slicegpt-gpu (MIT licence).
from transformers.models.stablelm.modeling_stablelm import StableLmDecoderLayer, StableLmForCausalLM

from .configuration_sliced_stablelm import SlicedStableLmConfig
from .modeling_sliced_common import SlicedGatedForCausalLM, SlicedGatedLayer, carry, layer_output, slice_layer

ATTENTION, MLP = SlicedGatedLayer.ATTENTION, SlicedGatedLayer.MLP


class SlicedStableLmDecoderLayer(StableLmDecoderLayer):
    def __init__(self, config, layer_idx):
        super().__init__(config, layer_idx)
        mlp = (ATTENTION[0], *MLP[1:]) if self.use_parallel_residual else MLP
        slice_layer(self, config, layer_idx, ATTENTION, mlp, parallel=self.use_parallel_residual)

    def forward(self, hidden_states, **kwargs):
        normed = self.input_layernorm(hidden_states)
        attention, weights = self.self_attn(normed, **kwargs)
        written = carry(hidden_states, self.attn_shortcut_Q) + attention
        mlp = self.mlp(normed if self.use_parallel_residual else self.post_attention_layernorm(written))
        carried = written if self.use_parallel_residual else carry(written, self.mlp_shortcut_Q)
        return layer_output(carried + self.dropout(mlp), weights)


class SlicedStableLmForCausalLM(SlicedGatedForCausalLM, StableLmForCausalLM):
    config_class = SlicedStableLmConfig
    layer_class = SlicedStableLmDecoderLayer
    _no_split_modules = ["SlicedStableLmDecoderLayer"]
