#include <errno.h>
#include <linux/if_packet.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>
#include "link.h"

void watch_link(named_link *l, int socket_, const char *name)
{
	struct sockaddr_ll bound = {0};
	socklen_t size = sizeof bound;
	memset(l, 0, sizeof *l);
	l->changes = -1;
	l->socket = socket_;
	strncpy(l->name, name, sizeof l->name - 1);
	if (getsockname(socket_, (struct sockaddr *)&bound, &size) != 0 || bound.sll_ifindex == 0)
		return;
	l->index = bound.sll_ifindex;
	const struct sockaddr_nl links = {.nl_family = AF_NETLINK, .nl_groups = RTMGRP_LINK};
	l->changes = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE);
	if (l->changes >= 0 && bind(l->changes, (const struct sockaddr *)&links, sizeof links) != 0)
		unwatch_link(l);
}

void unwatch_link(named_link *l)
{
	if (l->changes >= 0)
		close(l->changes);
	l->changes = -1;
}

void forget_changes(const named_link *l)
{
	char some[64]; // the rest of a message is dropped
	while (l->changes >= 0 && (recv(l->changes, some, sizeof some, 0) >= 0 || errno == ENOBUFS || errno == EINTR))
		;
}

// ask_name asks for the name of the interface; the result is 0 or an errno.
static int ask_name(const named_link *l, struct ifreq *request)
{
	memset(request, 0, sizeof *request);
	request->ifr_ifindex = l->index;
	return ioctl(l->socket, SIOCGIFNAME, request) == 0 ? 0 : errno;
}

bool keeps_name(const named_link *l)
{
	struct ifreq request;
	if (l->index == 0)
		return true;
	switch (ask_name(l, &request)) {
	case 0:
		return strncmp(request.ifr_name, l->name, IF_NAMESIZE) == 0;
	case ENODEV:
		return false;
	}
	return true; // nothing is known
}

void current_name(const named_link *l, char name[IF_NAMESIZE])
{
	struct ifreq request;
	memset(name, 0, IF_NAMESIZE);
	if (ask_name(l, &request) == 0)
		memcpy(name, request.ifr_name, IF_NAMESIZE);
}
