"""The vocabulary: what each character, command, function word and unit means to us. Tables alone, wide on purpose."""

from __future__ import annotations

from fractions import Fraction


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _word_set(text: str) -> frozenset[str]:
    return frozenset(_words(text))


#: What people write to what we call it.
FUNCTIONS = {
    "sin": "sin", "cos": "cos", "tan": "tan", "cot": "cot", "sec": "sec", "csc": "csc",
    "tg": "tan", "ctg": "cot", "cosec": "csc", "arctg": "atan", "sinh": "sinh", "cosh": "cosh", "tanh": "tanh",
    "arcsin": "asin", "arccos": "acos", "arctan": "atan", "asin": "asin", "acos": "acos", "atan": "atan",
    "log": "ln", "ln": "ln", "lg": "lg", "exp": "exp", "sqrt": "sqrt", "abs": "abs", "floor": "floor", "ceil": "ceil",
    "gcd": "gcd", "lcm": "lcm", "max": "max", "min": "min", "cis": "cis",
}  # fmt: skip

#: Characters to the LaTeX they stand for.
UNICODE = {
    "\u2212": "-", "\u2013": "-", "\u2010": "-", "\u2011": "-", "\u2217": "*",
    "\u00f7": "/", "\u2044": "/", "\u2215": "/", "\u00d7": r"\times ",
    "\u00b7": r"\cdot ", "\u22c5": r"\cdot ", "\u00b1": r"\pm ", "\u2213": r"\mp ",
    "\u2264": r"\le ", "\u2265": r"\ge ", "\u2260": r"\ne ", "\u2248": r"\approx ", "\u2208": r"\in ",
    "\u222a": r"\cup ", "\u2229": r"\cap ", "\u2205": r"\emptyset ", "\u211d": r"\mathbb{R}", "\u2124": r"\mathbb{Z}",
    "\u221e": r"\infty ", "\u00b0": r"^\circ ", "\u221a": r"\sqrt ", "\u2220": r"\angle ", "\u210f": r"\hbar ",
    "\u2026": r"\ldots ", "\u22ef": r"\ldots ", "\u2223": "|", "\u2032": "'", "\u2019": "'",
    "\u00bd": r"\frac{1}{2}", "\u00bc": r"\frac{1}{4}", "\u00be": r"\frac{3}{4}",
    "\u2153": r"\frac{1}{3}", "\u2154": r"\frac{2}{3}",
    "\uff0c": ",", "\u3001": ",", "\u3002": ".", "\uff1a": ":", "\uff1b": ";", "\uff08": "(", "\uff09": ")",
    "\uff1d": "=", "\uff05": "%",
    "\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u200b": "", "\u2061": "", "\u2062": "",
}  # fmt: skip
_GREEK_ALPHABET = _words(
    """
    alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho varsigma sigma tau
    upsilon phi chi psi omega
    """
)
UNICODE |= {chr(0x3B1 + n): rf"\{name} " for n, name in enumerate(_GREEK_ALPHABET)}
UNICODE |= {
    chr(0x391 + n): rf"\{name.capitalize()} "
    for n, name in enumerate(_GREEK_ALPHABET)
    if name in ("gamma", "delta", "theta", "lambda", "xi", "pi", "sigma", "phi", "psi", "omega")
}

GREEK = _word_set(
    """
    alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho varrho
    sigma varsigma tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Sigma Upsilon Phi Psi Omega
    hbar ell aleph odot oplus otimes star dagger
    """
)
#: Commands that stand for a number of their own, not for a letter.
CONSTANTS = {
    "pi": "pi",
    "infty": "infty",
    "infinity": "infty",
    "inf": "infty",
    "emptyset": "emptyset",
    "Pi": "Pi",
}
ACCENTS = _word_set(
    """
    dot ddot hat widehat bar overline vec overrightarrow tilde underline widetilde mathcal mathbb mathscr
    mathfrak
    """
)
MARKS = {
    "cdot": "*", "times": "*", "ast": "*", "bullet": "*", "div": "/", "pm": "±", "mp": "∓",
    "le": "<=", "leq": "<=", "leqslant": "<=", "ge": ">=", "geq": ">=", "geqslant": ">=", "lt": "<", "gt": ">",
    "ne": "!=", "neq": "!=", "approx": "=", "equiv": "=", "sim": "=", "simeq": "=",
    "lbrace": "{:", "rbrace": ":}", "lbrack": "[", "rbrack": "]", "lparen": "(", "rparen": ")",
    "lvert": "|", "rvert": "|", "vert": "|", "mid": "|", "colon": ":", "prime": "'", "circ": "°", "degree": "°",
    "cup": "∪", "in": "∈", "backslash": "\\",
}  # fmt: skip
_KEPT = _word_set(
    """
    frac sqrt binom dbinom tbinom text textbf textit textrm textsf textnormal mathrm mathbf mathit mbox hbox
    emph operatorname lfloor rfloor lceil rceil begin end boxed fbox cap setminus emptyset varnothing notin
    ldots dots cdots angle triangle mathbb to rightarrow mapsto sum int prod lim pmod bmod mod langle rangle
    forall exists land lor neg cup subset subseteq perp parallel cong implies iff Rightarrow partial nabla over
    choose stackrel overset underset underbrace overbrace oint iint ne
    """
)
TEXT_COMMANDS = _word_set(
    """
    text textbf textit textrm textsf textnormal mathrm mathbf mathit mbox hbox emph operatorname
    """
)
_LAYOUT = _word_set(
    """
    left right middle big bigg bigl bigr Big Bigg Bigl Bigr biggl biggr displaystyle textstyle scriptstyle
    limits nolimits quad qquad thinspace enspace hspace hskip hfill newline centering rm bf it sf boldmath large
    Large small hline phantom hphantom vphantom null pounds euro AA dfrac tfrac cfrac not
    """
)
KNOWN = GREEK | CONSTANTS.keys() | ACCENTS | MARKS.keys() | _KEPT | _LAYOUT | FUNCTIONS.keys()

#: Spellings to the unit's name here.
UNITS = {
    "mm": "millimeters millimetres millimeter millimetre", "cm": "centimeters centimetres centimeter centimetre",
    "m": "meters metres meter metre", "km": "kilometers kilometres kilometer kilometre kms",
    "inch": "inches in.", "ft": "feet foot", "yd": "yards yard", "mile": "miles mi", "angstrom": "\u00c5 \\AA AA",
    "mg": "milligrams milligram", "g": "grams gram gm", "kg": "kilograms kilogram kgs kilos",
    "ton": "tons tonnes tonne", "lb": "pounds pound lbs", "oz": "ounces ounce",
    "s": "seconds second sec secs", "min": "minutes minute mins", "h": "hours hour hrs hr",
    "day": "days", "week": "weeks", "month": "months", "year": "years yrs",
    "ml": "milliliters millilitres milliliter", "l": "liters litres liter litre", "gallon": "gallons gal",
    "dollar": "dollars", "cent": "cents", "euro": "euros", "rupee": "rupees", "percent": "",
    "degree": "degrees deg", "radian": "radians rad", "hz": "Hz hertz",
    "mph": "", "kmh": "kph", "km/h": "", "m/s": "",
    "erg": "ergs", "j": "joules joule", "kj": "kJ kilojoules", "kj/mol": "", "mol": "mole moles",
    "ev": "eV", "kev": "keV", "mev": "MeV",
    "nm": "nanometers nanometer", "um": "micrometers", "us": "microseconds", "ns": "nanoseconds", "ms": "milliseconds",
    "mv": "millivolts", "v": "volts volt", "kv": "kilovolts", "ma": "milliamperes", "amp": "amperes amps", "w": "watts watt",
    "kw": "kilowatts", "mw": "", "khz": "kilohertz", "mhz": "megahertz", "ghz": "gigahertz", "pa": "pascals", "kpa": "", "mpa": "",
    "n": "newtons newton", "kn": "kilonewtons", "gev": "", "quart": "quarts", "pint": "pints", "cup": "cups",
    "am": "a.m.", "pm": "p.m.", "north": "", "south": "", "east": "", "west": "",
    "unit": "units", "sq unit": "sq units", "point": "points", "way": "ways",
    "person": "people students children persons",
}  # fmt: skip

#: Words that make a text behind a number more than a unit: another answer, or none.
NO_UNITS = _word_set(
    """
    and or not is are was be wrong right correct more less fewer about around nearly maybe perhaps if because but
    than plus minus times over divided squared cubed
    """
)
#: Counting words behind a number, and what they multiply it by.
COUNTING = {
    "hundred": Fraction(100), "thousand": Fraction(10**3), "million": Fraction(10**6), "billion": Fraction(10**9),
    "trillion": Fraction(10**12), "dozen": Fraction(12), "dozens": Fraction(12), "half": Fraction(1, 2),
    "halves": Fraction(1, 2), "thirds": Fraction(1, 3), "fourths": Fraction(1, 4), "fifths": Fraction(1, 5),
    "sixths": Fraction(1, 6), "eighths": Fraction(1, 8), "ninths": Fraction(1, 9), "tenths": Fraction(1, 10),
}  # fmt: skip

#: Words that count the question's own things: they never contradict one another.
LOOSE_UNITS = frozenset({"unit", "sq unit", "point", "person", "way", "percent"})

_UNDER_TWENTY = _words(
    """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
    seventeen eighteen nineteen
    """
)
_TENS = _words("twenty thirty forty fifty sixty seventy eighty ninety")
#: Numbers in words, from zero to a hundred.
NUMBER_WORDS = {word: number for number, word in enumerate(_UNDER_TWENTY)}
NUMBER_WORDS |= {word: 10 * number for number, word in enumerate(_TENS, start=2)} | {"one hundred": 100}
NUMBER_WORDS |= {
    f"{ten}{between}{_UNDER_TWENTY[one]}": NUMBER_WORDS[ten] + one
    for ten in _TENS for one in range(1, 10) for between in "- "
}  # fmt: skip
