"""Text files of people: which encoding they were saved in."""

import codecs
from pathlib import Path

from medi2i.common.errors import Unreadable

_BLOCK = 1 << 20
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def decoder_of(path: Path | str) -> str:
    """The encoding of a text file: UTF-8, or what its byte order mark says (Excel's "Unicode text" is UTF-16).

    Raises Unreadable for what is no text in it: Windows code pages, and files with zero bytes.
    """
    with open(path, "rb") as file:
        head = file.read(4)
        encoding = next((name for mark, name in _MARKS if head.startswith(mark)), "utf-8")
        file.seek(0)
        decoder = codecs.getincrementaldecoder(encoding)()
        try:
            while block := file.read(_BLOCK):
                if "\0" in decoder.decode(block):
                    raise Unreadable(path, "is not a text file (it holds zero bytes); a text file in UTF-8 is needed")
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            raise Unreadable(
                path, "is not a text file in UTF-8; saving it as UTF-8 would help (Excel: CSV UTF-8 or Unicode text)"
            ) from None
    return encoding
