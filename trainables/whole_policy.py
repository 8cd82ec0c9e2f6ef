"""A policy for ColossalAI's Shardformer that changes nothing. Imports ColossalAI: import it where a plugin is made.

`HybridParallelPlugin` looks up the policy of the model's family, which exchanges its modules and forward passes for ones
that can be split over devices. On one device there is nothing to split; colossalai 0.5.0 has policies for some families
alone, and those rewrite the code of transformers 4.51 (Llama's cannot be imported beside transformers 5).
"""

from typing import Any

from colossalai.shardformer.policies.base_policy import Policy
from torch import nn


class WholeModel(Policy):  # type: ignore[misc]
    """Every device holds the whole model, as it is."""

    def config_sanity_check(self) -> None:
        """Any settings suit."""

    def preprocess(self) -> nn.Module:
        """The model itself."""
        return self.model

    def module_policy(self) -> dict[Any, Any]:
        """Nothing is replaced."""
        return {}

    def postprocess(self) -> nn.Module:
        """The model itself."""
        return self.model
