package au

import (
	"context"
	"slices"
	"sync"
)

// A gate lets in one crawl alone, or any number of hashes, in order of arrival. The zero gate
// is open.
type gate struct {
	mu       sync.Mutex
	crawling bool
	hashing  int
	queue    []*waiter
}

type waiter struct {
	crawl bool
	in    bool          // let in; guarded by gate.mu
	ready chan struct{} // closed when let in
}

// enter waits until ctx ends. The function it returns lets go; calling it again does nothing.
func (g *gate) enter(ctx context.Context, crawl bool) (leave func(), err error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	w := &waiter{crawl: crawl, ready: make(chan struct{})}
	g.mu.Lock()
	g.queue = append(g.queue, w)
	g.admit()
	g.mu.Unlock()
	leave = sync.OnceFunc(func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if crawl {
			g.crawling = false
		} else {
			g.hashing--
		}
		g.admit()
	})
	select {
	case <-w.ready:
		return leave, nil
	case <-ctx.Done():
	}
	g.mu.Lock()
	in := w.in
	if !in {
		g.queue = slices.DeleteFunc(g.queue, func(o *waiter) bool { return o == w })
		g.admit() // those behind w may have waited for it only
	}
	g.mu.Unlock()
	if in {
		leave()
	}
	return nil, context.Cause(ctx)
}

// admit lets in from the head of the queue who may come in.
func (g *gate) admit() {
	for len(g.queue) > 0 {
		w := g.queue[0]
		if g.crawling || w.crawl && g.hashing > 0 {
			return
		}
		if w.crawl {
			g.crawling = true
		} else {
			g.hashing++
		}
		w.in = true
		close(w.ready)
		g.queue = g.queue[1:]
	}
}

func (g *gate) busy() (crawling bool, hashing int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.crawling, g.hashing
}
