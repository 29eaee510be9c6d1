"""Text as people's tools write it: UTF-8, or whatever its byte order mark says."""

import codecs

# PowerShell and Notepad write UTF-16 with a mark; UTF-32's mark begins like UTF-16's, so that it comes first
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def decode_text(content: bytes) -> str:
    """The text without its byte order mark; UnicodeDecodeError, which is a ValueError, for bytes that are no text."""
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            return content.decode(encoding)
    return content.decode()
