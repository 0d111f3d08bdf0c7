"""What a recipe's stages read: loaded once, and checked before anything is written.

Lives beside the stages' rooms, above problems and suites; heavy libraries are imported only where a stage needs them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from distill.errors import UserError
from distill.recipe import CompareStage, EvalStage, GrpoStage, Recipe, SampleStage, SftStage, Stage
from distill.recipe_parts import (
    DEFAULT_LENGTH,
    Engine,
    VllmEngine,
)
from distill.recipe_rewards import R1_LENGTH, RewardStage
from distill.recipe_rl import check_soft, most_tokens
from distill.records import Problem, in_shard


class Inputs:
    """Everything that exists before the run, each thing loaded when first asked for."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.problems = cache(self._problems)
        self.suite_problems = cache(self._suite_problems)
        self.preview = cache(self._preview)
        self.fitted = cache(self._fitted)
        self.exam = cache(self._exam)
        self.judged = cache(self._judged)

    @staticmethod
    def read_by(stage: Stage) -> list[str]:
        """Names of the models and traces that a stage reads."""
        match stage:
            case SftStage():
                return [stage.model, *stage.traces]
            case GrpoStage():
                return [stage.model, *(judge.model for judge in stage.rewards.models.values())]
            case SampleStage() if stage.rewrite:
                return [stage.model, stage.rewrite.traces]
            case RewardStage() | SampleStage():
                return [stage.model]
            case EvalStage():
                return list(stage.models)
        return []

    def _problems(self, name: str) -> list[Problem]:
        from distill.problems import load_problems

        source = self.recipe.problems[name]
        if source.sets is None:
            return load_problems(name, source, self.recipe.seed)
        found = [problem for part in source.sets for problem in self.problems(part)]
        if twice := [one for one, count in Counter(problem.id for problem in found).items() if count > 1]:
            reason = f"two of them have a problem of the id `{twice[0]}`"
            raise UserError(f"problems.{name}.sets", source.sets, reason, "give each problem its own id")
        return found

    def _judged(self, stage_name: str) -> list[Any]:
        from teacher.preferences import read_judged

        stage = self.recipe.stage(stage_name)
        assert isinstance(stage, RewardStage), stage
        return read_judged(stage)

    def instruction(self, problems: str) -> str | dict[str, str | None] | None:
        """What a model is told around each problem of a set; of several sets by the problems' ids."""
        source = self.recipe.problems[problems]
        if source.sets is None:
            return source.instruction
        parts = [(self.recipe.problems[part].instruction, self.problems(part)) for part in source.sets]
        return {problem.id: told for told, found in parts for problem in found}

    def suite(self, name: str) -> Any:
        """A suite by name, the recipe's own entry first."""
        from distill.suites import find_suite

        return find_suite(name, self.recipe.suites)

    def _suite_problems(self, name: str) -> list[Problem]:
        from distill.suites import load_suite

        return load_suite(self.suite(name), self.recipe.seed)

    def judge(self, stage: EvalStage, suite: str) -> Any:
        """The judge (`eval.judge.Judge`) of a suite of open problems, or None.

        Raises:
            UserError: the baseline has no answer to some problem, or the judge's server cannot be used.
        """
        if stage.judge is None or self.suite(suite).kind != "open":
            return None
        from eval.judge import prepare

        return prepare(f"stages.{stage.name}.judge", stage.judge, self.suite_problems(suite))

    def kept_out(self, names: Sequence[str]) -> Any:
        """The indexed passages (`teacher.contamination.Suites`) of the suites that traces must not overlap, or None."""
        if not names:
            return None
        from teacher.contamination import indexed

        return indexed([self.suite(name) for name in names], self.recipe.seed)

    def check(self, stages: Sequence[Stage]) -> None:
        """Load every input of these stages that is small, and look at the rest, before anything is written.

        Problem sets, suites and the world's traces are read whole, tokenizers loaded with their EOS and chat template,
        trace files found, lengths held against the models' contexts. Weights and rows of trace files are first read by
        their stages.

        Raises:
            UserError: something is missing or unusable.
        """
        check_published(self.recipe)
        for stage in stages:
            if isinstance(stage, GrpoStage | SampleStage):
                self.problems(stage.problems)
            if isinstance(stage, SampleStage):
                for name in stage.filters.decontaminate:
                    self.suite_problems(name)
                if stage.shard and not any(
                    in_shard(one.id, stage.shard) for one in self.problems(stage.problems)
                ):
                    reason = f"none of the problems of `{stage.problems}` falls into it"
                    raise UserError(
                        f"stages.{stage.name}.shard", stage.shard, reason, "leave it out, or cut fewer"
                    )
            if isinstance(stage, EvalStage):
                for name in stage.suites:
                    self.suite_problems(name)
            for name in self.read_by(stage):
                if name in self.recipe.traces:
                    self._check_traces(name)
        for stage in stages:
            if isinstance(stage, EvalStage):
                judges = [self.judge(stage, name) for name in stage.suites]
                if stage.judge is not None and not any(judges):
                    reason = "has no effect: none of the suites is of kind open"
                    raise UserError(f"stages.{stage.name}.judge", None, reason, "drop it")
                for name in stage.suites:
                    self.exam(stage.name, name)
            else:
                self.fitted(stage.name)

    def _check_traces(self, name: str) -> None:
        from distill.world import make_traces

        source = self.recipe.traces[name]
        _check_trace_file(f"traces.{name}.path", source.path)
        if source.world is not None:
            make_traces(source.world, self.recipe.seed)  # that the world has so many

    def _preview(self, model: str) -> Any:
        from distill.models import preview

        ours = bool(
            self.recipe.engines(model) & {"training", "local"}
        )  # other engines know more architectures
        return preview(model, self.recipe.models[model], ours=ours)

    def _check_stops(self, model: str) -> None:
        from distill.student.audit import check_stops

        source = self.recipe.source_model(model)
        check_stops(f"models.{source}", self.preview(source).chat)

    def _check_lora(self, stage: SftStage | GrpoStage) -> None:
        from distill.models import check_lora

        source = self.recipe.source_model(stage.model)
        check_lora(stage, source, self.recipe.models[source], made=source != stage.model)

    # ------------------------------------------------------------------------------------------ lengths

    def _fitted(self, stage_name: str) -> Stage:
        """A stage as it is run: with the length that its model has room for, where nobody chose one."""
        stage = self.recipe.stage(stage_name)
        at = f"stages.{stage.name}"
        match stage:
            case SftStage():
                self._check_stops(stage.model)
                self._check_lora(stage)
                longest = self._fit(f"{at}.max_length", stage.max_length, [stage.model], [])
                return stage.model_copy(update={"max_length": longest})
            case RewardStage():
                from distill.models import check_reads

                source = self.recipe.source_model(stage.model)
                close = self.recipe.models[source].think.close
                thoughts = any(close in text for one in self.judged(stage.name) for text in one.answers)
                check_reads(source, self.recipe.models[source], thoughts=thoughts)
                chosen = stage.max_length != R1_LENGTH
                longest = self._fit(f"{at}.max_length", stage.max_length, [stage.model], [], chosen)
                return stage.model_copy(update={"max_length": longest})
            case GrpoStage():
                from distill.chain_rewards import check_judges
                from teacher.rewards import load_own

                texts = self._texts(self.problems(stage.problems), self.instruction(stage.problems))
                self._check_lora(stage)
                load_own(list(stage.rewards.own), f"{at}.rewards.own")
                check_judges(self.recipe, stage, self.problems(stage.problems))
                asked, most = most_tokens(stage.max_tokens), _most(stage.engine)
                chosen = None if isinstance(stage.max_tokens, int) else True
                longest = self._fit(f"{at}.max_tokens", asked, [stage.model], texts, chosen, most)
                check_soft(at, stage.overlong, longest)  # once more: it may have been cut
                return stage.model_copy(update={} if chosen else {"max_tokens": longest})
            case SampleStage():
                told = stage.rewrite.prompt if stage.rewrite else self.instruction(stage.problems)
                texts = self._texts(self.problems(stage.problems), told)
                asked, most = stage.sampling.max_tokens, _most(stage.engine)
                if stage.rewrite and asked == DEFAULT_LENGTH:  # half is for the trace that is read
                    most = self.reads(stage.model, stage.engine) // 2
                longest = self._fit(f"{at}.sampling.max_tokens", asked, [stage.model], texts, most=most)
                sampling = stage.sampling.model_copy(update={"max_tokens": longest})
                return stage.model_copy(update={"sampling": sampling})
        return stage

    def _exam(self, stage_name: str, name: str) -> Any:
        """A suite as an eval stage asks it: all models with one protocol, else they could not be compared."""
        stage = self.recipe.stage(stage_name)
        assert isinstance(stage, EvalStage), stage
        suite = self.suite(name).with_protocol(stage.samples, stage.sampling)
        texts = self._texts(self.suite_problems(name), suite.instruction)
        key = f"stages.{stage.name}.sampling.max_tokens" + (
            "" if stage.sampling else f" (that of suite {name})"
        )
        asked = suite.sampling.max_tokens
        longest = self._fit(
            key,
            asked,
            stage.models,
            texts,
            chosen=None if stage.sampling else False,
            most=_most(stage.engine),
        )
        return suite.with_protocol(None, suite.sampling.model_copy(update={"max_tokens": longest}))

    def reads(self, model: str, engine: Engine) -> int:
        """Tokens of prompt and completion together."""
        context: int = self.preview(self.recipe.source_model(model)).context
        return min(context, _most(engine) or context)

    @staticmethod
    def _texts(problems: Sequence[Problem], instruction: str | dict[str, str | None] | None) -> list[str]:
        from distill.generate.engine import wording

        return [wording(problem, instruction) for problem in problems]

    def _fit(
        self,
        key: str,
        asked: int,
        models: Sequence[str],
        texts: Sequence[str],
        chosen: bool | None = None,
        most: int | None = None,
    ) -> int:
        """`lengths.fit` for models that stand in the recipe or are made from one that does; ``most``: the engine's."""
        from distill.lengths import Reader, fit, longest_prompt

        readers = []
        first_of: dict[str, str] = {}  # models made from one and the same read alike
        for model in models:
            first_of.setdefault(self.recipe.source_model(model), model)
        for source, model in first_of.items():
            known = self.preview(source)
            context = min(known.context, most or known.context)
            longest = longest_prompt(known.chat, texts, enough=context - asked)
            given = "build.max_length" if self.recipe.models[source].build else "max_length"
            readers.append(Reader(model, context, longest, f"models.{source}.{given}"))
        chosen = asked != DEFAULT_LENGTH if chosen is None else chosen
        return fit(key, asked, readers, chosen=chosen)


def _most(engine: Engine) -> int | None:
    """Tokens of prompt and completion that an engine is set to take; None: as many as the model reads."""
    return engine.max_length if isinstance(engine, VllmEngine) else None


def check_published(recipe: Recipe) -> None:
    """Refuse names that no published figure has, and measured models that the exam does not ask.

    Raises:
        UserError: with near names.
    """
    for stage in recipe.stages:
        if isinstance(stage, CompareStage) and stage.published:
            from eval.published import check_names

            key, named = f"stages.{stage.name}.published", stage.published
            check_names(key, list(named.values()) if isinstance(named, dict) else named)
            exam = recipe.stage(stage.results)
            assert isinstance(exam, EvalStage)
            for model in named if isinstance(named, dict) else ():
                if model not in exam.models:
                    reason = f"is not measured by stage `{exam.name}`"
                    raise UserError(key, model, reason, f"name one of {', '.join(exam.models)}")


def _check_trace_file(key: str, path: str | None) -> None:
    looks_like_a_file = path is not None and Path(path).suffix in (".jsonl", ".json", ".parquet")
    if path is not None and looks_like_a_file and not Path(path).is_file():
        raise UserError(key, path, "no such file", "give a JSONL or Parquet file, a folder or a hub name")
