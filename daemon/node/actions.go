package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"armarium/daemon/au"
	"armarium/daemon/crawl"
	"armarium/daemon/lockss"
	"armarium/daemon/plugin"
	"armarium/daemon/poll"
	"armarium/daemon/status"
	"armarium/daemon/store"
	"armarium/daemon/titledb"
)

// auFile is where collections are configured (config.md 4.3).
const auFile = "au.txt"

// AddAU configures a collection, durably in au.txt, and asks for its first crawl.
func (n *Node) AddAU(ctx context.Context, r status.AddRequest) (lockss.AUID, error) {
	if err := r.Check(); err != nil {
		return "", err
	}
	e := au.Entry{PluginID: r.Plugin, Params: r.Params, Name: r.Name}
	if r.Title != "" {
		t, err := n.title(r.Title)
		if err != nil {
			return "", err
		}
		e.PluginID, e.Params, e.Name = t.PluginID, t.Params, t.Name
	}
	def, ok := n.shelf.definition(e.PluginID)
	if !ok {
		return "", fmt.Errorf("%s: %w", n.shelf.absent(e.PluginID), status.ErrNotFound)
	}
	conf, _, err := def.Configuration(e.Params)
	if err == nil {
		err = def.MayCollect()
	}
	var bound *plugin.AU
	if err == nil {
		bound, err = def.Bind(conf)
	}
	if err != nil {
		return "", fmt.Errorf("%w: %w", status.ErrRefused, err)
	}
	e.Params, e.ID, e.Name = conf, bound.ID(), cmp.Or(e.Name, bound.Name())
	if e.Root, err = n.chooseDisk(r.Disk); err != nil {
		return "", err
	}
	if err := n.addEntry(e); err != nil {
		return "", err
	}
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

// chooseDisk checks the disk that was asked for, or finds the one with most space, and gives
// it in the form of au.txt (repository.md 12).
func (n *Node) chooseDisk(want string) (string, error) {
	want = strings.TrimPrefix(want, "local:")
	var limits Space
	n.config().Fill(&limits)
	var best store.RootInfo
	var faults []string
	for _, r := range n.store.Roots() {
		switch {
		case want != "" && r.Path != want:
		case r.Err != nil:
			faults = append(faults, r.Err.Error())
		case limits.level(r.Free, r.Total) == status.DiskFull:
			faults = append(faults, fmt.Sprintf("disk %s is full: %d MB are free", r.Path, r.Free>>20))
		case best.Path == "" || r.Free > best.Free:
			best = r
		}
	}
	switch {
	case best.Path != "":
		return "local:" + best.Path, nil
	case len(faults) == 0:
		return "", fmt.Errorf("%s is not one of this node's disks: %w", want, status.ErrRefused)
	}
	return "", fmt.Errorf("%s: %w", strings.Join(faults, "; "), status.ErrRefused)
}

// addEntry adds a collection to au.txt, which keeps everything else that is in it, and to the
// units.
func (n *Node) addEntry(e au.Entry) error {
	n.change.Lock()
	defer n.change.Unlock()
	props, err := n.loader.ReadLocal(auFile)
	if err != nil {
		return fmt.Errorf("%w until %s is mended", err, auFile)
	}
	entries, _ := au.Entries(props)
	if slices.ContainsFunc(entries, func(x au.Entry) bool { return x.ID == e.ID }) {
		return already{"this collection is configured already"}
	}
	all := e.Props()
	maps.Copy(all, props)
	if err := n.loader.WriteLocal(auFile, "AU Configuration", all); err != nil {
		return err
	}
	n.mu.Lock()
	n.snapshot = n.snapshot.WithFile(auFile, e.Props(), filepath.Join(n.loader.Dir(), auFile))
	n.mu.Unlock()
	n.configureUnits()
	return nil
}

// already is status.ErrBusy in other words.
type already struct{ text string }

func (e already) Error() string { return e.text }
func (e already) Unwrap() error { return status.ErrBusy }

// configureUnits gives the registry all configured collections, with what the title list says
// of each. change is held.
func (n *Node) configureUnits() {
	n.mu.Lock()
	s, titles := n.snapshot, n.titles
	n.mu.Unlock()
	var p auParams
	s.Fill(&p)
	props := s.File(auFile)
	if p.Anywhere {
		props = s.Under("org.lockss.au.")
	}
	entries, errs := au.Entries(props)
	byID := map[lockss.AUID]titledb.Title{}
	for _, t := range titles {
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
	for _, err := range append(errs, n.units.reg.Configure(entries)...) {
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
	u, ok := n.units.reg.Unit(id)
	if !ok {
		return fmt.Errorf("%s: %w", id, status.ErrNotFound)
	}
	if c := u.Content(); c != nil {
		if _, err := n.chooseDisk(c.Root()); err != nil {
			return err
		}
	}
	if err := n.crawler.Request(id, crawl.RequestOptions{OverrideRates: true}); err != nil {
		return fmt.Errorf("%w: %w", status.ErrRefused, err)
	}
	return nil
}

// Poll asks for a poll now.
func (n *Node) Poll(_ context.Context, id lockss.AUID) error {
	u, ok := n.units.reg.Unit(id)
	if !ok {
		return fmt.Errorf("%s: %w", id, status.ErrNotFound)
	}
	if n.audit == nil {
		return fmt.Errorf("this node takes no part in polls: %w", status.ErrRefused)
	}
	if p := u.Plugin(); u.Active() && p != nil {
		if err := p.Definition().MayVote(); err != nil {
			return fmt.Errorf("%w: %w", status.ErrRefused, err)
		}
	}
	err := n.audit.Call(id)
	switch {
	case errors.Is(err, poll.ErrRunning):
		return already{"a poll of this collection is running already"}
	case errors.Is(err, poll.ErrNoUnit):
		return fmt.Errorf("%s is not in service: %s: %w", id, u.Problem(), status.ErrRefused)
	case err != nil:
		return fmt.Errorf("%w: %w", status.ErrRefused, err)
	}
	return nil
}
