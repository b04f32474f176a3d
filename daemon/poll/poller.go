package poll

import (
	"errors"
	"fmt"
	"hash"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"armarium/daemon/lcap"
	"armarium/daemon/lockss"
	"armarium/daemon/peer"
)

// State is where a poll of ours stands (lcap-v3.md 9.9). The numbers are stored with the unit.
type State int

// The states.
const (
	Starting State = iota
	NoTime
	Resuming
	Inviting
	Hashing
	Tallying
	Complete
	EndedNoQuorum
	Failed
	Expired
	WaitingForRepairs
	Finishing
	Aborted
)

var stateNames = [...]string{"Starting", "No Time Available", "Resuming", "Inviting Peers", "Hashing", "Tallying", "Complete",
	"No Quorum", "Error", "Expired", "Waiting for Repairs", "Finishing", "Aborted"}

func (s State) String() string { return stateNames[s] }

// PeerState is how a participant stands (lcap-v3.md 8).
type PeerState int

// The states of a participant.
const (
	PeerInitialized PeerState = iota
	PeerInvited
	PeerAccepted
	PeerSentNominees
	PeerWaitingForVote
	PeerVoted
	PeerComplete
	PeerError
	PeerDroppedOut
	PeerDeclined
	PeerNoTime
	PeerDidntVote
	PeerNoResponse
	PeerNoNominations
)

var peerStateNames = [...]string{"Initialized", "Invited", "Accepted Poll", "Sent Nominees", "Waiting for Vote", "Voted", "Complete",
	"Error", "Dropped Out", "Declined Poll", "No Time Available", "Didn't Vote", "No Response", "No Nominations"}

func (s PeerState) String() string { return peerStateNames[s] }

// PollerConfig is one poll to be called.
type PollerConfig struct {
	Params
	Local    lockss.PeerID
	AU       lockss.AUID
	Name     string // of the unit, for sentences
	Key      string
	PlugVer  string
	Groups   []string
	Revision byte

	Variant     Variant
	Modulus     int    // > 0 in a PoP poll
	SampleNonce []byte // in a PoP poll

	Duration time.Duration // to the poll deadline
	Estimate time.Duration // of the hash; splits the duration
	HashEnd  time.Time     // deadline of our own hash, as reserved; zero: the end of the tally phase

	Candidates    []peer.Candidate            // who may be invited
	Eligible      func(id lockss.PeerID) bool // whether a nominated peer may be; nil: all
	Willing       func(id lockss.PeerID) bool // whether a peer will probably serve a repair; nil: unknown
	PublisherDown bool                        // no repairs from the publisher
	Rand          *rand.Rand                  // chance; required
	Nonce         func() []byte               // 20 fresh bytes from a cryptographic source; required
}

// participant is one peer in the poll.
type participant struct {
	id      lockss.PeerID
	outer   bool
	state   PeerState
	gone    bool // removed; never invited again
	nak     lcap.NAK
	invited time.Time
	voted   time.Time

	pollerNonce, voterNonce, voterNonce2 []byte

	nominated bool // its Nominate came
	nominees  []lockss.PeerID

	vote   *ballot
	cursor int     // next URL of vote
	count  Count   // over URLs, of the first tally
	sym    *ballot // our blocks under its second nonce
	symAt  int     // challenge of sym
}

// Poller is one poll of ours. It is not safe for concurrent use.
type Poller struct {
	c     PollerConfig
	hash  func() hash.Hash
	state State
	why   string // of an end that is an error

	started, voteDeadline, tallyEnd, deadline, ended time.Time
	nextInvite                                       time.Time // zero: no more invitations
	extended                                         bool

	candidates []peer.Candidate
	parts      []*participant // in the order of invitation
	byID       map[lockss.PeerID]*participant
	voters     []*participant // from the start of the tally on
	challenges [][]byte
	noAU       []lockss.PeerID

	verdicts  []Verdict // of the URL at hand
	outcomes  [outcomes]int
	urls      int
	listed    []URLStatus
	wonListed int

	nextHash int
	repairs  []*repair
	byURL    map[string]*repair
	byHash   map[int]*repair
	skipped  int // lost URLs beyond MaxRepairs or without a source
	pending  int

	out []Effect
}

// tallyHash is the ID of the hash of the whole unit.
const tallyHash = 1

// NewPoller returns the machine of one poll. An error names what is wrong with the poll.
func NewPoller(c PollerConfig) (*Poller, error) {
	h, err := lockss.NewHash(c.HashAlgorithm)
	if err != nil {
		return nil, fmt.Errorf("call a poll on %s: org.lockss.protocol.hashAlgorithm: %w", c.AU, err)
	}
	if c.Rand == nil || c.Nonce == nil || c.Key == "" || c.Local == "" {
		return nil, fmt.Errorf("call a poll on %s: incomplete poll", c.AU)
	}
	if c.Variant == PoP && (c.Modulus <= 0 || len(c.SampleNonce) == 0) {
		return nil, fmt.Errorf("call a poll on %s: a sampled poll needs a modulus and a nonce", c.AU)
	}
	if c.Revision == 0 {
		c.Revision = lcap.Revision5
	}
	return &Poller{c: c, hash: h, candidates: slices.Clone(c.Candidates), byID: map[lockss.PeerID]*participant{},
		byURL: map[string]*repair{}, byHash: map[int]*repair{}, nextHash: tallyHash + 1}, nil
}

// Done reports whether the poll has ended.
func (p *Poller) Done() bool { return !p.ended.IsZero() }

// Next returns when the next Tick is wanted; zero: never.
func (p *Poller) Next() time.Time {
	if p.Done() || p.started.IsZero() {
		return time.Time{}
	}
	t := p.deadline
	if p.state == Inviting {
		t = p.voteDeadline
		if !p.nextInvite.IsZero() && p.nextInvite.Before(t) {
			t = p.nextInvite
		}
	}
	return t
}

// Step takes an event and returns what is to be done.
func (p *Poller) Step(now time.Time, ev Event) []Effect {
	if p.Done() {
		return nil
	}
	p.out = nil
	if _, ok := ev.(Begin); ok == p.started.IsZero() {
		switch ev := ev.(type) {
		case Begin:
			p.begin(now)
		case Received:
			p.receive(now, ev.From, ev.M)
		case Hashed:
			p.hashed(now, ev)
		case HashDone:
			p.hashDone(now, ev)
		case Stored:
			p.stored(now, ev.URL, ev.Err)
		case Refetched:
			p.refetched(now, ev.URL, ev.Err)
		case Abort:
			p.why = ev.Reason
			p.finish(now, Aborted)
		}
		if !p.Done() {
			p.tick(now)
		}
	}
	out := p.out
	p.out = nil
	return out
}

func (p *Poller) emit(e Effect) { p.out = append(p.out, e) }

func (p *Poller) note(id lockss.PeerID, format string, args ...any) {
	p.emit(Note{Text: fmt.Sprintf(format, args...), Peer: id})
}

func (p *Poller) begin(now time.Time) {
	ph := phases{p.c.Estimate, &p.c.Params}
	vote, tally := ph.split(p.c.Duration)
	p.started, p.voteDeadline, p.tallyEnd, p.deadline = now, now.Add(vote), now.Add(tally), now.Add(p.c.Duration)
	if !p.c.HashEnd.IsZero() {
		p.tallyEnd = p.c.HashEnd
	}
	p.state = Inviting
	p.nextInvite = now.Add(p.c.TimeBetweenInvitation)
	p.inviteMore(now)
}

// tick does what the time demands.
func (p *Poller) tick(now time.Time) {
	if p.state == Inviting && !p.nextInvite.IsZero() && !now.Before(p.nextInvite) {
		p.nextInvite = now.Add(p.c.TimeBetweenInvitation)
		p.inviteMore(now)
	}
	if p.state == Inviting && !now.Before(p.voteDeadline) {
		p.startTally(now)
	}
	if p.Done() || now.Before(p.deadline) {
		return
	}
	switch {
	case p.state == Hashing:
		p.why = "our own copy was not hashed in time"
		p.finish(now, Expired)
	case p.pending > 0 && !p.extended && p.c.ExtraPollTime > 0:
		// The receipts go out now: in the time that is added the votes of the others are over,
		// and a receipt would find nobody. A copy that is on its way is still taken.
		for _, q := range p.voters {
			p.receipt(now, q)
		}
		p.extended = true
		p.deadline = p.deadline.Add(p.c.ExtraPollTime)
	default:
		p.complete(now)
	}
}

// target is how many voters are wanted (lcap-v3.md 9.2).
func (p *Poller) target() int {
	return int(math.Ceil(float64(p.c.Quorum) * p.c.TargetQuorumFactor))
}

// inviteMore fills the inner circle up (lcap-v3.md 9.2 and 9.3).
func (p *Poller) inviteMore(now time.Time) {
	have, present := 0, 0
	for _, q := range p.parts {
		if q.gone {
			continue
		}
		present++
		if q.state >= PeerAccepted && q.state <= PeerComplete {
			have++
		}
	}
	first := len(p.parts) == 0
	if d := p.target() - have; d > 0 && (first || p.c.FollowupInvitations) {
		n := int(math.Ceil(float64(d) * p.c.InvitationFactor))
		for _, id := range peer.Choose(p.candidates, n, p.c.Rand) {
			p.invite(now, id, false)
			present++
		}
	}
	if len(p.candidates) == 0 || !p.c.FollowupInvitations {
		p.nextInvite = time.Time{}
		if present == 0 {
			p.startTally(now)
		}
	}
}

func (p *Poller) invite(now time.Time, id lockss.PeerID, outer bool) {
	p.candidates = slices.DeleteFunc(p.candidates, func(c peer.Candidate) bool { return c.Peer == id })
	q := &participant{id: id, outer: outer, state: PeerInvited, invited: now, pollerNonce: p.c.Nonce()}
	p.parts = append(p.parts, q)
	p.byID[id] = q
	p.emit(Invited{id})
	m := p.message(now, q, lcap.OpPoll)
	m.VoteDuration = p.voteDeadline.Sub(now)
	m.EffortProof = p.c.Nonce()
	if p.c.Variant == PoP {
		m.Modulus = p.c.Modulus
	}
	p.send(q, m, now.Add(p.c.TimeBetweenInvitation))
}

// message makes what is common to our messages to a participant.
func (p *Poller) message(now time.Time, q *participant, op lcap.Opcode) *lcap.Message {
	m := &lcap.Message{Opcode: op, Minor: p.c.Revision, OrigID: p.c.Local, DestID: q.id, Key: p.c.Key, AU: p.c.AU,
		PlugVer: p.c.PlugVer, HashAlgorithm: p.c.HashAlgorithm, Duration: max(p.deadline.Sub(now), 0), Groups: p.c.Groups,
		PollerNonce: q.pollerNonce, VoterNonce: q.voterNonce, VoterNonce2: q.voterNonce2,
		AgreementHint: -1, WeightedAgreementHint: -1}
	if p.c.Variant == PoP {
		m.SampleNonce = p.c.SampleNonce
	}
	return m
}

func (p *Poller) send(q *participant, m *lcap.Message, expires time.Time) {
	p.emit(Send{To: q.id, M: m, Expires: expires, Retries: 1})
}

// remove takes a participant out of the poll for good.
func (p *Poller) remove(now time.Time, q *participant, s PeerState) {
	q.state, q.gone = s, true
	if p.state != Inviting {
		return
	}
	if !slices.ContainsFunc(p.parts, func(q *participant) bool { return !q.gone }) {
		p.inviteMore(now)
		if p.state == Inviting && !slices.ContainsFunc(p.parts, func(q *participant) bool { return !q.gone }) {
			p.startTally(now)
		}
		return
	}
	p.allVoted(now)
}

// allVoted starts the tally if all who take part have voted.
func (p *Poller) allVoted(now time.Time) {
	for _, q := range p.parts {
		if !q.gone && q.state != PeerVoted {
			return
		}
	}
	p.startTally(now)
}

// maxNonce bounds a nonce that a voter chose; 20 bytes are usual.
const maxNonce = 64

func (p *Poller) receive(now time.Time, from lockss.PeerID, m *lcap.Message) {
	q := p.byID[from]
	if q == nil || q.gone {
		p.note(from, "message %v from a peer that takes no part", m.Opcode)
		return
	}
	next := now.Add(p.c.TimeBetweenInvitation)
	switch {
	case m.Opcode == lcap.OpPollAck && q.state == PeerInvited && len(m.VoterNonce) > 0 && len(m.VoterNonce) <= maxNonce && len(m.VoterNonce2) <= maxNonce:
		q.voterNonce, q.voterNonce2 = slices.Clone(m.VoterNonce), slices.Clone(m.VoterNonce2)
		q.state = PeerAccepted
		r := p.message(now, q, lcap.OpPollProof)
		r.EffortProof = p.c.Nonce()
		p.send(q, r, next)

	case m.Opcode == lcap.OpPollAck && q.state == PeerInvited:
		q.nak = m.NAK
		if q.nak == "" {
			q.nak = lcap.NAKUnknown
		}
		if q.nak == lcap.NAKNoAU {
			p.noAU = append(p.noAU, q.id)
		}
		p.emit(Refused{q.id, q.nak})
		p.remove(now, q, PeerDeclined)

	case (m.Opcode == lcap.OpPollAck || m.Opcode == lcap.OpVote) && m.NAK != "" && q.state >= PeerAccepted && q.state <= PeerWaitingForVote:
		// 1.x voters send the failure of their hash as PollAck.
		q.nak = m.NAK
		p.emit(Refused{q.id, q.nak})
		p.remove(now, q, PeerDroppedOut)

	case m.Opcode == lcap.OpNominate && q.state == PeerAccepted:
		q.state = PeerSentNominees
		if len(m.Nominees) == 0 && p.c.DropEmptyNominations {
			p.remove(now, q, PeerNoNominations)
			return
		}
		p.nominated(now, q, m.Nominees)
		p.send(q, p.message(now, q, lcap.OpVoteRequest), next)
		q.state = PeerWaitingForVote

	case m.Opcode == lcap.OpVote && q.state == PeerWaitingForVote:
		var before *ballot
		for _, r := range p.parts {
			if r.vote != nil {
				before = r.vote
				break
			}
		}
		q.vote = newBallot(m.Blocks, m.BlocksErr, before)
		if q.vote.spoiled {
			p.emit(Note{Text: "vote cannot be used to its end", Peer: q.id, Err: m.BlocksErr})
		}
		q.state, q.voted = PeerVoted, now
		p.emit(Voted{q.id})
		p.allVoted(now)

	case m.Opcode == lcap.OpRepairRep && (q.state == PeerVoted || q.state == PeerComplete) && p.voters != nil:
		p.repairCame(now, q, m)

	default:
		p.note(from, "unexpected %v in state %v", m.Opcode, q.state)
	}
}

// nominated takes the nominees of an inner-circle participant and invites the outer circle when
// enough have nominated (lcap-v3.md 9.4).
func (p *Poller) nominated(now time.Time, q *participant, nominees []lockss.PeerID) {
	if q.outer {
		return
	}
	q.nominated = true
	for _, id := range nominees[:min(len(nominees), lcap.MaxNominees)] {
		if id != q.id && id != p.c.Local && !slices.Contains(q.nominees, id) {
			q.nominees = append(q.nominees, id)
		}
	}
	if len(q.nominees) > 0 {
		p.emit(Nominated{q.nominees})
	}
	nominations, present := 0, 0
	for _, q := range p.parts {
		if q.nominated {
			nominations++
		}
		if !q.gone {
			present++
		}
	}
	if nominations < p.c.Quorum || present == 0 {
		return
	}
	k := (p.c.TargetOuterCircle + present - 1) / present
	for _, q := range slices.Clone(p.parts) {
		if q.gone || len(q.nominees) == 0 {
			continue
		}
		var eligible []lockss.PeerID
		for _, id := range q.nominees {
			if p.byID[id] == nil && (p.c.Eligible == nil || p.c.Eligible(id)) {
				eligible = append(eligible, id)
			}
		}
		if len(eligible) > k {
			p.c.Rand.Shuffle(len(eligible), func(i, j int) { eligible[i], eligible[j] = eligible[j], eligible[i] })
			eligible = eligible[:k]
		}
		for _, id := range eligible {
			p.invite(now, id, true)
		}
	}
}

// quorate reports whether enough have voted to act on results.
func (p *Poller) quorate() bool { return len(p.voters) >= p.c.Quorum }

// startTally ends the invitations and starts our own hash (lcap-v3.md 9.5).
func (p *Poller) startTally(now time.Time) {
	if p.state != Inviting {
		return
	}
	p.state, p.nextInvite = Hashing, time.Time{}
	if len(p.noAU) > 0 {
		p.emit(NoAU{p.noAU})
	}
	for _, q := range p.parts {
		switch {
		case q.gone:
		case q.state == PeerVoted:
			p.voters = append(p.voters, q)
		case q.state == PeerInvited:
			p.remove(now, q, PeerNoResponse)
		default:
			p.remove(now, q, PeerDidntVote)
		}
	}
	if len(p.voters) == 0 {
		p.finish(now, EndedNoQuorum)
		return
	}
	for _, q := range p.voters {
		p.challenges = append(p.challenges, slices.Concat(q.pollerNonce, q.voterNonce))
	}
	for _, q := range p.voters {
		if len(q.voterNonce2) > 0 {
			q.sym, q.symAt = &ballot{}, len(p.challenges)
			p.challenges = append(p.challenges, slices.Concat(q.pollerNonce, q.voterNonce2))
		}
	}
	p.verdicts = make([]Verdict, len(p.voters))
	r := HashRequest{AU: p.c.AU, Algorithm: p.c.HashAlgorithm, Challenges: p.challenges, Start: now, Deadline: p.tallyEnd}
	if p.c.Variant == PoP {
		r.Modulus, r.SampleNonce = p.c.Modulus, p.c.SampleNonce
	}
	p.emit(Hash{tallyHash, r})
}

func (p *Poller) hashed(now time.Time, ev Hashed) {
	switch r := p.byHash[ev.ID]; {
	case ev.ID == tallyHash && p.state == Hashing:
		p.tallyOwn(&ev.Block)
	case r != nil && r.state == repairVerifying && ev.Block.URL == r.url:
		p.verify(now, r, &ev.Block)
	}
}

// tallyOwn tallies one URL of ours, after those of the voters that come before it.
func (p *Poller) tallyOwn(b *lcap.HashedBlock) {
	for _, q := range p.voters {
		if q.sym != nil {
			q.sym.add(b.VoteBlock(q.symAt))
		}
	}
	p.tallyVoters(b.URL)
	p.tallyURL(b.URL, b)
}

// tallyVoters tallies the URLs of voters before limit, "" for all, as not held by us.
func (p *Poller) tallyVoters(limit string) {
	for {
		first := ""
		for _, q := range p.voters {
			if q.cursor == len(q.vote.urls) {
				continue
			}
			u := q.vote.urls[q.cursor]
			if u == limit && limit != "" || limit != "" && lockss.CompareURL(u, limit) >= 0 {
				continue
			}
			if first == "" || lockss.CompareURL(u, first) < 0 {
				first = u
			}
		}
		if first == "" {
			return
		}
		if p.c.Variant == PoP && !lockss.InSample(p.hash, p.c.SampleNonce, p.c.Modulus, first) {
			for _, q := range p.voters {
				if q.cursor < len(q.vote.urls) && q.vote.urls[q.cursor] == first {
					q.cursor++
				}
			}
			continue
		}
		p.tallyURL(first, nil)
	}
}

// tallyURL tallies one URL, own nil if we do not hold it, and acts on the result.
func (p *Poller) tallyURL(url string, own *lcap.HashedBlock) {
	var c Count
	for i, q := range p.voters {
		found := q.cursor < len(q.vote.urls) && q.vote.urls[q.cursor] == url
		v := q.vote.judge(own, i, q.cursor, found)
		if found {
			q.cursor++
		}
		p.verdicts[i] = v
		c.add(v)
		q.count.add(v)
	}
	p.urls++
	o := c.Outcome(p.c.Quorum, p.c.VoteMargin)
	p.outcomes[o]++
	at := p.list(url, o, c)
	if p.quorate() {
		p.act(url, o, c, own, at)
	}
}

// maxWonListed bounds the URLs listed although won, because some voter disagreed.
const maxWonListed = 100

// list notes a URL without full agreement; -1 if it is not listed.
func (p *Poller) list(url string, o Outcome, c Count) int {
	if c.agreeing() == c.Votes() && o == Won || len(p.listed) >= maxListed {
		return -1
	}
	if o == Won || o == NoQuorum && c.disagreeing() == 0 {
		if p.wonListed >= maxWonListed || o != Won {
			return -1
		}
		p.wonListed++
	}
	s := URLStatus{URL: url, Result: o, Count: c}
	for i, q := range p.voters {
		s.Votes = append(s.Votes, URLVote{q.id, p.verdicts[i]})
	}
	p.listed = append(p.listed, s)
	return len(p.listed) - 1
}

func (p *Poller) hashDone(now time.Time, ev HashDone) {
	r := p.byHash[ev.ID]
	delete(p.byHash, ev.ID)
	if r != nil && r.state == repairVerifying {
		if ev.Err != nil {
			p.settle(now, r, repairDisputed, fmt.Sprintf("stored, but not verified: %v", ev.Err))
		} else {
			p.verify(now, r, nil)
		}
		return
	}
	if ev.ID != tallyHash || p.state != Hashing {
		return
	}
	if ev.Err != nil {
		p.why = fmt.Sprintf("our own copy could not be hashed: %v", ev.Err)
		switch {
		case errors.Is(ev.Err, ErrNoTime):
			p.finish(now, NoTime)
		case errors.Is(ev.Err, ErrTimeout):
			p.finish(now, Expired)
		default:
			p.finish(now, Failed)
		}
		return
	}
	p.state = Tallying
	p.tallyVoters("")
	p.startRepairs(now)
}

// complete ends the poll in order: receipts, agreements, result (lcap-v3.md 9.7).
func (p *Poller) complete(now time.Time) {
	p.state = Finishing
	for _, r := range p.repairs {
		if r.open() {
			p.settleOpen(now, r)
		}
	}
	values := map[lockss.PeerID]float32{}
	for _, q := range p.voters {
		values[q.id] = q.count.Fraction()
		p.receipt(now, q)
	}
	t := peer.POR
	if p.c.Variant == PoP {
		t = peer.POP
	}
	p.emit(Agreed{string(t), values})
	if p.quorate() {
		p.finish(now, Complete)
	} else {
		p.finish(now, EndedNoQuorum)
	}
}

// receipt tells a participant what was measured of it in the first tally (lcap-v3.md 9.8), once.
func (p *Poller) receipt(now time.Time, q *participant) {
	if q.state == PeerComplete {
		return
	}
	q.state = PeerComplete
	expires := p.deadline
	if !now.Before(expires) {
		expires = now.Add(p.c.ReceiptPadding)
	}
	m := p.message(now, q, lcap.OpEvaluationReceipt)
	m.AgreementHint = float64(q.count.Fraction())
	m.EffortProof = p.c.Nonce()
	if q.sym != nil {
		m.Blocks = q.sym.blocks()
	}
	p.send(q, m, expires)
}

func (p *Poller) finish(now time.Time, s State) {
	p.state, p.ended = s, now
	for _, r := range p.repairs {
		if r.open() {
			p.settleOpen(now, r)
		}
	}
	p.emit(Finished{p.result(now)})
	for _, q := range p.parts {
		q.vote, q.sym = nil, nil
	}
}

// AgreeingPeers returns how many participants agree enough to be repairers, -1 before the end
// of a tally.
func (p *Poller) AgreeingPeers() int {
	if p.state != Complete && p.state != EndedNoQuorum || len(p.voters) == 0 {
		return -1
	}
	n := 0
	for _, q := range p.voters {
		if float64(q.count.Fraction()) >= p.c.MinAgreementForRepair {
			n++
		}
	}
	return n
}

// agreement of the poll (lcap-v3.md 13.5), -1 if it is not quorate or not tallied.
func (p *Poller) agreement() float64 {
	if !p.quorate() || p.state < Tallying || p.state == Failed || p.state == Expired || p.state == Aborted {
		return -1
	}
	n := p.outcomes[Won] + p.outcomes[Lost] + p.outcomes[LostVoterOnly] + p.outcomes[TooClose] + p.outcomes[NoQuorum]
	if n == 0 {
		return 0
	}
	return float64(p.outcomes[Won]) / float64(n)
}

func (p *Poller) result(now time.Time) Result {
	r := Result{Key: p.c.Key, AU: p.c.AU, Role: RolePoller, Variant: p.c.Variant, Started: p.started, Ended: p.ended,
		Status: p.state.String(), Code: int(p.state), Quorum: p.c.Quorum, Voters: len(p.voters), Agreement: p.agreement(),
		URLs: p.urls, Won: p.outcomes[Won], Lost: p.outcomes[Lost] + p.outcomes[LostVoterOnly], Extra: p.outcomes[LostPollerOnly],
		TooClose: p.outcomes[TooClose], NoQuorum: p.outcomes[NoQuorum], Sentence: p.sentence(now), Listed: slices.Clone(p.listed)}
	for _, x := range p.repairs {
		if x.state == repairVerified {
			r.Repairs++
		}
	}
	for _, q := range p.parts {
		s := Participant{Peer: q.id, Outer: q.outer, Status: q.state.String(), NAK: q.nak, Invited: q.invited, Voted: q.voted,
			Agreement: -1, Count: q.count, Symmetric: len(q.voterNonce2) > 0}
		if slices.Contains(p.voters, q) {
			s.Agreement = float64(q.count.Fraction())
			s.Spoiled = q.count.Spoiled > 0
		}
		r.Participants = append(r.Participants, s)
	}
	return r
}

// Status returns a snapshot.
func (p *Poller) Status(now time.Time) Status {
	return Status{Result: p.result(now), Running: !p.Done(), VoteDeadline: p.voteDeadline, Deadline: p.deadline, Pending: p.pending}
}

// sentence tells the poll in words: who was asked, who answered, who refused and why, what was
// damaged, what was repaired from whom, what is open, what comes next.
func (p *Poller) sentence(now time.Time) string {
	var b strings.Builder
	if p.started.IsZero() {
		return "The poll has not begun."
	}
	naks := map[lcap.NAK]int{}
	silent, voted, dropped := 0, 0, 0
	for _, q := range p.parts {
		switch {
		case q.nak != "":
			naks[q.nak]++
		case q.state == PeerNoResponse || q.state == PeerInvited:
			silent++
		case q.state == PeerVoted || q.state == PeerComplete:
			voted++
		default:
			dropped++
		}
	}
	fmt.Fprintf(&b, "%d peer%s asked, %d voted", len(p.parts), plural(len(p.parts)), voted)
	if n := len(naks); n > 0 {
		var t []string
		for _, k := range slices.Sorted(maps.Keys(naks)) {
			t = append(t, fmt.Sprintf("%d: %s", naks[k], k.Text()))
		}
		fmt.Fprintf(&b, ", refused (%s)", strings.Join(t, "; "))
	}
	if silent > 0 {
		fmt.Fprintf(&b, ", %d did not answer to revision %d", silent, p.c.Revision)
	}
	if dropped > 0 {
		if p.state == Inviting {
			fmt.Fprintf(&b, ", %d on the way", dropped)
		} else {
			fmt.Fprintf(&b, ", %d did not vote", dropped)
		}
	}
	if p.urls > 0 && p.quorate() {
		fmt.Fprintf(&b, "; of %d URLs %d are agreed", p.urls, p.outcomes[Won])
		for _, x := range []struct {
			o    Outcome
			text string
		}{{Lost, "damaged here"}, {LostVoterOnly, "missing here"}, {LostPollerOnly, "held by us alone"},
			{TooClose, "too close to call"}, {NoQuorum, "with too few votes"}} {
			if n := p.outcomes[x.o]; n > 0 {
				fmt.Fprintf(&b, ", %d %s", n, x.text)
			}
		}
	} else if p.urls > 0 {
		fmt.Fprintf(&b, "; with fewer than %d votes nothing is decided, but agreement was measured over %d URLs", p.c.Quorum, p.urls)
	}
	b.WriteString(p.repairSentence())
	switch p.state {
	case Inviting:
		fmt.Fprintf(&b, "; votes are awaited until %s", p.voteDeadline.Format(time.DateTime))
	case Hashing, Tallying:
		fmt.Fprintf(&b, "; our own copy is being hashed, until %s at most", p.tallyEnd.Format(time.DateTime))
	case WaitingForRepairs:
		fmt.Fprintf(&b, "; answers are awaited until %s", p.deadline.Format(time.DateTime))
	case EndedNoQuorum:
		fmt.Fprintf(&b, "; no quorum of %d: the poll is called again soon", p.c.Quorum)
	case Failed, Expired, NoTime, Aborted:
		fmt.Fprintf(&b, "; %s: %s; the poll is called again", strings.ToLower(p.state.String()), p.why)
	case Complete:
		if p.outcomes[Lost]+p.outcomes[LostVoterOnly] > 0 {
			b.WriteString("; the next poll tries again")
		}
	}
	s := b.String() + "."
	return strings.ToUpper(s[:1]) + s[1:]
}

func plural(n int) string {
	if n == 1 {
		return ""
	}
	return "s"
}
