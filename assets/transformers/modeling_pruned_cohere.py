# Written by slicegpt-gpu (MIT licence).
from transformers.models.cohere.modeling_cohere import CohereForCausalLM

from .configuration_pruned_cohere import PrunedCohereConfig
from .modeling_pruned_common import PrunedForCausalLM


class PrunedCohereForCausalLM(PrunedForCausalLM, CohereForCausalLM):
    config_class = PrunedCohereConfig
    layers = "model.layers"
