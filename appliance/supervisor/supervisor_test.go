package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// daemon is a process that lives as its script says: each life is "sick after", "ends
// after", "ends how", and whether it heeds TERM.
type life struct {
	lasts  time.Duration // 0: until a signal
	exit   string
	deaf   bool          // needs KILL
	well   time.Duration // first health answer after
	unwell time.Duration // answers stop after; 0: never
}

type world struct {
	mu    sync.Mutex
	start time.Time
	lives []life
	now   *proc
	log   []string
}

type proc struct {
	w     *world
	l     life
	since time.Time
	end   chan string
	once  sync.Once
}

func (w *world) say(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.log = append(w.log, fmt.Sprintf("%v ", time.Since(w.start))+fmt.Sprintf(format, args...))
}

func (w *world) Start() (Process, error) {
	if len(w.lives) == 0 {
		return nil, errors.New("no more lives")
	}
	w.say("start")
	p := &proc{w: w, l: w.lives[0], since: time.Now(), end: make(chan string, 1)}
	w.lives = w.lives[1:]
	w.mu.Lock()
	w.now = p
	w.mu.Unlock()
	if p.l.lasts > 0 {
		time.AfterFunc(p.l.lasts, func() { p.die(p.l.exit) })
	}
	return p, nil
}

func (p *proc) die(how string) { p.once.Do(func() { p.end <- how }) }
func (p *proc) PID() int       { return 7 }
func (p *proc) Wait() string   { return <-p.end }
func (p *proc) Signal(s syscall.Signal) error {
	p.w.say("%v", s)
	if s == syscall.SIGKILL || !p.l.deaf {
		p.die("signal " + s.String())
	}
	return nil
}

func (w *world) Health(context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	age := time.Since(w.now.since)
	if age < w.now.l.well || w.now.l.unwell > 0 && age >= w.now.l.unwell {
		return errors.New("refused")
	}
	return nil
}

func TestRun(t *testing.T) {
	crash := life{lasts: 500 * time.Millisecond, exit: "exit 1", well: time.Hour}
	for _, c := range []struct {
		name  string
		lives []life
		for_  time.Duration
		want  []string
		state string
	}{
		{"back-off", []life{crash, crash, crash, crash, crash, crash, crash, crash, {}}, 4 * time.Minute,
			[]string{"0s start", "1.5s start", "4s start", "8.5s start", "17s start", "33.5s start", "1m6s start", "2m6.5s start", "3m7s start", "4m0s terminated"}, Healthy},
		{"short wait after long health", []life{crash, crash, {lasts: 11 * time.Minute, exit: "signal killed"}, {}}, 12 * time.Minute,
			[]string{"0s start", "1.5s start", "4s start", "11m5s start", "12m0s terminated"}, Healthy},
		{"told to stop", []life{{lasts: 5 * time.Second, exit: ExitZero}, {}}, time.Minute, []string{"0s start"}, Stopped},
		{"no answer", []life{{well: time.Hour}, {}}, 6 * time.Minute, []string{"0s start", "5m0s terminated", "5m1s start", "6m0s terminated"}, Healthy},
		{"answers stop", []life{{unwell: time.Minute, deaf: true}, {}}, 7 * time.Minute,
			[]string{"0s start", "5m45s terminated", "6m5s killed", "6m6s start", "7m0s terminated"}, Healthy},
		{"sick", []life{{unwell: time.Minute}}, 2 * time.Minute, []string{"0s start", "2m0s terminated"}, Sick},
		{"slow start", []life{{well: 30 * time.Second}}, 20 * time.Second, []string{"0s start", "20s terminated"}, Starting},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := &world{start: time.Now(), lives: c.lives}
				s := New(Config{Start: w.Start, Health: w.Health})
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error, 1)
				go func() { done <- s.Run(ctx) }()
				time.Sleep(c.for_)
				if got := s.State().State; got != c.state {
					t.Errorf("state %s, want %s", got, c.state)
				}
				cancel()
				<-done
				if got := s.State().State; got != Stopped {
					t.Errorf("at the end: state %s", got)
				}
				if !slices.Equal(w.log, c.want) {
					t.Errorf("got  %q\nwant %q", w.log, c.want)
				}
			})
		})
	}
}

func TestRing(t *testing.T) {
	r := NewRing(20)
	for i := range 10 {
		r.Add(fmt.Sprintf("line %d", i)) // 7 bytes with its end
	}
	if got := r.Last(5); !slices.Equal(got, []string{"line 8", "line 9"}) {
		t.Errorf("got %q", got)
	}
	r.Add(strings.Repeat("x", 100))
	if got := r.Last(5); len(got) != 1 {
		t.Errorf("a long line: %q", got)
	}
}

func TestLineWriter(t *testing.T) {
	var got []string
	w := &LineWriter{Line: func(s string) { got = append(got, s) }}
	for _, p := range []string{"a", "b\nc\n", "\n", "d", strings.Repeat("x", maxLine), "\n"} {
		w.Write([]byte(p))
	}
	want := []string{"ab", "c", "", "d" + strings.Repeat("x", maxLine-1), "x"}
	if !slices.Equal(got, want) {
		t.Errorf("got %d lines %.20q", len(got), got)
	}
}

func TestParseStat(t *testing.T) {
	pid, ppid, state, err := parseStat([]byte("77 (a ) b) Z 1 77 0\n"))
	if pid != 77 || ppid != 1 || state != 'Z' || err != nil {
		t.Errorf("got %d %d %c %v", pid, ppid, state, err)
	}
	for _, s := range []string{"", "7", "7 (x", "x (y) Z 1", "7 (y)"} {
		if _, _, _, err := parseStat([]byte(s)); err == nil {
			t.Errorf("%q accepted", s)
		}
	}
}

// A stranger is reaped, one of ours is not taken away from its waiter.
func TestReap(t *testing.T) {
	c := NewChildren()
	ours := exec.Command("/bin/sh", "-c", "exit 3")
	stranger := exec.Command("/bin/sh", "-c", "exit 4")
	if err := c.Start(ours); err != nil {
		t.Skip("no shell here")
	}
	if err := stranger.Start(); err != nil {
		t.Fatal(err)
	}
	for gone := false; !gone; {
		c.reap("/proc", syscall.Getpid())
		gone = syscall.Kill(stranger.Process.Pid, 0) != nil
	}
	if got := c.Wait(ours); got != "exit 3" {
		t.Errorf("ours ended with %s", got)
	}
	if err := stranger.Wait(); err == nil {
		t.Error("the stranger's end was not reaped")
	}
	code, out, err := c.Run(t.Context(), "/bin/sh", "-c", "echo hello; exit 5")
	if code != 5 || out != "hello\n" || err != nil {
		t.Errorf("run: %d %q %v", code, out, err)
	}
}
