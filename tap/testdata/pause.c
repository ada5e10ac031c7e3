// How long a live capture sleeps between two looks at packets that come fast.

#include <stdio.h>
#include "live.c"

enum { took = 200 * 1000 * 1000 }; // nanoseconds in which the bytes of a case came

static const struct {
	int64_t buffer, bytes, pause; // of the kernel, that came, nanoseconds
} cases[] = {
	{4 << 20, INT64_C(2) << 30, took / 2048}, // the time in which they fill a quarter
	{256 << 10, 64 << 20, took / 1024},
	{4 << 20, 16 << 20, 4000 * 1000}, // at most
	{4 << 20, 2 << 20, 0}, // not fast
};

int main(void)
{
	int wrong = 0;
	for (unsigned i = 0; i < sizeof cases / sizeof *cases;) {
		copying c = {.buffer = cases[i].buffer, .copied = cases[i].bytes, .waited = monotonic() - took};
		const int64_t began = c.waited, pause = lull(&c), later = c.waited - began;
		if (later > 2 * took)
			continue; // others had the processor
		if (pause < cases[i].pause || pause > cases[i].pause * later / took + 1) {
			printf("case %u: want %lld ns, got %lld\n", i, (long long)cases[i].pause, (long long)pause);
			wrong = 1;
		}
		i++;
	}
	return wrong;
}
