package peer

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"time"

	"armarium/daemon/lockss"
)

// noAUFile is the name of the set of peers that said they do not have the unit.
const noAUFile = "#no_au_peers"

// A peer set file (repository.md 8.4):
//
//	offset    size  field
//	     0       8  date, ms, big-endian, -1 for none (dated sets only)
//	   8+8i      8  peer i: 00, IPv4 address (4), port (2, big-endian), CRC-8 of these 6
//
// Peers with an IPv6 address have no such key and are kept in memory only.

// crc8 is the checksum of a peer key: x^8+x^2+x+1, start 0, not reflected.
func crc8(b []byte) byte {
	var c byte
	for _, x := range b {
		c ^= x
		for range 8 {
			if c&0x80 != 0 {
				c = c<<1 ^ 0x07
			} else {
				c <<= 1
			}
		}
	}
	return c
}

// appendPeerKey appends the key of a peer, nothing if it has none.
func appendPeerKey(b []byte, p lockss.PeerID) []byte {
	a := p.AddrPort()
	if !a.Addr().Is4() {
		return b
	}
	ip := a.Addr().As4()
	key := append([]byte{0}, ip[:]...)
	key = binary.BigEndian.AppendUint16(key, a.Port())
	return append(append(b, key...), crc8(key[1:]))
}

// parsePeerKey reads one key of 8 bytes.
func parsePeerKey(b []byte) (lockss.PeerID, bool) {
	if b[0] != 0 || crc8(b[1:7]) != b[7] {
		return "", false
	}
	addr := netip.AddrFrom4([4]byte(b[1:5]))
	return lockss.PeerIDFrom(netip.AddrPortFrom(addr, binary.BigEndian.Uint16(b[5:7]))), true
}

// datedSet is a set of peers with the date it was begun.
type datedSet struct {
	date  time.Time // zero: none
	peers map[lockss.PeerID]bool
}

func appendDatedSet(b []byte, s datedSet) []byte {
	ms := int64(-1)
	if !s.date.IsZero() {
		ms = s.date.UnixMilli()
	}
	b = binary.BigEndian.AppendUint64(b, uint64(ms))
	ids := make([]lockss.PeerID, 0, len(s.peers))
	for p := range s.peers {
		ids = append(ids, p)
	}
	slices.Sort(ids)
	for _, p := range ids {
		b = appendPeerKey(b, p)
	}
	return b
}

// parseDatedSet reads a set. A bad key ends it; what stood before counts.
func parseDatedSet(b []byte) (datedSet, error) {
	s := datedSet{peers: map[lockss.PeerID]bool{}}
	if len(b) < 8 {
		return s, errors.New("shorter than its date of 8 bytes")
	}
	if ms := int64(binary.BigEndian.Uint64(b)); ms >= 0 {
		s.date = time.UnixMilli(ms)
	}
	for b = b[8:]; len(b) >= 8; b = b[8:] {
		p, ok := parsePeerKey(b[:8])
		if !ok {
			break
		}
		s.peers[p] = true
	}
	return s, nil
}
