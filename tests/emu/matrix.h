/*
 * Matrices of the tests of flash.cu and conv_own.cu: rows of any float type,
 * whose surroundings are watched.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 */

#ifndef WAN_EMU_MATRIX_H
#define WAN_EMU_MATRIX_H

#include <vector>

#include "../numbers.h"
#include "../test.h"
#include "mma.h"

static const uint16_t pattern = 0x7fc1;     // not a number in any type

/* Rows of 16-bit or F32 numbers, with columns between them. */
struct Matrix {
    WanType type;
    int64_t rows, cols, pitch;
    void *data;
    std::vector<double> value;              // as stored, dense

    Matrix(WanType type, int64_t rows, int64_t cols, int64_t extra,
           double scale)
        : type(type), rows(rows), cols(cols), pitch(cols + extra),
          value(rows * cols)
    {
        /* exactly as large as the view: ASan sees what reads past it */
        const int64_t n = (rows - 1) * pitch + cols;
        data = malloc(n * size());
        for (int64_t i = 0; i < n * size() / 2; i++)
            ((uint16_t *)data)[i] = pattern;
        for (int64_t i = 0; i < rows * cols && scale; i++)
            set(i / cols, i % cols, random_normal() * scale);
    }
    ~Matrix() { free(data); }
    Matrix(const Matrix &) = delete;
    int size() const { return wan_type_size(type); }
    double get(int64_t r, int64_t c) const
    {
        return typed_get(data, type, r * pitch + c);
    }
    void set(int64_t r, int64_t c, double v)
    {
        typed_set(data, type, r * pitch + c, (float)v);
        value[r * cols + c] = get(r, c);
    }
    bool beside_untouched() const
    {
        for (int64_t r = 0; r + 1 < rows; r++)
            for (int64_t i = (r * pitch + cols) * size() / 2;
                 i < (r + 1) * pitch * size() / 2; i++)
                if (((uint16_t *)data)[i] != pattern)
                    return false;
        return true;
    }
};

#endif /* WAN_EMU_MATRIX_H */
