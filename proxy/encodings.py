"""The encodings that a client may choose (``client_encoding``), and how texts in them are read and written.

Decides which are served: those that Python and Postgres read alike, character by character
(tests/integration/test_encodings.py asks a Postgres about all of them). Links speak the encoding of the session that
uses them, so that Postgres converts rows, parameters and COPY data itself; here are only the texts that the proxy reads
(statements, keys) and those that it writes.

An encoding is decoded as a whole, never searched for bytes: in some of them the second byte of a character may be a
quote or a backslash.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from proxy.errors import ProxyError
from router.errors import refusal

UTF_8: Final = "utf-8"


@dataclass(frozen=True, slots=True)
class Encoding:
    """One encoding. ``name`` is Postgres's, ``codec`` Python's.

    ``several``: it may be used over several shards, where values travel from one to another in it: each character has
    one form in it and comes back as it was. ``odd`` are characters that Python writes in bytes which Postgres reads as
    others; what only one of them knows is refused by that one.
    """

    name: str
    codec: str
    several: bool = True
    odd: frozenset[str] = frozenset()

    @property
    def is_utf8(self) -> bool:
        """Whether texts go through unchanged: UTF8 itself, or SQL_ASCII, for which Postgres converts nothing."""
        return self.codec == UTF_8

    def read(self, data: bytes) -> str:
        """Decode what a client has sent. Raises UnicodeError for what is not certain to mean what Postgres reads.

        In UTF8, bytes that are not pass as surrogate escapes: to complain is Postgres's.
        """
        if self.codec == UTF_8:
            return data.decode(UTF_8, "surrogateescape")
        text = data.decode(self.codec)
        # What has come by another form than the one that Python writes could have been read otherwise, or refused.
        if text.encode(self.codec) != data or not self.odd.isdisjoint(text):
            raise UnicodeError(f"Postgres may read this {self.name} text otherwise")
        return text

    def heard(self, data: bytes) -> str:
        """Decode what a shard has said in this encoding. Raises Refused for what is not certain."""
        try:
            return self.read(data)
        except UnicodeError as error:
            raise refusal("encoding-text", encoding=self.name, detail=str(error)) from error

    def to_utf8(self, data: bytes) -> bytes:
        """Return the same text in UTF-8. Raises UnicodeError like :meth:`read`."""
        return data if self.codec == UTF_8 or data.isascii() else self.read(data).encode(UTF_8)

    def shown(self, text: str) -> str:
        """Return a text of the proxy's own for a message to the client: encoded as UTF-8 it is in this encoding."""
        if self.codec == UTF_8 or text.isascii():
            return text
        return text.encode(self.codec, "replace").decode(UTF_8, "surrogateescape")


def recoded(data: bytes, codec: str, to: str) -> bytes:
    """Return what a shard has said to one codec for another. Raises as :meth:`Encoding.heard` and ``written`` do."""
    return data if codec == to or data.isascii() else written(_BY_CODEC[codec].heard(data), to)


def written(text: str, codec: str) -> bytes:
    """Encode a text for a link. Raises ProxyError 22P05, as Postgres does, for a character that is not in there."""
    if codec == UTF_8:
        return text.encode(UTF_8, "surrogateescape")
    encoding = _BY_CODEC.get(codec)
    try:
        data = text.encode(codec)
        at = -1
    except UnicodeEncodeError as error:
        data, at = b"", error.start
    if at < 0 and encoding is not None and not encoding.odd.isdisjoint(text):
        at = next(at for at, character in enumerate(text) if character in encoding.odd)
    if at < 0:
        return data
    shown = " ".join(f"0x{byte:02x}" for byte in text[at].encode(UTF_8, "surrogateescape"))
    name = codec if encoding is None else encoding.name
    raise ProxyError(
        "22P05", f'character with byte sequence {shown} in encoding "UTF8" has no equivalent in encoding "{name}"'
    )


UTF8: Final = Encoding("UTF8", UTF_8)
ALL: Final = (
    UTF8,
    Encoding("SQL_ASCII", UTF_8),
    Encoding("LATIN1", "iso8859-1"),
    Encoding("LATIN2", "iso8859-2"),
    Encoding("LATIN3", "iso8859-3"),
    Encoding("LATIN4", "iso8859-4"),
    Encoding("LATIN5", "iso8859-9"),
    Encoding("LATIN6", "iso8859-10"),
    Encoding("LATIN7", "iso8859-13"),
    Encoding("LATIN8", "iso8859-14"),
    Encoding("LATIN9", "iso8859-15"),
    Encoding("LATIN10", "iso8859-16"),
    Encoding("ISO_8859_5", "iso8859-5"),
    Encoding("ISO_8859_6", "iso8859-6"),
    Encoding("ISO_8859_7", "iso8859-7"),
    Encoding("ISO_8859_8", "iso8859-8"),
    Encoding("WIN1250", "cp1250"),
    Encoding("WIN1251", "cp1251"),
    Encoding("WIN1252", "cp1252"),
    Encoding("WIN1253", "cp1253"),
    Encoding("WIN1254", "cp1254"),
    Encoding("WIN1255", "cp1255"),
    Encoding("WIN1256", "cp1256"),
    Encoding("WIN1257", "cp1257"),
    Encoding("WIN1258", "cp1258"),
    Encoding("WIN866", "cp866"),
    Encoding("WIN874", "cp874"),
    Encoding("KOI8R", "koi8-r"),
    Encoding("KOI8U", "koi8-u"),
    Encoding("EUC_JP", "euc_jp", several=False, odd=frozenset("¢£¥¦¬‖‾\u2212〜")),
    Encoding("EUC_CN", "gb2312"),
    Encoding("EUC_KR", "cp949"),  # which has more; Python's own has another form for some syllables
    Encoding("SJIS", "cp932", several=False, odd=frozenset("¢£¬‖\u2212〜")),
    Encoding("BIG5", "big5", several=False, odd=frozenset("ˍ╴￣")),
    Encoding("GBK", "gbk"),
    Encoding("UHC", "cp949"),
    Encoding("GB18030", "gb18030"),
)


def _clean(name: str) -> str:
    """Return a name as Postgres compares them."""
    return "".join(filter(str.isalnum, name.lower()))


#: Other names that Postgres knows for them (pg_char_to_encoding).
_ALIASES: Final = {
    "unicode": "UTF8",
    "iso88591": "LATIN1",
    "iso88592": "LATIN2",
    "iso88593": "LATIN3",
    "iso88594": "LATIN4",
    "iso88599": "LATIN5",
    "iso885910": "LATIN6",
    "iso885913": "LATIN7",
    "iso885914": "LATIN8",
    "iso885915": "LATIN9",
    "iso885916": "LATIN10",
    "koi8": "KOI8R",
    "alt": "WIN866",
    "win": "WIN1251",
    "windows866": "WIN866",
    "windows874": "WIN874",
    "windows1250": "WIN1250",
    "windows1251": "WIN1251",
    "windows1252": "WIN1252",
    "windows1253": "WIN1253",
    "windows1254": "WIN1254",
    "windows1255": "WIN1255",
    "windows1256": "WIN1256",
    "windows1257": "WIN1257",
    "windows1258": "WIN1258",
    "mskanji": "SJIS",
    "shiftjis": "SJIS",
    "windows932": "SJIS",
    "win932": "SJIS",
    "win950": "BIG5",
    "windows950": "BIG5",
    "win936": "GBK",
    "windows936": "GBK",
    "win949": "UHC",
    "windows949": "UHC",
}
_BY_CODEC: Final = {one.codec: one for one in ALL}
_BY_NAME: Final = {_clean(one.name): one for one in ALL}
_BY_NAME.update({alias: _BY_NAME[_clean(name)] for alias, name in _ALIASES.items()})


def by_name(name: str) -> Encoding | None:
    """Return an encoding by a name that Postgres takes for it; None: it is not served."""
    return _BY_NAME.get(_clean(name))


def served(name: str, shards: int) -> Encoding:
    """Return the encoding that a session over so many shards has now. Raises Refused if it cannot have it."""
    found = by_name(name)
    if found is None:
        raise refusal("client-encoding", value=name)
    if shards > 1 and not found.several:
        raise refusal("client-encoding-shards", value=name)
    return found
