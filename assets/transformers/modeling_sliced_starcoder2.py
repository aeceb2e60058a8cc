# Written by slicegpt-gpu (MIT licence).
from torch import nn
from transformers.models.starcoder2.modeling_starcoder2 import Starcoder2DecoderLayer, Starcoder2ForCausalLM

from .configuration_sliced_starcoder2 import SlicedStarcoder2Config
from .modeling_sliced_common import SlicedGatedLayer, SlicedNorm, end_widths

ATTENTION = SlicedGatedLayer.ATTENTION
MLP = ("post_attention_layernorm", ["mlp.c_fc"], "mlp.c_proj")


class SlicedStarcoder2DecoderLayer(SlicedGatedLayer, Starcoder2DecoderLayer):
    MLP = MLP


class SlicedStarcoder2ForCausalLM(Starcoder2ForCausalLM):
    config_class = SlicedStarcoder2Config
    _no_split_modules = ["SlicedStarcoder2DecoderLayer"]

    def __init__(self, config):
        super().__init__(config)
        first, last = end_widths(config)
        layers = [SlicedStarcoder2DecoderLayer(config, index) for index in range(config.num_hidden_layers)]
        self.model.embed_tokens = nn.Embedding(config.vocab_size, first, config.pad_token_id)
        self.model.layers = nn.ModuleList(layers)
        self.model.norm = SlicedNorm(config, config.norm_epsilon)
        self.lm_head = nn.Linear(last, config.vocab_size, bias=True)
        self.post_init()
