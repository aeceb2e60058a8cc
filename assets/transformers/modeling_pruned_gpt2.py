# Written by slicegpt-gpu (MIT licence).
from transformers.models.gpt2.modeling_gpt2 import GPT2LMHeadModel

from .configuration_pruned_gpt2 import PrunedGPT2Config
from .modeling_pruned_common import PrunedForCausalLM


class PrunedGPT2ForCausalLM(PrunedForCausalLM, GPT2LMHeadModel):
    config_class = PrunedGPT2Config
    layers = "transformer.h"
