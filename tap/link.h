#ifndef TAP_LINK_H
#define TAP_LINK_H

#include <net/if.h>
#include <stdbool.h>

// A named_link is the interface that a packet socket is bound to, and the name
// by which it was opened.
typedef struct {
	int socket;  // the packet socket, which somebody else closes
	int index;   // of the interface; 0: all of them, which never part from their name
	int changes; // netlink socket that is readable after a change of any interface; -1: none
	char name[IF_NAMESIZE];
} named_link;

// watch_link notes the interface that a packet socket is bound to. Changes are
// told from then on, in the network namespace of the calling thread.
void watch_link(named_link *l, int socket, const char *name);

// unwatch_link closes what watch_link has opened.
void unwatch_link(named_link *l);

// forget_changes makes the netlink socket wait for the next change.
void forget_changes(const named_link *l);

// keeps_name reports whether the interface still has its name. It is one cheap
// system call, and does not need the netlink socket.
bool keeps_name(const named_link *l);

// current_name returns the name that the interface has now; empty: it is not there.
void current_name(const named_link *l, char name[IF_NAMESIZE]);

#endif
