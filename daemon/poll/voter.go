package poll

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"armarium/daemon/lcap"
	"armarium/daemon/lockss"
	"armarium/daemon/peer"
)

// VoteState is where a vote of ours stands (lcap-v3.md 10.4).
type VoteState int

// The states.
const (
	VoteInitialized VoteState = iota
	VoteAcceptedPoll
	VoteHashing
	VoteVoted
	VoteNoTime
	VoteComplete
	VoteExpired
	VoteError
	VoteDeclined
	VoteAcceptedVote
	VoteAborted
	VoteNoSubstance
)

var voteStateNames = [...]string{"Initialized", "Accepted Poll", "Hashing", "Voted", "No Time Available", "Complete",
	"Expired w/o Voting", "Error", "Declined Poll", "Vote Accepted", "Aborted", "Aborted: No Substantial Content"}

func (s VoteState) String() string { return voteStateNames[s] }

// An Applicant is what decides whether we vote in a poll (lcap-v3.md 10.1).
type Applicant struct {
	Held, Ready  bool
	Unit         Unit
	Self         bool // the sender is ourselves
	Enabled      bool // enableV3Voter
	Groups       []string
	RunningVotes int
	MaxVotes     int
	Chance       float64 // probability of joining, 0 to 1
	Draw         float64 // the random number to hold against it, 0 <= Draw < 1
}

// Answer is how a Poll message is answered.
type Answer struct {
	Accept bool
	NAK    lcap.NAK // of the declining PollAck; "" and not Accept: silence
	HasAU  bool     // the checks came past the unit: the sender has it
	Late   bool     // silence, unless there is no time either: that is asked first
	Why    string   // of silence, for the log
}

// maxKey bounds the key of a poll together with the name of its algorithm, which are kept;
// 28 and 5 characters are usual.
const maxKey = 1000

// Judge decides on a Poll message, but for the schedule: the order of the checks is fixed.
func (a Applicant) Judge(m *lcap.Message) Answer {
	plugVer := m.PlugVer
	if plugVer == "" {
		plugVer = "1"
	}
	switch {
	case m.Duration <= 0:
		return Answer{Why: "poll without duration"}
	case m.Minor != lcap.Revision5:
		return Answer{NAK: lcap.NAKVersionMismatch}
	case !a.Held && !a.Ready:
		return Answer{NAK: lcap.NAKNotReady}
	case !a.Held:
		return Answer{NAK: lcap.NAKNoAU}
	case plugVer != a.Unit.PollVersion:
		return Answer{NAK: lcap.NAKPluginVersionMismatch}
	}
	ans := Answer{HasAU: true}
	_, err := lockss.NewHash(m.HashAlgorithm)
	switch {
	case a.Self:
		ans.Why = "poll from ourselves"
	case !a.Enabled:
		ans.NAK = lcap.NAKDisabled
	case !slices.ContainsFunc(a.Groups, func(g string) bool { return slices.Contains(m.Groups, g) }):
		ans.NAK = lcap.NAKGroupMismatch
	case a.Unit.NoSubstance:
		ans.NAK = lcap.NAKNoSubstance
	case !a.Unit.Crawled:
		ans.NAK = lcap.NAKNotCrawled
	case a.RunningVotes >= a.MaxVotes:
		ans.NAK = lcap.NAKTooManyVoters
	case a.Draw >= a.Chance:
		ans.NAK = lcap.NAKHaveSufficientRepairers
	case err != nil:
		ans.NAK = lcap.NAKUnknown
	case len(m.PollerNonce) == 0 || len(m.PollerNonce) > maxNonce || m.Modulus > 0 && len(m.SampleNonce) == 0 || len(m.SampleNonce) > maxNonce:
		ans.Why = "poll without a usable nonce"
	case len(m.Key)+len(m.HashAlgorithm) > maxKey:
		ans.Why = "poll with a key of unusable length"
	case m.VoteDuration >= m.Duration:
		ans.Late, ans.Why = true, "vote deadline is not before the poll deadline"
	default:
		ans.Accept = true
	}
	return ans
}

// Decline makes the answer to a Poll message that is not accepted.
func Decline(m *lcap.Message, local, to lockss.PeerID, groups []string, plugVer string, nak lcap.NAK) *lcap.Message {
	if nak != lcap.NAKPluginVersionMismatch || plugVer == "" {
		plugVer = m.PlugVer
	}
	return &lcap.Message{Opcode: lcap.OpPollAck, Minor: m.Minor, OrigID: local, DestID: to, Key: m.Key, AU: m.AU, PlugVer: plugVer,
		HashAlgorithm: m.HashAlgorithm, Duration: m.Duration, Groups: groups, NAK: nak, AgreementHint: -1, WeightedAgreementHint: -1}
}

// window is when the hash of a vote may run (lcap-v3.md 10.3).
func (p *Params) window(now, voteDeadline time.Time, estimate time.Duration) (start, finish time.Time) {
	return now.Add(p.VoteRequestDelay), voteDeadline.Add(-time.Duration(float64(estimate)*p.VoteMessageFactor) - p.VoteMessagePadding)
}

// VoterConfig is one poll we accepted.
type VoterConfig struct {
	Params
	Local     lockss.PeerID
	Poller    lockss.PeerID
	Poll      *lcap.Message // its Poll message
	PlugVer   string
	Groups    []string
	HashStart time.Time // as reserved
	HashEnd   time.Time
	Symmetric bool                                              // ask for the poller's vote in return
	Nominees  func(now time.Time, r *rand.Rand) []lockss.PeerID // whom to nominate; nil: nobody
	Rand      *rand.Rand
	Nonce     func() []byte
}

// Voter is one vote of ours. It is not safe for concurrent use.
type Voter struct {
	c     VoterConfig
	retry lockss.Curve // interval between attempts to send the vote, at the time left

	state    VoteState
	nak      lcap.NAK
	why      string
	started  time.Time
	ended    time.Time
	deadline time.Time // of the poll
	voteBy   time.Time

	voterNonce, voterNonce2 []byte

	sent      int  // votes, all the same
	proven    bool // PollProof came
	requested bool // VoteRequest came
	hashDone  bool
	vote      *ballot // until the end
	urls      int
	sym       *ballot // under the second nonce
	badOrder  bool

	hint      float64
	symmetric float64
	serving   map[string]bool // asked of the auditor, not answered yet
	served    []string
	servedN   int
	refused   int

	out []Effect
}

// maxServing bounds the repairs of one poll that are looked up at the same time, maxSent how
// often its vote is sent.
const (
	maxServing = 1000
	maxSent    = 10
)

// NewVoter returns the machine of one vote.
func NewVoter(c VoterConfig) (*Voter, error) {
	curve, err := lockss.ParseCurve(c.VoteRetryCurve)
	if err != nil {
		return nil, fmt.Errorf("org.lockss.poll.v3.voteRetryIntervalDurationCurve: %w", err)
	}
	if c.Rand == nil || c.Nonce == nil || c.Poll == nil {
		return nil, errors.New("vote: incomplete")
	}
	v := &Voter{c: c, retry: curve, vote: &ballot{}, hint: -1, symmetric: -1, serving: map[string]bool{}, voterNonce: c.Nonce()}
	if c.Symmetric {
		v.voterNonce2, v.sym = c.Nonce(), &ballot{}
	}
	return v, nil
}

// Done reports whether the vote has ended.
func (v *Voter) Done() bool { return !v.ended.IsZero() }

// Next returns when the next Tick is wanted; zero: never.
func (v *Voter) Next() time.Time {
	switch {
	case v.Done() || v.started.IsZero():
		return time.Time{}
	case v.state < VoteVoted:
		return v.voteBy
	}
	return v.deadline.Add(v.c.VoterReceiptPadding)
}

// Step takes an event and returns what is to be done.
func (v *Voter) Step(now time.Time, ev Event) []Effect {
	if v.Done() {
		return nil
	}
	v.out = nil
	if _, ok := ev.(Begin); ok == v.started.IsZero() {
		switch ev := ev.(type) {
		case Begin:
			v.begin(now)
		case Received:
			if ev.From == v.c.Poller {
				v.receive(now, ev.M)
			}
		case Hashed:
			v.hashed(ev.Block)
		case HashDone:
			v.hashFinished(now, ev.Err)
		case Copy:
			v.serve(now, ev)
		case Abort:
			v.why = ev.Reason
			v.finish(now, VoteAborted)
		}
		if !v.Done() && !now.Before(v.Next()) {
			if v.state < VoteVoted {
				v.why = "no vote before its deadline"
				v.finish(now, VoteExpired)
			} else {
				v.why = "no receipt came"
				v.finish(now, VoteComplete)
			}
		}
	}
	out := v.out
	v.out = nil
	return out
}

func (v *Voter) emit(e Effect) { v.out = append(v.out, e) }

func (v *Voter) begin(now time.Time) {
	v.started, v.deadline, v.voteBy = now, now.Add(v.c.Poll.Duration), now.Add(v.c.Poll.VoteDuration)
	v.state = VoteAcceptedPoll
	m := v.message(now, lcap.OpPollAck)
	m.EffortProof = v.c.Nonce()
	v.send(m, v.c.HashStart)
}

func (v *Voter) message(now time.Time, op lcap.Opcode) *lcap.Message {
	p := v.c.Poll
	return &lcap.Message{Opcode: op, Minor: p.Minor, OrigID: v.c.Local, DestID: v.c.Poller, Key: p.Key, AU: p.AU, PlugVer: v.c.PlugVer,
		HashAlgorithm: p.HashAlgorithm, Duration: max(v.deadline.Sub(now), 0), Groups: v.c.Groups,
		PollerNonce: p.PollerNonce, VoterNonce: v.voterNonce, VoterNonce2: v.voterNonce2, AgreementHint: -1, WeightedAgreementHint: -1}
}

func (v *Voter) send(m *lcap.Message, expires time.Time) {
	v.emit(Send{To: v.c.Poller, M: m, Expires: expires, Retries: 1})
}

func (v *Voter) receive(now time.Time, m *lcap.Message) {
	switch {
	case m.Opcode == lcap.OpPollProof && !v.proven:
		v.proven = true
		r := v.message(now, lcap.OpNominate)
		if v.c.Nominees != nil {
			r.Nominees = v.c.Nominees(now, v.c.Rand)
		}
		v.send(r, v.c.HashStart)
		v.state = VoteHashing
		p := v.c.Poll
		h := HashRequest{AU: p.AU, Algorithm: p.HashAlgorithm, Challenges: [][]byte{slices.Concat(p.PollerNonce, v.voterNonce)},
			Start: v.c.HashStart, Deadline: v.c.HashEnd}
		if v.sym != nil {
			h.Challenges = append(h.Challenges, slices.Concat(p.PollerNonce, v.voterNonce2))
		}
		if p.Modulus > 0 && v.c.EnablePoPVoting {
			h.Modulus, h.SampleNonce = p.Modulus, p.SampleNonce
		}
		v.emit(Hash{tallyHash, h})

	case m.Opcode == lcap.OpVoteRequest && v.proven:
		v.requested = true
		switch {
		case v.state == VoteVoted:
			if v.sent < maxSent {
				v.sendVote(now)
			}
		case v.hashDone:
			v.answer(now)
		}

	case m.Opcode == lcap.OpRepairReq && v.state == VoteVoted:
		if m.URL == "" || v.serving[m.URL] || len(v.serving) >= maxServing {
			return
		}
		v.serving[m.URL] = true
		v.emit(Serve{URL: m.URL, To: v.c.Poller})

	case m.Opcode == lcap.OpEvaluationReceipt && v.state == VoteVoted:
		v.receipt(now, m)

	default:
		// 1.x gives up the poll here; a repetition does no harm.
		v.emit(Note{Text: fmt.Sprintf("unexpected %v in state %v", m.Opcode, v.state), Peer: v.c.Poller})
	}
}

func (v *Voter) hashed(b lcap.HashedBlock) {
	if v.state != VoteHashing || v.hashDone {
		return
	}
	if n := len(v.vote.urls); n > 0 && lockss.CompareURL(v.vote.urls[n-1], b.URL) >= 0 {
		v.badOrder = true
		return
	}
	v.vote.add(b.VoteBlock(0))
	if v.sym != nil {
		v.sym.add(b.VoteBlock(1))
	}
}

func (v *Voter) hashFinished(now time.Time, err error) {
	if v.state != VoteHashing || v.hashDone {
		return
	}
	v.hashDone = true
	switch {
	case errors.Is(err, ErrNoTime):
		v.nak = lcap.NAKNoTime
	case errors.Is(err, ErrTimeout):
		v.nak = lcap.NAKHashTimeout
	case err != nil:
		v.nak = lcap.NAKHashError
	case v.badOrder:
		v.nak, err = lcap.NAKHashError, errors.New("blocks out of order")
	case len(v.vote.urls) == 0:
		// A vote without blocks would count as spoiled.
		v.nak, err = lcap.NAKNoSubstance, errors.New("nothing of the unit, or of the sample, is held")
	}
	if err != nil {
		v.why = err.Error()
	}
	if v.requested {
		v.answer(now)
	}
}

// answer sends the vote, or says why there is none, now that it was asked for.
func (v *Voter) answer(now time.Time) {
	if v.nak == "" {
		v.state = VoteVoted
		v.sendVote(now)
		return
	}
	m := v.message(now, lcap.OpVote)
	m.VoterNonce, m.NAK = nil, v.nak
	v.send(m, v.voteBy)
	switch v.nak {
	case lcap.NAKNoSubstance:
		v.finish(now, VoteNoSubstance)
	case lcap.NAKNoTime:
		v.finish(now, VoteNoTime)
	default:
		v.finish(now, VoteError)
	}
}

func (v *Voter) sendVote(now time.Time) {
	v.sent++
	m := v.message(now, lcap.OpVote)
	m.VoteComplete = true
	m.Blocks = v.vote.blocks()
	left := max(v.voteBy.Sub(now), 0)
	every := time.Duration(v.retry.At(float64(left.Milliseconds()))) * time.Millisecond
	v.emit(Send{To: v.c.Poller, M: m, Expires: v.voteBy, Retries: 3, RetryInterval: every})
}

func (v *Voter) serve(now time.Time, c Copy) {
	if !v.serving[c.URL] {
		return
	}
	delete(v.serving, c.URL)
	if c.Err != nil {
		v.refused++
		v.emit(Note{Text: "repair not served", Peer: v.c.Poller, URL: c.URL, Err: c.Err})
		return
	}
	m := v.message(now, lcap.OpRepairRep)
	m.URL = c.URL
	m.RepairProps = lower(c.Props)
	m.RepairData, m.RepairLength = c.Data, int64(len(c.Data))
	v.send(m, v.deadline)
	v.servedN++
	if len(v.served) < maxListed {
		v.served = append(v.served, c.URL)
	}
	v.emit(Note{Text: "repair served", Peer: v.c.Poller, URL: c.URL})
}

func lower(props map[string]string) map[string]string {
	m := make(map[string]string, len(props))
	for k, x := range props {
		m[strings.ToLower(k)] = x
	}
	return m
}

// receipt records what the poller measured of us and, in a symmetric poll, what we measure of it
// (lcap-v3.md 10.7). A hint that makes no sense is passed over.
func (v *Voter) receipt(now time.Time, m *lcap.Message) {
	sampled := v.c.Poll.Modulus > 0
	if h := m.AgreementHint; h >= 0 && h <= 1 {
		v.hint = h
		t := peer.PORHint
		if sampled {
			t = peer.POPHint
		}
		v.emit(Agreed{string(t), map[lockss.PeerID]float32{v.c.Poller: float32(h)}})
	} else {
		v.emit(Note{Text: "receipt without a usable agreement", Peer: v.c.Poller})
	}
	if v.sym != nil && slices.Equal(m.VoterNonce2, v.voterNonce2) && len(m.Blocks) > 0 {
		f := TallySymmetric(v.sym.blocks(), m.Blocks).Fraction()
		v.symmetric = float64(f)
		t := peer.SymmetricPOR
		if sampled {
			t = peer.SymmetricPOP
		}
		v.emit(Agreed{string(t), map[lockss.PeerID]float32{v.c.Poller: f}})
	}
	v.finish(now, VoteComplete)
}

func (v *Voter) finish(now time.Time, s VoteState) {
	urls := len(v.vote.urls)
	v.state, v.ended, v.urls = s, now, urls
	v.emit(Finished{Result{Key: v.c.Poll.Key, AU: v.c.Poll.AU, Role: RoleVoter, Peer: v.c.Poller, Variant: v.variant(),
		Started: v.started, Ended: now, Status: s.String(), Code: int(s), Agreement: v.hint, URLs: urls, Repairs: v.servedN,
		Sentence: v.sentence()}})
	v.vote, v.sym = &ballot{}, nil
}

// held returns the number of URLs in our vote.
func (v *Voter) held() int { return max(v.urls, len(v.vote.urls)) }

func (v *Voter) variant() Variant {
	if v.c.Poll.Modulus > 0 {
		return PoP
	}
	return PoR
}

func (v *Voter) sentence() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s asked for a vote", v.c.Poller)
	switch v.state {
	case VoteComplete, VoteVoted:
		fmt.Fprintf(&b, "; we voted on %d URLs", v.held())
	case VoteAcceptedPoll, VoteHashing:
		fmt.Fprintf(&b, "; we are hashing, until %s at most", v.voteBy.Format(time.DateTime))
	default:
		fmt.Fprintf(&b, "; we did not vote: %s", strings.ToLower(v.state.String()))
	}
	if v.servedN > 0 {
		fmt.Fprintf(&b, "; we gave %d repair%s", v.servedN, plural(v.servedN))
	}
	if v.refused > 0 {
		fmt.Fprintf(&b, "; %d repair%s refused", v.refused, plural(v.refused))
	}
	if v.hint >= 0 {
		fmt.Fprintf(&b, "; it measured %.2f %% agreement", 100*v.hint)
	}
	if v.symmetric >= 0 {
		fmt.Fprintf(&b, "; we measured %.2f %% of it", 100*v.symmetric)
	}
	if v.why != "" {
		fmt.Fprintf(&b, " (%s)", v.why)
	}
	return b.String() + "."
}

// Status returns a snapshot.
func (v *Voter) Status() VoteStatus {
	return VoteStatus{Key: v.c.Poll.Key, AU: v.c.Poll.AU, Poller: v.c.Poller, Status: v.state.String(), NAK: v.nak, Running: !v.Done(),
		Started: v.started, Ended: v.ended, VoteDeadline: v.voteBy, Deadline: v.deadline, URLs: v.held(), Hint: v.hint,
		Symmetric: v.symmetric, Served: slices.Clone(v.served), Refused: v.refused, Sentence: v.sentence()}
}
