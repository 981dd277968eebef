/* nfq NUMBER [batch]: accepts every packet of a netfilter queue and looks at none. It is the limit that a program
 * in user space can reach: with one system call to receive and one for the verdict of each packet, or, with "batch",
 * recvmmsg of up to 64 packets and one verdict for all of them. Prints "ready"; ends by SIGTERM. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_queue.h>
#include <linux/netlink.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { most = 64, room = 1 << 16, queue_length = 4096, receive_buffer = 16 << 20 };

static void die(const char *what)
{
	perror(what);
	exit(1);
}

struct message {
	struct nlmsghdr n;
	struct nfgenmsg g;
	char attributes[256];
};

static struct message *begin(struct message *m, int type, int flags, unsigned queue)
{
	memset(m, 0, sizeof(*m));
	m->n.nlmsg_len = NLMSG_LENGTH(sizeof(m->g));
	m->n.nlmsg_type = NFNL_SUBSYS_QUEUE << 8 | type;
	m->n.nlmsg_flags = NLM_F_REQUEST | flags;
	m->g.nfgen_family = AF_UNSPEC;
	m->g.version = NFNETLINK_V0;
	m->g.res_id = htons(queue);
	return m;
}

static void put(struct message *m, int type, const void *data, size_t size)
{
	struct nlattr *a = (void *)((char *)m + NLMSG_ALIGN(m->n.nlmsg_len));

	a->nla_type = type;
	a->nla_len = NLA_HDRLEN + size;
	memcpy((char *)a + NLA_HDRLEN, data, size);
	m->n.nlmsg_len = NLMSG_ALIGN(m->n.nlmsg_len) + NLA_ALIGN(a->nla_len);
}

/* ask sends m and fails unless the kernel acknowledges it. */
static void ask(int fd, struct message *m)
{
	static char buf[room];
	struct nlmsghdr *n = (void *)buf;

	if (send(fd, m, m->n.nlmsg_len, 0) < 0)
		die("send");
	if (recv(fd, buf, sizeof(buf), 0) < 0)
		die("recv");
	if (n->nlmsg_type != NLMSG_ERROR)
		die("no acknowledgement");
	errno = -((struct nlmsgerr *)NLMSG_DATA(n))->error;
	if (errno)
		die("nfqueue configuration");
}

/* packet_id finds NFQA_PACKET_HDR, in network byte order; 0 if the message is not a packet. */
static unsigned packet_id(const struct nlmsghdr *n)
{
	int left = n->nlmsg_len - NLMSG_LENGTH(sizeof(struct nfgenmsg));
	const char *at = (const char *)n + NLMSG_LENGTH(sizeof(struct nfgenmsg));

	if (n->nlmsg_type != (NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_PACKET))
		return 0;
	while (left >= NLA_HDRLEN) {
		const struct nlattr *a = (const void *)at;

		if ((a->nla_type & NLA_TYPE_MASK) == NFQA_PACKET_HDR)
			return ((const struct nfqnl_msg_packet_hdr *)(at + NLA_HDRLEN))->packet_id;
		at += NLA_ALIGN(a->nla_len);
		left -= NLA_ALIGN(a->nla_len);
	}
	return 0;
}

static void verdict(int fd, int type, unsigned queue, unsigned id)
{
	struct nfqnl_msg_verdict_hdr h = { .verdict = htonl(NF_ACCEPT), .id = id };
	struct message m;

	put(begin(&m, type, 0, queue), NFQA_VERDICT_HDR, &h, sizeof(h));
	if (send(fd, &m, m.n.nlmsg_len, 0) < 0)
		die("send verdict");
}

int main(int argc, char **argv)
{
	static char bufs[most][room];
	struct nfqnl_msg_config_cmd bind_cmd = { .command = NFQNL_CFG_CMD_BIND, .pf = htons(AF_UNSPEC) };
	struct nfqnl_msg_config_params params = { .copy_range = htonl(0xffff), .copy_mode = NFQNL_COPY_PACKET };
	unsigned flag = htonl(NFQA_CFG_F_FAIL_OPEN), length = htonl(queue_length), queue;
	struct sockaddr_nl address = { .nl_family = AF_NETLINK };
	int fd, batch, one = 1, size = receive_buffer, i, n;
	struct mmsghdr mm[most];
	struct iovec iov[most];
	struct message m;

	if (argc < 2)
		return 2;
	queue = atoi(argv[1]);
	batch = argc > 2 && !strcmp(argv[2], "batch");
	if ((fd = socket(AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER)) < 0 || bind(fd, (void *)&address, sizeof(address)) < 0)
		die("netlink socket");
	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size));
	setsockopt(fd, SOL_NETLINK, NETLINK_NO_ENOBUFS, &one, sizeof(one));
	begin(&m, NFQNL_MSG_CONFIG, NLM_F_ACK, queue);
	put(&m, NFQA_CFG_CMD, &bind_cmd, sizeof(bind_cmd));
	ask(fd, &m);
	begin(&m, NFQNL_MSG_CONFIG, NLM_F_ACK, queue);
	put(&m, NFQA_CFG_PARAMS, &params, sizeof(params));
	put(&m, NFQA_CFG_FLAGS, &flag, sizeof(flag));
	put(&m, NFQA_CFG_MASK, &flag, sizeof(flag));
	put(&m, NFQA_CFG_QUEUE_MAXLEN, &length, sizeof(length));
	ask(fd, &m);
	puts("ready");
	fflush(stdout);

	if (!batch)
		for (;;) {
			unsigned id;

			n = recv(fd, bufs[0], room, 0);
			if (n < 0 && errno != ENOBUFS && errno != EINTR)
				die("recv");
			if (n > 0 && (id = packet_id((void *)bufs[0])))
				verdict(fd, NFQNL_MSG_VERDICT, queue, id);
		}

	memset(mm, 0, sizeof(mm));
	for (i = 0; i < most; i++) {
		iov[i] = (struct iovec){ bufs[i], room };
		mm[i].msg_hdr.msg_iov = &iov[i];
		mm[i].msg_hdr.msg_iovlen = 1;
	}
	for (;;) {
		unsigned id = 0, newer;

		n = recvmmsg(fd, mm, most, MSG_WAITFORONE, NULL);
		if (n < 0 && errno != ENOBUFS && errno != EINTR)
			die("recvmmsg");
		for (i = 0; i < n; i++)
			if ((newer = packet_id((void *)bufs[i])))
				id = newer;
		if (id)
			verdict(fd, NFQNL_MSG_VERDICT_BATCH, queue, id);
	}
}
