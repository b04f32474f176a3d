package world

import (
	"errors"
	"fmt"
	"net"
	"syscall"

	"github.com/vishvananda/netlink"
)

// Address is the host as seen from a box in QEMU's user-mode network.
const Address = "10.0.2.2"

// SetAddress puts Address on the loopback interface, where it reaches nothing but this
// host. The function it gives takes it away again; it does nothing when the address was
// there before.
func SetAddress() (remove func() error, err error) {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return nil, fmt.Errorf("loopback interface: %w", err)
	}
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP(Address), Mask: net.CIDRMask(32, 32)}}
	err = netlink.AddrAdd(lo, addr)
	switch {
	case errors.Is(err, syscall.EEXIST):
		return func() error { return nil }, nil
	case err != nil:
		return nil, fmt.Errorf("set %s on the loopback interface (root is needed): %w", Address, err)
	}
	return func() error { return netlink.AddrDel(lo, addr) }, nil
}
