package peer

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"armarium/daemon/lockss"
)

// Signal records measurements of one type, 0 to 1, for peers on a unit, in one durable write.
// Values outside are refused and nothing is recorded.
func (p *Peers) Signal(au lockss.AUID, t Type, values map[lockss.PeerID]float32, now time.Time) error {
	for id, v := range values {
		if !(v >= 0 && v <= 1) {
			return fmt.Errorf("agreement of %s on %s: %v is not within 0 and 1", id, au, v)
		}
	}
	if len(values) == 0 {
		return nil
	}
	u, err := p.open(au)
	if err != nil {
		return err
	}
	defer u.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(values)) {
		a, _ := u.agree.get(id, t)
		u.agree.put(id, t, a.signal(values[id], now))
	}
	if u.fault != nil {
		return u.fault
	}
	if err := u.files.WriteState(agreementFile, u.agree.bytes()); err != nil {
		return fmt.Errorf("keep agreements of %s: %w", au, err)
	}
	return nil
}

// Agreement returns one record; ok is false if there is none.
func (p *Peers) Agreement(au lockss.AUID, id lockss.PeerID, t Type) (Agreement, bool) {
	u, err := p.open(au)
	if err != nil {
		p.log.Warn("agreements not readable", "au", au, "err", err)
		return noAgreement, false
	}
	defer u.mu.Unlock()
	return u.agree.get(id, t)
}

// Agreements returns all records of a unit.
func (p *Peers) Agreements(au lockss.AUID) (map[lockss.PeerID]map[Type]Agreement, error) {
	u, err := p.open(au)
	if err != nil {
		return nil, err
	}
	defer u.mu.Unlock()
	m := map[lockss.PeerID]map[Type]Agreement{}
	for id := range u.agree.peers {
		r := map[Type]Agreement{}
		for _, t := range typeOrder {
			if a, ok := u.agree.get(id, t); ok {
				r[t] = a
			}
		}
		m[id] = r
	}
	return m, nil
}

// highest returns the highest agreement of one type for all peers that have one.
func (p *Peers) highest(au lockss.AUID, t Type) map[lockss.PeerID]float32 {
	u, err := p.open(au)
	if err != nil {
		p.log.Warn("agreements not readable", "au", au, "err", err)
		return nil
	}
	defer u.mu.Unlock()
	m := map[lockss.PeerID]float32{}
	for id := range u.agree.peers {
		if a, ok := u.agree.get(id, t); ok {
			m[id] = a.Highest
		}
	}
	return m
}

// MayRepair reports whether peer q shall be served a repair from a unit (lcap-v3.md 15.3).
func (p *Peers) MayRepair(au lockss.AUID, q lockss.PeerID, openAccess bool) bool {
	p.mu.Lock()
	s := p.set
	p.mu.Unlock()
	switch {
	case !s.AllowRepairs:
		return false
	case openAccess && !s.OpenAccessNeedsAgreement:
		return true
	case s.TrustedNetwork && s.RepairAnyTrustedPeer:
		return true
	}
	// The map is acyclic only if its writer was careful: each identity counts once.
	for seen := map[lockss.PeerID]bool{}; q != "" && !seen[q]; q = s.inherits[q] {
		seen[q] = true
		for _, t := range measured {
			if a, ok := p.Agreement(au, q, t); ok && float64(a.Highest) >= s.MinAgreementForRepairs {
				return true
			}
		}
	}
	return false
}

// Willing reports whether peer q will probably serve us repairs: it told us that we agree with
// it enough.
func (p *Peers) Willing(au lockss.AUID, q lockss.PeerID) bool {
	a, ok := p.Agreement(au, q, PORHint)
	p.mu.Lock()
	defer p.mu.Unlock()
	return ok && float64(a.Highest) >= p.set.MinAgreementForRepairs
}

// WillingRepairers counts the peers that would serve us repairs of a unit and were heard from
// lately (lcap-v3.md 15.4).
func (p *Peers) WillingRepairers(au lockss.AUID, now time.Time) int {
	hints := p.highest(au, PORHint)
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for id, h := range hints {
		s := p.known[id]
		if float64(h) > p.set.MinAgreementForRepairs && s != nil && !p.inSubnets(id) &&
			now.Sub(s.LastMessage) <= p.set.RepairerLiveness {
			n++
		}
	}
	return n
}

// AgreeingPeers counts the peers whose highest agreement with us on a unit is enough for status
// pages and for the choice of a poll's kind (lcap-v3.md 15.4).
func (p *Peers) AgreeingPeers(au lockss.AUID) int {
	por := p.highest(au, POR)
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, h := range por {
		if float64(h) >= p.set.MinAgreement {
			n++
		}
	}
	return n
}

// AtRisk counts the peers listed with a unit that is at risk; ok is false if it is not listed.
func (p *Peers) AtRisk(au lockss.AUID) (n int, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	m, ok := p.set.atRisk[au]
	return len(m), ok
}

// AddNoAU records peers that said they do not have a unit.
func (p *Peers) AddNoAU(au lockss.AUID, ids []lockss.PeerID, now time.Time) error {
	return p.changeNoAU(au, func(s *datedSet) bool {
		changed := false
		for _, id := range ids {
			if s.peers[id] {
				continue
			}
			if len(s.peers) == 0 {
				s.date = now
			}
			s.peers[id], changed = true, true
		}
		return changed
	})
}

// HasAU records that a peer has a unit after all: it called a poll on it.
func (p *Peers) HasAU(au lockss.AUID, id lockss.PeerID) error {
	return p.changeNoAU(au, func(s *datedSet) bool {
		had := s.peers[id]
		delete(s.peers, id)
		return had
	})
}

// resetNoAU empties the set when it is old enough for the age of the unit here.
func (p *Peers) resetNoAU(au lockss.AUID, now, created time.Time) {
	p.mu.Lock()
	curve := p.set.noAUReset
	p.mu.Unlock()
	err := p.changeNoAU(au, func(s *datedSet) bool {
		after := time.Duration(curve.At(float64(now.Sub(created).Milliseconds()))) * time.Millisecond
		if len(s.peers) == 0 || now.Sub(s.date) < after {
			return false
		}
		clear(s.peers)
		s.date = time.Time{}
		return true
	})
	if err != nil {
		p.log.Warn("set of peers without the unit not reset", "au", au, "err", err)
	}
}

func (p *Peers) changeNoAU(au lockss.AUID, f func(*datedSet) bool) error {
	u, err := p.open(au)
	if err != nil {
		return err
	}
	defer u.mu.Unlock()
	if !f(&u.noAU) {
		return nil
	}
	if err := u.files.WriteState(noAUFile, appendDatedSet(nil, u.noAU)); err != nil {
		return fmt.Errorf("keep peers without %s: %w", au, err)
	}
	return nil
}

// noAUPeers returns a copy of the set.
func (p *Peers) noAUPeers(au lockss.AUID) map[lockss.PeerID]bool {
	u, err := p.open(au)
	if err != nil {
		p.log.Warn("set of peers without the unit not readable", "au", au, "err", err)
		return nil
	}
	defer u.mu.Unlock()
	return maps.Clone(u.noAU.peers)
}
