package account

import (
	"net"
	"testing"
)

// pipes is a listener whose connections come from the given addresses.
type pipes struct{ from chan string }

type pipe struct {
	net.Conn
	from string
}

func (p pipe) RemoteAddr() net.Addr { return addr(p.from) }

type addr string

func (addr) Network() string  { return "tcp" }
func (a addr) String() string { return string(a) }

func (p pipes) Accept() (net.Conn, error) {
	from, ok := <-p.from
	if !ok {
		return nil, net.ErrClosed
	}
	a, _ := net.Pipe()
	return pipe{a, from}, nil
}
func (pipes) Close() error   { return nil }
func (pipes) Addr() net.Addr { return addr("") }

func TestLimit(t *testing.T) {
	from := []string{
		"192.0.2.7:1", "192.0.2.7:2", "192.0.2.7:3", // the third is one too many of its address
		"[2001:db8::1]:1", "[2001:db8::2]:1", "[2001:db8::3]:1", // of one network
		"[::ffff:192.0.2.7]:4",             // the first address again
		"198.51.100.1:1", "198.51.100.2:1", // the second is one too many of all
		"127.0.0.1:1", "127.0.0.2:1", "[::1]:1", // loopback
	}
	want := []string{"192.0.2.7:1", "192.0.2.7:2", "[2001:db8::1]:1", "[2001:db8::2]:1", "198.51.100.1:1", "127.0.0.1:1", "127.0.0.2:1", "[::1]:1"}
	p := pipes{make(chan string, 100)}
	l := Limit(p, 5, 2)
	for _, f := range from {
		p.from <- f
	}
	var open []net.Conn
	for _, w := range want {
		c, err := l.Accept()
		if err != nil || c.RemoteAddr().String() != w {
			t.Fatalf("got %v, %v, want %s", c, err, w)
		}
		open = append(open, c)
	}
	for _, c := range open {
		c.Close()
		c.Close() // counts once
	}
	p.from <- "192.0.2.7:9"
	if c, err := l.Accept(); err != nil {
		t.Errorf("after all are closed: %v", err)
	} else {
		c.Close()
	}
	if n := l.(*limited); n.total != 0 || len(n.open) != 0 {
		t.Errorf("after the end %d and %v are counted", n.total, n.open)
	}
}
