# Written by slicegpt-gpu (MIT licence).
from transformers.models.gemma2.modeling_gemma2 import Gemma2ForCausalLM

from .configuration_pruned_gemma2 import PrunedGemma2Config
from .modeling_pruned_common import PrunedForCausalLM


class PrunedGemma2ForCausalLM(PrunedForCausalLM, Gemma2ForCausalLM):
    config_class = PrunedGemma2Config
    layers = "model.layers"
