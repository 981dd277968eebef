/* expect NEW-OFFSET DELETE-OFFSET SECONDS: reads two netlink messages as lines of hexadecimal digits from stdin, one
 * that creates an expectation and one that deletes it, and sends them in turn, each with another destination port (2
 * bytes at the offsets) and sequence number, waiting for the kernel's answer each time. It is what cthelperd's own code
 * is measured against, with the same bytes. Prints how many were created and the median time of a creation, in
 * nanoseconds. */
#include <errno.h>
#include <linux/netlink.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

enum { most = 1 << 20 };

struct request {
	unsigned char bytes[2048];
	size_t size;
	int port; /* offset */
};

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static void load(struct request *r, const char *offset)
{
	char line[2 * sizeof(r->bytes) + 2];
	unsigned byte;

	if (!fgets(line, sizeof(line), stdin))
		die("stdin");
	for (r->size = 0; r->size < sizeof(r->bytes) && sscanf(line + 2 * r->size, "%2x", &byte) == 1; r->size++)
		r->bytes[r->size] = byte;
	r->port = atoi(offset);
}

static void ask(int fd, struct request *r, unsigned port)
{
	static unsigned seq;
	unsigned char answer[4096];
	struct nlmsghdr *n = (void *)r->bytes, *a = (void *)answer;

	n->nlmsg_seq = ++seq;
	r->bytes[r->port] = port >> 8;
	r->bytes[r->port + 1] = port;
	if (send(fd, r->bytes, r->size, 0) < 0)
		die("send");
	if (recv(fd, answer, sizeof(answer), 0) < 0)
		die("recv");
	if (a->nlmsg_type != NLMSG_ERROR || a->nlmsg_seq != seq) {
		fprintf(stderr, "not the acknowledgement of %u\n", seq);
		exit(1);
	}
	errno = -((struct nlmsgerr *)NLMSG_DATA(a))->error;
	if (errno)
		die("the kernel's answer");
}

static int compare(const void *a, const void *b)
{
	unsigned x = *(const unsigned *)a, y = *(const unsigned *)b;

	return (x > y) - (x < y);
}

static long long now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

int main(int argc, char **argv)
{
	struct sockaddr_nl address = { .nl_family = AF_NETLINK };
	static struct request create, delete;
	static unsigned spent[most]; /* nanoseconds */
	unsigned count = 0;
	long long end;
	int fd;

	if (argc != 4)
		return 2;
	load(&create, argv[1]);
	load(&delete, argv[2]);
	if ((fd = socket(AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER)) < 0 || bind(fd, (void *)&address, sizeof(address)) < 0)
		die("netlink socket");
	for (end = now() + 1e9 * atof(argv[3]); now() < end && count < most; count++) {
		unsigned port = 20000 + count % 40000;
		long long before = now();

		ask(fd, &create, port);
		spent[count] = now() - before;
		ask(fd, &delete, port);
	}
	qsort(spent, count, sizeof(spent[0]), compare);
	printf("%u %u\n", count, spent[count / 2]);
	return 0;
}
