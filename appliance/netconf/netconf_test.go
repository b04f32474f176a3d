package netconf

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"armarium/appliance/settings"
)

func TestPlan(t *testing.T) {
	cards := []Interface{
		{Index: 3, Name: "eth1", MAC: "52:54:00:00:00:02", Carrier: true},
		{Index: 2, Name: "eth0", MAC: "52:54:00:00:00:01"},
		{Index: 4, Name: "eth2", MAC: "52:54:00:00:00:03", Carrier: true},
	}
	for _, c := range []struct {
		name string
		n    settings.Network
		all  []Interface
		want map[string]Task
	}{
		{"dhcp", settings.Network{Mode: settings.DHCP}, cards, map[string]Task{"eth0": Lease, "eth1": Lease, "eth2": Lease}},
		{"first with a link", settings.Network{Mode: settings.Static, Address: "192.0.2.7/24"}, cards,
			map[string]Task{"eth0": Idle, "eth1": Fixed, "eth2": Idle}},
		{"named", settings.Network{Mode: settings.Static, Address: "192.0.2.7/24", Interface: "52:54:00:00:00:01"}, cards,
			map[string]Task{"eth0": Fixed, "eth1": Idle, "eth2": Idle}},
		{"one fixed, others dhcp", settings.Network{Mode: settings.DHCP, Address: "192.0.2.7/24", Interface: "52:54:00:00:00:03"}, cards,
			map[string]Task{"eth0": Lease, "eth1": Lease, "eth2": Fixed}},
		{"no link yet", settings.Network{Mode: settings.Static, Address: "192.0.2.7/24"}, cards[1:2], map[string]Task{"eth0": Idle}},
		{"none", settings.Network{Mode: settings.DHCP}, nil, map[string]Task{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := Plan(c.all, c.n); !maps.Equal(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

func TestTimes(t *testing.T) {
	for _, c := range []struct{ end, t1, t2, w1, w2, wend time.Duration }{
		{8 * time.Hour, 0, 0, 4 * time.Hour, 7 * time.Hour, 8 * time.Hour},
		{8 * time.Hour, time.Hour, 2 * time.Hour, time.Hour, 2 * time.Hour, 8 * time.Hour},
		{8 * time.Hour, 9 * time.Hour, 9 * time.Hour, 3*time.Hour + 30*time.Minute, 7 * time.Hour, 8 * time.Hour},
		{0, 0, 0, 13125 * time.Millisecond, 26250 * time.Millisecond, 30 * time.Second},
		{136 * 365 * 24 * time.Hour, 0, 0, 15 * 24 * time.Hour, 26*24*time.Hour + 6*time.Hour, 30 * 24 * time.Hour},
	} {
		got := times(c.end, c.t1, c.t2)
		if got.End != c.wend || got.Rebind != c.w2 || got.Renew >= got.Rebind || (c.w1 > time.Minute && got.Renew != c.w1) {
			t.Errorf("%v %v %v: got %+v", c.end, c.t1, c.t2, got)
		}
	}
}

func TestGrant(t *testing.T) {
	ack, err := dhcpv4.New(dhcpv4.WithYourIP(net.IPv4(192, 0, 2, 7)), dhcpv4.WithNetmask(net.CIDRMask(25, 32)),
		dhcpv4.WithRouter(net.IPv4(192, 0, 2, 1)), dhcpv4.WithDNS(net.IPv4(192, 0, 2, 2), net.IPv4(192, 0, 2, 3)), dhcpv4.WithLeaseTime(600))
	if err != nil {
		t.Fatal(err)
	}
	g, err := grant(ack)
	if err != nil {
		t.Fatal(err)
	}
	if g.Address.String() != "192.0.2.7/25" || g.Gateway.String() != "192.0.2.1" || len(g.DNS) != 2 || g.Times.End != 10*time.Minute || g.Times.Renew != 5*time.Minute {
		t.Errorf("got %+v", g)
	}
	bad, _ := dhcpv4.New(dhcpv4.WithYourIP(net.IPv4zero))
	if _, err := grant(bad); err == nil {
		t.Error("address 0.0.0.0 accepted")
	}
}

// server answers as its script says: "a" grants, "-" is silent for 10 s, "n" refuses.
type server struct {
	script string
	start  time.Time
	log    []string
}

func (s *server) answer(ctx context.Context, what string) (Grant, error) {
	s.log = append(s.log, fmt.Sprintf("%s at %v", what, time.Since(s.start).Round(time.Second)))
	if s.script == "" {
		<-ctx.Done()
		return Grant{}, ctx.Err()
	}
	c := s.script[0]
	s.script = s.script[1:]
	switch c {
	case 'a':
		return Grant{Address: netip.MustParsePrefix("192.0.2.7/24"), Times: times(800*time.Second, 0, 0)}, nil
	case 'n':
		return Grant{}, errRefused
	}
	select {
	case <-time.After(10 * time.Second):
		return Grant{}, errors.New("silence")
	case <-ctx.Done():
		return Grant{}, ctx.Err()
	}
}
func (s *server) Request(ctx context.Context, prefer netip.Addr) (Grant, error) {
	what := "request"
	if prefer.IsValid() {
		what += " " + prefer.String()
	}
	return s.answer(ctx, what)
}
func (s *server) Renew(ctx context.Context) (Grant, error) { return s.answer(ctx, "renew") }
func (s *server) Close() error                             { return nil }

// T1 is 400 s, T2 700 s, the end 800 s.
func TestKeep(t *testing.T) {
	for _, c := range []struct {
		name, script string
		for_         time.Duration
		want         []string
	}{
		{"renewed", "aaa", 1000 * time.Second, []string{"request at 0s", "granted", "renew at 6m40s", "granted", "renew at 13m20s", "granted"}},
		{"first silence", "-a", 60 * time.Second, []string{"request at 0s", "request at 15s", "granted"}},
		{"refused", "ana", 500 * time.Second, []string{"request at 0s", "granted", "renew at 6m40s", "taken", "request 192.0.2.7 at 6m40s", "granted"}},
		{"server gone", "a----------------", 850 * time.Second, []string{"request at 0s", "granted", "renew at 6m40s", "renew at 9m15s", "renew at 10m33s",
			"renew at 11m11s", "renew at 11m31s", "request 192.0.2.7 at 12m30s", "request 192.0.2.7 at 13m0s", "request 192.0.2.7 at 13m15s", "taken", "request 192.0.2.7 at 13m20s", "request 192.0.2.7 at 13m35s", "request 192.0.2.7 at 13m50s", "request 192.0.2.7 at 14m5s"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), c.for_)
				defer cancel()
				s := &server{script: c.script, start: time.Now()}
				keep(ctx, s, func(g Grant) {
					if g.Address.IsValid() {
						s.log = append(s.log, "granted")
					} else {
						s.log = append(s.log, "taken")
					}
				}, func(error) {})
				if !slices.Equal(s.log, c.want) {
					t.Errorf("got  %q\nwant %q", s.log, c.want)
				}
			})
		})
	}
}

func TestNames(t *testing.T) {
	dir := t.TempDir()
	n := New(Config{Hostname: "node1.example.org", ResolvConf: filepath.Join(dir, "resolv.conf"), Hosts: filepath.Join(dir, "hosts")})
	n.grants["eth1"] = Grant{Address: netip.MustParsePrefix("198.51.100.7/24"), DNS: []netip.Addr{netip.MustParseAddr("198.51.100.1")}}
	n.grants["eth0"] = Grant{Address: netip.MustParsePrefix("192.0.2.7/24"), Gateway: netip.MustParseAddr("192.0.2.1"), DNS: []netip.Addr{netip.MustParseAddr("192.0.2.2")}}
	if err := n.writeNames(); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"resolv.conf": "nameserver 192.0.2.2\n",
		"hosts":       "127.0.0.1 localhost\n::1 localhost\n192.0.2.7 node1.example.org node1\n",
	} {
		if b, _ := os.ReadFile(filepath.Join(dir, name)); !strings.HasPrefix(string(b), want) {
			t.Errorf("%s: %q", name, b)
		}
	}
	s := n.State()
	if s.Interface != "eth0" || !slices.Equal(s.Addresses, []string{"192.0.2.7/24", "198.51.100.7/24"}) || s.Gateway != "192.0.2.1" {
		t.Errorf("state %+v", s)
	}
	n.c.Settings.DNS = []string{"203.0.113.5"}
	if s := n.State(); !slices.Equal(s.DNS, []string{"203.0.113.5"}) {
		t.Errorf("name servers of the settings: %v", s.DNS)
	}
}
