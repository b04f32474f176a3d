package au

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"armarium/daemon/lockss"
	"armarium/daemon/plugin"
	"armarium/daemon/store"
)

// Config says where units are kept and how they are bound to plugins.
type Config struct {
	Store *store.Store // required

	// MinFetchDelay is the floor under the pauses of plugins (plugins.md 10).
	MinFetchDelay time.Duration `prop:"org.lockss.baseau.minFetchDelay" default:"6s"`
	// RateSource replaces what plugins say about who shares a rate limiter.
	RateSource string `prop:"org.lockss.baseau.overrideFetchRateLimiterSource" default:""`

	Log *slog.Logger // nil: discard
}

// A Registry is all units of the node.
type Registry struct {
	cfg Config
	log *slog.Logger

	mu      sync.Mutex // held while units are bound
	plugins map[string]*plugin.Definition
	entries []Entry
	units   map[lockss.AUID]*Unit
}

// NewRegistry makes a registry without plugins and units.
func NewRegistry(c Config) *Registry {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Registry{cfg: c, log: c.Log, plugins: map[string]*plugin.Definition{}, units: map[lockss.AUID]*Unit{}}
}

// SetPlugins gives the plugins that are loaded, all of them, each id once. Units of a
// replaced one are bound anew, units that waited for one start; units whose plugin went get a
// Problem.
func (r *Registry) SetPlugins(defs []*plugin.Definition) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.plugins = map[string]*plugin.Definition{}
	for _, d := range defs {
		r.plugins[d.ID()] = d
	}
	for _, err := range r.rebind() {
		r.log.Warn("unit not configured", "err", err)
	}
}

// Configure gives the AUs of the configuration, all of them, registries aside. Units that are
// in it no more are dropped; their content stays on disk and is found again when they come
// back. The errors are of entries that make no unit; what keeps a unit from starting is its
// Problem.
func (r *Registry) Configure(entries []Entry) []error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.entries = slices.Clone(entries)
	return r.rebind()
}

// rebind makes units and entries agree.
func (r *Registry) rebind() []error {
	var errs []error
	keep := map[lockss.AUID]bool{}
	for _, e := range r.entries {
		def := r.plugins[e.PluginID]
		id := e.ID
		switch {
		case def != nil:
			if id = def.AUID(e.Params); e.ID != "" && e.ID != id {
				errs = append(errs, fmt.Errorf("AU %s is not configured: its parameters give the id %s", e.ID, id))
				continue
			}
		case id == "":
			id = e.guessID()
		}
		if keep[id] {
			errs = append(errs, fmt.Errorf("AU %s is configured twice; the second is ignored", id))
			continue
		}
		keep[id] = true
		u := r.units[id]
		if u == nil {
			u = &Unit{id: id, log: r.log, state: newState(), changed: make(chan struct{})}
			r.units[id] = u
		} else if u.def == def && u.entry.equal(e) && u.Content() != nil {
			continue
		}
		r.bind(u, e, def)
	}
	for id, u := range r.units {
		if !keep[id] && !u.IsRegistry() {
			delete(r.units, id)
			u.mu.Lock()
			close(u.changed)
			u.mu.Unlock()
		}
	}
	return errs
}

// bind makes the unit what its entry and plugin say.
func (r *Registry) bind(u *Unit, e Entry, def *plugin.Definition) {
	var p *plugin.AU
	var problem string
	if def == nil {
		problem = "its plugin " + e.PluginID + " is not loaded"
	} else if au, err := def.BindWith(e.Params, plugin.BindOptions{Attributes: e.Attributes, MinFetchDelay: r.cfg.MinFetchDelay, RateSource: r.cfg.RateSource}); err != nil {
		problem = err.Error()
	} else {
		p = au
	}
	if e.Disabled {
		problem = "disabled by the operator"
	}
	r.attach(u, e, def, p, problem)
}

// attach gives the unit its plugin and its content. Only a unit without problem gets a
// directory when it has none.
func (r *Registry) attach(u *Unit, e Entry, def *plugin.Definition, p *plugin.AU, problem string) {
	var c *store.Unit
	var err error
	if problem == "" {
		c, err = r.cfg.Store.Create(u.id, e.Root)
	} else if c, err = r.cfg.Store.Unit(u.id); errors.Is(err, store.ErrNoUnit) {
		err = nil
	}
	if err != nil && problem == "" {
		problem = err.Error()
	}
	old := u.Content()
	state, fresh := State{}, c != nil && (old == nil || old.Dir() != c.Dir())
	if fresh {
		if state, err = u.load(c); err != nil && problem == "" {
			problem = err.Error()
		}
	}
	u.mu.Lock()
	rebound := u.plugin != nil
	u.entry, u.def, u.plugin, u.content, u.problem = e, def, p, c, problem
	if fresh {
		u.state, u.unread = state, err
	}
	if rebound {
		close(u.changed)
		u.changed = make(chan struct{})
	}
	u.mu.Unlock()
	if problem != "" {
		r.log.Warn("unit is not active", "au", u.id, "problem", problem)
	}
}

// AddRegistryAU adds the unit of the plugin registry at url, on the first disk. One that is
// there already is returned.
func (r *Registry) AddRegistryAU(url string) (*Unit, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := plugin.RegistryAU(url)
	if u := r.units[p.ID()]; u != nil {
		return u, nil
	}
	u := &Unit{id: p.ID(), log: r.log, state: newState(), changed: make(chan struct{})}
	r.attach(u, Entry{PluginID: plugin.RegistryPluginID, Params: p.Params()}, p.Definition(), p, "")
	if problem := u.Problem(); problem != "" {
		return nil, fmt.Errorf("plugin registry %s: %s", url, problem)
	}
	r.units[u.id] = u
	return u, nil
}

// Units lists all units, sorted by name.
func (r *Registry) Units() []*Unit {
	r.mu.Lock()
	defer r.mu.Unlock()
	type named struct {
		name string
		unit *Unit
	}
	var all []named
	for _, u := range r.units {
		all = append(all, named{u.Name(), u})
	}
	slices.SortFunc(all, func(a, b named) int {
		return cmp.Or(cmp.Compare(strings.ToLower(a.name), strings.ToLower(b.name)), cmp.Compare(a.unit.id, b.unit.id))
	})
	units := make([]*Unit, len(all))
	for i, n := range all {
		units[i] = n.unit
	}
	return units
}

// Unit finds a unit by its id.
func (r *Registry) Unit(id lockss.AUID) (*Unit, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	u, ok := r.units[id]
	return u, ok
}

// Holding lists the units that have a current version of the URL, whatever its final slash
// (the store keeps "/dir" and "/dir/" as one), plugin registries last. A URL that redirected
// when it was collected is held like any other: its content was stored under it too
// (crawl.md 8.4). Units that are not configured any more are not listed.
func (r *Registry) Holding(url string) []*Unit {
	normal, err := lockss.NormalizeURL(url)
	if err != nil {
		return nil
	}
	var held []*Unit
	for _, id := range r.cfg.Store.Find(normal) {
		if u, ok := r.Unit(id); ok {
			held = append(held, u)
		}
	}
	slices.SortStableFunc(held, func(a, b *Unit) int {
		switch ra, rb := a.IsRegistry(), b.IsRegistry(); {
		case ra == rb:
			return 0
		case ra:
			return 1
		}
		return -1
	})
	return held
}
