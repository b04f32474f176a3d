package poll

import (
	"context"
	crand "crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"armarium/daemon/lcap"
	"armarium/daemon/lockss"
	"armarium/daemon/peer"
)

// Config is what an Auditor needs. Everything is required but Refetcher, Random and Log.
type Config struct {
	Local   lockss.PeerID
	Groups  []string // of this node; none counts as lcap.NoGroup
	Peers   *peer.Peers
	Network Network
	Hasher  Hasher
	Units   Units
	Copies  Copies
	Journal Log

	Refetcher Refetcher    // nil: no repairs from publishers
	Random    *rand.Rand   // choices; nil: seeded by the system
	Log       *slog.Logger // nil: discard
	Params
}

// An Auditor runs the polls of this node and its votes in those of others.
//
// Each machine has a lock, under which it steps on the goroutine that has the event, and a
// goroutine that waits for its time and executes its effects in order. So nothing is queued
// without bound: who sends us messages waits while we read them.
type Auditor struct {
	c   Config
	log *slog.Logger

	mu       sync.Mutex
	ctx      context.Context // of Run; nil before
	closed   bool
	wg       sync.WaitGroup
	params   Params
	sched    schedule
	rng      *rand.Rand
	polls    map[string]*run      // by key, of ours, running
	byAU     map[lockss.AUID]*run // running polls of ours
	starting map[lockss.AUID]bool // polls being prepared
	votes    map[voteKey]*run     // running
	joining  int                  // votes being prepared
	recent   []*run               // ended, oldest first
	manual   []lockss.AUID        // requested, in order
	queue    []lockss.AUID
	queuedAt time.Time
	wake     chan struct{} // tells the starter that something changed
}

type voteKey struct {
	key  string
	peer lockss.PeerID
}

// machine is what Poller and Voter have in common.
type machine interface {
	Step(now time.Time, ev Event) []Effect
	Next() time.Time
	Done() bool
}

// run is one machine at work.
type run struct {
	au   lockss.AUID
	unit Unit
	poll *Poller // one of the two
	vote *Voter

	reserved time.Time // deadline of the promised hash
	hashed   bool      // it was asked for; of drive alone
	log      *slog.Logger

	serving sync.Mutex // one copy for repairs is read at a time

	mu      sync.Mutex
	m       machine
	effects []Effect
	bodies  int       // effects not executed yet that hold the body of a URL
	light   sync.Cond // bodies is 0
	wake    chan struct{}
	ended   time.Time
}

// heavy reports whether an effect holds the body of a URL.
func heavy(e Effect) bool {
	switch e := e.(type) {
	case Store:
		return true
	case Send:
		return e.M.Opcode == lcap.OpRepairRep
	}
	return false
}

// settle waits until no effect holds the body of a URL: who gives us one waits for it.
func (r *run) settle() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.bodies > 0 {
		r.light.Wait()
	}
}

// maxRecent bounds the ended polls and votes kept for display.
const maxRecent = 1000

// New returns an Auditor that does nothing yet. It reports all faults.
func New(c Config) (*Auditor, error) {
	var errs []error
	for _, r := range []struct {
		name    string
		missing bool
	}{{"local identity", c.Local == ""}, {"Peers", c.Peers == nil}, {"Network", c.Network == nil}, {"Hasher", c.Hasher == nil},
		{"Units", c.Units == nil}, {"Copies", c.Copies == nil}, {"Journal", c.Journal == nil}} {
		if r.missing {
			errs = append(errs, fmt.Errorf("poll: no %s", r.name))
		}
	}
	if len(c.Groups) == 0 {
		c.Groups = []string{lcap.NoGroup}
	}
	if c.Random == nil {
		var seed [32]byte
		_, _ = crand.Read(seed[:]) // never fails
		c.Random = rand.New(rand.NewChaCha8(seed))
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	a := &Auditor{c: c, log: c.Log, rng: c.Random, polls: map[string]*run{}, byAU: map[lockss.AUID]*run{},
		starting: map[lockss.AUID]bool{}, votes: map[voteKey]*run{}, wake: make(chan struct{}, 1)}
	errs = append(errs, a.Reconfigure(c.Params))
	return a, errors.Join(errs...)
}

// Reconfigure takes new parameters for polls and votes that begin from now on; on an error the
// old ones stay.
func (a *Auditor) Reconfigure(p Params) error {
	s, err := newSchedule(p)
	errs := []error{err}
	if _, err := lockss.NewHash(p.HashAlgorithm); err != nil {
		errs = append(errs, fmt.Errorf("org.lockss.protocol.hashAlgorithm: %w", err))
	}
	if _, err := lockss.ParseCurve(p.VoteRetryCurve); err != nil {
		errs = append(errs, fmt.Errorf("org.lockss.poll.v3.voteRetryIntervalDurationCurve: %w", err))
	}
	if p.AcceptCurve != "" {
		if _, err := lockss.ParseCurve(p.AcceptCurve); err != nil {
			errs = append(errs, fmt.Errorf("org.lockss.poll.v3.acceptProbabilitySafetyCurve: %w", err))
		}
	}
	if p.Quorum < 1 || p.VoteMargin < 1 || p.VoteMargin > 100 {
		errs = append(errs, fmt.Errorf("org.lockss.poll.v3: quorum %d or voteMargin %d make no sense", p.Quorum, p.VoteMargin))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	a.mu.Lock()
	a.params, a.sched, a.queuedAt = p, s, time.Time{}
	a.mu.Unlock()
	a.poke()
	return nil
}

// Run calls polls and votes until ctx ends, then gives all up in silence: the others run into
// their deadlines.
func (a *Auditor) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	a.mu.Lock()
	if a.ctx != nil {
		a.mu.Unlock()
		return errors.New("poll: the auditor is running already")
	}
	a.ctx = ctx
	a.mu.Unlock()
	a.starter(ctx)
	a.mu.Lock()
	a.closed = true
	a.mu.Unlock()
	a.wg.Wait()
	if err := a.c.Peers.Flush(); err != nil {
		a.log.Warn("known peers not saved", "err", err)
	}
	return context.Cause(ctx)
}

func (a *Auditor) poke() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// begin starts the goroutine of a machine. register enters it among the running ones, with a.mu
// held, and may refuse; begin is false then, and if the auditor is not running.
func (a *Auditor) begin(r *run, register func() bool) bool {
	r.wake, r.light.L = make(chan struct{}, 1), &r.mu
	a.mu.Lock()
	if a.ctx == nil || a.closed || a.ctx.Err() != nil || !register() {
		a.mu.Unlock()
		return false
	}
	ctx := a.ctx
	a.wg.Add(1)
	a.mu.Unlock()
	r.step(Begin{})
	go func() {
		defer a.wg.Done()
		a.drive(ctx, r)
	}()
	return true
}

// step gives the machine an event.
func (r *run) step(ev Event) {
	r.mu.Lock()
	before := r.m.Next()
	out := r.m.Step(time.Now(), ev)
	r.effects = append(r.effects, out...)
	for _, e := range out {
		if heavy(e) {
			r.bodies++
		}
	}
	changed := len(out) > 0 || !r.m.Next().Equal(before)
	r.mu.Unlock()
	if changed {
		select {
		case r.wake <- struct{}{}:
		default:
		}
	}
}

// drive executes the effects of a machine and tells it the time, until it has ended.
func (a *Auditor) drive(ctx context.Context, r *run) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends its hashes
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	stopped := ctx.Done()
	for {
		r.mu.Lock()
		effects := r.effects
		r.effects = nil
		next, done := r.m.Next(), r.m.Done()
		r.mu.Unlock()
		for i, e := range effects {
			effects[i] = nil
			a.execute(ctx, r, e)
			if heavy(e) {
				r.mu.Lock()
				r.bodies--
				r.mu.Unlock()
				r.light.Broadcast()
			}
		}
		if len(effects) > 0 {
			continue
		}
		if done {
			return
		}
		if !next.IsZero() {
			timer.Reset(time.Until(next))
		}
		select {
		case <-r.wake:
		case <-timer.C:
			r.step(Tick{})
		case <-stopped:
			stopped = nil
			r.step(Abort{"the node stops"})
		}
	}
}

func (a *Auditor) execute(ctx context.Context, r *run, e Effect) {
	now := time.Now()
	switch e := e.(type) {
	case Send:
		a.c.Network.Send(e.To, e.M, e.Expires, e.Retries, e.RetryInterval)
	case Hash:
		r.hashed = true
		a.wg.Go(func() {
			err := a.c.Hasher.Hash(ctx, e.Request, func(b lcap.HashedBlock) error {
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				r.step(Hashed{e.ID, b})
				return nil
			})
			r.step(HashDone{e.ID, err})
		})
	case Store:
		err := a.c.Copies.Store(ctx, r.au, e.URL, e.Props, e.Data)
		if err == nil {
			r.log.Info("repair stored", "url", e.URL, "peer", e.Props["x-lockss-repaired-from"])
		}
		r.step(Stored{e.URL, err})
	case Refetch:
		a.wg.Go(func() {
			for _, u := range e.URLs {
				err := ctx.Err()
				if err == nil {
					err = a.c.Refetcher.Refetch(ctx, r.au, u)
				}
				r.step(Refetched{u, err})
			}
		})
	case Serve:
		a.wg.Go(func() {
			r.serving.Lock()
			defer r.serving.Unlock()
			r.step(a.copyFor(ctx, r.au, r.unit.OpenAccess, e.URL, e.To))
			r.settle()
		})
	case Invited:
		a.c.Peers.Invited(now, e.Peer)
	case Voted:
		a.c.Peers.Voted(now, e.Peer)
		r.log.Info("vote received", "peer", e.Peer)
	case Refused:
		a.c.Peers.Refused(e.Peer, string(e.NAK))
		r.log.Info("peer refused to vote", "peer", e.Peer, "nak", e.NAK)
	case Nominated:
		a.c.Peers.Learn(e.Peers...)
	case NoAU:
		if err := a.c.Peers.AddNoAU(r.au, e.Peers, now); err != nil {
			r.log.Warn("peers without the unit not kept", "err", err)
		}
	case Agreed:
		if err := a.c.Peers.Signal(r.au, peer.Type(e.Type), e.Values, now); err != nil {
			r.log.Error("agreements not kept", "err", err)
		}
	case Repaired:
		if err := a.c.Journal.Repaired(e.Record); err != nil {
			r.log.Error("repair not kept in the journal", "url", e.Record.URL, "err", err)
		}
		r.log.Info("repair settled", "url", e.Record.URL, "peer", e.Record.From, "result", e.Record.Result, "reason", e.Record.Reason)
	case Note:
		r.log.Debug(e.Text, "peer", e.Peer, "url", e.URL, "err", e.Err)
	case Finished:
		a.finished(r, e.Result, now)
	}
}

// copyFor returns the copy of a URL for a peer that asked for a repair, if it has a right to it.
func (a *Auditor) copyFor(ctx context.Context, au lockss.AUID, openAccess bool, url string, to lockss.PeerID) Copy {
	if !a.c.Peers.MayRepair(au, to, openAccess) {
		return Copy{URL: url, Err: errors.New("the peer has not shown enough agreement to us")}
	}
	props, data, err := a.c.Copies.Repair(ctx, au, url)
	return Copy{URL: url, Props: props, Data: data, Err: err}
}

// finished keeps the result of a machine and takes it out of the running ones.
func (a *Auditor) finished(r *run, res Result, now time.Time) {
	if err := a.c.Journal.Done(res); err != nil {
		r.log.Error("result not kept in the journal", "err", err)
	}
	if !r.hashed {
		a.release(r)
	}
	if p := r.poll; p != nil {
		end := PollEnd{Variant: res.Variant, Status: State(res.Code), Agreement: -1, AgreeingPeers: -1,
			Repairers: a.c.Peers.WillingRepairers(r.au, now)}
		if end.Status == Complete {
			end.LastPoll = now
		}
		if res.Variant == PoR {
			end.Duration = average(r.unit.PollDuration, res.Ended.Sub(res.Started))
			end.Agreement = res.Agreement
			r.mu.Lock()
			end.AgreeingPeers = p.AgreeingPeers()
			r.mu.Unlock()
		}
		if err := a.c.Units.PollEnded(r.au, end); err != nil {
			r.log.Error("poll result not kept with the unit", "err", err)
		}
		r.log.Info("poll ended", "status", res.Status, "agreement", res.Agreement, "sentence", res.Sentence)
	} else {
		r.log.Info("vote ended", "status", res.Status, "sentence", res.Sentence)
	}
	a.mu.Lock()
	r.ended = now
	if r.poll != nil {
		delete(a.polls, res.Key)
		delete(a.byAU, r.au)
	} else {
		delete(a.votes, voteKey{res.Key, res.Peer})
	}
	a.recent = append(a.recent, r)
	a.expire(now)
	a.mu.Unlock()
	a.poke()
}

// expire forgets ended polls after a while; a.mu is held.
func (a *Auditor) expire(now time.Time) {
	n := max(len(a.recent)-maxRecent, 0)
	for n < len(a.recent) && now.Sub(a.recent[n].ended) > a.params.ExpireRecent {
		n++
	}
	a.recent = slices.Delete(a.recent, 0, n)
}

// Receive takes a message. from is the identity of its channel. It returns when the message is
// read, at once but for a repair, which has to be stored; any number of goroutines may call it.
func (a *Auditor) Receive(from lockss.PeerID, m *lcap.Message) {
	if m == nil {
		return
	}
	now := time.Now()
	a.c.Peers.Heard(now, from, int(m.Opcode), m.Groups, m.Minor)
	if m.Opcode == lcap.OpNoOp {
		return
	}
	a.mu.Lock()
	if a.ctx == nil || a.closed {
		a.mu.Unlock()
		return
	}
	r := a.votes[voteKey{m.Key, from}]
	if r == nil {
		if p := a.polls[m.Key]; p != nil {
			r = p
		}
	}
	p := a.params
	a.mu.Unlock()
	switch {
	case r != nil:
		r.step(Received{from, m})
		if m.Opcode == lcap.OpRepairRep {
			r.settle()
		}
	case m.Opcode == lcap.OpPoll:
		a.invited(now, from, m)
	case m.Opcode == lcap.OpRepairReq && p.RepairOutsidePolls:
		a.repairOutside(from, m)
	default:
		a.log.Debug("message of an unknown poll", "peer", from, "poll", m.Key, "opcode", m.Opcode)
	}
}

// repairOutside serves a repair to a peer that is in no poll with us.
func (a *Auditor) repairOutside(from lockss.PeerID, m *lcap.Message) {
	u, ok := a.c.Units.Unit(m.AU)
	if !ok || m.URL == "" {
		return
	}
	a.mu.Lock()
	if a.closed {
		a.mu.Unlock()
		return
	}
	ctx := a.ctx
	a.wg.Add(1)
	a.mu.Unlock()
	defer a.wg.Done()
	c := a.copyFor(ctx, m.AU, u.OpenAccess, m.URL, from)
	if c.Err != nil {
		a.log.Debug("repair not served", "peer", from, "au", m.AU, "url", m.URL, "err", c.Err)
		return
	}
	a.c.Network.Send(from, &lcap.Message{Opcode: lcap.OpRepairRep, Minor: m.Minor, OrigID: a.c.Local, DestID: from, Key: m.Key, AU: m.AU,
		PlugVer: m.PlugVer, HashAlgorithm: m.HashAlgorithm, Duration: m.Duration, Groups: a.c.Groups, PollerNonce: m.PollerNonce,
		VoterNonce: m.VoterNonce, VoterNonce2: m.VoterNonce2, URL: m.URL, RepairProps: lower(c.Props), RepairData: c.Data,
		RepairLength: int64(len(c.Data)), AgreementHint: -1, WeightedAgreementHint: -1}, time.Now().Add(m.Duration), 1, 0)
}

// invited answers a Poll message (lcap-v3.md 10.1).
func (a *Auditor) invited(now time.Time, from lockss.PeerID, m *lcap.Message) {
	u, held := a.c.Units.Unit(m.AU)
	ready := a.c.Units.Ready()
	a.mu.Lock()
	p := a.params
	k := voteKey{m.Key, from}
	draw, seed1, seed2 := a.rng.Float64(), a.rng.Uint64(), a.rng.Uint64()
	app := Applicant{Held: held, Ready: ready, Unit: u, Self: from == a.c.Local, Enabled: p.EnableVoter, Groups: a.c.Groups,
		RunningVotes: len(a.votes) + a.joining, MaxVotes: p.MaxVoters, Chance: 1, Draw: draw}
	a.joining++
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		a.joining--
		a.mu.Unlock()
	}()
	log := a.log.With("au", m.AU, "poll", m.Key, "peer", from)
	if held && p.AcceptCurve != "" {
		app.Chance = a.chance(p, m.AU, from, now)
	}
	ans := app.Judge(m)
	if ans.HasAU {
		if err := a.c.Peers.HasAU(m.AU, from); err != nil {
			log.Warn("peers without the unit not kept", "err", err)
		}
	}
	var start, finish time.Time
	if ans.Accept || ans.Late {
		est := a.c.Hasher.Estimate(m.AU)
		start, finish = p.window(now, now.Add(m.VoteDuration), est)
		err := error(nil)
		if finish.Sub(start) < est || !finish.After(start) {
			err = fmt.Errorf("%v of hashing in %v: %w", est, finish.Sub(start), ErrNoTime)
		} else {
			err = a.c.Hasher.Reserve(m.AU, start, finish, est)
		}
		if err != nil {
			log.Debug("no time to vote", "err", err)
			ans = Answer{NAK: lcap.NAKNoTime}
		}
	}
	r := &run{au: m.AU, unit: u, log: log, reserved: finish}
	if ans.Late {
		a.release(r)
	}
	if !ans.Accept {
		if ans.NAK == "" {
			log.Debug("poll passed over", "reason", ans.Why)
			return
		}
		log.Info("poll declined", "nak", ans.NAK)
		a.c.Network.Send(from, Decline(m, a.c.Local, from, a.c.Groups, u.PollVersion, ans.NAK), time.Time{}, 1, 0)
		return
	}
	// Of the message only what is needed: it may carry what takes much memory.
	invitation := &lcap.Message{Opcode: m.Opcode, Minor: m.Minor, Key: m.Key, AU: m.AU, HashAlgorithm: m.HashAlgorithm, Duration: m.Duration,
		VoteDuration: m.VoteDuration, PollerNonce: m.PollerNonce, SampleNonce: m.SampleNonce, Modulus: m.Modulus}
	v, err := NewVoter(VoterConfig{Params: p, Local: a.c.Local, Poller: from, Poll: invitation, PlugVer: u.PollVersion, Groups: a.c.Groups,
		HashStart: start, HashEnd: finish, Symmetric: a.wantSymmetric(p, m.AU, from),
		Nominees: func(now time.Time, r *rand.Rand) []lockss.PeerID { return a.c.Peers.Nominees(m.AU, from, now, r) },
		Rand:     rand.New(rand.NewPCG(seed1, seed2)), Nonce: lockss.NewNonce})
	if err != nil {
		log.Error("vote not begun", "err", err)
		a.release(r)
		return
	}
	r.vote, r.m = v, v
	if a.begin(r, func() bool {
		if a.votes[k] != nil {
			return false
		}
		a.votes[k] = r
		return true
	}) {
		a.c.Peers.Called(now, from)
		log.Info("poll joined")
	} else {
		a.release(r)
	}
}

// release takes back the promise of a hash that will not be asked for.
func (a *Auditor) release(r *run) {
	if h, ok := a.c.Hasher.(Releaser); ok {
		h.Release(r.au, r.reserved)
	}
}

// chance returns the probability of joining a poll (lcap-v3.md 10.2). Values above 1 of the
// curve are percentages.
func (a *Auditor) chance(p Params, au lockss.AUID, from lockss.PeerID, now time.Time) float64 {
	c, err := lockss.ParseCurve(p.AcceptCurve)
	if err != nil {
		return 1
	}
	x := c.At(float64(a.c.Peers.WillingRepairers(au, now)))
	if x > 1 {
		x /= 100
	}
	if a.c.Peers.Willing(au, from) {
		x *= p.AcceptRepairersFactor
	}
	return x
}

// wantSymmetric tells whether to ask a poller for its vote in return (lcap-v3.md 10.6).
func (a *Auditor) wantSymmetric(p Params, au lockss.AUID, from lockss.PeerID) bool {
	if p.AllSymmetric || !p.EnableSymmetric {
		return p.AllSymmetric
	}
	g, ok := a.c.Peers.Agreement(au, from, peer.POR)
	return !ok || float64(g.Highest) < p.MinAgreementForRepair
}

// Call requests a poll on a unit now: before all that is due, whatever it last was. It returns
// ErrRunning or ErrNoUnit, wrapped.
func (a *Auditor) Call(au lockss.AUID) error {
	if _, ok := a.c.Units.Unit(au); !ok {
		return fmt.Errorf("call a poll on %s: %w", au, ErrNoUnit)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.byAU[au] != nil || a.starting[au] {
		return fmt.Errorf("call a poll on %s: %w", au, ErrRunning)
	}
	if !slices.Contains(a.manual, au) {
		a.manual = append(a.manual, au)
	}
	a.poke()
	return nil
}

// Requested returns the units whose polls were requested and not called yet, in order.
func (a *Auditor) Requested() []lockss.AUID {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.manual)
}

// Stop ends a running poll of ours or, with its poller, a vote.
func (a *Auditor) Stop(key string, reason string) bool {
	a.mu.Lock()
	r := a.polls[key]
	for k, v := range a.votes {
		if r == nil && k.key == key {
			r = v
		}
	}
	a.mu.Unlock()
	if r == nil {
		return false
	}
	r.step(Abort{reason})
	return true
}

// starter calls polls when they are due (lcap-v3.md 16.1).
func (a *Auditor) starter(ctx context.Context) {
	for !a.c.Units.Ready() {
		if !a.sleep(ctx, time.Second, false) {
			return
		}
	}
	a.mu.Lock()
	begin := time.Now().Add(a.params.StarterInitialDelay)
	a.mu.Unlock()
	tired := time.Time{} // too many polls running, or queue empty: until then only requests
	for ctx.Err() == nil {
		now := time.Now()
		a.mu.Lock()
		p := a.params
		full := !p.EnablePoller || len(a.polls) >= p.MaxPollers
		a.mu.Unlock()
		if full {
			a.sleep(ctx, p.MaxPollersSleep, true)
			continue
		}
		au, manual, ok := a.next(now, now.Before(begin) || now.Before(tired))
		if !ok {
			wait := p.QueueEmptySleep
			switch {
			case now.Before(begin):
				wait = begin.Sub(now)
			case now.Before(tired):
				wait = tired.Sub(now)
			default:
				tired = now.Add(wait)
			}
			a.sleep(ctx, max(wait, time.Millisecond), true)
			continue
		}
		if err := a.call(ctx, now, au, manual); err != nil {
			a.log.Warn("poll not called", "au", au, "err", err)
			if manual && errors.Is(err, ErrNoTime) { // a request is kept until it is met
				a.mu.Lock()
				a.manual = append(a.manual, au)
				a.mu.Unlock()
				a.sleep(ctx, time.Minute, false)
			}
		}
		if p.StarterThrottle && !manual {
			a.throttle(ctx, now.Add(max(p.ConnectTimeout, 10*time.Second)+p.StarterDelay))
		}
	}
}

// throttle waits between the starts of polls, but does not let a request wait.
func (a *Auditor) throttle(ctx context.Context, until time.Time) {
	for time.Now().Before(until) && len(a.Requested()) == 0 {
		if !a.sleep(ctx, time.Until(until), true) {
			return
		}
	}
}

// sleep waits; with wakeable it may return early. False: ctx ended.
func (a *Auditor) sleep(ctx context.Context, d time.Duration, wakeable bool) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	wake := a.wake
	if !wakeable {
		wake = nil
	}
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
	case <-wake:
	}
	return true
}

// next takes the next unit from the queue; requests first.
func (a *Auditor) next(now time.Time, manualOnly bool) (au lockss.AUID, manual, ok bool) {
	a.mu.Lock()
	for i, id := range a.manual {
		if a.byAU[id] == nil && !a.starting[id] {
			a.manual = slices.Delete(a.manual, i, i+1)
			a.mu.Unlock()
			return id, true, true
		}
	}
	if manualOnly {
		a.mu.Unlock()
		return "", false, false
	}
	rebuild := len(a.queue) == 0 || now.Sub(a.queuedAt) >= a.params.QueueRecalcInterval
	a.mu.Unlock()
	if rebuild {
		a.rebuild(now)
	}
	for {
		a.mu.Lock()
		if len(a.queue) == 0 {
			a.mu.Unlock()
			return "", false, false
		}
		id := a.queue[0]
		a.queue = a.queue[1:]
		busy := a.byAU[id] != nil || a.starting[id]
		s := a.sched
		a.mu.Unlock()
		u, held := a.c.Units.Unit(id)
		if !held || busy {
			continue
		}
		if ok, _ := s.eligible(u, now, false); ok {
			return id, false, true
		}
	}
}

// rebuild fills the queue (lcap-v3.md 16.2 to 16.5).
func (a *Auditor) rebuild(now time.Time) {
	a.mu.Lock()
	s := a.sched
	busy := map[lockss.AUID]bool{}
	for id := range a.byAU {
		busy[id] = true
	}
	a.mu.Unlock()
	weights := map[lockss.AUID]float64{}
	for _, id := range a.c.Units.AUs() {
		u, ok := a.c.Units.Unit(id)
		if !ok || busy[id] {
			continue
		}
		if ok, _ := s.eligible(u, now, false); !ok {
			continue
		}
		if _, ok := s.variant(u, now, 0, false); !ok {
			continue
		}
		atRisk, listed := a.c.Peers.AtRisk(id)
		if w := s.weight(u, now, atRisk, listed); w > 0 {
			weights[id] = w
		}
	}
	a.mu.Lock()
	a.queue, a.queuedAt = chooseUnits(weights, s.QueueMax, a.rng), now
	a.mu.Unlock()
}

// call calls a poll on a unit (lcap-v3.md 9.1).
func (a *Auditor) call(ctx context.Context, now time.Time, au lockss.AUID, manual bool) error {
	u, ok := a.c.Units.Unit(au)
	if !ok {
		return ErrNoUnit
	}
	a.mu.Lock()
	p, s := a.params, a.sched
	if a.byAU[au] != nil || a.starting[au] {
		a.mu.Unlock()
		return ErrRunning
	}
	a.starting[au] = true
	seed1, seed2 := a.rng.Uint64(), a.rng.Uint64()
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		delete(a.starting, au)
		a.mu.Unlock()
	}()
	variant, ok := s.variant(u, now, a.c.Peers.AgreeingPeers(au), manual)
	if !ok {
		return errors.New("the last poll on it is too recent")
	}
	if err := a.c.Units.PollStarted(au, now); err != nil {
		a.log.Error("poll not noted with the unit", "au", au, "err", err)
	}
	est := a.c.Hasher.Estimate(au)
	need := est
	if variant == PoP {
		need /= time.Duration(max(p.Modulus, 1))
	}
	var last error
	duration, ok := phases{est, &p}.plan(func(start, deadline, _ time.Duration) bool {
		last = a.c.Hasher.Reserve(au, now.Add(start), now.Add(deadline), need)
		return last == nil
	})
	if !ok {
		return fmt.Errorf("too busy: no time for %v of hashing in the next %v: %w", need, p.MaxPollDuration, errors.Join(ErrNoTime, last))
	}
	const revision = lcap.Revision5
	c := PollerConfig{Params: p, Local: a.c.Local, AU: au, Name: u.Name, Key: base64.StdEncoding.EncodeToString(lockss.NewNonce()),
		PlugVer: u.PollVersion, Groups: a.c.Groups, Revision: revision, Variant: variant, Duration: duration, Estimate: est, HashEnd: now.Add(duration - p.ReceiptPadding),
		Candidates:    a.c.Peers.Candidates(au, now, u.Created, revision),
		Eligible:      func(id lockss.PeerID) bool { return a.c.Peers.Eligible(au, id, time.Now(), revision) },
		Willing:       func(id lockss.PeerID) bool { return a.c.Peers.Willing(au, id) },
		PublisherDown: u.PublisherDown || a.c.Refetcher == nil, Rand: rand.New(rand.NewPCG(seed1, seed2)), Nonce: lockss.NewNonce}
	if variant == PoP {
		c.Modulus, c.SampleNonce = p.Modulus, lockss.NewNonce()
	}
	m, err := NewPoller(c)
	if err != nil {
		return err
	}
	r := &run{au: au, unit: u, poll: m, m: m, reserved: c.HashEnd, log: a.log.With("au", au, "poll", c.Key)}
	if !a.begin(r, func() bool { a.polls[c.Key], a.byAU[au] = r, r; return true }) {
		a.release(r)
		return context.Cause(ctx)
	}
	r.log.Info("poll called", "variant", variant, "candidates", len(c.Candidates), "duration", duration)
	return nil
}

// runs returns the running and recent machines of one kind.
func (a *Auditor) runs(votes bool) []*run {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.expire(time.Now())
	var out []*run
	for _, r := range a.recent {
		if (r.vote != nil) == votes {
			out = append(out, r)
		}
	}
	if votes {
		for _, r := range a.votes {
			out = append(out, r)
		}
	} else {
		for _, r := range a.polls {
			out = append(out, r)
		}
	}
	return out
}

// Polls returns the polls of ours, running and recent, latest first.
func (a *Auditor) Polls() []Status {
	var out []Status
	for _, r := range a.runs(false) {
		r.mu.Lock()
		out = append(out, r.poll.Status(time.Now()))
		r.mu.Unlock()
	}
	slices.SortFunc(out, func(a, b Status) int {
		if c := b.Started.Compare(a.Started); c != 0 {
			return c
		}
		return strings.Compare(a.Key, b.Key)
	})
	return out
}

// Votes returns the votes in polls of others, running and recent, latest first.
func (a *Auditor) Votes() []VoteStatus {
	var out []VoteStatus
	for _, r := range a.runs(true) {
		r.mu.Lock()
		out = append(out, r.vote.Status())
		r.mu.Unlock()
	}
	slices.SortFunc(out, func(a, b VoteStatus) int {
		if c := b.Started.Compare(a.Started); c != 0 {
			return c
		}
		return strings.Compare(a.Key, b.Key)
	})
	return out
}
