/* Threads and the kind of processor for the kernels, and the empty module that lets Python's tools build and find this library. */

#define Py_LIMITED_API 0x030b0000
#include <Python.h>
#include <pthread.h>

#include "kernels.h"

enum { MAX_THREADS = 64 };

typedef void (*team_t)(void (*)(void *), void *, unsigned threads, unsigned flags);

typedef struct {
    work_t work;
    const void *task;
    long count, next;
    int succeeded;
} queue_t;

static team_t team;

/* `parallel` is GOMP_parallel of the OpenMP library that torch has loaded, so that both use the same threads: a second
   set would wait for processors on which the first one spins. If it is NULL, each call creates its own threads. */
void use_team(void *parallel) { team = (team_t)parallel; }

static void take_turns(void *argument) {
    queue_t *queue = argument;
    long index;
    while ((index = __atomic_fetch_add(&queue->next, 1, __ATOMIC_RELAXED)) < queue->count)
        if (!queue->work(queue->task, index)) __atomic_store_n(&queue->succeeded, 0, __ATOMIC_RELAXED);
}

static void *take_turns_in_thread(void *argument) {
    take_turns(argument);
    return NULL;
}

int in_parallel(work_t work, const void *task, long count, int threads) {
    queue_t queue = {work, task, count, 0, 1};
    if (threads > count) threads = (int)count;
    if (threads <= 1) {
        take_turns(&queue);
    } else if (team) {
        team(take_turns, &queue, (unsigned)threads, 0);
    } else {
        pthread_t others[MAX_THREADS];
        int running = 0;
        while (running < threads - 1 && running < MAX_THREADS &&
               !pthread_create(&others[running], NULL, take_turns_in_thread, &queue))
            running++;
        take_turns(&queue);
        while (running) pthread_join(others[--running], NULL);
    }
    return queue.succeeded;
}

static int chosen = -1;

/* Chooses kernels for the best processor up to `most` that this one is; returns which. */
int use_processor(int most) {
    int best = ANY;
#if defined(__x86_64__)
    if (most >= AVX2 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) best = AVX2;
    if (most >= AVX512 && best == AVX2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        best = AVX512;
#endif
    __atomic_store_n(&chosen, best, __ATOMIC_RELAXED);
    return best;
}

int processor(void) {
    int known = __atomic_load_n(&chosen, __ATOMIC_RELAXED);
    if (known >= 0) return known;
    const char *most = getenv("ATEN_CPU_CAPABILITY");
    return use_processor(!most ? AVX512 : !strcmp(most, "default") ? ANY : !strcmp(most, "avx2") ? AVX2 : AVX512);
}

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_kernels", NULL, -1, NULL, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__kernels(void) { return PyModule_Create(&module); }
