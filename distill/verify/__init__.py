"""Is this answer right? One grader for the reward, the rejection filter and the evaluation."""

from distill.verify.judge import Response, check, check_many, check_stream
from distill.verify.judgement import Judgement

__all__ = ["Judgement", "Response", "check", "check_many", "check_stream"]
