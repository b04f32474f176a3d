// Package timesync gives the box a time it can trust (appliance.md 8.2).
//
// The clock is never before the floor: the build time of the image or the last write to a
// content disk, whichever is later. Then up to four time servers are asked (SNTP, RFC 4330).
// With three or more answers of which most agree, the time is verified: the clock is set to
// their median, and so is the hardware clock. Fewer answers are used too, but flagged.
// Later corrections below half a second are slewed, so that time does not run backwards.
package timesync

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/beevik/ntp"
	"golang.org/x/sys/unix"
)

// Trust in the clock; the words of the daemon's line to PID 1.
const (
	Verified   = "verified"
	OneServer  = "one server"
	Unverified = "not verified"
)

const (
	agree    = 500 * time.Millisecond // answers this near to the median agree with it
	slewMost = 500 * time.Millisecond // larger corrections are steps
	patience = 5 * time.Second        // for one answer
	soon     = 30 * time.Second       // between rounds until the first answers
	later    = time.Hour              // between rounds after them
)

// A Clock is what is set; SystemClock is the real one.
type Clock interface {
	Step(by time.Duration) error // system and hardware clock
	Slew(by time.Duration) error
}

// A Config says whom to ask.
type Config struct {
	Servers []string  // at most four, host or host:port
	Floor   time.Time // answers before it are refused
	Clock   Clock
	Query   func(ctx context.Context, server string) (time.Duration, error) // nil: SNTP
	Log     *slog.Logger
}

// A State is the trust in the clock now.
type State struct {
	State  string        // Verified, OneServer, Unverified
	Source string        // "hardware clock", "3 time servers"
	Offset time.Duration // last correction
	Note   string
}

// A Sync asks servers while it runs.
type Sync struct {
	c     Config
	ready chan struct{}
	once  sync.Once

	mu    sync.Mutex
	state State
}

// Floor is the latest of the given times; the zero ones do not count.
func Floor(times ...time.Time) time.Time {
	var f time.Time
	for _, t := range times {
		if t.After(f) {
			f = t
		}
	}
	return f
}

// New makes a Sync; Run does the work.
func New(c Config) *Sync {
	if c.Query == nil {
		c.Query = query
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	s := &Sync{c: c, ready: make(chan struct{}), state: State{State: Unverified, Source: "hardware clock"}}
	if len(c.Servers) == 0 {
		s.state.Note = "the settings name no time server"
	}
	return s
}

// RaiseToFloor steps a clock that is before the floor up to it, and says so.
func (s *Sync) RaiseToFloor() (bool, error) {
	by := time.Until(s.c.Floor)
	if by <= 0 {
		return false, nil
	}
	s.mu.Lock()
	s.state.Source = "floor"
	s.state.Note = "the hardware clock was behind the newest time known; its battery may be empty"
	s.mu.Unlock()
	if err := s.c.Clock.Step(by); err != nil {
		return false, fmt.Errorf("clock: %w", err)
	}
	return true, nil
}

// Ready is closed after the first round in which a server answered.
func (s *Sync) Ready() <-chan struct{} { return s.ready }

// State gives the trust in the clock.
func (s *Sync) State() State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

// Run asks in rounds until ctx ends. Without servers it only waits.
func (s *Sync) Run(ctx context.Context) error {
	first := true
	for len(s.c.Servers) > 0 {
		wait := soon
		if s.round(ctx, first) {
			first = false
			if s.State().State == Verified || len(s.c.Servers) < 3 {
				wait = later
			}
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(wait):
		}
	}
	<-ctx.Done()
	return context.Cause(ctx)
}

// round asks all servers once and corrects the clock.
func (s *Sync) round(ctx context.Context, first bool) bool {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var (
		g       sync.WaitGroup
		mu      sync.Mutex
		offsets []time.Duration
		faults  []error
	)
	for _, server := range s.c.Servers {
		g.Go(func() {
			off, err := s.c.Query(ctx, server)
			if err == nil && time.Now().Add(off).Before(s.c.Floor) {
				err = fmt.Errorf("%s tells a time before %s", server, s.c.Floor.UTC().Format(time.DateOnly))
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				faults = append(faults, err)
			} else {
				offsets = append(offsets, off)
			}
		})
	}
	g.Wait()
	off, trust := Judge(offsets)
	if trust == Unverified {
		note := "no time server answers"
		if len(offsets) > 0 {
			note = "the time servers contradict each other"
		}
		s.c.Log.Warn(note, "servers", len(s.c.Servers), "err", errors.Join(faults...))
		s.mu.Lock()
		s.state.Note = note
		s.mu.Unlock()
		return false
	}
	var err error
	if first || off.Abs() >= slewMost {
		err = s.c.Clock.Step(off)
	} else {
		err = s.c.Clock.Slew(off)
	}
	note := ""
	if err != nil {
		note = "the clock cannot be set"
		s.c.Log.Error(note, "err", err)
	}
	s.mu.Lock()
	s.state = State{State: trust, Source: fmt.Sprintf("%d time servers", len(offsets)), Offset: off, Note: note}
	if len(offsets) == 1 {
		s.state.Source = "1 time server"
	}
	s.mu.Unlock()
	s.c.Log.Info("time", "state", trust, "servers", len(offsets), "offset", off)
	s.once.Do(func() { close(s.ready) })
	return true
}

// Judge gives the median of the answers and the trust in it: Verified when three or more
// answered and most of them are near the median, OneServer when one or two answered and do
// not contradict each other.
func Judge(offsets []time.Duration) (time.Duration, string) {
	if len(offsets) == 0 {
		return 0, Unverified
	}
	o := slices.Sorted(slices.Values(offsets))
	median := (o[(len(o)-1)/2] + o[len(o)/2]) / 2
	near := 0
	for _, v := range o {
		if (v - median).Abs() <= agree {
			near++
		}
	}
	switch {
	case len(o) >= 3 && near > len(o)/2:
		return median, Verified
	case len(o) < 3 && near == len(o):
		return median, OneServer
	}
	return 0, Unverified
}

// query asks one server.
func query(ctx context.Context, server string) (time.Duration, error) {
	timeout := patience
	if d, ok := ctx.Deadline(); ok {
		timeout = min(timeout, time.Until(d))
	}
	r, err := ntp.QueryWithOptions(server, ntp.QueryOptions{Timeout: timeout})
	if err == nil {
		err = r.Validate()
	}
	if err != nil {
		return 0, fmt.Errorf("time server %s: %w", server, err)
	}
	return r.ClockOffset, nil
}

// SystemClock is the clock of the kernel and, after it, of the machine.
type SystemClock struct{}

// Step sets the clock, and the hardware clock with it.
func (SystemClock) Step(by time.Duration) error {
	now := time.Now().Add(by)
	tv := unix.NsecToTimeval(now.UnixNano())
	if err := unix.Settimeofday(&tv); err != nil {
		return fmt.Errorf("set clock: %w", err)
	}
	return setHardware(now)
}

// Slew lets the clock run faster or slower until it is right, as adjtime(3) does.
func (SystemClock) Slew(by time.Duration) error {
	const offsetSingleShot = 0x8001
	if _, err := unix.Adjtimex(&unix.Timex{Modes: offsetSingleShot, Offset: by.Microseconds()}); err != nil {
		return fmt.Errorf("slew clock: %w", err)
	}
	return nil
}

func setHardware(now time.Time) error {
	fd, err := unix.Open("/dev/rtc0", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil // a machine without one
	}
	if err != nil {
		return fmt.Errorf("hardware clock: %w", err)
	}
	defer unix.Close(fd)
	u := now.UTC()
	t := unix.RTCTime{Sec: int32(u.Second()), Min: int32(u.Minute()), Hour: int32(u.Hour()),
		Mday: int32(u.Day()), Mon: int32(u.Month()) - 1, Year: int32(u.Year()) - 1900}
	if err := unix.IoctlSetRTCTime(fd, &t); err != nil {
		return fmt.Errorf("hardware clock: %w", err)
	}
	return nil
}
