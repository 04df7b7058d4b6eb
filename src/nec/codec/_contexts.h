/* Contexts of docs/format.md, section 4. _kernel.c includes this file twice, with INT int32_t or int64_t and NAME(x).

   int32_t serves where |symbol| < 2^13 (of a pyramid 2^12) and b0 <= 2^29: all sums then stay below 2^31, where those of
   int64_t stay below 2^45 for symbols of 24 bits. `read_call` checks b0; grids hold no larger symbols than a frame's
   width, or than an encoder found. Every index is clamped all the same, so no access could go astray. */

/* 4 floor(log2 m) + the two bits after the leading one, for 1 <= m < 2^52 (2^31 for int32_t). */
static INLINE INT NAME(scale_index)(INT m) {
#if NARROW
    float real = (float)(m & ~(m >> 24)); /* the bit that would round up is 0 then */
    int32_t bits;
    memcpy(&bits, &real, 4);
    return (bits >> 21) - (127 << 2);
#else
    double real = (double)m;
    int64_t bits;
    memcpy(&bits, &real, 8);
    return (bits >> 50) - (1023 << 2);
#endif
}

static INLINE INT NAME(size)(int32_t value) { return value < 0 ? -(INT)value : (INT)value; }

static INLINE INT NAME(larger)(INT a, INT b) { return a > b ? a : b; }

/* Parameters of `count` channels from `channel` on, b0 then the weights, repeated `times` times. */
static void NAME(gather)(INT *out, const Level *level, ptrdiff_t kind, ptrdiff_t channel, ptrdiff_t count,
                         ptrdiff_t times, const INT *units) {
    ptrdiff_t lanes = count * times;
    for (ptrdiff_t row = 0; row <= level->weights_count; row++) {
        const int64_t *from = row == 0 ? level->b0 : level->weights + (row - 1) * level->classes * level->channels;
        INT unit = row == 0 || units == NULL ? 1 : units[row - 1];
        from += kind * level->channels + channel;
        for (ptrdiff_t c = 0; c < count; c++) out[row * lanes + c] = (INT)from[c] * unit;
        for (ptrdiff_t i = count; i < lanes; i++) out[row * lanes + i] = out[row * lanes + i - count];
    }
}

/* ---- version 1: from the neighbours of a token, one image's channels at a time */

typedef struct {
    const int32_t *near[4], *far[8]; /* a row of zeros where there is no neighbour */
    INT near_unit, far_unit;
} NAME(Around);

/* `far_count` is a constant where this is inlined: 4 or 8. Returns the largest index. */
static INLINE INT NAME(expect)(const NAME(Around) *a, int far_count, const INT *restrict at, ptrdiff_t channels,
                               INT low, INT *restrict index, int32_t *restrict fold, INT *restrict fraction) {
    const int32_t *n0 = a->near[0], *n1 = a->near[1], *n2 = a->near[2], *n3 = a->near[3];
    const int32_t *f0 = a->far[0], *f1 = a->far[1], *f2 = a->far[2], *f3 = a->far[3];
    const int32_t *f4 = a->far[4], *f5 = a->far[5], *f6 = a->far[6], *f7 = a->far[7];
    const INT *b0 = at, *wn = at + channels, *wf = wn + channels, *an = wf + channels, *af = an + channels,
              *ap = af + channels;
    INT near_unit = a->near_unit, far_unit = a->far_unit, largest = 0;
    for (ptrdiff_t c = 0; c < channels; c++) {
        INT near = (INT)n0[c] + n1[c] + n2[c] + n3[c];
        INT near_size = NAME(size)(n0[c]) + NAME(size)(n1[c]) + NAME(size)(n2[c]) + NAME(size)(n3[c]);
        INT far = (INT)f0[c] + f1[c] + f2[c] + f3[c];
        INT far_size = NAME(size)(f0[c]) + NAME(size)(f1[c]) + NAME(size)(f2[c]) + NAME(size)(f3[c]);
        if (far_count == 8) {
            far += (INT)f4[c] + f5[c] + f6[c] + f7[c];
            far_size += NAME(size)(f4[c]) + NAME(size)(f5[c]) + NAME(size)(f6[c]) + NAME(size)(f7[c]);
        }
        INT prediction = wn[c] * (near * near_unit) + wf[c] * (far * far_unit);
        INT magnitude = an[c] * (near_size * near_unit) + af[c] * (far_size * far_unit) + b0[c] +
                        ap[c] * ((prediction < 0 ? -prediction : prediction) >> 7);
        INT base = (prediction + 4096) >> 13, rest = prediction - base * 8192;
        INT found = NAME(scale_index)(NAME(larger)(magnitude, 1)) - low;
        found = NAME(larger)(found, 0);
        largest = NAME(larger)(largest, found);
        index[c] = found;
        fold[c] = (int32_t)(base * 2) | (rest < 0); /* |base| < 2^26 */
        fraction[c] = (rest < 0 ? -rest : rest) >> 6; /* 0..64; as wide as the rest, for the vector lanes */
    }
    return largest;
}

/* Tables of a row of indices; their raw low bits too, where an index passes the last one. */
static INLINE void NAME(choose)(const Model *m, Block *block, ptrdiff_t at, const INT *restrict index, INT largest,
                                const INT *restrict fraction, ptrdiff_t lanes) {
    uint16_t *restrict table = block->table + at;
    INT top = m->top;
    if (largest > top) {
        uint8_t *shift = block->shift + at; /* allocated, and zero, for the whole block */
        block->shifted = 1;
        for (ptrdiff_t c = 0; c < lanes; c++) {
            INT over = index[c] - top + 3, left = over > 0 ? over >> 2 : 0;
            INT rest = index[c] - 4 * left;
            shift[c] = (uint8_t)left;
            table[c] = m->table_of[rest * m->offsets + m->offset_of[fraction ? fraction[c] : 0]];
        }
    } else if (fraction) {
        for (ptrdiff_t c = 0; c < lanes; c++)
            table[c] = m->table_of[index[c] * m->offsets + m->offset_of[fraction[c]]];
    } else if (m->offsets == 1) { /* then table_of is the identity */
        for (ptrdiff_t c = 0; c < lanes; c++) table[c] = (uint16_t)index[c];
    } else {
        for (ptrdiff_t c = 0; c < lanes; c++) table[c] = m->table_of[index[c] * m->offsets + m->offset_of[0]];
    }
}

CLONES static int NAME(from_neighbours)(const Model *m, const Level *level, const Grid *g, const Step *s, Block *block) {
    ptrdiff_t live = s->live, images = s->last - s->first, half = s->step / 2;
    INT *at = malloc(sizeof(INT) * (size_t)live * 8);
    int32_t *zeros = calloc((size_t)live, sizeof(int32_t));
    if (!at || !zeros) {
        free(at), free(zeros);
        return NO_MEMORY;
    }
    INT *index = at + 6 * live, *fraction = index + live;
    NAME(gather)(at, level, s->kind, 0, live, 1, NULL);
    const Offsets *near = &NEAR[s->shape], *far = &FAR[s->shape];
    ptrdiff_t place = 0;
    for (ptrdiff_t row = s->row; row < g->rows; row += s->step)
        for (ptrdiff_t column = s->column; column < g->columns; column += s->step) {
            NAME(Around) around;
            const int32_t **sets[2] = {around.near, around.far};
            const Offsets *offsets[2] = {near, far};
            int counts[2] = {0, 0};
            for (int set = 0; set < 2; set++) {
                for (int i = 0; i < offsets[set]->count; i++) {
                    ptrdiff_t y = row + offsets[set]->at[i][0] * half, x = column + offsets[set]->at[i][1] * half;
                    /* Proven here: neighbours lie in the grid, and their images and channels as the step's do. */
                    if (y < 0 || y >= g->rows || x < 0 || x >= g->columns) continue;
                    sets[set][counts[set]++] = g->data + ((y * g->columns + x) * g->images + s->first) * g->channels;
                }
                for (int i = counts[set]; i < (set ? 8 : 4); i++) sets[set][i] = zeros;
            }
            around.near_unit = RECIPROCAL[counts[0]], around.far_unit = RECIPROCAL[counts[1]];
            for (ptrdiff_t image = 0; image < images; image++, place += live) {
                INT largest = far->count == 8
                    ? NAME(expect)(&around, 8, at, live, m->low, index, block->fold + place, fraction)
                    : NAME(expect)(&around, 4, at, live, m->low, index, block->fold + place, fraction);
                NAME(choose)(m, block, place, index, largest, fraction, live);
                for (int set = 0; set < 2; set++)
                    for (int i = 0; i < counts[set]; i++) sets[set][i] += g->channels;
            }
        }
    free(at), free(zeros);
    return 0;
}

/* ---- version 2: from the relatives of a detail, lanes of several images' channels at a time */

/* A strip of a wave: images [first, first + images), channels [channel, channel + channels), rows [top, bottom). */
typedef struct {
    ptrdiff_t first, images, channel, channels, top, bottom;
} NAME(Strip);

/* Sums (bottom - top, columns, lanes) of the sizes of some kinds of details at a spacing; beyond a band's last row or
   column its last ones count, and bands without any count nothing. Rows are clamped to 0..rows - 1 first. */
static INLINE void NAME(add_bands)(const Grid *g, const NAME(Strip) *strip, ptrdiff_t step, const Place *bands, int count,
                                   ptrdiff_t top, ptrdiff_t bottom, ptrdiff_t rows, ptrdiff_t columns, INT *out) {
    ptrdiff_t lanes = strip->images * strip->channels, half = step / 2;
    memset(out, 0, sizeof(INT) * (size_t)((bottom - top) * columns * lanes));
    for (int band = 0; band < count; band++) {
        ptrdiff_t y0 = bands[band].y * half, x0 = bands[band].x * half;
        if (y0 >= g->rows || x0 >= g->columns) continue;
        /* Proven here: y0 + y step <= g->rows - 1 for y <= last_y, and likewise for columns. */
        ptrdiff_t last_y = (g->rows - 1 - y0) / step, last_x = (g->columns - 1 - x0) / step;
        INT *restrict total = out;
        for (ptrdiff_t row = top; row < bottom; row++) {
            ptrdiff_t y = row < 0 ? 0 : row >= rows ? rows - 1 : row;
            y = y0 + (y < last_y ? y : last_y) * step;
            for (ptrdiff_t column = 0; column < columns; column++) {
                ptrdiff_t x = x0 + (column < last_x ? column : last_x) * step;
                const int32_t *restrict from =
                    g->data + ((y * g->columns + x) * g->images + strip->first) * g->channels + strip->channel;
                if (strip->channels == g->channels) {
                    for (ptrdiff_t i = 0; i < lanes; i++) total[i] += NAME(size)(from[i]);
                    total += lanes;
                } else {
                    for (ptrdiff_t image = 0; image < strip->images; image++, from += g->channels) {
                        for (ptrdiff_t c = 0; c < strip->channels; c++) total[c] += NAME(size)(from[c]);
                        total += strip->channels;
                    }
                }
            }
        }
    }
}

/* Each row's cells times (1, 2, 1), the cells beyond its ends being those at its ends. */
static INLINE void NAME(blur_rows)(const INT *restrict from, INT *restrict out, ptrdiff_t rows, ptrdiff_t columns,
                                   ptrdiff_t lanes) {
    for (ptrdiff_t row = 0; row < rows; row++)
        for (ptrdiff_t column = 0; column < columns; column++) {
            const INT *middle = from + (row * columns + column) * lanes;
            const INT *before = column > 0 ? middle - lanes : middle;
            const INT *after = column < columns - 1 ? middle + lanes : middle;
            INT *restrict total = out + (row * columns + column) * lanes;
            for (ptrdiff_t i = 0; i < lanes; i++) total[i] = before[i] + after[i] + 2 * middle[i];
        }
}

/* What the cells [top, bottom) of a strip know of the spacing above: b0, and the parents by their weights. */
static INLINE void NAME(know_parents)(const Grid *g, const Step *s, const NAME(Strip) *strip, ptrdiff_t top,
                                      ptrdiff_t bottom, ptrdiff_t rows, ptrdiff_t columns, const INT *restrict at,
                                      INT *planes, ptrdiff_t plane, INT *known) {
    ptrdiff_t lanes = strip->images * strip->channels, row = columns * lanes;
    const INT *b0 = at, *a1 = at + lanes, *a2 = a1 + lanes;
    if (s->step >= g->rows && s->step >= g->columns) { /* the first spacing after the root */
        for (ptrdiff_t image = 0; image < strip->images; image++) {
            const int32_t *root = g->data + (strip->first + image) * g->channels + strip->channel;
            for (ptrdiff_t c = 0; c < strip->channels; c++) {
                ptrdiff_t i = image * strip->channels + c;
                known[i] = b0[i] + a1[i] * NAME(size)(root[c]);
            }
        }
        return;
    }
    INT *same = planes, *above = planes + plane, *blurred = above + plane;
    NAME(add_bands)(g, strip, 2 * s->step, BANDS + s->band, 1, top, bottom, rows, columns, same);
    NAME(add_bands)(g, strip, 2 * s->step, BANDS, 3, top - 1, bottom + 1, rows, columns, above);
    NAME(blur_rows)(above, blurred, bottom - top + 2, columns, lanes);
    for (ptrdiff_t y = 0; y < bottom - top; y++)
        for (ptrdiff_t x = 0; x < columns; x++) {
            ptrdiff_t cell = y * row + x * lanes;
            const INT *upper = blurred + cell, *middle = upper + row, *lower = middle + row;
            INT *restrict total = known + cell;
            for (ptrdiff_t i = 0; i < lanes; i++)
                total[i] = b0[i] + a1[i] * same[cell + i] + a2[i] * (upper[i] + lower[i] + 2 * middle[i]);
        }
}

static INLINE void NAME(strip)(const Model *m, const Grid *g, const Step *s, const NAME(Strip) *strip, ptrdiff_t rows,
                               ptrdiff_t columns, const INT *restrict at, INT *planes, ptrdiff_t plane, Block *block) {
    ptrdiff_t lanes = strip->images * strip->channels, row = columns * lanes, height = strip->bottom - strip->top;
    ptrdiff_t images = s->last - s->first, half_columns = (columns + 1) / 2;
    ptrdiff_t top = strip->top / 2, bottom = (strip->bottom + 1) / 2;
    INT *known = planes, *beside = planes + plane, *blurred = beside + plane, *index = blurred + plane;
    INT *scratch = index + lanes;
    NAME(know_parents)(g, s, strip, top, bottom, (rows + 1) / 2, half_columns, at, scratch, plane, known);
    if (s->band) {
        NAME(add_bands)(g, strip, s->step, BANDS, s->band, strip->top - 1, strip->bottom + 1, rows, columns, beside);
        NAME(blur_rows)(beside, blurred, height + 2, columns, lanes);
    }
    const INT *a3 = at + 3 * lanes, *a4 = a3 + lanes;
    INT low = m->low;
    for (ptrdiff_t y = 0; y < height; y++)
        for (ptrdiff_t x = 0; x < columns; x++) {
            const INT *restrict start = known + ((y + strip->top) / 2 - top) * half_columns * lanes + x / 2 * lanes;
            const INT *upper = blurred + y * row + x * lanes, *middle = upper + row, *lower = middle + row;
            const INT *own = beside + (y + 1) * row + x * lanes;
            INT *restrict found = index;
            INT largest = 0;
            for (ptrdiff_t i = 0; i < lanes; i++) {
                INT magnitude = start[i];
                if (s->band) magnitude += a3[i] * own[i] + a4[i] * (upper[i] + lower[i] + 2 * middle[i]);
                INT place = NAME(scale_index)(NAME(larger)(magnitude, 1)) - low;
                place = NAME(larger)(place, 0);
                largest = NAME(larger)(largest, place);
                found[i] = place;
            }
            ptrdiff_t place = ((y + strip->top) * columns + x) * images + strip->first - s->first;
            if (strip->channels == s->live)
                NAME(choose)(m, block, place * s->live, index, largest, NULL, lanes);
            else /* one image */
                NAME(choose)(m, block, place * s->live + strip->channel, index, largest, NULL, lanes);
        }
}

CLONES static int NAME(from_relatives)(const Model *m, const Level *level, const Grid *g, const Step *s, Block *block) {
    static const INT units[4] = {64, 4, 64, 4};
    ptrdiff_t rows = (g->rows - s->row + s->step - 1) / s->step;
    ptrdiff_t columns = (g->columns - s->column + s->step - 1) / s->step;
    ptrdiff_t images = s->last - s->first, tokens = rows * columns;
    /* As many images at once as keep the planes in the nearer caches; of large grids strips of some channels. */
    ptrdiff_t together = PLANE / tokens / s->live, channels = s->live, height = rows;
    if (together > images) together = images;
    if (together < 1) {
        together = 1;
        if (channels > 64 && PLANE / tokens < channels) channels = PLANE / tokens > 64 ? PLANE / tokens : 64;
        height = PLANE / (columns * channels) / 2 * 2;
        height = height < 2 ? 2 : height > rows ? rows : height;
    }
    ptrdiff_t lanes = together * channels, plane = (height + 3) * (columns + 1) * lanes;
    INT *at = malloc(sizeof(INT) * (size_t)(5 * lanes + 6 * plane + lanes));
    if (!at) return NO_MEMORY;
    NAME(Strip) strip;
    for (strip.channel = 0; strip.channel < s->live; strip.channel += channels) {
        strip.channels = s->live - strip.channel < channels ? s->live - strip.channel : channels;
        ptrdiff_t gathered = 0;
        for (strip.first = s->first; strip.first < s->last; strip.first += together) {
            strip.images = s->last - strip.first < together ? s->last - strip.first : together;
            if (strip.images != gathered)
                NAME(gather)(at, level, s->kind, strip.channel, strip.channels, strip.images, units);
            gathered = strip.images;
            for (strip.top = 0; strip.top < rows; strip.top += height) {
                strip.bottom = strip.top + height < rows ? strip.top + height : rows;
                NAME(strip)(m, g, s, &strip, rows, columns, at, at + 5 * lanes, plane, block);
            }
        }
    }
    free(at);
    return 0;
}
