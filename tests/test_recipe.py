"""A recipe is read as written or refused with one clear error."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.errors import UserError
from distill.recipe import EvalStage, GrpoStage, SampleStage, SftStage
from distill.recipe_errors import TRL_NAMES
from distill.recipe_file import find_recipe, load_recipe, parse_recipe
from distill.recipe_parts import AdaptiveCollect, FixedCollect, Taken, most_samples

RECIPE: dict[str, Any] = yaml.safe_load("""
name: small
models:
  base: {path: some/base}
  tiny: {build: {hidden: 64, layers: 2, heads: 4, kv_heads: 2}, tokenizer: world}
problems:
  train:
    path: train.jsonl
    fields: {problem: question, reference: {from: solution, extract: hash}}
    instruction: "Q: {problem}"
  world: {world: {count: 100}}
traces:
  given: {path: traces.jsonl}
suites:
  own: {path: own.jsonl, kind: math}
stages:
  - {name: warm, kind: sft, model: tiny, traces: {given: 1.0}, makes: warm-1.5b, role: base}
  - {name: zero.rl, kind: grpo, model: warm-1.5b, problems: train, makes: teacher, steps: 8, steps_per_rollout: 4}
  - {name: harvest, kind: sample, model: teacher, problems: world, makes: harvested}
  - {name: distil, kind: sft, model: base, traces: {harvested: 1, given: 0.5}, makes: student, method: lora, lora: {}}
  - {name: exam, kind: eval, models: [base, teacher, student], suites: [own]}
  - {name: report, kind: compare, results: exam}
""")

SFT, GRPO, SAMPLE, LORA, EXAM, COMPARE = range(6)
Change = Callable[[dict[str, Any]], object]


def changed(change: Change) -> dict[str, Any]:
    raw = copy.deepcopy(RECIPE)
    change(raw)
    return raw


def refusal(change: Change) -> UserError:
    with pytest.raises(UserError) as caught:
        parse_recipe(changed(change))
    return caught.value


def stage(index: int, **values: object) -> Change:
    return lambda raw: raw["stages"][index].update(values)


def section(kind: str, name: str, **values: object) -> Change:
    return lambda raw: raw[kind].setdefault(name, {}).update(values)


def test_the_recipe_the_others_are_broken_from_is_good() -> None:
    recipe = parse_recipe(copy.deepcopy(RECIPE))
    assert recipe.problems["train"].fields["reference"] == Taken.model_validate(
        {"from": "solution", "extract": "hash"}
    )
    assert [stage.name for stage in recipe.stages] == [
        "warm",
        "zero.rl",
        "harvest",
        "distil",
        "exam",
        "report",
    ]


def collect(**values: object) -> Change:
    """The harvest's `collect`, anew."""
    return stage(SAMPLE, collect=values)


BAD: list[tuple[Change, str, object, str, str]] = [
    # change, key, value, words of the reason, words of the remedy
    (stage(SFT, learning_rat=1), "stages.warm.learning_rat", 1, "no key", "did you mean `learning_rate`?"),
    (stage(GRPO, num_generations=8), "stages.zero.rl.num_generations", 8, "no key", "here it is `samples_per_problem`;"),
    (stage(GRPO, beta=0.04), "stages.zero.rl.beta", 0.04, "no key", "here it is `kl.coefficient`;"),
    (stage(GRPO, kl={"beta": 0.04}), "stages.zero.rl.kl.beta", 0.04, "no key", "here it is `coefficient`;"),
    (stage(SFT, num_generations=8), "stages.warm.num_generations", 8, "no key", "known: name"),
    (stage(SFT, epochs=-1), "stages.warm.epochs", -1, "greater than 0", "more than 0"),
    (stage(SFT, epochs="many"), "stages.warm.epochs", "many", "must be a number", "such as 64"),
    (stage(SFT, epochs=True), "stages.warm.epochs", True, "must be a number", "such as 64"),
    (stage(SFT, learning_rate="inf"), "stages.warm.learning_rate", "inf", "finite", "such as 64"),
    (stage(SFT, batch_size=1.5), "stages.warm.batch_size", 1.5, "whole number", "such as 64"),
    (stage(SFT, batch_size=0), "stages.warm.batch_size", 0, "greater than or equal to 1", "at least 1"),
    (stage(SFT, traces={}), "stages.warm.traces", {}, "at least 1", "give at least 1"),
    (stage(SFT, traces={"given": {"cuont": 5}}), "stages.warm.traces.given.cuont", 5, "no key", "did you mean `count`"),
    (stage(SFT, traces={"given": {"count": 0}}), "stages.warm.traces.given.count", 0, "greater than or equal to 1", "at least 1"),
    (stage(SFT, traces={"given": 0}), "stages.warm.traces.given", 0, "greater than 0", "more than 0"),
    (stage(SFT, traces=["given"]), "stages.warm.traces", ["given"], "dictionary", "{key: value}"),
    (stage(SFT, schedule={"kind": "cosin"}), "stages.warm.schedule.kind", "cosin", "'cosine'", "'cosine'"),
    (stage(SFT, schedule={"warmup": 2}), "stages.warm.schedule.warmup", 2, "less than or equal to 1", "at most 1"),
    (stage(SFT, optimiser={"betas": [0.9]}), "stages.warm.optimiser.betas.1", None, "missing", "add it"),
    (stage(SFT, optimiser={"betas": [0.9, 1]}), "stages.warm.optimiser.betas.1", 1, "less than 1", "less than 1"),
    (stage(LORA, lora={"ranc": 8}), "stages.distil.lora.ranc", 8, "no key `ranc`", "did you mean `rank`?"),
    (stage(LORA, lora={"targets": "q"}), "stages.distil.lora.targets", "q", "or input should be 'all-linear'", "list"),
    (stage(SFT, lora={"rank": 8}), "stages.warm.lora", None, "no effect with method: full", "method: lora"),
    (stage(SFT, micro_batch_tokens=9), "stages.warm.micro_batch_tokens", 9, "max_length=32768", "raise it"),
    (stage(SFT, model="tinny"), "stages.warm.model", "tinny", "no model", "did you mean `tiny`?"),
    (stage(SFT, model="teacher"), "stages.warm.model", "teacher", "earlier stage", "known: base, tiny"),
    (stage(SFT, traces={"harvested": 1}), "stages.warm.traces", "harvested", "no trace set", "known: given"),
    (stage(SFT, makes="base"), "stages.warm.makes", "base", "taken", "another"),
    (stage(SFT, makes="given"), "stages.warm.makes", "given", "taken", "another"),
    (stage(SFT, makes="../out"), "stages.warm.makes", "../out", "pattern", "letters, digits"),
    (stage(SFT, kind="stf"), "stages.warm.kind", "stf", "kind of stage `stf`", "did you mean `sft`?"),
    (lambda raw: raw["stages"][SFT].pop("kind"), "stages.warm.kind", None, "missing", "use sft | grpo"),
    (lambda raw: raw["stages"][SFT].pop("makes"), "stages.warm.makes", None, "missing", "add it"),
    (lambda raw: raw["stages"].append("x"), "stages.6", "x", "dictionary", "{key: value}"),
    (stage(GRPO, samples_per_problem=1), "stages.zero.rl.samples_per_problem", 1, "equal to 2", "at least 2"),
    (stage(GRPO, steps=9), "stages.zero.rl.steps", 9, "steps_per_rollout=4", "multiple"),
    (stage(GRPO, rewards={"accuracy": 0, "format": 0}), "stages.zero.rl.rewards", None, "weight is 0", "weigh one"),
    (stage(GRPO, problems="trian"), "stages.zero.rl.problems", "trian", "problem set", "did you mean `train`?"),
    (stage(SAMPLE, problems="given"), "stages.harvest.problems", "given", "problem set", "known: train, world"),
    (stage(SAMPLE, filters={"verified": "si"}), "stages.harvest.filters.verified", "si", "boolean", "true or false"),
    (stage(SAMPLE, sampling={"top_p": 0}), "stages.harvest.sampling.top_p", 0, "greater than 0", "more than 0"),
    (stage(SAMPLE, sampling={"temperature": 0}), "stages.harvest.sampling.temperature", 0.0, "8 times", "raise it"),
    (stage(SAMPLE, engine=5), "stages.harvest.engine", 5, "dictionary", "{key: value}"),
    (stage(SAMPLE, engine={"kind": "vlm"}), "stages.harvest.engine.kind", "vlm", "engine `vlm`", "did you mean `vllm`?"),
    (stage(SAMPLE, engine={"max_row": 2}), "stages.harvest.engine.max_row", 2, "no key", "did you mean `max_rows`?"),
    (stage(SAMPLE, engine={"kind": "vllm", "max_rows": 2}), "stages.harvest.engine.max_rows", 2, "no key", "memory"),
    (stage(SAMPLE, engine={"kind": "vllm", "memory": 2}), "stages.harvest.engine.memory", 2, "equal to 1", "at most 1"),
    (stage(SAMPLE, engine={"kind": "server"}), "stages.harvest.engine.urls", None, "missing", "add it"),
    (
        stage(SAMPLE, engine={"kind": "server", "urls": "http://x", "key": "sk-secret"}),
        "stages.harvest.engine.key", None, "pattern", "NAME of an environment variable",
    ),
    (collect(strategy="adaptiv"), "stages.harvest.collect.strategy", "adaptiv", "no strategy", "`adaptive`?"),
    (collect(strategy="adaptive", samples=4), "stages.harvest.collect.samples", 4, "no key `samples`", "known: "),
    (collect(first=4), "stages.harvest.collect.first", 4, "no key `first`", "known: strategy, samples"),
    (collect(strategy="adaptive", first=20), "stages.harvest.collect.first", 20, "is above most=16", "raise most"),
    (collect(strategy="adaptive", keep_per_problem=17), "stages.harvest.collect.keep_per_problem", 17, "most", "lower"),
    (collect(strategy="adaptive", needed=0), "stages.harvest.collect.needed", 0, "greater than 0", "more than 0"),
    (collect(strategy="adaptive", budget_cost=9), "stages.harvest.collect.budget_cost", 9.0, "nobody", "hourly"),
    (
        stage(SAMPLE, collect={"strategy": "adaptive"}, filters={"difficulty": {"first": 5}}),
        "stages.harvest.filters.difficulty.first", 5, "only 4 samples", "draw more",
    ),
    (
        stage(SAMPLE, collect={"strategy": "adaptive"}, sampling={"temperature": 0}),
        "stages.harvest.sampling.temperature", 0.0, "16 times", "collect.most=1",
    ),
    (stage(SAMPLE, shard="17/16"), "stages.harvest.shard", "17/16", "no shard", "3/16"),
    (section("problems", "world", agreement=0.5), "problems.world.agreement", 0.5, "no effect", "drop it"),
    (section("problems", "train", agreement=0.5), "stages.zero.rl.problems", "train", "without references", "drop"),
    (stage(GRPO, engine={"kind": "vllm", "tensor_parallel": 2}), "stages.zero.rl.engine.tensor_parallel", 2, "whole on one GPU", "drop it"),
    (stage(EXAM, models="base"), "stages.exam.models", "base", "valid list", "[first, second]"),
    (stage(EXAM, models=[]), "stages.exam.models", [], "at least 1", "at least 1"),
    (stage(EXAM, models=["baze"]), "stages.exam.models", "baze", "no model", "did you mean `base`?"),
    (stage(EXAM, models=["base", "base"]), "stages.exam.models", "base", "twice", "once"),
    (stage(EXAM, suites=["own", "own"]), "stages.exam.suites", "own", "twice", "once"),
    (
        lambda raw: raw["stages"].insert(5, {**raw["stages"][EXAM], "name": "exam-2", "models": ["student"]}),
        "stages.exam-2.models",
        "student",
        "measured by stage `exam` already",
        "another run",
    ),
    (
        lambda raw: raw["stages"].append({**raw["stages"][COMPARE], "name": "report-2"}),
        "stages.report-2.kind",
        "compare",
        "the run's one report",
        "distill compare",
    ),
    (stage(COMPARE, results="harvest"), "stages.report.results", "harvest", "earlier eval stage", "known: exam"),
    (stage(COMPARE, name="exam"), "stages.exam.name", "exam", "two stages", "rename"),
    (section("models", "tiny", path="x"), "models.tiny", None, "both", "exactly one"),
    (section("models", "new"), "models.new", None, "neither `path` nor `build`", "exactly one"),
    (section("models", "build", path="x", pathh=1), "models.build.pathh", 1, "no key", "did you mean `path`?"),
    (section("models", "a b", path="x"), "models.a b", "a b", "pattern", "letters, digits"),
    (section("models", "base", role="boss"), "models.base.role", "boss", "'teacher'", "'teacher'"),
    (section("models", "base", think={"open": ""}), "models.base.think.open", "", "at least 1", "at least 1"),
    (section("models", "base", think={"open": "</think>"}), "models.base.think.close", "</think>", "equals", "own tag"),
    (section("models", "tiny", tokenizer=None), "models.tiny.tokenizer", None, "brings none", "world"),
    (section("models", "tiny", max_length=9), "models.tiny.max_length", 9, "built", "build.max_length"),
    (section("models", "tiny", rope_theta=9), "models.tiny.rope_theta", 9.0, "built", "build.max_length"),
    (lambda raw: raw["models"]["tiny"]["build"].update(heads=3), "models.tiny.build.heads", 3, "hidden=64", "divisor"),
    (lambda raw: raw["models"]["tiny"]["build"].update(heads=64), "models.tiny.build.heads", 64, "even", "hidden / 2"),
    (lambda raw: raw["models"]["tiny"]["build"].update(kv_heads=3), "models.tiny.build.kv_heads", 3, "heads", "divis"),
    (section("problems", "train", world={"count": 1}), "problems.train", None, "both", "exactly one"),
    (section("problems", "world", fields={"problem": "q"}), "problems.world.fields", None, "no effect", "drop it"),
    (section("problems", "train", instruction="Go."), "problems.train.instruction", "Go.", "leaves", "{problem}"),
    (section("problems", "train", fields={"reference": {"from": "x", "extract": "boxx"}}),
     "problems.train.fields.reference.extract", "boxx", "'hash', 'user' or", "use 'boxed', 'hash'"),
    (section("problems", "train", fields={"reference": {"frm": "x", "extract": "hash"}}),
     "problems.train.fields.reference.frm", "x", "no key `frm`", "did you mean `from`? known: from, extract"),
    (section("problems", "train", fields={"reference": 5}), "problems.train.fields.reference", 5, "string", "quotes"),
    (section("problems", "world", world={"split": "dev"}), "problems.world.world.split", "dev", "", "'test'"),
    (section("suites", "own", world={"count": 1}), "suites.own", None, "both", "exactly one"),
    (section("traces", "base", path="x"), "traces.base", "base", "a model has this name", "own name"),
    (section("traces", "new"), "traces.new", None, "neither", "exactly one"),
    (lambda raw: raw.update(name=5), "name", 5, "string", "in quotes"),
    (lambda raw: raw.update(name="a\n"), "name", "a\n", "pattern", "letters, digits"),
    (lambda raw: raw.pop("name"), "name", None, "missing", "add it"),
    (lambda raw: raw.update(sead=1), "sead", 1, "no key `sead`", "did you mean `seed`?"),
    (lambda raw: raw.update(steps=5), "steps", 5, "no key `steps`", "a key of a stage (grpo): stages.NAME.steps;"),
    (lambda raw: raw.update(stages=[]), "stages", [], "at least 1", "at least 1"),
    (lambda raw: raw.update(stages=5), "stages", 5, "list", "[first, second]"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "key", "value", "reason", "remedy"),
    BAD,
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_a_mistake_names_key_value_reason_and_remedy(
    change: Change, key: str, value: object, reason: str, remedy: str
) -> None:
    error = refusal(change)
    assert (error.key, error.value) == (key, value)
    assert reason in error.reason
    assert remedy in error.remedy
    assert all(part in str(error) for part in (key, reason, remedy))


def test_a_key_called_on_is_a_word(tmp_path: Path) -> None:
    """YAML 1.1 reads it as true, and reward models have it: `on: answer`."""
    raw = copy.deepcopy(RECIPE)
    rewards = {"models": {"nice": {"model": "judge", "ON": "whole"}}}
    raw["stages"][1] |= {"rewards": rewards}
    judge = {
        "name": "judge",
        "kind": "reward",
        "model": "base",
        "pairs": {"path": "x.jsonl"},
        "makes": "judge",
    }
    raw["stages"].insert(1, judge)
    file = tmp_path / "r.yaml"
    file.write_text(yaml.safe_dump(raw, sort_keys=False).replace("'ON':", "on:"))
    stage = load_recipe(file).stages[2]
    assert isinstance(stage, GrpoStage) and stage.rewards.models["nice"].on == "whole"
    override = "stages.zero.rl.rewards.models={nice: {model: judge, on: answer}}"
    stage = load_recipe(file, [override]).stages[2]
    assert isinstance(stage, GrpoStage) and stage.rewards.models["nice"].on == "answer"


def test_a_misspelt_recipe_gets_the_nearest_that_ships() -> None:
    with pytest.raises(UserError) as caught:
        find_recipe("quickstartr1")
    assert caught.value.remedy.startswith("did you mean `quickstart-r1`? give a file, or one of: ")
    with pytest.raises(UserError) as caught:
        find_recipe("/elsewhere/mine.yaml")
    assert caught.value.remedy.startswith("give a file, or one of: ")


def test_what_trl_calls_a_key_leads_to_one_that_exists() -> None:
    for theirs, ours in TRL_NAMES.items():
        first, _, second = ours.partition(".")
        led = 0
        for index in range(len(RECIPE["stages"])):
            if f"here it is `{ours}`;" in refusal(stage(index, **{theirs: 1})).remedy:
                led += 1
                wrong = refusal(stage(index, **{first: {second: "?"} if second else "?"}))
                assert "there is no key" not in wrong.reason, (theirs, ours)
        assert led, theirs


def test_further_mistakes_are_counted() -> None:
    error = refusal(stage(SFT, epochs=0, batch_size=0, optimiser={"betas": 5}))
    assert error.key == "stages.warm.epochs"
    assert "(2 more after this one)" in error.reason


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_whatever_stands_in_a_recipe_only_user_errors_come_out(data: st.DataObject) -> None:
    raw = copy.deepcopy(RECIPE)
    node: Any = raw
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = data.draw(st.sampled_from(keys))
        if not (isinstance(node[key], dict | list) and node[key] and data.draw(st.booleans())):
            break
        node = node[key]
    leaf = (
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text(max_size=5)
        | st.sampled_from(["sft", "1e-4"])
    )
    node[key] = data.draw(
        st.recursive(leaf, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner))
    )
    try:
        parse_recipe(raw)
    except UserError as error:
        assert error.key and error.reason and error.remedy


def test_numbers_may_be_written_as_yaml_does_not_read_them(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(
        yaml.safe_dump(RECIPE).replace("kind: sft", "kind: sft\n  learning_rate: 1e-4\n  batch_size: 2e2", 1)
    )
    first = load_recipe(file).stages[0]
    assert isinstance(first, SftStage)
    assert (first.learning_rate, first.batch_size) == (1e-4, 200)
    assert type(first.batch_size) is int


def test_overrides_reach_stages_by_name_even_with_dots(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(yaml.safe_dump(RECIPE))
    sets = [
        "stages.zero.rl.clip.high=10",
        "stages.zero.rl.clip.low=10",
        "stages.exam.samples=4",
        "seed=7",
        "models.base.path=other",
        "stages.exam.suites=[own, x]",
    ]
    recipe = load_recipe(file, sets)
    grpo, exam = recipe.stage("zero.rl"), recipe.stage("exam")
    assert isinstance(grpo, GrpoStage) and isinstance(exam, EvalStage)
    assert (grpo.clip.high, grpo.clip.low, exam.samples, recipe.seed) == (10.0, 10.0, 4, 7)
    assert (recipe.models["base"].path, exam.suites) == ("other", ["own", "x"])


@pytest.mark.parametrize(
    ("override", "key", "words"),
    [
        ("seed", "--set", "is no KEY=VALUE"),
        ("=1", "--set", "is no KEY=VALUE"),
        ("stages.exma.samples=4", "--set", "did you mean `exam`?"),
        ("stages.exam=4", "--set", "names a whole stage"),
        ("seed=[1", "--set", "no YAML"),
        ("stages.exam.sampels=4", "stages.exam.sampels", "did you mean `samples`?"),
        ("stages.warm.schedul.kind=constant", "stages.warm.schedul", "did you mean `schedule`?"),
        ("stages.warm.epochs.x=1", "stages.warm.epochs", "valid number"),
    ],
)
def test_a_wrong_override_is_refused(tmp_path: Path, override: str, key: str, words: str) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(yaml.safe_dump(RECIPE))
    with pytest.raises(UserError) as caught:
        load_recipe(file, [override])
    assert caught.value.key == key
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: [", "line 1"),
        ("- a\n- b", "holds no mapping"),
        ("", "holds no mapping"),
        ("name: a\nseed: 1\nseed: 2", "line 3: `seed` stands twice"),
        ("name: !!python/object:os.system x", "could not determine a constructor"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused_in_one_line(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as caught:
        load_recipe(file)
    assert words in caught.value.reason
    assert "\n" not in caught.value.reason


def test_collect_is_fixed_unless_it_says_otherwise() -> None:
    def harvest(**values: object) -> SampleStage:
        found = parse_recipe(changed(collect(**values))).stages[SAMPLE]
        assert isinstance(found, SampleStage)
        return found

    assert harvest(samples=4, keep_per_problem=2).collect == FixedCollect(samples=4, keep_per_problem=2)
    adaptive = harvest(strategy="adaptive", most="3.2e1", budget_tokens="2e9").collect
    assert adaptive == AdaptiveCollect(strategy="adaptive", most=32, budget_tokens=2e9)
    assert [most_samples(one) for one in (FixedCollect(samples=4), adaptive)] == [4, 32]
    assert [most_samples(one, at_first=True) for one in (FixedCollect(samples=4), adaptive)] == [4, 4]


def test_a_budget_of_money_needs_a_price_of_tokens_or_of_hours() -> None:
    asked = {"strategy": "adaptive", "budget_cost": 100}
    parse_recipe(changed(collect(**asked, price=2)))
    raw = changed(collect(**asked)) | {"hardware": {"gpus": 8, "nodes": 2, "hourly": 3}}
    assert parse_recipe(raw).hourly == 48


def test_yaml_anchors_and_merges_still_work(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    text = yaml.safe_dump({key: value for key, value in RECIPE.items() if key != "models"})
    file.write_text(f"models:\n  base: &b {{path: x}}\n  tiny: {{<<: *b, role: teacher}}\n{text}")
    assert load_recipe(file).models["tiny"].path == "x"


def test_the_resolved_recipe_says_every_default_and_reads_back_the_same() -> None:
    recipe = parse_recipe(copy.deepcopy(RECIPE))
    plain = yaml.safe_load(recipe.to_yaml())
    assert plain["stages"][SFT]["optimiser"]["betas"] == [0.9, 0.95]
    assert parse_recipe(plain) == recipe


def test_a_made_model_knows_where_it_comes_from() -> None:
    recipe = parse_recipe(changed(section("models", "tiny", think={"open": "<t>", "close": "</t>"})))
    assert recipe.source_model("teacher") == "tiny"
    assert recipe.think("teacher").open == "<t>"
    assert (recipe.base("teacher"), recipe.base("student"), recipe.base("tiny")) == (
        "warm-1.5b",
        "base",
        None,
    )
    assert (recipe.role("teacher"), recipe.role("student"), recipe.role("warm-1.5b")) == (
        "teacher",
        "student",
        "base",
    )
    maker = recipe.maker("harvested")
    assert maker is not None and maker.name == "harvest"
    with pytest.raises(UserError, match="known: warm"):
        recipe.stage("nope")


def test_a_recipe_is_found_by_path_and_a_wrong_name_says_what_ships(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("name: x")
    assert find_recipe(str(file)) == file
    with pytest.raises(UserError, match="no recipe of that name ships"):
        find_recipe(str(tmp_path))


def test_a_home_folder_is_expanded_once_for_all_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere")
    raw = copy.deepcopy(RECIPE)
    raw["problems"]["train"]["path"] = "~/train.jsonl"
    raw["models"]["base"]["path"] = "~/base"
    recipe = parse_recipe(raw)
    assert (
        recipe.problems["train"].path == "/somewhere/train.jsonl"
        and recipe.models["base"].path == "/somewhere/base"
    )
