"""From what a user asks to how the model runs: legality, the nearest legal plan, and the plan itself. No paddle."""

from __future__ import annotations

from zoo_core.plan.arguments import from_arguments, world_size
from zoo_core.plan.composer import compose, facts, judge
from zoo_core.plan.model import chosen_model, configured
from zoo_core.plan.owner import owners
from zoo_core.plan.plan import AXES, Axis, Coordinates, Plan
from zoo_core.plan.request import Degrees, Recompute, Request, asking_for
from zoo_core.plan.rules import RULES, LegalityRule, ModelFacts, Verdict
from zoo_core.plan.shares import Share, share
from zoo_core.plan.shrink import shrunk

__all__ = [
    "AXES",
    "RULES",
    "Axis",
    "Coordinates",
    "Degrees",
    "LegalityRule",
    "ModelFacts",
    "Plan",
    "Recompute",
    "Request",
    "Share",
    "Verdict",
    "asking_for",
    "chosen_model",
    "compose",
    "configured",
    "facts",
    "from_arguments",
    "judge",
    "owners",
    "share",
    "shrunk",
    "world_size",
]
