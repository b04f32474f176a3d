package supervisor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// Children are the processes of PID 1: those it started, whose ends are waited for here,
// and strangers it inherited, whose ends are only cleared away. A stranger's exit code is
// never taken for that of a child, because only processes that are not ours are reaped.
type Children struct {
	mu  sync.Mutex
	own map[int]bool
}

// NewChildren makes an empty set.
func NewChildren() *Children { return &Children{own: map[int]bool{}} }

// Start starts a command as ours.
func (c *Children) Start(cmd *exec.Cmd) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := cmd.Start(); err != nil {
		return err
	}
	c.own[cmd.Process.Pid] = true
	return nil
}

// Wait waits for a command that Start started and says how it ended.
func (c *Children) Wait(cmd *exec.Cmd) string {
	err := cmd.Wait()
	c.mu.Lock()
	delete(c.own, cmd.Process.Pid)
	c.mu.Unlock()
	if st, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && st.Signaled() {
		return "signal " + st.Signal().String()
	}
	if cmd.ProcessState != nil {
		return fmt.Sprintf("exit %d", cmd.ProcessState.ExitCode())
	}
	return fmt.Sprint(err)
}

// maxOutput is how much of a program's output Run keeps, bytes.
const maxOutput = 64 << 10

// Run runs a program to its end: disks.Keeper uses it for the ext4 tools.
func (c *Children) Run(ctx context.Context, name string, args ...string) (int, string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	var out bytes.Buffer
	w := &limited{&out, maxOutput}
	cmd.Stdout, cmd.Stderr = w, w
	if err := c.Start(cmd); err != nil {
		return -1, "", fmt.Errorf("start %s: %w", name, err)
	}
	how := c.Wait(cmd)
	if code := cmd.ProcessState.ExitCode(); code >= 0 {
		return code, out.String(), nil
	}
	return -1, out.String(), fmt.Errorf("%s: %s", name, how)
}

type limited struct {
	buf  *bytes.Buffer
	left int
}

func (l *limited) Write(p []byte) (int, error) {
	n := min(len(p), l.left)
	l.buf.Write(p[:n])
	l.left -= n
	return len(p), nil
}

// Reap clears away ended strangers until ctx ends. Only PID 1 needs it.
func (c *Children) Reap(ctx context.Context) error {
	sig := make(chan os.Signal, 1)
	signal.Notify(sig, syscall.SIGCHLD)
	defer signal.Stop(sig)
	t := time.NewTicker(time.Minute) // a signal may be lost between two of the same kind
	defer t.Stop()
	for {
		c.reap("/proc", os.Getpid())
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-sig:
		case <-t.C:
		}
	}
}

// reap waits for every ended child of parent that is not ours.
func (c *Children) reap(proc string, parent int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	stats, _ := filepath.Glob(filepath.Join(proc, "[0-9]*", "stat"))
	for _, p := range stats {
		b, err := os.ReadFile(p)
		if err != nil {
			continue
		}
		pid, ppid, state, err := parseStat(b)
		if err == nil && ppid == parent && state == 'Z' && !c.own[pid] {
			syscall.Wait4(pid, nil, syscall.WNOHANG, nil)
		}
	}
}

// parseStat reads the first fields of /proc/PID/stat, "7 (name) Z 1 …"; a name may hold
// blanks and brackets.
func parseStat(b []byte) (pid, ppid int, state byte, err error) {
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 1 || end < open {
		return 0, 0, 0, errors.New("no process status")
	}
	rest := bytes.Fields(b[end+1:])
	if len(rest) < 2 || len(rest[0]) != 1 {
		return 0, 0, 0, errors.New("no process status")
	}
	pid, err1 := strconv.Atoi(string(bytes.TrimSpace(b[:open])))
	ppid, err2 := strconv.Atoi(string(rest[1]))
	return pid, ppid, rest[0][0], errors.Join(err1, err2)
}
