package crawl

import (
	"context"
	"sync"
	"time"

	"armarium/daemon/lockss"
)

// maxEvents is how many events of a rate are remembered. A rate of more events is kept as
// one of so many in accordingly less time.
const maxEvents = 1000

// events are the latest times at which something was done that a rate limits.
type events []time.Time

// scaled is r with at most maxEvents events.
func scaled(r lockss.Rate) lockss.Rate {
	if r.Events > maxEvents {
		r = lockss.Rate{Events: maxEvents, Per: time.Duration(float64(r.Per) * maxEvents / float64(r.Events))}
	}
	return r
}

// next is when the next event is allowed: when the n-th last is a whole interval ago
// (plugins.md 10).
func (e events) next(r lockss.Rate) time.Time {
	r = scaled(r)
	if r.Unlimited() || len(e) < r.Events {
		return time.Time{}
	}
	return e[len(e)-r.Events].Add(r.Per)
}

// add notes an event; what no rate of r needs is dropped.
func (e events) add(at time.Time, r lockss.Rate) events {
	r = scaled(r)
	if r.Unlimited() {
		return e[:0]
	}
	e = append(e, at)
	if n := len(e) - r.Events; n > 0 {
		e = append(e[:0], e[n:]...)
	}
	return e
}

// A limiter holds back requests so that each pool stays within its rate. Who comes first
// goes first.
type limiter struct {
	mu    sync.Mutex
	pools map[string]events
}

// wait returns when a request of the pool may be sent at the rate, or with the cause of ctx.
// A request that is given up has used its place.
func (l *limiter) wait(ctx context.Context, pool string, r lockss.Rate) error {
	if r.Unlimited() {
		return context.Cause(ctx)
	}
	key := pool + " " + r.String() // each rate of a pool counts for itself
	l.mu.Lock()
	if l.pools == nil {
		l.pools = map[string]events{}
	}
	at := time.Now()
	if next := l.pools[key].next(r); next.After(at) {
		at = next
	}
	l.pools[key] = l.pools[key].add(at, r)
	l.mu.Unlock()
	return sleep(ctx, time.Until(at))
}

// sleep returns after d, or with the cause of ctx.
func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return context.Cause(ctx)
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
