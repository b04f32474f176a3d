package node

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"sync"
	"time"

	"armarium/daemon/au"
	"armarium/daemon/crawl"
	"armarium/daemon/journal"
	"armarium/daemon/lcap"
	"armarium/daemon/lockss"
	"armarium/daemon/poll"
	"armarium/daemon/status"
)

// history keeps what polls came to (poll.Log), and knows what the latest on each unit found.
type history struct {
	journal *journal.Journal
	reg     *au.Registry
	local   lockss.PeerID
	log     *slog.Logger

	mu      sync.Mutex
	running map[lockss.AUID]string // keys of polls of ours, from the first invitation until all that came of it is kept
	latest  map[lockss.AUID]finding
}

// finding is what the last complete poll on a unit left: URLs that it lost and no repair put
// right, and URLs that it could not decide.
type finding struct{ damaged, undecided int }

func newHistory(j *journal.Journal, reg *au.Registry, local lockss.PeerID, log *slog.Logger) *history {
	return &history{journal: j, reg: reg, local: local, log: log, running: map[lockss.AUID]string{}, latest: map[lockss.AUID]finding{}}
}

// called writes a poll of ours down as running when it invites its first peer, so that the
// next start can tell of it if this run ends without warning.
func (h *history) called(m *lcap.Message) {
	h.mu.Lock()
	known := h.running[m.AU] == m.Key
	h.running[m.AU] = m.Key
	h.mu.Unlock()
	if known {
		return
	}
	err := h.journal.AddPoll(journal.Poll{Key: m.Key, AU: m.AU, Role: string(poll.RolePoller), Peer: h.local, Started: time.Now(),
		Status: poll.Inviting.String(), Agreement: -1, Sentence: "The poll is running."})
	if err != nil {
		h.log.Error("running poll not kept in the journal", "poll", m.Key, "err", err)
	}
}

// Done keeps a poll or vote that ended.
func (h *history) Done(r poll.Result) error {
	detail, err := json.Marshal(r)
	if err != nil {
		return err
	}
	p := journal.Poll{Key: r.Key, AU: r.AU, Role: string(r.Role), Peer: r.Peer, Started: r.Started, Ended: r.Ended,
		Status: r.Status, Quorum: r.Quorum, Voters: r.Voters, Agreement: r.Agreement, URLs: r.URLs, Won: r.Won,
		Lost: r.Lost, TooClose: r.TooClose, NoQuorum: r.NoQuorum, Repairs: r.Repairs, Sentence: r.Sentence, Detail: detail}
	if r.Role != poll.RolePoller {
		return h.journal.AddPoll(p)
	}
	p.Peer = h.local
	h.mu.Lock()
	if f, ok := found(p); ok && r.Variant == poll.PoR {
		h.latest[r.AU] = f
	}
	h.mu.Unlock()
	if err := h.journal.UpdatePoll(p); !errors.Is(err, journal.ErrNoRecord) {
		return err
	}
	return h.journal.AddPoll(p)
}

// settled is called when the result of the poll on a unit is kept with the unit, too.
func (h *history) settled(id lockss.AUID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.running, id)
}

// open tells whether something that came of a poll may still have to be kept.
func (h *history) open(id lockss.AUID, key string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.running[id] == key
}

// found reads the finding of a poll; ok is false if it decided nothing. The numbers are those
// after repairs.
func found(p journal.Poll) (f finding, ok bool) {
	return finding{p.Lost, p.TooClose + p.NoQuorum}, p.Status == poll.Complete.String()
}

// maxSearch is how many polls are looked through for one that was complete.
const maxSearch = 20

// finding gives the finding of the last complete poll of ours on a unit. The journal is looked
// into once for each unit.
func (h *history) finding(id lockss.AUID) finding {
	h.mu.Lock()
	f, ok := h.latest[id]
	h.mu.Unlock()
	for skip := 0; !ok && skip < maxSearch; skip++ {
		list, err := h.journal.Polls(journal.Filter{AU: id, Role: string(poll.RolePoller), Limit: 1, Skip: skip})
		if err != nil {
			h.log.Warn("polls not read", "au", id, "err", err)
			return finding{}
		}
		if len(list) == 0 {
			break
		}
		f, ok = found(list[0])
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if newer, ok := h.latest[id]; ok {
		return newer
	}
	h.latest[id] = f
	return f
}

// Repaired keeps a repair that was settled.
func (h *history) Repaired(r poll.RepairRecord) error {
	rec := journal.Repair{AU: r.AU, URL: r.URL, From: r.From, Poll: r.Poll, At: r.At, Result: r.Result, Old: r.Old, New: r.New}
	if u, ok := h.reg.Unit(r.AU); ok && u.Content() != nil && r.Result != poll.RepairFailed {
		if v, err := u.Content().Current(r.URL); err == nil {
			rec.Version = v.Number
		}
	}
	return h.journal.AddRepair(rec)
}

// crawled keeps the result of a crawl; that of a plugin registry may bring plugins.
func (n *Node) crawled(ctx context.Context, r crawl.Result) {
	c := journal.Crawl{AU: r.AU, Kind: r.Kind, Started: r.Started, Ended: r.Ended, Status: int(r.Status), Message: r.Message,
		Fetched: r.Fetched, NotModified: r.NotModified, Excluded: r.Excluded, Errors: r.Errors, Bytes: r.Bytes}
	for _, f := range r.Failures {
		c.Failures = append(c.Failures, journal.CrawlFailure(f))
	}
	if _, err := n.journal.AddCrawl(c); err != nil {
		n.log.Error("crawl not kept in the journal", "au", r.AU, "err", err)
	}
	if !r.Registry || ctx.Err() != nil {
		return
	}
	if r.Status == crawl.Successful {
		n.refreshPlugins(ctx)
	}
	select {
	case n.fetched <- r.AU:
	default: // nobody waits for so many
	}
}

// recordAction appends to the audit trail.
func (n *Node) recordAction(a status.ActionRow) error {
	if a.At.IsZero() {
		a.At = time.Now()
	}
	return n.journal.AddAction(journal.Action{At: a.At, User: a.User, What: a.What, Object: a.Object, Result: a.Result})
}
