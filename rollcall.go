package main

import (
	"context"
	"errors"
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
		return errors.New("rollcall: 64 are waiting for their answers already")
	}
	d.jobs.working.Go(func() {
		defer func() { <-d.rollCalls }()
		select {
		case <-time.After(rand.N(rollCallSpread)):
			d.jobs.results.Publish(d.present(r).encode())
		case <-ctx.Done():
		}
	})
	return nil
}

// present describes this host.
func (d *daemon) present(r request) result {
	l, c := d.config.limits, d.config.capacity
	answer := newResult(r, d.config.node, "", statePresent)
	answer.Limits = &granted{Packets: l.packets, Bytes: l.bytes, Timeout: l.timeout.Seconds(),
		Snap: maxSnap, Captures: c.captures, Return: &l.returned}
	answer.presence = &presence{Version: version, Format: "pcap", Running: d.jobs.count(), Interfaces: []presented{}}
	interfaces, err := net.Interfaces()
	if err != nil {
		answer.Error = err.Error()
	}
	for _, i := range interfaces {
		if l.allow(i.Name) == nil {
			answer.Interfaces = append(answer.Interfaces, presented{Name: i.Name, Up: i.Flags&net.FlagUp != 0,
				Recorded: d.recorders.reach(i.Name)})
		}
	}
	return answer
}
