"""Shards of a harvest: each problem in exactly one, and together the set of one run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from distill.cli import main
from distill.errors import UserError
from distill.recipe_filters import Filters, NearDuplicates
from distill.recipe_parts import FixedCollect
from distill.records import in_shard
from distill.shards import read_parquet
from teacher.contamination import Passage, Suites
from teacher.merge import merge
from tests.test_rounds import PROBLEMS, STAGE, files, run
from tests.tiny_recipe import raw_recipe

FIXED = STAGE.model_copy(update={"collect": FixedCollect(samples=3, keep_per_problem=2, price=2.0)})


def shards(folder: Path, stage: Any = FIXED, of: int = 3, **changes: Any) -> list[Path]:
    parts = []
    for number in range(1, of + 1):
        parts.append(folder / str(number) / "traces")
        run(parts[-1], stage=stage.model_copy(update={"shard": f"{number}/{of}"}), **changes)
    return parts


def test_each_problem_falls_into_one_shard() -> None:
    names = [f"gsm8k:{n}" for n in range(3000)]
    sizes = [sum(in_shard(name, f"{number}/16") for name in names) for number in range(1, 17)]
    assert sum(sizes) == 3000 and min(sizes) > 130
    assert all(in_shard(name, "1/1") for name in names)


@pytest.mark.parametrize("backwards", [False, True])
def test_fixed_shards_make_the_files_of_one_run(tmp_path: Path, backwards: bool) -> None:
    filters = Filters(near_duplicates=NearDuplicates(similarity=0.9))
    stage = FIXED.model_copy(update={"filters": filters})
    run(tmp_path / "whole" / "traces", stage=stage)
    parts = shards(tmp_path, stage)
    funnel = merge(parts[::-1] if backwards else parts, tmp_path / "merged" / "traces")
    assert files(tmp_path / "merged" / "traces") == files(tmp_path / "whole" / "traces")
    assert funnel["input"]["problems"] == len(PROBLEMS)


def test_what_overlapped_with_a_suite_is_merged_too(tmp_path: Path) -> None:
    suites = Suites([Passage("exam", "q", "question", PROBLEMS[4].problem)])
    stage = FIXED.model_copy(update={"filters": Filters(decontaminate=["exam"])})
    run(tmp_path / "whole" / "traces", stage=stage, suites=suites)
    merge(shards(tmp_path, stage, suites=suites), tmp_path / "merged" / "traces")
    assert files(tmp_path / "merged" / "traces") == files(tmp_path / "whole" / "traces")
    assert "s4#0" in (tmp_path / "merged" / "traces" / "contamination.jsonl").read_text()


def test_adaptive_shards_keep_all_that_they_drew(tmp_path: Path) -> None:
    parts = shards(tmp_path, STAGE)
    funnels = [json.loads((part / "funnel.json").read_text()) for part in parts]
    funnel = merge(parts, tmp_path / "merged" / "traces")
    assert funnel["input"]["tokens"] == sum(one["input"]["tokens"] for one in funnels)
    assert funnel["kept"] == {
        name: sum(one["kept"][name] for one in funnels) for name in funnel["kept"]
    }  # fmt: skip
    summary = funnel["collection"]
    assert sum(summary["problems"].values()) == len(PROBLEMS) and summary["shards"] == 3
    rows = (tmp_path / "merged" / "traces" / "problems.jsonl").read_text().splitlines()
    assert [json.loads(row)["id"] for row in rows] == [problem.id for problem in PROBLEMS]
    assert "each with a prior of its own" in (tmp_path / "merged" / "traces" / "README.md").read_text()


def test_overlaps_and_gaps_are_refused(tmp_path: Path) -> None:
    one, two, three = shards(tmp_path)
    shutil.copytree(two, tmp_path / "again")
    for given, said in (
        ([one, two], r"23 of 40 problems are here; shards not given: 3/3"),
        ([one, two, three, tmp_path / "again"], "holds the problem s[0-9]+, which .*traces holds too"),
        ([one, tmp_path / "nothing"], r"holds no traces\.parquet"),
    ):
        with pytest.raises(UserError, match=said):
            merge(given, tmp_path / "merged")
    run(tmp_path / "whole", stage=FIXED)
    with pytest.raises(UserError, match=r"holds no problems\.jsonl"):
        merge([tmp_path / "whole"], tmp_path / "merged")
    run(tmp_path / "other", stage=FIXED.model_copy(update={"shard": "3/3"}), seed=8)
    with pytest.raises(UserError, match="in its seed: 8, not 7"):
        merge([one, two, tmp_path / "other"], tmp_path / "merged")
    with pytest.raises(UserError, match="holds other things"):
        merge([one, two, three], tmp_path / "whole")
    assert not (tmp_path / "merged").exists()


def blank_recipe(folder: Path) -> Path:
    """A harvest of a model of random weights, which keeps everything."""
    raw = raw_recipe(without=("warm", "zero", "distil", "exam", "report"))
    raw["stages"][0]["model"] = "blank"
    raw["models"] = {"blank": raw["models"]["blank"] | {"role": "teacher"}}
    for name in ("traces", "suites"):
        del raw[name]
    path = folder / "blank.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


def test_shards_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, sets = blank_recipe(tmp_path), []
    for number in (1, 2):
        out = tmp_path / f"part-{number}"
        command = ["teacher", "sample", str(recipe), "--shard", f"{number}/2", "--out", str(out)]
        assert main(command) == 0
        sets.append(str(out / "traces" / "verified"))
    assert main(["traces", "merge", *sets, "--out", str(tmp_path / "all"), "--json"]) == 0
    assert main(["teacher", "sample", str(recipe), "--out", str(tmp_path / "whole"), "--json"]) == 0
    ids = [
        [(trace.id, trace.seed) for trace in read_parquet(tmp_path / folder / "traces.parquet")]
        for folder in ("all", "whole/traces/verified")
    ]
    assert ids[0] == ids[1] and len(ids[0]) == 12
    capsys.readouterr()
    assert main([*command[:4], "1/2", "--out", str(tmp_path / "part-2")]) == 2
    assert "holds shard 2/2 of `verified`" in capsys.readouterr().err
    assert main([*command[:4], "5/2", "--out", str(tmp_path / "odd")]) == 2
    assert "is no shard" in capsys.readouterr().err


def test_an_adaptive_harvest_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Everything is kept, so two samples of each problem give the one trace that is wanted."""
    adaptive = "stages.harvest.collect={strategy: adaptive, first: 2, most: 4, keep_per_problem: 1}"
    command = [
        "teacher",
        "sample",
        str(blank_recipe(tmp_path)),
        "--set",
        adaptive,
        "--out",
        str(tmp_path / "run"),
    ]
    assert main([*command, "--json"]) == 0
    funnel = json.loads(capsys.readouterr().out)["verified"]
    assert funnel["kept"]["traces"] == 6 and funnel["collection"]["samples_per_problem"] == {"2": 6}
    assert main(command) == 0  # finished: only shown
    assert "problems in 1 rounds: enough 6" in capsys.readouterr().out
    folder = str(tmp_path / "run" / "traces" / "verified")
    assert main(["traces", "filter", folder, "--set", "keep_per_problem=2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kept"]["traces"] == 12


def test_a_shard_without_problems_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = blank_recipe(tmp_path)
    codes = [
        main(["teacher", "sample", str(recipe), "--shard", f"{n}/40", "--out", str(tmp_path / str(n))])
        for n in range(1, 11)
    ]
    assert 2 in codes and "falls into it" in capsys.readouterr().err


def test_the_command_merges(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = shards(tmp_path, of=2)
    assert main(["traces", "merge", *map(str, parts), "--out", str(tmp_path / "all"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["input"]["problems"] == len(PROBLEMS)
    assert main(["traces", "merge", str(parts[0]), "--out", str(tmp_path / "some")]) == 2
