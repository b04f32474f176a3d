package au

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"slices"
	"sync"

	"armarium/daemon/lockss"
	"armarium/daemon/plugin"
	"armarium/daemon/store"
)

// A Unit is one archival unit that this node knows.
type Unit struct {
	id   lockss.AUID
	log  *slog.Logger
	gate gate

	mu      sync.Mutex
	entry   Entry
	def     *plugin.Definition // what plugin was bound of
	plugin  *plugin.AU         // nil: see problem
	content *store.Unit        // nil: nothing stored and not active
	problem string
	changed chan struct{} // closed when bound anew or removed
	state   State
	unread  error // why the state file could not be read: it must not be overwritten

	stateMu sync.Mutex // held while the file is written
}

// ID is the identity of the unit among all nodes.
func (u *Unit) ID() lockss.AUID { return u.id }

// Name is for people: the plugin's, else the configuration's, else the id.
func (u *Unit) Name() string {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case u.plugin != nil && u.plugin.Name() != "":
		return u.plugin.Name()
	case u.entry.Name != "":
		return u.entry.Name
	}
	return string(u.id)
}

// Entry is the unit's configuration; of a plugin registry only plugin and parameters are set.
func (u *Unit) Entry() Entry {
	u.mu.Lock()
	defer u.mu.Unlock()
	e := u.entry
	e.Params, e.Attributes, e.ID = maps.Clone(e.Params), maps.Clone(e.Attributes), u.id
	return e
}

// Plugin is the AU that the plugin makes of the unit's parameters; nil when there is a
// Problem with it. It may change: hold on to one for the whole of a crawl or poll, and watch
// Changed.
func (u *Unit) Plugin() *plugin.AU {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.plugin
}

// Content is the unit's place in the store; nil when nothing of it was ever stored and there
// is a Problem.
func (u *Unit) Content() *store.Unit {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.content
}

// Problem says why the unit is neither crawled nor polled, "" if it is.
func (u *Unit) Problem() string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.problem
}

// Active says whether the unit may be crawled and polled: there is no Problem.
func (u *Unit) Active() bool { return u.Problem() == "" }

// IsRegistry says whether the unit is a plugin registry.
func (u *Unit) IsRegistry() bool {
	p := u.Plugin()
	return p != nil && p.IsRegistry()
}

// Changed is closed when the unit is bound to another plugin or other parameters, or leaves
// the registry: work begun before is to be given up (plugin-packaging.md 5).
func (u *Unit) Changed() <-chan struct{} {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.changed
}

// BeginCrawl waits until no crawl and no hash of the unit is going on, and keeps both out
// until end is called. The error is that of ctx.
func (u *Unit) BeginCrawl(ctx context.Context) (end func(), err error) {
	if end, err = u.gate.enter(ctx, true); err != nil {
		return nil, fmt.Errorf("wait to crawl %s: %w", u.id, err)
	}
	return end, nil
}

// BeginHash waits until no crawl of the unit is going on and keeps crawls out until end is
// called; other hashes may go on. The error is that of ctx.
func (u *Unit) BeginHash(ctx context.Context) (end func(), err error) {
	if end, err = u.gate.enter(ctx, false); err != nil {
		return nil, fmt.Errorf("wait to hash %s: %w", u.id, err)
	}
	return end, nil
}

// Crawling says whether a crawl of the unit is going on.
func (u *Unit) Crawling() bool { c, _ := u.gate.busy(); return c }

// Hashing says how many hashes of the unit are going on.
func (u *Unit) Hashing() int { _, h := u.gate.busy(); return h }

// State is what is remembered of the unit.
func (u *Unit) State() State {
	u.mu.Lock()
	defer u.mu.Unlock()
	s := u.state
	s.CDNStems = slices.Clone(s.CDNStems)
	return s
}

// Update changes the unit's state and returns when that is durable. fn runs under the unit's
// lock and may only set fields. After an error the state is as before.
func (u *Unit) Update(fn func(*State)) error {
	u.stateMu.Lock()
	defer u.stateMu.Unlock()
	u.mu.Lock()
	c, err := u.content, u.unread
	u.mu.Unlock()
	switch {
	case c == nil:
		return fmt.Errorf("state of %s: %w", u.id, store.ErrNoUnit)
	case err != nil:
		return fmt.Errorf("state of %s is left alone: %w", u.id, err)
	}
	s := u.State()
	fn(&s)
	if err := c.WriteState(stateFile, appendState(nil, s)); err != nil {
		return err
	}
	u.mu.Lock()
	u.state = s
	u.mu.Unlock()
	return nil
}

// load reads the state of content that was just found. A file that cannot be read is kept
// aside as 1.x does, and the unit begins with a new state.
func (u *Unit) load(c *store.Unit) (State, error) {
	b, err := c.ReadState(stateFile)
	if errors.Is(err, fs.ErrNotExist) {
		return newState(), nil
	}
	if err != nil {
		return newState(), err
	}
	s, err := parseState(b)
	if err == nil {
		return s, nil
	}
	const aside = stateFile + ".deser.old"
	u.log.Warn("unit state is not readable and begins anew; the file is kept", "au", u.id, "file", aside, "err", err)
	if _, old := c.ReadState(aside); errors.Is(old, fs.ErrNotExist) {
		if err := c.WriteState(aside, b); err != nil {
			return newState(), err
		}
	}
	return newState(), nil
}
