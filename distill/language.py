"""What languages a text is written in: the one function that reward, filter and report ask.

Maths, code, LaTeX and addresses are taken out first. Scripts tell languages apart where they can; among languages of
one script the function words of each sentence do ("the", "und", "est"). A share counts words: a run of two or more
letters of a script, or, where the script writes no spaces (Chinese, Japanese, Thai), two characters.

A sentence counts as another language than most of its text only when it holds at least two more different function
words of that language, so that names, quotations of a word and noise count with what stands around them. Languages that
we have no words for are ``other`` from FEW words on, when fewer than one word in twenty is a function word of any.
"""

from __future__ import annotations

import re
from collections import Counter

from distill.recipe_filters import LANGUAGE_CODES

#: Function words, frequent and telling; a word may belong to several languages, and then speaks for each.
_WORDS: dict[str, dict[str, str]] = {
    "latin": {
        "en": "the of and to in is that it for was on are as with his they at be this from have or by one had not but "
        "what all were when we there can an your which their said if do will each about how up out them then she many "
        "some so these would other into has more her two him see time could no make than first been its who now my "
        "did get let me you he need where since because therefore thus hence here both also only",
        "de": "der die das und ist nicht ein eine einen einem einer zu den dem des mit von auf für sich wir ich sie es "
        "im auch an als wird sind aus bei oder nach wie dann wenn aber hat haben werden kann können also nur noch so "
        "um durch zur zum diese dieser dieses was muss sein da daher somit gilt wurde sehr mehr hier",
        "fr": "le la les et est un une des du de que qui dans pour pas sur au aux avec ce cette ces il elle nous vous "
        "on ne se par plus sont ou mais donc alors si être avoir fait comme tout deux sa son ses leur peut faut ainsi "
        "car soit où aussi même puis je",
        "es": "el la los las y es un una de que en por para con no se del al lo como más pero sus su este esta son "
        "si entonces cuando también hay ser está desde hasta donde porque muy sobre entre cada ya todo puede "
        "tenemos así luego cuál qué dos",
        "it": "il lo la gli le e è un una di che in per con non si del della dei delle al alla come più ma sono questo "
        "questa se quindi allora anche quando dove perché ci nel nella da ha ho abbiamo essere ogni tutti due cui "
        "dunque poi così",
        "pt": "o a os as e é um uma de que em por para com não se do da dos das no na nos nas ao como mais mas este "
        "esta são ser então quando também há está até onde porque muito sem sobre entre cada já tudo pode temos assim "
        "logo qual dois ou",
        "nl": "de het een en van is dat op te in niet met voor zijn er maar om ook als dan wij we ik je deze dit die "
        "naar bij aan uit of hoe wat kan worden wordt heeft hebben dus want nog over door geen zo",
        "sv": "och att det som en ett på är av för med den till inte har de om så kan från men vi jag var vara eller "
        "när då detta denna också där hur vad ska blir alla mellan",
        "pl": "i w z na nie się to jest że do jak co ale po od za tak dla czy tym ten ta te oraz więc gdy jeśli są był "
        "przez przy może można które który która tylko także mamy",
        "tr": "bir ve bu da de için ile olarak çok daha ne gibi olan var ise değil ama o kadar sonra her mi veya ya "
        "biz ben bunu şu en olur olduğu göre iki yani çünkü",
        "vi": "và là của có không cho các một trong được với này đó những để người khi từ ta thì như ra nếu vậy số hai "
        "bằng phải cũng nên vì theo mà",
        "id": "yang dan di ini itu dengan untuk dari tidak dalam adalah pada akan ke juga atau karena ada kita saya "
        "dapat bisa maka jika oleh sebagai kami lebih sudah kita setiap",
    },
    "cyrillic": {
        "ru": "и в не на что с по это как к из для то от но за мы он она они так же бы или при если у до есть где "
        "тогда когда чтобы было быть все также его её этого который",
        "uk": "і в не на що з по це як до із для та від але за ми він вона вони так же б або при якщо у є де тоді "
        "коли щоб було бути всі також його її цього який",
    },
    "arabic": {
        "ar": "في من على إلى أن هذا هذه التي الذي هو هي ما لا كان مع عن أو ثم كل بين إذا لأن قد و",
        "fa": "در از به که این را با است برای آن یک می های تا بر یا هم اگر پس چون باید شود ما و",
    },
}  # fmt: skip
#: Scripts of one language each.
_ALONE = {"hangul": "ko", "hebrew": "he", "devanagari": "hi", "thai": "th", "greek": "el"}
_SCRIPTS = {
    "latin": "A-Za-zÀ-ÖØ-öø-ɏḀ-ỿ",
    "cyrillic": "Ѐ-ӿ",
    "arabic": "؀-ۿݐ-ݿ",
    "hangul": "가-힣",
    "hebrew": "א-ת",
    "devanagari": "ऀ-ॿ",
    "thai": "ก-๛",
    "greek": "Ͱ-Ͽἀ-῿",
}
_UNSPACED = 2  # characters that count as a word where no spaces stand

_NAMED = (*(name for languages in _WORDS.values() for name in languages), *_ALONE.values(), "zh", "ja")
assert set(_NAMED) == set(LANGUAGE_CODES), set(_NAMED) ^ set(LANGUAGE_CODES)
#: Words from which on a text of one script without function words is called ``other``.
FEW = 20
_TELLING = 0.05  # share of function words below which no language of a script is believed
_LEAD = 2  # different function words by which a sentence must leave the language around it

_RUNS = {script: re.compile(f"[{letters}]{{2,}}") for script, letters in _SCRIPTS.items()}
_HAN, _KANA = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]"), re.compile(r"[\u3041-\u30ff]")
_SENTENCES = re.compile(r"[.!?;:\n。！？；，]+")
# Bounded, so that an opening that never closes cannot make the search quadratic.
_STRIPPED = re.compile(
    r"```.*?(?:```|\Z)"  # a block of code
    r"|`[^`\n]{1,200}`"
    r"|\$\$.{1,2000}?\$\$|\$[^$\n]{1,500}\$|\\\[.{1,2000}?\\\]|\\\(.{1,1000}?\\\)"
    r"|\\begin\{(\w{1,20}\*?)\}.{1,3000}?\\end\{\1\}"
    r"|\\boxed\{[^{}\n]{0,200}\}|\\[A-Za-z]+"
    r"|https?://\S+|</?\w{1,20}>|<\|\w{1,30}\|>|\[/?THINK\]",
    re.DOTALL,
)
_SPEAKS_FOR: dict[str, dict[str, tuple[str, ...]]] = {}
for _script, _languages in _WORDS.items():
    _table: dict[str, tuple[str, ...]] = {}
    for _language, _listed in _languages.items():
        for _word in set(_listed.split()):
            _table[_word] = (*_table.get(_word, ()), _language)
    _SPEAKS_FOR[_script] = _table


def prose(text: str) -> str:
    """A text without its maths, code, LaTeX commands, addresses and thought tags."""
    return _STRIPPED.sub(" ", text)


def language_shares(text: str) -> dict[str, float]:
    """The share of a text's words in each language that it holds, summing to 1; empty for a text without words.

    ``latin``, ``cyrillic`` and ``arabic`` are words too few to tell a language of that script; ``other`` is a language
    of such a script that is none of ours.
    """
    words: Counter[str] = Counter()
    bare = prose(text)
    scripts = ("latin",) if bare.isascii() else tuple(_SCRIPTS)
    for script in scripts:
        found = _of_script(script, bare)
        for language, number in found.items():
            words[language] += number
    if "hangul" in scripts:
        han, kana = len(_HAN.findall(bare)), len(_KANA.findall(bare))
        # Japanese mixes both; a tenth of kana is far more than Chinese quotes and far less than Japanese needs.
        words["ja" if kana > (han + kana) / 10 else "zh"] += (han + kana) // _UNSPACED
    total = words.total()
    return {language: number / total for language, number in sorted(words.items()) if number}


def share_of(shares: dict[str, float], target: str) -> float:
    """How much of the text is in one language: its own share and what cannot be told from it.

    1 for a text without words: nothing of it is in another language.

    Args:
        shares: as `language_shares` tells them.
        target: one of `distill.recipe_filters.LANGUAGE_CODES`.
    """
    if not shares:
        return 1.0
    script = next((name for name, languages in _WORDS.items() if target in languages), "")
    return shares.get(target, 0.0) + shares.get(script, 0.0)


def language_share(text: str, target: str) -> float:
    """The share of a text in one language, between 0 and 1; see the module for what is counted."""
    return share_of(language_shares(text), target)


def _of_script(script: str, bare: str) -> Counter[str]:
    """Words of one script in each of its languages."""
    find = _RUNS[script].findall
    if script in _ALONE:
        runs = find(bare)
        number = sum(map(len, runs)) // _UNSPACED if script == "thai" else len(runs)
        return Counter({_ALONE[script]: number})
    speaks_for = _SPEAKS_FOR[script]
    sentences: list[tuple[int, Counter[str]]] = []
    hits: Counter[str] = Counter()
    total = 0
    for sentence in _SENTENCES.split(bare.lower()):
        runs = find(sentence)
        if not runs:
            continue
        said: Counter[str] = Counter()
        for run in set(runs):  # "per hour, ... per day" is one word of Italian, not three
            for language in speaks_for.get(run, ()):
                said[language] += 1
        sentences.append((len(runs), said))
        hits.update(said)
        total += len(runs)
    if not total:
        return Counter()
    main = max(_WORDS[script], key=lambda language: hits[language])
    if hits[main] < _TELLING * total or not hits[main]:
        return Counter({"other" if total >= FEW else script: total})
    words: Counter[str] = Counter()
    for number, said in sentences:
        best = max(said, key=lambda language: (said[language], language), default=main)
        words[best if said[best] >= said[main] + _LEAD else main] += number
    return words
