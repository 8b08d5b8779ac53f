"""Structured dropout for fine-tuning: DropKey, DropAttention and HiddenCut, and their compensation.

After Wang et al., "LoRA Meets Dropout under a Unified Framework" (arXiv 2403.00812).
"""

from lorascope.training.structured_dropout.applying import Applied, apply_structured_dropout
from lorascope.training.structured_dropout.compensation import Compensation, consistency_loss

__all__ = ["Applied", "Compensation", "apply_structured_dropout", "consistency_loss"]
