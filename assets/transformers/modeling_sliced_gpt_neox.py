# Written by slicegpt-gpu (MIT licence).
from torch import nn
from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXForCausalLM, GPTNeoXLayer

from .configuration_sliced_gpt_neox import SlicedGPTNeoXConfig
from .modeling_sliced_common import SlicedNorm, carry, end_widths, layer_output, slice_layer

ATTENTION = ("input_layernorm", ["attention.query_key_value"], "attention.dense")
MLP = ("post_attention_layernorm", ["mlp.dense_h_to_4h"], "mlp.dense_4h_to_h")


class SlicedGPTNeoXLayer(GPTNeoXLayer):
    def __init__(self, config, layer_idx):
        super().__init__(config, layer_idx)
        slice_layer(self, config, layer_idx, ATTENTION, MLP, parallel=self.use_parallel_residual)

    def forward(self, hidden_states, **kwargs):
        attention, weights = self.attention(self.input_layernorm(hidden_states), **kwargs)
        written = carry(hidden_states, self.attn_shortcut_Q) + self.post_attention_dropout(attention)
        mlp = self.mlp(self.post_attention_layernorm(hidden_states if self.use_parallel_residual else written))
        carried = written if self.use_parallel_residual else carry(written, self.mlp_shortcut_Q)
        return layer_output(carried + self.post_mlp_dropout(mlp), weights)


class SlicedGPTNeoXForCausalLM(GPTNeoXForCausalLM):
    config_class = SlicedGPTNeoXConfig
    _no_split_modules = ["SlicedGPTNeoXLayer"]

    def __init__(self, config):
        super().__init__(config)
        first, last = end_widths(config)
        layers = [SlicedGPTNeoXLayer(config, index) for index in range(config.num_hidden_layers)]
        self.gpt_neox.embed_in = nn.Embedding(config.vocab_size, first)
        self.gpt_neox.layers = nn.ModuleList(layers)
        self.gpt_neox.final_layer_norm = SlicedNorm(config, config.layer_norm_eps)
        # Called so in the file; transformers calls it lm_head since version 5.
        self.embed_out = nn.Linear(last, config.vocab_size, bias=True)
        self._modules.pop("lm_head", None)
        self.post_init()

    @property
    def lm_head(self):
        return self.embed_out

    def get_output_embeddings(self):
        return self.embed_out

    def set_output_embeddings(self, new_embeddings):
        self.embed_out = new_embeddings
