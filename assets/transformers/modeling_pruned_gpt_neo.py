# Written by slicegpt-gpu (MIT licence).
from transformers.models.gpt_neo.modeling_gpt_neo import GPTNeoForCausalLM

from .configuration_pruned_gpt_neo import PrunedGPTNeoConfig
from .modeling_pruned_common import PrunedForCausalLM


class PrunedGPTNeoForCausalLM(PrunedForCausalLM, GPTNeoForCausalLM):
    config_class = PrunedGPTNeoConfig
    layers = "transformer.h"
