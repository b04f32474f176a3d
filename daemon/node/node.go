// Package node is the only place where the services of the daemon meet: it builds them in
// order, connects them, runs them, tells them of a new configuration and stops them.
//
//	config   → every service's Config, from one Snapshot
//	store    ← the disks; journal ← node.db on the first disk, copied to the second
//	shelf    ← plugin registries (crawled like any unit) → plugins → units
//	crawler  → store; audit ⇄ transport, hasher, store; faces → everything, by rows
//
// The adapters between services stand in units.go (units as polls and repairs see them),
// hash.go (units as the hasher sees them), views.go (rows for the faces), actions.go (what
// the faces may ask for) and history.go (what the journal keeps). Nothing else here knows more
// than one service.
//
// A new configuration takes effect at once where params.go says so (settings): plugins,
// titles, collections, accounts, access lists, polls, peers. All else waits for the next start;
// the log and the configuration table name it. At the start the node waits for a configuration
// that loads, and says on the port of the pages why there is none (wait.go). No copy of it is
// kept, so that a box whose configuration comes from a property server needs that server when
// it starts; its plugins need it only once (shelf).
package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

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
	start    *config.Snapshot // with which the node was started
	params   Params
	identity lockss.PeerID
	box      box

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
	history  *history
	fetched  chan lockss.AUID // plugin registries whose crawl has ended

	change sync.Mutex // orders changes of configuration and collections; held over disk

	mu       sync.Mutex // held briefly
	snapshot *config.Snapshot
	titles   []titledb.Title
}

// Run runs a node until ctx ends. It fails when the disks or the configuration cannot be
// used; a property server that does not answer is waited for.
func Run(ctx context.Context, opt Options) error {
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	n := &Node{opt: opt, log: opt.Log, started: time.Now(), box: box{client: platform.Client{Path: opt.Platform}}, fetched: make(chan lockss.AUID, 100)}
	loader, err := config.NewLoader(config.Options{URLs: opt.URLs, Groups: opt.Groups, Log: n.part("config")})
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

// build makes every service; none runs yet.
func (n *Node) build(ctx context.Context) (err error) {
	s := n.start
	fill := func(v any) { s.Fill(v) } // what is wrong is said by apply
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
	n.shelf = newShelf(n.units.reg, n.loader, n.part("plugin"))
	n.history = newHistory(n.journal, n.units.reg, n.identity, n.part("journal"))
	n.units.settled = n.history.settled

	pc := peer.Config{Local: n.identity, Files: n.units.Files, Keeper: keeper{n.journal, "peers"}, Log: n.part("peer")}
	fill(&pc.Params)
	if n.peers, err = peer.New(pc); err != nil {
		return err
	}
	hc := hasher.Config{Units: hashUnits{n.units}, HashTime: n.hashTime, SetHashTime: n.setHashTime, Log: n.part("hasher")}
	fill(&hc)
	n.hasher = hasher.New(hc)

	cc := crawl.Config{Units: n.units.reg, Done: func(r crawl.Result) { n.crawled(ctx, r) }, Log: n.part("crawl")}
	fill(&cc)
	if n.crawler, err = crawl.New(cc); err != nil {
		return err
	}
	if err := n.buildAudit(fill); err != nil {
		return err
	}
	cfg := account.Config{}
	fill(&cfg)
	if n.accounts, err = account.New(cfg); err != nil {
		return err
	}
	n.uiFilter = &account.Filter{}
	n.apply(ctx, s)
	return nil
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
	if most := largestMessage(); tc.MaxMessageSize > most {
		n.log.Info("messages of peers are limited by the memory of this machine", "bytes", most)
		tc.MaxMessageSize = most
	}
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
	pc := poll.Config{Local: n.identity, Groups: n.params.Groups, Peers: n.peers, Network: network{n.wire, n.history},
		Hasher: pollHasher{n.hasher}, Units: n.units, Copies: n.units, Journal: n.history, Refetcher: n.crawler, Log: n.part("poll")}
	fill(&pc.Params)
	n.audit, err = poll.New(pc)
	return err
}

// largestMessage is the size of a message, in bytes, that this machine can hold in memory
// beside everything else, whoever sends it: an eighth of its memory, and no less than the 32
// MiB that networks commonly allow.
func largestMessage() int64 {
	var si unix.Sysinfo_t
	if err := unix.Sysinfo(&si); err != nil {
		return 32 << 20
	}
	return max(32<<20, int64(si.Totalram)*int64(si.Unit)/8)
}

// part is the log of one service.
func (n *Node) part(name string) *slog.Logger { return n.log.With("part", name) }

// apply puts into force what can change while the node runs, and says what cannot be used
// and what waits for the next start. It is false for a configuration that is outdated because
// a collection was added meanwhile.
func (n *Node) apply(ctx context.Context, s *config.Snapshot) bool {
	titles, errs := titledb.FromProps(s.Under("org.lockss.title."))
	for _, err := range errs {
		n.log.Warn("title list", "err", err)
	}
	n.change.Lock()
	defer n.change.Unlock()
	if !n.loader.Latest(s) {
		return false
	}
	n.mu.Lock()
	old := n.snapshot
	n.snapshot, n.titles = s, titles
	n.mu.Unlock()
	n.report(old, s)

	var pp PluginParams
	s.Fill(&pp)
	n.shelf.configure(ctx, pp)
	n.configureUnits()

	list := users(s)
	if err := n.accounts.SetUsers(list); err != nil {
		n.log.Error("accounts", "err", err)
	}
	if n.accounts.Users() == 0 {
		n.log.Warn("nobody can log in; set org.lockss.platform.ui.username and .password")
	}
	var access Access
	s.Fill(&access)
	warnings, err := n.uiFilter.Set(access.UIInclude, access.UIExclude)
	for _, w := range warnings {
		n.log.Warn("access list of the pages", "err", w)
	}
	if err != nil {
		n.log.Error("access list of the pages not changed", "err", err)
	}
	if n.proxy != nil {
		if err := n.proxy.SetAccess(access.ReadInclude, access.ReadExclude); err != nil {
			n.log.Error("access list of the audit proxy not changed", "err", err)
		}
	}
	if n.audit != nil {
		var p poll.Params
		s.Fill(&p)
		if err := n.audit.Reconfigure(p); err != nil {
			n.log.Error("poll parameters not changed", "err", err)
		}
	}
	var p peer.Params
	s.Fill(&p)
	if err := n.peers.Reconfigure(p); err != nil {
		n.log.Error("peer parameters not changed", "err", err)
	}
	return true
}

// report says what is new in a configuration that cannot be used, or not before the next
// start; old is nil at the start.
func (n *Node) report(old, s *config.Snapshot) {
	var before []config.Problem
	var unknown, wait []string
	names := known()
	if old != nil {
		n.log.Info("configuration changed", "parameters", len(s.Changed(old)))
		before, unknown, wait = problems(old), old.Unknown(names, passed...), waiting(n.start, old)
	}
	for _, p := range problems(s) {
		if !slices.Contains(before, p) {
			n.log.Warn("parameter not usable", "name", p.Name, "value", p.Value, "err", p.Msg)
		}
	}
	for _, name := range s.Unknown(names, passed...) {
		if !slices.Contains(unknown, name) {
			n.log.Warn("unknown parameter: nothing reads it", "name", name, "file", s.Origin(name))
		}
	}
	if now := waiting(n.start, s); len(now) > 0 && !slices.Equal(now, wait) {
		n.log.Warn("changed parameters take effect at the next start only", "names", strings.Join(now, ";"))
	}
}

// fault tells why what is configured is not in force, or "".
func (n *Node) fault() string {
	shelf, _ := n.shelf.state()
	if err := errors.Join(n.loader.Fault(), shelf); err != nil {
		return oneLine(err)
	}
	return ""
}

// config is the configuration in force.
func (n *Node) config() *config.Snapshot {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.snapshot
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
		return n.loader.Run(ctx, func(s *config.Snapshot) bool { return n.apply(ctx, s) })
	})
	run("journal", n.mirror)
	run("store", n.tend)
	run("plugin", n.tendPlugins)
	n.log.Info("node started", "identity", n.identity, "ui", n.params.UIPort, "disks", strings.Join(n.params.Disks, ";"))
	<-ctx.Done()
	g.Wait()
	if err := n.peers.Flush(); err != nil {
		n.log.Error("peers not kept", "err", err)
	}
	n.copyJournal()
	return context.Cause(ctx)
}

// tendPlugins waits for the first crawls of registries that were never crawled, then lets the
// units take part in polls (plugin-packaging.md 4.3). Afterwards it asks again for a keystore
// that did not come, and for registries that still were never crawled.
func (n *Node) tendPlugins(ctx context.Context) error {
	var p loadParams
	n.start.Fill(&p)
	missing := map[lockss.AUID]bool{}
	for _, id := range n.askRegistries(0) {
		missing[id] = true
	}
	timeout := time.NewTimer(p.Timeout)
	defer timeout.Stop()
	for len(missing) > 0 {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case id := <-n.fetched:
			delete(missing, id)
		case <-timeout.C:
			n.log.Warn("plugin registries not crawled in time; the node goes on with the plugins it has", "timeout", p.Timeout)
			clear(missing)
		}
	}
	n.units.ready.Store(true)
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-n.fetched:
			continue
		case <-tick.C:
		}
		n.askRegistries(10 * time.Minute)
		if _, fresh := n.shelf.state(); !fresh {
			n.refreshPlugins(ctx)
		}
	}
}

// askRegistries asks for a crawl of each registry that never was crawled and was not tried for
// a while.
func (n *Node) askRegistries(since time.Duration) (asked []lockss.AUID) {
	for _, u := range n.units.reg.Units() {
		s := u.State()
		if !u.IsRegistry() || s.Crawled() || u.Crawling() || time.Since(s.LastCrawlAttempt) < since {
			continue
		}
		if err := n.crawler.Request(u.ID(), crawl.RequestOptions{Priority: 10, OverrideRates: true}); err != nil {
			n.log.Error("plugin registry not crawled", "au", u.ID(), "err", err)
			continue
		}
		asked = append(asked, u.ID())
	}
	return asked
}

// refreshPlugins loads what keystore and registries have now.
func (n *Node) refreshPlugins(ctx context.Context) {
	n.shelf.refresh(ctx)
	n.change.Lock()
	defer n.change.Unlock()
	n.configureUnits()
}

// mirror copies the journal to a second disk, when there is one, every hour.
func (n *Node) mirror(ctx context.Context) error {
	tick := time.NewTicker(time.Hour)
	defer tick.Stop()
	for {
		n.copyJournal()
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// copyJournal copies the journal to the next disk after its own that can be used.
func (n *Node) copyJournal() {
	own := filepath.Dir(n.journal.Path())
	for _, r := range n.store.Roots() {
		if r.Err != nil || filepath.Clean(r.Path) == own {
			continue
		}
		if err := n.journal.Mirror(context.Background(), r.Path); err != nil {
			n.log.Error("journal not copied to the second disk", "disk", r.Path, "err", err)
		}
		return
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
type network struct {
	t       *transport.Transport
	history *history
}

func (w network) Send(to lockss.PeerID, m *lcap.Message, expires time.Time, retries int, interval time.Duration) {
	if m.Opcode == lcap.OpPoll {
		w.history.called(m)
	}
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
