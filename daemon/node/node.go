// Package node is the only place where the services of the daemon meet: it builds them in
// order, connects them, runs them, tells them of a new configuration and stops them.
//
//	config   → every service's Config, from one Snapshot
//	store    ← the disks; journal ← node.db on the first disk, copied to the second
//	shelf    ← plugin registries (crawled like any unit) → plugins → units
//	crawler  → store; audit ⇄ transport, hasher, store; faces → everything, by rows
//
// The adapters between services stand in units.go (units as polls and repairs see them),
// hash.go (units as the hasher sees them), views.go (rows for the faces) and actions.go
// (what the faces may ask for). Nothing else here knows more than one service.
package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"armarium/daemon/account"
	"armarium/daemon/au"
	"armarium/daemon/config"
	"armarium/daemon/crawl"
	"armarium/daemon/hasher"
	"armarium/daemon/journal"
	"armarium/daemon/lcap"
	"armarium/daemon/lockss"
	"armarium/daemon/peer"
	"armarium/daemon/platform"
	"armarium/daemon/poll"
	"armarium/daemon/serve"
	"armarium/daemon/status"
	"armarium/daemon/store"
	"armarium/daemon/titledb"
	"armarium/daemon/transport"
)

// Options are what the command line says.
type Options struct {
	URLs     []string // configuration, in order
	Groups   []string
	Platform string // socket of PID 1; "" off the appliance
	Log      *slog.Logger
}

// Node is one running daemon.
type Node struct {
	opt      Options
	log      *slog.Logger
	started  time.Time
	loader   *config.Loader
	params   Params
	identity lockss.PeerID
	box      platform.Client

	store    *store.Store
	journal  *journal.Journal
	units    *units
	shelf    *shelf
	peers    *peer.Peers
	wire     *transport.Transport // nil: this node does not take part in polls
	hasher   *hasher.Hasher
	audit    *poll.Auditor // nil when wire is
	crawler  *crawl.Crawler
	accounts *account.Accounts
	uiFilter *account.Filter
	proxy    *serve.Proxy // nil: no audit proxy

	mu       sync.Mutex // below; also orders changes of the local files
	snapshot *config.Snapshot
	titles   []titledb.Title
	fault    string // why the newest configuration is not in force
	problems []config.Problem
}

// Run runs a node until ctx ends. It fails when the disks or the configuration cannot be
// used; a property server that does not answer is waited for.
func Run(ctx context.Context, opt Options) error {
	n := &Node{opt: opt, log: opt.Log, started: time.Now(), box: platform.Client{Path: opt.Platform}}
	loader, err := config.NewLoader(config.Options{URLs: opt.URLs, Groups: opt.Groups, Log: opt.Log.With("part", "config")})
	if err != nil {
		return err
	}
	n.loader = loader
	if err := n.firstLoad(ctx); err != nil {
		return err
	}
	if err := n.build(ctx); err != nil {
		n.close()
		return err
	}
	err = n.serve(ctx)
	n.close()
	return err
}

// firstLoad waits for the first configuration.
func (n *Node) firstLoad(ctx context.Context) error {
	for wait := 2 * time.Second; ; wait = min(2*wait, 10*time.Minute) {
		s, err := n.loader.Load(ctx)
		if err == nil {
			n.snapshot = s
			return nil
		}
		n.log.Error("no configuration yet; it is asked for again", "err", err, "in", wait)
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(wait):
		}
	}
}

// build makes every service; none runs yet.
func (n *Node) build(ctx context.Context) (err error) {
	s := n.snapshot
	fill := func(v any) { n.problems = append(n.problems, s.Fill(v)...) }
	fill(&n.params)
	if n.identity, err = n.params.identity(); err != nil {
		return fmt.Errorf("this node has no usable identity: set org.lockss.platform.v3.identity: %w", err)
	}
	if len(n.params.Disks) == 0 {
		return errors.New("no disk is configured: set org.lockss.platform.diskSpacePaths")
	}

	sc := store.Config{Roots: n.params.Disks, Log: n.part("store")}
	fill(&sc)
	if n.store, err = store.Open(sc); err != nil {
		return err
	}
	var roots []string
	for _, r := range n.store.Roots() {
		if r.Err == nil {
			roots = append(roots, r.Path)
		}
	}
	if n.journal, err = journal.Open(filepath.Join(roots[0], "node.db"), roots[1:]...); err != nil {
		return err
	}
	if r := n.journal.Rescue(); r != "" {
		n.log.Warn("journal rescued", "what", r)
	}
	if cut, err := n.journal.EndRunning(n.started, "Interrupted", "The daemon stopped while this poll was running."); err != nil {
		return err
	} else if len(cut) > 0 {
		n.log.Warn("polls cut short by the last stop", "count", len(cut))
	}

	ac := au.Config{Store: n.store, Log: n.part("au")}
	fill(&ac)
	n.units = &units{reg: au.NewRegistry(ac)}
	n.shelf = newShelf(n.units.reg, n.part("plugin"))

	pc := peer.Config{Local: n.identity, Files: n.units.Files, Keeper: keeper{n.journal, "peers"}, Log: n.part("peer")}
	fill(&pc.Params)
	if n.peers, err = peer.New(pc); err != nil {
		return err
	}
	hc := hasher.Config{Units: hashUnits{n.units}, HashTime: n.hashTime, SetHashTime: n.setHashTime, Log: n.part("hasher")}
	fill(&hc)
	n.hasher = hasher.New(hc)

	cc := crawl.Config{Units: n.units.reg, Done: n.crawled, Log: n.part("crawl")}
	fill(&cc)
	if n.crawler, err = crawl.New(cc); err != nil {
		return err
	}
	if err := n.buildAudit(fill); err != nil {
		return err
	}
	if err := n.buildAccounts(fill); err != nil {
		return err
	}
	n.reportParameters()
	return n.apply(ctx, s)
}

// buildAudit connects polls with the network. A network that demands TLS is not joined in
// clear text.
func (n *Node) buildAudit(fill func(any)) (err error) {
	if !n.params.Comm {
		return nil
	}
	if n.params.TLSPeers {
		n.log.Error("the network demands TLS between peers, which this release does not have: no polls are called or voted in")
		return nil
	}
	tc := transport.Config{Identity: n.identity, Log: n.part("transport")}
	fill(&tc)
	if tc.SpoolDir == "" { // the system's temporary directory may be in memory
		tc.SpoolDir = filepath.Join(filepath.Dir(n.journal.Path()), "tmp")
		if err := os.MkdirAll(tc.SpoolDir, 0o755); err != nil {
			return err
		}
	}
	tc.NoKeepAlive, tc.NoUnknownAbort = !n.params.KeepAlive, !n.params.AbortUnknown
	if tc.PeerAddressMap, err = addressMap(n.params.AddressMap); err != nil {
		return err
	}
	tc.Receive = func(from lockss.PeerID, m *lcap.Message) { n.audit.Receive(from, m) }
	tc.Introduced = func(id lockss.PeerID) { n.peers.Learn(id) }
	if n.wire, err = transport.New(tc); err != nil {
		return err
	}
	pc := poll.Config{Local: n.identity, Groups: n.params.Groups, Peers: n.peers, Network: network{n.wire},
		Hasher: pollHasher{n.hasher}, Units: n.units, Copies: n.units, Journal: history{n}, Refetcher: n.crawler, Log: n.part("poll")}
	fill(&pc.Params)
	n.audit, err = poll.New(pc)
	return err
}

func (n *Node) buildAccounts(fill func(any)) (err error) {
	ac := account.Config{}
	fill(&ac)
	name, _ := n.snapshot.Get("org.lockss.platform.ui.username")
	hash, _ := n.snapshot.Get("org.lockss.platform.ui.password")
	if name != "" && hash != "" {
		ac.Users = []account.User{{Name: name, Password: hash, Roles: []string{account.RoleUserAdmin}}}
	} else {
		n.log.Warn("no administrator is configured: nobody can log in; set org.lockss.platform.ui.username and .password")
	}
	n.accounts, err = account.New(ac)
	n.uiFilter = &account.Filter{}
	return err
}

// part is the log of one service.
func (n *Node) part(name string) *slog.Logger { return n.log.With("part", name) }

// reportParameters says what of the configuration could not be used.
func (n *Node) reportParameters() {
	for _, p := range n.problems {
		n.log.Warn("parameter not usable", "name", p.Name, "value", p.Value, "err", p.Msg)
	}
	for _, name := range n.snapshot.Unknown(known(), passed...) {
		n.log.Warn("unknown parameter: nothing reads it", "name", name, "file", n.snapshot.Origin(name))
	}
}

// apply puts into force what can change while the node runs: collections, titles, plugin
// registries, access lists, and the parameters of polls and peers.
func (n *Node) apply(ctx context.Context, s *config.Snapshot) error {
	titles, errs := titledb.FromProps(s.Under("org.lockss.title."))
	for _, err := range errs {
		n.log.Warn("title list", "err", err)
	}
	n.mu.Lock()
	n.snapshot, n.titles = s, titles
	n.mu.Unlock()

	var pp PluginParams
	s.Fill(&pp)
	if err := n.shelf.configure(ctx, pp); err != nil {
		n.setFault(err.Error())
		n.log.Error("plugins", "err", err)
	} else {
		n.setFault("")
	}
	n.shelf.process(ctx)
	n.configureUnits()

	var access Access
	s.Fill(&access)
	warnings, err := n.uiFilter.Set(access.UIInclude, access.UIExclude)
	for _, w := range warnings {
		n.log.Warn("access list of the pages", "err", w)
	}
	if err == nil && n.proxy != nil {
		err = n.proxy.SetAccess(access.ReadInclude, access.ReadExclude)
	}
	if err != nil {
		n.log.Error("access list not changed", "err", err)
	}
	if n.audit != nil {
		var p poll.Params
		s.Fill(&p)
		if err := n.audit.Reconfigure(p); err != nil {
			n.log.Error("poll parameters not changed", "err", err)
		}
	}
	var pp2 peer.Params
	s.Fill(&pp2)
	if err := n.peers.Reconfigure(pp2); err != nil {
		n.log.Error("peer parameters not changed", "err", err)
	}
	return nil
}

func (n *Node) setFault(text string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.fault = text
}

// serve runs all services until ctx ends or one of them fails, then waits for all.
func (n *Node) serve(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var g sync.WaitGroup
	run := func(name string, f func(context.Context) error) {
		g.Go(func() {
			if err := f(ctx); err != nil && ctx.Err() == nil {
				cancel(fmt.Errorf("%s: %w", name, err))
			}
		})
	}
	listeners, err := n.listen()
	if err != nil {
		return err
	}
	for _, l := range listeners {
		run(l.name, l.run)
	}
	run("hasher", n.hasher.Run)
	if n.wire != nil {
		run("transport", n.wire.Run)
		run("poll", n.audit.Run)
	}
	run("crawl", n.crawler.Run)
	run("config", func(ctx context.Context) error {
		return n.loader.Run(ctx, func(s *config.Snapshot) {
			n.log.Info("configuration changed")
			n.apply(ctx, s)
		})
	})
	run("journal", n.mirror)
	run("store", n.tend)
	run("plugin", n.loadPlugins)
	n.log.Info("node started", "identity", n.identity, "ui", n.params.UIPort, "disks", strings.Join(n.params.Disks, ";"))
	<-ctx.Done()
	g.Wait()
	if err := n.peers.Flush(); err != nil {
		n.log.Error("peers not kept", "err", err)
	}
	return context.Cause(ctx)
}

// loadPlugins waits for the first crawls of registries that were never crawled, then lets
// the units take part in polls (plugin-packaging.md 4.3).
func (n *Node) loadPlugins(ctx context.Context) error {
	var p struct {
		Timeout time.Duration `prop:"org.lockss.plugin.load.timeout" default:"1m"`
	}
	n.snapshot.Fill(&p)
	deadline := time.After(p.Timeout)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for _, u := range n.units.reg.Units() {
		if u.IsRegistry() && !u.State().Crawled() {
			if err := n.crawler.Request(u.ID(), crawl.RequestOptions{Priority: 10}); err != nil {
				n.log.Error("plugin registry not crawled", "au", u.ID(), "err", err)
			}
		}
	}
wait:
	for !n.registriesCrawled() {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-deadline:
			n.log.Warn("plugin registries not crawled in time; the node goes on with the plugins it has", "timeout", p.Timeout)
			break wait
		case <-tick.C:
		}
	}
	n.units.ready.Store(true)
	return nil
}

func (n *Node) registriesCrawled() bool {
	for _, u := range n.units.reg.Units() {
		if u.IsRegistry() && !u.State().Crawled() {
			return false
		}
	}
	return true
}

// mirror copies the journal to a second disk, when there is one, every hour and at the end.
func (n *Node) mirror(ctx context.Context) error {
	var second string
	for i, r := range n.store.Roots() {
		if i > 0 && r.Err == nil {
			second = r.Path
			break
		}
	}
	if second == "" {
		<-ctx.Done()
		return context.Cause(ctx)
	}
	tick := time.NewTicker(time.Hour)
	defer tick.Stop()
	for {
		stop := ctx.Err() != nil
		if err := n.journal.Mirror(context.WithoutCancel(ctx), second); err != nil {
			n.log.Error("journal not copied to the second disk", "disk", second, "err", err)
		}
		if stop {
			return context.Cause(ctx)
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

// tend brings the index of units up to date that others changed, or that a crash left
// behind, and from time to time makes a point from which the next start can go on.
func (n *Node) tend(ctx context.Context) error {
	if stale := n.store.Stale(); stale > 0 {
		began := time.Now()
		n.log.Info("index is being rebuilt", "units", stale)
		err := n.store.Refresh(ctx, func(done, total int) {
			n.log.Debug("index is being rebuilt", "done", done, "total", total)
		})
		if err != nil && ctx.Err() == nil {
			n.log.Error("index not rebuilt", "err", err)
		} else if err == nil {
			n.log.Info("index rebuilt", "units", stale, "took", time.Since(began).Round(time.Millisecond))
		}
	}
	tick := time.NewTicker(time.Hour)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
			if err := n.store.Checkpoint(); err != nil {
				n.log.Error("index not checkpointed", "err", err)
			}
		}
	}
}

func (n *Node) close() {
	if n.journal != nil {
		if err := n.journal.Close(); err != nil {
			n.log.Error("journal", "err", err)
		}
	}
	if n.store != nil {
		if err := n.store.Close(); err != nil {
			n.log.Error("store", "err", err)
		}
	}
}

// health is the node's own state, for PID 1 and the pages.
func (n *Node) health() status.Health {
	if !n.units.ready.Load() {
		return status.Health{State: status.HealthStarting, Reason: "plugins are being loaded"}
	}
	for _, r := range n.store.Roots() {
		if r.Err != nil {
			return status.Health{State: status.HealthOK, Reason: fmt.Sprintf("disk %s: %v", r.Path, r.Err)}
		}
	}
	return status.Health{State: status.HealthOK}
}

// network sends a poll's messages over the wire.
type network struct{ t *transport.Transport }

func (w network) Send(to lockss.PeerID, m *lcap.Message, expires time.Time, retries int, interval time.Duration) {
	w.t.Send(to, m, transport.SendOptions{Expires: expires, MaxRetries: retries, RetryInterval: interval})
}

// addressMap reads org.lockss.id.peerAddressMap: "identity,identity2" each.
func addressMap(list []string) (map[lockss.PeerID]netip.AddrPort, error) {
	m := map[lockss.PeerID]netip.AddrPort{}
	for _, pair := range list {
		from, to, _ := strings.Cut(pair, ",")
		a, err := lockss.ParsePeerID(from)
		b, err2 := lockss.ParsePeerID(to)
		if err := errors.Join(err, err2); err != nil {
			return nil, fmt.Errorf("org.lockss.id.peerAddressMap: %q: %w", pair, err)
		}
		m[a] = b.AddrPort()
	}
	return m, nil
}

// keeper keeps one value in the journal.
type keeper struct {
	j   *journal.Journal
	key string
}

func (k keeper) Load() ([]byte, error) { return k.j.Get(k.key) }
func (k keeper) Save(b []byte) error   { return k.j.Put(k.key, b) }

func (n *Node) hashTime(id lockss.AUID) time.Duration {
	b, err := n.journal.Get("hash-time/" + string(id))
	if err != nil || b == nil {
		return 0
	}
	d, err := time.ParseDuration(string(b))
	if err != nil {
		return 0
	}
	return d
}

func (n *Node) setHashTime(id lockss.AUID, d time.Duration) {
	if err := n.journal.Put("hash-time/"+string(id), []byte(d.String())); err != nil {
		n.log.Warn("hash estimate not kept", "au", id, "err", err)
	}
}
