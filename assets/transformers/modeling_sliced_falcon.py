# Written by slicegpt-gpu (MIT licence).
from torch import nn
from transformers.models.falcon.modeling_falcon import FalconDecoderLayer, FalconForCausalLM

from .configuration_sliced_falcon import SlicedFalconConfig
from .modeling_sliced_common import SlicedNorm, carry, end_widths, slice_layer

ATTENTION = ("input_layernorm", ["self_attention.query_key_value"], "self_attention.dense")
MLP = ("post_attention_layernorm", ["mlp.dense_h_to_4h"], "mlp.dense_4h_to_h")


class SlicedFalconDecoderLayer(FalconDecoderLayer):
    def __init__(self, config, layer_idx):
        super().__init__(config, layer_idx)
        self.parallel = config.parallel_attn
        # Of two norms before parallel blocks, slicing leaves the same.
        names = ("ln_attn", "ln_mlp") if hasattr(self, "ln_attn") else ("input_layernorm", "input_layernorm")
        names = names if self.parallel else (ATTENTION[0], MLP[0])
        blocks = [(name, *block[1:]) for name, block in zip(names, (ATTENTION, MLP))]
        slice_layer(self, config, layer_idx, *blocks, parallel=self.parallel)

    def forward(self, hidden_states, **kwargs):
        def dropped(x, p):
            return nn.functional.dropout(x, p=p, training=self.training)

        normed = (self.ln_attn if hasattr(self, "ln_attn") else self.input_layernorm)(hidden_states)
        attention, weights = self.self_attention(normed, **kwargs)
        carried = carry(hidden_states, self.attn_shortcut_Q)
        if self.parallel:
            return carried + dropped(attention + self.mlp(normed), self.hidden_dropout), weights
        hidden_states = carried + dropped(attention, self.config.attention_dropout)
        mlp = self.mlp(self.post_attention_layernorm(hidden_states))
        return carry(hidden_states, self.mlp_shortcut_Q) + dropped(mlp, self.hidden_dropout), weights


class SlicedFalconForCausalLM(FalconForCausalLM):
    config_class = SlicedFalconConfig
    _no_split_modules = ["SlicedFalconDecoderLayer"]

    def __init__(self, config):
        super().__init__(config)
        first, last = end_widths(config)
        layers = [SlicedFalconDecoderLayer(config, index) for index in range(config.num_hidden_layers)]
        self.transformer.word_embeddings = nn.Embedding(config.vocab_size, first)
        self.transformer.h = nn.ModuleList(layers)
        self.transformer.ln_f = SlicedNorm(config, config.layer_norm_epsilon)
        self.lm_head = nn.Linear(last, config.vocab_size, bias=True)
        self.post_init()
