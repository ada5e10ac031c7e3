package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"time"
)

const (
	// rollCallSpread is the time over which the answers of many hosts are spread:
	// thousands in one instant would hurt the server and whoever asks.
	rollCallSpread = 500 * time.Millisecond
	// maxRollCalls is how many roll calls wait for their answers.
	maxRollCalls = 64
)

// answerRollCall says after a little while that this host is there.
func (d *daemon) answerRollCall(ctx context.Context, r request) error {
	select {
	case d.rollCalls <- struct{}{}:
	default:
		return fmt.Errorf("rollcall: %d are waiting for their answers already", maxRollCalls)
	}
	d.jobs.working.Go(func() {
		defer func() { <-d.rollCalls }()
		select {
		case <-time.After(rand.N(rollCallSpread)):
			d.jobs.results.Publish(d.present(r))
		case <-ctx.Done():
		}
	})
	return nil
}

// present describes this host.
func (d *daemon) present(r request) result {
	l, c := d.config.limits, d.config.capacity
	answer := r.result(d.config.node, "", statePresent)
	answer.Limits = &granted{Packets: l.packets, Bytes: l.bytes, Timeout: l.timeout.Seconds(),
		Snap: l.snap, Captures: c.captures, Return: &l.returned}
	answer.presence = &presence{Version: version, Format: d.config.format,
		Running: d.jobs.count(), Interfaces: []presented{}}
	for _, i := range l.capturable() {
		answer.Interfaces = append(answer.Interfaces, presented{Name: i.Name, Alias: l.alias(i.Name),
			Up: i.Flags&net.FlagUp != 0, Recorded: d.recorders.reach(i.Name)})
	}
	return answer
}
