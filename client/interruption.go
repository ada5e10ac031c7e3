package client

import (
	"context"
	"os"
	"os/signal"
)

// An interruption is how somebody at a keyboard ends a client: once, and it
// ends what it has begun; twice, and it leaves.
type interruption struct{ once, twice context.Context }

// newInterruption returns what signals do until it is released.
func newInterruption(ends []os.Signal) (in interruption, release func()) {
	twice, leave := context.WithCancel(context.Background())
	once, stop := context.WithCancel(twice)
	signals, done := make(chan os.Signal, 2), make(chan struct{})
	signal.Notify(signals, ends...)
	go func() {
		defer close(done)
		for _, end := range []func(){stop, leave} {
			select {
			case <-signals:
				end()
			case <-twice.Done():
				return
			}
		}
	}()
	return interruption{once, twice}, func() {
		signal.Stop(signals)
		leave()
		<-done
	}
}
