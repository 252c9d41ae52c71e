/*
 * The primitives of wan/cuda/mma.h on the host, written from the definitions
 * of the PTX instructions and from nothing in the kernels.
 *
 * This file is part of libwan; see the licence in wan/wan.h.
 *
 * Warp instructions meet at one point, as shuffles do: a lane that does not
 * come, or comes to another instruction, is found. Asynchronous copies happen
 * when emu_copies says: at once, so that a buffer that is still read shows; at
 * the wait, so that data used before it shows; or at either, by chance. A copy
 * that is never committed never arrives.
 */

#ifndef WAN_EMU_MMA_H
#define WAN_EMU_MMA_H

#include <vector>

#include "emu.h"

/* --------------------------------------------------------- in one warp */

/* What a lane shows to its warp in an instruction; two, so that a fast lane
 * does not overwrite what a slow one has yet to read. */
struct EmuFragment {
    uint32_t a[4], b[2];
    const void *row;
};
inline EmuFragment emu_fragment[32][2][32];
inline int emu_fragment_turn[32][32];
inline int64_t emu_mma_count;

/* Shows f to the warp; returns what all 32 lanes showed. */
static inline const EmuFragment *emu_show(const char *what,
                                          const EmuFragment &f)
{
    const unsigned warp = threadIdx.x / 32, lane = emu_lane();
    const int turn = emu_fragment_turn[warp][lane] ^= 1;

    emu_fragment[warp][turn][lane] = f;
    emu_shuffle(what, 0xffffffffu, 0, lane);
    return emu_fragment[warp][turn];
}

/* Element e, 0 or 1, of a word of two. */
template<typename T> static inline float emu_half_word(uint32_t w, int e)
{
    T v;

    v.bits = (uint16_t)(e ? w >> 16 : w);
    return float(v);
}

/* PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point type":
 * a_i: row = group (i < 2 or 4 <= i < 6) else group + 8, column =
 *      thread * 2 + i % 2, + 8 for i >= 4
 * b_i: row = thread * 2 + i % 2, + 8 for i >= 2; column = group
 * c_i: row = group, + 8 for i >= 2; column = thread * 2 + i % 2 */
template<typename T>
static inline void mma_16816(float (&d)[4], const uint32_t (&a)[4],
                             uint32_t b0, uint32_t b1)
{
    const EmuFragment mine = { { a[0], a[1], a[2], a[3] }, { b0, b1 }, NULL };
    const EmuFragment *const all = emu_show("mma", mine);
    const int group = (int)emu_lane() / 4, thread = (int)emu_lane() % 4;

    emu_mma_count++;
    for (int i = 0; i < 4; i++) {
        const int row = group + (i >= 2 ? 8 : 0), column = thread * 2 + i % 2;

        for (int k = 0; k < 16; k++) {
            const int owner = k % 8 / 2;    // thread in group that has it
            const uint32_t wa = all[row % 8 * 4 + owner]
                                    .a[(row >= 8) + (k >= 8) * 2];
            const uint32_t wb = all[column * 4 + owner].b[k >= 8];

            d[i] += emu_half_word<T>(wa, k % 2) * emu_half_word<T>(wb, k % 2);
        }
    }
}

static inline uint32_t emu_element(const void *row, int i)
{
    uint16_t v;

    memcpy(&v, (const char *)row + 2 * i, 2);
    return v;
}

static inline void ldmatrix_x4(uint32_t (&r)[4], const void *row)
{
    WAN_CHECK_ALIGNED(row, 16);
    const EmuFragment *const all = emu_show("ldmatrix", { {}, {}, row });
    const int lane = (int)emu_lane();

    for (int i = 0; i < 4; i++) {
        const void *const from = all[8 * i + lane / 4].row;

        r[i] = emu_element(from, lane % 4 * 2) |
               emu_element(from, lane % 4 * 2 + 1) << 16;
    }
}

static inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void *row)
{
    WAN_CHECK_ALIGNED(row, 16);
    const EmuFragment *const all = emu_show("ldmatrix.trans", { {}, {}, row });
    const int lane = (int)emu_lane();

    for (int i = 0; i < 4; i++)
        r[i] = emu_element(all[8 * i + lane % 4 * 2].row, lane / 4) |
               emu_element(all[8 * i + lane % 4 * 2 + 1].row, lane / 4) << 16;
}

#ifndef WAN_EMU_HAS_ANY
static inline bool __any_sync(uint32_t mask, bool v)
{
    uint32_t any = v;

    for (int lanes = 16; lanes; lanes /= 2)
        any |= __shfl_xor_sync(mask, any, lanes);
    return any;
}
#endif

/* ------------------------------------------------- asynchronous copies */

enum EmuCopies { EMU_COPIES_LATE, EMU_COPIES_EARLY, EMU_COPIES_RANDOM };
inline EmuCopies emu_copies;

struct EmuCopy { void *to; const void *from; bool valid; int64_t group; };
struct EmuCopyThread {
    std::vector<EmuCopy> waiting;
    int64_t groups = 0;                     // committed
    EmuIndex block = {};
};
inline EmuCopyThread emu_copy_thread[1024];
inline uint32_t emu_copy_random = 1;

static inline void emu_copy(const EmuCopy &c)
{
    if (c.valid)
        memcpy(c.to, c.from, 16);
    else
        memset(c.to, 0, 16);
}

static inline void cp_async_16(void *shared, const void *src, bool valid)
{
    EmuCopyThread &t = emu_copy_thread[threadIdx.x];
    const EmuCopy c = { shared, src, valid, t.groups };

    if (!t.waiting.empty() && memcmp(&t.block, &blockIdx, sizeof(t.block)))
        emu_fatal("block (%u,%u,%u) has ended with copies under way",
                  t.block.x, t.block.y, t.block.z);
    t.block = blockIdx;
    WAN_CHECK_ALIGNED(shared, 16);
    WAN_CHECK_ALIGNED(src, 16);
    emu_copy_random = emu_copy_random * 1664525u + 1013904223u;
    if (emu_copies == EMU_COPIES_EARLY ||
        (emu_copies == EMU_COPIES_RANDOM && emu_copy_random >> 31))
        emu_copy(c);
    else
        t.waiting.push_back(c);
}

static inline void cp_async_commit()
{
    emu_copy_thread[threadIdx.x].groups++;
}

template<int N> static inline void cp_async_wait()
{
    EmuCopyThread &t = emu_copy_thread[threadIdx.x];
    size_t kept = 0;

    for (const EmuCopy &c : t.waiting)
        if (c.group < t.groups - N)
            emu_copy(c);
        else
            t.waiting[kept++] = c;
    t.waiting.resize(kept);
}

/* After a launch: copies that nobody waited for; there must be none. */
static inline int64_t emu_copies_left()
{
    int64_t n = 0;

    for (EmuCopyThread &t : emu_copy_thread) {
        n += (int64_t)t.waiting.size();
        t.waiting.clear();
        t.groups = 0;
    }
    return n;
}

static inline float exp2_fast(float x) { return exp2f(x); }

#endif /* WAN_EMU_MMA_H */
