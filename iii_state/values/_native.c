/* JSON text in one pass: its normal form, its stored form, whether it nests too deep. What functions of json.py and frame.py do,
   for the texts that nearly all are; None where it is theirs to decide (an error to raise, two members of one name).

   A text may be anything: nothing is read behind its end, whatever it holds. Stable ABI of Python 3.11. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_DEPTH = 512, LONG_NUMBER = 200, LONG_EXPONENT = 3, MAX_PROBES = 64 };

typedef unsigned char byte;

/* --- strings: where the next quote, backslash or control character is, eight bytes at a time */

static const uint64_t ONES = 0x0101010101010101u, HIGHS = 0x8080808080808080u;

static uint64_t has_zero(uint64_t word) { return (word - ONES) & ~word & HIGHS; }

static const byte *string_stop(const byte *at, const byte *end) {
    while (end - at >= 8) {
        uint64_t word;
        memcpy(&word, at, 8);
        if (has_zero(word ^ (ONES * '"')) | has_zero(word ^ (ONES * '\\')) | has_zero(word & (ONES * 0xE0)))
            break;
        at += 8;
    }
    while (at < end && *at != '"' && *at != '\\' && *at >= 0x20)
        at++;
    return at;
}

/* --- what is made: text copied in stretches */

typedef struct {
    byte *start, *at;
} Out;

static void put(Out *out, const byte *from, const byte *to) {
    memcpy(out->at, from, (size_t)(to - from));
    out->at += to - from;
}

static int hex4(const byte *at) {
    int value = 0;
    for (int i = 0; i < 4; i++) {
        byte c = at[i];
        int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
        if (digit < 0)
            return -1;
        value = value << 4 | digit;
    }
    return value;
}

static void put_character(Out *out, uint32_t c) {
    static const char hex[] = "0123456789abcdef";
    byte *at = out->at;
    char escape = c == '"' || c == '\\' ? (char)c : c == '\b' ? 'b' : c == '\f' ? 'f' : c == '\n' ? 'n' : c == '\r' ? 'r' : c == '\t' ? 't' : 0;
    if (escape) {
        *at++ = '\\';
        *at++ = (byte)escape;
    } else if (c < 0x20) {
        memcpy(at, "\\u00", 4);
        at[4] = (byte)hex[c >> 4];
        at[5] = (byte)hex[c & 15];
        at += 6;
    } else if (c < 0x80) {
        *at++ = (byte)c;
    } else if (c < 0x800) {
        *at++ = (byte)(0xC0 | c >> 6);
        *at++ = (byte)(0x80 | (c & 63));
    } else if (c < 0x10000) {
        *at++ = (byte)(0xE0 | c >> 12);
        *at++ = (byte)(0x80 | (c >> 6 & 63));
        *at++ = (byte)(0x80 | (c & 63));
    } else {
        *at++ = (byte)(0xF0 | c >> 18);
        *at++ = (byte)(0x80 | (c >> 12 & 63));
        *at++ = (byte)(0x80 | (c >> 6 & 63));
        *at++ = (byte)(0x80 | (c & 63));
    }
    out->at = at;
}

/* An escape, spelled anew: never longer than it was. Returns what follows it, NULL for what is none (half a surrogate pair). */
static const byte *respell(Out *out, const byte *at, const byte *end) {
    if (end - at < 2)
        return NULL;
    uint32_t c = at[1];
    at += 2;
    switch (c) {
    case '"': case '\\': case '/': break;
    case 'b': c = '\b'; break;
    case 'f': c = '\f'; break;
    case 'n': c = '\n'; break;
    case 'r': c = '\r'; break;
    case 't': c = '\t'; break;
    case 'u': {
        int unit = end - at < 4 ? -1 : hex4(at);
        if (unit < 0 || (unit >= 0xDC00 && unit < 0xE000))
            return NULL;
        at += 4;
        if (unit >= 0xD800 && unit < 0xDC00) {
            int low = end - at < 6 || at[0] != '\\' || at[1] != 'u' ? -1 : hex4(at + 2);
            if (low < 0xDC00 || low >= 0xE000)
                return NULL;
            c = 0x10000u + ((uint32_t)(unit - 0xD800) << 10) + (uint32_t)(low - 0xDC00);
            at += 6;
        } else
            c = (uint32_t)unit;
        break;
    }
    default: return NULL;
    }
    put_character(out, c);
    return at;
}

/* --- names at the top: have they been there before? */

typedef struct {
    uint64_t hash;
    size_t from, length;
} Name;

typedef struct {
    Name *table;
    size_t room, used; /* room is a power of two */
} Names;

static uint64_t hash_of(const byte *at, size_t length) {
    uint64_t hash = 0x9E3779B97F4A7C15u ^ length;
    while (length >= 8) {
        uint64_t word;
        memcpy(&word, at, 8);
        hash = (hash ^ word) * 0xFF51AFD7ED558CCDu;
        hash ^= hash >> 32;
        at += 8;
        length -= 8;
    }
    uint64_t word = 0;
    memcpy(&word, at, length);
    hash = (hash ^ word) * 0xC4CEB9FE1A85EC53u;
    return (hash ^ hash >> 29) | 1;
}

static int grow(Names *names) {
    size_t room = names->room ? 2 * names->room : 32;
    Name *table = calloc(room, sizeof *table);
    if (!table)
        return 0;
    for (size_t i = 0; i < names->room; i++)
        if (names->table[i].hash) {
            size_t slot = names->table[i].hash & (room - 1);
            while (table[slot].hash)
                slot = (slot + 1) & (room - 1);
            table[slot] = names->table[i];
        }
    free(names->table);
    names->table = table;
    names->room = room;
    return 1;
}

/* Whether a name is new. Not so, too, where too many share its place, by chance or because somebody has chosen them. */
static int is_new(Names *names, const byte *text, const byte *from, const byte *to) {
    size_t length = (size_t)(to - from), probes = 0;
    if (2 * names->used >= names->room && !grow(names))
        return 0;
    uint64_t hash = hash_of(from, length);
    size_t slot = hash & (names->room - 1);
    for (; names->table[slot].hash; slot = (slot + 1) & (names->room - 1)) {
        const Name *other = &names->table[slot];
        if (other->hash == hash && other->length == length && !memcmp(text + other->from, from, length))
            return 0;
        if (++probes > MAX_PROBES)
            return 0;
    }
    names->table[slot] = (Name){hash, (size_t)(from - text), length};
    names->used++;
    return 1;
}

/* --- the pass */

/* The normal form of a text, an object at its top in lines of its own if `framed`. Room in `out` is enough for every text.
   0 where something is not as expected. */
static int rewrite(const byte *at, const byte *end, Out *out, Names *names, int framed) {
    const byte *copied = at;
    int depth = 0, in_object = 0, is_name = 0, began = 0;
    while (at < end) {
        byte c = *at;
        switch (c) {
        case '"': {
            put(out, copied, at);
            byte *from = out->at;
            copied = at++;
            for (;;) {
                at = string_stop(at, end);
                if (at >= end || *at < 0x20)
                    return 0;
                if (*at == '"')
                    break;
                put(out, copied, at);
                if (!(at = respell(out, at, end)))
                    return 0;
                copied = at;
            }
            put(out, copied, ++at);
            copied = at;
            if (is_name) {
                is_name = 0;
                if (!is_new(names, out->start, from, out->at))
                    return 0;
            }
            began = 1;
            continue;
        }
        case '{': case '[':
            if (++depth > MAX_DEPTH)
                return 0;
            at++;
            if (framed && !began && c == '{') {
                in_object = is_name = 1;
                put(out, copied, at);
                copied = at;
                *out->at++ = '\t';
                *out->at++ = '\n';
            }
            began = 1;
            continue;
        case '}': case ']':
            if (--depth < 0)
                return 0;
            if (in_object && depth == 0) {
                put(out, copied, at);
                copied = at;
                if (names->used)
                    *out->at++ = '\n';
                else
                    out->at -= 2; /* `{}` has no frame */
            }
            at++;
            continue;
        case ',':
            at++;
            if (in_object && depth == 1) {
                put(out, copied, at);
                copied = at;
                *out->at++ = '\n';
                is_name = 1;
            }
            continue;
        case ' ': case '\n': case '\r': case '\t':
            put(out, copied, at);
            while (at < end && (*at == ' ' || *at == '\n' || *at == '\r' || *at == '\t'))
                at++;
            copied = at;
            continue;
        case '-': case '0': case '1': case '2': case '3': case '4': case '5': case '6': case '7': case '8': case '9': {
            const byte *from = at++, *exponent = NULL;
            for (; at < end; at++) {
                if ((*at >= '0' && *at <= '9') || *at == '.' || *at == '+' || *at == '-')
                    continue;
                if (*at != 'e' && *at != 'E')
                    break;
                exponent = at;
            }
            if (at - from >= LONG_NUMBER || (exponent && at - exponent > LONG_EXPONENT))
                return 0;
            began = 1;
            continue;
        }
        case ':': case 't': case 'r': case 'u': case 'e': case 'f': case 'a': case 'l': case 's': case 'n':
            began = 1;
            at++;
            continue;
        default: return 0;
        }
    }
    put(out, copied, end);
    return depth == 0 && began;
}

static PyObject *rewritten(PyObject *text, int framed) {
    Py_buffer view;
    if (PyObject_GetBuffer(text, &view, PyBUF_SIMPLE) < 0)
        return NULL;
    const byte *start = view.buf;
    Names names = {0};
    /* A comma or a brace may get a newline, and the frame begins with two characters; nothing else becomes longer. */
    Out out = {.start = malloc(2 * (size_t)view.len + 16)};
    out.at = out.start;
    PyObject *result = NULL;
    if (!out.start)
        PyErr_NoMemory();
    else if (!rewrite(start, start + view.len, &out, &names, framed))
        result = Py_NewRef(Py_None);
    else if (out.at - out.start == view.len && PyBytes_Check(text) && !memcmp(out.start, start, (size_t)view.len))
        result = Py_NewRef(text);
    else
        result = PyBytes_FromStringAndSize((const char *)out.start, out.at - out.start);
    free(out.start);
    free(names.table);
    PyBuffer_Release(&view);
    return result;
}

PyDoc_STRVAR(to_stored_doc, "to_stored(text, /)\n--\n\nThe stored form of a checked JSON text, or None.");

static PyObject *to_stored(PyObject *module, PyObject *text) { return rewritten(text, 1); }

PyDoc_STRVAR(normalize_doc, "normalize(text, /)\n--\n\nThe compact normal form of a checked JSON text, or None.");

static PyObject *normalize(PyObject *module, PyObject *text) { return rewritten(text, 0); }

PyDoc_STRVAR(nesting_exceeds_doc, "nesting_exceeds(text, limit, /)\n--\n\nWhether a JSON text nests deeper than `limit`.");

static PyObject *nesting_exceeds(PyObject *module, PyObject *args) {
    PyObject *text;
    int limit, depth = 0;
    Py_buffer view;
    if (!PyArg_ParseTuple(args, "Oi", &text, &limit) || PyObject_GetBuffer(text, &view, PyBUF_SIMPLE) < 0)
        return NULL;
    const byte *at = view.buf, *end = at + view.len;
    int exceeds = 0;
    while (at < end) {
        byte c = *at++;
        if (c == '"') {
            for (; (at = string_stop(at, end)) < end && *at != '"';)
                at += *at == '\\' ? 2 : 1;
            at++;
        } else if (c == '{' || c == '[') {
            if (++depth > limit) {
                exceeds = 1;
                break;
            }
        } else if (c == '}' || c == ']')
            depth--;
    }
    PyBuffer_Release(&view);
    return PyBool_FromLong(exceeds);
}

static PyMethodDef functions[] = {
    {"to_stored", to_stored, METH_O, to_stored_doc},
    {"normalize", normalize, METH_O, normalize_doc},
    {"nesting_exceeds", nesting_exceeds, METH_VARARGS, nesting_exceeds_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, .m_name = "_native", .m_doc = "JSON text in one pass.", .m_size = 0, .m_methods = functions};

PyMODINIT_FUNC PyInit__native(void) { return PyModuleDef_Init(&module); }
