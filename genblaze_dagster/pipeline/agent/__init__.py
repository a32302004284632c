"""Running a pipeline again and again until an evaluator accepts what it makes."""

from genblaze_dagster.pipeline.agent.course import (
    AgentContext,
    AgentIteration,
    AgentResult,
    StopReason,
)
from genblaze_dagster.pipeline.agent.evaluation import (
    CallableEvaluator,
    EvaluationResult,
    Evaluator,
    ThresholdEvaluator,
)
from genblaze_dagster.pipeline.agent.loop import AgentLoop

__all__ = [
    "AgentContext",
    "AgentIteration",
    "AgentLoop",
    "AgentResult",
    "CallableEvaluator",
    "EvaluationResult",
    "Evaluator",
    "StopReason",
    "ThresholdEvaluator",
]
