package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"time"

	"armarium/daemon/au"
	"armarium/daemon/lockss"
	"armarium/daemon/peer"
	"armarium/daemon/poll"
	"armarium/daemon/store"
)

// maxRepair is the largest body that is sent or taken as a repair: it travels in one
// message and is held in memory.
const maxRepair = 512 << 20

// units shows the registry of archival units to the audit (poll.Units, poll.Copies) and to
// the records of peers (peer.Files).
type units struct {
	reg     *au.Registry
	ready   atomic.Bool       // plugins are loaded and every configured unit had its chance
	settled func(lockss.AUID) // called when the result of a poll is kept
}

func (u *units) Ready() bool { return u.ready.Load() }

// AUs lists the units on which polls may be called; not one that is being crawled (crawl.md
// 15).
func (u *units) AUs() []lockss.AUID {
	var ids []lockss.AUID
	for _, x := range u.reg.Units() {
		if x.Active() && !x.Crawling() {
			ids = append(ids, x.ID())
		}
	}
	return ids
}

// active finds a unit that may be polled.
func (u *units) active(id lockss.AUID) (*au.Unit, bool) {
	x, ok := u.reg.Unit(id)
	return x, ok && x.Active() && x.Content() != nil
}

func (u *units) Unit(id lockss.AUID) (poll.Unit, bool) {
	x, ok := u.active(id)
	if !ok {
		return poll.Unit{}, false
	}
	p, s := x.Plugin(), x.State()
	if p == nil || p.Definition().MayVote() != nil {
		return poll.Unit{}, false
	}
	return poll.Unit{
		AU:          id,
		Name:        x.Name(),
		PollVersion: p.Definition().PollVersion(),

		Crawled:       s.Crawled(),
		NoSubstance:   s.HasSubstance == au.SubstanceNo,
		PublisherDown: p.Flag("pub_down") || p.Flag("pub_never"),
		NoPoll:        p.DontPoll() || strings.Contains(x.Entry().Attributes["flags"], "nopoll"),
		Internal:      x.IsRegistry(),
		OpenAccess:    s.AccessType == au.OpenAccess,
		Created:       x.Content().Created(),

		LastPoll:          s.LastTopLevelPoll,
		LastPollResult:    s.LastPollResult,
		LastAttempt:       s.LastPollStart,
		LastPoP:           s.LastPoPPoll,
		PollDuration:      s.PollDuration,
		Agreement:         s.V3Agreement,
		AgreeingPeers:     s.AgreePeersLastPoR,
		LastContentChange: s.LastContentChange,
		SuspectVersions:   max(0, s.CurrentSuspectVersions),
	}, true
}

func (u *units) PollStarted(id lockss.AUID, at time.Time) error {
	x, ok := u.reg.Unit(id)
	if !ok {
		return fmt.Errorf("%s: %w", id, poll.ErrNoUnit)
	}
	return x.Update(func(s *au.State) { s.LastPollStart = at })
}

func (u *units) PollEnded(id lockss.AUID, end poll.PollEnd) error {
	defer u.settled(id)
	x, ok := u.reg.Unit(id)
	if !ok {
		return fmt.Errorf("%s: %w", id, poll.ErrNoUnit)
	}
	return x.Update(func(s *au.State) {
		s.WillingRepairers = end.Repairers
		if end.Variant == poll.PoP {
			s.LastPoPPollResult = int(end.Status)
			if !end.LastPoll.IsZero() {
				s.LastPoPPoll = end.LastPoll
			}
			return
		}
		s.LastPollResult = int(end.Status)
		s.PollDuration = end.Duration
		if !end.LastPoll.IsZero() {
			s.LastTopLevelPoll = end.LastPoll
		}
		if end.Agreement >= 0 {
			s.V3Agreement = end.Agreement
			s.HighestV3Agreement = max(s.HighestV3Agreement, end.Agreement)
		}
		if end.AgreeingPeers >= 0 {
			s.AgreePeersLastPoR = end.AgreeingPeers
		}
	})
}

// Files gives the state files of a unit to package peer.
func (u *units) Files(id lockss.AUID) (peer.Files, error) {
	x, ok := u.reg.Unit(id)
	if !ok || x.Content() == nil {
		return nil, fmt.Errorf("%s: %w", id, poll.ErrNoUnit)
	}
	return x.Content(), nil
}

// Repair reads what another peer is to be repaired with: headers and bytes as stored
// (lcap-v3.md 14.4).
func (u *units) Repair(_ context.Context, id lockss.AUID, url string) (map[string]string, []byte, error) {
	x, ok := u.active(id)
	if !ok {
		return nil, nil, fmt.Errorf("%s: %w", id, poll.ErrNoUnit)
	}
	v, err := x.Content().Current(url)
	if err != nil {
		return nil, nil, err
	}
	if v.Size > maxRepair {
		return nil, nil, fmt.Errorf("%s has %d bytes, more than fit into a repair", url, v.Size)
	}
	r, err := v.Open()
	if err != nil {
		return nil, nil, err
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, maxRepair))
	return v.Props, data, err
}

// Store keeps a repair as a new version. The name under which the page was collected keeps
// its trailing slash, or relative links in it would resolve wrongly (lcap-v3.md 14.5).
func (u *units) Store(_ context.Context, id lockss.AUID, url string, props map[string]string, data []byte) error {
	x, ok := u.active(id)
	if !ok {
		return fmt.Errorf("%s: %w", id, poll.ErrNoUnit)
	}
	if p := x.Plugin(); p != nil && !p.Included(url) {
		return fmt.Errorf("%s is outside the crawl rules of the unit; the repair is not stored", url)
	}
	clean := map[string]string{}
	for k, v := range props {
		clean[strings.ToLower(k)] = v
	}
	name := clean["x-lockss-node-url"]
	if prev, err := x.Content().Current(url); err == nil && prev.Props["x-lockss-node-url"] != "" {
		name = prev.Props["x-lockss-node-url"]
	} else if err != nil && !errors.Is(err, store.ErrNotPreserved) {
		return err
	}
	if strings.TrimSuffix(name, "/") != strings.TrimSuffix(url, "/") {
		name = url
	}
	clean["x-lockss-node-url"] = name
	delete(clean, "org.lockss.version.number")
	w, err := x.Content().New(url)
	if err != nil {
		return err
	}
	defer w.Abandon()
	if _, err := w.Write(data); err != nil {
		return err
	}
	sealed, err := w.Seal(clean)
	if err != nil {
		return err
	}
	if sealed.Changed {
		return x.Update(func(s *au.State) { s.LastContentChange = time.Now() })
	}
	return nil
}
