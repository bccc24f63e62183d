"""What to meter, whose it is, and how much. Pure: values in, values out, no clock, no I/O."""

from usageflow.policies.body import Body
from usageflow.policies.document import PolicyDocument
from usageflow.policies.document import from_json as parse_document
from usageflow.policies.document import to_json as write_document
from usageflow.policies.engine import CompiledPolicy, Match, PolicySet
from usageflow.policies.evaluation import evaluate, evaluate_part
from usageflow.policies.facts import Facts
from usageflow.policies.file import PolicyFile
from usageflow.policies.file import parse as parse_file
from usageflow.policies.models import Metric, Policy

__all__ = [
    "Body",
    "CompiledPolicy",
    "Facts",
    "Match",
    "Metric",
    "Policy",
    "PolicyDocument",
    "PolicyFile",
    "PolicySet",
    "evaluate",
    "evaluate_part",
    "parse_document",
    "parse_file",
    "write_document",
]
