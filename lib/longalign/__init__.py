"""LongAlign, reproducible: packing, sorted batching and loss weighting for long-context SFT (arXiv 2401.18058).

The names below are the small library. Each is imported when it is first asked for: planning needs numpy alone, the loss
and the collators need torch, the Trainer needs transformers.

>>> import longalign
>>> [step.rows for step in longalign.plan_packing([2, 4, 3], capacity=6, algorithm="best_fit").steps]
[((2,),), ((1, 0),)]
"""

from importlib import import_module
from typing import Any

__version__ = "0.2.0"

_MODULES = {
    "recipe.batching": "Plan make_plan plan_naive plan_packing plan_sorted",
    "recipe.summary": "summarize",
    "recipe.weights": "loss_weights",
    "recipe.dataset": "EvaluationDataset PlannedDataset measure",
    "recipe.collators": "PackedCollator PaddedCollator",
    "recipe.loss": "weighted_cross_entropy weighted_loss",
    "recipe.attention": "register_attention",
    "data.store": "TokenStore",
    "data.chat": "encode",
    "data.tokenize_files": "tokenize_jsonl",
    "train.preflight": "preflight",
    "train.callbacks": "PlanGuard",
    "train.plan_trainer": "PlanTrainer",
    "train.config": "TrainingConfig",
}
"""Where each public name is defined; a name is in one place."""
_PLACES = {name: f"longalign.{module}" for module, names in _MODULES.items() for name in names.split()}
__all__ = sorted(_PLACES)


def __getattr__(name: str) -> Any:
    """A public name, imported where it is defined. Raises AttributeError for any other."""
    if name not in _PLACES:
        raise AttributeError(f"module 'longalign' has no attribute {name!r}; it has {', '.join(__all__)}")
    return globals().setdefault(name, getattr(import_module(_PLACES[name]), name))


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
