/* Products of a weight matrix with a few rows, as in fully connected layers for few images: sums[r, o] = Σ_i x[r, i] ·
   weight[o, i]. They take the time of reading the weights, which are read once for four outputs and all rows. */

#include "../kernels/kernels.h"

/* Outputs, and rows, at a time; outputs of a task; bytes from the weights that are multiplied to those fetched. */
enum { TILE = 4, OUTPUTS = 32, AHEAD = 2048 };

typedef struct {
    const void *x;      /* (rows, inputs), float32 or int16 */
    const void *weight; /* (outputs, inputs), bfloat16 or int8 */
    void *sums;         /* (rows, outputs), float32 or int32 */
    int int8;
    long rows, inputs, outputs;
} rows_t;

#define fetch OF_PROCESSOR(fetch)
#define bf16_tile OF_PROCESSOR(bf16_tile)
#define int8_tile OF_PROCESSOR(int8_tile)
#define some_outputs OF_PROCESSOR(some_outputs)
#define rows_task OF_PROCESSOR(rows_task)
#define KERNELS "../model/rows.h"
#include "../kernels/vectors.h"

int products_of_rows(const void *x, const void *weight, void *sums, int int8, long rows, long inputs, long outputs,
                     int threads) {
    rows_t t = {x, weight, sums, int8, rows, inputs, outputs};
    return in_parallel(CHOSEN(rows_task), &t, (outputs + OUTPUTS - 1) / OUTPUTS, threads);
}
