package crawl

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"armarium/daemon/au"
	"armarium/daemon/lockss"
)

// RequestOptions say how an operator wants a crawl.
type RequestOptions struct {
	Priority int // higher ones go first
	// RefetchDepth replaces the plugin's; a large one asks for every page again. 0: the plugin's.
	RefetchDepth int
	// OverrideRates lets the crawl start however short ago the last one was.
	OverrideRates bool
}

type request struct {
	unit *au.Unit
	opts RequestOptions
	at   time.Time
}

// Run starts crawls that are due or requested, until ctx ends; then it waits until the crawls
// that are going on have noted that they were interrupted. It returns the cause of ctx.
func (c *Crawler) Run(ctx context.Context) error {
	var crawls sync.WaitGroup
	defer c.transport.CloseIdleConnections()
	// Crawls get a context of their own, so that those that are going on see why they end.
	base, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stop(errExit)
	nextScan := time.Now().Add(c.cfg.StartDelay)
	for {
		now := time.Now()
		if !now.Before(nextScan) {
			nextScan = now.Add(c.cfg.StartInterval)
			c.scan(now)
		}
		again := nextScan
		for c.cfg.Enabled {
			cr, after := c.pick(base, time.Now())
			if cr == nil {
				if !after.IsZero() && after.Before(again) {
					again = after
				}
				break
			}
			crawls.Go(func() { c.one(cr.ctx, cr.crawl) })
		}
		t := time.NewTimer(max(0, time.Until(again)))
		select {
		case <-ctx.Done():
			t.Stop()
			stop(errExit)
			crawls.Wait()
			return context.Cause(ctx)
		case <-c.wake:
		case <-t.C:
		}
		t.Stop()
	}
}

// one runs a crawl and tells of its end.
func (c *Crawler) one(ctx context.Context, cr *crawl) {
	res := cr.run(ctx)
	cr.cancel(nil)
	c.mu.Lock()
	delete(c.running, res.AU)
	c.mu.Unlock()
	c.poke()
	if c.cfg.Done != nil {
		c.cfg.Done(res)
	}
}

// poke makes Run look again.
func (c *Crawler) poke() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// scan makes the list of units that are due, best first (crawl.md 2).
func (c *Crawler) scan(now time.Time) {
	if !c.cfg.StarterEnabled {
		return
	}
	type candidate struct {
		unit *au.Unit
		rank int
		at   time.Time
	}
	var found []candidate
	for _, u := range c.cfg.Units.Units() {
		if !c.isDue(u, now) {
			continue
		}
		s := u.State()
		k := candidate{u, 2, s.LastCrawlAttempt}
		switch {
		case u.IsRegistry():
			k.rank = 0
		case c.cfg.Restart && (s.LastCrawlResult == int(Active) || s.LastCrawlResult == int(WindowClosed)):
			k.rank = 1
		}
		if c.cfg.Order == "CreationDate" {
			k.at = u.Content().Created()
		}
		found = append(found, k)
	}
	slices.SortStableFunc(found, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.rank, b.rank), a.at.Compare(b.at))
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	c.due = c.due[:0]
	for _, k := range found {
		c.due = append(c.due, k.unit)
	}
}

// isDue says whether a unit wants a crawl by itself.
func (c *Crawler) isDue(u *au.Unit, now time.Time) bool {
	p := u.Plugin()
	if !u.Active() || p == nil || p.Flag("pub_down") || p.Flag("pub_never") {
		return false
	}
	s := u.State()
	interval := p.CrawlInterval()
	if p.IsRegistry() {
		interval = c.cfg.RegistryInterval
	}
	return !s.Crawled() || now.Sub(s.LastCrawl) >= interval || c.cfg.Restart && s.LastCrawlResult == int(Active)
}

// started is a crawl with its context.
type started struct {
	ctx   context.Context
	crawl *crawl
}

// pick takes the next crawl that may start now. Without one, after is when to look again; zero
// if only an event changes that.
func (c *Crawler) pick(base context.Context, now time.Time) (s *started, after time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.requests)+len(c.due) == 0 {
		return nil, time.Time{}
	}
	if len(c.running) >= c.cfg.MaxCrawls {
		return nil, time.Time{}
	}
	if next := c.starts.next(c.cfg.StartRate); next.After(now) {
		return nil, next
	}
	later := func(t time.Time) {
		if after.IsZero() || t.Before(after) {
			after = t
		}
	}
	busy := map[string]bool{}
	for _, cr := range c.running {
		busy[cr.pool] = true
	}
	begin := func(u *au.Unit, opts RequestOptions) *started {
		cr, err := c.newCrawl(u, KindNewContent)
		if err != nil {
			c.log.Warn("crawl does not start", "au", u.ID(), "err", err)
			return nil
		}
		cr.opts = opts
		ctx, cancel := context.WithCancelCause(base)
		cr.cancel = cancel
		c.running[u.ID()] = cr
		c.starts = c.starts.add(now, c.cfg.StartRate)
		c.unit[u.ID()] = c.unit[u.ID()].add(now, c.unitRate(u))
		return &started{ctx, cr}
	}
	for i := 0; i < len(c.requests); i++ {
		r := c.requests[i]
		p := r.unit.Plugin()
		if p == nil || !r.unit.Active() {
			c.log.Warn("requested crawl is dropped", "au", r.unit.ID(), "problem", r.unit.Problem())
			c.requests = slices.Delete(c.requests, i, i+1)
			i--
			continue
		}
		if c.running[r.unit.ID()] != nil || busy[poolOf(r.unit, p)] {
			continue
		}
		c.requests = slices.Delete(c.requests, i, i+1)
		c.due = slices.DeleteFunc(c.due, func(u *au.Unit) bool { return u == r.unit })
		if s := begin(r.unit, r.opts); s != nil {
			return s, time.Time{}
		}
		i--
	}
	for i := 0; i < len(c.due); i++ {
		u := c.due[i]
		p := u.Plugin()
		if known, ok := c.cfg.Units.Unit(u.ID()); !ok || known != u || p == nil || !c.isDue(u, now) || c.running[u.ID()] != nil {
			c.due = slices.Delete(c.due, i, i+1)
			i--
			continue
		}
		if next := c.unit[u.ID()].next(c.unitRate(u)); next.After(now) {
			later(next)
			continue
		}
		if busy[poolOf(u, p)] {
			continue
		}
		c.due = slices.Delete(c.due, i, i+1)
		if s := begin(u, RequestOptions{}); s != nil {
			return s, time.Time{}
		}
		i--
	}
	return nil, after
}

// unitRate is how often crawls of the unit may start.
func (c *Crawler) unitRate(u *au.Unit) lockss.Rate {
	if u.IsRegistry() {
		return c.cfg.RegistryRate
	}
	return c.cfg.UnitRate
}

// Request asks for a crawl of a unit as soon as a place is free, whether or not it is due. A
// request for a unit that is queued already replaces the older one. The error says why the
// unit cannot be crawled, or from when on it may be.
func (c *Crawler) Request(id lockss.AUID, o RequestOptions) error {
	u, ok := c.cfg.Units.Unit(id)
	if !ok {
		return fmt.Errorf("crawl %s: no such unit is configured", id)
	}
	if !c.cfg.Enabled {
		return fmt.Errorf("crawl %s: the crawler is switched off (org.lockss.crawler.enabled)", id)
	}
	p := u.Plugin()
	if problem := u.Problem(); problem != "" || p == nil {
		return fmt.Errorf("crawl %s: %s", id, problem)
	}
	if err := p.Definition().MayCollect(); err != nil {
		return fmt.Errorf("crawl %s: %w", id, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.running[id] != nil {
		return fmt.Errorf("crawl %s: a crawl of it is going on", id)
	}
	now := time.Now()
	if next := c.unit[id].next(c.unitRate(u)); next.After(now) && !o.OverrideRates {
		return fmt.Errorf("crawl %s: not before %s, by the rate %s of crawls", id, next.UTC().Format(time.RFC3339), c.unitRate(u))
	}
	c.requests = slices.DeleteFunc(c.requests, func(r request) bool { return r.unit.ID() == id })
	c.requests = append(c.requests, request{u, o, now})
	slices.SortStableFunc(c.requests, func(a, b request) int {
		return cmp.Or(cmp.Compare(b.opts.Priority, a.opts.Priority), a.at.Compare(b.at))
	})
	c.poke()
	return nil
}

// Abort ends the crawl of a unit, or takes back a request for one. Nothing that is stored is
// lost.
func (c *Crawler) Abort(id lockss.AUID) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	queued := len(c.requests)
	c.requests = slices.DeleteFunc(c.requests, func(r request) bool { return r.unit.ID() == id })
	cr := c.running[id]
	if cr == nil && queued == len(c.requests) {
		return fmt.Errorf("abort crawl of %s: none is going on or requested", id)
	}
	if cr != nil {
		cr.cancel(errAborted)
	}
	return nil
}

// Running lists the crawls that are going on, longest first, repairs included.
func (c *Crawler) Running() []Progress {
	c.mu.Lock()
	var all []Progress
	for _, cr := range c.running {
		all = append(all, cr.progress())
	}
	for cr := range c.repairs {
		all = append(all, cr.progress())
	}
	c.mu.Unlock()
	slices.SortFunc(all, func(a, b Progress) int {
		return cmp.Or(a.Started.Compare(b.Started), cmp.Compare(a.AU, b.AU))
	})
	return all
}

// Queued lists the units that wait for a place: requested ones in their order, then those that
// are due.
func (c *Crawler) Queued() []lockss.AUID {
	c.mu.Lock()
	defer c.mu.Unlock()
	var ids []lockss.AUID
	for _, r := range c.requests {
		ids = append(ids, r.unit.ID())
	}
	for _, u := range c.due {
		if !slices.Contains(ids, u.ID()) {
			ids = append(ids, u.ID())
		}
	}
	return ids
}

// Refetch gets one URL of a unit from its publisher again, whatever its age, and returns when
// it is stored (crawl.md 13.1). Bytes that did not change are no error. It does not wait for
// hashes or crawls of the unit: a version stored during a hash is not seen by it. It is for
// nodes whose plugin and publisher allow it: a unit whose publisher is down (pub_down) has an
// error.
func (c *Crawler) Refetch(ctx context.Context, id lockss.AUID, url string) error {
	fail := func(err error) error { return fmt.Errorf("repair %s of %s from its publisher: %w", url, id, err) }
	u, ok := c.cfg.Units.Unit(id)
	if !ok {
		return fail(errors.New("no such unit is configured"))
	}
	cr, err := c.newCrawl(u, KindRepair)
	if err != nil {
		return fail(err)
	}
	if cr.plugin.Flag("pub_down") {
		return fail(errors.New("the publisher is down (pub_down)"))
	}
	ctx, cr.cancel = context.WithCancelCause(ctx)
	defer cr.cancel(nil)
	c.mu.Lock()
	c.repairs[cr] = true
	// The permission of an earlier repair holds for a while: polls repair URL by URL.
	if p := c.permits[id]; p != nil && time.Since(p.at) < c.cfg.RepairPermission {
		cr.permits = &permits{at: p.at, hosts: map[string]*permitted{}}
		for h, v := range p.hosts {
			cr.permits.hosts[h] = v
		}
	} else {
		cr.permits.at = time.Now()
	}
	c.mu.Unlock()
	err = cr.repair(ctx, url)
	c.mu.Lock()
	delete(c.repairs, cr)
	kept := &permits{at: cr.permits.at, hosts: map[string]*permitted{}}
	for h, v := range cr.permits.hosts {
		if v.ok {
			kept.hosts[h] = v
		}
	}
	c.permits[id] = kept
	c.mu.Unlock()
	if err != nil {
		return fail(err)
	}
	return nil
}
