# Written by slicegpt-gpu (MIT licence).
from transformers.models.gemma.modeling_gemma import GemmaForCausalLM

from .configuration_pruned_gemma import PrunedGemmaConfig
from .modeling_pruned_common import PrunedForCausalLM


class PrunedGemmaForCausalLM(PrunedForCausalLM, GemmaForCausalLM):
    config_class = PrunedGemmaConfig
    layers = "model.layers"
