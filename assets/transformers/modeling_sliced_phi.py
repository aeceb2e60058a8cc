# Written by slicegpt-gpu (MIT licence).
from torch import nn
from transformers.models.phi.modeling_phi import PhiDecoderLayer, PhiForCausalLM

from .configuration_sliced_phi import SlicedPhiConfig
from .modeling_sliced_common import SlicedNorm, carry, end_widths, layer_output, slice_layer

ATTENTION = ("input_layernorm", ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"], "self_attn.dense")
MLP = ("input_layernorm", ["mlp.fc1"], "mlp.fc2")


class SlicedPhiDecoderLayer(PhiDecoderLayer):
    def __init__(self, config, layer_idx):
        super().__init__(config, layer_idx)
        slice_layer(self, config, layer_idx, ATTENTION, MLP, parallel=True)

    def forward(self, hidden_states, **kwargs):
        normed = self.input_layernorm(hidden_states)
        attention, weights = self.self_attn(normed, **kwargs)
        written = self.resid_dropout(attention) + self.resid_dropout(self.mlp(normed))
        return layer_output(carry(hidden_states, self.attn_shortcut_Q) + written, weights)


class SlicedPhiForCausalLM(PhiForCausalLM):
    config_class = SlicedPhiConfig
    _no_split_modules = ["SlicedPhiDecoderLayer"]

    def __init__(self, config):
        super().__init__(config)
        first, last = end_widths(config)
        layers = [SlicedPhiDecoderLayer(config, index) for index in range(config.num_hidden_layers)]
        self.model.embed_tokens = nn.Embedding(config.vocab_size, first, config.pad_token_id)
        self.model.layers = nn.ModuleList(layers)
        self.model.final_layernorm = SlicedNorm(config, config.layer_norm_eps)
        self.lm_head = nn.Linear(last, config.vocab_size, bias=True)
        self.post_init()
