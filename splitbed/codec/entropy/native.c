/* The entropy coder's inner loops in C: see model.py for the model, vectorised.py for the same
 * arithmetic in numpy. Both make the same bytes; tests hold them to it. Integers only, so that every
 * machine decodes alike, but for the rounding of an encoder at the end. Nothing here trusts a
 * payload: whatever it says, reads and writes stay inside the arrays, and a wrong one ends in
 * DAMAGED. All memory is the caller's (native.py, native_rounding.py). */

#include <stdint.h>
#include <string.h>

#define PRECISION 14              /* bits of a probability */
#define LOWEST (1u << 16)         /* a state between two symbols is at least this */
#define COARSE 6                  /* bits of a slot that find where the search begins */
#define NEAR 6                    /* neighbours in the same channel: W N NW NE WW NN */
#define PARENTS 4                 /* channels of an earlier level, same place */
#define DENSE_SHIFT 2
#define ONE 6                     /* bits behind the point of a predicted value */
#define RESIDUAL_SHIFT 2
#define RESIDUAL_MOST 1023
#define PHASES 4
#define FLOORS 3
#define MOST_SUM 4                /* of four coarsest bins */
#define MOST_SIZE 6               /* of their magnitudes */

enum { DAMAGED = -1, NO_ROOM = -2 };

/* AVX2 where the processor has it, chosen when the library is loaded. */
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define WIDE __attribute__((target_clones("avx2", "default")))
#else
#define WIDE
#endif
#define INLINE static inline __attribute__((always_inline))

typedef struct {
    int32_t tables, entries; /* of each table */
    const uint16_t *cumulative; /* tables x (entries + 1), from 0 to 2^PRECISION */
    const uint8_t *coarse;      /* tables x 2^COARSE */
} Tables;

typedef struct {
    int32_t channels, height, width, alphabet, zero, window, classes, first_class;
    int32_t scale_weights[4];
    const int32_t *bias, *scale;             /* channels */
    const int16_t *near;                     /* NEAR x channels */
    const int16_t *parents, *parent_weights; /* channels x PARENTS; `channels` names none */
    const int16_t *dense;                    /* channels x sources */
    int32_t sources, levels;
    Tables tables;
} ContextModel;

/* Everything around a tensor's values and residuals is zero, and stays so from one tensor to the
 * next: two rows above, two columns to the left, one to the right, and one channel that is nobody's
 * parent. A ChannelModel needs the last three only. */
typedef struct {
    int16_t *values, *residuals;  /* (height + 2) x (width + 3) x (channels + 1) */
    int32_t *predicted, *spread;  /* height x channels: a wavefront has a place in each row */
    uint32_t *intervals, *states; /* elements; lanes */
    uint8_t *words, *escapes;     /* 2 x elements; elements */
} Workspace;

/* ------------------------------------------------------------------------------ the coder itself */

typedef struct {
    uint32_t *states;
    int32_t lanes; /* a power of two */
    const uint8_t *next, *end;
} Reader;

INLINE uint32_t word_at(const uint8_t *at) { return (uint32_t)at[0] | (uint32_t)at[1] << 8; }

/* The symbol of one table, or -1 where the words end too early. */
INLINE int32_t take(Reader *reader, const Tables *tables, uint32_t table, uint32_t lane)
{
    uint32_t x = reader->states[lane];
    const uint16_t *cumulative = tables->cumulative + table * (uint32_t)(tables->entries + 1);
    uint32_t slot = x & ((1u << PRECISION) - 1);
    uint32_t symbol = tables->coarse[(table << COARSE) + (slot >> (PRECISION - COARSE))];
    while (cumulative[symbol + 1] <= slot) symbol++;
    uint32_t start = cumulative[symbol];
    x = (cumulative[symbol + 1] - start) * (x >> PRECISION) + slot - start;
    if (x < LOWEST) {
        if (reader->end - reader->next < 2) return -1;
        x = x << 16 | word_at(reader->next);
        reader->next += 2;
    }
    reader->states[lane] = x;
    return (int32_t)symbol;
}

/* All intervals (start << 16 | size), last one first: words fill `end` downwards. The first byte. */
static uint8_t *put_all(const uint32_t *intervals, int64_t count, uint32_t *states, int32_t lanes,
                        uint8_t *end)
{
    for (int32_t lane = 0; lane < lanes; lane++) states[lane] = LOWEST;
    for (int64_t i = count - 1; i >= 0; i--) {
        uint32_t size = intervals[i] & 0xffff, start = intervals[i] >> 16;
        uint32_t x = states[i & (lanes - 1)];
        if (x >= size << (32 - PRECISION)) {
            *--end = (uint8_t)(x >> 8);
            *--end = (uint8_t)x;
            x >>= 16;
        }
        states[i & (lanes - 1)] = ((x / size) << PRECISION) + x % size + start;
    }
    return end;
}

/* Escapes, states and words in one piece; the payload's length. */
static int64_t assembled(const uint8_t *escapes, int64_t escaped, const uint32_t *states,
                         int32_t lanes, const uint8_t *words, int64_t words_bytes, uint8_t *out,
                         int64_t room)
{
    if (room < escaped + 4 * (int64_t)lanes + words_bytes + 10) return NO_ROOM;
    uint8_t *at = out;
    uint64_t rest = (uint64_t)escaped;
    for (; rest >= 128; rest >>= 7) *at++ = (uint8_t)(rest | 128);
    *at++ = (uint8_t)rest;
    if (escaped) memcpy(at, escapes, (size_t)escaped);
    at += escaped;
    for (int32_t lane = 0; lane < lanes; lane++)
        for (int shift = 0; shift < 32; shift += 8) *at++ = (uint8_t)(states[lane] >> shift);
    if (words_bytes) memmove(at, words, (size_t)words_bytes);
    return at + words_bytes - out;
}

/* The head of a payload: the number of escapes and where they are, the states; 0 or DAMAGED. */
static int opened(const uint8_t *payload, int64_t size, int64_t most, Reader *reader,
                  const uint8_t **escapes, int64_t *escaped)
{
    uint64_t count = 0;
    int shift = 0;
    reader->next = payload;
    reader->end = payload + size;
    for (;;) {
        if (reader->next == reader->end || shift > 28) return DAMAGED;
        uint8_t byte = *reader->next++;
        count |= (uint64_t)(byte & 127) << shift;
        shift += 7;
        if (!(byte & 128)) break;
    }
    if (count > (uint64_t)most) return DAMAGED;
    if (reader->end - reader->next < (int64_t)count + 4 * (int64_t)reader->lanes) return DAMAGED;
    *escapes = reader->next;
    *escaped = (int64_t)count;
    reader->next += count;
    for (int32_t lane = 0; lane < reader->lanes; lane++, reader->next += 4) {
        reader->states[lane] = word_at(reader->next) | word_at(reader->next + 2) << 16;
        if (reader->states[lane] < LOWEST) return DAMAGED;
    }
    return 0;
}

/* Whether everything was used up, and every state is back where it began. */
static int used_up(const Reader *reader)
{
    if (reader->next != reader->end) return 0;
    for (int32_t lane = 0; lane < reader->lanes; lane++)
        if (reader->states[lane] != LOWEST) return 0;
    return 1;
}

/* ------------------------------------------------------------------- one table for each channel */

int64_t splitbed_channel_encode(const Tables *tables, const uint8_t *table_of, int64_t channels,
                                int64_t each, const Workspace *w, const uint8_t *symbols,
                                int32_t lanes, uint8_t *out, int64_t room)
{
    const int64_t count = channels * each;
    uint32_t *at = w->intervals;
    for (int64_t c = 0; c < channels; c++) {
        const uint16_t *cumulative = tables->cumulative + table_of[c] * (tables->entries + 1);
        for (int64_t i = 0; i < each; i++) {
            uint32_t start = cumulative[*symbols];
            *at++ = start << 16 | (cumulative[*symbols + 1] - start);
            symbols++;
        }
    }
    uint8_t *end = w->words + 2 * count;
    uint8_t *first = put_all(w->intervals, count, w->states, lanes, end);
    return assembled(NULL, 0, w->states, lanes, first, end - first, out, room);
}

int64_t splitbed_channel_decode(const Tables *tables, const uint8_t *table_of, int64_t channels,
                                int64_t each, const Workspace *w, const uint8_t *payload,
                                int64_t size, int32_t lanes, uint8_t *symbols)
{
    const uint8_t *escapes;
    int64_t escaped, i = 0;
    Reader reader = {w->states, lanes, NULL, NULL};
    if (opened(payload, size, 0, &reader, &escapes, &escaped)) return DAMAGED;
    for (int64_t c = 0; c < channels; c++) {
        uint32_t table = table_of[c];
        for (int64_t k = 0; k < each; k++, i++) {
            int32_t symbol = take(&reader, tables, table, (uint32_t)(i & (lanes - 1)));
            if (symbol < 0) return DAMAGED;
            symbols[i] = (uint8_t)symbol;
        }
    }
    return used_up(&reader) ? 0 : DAMAGED;
}

/* ------------------------------------------------------------------------------ coarse to fine */

/* See nesting.py. What chooses a table, for `channels` planes with a frame of zeros around each. */
typedef struct {
    int64_t channels, height, width;
    const uint16_t *first;    /* 2 passes x channels: the first of the tables of each */
    const uint16_t *leanings; /* 2 x furthest + 1 */
    int32_t furthest, kinds, leaning_kinds;
    int16_t *near;            /* channels x (height + 2) x (width + 2) */
    int16_t *totals;          /* (height + 1) x (width + 2) */
} Nesting;

/* How far the neighbours of each place of channel `c` lie above it or below: from n->totals + row. */
INLINE void leanings(const Nesting *n, int64_t c)
{
    const int64_t row = n->width + 2;
    int16_t *restrict vertical = n->totals, *restrict total = n->totals + row;
    const int16_t *at = n->near + (c * (n->height + 2) + 1) * row;
    for (int64_t y = 0; y < n->height; y++, at += row, total += row) {
        for (int64_t x = 0; x < row; x++) vertical[x] = (int16_t)(at[x - row] + at[x + row]);
        for (int64_t x = 1; x <= n->width; x++)
            total[x] = (int16_t)(2 * (vertical[x] + at[x - 1] + at[x + 1]) + vertical[x - 1] +
                                 vertical[x + 1] - 12 * at[x]);
    }
}

INLINE uint32_t finer_table(const Nesting *n, uint32_t first, int32_t own, int32_t total)
{
    int32_t kind = own / 2;
    kind = kind < -n->kinds ? -n->kinds : kind > n->kinds ? n->kinds : kind;
    total = total < -n->furthest ? -n->furthest : total > n->furthest ? n->furthest : total;
    return first + (uint32_t)((kind + n->kinds) * n->leaning_kinds + n->leanings[total + n->furthest]);
}

INLINE uint32_t coarsest_table(uint32_t first, const int16_t *at, int64_t row)
{
    const int32_t w = at[-1], e = at[1], n = at[-row], s = at[row];
    int32_t total = w + e + n + s;
    int32_t size = (w < 0 ? -w : w) + (e < 0 ? -e : e) + (n < 0 ? -n : n) + (s < 0 ? -s : s);
    total = total < -MOST_SUM ? -MOST_SUM : total > MOST_SUM ? MOST_SUM : total;
    size = size > MOST_SIZE ? MOST_SIZE : size;
    return first + (uint32_t)(size * (2 * MOST_SUM + 1) + total + MOST_SUM);
}

/* A chunk, by what each symbol is: `coarse` is twice its coarser bin (NULL in the first layer), `fine`
 * its bin, `entry` what is coded of it, 256 of each. */
WIDE static void chunk_intervals(const Tables *tables, const Nesting *n, const int16_t *coarse,
                                 const int16_t *fine, const uint8_t *entry, const uint8_t *symbols,
                                 uint32_t *intervals)
{
    const int64_t row = n->width + 2, plane = n->height * n->width;
    for (int64_t c = 0; c < n->channels; c++)
        for (int64_t y = 0; y < n->height; y++) {
            int16_t *at = n->near + (c * (n->height + 2) + y + 1) * row + 1;
            const uint8_t *symbol = symbols + c * plane + y * n->width;
            if (coarse)
                for (int64_t x = 0; x < n->width; x++) at[x] = coarse[symbol[x]];
            else
                for (int64_t x = 0; x < n->width; x++) at[x] = (x + y) & 1 ? 0 : fine[symbol[x]];
        }
    for (int64_t odd = 0; odd < 2; odd++)
        for (int64_t c = 0; c < n->channels; c++) {
            const uint32_t first = n->first[odd * n->channels + c];
            const int16_t *at = n->near + (c * (n->height + 2) + 1) * row, *total = n->totals + row;
            if (coarse) leanings(n, c);
            for (int64_t y = 0; y < n->height; y++, at += row, total += row) {
                const uint8_t *symbol = symbols + c * plane + y * n->width;
                for (int64_t x = (y + odd) & 1; x < n->width; x += 2) {
                    uint32_t table = coarse ? finer_table(n, first, at[x + 1], total[x + 1])
                                     : odd  ? coarsest_table(first, at + x + 1, row)
                                            : first;
                    const uint16_t *cumulative =
                        tables->cumulative + table * (uint32_t)(tables->entries + 1) + entry[symbol[x]];
                    *intervals++ = (uint32_t)cumulative[0] << 16 | (uint32_t)(cumulative[1] - cumulative[0]);
                }
            }
            if (coarse && !odd) /* nothing of another channel is looked at */
                for (int64_t y = 0; y < n->height; y++) {
                    int16_t *at = n->near + (c * (n->height + 2) + y + 1) * row + 1;
                    const uint8_t *symbol = symbols + c * plane + y * n->width;
                    for (int64_t x = y & 1; x < n->width; x += 2) at[x] = fine[symbol[x]];
                }
        }
}

/* `out` begins with a byte that is not of the stream: the number of escapes of the other models. */
int64_t splitbed_chunk_encode(const Tables *tables, const Nesting *n, const int16_t *coarse,
                              const int16_t *fine, const uint8_t *entry, const uint8_t *symbols,
                              const Workspace *w, int32_t lanes, uint8_t *out, int64_t room)
{
    const int64_t count = n->channels * n->height * n->width;
    chunk_intervals(tables, n, coarse, fine, entry, symbols, w->intervals);
    uint8_t *end = w->words + 2 * count;
    uint8_t *first = put_all(w->intervals, count, w->states, lanes, end);
    return assembled(NULL, 0, w->states, lanes, first, end - first, out, room);
}

/* The bins of a chunk into `near`, which holds twice the coarser ones, zeros in the first layer;
 * `bins` has the bin of each entry, in the first layer, or of each entry of each coarser bin from
 * `low` on, INT16_MAX for none. */
WIDE static int64_t chunk_bins(const Tables *tables, const Nesting *n, const int16_t *bins,
                               int32_t finer, int32_t low, Reader *reader)
{
    const int64_t row = n->width + 2;
    const uint32_t last_lane = (uint32_t)reader->lanes - 1;
    uint32_t lane = 0;
    for (int64_t odd = 0; odd < 2; odd++)
        for (int64_t c = 0; c < n->channels; c++) {
            const uint32_t first = n->first[odd * n->channels + c];
            int16_t *at = n->near + (c * (n->height + 2) + 1) * row;
            const int16_t *total = n->totals + row;
            if (finer) leanings(n, c); /* before any place of this pass is refined */
            for (int64_t y = 0; y < n->height; y++, at += row, total += row)
                for (int64_t x = (y + odd) & 1; x < n->width; x += 2) {
                    int16_t *own = at + x + 1;
                    uint32_t table = finer ? finer_table(n, first, *own, total[x + 1])
                                     : odd ? coarsest_table(first, own, row)
                                           : first;
                    int32_t entry = take(reader, tables, table, lane);
                    lane = (lane + 1) & last_lane;
                    if (entry < 0) return DAMAGED;
                    int32_t found = bins[finer ? (*own / 2 - low) * tables->entries + entry : entry];
                    if (found == INT16_MAX) return DAMAGED;
                    *own = (int16_t)found;
                }
        }
    return 0;
}

int64_t splitbed_chunk_decode(const Tables *tables, const Nesting *n, const int16_t *bins,
                              int32_t finer, int32_t low, const Workspace *w, int32_t lanes,
                              const uint8_t *stream, int64_t size)
{
    Reader reader = {w->states, lanes, stream, stream + size};
    if (size < 4 * (int64_t)lanes) return DAMAGED;
    for (int32_t lane = 0; lane < lanes; lane++, reader.next += 4) {
        reader.states[lane] = word_at(reader.next) | word_at(reader.next + 2) << 16;
        if (reader.states[lane] < LOWEST) return DAMAGED;
    }
    if (chunk_bins(tables, n, bins, finer, low, &reader)) return DAMAGED;
    return used_up(&reader) ? 0 : DAMAGED;
}

/* ----------------------------------------------------------------------- tables chosen by context */

/* Where things lie in the workspace; of the place that is worked on, what is said of its channels. */
typedef struct {
    int64_t stride, row; /* elements from one place to the next, from one row to the next */
    int16_t *values, *residuals;
    int32_t *predicted, *spread;
} Field;

INLINE Field field_of(const ContextModel *m, const Workspace *w)
{
    const int64_t stride = m->channels + 1;
    return (Field){stride, stride * (m->width + 3), w->values, w->residuals, w->predicted, w->spread};
}

INLINE int64_t place(const Field *f, int64_t y, int64_t x)
{
    return (y + 2) * f->row + (x + 2) * f->stride;
}

INLINE Field in_row(const ContextModel *m, const Field *f, int64_t y)
{
    Field found = *f;
    found.predicted += y * m->channels;
    found.spread += y * m->channels;
    return found;
}

/* What the neighbours of one place say of all channels, which came with earlier wavefronts: a loop
 * that vectorises. */
INLINE void from_neighbours(const ContextModel *m, const Field *f, int64_t at)
{
    const int64_t s = f->stride, r = f->row;
    const int16_t *v = f->values + at, *e = f->residuals + at, *w = m->near;
    const int64_t c = m->channels;
    const int32_t u0 = m->scale_weights[0], u1 = m->scale_weights[1];
    for (int64_t k = 0; k < c; k++) {
        f->predicted[k] = m->bias[k] + w[k] * v[k - s] + w[c + k] * v[k - r] +
                          w[2 * c + k] * v[k - r - s] + w[3 * c + k] * v[k - r + s] +
                          w[4 * c + k] * v[k - 2 * s] + w[5 * c + k] * v[k - 2 * r];
        f->spread[k] = m->scale[k] + u0 * (e[k - s] + e[k - r]) + u1 * (e[k - r - s] + e[k - r + s]);
    }
}

/* What all channels of earlier levels say of channels `from` to `to`. */
INLINE void from_all(const ContextModel *m, const Field *f, int64_t at, int32_t from, int32_t to)
{
    const int32_t known = from < m->sources ? from : m->sources;
    const int16_t *v = f->values + at;
    for (int64_t k = from; known && k < to; k++) {
        const int16_t *w = m->dense + k * m->sources;
        int32_t sum = 0;
        for (int32_t j = 0; j < known; j++) sum += w[j] * v[j];
        f->predicted[k] += sum >> DENSE_SHIFT;
    }
}

/* Table and base of one channel at one place; its predicted value is left in `*value`. */
INLINE uint32_t chosen(const ContextModel *m, const Field *f, int64_t at, int32_t k, int32_t *base,
                       int32_t *value)
{
    const int16_t *v = f->values + at, *e = f->residuals + at;
    const int16_t *parents = m->parents + (int64_t)k * PARENTS;
    const int16_t *weights = m->parent_weights + (int64_t)k * PARENTS;
    int32_t predicted = f->predicted[k], spread = f->spread[k], around = 0;
    for (int p = 0; p < PARENTS; p++) {
        predicted += weights[p] * v[parents[p]];
        around += e[parents[p]];
    }
    const int32_t low = -m->zero * (1 << ONE), high = (m->alphabet - 1 - m->zero) * (1 << ONE);
    predicted = predicted < low ? low : predicted > high ? high : predicted;
    spread += m->scale_weights[2] * around +
              m->scale_weights[3] * ((predicted < 0 ? -predicted : predicted) >> RESIDUAL_SHIFT);
    /* Two classes an octave. */
    uint32_t clipped = (uint32_t)(spread < 0 ? 0 : spread) + 4;
    int32_t exponent = 31 - __builtin_clz(clipped);
    uint32_t mantissa = (clipped << (31 - exponent)) >> 24;
    int32_t class = 2 * exponent + (mantissa >= 181) - m->first_class;
    class = class < 0 ? 0 : class >= m->classes ? m->classes - 1 : class;
    const int32_t quarter = (1 << ONE) / PHASES;
    int32_t quarters = (predicted + quarter / 2) >> (ONE - 2); /* rounds down below zero, too */
    int32_t whole = quarters >> 2;
    *base = whole + m->zero;
    *value = predicted;
    int32_t floor = *base < FLOORS - 1 ? (*base < 0 ? 0 : *base) : FLOORS - 1;
    return (uint32_t)((class * PHASES + (quarters & 3)) * FLOORS + floor);
}

INLINE void settled(const Field *f, int64_t at, int32_t value, int32_t predicted)
{
    int32_t residual = value * (1 << ONE) - predicted;
    residual = (residual < 0 ? -residual : residual) >> RESIDUAL_SHIFT;
    f->values[at] = (int16_t)value;
    f->residuals[at] = (int16_t)(residual > RESIDUAL_MOST ? RESIDUAL_MOST : residual);
}

/* The first channel of a level. */
INLINE int32_t first_of(const ContextModel *m, int32_t level)
{
    return (int32_t)((int64_t)level * m->channels / m->levels);
}

/* Places of one wavefront x + 2 y = t: all that they need came with earlier ones. */
#define WAVEFRONTS(m) ((m)->width + 2 * ((m)->height - 1))
#define FIRST_ROW(m, t) ((t) < (m)->width ? 0 : ((t) - (m)->width + 2) / 2)
#define LAST_ROW(m, t) ((t) / 2 < (m)->height - 1 ? (t) / 2 : (m)->height - 1)

WIDE static int64_t contexts(const ContextModel *m, const Field *f, const uint8_t *symbols,
                             uint32_t *intervals, uint8_t *escapes)
{
    const int64_t plane = (int64_t)m->height * m->width;
    const int32_t entries = m->tables.entries;
    int64_t escaped = 0;
    for (int64_t t = 0; t < WAVEFRONTS(m); t++)
        for (int32_t level = 0; level < m->levels; level++) {
            const int32_t from = first_of(m, level), to = first_of(m, level + 1);
            for (int64_t y = FIRST_ROW(m, t); y <= LAST_ROW(m, t); y++) {
                const int64_t x = t - 2 * y, at = place(f, y, x);
                const uint8_t *symbol = symbols + y * m->width + x;
                const Field here = in_row(m, f, y);
                if (!level) from_neighbours(m, &here, at);
                from_all(m, &here, at, from, to);
                for (int32_t k = from; k < to; k++) {
                    int32_t base, predicted, given = symbol[k * plane];
                    uint32_t table = chosen(m, &here, at, k, &base, &predicted);
                    int32_t coded = given - base + m->window;
                    if (coded < 0 || coded > 2 * m->window) {
                        coded = entries - 1;
                        escapes[escaped++] = (uint8_t)given;
                    }
                    const uint16_t *cumulative =
                        m->tables.cumulative + table * (uint32_t)(entries + 1) + coded;
                    *intervals++ = (uint32_t)cumulative[0] << 16 | (cumulative[1] - cumulative[0]);
                    settled(f, at + k, given - m->zero, predicted);
                }
            }
        }
    return escaped;
}

int64_t splitbed_context_encode(const ContextModel *m, const Workspace *w, const uint8_t *symbols,
                                int32_t lanes, uint8_t *out, int64_t room)
{
    const int64_t count = (int64_t)m->channels * m->height * m->width;
    const Field field = field_of(m, w);
    int64_t escaped = contexts(m, &field, symbols, w->intervals, w->escapes);
    uint8_t *end = w->words + 2 * count;
    uint8_t *first = put_all(w->intervals, count, w->states, lanes, end);
    return assembled(w->escapes, escaped, w->states, lanes, first, end - first, out, room);
}

WIDE static int64_t decoded(const ContextModel *m, const Field *f, Reader *reader,
                            const uint8_t *escapes, int64_t escaped, uint8_t *symbols)
{
    const int64_t plane = (int64_t)m->height * m->width;
    uint32_t lane = 0, last_lane = (uint32_t)reader->lanes - 1;
    for (int64_t t = 0; t < WAVEFRONTS(m); t++)
        for (int32_t level = 0; level < m->levels; level++) {
            const int32_t from = first_of(m, level), to = first_of(m, level + 1);
            for (int64_t y = FIRST_ROW(m, t); y <= LAST_ROW(m, t); y++) {
                const int64_t x = t - 2 * y, at = place(f, y, x);
                uint8_t *symbol = symbols + y * m->width + x;
                const Field here = in_row(m, f, y);
                if (!level) from_neighbours(m, &here, at);
                from_all(m, &here, at, from, to);
                for (int32_t k = from; k < to; k++) {
                    int32_t base, predicted;
                    uint32_t table = chosen(m, &here, at, k, &base, &predicted);
                    int32_t coded = take(reader, &m->tables, table, lane), given;
                    lane = (lane + 1) & last_lane;
                    if (coded == m->tables.entries - 1) {
                        if (!escaped--) return DAMAGED;
                        given = *escapes++;
                    } else {
                        given = coded + base - m->window;
                    }
                    if (coded < 0 || given < 0 || given >= m->alphabet) return DAMAGED;
                    symbol[k * plane] = (uint8_t)given;
                    settled(f, at + k, given - m->zero, predicted);
                }
            }
        }
    return escaped ? DAMAGED : 0;
}

int64_t splitbed_context_decode(const ContextModel *m, const Workspace *w, const uint8_t *payload,
                                int64_t size, int32_t lanes, uint8_t *symbols)
{
    const int64_t count = (int64_t)m->channels * m->height * m->width;
    const Field field = field_of(m, w);
    const uint8_t *escapes;
    int64_t escaped;
    Reader reader = {w->states, lanes, NULL, NULL};
    if (opened(payload, size, count, &reader, &escapes, &escaped)) return DAMAGED;
    if (decoded(m, &field, &reader, escapes, escaped, symbols)) return DAMAGED;
    return used_up(&reader) ? 0 : DAMAGED;
}

/* ------------------------------------------------------------------------------- dithered rounding */

/* Whole numbers below `levels`, each row's errors handed on to the right and below: `half` of an
 * error to either. What uniform.py does by diagonals, with sums in the same order. `above` is one
 * row of memory. */
void splitbed_diffuse(const float *scaled, int64_t channels, int64_t height, int64_t width,
                      float half, int32_t levels, float *above, uint8_t *symbols)
{
    const float most = (float)(levels - 1);
    for (int64_t c = 0; c < channels; c++) {
        memset(above, 0, sizeof *above * (size_t)width);
        for (int64_t y = 0; y < height; y++) {
            float left = 0;
            for (int64_t x = 0; x < width; x++) {
                float wanted = *scaled++ + left + above[x];
                float near = (float)(int32_t)((wanted < 0 ? 0 : wanted > most ? most : wanted) + 0.5f);
                left = above[x] = (wanted - near) * half;
                *symbols++ = (uint8_t)near;
            }
        }
    }
}

/* --------------------------------------------------------------- rounding with errors handed on */

enum { BLOCK = 8, ROWS = 8 };

/* Of vectors handed to functions, all of which are inlined. */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wpsabi"
#endif

typedef float Floats __attribute__((vector_size(4 * ROWS)));
typedef int32_t Whole __attribute__((vector_size(4 * ROWS)));

typedef struct {
    int64_t channels, height, width;
    int64_t padded;              /* channels, rounded up to whole blocks */
    const float *steps;          /* channels */
    const float *passed;         /* blocks x padded x BLOCK: what each of a block passes on to each */
    const float *costs;          /* channels x levels, or NULL */
    float taps[4];               /* W, N, NW, NE */
    float most_shift, most_kept; /* in steps */
    int32_t zero, levels;
} Shaping;

INLINE Floats chosen_of(Whole mask, Floats yes, Floats no)
{
    return (Floats)((mask & (Whole)yes) | (~mask & (Whole)no));
}
INLINE Floats least(Floats a, Floats b) { return chosen_of(a < b, a, b); }
INLINE Floats most(Floats a, Floats b) { return chosen_of(a > b, a, b); }
INLINE Floats within(Floats value, float end)
{
    return most(least(value, end + (Floats){0}), -end + (Floats){0});
}

INLINE Floats rounded_down(Floats value, float last)
{
    value = most(least(value, last + (Floats){0}), (Floats){0});
    return __builtin_convertvector(__builtin_convertvector(value, Whole), Floats);
}

INLINE Floats symbols_of(const Shaping *s, int64_t k, Floats scaled, float last)
{
    if (!s->costs) return rounded_down(scaled + 0.5f, last);
    const float *cost = s->costs + k * s->levels;
    const Floats lower = rounded_down(scaled, last);
    const Floats upper = least(lower + 1, last + (Floats){0});
    Floats of_lower, of_upper;
    for (int i = 0; i < ROWS; i++) {
        of_lower[i] = cost[(int32_t)lower[i]];
        of_upper[i] = cost[(int32_t)upper[i]];
    }
    const Floats below = (scaled - lower) * (scaled - lower) + of_lower;
    const Floats above = (scaled - upper) * (scaled - upper) + of_upper;
    return chosen_of(above < below, upper, lower);
}

/* One place in each of ROWS rows, each two columns behind the row above it. */
typedef struct {
    Floats *own, *taken, *value, *error, *symbol; /* `padded` each */
} Places;

/* What rounding.py does, with the same operations in the same order: channels of one place one after
 * the other. An error goes to the channels of its block at once, and to later blocks together with
 * the others of its own. */
INLINE void shape_places(const Shaping *s, const Places *p, const float *inverse)
{
    const float zero = (float)s->zero, last = (float)(s->levels - 1);
    for (int64_t k = 0; k < s->padded; k++) p->taken[k] = (Floats){0};
    for (int64_t block = 0; block < s->channels; block += BLOCK) {
        const int64_t end = block + BLOCK < s->channels ? block + BLOCK : s->channels;
        const float *passed = s->passed + block * s->padded;
        Floats new[BLOCK] = {{0}};
        for (int64_t k = block; k < end; k++) {
            const float step = s->steps[k];
            const Floats shift = within(p->own[k] - p->taken[k], s->most_shift * step);
            const Floats scaled = (p->value[k] + shift) * inverse[k] + zero;
            const Floats symbol = symbols_of(s, k, scaled, last);
            const Floats off = (symbol - zero) * step - p->value[k];
            const Floats scale = within(off - p->own[k], s->most_kept * step) * (1.0f / 64);
            p->symbol[k] = symbol;
            p->error[k] = within(off, s->most_kept * step);
            new[k - block] = scale;
            for (int64_t j = k + 1; j < end; j++)
                p->taken[j] += scale * passed[j * BLOCK + k - block];
        }
        for (int64_t j = block + BLOCK; j < s->channels; j++) {
            Floats sum = p->taken[j];
            for (int i = 0; i < BLOCK; i++) sum += new[i] * passed[j * BLOCK + i];
            p->taken[j] = sum;
        }
    }
}

/* `values` and `symbols` are height x width x channels; `errors` is (height + 1) x (width + 2) x
 * channels, `inverse` is channels, `places` 5 x padded x ROWS, aligned to 4 x ROWS bytes. */
WIDE void splitbed_shape(const Shaping *s, const float *values, float *errors, float *inverse,
                         float *places, uint8_t *symbols)
{
    const int64_t c = s->channels, row = (s->width + 2) * c;
    Floats *at = (Floats *)places;
    const Places p = {at, at + s->padded, at + 2 * s->padded, at + 3 * s->padded, at + 4 * s->padded};
    memset(errors, 0, sizeof *errors * (size_t)((s->height + 1) * row));
    memset(places, 0, sizeof *at * 5 * (size_t)s->padded);
    for (int64_t k = 0; k < c; k++) inverse[k] = 1.0f / s->steps[k];
    for (int64_t first = 0; first < s->height; first += ROWS)
        for (int64_t step = 0; step < s->width + 2 * (ROWS - 1); step++) {
            for (int64_t i = 0; i < ROWS; i++) {
                const int64_t y = first + i, x = step - 2 * i;
                if (y >= s->height || x < 0 || x >= s->width) continue;
                const float *west = errors + (y + 1) * row + x * c;
                const float *north = west + c - row, *north_west = north - c, *north_east = north + c;
                const float *value = values + (y * s->width + x) * c;
                for (int64_t k = 0; k < c; k++) {
                    float sum = s->taps[0] * west[k];
                    sum = sum + s->taps[1] * north[k];
                    sum = sum + s->taps[2] * north_west[k];
                    sum = sum + s->taps[3] * north_east[k];
                    ((float *)(p.own + k))[i] = -sum;
                    ((float *)(p.value + k))[i] = value[k];
                }
            }
            shape_places(s, &p, inverse);
            for (int64_t i = 0; i < ROWS; i++) {
                const int64_t y = first + i, x = step - 2 * i;
                if (y >= s->height || x < 0 || x >= s->width) continue;
                float *error = errors + (y + 1) * row + (x + 1) * c;
                uint8_t *symbol = symbols + (y * s->width + x) * c;
                for (int64_t k = 0; k < c; k++) {
                    error[k] = ((const float *)(p.error + k))[i];
                    symbol[k] = (uint8_t)((const float *)(p.symbol + k))[i];
                }
            }
        }
}
