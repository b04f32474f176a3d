// Package transport moves LCAP messages between peers over TCP (lcap-v3.md 2).
//
// A connection is a channel. Both ends introduce themselves at once, then either sends any
// number of messages of any poll. A peer has at most one primary channel, on which messages
// go out in the order given, and one secondary, which takes its place; further channels are
// only read from. A channel without traffic is closed half by half: its output first, its
// input when the other end has said its last.
//
//	Send → queue of the channel, or of the peer while there is none → frame ⇒ peer
//	peer ⇒ frame → message → Receive, with the identity the channel was introduced with
//
// What cannot be delivered is kept for another attempt while it has not expired, else
// dropped; nothing ever tells whether the peer got a message. Whatever a peer sends costs
// bounded memory and at worst its own channel.
//
// One goroutine reads and one writes each channel; one starts the later attempts. All state
// is behind one lock, which is never held during input or output.
package transport

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"armarium/daemon/lcap"
	"armarium/daemon/lockss"
)

// Config is what a Transport needs and what can be set (lcap-v3.md 17.1). Durations and sizes
// of 0 count as their defaults.
type Config struct {
	Identity lockss.PeerID // our own; its port is listened on; required

	// Receive is called for every message, in the order of its channel. It must be quick,
	// for the channel waits, and safe for several channels at once. Required.
	Receive func(from lockss.PeerID, m *lcap.Message)

	Introduced     func(peer lockss.PeerID)                                // called for every introduction; nil: nobody
	Listener       net.Listener                                            // nil: one is opened for Identity
	PeerAddressMap map[lockss.PeerID]netip.AddrPort                        // where to connect to, if not to the peer's identity
	TLS            *tls.Config                                             // nil: clear TCP
	Dial           func(context.Context, netip.AddrPort) (net.Conn, error) // nil: TCP
	Log            *slog.Logger                                            // nil: discard
	SpoolDir       string                                                  `prop:"org.lockss.scomm.messageDataDir" default:""` // for large messages while they arrive, on a disk; "": the system's

	MaxChannels    int   `prop:"org.lockss.scomm.maxChannels" default:"50"`             // primary channels at once
	MaxMessageSize int64 `prop:"org.lockss.scomm.maxMessageSize" default:"1073741824"`  // bytes; larger ones abort the channel
	SpoolSize      int64 `prop:"org.lockss.scomm.minFileMessageSize" default:"1048576"` // bytes; larger ones arrive in a file

	IdleTime       time.Duration `prop:"org.lockss.scomm.channelIdleTime" default:"2m"`
	DrainTime      time.Duration `prop:"org.lockss.scomm.drainInputTime" default:"10s"`
	ConnectTimeout time.Duration `prop:"org.lockss.scomm.timeout.connect" default:"2m"`
	TLSTimeout     time.Duration `prop:"org.lockss.scomm.timeout.sslHandshake" default:"5m"`

	RetryBeforeExpiration time.Duration `prop:"org.lockss.scomm.retryBeforeExpiration" default:"1m"`
	MinRetryInterval      time.Duration `prop:"org.lockss.scomm.minPeerRetryInterval" default:"30s"` // between attempts for one peer
	MaxRetryInterval      time.Duration `prop:"org.lockss.scomm.maxPeerRetryInterval" default:"30m"`
	RetryDelay            time.Duration `prop:"org.lockss.scomm.retryDelay" default:"5s"` // between later attempts for any peers

	SendRate    lockss.Rate `prop:"org.lockss.scomm.peerSendMessageRateLimit" default:"unlimited"` // per peer; above it messages are dropped
	ReceiveRate lockss.Rate `prop:"org.lockss.scomm.peerReceiveMessageRateLimit" default:"unlimited"`

	NoKeepAlive    bool // set by the node from org.lockss.scomm.socketKeepAlive=false
	NoUnknownAbort bool // set by the node from org.lockss.scomm.abortOnUnknownOp=false: skip the header instead
	BindToIdentity bool `prop:"org.lockss.scomm.bindToLocalIpOnly" default:"false"` // listen and call from the identity's address only
}

// Bounds that no configuration lifts.
const (
	maxUnintroduced = 50       // channels from one address that have not said who they are
	maxIncoming     = 200      // channels from one address
	maxAccepted     = 4000     // channels from all addresses
	maxQueue        = 1000     // messages waiting for one peer
	maxWaiting      = 1 << 30  // bytes waiting for all peers, beside the last message; a quarter of it for one
	maxSpool        = 1 << 30  // bytes of large messages arriving at once, beside one of full size
	maxPeers        = 10_000   // peers remembered that have neither channel nor message
	largeVote       = 30 << 20 // bytes; networks often accept no more than 32 MiB
)

// SendOptions say how long and how often to try (lcap-v3.md 2.7, 11.6).
type SendOptions struct {
	Expires       time.Time     // zero: one attempt only
	MaxRetries    int           // further attempts after a failure; 0 counts as 1
	RetryInterval time.Duration // at most this long until the next attempt; 0: as the peer's
}

// PeerStats is the state of the traffic with one peer since the start.
type PeerStats struct {
	Peer                     lockss.PeerID
	Primary, Secondary       bool // channels that can be sent on
	Channels                 int  // open, those only read from too
	Queued                   int  // messages waiting
	Sent, Received           int  // messages
	SentBytes, RecvBytes     int64
	Dropped, Refused         int // messages not delivered; received but unreadable
	LastSent, LastReceived   time.Time
	LastAttempt, NextAttempt time.Time // to connect; zero: none
	LastError                string    // of the last channel that broke, or attempt
}

// ErrStopped is why a channel ended when the transport did.
var ErrStopped = errors.New("transport stopped")

// A Transport is one node's end of all channels. It is safe for concurrent use.
type Transport struct {
	cfg   Config
	log   *slog.Logger
	epoch time.Time     // for times in atomics
	kick  chan struct{} // the schedule of later attempts has changed
	large sync.Mutex    // one large message is in memory at a time
	spool atomic.Int64  // bytes of large messages in files

	mu        sync.Mutex
	ctx       context.Context // of Run; nil before
	stopped   bool
	running   sync.WaitGroup // channels
	peers     map[lockss.PeerID]*peer
	incoming  map[netip.Prefix]*callers
	accepted  int // channels in incoming, of all addresses
	lastRetry time.Time
	waiting   int64 // bytes in all queues
}

// peer is guarded by Transport.mu.
type peer struct {
	id                 lockss.PeerID
	primary, secondary *channel
	queue              []*outgoing // while there is no channel
	failed             bool        // the last attempt to connect; due holds
	due                time.Time   // next attempt
	waiting            int64       // bytes in its queues
	stats              PeerStats
	sent, received     window
}

// outgoing is a message on its way.
type outgoing struct {
	frame   []byte // with header
	what    string // for the log
	opts    SendOptions
	tries   int
	lastTry time.Time
	counted bool // among the bytes that wait
}

// callers counts the channels from one address.
type callers struct{ all, unintroduced int }

// New checks the configuration. It reports every fault at once and starts nothing.
func New(cfg Config) (*Transport, error) {
	var faults []error
	if !cfg.Identity.AddrPort().IsValid() {
		faults = append(faults, fmt.Errorf("identity %q: %w", cfg.Identity, lockss.ErrPeerID))
	}
	if cfg.Receive == nil {
		faults = append(faults, errors.New("no function to receive messages"))
	}
	if cfg.MaxMessageSize < 0 || cfg.MaxChannels < 0 || cfg.SpoolSize < 0 {
		faults = append(faults, errors.New("a limit is negative"))
	}
	for id, to := range cfg.PeerAddressMap {
		if !to.IsValid() {
			faults = append(faults, fmt.Errorf("address map: %s goes nowhere", id))
		}
	}
	if err := errors.Join(faults...); err != nil {
		return nil, fmt.Errorf("transport: %w", err)
	}
	orDefault(&cfg.MaxChannels, 50)
	orDefault(&cfg.MaxMessageSize, 1<<30)
	orDefault(&cfg.SpoolSize, 1<<20)
	orDefault(&cfg.IdleTime, 2*time.Minute)
	orDefault(&cfg.DrainTime, 10*time.Second)
	orDefault(&cfg.ConnectTimeout, 2*time.Minute)
	orDefault(&cfg.TLSTimeout, 5*time.Minute)
	orDefault(&cfg.RetryBeforeExpiration, time.Minute)
	orDefault(&cfg.MinRetryInterval, 30*time.Second)
	orDefault(&cfg.MaxRetryInterval, 30*time.Minute)
	orDefault(&cfg.RetryDelay, 5*time.Second)
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Transport{
		cfg:      cfg,
		log:      cfg.Log,
		epoch:    time.Now(),
		kick:     make(chan struct{}, 1),
		peers:    make(map[lockss.PeerID]*peer),
		incoming: make(map[netip.Prefix]*callers),
	}, nil
}

func orDefault[T comparable](v *T, d T) {
	if *v == *new(T) {
		*v = d
	}
}

// Run listens, receives and sends until ctx ends, then closes all channels and returns nil. It
// fails at once when it cannot listen. A Transport runs once.
func (t *Transport) Run(ctx context.Context) error {
	l := t.cfg.Listener
	if l == nil {
		a := t.cfg.Identity.AddrPort()
		where := ":" + strconv.Itoa(int(a.Port()))
		if t.cfg.BindToIdentity {
			where = a.String()
		}
		var err error
		if l, err = new(net.ListenConfig).Listen(ctx, "tcp", where); err != nil {
			return fmt.Errorf("listen for peers as %s: %w", t.cfg.Identity, err)
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()

	t.mu.Lock()
	t.ctx = ctx
	t.mu.Unlock()
	t.log.Info("listening for peers", "peer", t.cfg.Identity, "address", l.Addr())

	var loops sync.WaitGroup
	loops.Go(func() { t.retry(ctx) })
	err := t.accept(ctx, l)
	cancel()
	loops.Wait()
	t.mu.Lock()
	t.stopped = true // no channel is added from here on
	t.mu.Unlock()
	t.running.Wait()
	return err
}

func (t *Transport) accept(ctx context.Context, l net.Listener) error {
	for pause := time.Duration(0); ; {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			if err == nil {
				conn.Close()
			}
			return nil
		}
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("listen for peers as %s: %w", t.cfg.Identity, err)
			}
			// Out of descriptors, most likely: channels that end will free some.
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			t.log.Error("cannot accept a connection", "err", err, "pause", pause)
			select {
			case <-time.After(pause):
			case <-ctx.Done():
			}
			continue
		}
		pause = 0
		t.incomingChannel(conn)
	}
}

// incomingChannel starts a channel for a connection, unless its address has too many.
func (t *Transport) incomingChannel(conn net.Conn) {
	from := network(conn.RemoteAddr())
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.incoming[from]
	if n == nil {
		n = new(callers)
		t.incoming[from] = n
	}
	if n.unintroduced >= maxUnintroduced || n.all >= maxIncoming || t.accepted >= maxAccepted {
		t.log.Warn("connection refused: too many from this address, or in all", "address", conn.RemoteAddr(),
			"channels", n.all, "unintroduced", n.unintroduced, "all", t.accepted)
		conn.Close()
		if n.all == 0 {
			delete(t.incoming, from)
		}
		return
	}
	n.all++
	n.unintroduced++
	t.accepted++
	c := t.newChannel()
	c.conn, c.remote, c.from, c.unintroduced = conn, conn.RemoteAddr().String(), from, true
	t.start(c)
}

// network is the unit in which callers are counted: one IPv4 address, or the 64 bits of IPv6
// that a single host is given.
func network(a net.Addr) netip.Prefix {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Prefix{}
	}
	addr := ap.Addr().Unmap().WithZone("")
	bits := 64
	if addr.Is4() {
		bits = 32
	}
	p, _ := addr.Prefix(bits) // cannot fail: bits fit the address
	return p
}

// start runs c in goroutines of its own. The lock is held.
func (t *Transport) start(c *channel) {
	ctx := t.ctx
	t.running.Go(func() { c.run(ctx) })
}

// Send encodes m, with us as its origin and to as its destination, and queues it. It never
// waits. What cannot be sent is logged and dropped.
func (t *Transport) Send(to lockss.PeerID, m *lcap.Message, o SendOptions) {
	if !to.AddrPort().IsValid() || to == t.cfg.Identity {
		t.log.Error("message for nobody", "peer", to, "message", m.Opcode)
		return
	}
	addressed := *m
	addressed.OrigID, addressed.DestID = t.cfg.Identity, to
	header := lcap.AppendFrameHeader(nil, lcap.FrameHeader{Op: lcap.FrameData, Proto: lcap.ProtoV3})
	frame, err := lcap.Append(header, &addressed)
	if err != nil {
		t.log.Error("message not sent", "peer", to, "au", m.AU, "poll", m.Key, "err", err)
		return
	}
	size := len(frame) - lcap.FrameHeaderSize
	copy(frame, lcap.AppendFrameHeader(nil, lcap.FrameHeader{Op: lcap.FrameData, Proto: lcap.ProtoV3, Length: int64(size)}))
	if size > largeVote {
		t.log.Warn("large message: a receiver whose limit is lower closes the channel", "peer", to, "au", m.AU,
			"message", m.Opcode, "bytes", size)
	}
	t.queue(to, &outgoing{frame: frame, what: m.Opcode.String(), opts: o})
}

func (t *Transport) queue(to lockss.PeerID, out *outgoing) {
	if out.opts.MaxRetries == 0 {
		out.opts.MaxRetries = 1
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.peer(to)
	now := time.Now()
	if !p.sent.allow(t.cfg.SendRate, now) {
		t.drop(p, out, "above the rate for sending")
		return
	}
	if len(p.queue) >= maxQueue || p.primary != nil && len(p.primary.queue) >= maxQueue {
		t.drop(p, out, "too many messages wait for this peer")
		return
	}
	if t.waiting > maxWaiting || p.waiting > maxWaiting/4 {
		t.drop(p, out, "too many bytes wait to be sent")
		return
	}
	t.count(p, out, 1)
	p.queue = append(p.queue, out)
	if p.failed {
		// Something new is a reason to try sooner than planned, though not at once.
		if soon := p.stats.LastAttempt.Add(t.cfg.MinRetryInterval); soon.Before(p.due) {
			p.due = soon
		}
	}
	t.route(p, now)
	t.signal()
}

// peer returns the record of id, new if need be. The lock is held.
func (t *Transport) peer(id lockss.PeerID) *peer {
	p := t.peers[id]
	if p == nil {
		if len(t.peers) >= maxPeers {
			maps.DeleteFunc(t.peers, func(_ lockss.PeerID, p *peer) bool { return p.stats.Channels == 0 && len(p.queue) == 0 })
		}
		p = &peer{id: id}
		p.stats.Peer = id
		t.peers[id] = p
	}
	return p
}

// count enters out among what waits (1) or takes it out (-1). The lock is held.
func (t *Transport) count(p *peer, out *outgoing, sign int64) {
	out.counted = sign > 0
	p.waiting += sign * int64(len(out.frame))
	t.waiting += sign * int64(len(out.frame))
}

func (t *Transport) drop(p *peer, out *outgoing, why string) {
	if out.counted {
		t.count(p, out, -1)
	}
	p.stats.Dropped++
	t.log.Info("message dropped", "peer", p.id, "message", out.what, "why", why)
}

// route hands the queue of p to a channel: the primary, else the secondary, which then is
// primary, else a new one, if it may be tried now. The lock is held.
func (t *Transport) route(p *peer, now time.Time) {
	if len(p.queue) == 0 {
		return
	}
	if p.primary == nil {
		p.primary, p.secondary = p.secondary, nil
	}
	if p.primary != nil {
		p.primary.queue = append(p.primary.queue, p.queue...)
		p.queue = nil
		p.primary.signal()
		return
	}
	if t.ctx == nil || t.stopped || p.failed && now.Before(p.due) || t.primaries() >= t.cfg.MaxChannels {
		return // for retry
	}
	c := t.newChannel()
	c.called, c.peer, c.queue = p.id, p, p.queue
	to, ok := t.cfg.PeerAddressMap[p.id]
	if !ok {
		to = p.id.AddrPort()
	}
	c.to, c.remote = to, to.String()
	p.primary, p.queue = c, nil
	p.stats.Channels++
	p.stats.LastAttempt = now
	t.start(c)
}

func (t *Transport) primaries() int {
	n := 0
	for _, p := range t.peers {
		if p.primary != nil {
			n++
		}
	}
	return n
}

// signal wakes retry.
func (t *Transport) signal() {
	select {
	case t.kick <- struct{}{}:
	default:
	}
}

// retry starts the later attempts until ctx ends.
func (t *Transport) retry(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.kick:
		case <-timer.C:
		}
		timer.Reset(t.retryDue(time.Now()))
	}
}

// retryDue makes the attempts that are due and returns how long to wait for the next.
func (t *Transport) retryDue(now time.Time) time.Duration {
	const forever = 24 * time.Hour
	t.mu.Lock()
	defer t.mu.Unlock()
	var waiting []*peer
	for _, p := range t.peers {
		p.queue = slices.DeleteFunc(p.queue, func(out *outgoing) bool {
			late := !out.opts.Expires.IsZero() && !now.Before(out.opts.Expires)
			if late {
				t.drop(p, out, "expired")
			}
			return late
		})
		if len(p.queue) > 0 {
			waiting = append(waiting, p)
		}
	}
	slices.SortFunc(waiting, func(a, b *peer) int { return cmp.Or(a.due.Compare(b.due), cmp.Compare(a.id, b.id)) })
	next := now.Add(forever)
	for _, p := range waiting {
		for _, out := range p.queue {
			if e := out.opts.Expires; !e.IsZero() && e.Before(next) {
				next = e
			}
		}
		switch {
		case !p.failed:
			t.route(p, now) // waited for Run, or for a free channel
		case now.Before(p.due):
			if p.due.Before(next) {
				next = p.due
			}
		case now.Before(t.lastRetry.Add(t.cfg.RetryDelay)):
			if at := t.lastRetry.Add(t.cfg.RetryDelay); at.Before(next) {
				next = at
			}
		case t.primaries() < t.cfg.MaxChannels:
			t.lastRetry = now
			t.route(p, now)
		}
	}
	return next.Sub(now)
}

// plan sets when to try again for p, which has messages and whose last attempt failed
// (lcap-v3.md 2.7). The lock is held.
func (t *Transport) plan(p *peer) {
	last := p.stats.LastAttempt
	due := last.Add(t.cfg.MaxRetryInterval)
	for _, out := range p.queue {
		if e := out.opts.Expires; !e.IsZero() {
			due = earlier(due, e.Add(-t.cfg.RetryBeforeExpiration))
		}
		if out.opts.RetryInterval > 0 && !out.lastTry.IsZero() {
			due = earlier(due, out.lastTry.Add(out.opts.RetryInterval))
		}
	}
	if soonest := last.Add(t.cfg.MinRetryInterval); due.Before(soonest) {
		due = soonest
	}
	p.due = due
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// Stats returns the traffic with every peer met since the start, by identity.
func (t *Transport) Stats() []PeerStats {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make([]PeerStats, 0, len(t.peers))
	for _, p := range t.peers {
		s := p.stats
		s.Primary, s.Secondary = p.primary != nil, p.secondary != nil
		s.Queued = len(p.queue)
		if p.primary != nil {
			s.Queued += len(p.primary.queue)
		}
		if p.failed && len(p.queue) > 0 {
			s.NextAttempt = p.due
		}
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b PeerStats) int { return cmp.Compare(a.Peer, b.Peer) })
	return all
}

// window remembers when the last events of a limited rate were.
type window struct{ times []time.Time }

// allow says whether another event at now keeps the rate, and if so counts it.
func (w *window) allow(r lockss.Rate, now time.Time) bool {
	if r.Unlimited() {
		return true
	}
	if n := len(w.times) - r.Events; n >= 0 {
		if now.Sub(w.times[n]) < r.Per {
			return false
		}
		w.times = slices.Delete(w.times, 0, n+1)
	}
	w.times = append(w.times, now)
	return true
}
