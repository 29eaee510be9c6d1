"""Labels that say that there is none: numbers below 0, however they are spelled, and missing values written as text."""

import re

LARGEST_UINT16 = 65_535  # -1 in 16 bits without a sign
_MINUS = re.compile("[-\u2010-\u2013\u2212\ufe63\uff0d] ?")  # hyphens, the en dash, the minus sign and its wide forms
_UNSIGNED = re.compile(r"[0-9]+(?:[.,][0-9]*)?(?:[eE][+-]?[0-9]{1,3})?")
_BLANKS = "\ufeff \t\r\n\f\v\u00a0"

# how a missing value looks as text; in the names that data gives to its classes only the first ones are beyond doubt
NO_NAME = frozenset({"nan", "NaN", "NAN", "-nan", "-NaN", "<NA>", "NaT"})
MISSING = NO_NAME | {"None", "null", "NULL", "N/A", "n/a", "NA", "#N/A", "#NA", "?"}


def is_below_zero(text: str) -> bool:
    """Whether a label is a whole number below 0: ``-1``, ``-1.0``, ``-1.000e+00``, also with another minus sign."""
    bare = text.strip(_BLANKS)
    minus = _MINUS.match(bare)
    if minus is None or not _UNSIGNED.fullmatch(bare, minus.end()):
        return False
    value = bare[minus.end() :].replace(",", ".")
    return value.isdecimal() or float(value).is_integer()
