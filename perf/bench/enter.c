/* io_uring for callgrind, by LD_PRELOAD.
 *
 * Valgrind runs one thread at a time, and does not know that io_uring_enter(2) may wait: a worker that waits for completions would
 * stop all the others. So it waits in poll(2), of which valgrind knows, for an eventfd that the kernel writes to when
 * there is work (polling the ring itself does not wake for deferred task work), and the call itself never waits. Rings are
 * not registered with themselves, because then the call would not name a descriptor. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <linux/io_uring.h>
#include <poll.h>
#include <stdarg.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

typedef long (*call)(long, ...);

static call next;

__attribute__((constructor)) static void find(void) { next = (call)dlsym(RTLD_NEXT, "syscall"); }

enum { RINGS_MAX = 1024 };
static int event_of[RINGS_MAX];

static long made(long ring) {
    if (ring >= 0 && ring < RINGS_MAX) {
        event_of[ring] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        next(SYS_io_uring_register, ring, (long)IORING_REGISTER_EVENTFD, (long)&event_of[ring], 1L, 0L, 0L);
    }
    return ring;
}

static int has_completions(int ring) {
    struct pollfd ready = {.fd = ring, .events = POLLIN};
    return poll(&ready, 1, 0) > 0;
}

/* Submits, and waits for a completion as long as the caller would. */
static long enter(const long of[6]) {
    int ring = (int)of[0], event = event_of[ring];
    const struct io_uring_getevents_arg *with = (const void *)of[4];
    const struct timespec *patience = 0;
    if ((of[3] & IORING_ENTER_EXT_ARG) && with)
        patience = (const struct timespec *)(uintptr_t)with->ts;
    long submitted = next(SYS_io_uring_enter, of[0], of[1], 0L, of[3], of[4], of[5]);
    while (submitted >= 0 && !has_completions(ring)) {
        struct pollfd ready = {.fd = event, .events = POLLIN};
        int found = ppoll(&ready, 1, patience, 0);
        if (found == 0)
            errno = ETIME;
        if (found <= 0)
            return -1;
        uint64_t count;
        if (read(event, &count, sizeof count) < 0 && errno != EAGAIN)
            return -1;
        next(SYS_io_uring_enter, of[0], 0L, 0L, of[3], of[4], of[5]);
    }
    return submitted;
}

long syscall(long number, ...) {
    long of[6];
    va_list rest;
    va_start(rest, number);
    for (int i = 0; i < 6; i++)
        of[i] = va_arg(rest, long);
    va_end(rest);
    if (!next)
        find();
    if (number == SYS_io_uring_register && of[1] == IORING_REGISTER_RING_FDS) {
        errno = EINVAL;
        return -1;
    }
    if (number == SYS_io_uring_enter && of[2] > 0 && (of[3] & IORING_ENTER_GETEVENTS) && of[0] < RINGS_MAX)
        return enter(of);
    long result = next(number, of[0], of[1], of[2], of[3], of[4], of[5]);
    return number == SYS_io_uring_setup ? made(result) : result;
}
