package account

import (
	"io"
	"net"
	"net/netip"
	"sync"
)

// Limit gives a listener with at most all open connections, and each of them from one address
// (of IPv6 its /64). One too many is closed at once: whoever opens connections and says
// nothing must not take descriptors and memory from the rest of the node. Connections from
// loopback count by themselves, so that the box itself always gets through.
func Limit(l net.Listener, all, each int) net.Listener {
	return &limited{Listener: l, all: all, each: each, open: map[string]int{}}
}

type limited struct {
	net.Listener
	all, each int

	mu    sync.Mutex
	total int            // without loopback
	open  map[string]int // by addressKey; "" is loopback
}

// Accept gives the next connection that keeps the limits.
func (l *limited) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		key := connKey(conn)
		if l.enter(key) {
			return &counted{Conn: conn, leave: sync.OnceFunc(func() { l.leave(key) })}, nil
		}
		conn.Close()
	}
}

// connKey is what a connection is counted by; "" for loopback.
func connKey(conn net.Conn) string {
	ap, err := netip.ParseAddrPort(conn.RemoteAddr().String())
	switch {
	case err != nil:
		return "unknown"
	case ap.Addr().Unmap().IsLoopback():
		return ""
	}
	return addressKey(ap.Addr())
}

func (l *limited) enter(key string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if key == "" {
		if l.open[key] >= l.all {
			return false
		}
	} else {
		if l.total >= l.all || l.open[key] >= l.each {
			return false
		}
		l.total++
	}
	l.open[key]++
	return true
}

func (l *limited) leave(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if key != "" {
		l.total--
	}
	if l.open[key]--; l.open[key] == 0 {
		delete(l.open, key)
	}
}

// counted leaves its listener's count when it is closed.
type counted struct {
	net.Conn
	leave func()
}

// ReadFrom lets the kernel copy a file to the connection, as it could without the count.
func (c *counted) ReadFrom(r io.Reader) (int64, error) { return io.Copy(c.Conn, r) }

// Close closes the connection; the second time it is not counted again.
func (c *counted) Close() error {
	defer c.leave()
	return c.Conn.Close()
}
