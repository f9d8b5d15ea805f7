"""How Hebrew says numbers, dates, clock times, fractions, sums of money and measures.

Speakers mix the genders and put "ve-" before more than the last part, so both forms of each are readings.
"""

from collections.abc import Iterable, Sequence

from shibolet.speech.text.lattice import JOIN, Slots, Ways
from shibolet.speech.text.numerals import NumberWords, Run

# Of each number 0 to 10: feminine, masculine, other spellings; those that stand before a noun.
ONES = (
    ("אפס",), ("אחת", "אחד"), ("שתיים", "שניים", "שתים", "שנים"), ("שלוש", "שלושה"), ("ארבע", "ארבעה"),
    ("חמש", "חמישה", "חמשה"), ("שש", "שישה", "ששה"), ("שבע", "שבעה"), ("שמונה",), ("תשע", "תשעה"), ("עשר", "עשרה"),
)  # fmt: skip
CONSTRUCT = (
    (), (), ("שתי", "שני"), ("שלושת",), ("ארבעת",), ("חמשת", "חמישת"), ("ששת", "שישת"), ("שבעת",), ("שמונת",),
    ("תשעת",), ("עשרת",),
)  # fmt: skip
TENS = ("", "עשר", "עשרים", "שלושים", "ארבעים", "חמישים", "שישים", "שבעים", "שמונים", "תשעים")
_TENS_SPELLED = {6: ("ששים",), 5: ("חמשים",)}
_FEMININE = ("", "אחת", "שתים", "שלוש", "ארבע", "חמש", "שש", "שבע", "שמונה", "תשע")
ORDINALS = (
    (), ("ראשון", "ראשונה"), ("שני", "שנייה", "שניה"), ("שלישי", "שלישית"), ("רביעי", "רביעית"),
    ("חמישי", "חמישית"), ("שישי", "שישית"), ("שביעי", "שביעית"), ("שמיני", "שמינית"), ("תשיעי", "תשיעית"),
    ("עשירי", "עשירית"),
)  # fmt: skip
MONTHS = (
    ("ינואר",), ("פברואר",), ("מרץ", "מרס"), ("אפריל",), ("מאי",), ("יוני",), ("יולי",), ("אוגוסט",), ("ספטמבר",),
    ("אוקטובר",), ("נובמבר",), ("דצמבר",),
)  # fmt: skip
SCALES = ((10**9, ("מיליארד",)), (10**6, ("מיליון", "מליון")))
_HALF = ("חצי", "וחצי")
_FRACTIONS = {
    (1, 2): _HALF, (1, 4): ("רבע", "ורבע"), (3, 4): ("שלושה רבעים", "ושלושה רבעים", "שלושת רבעי"),
    (1, 3): ("שליש", "ושליש"), (2, 3): ("שני שלישים", "ושני שלישים", "שני שליש"),
}  # fmt: skip


def _and(names: Iterable[str]) -> tuple[str, ...]:
    """Each name with and without "ve-" before it, of a part that is not the first."""
    return tuple(form for name in names for form in (f"ו{name}", name))


def _below_twenty(number: int) -> tuple[str, ...]:
    if number <= 10:
        return ONES[number] + CONSTRUCT[number]
    unit = number - 10
    ends = ("עשרה", "עשר") if unit > 0 else ()
    return tuple(f"{name} {end}" for name in ONES[unit] for end in ends)


def _parts(number: int) -> list[tuple[str, ...]]:
    """The parts of a number under 1000, each in its forms without "ve-"."""
    parts: list[tuple[str, ...]] = []
    if number >= 200:
        hundreds = number // 100
        parts.append(("מאתיים", "מאתים") if hundreds == 2 else (f"{_FEMININE[hundreds]} מאות",))
    elif number >= 100:
        parts.append(("מאה",))
    number %= 100
    if number >= 20:
        parts.append((TENS[number // 10], *_TENS_SPELLED.get(number // 10, ())))
        number %= 10
    if number:
        parts.append(_below_twenty(number))
    return parts


def _count(number: int, names: Sequence[str]) -> list[tuple[str, ...]]:
    """Parts of so many millions: one is the bare name, of two the construct is said."""
    if number == 1:
        return [(*names, *(f"{name} {one}" for name in names for one in ONES[1]))]
    return [*_parts(number), tuple(names)] if number > 2 else [CONSTRUCT[2], tuple(names)]


def _thousands(number: int) -> list[tuple[str, ...]]:
    if number == 1:
        return [("אלף",)]
    if number == 2:
        return [("אלפיים", "אלפים")]
    if number <= 10:
        return [
            tuple(f"{name} {noun}" for name in CONSTRUCT[number] + ONES[number] for noun in ("אלפים", "אלף", "אלפי"))
        ]
    return [*_parts(number), ("אלף",)]


def cardinals(number: int) -> list[Slots]:
    """Ways to say a number; of each part both genders and the form before a noun, with and without "ve-"."""
    if number == 0:
        return [[ONES[0]]]
    groups: list[list[tuple[str, ...]]] = []
    for scale, names in SCALES:
        if number >= scale:
            groups.append(_count(number // scale, names))
            number %= scale
    if number >= 1000:
        groups.append(_thousands(number // 1000))
        number %= 1000
    groups += [[part] for part in _parts(number)]
    said = [
        part if 0 < place == len(group) - 1 else _and(part)  # in "five thousand" nothing joins the noun to its count
        for group in groups
        for place, part in enumerate(group)
    ]
    return [[groups[0][0], *said[1:]]]


def ordinals(number: int) -> list[Slots]:
    """Ordinals to ten, with and without the article."""
    if not 1 <= number <= 10:
        return []
    return [[tuple(form for name in ORDINALS[number] for form in (name, f"ה{name}"))]]


def _chunks(digits: str) -> Iterable[Slots]:
    if digits == "00":
        yield [("מאות",)]
    elif digits == "000":
        yield [("אלף", "אלפים")]


def _special(ways: Ways, start: int, end: int, numbers: Sequence[str], separators: str, run: Run) -> None:
    values = [int(digits) for digits in numbers]
    if separators == ":" and values[0] <= 24 and len(numbers[1]) == 2 and values[1] < 60:
        _clock(ways, start, end, *values, run)
    elif separators == "/" and (values[0], values[1]) in _FRACTIONS:
        ways.add(start, end, [_FRACTIONS[values[0], values[1]]])
    elif separators == "." and numbers[1] in ("5", "25", "75"):
        below = {"5": (1, 2), "25": (1, 4), "75": (3, 4)}[numbers[1]]
        whole = ways.node()
        run(numbers[0], start, whole)
        ways.add(whole, end, [_FRACTIONS[below]])
    if separators in ("/", "//", "..", ".") and 1 <= values[0] <= 31 and 1 <= values[1] <= 12:
        _date(ways, start, end, values[0], values[1], numbers[2:], run)


def _clock(ways: Ways, start: int, end: int, hour: int, minute: int, run: Run) -> None:
    said, later = cardinals(hour)[0], cardinals(hour % 12 + 1)[0]
    if minute == 0:
        ways.add(start, end, [*said, ("", "אפס אפס")])
        return
    after = ways.node()
    run(str(hour), start, after)
    ways.add(after, end, [_and(names) for names in cardinals(minute)[0]] + [("", "דקות")])
    if minute in (15, 30):
        ways.add(after, end, [("ורבע",) if minute == 15 else ("וחצי",)])
    if minute > 30:
        left = cardinals(60 - minute)[0]
        ways.add(start, end, [*left, ("ל" + JOIN, "דקות ל" + JOIN), *later])
        if minute == 45:
            ways.add(start, end, [("רבע ל" + JOIN,), *later])


def _date(ways: Ways, start: int, end: int, day: int, month: int, year: Sequence[str], run: Run) -> None:
    """Day and month by name, by number or by ordinal, and the year where there is one."""
    after = ways.node() if year else end
    names = [form for name in MONTHS[month - 1] for form in (f"ב{name}", name)]
    numbers = [form for name in _below_twenty(month) for form in (f"ל{name}", name)]
    ordinal = [f"ל{name}" for name in ORDINALS[month]] if month <= 10 else []
    article = [("", "ה" + JOIN)] if day < 20 else []
    said = cardinals(day)[0]
    ways.add(start, after, [*article, *said, [*names, *numbers, *ordinal]])
    if day <= 10:
        ways.add(start, after, [*ordinals(day)[0], [*names, *numbers, *ordinal]])
    if year:
        run(year[0], after, end)


HEBREW_NUMBERS = NumberWords(
    digits={str(value): ONES[value] + CONSTRUCT[value] for value in range(10)},
    cardinals=cardinals,
    ordinals=ordinals,
    chunks=_chunks,
    repeats={2: ("פעמיים",)},
    separators={".": ("נקודה", ""), ",": ("", "פסיק"), ":": ("", "ו" + JOIN), "/": ("", "חלקי", "לוכסן", "סלש")},
    signs={
        "$": ("דולר", "דולרים"), "€": ("אירו", "יורו"), "£": ("פאונד", "לירות", "לירות שטרלינג"),
        "₪": ("שקל", "שקלים", "שקל חדש", "שקלים חדשים", 'ש"ח'), "¥": ("ין",), "¢": ("סנט",),
        "%": ("אחוז", "אחוזים"), "+": ("פלוס", "ועוד"), "&": ("ו" + JOIN, "אנד"), "=": ("שווה",), "@": ("שטרודל",),
        "#": ("מספר", "סולמית", "האשטג"), "°": ("מעלות", "מעלה"), "½": _HALF, "¼": _FRACTIONS[1, 4],
        "¾": _FRACTIONS[3, 4], "⅓": _FRACTIONS[1, 3], "⅔": _FRACTIONS[2, 3],
    },
    follow="$€£₪¥%",
    teens_end_in_ten=True,
    one_follows=True,
    cents={"$": ("סנט", "סנטים", ""), "€": ("סנט", "סנטים", ""), "₪": ("אגורות", "")},
    conjunctions=("", "ו" + JOIN),
    units={
        'ק"מ': ("קילומטר", "קילומטרים"), 'ס"מ': ("סנטימטר", "סנטימטרים"), 'מ"מ': ("מילימטר", "מילימטרים"),
        'ק"ג': ("קילו", "קילוגרם"), "מ'": ("מטר", "מטרים"), "km": ("קילומטר",), "kg": ("קילו", "קילוגרם"),
        "cm": ("סנטימטר",), "k": ("אלף", "קיי"), "m": ("מיליון", "מטר"),
    },
    endings={},
    special=_special,
)  # fmt: skip

DIGITS_OF = {
    **{name: str(value) for value in range(11) for name in ONES[value]},
    **{TENS[value]: str(10 * value) for value in range(2, 10)},
}
