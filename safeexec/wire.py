"""Frames and the value codec: what travels between a host and its guest.

Both ends use this one file; inside a sandbox it runs on CPython 3.9 and later, so it needs nothing but the standard
library.

A frame on a byte stream is ``u32 total | u32 header length | header | blobs``: little-endian, ``total`` counts everything
behind itself, the header is one JSON object in UTF-8, and its field ``b`` lists the lengths of the blobs that follow.

A value is a JSON node plus blobs. JSON's own types stand for themselves; everything else is an object with a ``$`` field that
names its kind. Nothing is ever pickled, evaluated, or rebuilt by class name. The reader treats its input as hostile: size, depth,
node count and each blob's use are bounded *before* anything is built from them.
"""

import gc
import json
import math
import operator
import re
import struct
from collections import Counter
from dataclasses import dataclass, fields, is_dataclass
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from importlib import import_module
from io import BytesIO
from itertools import accumulate, count
from typing import Any, Callable, Dict, Iterable, List, Optional, Sequence, Set, Tuple, Union

Blob = Union[bytes, bytearray, memoryview]
Header = Dict[str, Any]
Frame = Tuple[Header, Sequence[Blob]]

MAX_DEPTH = 100
"""Containers nested deeper than this are not encoded, and refused when read."""
MAX_NODES = 2_000_000
"""Upper bound on the values inside one value, whatever the size limit."""
MAX_HEADER = 48 * 2**20
MAX_BLOBS = 200_000
INLINE = 1024
"""Strings longer than this travel as blobs: a blob costs no escaping and cannot hide brackets."""
MAX_SCALAR = 64 * 1024
"""Digits of a Fraction or Decimal: reducing a fraction is quadratic in them, so a hostile one could stall the reader. A Decimal has those of its exponent, too:
``1E+999999999`` is twelve letters, and int() of it, which is all that a type check may do, takes hours in which no other thread runs."""
MAX_REDUCING = MAX_SCALAR**2
"""Digits above times digits below, of all Fractions and long Decimals of one value together: hundreds of the largest would stall the reader for a minute."""
_LONG_DECIMAL = 256
MAX_COMPARING = 2**22
"""Comparisons that the keys of one value may take together: sets within sets, each of keys that hash alike, multiply them. Three levels of sixty take a minute, in
which no other thread runs and no clock ends anything, and four would take hours."""
FRAME_OVERHEAD = 64 * 1024
_BUFFERED = 32 * 2**10

_PREFIX = struct.Struct("<II")
_LENGTH = struct.Struct("<I")
_MAX_SHORT = 2 * MAX_DEPTH
"""A header of so few bytes can neither nest too deep nor hold too many values."""
_INT_BOUND = 2**63


class WireError(ValueError):
    """The bytes are not a frame or not a value of this protocol."""


class TooLarge(WireError):
    """A value has more bytes or nodes than the limit allows."""


class NotPlain(TypeError):
    """A value has no plain form and the caller asked for nothing else."""


# -- plain stand-ins for what has no built-in type ----------------------------------------------------------------------


def may_load(library: str) -> bool:
    """Whether stand-ins may become objects of `library`. Another is put in its place where the language is a wall, which unreviewed objects lead past."""
    return True


def _load(name: str) -> Any:
    if not may_load(name):
        raise ImportError("{} is not among the modules that may be imported here".format(name), name=name)
    return import_module(name)


@dataclass(frozen=True)
class Opaque:
    """A value that does not travel: the name of its type and its ``repr``, cut to a few thousand characters."""

    type: str
    repr: str

    def __repr__(self) -> str:
        return "<{}: {}>".format(self.type, self.repr)


@dataclass(frozen=True)
class Array:
    """An n-dimensional array: numpy's dtype string, shape, and the elements in C order."""

    dtype: str
    shape: Tuple[int, ...]
    data: bytes

    def __repr__(self) -> str:
        return "Array(dtype={!r}, shape={!r}, {} bytes)".format(self.dtype, self.shape, len(self.data))

    def to_numpy(self) -> Any:
        """The array as a new ``numpy.ndarray``. Raises ImportError without numpy."""
        numpy = _load("numpy")
        return numpy.frombuffer(self.data, dtype=numpy.dtype(self.dtype)).reshape(self.shape).copy()


@dataclass(frozen=True)
class Image:
    """An encoded picture. The bytes are the guest's: nothing has looked inside."""

    mime: str
    data: bytes

    def __repr__(self) -> str:
        return "Image(mime={!r}, {} bytes)".format(self.mime, len(self.data))

    def to_pil(self) -> Any:
        """The picture as a ``PIL.Image.Image``: this is where the guest's bytes are first parsed. Needs pillow."""
        return _load("PIL.Image").open(BytesIO(self.data), formats=("PNG", "JPEG", "GIF", "WEBP", "BMP"))


@dataclass(frozen=True)
class Table:
    """A data frame: column name to values (a list or an :class:`Array`), and the row labels unless they are 0, 1, 2…"""

    columns: Dict[str, Any]
    index: Optional[List[Any]] = None

    def to_pandas(self) -> Any:
        """The table as a ``pandas.DataFrame``. Needs pandas."""
        pandas = _load("pandas")
        columns = {k: v.to_numpy() if isinstance(v, Array) else v for k, v in self.columns.items()}
        return pandas.DataFrame(columns, index=self.index)


# -- frames ---------------------------------------------------------------------------------------------------------------


def _make_dump() -> Callable[[Any], str]:
    public = json.JSONEncoder(ensure_ascii=False, check_circular=False, allow_nan=False, separators=(",", ":"))
    make: Any = getattr(json.encoder, "c_make_encoder", None)
    quote = getattr(json.encoder, "encode_basestring", None)
    try:
        # The public method builds this same C encoder anew for every frame, which costs as much as encoding one.
        encode = make(None, public.default, quote, None, ":", ",", False, False, False)
        if "".join(encode({"a": [1, "é", None]}, 0)) != '{"a":[1,"é",null]}':
            return public.encode
    except TypeError:  # absent, or another signature
        return public.encode
    return lambda value: "".join(encode(value, 0))


_dump = _make_dump()


def _refuse_constant(name: str) -> Any:
    raise WireError("{} is not JSON".format(name))


_scan: Any = getattr(json.JSONDecoder(parse_constant=_refuse_constant), "scan_once")


def _encode(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:  # a lone surrogate, as in the name of a file that is not Unicode: JSON can spell it out
        return re.sub("[\ud800-\udfff]", lambda match: "\\u{:04x}".format(ord(match[0])), text).encode()


def pack(header: Header, blobs: Sequence[Blob] = ()) -> List[Blob]:
    """The buffers of one frame, in order. Sets the header's ``b``."""
    size = 0
    if blobs:
        lengths = [len(b) for b in blobs]
        header["b"] = lengths
        size = sum(lengths)
    text = _encode(_dump(header))
    head = _PREFIX.pack(4 + len(text) + size, len(text)) + text
    return [head, *blobs] if blobs else [head]


# From the first digit of a run only: one of 3999 must not be counted again from each of its digits.
_DIGITS = re.compile(rb"(?<![0-9])[0-9]{4000}")


_STEPS = bytes(2 if byte in b"[{" else 0 for byte in range(256))
_ALIKE = bytes.maketrans(b"{}", b"[]")
_PASSES = 8
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


_PUNCTUATION = b'"[]{},.+-eE0123456789'
_TEXT = bytes(set(range(256)) - set(_PUNCTUATION))
_AT_ONCE = 1 << 16


def _strip_strings(raw: bytes) -> bytes:
    """Brackets, commas and numbers outside strings. A string without its closing quote reaches to the end."""
    if b"\\" in raw:
        raw = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
    raw = raw.translate(None, _TEXT)
    bare = bytearray()
    inside = 0
    # In pieces: a list of all that lies between the strings of some megabytes of ``"":{"":{`` takes the host gigabytes.
    for start in range(0, len(raw), _AT_ONCE):
        parts = raw[start : start + _AT_ONCE].split(b'"')
        bare += b"".join(parts[inside::2])
        inside ^= (len(parts) - 1) & 1
    return bytes(bare)


def check_json(raw: bytes, max_nodes: int = MAX_NODES, max_depth: int = 2 * MAX_DEPTH + 16) -> None:
    """Refuse JSON text that would be deep or large once parsed, by looking at its punctuation only.

    A parser that recurses into a million brackets can overflow the C stack, and ``[[],[],…`` grows thirty-fold when built.
    """
    opening = raw.count(b"[") + raw.count(b"{")
    if opening > max_depth or opening + raw.count(b",") > max_nodes:
        bare = _strip_strings(raw)
        if bare.count(b"[") + bare.count(b"{") + bare.count(b",") > max_nodes:
            raise TooLarge("more than {} values in one frame".format(max_nodes))
        # Level by level from within, which is all there is of most: text of many brackets must not cost more than to parse it.
        brackets = bare.translate(_ALIKE, _NO_BRACKETS)
        if brackets.count(b"]") != brackets.count(
            b"["
        ):  # or megabytes of closing ones would be counted below, in which no other thread runs
            raise WireError("the header is not JSON: its brackets do not match")
        levels = 0
        while b"[]" in brackets and levels < min(_PASSES, max_depth):
            brackets = brackets.replace(b"[]", b"")
            levels += 1
        # An opening bracket as 2, a closing one as 0: their running sum less their number is the depth.
        steps = brackets.translate(_STEPS)
        if steps and max(map(operator.sub, accumulate(steps), count(1))) > max_depth - levels:
            raise WireError("nested deeper than {}".format(max_depth))
    # int() of a long digit string is quadratic where the interpreter's own limit was switched off. Text may hold as many as it likes.
    if len(raw) > 4000 and _DIGITS.search(raw) and _DIGITS.search(_strip_strings(raw)):
        raise WireError("a number of thousands of digits")


def _scan_large(text: str) -> Tuple[Any, int]:
    # A million containers made at once have the collector look at all of them again and again: most of the time, in which no other thread runs and no
    # clock ends a step. Nothing else is made meanwhile: the scanner is one call.
    if not gc.isenabled():
        scanned: Tuple[Any, int] = _scan(text, 0)
        return scanned
    gc.disable()
    try:
        scanned = _scan(text, 0)
    finally:
        gc.enable()
    return scanned


def unpack(body: Blob, max_nodes: int = MAX_NODES) -> Frame:
    """One frame from the bytes behind its ``total`` field. Blobs are views of `body`. Raises WireError."""
    size = len(body)
    if size < 4:
        raise WireError("a frame of {} bytes".format(size))
    (length,) = _LENGTH.unpack_from(body)
    _check_header(length, size)
    end = 4 + length
    header, lengths = _opened(bytes(body[4:end]), size, max_nodes)
    return header, _cut(memoryview(body), end, lengths) if lengths else ()


def _cut(view: memoryview, start: int, lengths: Sequence[int]) -> Sequence[Blob]:
    blobs: List[Blob] = []
    for taken in lengths:
        blobs.append(view[start : start + taken])
        start += taken
    return blobs


def _check_header(length: int, size: int) -> None:
    if 4 + length > size or length > MAX_HEADER:
        raise WireError("a header of {} bytes in a frame of {}".format(length, size))


def _opened(raw: bytes, size: int, max_nodes: int) -> Tuple[Header, Sequence[int]]:
    """The header of a frame of `size` bytes, and how long each blob behind it is: together exactly what is left of the frame."""
    length = len(raw)
    if length > _MAX_SHORT:
        check_json(raw, max_nodes)
    try:
        text = raw.decode()
        header, read = _scan(text, 0) if length <= _AT_ONCE else _scan_large(text)
    except (ValueError, StopIteration, RecursionError, MemoryError) as error:
        raise WireError("the header is not JSON: {}".format(type(error).__name__)) from None
    if read != len(text) or type(header) is not dict:
        raise WireError("the header is not one JSON object")
    lengths = header.pop("b", None)
    header["n"] = size  # the size as seen here, whatever the sender wrote: what a frame costs is charged by it
    left = size - 4 - length
    if lengths is None:
        if left:
            raise WireError("{} bytes behind a frame without blobs".format(left))
        return header, ()
    if type(lengths) is not list or len(lengths) > MAX_BLOBS:
        raise WireError("the blob lengths are not a list, or too many")
    for taken in lengths:
        if type(taken) is not int or taken < 0 or taken > left:
            raise WireError("a blob runs past the end of its frame")
        left -= taken
    if left:
        raise WireError("bytes behind the last blob")
    return header, lengths


def room(size: int) -> Any:
    """Memory for `size` bytes of a stream: ``getbuffer()`` is written, ``getvalue()`` what came of it.

    The one way to read them into `bytes` that are not copied once more: `BytesIO` works in the object that it was made of, if nobody else has it, and
    gives that back.
    """
    return BytesIO(bytes(size))


class FrameReader:
    """Cuts a byte stream into frames.

    `readinto` fills a writable buffer and returns how many bytes it got, 0 at the end of the stream (``socket.recv_into``'s shape).
    `room` is where the parts of a frame are read that the buffer is too small for, see :func:`room`.
    A frame larger than `max_frame` bytes is refused before memory is set aside for it.
    """

    def __init__(
        self,
        readinto: Callable[[memoryview], int],
        max_frame: int,
        max_nodes: int = MAX_NODES,
        room: Callable[[int], Any] = room,
    ) -> None:
        self._readinto = readinto
        self._room = room
        self._max = max_frame
        self._max_nodes = max_nodes
        self._buffer = memoryview(bytearray(65536))
        self._start = 0
        self._end = 0

    def of(self, readinto: Callable[[memoryview], int]) -> "FrameReader":
        """A reader of another stream, with the same bounds and memory."""
        return FrameReader(readinto, self._max, self._max_nodes, self._room)

    def _fill(self) -> None:
        if self._start == self._end:
            self._start = self._end = 0
        elif self._end == len(self._buffer) or self._start > 32768:
            rest = bytes(self._buffer[self._start : self._end])
            self._buffer[: len(rest)] = rest
            self._start, self._end = 0, len(rest)
        count = self._readinto(self._buffer[self._end :])
        if not count:
            raise EOFError
        self._end += count

    def buffered(self) -> bool:
        """Whether bytes wait here that a poll on the stream would not show."""
        return self._end > self._start

    def next(self) -> Frame:
        """The next frame, waiting for it. Raises EOFError at the end of the stream, WireError for what is no frame."""
        while self._end - self._start < 4:
            self._fill()
        (total,) = _LENGTH.unpack_from(self._buffer, self._start)
        if total > self._max:
            raise TooLarge("a frame of {} bytes, {} allowed".format(total, self._max))
        if total + 4 <= len(self._buffer):
            while self._end - self._start < total + 4:
                self._fill()
            start = self._start + 4
            self._start = start + total
            return unpack(bytes(self._buffer[start : start + total]), self._max_nodes)
        return self._large(total)

    def _large(self, total: int) -> Frame:
        """A frame that does not fit the buffer. What follows its header is read to where it stays: one blob of megabytes is copied no more."""
        self._start += 4
        (length,) = _LENGTH.unpack(self._part(4))
        _check_header(length, total)
        header, lengths = _opened(bytes(self._part(length)), total, self._max_nodes)
        blobs = self._part(total - 4 - length)
        return header, (blobs,) if len(lengths) == 1 else _cut(memoryview(blobs), 0, lengths)

    def _part(self, size: int) -> Blob:
        if size <= _BUFFERED:
            while self._end - self._start < size:
                self._fill()
            start = self._start
            self._start = start + size
            return bytes(self._buffer[start : start + size])
        room = self._room(size)
        with room.getbuffer() as view:
            have = min(self._end - self._start, size)
            view[:have] = self._buffer[self._start : self._start + have]
            self._start += have
            while have < size:
                count = self._readinto(view[have:])
                if not count:
                    raise EOFError
                have += count
        value: Blob = room.getvalue()
        return value


# -- encoding -------------------------------------------------------------------------------------------------------------

_PLAIN = frozenset((type(None), bool, int, float, str))
_CONTAINERS = frozenset((list, tuple, dict, set, frozenset))
_UNCOUNTED = 20_000
_isfinite = math.isfinite


def is_node(value: Any) -> bool:
    """Whether `value` is its own node and counts for nothing, so that no :class:`Encoder` is needed for it. Text counts."""
    kind = type(value)
    if kind is int:
        small: bool = -_INT_BOUND < value < _INT_BOUND
        return small
    return value is None or kind is bool or (kind is float and _isfinite(value))


def are_values(nodes: Iterable[Any]) -> bool:
    """Whether each of `nodes` is its own value, so that no :class:`Decoder` is needed for them, but to hold text against a limit."""
    return _PLAIN.issuperset(map(type, nodes))


class Encoder:
    """Turns values into nodes and blobs.

    `limit` bounds bytes, `strict` raises :class:`NotPlain` where the lenient form would send an :class:`Opaque`. One encoder
    may encode several values into one frame; its `blobs` go behind the header.
    """

    def __init__(self, limit: int = 16 * 2**20, strict: bool = False) -> None:
        self.blobs: List[Blob] = []
        self._left = limit
        self._most = max_nodes(limit)
        self._nodes = min(_UNCOUNTED, self._most)
        self._reserve = self._most - self._nodes
        self._root: Any = None
        self._strict = strict
        self._reducing = MAX_REDUCING
        self._path: Dict[int, None] = {}

    def encode(self, value: Any) -> Any:
        """The node for `value`. Raises TooLarge, and NotPlain when strict."""
        self._root = value
        return self._node(value, 0)

    def _spent(self) -> None:
        """The first nodes are used up. Aliases may hide billions more: count before going on, each shared container once."""
        if not self._reserve or _count(self._root, {}, self._most, 0) > self._most:
            raise TooLarge("the value has too many parts")
        self._nodes += self._reserve
        self._reserve = 0
        if self._nodes < 0:
            raise TooLarge("the value has too many parts")

    def _blob(self, data: Blob) -> int:
        self._left -= len(data)
        if self._left < 0:
            raise TooLarge("the value is larger than its limit")
        self.blobs.append(data)
        return len(self.blobs) - 1

    def _spend(self, count: int) -> None:
        self._nodes -= count
        if self._nodes < 0:
            self._spent()

    def _node(self, value: Any, depth: int) -> Any:
        kind = type(value)
        self._nodes -= 1
        if self._nodes < 0:
            self._spent()
        if kind is str:
            return self._str(value)
        if value is None or kind is bool:
            return value
        if kind is int:
            if -_INT_BOUND < value < _INT_BOUND:
                return value
            return self._long(value)
        if kind is float:
            return value if _isfinite(value) else {"$": "float", "v": repr(value)}
        if kind is list or kind is dict or kind is tuple:
            return self._container(value, kind, depth)
        return self._other(value, kind, depth)

    def _str(self, value: str) -> Any:
        if len(value) <= INLINE:
            if value.isascii():
                self._left -= len(value)
                if self._left < 0:
                    raise TooLarge("the value is larger than its limit")
                return value
            try:
                self._left -= len(value.encode())
                if self._left < 0:
                    raise TooLarge("the value is larger than its limit")
                return value
            except UnicodeEncodeError:
                pass
        return {"$": "str", "i": self._blob(value.encode("utf-8", "surrogatepass"))}

    def _long(self, value: int) -> Any:
        text = "%x" % value
        self._left -= len(text)
        if self._left < 0:
            raise TooLarge("the value is larger than its limit")
        return {"$": "int", "v": text} if len(text) <= INLINE else {"$": "int", "i": self._blob(text.encode())}

    def _flat(self, items: Sequence[Any]) -> bool:
        """Whether JSON can take these items as they are; checked at C speed, for long lists of numbers or short strings."""
        kinds = set(map(type, items))
        if len(kinds) != 1:
            return False
        kind = kinds.pop()
        if kind is int:
            return bool(-_INT_BOUND < min(items) and max(items) < _INT_BOUND)
        if kind is float:
            return all(map(_isfinite, items))
        if kind is str:
            if all(map(str.isascii, items)):
                sizes = list(map(len, items))
                if max(sizes) <= INLINE:
                    self._left -= sum(sizes)
                    if self._left < 0:
                        raise TooLarge("the value is larger than its limit")
                    return True
            return False
        plain: bool = kind is bool
        return plain

    def _list(self, items: Any, depth: int) -> List[Any]:
        if len(items) > 8:
            self._spend(len(items))
            if self._flat(items):
                return list(items)
            self._nodes += len(items)
        depth += 1
        return [self._node(item, depth) for item in items]

    def _container(self, value: Any, kind: type, depth: int) -> Any:
        key = id(value)
        if key in self._path:
            return self._opaque(value, "…")
        if depth >= MAX_DEPTH:
            return self._opaque(value, "… (nested too deep)")
        self._path[key] = None
        try:
            if kind is list:
                return self._list(value, depth)
            if kind is tuple:
                return {"$": "tuple", "v": self._list(value, depth)}
            return self._dict(value, depth)
        finally:
            del self._path[key]

    def _dict(self, value: Any, depth: int) -> Any:
        items = list(dict.items(value))
        depth += 1
        if "$" not in value and all(type(k) is str and len(k) <= INLINE and k.isascii() for k, _ in items):
            self._left -= sum(len(k) for k, _ in items)
            if self._left < 0:
                raise TooLarge("the value is larger than its limit")
            return {k: self._node(v, depth) for k, v in items}
        flat = []
        for k, v in items:
            flat.append(self._node(k, depth))
            flat.append(self._node(v, depth))
        return {"$": "dict", "v": flat}

    def _opaque(self, value: Any, text: Optional[str] = None) -> Any:
        if self._strict:
            raise NotPlain("a value of type {} cannot be passed".format(type(value).__name__))
        return {
            "$": "opaque",
            "t": self._str(_safe(type(value).__name__, 200)),
            "r": self._str(describe(value) if text is None else text),
        }

    def _other(self, value: Any, kind: type, depth: int) -> Any:
        # Subclasses are taken apart with the base type's own methods: an overridden __iter__ has no say.
        encode = _SPECIAL.get(kind)
        if encode is not None:
            return encode(self, value, depth)
        if isinstance(value, Enum):
            return self._node(value.value, depth + 1) if depth < MAX_DEPTH else self._opaque(value)
        foreign = self._foreign(value, kind, depth)
        if foreign is not None:
            return foreign
        for base, convert in _BASES:
            if isinstance(value, base):
                plain = convert(value)
                if type(plain) is base:
                    if base in (list, dict, tuple):
                        return self._shallow(value, plain, base, depth)
                    return self._node(plain, depth)
        for base in _SPECIAL:
            if isinstance(value, base):
                return _SPECIAL[base](self, value, depth)
        if is_dataclass(value) and not isinstance(value, type):
            plain = {f.name: getattr(value, f.name, None) for f in fields(value)}
            return self._shallow(value, plain, dict, depth)
        return self._opaque(value)

    def _shallow(self, owner: Any, plain: Any, kind: type, depth: int) -> Any:
        """Encode the plain copy of `owner`, remembering `owner` so that a cycle through it is seen."""
        key = id(owner)
        if key in self._path:
            return self._opaque(owner, "…")
        self._path[key] = None
        try:
            return self._container(plain, kind, depth)
        finally:
            del self._path[key]

    def _foreign(self, value: Any, kind: type, depth: int) -> Any:
        """Arrays, frames and pictures, known by their shape so that no library is imported to look for them."""
        module = kind.__module__.partition(".")[0] if isinstance(kind.__module__, str) else ""
        if module == "numpy" and hasattr(value, "dtype") and hasattr(value, "tobytes"):
            if any(base.__name__ == "generic" and base.__module__ == "numpy" for base in kind.__mro__):
                item = value.item()
                return self._node(item, depth) if type(item).__module__ != "numpy" else self._opaque(value)
            dtype = value.dtype.str
            if item_size(dtype) is None:
                return self._node(value.tolist(), depth + 1) if depth < MAX_DEPTH else self._opaque(value)
            if value.nbytes > self._left:
                raise TooLarge("the value is larger than its limit")
            return {"$": "array", "d": dtype, "s": list(value.shape), "i": self._blob(value.tobytes())}
        if isinstance(value, Array):
            return {"$": "array", "d": value.dtype, "s": list(value.shape), "i": self._blob(value.data)}
        if module == "pandas" and kind.__name__ in ("DataFrame", "Series") and depth < MAX_DEPTH:
            frame = value if kind.__name__ == "DataFrame" else value.to_frame()
            labels = frame.index
            plain_index = type(labels).__name__ == "RangeIndex" and labels.start == 0 and labels.step == 1
            columns = []
            for position, name in enumerate(frame.columns):
                column = frame.iloc[:, position]
                data = column.to_numpy()
                if data.dtype.kind in "biufcmM":
                    columns.append([_safe(name, 1000), self._node(data, depth + 1)])
                else:
                    columns.append([_safe(name, 1000), self._node(column.tolist(), depth + 1)])
            names = [self._str(c[0]) for c in columns]
            index = None if plain_index else self._node(labels.tolist(), depth + 1)
            return {"$": "table", "n": names, "v": [c[1] for c in columns], "x": index}
        if isinstance(value, Table) and depth < MAX_DEPTH:
            return {
                "$": "table",
                "n": [self._str(n) for n in value.columns],
                "v": [self._node(v, depth + 1) for v in value.columns.values()],
                "x": None if value.index is None else self._node(value.index, depth + 1),
            }
        if isinstance(value, Image):
            return {"$": "image", "m": self._str(value.mime), "i": self._blob(value.data)}
        if module == "PIL" and hasattr(value, "save") and hasattr(value, "getpixel"):
            import io

            stream = io.BytesIO()
            value.save(stream, "PNG")
            return {"$": "image", "m": "image/png", "i": self._blob(stream.getvalue())}
        if module == "uuid" and kind.__name__ == "UUID":  # by name: importing uuid to look for one costs 3 ms
            return {"$": "uuid", "v": "%032x" % value.int}
        if isinstance(value, Opaque):
            if self._strict:
                raise NotPlain("a value of type {} cannot be passed".format(value.type))
            return {"$": "opaque", "t": self._str(value.type), "r": self._str(value.repr)}
        return None


def _count(value: Any, known: Dict[int, int], most: int, depth: int) -> int:
    """Parts of `value` once written out, or some number above `most`; plain containers only, the rest counts as one."""
    kind = type(value)
    if depth > MAX_DEPTH or kind not in _CONTAINERS:
        return 1
    key = id(value)
    total = known.get(key)
    if total is not None:
        return total
    known[key] = 1  # a cycle ends here, as it does when encoded
    items = [*value.keys(), *value.values()] if kind is dict else value
    total = 1 + len(items)
    if not set(map(type, items)) <= _PLAIN:
        total = 1
        for item in items:
            total += _count(item, known, most, depth + 1)
            if total > most:
                break
    known[key] = total
    return total


def max_nodes(limit: int) -> int:
    """How many parts a value of at most `limit` bytes may have."""
    return min(MAX_NODES, max(1000, limit // 8))


def _safe(value: Any, length: int) -> str:
    try:
        return str(value)[:length]
    except Exception:
        return "?"


def describe(value: Any, length: int = 4000) -> str:
    """``repr(value)``, never raising an Exception and never much longer than `length`; containers are cut before, not after."""
    import reprlib

    short = reprlib.Repr()
    short.maxlist = short.maxtuple = short.maxdict = short.maxset = short.maxfrozenset = short.maxdeque = 20
    short.maxarray = 20
    short.maxstring = short.maxother = length
    short.maxlevel = 3  # with the widths above, this bounds the work, not only the text
    try:
        text = short.repr(value)
        return text if len(text) <= length else text[: length - 1] + "…"
    except Exception:
        return "<{} object>".format(type(value).__name__)


def _tz(value: Any) -> Any:
    offset = value.utcoffset()
    return None if offset is None else offset.total_seconds()


def _encode_set(e: Encoder, v: Any, depth: int) -> Any:
    if depth >= MAX_DEPTH:
        return e._opaque(v, "… (nested too deep)")
    base = set if isinstance(v, set) else frozenset
    return {"$": base.__name__, "v": e._list(list(base.__iter__(v)), depth)}


def _reducing(value: Decimal, text: str) -> int:
    """Digits above times digits below, at most, where `value` is made a fraction: those of its `text`, and those that its exponent stands for."""
    first = Decimal.adjusted(value)  # the place of its first digit
    digits = max(len(text), first) if first >= 0 else len(text) - first
    return digits * digits if digits > _LONG_DECIMAL else 0


def _encode_decimal(e: Encoder, v: Any, depth: int) -> Any:
    text = Decimal.__str__(v)
    cost = _reducing(v, text)
    if cost > MAX_REDUCING:
        if e._strict:
            raise NotPlain("a Decimal of more than {} digits cannot be passed".format(MAX_SCALAR))
        return e._opaque(v, text if len(text) <= 200 else text[:200] + "…")
    e._reducing -= cost
    if e._reducing < 0:
        raise TooLarge("the value has too many long decimals")
    return {"$": "decimal", "v": text}


def _encode_fraction(e: Encoder, v: Any, depth: int) -> Any:
    if max(v.numerator.bit_length(), v.denominator.bit_length()) > 4 * MAX_SCALAR:
        return e._opaque(v, "a fraction of {} bits".format(v.numerator.bit_length() + v.denominator.bit_length()))
    parts = ["%x" % v.numerator, "%x" % v.denominator]
    e._left -= len(parts[0]) + len(parts[1])
    e._reducing -= len(parts[0]) * len(parts[1])
    if e._left < 0 or e._reducing < 0:
        raise TooLarge("the value has too many long fractions")
    return {"$": "fraction", "v": parts}


def _encode_bytes(e: Encoder, v: Any, depth: int) -> Any:
    # What cannot change is sent from where it is; a subclass may have its own idea of its bytes.
    return {"$": "bytes", "i": e._blob(v if type(v) is bytes else bytes(memoryview(v)))}


def _encode_datetime(e: Encoder, v: Any, depth: int) -> Any:
    return {
        "$": "datetime",
        "v": [v.year, v.month, v.day, v.hour, v.minute, v.second, v.microsecond, v.fold],
        "z": _tz(v),
    }


# datetime before date: it is a subclass of it.
_SPECIAL: Dict[type, Callable[[Encoder, Any, int], Any]] = {
    bytes: _encode_bytes,
    bytearray: _encode_bytes,
    memoryview: _encode_bytes,
    set: _encode_set,
    frozenset: _encode_set,
    complex: lambda e, v, d: {"$": "complex", "v": [e._node(v.real, d), e._node(v.imag, d)]},
    range: lambda e, v, d: {"$": "range", "v": [e._node(v.start, d), e._node(v.stop, d), e._node(v.step, d)]},
    datetime: _encode_datetime,
    date: lambda e, v, d: {"$": "date", "v": [v.year, v.month, v.day]},
    time: lambda e, v, d: {"$": "time", "v": [v.hour, v.minute, v.second, v.microsecond, v.fold], "z": _tz(v)},
    timedelta: lambda e, v, d: {"$": "timedelta", "v": [v.days, v.seconds, v.microseconds]},
    timezone: lambda e, v, d: {"$": "timezone", "v": v.utcoffset(None).total_seconds()},
    Decimal: _encode_decimal,
    Fraction: _encode_fraction,
}

_BASES: Tuple[Tuple[type, Callable[[Any], Any]], ...] = (
    (str, str.__str__),
    (int, lambda v: int.__add__(v, 0)),
    (float, float.__pos__),
    (dict, lambda v: {k: dict.__getitem__(v, k) for k in dict.__iter__(v)}),
    (list, lambda v: list(list.__iter__(v))),
    (tuple, lambda v: tuple(tuple.__iter__(v))),
)


# -- decoding -------------------------------------------------------------------------------------------------------------

_DTYPE = re.compile(
    r"[<>|=]?(?:b1|[iu][1248]|f(?:2|4|8|12|16)|c(?:8|16|24|32)|S\d{1,9}|U\d{1,8}|[mM]8(?:\[\d{0,4}[A-Za-zμ]{1,2}\])?)\Z"
)
_MIME = re.compile(r"[a-z]+/[a-z0-9.+-]+\Z")
_KINDS = frozenset(_PLAIN)
_MAX_ALIKE = 64
_WIDE = 512
_SLOW = 64  # Fractions: what compares them is written in Python


def item_size(dtype: str) -> Optional[int]:
    """Bytes per element of a plain numpy dtype string; None for every other (objects, records)."""
    if type(dtype) is not str or not _DTYPE.match(dtype):
        return None
    body = dtype.lstrip("<>|=")
    if body[0] in "mM":
        return 8
    return int(body[1:]) * (4 if body[0] == "U" else 1)


class Decoder:
    """Turns nodes and blobs back into values; whatever arrives, it either builds plain data or raises WireError.

    `array` and `table` build what a library may hold: by default the inert stand-ins of this module.
    """

    def __init__(
        self,
        blobs: Sequence[Blob],
        array: Callable[..., Any] = Array,
        table: Callable[..., Any] = Table,
        limit: Optional[int] = None,
    ) -> None:
        # What an honest encoder with this limit could have sent, and some room: a reader that has its own limit does not rely on the sender's.
        self._left = 2**62 if limit is None else limit + FRAME_OVERHEAD
        self._nodes = 2**62 if limit is None else 2 * max_nodes(limit) + 1000
        self._blobs: List[Optional[Blob]] = list(blobs)
        self._decimals = False
        self._reducing = MAX_REDUCING
        self._comparing = MAX_COMPARING
        self._array = array
        self._table = table

    def _spend(self, nodes: int, size: int) -> None:
        self._nodes -= nodes
        self._left -= size
        if self._nodes < 0 or self._left < 0:
            raise TooLarge("a value larger than its limit")

    def decode(self, node: Any) -> Any:
        """The value of `node`. Raises WireError."""
        try:
            return self._value(node, 0)
        except WireError:
            raise
        except (TypeError, ValueError, KeyError, IndexError, AttributeError, ArithmeticError, RecursionError) as error:
            raise WireError("a malformed value: {}".format(type(error).__name__)) from None

    def _value(self, node: Any, depth: int) -> Any:
        kind = type(node)
        if kind in _KINDS:
            self._spend(1, len(node) if kind is str else 0)
            return node
        if depth > MAX_DEPTH + 4:
            raise WireError("a value nested deeper than {}".format(MAX_DEPTH))
        depth += 1
        if kind is list:
            kinds = set(map(type, node))
            if kinds <= _KINDS:
                self._spend(len(node), sum([len(item) for item in node if type(item) is str]) if str in kinds else 0)
                return node
            self._spend(1, 0)
            return [self._value(item, depth) for item in node]
        if kind is not dict:
            raise WireError("a malformed value")
        tag = node.get("$")
        self._spend(1, 0)
        if tag is None:
            self._spend(0, sum(map(len, node)))
            return {key: self._value(item, depth) for key, item in node.items()}
        if type(tag) is not str:
            raise WireError("a malformed value")
        build = _BUILD.get(tag)
        if build is None:
            raise WireError("a value of unknown kind")
        return build(self, node, depth)

    def blob(self, index: Any) -> Blob:
        # Each blob serves once: a million references to one blob would be a million copies of it.
        if type(index) is not int or not 0 <= index < len(self._blobs):
            raise WireError("a reference to no blob")
        data = self._blobs[index]
        if data is None:
            raise WireError("a blob referred to twice")
        self._blobs[index] = None
        self._spend(0, len(data))
        return data

    def _list(self, node: Any, depth: int) -> List[Any]:
        if type(node) is not list:
            raise WireError("a malformed value")
        return [self._value(item, depth) for item in node]

    def _distinct(self, items: List[Any]) -> None:
        self._comparing = check_keys(items, self._comparing, self._decimals)

    def _str(self, node: Any) -> str:
        text = node if type(node) is str else self._value(node, MAX_DEPTH)
        if type(text) is not str:
            raise WireError("not a string")
        return text


def check_keys(items: List[Any], comparing: int = MAX_COMPARING, decimals: bool = True) -> int:
    """Refuse keys of one set or dict that hash alike: crafted ones would make building it take hours; (-1, -2) and its kind stay far below the bounds.

    What is left of `comparing`, which is in comparisons of numbers. `decimals`: whether there may be any. Raises WireError.
    """
    hashes = list(map(hash, items))
    if len(set(hashes)) == len(hashes):
        return comparing  # none is compared with another
    alike = Counter(hashes)
    if max(alike.values()) > _MAX_ALIKE:
        raise WireError("keys that collide")
    found = [(item, alike[number] - 1) for item, number in zip(items, hashes) if alike[number] > 1]
    # To compare a Decimal with a whole number turns the number to decimal: seconds for a million bits, hours for more.
    if decimals and _kinds_below([item for item, _ in found]) >= {Decimal, "wide"}:
        raise WireError("keys that take too long to compare")
    for item, others in found:
        comparing -= others * _weight(item)
        if comparing < 0:
            raise WireError("keys that take too long to compare")
    return comparing


def _kinds_below(items: Any) -> Set[Any]:
    """Of the keys `items`, tuples and sets in them included: Decimal if there is one, "wide" if there is a number of more than `_WIDE` bits."""
    found: Set[Any] = set()
    for item in items:
        kind = type(item)
        if kind is tuple or kind is frozenset:
            found |= _kinds_below(item)
        elif kind is Decimal:
            found.add(Decimal)
        elif kind is Fraction and max(item.numerator.bit_length(), item.denominator.bit_length()) > _WIDE:
            found.add("wide")
        elif kind is int and item.bit_length() > _WIDE:
            found.add("wide")
    return found


def _weight(key: Any) -> int:
    """How many comparisons of numbers take as long as comparing this key with one that hashes alike, at most."""
    kind = type(key)
    if kind is int:
        return 1 + int(key.bit_length() >> 9)
    if kind in _PLAIN:
        return 1
    if kind is tuple:
        return 1 + sum(map(_weight, key))
    if kind is frozenset:
        # Each of its parts is looked for among those of the other that hash alike.
        alike = Counter(map(hash, key))
        return 1 + sum([alike[hash(part)] * _weight(part) for part in key])
    return _SLOW


def _ints(node: Any, count: int) -> List[int]:
    if type(node) is not list or len(node) != count or set(map(type, node)) != {int}:
        raise WireError("a malformed value")
    return node


def _hex(text: Any, limit: int = MAX_SCALAR) -> int:
    if type(text) is not str or len(text) > limit or not re.match(r"-?[0-9a-f]+\Z", text):
        raise WireError("a malformed number")
    return int(text, 16)


def _zone(seconds: Any) -> Optional[timezone]:
    if seconds is None:
        return None
    if type(seconds) not in (int, float) or not -86400 < seconds < 86400:
        raise WireError("a malformed time zone")
    return timezone(timedelta(seconds=seconds))


def _decode_int(d: Decoder, n: Any, depth: int) -> int:
    if "i" in n:
        return _hex(bytes(d.blob(n["i"])).decode("ascii"), 2**62)
    return _hex(n["v"])


def _decode_float(d: Decoder, n: Any, depth: int) -> float:
    if n["v"] not in ("nan", "inf", "-inf"):
        raise WireError("a malformed float")
    return float(n["v"])


def _decode_complex(d: Decoder, n: Any, depth: int) -> complex:
    real, imag = d._list(n["v"], depth)
    if type(real) is not float or type(imag) is not float:
        raise WireError("a malformed complex")
    return complex(real, imag)


def _decode_range(d: Decoder, n: Any, depth: int) -> range:
    parts = d._list(n["v"], depth)
    if len(parts) != 3 or set(map(type, parts)) != {int}:
        raise WireError("a malformed range")
    return range(*parts)


def _decode_dict(d: Decoder, n: Any, depth: int) -> Dict[Any, Any]:
    flat = d._list(n["v"], depth)
    keys = flat[::2]
    if len(flat) % 2:
        raise WireError("a key without a value")
    d._distinct(keys)
    return dict(zip(keys, flat[1::2]))


def _decode_set(d: Decoder, n: Any, depth: int) -> Any:
    items = d._list(n["v"], depth)
    d._distinct(items)
    return set(items) if n["$"] == "set" else frozenset(items)


def _decode_datetime(d: Decoder, n: Any, depth: int) -> datetime:
    v = _ints(n["v"], 8)
    return datetime(*v[:7], tzinfo=_zone(n["z"]), fold=v[7])  # type: ignore[misc, arg-type]


def _decode_time(d: Decoder, n: Any, depth: int) -> time:
    v = _ints(n["v"], 5)
    return time(*v[:4], tzinfo=_zone(n["z"]), fold=v[4])  # type: ignore[misc, arg-type]


def _decode_decimal(d: Decoder, n: Any, depth: int) -> Decimal:
    text = n["v"]
    if type(text) is not str or len(text) > MAX_SCALAR:
        raise WireError("a malformed decimal")
    d._decimals = True
    value = Decimal(text)
    d._reducing -= _reducing(value, text)
    if d._reducing < 0:
        raise TooLarge("decimals that take too long to reduce")
    return value


def _decode_fraction(d: Decoder, n: Any, depth: int) -> Fraction:
    above, below = n["v"]
    d._spend(0, len(above) + len(below))
    d._reducing -= len(above) * len(below)
    if d._reducing < 0:
        raise TooLarge("fractions that take too long to reduce")
    return Fraction(_hex(above), _hex(below))


def _decode_array(d: Decoder, n: Any, depth: int) -> Any:
    dtype, shape = n["d"], n["s"]
    size = item_size(dtype)
    if size is None or type(shape) is not list or len(shape) > 32:
        raise WireError("a malformed array")
    total = size
    for length in shape:
        if type(length) is not int or not 0 <= length < 2**48:
            raise WireError("a malformed array")
        total *= length
    data = d.blob(n["i"])
    if total != len(data):
        raise WireError("an array whose bytes do not fit its shape")
    return d._array(dtype, tuple(shape), bytes(data))


def _decode_image(d: Decoder, n: Any, depth: int) -> Any:
    mime = d._str(n["m"])
    if len(mime) > 100 or not _MIME.match(mime):
        raise WireError("a malformed image")
    return Image(mime, bytes(d.blob(n["i"])))


def _decode_table(d: Decoder, n: Any, depth: int) -> Any:
    if type(n["n"]) is not list:
        raise WireError("a malformed table")
    names = [d._str(name) for name in n["n"]]
    values = d._list(n["v"], depth)
    index = None if n["x"] is None else d._value(n["x"], depth)
    if len(names) != len(values) or not (index is None or type(index) is list):
        raise WireError("a malformed table")
    return d._table(dict(zip(names, values)), index)


def _decode_uuid(d: Decoder, n: Any, depth: int) -> Any:
    from uuid import UUID

    return UUID(int=_hex(n["v"], 32))


_BUILD: Dict[str, Callable[[Decoder, Any, int], Any]] = {
    "str": lambda d, n, depth: str(d.blob(n["i"]), "utf-8", "surrogatepass"),
    "bytes": lambda d, n, depth: bytes(d.blob(n["i"])),
    "int": _decode_int,
    "float": _decode_float,
    "complex": _decode_complex,
    "tuple": lambda d, n, depth: tuple(d._list(n["v"], depth)),
    "set": _decode_set,
    "frozenset": _decode_set,
    "dict": _decode_dict,
    "range": _decode_range,
    "datetime": _decode_datetime,
    "date": lambda d, n, depth: date(*_ints(n["v"], 3)),
    "time": _decode_time,
    "timedelta": lambda d, n, depth: timedelta(*_ints(n["v"], 3)),
    "timezone": lambda d, n, depth: _zone(n["v"]) or timezone.utc,
    "decimal": _decode_decimal,
    "fraction": _decode_fraction,
    "uuid": _decode_uuid,
    "array": _decode_array,
    "image": _decode_image,
    "table": _decode_table,
    "opaque": lambda d, n, depth: Opaque(d._str(n["t"])[:400], d._str(n["r"])[:8000]),
}
