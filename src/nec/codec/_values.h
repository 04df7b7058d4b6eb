/* From symbols to values, in REAL float or double; _kernel.c includes this file twice. */

CLONES static void REALS(dequantise_row)(const int32_t *restrict symbols, const int8_t *restrict centroids, REAL step,
                                         ptrdiff_t channels, REAL *restrict out) {
    if (centroids)
        for (ptrdiff_t c = 0; c < channels; c++) out[c] = ((REAL)symbols[c] + (REAL)centroids[c] * (REAL)0.00390625) * step;
    else
        for (ptrdiff_t c = 0; c < channels; c++) out[c] = (REAL)symbols[c] * step;
}

static void REALS(dequantise)(const Py_buffer *symbols, const Py_buffer *centroids, REAL step, REAL *out) {
    const Py_ssize_t *shape = symbols->shape, *by = symbols->strides;
    for (Py_ssize_t n = 0; n < shape[0]; n++)
        for (Py_ssize_t y = 0; y < shape[1]; y++)
            for (Py_ssize_t x = 0; x < shape[2]; x++, out += shape[3]) {
                const char *from = (const char *)symbols->buf + n * by[0] + y * by[1] + x * by[2];
                const char *centres = NULL;
                if (centroids)
                    centres = (const char *)centroids->buf + n * centroids->strides[0] + y * centroids->strides[1] +
                              x * centroids->strides[2];
                REALS(dequantise_row)((const int32_t *)from, (const int8_t *)centres, step, shape[3], out);
            }
}

CLONES static void REALS(expand)(const Py_buffer *views) {
    const Py_ssize_t *shape = views[0].shape, channels = shape[3], rows = views[2].shape[1], columns = views[1].shape[2];
    const REAL *restrict average = views[0].buf, *restrict across = views[1].buf, *restrict down = views[2].buf,
               *restrict diag = views[3].buf;
    Py_ssize_t line = (shape[2] + columns) * channels; /* of the result */
    REAL *top = views[4].buf;
    for (Py_ssize_t n = 0; n < shape[0]; n++)
        for (Py_ssize_t y = 0; y < shape[1]; y++) {
            REAL *restrict upper = top, *restrict lower = y < rows ? top + line : top; /* unused there */
            top += y < rows ? 2 * line : line;
            for (Py_ssize_t x = 0; x < shape[2]; x++) {
                if (y < rows && x < columns) {
                    for (Py_ssize_t c = 0; c < channels; c++) {
                        REAL left = average[c] + across[c], right = average[c] - across[c];
                        REAL below_left = down[c] + diag[c], below_right = down[c] - diag[c];
                        upper[c] = left + below_left, upper[c + channels] = right + below_right;
                        lower[c] = left - below_left, lower[c + channels] = right - below_right;
                    }
                } else if (x < columns) {
                    for (Py_ssize_t c = 0; c < channels; c++)
                        upper[c] = average[c] + across[c], upper[c + channels] = average[c] - across[c];
                } else if (y < rows) {
                    for (Py_ssize_t c = 0; c < channels; c++)
                        upper[c] = average[c] + down[c], lower[c] = average[c] - down[c];
                } else {
                    memcpy(upper, average, sizeof(REAL) * (size_t)channels);
                }
                average += channels, upper += (x < columns ? 2 : 1) * channels, lower += (x < columns ? 2 : 1) * channels;
                if (x < columns) across += channels;
                if (y < rows) down += channels;
                if (y < rows && x < columns) diag += channels;
            }
        }
}
