/* Entropy coding of docs/format.md, sections 2 to 5, compiled: the bytes of the plain path in prior.py and tables.py.

   A Model holds what does not change between frames: tables and how magnitudes choose them. Its methods code a whole
   grid of symbols (y, x, n, k) step by step; a step is a wave of some images up to some channel. They take flat arrays
   through the buffer protocol, release the GIL and keep no state, so threads may share a Model.

   What may be hostile: the words of a stream, the integers of a codec, the numbers of a frame's header. So
   - sizes of all arrays are checked against each other, steps against the grid, and parameters against the integers
     that they are computed in, when a call begins (`read_call`, `decode`); symbols are checked before others need them;
   - tables are checked when a Model is made: then a quantile below 2^24 has an entry (`new_model`);
   - indices of scales are clamped where they are made (`choose`), so tables of a block need no check;
   - neighbours are checked place by place (`from_neighbours`), relatives clamped (`add_bands`);
   - words are read only while some are left (`refill`), room for words is made before they are written (`reserve`).
   Integers that a hostile codec can make overflow are unsigned. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* The compiler makes a second version of the innermost loops for processors with AVX2, chosen when the module loads. */
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) && !defined(NEC_ONE_TARGET)
#define CLONES __attribute__((target_clones("avx2", "default")))
#else
#define CLONES
#endif

#if defined(_MSC_VER)
#include <intrin.h>
#define INLINE __forceinline
#define restrict __restrict
#define high_product(a, b) __umulh(a, b)
#else
#define INLINE inline __attribute__((always_inline))
#define high_product(a, b) ((uint64_t)(((unsigned __int128)(a) * (b)) >> 64))
#endif
#if defined(_M_ARM64) || (defined(__SIZEOF_POINTER__) && __SIZEOF_POINTER__ < 8)
#define DIVIDE 1 /* without a product of 128 bits */
#endif

enum { DONE = 0, NO_MEMORY = -1, BAD_ESCAPE = 1, BAD_WIDTH = 2, LEFT_OVER = 3 };
enum { BUCKET_BITS = 8, FINE_BITS = 11, PLANE = 1 << 14, ESCAPES = 40, STEP_FIELDS = 10 };

#define PRECISION 24
#define MASK ((1u << PRECISION) - 1)
#define REFILL ((uint64_t)1 << 32)
#define DOMINANT (5u << 21) /* 5/8: frequency from which on the most frequent entry is tried first */
#define LARGEST_ESCAPE ((int64_t)1 << 30)

typedef struct {
    uint64_t reciprocal;
    uint32_t start, frequency; /* at 24 bits of precision */
    uint8_t shift;
} Entry;

typedef struct {
    PyObject_HEAD
    int32_t tables, split, top, low, offsets, pyramid;
    uint8_t offset_of[65];
    uint16_t *table_of;  /* (top + 1) * offsets */
    int32_t *radii;      /* tables */
    size_t *first;       /* tables: the first of its entries in `start`, one more a table than it has symbols */
    uint32_t *start;     /* rising, from 0 to 2^24 within a table */
    uint16_t *bucket;    /* tables << BUCKET_BITS: where the search for a quantile begins, counted from `first` */
    int32_t *likely;     /* tables: the most frequent entry */
    int8_t *centroids;   /* tables * 5 */
    Entry *entries;      /* as `start`, for the encoder */
    uint32_t escape_start[ESCAPES + 1];
    Entry escapes[ESCAPES];
} Model;

typedef struct {
    const int64_t *b0, *weights; /* (classes, channels), (weights_count, classes, channels) */
    ptrdiff_t classes, channels, weights_count;
} Level;

typedef struct {
    int32_t *data;
    ptrdiff_t rows, columns, images, channels;
} Grid;

/* `shape` 0 root, 1 diag, 2 across, 3 down; `band` of a pyramid's details 0 across, 1 down, 2 diag; `kind` the class of
   its parameters; `resolution` counts. Channels behind `live` are zero. */
typedef struct {
    int64_t shape, band, row, column, step, kind, first, last, live, resolution;
} Step;

/* What is known of a step's values, in the order (row, column, image, channel). */
typedef struct {
    uint16_t *table;
    uint8_t *shift; /* raw low bits; zero but where `shifted` */
    int32_t *fold;  /* twice the prediction, plus 1 where the residual is mirrored; unused in pyramids and roots */
    int32_t *value; /* sorted by table: residuals when decoding, entries when encoding */
    int32_t *high;  /* residuals when encoding */
    size_t size;
    int shifted, folded;
} Block;

typedef struct { int y, x; } Place;
typedef struct { int count, at[8][2]; } Offsets;

static const int32_t RECIPROCAL[9] = {0, 64, 32, 21, 16, 13, 11, 9, 8};
static const Place BANDS[3] = {{0, 1}, {1, 0}, {1, 1}};
#define DIAGONAL {4, {{-1, -1}, {-1, 1}, {1, -1}, {1, 1}}}
#define AXIS {4, {{-1, 0}, {1, 0}, {0, -1}, {0, 1}}}
static const Offsets NEAR[4] = {{0, {{0, 0}}}, DIAGONAL, AXIS, AXIS};
static const Offsets FAR[4] = {
    {0, {{0, 0}}},
    {8, {{-3, -1}, {-3, 1}, {3, -1}, {3, 1}, {-1, -3}, {-1, 3}, {1, -3}, {1, 3}}},
    {8, {{-2, -1}, {-2, 1}, {2, -1}, {2, 1}, {-1, -2}, {1, -2}, {-1, 2}, {1, 2}}},
    DIAGONAL,
};

#define INT int32_t
#define NARROW 1
#define NAME(name) name##_32
#include "_contexts.h"
#undef INT
#undef NARROW
#undef NAME
#define INT int64_t
#define NARROW 0
#define NAME(name) name##_64
#include "_contexts.h"

/* ---- contexts of a step */

static ptrdiff_t rows_of(const Grid *g, const Step *s) { return (g->rows - s->row + s->step - 1) / s->step; }
static ptrdiff_t columns_of(const Grid *g, const Step *s) { return (g->columns - s->column + s->step - 1) / s->step; }
static ptrdiff_t size_of(const Grid *g, const Step *s) {
    return rows_of(g, s) * columns_of(g, s) * (s->last - s->first) * s->live;
}

/* All tokens of a root wave have the same contexts: magnitudes are b0. */
static int from_nothing(const Model *m, const Level *level, const Step *s, ptrdiff_t size, Block *block) {
    int64_t *index = malloc(sizeof(int64_t) * (size_t)s->live), largest = 0;
    if (!index) return NO_MEMORY;
    for (ptrdiff_t c = 0; c < s->live; c++) {
        int64_t b0 = level->b0[s->kind * level->channels + c];
        index[c] = larger_64(scale_index_64(larger_64(b0, 1)) - m->low, 0);
        largest = larger_64(largest, index[c]);
    }
    choose_64(m, block, 0, index, largest, NULL, s->live);
    for (ptrdiff_t at = s->live; at < size; at += s->live) {
        memcpy(block->table + at, block->table, sizeof(uint16_t) * (size_t)s->live);
        if (block->shifted) memcpy(block->shift + at, block->shift, (size_t)s->live);
    }
    free(index);
    return 0;
}

static int contexts(const Model *m, const Level *level, const Grid *g, const Step *s, int narrow, Block *block) {
    if (block->shifted) memset(block->shift, 0, block->size); /* of the step before */
    block->size = (size_t)size_of(g, s), block->shifted = 0;
    block->folded = s->shape && !m->pyramid;
    if (!s->shape) return from_nothing(m, level, s, size_of(g, s), block);
    if (m->pyramid) return narrow ? from_relatives_32(m, level, g, s, block) : from_relatives_64(m, level, g, s, block);
    return narrow ? from_neighbours_32(m, level, g, s, block) : from_neighbours_64(m, level, g, s, block);
}

/* ---- reading */

typedef struct {
    const uint32_t *words;
    size_t count, at;
    uint64_t state;
} Reader;

static INLINE void refill(Reader *in) {
    if (in->state < REFILL && in->at < in->count) in->state = in->state << 32 | in->words[in->at++];
}

static INLINE void take(Reader *in, uint32_t start, uint32_t frequency) {
    in->state = frequency * (in->state >> PRECISION) + ((in->state & MASK) - start);
    refill(in);
}

/* Each of `count` values gets `bits` more, its low ones first. */
static void read_raw(Reader *in, uint64_t *values, size_t count, int bits) {
    memset(values, 0, sizeof(uint64_t) * count);
    for (int shift = 0; shift < bits; shift += 16) {
        int left = PRECISION - (bits - shift < 16 ? bits - shift : 16);
        for (size_t i = 0; i < count; i++) {
            uint32_t part = (uint32_t)(in->state & MASK) >> left;
            values[i] |= (uint64_t)part << shift;
            take(in, part << left, 1u << left);
        }
    }
}

/* How the next values of one table are found. */
typedef struct {
    const uint32_t *start;
    const uint16_t *bucket;
    int32_t likely;
    uint32_t begin, width; /* of the entry that is tried first; width 0: none is */
    int bits;              /* of the quantile, that choose where the search begins */
    uint16_t fine[1 << FINE_BITS];
} Run;

static void open_run(Run *run, const Model *m, int32_t table, size_t count) {
    const uint32_t *start = run->start = m->start + m->first[table];
    run->bucket = m->bucket + ((size_t)table << BUCKET_BITS), run->bits = BUCKET_BITS;
    run->likely = m->likely[table];
    run->begin = start[run->likely], run->width = start[run->likely + 1] - run->begin;
    if (count > 1 << FINE_BITS && run->width < DOMINANT) { /* worth a finer start */
        uint16_t entry = 0;
        for (uint32_t i = 0; i < 1 << FINE_BITS; i++) {
            while (start[entry + 1] <= i << (PRECISION - FINE_BITS)) entry++;
            run->fine[i] = entry;
        }
        run->bucket = run->fine, run->bits = FINE_BITS, run->width = 0;
    }
}

static INLINE int32_t next_entry(Reader *in, const Run *run) {
    uint32_t quantile = (uint32_t)(in->state & MASK);
    int32_t entry = run->likely;
    if (quantile - run->begin < run->width) { /* as unsigned numbers: begin <= quantile too */
        in->state = run->width * (in->state >> PRECISION) + (quantile - run->begin);
    } else {
        entry = run->bucket[quantile >> (PRECISION - run->bits)];
        while (run->start[entry + 1] <= quantile) entry++; /* ends: the last one is 2^24 */
        uint32_t start = run->start[entry];
        in->state = (uint64_t)(run->start[entry + 1] - start) * (in->state >> PRECISION) + (quantile - start);
    }
    refill(in);
    return entry;
}

/* Values of one table. Returns how many escaped; these are radius + 1. */
static size_t read_run(Reader *reader, const Model *m, int32_t table, int32_t *restrict value, size_t count) {
    int32_t radius = m->radii[table];
    size_t escaped = 0;
    Run run;
    Reader in = *reader;
    open_run(&run, m, table, count);
    for (size_t i = 0; i < count; i++) {
        int32_t entry = next_entry(&in, &run);
        escaped += entry > 2 * radius;
        value[i] = entry - radius;
    }
    *reader = in;
    return escaped;
}

/* Escaped values among those sorted by table, in place. */
static int read_escapes(Reader *in, const Model *m, const size_t *ends, int32_t *value, size_t count) {
    uint8_t *length = malloc(count);
    uint64_t *code = malloc(2 * sizeof(uint64_t) * count), *low = code + count;
    int result = DONE;
    size_t of_length[ESCAPES] = {0}, found = 0;
    if (!length || !code) {
        free(length), free(code);
        return NO_MEMORY;
    }
    for (size_t i = 0; i < count; i++) {
        uint32_t quantile = (uint32_t)(in->state & MASK);
        uint8_t entry = 0;
        while (m->escape_start[entry + 1] <= quantile) entry++;
        take(in, m->escape_start[entry], m->escape_start[entry + 1] - m->escape_start[entry]);
        length[i] = entry;
        of_length[entry]++;
    }
    for (int bits = 0; bits < ESCAPES; bits++) {
        if (!of_length[bits]) continue;
        read_raw(in, low, of_length[bits], bits);
        for (size_t i = 0, j = 0; i < count; i++)
            if (length[i] == bits) code[i] = ((uint64_t)1 << bits) + low[j++];
    }
    for (size_t i = 0; i < count; i++)
        if (code[i] > (uint64_t)LARGEST_ESCAPE) result = BAD_ESCAPE;
    for (int32_t t = 0; t < m->tables && result == DONE; t++)
        for (size_t i = ends[t]; i < ends[t + 1]; i++)
            if (value[i] > m->radii[t]) { /* `count` of them, as read_run counted */
                int64_t excess = (int64_t)code[found++] - 1, size = (excess >> 1) + m->radii[t] + 1; /* < 2^30 */
                value[i] = (int32_t)(excess & 1 ? -size : size);
            }
    free(length), free(code);
    return result;
}

/* Low bits under the high parts in `wide`, in place. */
static int read_low(Reader *in, const Block *block, uint64_t *wide, size_t size) {
    size_t of_shift[256] = {0}, most = 0;
    for (size_t i = 0; i < size; i++) of_shift[block->shift[i]]++;
    for (int bits = 1; bits < 256; bits++)
        if (of_shift[bits] > most) most = of_shift[bits];
    uint64_t *low = malloc(sizeof(uint64_t) * (most + 1));
    if (!low) return NO_MEMORY;
    for (int bits = 1; bits < 64; bits++) { /* shifts are at most (207 + 3) / 4 */
        if (!of_shift[bits]) continue;
        read_raw(in, low, of_shift[bits], bits);
        for (size_t i = 0, j = 0; i < size; i++)
            if (block->shift[i] == bits) wide[i] = (wide[i] << bits) + low[j++] - ((uint64_t)1 << (bits - 1));
    }
    free(low);
    return DONE;
}

/* Where each table's run begins once values are sorted by table, ends[tables] being their number. `ends` has room for
   four counts a table: values in a row are mostly of one, and need not wait for each other's. */
static void sort_by_table(const Model *m, const uint16_t *table, size_t size, size_t *ends) {
    size_t tables = (size_t)m->tables + 1, *count[4] = {ends, ends + tables, ends + 2 * tables, ends + 3 * tables}, i = 0;
    memset(ends, 0, sizeof(size_t) * 4 * tables);
    for (; i + 4 <= size; i += 4)
        for (int lane = 0; lane < 4; lane++) count[lane][table[i + (size_t)lane] + 1]++;
    for (; i < size; i++) ends[table[i] + 1]++;
    for (size_t t = 1; t < tables; t++) ends[t] += ends[t - 1] + count[1][t] + count[2][t] + count[3][t];
}

/* Residuals to their places, unfolded. Returns the sizes of all symbols, or-ed. The flags are constants where this is
   inlined. */
static INLINE uint64_t unfold(const Model *m, const Grid *g, const Step *s, const Block *block, const uint64_t *wide,
                              size_t *place, int8_t *centroids, int folded, int centred) {
    const uint16_t *restrict tables = block->table;
    const int32_t *restrict folds = block->fold, *restrict values = block->value;
    const int8_t *restrict inside = m->centroids;
    uint64_t seen = 0;
    for (ptrdiff_t row = s->row; row < g->rows; row += s->step)
        for (ptrdiff_t column = s->column; column < g->columns; column += s->step) {
            ptrdiff_t to = ((row * g->columns + column) * g->images + s->first) * g->channels;
            for (ptrdiff_t image = s->first; image < s->last; image++, to += g->channels) {
                int32_t *restrict symbols = g->data + to;
                int8_t *restrict centres = centroids + (centred ? to : 0);
                for (ptrdiff_t c = 0; c < s->live; c++) {
                    uint16_t table = tables[c];
                    uint64_t residual = wide ? *wide++ : (uint64_t)(int64_t)values[place[table]++];
                    int32_t fold = folded ? folds[c] : 0;
                    uint64_t symbol = (fold & 1 ? 0 - residual : residual) + (uint64_t)(int64_t)(fold >> 1);
                    seen |= (int64_t)symbol < 0 ? 0 - symbol : symbol;
                    symbols[c] = (int32_t)(uint32_t)symbol;
                    if (centred) {
                        int64_t r = (int64_t)residual, near = r < -2 ? -2 : r > 2 ? 2 : r;
                        int8_t centre = inside[table * 5 + near + 2];
                        centres[c] = (int8_t)(fold & 1 ? -centre : centre);
                    }
                }
                tables += s->live, folds += folded ? s->live : 0;
            }
        }
    return seen;
}

static uint64_t unfold_any(const Model *m, const Grid *g, const Step *s, const Block *block, const uint64_t *wide,
                           size_t *place, int8_t *centroids) {
    if (wide) return unfold(m, g, s, block, wide, place, centroids, block->folded, centroids != NULL);
    if (block->folded && centroids) return unfold(m, g, s, block, NULL, place, centroids, 1, 1);
    if (block->folded) return unfold(m, g, s, block, NULL, place, NULL, 1, 0);
    if (centroids) return unfold(m, g, s, block, NULL, place, centroids, 0, 1);
    return unfold(m, g, s, block, NULL, place, NULL, 0, 0);
}

static int decode_step(Reader *in, const Model *m, const Grid *g, const Step *s, Block *block, int width, size_t *ends,
                       int8_t *centroids) {
    size_t size = (size_t)size_of(g, s), escaped = 0;
    uint64_t *wide = NULL;
    int result = DONE;
    sort_by_table(m, block->table, size, ends);
    for (int32_t t = 0; t < m->tables; t++)
        if (ends[t + 1] > ends[t]) escaped += read_run(in, m, t, block->value + ends[t], ends[t + 1] - ends[t]);
    if (escaped) result = read_escapes(in, m, ends, block->value, escaped);
    if (result == DONE && block->shifted) {
        wide = malloc(sizeof(uint64_t) * (size + 1));
        if (!wide) return NO_MEMORY;
        for (size_t i = 0; i < size; i++) wide[i] = (uint64_t)(int64_t)block->value[ends[block->table[i]]++];
        result = read_low(in, block, wide, size);
    }
    if (result == DONE && unfold_any(m, g, s, block, wide, ends, centroids) >> width) result = BAD_WIDTH;
    free(wide);
    return result;
}

/* ---- writing */

typedef struct {
    uint32_t *words; /* what is written last is read first */
    size_t count, room;
    uint64_t state;
} Writer;

/* Room for as many words as `symbols` can write: at most one each, since a frequency is at least 2^8. */
static int reserve(Writer *out, size_t symbols) {
    if (out->room - out->count >= symbols) return DONE;
    size_t room = out->count + symbols + out->room / 2;
    uint32_t *words = room > SIZE_MAX / sizeof(uint32_t) ? NULL : realloc(out->words, sizeof(uint32_t) * room);
    if (!words) return NO_MEMORY;
    out->words = words, out->room = room;
    return DONE;
}

static INLINE void put(Writer *out, const Entry *e) {
    if (out->state >> 40 >= e->frequency) {
        out->words[out->count++] = (uint32_t)out->state;
        out->state >>= 32;
    }
#ifdef DIVIDE
    uint64_t quotient = out->state / e->frequency;
#else
    /* Frequencies are 2^7 g with g <= 2^17: (state >> 7) / g by its reciprocal, exact for numerators below 2^57. */
    uint64_t quotient = high_product(out->state >> 7, e->reciprocal) >> e->shift;
#endif
    out->state += e->start + quotient * ((1u << PRECISION) - e->frequency);
}

static Entry entry_of(uint32_t start, uint32_t frequency) {
    Entry e = {0, start, frequency, 0};
    uint64_t g = frequency >> 7, high, rest; /* 2 to 2^17 */
    while (g >> (e.shift + 1)) e.shift++;
    if (g == (uint64_t)1 << e.shift) {
        e.reciprocal = (uint64_t)1 << 63;
        e.shift--;
    } else { /* floor(2^(64 + shift) / g) + 1, which is below 2^64 since 2^shift < g */
        high = ((uint64_t)1 << (32 + e.shift)) / g, rest = ((uint64_t)1 << (32 + e.shift)) % g;
        e.reciprocal = (high << 32) + (rest << 32) / g + 1;
    }
    return e;
}

/* The low `bits` of each value; room is made for all. */
static int write_raw(Writer *out, const uint64_t *values, size_t count, int bits) {
    if (reserve(out, count * (size_t)((bits + 15) / 16)) != DONE) return NO_MEMORY;
    for (int shift = (bits - 1) / 16 * 16; bits && shift >= 0; shift -= 16) {
        int width = bits - shift < 16 ? bits - shift : 16, left = PRECISION - width;
        for (size_t i = count; i-- > 0;) {
            uint64_t part = values[i] >> shift & (((uint64_t)1 << width) - 1);
            if (out->state >> 40 >= (uint64_t)1 << left) {
                out->words[out->count++] = (uint32_t)out->state;
                out->state >>= 32;
            }
            uint64_t quotient = out->state >> left;
            out->state += (part << left) + quotient * (((uint64_t)1 << PRECISION) - ((uint64_t)1 << left));
        }
    }
    return DONE;
}

static int write_low(Writer *out, const Block *block, const uint64_t *low, size_t size) {
    size_t of_shift[256] = {0}, most = 0;
    int result = DONE;
    for (size_t i = 0; i < size; i++) of_shift[block->shift[i]]++;
    for (int bits = 1; bits < 256; bits++)
        if (of_shift[bits] > most) most = of_shift[bits];
    uint64_t *chosen = malloc(sizeof(uint64_t) * (most + 1));
    if (!chosen) return NO_MEMORY;
    for (int bits = 63; bits > 0 && result == DONE; bits--) {
        if (!of_shift[bits]) continue;
        for (size_t i = 0, j = 0; i < size; i++)
            if (block->shift[i] == bits) chosen[j++] = low[i];
        result = write_raw(out, chosen, of_shift[bits], bits);
    }
    free(chosen);
    return result;
}

static int write_escapes(Writer *out, const Model *m, const Block *block, size_t size, size_t count) {
    size_t *place = calloc((size_t)m->tables + 1, sizeof(size_t)), of_length[64] = {0};
    uint64_t *code = malloc(2 * sizeof(uint64_t) * count), *chosen = code + count;
    uint8_t *length = malloc(count);
    int result = DONE;
    if (!place || !code || !length) {
        free(place), free(code), free(length);
        return NO_MEMORY;
    }
    for (size_t i = 0; i < size; i++) {
        int32_t high = block->high[i], radius = m->radii[block->table[i]];
        place[block->table[i] + 1] += high > radius || high < -radius;
    }
    for (int32_t t = 0; t < m->tables; t++) place[t + 1] += place[t];
    for (size_t i = 0; i < size; i++) {
        int64_t high = block->high[i], radius = m->radii[block->table[i]];
        if (high > radius || high < -radius) {
            size_t at = place[block->table[i]]++;
            code[at] = (uint64_t)(2 * ((high < 0 ? -high : high) - radius - 1) + (high < 0)) + 1;
            for (length[at] = 0; code[at] >> (length[at] + 1); length[at]++) {}
            of_length[length[at]]++;
        }
    }
    for (int bits = ESCAPES - 1; bits > 0 && result == DONE; bits--) {
        if (!of_length[bits]) continue;
        for (size_t i = 0, j = 0; i < count; i++)
            if (length[i] == bits) chosen[j++] = code[i] - ((uint64_t)1 << bits);
        result = write_raw(out, chosen, of_length[bits], bits);
    }
    if (result == DONE) result = reserve(out, count);
    for (size_t i = count; i-- > 0 && result == DONE;) put(out, m->escapes + length[i]);
    free(place), free(code), free(length);
    return result;
}

/* Residuals of a step's symbols into `high`, their low bits into `low` where there are any. */
static void fold(const Grid *g, const Step *s, Block *block, uint64_t *low) {
    ptrdiff_t i = 0;
    for (ptrdiff_t row = s->row; row < g->rows; row += s->step)
        for (ptrdiff_t column = s->column; column < g->columns; column += s->step) {
            const int32_t *from = g->data + ((row * g->columns + column) * g->images + s->first) * g->channels;
            for (ptrdiff_t image = s->first; image < s->last; image++, from += g->channels)
                for (ptrdiff_t c = 0; c < s->live; c++, i++) {
                    int32_t by = block->folded ? block->fold[i] : 0, residual = from[c] - (by >> 1); /* < 2^27 */
                    block->high[i] = by & 1 ? -residual : residual;
                    if (low && block->shift[i]) {
                        int shift = block->shift[i];
                        int64_t half = ((int64_t)1 << shift) >> 1, value = block->high[i], high = (value + half) >> shift;
                        block->high[i] = (int32_t)high;
                        low[i] = (uint64_t)(value + half - high * ((int64_t)1 << shift));
                    }
                }
        }
}

static int encode_step(Writer *writer, const Model *m, const Grid *g, const Step *s, Block *block, size_t *ends) {
    size_t size = (size_t)size_of(g, s), escaped = 0;
    int result = DONE;
    if (block->shifted) {
        uint64_t *low = malloc(sizeof(uint64_t) * (size + 1));
        if (!low) return NO_MEMORY;
        fold(g, s, block, low);
        result = write_low(writer, block, low, size);
        free(low);
    } else {
        fold(g, s, block, NULL);
    }
    sort_by_table(m, block->table, size, ends);
    for (size_t i = 0; i < size; i++) {
        int32_t radius = m->radii[block->table[i]], entry = block->high[i] + radius;
        if (entry < 0 || entry > 2 * radius) entry = 2 * radius + 1, escaped++;
        block->value[ends[block->table[i]]++] = entry;
    }
    if (result == DONE && escaped) result = write_escapes(writer, m, block, size, escaped);
    if (result != DONE || reserve(writer, size) != DONE) return NO_MEMORY;
    Writer out = *writer;
    for (int32_t t = m->tables; t-- > 0;) {
        const Entry *entries = m->entries + m->first[t];
        for (size_t i = ends[t]; i-- > (t ? ends[t - 1] : 0);) put(&out, entries + block->value[i]);
    }
    *writer = out;
    return DONE;
}

/* ---- calls */

typedef struct {
    Py_buffer steps, b0, weights, grid;
    Level level;
    Grid g;
    Py_ssize_t count, largest; /* steps; values of the largest of them */
    int narrow;
    Block block;
    size_t *ends;
} Call;

static int fail(const char *what) {
    PyErr_SetString(PyExc_ValueError, what);
    return 0;
}

/* A C-ordered buffer of items of one size. */
static int view(PyObject *object, Py_buffer *out, Py_ssize_t item, int flags, const char *what) {
    if (PyObject_GetBuffer(object, out, PyBUF_C_CONTIGUOUS | flags) < 0) return 0;
    return out->itemsize == item ? 1 : fail(what);
}

static Step step_of(const Call *call, Py_ssize_t i) {
    Step s;
    memcpy(&s, (const int64_t *)call->steps.buf + i * STEP_FIELDS, sizeof(s));
    return s;
}

static void close_call(Call *call) {
    PyBuffer_Release(&call->steps), PyBuffer_Release(&call->b0);
    PyBuffer_Release(&call->weights), PyBuffer_Release(&call->grid);
    PyMem_Free(call->block.table), PyMem_Free(call->block.shift), PyMem_Free(call->block.fold);
    PyMem_Free(call->block.value), PyMem_Free(call->block.high), PyMem_Free(call->ends);
}

/* Everything that the loops rely on: plan (steps, b0, weights, narrow) and a grid of int32 (y, x, n, k). */
static int read_call(const Model *m, PyObject *plan, PyObject *grid, int writing, Call *call) {
    PyObject *steps, *b0, *weights;
    memset(call, 0, sizeof(*call));
    if (!PyArg_ParseTuple(plan, "OOOp", &steps, &b0, &weights, &call->narrow)) return 0;
    if (!view(steps, &call->steps, 8, PyBUF_ND, "steps must be int64")) return 0;
    if (!view(b0, &call->b0, 8, PyBUF_ND, "b0 must be int64")) return 0;
    if (!view(weights, &call->weights, 8, PyBUF_ND, "weights must be int64")) return 0;
    if (!view(grid, &call->grid, 4, PyBUF_ND | PyBUF_WRITABLE, "a grid must be int32")) return 0;
    if (call->b0.ndim != 2 || call->weights.ndim != 3 || call->grid.ndim != 4 || call->steps.ndim != 2)
        return fail("b0 has 2 axes, weights 3, steps 2 and a grid 4");
    Level level = {call->b0.buf, call->weights.buf, call->b0.shape[0], call->b0.shape[1], call->weights.shape[0]};
    if (call->weights.shape[1] != level.classes || call->weights.shape[2] != level.channels ||
        level.weights_count != (m->pyramid ? 4 : 5) || call->steps.shape[1] != STEP_FIELDS)
        return fail("b0, weights or steps have another shape");
    const Py_ssize_t *shape = call->grid.shape;
    Grid g = {call->grid.buf, shape[0], shape[1], shape[2], shape[3]};
    call->level = level, call->g = g, call->count = call->steps.shape[0];
    if (g.channels > level.channels) return fail("a grid has more channels than the codec");
    for (Py_ssize_t i = 0; i < level.classes * level.channels; i++)
        if (level.b0[i] < 0 || level.b0[i] > (call->narrow ? (int64_t)1 << 29 : (int64_t)1 << 45))
            return fail("b0 is out of range");
    for (Py_ssize_t i = 0; i < level.weights_count * level.classes * level.channels; i++)
        if (level.weights[i] < -128 || level.weights[i] > 255) return fail("weights are out of range");
    for (Py_ssize_t i = 0; i < call->count; i++) {
        Step s = step_of(call, i);
        if (s.shape < 0 || s.shape > 3 || s.band < 0 || s.band > 2 || s.kind < 0 || s.kind >= level.classes ||
            s.step < 1 || s.step > (int64_t)1 << 32 || s.row < 0 || s.row >= g.rows || s.column < 0 ||
            s.column >= g.columns || s.first < 0 || s.first >= s.last || s.last > g.images || s.live < 1 ||
            s.live > g.channels || s.resolution < 0 || (i && s.resolution < step_of(call, i - 1).resolution))
            return fail("a step does not fit the grid");
        if (size_of(&g, &s) > call->largest) call->largest = size_of(&g, &s);
    }
    /* Memory for the largest step alone; Python counts it where it is asked to. */
    size_t most = (size_t)call->largest + 1;
    Block *block = &call->block;
    block->table = PyMem_Malloc(most * sizeof(uint16_t)), block->shift = PyMem_Calloc(most, 1);
    block->value = PyMem_Malloc(most * sizeof(int32_t));
    block->fold = PyMem_Malloc((m->pyramid ? 1 : most) * sizeof(int32_t));
    block->high = PyMem_Malloc((writing ? most : 1) * sizeof(int32_t));
    call->ends = PyMem_Malloc(4 * ((size_t)m->tables + 1) * sizeof(size_t));
    if (block->table && block->shift && block->value && block->fold && block->high && call->ends) return 1;
    PyErr_NoMemory();
    return 0;
}

/* Arrays of the grid's rows, columns and images and of at least `channels` channels, or None. */
typedef struct {
    Py_buffer table, shift;
    ptrdiff_t channels;
    int given;
} Kept;

static void close_kept(Kept *kept) {
    if (kept->given) PyBuffer_Release(&kept->table), PyBuffer_Release(&kept->shift);
}

static int read_kept(PyObject *pair, const Grid *g, Kept *kept) {
    PyObject *table, *shift;
    memset(kept, 0, sizeof(*kept));
    if (pair == Py_None) return 1;
    if (!PyArg_ParseTuple(pair, "OO", &table, &shift)) return 0;
    kept->given = 1;
    if (!view(table, &kept->table, 2, PyBUF_ND | PyBUF_WRITABLE, "kept tables must be uint16")) return 0;
    if (!view(shift, &kept->shift, 1, PyBUF_ND | PyBUF_WRITABLE, "kept shifts must be uint8")) return 0;
    if (kept->table.ndim != 4 || kept->shift.ndim != 4) return fail("kept contexts must have 4 axes");
    for (int axis = 0; axis < 4; axis++)
        if (kept->table.shape[axis] != kept->shift.shape[axis]) return fail("kept contexts differ in shape");
    const Py_ssize_t *shape = kept->table.shape;
    kept->channels = shape[3];
    if (shape[0] != g->rows || shape[1] != g->columns || shape[2] != g->images || shape[3] < g->channels)
        return fail("kept contexts do not fit the grid");
    return 1;
}

/* Between a block and the kept arrays of a grid. */
static int move_kept(const Model *m, const Kept *kept, const Grid *g, const Step *s, Block *block, int out) {
    uint16_t *tables = kept->table.buf;
    uint8_t *shifts = kept->shift.buf, any = 0;
    ptrdiff_t i = 0;
    for (ptrdiff_t row = s->row; row < g->rows; row += s->step)
        for (ptrdiff_t column = s->column; column < g->columns; column += s->step)
            for (ptrdiff_t image = s->first; image < s->last; image++, i += s->live) {
                ptrdiff_t at = ((row * g->columns + column) * g->images + image) * kept->channels;
                size_t live = (size_t)s->live;
                if (out) {
                    memcpy(tables + at, block->table + i, live * sizeof(uint16_t));
                    if (block->shifted) memcpy(shifts + at, block->shift + i, live);
                } else {
                    memcpy(block->table + i, tables + at, live * sizeof(uint16_t));
                    memcpy(block->shift + i, shifts + at, live);
                    for (ptrdiff_t c = 0; c < s->live; c++) {
                        if (block->table[i + c] >= m->tables || block->shift[i + c] > 63) return BAD_WIDTH;
                        any |= block->shift[i + c];
                    }
                }
            }
    if (!out) block->shifted = any != 0, block->folded = 0;
    return DONE;
}

static PyObject *answer(int result) {
    return result == NO_MEMORY ? PyErr_NoMemory() : PyLong_FromLong(result);
}

PyDoc_STRVAR(decode_doc, "decode(words, plan, grid, centroids, width, complete) -> int\n\n"
    "Symbols of a stream's words (uint32) into a grid (int32), and centroids (int8, or None) in 1/256; 0, or what is "
    "wrong:\n1 an escape out of range, 2 a symbol beyond the width, 3 words left over (if complete).");

static PyObject *decode(PyObject *self, PyObject *args) {
    const Model *m = (const Model *)self;
    PyObject *words, *plan, *grid, *inside, *found = NULL;
    Py_buffer stream = {0}, centroids = {0};
    Call call;
    int width, complete, result = DONE;
    if (!PyArg_ParseTuple(args, "OO!OOip", &words, &PyTuple_Type, &plan, &grid, &inside, &width, &complete)) return NULL;
    if (!read_call(m, plan, grid, 0, &call)) goto end;
    if (!view(words, &stream, 4, PyBUF_ND, "words must be uint32")) goto end;
    if (inside != Py_None && !view(inside, &centroids, 1, PyBUF_ND | PyBUF_WRITABLE, "centroids must be int8")) goto end;
    int most = !call.narrow ? 24 : m->pyramid ? 12 : 13;
    if ((centroids.buf && centroids.len != call.grid.len / 4) || width < 0 || width > most) {
        fail("centroids or width do not fit the grid");
        goto end;
    }
    Py_BEGIN_ALLOW_THREADS
    Reader in = {stream.buf, (size_t)stream.len / 4, 0, 0};
    refill(&in), refill(&in);
    for (Py_ssize_t i = 0; i < call.count && result == DONE; i++) {
        Step s = step_of(&call, i);
        result = contexts(m, &call.level, &call.g, &s, call.narrow, &call.block);
        if (result == DONE) result = decode_step(&in, m, &call.g, &s, &call.block, width, call.ends, centroids.buf);
    }
    if (result == DONE && complete && (in.at < in.count || in.state)) result = LEFT_OVER;
    Py_END_ALLOW_THREADS
    found = answer(result);
end:
    PyBuffer_Release(&stream), PyBuffer_Release(&centroids), close_call(&call);
    return found;
}

PyDoc_STRVAR(encode_doc, "encode(plan, grid, resolutions, kept) -> (bytes, list of int)\n\n"
    "The code of a grid (int32), little-endian words in reading order, and how many words a reader of the first 1, "
    "2, ...\nresolutions does not need. `kept` are contexts as `quantise` leaves them, or None.");

static PyObject *encode(PyObject *self, PyObject *args) {
    const Model *m = (const Model *)self;
    PyObject *plan, *grid, *pair, *code = NULL, *below = NULL, *found = NULL;
    Py_ssize_t count, i, resolution;
    Call call;
    Kept kept = {0};
    Writer out = {0};
    int result = DONE;
    size_t *left = NULL;
    if (!PyArg_ParseTuple(args, "O!OnO", &PyTuple_Type, &plan, &grid, &count, &pair)) return NULL;
    if (!read_call(m, plan, grid, 1, &call) || !read_kept(pair, &call.g, &kept)) goto end;
    if (count < 0 || count > 64 || (call.count && step_of(&call, call.count - 1).resolution >= count)) {
        fail("resolutions do not fit the steps");
        goto end;
    }
    left = PyMem_Calloc((size_t)count + 1, sizeof(size_t));
    if (!left) {
        PyErr_NoMemory();
        goto end;
    }
    Py_BEGIN_ALLOW_THREADS
    for (i = call.count, resolution = count; resolution-- > 0;) {
        size_t held = out.count + (out.state >> 32 ? 2 : out.state ? 1 : 0);
        left[resolution] = held > 2 ? held - 2 : 0;
        for (; i > 0 && step_of(&call, i - 1).resolution == resolution && result == DONE; i--) {
            Step s = step_of(&call, i - 1);
            result = kept.given ? move_kept(m, &kept, &call.g, &s, &call.block, 0)
                                : contexts(m, &call.level, &call.g, &s, call.narrow, &call.block);
            if (result == DONE) result = encode_step(&out, m, &call.g, &s, &call.block, call.ends);
        }
    }
    if (result == DONE) result = reserve(&out, 2);
    Py_END_ALLOW_THREADS
    if (result != DONE) {
        result == NO_MEMORY ? (void)PyErr_NoMemory() : (void)fail("kept contexts are not of this codec");
        goto end;
    }
    for (; out.state; out.state >>= 32) out.words[out.count++] = (uint32_t)out.state;
    code = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(4 * out.count));
    below = PyList_New(count);
    if (!code || !below) goto end;
    unsigned char *to = (unsigned char *)PyBytes_AsString(code);
    for (size_t word = out.count; word-- > 0; to += 4)
        for (int byte = 0; byte < 4; byte++) to[byte] = (unsigned char)(out.words[word] >> (8 * byte));
    for (resolution = 0; resolution < count; resolution++) {
        PyObject *number = PyLong_FromSize_t(left[resolution]);
        if (!number || PyList_SetItem(below, resolution, number) < 0) goto end;
    }
    found = PyTuple_Pack(2, code, below);
end:
    Py_XDECREF(code), Py_XDECREF(below), free(out.words), PyMem_Free(left), close_kept(&kept), close_call(&call);
    return found;
}

PyDoc_STRVAR(quantise_doc, "quantise(plan, scaled, grid, rise, kept) -> int\n\n"
    "Symbols of a pyramid's coefficients `scaled` (float64, in steps) into a grid of zeros (int32) of the same shape, "
    "wave by\nwave: sizes are rounded down after `rise` (float64), by table, was added. Contexts go to `kept`, tables "
    "(uint16) and\nshifts (uint8).");

static PyObject *quantise(PyObject *self, PyObject *args) {
    const Model *m = (const Model *)self;
    PyObject *plan, *values, *grid, *rises, *pair, *found = NULL;
    Py_buffer scaled = {0}, rise = {0};
    Call call;
    Kept kept = {0};
    int result = DONE;
    if (!PyArg_ParseTuple(args, "O!OOOO", &PyTuple_Type, &plan, &values, &grid, &rises, &pair)) return NULL;
    if (!read_call(m, plan, grid, 1, &call) || !read_kept(pair, &call.g, &kept)) goto end;
    if (!view(values, &scaled, 8, PyBUF_ND, "coefficients must be float64")) goto end;
    if (!view(rises, &rise, 8, PyBUF_ND, "rises must be float64")) goto end;
    if (scaled.len / 8 != call.grid.len / 4 || rise.len != 8 * m->tables || !m->pyramid || !kept.given) {
        fail("coefficients do not fit the grid");
        goto end;
    }
    Py_BEGIN_ALLOW_THREADS
    const Grid *g = &call.g;
    const double *by = rise.buf;
    for (Py_ssize_t step = 0; step < call.count && result == DONE; step++) {
        Step s = step_of(&call, step);
        ptrdiff_t i = 0;
        result = contexts(m, &call.level, g, &s, call.narrow, &call.block);
        if (result != DONE) break;
        for (ptrdiff_t row = s.row; row < g->rows; row += s.step)
            for (ptrdiff_t column = s.column; column < g->columns; column += s.step)
                for (ptrdiff_t image = s.first; image < s.last; image++) {
                    ptrdiff_t at = ((row * g->columns + column) * g->images + image) * g->channels;
                    const double *from = (const double *)scaled.buf + at;
                    for (ptrdiff_t c = 0; c < s.live; c++, i++) {
                        double size = floor(fabs(from[c]) + by[call.block.table[i]]);
                        int32_t whole = (int32_t)(size < 16777216.0 ? size : 16777216.0); /* NaN too */
                        g->data[at + c] = from[c] < 0 ? -whole : whole;
                    }
                }
        result = move_kept(m, &kept, g, &s, &call.block, 1);
    }
    Py_END_ALLOW_THREADS
    found = answer(result);
end:
    PyBuffer_Release(&scaled), PyBuffer_Release(&rise), close_kept(&kept), close_call(&call);
    return found;
}

/* ---- models */

static int fill_model(Model *m, const int64_t *numbers, const uint8_t *offset_of, const int64_t *radii,
                      const int64_t *frequencies, Py_ssize_t entries, const int8_t *centroids, const int64_t *escapes) {
    int64_t low = numbers[0], split = numbers[1], wide = numbers[2];
    if (low < 0 || low > 255 || split < 1 || split > 255 || wide < 1 || wide > 255)
        return fail("a codec's scales are out of range");
    for (int i = 0; i < 65; i++) {
        m->offset_of[i] = offset_of[i];
        if (offset_of[i] + 1 > m->offsets) m->offsets = offset_of[i] + 1;
    }
    m->low = (int32_t)low, m->split = (int32_t)split, m->top = (int32_t)(split + wide - 1);
    m->pyramid = numbers[3] != 0;
    if (m->tables != split * m->offsets + wide) return fail("a codec's scales need another number of tables");
    size_t tables = (size_t)m->tables, room = (size_t)entries + tables;
    m->table_of = PyMem_Malloc(sizeof(uint16_t) * (size_t)(m->top + 1) * (size_t)m->offsets);
    m->radii = PyMem_Malloc(sizeof(int32_t) * tables), m->first = PyMem_Malloc(sizeof(size_t) * tables);
    m->start = PyMem_Malloc(sizeof(uint32_t) * room), m->entries = PyMem_Malloc(sizeof(Entry) * room);
    m->bucket = PyMem_Malloc(sizeof(uint16_t) * (tables << BUCKET_BITS));
    m->likely = PyMem_Malloc(sizeof(int32_t) * tables), m->centroids = PyMem_Malloc(5 * tables);
    if (!m->table_of || !m->radii || !m->first || !m->start || !m->entries || !m->bucket || !m->likely ||
        !m->centroids) {
        PyErr_NoMemory();
        return 0;
    }
    for (int32_t index = 0; index <= m->top; index++)
        for (int32_t o = 0; o < m->offsets; o++)
            m->table_of[index * m->offsets + o] = (uint16_t)(
                index < m->split ? index * m->offsets + o : m->split * (m->offsets - 1) + index);
    size_t at = 0, from = 0;
    for (size_t t = 0; t < tables; t++) {
        if (radii[t] < 0 || radii[t] > 32767 || (size_t)entries - from < (size_t)(2 * radii[t] + 2))
            return fail("radii and frequencies do not fit together");
        size_t count = (size_t)(2 * radii[t] + 2), best = 0;
        m->radii[t] = (int32_t)radii[t], m->first[t] = at;
        int64_t sum = 0;
        for (size_t i = 0; i < count; i++) {
            int64_t frequency = frequencies[from + i];
            if (frequency < 1 || frequency > 65536 - sum) return fail("frequencies must be positive and sum to 65536");
            m->start[at + i] = (uint32_t)(sum << 8);
            m->entries[at + i] = entry_of((uint32_t)(sum << 8), (uint32_t)(frequency << 8));
            if (frequency > frequencies[from + best]) best = i;
            sum += frequency;
        }
        if (sum != 65536) return fail("frequencies must be positive and sum to 65536");
        m->start[at + count] = 1u << PRECISION;
        m->likely[t] = (int32_t)best;
        for (uint32_t i = 0, entry = 0; i < 1 << BUCKET_BITS; i++) {
            while (m->start[at + entry + 1] <= i << (PRECISION - BUCKET_BITS)) entry++;
            m->bucket[(t << BUCKET_BITS) + i] = (uint16_t)entry;
        }
        from += count, at += count + 1;
    }
    if (from != (size_t)entries) return fail("radii and frequencies do not fit together");
    memcpy(m->centroids, centroids, 5 * tables);
    for (int64_t i = 0, sum = 0; i < ESCAPES; i++) {
        if (escapes[i] < 1 || escapes[i] > 65536 - sum) return fail("frequencies of escapes must sum to 65536");
        m->escape_start[i] = (uint32_t)(sum << 8);
        m->escapes[i] = entry_of((uint32_t)(sum << 8), (uint32_t)(escapes[i] << 8));
        sum += escapes[i];
        if (i == ESCAPES - 1 && sum != 65536) return fail("frequencies of escapes must sum to 65536");
    }
    m->escape_start[ESCAPES] = 1u << PRECISION;
    return 1;
}

PyDoc_STRVAR(model_doc, "Model(numbers, offset_of, radii, frequencies, centroids, escapes)\n\n"
    "numbers: scale_low, scale_split, scale_wide, whether the symbols are a pyramid's (int64); the rest as in a codec's\n"
    "JSON (uint8, int64, int64, int8, int64).");

static PyObject *new_model(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    PyObject *given[6];
    Py_buffer views[6];
    const Py_ssize_t items[6] = {8, 1, 8, 8, 1, 8};
    int opened = 0, good = 0;
    (void)kwargs;
    if (!PyArg_ParseTuple(args, "OOOOOO", given, given + 1, given + 2, given + 3, given + 4, given + 5))
        return NULL;
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Model *m = (Model *)alloc(type, 0); /* all zero */
    if (!m) return NULL;
    memset(views, 0, sizeof(views));
    while (opened < 6 && view(given[opened], views + opened, items[opened], PyBUF_ND, "an array of another type")) opened++;
    if (opened == 6) {
        Py_ssize_t tables = views[2].len / 8;
        m->tables = (int32_t)tables;
        if (views[0].len != 4 * 8 || views[1].len != 65 || tables < 1 || tables > 65535 || views[4].len != 5 * tables ||
            views[5].len != 8 * ESCAPES)
            fail("arrays of a codec do not fit together");
        else
            good = fill_model(m, views[0].buf, views[1].buf, views[2].buf, views[3].buf, views[3].len / 8, views[4].buf,
                              views[5].buf);
    }
    for (int i = 0; i < 6; i++) PyBuffer_Release(views + i);
    if (good) return (PyObject *)m;
    Py_DECREF(m);
    return NULL;
}

static void free_model(PyObject *self) {
    Model *m = (Model *)self;
    PyTypeObject *type = Py_TYPE(self);
    PyMem_Free(m->table_of), PyMem_Free(m->radii), PyMem_Free(m->first), PyMem_Free(m->start);
    PyMem_Free(m->bucket), PyMem_Free(m->likely), PyMem_Free(m->centroids), PyMem_Free(m->entries);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static PyMethodDef model_methods[] = {
    {"decode", decode, METH_VARARGS, decode_doc},
    {"encode", encode, METH_VARARGS, encode_doc},
    {"quantise", quantise, METH_VARARGS, quantise_doc},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot model_slots[] = {
    {Py_tp_doc, (void *)model_doc}, {Py_tp_new, (void *)new_model}, {Py_tp_dealloc, (void *)free_model},
    {Py_tp_methods, model_methods}, {0, NULL},
};

static PyType_Spec model_spec = {"nec.codec._kernel.Model", sizeof(Model), 0, Py_TPFLAGS_DEFAULT, model_slots};

/* ---- back to values; the sums are those of the plain path, one by one, so that values are the same */

#define REAL float
#define REALS(name) name##_f32
#include "_values.h"
#undef REAL
#undef REALS
#define REAL double
#define REALS(name) name##_f64
#include "_values.h"

PyDoc_STRVAR(dequantise_doc, "dequantise(symbols, centroids, step, out)\n\n"
    "(symbols + centroids / 256) * step into `out` (float32 or float64, C-ordered), all (n, y, x, k); symbols (int32) and\n"
    "centroids (int8, or None) of any strides but along k.");

static PyObject *dequantise(PyObject *module, PyObject *args) {
    PyObject *symbols, *inside, *target, *found = NULL;
    Py_buffer from = {0}, centres = {0}, out = {0};
    double step;
    (void)module;
    if (!PyArg_ParseTuple(args, "OOdO", &symbols, &inside, &step, &target)) return NULL;
    if (PyObject_GetBuffer(symbols, &from, PyBUF_STRIDED_RO) < 0) goto end;
    if (inside != Py_None && PyObject_GetBuffer(inside, &centres, PyBUF_STRIDED_RO) < 0) goto end;
    if (PyObject_GetBuffer(target, &out, PyBUF_C_CONTIGUOUS | PyBUF_ND | PyBUF_WRITABLE) < 0) goto end;
    int good = from.ndim == 4 && out.ndim == 4 && from.itemsize == 4 && (out.itemsize == 4 || out.itemsize == 8);
    if (centres.buf) good = good && centres.ndim == 4 && centres.itemsize == 1;
    for (int axis = 0; axis < 4 && good; axis++) {
        good = from.shape[axis] == out.shape[axis];
        if (centres.buf) good = good && centres.shape[axis] == out.shape[axis];
    }
    if (good && out.shape[3] > 1) good = from.strides[3] == 4 && (!centres.buf || centres.strides[3] == 1);
    if (!good) {
        fail("symbols, centroids and out do not fit together");
        goto end;
    }
    Py_BEGIN_ALLOW_THREADS
    if (out.itemsize == 4)
        dequantise_f32(&from, centres.buf ? &centres : NULL, (float)step, out.buf);
    else
        dequantise_f64(&from, centres.buf ? &centres : NULL, step, out.buf);
    Py_END_ALLOW_THREADS
    found = Py_NewRef(Py_None);
end:
    PyBuffer_Release(&from), PyBuffer_Release(&centres), PyBuffer_Release(&out);
    return found;
}

PyDoc_STRVAR(expand_doc, "expand(averages, across, down, diag, out)\n\n"
    "One step of the inverse pyramid, see `pyramid._expand`: C-ordered (n, y, x, d), all float32 or all float64.");

static PyObject *expand(PyObject *module, PyObject *args) {
    PyObject *given[5], *found = NULL;
    Py_buffer views[5] = {{0}};
    (void)module;
    if (!PyArg_ParseTuple(args, "OOOOO", given, given + 1, given + 2, given + 3, given + 4)) return NULL;
    int good = 1;
    for (int i = 0; i < 5; i++) {
        if (PyObject_GetBuffer(given[i], views + i, PyBUF_C_CONTIGUOUS | PyBUF_ND | (i == 4 ? PyBUF_WRITABLE : 0)) < 0)
            goto end;
        good = good && views[i].ndim == 4 && views[i].itemsize == views[0].itemsize;
    }
    good = good && (views[0].itemsize == 4 || views[0].itemsize == 8);
    if (good) {
        const Py_ssize_t *shape = views[0].shape, rows = views[2].shape[1], columns = views[1].shape[2];
        const Py_ssize_t expected[5][2] = {
            {shape[1], shape[2]}, {shape[1], columns}, {rows, shape[2]}, {rows, columns},
            {shape[1] + rows, shape[2] + columns},
        };
        good = rows <= shape[1] && columns <= shape[2];
        for (int i = 0; i < 5; i++)
            good = good && views[i].shape[0] == shape[0] && views[i].shape[1] == expected[i][0] &&
                   views[i].shape[2] == expected[i][1] && views[i].shape[3] == shape[3];
    }
    if (!good) {
        fail("averages, details and out do not fit together");
        goto end;
    }
    Py_BEGIN_ALLOW_THREADS
    (views[0].itemsize == 4 ? expand_f32 : expand_f64)(views);
    Py_END_ALLOW_THREADS
    found = Py_NewRef(Py_None);
end:
    for (int i = 0; i < 5; i++) PyBuffer_Release(views + i);
    return found;
}

static PyMethodDef functions[] = {
    {"dequantise", dequantise, METH_VARARGS, dequantise_doc},
    {"expand", expand, METH_VARARGS, expand_doc},
    {NULL, NULL, 0, NULL},
};

static int fill_module(PyObject *module) {
    PyObject *type = PyType_FromModuleAndSpec(module, &model_spec, NULL);
    int result = type ? PyModule_AddObjectRef(module, "Model", type) : -1;
    Py_XDECREF(type);
    return result;
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, (void *)fill_module}, {0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "nec.codec._kernel", "Entropy coding, compiled.", 0, functions, slots, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__kernel(void) { return PyModuleDef_Init(&definition); }
