"""The machine that runs a plan: a compiled function an operation, and the loop that takes blocks of rows through them.

Everything here works on plain memory and trusts its arguments, which `program.py` has checked. It is one file because
numba's cache on disk notices changes of a function's own file alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, njit, types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from feature_eng.inputs import NULL_INT, PADDING_ID, UNSEEN_ID

BLOCK = 512  # rows whose registers stay in the nearest caches
AHEAD = 24  # lookups for whose memory is asked before the first is waited for

# A line of a hash table has the size of a processor's: keys, their payloads, and how many lines after it may hold more.
LINE_BYTES, LINE_KEYS, PAYLOADS_AT, REACH_AT = 64, 5, 40, 60
MOST_REACH = 255

# Where a register lies: the columns of a request, scratch for keys, scratch for 4-byte cells, or the packed outputs.
INPUT, KEYS, CELLS, CATEGORICAL, CONTINUOUS = range(5)

# The fields of an instruction; its operation's own settings follow.
OP, OUTPUT, WIDTH, FIRST, COUNT, SETTINGS = range(6)
FIELDS = SETTINGS + 8

(
    INT_KEYS,
    STRING_KEYS,
    COMBINED_KEYS,
    BUCKETS,
    FIND,
    DIRECT,
    LIST_FIND,
    WORDS,
    HOUR,
    WEEKDAY,
    AGE_DAYS,
    NUMBERS,
    BUCKETIZE,
    CONSTANT,
    COPY,
    FLOAT_KEYS,
    IS_NULL,
    DIFFERENCE_LAG,
) = range(18)

# What became of a request's strings.
WHOLE, CUT, NOT_UTF8 = range(3)

# Where an instruction's numbers come from.
FLOAT32, FLOAT64, INT64, REGISTER, TEXT = range(5)

# The steps of a chain of arithmetic.
FINITE, FILL, CLIP, LOG, NORMALIZE, SCALE, OVER_TWICE, NULL = range(8)

_M = np.uint64(0xC6A4A7935BD1E995)
_LENGTH_8 = np.uint64(8 * 0xC6A4A7935BD1E995 % 2**64)
_BYTES = 0x0101010101010101
_8, _32, _47 = np.uint64(8), np.uint64(32), np.uint64(47)
_1, _EACH, _HIGHEST, _SPACES = np.uint64(1), np.uint64(_BYTES), np.uint64(0x80 * _BYTES), np.uint64(0x20 * _BYTES)
_SMALLEST_NORMAL, _2_TO_23, _INFINITE = np.float32(2.0**-126), np.float32(2.0**23), np.float32(np.inf)
_ROOT_HALF = np.int32(0x3F3504F3)  # the bits of √½
_HOUR_MS, _DAY_MS = 3_600_000, 86_400_000

_inlined = njit(inline="always")


def _compiled(function):
    """Compile a function, and keep the machine code on disk where there is a folder to keep it in."""
    try:
        return njit(nogil=True, cache=True)(function)
    except RuntimeError:  # neither the package nor the user's cache can be written to
        return njit(nogil=True)(function)


@intrinsic
def _pointer(typing: Any, address: Any) -> Any:
    """Return an address as a pointer."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), generate


@intrinsic
def _word(typing: Any, address: Any) -> Any:
    """Return the eight bytes at an address, which need not be aligned."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())
        return builder.load(pointer, align=1)

    return types.uint64(types.int64), generate


@intrinsic
def _bits(typing: Any, value: Any) -> Any:
    """Return a float64's bits."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(64))

    return types.int64(types.float64), generate


@intrinsic
def _fetch(typing: Any, address: Any) -> Any:
    """Ask for the memory at an address, without waiting for it."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        read, keep, data = (number(value) for value in (0, 3, 1))
        builder.call(prefetch, [builder.inttoptr(arguments[0], byte), read, keep, data])
        return context.get_dummy_value()

    return types.void(types.int64), generate


@intrinsic
def _trailing_zeros(typing: Any, word: Any) -> Any:
    """Return how many bits lie below a word's lowest that is set, 64 where none is."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.IntType(1)(0))

    return types.int64(types.uint64), generate


@intrinsic
def _place_in(typing: Any, address: Any, key: Any) -> Any:
    """Return the place of a key among the five of the line at an address, the first if it is there twice, else 5."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        byte, number, word = ir.IntType(8), ir.IntType(32), ir.IntType(64)
        words, lanes = ir.VectorType(word, LINE_BYTES // 8), ir.VectorType(number, LINE_BYTES // 8)
        line = builder.load(builder.inttoptr(arguments[0], words.as_pointer()), align=8)
        nothing = ir.Constant(words, ir.Undefined)
        key = builder.insert_element(nothing, arguments[1], number(0))
        keys = builder.shuffle_vector(key, nothing, ir.Constant(lanes, [0] * lanes.count))
        alike = builder.bitcast(builder.icmp_unsigned("==", line, keys), byte)
        keys_alike = builder.and_(alike, byte((1 << LINE_KEYS) - 1))
        ended = builder.or_(keys_alike, byte(1 << LINE_KEYS))
        return builder.cttz(builder.zext(ended, word), ir.IntType(1)(1))

    return types.int64(types.int64, types.uint64), generate


@_compiled
def words_at(addresses, words):
    """Write the eight bytes that lie at each of n addresses to int64 (n,)."""
    for i in range(len(words)):
        words[i] = np.int64(_word(addresses[i]))


ANY_LENGTH, OFFSETS = -1, -2


@_compiled
def read_arrays(objects, offset, kind, dtypes, sizes, inputs, rows, once):
    """Put the addresses of arrays' data in the place of their objects', and tell inputs that have one row.

    Args:
        objects: addresses of n Python objects, int64, written.
        offset: of the data's address in an array object; what the object is of comes before, its number of dimensions,
            shape, strides, base and dtype after.
        kind: address of the type of arrays.
        dtypes: address of each array's dtype, int64 (n,).
        sizes: bytes of each array's elements, int64 (n,).
        inputs: the input of which an array has a value a row; ANY_LENGTH if it has any number; OFFSETS minus the input
            of which it says where each row's values begin in the array before; int64 (n,).
        rows: B.
        once: bool, written.

    Returns:
        Whether each object is an array, contiguous, of its dtype, and has B values or one, or offsets of as many rows
        that rise from 0 to the values' number.
    """
    length = np.int64(0)
    for i in range(len(objects)):
        at = objects[i] + offset
        if np.int64(_word(at - 8)) != kind or np.int64(_word(at + 8)) & 0xFFFFFFFF != 1:
            return False
        if np.int64(_word(at + 40)) != dtypes[i]:
            return False
        values, length = length, np.int64(_word(np.int64(_word(at + 16))))
        if length > 1 and np.int64(_word(np.int64(_word(at + 24)))) != sizes[i]:
            return False
        data = np.int64(_word(at))
        if inputs[i] >= 0:
            if length != rows and length != 1:
                return False
            once[inputs[i]] = length == 1
        elif inputs[i] <= OFFSETS:
            if (length != rows + 1 and length != 2) or not _rises(data, length, values):
                return False
            once[OFFSETS - inputs[i]] = length == 2
        objects[i] = data
    return True


@njit
def _rises(address, count, last):
    """Return whether int64 numbers rise from 0 to `last`."""
    before = np.int64(_word(address))
    if before != 0:
        return False
    for i in range(1, count):
        number = np.int64(_word(address + 8 * i))
        if number < before:
            return False
        before = number
    return before == last


# ── Keys: MurmurHash64A ──────────────────────────────────────────────────────────────────────────────────────────────


@_inlined
def _mixed(block):
    block = block * _M
    block ^= block >> _47
    return block * _M


@_inlined
def _finished(state):
    state = (state ^ (state >> _47)) * _M
    return state ^ (state >> _47)


@_inlined
def _int_key(value):
    return _finished((_LENGTH_8 ^ _mixed(np.uint64(value))) * _M)


@_inlined
def _float_key(value):
    """Return the key of a number's bits; zero has one sign, and NaN the null's, the bits of -0.0."""
    bits = np.int64(NULL_INT)
    if value == 0:
        bits = np.int64(0)
    elif not np.isnan(value):
        bits = np.int64(_bits(np.float64(value)))
    return _int_key(bits)


@_compiled
def float_keys(values, keys):
    """Write the keys (n,) of float64 numbers (n,)."""
    for i in range(len(keys)):
        keys[i] = _float_key(values[i])


@njit
def _string_key(address, length):
    """Return the key of `length` bytes."""
    state = np.uint64(length) * _M
    left = length & 7
    stop = address + length - left
    at = address
    while at < stop:
        state = (state ^ _mixed(_word(at))) * _M
        at += 8
    if left:
        tail = np.uint64(0)
        if length >= 8:
            tail = _word(stop + left - 8) >> np.uint64(64 - 8 * left)
        else:
            letters = carray(_pointer(stop), 8, np.uint8)
            for i in range(left - 1, -1, -1):
                tail = (tail << _8) | np.uint64(letters[i])
        state = (state ^ tail) * _M
    return _finished(state)


@_compiled
def int_keys(values, keys):
    """Write the keys (n,) of integers (n,)."""
    for i in range(len(keys)):
        keys[i] = _int_key(values[i])


@_compiled
def string_keys(data, starts, ends, keys):
    """Write the keys (n,) of the strings that lie in bytes at `starts[i]:ends[i]`."""
    _string_keys(data.ctypes.data, starts, ends, keys)


@njit
def _string_keys(address, starts, ends, keys):
    for i in range(len(keys)):
        keys[i] = _string_key(address + starts[i], ends[i] - starts[i])


# ── Tables: lines of five keys, so that a lookup is one far read ─────────────────────────────────────────────────────


@_inlined
def _line_of(key, lines):
    """Return the line that a key is looked for in first."""
    return np.int64(((key >> _32) * np.uint64(lines)) >> _32)


@_inlined
def _cell(line, place):
    """Return a payload of the line at an address; place 5 is the line's reach."""
    return carray(_pointer(line + PAYLOADS_AT), LINE_KEYS + 1, np.int32)[place]


@njit
def _slot_beyond(key, table, lines, first, reach):
    """Return where a key lies in the `reach` lines after its first, as `slots_of` does."""
    line = first
    for _ in range(reach):
        line += 1
        if line == lines:
            line = 0
        place = _place_in(table + LINE_BYTES * line, key)
        if place < LINE_KEYS:
            return LINE_KEYS * line + place
    return -1


@njit
def _payload_beyond(key, table, lines, line, reach, default):
    """Return the payload of a key that the line at an address does not hold."""
    slot = _slot_beyond(key, table, lines, (line - table) // LINE_BYTES, reach)
    return _cell(table + LINE_BYTES * (slot // LINE_KEYS), slot % LINE_KEYS) if slot >= 0 else default


@_inlined
def _payload(key, table, lines, line, default):
    """Return a key's payload, its first line being at an address."""
    place = _place_in(line, key)
    payload = _cell(line, place)
    return payload if place < LINE_KEYS else _payload_beyond(key, table, lines, line, payload, default)


@_compiled
def slots_of(keys, table, slots):
    """Write where keys (n,) lie in a table (lines, 8): five times the line, plus the place in it; -1 if nowhere."""
    address, lines = table.ctypes.data, len(table)
    for i in range(len(keys)):
        first = _line_of(keys[i], lines)
        place = _place_in(address + LINE_BYTES * first, keys[i])
        if place < LINE_KEYS:
            slots[i] = LINE_KEYS * first + place
        else:
            slots[i] = _slot_beyond(keys[i], address, lines, first, _cell(address + LINE_BYTES * first, place))


@_compiled
def largest_of(table):
    """Return the largest payload of a table (lines, 8) and the farthest reach of its lines, neither with a sign."""
    cells = table.view(np.uint32)
    payload, reach = np.uint32(0), np.uint32(0)
    for line in range(len(cells)):
        for place in range(PAYLOADS_AT // 4, REACH_AT // 4):
            payload = max(payload, cells[line, place])
        reach = max(reach, cells[line, REACH_AT // 4])
    return payload, reach


@_compiled
def place_keys(keys, payloads, table):
    """Write keys to a table, each to the first line, from its own on, that has room.

    Args:
        keys: uint64 (V,).
        payloads: uint32 (V,).
        table: uint64 (lines, 8), whose lines reach no further than themselves; written.

    Returns:
        How many keys were written: V, unless the next one is in the table, or has no room near its line.
    """
    lines = len(table)
    cells = table.view(np.uint32)
    used = np.zeros(lines, np.uint8)
    for i in range(len(keys)):
        first = _line_of(keys[i], lines)
        line, reach = first, 0
        while True:
            for place in range(used[line]):
                if table[line, place] == keys[i]:
                    return i
            if used[line] < LINE_KEYS:
                break
            reach += 1
            line = line + 1 if line + 1 < lines else 0
            if reach > MOST_REACH or reach == lines:
                return i
        table[line, used[line]] = keys[i]
        cells[line, PAYLOADS_AT // 4 + used[line]] = payloads[i]
        cells[first, REACH_AT // 4] = max(cells[first, REACH_AT // 4], reach)
        used[line] += 1
    return len(keys)


# ── Text ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@_compiled
def first_outside(starts, ends, size):
    """Return the index of the first string whose places do not rise within `size` bytes, or -1."""
    for i in range(len(starts)):
        if starts[i] < 0 or ends[i] < starts[i] or ends[i] > size:
            return i
    return -1


@_compiled
def first_invalid(data, starts, ends):
    """Return the index of the first string that is not UTF-8, or -1. Source: RFC 3629, section 4."""
    for i in range(len(starts)):
        at, end = starts[i], ends[i]
        while at < end:
            lead = data[at]
            if lead < 0x80:
                at += 1
                continue
            if lead < 0xC2 or lead > 0xF4:
                return i
            more = 1 if lead < 0xE0 else (2 if lead < 0xF0 else 3)
            if at + more >= end:
                return i
            second = data[at + 1]
            low, high = 0x80, 0xBF
            if lead == 0xE0:
                low = 0xA0
            elif lead == 0xED:
                high = 0x9F
            elif lead == 0xF0:
                low = 0x90
            elif lead == 0xF4:
                high = 0x8F
            if second < low or second > high:
                return i
            for j in range(2, more + 1):
                if data[at + j] < 0x80 or data[at + j] > 0xBF:
                    return i
            at += more + 1
    return -1


@_compiled
def gather_places(codes, starts, ends, coded_starts, coded_ends):
    """Write where the string of each code (n,) begins and ends; a code that is no index stands for no bytes."""
    for i in range(len(codes)):
        known = codes[i] >= 0 and codes[i] < len(starts)
        coded_starts[i] = starts[codes[i]] if known else 0
        coded_ends[i] = ends[codes[i]] if known else 0


@_compiled
def split_wire(wire, starts, ends):
    """Find the strings in Triton's BYTES: before each its length, four bytes little-endian.

    Returns:
        WHOLE, or CUT where there are not exactly as many as `starts` (n,) and `ends` (n,) have room for, or NOT_UTF8.
    """
    at, size = 0, len(wire)
    for i in range(len(starts)):
        if at + 4 > size:
            return CUT
        length = (
            np.int64(wire[at])
            | (np.int64(wire[at + 1]) << 8)
            | (np.int64(wire[at + 2]) << 16)
            | (np.int64(wire[at + 3]) << 24)
        )
        starts[i] = at + 4
        ends[i] = at + 4 + length
        at = ends[i]
        if at > size:
            return CUT
    if at != size:
        return CUT
    return WHOLE if first_invalid(wire, starts, ends) < 0 else NOT_UTF8


@_compiled
def first_beyond_ascii(data, starts, ends):
    """Return the index of the first string, in order, that holds more than ASCII, or -1."""
    letters = np.int64(0)
    for i in range(len(starts)):
        letters += ends[i] - starts[i]
    if len(data) <= letters:  # one look at all bytes is less work, and in vectors
        beyond = np.uint8(0)
        for at in range(len(data)):
            beyond |= data[at]
        if beyond < 0x80:
            return -1
    for i in range(len(starts)):
        for at in range(starts[i], ends[i]):
            if data[at] >= 0x80:
                return i
    return -1


@_inlined
def _from_letter(letters, least):
    """Return eight letters' highest bits, set where a letter is ASCII and at least `least`."""
    return ((letters & ~_HIGHEST) + (np.uint64(0x80 - least) * _EACH)) & ~letters & _HIGHEST


@_inlined
def _before_space(letters):
    """Return how many of eight letters come before the first at which `str.split` splits, of ASCII's."""
    blank = _from_letter(letters, 0x09) & ~_from_letter(letters, 0x0E)
    return _trailing_zeros(blank | (_from_letter(letters, 0x1C) & ~_from_letter(letters, 0x21))) >> 3


@_inlined
def _lower(letters):
    return letters | ((_from_letter(letters, 0x41) & ~_from_letter(letters, 0x5B)) >> np.uint64(2))


@njit
def _letters_at(address, at, length):
    """Return the next eight of a text's letters, the first in the lowest byte; spaces follow the last."""
    left = length - at
    if left >= 8:
        return _word(address + at)
    letters = np.uint64(0)
    if length >= 8:
        letters = _word(address + length - 8) >> np.uint64(64 - 8 * left)
    else:
        bytes_left = carray(_pointer(address + at), 8, np.uint8)
        for i in range(left - 1, -1, -1):
            letters = (letters << _8) | np.uint64(bytes_left[i])
    return letters | (_SPACES << np.uint64(8 * left))


@njit
def _lower_key(address, first, size, length):
    """Return the key of ASCII letters in lower case; bytes beyond ASCII stay as they are."""
    state = np.uint64(size) * _M
    left = size & 7
    for at in range(first, first + size - left, 8):
        state = (state ^ _mixed(_lower(_letters_at(address, at, length)))) * _M
    if left:
        tail = _lower(_letters_at(address, first + size - left, length)) & ((_1 << np.uint64(8 * left)) - _1)
        state = (state ^ tail) * _M
    return _finished(state)


@njit
def _write_words(address, length, buckets, row, width):
    """Write the buckets of a text's first words, then padding, into a row's cells."""
    at, found = 0, 0
    while at < length and found < width:
        more = _before_space(_letters_at(address, at, length))
        size = more
        while more == 8 and at + size < length:
            more = _before_space(_letters_at(address, at + size, length))
            size += more
        if size:
            row[found] = _bucket(_lower_key(address, at, size, length), buckets)
            found += 1
        at += size + 1
    for i in range(found, width):
        row[i] = PADDING_ID


# ── Numbers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@_inlined
def _bucket(key, buckets):
    return np.int32(key % np.uint64(buckets)) + np.int32(1)


def _logarithm(value):
    """Return a float64's natural logarithm; compiled functions that are given a float32 call `_logarithm32` instead."""
    return np.log(value)


def _logarithm32(value):
    """Return a float32's logarithm within 0.9 units of the last place; libm would keep a loop from vectors.

    Source: S. Moshier, Cephes, logf.
    """
    tiny = value < _SMALLEST_NORMAL
    normal = value * _2_TO_23 if tiny else value
    bits = np.float32(normal).view(np.int32)
    exponent = (bits - _ROOT_HALF) >> np.int32(23)
    x = np.int32(bits - (exponent << np.int32(23))).view(np.float32) - np.float32(1)
    y = np.float32(7.0376836292e-2)
    y = y * x + np.float32(-1.1514610310e-1)
    y = y * x + np.float32(1.1676998740e-1)
    y = y * x + np.float32(-1.2420140846e-1)
    y = y * x + np.float32(1.4249322787e-1)
    y = y * x + np.float32(-1.6668057665e-1)
    y = y * x + np.float32(2.0000714765e-1)
    y = y * x + np.float32(-2.4999993993e-1)
    y = y * x + np.float32(3.3333331174e-1)
    square = x * x
    scale = np.float32(exponent - np.int32(23) if tiny else exponent)
    y = y * x * square + scale * np.float32(-2.12194440e-4) - np.float32(0.5) * square
    result = x + y + scale * np.float32(0.693359375)
    result = result if value < _INFINITE else value  # as NaN is not, either
    result = -_INFINITE if value == 0 else result
    return np.float32(np.nan) if value < 0 else result


@overload(_logarithm, inline="always")
def _logarithm_of(value):
    return _logarithm32 if value == types.float32 else _logarithm


@njit(error_model="numpy")
def run_steps(values, steps, constants):
    """Take values (n,), float32 or float64 as the constants (steps, 2) are, through a chain of arithmetic, in place."""
    for step in range(len(steps)):
        a, b = constants[step, 0], constants[step, 1]
        kind = steps[step]
        if kind == FINITE:
            for i in range(len(values)):
                values[i] = values[i] if np.isfinite(values[i]) else np.nan
        elif kind == FILL:
            for i in range(len(values)):
                values[i] = a if np.isnan(values[i]) else values[i]
        elif kind == CLIP:
            for i in range(len(values)):
                values[i] = a if values[i] < a else (b if values[i] > b else values[i])
        elif kind == LOG:
            for i in range(len(values)):
                values[i] = _logarithm(values[i] + a)
        elif kind == NORMALIZE:
            for i in range(len(values)):
                values[i] = (values[i] - a) / b
        elif kind == SCALE:
            for i in range(len(values)):
                values[i] = (values[i] - a) * b
        elif kind == OVER_TWICE:
            for i in range(len(values)):
                twice = values[i] + values[i]
                values[i] = values[i] / twice if twice != 0 else np.nan
        elif kind == NULL:
            for i in range(len(values)):
                values[i] = 1 if np.isnan(values[i]) else 0


@njit
def _load(values, source, address, first, held, column):
    """Copy an instruction's numbers to float32 or float64 (n,); the integer that stands for a null becomes NaN."""
    n = len(values)
    if source == FLOAT32:
        values[:] = carray(_pointer(address + 4 * first), n, np.float32)
    elif source == FLOAT64:
        values[:] = carray(_pointer(address + 8 * first), n, np.float64)
    elif source == INT64:
        integers = carray(_pointer(address + 8 * first), n, np.int64)
        for i in range(n):
            values[i] = np.nan if integers[i] == NULL_INT else integers[i]
    else:
        values[:] = held[:n, column]


@_inlined
def _hour(moment):
    return np.int32(25) if moment == NULL_INT else np.int32(moment // _HOUR_MS % 24 + 1)


@_inlined
def _weekday(moment):
    return np.int32(8) if moment == NULL_INT else np.int32((moment // _DAY_MS + 3) % 7 + 1)


@njit
def _edges_below(value, edges):
    """Return how many ascending edges are not above a value; NaN is above all, as in NVTabular."""
    first, stop = 0, len(edges)
    while first < stop:
        middle = (first + stop) // 2
        if value < edges[middle]:
            stop = middle
        else:
            first = middle + 1
    return first


# ── Operations: each writes the first n rows of its register, from its operands' ─────────────────────────────────────


@njit
def _find(keys, settings, target, column, lines_at):
    """Write the payloads of keys (n,); memory is asked for some lookups ahead."""
    table, lines, default = settings[0], settings[1], np.int32(settings[2])
    n = len(keys)
    for i in range(n):
        lines_at[i] = table + LINE_BYTES * _line_of(keys[i], lines)
    ahead = min(AHEAD, n)
    for i in range(ahead):
        _fetch(lines_at[i])
    for i in range(n):
        _fetch(lines_at[min(i + ahead, n - 1)])
        target[i, column] = _payload(keys[i], table, lines, lines_at[i], default)


@njit
def _direct(values, settings, target, column):
    """Write the entries of a table that integers (n,) index."""
    size, low, default, null = np.uint64(settings[1]), np.uint64(settings[2]), settings[3], settings[4]
    table = carray(_pointer(settings[0]), settings[1], np.int32)
    for i in range(len(values)):
        place = np.uint64(values[i]) - low
        known = table[np.int64(place)] if place < size else np.int32(default)
        target[i, column] = np.int32(null) if values[i] == NULL_INT else known


@njit
def _list_find(data, starts, ends, offsets, settings, target, column, width):
    """Write the payloads of a slice of lists' values, then padding.

    Integers lie at `data`, strings at its starts and ends; a slice's bounds count from a list's end where negative.
    """
    table, lines, strings, padding = settings[0], settings[1], settings[2], np.int32(settings[5])
    integers = carray(_pointer(data), 1, np.int64)
    for i in range(len(offsets) - 1):
        length = offsets[i + 1] - offsets[i]
        skipped, stop = settings[3], settings[4]
        skipped = max(length + skipped, 0) if skipped < 0 else min(skipped, length)
        stop = length + stop if stop < 0 else min(stop, length)
        kept = max(min(stop - skipped, width), 0)
        for j in range(kept):
            at = offsets[i] + skipped + j
            key = _string_key(data + starts[at], ends[at] - starts[at]) if strings else _int_key(integers[at])
            line = table + LINE_BYTES * _line_of(key, lines)
            target[i, column + j] = _payload(key, table, lines, line, np.int32(UNSEEN_ID))
        for j in range(kept, width):
            target[i, column + j] = padding


@njit
def _age_days(later, earlier, numbers, column):
    """Write the days between moments; a single one holds for all."""
    later_step, earlier_step = int(len(later) > 1), int(len(earlier) > 1)
    for i in range(max(len(later), len(earlier))):
        one, other = later[i * later_step], earlier[i * earlier_step]
        known = one != NULL_INT and other != NULL_INT
        numbers[i, column] = (np.float64(one) - other) / _DAY_MS if known else np.nan


@njit
def _same(addresses, place, kind, one, other):
    """Return whether an input's values in two rows are equal, and not null."""
    if kind == TEXT:
        letters = carray(_pointer(addresses[place]), 1, np.uint8)
        starts = carray(_pointer(addresses[place + 1]), 1, np.int64)
        ends = carray(_pointer(addresses[place + 2]), 1, np.int64)
        length = ends[one] - starts[one]
        if length == 0 or length != ends[other] - starts[other]:
            return False
        different = np.uint8(0)
        for i in range(length):
            different |= letters[starts[one] + i] ^ letters[starts[other] + i]
        return different == 0
    if kind == FLOAT32:
        singles = carray(_pointer(addresses[place]), 1, np.float32)
        return singles[one] == singles[other]
    if kind == FLOAT64:
        doubles = carray(_pointer(addresses[place]), 1, np.float64)
        return doubles[one] == doubles[other]
    integers = carray(_pointer(addresses[place]), 1, np.int64)
    return integers[one] == integers[other] and integers[one] != NULL_INT


@njit
def _difference(addresses, place, kind, row, before):
    """Return by how much an input's value in a row is above that in another, or NaN."""
    if kind == FLOAT32:
        singles = carray(_pointer(addresses[place]), 1, np.float32)
        return np.float64(singles[row] - singles[before])
    if kind == FLOAT64:
        doubles = carray(_pointer(addresses[place]), 1, np.float64)
        return doubles[row] - doubles[before]
    integers = carray(_pointer(addresses[place]), 1, np.int64)
    if integers[row] == NULL_INT or integers[before] == NULL_INT:
        return np.nan
    return np.float64(integers[row]) - np.float64(integers[before])


# ── The loop ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@_inlined
def _int64s(address, first, n):
    """Return n integers of a request's column, from its row `first`."""
    return carray(_pointer(address + 8 * first), n, np.int64)


@_compiled
def execute(
    code,
    operands,
    registers,
    steps,
    constants32,
    constants64,
    keys_held,
    cells_held,
    given_once,
    addresses,
    categorical,
    continuous,
    start,
    stop,
):
    """Run a program over rows, a block after the other.

    An instruction whose operands all have one row, such as a user's, is computed once and holds for every row.

    Args:
        code: an instruction a row, int64 (instructions, FIELDS).
        operands: registers that instructions read, int64, each one's from FIRST on, COUNT of them.
        registers: bank and column of each register, int64 (registers, 2).
        steps: kinds of arithmetic, int64 (steps,).
        constants32: two numbers a step, float32 (steps, 2).
        constants64: the same, float64.
        keys_held: how many keys a row has that are not packed.
        cells_held: how many ids and numbers a row has that are not packed.
        given_once: whether an input register has one row for all, bool (registers,).
        addresses: where the inputs' data lie, int64.
        categorical: int32 (B, S), written.
        continuous: float32 (B, D), written.
        start: the first row.
        stop: the row after the last.
    """
    once = given_once.copy()
    for line in code:
        once[line[OUTPUT]] = True
        for operand in operands[line[FIRST] : line[FIRST] + line[COUNT]]:
            once[line[OUTPUT]] &= once[operand]
        if line[OP] == DIFFERENCE_LAG:  # the first row has none before it
            once[line[OUTPUT]] = False
    keys = np.empty((keys_held, BLOCK), np.uint64)
    cells = np.empty((BLOCK, cells_held), np.int32)
    work32, work64 = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float64)
    lines_at = np.empty(BLOCK, np.int64)
    for begin in range(start, stop, BLOCK):
        rows = min(BLOCK, stop - begin)
        packed_ids = categorical[begin : begin + rows]
        packed_numbers = continuous[begin : begin + rows]
        for line in code:
            op, output, width, settings = line[OP], line[OUTPUT], line[WIDTH], line[SETTINGS:]
            read = operands[line[FIRST] : line[FIRST] + line[COUNT]]
            n = 1 if once[output] else rows
            bank, column = registers[output, 0], registers[output, 1]
            target = cells
            if bank == CATEGORICAL:
                target = packed_ids
            elif bank == CONTINUOUS:
                target = packed_numbers.view(np.int32)
            # The first operand: where it lies, and, if it is a column of the request, its address and first row.
            source_bank, source, address, first = 0, 0, 0, 0
            held = cells.view(np.float32)
            if len(read):
                source_bank, source = registers[read[0], 0], registers[read[0], 1]
                if source_bank == INPUT:
                    address = addresses[source]
                    first = 0 if once[read[0]] else begin
                elif source_bank == CONTINUOUS:
                    held = packed_numbers

            if op == INT_KEYS:
                if source_bank == INPUT:
                    int_keys(_int64s(address, first, n), keys[column, :n])
                else:
                    ids = packed_ids if source_bank == CATEGORICAL else cells
                    for i in range(n):
                        keys[column, i] = _int_key(np.int64(ids[i, source]))
            elif op == FLOAT_KEYS:
                _load(work64[:n], settings[0], address, first, held, source)
                float_keys(work64[:n], keys[column, :n])
            elif op == STRING_KEYS:
                starts, ends = _int64s(addresses[source + 1], first, n), _int64s(addresses[source + 2], first, n)
                _string_keys(address, starts, ends, keys[column, :n])
            elif op == COMBINED_KEYS:
                keys[column, :n] = np.uint64(8 * len(read)) * _M
                for part in read:
                    values = keys[registers[part, 1]]
                    step = 0 if once[part] else 1
                    for i in range(n):
                        keys[column, i] = (keys[column, i] ^ _mixed(values[i * step])) * _M
                for i in range(n):
                    keys[column, i] = _finished(keys[column, i])
            elif op == BUCKETS:
                for i in range(n):
                    target[i, column] = _bucket(keys[source, i], settings[0])
            elif op == FIND:
                _find(keys[source, :n], settings, target, column, lines_at)
            elif op == DIRECT:
                _direct(_int64s(address, first, n), settings, target, column)
            elif op == LIST_FIND:
                starts, ends = _int64s(address, 0, 0), _int64s(address, 0, 0)
                if settings[2]:
                    starts, ends = _int64s(addresses[source + 1], 0, 1), _int64s(addresses[source + 2], 0, 1)
                offsets = _int64s(addresses[source + (3 if settings[2] else 1)], first, n + 1)
                _list_find(address, starts, ends, offsets, settings, target, column, width)
            elif op == WORDS:  # of the plain words, which lie behind the strings as they came
                plain = addresses[source + 3]
                starts, ends = _int64s(addresses[source + 4], first, n), _int64s(addresses[source + 5], first, n)
                for i in range(n):
                    row = target[i, column : column + width]
                    _write_words(plain + starts[i], ends[i] - starts[i], settings[0], row, width)
            elif op == HOUR:
                moments = _int64s(address, first, n)
                for i in range(n):
                    target[i, column] = _hour(moments[i])
            elif op == WEEKDAY:
                moments = _int64s(address, first, n)
                for i in range(n):
                    target[i, column] = _weekday(moments[i])
            elif op == AGE_DAYS:
                other = addresses[registers[read[1], 1]]
                later = _int64s(address, first, 1 if once[read[0]] else n)
                earlier = _int64s(other, 0 if once[read[1]] else begin, 1 if once[read[1]] else n)
                _age_days(later, earlier, target.view(np.float32), column)
            elif op == NUMBERS:
                chain = slice(settings[1], settings[1] + settings[2])
                if settings[3]:
                    _load(work64[:n], settings[0], address, first, held, source)
                    run_steps(work64[:n], steps[chain], constants64[chain])
                    work32[:n] = work64[:n]
                else:
                    _load(work32[:n], settings[0], address, first, held, source)
                    run_steps(work32[:n], steps[chain], constants32[chain])
                target.view(np.float32)[:n, column] = work32[:n]
            elif op == BUCKETIZE:
                edges = carray(_pointer(settings[0]), settings[1], np.float64)
                _load(work64[:n], settings[3], address, first, held, source)
                if settings[5]:
                    chain = slice(settings[4], settings[4] + settings[5])
                    run_steps(work64[:n], steps[chain], constants64[chain])
                for i in range(n):
                    target[i, column] = _edges_below(work64[i], edges) + settings[2]
            elif op == IS_NULL:
                if settings[0] == TEXT:
                    starts, ends = _int64s(addresses[source + 1], first, n), _int64s(addresses[source + 2], first, n)
                    for i in range(n):
                        target[i, column] = np.int32(starts[i] == ends[i])
                else:
                    _load(work64[:n], settings[0], address, first, held, source)
                    for i in range(n):
                        target[i, column] = np.int32(np.isnan(work64[i]))
            elif op == DIFFERENCE_LAG:
                numbers = target.view(np.float32)
                for i in range(n):
                    row, before = begin + i, begin + i - settings[1]
                    known = before >= 0 and before < len(categorical)
                    for j in range(1, len(read)):
                        step, kind = int(not once[read[j]]), (settings[2] >> (3 * j)) & 7
                        place = registers[read[j], 1]
                        known = known and _same(addresses, place, kind, row * step, before * step)
                    step = int(not once[read[0]])
                    value = np.nan
                    if known:
                        value = _difference(addresses, source, settings[0], row * step, before * step)
                    numbers[i, column] = value
            elif op == CONSTANT:
                target[0, column] = np.int32(settings[0])
            elif op == COPY:
                copied = packed_ids if source_bank == CATEGORICAL else packed_numbers.view(np.int32)
                target[:n, column : column + width] = copied[:n, source : source + width]

            if once[output] and bank >= CATEGORICAL:
                for i in range(1, rows):
                    for j in range(width):
                        target[i, column + j] = target[0, column + j]
