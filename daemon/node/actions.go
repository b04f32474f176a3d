package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"armarium/daemon/au"
	"armarium/daemon/crawl"
	"armarium/daemon/journal"
	"armarium/daemon/lockss"
	"armarium/daemon/plugin"
	"armarium/daemon/poll"
	"armarium/daemon/status"
	"armarium/daemon/titledb"
)

// AddAU configures a collection, durably in au.txt, and asks for its first crawl.
func (n *Node) AddAU(ctx context.Context, r status.AddRequest) (lockss.AUID, error) {
	if err := r.Check(); err != nil {
		return "", err
	}
	e := au.Entry{PluginID: r.Plugin, Params: r.Params, Name: r.Name, Root: r.Disk}
	if r.Title != "" {
		t, err := n.title(r.Title)
		if err != nil {
			return "", err
		}
		e.PluginID, e.Params, e.Name = t.PluginID, t.Params, t.Name
	}
	def, ok := n.shelf.definition(e.PluginID)
	if !ok {
		return "", fmt.Errorf("plugin %s is not loaded: %w", e.PluginID, status.ErrNotFound)
	}
	conf, _, err := def.Configuration(e.Params)
	if err != nil {
		return "", fmt.Errorf("%w: %w", status.ErrRefused, err)
	}
	e.Params, e.ID = conf, def.AUID(conf)
	if e.Root == "" {
		e.Root = n.emptiestDisk()
	}
	if err := n.writeEntry(e); err != nil {
		return "", err
	}
	n.configureUnits()
	u, ok := n.units.reg.Unit(e.ID)
	if !ok {
		return "", fmt.Errorf("%s was configured but is no unit", e.ID)
	}
	if p := u.Problem(); p != "" {
		return e.ID, fmt.Errorf("added, but not in service: %s: %w", p, status.ErrRefused)
	}
	if err := n.crawler.Request(e.ID, crawl.RequestOptions{}); err != nil {
		n.log.Warn("first crawl not queued", "au", e.ID, "err", err)
	}
	return e.ID, nil
}

// title finds an entry of the title list by its key or its name.
func (n *Node) title(key string) (titledb.Title, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	i := slices.IndexFunc(n.titles, func(t titledb.Title) bool { return t.Key == key || t.Name == key })
	if i < 0 {
		return titledb.Title{}, fmt.Errorf("title %q: %w", key, status.ErrNotFound)
	}
	return n.titles[i], nil
}

// emptiestDisk is the one proposed for a new collection (repository.md 12).
func (n *Node) emptiestDisk() string {
	best, free := "", uint64(0)
	for _, r := range n.store.Roots() {
		if r.Err == nil && (best == "" || r.Free > free) {
			best, free = r.Path, r.Free
		}
	}
	return best
}

// writeEntry adds an entry to au.txt, which keeps everything else that is in it.
func (n *Node) writeEntry(e au.Entry) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	props := map[string]string{}
	for k, v := range n.snapshot.Under("org.lockss.au.") {
		if filepath.Base(n.snapshot.Origin(k)) == "au.txt" {
			props[k] = v
		}
	}
	entries, _ := au.Entries(props)
	if slices.ContainsFunc(entries, func(x au.Entry) bool { return x.ID == e.ID }) {
		return fmt.Errorf("the collection %w", status.ErrBusy)
	}
	maps.Copy(props, e.Props())
	if err := n.loader.WriteLocal("au.txt", "AU Configuration", props); err != nil {
		return err
	}
	n.snapshot = n.snapshot.With(e.Props(), filepath.Join(n.loader.Dir(), "au.txt"))
	return nil
}

// configureUnits gives the registry all configured collections, with what the title list
// says of each.
func (n *Node) configureUnits() {
	n.mu.Lock()
	defer n.mu.Unlock()
	entries, errs := au.Entries(n.snapshot.Under("org.lockss.au."))
	byID := map[lockss.AUID]titledb.Title{}
	for _, t := range n.titles {
		if def, ok := n.shelf.definition(t.PluginID); ok {
			byID[def.AUID(t.Params)] = t
		}
	}
	for i := range entries {
		e := &entries[i]
		t, ok := byID[e.ID]
		if !ok {
			continue
		}
		e.Attributes = t.Attributes
		def, _ := n.shelf.definition(t.PluginID)
		e.Params = withDefaults(e.Params, t.Params, def)
	}
	errs = append(errs, n.units.reg.Configure(entries)...)
	for _, err := range errs {
		n.log.Warn("collection not configured", "err", err)
	}
}

// withDefaults adds the default-only parameters of a title to those of a unit (titledb.md
// 1.3).
func withDefaults(own, title map[string]string, def *plugin.Definition) map[string]string {
	all := maps.Clone(own)
	if all == nil {
		all = map[string]string{}
	}
	for _, p := range def.AllParams() {
		if v, ok := title[p.Key]; ok && p.DefaultOnly {
			if _, set := all[p.Key]; !set {
				all[p.Key] = v
			}
		}
	}
	return all
}

// Crawl asks for a crawl now.
func (n *Node) Crawl(_ context.Context, id lockss.AUID) error {
	if _, ok := n.units.reg.Unit(id); !ok {
		return fmt.Errorf("%s: %w", id, status.ErrNotFound)
	}
	if err := n.crawler.Request(id, crawl.RequestOptions{OverrideRates: true}); err != nil {
		return fmt.Errorf("%w: %w", status.ErrRefused, err)
	}
	return nil
}

// Poll asks for a poll now.
func (n *Node) Poll(_ context.Context, id lockss.AUID) error {
	if n.audit == nil {
		return fmt.Errorf("this node takes no part in polls: %w", status.ErrRefused)
	}
	err := n.audit.Call(id)
	switch {
	case errors.Is(err, poll.ErrRunning):
		return fmt.Errorf("a poll of this collection %w", status.ErrBusy)
	case errors.Is(err, poll.ErrNoUnit):
		return fmt.Errorf("%s: %w", id, status.ErrNotFound)
	case err != nil:
		return fmt.Errorf("%w: %w", status.ErrRefused, err)
	}
	return nil
}

// crawled keeps the result of a crawl; that of a plugin registry may bring plugins.
func (n *Node) crawled(r crawl.Result) {
	c := journal.Crawl{AU: r.AU, Kind: r.Kind, Started: r.Started, Ended: r.Ended, Status: int(r.Status), Message: r.Message,
		Fetched: r.Fetched, NotModified: r.NotModified, Excluded: r.Excluded, Errors: r.Errors, Bytes: r.Bytes}
	for _, f := range r.Failures {
		c.Failures = append(c.Failures, journal.CrawlFailure(f))
	}
	if _, err := n.journal.AddCrawl(c); err != nil {
		n.log.Error("crawl not kept in the journal", "au", r.AU, "err", err)
	}
	if r.Registry && r.Status == crawl.Successful {
		n.shelf.process(context.Background())
		n.configureUnits()
	}
}

// history keeps what polls came to.
type history struct{ n *Node }

func (h history) Done(r poll.Result) error {
	detail, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return h.n.journal.AddPoll(journal.Poll{Key: r.Key, AU: r.AU, Role: string(r.Role), Peer: r.Peer, Started: r.Started, Ended: r.Ended,
		Status: r.Status, Quorum: r.Quorum, Voters: r.Voters, Agreement: r.Agreement, URLs: r.URLs, Won: r.Won,
		Lost: r.Lost, TooClose: r.TooClose, NoQuorum: r.NoQuorum, Repairs: r.Repairs, Sentence: r.Sentence, Detail: detail})
}

func (h history) Repaired(r poll.RepairRecord) error {
	rec := journal.Repair{AU: r.AU, URL: r.URL, From: r.From, Poll: r.Poll, At: r.At, Result: r.Result, Old: r.Old, New: r.New}
	if u, ok := h.n.units.reg.Unit(r.AU); ok && u.Content() != nil {
		if v, err := u.Content().Current(r.URL); err == nil {
			rec.Version = v.Number
		}
	}
	return h.n.journal.AddRepair(rec)
}

// recordAction appends to the audit trail.
func (n *Node) recordAction(a status.ActionRow) error {
	if a.At.IsZero() {
		a.At = time.Now()
	}
	return n.journal.AddAction(journal.Action{At: a.At, User: a.User, What: a.What, Object: a.Object, Result: a.Result})
}
