# Written by slicegpt-gpu (MIT licence).
from torch import nn
from transformers.models.opt.modeling_opt import OPTDecoderLayer, OPTForCausalLM, OPTLearnedPositionalEmbedding

from .configuration_sliced_opt import SlicedOPTConfig
from .modeling_sliced_common import SlicedNorm, carry, end_widths, layer_output, slice_layer

ATTENTION = ("self_attn_layer_norm", ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"], "self_attn.out_proj")
MLP = ("final_layer_norm", ["fc1"], "fc2")


class SlicedOPTDecoderLayer(OPTDecoderLayer):
    def __init__(self, config, layer_idx):
        super().__init__(config, layer_idx)
        slice_layer(self, config, layer_idx, ATTENTION, MLP)

    def forward(self, hidden_states, use_cache=False, **kwargs):
        def dropped(x):
            return nn.functional.dropout(x, p=self.dropout, training=self.training)

        attention, weights = self.self_attn(self.self_attn_layer_norm(hidden_states), **kwargs)
        hidden_states = carry(hidden_states, self.attn_shortcut_Q) + dropped(attention)
        mlp = self.fc2(self.activation_fn(self.fc1(self.final_layer_norm(hidden_states))))
        return layer_output(carry(hidden_states, self.mlp_shortcut_Q) + dropped(mlp), weights)


class SlicedOPTForCausalLM(OPTForCausalLM):
    config_class = SlicedOPTConfig
    _no_split_modules = ["SlicedOPTDecoderLayer"]

    def __init__(self, config):
        super().__init__(config)
        first, last = end_widths(config)
        layers = [SlicedOPTDecoderLayer(config, index) for index in range(config.num_hidden_layers)]
        decoder, eps = self.model.decoder, self.model.decoder.final_layer_norm.eps
        decoder.embed_tokens = nn.Embedding(config.vocab_size, first, config.pad_token_id)
        decoder.embed_positions = OPTLearnedPositionalEmbedding(config.max_position_embeddings, first)
        decoder.layers = nn.ModuleList(layers)
        decoder.final_layer_norm = SlicedNorm(config, eps)
        self.lm_head = nn.Linear(last, config.vocab_size, bias=config.layer_norm_elementwise_affine)
        self.post_init()
