/* A wall clock that can be set for the processes of one gateway: preloaded, it moves CLOCK_REALTIME by the seconds in
 * /etc/clock-offset, read anew at every call. All other clocks, sleeps and file times are left alone, as they are
 * when a machine's clock is set. libfaketime moves CLOCK_BOOTTIME as well, by which Mosquitto counts keepalives, and
 * breaks Python's sleep().
 *
 * Without headers, so that the compiler alone is enough. For machines whose long has 64 bits, as time_t then has.
 */

struct timespec { long tv_sec, tv_nsec; };
struct timeval { long tv_sec, tv_usec; };

enum { CLOCK_REALTIME = 0, CLOCK_REALTIME_COARSE = 5, PROT_READ = 1, MAP_SHARED = 1, O_RDONLY = 0 };
#define RTLD_NEXT ((void *) -1L)
#define MAP_FAILED ((void *) -1L)

extern void *dlsym(void *, const char *);
extern void *mmap(void *, unsigned long, int, int, int, long);
extern int open(const char *, int, ...);
extern int close(int);

typedef int get_time(int, struct timespec *);

static const volatile long *offset;
static get_time *really;

/* Called by whoever is first: constructors of other libraries may ask for the time before ours has run. */
static void set_up(void)
{
    static const long none = 0;
    const volatile long *found = &none;
    int fd;

    if (offset)
        return;
    really = (get_time *) dlsym(RTLD_NEXT, "clock_gettime");
    fd = open("/etc/clock-offset", O_RDONLY);
    if (fd >= 0) {
        void *page = mmap(0, sizeof *offset, PROT_READ, MAP_SHARED, fd, 0);
        if (page != MAP_FAILED)
            found = page;
        close(fd);
    }
    offset = found;
}

int clock_gettime(int clock, struct timespec *now)
{
    int result;

    set_up();
    result = really(clock, now);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += *offset;
    return result;
}

long time(long *where)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    if (where)
        *where = now.tv_sec;
    return now.tv_sec;
}

int gettimeofday(struct timeval *where, void *zone)
{
    struct timespec now;

    (void) zone;
    clock_gettime(CLOCK_REALTIME, &now);
    where->tv_sec = now.tv_sec;
    where->tv_usec = now.tv_nsec / 1000;
    return 0;
}
