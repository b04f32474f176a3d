package transport

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"
)

// half is one direction of a connection in memory.
type half struct {
	mu     sync.Mutex
	cond   *sync.Cond
	buf    []byte
	limit  int  // bytes that fit; 0: any number
	ended  bool // FIN
	broken bool // the reader is gone
}

func newHalf(limit int) *half {
	h := &half{limit: limit}
	h.cond = sync.NewCond(&h.mu)
	return h
}

func (h *half) set(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f()
	h.cond.Broadcast()
}

// memConn is one end of a connection in memory. It can close its output alone, and has
// deadlines, so that it does in virtual time what TCP does in real time.
type memConn struct {
	in, out       *half
	local, remote net.Addr
	mu            sync.Mutex
	closed        bool
	read, write   time.Time // deadlines
}

// memPipe returns both ends of a connection; limit is what fits into it unread.
func memPipe(caller, listener netip.AddrPort, limit int) (near, far *memConn) {
	a, b := newHalf(limit), newHalf(limit)
	from, to := net.TCPAddrFromAddrPort(caller), net.TCPAddrFromAddrPort(listener)
	return &memConn{in: a, out: b, local: from, remote: to}, &memConn{in: b, out: a, local: to, remote: from}
}

func (c *memConn) state(deadline *time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	if !deadline.IsZero() && !time.Now().Before(*deadline) {
		return os.ErrDeadlineExceeded
	}
	return nil
}

func (c *memConn) Read(b []byte) (int, error) {
	c.in.mu.Lock()
	defer c.in.mu.Unlock()
	for {
		if err := c.state(&c.read); err != nil {
			return 0, err
		}
		if len(c.in.buf) > 0 {
			n := copy(b, c.in.buf)
			c.in.buf = c.in.buf[n:]
			c.in.cond.Broadcast()
			return n, nil
		}
		if c.in.ended {
			return 0, io.EOF
		}
		c.in.cond.Wait()
	}
}

func (c *memConn) Write(b []byte) (n int, err error) {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	for {
		if err := c.state(&c.write); err != nil {
			return n, err
		}
		if c.out.broken || c.out.ended {
			return n, syscall.EPIPE
		}
		room := len(b) - n
		if c.out.limit > 0 {
			room = min(room, c.out.limit-len(c.out.buf))
		}
		c.out.buf = append(c.out.buf, b[n:n+room]...)
		n += room
		c.out.cond.Broadcast()
		if n == len(b) {
			return n, nil
		}
		c.out.cond.Wait()
	}
}

func (c *memConn) CloseWrite() error {
	c.out.set(func() { c.out.ended = true })
	return nil
}

func (c *memConn) Close() error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.in.set(func() { c.in.broken = true })
	c.out.set(func() { c.out.ended = true })
	return nil
}

func (c *memConn) deadline(to *time.Time, h *half, t time.Time) error {
	c.mu.Lock()
	*to = t
	c.mu.Unlock()
	h.set(func() {})
	if !t.IsZero() {
		time.AfterFunc(time.Until(t), func() { h.set(func() {}) })
	}
	return nil
}

func (c *memConn) LocalAddr() net.Addr                { return c.local }
func (c *memConn) RemoteAddr() net.Addr               { return c.remote }
func (c *memConn) SetReadDeadline(t time.Time) error  { return c.deadline(&c.read, c.in, t) }
func (c *memConn) SetWriteDeadline(t time.Time) error { return c.deadline(&c.write, c.out, t) }
func (c *memConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// memNet connects listeners in memory by address.
type memNet struct {
	mu        sync.Mutex
	listeners map[netip.AddrPort]*memListener
	dials     map[netip.AddrPort][]time.Time
	limit     int
}

type memListener struct {
	addr  netip.AddrPort
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newMemNet() *memNet {
	return &memNet{listeners: map[netip.AddrPort]*memListener{}, dials: map[netip.AddrPort][]time.Time{}}
}

func (n *memNet) listen(addr netip.AddrPort) *memListener {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := &memListener{addr: addr, conns: make(chan net.Conn), done: make(chan struct{})}
	n.listeners[addr] = l
	return l
}

func (n *memNet) dial(ctx context.Context, from, to netip.AddrPort) (*memConn, error) {
	n.mu.Lock()
	n.dials[to] = append(n.dials[to], time.Now())
	l := n.listeners[to]
	near, far := memPipe(from, to, n.limit)
	n.mu.Unlock()
	if l == nil {
		return nil, syscall.ECONNREFUSED
	}
	select {
	case l.conns <- far:
		return near, nil
	case <-l.done:
		return nil, syscall.ECONNREFUSED
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// attempts returns when to was dialled, after begin.
func (n *memNet) attempts(to netip.AddrPort, begin time.Time) []time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	var at []time.Duration
	for _, d := range n.dials[to] {
		at = append(at, d.Sub(begin))
	}
	return at
}

func (l *memListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *memListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *memListener) Addr() net.Addr { return net.TCPAddrFromAddrPort(l.addr) }
