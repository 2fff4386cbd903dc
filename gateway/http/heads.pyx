# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, freethreading_compatible=False
"""Heads of the usual form, read and written in one call each: the compiled companion of parse.py and serialize.py.

It only ever says yes. A head of the usual form (a plain path, HTTP/1.1, one Host, at most one plain
Content-Length or `Transfer-Encoding: chunked`, nothing that changes the protocol) comes back taken apart; for
every other one, malformed or merely rare, the answer is None, and the Python twin decides and names the error.
So there is one place where strictness is written down, parse.py, and what must be proven of this file is one
sentence: where it answers, parse.py answers the same (tests/http/test_heads.py, tests/conformance). RFC 9110 §5,
RFC 9112 §2 to §6.

No byte is looked at twice: one table per kind of character (name, value, path, query, host). Field names are
shared objects, as are whole fields whose values repeat and hold no secret. Both tables are filled by what comes
first and are never emptied, so nobody can push anything out, and whoever sends others pays for making them anew.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from cpython.ref cimport Py_DECREF, PyObject
from cpython.tuple cimport PyTuple_GET_ITEM
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcmp, memcpy

cdef extern from *:
    """
    #include <string.h>
    /* Are there just so many CRs and LFs, and no NUL? Written so that the compiler can use vectors. */
    static int has_lines(const char *at, Py_ssize_t size, Py_ssize_t lines) {
        Py_ssize_t returns = 0, feeds = 0, nulls = 0;
        while (size > 0) {
            Py_ssize_t part = size < 255 ? size : 255;
            unsigned char r = 0, f = 0, n = 0;
            for (Py_ssize_t i = 0; i < part; i++) {
                r += at[i] == 13;
                f += at[i] == 10;
                n += at[i] == 0;
            }
            returns += r; feeds += f; nulls += n;
            at += part; size -= part;
        }
        return returns == lines && feeds == lines && !nulls;
    }
    """
    bint has_lines(const char *at, Py_ssize_t size, Py_ssize_t lines) nogil

cdef extern from "Python.h":
    # As they are in C: a bytes object that is still being written belongs to nobody else.
    PyObject *new_bytes "PyBytes_FromStringAndSize" (const char *, Py_ssize_t) except NULL

# What kinds of text a character may stand in.
cdef enum:
    VALUE = 1    # of a field: visible ASCII, space, tab, obs-text
    PATH = 2     # of a path that normalising would leave alone (http/target.py)
    QUERY = 4
    HOST = 8     # of a name or an IPv4 address
    DIGIT = 16

cdef uint8_t KINDS[256]
cdef uint8_t LOWER[256]  # of a field name; 0: not of a name, or an underscore, on which parse.py decides


cdef void _fill_tables() noexcept:
    cdef int code
    for code in range(256):
        KINDS[code] = 0
        LOWER[code] = 0
        if code == 9 or (code >= 32 and code != 127):
            KINDS[code] |= VALUE
        if 33 <= code <= 126 and code != 35:
            KINDS[code] |= QUERY
        if 48 <= code <= 57:
            KINDS[code] |= DIGIT
    for code in b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789":
        KINDS[code] |= PATH | HOST
        LOWER[code] = code + 32 if 65 <= code <= 90 else code
    for code in b"_~!$&'()*+,=:@.-":
        KINDS[code] |= PATH
    for code in b"._-":
        KINDS[code] |= HOST
    for code in b"!#$%&'*+-.^`|~":
        LOWER[code] = code


_fill_tables()

cdef tuple METHODS = (b"GET", b"POST", b"PUT", b"HEAD", b"PATCH", b"DELETE", b"OPTIONS")

# Names and repeated fields

cdef enum:
    NAMES = 1024       # places, a power of two
    TRIES = 4          # places looked at
    LONGEST_NAME = 64
    FIELDS = 8         # values kept of one name
    LONGEST_VALUE = 128

cdef enum Role:
    PLAIN = 0
    UNUSUAL = 1        # parse.py reads these
    FRAMES_HOST = 2
    FRAMES_LENGTH = 3
    FRAMES_CODING = 4
    FRAMES_STAY = 5

cdef class Name:
    """A field name in lower case, what it means to framing, and fields of that name that come again and again."""

    cdef bytes text
    cdef Role role
    cdef bint keeps          # its values hold no secret and repeat
    cdef int count
    cdef list fields

    def __cinit__(self, bytes text):
        self.text = text
        self.role = PLAIN
        self.keeps = False
        self.count = 0
        self.fields = []


cdef list KNOWN = [None] * NAMES


cdef inline uint32_t _hash(const uint8_t *at, Py_ssize_t size) noexcept:
    """Hash a name in lower case: its length and four of its bytes tell the usual ones apart."""
    cdef uint32_t mixed = <uint32_t>size * 0x9E3779B1u
    mixed ^= (at[0] | at[size >> 1] << 8 | at[size - 1] << 16 | at[size >> 2] << 24) * 0x85EBCA6Bu
    return (mixed ^ (mixed >> 15)) & (NAMES - 1)


cdef Name _name(const uint8_t *lower, Py_ssize_t size):
    """Return the name; one that is not remembered where its places are taken."""
    cdef uint32_t place = _hash(lower, size)
    cdef PyObject *found
    cdef Name name
    cdef int i
    for i in range(TRIES):
        found = PyList_GET_ITEM(KNOWN, (place + i) & (NAMES - 1))
        if <object>found is None:
            name = Name(PyBytes_FromStringAndSize(<const char *>lower, size))
            KNOWN[(place + i) & (NAMES - 1)] = name
            return name
        name = <Name>found
        if PyBytes_GET_SIZE(name.text) == size and memcmp(PyBytes_AS_STRING(name.text), lower, size) == 0:
            return name
    return Name(PyBytes_FromStringAndSize(<const char *>lower, size))


def _learn():
    cdef bytes text
    cdef Name name
    for text in (
        b"accept accept-encoding accept-language connection content-type host server user-agent vary".split()
    ):
        _name(<const uint8_t *>PyBytes_AS_STRING(text), len(text)).keeps = True
    for text in b"expect te upgrade trailer".split():
        _name(<const uint8_t *>PyBytes_AS_STRING(text), len(text)).role = UNUSUAL
    for text, role in (
        (b"host", FRAMES_HOST),
        (b"content-length", FRAMES_LENGTH),
        (b"transfer-encoding", FRAMES_CODING),
        (b"connection", FRAMES_STAY),
    ):
        _name(<const uint8_t *>PyBytes_AS_STRING(text), len(text)).role = role


_learn()


cdef tuple _field(Name name, const uint8_t *value, Py_ssize_t size):
    cdef PyObject *known
    cdef PyObject *text
    cdef tuple field
    cdef int i
    if name.keeps and size <= LONGEST_VALUE:
        for i in range(name.count):
            known = PyList_GET_ITEM(name.fields, i)
            text = PyTuple_GET_ITEM(<tuple>known, 1)
            if (
                PyBytes_GET_SIZE(<bytes>text) == size
                and memcmp(PyBytes_AS_STRING(<bytes>text), value, size) == 0
            ):
                return <tuple>known
        field = (name.text, PyBytes_FromStringAndSize(<const char *>value, size))
        if name.count < FIELDS:
            name.fields.append(field)
            name.count += 1
        return field
    return (name.text, PyBytes_FromStringAndSize(<const char *>value, size))


# Reading

cdef struct Framing:
    Py_ssize_t length        # -1: not announced
    bint chunked
    int stay                 # 1 keep-alive, 0 close, -1 not said
    int hosts


cdef const uint8_t *_fields(
    const uint8_t *at, const uint8_t *end, Py_ssize_t most, list headers, Framing *framing, list host
) except? NULL:
    """Read fields up to and including the empty line. Returns where the body begins; NULL: not usual."""
    cdef uint8_t lower[LONGEST_NAME]
    cdef const uint8_t *value
    cdef const uint8_t *stop
    cdef Py_ssize_t size
    cdef Name name
    cdef tuple field
    cdef uint8_t sign
    framing.length = -1
    framing.chunked = False
    framing.stay = -1
    framing.hosts = 0
    while True:
        if at >= end:
            return NULL
        if at[0] == 13:
            if at + 1 < end and at[1] == 10:
                return at + 2
            return NULL
        size = 0
        while at < end and at[0] != 58:
            sign = LOWER[at[0]]
            if not sign or size == LONGEST_NAME:
                return NULL
            lower[size] = sign
            size += 1
            at += 1
        if at >= end or not size:
            return NULL
        at += 1
        while at < end and (at[0] == 32 or at[0] == 9):
            at += 1
        value = at
        while at < end and KINDS[at[0]] & VALUE:
            at += 1
        if at + 1 >= end or at[0] != 13 or at[1] != 10:
            return NULL
        stop = at
        while stop > value and ((stop - 1)[0] == 32 or (stop - 1)[0] == 9):
            stop -= 1
        at += 2
        most -= 1
        if most < 0:
            return NULL
        name = _name(lower, size)
        size = stop - value
        if name.role and not _frame(name.role, value, size, framing):
            return NULL
        field = _field(name, value, size)
        if name.role == FRAMES_HOST:
            host.append(field[1])
        headers.append(field)


cdef bint _frame(Role role, const uint8_t *value, Py_ssize_t size, Framing *framing) noexcept:
    """Take in a field that says something of framing; False: what it says is not usual."""
    cdef Py_ssize_t i
    cdef Py_ssize_t length = 0
    if role == FRAMES_LENGTH:
        if framing.length >= 0 or framing.chunked or not 0 < size <= 18 or (value[0] == 48 and size > 1):
            return False
        for i in range(size):
            if not KINDS[value[i]] & DIGIT:
                return False
            length = length * 10 + value[i] - 48
        framing.length = length
        return True
    if role == FRAMES_HOST:
        framing.hosts += 1
        return framing.hosts == 1 and _is_host(value, size)
    if role == FRAMES_STAY:
        if framing.stay >= 0:
            return False
        if size == 10 and (memcmp(value, b"keep-alive", 10) == 0 or memcmp(value, b"Keep-Alive", 10) == 0):
            framing.stay = 1
            return True
        framing.stay = 0
        return size == 5 and memcmp(value, b"close", 5) == 0
    if role == FRAMES_CODING:
        if framing.chunked or framing.length >= 0 or size != 7 or memcmp(value, b"chunked", 7) != 0:
            return False
        framing.chunked = True
        return True
    return False


cdef bint _is_host(const uint8_t *value, Py_ssize_t size) noexcept:
    """Is it a name or an IPv4 address in lower case, with or without a port? (http/target.py)"""
    cdef Py_ssize_t i = 0
    cdef int port = 0
    while i < size and KINDS[value[i]] & HOST:
        if 65 <= value[i] <= 90:
            return False
        i += 1
    if not 0 < i <= 253:
        return False
    if i == size:
        return True
    if value[i] != 58 or not 0 < size - i - 1 <= 5:
        return False
    for i in range(i + 1, size):
        if not KINDS[value[i]] & DIGIT:
            return False
        port = port * 10 + value[i] - 48
    return port <= 65535


def read_request(bytes data, Py_ssize_t most, Py_ssize_t longest_target, Py_ssize_t longest):
    """Read the request at the beginning of `data`.

    most: fields; longest_target, longest: bytes of the target and of the whole head. Returns (method, path,
    query, target, headers, host, length or -1 where it is chunked, whether the connection stays, bytes of the
    head), or None: incomplete, malformed or unusual.
    """
    cdef const uint8_t *begin = <const uint8_t *>PyBytes_AS_STRING(data)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
    cdef const uint8_t *end = begin + (size if size < longest else longest)
    cdef const uint8_t *at = begin
    cdef const uint8_t *target
    cdef const uint8_t *mark
    cdef bytes method = None
    cdef bytes known, path, query, whole
    cdef list headers = []
    cdef list host = []
    cdef Framing framing
    if end - at < 18:
        return None
    for known in METHODS:
        size = PyBytes_GET_SIZE(known)
        if memcmp(at, PyBytes_AS_STRING(known), size) == 0 and at[size] == 32:
            method = known
            break
    if method is None:
        return None
    at += size + 1
    target = at
    if at[0] != 47:
        return None
    while at < end and KINDS[at[0]] & PATH or at < end and at[0] == 47:
        if at[0] == 47 and at + 1 < end and (at[1] == 46 or at[1] == 47):
            return None  # a segment that is empty or begins with a dot
        at += 1
    mark = at
    if at < end and at[0] == 63:
        at += 1
        while at < end and KINDS[at[0]] & QUERY:
            at += 1
    if end - at < 11 or at - target > longest_target or memcmp(at, b" HTTP/1.1\r\n", 11) != 0:
        return None
    whole = PyBytes_FromStringAndSize(<const char *>target, at - target)
    if mark == at:
        path = whole
        query = b""
    else:
        path = PyBytes_FromStringAndSize(<const char *>target, mark - target)
        query = PyBytes_FromStringAndSize(<const char *>mark + 1, at - mark - 1)
    at = _fields(at + 11, end, most, headers, &framing, host)
    if at == NULL or framing.hosts != 1:
        return None
    if framing.length < 0 and not framing.chunked:
        framing.length = 0
    return (
        method, path, query, whole, headers, <bytes>host[0], framing.length, framing.stay != 0, at - begin
    )


def read_response(bytes data, Py_ssize_t most, Py_ssize_t longest):
    """Read the response at the beginning of `data`.

    Returns (status, headers, length or -1 for chunked or -2 for neither, whether the connection may stay,
    bytes of the head), or None: incomplete, malformed or unusual.
    """
    cdef const uint8_t *begin = <const uint8_t *>PyBytes_AS_STRING(data)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
    cdef const uint8_t *end = begin + (size if size < longest else longest)
    cdef const uint8_t *at = begin
    cdef list headers = []
    cdef Framing framing
    cdef int status, i
    if end - at < 16 or memcmp(at, b"HTTP/1.1 ", 9) != 0 or at[12] != 32 or not 49 <= at[9] <= 53:
        return None
    if not (KINDS[at[10]] & DIGIT and KINDS[at[11]] & DIGIT):
        return None
    status = (at[9] - 48) * 100 + (at[10] - 48) * 10 + at[11] - 48
    at += 13
    while at < end and KINDS[at[0]] & VALUE:
        at += 1
    if end - at < 2 or at[0] != 13 or at[1] != 10:
        return None
    at = _fields(at + 2, end, most, headers, &framing, [])
    if at == NULL:
        return None
    if framing.length < 0:
        framing.length = -1 if framing.chunked else -2
    return status, headers, framing.length, framing.stay != 0, at - begin


# Writing

cdef bint _is_copied(const char *name, Py_ssize_t size, bint chunked) noexcept:
    """May a field of this name be copied? Framing is written by whoever writes the head (serialize.py)."""
    if size == 2:
        return memcmp(name, b"te", 2) != 0
    if size == 4:
        return memcmp(name, b"host", 4) != 0
    if size == 7:
        return memcmp(name, b"upgrade", 7) != 0 and (chunked or memcmp(name, b"trailer", 7) != 0)
    if size == 10:
        return memcmp(name, b"connection", 10) != 0 and memcmp(name, b"keep-alive", 10) != 0
    if size == 14:
        return memcmp(name, b"content-length", 14) != 0
    if size == 17:
        return memcmp(name, b"transfer-encoding", 17) != 0
    return True


cdef char SCRATCH[16384]  # where heads are written, with their bodies if they are small; the GIL guards it


cdef bytes _finished(char *begin, char *end, Py_ssize_t lines, bytes body):
    """Return the head from `begin` to `end` and the body behind it; None where a field forges a line."""
    cdef PyObject *whole
    cdef Py_ssize_t size = end - begin
    cdef bytes done
    if not has_lines(begin, size, lines):
        return None
    if not PyBytes_GET_SIZE(body):
        return PyBytes_FromStringAndSize(begin, size)
    whole = new_bytes(NULL, size + PyBytes_GET_SIZE(body))
    done = <bytes>whole
    Py_DECREF(done)
    memcpy(PyBytes_AS_STRING(done), begin, size)
    memcpy(PyBytes_AS_STRING(done) + size, PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body))
    return done


cdef inline char *_put(char *at, const char *text, Py_ssize_t size) noexcept:
    memcpy(at, text, size)
    return at + size


cdef inline char *_put_bytes(char *at, bytes text) noexcept:
    return _put(at, PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))


cdef Py_ssize_t _room(list headers) except -1:
    """Return the bytes that all fields take."""
    cdef Py_ssize_t i, room = 0
    cdef PyObject *field
    for i in range(PyList_GET_SIZE(headers)):
        field = PyList_GET_ITEM(headers, i)
        room += len(<bytes>PyTuple_GET_ITEM(<tuple>field, 0)) + len(<bytes>PyTuple_GET_ITEM(<tuple>field, 1)) + 4
    return room


cdef char *_put_fields(char *at, list headers, bint chunked, bint *dated, Py_ssize_t *lines) noexcept:
    """Write the fields that are copied, and count them."""
    cdef Py_ssize_t i, size
    cdef PyObject *field
    cdef PyObject *name
    for i in range(PyList_GET_SIZE(headers)):
        field = PyList_GET_ITEM(headers, i)
        name = PyTuple_GET_ITEM(<tuple>field, 0)
        size = PyBytes_GET_SIZE(<bytes>name)
        if not _is_copied(PyBytes_AS_STRING(<bytes>name), size, chunked):
            continue
        if size == 4 and memcmp(PyBytes_AS_STRING(<bytes>name), b"date", 4) == 0:
            dated[0] = True
        at = _put_bytes(at, <bytes>name)
        at = _put(at, b": ", 2)
        at = _put_bytes(at, <bytes>PyTuple_GET_ITEM(<tuple>field, 1))
        at = _put(at, b"\r\n", 2)
        lines[0] += 1
    return at


cdef char *_put_length(char *at, Py_ssize_t length) noexcept:
    """Write `content-length`, or `transfer-encoding` for -1, or nothing for -2."""
    cdef char digits[24]
    cdef int i = 24
    if length == -1:
        return _put(at, b"transfer-encoding: chunked\r\n", 28)
    if length < 0:
        return at
    while True:
        i -= 1
        digits[i] = 48 + length % 10
        length //= 10
        if not length:
            break
    at = _put(at, b"content-length: ", 16)
    at = _put(at, digits + i, 24 - i)
    return _put(at, b"\r\n", 2)


def write_request(
    bytes method, bytes path, bytes query, bytes authority, list headers, Py_ssize_t length, bytes body
):
    """Return a request's head and `body` behind it. length: as `_put_length` takes it.

    None: a part holds CR, LF or NUL, which serialize.py refuses, or the head is very large.
    """
    cdef char *at = SCRATCH
    cdef bint dated = False
    cdef Py_ssize_t lines = 3  # the request line, Host and the empty one
    if len(method) + len(path) + len(query) + len(authority) + _room(headers) + 96 > sizeof(SCRATCH):
        return None
    at = _put_bytes(at, method)
    at = _put(at, b" ", 1)
    at = _put_bytes(at, path)
    if PyBytes_GET_SIZE(query):
        at = _put(at, b"?", 1)
        at = _put_bytes(at, query)
    at = _put(at, b" HTTP/1.1\r\nhost: ", 17)
    at = _put_bytes(at, authority)
    at = _put(at, b"\r\n", 2)
    at = _put_fields(at, headers, length == -1, &dated, &lines)
    at = _put_length(at, length)
    at = _put(at, b"\r\n", 2)
    return _finished(SCRATCH, at, lines + (length != -2), body)


def write_response(
    bytes status_line, list headers, Py_ssize_t length, bytes connection, bytes date, bytes body
):
    """Return a response's head and `body` behind it.

    length: as `_put_length` takes it. date: where the response has none. None: as `write_request`.
    """
    cdef char *at = SCRATCH
    cdef bint dated = False
    cdef Py_ssize_t lines = 2  # the status line and the empty one
    if len(status_line) + len(connection) + len(date) + _room(headers) + 96 > sizeof(SCRATCH):
        return None
    at = _put_bytes(at, status_line)
    at = _put(at, b"\r\n", 2)
    at = _put_fields(at, headers, length == -1, &dated, &lines)
    if PyBytes_GET_SIZE(date) and not dated:
        at = _put(at, b"date: ", 6)
        at = _put_bytes(at, date)
        at = _put(at, b"\r\n", 2)
        lines += 1
    if PyBytes_GET_SIZE(connection):
        at = _put(at, b"connection: ", 12)
        at = _put_bytes(at, connection)
        at = _put(at, b"\r\n", 2)
        lines += 1
    at = _put_length(at, length)
    at = _put(at, b"\r\n", 2)
    return _finished(SCRATCH, at, lines + (length != -2), body)
