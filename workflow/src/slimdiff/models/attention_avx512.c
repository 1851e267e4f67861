// softmax(scale q kT) v of several heads in bfloat16, forwards and backwards, for CPUs with AVX-512 BF16.
//
// Online softmax and recomputation as in FlashAttention-2 (Dao 2023), turned by ninety degrees: sixteen queries (or, for
// the gradients of keys and values, sixteen keys) lie in the lanes of a register, and the other side is broadcast pair
// by pair. So no sum ever goes across lanes, and every multiplication is a vdpbf16ps with a broadcast operand in memory.
//
// Tensors are contiguous (heads, n, d), d in {16, 32, 64}, n a multiple of BLOCK. Products are summed in float32;
// probabilities and their gradients are rounded to bfloat16 before they are multiplied, as torch's own kernel does.

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#define LANES 16
#define BLOCK 128  // of the side that is not in the lanes: its scores stay in the first-level cache
#define TILE 16    // columns that are summed at once, one register each
#define WIDEST 64
#define ALWAYS static inline __attribute__((always_inline))

typedef uint16_t bf16;

// Two bfloat16 of a tensor, broadcast to all lanes.
ALWAYS __m512bh both(const uint32_t *pair) { return (__m512bh)_mm512_set1_epi32((int)*pair); }

// 2^x to 1e-5, far finer than the bfloat16 that it becomes. 2^-126 below: denormals are slow.
ALWAYS __m512 exp2_of(__m512 x) {
  x = _mm512_max_ps(x, _mm512_set1_ps(-126.0f));
  const __m512 whole = _mm512_roundscale_ps(x, 0), rest = _mm512_sub_ps(x, whole);
  __m512 power = _mm512_set1_ps(0.0096181291f);  // Taylor's: the rest is at most a half
  power = _mm512_fmadd_ps(power, rest, _mm512_set1_ps(0.0555041087f));
  power = _mm512_fmadd_ps(power, rest, _mm512_set1_ps(0.2402265070f));
  power = _mm512_fmadd_ps(power, rest, _mm512_set1_ps(0.6931471806f));
  power = _mm512_fmadd_ps(power, rest, _mm512_set1_ps(1.0f));
  return _mm512_scalef_ps(power, whole);
}

// In every lane the pair (first, second), rounded to the nearest.
ALWAYS __m512bh pairs_of(__m512 first, __m512 second) {
  const __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(first));
  const __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(second));
  return (__m512bh)_mm512_or_si512(low, _mm512_slli_epi32(high, 16));
}

// across[j / 2][c] is the pair (x[j][c], x[j + 1][c]).
static void pair_rows(const bf16 *x, int n, int d, uint32_t *across) {
  for (int j = 0; j < n; j += 2)
    for (int c = 0; c < d; c++) across[j / 2 * d + c] = x[j * d + c] | (uint32_t)x[(j + 1) * d + c] << 16;
}

// lanes[c] holds the pair c of each of sixteen rows.
ALWAYS void load_lanes(const bf16 *rows, const int d, __m512bh *lanes) {
  const __m512i step = _mm512_mullo_epi32(_mm512_set1_epi32(d / 2), _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
  for (int c = 0; c < d / 2; c++) lanes[c] = (__m512bh)_mm512_i32gather_epi32(step, (const uint32_t *)rows + c, 4);
}

// The two inner loops. Functions of their own for each width, which is then a constant: unrolled, and with all registers
// to themselves. Inlined into one another they take nearly twice the time.
#define INNER_LOOPS(D)                                                                                          \
  /* scores[j] = rows[j] . lanes, for BLOCK rows */                                                             \
  static __attribute__((noinline)) void multiply_##D(const __m512bh *lanes, const bf16 *rows, __m512 *scores) { \
    for (int j = 0; j < BLOCK; j += 4) {                                                                        \
      const uint32_t *row = (const uint32_t *)(rows + j * D);                                                   \
      __m512 s0 = _mm512_setzero_ps(), s1 = s0, s2 = s0, s3 = s0; /* four: each sum waits for its last */       \
      _Pragma("GCC unroll 32") for (int c = 0; c < D / 2; c++) {                                                \
        s0 = _mm512_dpbf16_ps(s0, lanes[c], both(row + c));                                                     \
        s1 = _mm512_dpbf16_ps(s1, lanes[c], both(row + D / 2 + c));                                             \
        s2 = _mm512_dpbf16_ps(s2, lanes[c], both(row + 2 * (D / 2) + c));                                       \
        s3 = _mm512_dpbf16_ps(s3, lanes[c], both(row + 3 * (D / 2) + c));                                       \
      }                                                                                                         \
      scores[j] = s0, scores[j + 1] = s1, scores[j + 2] = s2, scores[j + 3] = s3;                               \
    }                                                                                                           \
  }                                                                                                             \
  /* sums[c] += weights . column c of BLOCK rows */                                                             \
  static __attribute__((noinline)) void accumulate_##D(const __m512bh *weights, const uint32_t *across, __m512 *sums) { \
    for (int tile = 0; tile < D; tile += TILE) {                                                                \
      __m512 own[TILE];                                                                                         \
      _Pragma("GCC unroll 16") for (int c = 0; c < TILE; c++) own[c] = sums[tile + c];                          \
      for (int j = 0; j < BLOCK / 2; j++) {                                                                     \
        const uint32_t *row = across + j * D + tile;                                                            \
        _Pragma("GCC unroll 16") for (int c = 0; c < TILE; c++)                                                 \
            own[c] = _mm512_dpbf16_ps(own[c], weights[j], both(row + c));                                       \
      }                                                                                                         \
      _Pragma("GCC unroll 16") for (int c = 0; c < TILE; c++) sums[tile + c] = own[c];                          \
    }                                                                                                           \
  }

INNER_LOOPS(16)
INNER_LOOPS(32)
INNER_LOOPS(64)

// `call` for the width `d`.
#define BY_WIDTH(call) (d == 16 ? call(16) : d == 32 ? call(32) : call(64))

// Sixteen rows from sums whose lanes they are.
ALWAYS void store_lanes(const __m512 *sums, __m512 factor, const int d, bf16 *rows) {
  bf16 column[LANES] __attribute__((aligned(32)));
  for (int c = 0; c < d; c++) {
    _mm256_store_si256((__m256i *)column, (__m256i)_mm512_cvtneps_pbh(_mm512_mul_ps(sums[c], factor)));
    for (int lane = 0; lane < LANES; lane++) rows[lane * d + c] = column[lane];
  }
}

ALWAYS void clear(__m512 *sums, const int d) {
  for (int c = 0; c < d; c++) sums[c] = _mm512_setzero_ps();
}

ALWAYS void multiply(const __m512bh *lanes, const bf16 *rows, const int d, __m512 *scores) {
#define MULTIPLY(D) multiply_##D(lanes, rows, scores)
  BY_WIDTH(MULTIPLY);
}

ALWAYS void accumulate(const __m512bh *weights, const uint32_t *across, const int d, __m512 *sums) {
#define ACCUMULATE(D) accumulate_##D(weights, across, sums)
  BY_WIDTH(ACCUMULATE);
}

ALWAYS void forward_head(const bf16 *q, const bf16 *k, const bf16 *v, bf16 *out, float *lse, int n, const int d,
                         float scale, uint32_t *v_across) {
  const __m512 units = _mm512_set1_ps(scale * (float)M_LOG2E);
  __m512bh queries[WIDEST / 2], weights[BLOCK / 2];
  __m512 sums[WIDEST], scores[BLOCK];
  pair_rows(v, n, d, v_across);
  for (int i = 0; i < n; i += LANES) {
    __m512 most = _mm512_set1_ps(-INFINITY), total = _mm512_setzero_ps();
    load_lanes(q + i * d, d, queries);
    clear(sums, d);
    for (int j = 0; j < n; j += BLOCK) {
      multiply(queries, k + j * d, d, scores);
      __m512 top = scores[0], other = scores[1];
      for (int b = 2; b < BLOCK; b += 2) top = _mm512_max_ps(top, scores[b]), other = _mm512_max_ps(other, scores[b + 1]);
      top = _mm512_max_ps(most, _mm512_mul_ps(_mm512_max_ps(top, other), units));
      const __m512 rescale = exp2_of(_mm512_sub_ps(most, top));
      most = top;
      __m512 even = _mm512_setzero_ps(), odd = even;
      for (int b = 0; b < BLOCK; b += 2) {
        const __m512 first = exp2_of(_mm512_fmsub_ps(scores[b], units, most));
        const __m512 second = exp2_of(_mm512_fmsub_ps(scores[b + 1], units, most));
        even = _mm512_add_ps(even, first), odd = _mm512_add_ps(odd, second);
        weights[b / 2] = pairs_of(first, second);
      }
      total = _mm512_fmadd_ps(total, rescale, _mm512_add_ps(even, odd));
      for (int c = 0; c < d; c++) sums[c] = _mm512_mul_ps(sums[c], rescale);
      accumulate(weights, v_across + j / 2 * d, d, sums);
    }
    store_lanes(sums, _mm512_div_ps(_mm512_set1_ps(1.0f), total), d, out + i * d);
    float totals[LANES], tops[LANES];
    _mm512_storeu_ps(totals, total), _mm512_storeu_ps(tops, most);
    for (int lane = 0; lane < LANES; lane++) lse[i + lane] = tops[lane] + log2f(totals[lane]);
  }
}

// Probability and its score's gradient, of two scores in every lane.
#define RECOMPUTE(b, LSE, DELTA)                                                            \
  const __m512 p##b = exp2_of(_mm512_fmsub_ps(scores[b], units, LSE));                      \
  const __m512 g##b = _mm512_mul_ps(p##b, _mm512_sub_ps(products[b], DELTA));

ALWAYS void backward_head(const bf16 *q, const bf16 *k, const bf16 *v, const bf16 *grad, const float *lse,
                          const float *delta, bf16 *grad_q, bf16 *grad_k, bf16 *grad_v, int n, const int d, float scale,
                          uint32_t *scratch) {
  const __m512 units = _mm512_set1_ps(scale * (float)M_LOG2E), factor = _mm512_set1_ps(scale), one = _mm512_set1_ps(1.0f);
  uint32_t *q_across = scratch, *k_across = q_across + n * d / 2, *grad_across = k_across + n * d / 2;
  __m512bh own[WIDEST / 2], beside[WIDEST / 2], weights[BLOCK / 2], slopes[BLOCK / 2];
  __m512 sums[WIDEST], others[WIDEST], scores[BLOCK], products[BLOCK];
  pair_rows(q, n, d, q_across), pair_rows(k, n, d, k_across), pair_rows(grad, n, d, grad_across);
  for (int i = 0; i < n; i += LANES) {  // queries in the lanes
    const __m512 lse_i = _mm512_loadu_ps(lse + i), delta_i = _mm512_loadu_ps(delta + i);
    load_lanes(q + i * d, d, own), load_lanes(grad + i * d, d, beside);
    clear(sums, d);
    for (int j = 0; j < n; j += BLOCK) {
      multiply(own, k + j * d, d, scores), multiply(beside, v + j * d, d, products);
      for (int b = 0; b < BLOCK; b += 2) {
        const int c = b + 1;
        RECOMPUTE(b, lse_i, delta_i)
        RECOMPUTE(c, lse_i, delta_i)
        slopes[b / 2] = pairs_of(gb, gc);
      }
      accumulate(slopes, k_across + j / 2 * d, d, sums);
    }
    store_lanes(sums, factor, d, grad_q + i * d);
  }
  for (int j = 0; j < n; j += LANES) {  // keys in the lanes
    load_lanes(k + j * d, d, own), load_lanes(v + j * d, d, beside);
    clear(sums, d), clear(others, d);
    for (int i = 0; i < n; i += BLOCK) {
      multiply(own, q + i * d, d, scores), multiply(beside, grad + i * d, d, products);
      for (int b = 0; b < BLOCK; b += 2) {
        const int c = b + 1;
        RECOMPUTE(b, _mm512_set1_ps(lse[i + b]), _mm512_set1_ps(delta[i + b]))
        RECOMPUTE(c, _mm512_set1_ps(lse[i + c]), _mm512_set1_ps(delta[i + c]))
        weights[b / 2] = pairs_of(pb, pc), slopes[b / 2] = pairs_of(gb, gc);
      }
      accumulate(weights, grad_across + i / 2 * d, d, others);
      accumulate(slopes, q_across + i / 2 * d, d, sums);
    }
    store_lanes(sums, factor, d, grad_k + j * d), store_lanes(others, one, d, grad_v + j * d);
  }
}

// lse: log2 of the sum of each query's exponentials (heads, n), for the way back. Returns 0, or 1: no memory.
int attention_forward(const bf16 *q, const bf16 *k, const bf16 *v, bf16 *out, float *lse, int heads, int n, int d, float scale) {
  const unsigned state = _mm_getcsr();
  uint32_t *scratch = malloc(sizeof(uint32_t) * n * d / 2);
  if (!scratch) return 1;
  _mm_setcsr(state | 0x8040);  // denormals are zero, as pick_device sets it for torch's own threads
  for (int h = 0; h < heads; h++) {
    const size_t at = (size_t)h * n * d;
#define FORWARD(D) forward_head(q + at, k + at, v + at, out + at, lse + (size_t)h * n, n, D, scale, scratch)
    BY_WIDTH(FORWARD);
  }
  _mm_setcsr(state);
  free(scratch);
  return 0;
}

// delta: sum over d of out and its gradient (heads, n). Returns as above.
int attention_backward(const bf16 *q, const bf16 *k, const bf16 *v, const bf16 *grad, const float *lse, const float *delta,
                       bf16 *grad_q, bf16 *grad_k, bf16 *grad_v, int heads, int n, int d, float scale) {
  const unsigned state = _mm_getcsr();
  uint32_t *scratch = malloc(sizeof(uint32_t) * 3 * n * d / 2);
  if (!scratch) return 1;
  _mm_setcsr(state | 0x8040);
  for (int h = 0; h < heads; h++) {
    const size_t at = (size_t)h * n * d;
#define BACKWARD(D)                                                                                                    \
  backward_head(q + at, k + at, v + at, grad + at, lse + (size_t)h * n, delta + (size_t)h * n, grad_q + at, grad_k + at, grad_v + at, n, D, \
                scale, scratch)
    BY_WIDTH(BACKWARD);
  }
  _mm_setcsr(state);
  free(scratch);
  return 0;
}
