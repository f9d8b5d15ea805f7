"""How English says numbers, dates, clock times, fractions, sums of money and measures."""

from collections.abc import Iterable, Sequence

from shibolet.speech.text.lattice import Slots, Ways
from shibolet.speech.text.numerals import NumberWords, Run

ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
TENS = "zero ten twenty thirty forty fifty sixty seventy eighty ninety".split()
SCALES = ((10**9, "billion"), (10**6, "million"), (10**3, "thousand"))
MONTHS = "january february march april may june july august september october november december".split()
_IRREGULAR_ORDINALS = {
    "one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth",
    "twelve": "twelfth",
}  # fmt: skip
_FRACTIONS = {
    (1, 2): ("half", "a half", "one half", "and a half"),
    (1, 4): ("quarter", "a quarter", "one quarter", "and a quarter", "a fourth", "one fourth", "and a fourth"),
    (3, 4): ("three quarters", "and three quarters", "three fourths", "and three fourths"),
    (1, 3): ("third", "a third", "one third", "and a third"),
    (2, 3): ("two thirds", "and two thirds"),
}
_AND = ("", "and")


def cardinals(number: int) -> list[Slots]:
    """Ways to say a number: with or without "and", "one thousand two hundred" and "twelve hundred"."""
    ways = [_cardinal(number)]
    if 1000 < number < 10_000 and number // 100 % 10 and number % 100:  # 1900 is "nineteen" and "hundred" of `chunks`
        ways.append([*_cardinal(number // 100), ("hundred",), _AND, *_cardinal(number % 100)])
    return ways


def _cardinal(number: int) -> Slots:
    if number < 20:
        return [(ONES[number],)]
    if number < 100:
        return [(f"{TENS[number // 10]} {ONES[number % 10]}" if number % 10 else TENS[number // 10],)]
    for scale, name in (*SCALES, (100, "hundred")):
        if number >= scale:
            count, rest = divmod(number, scale)
            said: list[Sequence[str]] = [("one", "a")] if count == 1 else [*_cardinal(count)]
            said.append((name,))
            return [*said, _AND, *_cardinal(rest)] if rest else said
    raise AssertionError(number)


def ordinal(name: str) -> str:
    """ "twenty six" -> "twenty sixth"."""
    first, space, last = name.rpartition(" ")
    if last.endswith("y"):
        return f"{first}{space}{last[:-1]}ieth"
    return first + space + _IRREGULAR_ORDINALS.get(last, last + "th")


def plural(name: str) -> str:
    """ "nineteen sixty" -> "nineteen sixties"."""
    return name[:-1] + "ies" if name.endswith("y") else name + ("es" if name.endswith("x") else "s")


def ordinals(number: int) -> list[Slots]:
    """Ways to say "12th"."""
    return [[*way[:-1], [ordinal(name) for name in way[-1]]] for way in cardinals(number)]


def _plurals(number: int) -> list[Slots]:
    return [[*way[:-1], [plural(name) for name in way[-1]]] for way in cardinals(number)]


def _chunks(digits: str) -> Iterable[Slots]:
    if digits == "00":
        yield [("hundred",)]  # "nineteen hundred"
    elif digits == "000":
        yield [("thousand",)]


def _special(ways: Ways, start: int, end: int, numbers: Sequence[str], separators: str, run: Run) -> None:
    values = [int(digits) for digits in numbers]
    if separators == ":" and values[0] <= 24 and len(numbers[1]) == 2 and values[1] < 60:
        _clock(ways, start, end, *values)
    elif separators == "/" and 0 < values[0] < 1000 and 1 < values[1] <= 100:
        _fraction(ways, start, end, *values)
    elif separators == "." and numbers[1] == "5":
        half = ways.node()
        run(numbers[0], start, half)
        ways.add(half, end, [("and a half",)])
    if separators in ("/", "//", ".."):
        for month, day in ((0, 1), (1, 0)):
            if 1 <= values[month] <= 12 and 1 <= values[day] <= 31:
                _date(ways, start, end, MONTHS[values[month] - 1], numbers[day], numbers[2:], run)


def _clock(ways: Ways, start: int, end: int, hour: int, minute: int) -> None:
    said, later, left = cardinals(hour)[0], cardinals(hour % 12 + 1)[0], 60 - minute
    if minute == 0:
        ways.add(start, end, [*said, ("", "o'clock")])
    elif minute <= 30:
        names = {15: ("quarter", "a quarter"), 30: ("half",)}.get(minute, ())
        ways.add(start, end, [(*names, *cardinals(minute)[0][0]), ("past", "after"), *said])
    else:
        names = {45: ("quarter", "a quarter")}.get(minute, ())
        ways.add(start, end, [(*names, *cardinals(left)[0][0]), ("to",), *later])


def _fraction(ways: Ways, start: int, end: int, above: int, below: int) -> None:
    if (above, below) in _FRACTIONS:
        ways.add(start, end, [_FRACTIONS[above, below]])
    if below > 2:
        parts = ordinals(below)[0]
        last = [name if above == 1 else plural(name) for name in parts[-1]]
        ways.add(start, end, [_AND, *cardinals(above)[0], *parts[:-1], last])


def _date(ways: Ways, start: int, end: int, month: str, day: str, year: Sequence[str], run: Run) -> None:
    """ "may twelfth", "twelfth of may", and the year where there is one."""
    after = ways.node() if year else end
    said = [day, day.lstrip("0"), *cardinals(int(day))[0][0], *ordinals(int(day))[0][0]]
    ways.add(start, after, [(month,), ("", "the"), said])
    ways.add(start, after, [("", "the"), said, ("", "of"), (month,)])
    if year:
        run(year[0], after, end)


ENGLISH_NUMBERS = NumberWords(
    digits={**{str(value): (ONES[value],) for value in range(1, 10)}, "0": ("zero", "oh", "o")},
    cardinals=cardinals,
    ordinals=ordinals,
    chunks=_chunks,
    repeats={2: ("double",), 3: ("triple",)},
    separators={".": ("point", "dot", ""), ",": ("", "comma"), ":": ("", "to"), "/": ("", "over", "slash")},
    signs={
        "$": ("dollars", "dollar"), "€": ("euros", "euro"), "£": ("pounds", "pound"), "₪": ("shekels", "shekel"),
        "¥": ("yen",), "¢": ("cents", "cent"), "%": ("percent",), "+": ("plus",), "&": ("and",), "=": ("equals",),
        "@": ("at",), "#": ("number", "hashtag", "pound"), "°": ("degrees", "degree"), "½": _FRACTIONS[1, 2],
        "¼": _FRACTIONS[1, 4], "¾": _FRACTIONS[3, 4], "⅓": _FRACTIONS[1, 3], "⅔": _FRACTIONS[2, 3],
    },
    cents={"$": ("cents", "cent", ""), "€": ("cents", "cent", ""), "£": ("pence", "p", "")},
    conjunctions=_AND,
    units={
        "k": ("thousand",), "m": ("million", "meters", "metres"), "bn": ("billion",), "kg": ("kilograms", "kilos"),
        "g": ("grams", "gram"), "km": ("kilometers", "kilometres"), "cm": ("centimeters", "centimetres"),
        "mm": ("millimeters", "millimetres"), "mi": ("miles", "mile"), "ft": ("feet", "foot"),
        "lb": ("pounds", "pound"), "lbs": ("pounds", "pound"), "oz": ("ounces", "ounce"), "mph": ("miles per hour",),
        "h": ("hours", "hour"), "min": ("minutes", "minute"), "s": ("seconds", "second"), "c": ("celsius",),
        "f": ("fahrenheit",), "gb": ("gigabytes",), "mb": ("megabytes",), "x": ("times",),
    },
    endings={**dict.fromkeys(("st", "nd", "rd", "th"), ordinals), "s": _plurals},
    special=_special,
)  # fmt: skip

DIGITS_OF = {name: str(value) for value, name in enumerate(ONES)} | {
    name: str(10 * value) for value, name in enumerate(TENS) if value > 1
}
