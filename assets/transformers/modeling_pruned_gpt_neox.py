# Written by slicegpt-gpu (MIT licence).
from torch import nn
from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXForCausalLM

from .configuration_pruned_gpt_neox import PrunedGPTNeoXConfig
from .modeling_pruned_common import PrunedForCausalLM


class PrunedGPTNeoXForCausalLM(PrunedForCausalLM, GPTNeoXForCausalLM):
    config_class = PrunedGPTNeoXConfig
    layers = "gpt_neox.layers"
    _tied_weights_keys = {"embed_out.weight": "gpt_neox.embed_in.weight"}

    def __init__(self, config):
        super().__init__(config)
        # Called so in the file; transformers calls it lm_head since version 5.
        self.embed_out = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self._modules.pop("lm_head", None)
        self.post_init()

    @property
    def lm_head(self):
        return self.embed_out

    def get_output_embeddings(self):
        return self.embed_out

    def set_output_embeddings(self, new_embeddings):
        self.embed_out = new_embeddings
