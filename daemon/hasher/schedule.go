package hasher

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"armarium/daemon/lockss"
)

// A task is a promise of hashing time.
type task struct {
	au              lockss.AUID
	start, deadline time.Time
	left            time.Duration // of its duration, at full load
	running         bool
}

// schedule is the list of promises. It is guarded by Hasher.mu.
type schedule struct{ tasks []*task }

// Reserve promises d of hashing between start and deadline. It fails with [ErrNoTime] when
// then not all promises could be kept, earliest deadline first, at a load of 1 − OverheadLoad
// (lcap-v3.md 12.2). The promise ends when a hash of au with this deadline has run, or at the
// deadline.
func (h *Hasher) Reserve(au lockss.AUID, start, deadline time.Time, d time.Duration) error {
	now := time.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.shift(func() {}) // charges the one that runs
	s := &h.schedule
	s.tasks = slices.DeleteFunc(s.tasks, func(t *task) bool { return !t.running && !now.Before(t.deadline) })
	add := &task{au: au, start: start, deadline: deadline, left: time.Duration(float64(d) / (1 - h.cfg.OverheadLoad))}
	if h.cfg.OverheadLoad >= 1 || h.cfg.OverheadLoad < 0 {
		return fmt.Errorf("reserve %v for %s: overhead load %v, want 0..1: %w", d, au, h.cfg.OverheadLoad, ErrNoTime)
	}
	if len(s.tasks) >= h.cfg.MaxReservation {
		return fmt.Errorf("reserve %v for %s: %d hashes are scheduled: %w", d, au, len(s.tasks), ErrNoTime)
	}
	already := late(s.tasks, now) // by no fault of this one
	for _, t := range late(append(slices.Clone(s.tasks), add), now) {
		if !slices.Contains(already, t) {
			return fmt.Errorf("reserve %v for %s by %s: %s would be late: %w", d, au, deadline.Format(time.DateTime), t.au, ErrNoTime)
		}
	}
	s.tasks = append(s.tasks, add)
	return nil
}

// Release takes back the promise of hashing au by deadline, when the hash will not take
// place.
func (h *Hasher) Release(au lockss.AUID, deadline time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i, t := range h.schedule.tasks {
		if t.au == au && t.deadline.Equal(deadline) && !t.running {
			h.schedule.tasks = slices.Delete(h.schedule.tasks, i, i+1)
			return
		}
	}
}

// late plays the tasks through from now on, earliest deadline first, a more urgent one
// interrupting others, and returns those that do not finish; each ends at its deadline.
func late(tasks []*task, now time.Time) []*task {
	left := make([]time.Duration, len(tasks))
	for i, t := range tasks {
		left[i] = t.left
	}
	var missed []*task
	for {
		current, next := -1, time.Time{} // most urgent task that may run; when another may begin
		for i, t := range tasks {
			switch {
			case left[i] <= 0:
			case t.start.After(now):
				if next.IsZero() || t.start.Before(next) {
					next = t.start
				}
			case current < 0 || t.deadline.Before(tasks[current].deadline):
				current = i
			}
		}
		if current < 0 {
			if next.IsZero() {
				return missed
			}
			now = next
			continue
		}
		t := tasks[current]
		run := min(left[current], max(0, t.deadline.Sub(now)))
		if run == 0 {
			missed = append(missed, t)
			left[current] = 0
			continue
		}
		if !next.IsZero() {
			run = min(run, next.Sub(now))
		}
		left[current] -= run
		now = now.Add(run)
	}
}

// turns says which of the hashes under way runs. It is guarded by Hasher.mu.
type turns struct {
	order   []*run        // most urgent first
	since   time.Time     // the first has its turn
	changed chan struct{} // closed when the first changes
}

// urgency compares hashes: earliest deadline first, then who came first.
func urgency(a, b *run) int {
	if a.req.Deadline.IsZero() != b.req.Deadline.IsZero() {
		if a.req.Deadline.IsZero() {
			return 1
		}
		return -1
	}
	return cmp.Or(a.req.Deadline.Compare(b.req.Deadline), a.began.Compare(b.began))
}

// enter puts r among the hashes under way and returns the promise it uses, if any.
func (h *Hasher) enter(r *run) *task {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.shift(func() {
		h.turns.order = append(h.turns.order, r)
		slices.SortStableFunc(h.turns.order, urgency)
	})
	for _, t := range h.schedule.tasks {
		if t.au == r.req.AU && t.deadline.Equal(r.req.Deadline) && !t.running {
			t.running = true
			return t
		}
	}
	return nil
}

// shift changes the order of turns and charges the time to the one that had it. The lock is
// held.
func (h *Hasher) shift(change func()) {
	first := func() *run {
		if len(h.turns.order) == 0 {
			return nil
		}
		return h.turns.order[0]
	}
	now, before := time.Now(), first()
	if before != nil {
		d := now.Sub(h.turns.since)
		before.spent += d
		for _, t := range h.schedule.tasks {
			if t.running && t.au == before.req.AU && t.deadline.Equal(before.req.Deadline) {
				t.left = max(0, t.left-d)
			}
		}
	}
	change()
	h.turns.since = now
	if first() != before {
		close(h.turns.changed)
		h.turns.changed = make(chan struct{})
	}
}

// turn waits until r is the most urgent hash.
func (h *Hasher) turn(ctx context.Context, r *run) error {
	for {
		h.mu.Lock()
		mine, changed := h.turns.order[0] == r, h.turns.changed
		h.mu.Unlock()
		if mine {
			return ctx.Err()
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// leave ends r and learns from how long it took (lcap-v3.md 12.1).
func (h *Hasher) leave(r *run, t *task, err error) {
	h.mu.Lock()
	h.shift(func() {
		h.turns.order = slices.DeleteFunc(h.turns.order, func(o *run) bool { return o == r })
	})
	if t != nil {
		h.schedule.tasks = slices.DeleteFunc(h.schedule.tasks, func(o *task) bool { return o == t })
	}
	spent, whole := r.spent, r.req.URL == "" && r.req.Modulus <= 1
	timeout := errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrTimeout)
	if err == nil && whole {
		h.bytes += r.bytes.Load()
		h.busy += spent
	}
	h.mu.Unlock()
	if !whole || err != nil && !timeout {
		return
	}
	old := h.known(r.req.AU)
	estimate := spent
	switch {
	case timeout && old > spent:
		return
	case timeout:
		estimate = spent + spent/2
	case old > 0:
		estimate = (old + spent) / 2
	}
	h.mu.Lock()
	h.learnt[r.req.AU] = estimate
	h.mu.Unlock()
	if h.cfg.SetHashTime != nil {
		h.cfg.SetHashTime(r.req.AU, estimate)
	}
}

// known returns the learnt duration, 0 if there is none.
func (h *Hasher) known(au lockss.AUID) time.Duration {
	h.mu.Lock()
	d := h.learnt[au]
	h.mu.Unlock()
	if d == 0 && h.cfg.HashTime != nil {
		d = h.cfg.HashTime(au)
	}
	return d
}

// Estimate returns how long a hash of the whole unit takes, padded for scheduling: as learnt,
// else from its size and the speed measured with other units, else from the configured speed.
func (h *Hasher) Estimate(au lockss.AUID) time.Duration {
	d := h.known(au)
	if d == 0 {
		if unit, ok := h.cfg.Units.Unit(au); ok {
			d = h.bySize(unit.Bytes())
		}
	}
	return d + d*time.Duration(h.cfg.PadPercent)/100 + h.cfg.PadConstant
}

// minMeasured is how long must have been hashed for the speed to be believed.
const minMeasured = time.Second

func (h *Hasher) bySize(bytes int64) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	perMS := float64(h.cfg.Speed)
	if h.busy >= minMeasured {
		perMS = max(perMS, float64(h.bytes)/(float64(h.busy)/float64(time.Millisecond)))
	}
	return time.Duration(float64(bytes) / perMS * float64(time.Millisecond))
}
