"""The readings of a Hebrew word: numbers and signs, abbreviations with gershayim, Latin words by sound or by letter."""

import re

from shibolet.speech.text.hebrew_numbers import HEBREW_NUMBERS, ORDINALS
from shibolet.speech.text.lattice import JOIN, Lattice, Ways
from shibolet.speech.text.numerals import word_reader

PREFIXES = "ובהלמכש"
MAX_PREFIX_LETTERS = 3
MAX_SPELLED_LETTERS = 4  # of a Latin word that is read letter by letter: to_words does not keep capitals
ABBREVIATIONS = {
    'ד"ר': ("דוקטור",), "פרופ'": ("פרופסור",), "גב'": ("גברת",), "מר'": ("מר",), "רח'": ("רחוב",),
    "עמ'": ("עמוד", "עמודים"), "מס'": ("מספר",), "וכו'": ("וכולי", "וכולה"), "וגו'": ("וגומר",), "שד'": ("שדרות",),
    "טל'": ("טלפון",), "שכ'": ("שכונת", "שכונה"), "אונ'": ("אוניברסיטת", "אוניברסיטה"), "ר'": ("רבי",),
    "ס'": ("סעיף",), "ע'": ("עמוד",), "דק'": ("דקות", "דקה"), "שנ'": ("שניות", "שנייה"), "מ'": ("מטר", "מטרים"),
    "ק'": ("קילו",), "אח'": ("אחרים",), 'ארה"ב': ("ארצות הברית",), 'בי"ס': ("בית ספר",), 'ביה"ס': ("בית הספר",),
    'בי"ח': ("בית חולים",), 'ביה"ח': ("בית החולים",), 'ביהמ"ש': ("בית המשפט",), 'בימ"ש': ("בית משפט",),
    'ביהכ"נ': ("בית הכנסת",), 'ק"מ': ("קילומטר", "קילומטרים"), 'ס"מ': ("סנטימטר", "סנטימטרים"),
    'מ"מ': ("מילימטר", "מילימטרים", "מפקד מחלקה"), 'ק"ג': ("קילו", "קילוגרם"), 'מ"ר': ("מטר רבוע", "מטרים רבועים"),
    'קמ"ש': ("קילומטר לשעה", "קילומטרים לשעה"), 'ש"ח': ("שקל", "שקלים", "שקל חדש", "שקלים חדשים"),
    'עו"ד': ("עורך דין", "עורכת דין", "עורכי דין"), 'רו"ח': ("רואה חשבון", "רואת חשבון"), 'חו"ל': ("חוץ לארץ",),
    'ת"א': ("תל אביב",), 'ב"ש': ("באר שבע",), 'פ"ת': ("פתח תקווה", "פתח תקוה"), 'ראשל"צ': ("ראשון לציון",),
    'רה"מ': ("ראש הממשלה",), 'יו"ר': ("יושב ראש", "יושבת ראש"), 'מנכ"ל': ("מנהל כללי",),
    'ח"כ': ("חבר כנסת", "חברת כנסת"), 'חז"ל': ("חכמינו זכרונם לברכה",), 'ז"ל': ("זכרונו לברכה",),
    'בד"כ': ("בדרך כלל",), 'ע"י': ("על ידי",), 'ע"פ': ("על פי",), 'עפ"י': ("על פי",), 'ע"ש': ("על שם",),
    'אח"כ': ("אחר כך",), 'אחה"צ': ("אחר הצהריים", "אחרי הצהריים"), 'בע"מ': ("בערבון מוגבל",), 'כ"כ': ("כל כך",),
    'סה"כ': ("סך הכל", "סך הכול"), 'לפנה"ס': ("לפני הספירה",), 'לפסה"נ': ("לפני הספירה",),
    'מלה"ע': ("מלחמת העולם",), 'מע"מ': ("מס ערך מוסף",), 'ת"ז': ("תעודת זהות",), 'ת"ד': ("תיבת דואר", "תא דואר"),
    'נ"צ': ("נקודת ציון",), 'כנ"ל': ("כנזכר לעיל",), 'הנ"ל': ("הנזכר לעיל",), 'א"י': ("ארץ ישראל",),
    'עכ"פ': ("על כל פנים",), 'מו"מ': ("משא ומתן",), 'בנ"א': ("בני אדם",), 'ב"כ': ("בא כוח",),
}  # fmt: skip
LETTERS = {
    "א": "אלף", "ב": "בית", "ג": "גימל", "ד": "דלת", "ה": "הא", "ו": "וו", "ז": "זין", "ח": "חית", "ט": "טית",
    "י": "יוד",
}  # fmt: skip
LATIN_LETTERS = {
    "a": ("איי", "אי"), "b": ("בי",), "c": ("סי",), "d": ("די",), "e": ("אי",), "f": ("אף",), "g": ("ג'י",),
    "h": ("אייץ'", "אייטש"), "i": ("איי", "אי"), "j": ("ג'יי",), "k": ("קיי",), "l": ("אל",), "m": ("אם",),
    "n": ("אן",), "o": ("או",), "p": ("פי",), "q": ("קיו",), "r": ("אר",), "s": ("אס",), "t": ("טי",), "u": ("יו",),
    "v": ("וי",), "w": ("דאבל יו", "דאבליו"), "x": ("אקס", "איקס"), "y": ("וואי",), "z": ("זי", "זד"),
}  # fmt: skip
# Longest first; a letter that is not always heard has "" too.
LATIN_SOUNDS = (
    ("tion", ("שן",)), ("sch", ("ש",)), ("sh", ("ש",)), ("ch", ("צ'", "ק", "ח")), ("th", ("ת", "ד")),
    ("ph", ("פ",)), ("ck", ("ק",)), ("oo", ("ו",)), ("ee", ("י",)), ("ea", ("י", "")), ("ou", ("ו", "או")),
    ("qu", ("קוו",)), ("ai", ("יי", "")), ("ay", ("יי",)), ("a", ("א", "", "יי")), ("b", ("ב",)), ("c", ("ק", "ס")),
    ("d", ("ד",)), ("e", ("", "א", "י")), ("f", ("פ",)), ("g", ("ג", "ג'")), ("h", ("ה", "")),
    ("i", ("י", "", "איי")), ("j", ("ג'",)), ("k", ("ק",)), ("l", ("ל",)), ("m", ("מ",)), ("n", ("נ",)),
    ("o", ("ו", "או")), ("p", ("פ",)), ("q", ("ק",)), ("r", ("ר",)), ("s", ("ס", "ז")), ("t", ("ט", "ת")),
    ("u", ("ו", "א", "")), ("v", ("ו", "וו", "ב")), ("w", ("וו", "ו")), ("x", ("קס",)), ("y", ("י",)),
    ("z", ("ז",)),
)  # fmt: skip
_FINAL = str.maketrans("כמנפצ", "ךםןףץ")
_SOUND = re.compile("|".join(sound for sound, _ in LATIN_SOUNDS))
_LATIN = re.compile("([א-ת]{0,3})([a-z]+)")
_LETTER = re.compile("([א-י])'")


def _read_word(word: str) -> Lattice | None:
    ways = Ways(word)
    for prefix, reading in _expanded(word):
        ways.add(ways.start, ways.end, [(prefix + reading,)])
    if latin := _LATIN.fullmatch(word):
        _add_latin(ways, *latin.groups())
    if letter := _LETTER.fullmatch(word):  # class or day by letter
        place = list(LETTERS).index(letter[1]) + 1
        ways.add(ways.start, ways.end, [(LETTERS[letter[1]], *ORDINALS[place])])
    return ways.close()


read_hebrew = word_reader(HEBREW_NUMBERS, _read_word)


def _expanded(word: str) -> list[tuple[str, str]]:
    """Prefix letters and what the abbreviation behind them stands for."""
    found = []
    for length in range(min(MAX_PREFIX_LETTERS, len(word)) + 1):
        if all(letter in PREFIXES for letter in word[:length]):
            found += [(word[:length], reading) for reading in ABBREVIATIONS.get(word[length:], ())]
    return found


def _add_latin(ways: Ways, prefix: str, latin: str) -> None:
    """By sound, roughly; a short word also by the names of its letters."""
    sounds = dict(LATIN_SOUNDS)
    parts = _SOUND.findall(latin)
    parts = [part for i, part in enumerate(parts) if i == 0 or part != parts[i - 1] or len(part) > 1]  # "ll" is one
    slots = [[sound or "א" for sound in sounds[parts[0]]], *(sounds[part] for part in parts[1:])]
    joined = [[sound + JOIN for sound in slot if sound] + ([""] if "" in slot else []) for slot in slots[:-1]]
    last = [*slots[-1], *(sound.translate(_FINAL) for sound in slots[-1] if sound.translate(_FINAL) != sound)]
    ways.add(ways.start, ways.end, [(prefix and prefix + JOIN,), *joined, last])
    if len(latin) <= MAX_SPELLED_LETTERS:
        ways.add(ways.start, ways.end, [(prefix and prefix + JOIN,), *(LATIN_LETTERS[letter] for letter in latin)])
