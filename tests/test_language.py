"""The share of a text in a language: by script, by function words, without maths and code."""

from __future__ import annotations

import time

import pytest

from distill.language import language_share, language_shares, prose, share_of
from distill.recipe_filters import LANGUAGE_CODES

SENTENCES = {
    "en": "Let me think about this, because the sum of the two numbers is not what we need here.",
    "de": "Ich denke, dass wir die Summe der Zahlen berechnen können, aber das ist nicht schwer.",
    "fr": "Nous avons donc la somme des deux nombres, mais ce n'est pas tout ce qui est dans le texte.",
    "es": "Entonces la suma de los dos números es cinco, pero no hay más que hacer con ella en este caso.",
    "it": "Quindi la somma dei due numeri è cinque, ma non abbiamo ancora tutto quello che ci serve nel caso.",
    "pt": "Então a soma dos dois números é cinco, mas não temos mais nada para fazer com ela também.",
    "nl": "Dus de som van de twee getallen is vijf, maar dat is niet wat we voor deze vraag nodig hebben.",
    "sv": "Summan av de två talen är fem, men det är inte vad vi ska ha för den här frågan också.",
    "pl": "Suma tych dwóch liczb to pięć, ale nie jest to wszystko, co może się z tego dla nas wziąć.",
    "tr": "Bu iki sayının toplamı beş olarak bulunur ama bu bizim için çok önemli bir şey değil.",
    "vi": "Tổng của hai số này là năm và không có gì khác cần làm cho bài này nếu ta đã được kết quả.",
    "id": "Jumlah dari dua bilangan ini adalah lima dan tidak ada yang lain yang dapat kita lakukan untuk itu.",
    "ru": "Сумма этих двух чисел равна пяти, и это не то, что мы должны найти, если так можно сказать.",
    "uk": "Сума цих двох чисел дорівнює п'яти, і це не те, що ми маємо знайти, якщо так можна сказати.",
    "ar": "مجموع هذين العددين هو خمسة و لا يوجد في هذا السؤال كل ما كان من قبل",
    "fa": "مجموع این دو عدد پنج است و ما در این سوال به آن هم باید فکر کنیم که چه می شود",
    "ko": "이 두 수의 합은 다섯이고 더 이상 할 일이 없습니다.",
    "he": "סכום שני המספרים הוא חמש ואין עוד מה לעשות כאן",
    "hi": "इन दो संख्याओं का योग पाँच है और यहाँ करने को कुछ और नहीं है",
    "th": "ผลรวมของสองจำนวนนี้คือห้าและไม่มีอะไรต้องทำอีก",
    "el": "Το άθροισμα των δύο αριθμών είναι πέντε και δεν υπάρχει κάτι άλλο",
    "zh": "我们需要计算这两个数的和，然后检查结果是否正确。",
    "ja": "まず、この二つの数の和を計算して、それから結果を確かめます。",
}


def test_every_language_that_a_recipe_may_name_is_told() -> None:
    assert set(SENTENCES) == set(LANGUAGE_CODES)
    for language, sentence in SENTENCES.items():
        assert language_shares(sentence) == {language: 1.0}, language
        assert language_share(sentence, language) == 1.0


@pytest.mark.parametrize("other", [code for code in SENTENCES if code != "en"])
def test_a_mixture_has_both_shares(other: str) -> None:
    mixed = "\n".join([*[SENTENCES["en"]] * 3, SENTENCES[other]])
    shares = language_shares(mixed)
    assert shares.keys() == {"en", other} and abs(sum(shares.values()) - 1) < 1e-9
    assert 0.08 < shares[other] < 0.45
    assert language_share(mixed, "en") == shares["en"]


@pytest.mark.parametrize(
    "text",
    ["$$\\text{Wir haben die Summe und das ist nicht}$$", "\\[ \\sum_{n} und die der \\]", "`und die der das`",
     "```python\nund = die + der + das + ist\n```", "```\nund die der das ist nicht", "https://und.die.der/das-ist",
     "\\frac \\left \\und", "\\begin{align} und die der das ist \\end{align}", "<think></think><|end_of_thought|>",
     "17 + 25 = 42", "x y z n", ""],
)  # fmt: skip
def test_maths_code_and_addresses_are_no_language(text: str) -> None:
    assert language_shares(text) == {}
    assert language_share(text, "en") == 1.0 == language_share(text, "zh")
    assert language_shares(f"{SENTENCES['en']} {text}") == {"en": 1.0}


def test_what_never_closes_does_not_swallow_the_rest() -> None:
    assert language_shares("It costs $5. " + SENTENCES["en"]) == {"en": 1.0}
    assert "the sum" in prose("\\( x. " + SENTENCES["en"])


def test_words_of_another_language_in_a_sentence_are_not_that_language() -> None:
    text = "Navin earns 160 rupee per hour, Luka earns 25 kuna per hour, Ian earns 34 pula per hour.\n"
    assert language_shares(text + SENTENCES["en"]) == {"en": 1.0}
    assert language_shares("We use sin a cos b minus sin b cos a, so that the sin es of it is no sin.") == {
        "en": 1.0
    }


def test_what_cannot_be_told_counts_for_the_languages_of_its_script() -> None:
    assert language_shares("Simplify fraction") == {"latin": 1.0}
    assert share_of({"latin": 1.0}, "de") == 1.0 and share_of({"latin": 1.0}, "ru") == 0.0
    finnish = (
        "Lasketaan ensin kahden luvun summa jonka jälkeen tulos tarkistetaan vielä kerran huolellisesti. " * 3
    )
    finnish += "Tulos on oikein."
    assert language_shares(finnish) == {"other": 1.0} and language_share(finnish, "en") == 0.0


def test_chinese_inside_an_english_thought_is_seen() -> None:
    text = f"{SENTENCES['en']} {SENTENCES['zh']} {SENTENCES['en']}"
    assert 0.6 < language_share(text, "en") < 0.85


def test_twenty_kilobytes_take_milliseconds() -> None:
    text = (SENTENCES["en"] + " We have $x^2 + 3x = 0$ and so on.\n") * 160
    assert 19_000 < len(text) < 24_000
    best = min(_seconds(text) for _ in range(5))
    assert best < 0.05  # 3 ms on a free core


def test_openings_without_end_are_no_trap() -> None:
    text = "\\[ a " * 5000 + "\\begin{x} b " * 3000 + "$ `" * 5000
    assert _seconds(text) < 5


def _seconds(text: str) -> float:
    started = time.process_time()
    language_shares(text)
    return time.process_time() - started
