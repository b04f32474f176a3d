// Package console writes to the consoles of the box: the screen, tty0, and the serial line,
// ttyS0 (appliance.md 11). PID 1 opens both itself, because /dev/console is only one of them.
//
// Writing never waits for a console: each has a queue and a goroutine of its own, and lines
// that find the queue full are counted and left out. A serial line whose other end holds it
// up must not hold up the box.
package console

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Kinds of console.
const (
	Screen = iota // understands cursor control; 80×25
	Serial        // line by line
)

const queue = 2048 // lines

// A Console is all consoles together. It is safe for concurrent use.
type Console struct {
	mu   sync.Mutex
	outs []*out
	g    sync.WaitGroup
}

type out struct {
	kind    int
	w       io.Writer
	lines   chan string
	mu      sync.Mutex
	dropped int
	pending int // queued, or in the goroutine's hand
}

// Add begins to write to one more console.
func (c *Console) Add(kind int, w io.Writer) {
	o := &out{kind: kind, w: w, lines: make(chan string, queue)}
	c.mu.Lock()
	c.outs = append(c.outs, o)
	c.mu.Unlock()
	c.g.Go(o.run)
}

// Line writes a line to all consoles.
func (c *Console) Line(s string) {
	s = oneLine(s)
	c.each(func(o *out) { o.put(o.text(s) + "\n") })
}

// Log writes a line to the serial consoles only: a log would push the status off the screen.
func (c *Console) Log(s string) {
	s = oneLine(s)
	c.each(func(o *out) {
		if o.kind == Serial {
			o.put(o.text(s) + "\n")
		}
	})
}

// Show replaces what is on the screen, and writes the same text to the serial line.
func (c *Console) Show(text string) {
	c.each(func(o *out) {
		if o.kind == Screen {
			o.put("\x1b[2J\x1b[H" + o.text(text))
			return
		}
		o.put(o.text(text))
	})
}

// Flush waits until all that was written is out, at most for the given time. Without it the
// last lines before a machine goes off would stay in the buffer of the serial line.
func (c *Console) Flush(most time.Duration) {
	end := time.Now().Add(most)
	c.each(func(o *out) {
		for o.waiting() && time.Now().Before(end) {
			time.Sleep(5 * time.Millisecond)
		}
		o.drain(time.Until(end))
	})
}

func (o *out) waiting() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.pending > 0
}

// drain waits until a terminal has sent what its driver keeps. A terminal that is held up
// keeps the goroutine, which ends with the machine.
func (o *out) drain(most time.Duration) {
	f, ok := o.w.(*os.File)
	if !ok || most <= 0 {
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		c, err := f.SyscallConn()
		if err != nil {
			return // closed: nothing to wait for
		}
		c.Control(func(fd uintptr) { unix.IoctlSetInt(int(fd), unix.TCSBRK, 1) }) // tcdrain
	}()
	select {
	case <-done:
	case <-time.After(most):
	}
}

// Close ends the goroutines after what is queued is written.
func (c *Console) Close() {
	c.mu.Lock()
	for _, o := range c.outs {
		close(o.lines)
	}
	c.outs = nil
	c.mu.Unlock()
	c.g.Wait()
}

func (c *Console) each(f func(*out)) {
	c.mu.Lock()
	outs := c.outs
	c.mu.Unlock()
	for _, o := range outs {
		f(o)
	}
}

// oneLine keeps a text that came from elsewhere from adding lines that look like ours.
func oneLine(s string) string { return strings.ReplaceAll(s, "\n", "?") }

// text fits a line to the console: the kernel's screen font has no ellipsis.
func (o *out) text(s string) string {
	if o.kind == Screen {
		s = strings.ReplaceAll(s, "…", "...")
	}
	// Control characters could move the cursor, those from 0x80 (as 0x9b for ESC [) too; a log
	// line may come from anywhere.
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' || r >= 0x7f && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}

func (o *out) put(s string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.dropped > 0 {
		select {
		case o.lines <- fmt.Sprintf("(%d lines left out: the console is slow)\n", o.dropped):
			o.dropped = 0
			o.pending++
		default:
		}
	}
	select {
	case o.lines <- s:
		o.pending++
	default:
		o.dropped++
	}
}

func (o *out) run() {
	for s := range o.lines {
		// A console that went away is no reason to stop; its error has nowhere to go.
		io.WriteString(o.w, s)
		o.mu.Lock()
		o.pending--
		o.mu.Unlock()
	}
}
