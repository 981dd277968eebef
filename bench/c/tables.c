/* Lists or deletes connections with the one message that cthelper sends, and does nothing with the answer: the floor.
 * usage: tables list|delete [4|6 PORT]     PORT is the destination port of TCP connections; prints the entries listed */
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

int main(int argc, char **argv)
{
	struct nlmsghdr *h = (void *)out;
	struct nfgenmsg *g = (void *)(out + sizeof *h);
	if (argc != 2 && argc != 4)
		return 2;
	int delete = !strcmp(argv[1], "delete"), six = argc == 4 && !strcmp(argv[2], "6");
	int s = socket(AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER);
	long entries = 0;
	h->nlmsg_type = NFNL_SUBSYS_CTNETLINK << 8 | (delete ? IPCTNL_MSG_CT_DELETE : IPCTNL_MSG_CT_GET);
	h->nlmsg_flags = NLM_F_REQUEST | (delete ? NLM_F_ACK : NLM_F_DUMP);
	len = sizeof *h + sizeof *g;
	if (argc == 4) {
		g->nfgen_family = six ? AF_INET6 : AF_INET;
		g->version = delete;
		filter(six, atoi(argv[3]));
	} else if (delete) {
		return 2; /* that would be all */
	}
	h->nlmsg_len = len;
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
			if (m->nlmsg_type != NLMSG_DONE && m->nlmsg_type != NLMSG_ERROR) {
				entries++;
				continue;
			}
			int error = *(int *)NLMSG_DATA(m);
			printf("%ld\n", entries);
			if (error)
				fprintf(stderr, "%s\n", strerror(-error));
			return error != 0;
		}
	}
}
