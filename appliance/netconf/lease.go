package netconf

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
)

// A Grant is what an interface was given; the zero Grant is nothing.
type Grant struct {
	Address netip.Prefix
	Gateway netip.Addr
	DNS     []netip.Addr
	Times   Times // zero for a fixed address
}

// Times of a lease, from its receipt (RFC 2131 section 4.4.5).
type Times struct {
	Renew  time.Duration // T1
	Rebind time.Duration // T2
	End    time.Duration
}

// Bounds of the time a server may grant: below, a box would do nothing but renew; above, the
// arithmetic of "for ever" would overflow.
const (
	leastLease = 30 * time.Second
	mostLease  = 30 * 24 * time.Hour
	retryAfter = 5 * time.Second // after a try without an answer

	linkMost = 10 * time.Second // for a link; not every driver tells of one
	linkLook = 50 * time.Millisecond
)

// errRefused says that the server takes the address back.
var errRefused = errors.New("the DHCP server refuses the address")

// leaser gets grants for one interface. Each call waits for one exchange, tries included.
type leaser interface {
	// Request asks all servers for an address, of preference for the given one.
	Request(ctx context.Context, prefer netip.Addr) (Grant, error)
	// Renew asks the server of the last grant; errRefused when it says no.
	Renew(ctx context.Context) (Grant, error)
	Close() error
}

// serve keeps an interface's lease until ctx ends.
func (n *Network) serve(ctx context.Context, i Interface) {
	// What is sent before there is a link is lost, and the next try comes seconds later.
	for end := time.Now().Add(linkMost); ctx.Err() == nil && !hasLink(i.Index) && time.Now().Before(end); {
		pause(ctx, linkLook)
	}
	var have Grant
	l := &dhcp{name: i.Name, host: n.c.Hostname}
	defer l.Close()
	keep(ctx, l, func(g Grant) {
		if err := n.apply(i, have, g); err != nil {
			n.c.Log.Error("apply lease", "interface", i.Name, "err", err)
			return
		}
		have = g
	}, func(err error) { n.c.Log.Debug("dhcp", "interface", i.Name, "err", err) })
}

// keep is the life of a lease: apply is called with every grant, and with the zero Grant
// when the address must no longer be used.
func keep(ctx context.Context, l leaser, apply func(Grant), failed func(error)) {
	var last netip.Addr
	for ctx.Err() == nil {
		g, err := l.Request(ctx, last)
		if err != nil {
			failed(err)
			pause(ctx, retryAfter)
			continue
		}
		last = g.Address.Addr()
		apply(g)
		got := time.Now()
		for ctx.Err() == nil {
			age := time.Since(got)
			if age >= g.Times.End {
				break
			}
			if age < g.Times.Renew {
				pause(ctx, g.Times.Renew-age)
				continue
			}
			var next Grant
			try, cancel := context.WithTimeout(ctx, g.Times.End-age)
			if age < g.Times.Rebind {
				next, err = l.Renew(try)
			} else {
				next, err = l.Request(try, last)
			}
			cancel()
			if err == nil {
				g, got, last = next, time.Now(), next.Address.Addr()
				apply(g)
				continue
			}
			failed(err)
			if errors.Is(err, errRefused) {
				break
			}
			// Half of the time that is left to the next phase, at least retryAfter.
			left := g.Times.End - time.Since(got)
			if since := time.Since(got); since < g.Times.Rebind {
				left = g.Times.Rebind - since
			}
			pause(ctx, min(max(left/2, retryAfter), max(g.Times.End-time.Since(got), 0)))
		}
		if ctx.Err() == nil {
			apply(Grant{})
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// dhcp is the leaser of real networks.
type dhcp struct {
	name, host string
	client     *nclient4.Client
	lease      *nclient4.Lease
}

func (d *dhcp) Close() error {
	if d.client == nil {
		return nil
	}
	err := d.client.Close()
	d.client = nil
	return err
}

func (d *dhcp) Request(ctx context.Context, prefer netip.Addr) (Grant, error) {
	if d.client == nil {
		c, err := nclient4.New(d.name, nclient4.WithTimeout(2*time.Second), nclient4.WithRetry(3))
		if err != nil {
			return Grant{}, fmt.Errorf("dhcp on %s: %w", d.name, err)
		}
		d.client = c
	}
	mods := []dhcpv4.Modifier{
		dhcpv4.WithRequestedOptions(dhcpv4.OptionSubnetMask, dhcpv4.OptionRouter, dhcpv4.OptionDomainNameServer,
			dhcpv4.OptionRenewTimeValue, dhcpv4.OptionRebindingTimeValue),
	}
	if d.host != "" {
		mods = append(mods, dhcpv4.WithOption(dhcpv4.OptHostName(d.host)))
	}
	if prefer.IsValid() {
		mods = append(mods, dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(net.IP(prefer.AsSlice()))))
	}
	lease, err := d.client.Request(ctx, mods...)
	if err != nil {
		return Grant{}, fmt.Errorf("dhcp on %s: %w", d.name, err)
	}
	return d.take(lease)
}

func (d *dhcp) Renew(ctx context.Context) (Grant, error) {
	lease, err := d.client.Renew(ctx, d.lease)
	if nak, ok := errors.AsType[*nclient4.ErrNak](err); ok {
		return Grant{}, fmt.Errorf("%w: %v", errRefused, nak)
	}
	if err != nil {
		return Grant{}, fmt.Errorf("renew on %s: %w", d.name, err)
	}
	return d.take(lease)
}

func (d *dhcp) take(lease *nclient4.Lease) (Grant, error) {
	g, err := grant(lease.ACK)
	if err == nil {
		d.lease = lease
	}
	return g, err
}

// grant reads an acknowledgement. It refuses addresses that no host can have.
func grant(ack *dhcpv4.DHCPv4) (Grant, error) {
	a, ok := netip.AddrFromSlice(ack.YourIPAddr.To4())
	if !ok || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() {
		return Grant{}, fmt.Errorf("dhcp: the server offers the address %s", ack.YourIPAddr)
	}
	bits, size := ack.SubnetMask().Size()
	if size != 32 || bits == 0 {
		bits = 24
	}
	g := Grant{Address: netip.PrefixFrom(a, bits), Times: times(
		ack.IPAddressLeaseTime(time.Hour), ack.IPAddressRenewalTime(0), ack.IPAddressRebindingTime(0))}
	for _, r := range ack.Router() {
		if gw, ok := netip.AddrFromSlice(r.To4()); ok && !gw.IsUnspecified() {
			g.Gateway = gw
			break
		}
	}
	for _, d := range ack.DNS() {
		if s, ok := netip.AddrFromSlice(d.To4()); ok && len(g.DNS) < 3 {
			g.DNS = append(g.DNS, s)
		}
	}
	return g, nil
}

// times brings what a server says into order: T1 before T2 before the end.
func times(end, t1, t2 time.Duration) Times {
	end = min(max(end, leastLease), mostLease)
	if t2 <= 0 || t2 >= end {
		t2 = end * 7 / 8
	}
	if t1 <= 0 {
		t1 = end / 2
	}
	if t1 >= t2 {
		t1 = t2 / 2
	}
	return Times{Renew: t1, Rebind: t2, End: end}
}
