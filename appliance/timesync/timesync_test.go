package timesync

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

const ms = time.Millisecond

func TestJudge(t *testing.T) {
	for _, c := range []struct {
		name  string
		in    []time.Duration
		want  time.Duration
		trust string
	}{
		{"none", nil, 0, Unverified},
		{"one", []time.Duration{3 * time.Hour}, 3 * time.Hour, OneServer},
		{"two agree", []time.Duration{10 * ms, 30 * ms}, 20 * ms, OneServer},
		{"two contradict", []time.Duration{0, time.Hour}, 0, Unverified},
		{"three agree", []time.Duration{30 * ms, 10 * ms, 20 * ms}, 20 * ms, Verified},
		{"one of three lies", []time.Duration{10 * ms, time.Hour, 20 * ms}, 20 * ms, Verified},
		{"all differ", []time.Duration{0, time.Minute, time.Hour}, 0, Unverified},
		{"two against two", []time.Duration{0, 0, time.Hour, time.Hour}, 0, Unverified},
		{"one of four lies", []time.Duration{0, 2 * ms, 4 * ms, -time.Hour}, ms, Verified},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got, trust := Judge(c.in); got != c.want || trust != c.trust {
				t.Errorf("got %v, %s; want %v, %s", got, trust, c.want, c.trust)
			}
		})
	}
}

type clock struct {
	mu  sync.Mutex
	log []string
}

func (c *clock) note(what string, by time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.log = append(c.log, fmt.Sprintf("%s %v", what, by))
	return nil
}
func (c *clock) Step(by time.Duration) error { return c.note("step", by) }
func (c *clock) Slew(by time.Duration) error { return c.note("slew", by) }

func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		answer := map[string]time.Duration{}
		c := &clock{}
		s := New(Config{Servers: []string{"a", "b", "c"}, Clock: c, Floor: time.Now().Add(-time.Hour), Query: func(_ context.Context, server string) (time.Duration, error) {
			mu.Lock()
			defer mu.Unlock()
			if d, ok := answer[server]; ok {
				return d, nil
			}
			return 0, errors.New("silent")
		}})
		all := func(d time.Duration) {
			mu.Lock()
			defer mu.Unlock()
			for _, n := range s.c.Servers {
				answer[n] = d
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()

		time.Sleep(time.Second)
		if got := s.State(); got.State != Unverified || got.Note != "no time server answers" {
			t.Errorf("silence: %+v", got)
		}
		all(-2 * time.Hour) // before the floor
		time.Sleep(soon)
		if got := s.State(); got.State != Unverified {
			t.Errorf("before the floor: %+v", got)
		}
		all(200 * ms)
		time.Sleep(soon)
		<-s.Ready()
		if got := s.State(); got.State != Verified || got.Source != "3 time servers" || got.Offset != 200*ms {
			t.Errorf("answers: %+v", got)
		}
		all(100 * ms)
		time.Sleep(later)
		all(time.Minute)
		time.Sleep(later)
		cancel()
		<-done
		if want := []string{"step 200ms", "slew 100ms", "step 1m0s"}; !slices.Equal(c.log, want) {
			t.Errorf("clock: %q, want %q", c.log, want)
		}
	})
}

func TestRaiseToFloor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		c := &clock{}
		s := New(Config{Floor: Floor(now.Add(-time.Hour), now.Add(time.Hour), time.Time{}), Clock: c})
		if raised, err := s.RaiseToFloor(); !raised || err != nil {
			t.Errorf("got %v, %v", raised, err)
		}
		s = New(Config{Floor: now, Clock: c})
		if raised, _ := s.RaiseToFloor(); raised {
			t.Error("a clock at the floor was raised")
		}
		if want := []string{"step 1h0m0s"}; !slices.Equal(c.log, want) {
			t.Errorf("clock: %q", c.log)
		}
	})
}
