# Written by slicegpt-gpu (MIT licence).
from transformers.models.llama.modeling_llama import LlamaForCausalLM

from .configuration_pruned_llama import PrunedLlamaConfig
from .modeling_pruned_common import PrunedForCausalLM


class PrunedLlamaForCausalLM(PrunedForCausalLM, LlamaForCausalLM):
    config_class = PrunedLlamaConfig
    layers = "model.layers"
