package supervisor

import (
	"bytes"
	"sync"
)

// maxLine is where a line without an end is cut, bytes.
const maxLine = 8 << 10

// A Ring keeps the last lines of a log in memory. It is safe for concurrent use.
type Ring struct {
	mu    sync.Mutex
	max   int // bytes
	size  int
	lines [][]byte
}

// NewRing makes a Ring of at most max bytes.
func NewRing(max int) *Ring { return &Ring{max: max} }

// Add adds a line; the oldest ones go when there is no room.
func (r *Ring) Add(line string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, []byte(line))
	r.size += len(line) + 1
	drop := 0
	for r.size > r.max && drop < len(r.lines)-1 {
		r.size -= len(r.lines[drop]) + 1
		r.lines[drop] = nil
		drop++
	}
	r.lines = r.lines[drop:]
}

// Last gives the last n lines, oldest first.
func (r *Ring) Last(n int) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []string
	for _, l := range r.lines[max(0, len(r.lines)-n):] {
		out = append(out, string(l))
	}
	return out
}

// A LineWriter cuts what is written to it into lines; the output of a program goes through
// one. It belongs to one goroutine.
type LineWriter struct {
	Line func(string) // called with each line, without its end
	rest []byte
}

// Write takes any piece of output and never fails.
func (w *LineWriter) Write(p []byte) (int, error) {
	n := len(p)
	for {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			break
		}
		w.Line(string(append(w.rest, p[:i]...)))
		w.rest, p = w.rest[:0], p[i+1:]
	}
	w.rest = append(w.rest, p...)
	for len(w.rest) >= maxLine {
		w.Line(string(w.rest[:maxLine]))
		w.rest = append(w.rest[:0], w.rest[maxLine:]...)
	}
	return n, nil
}
