"""The built-in world's tokenizer: a real `PreTrainedTokenizerFast`, byte-level BPE in Qwen2's own pipeline.

The pipeline has to be Qwen2's (normaliser, pattern, byte level): for a folder whose model is a Qwen2, `AutoTokenizer`
and vLLM rebuild exactly that one around the stored merges, whatever else the tokenizer file says.

Digits stand alone and frequent words are one token, so a trace is about 45 tokens. A second script (Chinese words of
arithmetic) is in the vocabulary from the start, for work on language consistency.
"""

from __future__ import annotations

import functools
from typing import Any

from distill.chat import ThoughtTags
from distill.recipe_parts import WorldTraces
from distill.world import TAGS, make_traces

EOS, USER, ASSISTANT = "<|end|>", "<|user|>", "<|assistant|>"
SECOND_SCRIPT = "零一二三四五六七八九十百加减乘除等于余数先再然后所以答案是"
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}<|user|>{{ message['content'] }}"
    "{% elif message['role'] == 'assistant' %}<|assistant|>{{ message['content'] }}<|end|>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def build_tokenizer(tags: ThoughtTags = TAGS) -> Any:
    """The tokenizer with its chat template; its merges are learnt from the world's own traces, the same each time.

    A process learns them once; each call returns a tokenizer of its own.
    """
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_learnt()), eos_token=EOS, pad_token=EOS, unk_token=EOS,
        model_max_length=512, additional_special_tokens=[USER, ASSISTANT],
    )  # fmt: skip
    fast.add_tokens([tags.open, tags.close])
    fast.chat_template = TEMPLATE
    return fast


@functools.cache
def _learnt() -> str:
    """The pipeline with its vocabulary and merges, as tokenizers writes it."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=512, min_frequency=5, initial_alphabet=alphabet, show_progress=False
    )
    traces = make_traces(WorldTraces(count=2000, wrong_steps=0, missing_tags=1), seed=0)
    texts = [text for trace in traces for text in (trace.problem, trace.completion)]
    tokenizer.train_from_iterator([*texts, *(sign for sign in SECOND_SCRIPT for _ in range(5))], trainer)
    return tokenizer.to_str()
