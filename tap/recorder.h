#ifndef TAP_RECORDER_H
#define TAP_RECORDER_H

#include <net/if.h>
#include "ring.h"

// A recording is a packet socket whose packets go into a ring.
typedef struct {
	ring *ring;
	int descriptor;
	int timeout;         // milliseconds after which the kernel retires a block
	char name[IFNAMSIZ]; // of the interface, looked up each second; empty: it is not
	int interface;       // index
} recording;

// Why record_packets returned.
enum { record_stopped, record_vanished, record_renamed, record_broken };

// record_packets takes what the kernel records until it is to stop, which it
// sees within a timeout, or the interface is no longer there. It stays here for
// as long as it can: a call from Go that returns often keeps Go's scheduler
// busy, which then costs more than the packets.
int record_packets(const recording *to, const int64_t *stop);

// record_rest takes what the kernel still has when nothing more comes: its last
// block is retired after a timeout. It returns why, or record_broken.
int record_rest(const recording *to, int why);

#endif
