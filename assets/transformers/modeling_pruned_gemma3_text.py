# Written by slicegpt-gpu (MIT licence).
from transformers.models.gemma3.modeling_gemma3 import Gemma3ForCausalLM

from .configuration_pruned_gemma3_text import PrunedGemma3TextConfig
from .modeling_pruned_common import PrunedForCausalLM


class PrunedGemma3TextForCausalLM(PrunedForCausalLM, Gemma3ForCausalLM):
    config_class = PrunedGemma3TextConfig
    layers = "model.layers"
