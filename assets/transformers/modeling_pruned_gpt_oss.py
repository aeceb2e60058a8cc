# Written by slicegpt-gpu (MIT licence).
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssForCausalLM

from .configuration_pruned_gpt_oss import PrunedGptOssConfig
from .modeling_pruned_common import PrunedForCausalLM

class PrunedGptOssForCausalLM(PrunedForCausalLM, GptOssForCausalLM):
    config_class = PrunedGptOssConfig
    layers = "model.layers"
