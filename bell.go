package main

// A bell tells one goroutine that something has changed; ringing it again
// before that one has looked changes nothing.
type bell chan struct{}

// newBell returns a bell that is silent.
func newBell() bell { return make(bell, 1) }

// ring never blocks.
func (b bell) ring() {
	select {
	case b <- struct{}{}:
	default:
	}
}
