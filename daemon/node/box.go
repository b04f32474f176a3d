package node

import (
	"context"
	"sync"
	"time"

	"armarium/daemon/platform"
)

// How long PID 1 is waited for, and how long its answer holds.
const (
	boxPatience = time.Second
	boxHolds    = 2 * time.Second
)

// box asks PID 1 for the state of the box, for one page after another: a PID 1 that does not
// answer must not make every page wait.
type box struct {
	client platform.Client

	mu    sync.Mutex
	at    time.Time
	state platform.State
	err   error
}

// State gives the state of the box as it was at most a moment ago; platform.ErrNoPlatform off
// the appliance.
func (b *box) State() (platform.State, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.at.IsZero() || time.Since(b.at) > boxHolds {
		ctx, cancel := context.WithTimeout(context.Background(), boxPatience)
		defer cancel()
		b.state, b.err = b.client.State(ctx)
		b.at = time.Now()
	}
	return b.state, b.err
}
