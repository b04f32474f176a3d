package platform

import (
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func serve(t *testing.T, state func() State) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "p.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, l, state) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Serve ended with %v, want context.Canceled", err)
		}
	})
	return path
}

func TestState(t *testing.T) {
	want := State{
		Sentence: "running", Host: "node.example.org", Seal: "AAAA-BBBB-CCCC-DDDD", Lock: LockKernel,
		Booted: time.Unix(1700000000, 0).UTC(), Uptime: 3 * time.Second,
		Network: Network{State: "up", Kind: "dhcp", Addresses: []string{"192.0.2.7/24"}},
		Time:    Time{State: TimeVerified, Source: "3 time servers", Offset: -time.Millisecond},
		Disks:   []Disk{{Mount: "/cache0", State: DiskOK, Total: 1 << 40, Free: 1 << 39}},
		Daemon:  Daemon{State: DaemonHealthy, PID: 77, Starts: 1},
		Steps:   []Step{{Number: 3, Name: "stick", Result: "ok", Took: time.Second}},
	}
	path := serve(t, func() State { return want })
	got, err := Client{Path: path}.State(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !got.Booted.Equal(want.Booted) {
		t.Errorf("booted: got %v, want %v", got.Booted, want.Booted)
	}
	got.Booted, want.Booted = time.Time{}, time.Time{}
	got.Daemon.Started, want.Daemon.Started = time.Time{}, time.Time{}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
	if c := got.Disks[0].Content(); c != "/cache0/gamma" {
		t.Errorf("content root %q", c)
	}
}

func TestNoPlatform(t *testing.T) {
	if _, err := (Client{}).State(t.Context()); !errors.Is(err, ErrNoPlatform) {
		t.Errorf("got %v, want ErrNoPlatform", err)
	}
}

func TestRefusals(t *testing.T) {
	path := serve(t, func() State { return State{} })
	for _, c := range []struct{ name, send, want string }{
		{"other verb", `{"verb":"reboot"}` + "\n", `{"error":"unknown verb \"reboot\""}` + "\n"},
		{"no JSON", "state\n", `{"error":"request is not JSON"}` + "\n"},
		{"too long", strings.Repeat("x", maxRequest+1), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn, err := net.Dial("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			io.WriteString(conn, c.send)
			b, _ := io.ReadAll(conn)
			if string(b) != c.want {
				t.Errorf("got %q, want %q", b, c.want)
			}
		})
	}
}
