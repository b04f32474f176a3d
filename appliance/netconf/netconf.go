// Package netconf gives the box its addresses, routes and names (appliance.md 8.1).
//
// All interfaces come up. What each one does is decided once, by Plan: a fixed address,
// DHCP, or nothing but being up. The interface that has a gateway first is primary: its
// default route is preferred, and the name servers are those of the settings or of its
// lease. Leases are renewed by the times they tell (RFC 2131 section 4.4.5): at T1 with the
// server that gave them, from T2 with any, and at their end the address is removed.
package netconf

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"

	"armarium/appliance/settings"
)

// Between looks at the interfaces: links come up a moment after their interface.
const (
	lookOften  = 100 * time.Millisecond // until there is an address
	lookSeldom = 2 * time.Second
)

// A Config says what is wanted.
type Config struct {
	Settings   settings.Network
	Hostname   string
	ResolvConf string // file to write, "/run/resolv.conf"
	Hosts      string // file to write, "/run/hosts"
	Log        *slog.Logger
}

// A State is what the network is now.
type State struct {
	Up        bool   // an address is there
	Kind      string // settings.DHCP or settings.Static
	Interface string // the primary one
	Addresses []string
	Gateway   string
	DNS       []string
	Note      string
}

// An Interface is one network interface of the machine.
type Interface struct {
	Index   int
	Name    string
	MAC     string
	Carrier bool
}

// A Task is what an interface does.
type Task string

// Tasks.
const (
	Fixed Task = "static"
	Lease Task = "dhcp"
	Idle  Task = "up only"
)

// Plan decides the task of each interface, in order of their index. A fixed address goes to
// the interface that the settings name, else to the first one with a link; with none, the
// answer has no Fixed task and Plan is asked again later. The others are idle with
// NETWORK=static and ask by DHCP with NETWORK=dhcp.
func Plan(all []Interface, n settings.Network) map[string]Task {
	all = slices.SortedFunc(slices.Values(all), func(a, b Interface) int { return cmp.Compare(a.Index, b.Index) })
	tasks := map[string]Task{}
	other := Lease
	if n.Mode == settings.Static {
		other = Idle
	}
	for _, i := range all {
		tasks[i.Name] = other
	}
	if n.Address == "" {
		return tasks
	}
	at := slices.IndexFunc(all, func(i Interface) bool {
		if n.Interface != "" {
			return strings.EqualFold(i.MAC, n.Interface)
		}
		return i.Carrier
	})
	if at >= 0 {
		tasks[all[at].Name] = Fixed
	}
	return tasks
}

// A Network configures the interfaces while it runs.
type Network struct {
	c     Config
	ready chan struct{}
	once  sync.Once

	mu     sync.Mutex
	grants map[string]Grant // by interface, what it has now
	tasks  map[string]Task
	note   string
}

// New makes a Network; Run does the work.
func New(c Config) *Network {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Network{c: c, ready: make(chan struct{}), grants: map[string]Grant{}, tasks: map[string]Task{}}
}

// Ready is closed when the box has its first address.
func (n *Network) Ready() <-chan struct{} { return n.ready }

// Loopback brings the loopback interface up; the daemon's health is asked over it.
func Loopback() error {
	l, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(l)
	}
	if err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	return nil
}

// Run brings interfaces up, those that appear later too, and serves their leases until ctx
// ends. Faults of one interface are logged and tried again; they are no error of Run.
func (n *Network) Run(ctx context.Context) error {
	if err := n.writeNames(); err != nil {
		n.c.Log.Error("names", "err", err)
	}
	var g sync.WaitGroup
	defer g.Wait()
	started := map[string]bool{}
	fixed := false
	for {
		all, err := interfaces()
		if err != nil {
			n.c.Log.Error("list interfaces", "err", err)
		}
		for name, task := range Plan(all, n.c.Settings) {
			i := all[slices.IndexFunc(all, func(i Interface) bool { return i.Name == name })]
			if !started[name] {
				if err := up(name); err != nil {
					n.c.Log.Error("bring interface up", "interface", name, "err", err)
					continue
				}
			}
			switch {
			case task == Fixed && !fixed:
				// A machine with several links may show another first one later; the first
				// decision stays.
				if err := n.setFixed(i); err != nil {
					n.c.Log.Error("fixed address", "interface", name, "err", err)
					continue
				}
				fixed = true
			case task == Lease && !started[name]:
				g.Go(func() { n.serve(ctx, i) })
			}
			started[name] = true
			n.mu.Lock()
			if n.tasks[name] != Fixed {
				n.tasks[name] = task
			}
			n.mu.Unlock()
		}
		n.explain(all)
		wait := lookSeldom
		if !n.up() {
			wait = lookOften
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(wait):
		}
	}
}

// explain says why there is no address yet.
func (n *Network) explain(all []Interface) {
	note := ""
	switch {
	case len(all) == 0:
		note = "no network card was found"
	case !slices.ContainsFunc(all, func(i Interface) bool { return i.Carrier }):
		note = "no cable is connected"
	case n.c.Settings.Interface != "" && !slices.ContainsFunc(all, func(i Interface) bool { return strings.EqualFold(i.MAC, n.c.Settings.Interface) }):
		note = "no network card has the address " + n.c.Settings.Interface + " of the settings"
	case n.c.Settings.Mode == settings.DHCP && !n.up():
		note = "no DHCP server has answered yet"
	}
	n.mu.Lock()
	n.note = note
	n.mu.Unlock()
}

func (n *Network) up() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.grants) > 0
}

// interfaces lists those that are real network cards, virtual ones of a machine included.
func interfaces() ([]Interface, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, err
	}
	var all []Interface
	for _, l := range links {
		a := l.Attrs()
		if a.Flags&net.FlagLoopback != 0 || l.Type() != "device" || len(a.HardwareAddr) != 6 {
			continue
		}
		all = append(all, Interface{Index: a.Index, Name: a.Name, MAC: a.HardwareAddr.String(), Carrier: carrier(a)})
	}
	return all, nil
}

// carrier tells whether an interface has a link.
func carrier(a *netlink.LinkAttrs) bool {
	return a.Flags&net.FlagRunning != 0 || a.OperState == netlink.OperUp
}

// hasLink asks the kernel whether an interface has a link.
func hasLink(index int) bool {
	l, err := netlink.LinkByIndex(index)
	return err == nil && carrier(l.Attrs())
}

func up(name string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(l)
}

// setFixed gives an interface the address of the settings.
func (n *Network) setFixed(i Interface) error {
	p, err := netip.ParsePrefix(n.c.Settings.Address)
	if err != nil {
		return err
	}
	g := Grant{Address: p}
	if n.c.Settings.Gateway != "" {
		if g.Gateway, err = netip.ParseAddr(n.c.Settings.Gateway); err != nil {
			return err
		}
	}
	if err := n.apply(i, Grant{}, g); err != nil {
		return err
	}
	n.mu.Lock()
	n.tasks[i.Name] = Fixed
	n.mu.Unlock()
	return nil
}

// apply changes an interface from one grant to another; the zero Grant is none.
func (n *Network) apply(i Interface, from, to Grant) error {
	l, err := netlink.LinkByIndex(i.Index)
	if err != nil {
		return err
	}
	if from.Address != to.Address && from.Address.IsValid() {
		// The kernel removes the routes over the address with it.
		if err := netlink.AddrDel(l, &netlink.Addr{IPNet: ipnet(from.Address)}); err != nil {
			n.c.Log.Warn("remove address", "interface", i.Name, "address", from.Address, "err", err)
		}
	}
	if to.Address.IsValid() {
		if err := netlink.AddrReplace(l, &netlink.Addr{IPNet: ipnet(to.Address)}); err != nil {
			return fmt.Errorf("set address %s: %w", to.Address, err)
		}
	}
	if to.Gateway.IsValid() {
		_, all, _ := net.ParseCIDR("0.0.0.0/0")
		r := &netlink.Route{LinkIndex: i.Index, Dst: all, Gw: to.Gateway.AsSlice(), Priority: 100 + i.Index}
		if err := netlink.RouteReplace(r); err != nil {
			return fmt.Errorf("route over %s: %w", to.Gateway, err)
		}
	}
	n.mu.Lock()
	if to.Address.IsValid() {
		n.grants[i.Name] = to
		n.note = ""
	} else {
		delete(n.grants, i.Name)
	}
	n.mu.Unlock()
	if err := n.writeNames(); err != nil {
		return err
	}
	if to.Address.IsValid() {
		n.c.Log.Info("address", "interface", i.Name, "address", to.Address, "gateway", to.Gateway)
		n.once.Do(func() { close(n.ready) })
	}
	return nil
}

func ipnet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// primary is the interface whose gateway is used: the fixed one, else the first granted by
// name. mu is held.
func (n *Network) primary() (string, Grant) {
	best := ""
	for name, g := range n.grants {
		b := n.grants[best]
		switch {
		case best == "",
			g.Gateway.IsValid() && !b.Gateway.IsValid(),
			g.Gateway.IsValid() == b.Gateway.IsValid() && n.tasks[name] == Fixed,
			g.Gateway.IsValid() == b.Gateway.IsValid() && n.tasks[best] != Fixed && name < best:
			best = name
		}
	}
	return best, n.grants[best]
}

// State gives the network as it is now.
func (n *Network) State() State {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := State{Kind: n.c.Settings.Mode, Up: len(n.grants) > 0, Note: n.note}
	name, g := n.primary()
	s.Interface = name
	if g.Gateway.IsValid() {
		s.Gateway = g.Gateway.String()
	}
	s.DNS = n.dns(g)
	for _, k := range []string{name} {
		if n.grants[k].Address.IsValid() {
			s.Addresses = append(s.Addresses, n.grants[k].Address.String())
		}
	}
	var rest []string
	for k, g := range n.grants {
		if k != name {
			rest = append(rest, g.Address.String())
		}
	}
	slices.Sort(rest)
	s.Addresses = append(s.Addresses, rest...)
	return s
}

func (n *Network) dns(g Grant) []string {
	if len(n.c.Settings.DNS) > 0 {
		return n.c.Settings.DNS
	}
	var d []string
	for _, a := range g.DNS {
		d = append(d, a.String())
	}
	return d
}

// writeNames writes resolv.conf and hosts for what is known now.
func (n *Network) writeNames() error {
	n.mu.Lock()
	_, g := n.primary()
	dns := n.dns(g)
	n.mu.Unlock()
	return errors.Join(
		replace(n.c.ResolvConf, resolvConf(dns)),
		replace(n.c.Hosts, hosts(n.c.Hostname, g.Address)),
	)
}

func resolvConf(dns []string) string {
	var b strings.Builder
	for _, d := range dns {
		fmt.Fprintf(&b, "nameserver %s\n", d)
	}
	b.WriteString("options timeout:3 attempts:2\n")
	return b.String()
}

func hosts(name string, addr netip.Prefix) string {
	s := "127.0.0.1 localhost\n::1 localhost\n"
	if name == "" || name == "localhost" {
		return s
	}
	ip := "127.0.1.1"
	if addr.IsValid() {
		ip = addr.Addr().String()
	}
	short, _, _ := strings.Cut(name, ".")
	if short != name {
		name += " " + short
	}
	return s + ip + " " + name + "\n"
}

// replace writes a file of /run so that a reader sees the old or the new one.
func replace(path, text string) error {
	if err := os.WriteFile(path+".new", []byte(text), 0o644); err != nil {
		return fmt.Errorf("write names: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("write names: %w", err)
	}
	return nil
}
