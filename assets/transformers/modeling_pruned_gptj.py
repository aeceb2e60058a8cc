# Written by slicegpt-gpu (MIT licence).
from transformers.models.gptj.modeling_gptj import GPTJForCausalLM

from .configuration_pruned_gptj import PrunedGPTJConfig
from .modeling_pruned_common import PrunedForCausalLM


class PrunedGPTJForCausalLM(PrunedForCausalLM, GPTJForCausalLM):
    config_class = PrunedGPTJConfig
    layers = "transformer.h"
