/* Lists or deletes connections with the one message that cthelper sends, and does nothing with the answer: the floor. "46" is
 * both families, one after the other. "each" is for what no kernel tests: it lists all, looks for the port itself, and
 * deletes 128 at once.
 * usage: tables list|delete [4|6|46 PORT]     PORT is the destination port of TCP connections; prints the entries listed
 *        tables each PORT */
#include <arpa/inet.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <linux/netlink.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { FILTER = 25, ORIG_FLAGS = 1, REPLY_FLAGS = 2, PROTO_AND_PORT = 1 << 3 | 1 << 5 }; /* CTA_FILTER, net/netfilter/nf_internals.h */

static unsigned char out[4096], in[1 << 16];
static int len;

static void put(int type, const void *value, int n)
{
	struct nlattr *a = (void *)(out + len);
	a->nla_type = type;
	a->nla_len = 4 + n;
	memcpy(out + len + 4, value, n);
	len += (4 + n + 3) & ~3;
}

static int begin(int type)
{
	((struct nlattr *)(out + len))->nla_type = type | NLA_F_NESTED;
	len += 4;
	return len - 4;
}

static void end(int start) { ((struct nlattr *)(out + start))->nla_len = len - start; }

static void filter(int six, int port)
{
	unsigned char zero[16] = {0}, tcp = 6;
	unsigned short none = 0, dst = htons(port);
	unsigned orig = PROTO_AND_PORT, reply = 0;
	int tuple = begin(CTA_TUPLE_ORIG), nest = begin(CTA_TUPLE_IP);
	put(six ? CTA_IP_V6_SRC : CTA_IP_V4_SRC, zero, six ? 16 : 4);
	put(six ? CTA_IP_V6_DST : CTA_IP_V4_DST, zero, six ? 16 : 4);
	end(nest);
	nest = begin(CTA_TUPLE_PROTO);
	put(CTA_PROTO_NUM, &tcp, 1);
	put(CTA_PROTO_SRC_PORT, &none, 2);
	put(CTA_PROTO_DST_PORT, &dst, 2);
	end(nest);
	end(tuple);
	nest = begin(FILTER);
	put(ORIG_FLAGS, &orig, 4);
	put(REPLY_FLAGS, &reply, 4);
	end(nest);
}

/* find gives the attribute of a type among those in n bytes. */
static struct nlattr *find(void *from, int n, int type)
{
	for (unsigned char *p = from; n >= 4;) {
		struct nlattr *a = (void *)p;
		int whole = (a->nla_len + 3) & ~3;
		if (a->nla_len < 4 || a->nla_len > n)
			return NULL;
		if ((a->nla_type & NLA_TYPE_MASK) == type)
			return a;
		p += whole;
		n -= whole;
	}
	return NULL;
}

static struct nlattr *inside(struct nlattr *a, int type) { return a ? find(a + 1, a->nla_len - 4, type) : NULL; }

static unsigned char many[128 * 256];
static int s2, filled, together;

static void flush(void)
{
	unsigned char answers[8192]; /* to what was gone */
	if (filled && send(s2, many, filled, 0) != filled)
		perror("send");
	while (recv(s2, answers, sizeof answers, MSG_DONTWAIT) > 0)
		;
	filled = together = 0;
}

/* each deletes the entry of a message if its port is that. */
static void each(struct nlmsghdr *m, int port)
{
	unsigned char *attrs = (unsigned char *)NLMSG_DATA(m) + sizeof(struct nfgenmsg);
	int n = m->nlmsg_len - sizeof *m - sizeof(struct nfgenmsg);
	struct nlattr *tuple = find(attrs, n, CTA_TUPLE_ORIG), *id = find(attrs, n, CTA_ID);
	struct nlattr *dst = inside(inside(tuple, CTA_TUPLE_PROTO), CTA_PROTO_DST_PORT);
	if (!dst || !id || *(unsigned short *)(dst + 1) != htons(port))
		return;
	struct nlmsghdr *h = (void *)(many + filled);
	memset(h, 0, sizeof *h + sizeof(struct nfgenmsg));
	h->nlmsg_type = NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE;
	h->nlmsg_flags = NLM_F_REQUEST;
	*(struct nfgenmsg *)NLMSG_DATA(h) = *(struct nfgenmsg *)NLMSG_DATA(m);
	h->nlmsg_len = sizeof *h + sizeof(struct nfgenmsg);
	struct nlattr *copied[] = {tuple, id};
	for (int i = 0; i < 2; i++) {
		memcpy((unsigned char *)h + h->nlmsg_len, copied[i], (copied[i]->nla_len + 3) & ~3);
		h->nlmsg_len += (copied[i]->nla_len + 3) & ~3;
	}
	filled += h->nlmsg_len;
	if (++together == 128)
		flush();
}

/* ask sends the message and reads the answer to its end, in which it deletes those of a port, if there is one. */
static int ask(int s, int port, long *entries)
{
	if (send(s, out, len, 0) != len) {
		perror("send");
		return 1;
	}
	for (;;) {
		int n = recv(s, in, sizeof in, 0);
		if (n < 0) {
			perror("recv");
			return 1;
		}
		for (struct nlmsghdr *m = (void *)in; NLMSG_OK(m, (unsigned)n); m = NLMSG_NEXT(m, n)) {
			if (m->nlmsg_type == NLMSG_DONE || m->nlmsg_type == NLMSG_ERROR) {
				int error = *(int *)NLMSG_DATA(m);
				flush();
				if (error)
					fprintf(stderr, "%s\n", strerror(-error));
				return error != 0;
			}
			++*entries;
			if (port)
				each(m, port);
		}
	}
}

int main(int argc, char **argv)
{
	struct nlmsghdr *h = (void *)out;
	struct nfgenmsg *g = (void *)(out + sizeof *h);
	int port = argc == 3 && !strcmp(argv[1], "each") ? atoi(argv[2]) : 0;
	if (argc != 2 && argc != 4 && !port)
		return 2;
	s2 = socket(AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER);
	int delete = !strcmp(argv[1], "delete"), s = socket(AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER), failed = 0;
	long entries = 0;
	if (delete && argc != 4)
		return 2; /* that would be all */
	const char *family = argc == 4 ? argv[2] : "0";
	do {
		h->nlmsg_type = NFNL_SUBSYS_CTNETLINK << 8 | (delete ? IPCTNL_MSG_CT_DELETE : IPCTNL_MSG_CT_GET);
		h->nlmsg_flags = NLM_F_REQUEST | (delete ? NLM_F_ACK : NLM_F_DUMP);
		len = sizeof *h + sizeof *g;
		if (argc == 4) {
			g->nfgen_family = *family == '6' ? AF_INET6 : AF_INET;
			g->version = delete;
			filter(*family == '6', atoi(argv[3]));
		}
		h->nlmsg_len = len;
		failed |= ask(s, port, &entries);
	} while (*++family);
	printf("%ld\n", entries);
	return failed;
}
