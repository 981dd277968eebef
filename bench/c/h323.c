// Reads a message of H.323 call signalling many times with the decoder of the kernel's own helper, and prints the
// nanoseconds that one reading takes: h323 FILE TIMES. scripts/bench-h323 builds it.
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <linux/netfilter/nf_conntrack_h323_asn1.h>

int main(int argc, char **argv)
{
	static unsigned char message[1 << 16];
	static Q931 q931;
	struct timespec start, end;

	if (argc != 3)
		return 2;
	FILE *f = fopen(argv[1], "rb");
	if (!f)
		return 1;
	size_t size = fread(message, 1, sizeof message, f);
	long times = atol(argv[2]);
	clock_gettime(CLOCK_MONOTONIC, &start);
	for (long i = 0; i < times; i++)
		if (DecodeQ931(message, size, &q931) < H323_ERROR_NONE)
			return 1;
	clock_gettime(CLOCK_MONOTONIC, &end);
	Setup_UUIE *setup = &q931.UUIE.h323_uu_pdu.h323_message_body.setup;
	if (!(setup->options & eSetup_UUIE_fastStart))
		return 1;
	printf("%d %.1f\n", setup->fastStart.count,
	       ((end.tv_sec - start.tv_sec) * 1e9 + (end.tv_nsec - start.tv_nsec)) / times);
	return 0;
}
