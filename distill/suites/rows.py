r"""Rows of public data sets in our field names, where a map of fields does not say it: maths, choice, instructions.

Each function takes a row as its data set has it. A row that lacks its columns is passed on as it is: a local copy may
have our own names already, and what it then lacks is told by name.
"""

from __future__ import annotations

import hashlib
import random
from typing import Any

from distill.problems import LETTERS, Row
from distill.verify.marks import last_boxed
from distill.verify.maths.reading import split_list
from distill.verify.maths.spelling import tidy

__all__ = ["gpqa", "ifeval", "minerva", "olympiadbench"]


def minerva(row: Row) -> Row:
    r"""Minerva's OCW problems: the answer stands in the solution's ``\boxed{}``, or in a column of its own."""
    problem = row.get("problem") or row.get("question")
    reference = row.get("answer") or last_boxed(str(row.get("solution") or ""))
    if not problem or not reference:
        return row
    return {"problem": problem, "reference": reference, "subject": row.get("type")}


def olympiadbench(row: Row) -> Row:
    r"""OlympiadBench's open-ended maths in English: ``final_answer`` is a list of one text.

    Where ``is_multiple_answer``, that text lists several values, all of which are wanted, in any order. A unit that the
    row names apart is not asked for.
    """
    if not {"question", "final_answer", "is_multiple_answer"} <= row.keys() or not row["final_answer"]:
        return row
    context = f"{row['context']}\n\n" if row.get("context") else ""
    answers = [str(answer).strip() for answer in row["final_answer"]]
    reference: Any = answers[0] if len(answers) == 1 else {"all": answers}
    if row["is_multiple_answer"] and len(answers) == 1:
        several = [part.strip() for part in split_list(tidy(answers[0]))]
        reference = {"all": several} if len(several) > 1 and all(several) else answers[0]
    return {
        "id": f"olympiadbench/{row['id']}" if "id" in row else None,
        "problem": context + row["question"],
        "reference": reference,
        "subject": row.get("subfield"),
    }


def gpqa(row: Row) -> Row:
    """GPQA: the right answer and three wrong ones, in an order that the record's id decides: it never changes."""
    wrong = [f"Incorrect Answer {number}" for number in (1, 2, 3)]
    if not {"Question", "Correct Answer", *wrong} <= row.keys():
        return row
    question = row["Question"].strip()
    given_id = str(row.get("Record ID") or question)
    choices = [row["Correct Answer"].strip(), *(row[name].strip() for name in wrong)]
    order = list(range(len(choices)))
    seed = int.from_bytes(hashlib.sha256(given_id.encode()).digest()[:8], "big")
    random.Random(seed).shuffle(order)
    return {
        "id": row.get("Record ID"),
        "problem": question,
        "choices": [choices[place] for place in order],
        "reference": LETTERS[order.index(0)],
        "subject": row.get("High-level domain"),
    }


def ifeval(row: Row) -> Row:
    """IFEval: ids of instructions, and for each the arguments that are not null."""
    if not {"prompt", "instruction_id_list", "kwargs"} <= row.keys():
        return row
    instructions = [
        {"id": name, **{key: value for key, value in (arguments or {}).items() if value is not None}}
        for name, arguments in zip(row["instruction_id_list"], row["kwargs"], strict=True)
    ]
    return {
        "id": f"ifeval/{row['key']}" if "key" in row else None,
        "problem": row["prompt"],
        "tests": {"type": "instructions", "instructions": instructions},
    }
