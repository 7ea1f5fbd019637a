/* Threads for the kernels, and the empty module that lets Python's tools build and find this library. */

#define Py_LIMITED_API 0x030b0000
#include <Python.h>
#include <pthread.h>

#include "kernels.h"

typedef void (*team_t)(void (*)(void *), void *, unsigned threads, unsigned flags);

typedef struct {
    work_t work;
    const void *task;
    long count, next;
} queue_t;

static team_t team;

/* `parallel` is GOMP_parallel of the OpenMP library that torch has loaded, so that both use the same threads: a second
   set would wait for processors on which the first one spins. Without it (NULL), threads are made for each call. */
void use_team(void *parallel) { team = (team_t)parallel; }

static void take_turns(void *argument) {
    queue_t *queue = argument;
    long number;
    while ((number = __atomic_fetch_add(&queue->next, 1, __ATOMIC_RELAXED)) < queue->count)
        queue->work(queue->task, number);
}

static void *take_turns_in_thread(void *argument) {
    take_turns(argument);
    return NULL;
}

void in_parallel(work_t work, const void *task, long count, int threads) {
    queue_t queue = {work, task, count, 0};
    if (threads > count) threads = (int)count;
    if (threads <= 1) {
        take_turns(&queue);
    } else if (team) {
        team(take_turns, &queue, (unsigned)threads, 0);
    } else {
        pthread_t others[64];
        int made = 0;
        while (made < threads - 1 && made < 64 && !pthread_create(&others[made], NULL, take_turns_in_thread, &queue))
            made++;
        take_turns(&queue);
        while (made) pthread_join(others[--made], NULL);
    }
}

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_kernels", NULL, -1, NULL, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__kernels(void) { return PyModule_Create(&module); }
