package lockss

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
)

// PeerID is the identity of a node and at the same time the address to connect to
// (lcap-v3.md 1.1), always in normal form: "TCP:[192.0.2.7]:9729", or
// "TCP:[2001:db8:0:0:0:0:0:1]:9729" with eight groups. Two peers are the same if and only if
// their PeerIDs are equal.
type PeerID string

// ErrPeerID is wrapped by every error about text that is no peer identity.
var ErrPeerID = errors.New("not a peer identity, want TCP:[address]:port")

// A V1Error says that the text is an identity of the first protocol: an IPv4 address without
// a port, or with port 0. Such peers cannot be reached by streams; in lists they are skipped.
type V1Error struct{ Addr netip.Addr }

func (e *V1Error) Error() string {
	return "V1 identity " + e.Addr.String() + " has no port, want TCP:[address]:port"
}

func (e *V1Error) Unwrap() error { return ErrPeerID }

var peerPattern = regexp.MustCompile(`(?i)TCP:\[([0-9a-f.:]+)\]:([0-9]+)`)

// ParsePeerID reads an identity of our own configuration: the whole text must be one, in any
// letter case, spaces around it aside.
func ParsePeerID(s string) (PeerID, error) {
	t := strings.TrimSpace(s)
	if m := peerPattern.FindStringIndex(t); m != nil && (m[0] != 0 || m[1] != len(t)) {
		return "", fmt.Errorf("%q: text around the identity: %w", s, ErrPeerID)
	}
	return FindPeerID(t)
}

// FindPeerID reads an identity that was received. Like 1.x it takes the first one anywhere in
// the text; short IPv4 forms ("10.1") are refused. A V1 identity gives a [*V1Error].
func FindPeerID(s string) (PeerID, error) {
	m := peerPattern.FindStringSubmatch(s)
	if m == nil {
		if a, ok := parseQuad(s); ok {
			return "", &V1Error{a}
		}
		return "", fmt.Errorf("%.80q: %w", s, ErrPeerID)
	}
	addr, ok := parseQuad(m[1])
	if !ok {
		a, err := netip.ParseAddr(m[1])
		if err != nil || a.Is4() {
			return "", fmt.Errorf("%.80q: bad address: %w", s, ErrPeerID)
		}
		addr = a.Unmap()
	}
	port, err := strconv.ParseUint(strings.TrimLeft(m[2], "0"), 10, 16)
	if strings.Trim(m[2], "0") == "" {
		return "", &V1Error{addr}
	}
	if err != nil {
		return "", fmt.Errorf("%.80q: port above 65535: %w", s, ErrPeerID)
	}
	return PeerIDFrom(netip.AddrPortFrom(addr, uint16(port))), nil
}

// PeerIDFrom returns the identity of the peer that listens at a.
func PeerIDFrom(a netip.AddrPort) PeerID {
	addr := a.Addr().Unmap()
	text := addr.String()
	if addr.Is6() {
		b := addr.As16()
		groups := make([]string, 8)
		for i := range groups {
			groups[i] = strconv.FormatUint(uint64(b[2*i])<<8|uint64(b[2*i+1]), 16)
		}
		text = strings.Join(groups, ":")
	}
	return PeerID("TCP:[" + text + "]:" + strconv.Itoa(int(a.Port())))
}

// AddrPort returns the address and port of the identity; the zero value if p was not made by
// this package.
func (p PeerID) AddrPort() netip.AddrPort {
	text, ok := strings.CutPrefix(string(p), "TCP:[")
	if !ok {
		return netip.AddrPort{}
	}
	host, port, ok := strings.Cut(text, "]:")
	if !ok {
		return netip.AddrPort{}
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return netip.AddrPort{}
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(addr, uint16(n))
}

// parseQuad reads a dotted quad; leading zeros are decimal, as in Java, not octal.
func parseQuad(s string) (netip.Addr, bool) {
	var a [4]byte
	parts := strings.Split(s, ".")
	if len(parts) != len(a) || len(s) > len("255.255.255.255") {
		return netip.Addr{}, false
	}
	for i, p := range parts {
		if p == "" || strings.Trim(p, "0123456789") != "" {
			return netip.Addr{}, false
		}
		n, err := strconv.Atoi(p)
		if err != nil || n > 255 {
			return netip.Addr{}, false
		}
		a[i] = byte(n)
	}
	return netip.AddrFrom4(a), true
}
