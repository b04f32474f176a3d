// Package supervisor starts the daemon, keeps it running, and stops it in order
// (appliance.md 9). It also reaps the children that PID 1 inherits, and keeps the last log
// lines in memory.
//
//	starting ─ health answers ─► healthy ─ answers stop ─► sick ─ 5 min ─► ended as a crash
//	any ─ exit 0 ─► stopped        any ─ other end ─► waiting 1, 2, 4 … 60 s ─► starting
//
// After 10 minutes of health the wait is 1 s again.
package supervisor

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"syscall"
	"time"
)

// States of the daemon; the words of the daemon's line to PID 1.
const (
	Off      = "off"
	Starting = "starting"
	Healthy  = "healthy"
	Sick     = "sick"
	Waiting  = "waiting"
	Stopped  = "stopped"
)

const (
	firstWait  = time.Second
	longWait   = time.Minute
	steady     = 10 * time.Minute // of health, then the wait is short again
	sickMost   = 5 * time.Minute  // without a health answer
	graceTime  = 20 * time.Second // between TERM and KILL
	askOften   = time.Second      // for health, until the first answer
	askSeldom  = 15 * time.Second // after it
	askTimeout = 5 * time.Second
)

// A Process is a running daemon.
type Process interface {
	PID() int
	// Wait waits for the end and says how it was: "exit 0", "exit 1", "signal killed".
	Wait() string
	Signal(syscall.Signal) error
}

// ExitZero is what Wait says of a daemon that ended as told.
const ExitZero = "exit 0"

// A Config says what is supervised.
type Config struct {
	Start  func() (Process, error)
	Health func(ctx context.Context) error // one question, at most 5 s
	Log    *slog.Logger
}

// A State is the daemon now.
type State struct {
	State    string
	PID      int
	Starts   int
	Started  time.Time
	LastExit string
}

// A Supervisor keeps one daemon running.
type Supervisor struct {
	c       Config
	healthy chan struct{}
	once    sync.Once

	mu    sync.Mutex
	state State
}

// New makes a Supervisor; Run starts the daemon.
func New(c Config) *Supervisor {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Supervisor{c: c, healthy: make(chan struct{}), state: State{State: Off}}
}

// WasHealthy is closed at the first health answer since boot.
func (s *Supervisor) WasHealthy() <-chan struct{} { return s.healthy }

// State gives the daemon's state.
func (s *Supervisor) State() State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

func (s *Supervisor) set(change func(*State)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.state)
}

// Run keeps the daemon running until ctx ends, and then stops it: TERM, 20 s, KILL. It
// returns when the daemon is gone. A daemon that ended as told stays ended.
func (s *Supervisor) Run(ctx context.Context) error {
	wait := firstWait
	for ctx.Err() == nil {
		lasted, told := s.live(ctx)
		if ctx.Err() != nil {
			break
		}
		if told {
			s.set(func(st *State) { st.State, st.PID = Stopped, 0 })
			s.c.Log.Info("daemon stopped as told")
			<-ctx.Done()
			break
		}
		if lasted >= steady {
			wait = firstWait
		}
		s.set(func(st *State) { st.State, st.PID = Waiting, 0 })
		s.c.Log.Warn("daemon ended", "exit", s.State().LastExit, "next_start", wait)
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
		wait = min(2*wait, longWait)
	}
	s.set(func(st *State) { st.State, st.PID = Stopped, 0 })
	return context.Cause(ctx)
}

// live is one life of the daemon. lasted is how long it was healthy at the end.
func (s *Supervisor) live(ctx context.Context) (lasted time.Duration, told bool) {
	p, err := s.c.Start()
	if err != nil {
		s.set(func(st *State) { st.LastExit = fmt.Sprintf("not started: %v", err) })
		return 0, false
	}
	start := time.Now()
	s.set(func(st *State) { st.State, st.PID, st.Started = Starting, p.PID(), start; st.Starts++ })
	s.c.Log.Info("daemon started", "pid", p.PID())
	ended := make(chan string, 1)
	go func() { ended <- p.Wait() }()

	var healthySince time.Time
	lastAnswer := start
	ask := time.NewTimer(0)
	defer ask.Stop()
	exit := ""
	for exit == "" {
		select {
		case exit = <-ended:
		case <-ctx.Done():
			exit = s.stop(p, ended)
		case <-ask.C:
			q, cancel := context.WithTimeout(ctx, askTimeout)
			err := s.c.Health(q)
			cancel()
			switch {
			case err == nil:
				lastAnswer = time.Now()
				if healthySince.IsZero() {
					healthySince = lastAnswer
					s.set(func(st *State) { st.State = Healthy })
					s.c.Log.Info("daemon healthy", "after", lastAnswer.Sub(start).Round(time.Millisecond))
					s.once.Do(func() { close(s.healthy) })
				}
				ask.Reset(askSeldom)
				continue
			case !healthySince.IsZero():
				healthySince = time.Time{}
				s.set(func(st *State) { st.State = Sick })
				s.c.Log.Warn("daemon does not answer", "err", err)
			}
			ask.Reset(askOften)
			if time.Since(lastAnswer) >= sickMost {
				s.c.Log.Error("daemon has not answered for too long, ending it", "err", err)
				exit = s.stop(p, ended) + " after no health answer"
			}
		}
	}
	s.set(func(st *State) { st.LastExit = exit })
	if !healthySince.IsZero() {
		lasted = time.Since(healthySince)
	}
	return lasted, exit == ExitZero && ctx.Err() == nil
}

// stop ends a daemon in order.
func (s *Supervisor) stop(p Process, ended <-chan string) string {
	if err := p.Signal(syscall.SIGTERM); err != nil {
		s.c.Log.Warn("end daemon", "err", err)
	}
	select {
	case exit := <-ended:
		return exit
	case <-time.After(graceTime):
	}
	s.c.Log.Warn("daemon does not end, killing it")
	if err := p.Signal(syscall.SIGKILL); err != nil {
		s.c.Log.Warn("kill daemon", "err", err)
	}
	return <-ended
}
